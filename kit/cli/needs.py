"""What a device asks for, as flags: shared by ``knowledge ask``, its companions, and ``pull``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kit.records import KnowledgeRow, Need

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


def make_need(**limits: Any) -> Need:
    """The flags as a need in SI units. Raises UsageError for a limit that is no sensible number, or limits that do not go together."""
    from kit.knowledge import limits as rules

    return rules.need_of(spelled=_flag, **limits)


def need_about(rows: Sequence[KnowledgeRow], **limits: Any) -> Need:
    """:func:`make_need` about these rows: their device, and whole hashes of what it has. Raises UnknownName as well."""
    from kit.knowledge import limits as rules

    return rules.need_about(rows, spelled=_flag, **limits)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
