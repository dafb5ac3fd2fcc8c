"""The verb ``compare``: two measurements, the result for each artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import show
from kit.cli.table import Column, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kit.cli.table import Table
    from kit.errors import MeasurementError
    from kit.measure.compare import Comparison


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(rich_help_panel="Judge")(compare)


Within = Annotated[
    float, typer.Option(min=0.01, max=100, help="Per cent: a ratio that surely lies this close to 1 is the same.")
]
FailSlower = Annotated[
    float | None,
    typer.Option(
        min=0, max=1000, help="Exit code 1 when something is surely slower by more than this per cent, or lost."
    ),
]


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Profile file (.jsonl) or folder: before.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Profile file (.jsonl) or folder: after.")],
    within: Within = 2.0,
    fail_slower: FailSlower = None,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Compare two measurements, artifact by artifact: faster, slower, same, undecided, or not comparable and why.

    By processes, not calls: the ratio B/A of the medians of fresh processes with its exact rank-sum interval. Of several records of one
    artifact the newest trusted one counts.
    """
    from kit import store
    from kit.measure import compare as comparing

    comparisons = comparing.compare(store.read_profiles([a]), store.read_profiles([b]), within / 100)
    counts: dict[str, int] = {
        result: sum(c.label == result for c in comparisons) for result in comparing.COMPARISON_LABELS
    }
    error, failed = (None, []) if fail_slower is None else _gate(comparisons, fail_slower)
    if json:
        share = None if fail_slower is None else fail_slower / 100
        show.emit_or_raise({
            "within": within / 100, "confidence": comparing.CONFIDENCE, "counts": counts, "fail_slower": share, "failed": failed,
            "comparisons": [c.model_dump(mode="json") for c in comparisons],
        }, error)  # fmt: skip
        return
    _print(comparisons, counts, within)
    if error:
        raise error


def _gate(comparisons: Sequence[Comparison], per_cent: float) -> tuple[MeasurementError | None, list[str]]:
    """Why the gate fails (None: it passes), and the artifacts that are slower by more than ``per_cent``."""
    from kit.errors import MeasurementError

    slower = [c for c in comparisons if c.slower_by_more_than(per_cent / 100)]
    names = [c.artifact_id for c in slower]
    compared = sum(c.label != "not comparable" for c in comparisons)
    if slower:
        worst = max(slower, key=lambda c: c.ratio or 0.0)
        return MeasurementError(
            f"{len(slower)} of {compared} are slower by more than {per_cent:g} %, the worst by {((worst.ratio or 1) - 1) * 100:.1f} % "
            f"({worst.artifact_id}): look for what changed between A and B."
        ), names
    if lost := [c.artifact_id for c in comparisons if c.lost]:
        return MeasurementError(
            f"{len(lost)} that A measured failed in B or are missing there: {', '.join(lost[:5])}."
        ), names
    if not compared:
        return MeasurementError(
            "Nothing could be compared, so the gate has no comparison: measure both sides alike."
        ), names
    return None, names


def _print(comparisons: Sequence[Comparison], counts: dict[str, int], within: float) -> None:
    table = _table(comparisons, within)
    if table.rows or not comparisons:
        show.print_table(table)
    show.note(", ".join(f"{count} {result}" for result, count in counts.items() if count))
    for c in comparisons:
        if c.ratio is None:
            show.note(f"{_name(c)}: {c.label}{f', {c.why}' if c.why else ''}")
    for remark in dict.fromkeys(remark for c in comparisons for remark in c.remarks):
        names = [c.artifact_id for c in comparisons if remark in c.remarks]
        show.say(f"{remark}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}")
    if counts["undecided"]:
        show.say(
            "undecided: measure both sides in more processes (--rounds-min), or allow a wider margin with --within."
        )
    compared = len(comparisons) - counts["not comparable"]
    if compared >= 10:
        show.say(
            f"Of {compared} unchanged artifacts about {compared * 0.05:.0f} would look faster or slower at random."
        )


def _name(comparison: Comparison) -> str:
    return f"{comparison.artifact_id} ({comparison.backend}, {comparison.point})"


def _table(comparisons: Sequence[Comparison], within: float) -> Table:
    """Those that have a ratio; the others are sentences."""
    used = sorted({c.values for c in comparisons if c.values})
    named = {"raw": "raw", "corrected": "drift-corrected"}
    title = (
        f"B over A, one value per process ({' and '.join(named[u] for u in used) or 'none'}); same: within {within:g} %"
    )
    columns = (
        Column("A ms", 4), Column("B ms", 4), Column("B/A"), Column("95 %", 3), Column("processes", 6),
        Column("label", 0, "left"), text("because", 5),
    )  # fmt: skip
    table = show.make_table(title, "variant", *columns, empty="Nothing to compare.")
    for c in comparisons:
        if c.ratio is None or c.interval is None:
            continue
        low, high = c.interval
        table.add_row(
            _name(c), show.ms(c.a_median_s), show.ms(c.b_median_s), f"{c.ratio:.4f}", f"{low:.4f} .. {high:.4f}",
            f"{c.a_processes}, {c.b_processes}", c.label, c.why or "",
        )  # fmt: skip
    return table
