"""Verbs of the knowledge base: ``knowledge build``, ``ask``, ``explain``, ``compile``; those that draw are in ``front`` and ``sizes``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import front, needs, options, show, sizes
from kit.cli.judge import Profiles
from kit.cli.table import Column, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from kit.knowledge import Predicted
    from kit.records import Answer, Explanation, KnowledgeBase, Need, SubNetwork

knowledge_app = typer.Typer(
    no_args_is_help=True,
    help="The knowledge base: [bold]build[/] it from profiles, [bold]ask[/] it for the best variant, let it [bold]explain[/].",
)

REJECTED_SHOWN = 5
SAMPLE = 1000  # of a space's sub-networks, by default


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    verbs: dict[str, Callable[..., None]] = {
        "build": options.grouped(build), "ask": options.grouped(ask), "explain": options.grouped(explain),
        "pareto": options.grouped(front.pareto), "compile": options.grouped(compile_table), "table": options.grouped(sizes.size_table),
        "map": options.grouped(front.decision_map),
    }  # fmt: skip
    for name, verb in verbs.items():
        knowledge_app.command(name)(verb)
    app.add_typer(knowledge_app, name="knowledge", rich_help_panel="Judge")


@dataclass(frozen=True)
class Predictions:
    """Which sub-networks get predicted rows, by which model."""

    model: Annotated[
        Path | None, typer.Option(help="Add predicted rows by this latency model (kit fit --out), with --space.")
    ] = None
    space: Annotated[
        list[str] | None, typer.Option(help="Predict the sub-networks of this root, such as resnet18 (repeatable).")
    ] = None
    sample: Annotated[int, typer.Option(min=1, help="So many of each space, at random.")] = SAMPLE
    every: Annotated[bool, typer.Option("--all", help="All of each space.")] = False

    def members(self, seed: int) -> list[SubNetwork]:
        """The sub-networks to predict. Raises UsageError (only one of the two flags), UnknownName (a space)."""
        from kit import knowledge, spaces
        from kit.errors import UsageError

        if self.model is None and self.space:
            raise UsageError(
                "--space needs a latency model: write one with kit fit PROFILE... --out M.json and add --model M.json."
            )
        if self.model is not None and not self.space:
            raise UsageError(
                f"--model needs to know which networks to predict: add --space NAME, one of {', '.join(spaces.SPACES)}."
            )
        return knowledge.members_of(self.space or [], None if self.every else self.sample, seed)


def build(
    profiles: Profiles,
    predictions: Predictions,
    accuracy: Annotated[
        Path | None,
        typer.Option(
            help='Accuracies as a CSV (file,accuracy), JSON ({"ID": 0.91} or {"ID": {"top1": 0.91, "dataset": "..."}}), or a folder of '
            "networks that kit evaluate has been at."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The knowledge base to write.")] = needs.KNOWLEDGE,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """Build the knowledge base from measured profiles; with [bold]--model[/] and [bold]--space[/] also for networks nobody measured."""
    from kit import evaluation, knowledge, store

    members = predictions.members(seed)
    accuracies = evaluation.read_accuracies(accuracy) if accuracy else {}
    base = knowledge.build(store.read_profiles(profiles))
    added = knowledge.rows_by_model(base, predictions.model, members) if predictions.model else None
    base = knowledge.with_accuracies(knowledge.joined(base, added.rows if added else ()), accuracies)
    store.write_record(out, base)
    if json:
        show.emit(_build_json(out, base, added))
        return
    _print_built(out, base, added)
    here = {store.slug(r.artifact_id) for r in base.rows}
    if absent := sum(store.slug(name) not in here for name in accuracies):
        show.say(f"{absent} of {len(accuracies)} accuracies in {accuracy} are of no row here.")


def _build_json(out: Path, base: KnowledgeBase, added: Predicted | None) -> dict[str, Any]:
    return {
        "file": str(out),
        "predicted": sum(r.origin == "predicted" for r in base.rows),
        "extrapolations": added.extrapolations if added else {},
        "left_out": added.left_out if added else {},
        **base.model_dump(mode="json"),
    }


def _print_built(out: Path, base: KnowledgeBase, added: Predicted | None) -> None:
    from kit.records import DECIDING

    measured = [r for r in base.rows if r.origin == "measured"]
    undecided = sum(r.label not in DECIDING for r in measured)
    elsewhere = sum(not r.is_default_state for r in measured)
    sentence = f"{out}: {len(measured)} rows, {undecided} of them not trusted to decide"
    sentence += f", {elsewhere} at chosen operating points (--point)" if elsewhere else ""
    if added is not None:
        sentence += f"; {len(base.rows) - len(measured)} predicted, {len(added.extrapolations)} of them extrapolations"
    print(sentence)
    reasons = list(added.left_out.values()) if added else []
    for why in sorted(set(reasons)):
        show.say(f"left out: {reasons.count(why)} sub-networks, for {why}")


def ask(
    limits: needs.EveryLimit,
    of_rows: needs.Rows,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure predicted variants here before one of them is promised.")
    ] = False,
    profiles: options.Profiles = options.PROFILES,
    knowledge_file: needs.Base = needs.KNOWLEDGE,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """The most accurate variant that meets every limit, by measured latency. Exit code 3: none does."""
    base = needs.read_base(knowledge_file)
    need = needs.requirement_about(base.rows, limits, of_rows)
    answer = _answer(base, need, knowledge_file, profiles if measure else None)
    if json:
        show.emit(show.answer(answer))
        return
    show.note(answer.text)
    if answer.chosen is not None and answer.chosen.accuracy is None and answer.runner_up is not None:
        show.say(
            "The accuracies are unknown, so the fastest is chosen: give them with kit knowledge build --accuracy FILE.json."
        )
    _print_rejected(answer)
    _print_next(answer)


def _answer(base: KnowledgeBase, need: Need, file: Path, profiles: Path | None) -> Answer:
    """The answer; with a folder of ``profiles`` predicted rows are measured first."""
    from kit import knowledge

    if profiles is None:
        return knowledge.ask(base.rows, need)
    from kit.knowledge.measuring import measurer

    with show.progress("measure") as update:
        measure = measurer(base, file, profiles, need.device_id, on_message=show.say, on_step=show.steps(update))
        return knowledge.ask(base.rows, need, measure=measure)


def _print_rejected(answer: Answer) -> None:
    if not answer.rejected:
        return
    table = show.make_table("Rejected, the nearest first", "variant", Column("limit", 0, "left"), text("why", 1))
    for r in answer.rejected[:REJECTED_SHOWN]:
        table.add_row(f"{r.artifact_id} ({r.backend}, t{r.threads})", r.limit, r.text)
    show.print_table(table)
    if len(answer.rejected) > REJECTED_SHOWN:
        show.say(f"... and {len(answer.rejected) - REJECTED_SHOWN} more (--json lists all).")


def _print_next(answer: Answer) -> None:
    if not answer.measure_next:
        return
    table = show.make_table("What to measure, for it could change the answer", "command", text("because", 1))
    for m in answer.measure_next[:REJECTED_SHOWN]:
        table.add_row(m.command, m.why)
    show.print_table(table)


def explain(
    variant: Annotated[str, typer.Argument(metavar="ID", help="Id (or sha256) of the variant.")],
    limits: needs.EveryLimit,
    of_rows: needs.Rows,
    knowledge_file: needs.Base = needs.KNOWLEDGE,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Why a variant is, or is not, the choice: each limit, what is left of it, and what would have to change."""
    from kit import knowledge

    rows = needs.read_base(knowledge_file).rows
    explanations = knowledge.explain(rows, needs.requirement_about(rows, limits, of_rows), variant)
    if json:
        show.emit({"id": variant, "explanations": [e.model_dump(mode="json") for e in explanations]})
        return
    for explanation in explanations:
        show.note(explanation.text)
        _print_limits(explanation)


def _print_limits(explanation: Explanation) -> None:
    if not explanation.limits:
        return
    name = f"{explanation.row.artifact_id} ({explanation.row.backend}, t{explanation.row.threads})"
    table = show.make_table(
        name, "limit", Column("left"), text("limit as text", 1), text("what would have to change", 2)
    )
    for limit in explanation.limits:
        left = "" if limit.slack is None else f"{limit.slack:.0%}"
        table.add_row(limit.limit, left, limit.text, limit.change or "nothing")
    show.print_table(table)


def compile_table(
    of_rows: needs.Rows,
    out: Annotated[Path, typer.Option(help="The decision table to write.")] = Path("decisions.npz"),
    have: needs.Have = None,
    knowledge_file: needs.Base = needs.KNOWLEDGE,
    json: show.Json = False,
) -> None:
    """Compile the answers of [bold]ask[/] to arrays for hot paths: an .npz that numpy alone loads."""
    from kit import knowledge

    rows = needs.read_base(knowledge_file).rows
    table = knowledge.compile(rows, needs.requirement_about(rows, of_rows, have=have))
    table.save(out)
    deciding = {p: len(table.arrays[f"p{p}_row"]) for p in table.percentiles}
    if json:
        show.emit({"file": str(out), "variants": [v._asdict() for v in table.variants], "deciding": deciding})
        return
    counts = ", ".join(f"{count} at p{p}" for p, count in deciding.items())
    print(f"{out}: {len(table.variants)} variants, of which some requirement can choose {counts}")
