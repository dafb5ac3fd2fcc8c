"""Verbs of the judgement rooms: ``fit``, and ``report`` to look at what was measured. ``knowledge`` has a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import show

if TYPE_CHECKING:
    from kit.latency import Predictor
    from kit.records import Answer, CurvePoint, KnowledgeBase, KnowledgeRow, LatencyModel, ProfileRecord

Profiles = Annotated[
    list[Path], typer.Argument(metavar="PROFILE...", help="Profile files (.jsonl) or folders of them.")
]


CURVE = (5, 10, 20, 40)  # measurements at which fit --plots says how good a model of so few is


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Judge")(fit)
    app.command(rich_help_panel="Judge")(report)


def only(profiles: list[ProfileRecord], device: str | None) -> list[ProfileRecord]:
    """The profiles of one device, when it is named. Raises UnknownName."""
    from kit.errors import UnknownName

    if device is None:
        return profiles
    found = [p for p in profiles if p.device.device_id == device]
    if not found:
        raise UnknownName("device", device, sorted({p.device.device_id for p in profiles}))
    return found


def fit(
    profiles: Profiles,
    device: Annotated[str | None, typer.Option(help="Only the profiles of this device.")] = None,
    backend: Annotated[str | None, typer.Option(help="Only this runtime; a model file is of one.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Borrow structure: profiles or a model of another device.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the latency model for kit predict to this file.")] = None,
    level: Annotated[float, typer.Option(help="Level of the model's intervals.")] = 0.9,
    plots: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page of figures: errors, lambda, learning curve.")
    ] = None,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """Fit latency to measured networks: lambda with its interval beside the papers' lambda = 1, and the form that predicts best."""
    from kit import latency, store
    from kit.cli import predict
    from kit.cli.workshop import need_workshop

    if plots is not None:
        need_workshop("plotly")
    found = predict.of_backend(only(store.read_profiles(profiles), device), backend)
    models = latency.fit(found, seed=seed)
    roots = sorted({p.artifact.subnetwork.root for p in found if p.artifact.subnetwork})
    if len(roots) > 1:
        show.say(
            f"One line is drawn through {len(roots)} families ({', '.join(roots)}): fit each alone for a closer one."
        )
    predictor = _predictor(found, backend, source, level, seed, needed=any((out, source, plots)))
    if out is not None and predictor is not None:
        latency.save(out, predictor)
    if plots is not None and predictor is not None:
        _write_plots(plots, predictor, found, level, seed)
    if json:
        about = None if predictor is None else predict.predictor_json(predictor, out, plots)
        lines = [show.latency_model(m) for m in models]
        show.emit({"device": models[0].device_id, "seed": seed, "latency_models": lines, "predictor": about})
        return
    show.print_table(show.model_table(models))
    if predictor is not None:
        show.print_table(predict.score_table(predictor))
        print(f"Chosen: {predictor.reason}" + (f" Written to {out}." if out else ""))
    if plots is not None:
        print(plots)
    for text in dict.fromkeys([t for m in models for t in m.left_out] + list(predictor.notes if predictor else ())):
        show.say(f"left out: {text}" if ": " in text else text)


def _predictor(
    profiles: list[ProfileRecord], backend: str | None, source: Path | None, level: float, seed: int, *, needed: bool
) -> Predictor | None:
    """The predictor, or None with a word on standard error where there is too little for one and none was asked for."""
    from kit.cli import predict
    from kit.errors import BackendUnavailable, BadRecord

    try:
        return predict.fit_predictor(profiles, backend, source, level, seed)
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
    device: Annotated[str | None, typer.Option(help="Only the profiles of this device.")] = None,
    library: Annotated[Path | None, typer.Option(help="List the packages of this library as well.")] = None,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """One self-contained HTML page: accuracy against latency, lambda, spread, choices over deadlines, packages."""
    from kit import knowledge, store
    from kit.cli.workshop import need_workshop

    need_workshop("plotly")
    from kit.library import package
    from kit.report.page import write_page

    found = only(store.read_profiles(profiles), device)
    models = models_of(found, seed)
    spec = found[-1].device
    base = knowledge.build([p for p in found if p.plain])
    page = write_page(
        out,
        device=spec,
        profiles=found,
        models=models,
        knowledge=base,
        answers=three_answers(base, spec.device_id),
        deadline_choices=choices(base, spec.device_id),
        packages=package.read_packages(library) if library else [],
        pull=None,
    )
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


def three_answers(base: KnowledgeBase, device_id: str) -> list[Answer]:
    """The knowledge base's answers to three deadlines: one that few variants meet, one in the middle, one that all meet."""
    from contextlib import suppress

    from kit import knowledge
    from kit.errors import NoAnswer
    from kit.records import DECIDING, Need

    p99s = sorted(r.p99_s for r in base.rows if r.label in DECIDING) or sorted(r.p99_s for r in base.rows)
    picks = [p99s[0], p99s[len(p99s) // 2], p99s[-1]]
    deadlines = [_round_up(p99_s * 1.1) for p99_s in picks]
    answers = []
    for deadline_s in dict.fromkeys(deadlines):
        with suppress(NoAnswer):  # every row may be too doubtful to decide
            answers.append(knowledge.ask(base.rows, Need(deadline_s=deadline_s, device_id=device_id)))
    return answers


def _round_up(seconds: float) -> float:
    """To two significant digits, upwards: a deadline that a person would write."""
    from math import ceil, floor, log10

    scale = 10.0 ** (floor(log10(seconds)) - 1)
    return ceil(seconds / scale - 1e-9) * scale


def choices(base: KnowledgeBase, device_id: str, points: int = 60) -> list[tuple[float, KnowledgeRow | None]]:
    """The choice at each of many deadlines, from below the fastest variant to above the slowest, every p99 among them."""
    import numpy as np

    from kit import knowledge
    from kit.errors import NoAnswer
    from kit.records import Need

    p99s = [r.p99_s for r in base.rows]
    out: list[tuple[float, KnowledgeRow | None]] = []
    for deadline_s in sorted({*p99s, *np.geomspace(min(p99s) * 0.7, max(p99s) * 1.3, points)}):
        try:
            chosen = knowledge.ask(base.rows, Need(deadline_s=float(deadline_s), device_id=device_id)).chosen
        except NoAnswer:
            chosen = None
        out.append((float(deadline_s), chosen))
    return out
