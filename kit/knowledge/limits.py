"""Limits in the units that people use, as a :class:`kit.records.Need` in SI."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import Any

from kit.devices import recognise
from kit.errors import UnknownName, UsageError
from kit.records import STORED_PERCENTILES, KnowledgeRow, Need, Percentile


def need_about(rows: Sequence[KnowledgeRow], *, spelled: Callable[[str], str] = str, **limits: Any) -> Need:
    """The need of :func:`need_of` about these rows: their device where none is named, and full hashes of what the device has.

    Raises UnknownName as well (``have`` names a variant that no row is of).
    """
    limits["device"] = device_of(rows, limits.get("device"))
    limits["have"] = full_hashes(rows, limits.get("have") or ())
    return need_of(spelled=spelled, **limits)


def need_of(
    *,
    deadline_ms: float | None = None,
    percentile: int = 99,
    memory_mb: float | None = None,
    energy_mj: float | None = None,
    min_accuracy: float | None = None,
    link_mbps: float | None = None,
    download_ms: float | None = None,
    have: Iterable[str] = (),
    device: str | None = None,
    backend: str | None = None,
    threads: int | None = None,
    batch: int | None = None,
    point: str | None = None,
    dataset: str | None = None,
    unknown_accuracy: bool = False,
    spelled: Callable[[str], str] = str,
) -> Need:
    """The need. ``spelled`` writes the name of a limit as the caller's user knows it (``--deadline-ms``).

    Raises UsageError for a limit that is no sensible number, or limits that make no sense together.
    """
    limits = {
        "deadline_ms": deadline_ms,
        "memory_mb": memory_mb,
        "energy_mj": energy_mj,
        "link_mbps": link_mbps,
        "download_ms": download_ms,
    }
    for name, value in limits.items():
        if value is not None and not (isfinite(value) and 1e-9 < value < 1e15):
            raise UsageError(f"{spelled(name)} {value:g} is no limit: give a sensible number above zero.")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise UsageError(
            f"{spelled('min_accuracy')} {min_accuracy:g} is no share: give a number from 0 to 1, such as 0.95."
        )
    for name, count in (("threads", threads), ("batch", batch)):
        if count is not None and count < 1:
            raise UsageError(f"{spelled(name)} {count} cannot be: give a whole number from 1.")
    if link_mbps is not None and deadline_ms is None and download_ms is None:
        raise UsageError(
            f"{spelled('link_mbps')} alone limits nothing: add {spelled('deadline_ms')} or {spelled('download_ms')}."
        )
    if download_ms is not None and link_mbps is None:
        raise UsageError(f"{spelled('download_ms')} needs the rate of the link: add {spelled('link_mbps')}.")
    return Need(
        deadline_s=None if deadline_ms is None else deadline_ms * 1e-3,
        percentile=_percentile(percentile, spelled("percentile")),
        memory_bytes=None if memory_mb is None else max(1, round(memory_mb * 1e6)),
        energy_j=None if energy_mj is None else energy_mj * 1e-3,
        min_accuracy=min_accuracy,
        link_bps=None if link_mbps is None else link_mbps * 1e6,
        download_s=None if download_ms is None else download_ms * 1e-3,
        have=tuple(have),
        device_id=device,
        backend=backend,
        threads=threads,
        batch=batch,
        point=point,
        dataset=dataset,
        unknown_accuracy=unknown_accuracy,
    )


def _percentile(number: int, name: str) -> Percentile:
    for percentile in STORED_PERCENTILES:
        if number == percentile:
            return percentile
    offered = ", ".join(map(str, STORED_PERCENTILES))
    raise UsageError(f"{name} {number} is not kept: give one of {offered}.")


def device_of(rows: Sequence[KnowledgeRow], device: str | None) -> str | None:
    """The named device, else this machine where several were measured and it is one of them."""
    devices = {r.device_id for r in rows}
    if device is None and len(devices) > 1:
        this_device = recognise().device_id
        return this_device if this_device in devices else None
    return device


def full_hashes(rows: Sequence[KnowledgeRow], have: Iterable[str]) -> list[str]:
    """What the device has, as ids and full hashes: eight digits of a hash are enough. Raises UnknownName."""
    out = []
    for name in have:
        hashes = {r.sha256 for r in rows if len(name) >= 8 and r.sha256.startswith(name.removeprefix("sha256:"))}
        if not hashes and name not in {r.artifact_id for r in rows}:
            raise UnknownName("variant", name, sorted({r.artifact_id for r in rows}))
        out += sorted(hashes) or [name]
    return out
