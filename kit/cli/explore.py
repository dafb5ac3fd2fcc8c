"""The verb ``explore``: a few sub-networks of a space are measured, from which the latency model predicts the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kit import units
from kit.cli import options, show
from kit.cli.table import Column

if TYPE_CHECKING:
    from pathlib import Path

    from kit.cli.table import Table
    from kit.latency.explore import Exploration, ExplorationPlan, Step


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(rich_help_panel="Measure")(options.grouped(explore))


Space = Annotated[
    str,
    typer.Argument(help="Root of a space of sub-networks, like resnet18.", autocompletion=options.complete_space),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="10m|40|10m,40", rich_help_panel=options.PRECISION,
        help="Wall time as 90s, 10m or 1h, or a number of networks, or both (default: 40 networks).",
    ),
]  # fmt: skip
Until = Annotated[
    str | None,
    typer.Option(
        metavar="within10=0.99", rich_help_panel=options.PRECISION,
        help="Stop when that share of the space is predicted within so many per cent.",
    ),
]  # fmt: skip
Deadline = Annotated[
    float | None,
    typer.Option(help="Choose what decides which sub-networks keep this deadline.", rich_help_panel=options.PRECISION),
]
Sample = Annotated[
    int | None,
    typer.Option(metavar="N", help="N random sub-networks instead of chosen ones.", rich_help_panel=options.PRECISION),
]


def explore(
    runtime: options.Runtime,
    point: options.PointOptions,
    precision: options.Precision,
    file: options.RecordFile,
    space: Space,
    budget: Budget = None,
    until: Until = None,
    deadline_ms: Deadline = None,
    sample: Sample = None,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Measure the sub-networks of a space that are most informative about the others.

    The next ones are those whose measurement reduces the latency model's error most, until it predicts 99 % of the space within
    10 % (--until), or until the time or the number is spent (--budget). Each batch is predicted before it is measured, so the errors
    that are printed are those of unmeasured networks. A killed run resumes when the same command is given again.
    """
    from kit.latency import explore as exploring

    plan = exploring.plan(
        space, precision.settings(point, None, file.seed).model_copy(update={"backend": runtime.backend}), budget=budget, until=until,
        deadline_s=None if deadline_ms is None else deadline_ms * 1e-3, sample=sample,
    )  # fmt: skip
    _run(plan, file, json=json)


def _run(plan: ExplorationPlan, file: options.RecordFile, *, json: bool) -> None:
    from kit.devices import recognise
    from kit.latency import explore as exploring
    from kit.measure import jobs, quality

    spec, settings = recognise(), plan.settings
    name = file.name or f"{plan.space.name}-space-{settings.backend}-{settings.name}"
    out = jobs.record_file(file.profiles, spec.device_id, name)
    with jobs.workspace(file.keep) as folder, show.progress("explore") as update:
        exploration = exploring.run(
            plan, spec, out, folder, fresh=file.fresh, spent_s=show.process_age_s(), progress=show.steps(update),
            on_step=lambda step: show.say(_step_line(step)),
        )  # fmt: skip
    records = list(exploration.records)
    warnings = quality.warnings_of(records)
    if json:
        show.emit({
            "device": spec.device_id, "file": str(out), "seed": plan.seed, "space": plan.space.name, "measured": len(records),
            "new": exploration.new, "ended": exploration.ended, "reached": exploration.reached,
            "steps": [_step_json(s) for s in exploration.steps],
            "variants": [show.variant(r) for r in records], "warnings": list(warnings),
        })  # fmt: skip
        return
    _print(exploration, plan, out, warnings)


def _print(exploration: Exploration, plan: ExplorationPlan, out: Path, warnings: tuple[str, ...]) -> None:
    show.print_table(show.profile_table(exploration.records))
    if exploration.steps:
        show.print_table(_steps_table(exploration))
    show.say(" ".join(warnings))
    fit = "kit fit" if plan.settings.backend == "onnxruntime" else f"kit fit --backend {plan.settings.backend}"
    show.say(
        f"Ended because {exploration.ended}. {exploration.new} new records, {len(exploration.records)} in all: {out}"
    )
    show.say(
        f"The model of them: {fit} {out} --out {plan.space.name}.json, then kit predict ID --model {plan.space.name}.json"
    )


def _step_line(step: Step) -> str:
    parts = [f"{step.measured} measured"]
    if step.error is not None:
        parts.append(
            f"the last {step.predicted} had been predicted {step.error:.1%} off, {step.within:.0%} of them close enough"
        )
    if step.share is not None:
        parts.append(
            f"expected {step.share:.1%} of the space (intervals {step.estimated:.1%}, cross-validation {step.validated:.1%})"
        )
    if step.undecided is not None:
        parts.append(f"undecided {step.undecided:.1%}")
    return "; ".join(parts)


def _step_json(step: Step) -> dict[str, object]:
    return {
        "measured": step.measured,
        "batch": step.batch,
        "predicted_before": step.predicted,
        "within_before": step.within,
        "mean_error_before": step.error,
        "form": step.form,
        "expected_share": step.share,
        "expected_by_intervals": step.estimated,
        "expected_by_cross_validation": step.validated,
        "undecided_share": step.undecided,
    }


def _steps_table(exploration: Exploration) -> Table:
    title = "Error of each batch before it was measured, and what is expected of the rest of the space"
    columns = (
        Column("batch", 5), Column("mean error"), Column("within", 2), Column("model family", 4), Column("by intervals", 1),
        Column("by cross-validation", 3),
    )  # fmt: skip
    table = show.make_table(title, "measured", *columns)
    for s in exploration.steps:
        cells = [units.known(None if v is None else f"{v:.1%}") for v in (s.error, s.within, s.estimated, s.validated)]
        table.add_row(str(s.measured), str(s.batch), *cells[:2], s.form or "none", *cells[2:])
    return table
