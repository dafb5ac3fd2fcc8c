"""The world of paper C: each slot every device of a factory brings a task; its gateway or the edge server runs it with one of its models.

Devices are in the order of their gateways: device k of gateway i is task i * devices + k. Nodes are the gateways and the edge; the cloud
holds every model. A variant is an accuracy level of a device's own model (n of the paper), the lightest first.

| array | shape | unit | from |
|---|---|---|---|
| ``Models.accuracy`` | [samples, tasks, quality, variants] | 1 | table III, of noiseless and noisy data; once for each device |
| ``Models.size_bytes`` | [samples, tasks, variants] | byte | table III |
| ``Models.cycles`` | [samples, tasks, node, variants] | 1 | table III, of a run at a gateway and at the edge: the same there |
| ``Tasks.size_bit`` | [samples, tasks] | bit | uniform, 40 to 60 kilobytes; 0 is a device without a task in this slot |
| ``Tasks.deadline_s`` | [samples, tasks] | s | uniform, 1.5 to 2 s |
| ``Tasks.noisy`` | [samples, tasks] | yes or no | 30 % |
| ``Tasks.first_bps_per_hz``, ``second_bps_per_hz`` | [samples, tasks] | bit/s/Hz | eq. 1, device to gateway and gateway to base station |
| ``State.gateway``, ``State.edge`` | [samples, tasks, variants] | yes or no | u of eqs. 7 and 8: is the model in the node's cache |
| action: ``Decision`` | [samples, tasks], keeps [samples, tasks, variants] | 1 | eq. 13 |
| reward | [samples] | 1 | eq. 14 |

What the paper leaves open, and how it is interpreted here; each interpretation is a parameter.

- ``pools``: eqs. C4 to C6 sum over all gateways against one pool, but 0.3 GB for all of them hold 29 heavy models and the paper places 267
  tasks there. So computing and caches are per gateway; ``literal`` is as printed.
- ``band`` and ``first_hop``: one band of B for the devices of all gateways (the default), or one each; C4 counts the first hop of the tasks
  that stay at a gateway only, so a task that goes on to the edge takes the whole band for it (``free``), or counts too (``counted``).
- ``bps_per_hz`` has no value in the paper and decides everything. Chosen so that the random rule completes about 55 % of the tasks, as
  the paper's gains imply: see :data:`SPECTRUM_MODELS`.
- "[15, 30] MHz" of workload are megacycles. Downloads share nothing: each has the whole R^c and R^e.
- Shares are brought into the budgets by the world: a pool whose shares sum to more than one is scaled down. A task with no share of what
  its node needs is turned away: it asks for no model. ``reward`` counts completed tasks; ``strict`` is eq. 14, zero where any of
  C1 to C7 is violated, shares as they were asked for.
- The caching pool update follows the text of its four steps; Algorithm 1 as printed empties every cache. Step 1: what was kept is
  present and takes its space. Steps 2 and 3: a missing model that can arrive within the deadline is placed if it fits with the others, in
  the order of the tasks, whether or not the task then ends in time. Step 4: after the slot a node drops what the decision does not keep.
- Cycles over clock are certain in the paper. A variant that was measured (``measured``) has a :class:`Spread`: its cycles are what is
  promised, policies and bound go by them, and the world draws what each run takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from kit.errors import UnknownName
from kit.papers.streams import generator
from kit.records import Record
from kit.stats import BoolArray, Float64Array, Int64Array

#: Of the worlds, rules and trained policies: whoever changes what one of them gives counts it up, so that nothing that was kept before is
#: taken for it. ``tests/test_papers_placement.py`` notices.
FORMAT = 1
#: Names of random streams: what a factory has, what its slots bring, what a policy draws in a slot, how long measured models take.
MODELS, TASKS = "placement: models of the devices", "placement: tasks of a slot"
CHOICES, TIMES = "placement: choices of a policy", "placement: run times of measured models"
#: How far above a budget what was asked for may lie, a part of it: shares that were divided by their sum add up to one but for rounding.
#: Eight units in the last place of float32. Nobody gains by it: what is above the budget is scaled down all the same (:func:`project`).
ROUNDING = 8 * float(np.finfo(np.float32).eps)

Scalar = TypeVar("Scalar", bound=np.generic)
Range: TypeAlias = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]  # uniform from one to the other

GATEWAY, EDGE = 0, 1


class Spread(Record):
    """How a run's time scatters about what is promised: with probability ``levels[i]`` it takes at most ``factors[i]`` times that.

    Straight between two levels. Below the first one it is the first factor; above the last one the last line goes on.
    """

    levels: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(min_length=1)
    factors: tuple[Annotated[float, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _rising(self) -> Spread:
        if len(self.levels) != len(self.factors):
            raise ValueError(
                f"{len(self.levels)} levels and {len(self.factors)} factors: give one factor for each level"
            )
        if list(self.levels) != sorted(set(self.levels)) or list(self.factors) != sorted(self.factors):
            raise ValueError("levels and factors of a spread must rise")
        return self

    def at(self, probability: Float64Array) -> Float64Array:
        """The factor that is not exceeded with this probability, in the shape of ``probability``."""
        factor: Float64Array = np.interp(probability, self.levels, self.factors)
        if len(self.levels) > 1:
            slope = (self.factors[-1] - self.factors[-2]) / (self.levels[-1] - self.levels[-2])
            factor += slope * np.maximum(probability - self.levels[-1], 0.0)
        return factor


class Variant(Record):
    """One accuracy level of every device's model; each device's own is drawn uniformly from these ranges."""

    name: str
    accuracy_clean: Range
    accuracy_noisy: Range
    size_bytes: Range
    cycles: Range = Field(description="Q of a run at a gateway")
    edge_cycles: Range | None = Field(default=None, description="Q of a run at the edge: the gateway's unless given")
    spread: Spread | None = Field(default=None, description="of the run time at a gateway; none: it is certain")
    edge_spread: Spread | None = Field(default=None, description="of the run time at the edge")

    @model_validator(mode="after")
    def _ordered(self) -> Variant:
        for field in ("accuracy_clean", "accuracy_noisy", "size_bytes", "cycles", "edge_cycles"):
            span = getattr(self, field)
            if span is not None and span[0] > span[1]:
                raise ValueError(f"{field} of {self.name} runs from {span[0]:g} down to {span[1]:g}: turn them round")
        return self


LIGHT = Variant(
    name="light", accuracy_clean=(0.915, 0.938), accuracy_noisy=(0.876, 0.897), size_bytes=(3.5e6, 5.5e6),
    cycles=(15e6, 20e6),
)  # fmt: skip
HEAVY = Variant(
    name="heavy", accuracy_clean=(0.973, 0.992), accuracy_noisy=(0.929, 0.954), size_bytes=(9e6, 12e6),
    cycles=(25e6, 30e6),
)  # fmt: skip


class PlacementWorld(Record):
    """Every parameter of paper C's simulation; sections, tables and equations are the paper's."""

    gateways: int = Field(default=10, ge=1, description="G: section V.A")
    devices: int = Field(default=35, ge=1, description="of each gateway: section V.A")
    variants: tuple[Variant, ...] = Field(default=(LIGHT, HEAVY), min_length=1, description="n = 0, 1: table III")
    noisy: float = Field(default=0.3, ge=0, le=1, description="ratio of noisy data, theta = 1: section V.A")
    size_bytes: Range = Field(default=(40e3, 60e3), description="D: table IV")
    deadline_s: Range = Field(default=(1.5, 2.0), description="T^max: table IV")
    band_hz: float = Field(default=10e6, gt=0, description="B, device to gateway: table IV")
    edge_band_hz: float = Field(default=20e6, gt=0, description="B^e, gateway to base station: table IV")
    bps_per_hz: float = Field(default=7.4, gt=0, description="gamma of both hops, eq. 1: no channel gains are stated")
    gateway_hz: float = Field(default=1.5e9, gt=0, description="C^l: table IV")
    edge_hz: float = Field(default=5e9, gt=0, description="C^e: table IV")
    gateway_cache_bytes: float = Field(default=0.3e9, gt=0, description="S^l: table IV")
    edge_cache_bytes: float = Field(default=2.4e9, gt=0, description="S^e: table IV")
    cloud_bps: float = Field(default=300e6, gt=0, description="R^c, cloud to base station: table IV")
    backhaul_bps: float = Field(default=200e6, gt=0, description="R^e, base station to gateway: table IV")
    pools: Literal["per_gateway", "literal"] = Field(default="per_gateway", description="C5 and C6 at the gateways")
    band: Literal["shared", "per_gateway"] = Field(default="shared", description="B of C4: one, or one each")
    first_hop: Literal["free", "counted"] = Field(default="free", description="C4 for tasks that go on to the edge")
    reward: Literal["per_task", "strict"] = Field(default="per_task", description="strict is eq. 14 as printed")

    @model_validator(mode="after")
    def _ordered(self) -> PlacementWorld:
        for name in ("size_bytes", "deadline_s"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} runs from {low:g} down to {high:g}: turn them round")
        return self

    @property
    def tasks(self) -> int:
        """N of the paper."""
        return self.gateways * self.devices

    @property
    def certain(self) -> bool:
        """Whether every run takes what was promised."""
        return all(v.spread is None and v.edge_spread is None for v in self.variants)


#: Readings of the spectrum under which the random rule completes about 55 %. In the last two equal shares reach the bound.
SPECTRUM_MODELS: dict[str, PlacementWorld] = {
    "shared": PlacementWorld(),
    "per_gateway": PlacementWorld(band="per_gateway", bps_per_hz=3.0),
    "counted": PlacementWorld(band="per_gateway", first_hop="counted", bps_per_hz=5.1),
}


def with_spectrum(name: str) -> PlacementWorld:
    """The paper's world with one model of its spectrum. Raises UnknownName."""
    if name not in SPECTRUM_MODELS:
        raise UnknownName("spectrum model of paper C", name, SPECTRUM_MODELS)
    return SPECTRUM_MODELS[name]


@dataclass(frozen=True)
class Models:
    """Every device's own models: they do not change from slot to slot."""

    accuracy: Float64Array
    size_bytes: Float64Array
    cycles: Float64Array


@dataclass(frozen=True)
class Tasks:
    """What the devices bring in one slot: [samples, tasks]. A device without a task has size 0."""

    size_bit: Float64Array
    deadline_s: Float64Array
    noisy: BoolArray
    first_bps_per_hz: Float64Array
    second_bps_per_hz: Float64Array

    @property
    def present(self) -> BoolArray:
        """Who has a task: [samples, tasks]."""
        present: BoolArray = self.size_bit > 0
        return present


@dataclass(frozen=True)
class State:
    """Which models lie in the caches as a slot begins: [samples, tasks, variants]."""

    gateway: BoolArray
    edge: BoolArray


@dataclass(frozen=True)
class Decision:
    """Eq. 13. Shares are parts of a pool, 0 to 1; those of the node where a task does not run are not read."""

    at_gateway: BoolArray  # m
    variant: Int64Array  # phi
    first_share: Float64Array  # alpha^l, of the devices' band
    second_share: Float64Array  # alpha^e, of the base station's band
    gateway_share: Float64Array  # beta^l
    edge_share: Float64Array  # beta^e
    keep_gateway: BoolArray  # omega^l: [samples, tasks, variants]
    keep_edge: BoolArray  # omega^e


@dataclass(frozen=True)
class SlotOutcome:
    """What one slot's decision came to: [samples, tasks], or [samples] where stated.

    ``delay_s`` is infinite for a task that was turned away or whose model did not fit. ``promised`` tasks would be completed if every run
    took what is promised. ``accuracy`` is U of eq. 10, 0 where the task was not completed. ``satisfied`` are C1, C4, C5, C6 for the
    decision as it was asked for: [samples, 4]; the others hold by construction.
    ``moved_bytes`` are models from the cloud, and over the backhaul to gateways: [samples, 2]. ``state`` is the next slot's.
    """

    delay_s: Float64Array
    promised: BoolArray
    completed: BoolArray
    accuracy: Float64Array
    at_gateway: BoolArray
    variant: Int64Array
    hit: BoolArray
    placed: BoolArray
    present: BoolArray
    satisfied: BoolArray
    moved_bytes: Float64Array
    reward: Float64Array
    state: State


def sample_models(world: PlacementWorld, samples: int, rng: np.random.Generator) -> Models:
    """Every device's models, each value uniform in its variant's range (section V.A)."""

    def drawn(spans: Sequence[Range]) -> Float64Array:
        low, high = np.array(spans).T
        return rng.uniform(low, high, (samples, world.tasks, len(spans)))

    of = world.variants
    clean, noisy = drawn([v.accuracy_clean for v in of]), drawn([v.accuracy_noisy for v in of])
    size, cycles = drawn([v.size_bytes for v in of]), drawn([v.cycles for v in of])
    other = drawn([v.edge_cycles or v.cycles for v in of])
    edge = np.where([v.edge_cycles is None for v in of], cycles, other)
    return Models(np.stack([clean, noisy], axis=2), size, np.stack([cycles, edge], axis=2))


def sample(world: PlacementWorld, samples: int, rng: np.random.Generator) -> Tasks:
    """One slot's tasks, one from each device."""
    shape = (samples, world.tasks)
    low, high = world.size_bytes
    size, deadline = rng.uniform(8 * low, 8 * high, shape), rng.uniform(*world.deadline_s, shape)
    gain = np.full(shape, world.bps_per_hz)
    return Tasks(size, deadline, rng.random(shape) < world.noisy, gain, gain)


def empty(world: PlacementWorld, samples: int) -> State:
    """Every model in the cloud only."""
    shape = (samples, world.tasks, len(world.variants))
    return State(np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool))


# --------------------------------------------------------------------------------------------------------------- budgets


def pooled(world: PlacementWorld, values: Float64Array, per_gateway: bool) -> Float64Array:
    """Sums over the gateways' pools, [samples, gateways, 1]; over all tasks where gateways have none of their own, [samples, 1, 1]."""
    sums: Float64Array = values.reshape(len(values), world.gateways, world.devices).sum(axis=2, keepdims=True)
    return sums if per_gateway else sums.sum(axis=1, keepdims=True)


def separate_pools(world: PlacementWorld) -> tuple[bool, bool, bool, bool]:
    """Of which of a decision's four shares each gateway has a pool of its own."""
    return world.band == "per_gateway", False, world.pools == "per_gateway", False


def accepted_tasks(world: PlacementWorld, tasks: Tasks, decision: Decision) -> BoolArray:
    """Which tasks have a share of all that their node needs; the others are turned away."""
    home = (decision.first_share > 0) & (decision.gateway_share > 0)
    away = (decision.second_share > 0) & (decision.edge_share > 0)
    if world.first_hop == "counted":
        away &= decision.first_share > 0
    mask: BoolArray = np.where(decision.at_gateway, home, away) & tasks.present
    return mask


def project(
    world: PlacementWorld, accepted: BoolArray, decision: Decision
) -> tuple[tuple[Float64Array, ...], BoolArray, BoolArray]:
    """The four shares within their budgets ([samples, tasks] each, in the order of :class:`Decision`), and whether C4 and C5 held before.

    A pool's shares are scaled down by their sum where that is more than one, and are zero for a task that does not use the pool.
    C4 and C5 hold where the sums are :func:`within` one.
    """
    home, away = decision.at_gateway & accepted, ~decision.at_gateway & accepted
    pools = (
        (decision.first_share, accepted if world.first_hop == "counted" else home),
        (decision.second_share, away),
        (decision.gateway_share, home),
        (decision.edge_share, away),
    )
    projected: list[Float64Array] = []
    within_budget: list[BoolArray] = []
    for (share, uses), per_gateway in zip(pools, separate_pools(world), strict=True):
        used = np.clip(share, 0.0, 1.0) * uses
        sums = pooled(world, used, per_gateway)
        within_budget.append(np.asarray(within(sums, 1.0).all(axis=(1, 2))))
        blocks = used.reshape(len(used), world.gateways, world.devices) / np.maximum(sums, 1.0)
        projected.append(blocks.reshape(used.shape))
    return tuple(projected), within_budget[0] & within_budget[1], within_budget[2] & within_budget[3]


def within(sums: Float64Array, budget: float) -> BoolArray:
    """Whether no more is asked than there is, but for rounding."""
    return np.asarray(sums <= budget * (1.0 + ROUNDING))


def cached_bytes(world: PlacementWorld, models: Models, state: State) -> tuple[Float64Array, Float64Array]:
    """What the caches hold: [samples, gateways] and [samples]."""
    gateway = pooled(world, (models.size_bytes * state.gateway).sum(axis=2), True)[:, :, 0]
    return gateway, (models.size_bytes * state.edge).sum(axis=(1, 2))


# ------------------------------------------------------------------------------------------------------------------ slot


def step(
    world: PlacementWorld,
    models: Models,
    tasks: Tasks,
    state: State,
    decision: Decision,
    rng: np.random.Generator | None = None,
) -> SlotOutcome:
    """Eqs. 2 to 10 and 14, and the caching pool update, for one slot of every sample.

    ``rng`` draws what measured models take, one number for each task; without it every run takes what was promised.
    """
    accepted, home = accepted_tasks(world, tasks, decision), decision.at_gateway
    shares, c4, c5 = project(world, accepted, decision)
    size = _of(models.size_bytes, decision.variant)
    here, upstream = _of(state.gateway, decision.variant), _of(state.edge, decision.variant)
    hit = np.where(home, here, upstream) & accepted
    fetch = _fetching_s(world, size, home, hit, upstream)
    fetched = accepted & ~hit & (fetch <= tasks.deadline_s)
    placed = _place(world, models, state, np.where(fetched, size, 0.0), home)
    cycles = _of(models.cycles.reshape(*home.shape, -1), decision.variant + np.where(home, 0, models.cycles.shape[3]))
    available, computing = hit | placed, _computing_s(world, cycles, home, shares)
    ready = np.where(available, np.maximum(_sending_s(world, tasks, home, shares), fetch), np.inf)
    delay = ready + computing
    completed = promised = delay <= tasks.deadline_s
    if rng is not None and not world.certain:
        delay = ready + computing * _drawn(world, decision, rng)
        completed = delay <= tasks.deadline_s
    quality = decision.variant + np.where(tasks.noisy, models.accuracy.shape[3], 0)
    accuracy = _of(models.accuracy.reshape(*home.shape, -1), quality) * completed
    satisfied = np.stack([(completed | ~tasks.present).all(axis=1), c4, c5, _c6(world, size * accepted, home)], axis=1)
    count = np.maximum(tasks.present.sum(axis=1), 1)
    reward = accuracy.sum(axis=1) / count * (satisfied.all(axis=1) if world.reward == "strict" else 1.0)
    return SlotOutcome(
        delay_s=delay,
        promised=promised,
        completed=completed,
        accuracy=accuracy,
        at_gateway=home,
        variant=decision.variant,
        hit=hit,
        placed=placed,
        present=tasks.present,
        satisfied=satisfied,
        moved_bytes=_moved_bytes(size * placed, home, upstream),
        reward=reward,
        state=_next(state, decision, placed),
    )


def _of(values: NDArray[Scalar], index: Int64Array) -> NDArray[Scalar]:
    """One entry of the last axis for each task."""
    return np.take_along_axis(values, index[:, :, None], axis=2)[:, :, 0]


def _sending_s(world: PlacementWorld, tasks: Tasks, home: BoolArray, shares: tuple[Float64Array, ...]) -> Float64Array:
    """t of eqs. 3 and 4; the first hop of a task that goes on takes the whole band where it is free."""
    first = shares[0] if world.first_hop == "counted" else np.where(home, shares[0], 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        seconds: Float64Array = tasks.size_bit / (first * world.band_hz * tasks.first_bps_per_hz)
        second = tasks.size_bit / (shares[1] * world.edge_band_hz * tasks.second_bps_per_hz)
    seconds += np.where(home, 0.0, second)
    return seconds


def _fetching_s(
    world: PlacementWorld, size: Float64Array, home: BoolArray, hit: BoolArray, at_edge: BoolArray
) -> Float64Array:
    """tau of eqs. 5, 7 and 8: seconds until the model has arrived, 0 where it is cached."""
    bits = 8.0 * size * ~hit
    seconds: Float64Array = bits * ~(home & at_edge) / world.cloud_bps + bits * home / world.backhaul_bps
    return seconds


def _computing_s(
    world: PlacementWorld, cycles: Float64Array, home: BoolArray, shares: tuple[Float64Array, ...]
) -> Float64Array:
    """c of eq. 6."""
    with np.errstate(divide="ignore", invalid="ignore"):
        seconds: Float64Array = cycles / np.where(home, shares[2] * world.gateway_hz, shares[3] * world.edge_hz)
    return seconds


def _drawn(world: PlacementWorld, decision: Decision, rng: np.random.Generator) -> Float64Array:
    """Each run's time over what was promised for it: [samples, tasks]. A task's luck is the same wherever it runs."""
    luck = rng.random(decision.variant.shape)
    factor = np.ones_like(luck)
    for level, variant in enumerate(world.variants):
        for home, spread in ((True, variant.spread), (False, variant.edge_spread)):
            if spread is not None:
                factor = np.where((decision.variant == level) & (decision.at_gateway == home), spread.at(luck), factor)
    return factor


def _place(
    world: PlacementWorld, models: Models, state: State, requested_bytes: Float64Array, home: BoolArray
) -> BoolArray:
    """Steps 1 to 3 of the caching pool update: which wanted models find room in their node."""
    gateway, edge = cached_bytes(world, models, state)
    at_gateways = (requested_bytes * home).reshape(-1, world.devices)
    if world.pools == "literal":
        gateway, at_gateways = gateway.sum(axis=1), at_gateways.reshape(len(home), -1)
    fits = _first_fit(at_gateways, world.gateway_cache_bytes - gateway.reshape(-1)).reshape(home.shape)
    fits |= _first_fit(requested_bytes * ~home, world.edge_cache_bytes - edge)
    return fits


def _first_fit(requested: Float64Array, free: Float64Array) -> BoolArray:
    """In order, which of the wants fit into what is free: [rows, wants]."""
    fits: BoolArray = requested > 0
    full = np.flatnonzero(requested.sum(axis=1) > free)
    left = free[full]
    for place in range(requested.shape[1] if len(full) else 0):
        each = requested[full, place]
        fits[full, place] &= each <= left
        left = left - each * fits[full, place]
    return fits


def _c6(world: PlacementWorld, size: Float64Array, home: BoolArray) -> BoolArray:
    gateway = within(pooled(world, size * home, world.pools == "per_gateway"), world.gateway_cache_bytes)
    fits: BoolArray = gateway.all(axis=(1, 2)) & within((size * ~home).sum(axis=1), world.edge_cache_bytes)
    return fits


def _moved_bytes(placed: Float64Array, home: BoolArray, at_edge: BoolArray) -> Float64Array:
    cloud, backhaul = placed * ~(home & at_edge), placed * home
    return np.stack([cloud.sum(axis=1), backhaul.sum(axis=1)], axis=1)


def _next(state: State, decision: Decision, placed: BoolArray) -> State:
    """Step 4: what was cached or placed, and is kept."""
    new = (np.arange(state.edge.shape[2]) == decision.variant[:, :, None]) & placed[:, :, None]
    home = decision.at_gateway[:, :, None]
    return State(
        (state.gateway | (new & home)) & decision.keep_gateway, (state.edge | (new & ~home)) & decision.keep_edge
    )


# ------------------------------------------------------------------------------------------------------------------ runs

#: What decides: it sees the models, this slot's tasks and caches, and a generator of its own; never a later slot.
Policy: TypeAlias = Callable[[PlacementWorld, Models, Tasks, State, np.random.Generator], Decision]


def run(world: PlacementWorld, policy: Policy, *, slots: int, samples: int = 1, seed: int = 0) -> list[SlotOutcome]:
    """``slots`` slots of as many factories as samples, from empty caches."""
    models, state = sample_models(world, samples, generator(MODELS, seed)), empty(world, samples)
    outcomes = []
    for slot in range(slots):
        tasks = sample(world, samples, generator(TASKS, seed, slot))
        decision = policy(world, models, tasks, state, generator(CHOICES, seed, slot))
        outcomes.append(step(world, models, tasks, state, decision, generator(TIMES, seed, slot)))
        state = outcomes[-1].state
    return outcomes


class Metrics(Record):
    """Means over slots and samples; counts and bytes are per slot."""

    average_accuracy: float = Field(description="of all tasks, 0 for those not completed: eq. 11")
    completion: float = Field(description="tasks completed within the deadline over all tasks")
    missed: float = Field(default=0.0, description="promised tasks that were late, over those promised: measured times")
    satisfied: float = Field(description="slots in which every constraint held, shares as asked for")
    satisfied_deadlines: float = Field(description="C1")
    satisfied_spectrum: float = Field(description="C4")
    satisfied_computing: float = Field(description="C5")
    satisfied_caches: float = Field(description="C6")
    completed_at_gateways: float
    completed_at_edge: float
    completed_variants: tuple[float, ...] = Field(default=(), description="by their variants, lightest first")
    placed_at_gateways: float
    placed_at_edge: float
    hits: float = Field(description="tasks whose model lay at their node, over all tasks")
    cloud_bytes: float = Field(description="models moved from the cloud")
    backhaul_bytes: float = Field(description="models moved to gateways")
    reward: float


def metrics(outcomes: Sequence[SlotOutcome]) -> Metrics:
    """The paper's metrics of a run."""

    def of(name: str) -> NDArray[np.float64]:
        return np.stack([getattr(o, name) for o in outcomes]).astype(np.float64)

    home, completed, placed, promised = of("at_gateway"), of("completed"), of("placed"), of("promised")
    variant, tasks = of("variant"), max(1.0, float(of("present").sum(axis=2).mean()))
    satisfied, moved = of("satisfied").mean(axis=(0, 1)), of("moved_bytes").mean(axis=(0, 1))

    def each(values: NDArray[np.float64]) -> float:
        return float(values.sum(axis=2).mean())

    return Metrics(
        average_accuracy=each(of("accuracy")) / tasks,
        completion=each(completed) / tasks,
        missed=float((promised * (1 - completed)).sum() / max(1.0, promised.sum())),
        satisfied=float(of("satisfied").all(axis=2).mean()),
        satisfied_deadlines=float(satisfied[0]),
        satisfied_spectrum=float(satisfied[1]),
        satisfied_computing=float(satisfied[2]),
        satisfied_caches=float(satisfied[3]),
        completed_at_gateways=each(completed * home),
        completed_at_edge=each(completed * (1 - home)),
        completed_variants=tuple(each(completed * (variant == v)) for v in range(outcomes[0].state.edge.shape[2])),
        placed_at_gateways=each(placed * home),
        placed_at_edge=each(placed * (1 - home)),
        hits=each(of("hit")) / tasks,
        cloud_bytes=float(moved[0]),
        backhaul_bytes=float(moved[1]),
        reward=float(of("reward").mean()),
    )
