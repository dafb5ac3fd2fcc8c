"""Paper C's simulation: policies are trained and evaluated on the paper's world, on measured models or on a trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kit.papers import engine
from kit.papers.engine import Progress, ProgressReport, Results
from kit.papers.placement import compared, experiment, figures, measured, rounded, trained, world
from kit.papers.placement import trace as traces
from kit.papers.placement.measured import MeasuredModels
from kit.papers.placement.trace import Trace
from kit.papers.placement.world import PlacementWorld, Policy
from kit.papers.results import Figure, Simulation, check_figures

PACKAGES = ("numpy", "scipy", "torch", "stable-baselines3", "gymnasium")


@dataclass(frozen=True)
class Scene:
    """What is simulated: the world, the measured models that replace its table, the trace, and policies to evaluate as well."""

    base: PlacementWorld
    spectrum: str
    models: MeasuredModels | None
    trace: Trace | None
    policies: Mapping[str, tuple[str, Policy]]  # name -> (hash of its network, policy)

    @cached_property
    def world(self) -> PlacementWorld:
        """With the measured models, where they are given."""
        return measured.world_of(self.base, self.models) if self.models else self.base


def scene_of(
    spectrum: str | None, models: MeasuredModels | None, trace: Path | None, policies: Sequence[Path]
) -> Scene:
    """Read what these options name. Raises UsageError, BadRecord, BadModel."""
    replayed = traces.read(trace) if trace else None
    base = replayed.header.world if replayed and spectrum is None else world.with_spectrum(spectrum or "shared")
    loaded: dict[str, tuple[str, Policy]] = {}
    for path in policies:
        record, policy = trained.load(path)
        loaded[f"{path.name.partition('.')[0]} (given)"] = (record.network_sha256, policy)
    return Scene(base, spectrum or ("trace" if replayed else "shared"), models, replayed, loaded)


def simulate(
    names: Sequence[str] = (),
    *,
    spectrum: str | None = None,
    models: MeasuredModels | None = None,
    trace: Path | None = None,
    policies: Sequence[Path] = (),
    delay: str = "table",
    seeds: Sequence[int] = (0, 1, 2),
    steps: int | None = None,
    quick: bool = False,
    device: str = "cpu",
    log: bool = False,
    out: Path,
    report: ProgressReport | None = None,
) -> Simulation:
    """The figures ``names`` of paper C for these seeds, written to ``out``, whose policies and points are used again.

    Without names: all, or with measured ``models`` or a ``trace`` their own tables. ``spectrum`` is a model of the paper's, ``delay`` names
    the models, ``steps`` are the episodes of the paper's agents, ``log`` writes TensorBoard's files; ``report`` is called with a text and
    the share done.

    Raises UnknownName (a figure), UsageError, BadRecord, BadModel, BackendUnavailable (no onnxruntime), StorageError.
    """
    check_figures(names, figures.FIGURES)
    scene = scene_of(spectrum, models, trace, policies)
    settings = experiment.Settings.of(seeds, quick=quick, steps=steps, device=device, log=log)

    def run(folder: Path, progress: Progress) -> Results:
        tables = _tables(scene, settings, folder)
        results = Results(figures=(), parameters={"bars": {}})
        if names or not tables:
            results = figures.results_of(scene.world, settings, names, folder, progress, scene.policies)
        parameters = {
            "reading": scene.spectrum,
            "models": delay,
            "trace": str(trace) if trace else None,
            "episodes": settings.episodes,
            "slots": settings.slots,
        }
        return Results((*tables, *results.figures), results.trained, {**results.parameters, **parameters})

    text = delay if models else "analytic"
    return engine.run("placement", scene.world, settings, run, out, delay=text, packages=PACKAGES, report=report)


def _tables(scene: Scene, settings: experiment.Settings, folder: Path) -> list[Figure]:
    """What measured models or a trace are shown by; nothing without them."""
    if scene.models is None and scene.trace is None:
        return []
    _, own = experiment.own_of(settings.price_steps, settings.seeds[0], folder)
    policies = {**experiment.RULES, experiment.ROUNDED: rounded, experiment.KIT: own}
    policies |= {name: policy for name, (_, policy) in scene.policies.items()}
    if scene.models is not None:
        return [
            compared.by_time(
                scene.base, scene.models, policies, seeds=settings.seeds, slots=settings.slots, trace=scene.trace
            )
        ]
    assert scene.trace is not None
    return [compared.on_trace(scene.world, scene.trace, policies, seeds=settings.seeds)]
