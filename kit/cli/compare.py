"""The verb ``compare``: two measurements, a verdict for each artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import show

if TYPE_CHECKING:
    from rich.table import Table

    from kit.measure.compare import Comparison


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Judge")(compare)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Profile file (.jsonl) or folder: before.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Profile file (.jsonl) or folder: after.")],
    within: Annotated[
        float, typer.Option(min=0.01, max=100, help="Per cent: a ratio that surely lies this close to 1 is the same.")
    ] = 2.0,
    fail_slower: Annotated[
        float | None,
        typer.Option(
            min=0, max=1000, help="Exit code 1 when something is surely slower by more than this per cent, or lost."
        ),
    ] = None,
    json: show.Json = False,
) -> None:
    """Compare two measurements, artifact by artifact: faster, slower, same, undecided, or not comparable and why.

    By processes, not calls: the ratio B/A of the medians of fresh processes with its exact rank-sum interval. Of several records of one
    artifact the newest trusted one counts.
    """
    from kit import store
    from kit.measure.compare import CONFIDENCE, VERDICTS
    from kit.measure.compare import compare as compared

    found = compared(store.read_profiles([a]), store.read_profiles([b]), within / 100)
    counts: dict[str, int] = {verdict: sum(c.verdict == verdict for c in found) for verdict in VERDICTS}
    slower = [] if fail_slower is None else [c for c in found if c.slower_by_more_than(fail_slower / 100)]
    if json:
        show.emit({
            "within": within / 100, "confidence": CONFIDENCE, "counts": counts,
            "fail_slower": None if fail_slower is None else fail_slower / 100, "failed": [c.artifact_id for c in slower],
            "comparisons": [c.model_dump(mode="json") for c in found],
        })  # fmt: skip
    else:
        _print(found, counts, within)
    judged = len(found) - counts["not comparable"]
    if fail_slower is None:
        return
    from kit.errors import MeasurementError

    if slower:
        worst = max(slower, key=lambda c: c.ratio or 0.0)
        raise MeasurementError(
            f"{len(slower)} of {judged} are slower by more than {fail_slower:g} %, the worst by {((worst.ratio or 1) - 1) * 100:.1f} % "
            f"({worst.artifact_id}): look for what changed between A and B."
        )
    if lost := [c.artifact_id for c in found if c.lost]:
        raise MeasurementError(f"{len(lost)} that A measured failed in B or are missing there: {', '.join(lost[:5])}.")
    if not judged:
        raise MeasurementError("Nothing could be compared, so the gate has seen nothing: measure both sides alike.")


def _print(found: list[Comparison], counts: dict[str, int], within: float) -> None:
    show.print_table(_table(found, within))
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    for text in dict.fromkeys(remark for c in found for remark in c.remarks):
        names = [c.artifact_id for c in found if text in c.remarks]
        show.say(f"{text}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}")
    if counts["undecided"]:
        show.say(
            "undecided: measure both sides in more processes (--rounds-min), or allow a wider margin with --within."
        )
    judged = len(found) - counts["not comparable"]
    if judged >= 10:
        show.say(f"Of {judged} unchanged artifacts about {judged * 0.05:.0f} would look faster or slower by chance.")


def _table(found: list[Comparison], within: float) -> Table:
    used = sorted({c.values for c in found if c.values})
    note = {"raw": "raw", "corrected": "drift-corrected"}
    title = (
        f"B over A, one value per process ({' and '.join(note[u] for u in used) or 'none'}); same: within {within:g} %"
    )
    made = show.make_table(title, "variant", "A ms", "B ms", "B/A", "95 %", "processes", "verdict", "because")
    made.columns[-1].justify = "left"
    for c in found:
        name = f"{c.artifact_id} ({c.backend}, {c.point})"
        if c.ratio is None or c.interval is None:
            made.add_row(name, "", "", "", "", "", c.verdict, c.why or "")
            continue
        low, high = c.interval
        made.add_row(
            name, show.ms(c.a_median_s), show.ms(c.b_median_s), f"{c.ratio:.4f}", f"{low:.4f} .. {high:.4f}",
            f"{c.a_processes}, {c.b_processes}", c.verdict, c.why or "",
        )  # fmt: skip
    return made
