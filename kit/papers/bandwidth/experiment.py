"""Paper A's experiment: the networks of each seed, trained or found trained, and judged on frames that none of them learned from.

A split does not depend on the scale of the sizes, so one number says all of a network's quality: its mean weighted delay at one average
size. The K-knowledge is made on other frames than those that judge it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kit.allocators import fileformat
from kit.allocators.fileformat import Size
from kit.errors import BadRecord
from kit.papers.bandwidth.split import best_band, equal_band, root_band
from kit.papers.bandwidth.train import PER_USER, WIDTHS, Recipe, Trained, delay_s, spec_of, train
from kit.papers.bandwidth.world import BandwidthWorld, Tasks, macs_of, sample, weighted_delay_s
from kit.papers.delays import Analytic, Delay, Measured, computing_s, delay_of
from kit.papers.learning import Told
from kit.papers.streams import generator
from kit.records import AllocationQuality
from kit.stats import Float64Array

EARLY = 50  # steps: a schedule of so many, learned to its end, looks as table I is printed; a long one stopped there does not
STEPS = 4000  # of the others
QUICK = 1000  # of them, for a look
USERS_SHOWN = (5, 15, 30, 50)
PAPERS = Analytic()
#: Names of random streams: the frames that judge, and those that the knowledge is made of.
JUDGING, KNOWN = "bandwidth: frames that judge", "bandwidth: frames of the knowledge"


@dataclass(frozen=True)
class Settings:
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = STEPS
    frames: int = 10_000  # that judge
    quick: bool = False
    device: str = "cpu"

    @classmethod
    def quickly(cls, seeds: Sequence[int] = (0,), steps: int = QUICK, device: str = "cpu") -> Settings:
        """Under a minute: fewer steps and frames."""
        return cls(tuple(seeds), steps, 3000, True, device)


@dataclass(frozen=True)
class Delays:
    """What a decision of each network takes to compute, and the sizes of kit's own for which that is known."""

    mixture: Delay = PAPERS
    static: Delay = PAPERS
    per_user: Delay = PAPERS
    own_sizes: tuple[Size, ...] = PER_USER
    notes: tuple[str, ...] = ()

    def mixture_s(self, width: str, clock_hz: Float64Array | float) -> Float64Array:
        """Of K experts, or of the static network (``"static"``)."""
        if width == "static":
            return computing_s(self.static, "30", clock_hz, macs=macs_of(width))
        return computing_s(self.mixture, width, clock_hz, macs=macs_of(width))

    def per_user_s(self, world: BandwidthWorld, size: Size, clock_hz: Float64Array | float) -> Float64Array:
        macs = fileformat.macs(spec_of(world, "per_user"), size, world.users)
        return computing_s(self.per_user, f"{size.width},{size.depth}", clock_hz, macs=macs)

    @property
    def measured(self) -> bool:
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
        notes.append("Kit's own network was not measured: it is left out where computing counts.")
    own = per_user.sizes if isinstance(per_user, Measured) else ()
    sizes = tuple(size for size in PER_USER if f"{size.width},{size.depth}" in own)
    found = Delays(mixture, static, per_user, sizes, tuple(notes))
    if not {"1", "30"} <= set(found.widths):
        raise BadRecord(
            f"Too few widths of allocator_a were measured ({' '.join(mixture.sizes)}): profile {' '.join(map(str, WIDTHS))}."
        )
    return found


@dataclass(frozen=True)
class Limits:
    """Mean weighted delays on the judging frames, in seconds, that need no network."""

    optimum_s: float
    equal_s: float
    root_s: float


@dataclass(frozen=True)
class Judged:
    """Mean weighted delays of one seed's networks, in seconds at the world's average size; ``known`` on the frames of the knowledge.

    ``early`` had a schedule of a few steps, ``stopped`` is the long one's network at that step.
    """

    seed: int
    mixture: dict[str, float]
    mixture_known: dict[str, float]
    early: dict[str, float]
    early_known: dict[str, float]
    static_s: float
    early_static_s: float
    stopped: dict[str, float]
    stopped_static_s: float
    per_user: dict[Size, float]
    users_excess: Float64Array  # [sizes, USERS_SHOWN]: above the optimum


@dataclass(frozen=True)
class Outcome:
    world: BandwidthWorld
    settings: Settings
    limits: Limits
    judged: tuple[Judged, ...]
    trained: tuple[Trained, ...]

    @property
    def early(self) -> int:
        """Steps of the networks that hardly learned."""
        return min(EARLY, self.settings.steps)

    @property
    def printed(self) -> bool:
        """Whether this is the paper's world, so that what the paper prints may stand beside it."""
        return self.world == BandwidthWorld()


def recipes(settings: Settings, seed: int) -> dict[str, Recipe]:
    """What is trained for one seed, by name."""
    shared = {"seed": seed, "device": settings.device}
    early = min(EARLY, settings.steps)  # Outcome.early
    return {
        "mixture": Recipe(network="paper", order="random_k", steps=settings.steps, **shared),
        "static": Recipe(network="static", order="fixed:30", steps=settings.steps, **shared),
        "per_user": Recipe(network="per_user", order="sandwich", steps=settings.steps, rate=3e-3, **shared),
        "early": Recipe(network="paper", order="random_k", steps=early, **shared),
        "early_static": Recipe(network="static", order="fixed:30", steps=early, **shared),
        "stopped": Recipe(network="paper", order="random_k", steps=settings.steps, stopped=early, **shared),
        "stopped_static": Recipe(network="static", order="fixed:30", steps=settings.steps, stopped=early, **shared),
    }


def carry_out(world: BandwidthWorld, settings: Settings, folder: Path, told: Told | None = None) -> Outcome:
    """Train what ``folder`` does not hold yet, and judge it all. Raises as :func:`kit.papers.bandwidth.train.train` does."""
    tell = told or (lambda text, share: None)
    test = sample(world, settings.frames, generator(JUDGING, 0))
    known = sample(world, settings.frames, generator(KNOWN, 0))
    wanted = {seed: recipes(settings, seed) for seed in settings.seeds}
    steps = sum(r.done for of in wanted.values() for r in of.values())
    trained: list[Trained] = []
    judged = []
    before = 0
    for seed, of in wanted.items():
        nets = {}
        for name, recipe in of.items():
            begun = before

            def said(done: int, _: int, loss: float, name: str = name, begun: int = begun, seed: int = seed) -> None:
                tell(f"seed {seed}, {name}: {loss:.4f} of the equal split's delay", 0.95 * (begun + done) / steps)

            nets[name] = train(world, recipe, folder, said)
            before += recipe.done
        tell(f"seed {seed}: judging", 0.95 * before / steps)
        judged.append(_judge(world, seed, nets, test, known, settings.frames))
        trained += nets.values()
    return Outcome(world, settings, limits_of(world, test), tuple(judged), tuple(trained))


def limits_of(world: BandwidthWorld, tasks: Tasks) -> Limits:
    splits = (best_band, equal_band, root_band)
    return Limits(*(float(weighted_delay_s(world, tasks, split(world, tasks)).mean()) for split in splits))


def _judge(
    world: BandwidthWorld, seed: int, nets: dict[str, Trained], test: Tasks, known: Tasks, frames: int
) -> Judged:
    def widths(name: str, tasks: Tasks) -> dict[str, float]:
        return {str(k): delay_s(world, nets[name].net, tasks, Size(k, fileformat.FLAT_DEPTH)) for k in WIDTHS}

    own = nets["per_user"].net
    users = []
    for count in USERS_SHOWN:
        cell = world.model_copy(update={"users": count})
        tasks = sample(cell, frames, generator(JUDGING, 0, count))
        least = limits_of(cell, tasks).optimum_s
        users.append([delay_s(cell, own, tasks, size) / least - 1.0 for size in PER_USER])
    return Judged(
        seed=seed,
        mixture=widths("mixture", test),
        mixture_known=widths("mixture", known),
        early=widths("early", test),
        early_known=widths("early", known),
        static_s=delay_s(world, nets["static"].net, test),
        early_static_s=delay_s(world, nets["early_static"].net, test),
        stopped=widths("stopped", test),
        stopped_static_s=delay_s(world, nets["stopped_static"].net, test),
        per_user={size: delay_s(world, own, test, size) for size in PER_USER},
        users_excess=np.array(users).T,
    )


def quality(world: BandwidthWorld, delays: dict[str, float], source: str) -> AllocationQuality:
    """A mixture's delays as the knowledge base takes them."""
    return AllocationQuality(
        family="allocator_a", source=source, task_bit=world.size_mean_bit, weight=world.weight_mean, delay_s=delays
    )
