"""Paper B's simulation: its networks are trained and evaluated, and the figures that were asked for drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import JsonValue

from kit.papers import engine
from kit.papers.delays import describe, measured_sizes_s
from kit.papers.engine import Progress, ProgressReport, Results
from kit.papers.offloading import experiment, figures
from kit.papers.offloading.world import OffloadingWorld
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
    """The tables and figures ``names`` of paper B (all but ``fig12`` unless named) for these seeds, written to ``out``, whose networks
    and points are used again.

    ``delay`` is what a decision takes, as ``kit simulate --delay`` writes it; ``report`` is called with a text and the share done.

    Raises UnknownName (a figure), UsageError (a delay, a device), BadRecord (a knowledge base without these networks), StorageError.
    """
    check_figures(names, figures.FIGURES)
    world, delays = OffloadingWorld(), experiment.delays_of(delay)
    settings = experiment.Settings.of(seeds, quick=quick, steps=steps, device=device)
    computing_s: dict[str, JsonValue] = {name: dict(measured_sizes_s(delay)) for name, delay in delays.of.items()}

    def run(folder: Path, progress: Progress) -> Results:
        results = figures.results_of(world, delays, settings, names, folder, progress)
        return replace(results, parameters={**results.parameters, "computing_s": computing_s})

    text, packages = describe(delays.of["paper"]), ("numpy", "torch")
    return engine.run("offloading", world, settings, run, out, delay=text, packages=packages, report=report)
