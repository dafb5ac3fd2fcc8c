"""The complete job at a small size on this machine: ``kit run`` uses every package in the order of the data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import library, produce, show
from kit.cli.table import Column

if TYPE_CHECKING:
    from kit.records import (
        Answer,
        Artifact,
        DeviceSpec,
        InstallReceipt,
        KnowledgeBase,
        LatencyModel,
        Manifest,
        ProfileRecord,
    )
    from kit.report.page import PullResult


MODEL = "latency-model.json"  # what kit predict --model takes


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(rich_help_panel="End to end")(run)


@dataclass(frozen=True)
class EndToEnd:
    """What a run produces, from the device to the installed package."""

    device: DeviceSpec
    profiles: list[ProfileRecord]
    models: tuple[LatencyModel, ...]
    base: KnowledgeBase
    answers: list[Answer]
    packages: list[Manifest]
    pulled: dict[str, Any] | None
    receipt: InstallReceipt | None


def run(
    out: Annotated[Path, typer.Option(help="Folder for everything that the run writes.")] = Path("run"),
    root: produce.Root = "resnet18",
    quick: Annotated[
        bool, typer.Option("--quick", help="A one-minute version: fewer images, variants and rounds.")
    ] = False,
    seed: show.Seed = 0,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Everything on this machine: train a root, produce variants, profile, fit, choose, package, pull, report."""
    from kit.nets import root_of

    root_of(root)  # a misspelt name is reported before the training tools are looked for
    produce.need_training_tools()
    from kit import store

    start = time.monotonic()
    store.make_folder(out)
    results = _end_to_end(root, out, seed, quick)
    page = _page(out / "report.html", results)
    wall_s = time.monotonic() - start
    summary = _summary(results, page, seed=seed, quick=quick, root=root, wall_s=wall_s)
    store.write_atomic(out / "summary.json", store.pretty_json(summary).encode())
    if json:
        show.emit(summary)
    else:
        _print(results, page, wall_s)


def _end_to_end(root: str, out: Path, seed: int, quick: bool) -> EndToEnd:
    from kit import knowledge, store
    from kit.devices import recognise

    device = recognise()
    artifacts = _produce(root, out / "build", seed, quick)
    profiles = _profile(artifacts, device, out, seed, quick)
    models = _fit(profiles, out / MODEL, seed)
    base = knowledge.build(profiles)
    store.write_record(out / "knowledge.json", base)
    answers = knowledge.three_answers(base, device.device_id)
    return EndToEnd(device, profiles, models, base, answers, *_deliver(out, artifacts, profiles, answers))


def _fit(profiles: Sequence[ProfileRecord], file: Path, seed: int) -> tuple[LatencyModel, ...]:
    """The efficiency factors; the model for ``kit predict`` goes to ``file``. Standard error names what could not be fitted."""
    from kit import store
    from kit.errors import BadRecord
    from kit.latency import fits

    with store.explained(file, "write"):
        file.unlink(missing_ok=True)  # a model of an earlier run is none of these records
    try:
        fit = fits.fit_all(profiles, seed=seed)
    except BadRecord as error:
        show.say(f"No latency model: {error}")
        return ()
    if fit.predictor is None:
        show.say(f"No model for kit predict: {fit.missing}")
    else:
        fit.save(file)
    return fit.lines


def _page(out: Path, results: EndToEnd) -> Path:
    from kit import knowledge
    from kit.report.page import write_page

    return write_page(
        out,
        device=results.device,
        profiles=results.profiles,
        models=results.models,
        knowledge=results.base,
        answers=results.answers,
        deadline_choices=knowledge.choices(results.base, results.device.device_id),
        packages=results.packages,
        pull=_pull_result(results.pulled, results.receipt),
    )


def _produce(root: str, build: Path, seed: int, quick: bool) -> list[Artifact]:
    from kit.variants.build import Request
    from kit.variants.build import build as build_variants

    with show.progress("build") as update:
        return build_variants(Request(root, seed=seed, quick=quick), build, progress=update)


def _profile(
    artifacts: Sequence[Artifact], device: DeviceSpec, out: Path, seed: int, quick: bool
) -> list[ProfileRecord]:
    """Every variant with onnxruntime on one thread; a killed profile resumes where it was."""
    from kit.measure import profiler
    from kit.measure.targets import resolve
    from kit.records import MeasureSettings

    settings = (
        MeasureSettings(rounds_min=5, rounds_max=5, run_s=0.1, warmup_max_s=0.3, seed=seed)
        if quick
        else MeasureSettings(seed=seed)
    )
    built_ids = {a.artifact_id for a in artifacts}
    targets = [
        t for t in resolve([str(out / "build")], backend=settings.backend) if t.artifact.artifact_id in built_ids
    ]
    jobs = [profiler.Job(target, settings) for target in targets]
    file = out / "profiles" / device.device_id / "variants.jsonl"
    with show.progress("profile") as update:
        return profiler.profile(jobs, device, file, progress=show.steps(update))


def _deliver(
    out: Path, artifacts: Sequence[Artifact], profiles: Sequence[ProfileRecord], answers: Sequence[Answer]
) -> tuple[list[Manifest], dict[str, Any] | None, InstallReceipt | None]:
    """Package the variants, serve them on a free local port, and pull one as a device would."""
    from kit import delivery
    from kit.library import package, server

    promised = delivery.promises(profiles)
    by_id = {a.artifact_id: promised.get(a.content_sha256, []) for a in artifacts}
    manifests = package.add(out / "library", out / "build", list(artifacts), by_id)
    if not answers:
        show.say("No row is trusted enough to decide, so nothing is pulled: run it again when the machine is quieter.")
        return manifests, None, None
    need = answers[len(answers) // 2].need
    with server.running(out / "library", delivery.choose) as url:
        delivered = library.fetch(url, need, out / "device")
    return manifests, library.as_json(delivered), delivered.pulled.receipt


def _pull_result(pulled: dict[str, Any] | None, receipt: InstallReceipt | None) -> PullResult | None:
    from kit.report.page import PullResult

    if pulled is None or pulled["measured_s"] is None:
        return None
    timings = ("promised_s", "promised_p99_s", "measured_s", "measured_p99_s")
    return PullResult(package=pulled["package"], receipt=receipt, **{name: pulled[name] for name in timings})


def _summary(results: EndToEnd, page: Path, **about: Any) -> dict[str, Any]:
    from kit import __version__

    return {
        "device": results.device.model_dump(mode="json"),
        "variants": [show.variant(p) for p in results.profiles],
        "latency_models": [show.latency_model(m) for m in results.models],
        "answers": [show.answer(a) for a in results.answers],
        "pull": {k: v for k, v in results.pulled.items() if k != "answer"} if results.pulled else None,
        "report": str(page),
        "kit_version": __version__,
        **about,
    }


def _print(results: EndToEnd, page: Path, wall_s: float) -> None:
    pulled = results.pulled
    choice = show.make_table(
        "Chosen by measured p99",
        "deadline ms",
        Column("variant", 0, "left"),
        Column("accuracy", 2),
        Column("p99 ms"),
        Column("left", 1),
        Column("runner-up", 3, "left"),
    )
    for a in results.answers:
        assert a.chosen is not None and a.need.deadline_s is not None
        choice.add_row(
            show.ms(a.need.deadline_s),
            a.chosen.artifact_id,
            show.accuracy_text(a.chosen.accuracy),
            show.ms(a.chosen.p99_s),
            "" if a.margin is None else f"{a.margin:.0%}",
            a.runner_up.artifact_id if a.runner_up else "none",
        )
    show.print_table(show.device_table(results.device, absent=False), show.profile_table(results.profiles))
    if results.models:
        show.print_table(show.model_table(results.models))
    show.print_table(choice)
    if pulled:
        times = f"median promised {show.ms(pulled['promised_s'])} ms, measured {show.ms(pulled['measured_s'])} ms"
        show.note(f"Pulled {pulled['package']}: {times}.")
    show.note(f"Report: {page}   ({wall_s:.0f} s this time)")
