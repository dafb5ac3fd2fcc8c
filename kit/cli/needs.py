"""What a device requires, as groups of options that ``knowledge ask``, ``explain``, ``pareto``, ``compile``, ``map`` and ``pull`` share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kit.records import KnowledgeBase, KnowledgeRow, Need

LIMITS, ROWS = "Limits", "Which rows"

KNOWLEDGE = Path("knowledge.json")
Base = Annotated[Path, typer.Option("--knowledge", help="The knowledge base.", rich_help_panel=ROWS)]
Percentile = Annotated[int, typer.Option(help="Of the latency: 50, 90, 95 or 99.", rich_help_panel=LIMITS)]
MinAccuracy = Annotated[float | None, typer.Option(help="Least top-1 accuracy, as a share.", rich_help_panel=LIMITS)]
Have = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID|SHA", help="Already on the device: needs no download (repeatable).", rich_help_panel=LIMITS
    ),
]
Backend = Annotated[str | None, typer.Option(help="Only this runtime.", rich_help_panel=ROWS)]
Threads = Annotated[int | None, typer.Option(min=1, help="Only this thread count.", rich_help_panel=ROWS)]
Dataset = Annotated[str | None, typer.Option(help="Only accuracies on this data set.", rich_help_panel=ROWS)]
Device = Annotated[
    str | None,
    typer.Option(envvar="KIT_DEVICE", help="Device id (default: the only one, or this machine).", rich_help_panel=ROWS),
]


@dataclass(frozen=True)
class Limits:
    """The limits of a requirement that a library can check."""

    deadline_ms: Annotated[
        float | None,
        typer.Option(help="The latency must stay within this, at --percentile.", rich_help_panel=LIMITS),
    ] = None
    percentile: Percentile = 99
    memory_mb: Annotated[
        float | None,
        typer.Option(help="Peak memory of runtime and model together, above the bare process.", rich_help_panel=LIMITS),
    ] = None
    min_accuracy: MinAccuracy = None
    link_mbps: Annotated[
        float | None,
        typer.Option(help="Rate of the link; the download then counts towards the deadline.", rich_help_panel=LIMITS),
    ] = None
    download_ms: Annotated[
        float | None,
        typer.Option(help="A limit of its own for the download, apart from the deadline.", rich_help_panel=LIMITS),
    ] = None


@dataclass(frozen=True)
class EveryLimit(Limits):
    """Those, and what only a knowledge base knows."""

    energy_mj: Annotated[
        float | None,
        typer.Option(help="Energy of one inference, the idle machine included.", rich_help_panel=LIMITS),
    ] = None
    have: Have = None


@dataclass(frozen=True)
class Rows:
    """Which rows of a knowledge base are considered."""

    device: Device = None
    backend: Backend = None
    threads: Threads = None
    batch: Annotated[int | None, typer.Option(min=1, help="Inputs per call (default: one).", rich_help_panel=ROWS)] = (
        None
    )
    point: Annotated[
        str | None,
        typer.Option(
            help="Rows of this operating point, such as t1-gap10ms (default: plain calls).", rich_help_panel=ROWS
        ),
    ] = None
    dataset: Dataset = None
    unknown_accuracy: Annotated[
        bool,
        typer.Option(
            "--unknown-accuracy", help="Let variants of unknown accuracy compete, behind the others.",
            rich_help_panel=ROWS,
        ),
    ] = False  # fmt: skip


def read_base(file: Path) -> KnowledgeBase:
    """Raises UsageError where there is none, with the way to one."""
    from kit import store
    from kit.errors import UsageError
    from kit.records import KnowledgeBase

    if not file.exists():
        raise UsageError(
            f"{file} does not exist: make it with kit knowledge build PROFILE..., or name another with --knowledge."
        )
    return store.read_record(file, KnowledgeBase)


def requirement(limits: Limits, **more: Any) -> Need:
    """The options in SI units. Raises UsageError for a limit that is no sensible number, or limits that do not go together."""
    from kit.knowledge import limits as rules

    return rules.need_of(spelled=_flag, **asdict(limits), **more)


def requirement_about(rows: Sequence[KnowledgeRow], *groups: Limits | Rows, **more: Any) -> Need:
    """:func:`requirement` about these rows: their device, and full hashes of what it has. Raises UnknownName as well."""
    from kit.knowledge import limits as rules

    for group in groups:
        more |= asdict(group)
    return rules.need_about(rows, spelled=_flag, **more)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
