"""Verbs on what was measured: ``fit``, and ``report`` to look at it. ``knowledge`` has a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import options, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kit.latency import Predictor
    from kit.records import CurvePoint, LatencyModel, ProfileRecord

Profiles = Annotated[
    list[Path], typer.Argument(metavar="PROFILE...", help="Profile files (.jsonl) or folders of them.")
]


CURVE = (5, 10, 20, 40)  # measurements for which fit --plots gives the error of a model of so few


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command(rich_help_panel="Judge")(fit)
    app.command(rich_help_panel="Judge")(report)


ModelBackend = Annotated[
    str | None,
    typer.Option(help="Only this runtime; a model file is of one.", autocompletion=options.complete_backend),
]
Source = Annotated[
    Path | None, typer.Option("--from", help="Transfer structure from another device: its profiles or its model.")
]
ModelOut = Annotated[Path | None, typer.Option(help="Write the latency model for kit predict to this file.")]
Level = Annotated[float, typer.Option(help="Share of networks that an interval holds, from 0.5 to below 1.")]
Plots = Annotated[
    Path | None, typer.Option(metavar="FILE.html", help="Write a page of figures: errors, lambda, learning curve.")
]


def fit(
    profiles: Profiles,
    device: options.Device = None,
    backend: ModelBackend = None,
    source: Source = None,
    out: ModelOut = None,
    level: Level = 0.9,
    plots: Plots = None,
    seed: show.Seed = 0,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Fit latency to measured networks: lambda with its interval, the papers' lambda = 1, and the model family that predicts best."""
    from kit import latency, store
    from kit.cli import predict
    from kit.cli.produce import need_training_tools
    from kit.latency import fits

    latency.check_level(level)
    if plots is not None:
        need_training_tools("plotly")
    records = fits.of_backend(fits.of_device(store.read_profiles(profiles), device), backend)
    models = latency.fit(records, seed=seed)
    predictor = _predictor(records, source, level, seed, needed=any((out, source, plots)))
    if out is not None and predictor is not None:
        latency.save(out, predictor)
    if plots is not None and predictor is not None:
        _write_plots(plots, predictor, records, level, seed)
    if json:
        about = None if predictor is None else predict.predictor_json(predictor, out, plots)
        lines = [show.latency_model(m) for m in models]
        show.emit({"device": models[0].device_id, "seed": seed, "latency_models": lines, "predictor": about})
        return
    _print(models, predictor, records, out, plots)


def _print(
    models: Sequence[LatencyModel], predictor: Predictor | None, records: Sequence[ProfileRecord], out: Path | None,
    plots: Path | None,
) -> None:  # fmt: skip
    from kit.cli import predict

    roots = sorted({p.artifact.subnetwork.root for p in records if p.artifact.subnetwork})
    if len(roots) > 1:
        show.say(
            f"One line is drawn through {len(roots)} families ({', '.join(roots)}): fit each alone for a closer one."
        )
    show.print_table(show.model_table(models))
    if predictor is not None:
        show.print_table(predict.score_table(predictor))
        show.note(f"Chosen: {predictor.reason}" + (f" Written to {out}." if out else ""))
    if plots is not None:
        show.note(str(plots))
    for text in dict.fromkeys([t for m in models for t in m.left_out] + list(predictor.notes if predictor else ())):
        show.say(f"left out: {text}" if ": " in text else text)


def _predictor(
    profiles: list[ProfileRecord], source: Path | None, level: float, seed: int, *, needed: bool
) -> Predictor | None:
    """The predictor, or None with a note on standard error where the records are too few and no option needs one."""
    from kit.errors import BackendUnavailable, BadRecord
    from kit.latency import fits

    try:
        return fits.predictor_of(profiles, source, level, seed)
    except (BadRecord, BackendUnavailable) as error:
        if needed:
            raise
        show.say(f"No predictor: {error}")
        return None


def _write_plots(out: Path, predictor: Predictor, profiles: list[ProfileRecord], level: float, seed: int) -> None:
    """The page of a predictor; its learning curve stays away where the networks are too few to leave some out."""
    from kit import latency
    from kit.errors import BadRecord
    from kit.report.latency import write_page

    curve: list[CurvePoint] = []
    with show.progress("learn") as update:
        for i, count in enumerate(CURVE):
            update(f"models of {count} measurements", i / len(CURVE))
            try:
                curve += latency.learning_curve(profiles, counts=(count,), base=predictor.base, level=level, seed=seed)
            except BadRecord:
                continue
    write_page(out, predictor, profiles, curve)


def report(
    profiles: Profiles,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    device: options.Device = None,
    library: Annotated[Path | None, typer.Option(help="List the packages of this library as well.")] = None,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """One self-contained HTML page: accuracy against latency, lambda, spread, choices over deadlines, packages."""
    from kit import knowledge, store
    from kit.cli.produce import need_training_tools

    need_training_tools("plotly")
    from kit.latency.fits import of_device
    from kit.library import package
    from kit.report.page import write_page

    records = of_device(store.read_profiles(profiles), device)
    models = models_of(records, seed)
    spec = records[-1].device
    base = knowledge.build([p for p in records if p.plain])
    page = write_page(
        out, device=spec, profiles=records, models=models, knowledge=base,
        answers=knowledge.three_answers(base, spec.device_id), deadline_choices=knowledge.choices(base, spec.device_id),
        packages=package.read_packages(library) if library else [], pull=None,
    )  # fmt: skip
    if json:
        show.emit({"report": str(page)})
    else:
        print(page)


def models_of(profiles: list[ProfileRecord], seed: int) -> list[LatencyModel]:
    """The fitted models, or none, with a word on standard error, where there is too little to fit a line to."""
    from kit import latency
    from kit.errors import BadRecord

    try:
        return latency.fit(profiles, seed=seed)
    except BadRecord as error:
        show.say(f"No latency model: {error}")
        return []
