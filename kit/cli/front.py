"""``knowledge pareto`` and ``knowledge map``: the variants that no other dominates, and the choice over two limits as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit import units
from kit.cli import needs, show
from kit.cli.table import Column

if TYPE_CHECKING:
    from kit.cli.table import Table
    from kit.knowledge import Regret
    from kit.records import KnowledgeRow, Need

FRONT_SHOWN = 40
PLOT_WIDTH, PLOT_HEIGHT = 64, 14


def pareto(
    limits: needs.EveryLimit,
    of_rows: needs.Rows,
    memory: Annotated[bool, typer.Option("--memory", help="Count peak memory as well.")] = False,
    energy: Annotated[bool, typer.Option("--energy", help="Count the energy of an inference as well.")] = False,
    size: Annotated[bool, typer.Option("--size", help="Count the bytes of the file as well.")] = False,
    knowledge_file: needs.Base = needs.KNOWLEDGE,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """The variants that no other beats in latency and accuracy (and memory, energy, size) at once."""
    from kit import knowledge

    rows, percentile = needs.read_base(knowledge_file).rows, limits.percentile
    optional = {"memory": memory, "energy": energy, "size": size}
    axes = ("latency", "accuracy", *(name for name, included in optional.items() if included))
    front = knowledge.pareto(rows, needs.requirement_about(rows, limits, of_rows), axes)
    if json:
        show.emit({"axes": list(axes), "percentile": percentile, "front": [show.knowledge_row(r) for r in front]})
        return
    shown = thinned(front)
    show.print_table(_front_table(shown, percentile, len(front)))
    if len(shown) < len(front):
        show.say(f"Every {len(front) / len(shown):.3g}th is shown, first and last among them (--json lists all).")
    for line in front_plot(front, percentile):
        show.note(line)


def thinned(front: Sequence[KnowledgeRow]) -> list[KnowledgeRow]:
    """As many as a screen holds, evenly along the front, both ends included."""
    if len(front) <= FRONT_SHOWN:
        return list(front)
    return [front[round(i * (len(front) - 1) / (FRONT_SHOWN - 1))] for i in range(FRONT_SHOWN)]


def _front_table(front: Sequence[KnowledgeRow], percentile: int, count: int) -> Table:
    name = "median ms" if percentile == 50 else f"p{percentile} ms"
    columns = (
        Column("conditions", 2, "left"), Column(name), Column("accuracy", 1), Column("memory MB", 4), Column("energy mJ", 5),
        Column("file MB", 6), Column("label", 3, "left"),
    )  # fmt: skip
    table = show.make_table(f"Nothing beats these {count}", "variant", *columns)
    for r in front:
        memory, energy = units.in_unit(r.memory_bytes, units.MB), units.in_unit(r.energy_j, units.MJ)
        accuracy = show.accuracy_text(r.accuracy)
        conditions = f"{r.backend} {r.point_name}"
        latency = show.ms(r.latency_s(percentile))
        table.add_row(
            r.artifact_id,
            conditions,
            latency,
            accuracy,
            memory,
            energy,
            units.in_unit(r.size_bytes, units.MB, 3),
            r.label or r.origin,
        )
    return table


def front_plot(front: Sequence[KnowledgeRow], percentile: int) -> list[str]:
    """Accuracy over the logarithm of the latency as lines of text; o is measured, ? predicted."""
    from math import log

    placed = [(log(r.latency_s(percentile)), r.accuracy, r.origin) for r in front if r.accuracy is not None]
    if len(placed) < 2:
        return []
    xs, ys = [x for x, _, _ in placed], [y for _, y, _ in placed]
    wide, high = max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0
    canvas = [[" "] * (PLOT_WIDTH + 1) for _ in range(PLOT_HEIGHT + 1)]
    for x, y, origin in placed:
        row = PLOT_HEIGHT - round((y - min(ys)) / high * PLOT_HEIGHT)
        canvas[row][round((x - min(xs)) / wide * PLOT_WIDTH)] = "o" if origin == "measured" else "?"
    ends = {0: f"{max(ys):.2%}", PLOT_HEIGHT: f"{min(ys):.2%}"}
    lines = [f"{ends.get(i, ''):>8} |{''.join(cells).rstrip()}" for i, cells in enumerate(canvas)]
    first, last = (show.ms(r.latency_s(percentile)) + " ms" for r in (front[0], front[-1]))
    return [*lines, f"{'':>8} +{'-' * (PLOT_WIDTH + 1)}", f"{'':>10}{first}{last:>{PLOT_WIDTH + 1 - len(first)}}"]


def decision_map(
    of_rows: needs.Rows,
    against: Annotated[str, typer.Option(help="The axis next to the deadline: memory or link.")] = "memory",
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("decisions.html"),
    percentile: needs.Percentile = 99,
    min_accuracy: needs.MinAccuracy = None,
    model: Annotated[
        Path | None, typer.Option(help="Latency model fitted to these measurements: adds what its predictions lose.")
    ] = None,
    requirements: Annotated[int, typer.Option("--needs", min=1, help="Random requirements to ask for that.")] = 300,
    knowledge_file: needs.Base = needs.KNOWLEDGE,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """A map of the choice over two limits, and what the choice from predictions loses, as one self-contained page."""
    from kit import knowledge
    from kit.cli.produce import need_training_tools

    need_training_tools("plotly")
    from kit.report import decisions

    rows = needs.read_base(knowledge_file).rows
    need = needs.requirement_about(rows, of_rows, percentile=percentile)
    table = knowledge.compile(rows, need, percentiles=(percentile,))
    regrets, why = _regrets(rows, need, model, requirements, seed)
    decisions.write_page(
        out, table, against=against, percentile=percentile, min_accuracy=min_accuracy, regrets=regrets, no_regret=why
    )
    if json:
        variants = sorted({v.artifact_id for v in table.variants})
        show.emit({"map": str(out), "variants": variants, "regret": _shares(regrets), "why_no_regret": why or None})
    else:
        print(out)


def _regrets(
    rows: Sequence[KnowledgeRow], need: Need, model: Path | None, count: int, seed: int
) -> tuple[dict[str, Regret], str]:
    """What choices from predictions lose, and why nothing can be said about it where that is so. Raises what loading the model raises."""
    from kit import knowledge, latency
    from kit.errors import BadRecord

    if model is None:
        return {}, "Give the latency model with --model M.json to see what choices from its predictions lose."
    predictor = latency.load(model)
    try:
        return knowledge.regrets(rows, need, predictor, count, seed=seed), ""
    except BadRecord as error:
        return {}, str(error)


def _shares(regrets: dict[str, Regret]) -> dict[str, dict[str, float]]:
    return {
        name: {"equal": r.equal_share, "missed": r.missed_share, "loss": float(r.loss.mean())}
        for name, r in regrets.items()
    }
