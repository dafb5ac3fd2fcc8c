"""The rows of the knowledge base: from profiles, from the promises of packages, and from a latency model's predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from kit import __version__, stats, store
from kit.errors import BadRecord
from kit.records import (
    DECIDING,
    Accuracy,
    Artifact,
    KnowledgeBase,
    KnowledgeRow,
    Manifest,
    Measurement,
    OperatingPoint,
    ProfileRecord,
    Promise,
    SubNetwork,
)

RESAMPLES = 100  # of the interval of each row's p99

Key = tuple[str, str, str, str]


def build(profiles: Sequence[ProfileRecord], predicted: Iterable[KnowledgeRow] = ()) -> KnowledgeBase:
    """One row per model file, device, backend and operating point: the newest trusted record, else the newest.

    ``predicted`` rows join where nothing trusted was measured. Rows at other operating points than back-to-back calls on an idle
    machine are kept, and decide only where a need names their point. Raises BadRecord when there is no row at all.
    """
    measured = [p for p in profiles if p.measurement and p.label and p.settings.backend != "fake"]
    decisive = store.decisive(measured)
    names = _distinct_names(decisive)
    rows = [_row_of(p).model_copy(update={"artifact_id": names[p.artifact.content_sha256]}) for p in decisive]
    trusted = {key(r) for r in rows if r.label in DECIDING}
    rows += [r for r in {key(r): r for r in predicted}.values() if key(r) not in trusted]
    if not rows:
        raise BadRecord("None of these profiles holds a measurement: run kit profile first.")
    return _base(rows)


def _distinct_names(profiles: Sequence[ProfileRecord]) -> dict[str, str]:
    """Content -> id. Of several files of one id and one format the newest keeps it, the others have their hash: ``net@1f2e3d4c``.

    Files of several formats (an ONNX file, a PyTorch program, an allocator's) are one network in several forms, under one id.
    """
    newest: dict[tuple[str, str], ProfileRecord] = {}
    for profile in profiles:
        key = _name_and_format(profile.artifact)
        if key not in newest or profile.created_utc >= newest[key].created_utc:
            newest[key] = profile
    names = {}
    for profile in profiles:
        artifact, content = profile.artifact, profile.artifact.content_sha256
        is_newest = newest[_name_and_format(artifact)].artifact.content_sha256 == content
        names[content] = artifact.artifact_id if is_newest else f"{artifact.artifact_id}@{content[:8]}"
    return names


def _name_and_format(artifact: Artifact) -> tuple[str, str]:
    return artifact.artifact_id, PurePosixPath(artifact.model.file).suffix


def _base(rows: Iterable[KnowledgeRow]) -> KnowledgeBase:
    ordered = tuple(sorted(rows, key=lambda r: (*key(r), r.sha256)))
    return KnowledgeBase(created_utc=store.utc_now(), kit_version=__version__, rows=ordered)


def joined(base: KnowledgeBase, rows: Iterable[KnowledgeRow]) -> KnowledgeBase:
    """``base`` with further rows: a measured row replaces any of its key, a predicted one only a predicted one."""
    by_key: dict[tuple[str, ...], KnowledgeRow] = {(*key(r), r.sha256): r for r in base.rows}
    for row in rows:
        if row.origin == "measured":
            by_key.pop((*key(row), ""), None)
        row_key: tuple[str, ...] = (*key(row), row.sha256)
        by_key[row_key] = row
    trusted = {key(r) for r in by_key.values() if r.label in DECIDING}
    return _base(r for r in by_key.values() if r.origin == "measured" or key(r) not in trusted)


def with_accuracies(base: KnowledgeBase, accuracies: Mapping[str, Accuracy]) -> KnowledgeBase:
    """Rows without an accuracy take that of their id."""
    by_slug = {store.slug(name): accuracy for name, accuracy in accuracies.items()}

    def completed(row: KnowledgeRow) -> KnowledgeRow:
        new = accuracies.get(row.artifact_id) or by_slug.get(store.slug(row.artifact_id))
        if row.accuracy is not None or new is None:
            return row
        return row.model_copy(update={"accuracy": new.top1, "dataset": new.basis})

    return base.model_copy(update={"rows": tuple(completed(r) for r in base.rows)})


def row_of(profile: ProfileRecord) -> KnowledgeRow:
    """The row of one record. Raises BadRecord where it holds no measurement."""
    if profile.measurement is None or profile.label is None:
        raise BadRecord(f"{profile.artifact.artifact_id} was not measured: {profile.reason or profile.status}.")
    return _row_of(profile)


def key(row: KnowledgeRow) -> Key:
    """The measured, or predicted, case: variant, device, backend and operating point."""
    return row.artifact_id, row.device_id, row.backend, row.point_name


def promise_of(profile: ProfileRecord) -> Promise:
    """The promise of an artifact on the device of a measured record."""
    assert profile.measurement is not None and profile.label is not None
    return Promise(
        device_id=profile.device.device_id,
        backend=profile.settings.backend,
        threads=profile.settings.threads,
        median_s=profile.measurement.median_s,
        p99_s=profile.measurement.p99_s,
        memory_bytes=profile.measurement.memory_bytes,
        label=profile.label,
        record_id=profile.record_id,
    )


def rows_of(manifests: Iterable[Manifest]) -> list[KnowledgeRow]:
    """The promises of packages as rows: a library decides with the same code as a device."""
    return [_row(m.artifact, promise, size_bytes=m.size_bytes) for m in manifests for promise in m.promises]


def _row(artifact: Artifact, measured: Promise, **more: Any) -> KnowledgeRow:
    accuracy = artifact.accuracy
    fields: dict[str, Any] = {
        "artifact_id": artifact.artifact_id,
        "sha256": artifact.content_sha256,
        "precision": artifact.precision,
        "size_bytes": artifact.size_bytes,
        "macs": artifact.macs,
        "accuracy": accuracy.top1 if accuracy else None,
        "dataset": accuracy.basis if accuracy else None,
    }
    return KnowledgeRow(**{**fields, **measured.model_dump(), **more})


def _row_of(profile: ProfileRecord) -> KnowledgeRow:
    measured = profile.measurement
    assert measured is not None
    energy = measured.energy
    return _row(
        profile.artifact,
        promise_of(profile),
        point=None if profile.plain else _point(profile),
        energy_j=energy.joules_per_call / (profile.batch or 1) if energy else None,
        clock_hz=measured.clock_hz,
        **_tail(measured),
    )


def _point(profile: ProfileRecord) -> OperatingPoint:
    fields = profile.settings.model_dump(include=set(OperatingPoint.model_fields))
    return OperatingPoint(**{**fields, "batch": profile.batch})


def _tail(measured: Measurement) -> dict[str, float]:
    """Further percentiles, and the intervals of the median and of the p99, in seconds."""
    groups = [v.values_ns * 1e-9 for v in measured.runs]
    low, high = measured.interval_s
    p99_low, p99_high = stats.bootstrap_over_groups(groups, lambda x: stats.quantile(x, 0.99), resamples=RESAMPLES)
    p95_s = stats.quantile(np.concatenate(groups), 0.95)
    limits = {"low_s": low, "high_s": high, "p99_low_s": p99_low, "p99_high_s": p99_high}
    return {"p90_s": measured.p90_s, "p95_s": p95_s, **limits}


# -------------------------------------------------------------------------------------------------------------- predicted


def predicted_row(
    subnetwork: SubNetwork,
    seconds: float,
    low: float,
    high: float,
    *,
    like: Sequence[KnowledgeRow],
    model: str,
    device_id: str,
    backend: str,
    size_bytes: int,
    point: OperatingPoint | None = None,
    threads: int = 1,
    tail: Tail | None = None,
    **facts: Any,
) -> KnowledgeRow:
    """A row for a sub-network that nobody measured: the median ``seconds`` with its interval from ``low`` to ``high``.

    The tail is that of the trusted measured rows ``like`` it on the same device, backend and operating point: their median ratio of
    each percentile to the median latency, whose scatter widens the interval of the p99 (``tail`` where that was computed before).
    ``model`` names the latency model; ``facts`` may add macs, memory_bytes, accuracy and dataset. Raises BadRecord where ``like`` holds
    no such row, or where a number is none.
    """
    tail = tail or tail_of(like, device_id, backend, point, threads)
    times = (seconds, low, high)
    if not (all(np.isfinite(times)) and 0 <= low <= seconds <= high and seconds > 0):
        raise BadRecord(
            f"The prediction of {subnetwork.id} is no latency with an interval ({seconds}, {low} to {high})."
        )
    return KnowledgeRow(
        artifact_id=subnetwork.id,
        sha256="",
        device_id=device_id,
        backend=backend,
        threads=threads,
        precision=subnetwork.precision,
        origin="predicted",
        point=point,
        size_bytes=size_bytes,
        record_id=model,
        **tail.times(seconds, low, high),
        **{"memory_bytes": None, "macs": None, "accuracy": None, **facts},
    )


class Tail(NamedTuple):
    """What p90, p95 and p99 are over the median latency, and between which ratios the p99 of nine in ten networks lies."""

    ratios: Mapping[int, float]
    low: float
    high: float

    def times(self, seconds: float, low: float, high: float) -> dict[str, float]:
        """The latencies of a row whose median is ``seconds`` (``low`` to ``high``), by the names of its fields."""
        p99_low, p99_high = self.p99_interval(seconds, low, high)
        percentiles = {f"p{p}_s": seconds * ratio for p, ratio in self.ratios.items()}
        return {
            "median_s": seconds, "low_s": low, "high_s": high, "p99_low_s": p99_low, "p99_high_s": p99_high, **percentiles
        }  # fmt: skip

    def p99_interval(self, seconds: float, low: float, high: float) -> tuple[float, float]:
        """The interval of the p99 of a network whose median is ``seconds`` (``low`` to ``high``): both uncertainties as independent."""
        p99 = seconds * self.ratios[99]
        down = np.hypot(np.log(seconds / low) if low > 0 else np.inf, np.log(self.ratios[99] / self.low))
        up = np.hypot(np.log(high / seconds), np.log(self.high / self.ratios[99]))
        return float(p99 * np.exp(-down)), float(p99 * np.exp(up))


def tail_of(
    rows: Sequence[KnowledgeRow], device_id: str, backend: str, point: OperatingPoint | None, threads: int
) -> Tail:
    """The tail of the trusted measured rows there, as medians and quantiles over them. Raises BadRecord without one."""
    name = (point or OperatingPoint(threads=threads)).name
    alike = [
        r for r in rows if r.label in DECIDING and (r.device_id, r.backend, r.point_name) == (device_id, backend, name)
    ]
    if not alike:
        raise BadRecord(
            f"Nothing trusted was measured on {device_id} with {backend} at {name}, so the tail of a prediction is unknown: "
            "profile some of these sub-networks first."
        )
    ratios = {p: [max(1.0, r.latency_s(p) / r.median_s) for r in alike] for p in (90, 95, 99)}
    low, high = (stats.quantile(ratios[99], q) for q in (0.05, 0.95))
    return Tail({p: stats.quantile(values, 0.5) for p, values in ratios.items()}, low, high)
