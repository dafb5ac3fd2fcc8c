"""What a device asks for, as flags: shared by ``knowledge ask``, its companions, and ``pull``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kit.records import Need, Percentile

Deadline = Annotated[float | None, typer.Option(help="The latency must stay within this, at --percentile.")]
PercentileOf = Annotated[int, typer.Option("--percentile", help="Of the latency: 50, 90, 95 or 99.")]
MemoryMb = Annotated[
    float | None, typer.Option(help="Peak memory of runtime and model together, above the bare process.")
]
EnergyMj = Annotated[float | None, typer.Option(help="Energy of one inference, the idle machine included.")]
MinAccuracy = Annotated[float | None, typer.Option(help="Least top-1 accuracy, as a share.")]
Link = Annotated[float | None, typer.Option(help="Rate of the link; the download then counts towards the deadline.")]
Download = Annotated[float | None, typer.Option(help="A limit of its own for the download, apart from the deadline.")]
Have = Annotated[
    list[str] | None, typer.Option(metavar="ID|SHA", help="Already on the device: needs no download (repeatable).")
]
Device = Annotated[str | None, typer.Option(help="Device id (default: the only one, or this machine).")]
Backend = Annotated[str | None, typer.Option(help="Only this runtime.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Only this thread count.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Inputs per call (default: one).")]
PointName = Annotated[
    str | None, typer.Option("--point", help="Rows of this operating point, such as t1-gap10ms (default: plain calls).")
]
Dataset = Annotated[str | None, typer.Option(help="Only accuracies on this data set.")]
Unknown = Annotated[
    bool, typer.Option("--unknown-accuracy", help="Let variants of unknown accuracy compete, behind the others.")
]


def make_need(
    deadline_ms: float | None,
    memory_mb: float | None,
    min_accuracy: float | None,
    link_mbps: float | None,
    download_ms: float | None,
    device: str | None,
    backend: str | None,
    threads: int | None,
    *,
    percentile: int = 99,
    energy_mj: float | None = None,
    have: list[str] | None = None,
    batch: int | None = None,
    point: str | None = None,
    dataset: str | None = None,
    unknown_accuracy: bool = False,
) -> Need:
    """The flags as a need in SI units. Raises UsageError for a limit that is no positive number, or limits that make no sense together."""
    from math import isfinite

    from kit.errors import UsageError
    from kit.records import Need

    flags = {
        "--deadline-ms": deadline_ms,
        "--memory-mb": memory_mb,
        "--energy-mj": energy_mj,
        "--link-mbps": link_mbps,
        "--download-ms": download_ms,
    }
    for flag, value in flags.items():
        if value is not None and not (isfinite(value) and 1e-9 < value < 1e15):
            raise UsageError(f"{flag} {value:g} is no limit: give a sensible number above zero.")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise UsageError(f"--min-accuracy {min_accuracy:g} is no share: give a number from 0 to 1, such as 0.95.")
    if link_mbps is not None and deadline_ms is None and download_ms is None:
        raise UsageError("--link-mbps alone limits nothing: add --deadline-ms or --download-ms.")
    if download_ms is not None and link_mbps is None:
        raise UsageError("--download-ms needs the rate of the link: add --link-mbps.")
    return Need(
        deadline_s=None if deadline_ms is None else deadline_ms * 1e-3,
        percentile=_percentile(percentile),
        memory_bytes=None if memory_mb is None else max(1, round(memory_mb * 1e6)),
        energy_j=None if energy_mj is None else energy_mj * 1e-3,
        min_accuracy=min_accuracy,
        link_bps=None if link_mbps is None else link_mbps * 1e6,
        download_s=None if download_ms is None else download_ms * 1e-3,
        have=tuple(have or ()),
        device_id=device,
        backend=backend,
        threads=threads,
        batch=batch,
        point=point,
        dataset=dataset,
        unknown_accuracy=unknown_accuracy,
    )


def _percentile(number: int) -> Percentile:
    from kit.errors import UsageError
    from kit.records import PERCENTILES_KEPT

    for known in PERCENTILES_KEPT:
        if number == known:
            return known
    kept = ", ".join(map(str, PERCENTILES_KEPT))
    raise UsageError(f"--percentile {number} is not kept: give one of {kept}.")
