"""Paper A's experiment: the networks of each seed, trained or loaded, and evaluated on frames that none of them was trained on.

A split does not depend on the scale of the sizes, so one number says all of a network's quality: its mean weighted delay at one average
size. The K-knowledge is drawn from other frames than those that evaluate it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from kit.allocators import fileformat
from kit.allocators.fileformat import Size
from kit.errors import BadRecord
from kit.papers import engine
from kit.papers.bandwidth.split import best_band, equal_band, root_band
from kit.papers.bandwidth.train import FORMAT, PER_USER, WIDTHS, Recipe, TrainedAllocator, delay_s, spec_of, train
from kit.papers.bandwidth.world import BandwidthWorld, Tasks, macs_of, sample, weighted_delay_s
from kit.papers.delays import Analytic, Delay, Measured, computing_s, delay_of
from kit.papers.engine import Progress, RunSettings
from kit.papers.streams import generator
from kit.records import AllocationQuality, Record
from kit.stats import Float64Array

EARLY = 50  # steps: a schedule of so many, learned to its end, looks as table I is printed; a long one stopped there does not
STEPS = 4000  # of the others
STEPS_QUICK = 1000
USERS_SHOWN = (5, 15, 30, 50)
PAPERS = Analytic()
#: Names of random streams: the frames that evaluate, and those of the knowledge.
EVALUATION, KNOWLEDGE = "bandwidth: frames that judge", "bandwidth: frames of the knowledge"


@dataclass(frozen=True)
class Settings(RunSettings):
    """How much is trained and evaluated."""

    steps: int = STEPS
    frames: int = 10_000  # that evaluate

    @classmethod
    def of(
        cls, seeds: Sequence[int], *, quick: bool = False, steps: int | None = None, device: str = "cpu"
    ) -> Settings:
        """The whole experiment, or what takes under a minute: fewer steps and frames."""
        if not quick:
            return cls(tuple(seeds), steps or STEPS, device=device)
        return cls(tuple(seeds), steps or STEPS_QUICK, 3000, quick=True, device=device)


@dataclass(frozen=True)
class Delays:
    """What a decision of each network takes to compute, and the sizes of the per-user network for which that is known."""

    mixture: Delay = PAPERS
    static: Delay = PAPERS
    per_user: Delay = PAPERS
    per_user_sizes: tuple[Size, ...] = PER_USER
    notes: tuple[str, ...] = ()

    def mixture_s(self, width: str, clock_hz: Float64Array | float) -> Float64Array:
        """Of K experts, or of the static network (``"static"``)."""
        if width == "static":
            return computing_s(self.static, "30", clock_hz, macs=macs_of(width))
        return computing_s(self.mixture, width, clock_hz, macs=macs_of(width))

    def per_user_s(self, world: BandwidthWorld, size: Size, clock_hz: Float64Array | float) -> Float64Array:
        """Of the per-user network at ``size``, at each clock."""
        macs = fileformat.macs(spec_of(world, "per_user"), size, world.users)
        return computing_s(self.per_user, size_key(size), clock_hz, macs=macs)

    @property
    def measured(self) -> bool:
        """Whether the times were measured, not computed by a formula."""
        return isinstance(self.mixture, Measured)

    @property
    def widths(self) -> tuple[str, ...]:
        """Those of table I whose time is known."""
        known = self.mixture.sizes if isinstance(self.mixture, Measured) else ()
        return tuple(str(k) for k in WIDTHS if not known or str(k) in known)

    def clock_hz(self, world: BandwidthWorld) -> float:
        """The world's clock, or the one that was measured."""
        if isinstance(self.mixture, Measured):
            return float(np.median([t.clock_hz for t in self.mixture.timings]))
        return world.clock_hz


def delays_of(text: str) -> Delays:
    """The delays that ``--delay`` names, of each network. Raises as :func:`kit.papers.delays.delay_of` does, BadRecord for too
    few widths."""
    mixture = delay_of(text, "allocator_a")
    if not isinstance(mixture, Measured):
        return Delays(mixture, mixture, mixture)
    notes = []
    static: Delay = mixture
    per_user: Delay = None
    try:
        static = delay_of(text, "allocator_a_static")
    except BadRecord:
        notes.append("The static network was not measured: it counts as the mixture of 30 experts.")
    try:
        per_user = delay_of(text, "allocator_u")
    except BadRecord:
        notes.append("The per-user network was not measured: it is left out where computing counts.")
    timed = per_user.sizes if isinstance(per_user, Measured) else ()
    sizes = tuple(size for size in PER_USER if size_key(size) in timed)
    delays = Delays(mixture, static, per_user, sizes, tuple(notes))
    if not {"1", "30"} <= set(delays.widths):
        raise BadRecord(
            f"Too few widths of allocator_a were measured ({' '.join(mixture.sizes)}): profile {' '.join(map(str, WIDTHS))}."
        )
    return delays


@dataclass(frozen=True)
class Limits:
    """Mean weighted delays on the frames that evaluate, in seconds, that need no network."""

    optimum_s: float
    equal_s: float
    root_s: float


class BandwidthPoint(Record):
    """Mean weighted delays of one seed's networks, in seconds at the world's average size; ``known`` on the frames of the knowledge.

    ``early`` had a schedule of a few steps, ``stopped`` is the long one's network at that step. Keys are widths K, and (units, layers) of
    the per-user network.
    """

    kind: Literal["bandwidth_point"] = "bandwidth_point"
    schema_version: Literal[1] = 1
    seed: int
    mixture: dict[str, float]
    mixture_known: dict[str, float]
    early: dict[str, float]
    early_known: dict[str, float]
    static_s: float
    early_static_s: float
    stopped: dict[str, float]
    stopped_static_s: float
    per_user: dict[str, float]
    users_excess: tuple[tuple[float, ...], ...] = Field(description="above the optimum: [PER_USER, USERS_SHOWN]")


@dataclass(frozen=True)
class Experiment:
    """What was trained and evaluated in one world: a point of each seed."""

    world: BandwidthWorld
    settings: Settings
    limits: Limits
    points: tuple[BandwidthPoint, ...]
    trained: tuple[TrainedAllocator, ...]

    @property
    def early(self) -> int:
        """Steps of the networks that were hardly trained."""
        return min(EARLY, self.settings.steps)

    @property
    def printed(self) -> bool:
        """Whether this is the paper's world, so that what the paper prints may stand beside it."""
        return self.world == BandwidthWorld()


def size_key(size: Size) -> str:
    """The key of a sub-network of the per-user network in a point: ``"32,3"``."""
    return f"{size.width},{size.depth}"


def recipes(settings: Settings, seed: int) -> dict[str, Recipe]:
    """What is trained for one seed, by name."""
    shared = {"seed": seed, "device": settings.device}
    early = min(EARLY, settings.steps)  # Experiment.early
    return {
        "mixture": Recipe(network="paper", order="random_k", steps=settings.steps, **shared),
        "static": Recipe(network="static", order="fixed:30", steps=settings.steps, **shared),
        "per_user": Recipe(network="per_user", order="sandwich", steps=settings.steps, rate=3e-3, **shared),
        "early": Recipe(network="paper", order="random_k", steps=early, **shared),
        "early_static": Recipe(network="static", order="fixed:30", steps=early, **shared),
        "stopped": Recipe(network="paper", order="random_k", steps=settings.steps, stopped=early, **shared),
        "stopped_static": Recipe(network="static", order="fixed:30", steps=settings.steps, stopped=early, **shared),
    }


def train_and_evaluate(
    world: BandwidthWorld, settings: Settings, folder: Path, progress: Progress | None = None
) -> Experiment:
    """Train what ``folder`` does not hold yet, and evaluate it. Raises as :func:`kit.papers.bandwidth.train.train` does."""
    test = sample(world, settings.frames, generator(EVALUATION, 0))
    known = sample(world, settings.frames, generator(KNOWLEDGE, 0))

    def of_seed(seed: int, progress: Progress) -> tuple[dict[str, TrainedAllocator], BandwidthPoint]:
        networks = _networks(world, recipes(settings, seed), folder, progress.part(0.0, 0.95))
        progress("evaluating", 0.95)
        key = {
            "world": world.model_dump(mode="json"),
            "recipes": {name: trained.training.recipe.model_dump(mode="json") for name, trained in networks.items()},
            "counts": [settings.frames, list(WIDTHS), list(map(list, PER_USER)), list(USERS_SHOWN)],
        }
        point = engine.load_or_compute(
            folder, FORMAT, key, BandwidthPoint, lambda: _evaluate(world, seed, networks, test, known)
        )
        return networks, point

    of_seeds = engine.for_each_seed(settings.seeds, progress or Progress(), of_seed)
    trained = tuple(network for networks, _ in of_seeds for network in networks.values())
    return Experiment(world, settings, limits_of(world, test), tuple(point for _, point in of_seeds), trained)


def _networks(
    world: BandwidthWorld, recipes: Mapping[str, Recipe], folder: Path, progress: Progress
) -> dict[str, TrainedAllocator]:
    """The network of each recipe; each has the part of the progress that its steps are."""
    total = sum(recipe.steps_done for recipe in recipes.values())
    networks, before = {}, 0
    for name, recipe in recipes.items():
        part = progress.part(before / total, recipe.steps_done / total)
        networks[name] = train(world, recipe, folder, part.steps(f"{name}, delay over the equal split's"))
        before += recipe.steps_done
    return networks


def limits_of(world: BandwidthWorld, tasks: Tasks) -> Limits:
    """The mean weighted delays of the optimum, the equal split and the square-root rule on ``tasks``."""
    splits = (best_band, equal_band, root_band)
    return Limits(*(float(weighted_delay_s(world, tasks, split(world, tasks)).mean()) for split in splits))


def _evaluate(
    world: BandwidthWorld, seed: int, networks: Mapping[str, TrainedAllocator], test: Tasks, known: Tasks
) -> BandwidthPoint:
    def by_width(name: str, tasks: Tasks) -> dict[str, float]:
        return {str(k): delay_s(world, networks[name].net, tasks, Size(k, fileformat.FLAT_DEPTH)) for k in WIDTHS}

    per_user = networks["per_user"].net
    excess_by_users = []
    for count in USERS_SHOWN:
        cell = world.model_copy(update={"users": count})
        tasks = sample(cell, len(test.size_bit), generator(EVALUATION, 0, count))
        optimum_s = limits_of(cell, tasks).optimum_s
        excess_by_users.append([delay_s(cell, per_user, tasks, size) / optimum_s - 1.0 for size in PER_USER])
    return BandwidthPoint(
        seed=seed,
        mixture=by_width("mixture", test),
        mixture_known=by_width("mixture", known),
        early=by_width("early", test),
        early_known=by_width("early", known),
        static_s=delay_s(world, networks["static"].net, test),
        early_static_s=delay_s(world, networks["early_static"].net, test),
        stopped=by_width("stopped", test),
        stopped_static_s=delay_s(world, networks["stopped_static"].net, test),
        per_user={size_key(size): delay_s(world, per_user, test, size) for size in PER_USER},
        users_excess=tuple(zip(*excess_by_users, strict=True)),
    )


def quality(world: BandwidthWorld, delays: dict[str, float], source: str) -> AllocationQuality:
    """A mixture's delays as the knowledge base takes them."""
    return AllocationQuality(
        family="allocator_a", source=source, task_bit=world.size_mean_bit, weight=world.weight_mean, delay_s=delays
    )
