"""Paper A's simulation: its networks are trained and evaluated, and the figures that were asked for drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from kit.papers import engine
from kit.papers.bandwidth import experiment, figures
from kit.papers.bandwidth.train import TrainedAllocator
from kit.papers.bandwidth.world import BandwidthWorld
from kit.papers.delays import describe, measured_sizes_s
from kit.papers.engine import Progress, ProgressReport, Results
from kit.papers.results import Simulation, check_figures


def simulate(
    names: Sequence[str] = (),
    *,
    delay: str = "analytic",
    seeds: Sequence[int] = (0, 1, 2),
    steps: int | None = None,
    quick: bool = False,
    device: str = "cpu",
    out: Path,
    report: ProgressReport | None = None,
) -> Simulation:
    """The tables and figures ``names`` of paper A (all unless named) for these seeds, written to ``out``, whose networks are used again.

    ``delay`` is what a decision takes, as ``kit simulate --delay`` writes it; ``report`` is called with a text and the share done.

    Raises UnknownName (a figure), UsageError (a delay, a device), BadRecord (a knowledge base without these networks), StorageError.
    """
    check_figures(names, figures.FIGURES)
    world, delays = BandwidthWorld(), experiment.delays_of(delay)
    settings = experiment.Settings.of(seeds, quick=quick, steps=steps, device=device)

    def run(folder: Path, progress: Progress) -> Results:
        trained = experiment.train_and_evaluate(world, settings, folder, progress)
        return Results(
            figures=figures.figures_of(trained, delays, names),
            trained={_short_name(network): _facts(network) for network in trained.trained},
            parameters={
                "steps": settings.steps,
                "frames": settings.frames,
                "computing_s": {"mixture": dict(measured_sizes_s(delays.mixture))},
            },
            quality=figures.trained_quality(trained),
        )

    text, packages = describe(delays.mixture), ("numpy", "torch")
    return engine.run("bandwidth", world, settings, run, out, delay=text, packages=packages, report=report)


def _short_name(trained: TrainedAllocator) -> str:
    return trained.name.partition(".")[0]


def _facts(trained: TrainedAllocator) -> dict[str, JsonValue]:
    training = trained.training
    return {**training.recipe.model_dump(mode="json"), "train_s": training.train_s, "loss": training.curve[-1]}
