"""Request traces of paper C's world: what devices asked for, slot by slot, in a file; recorded, generated, replayed through any policy.

A trace is a text file of JSON lines. The first one is a :class:`Header`, each other one a :class:`Request`; slots and devices count from 0,
and device k of gateway i is i * devices + k. A device without a line in a slot has no task there.

| of a request | is | unit |
|---|---|---|
| ``slot``, ``device`` | when and whose | 1 |
| ``size_bit`` | D, what is sent | bit |
| ``deadline_s`` | T^max | s |
| ``noisy`` | theta | yes or no |
| ``first_bps_per_hz``, ``second_bps_per_hz`` | gamma of device to gateway, of gateway to base station: eq. 1 | bit/s/Hz |

A trace holds no model and no cache: the world of a replay has its own, so that one trace compares policies, models and resources.

**Generated traces** are made of arrivals and of fading. In a slot a device brings one task at most; of arrivals at a Poisson rate, what is
more waits for the next slots. Bursts belong to a gateway: all devices of a line start together, for a geometric number of slots. Both
hops fade by a Gauss-Markov process: h is sqrt(K / (K + 1)) + z / sqrt(K + 1) with z' = memory * z + sqrt(1 - memory^2) * w and w complex
normal, and gamma is log2(1 + snr |h|^2) with the snr that has the world's gamma at |h| = 1. A gateway's devices share its second hop.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from kit import store
from kit.errors import BadRecord, UsageError
from kit.papers.placement.world import (
    CHOICES,
    MODELS,
    TASKS,
    TIMES,
    Decision,
    Models,
    PlacementWorld,
    Policy,
    SlotOutcome,
    State,
    Tasks,
    empty,
    run,
    sample,
    sample_models,
    step,
)
from kit.papers.streams import generator
from kit.records import Record, first_problem, load
from kit.stats import BoolArray, Float64Array

LEAST_BPS_PER_HZ = 1e-3  # of a link in a deep fade


class Header(Record):
    """The first line of a trace."""

    kind: Literal["placement-trace"] = "placement-trace"
    schema_version: Literal[1] = 1
    slots: int = Field(ge=1, le=100_000)
    world: PlacementWorld = Field(description="where it was recorded, or what it was generated for")
    source: str = Field(default="", description="as text")


class TraceRequest(Record):
    """Every other line: one device's task in one slot."""

    slot: int = Field(ge=0, lt=2**31)
    device: int = Field(ge=0, lt=2**31)
    size_bit: float = Field(gt=0)
    deadline_s: float = Field(gt=0)
    noisy: bool
    first_bps_per_hz: float = Field(gt=0)
    second_bps_per_hz: float = Field(gt=0)


@dataclass(frozen=True)
class Trace:
    """A header and every slot's tasks, [1, tasks] each."""

    header: Header
    slots: tuple[Tasks, ...]

    @property
    def requests(self) -> int:
        """Tasks in all slots."""
        return int(sum(t.present.sum() for t in self.slots))


# ------------------------------------------------------------------------------------------------------------------ files


def write(path: Path, trace: Trace) -> None:
    """The trace as a file, wholly or not at all. Raises StorageError."""
    lines = [store.canonical_json(trace.header), *(store.canonical_json(r.model_dump()) for r in requests(trace))]
    store.write_atomic(path, b"\n".join(lines) + b"\n")


def requests(trace: Trace) -> Iterator[TraceRequest]:
    """Every request, slot by slot, in the order of the devices."""
    for slot, tasks in enumerate(trace.slots):
        for device in np.flatnonzero(tasks.present[0]).tolist():
            values = {name: getattr(tasks, name)[0, device].item() for name in Tasks.__dataclass_fields__}
            yield TraceRequest(slot=slot, device=device, **values)


def read(path: Path) -> Trace:
    """A trace from its file.

    Raises UsageError (no such file), BadRecord with the number of the line: no JSON, no request, a slot or device that the header has
    not, a device twice in a slot.
    """
    with store.explained(path, "read"):
        lines = path.read_bytes().splitlines()
    if not lines:
        raise BadRecord(f"{path} is empty: the first line of a trace is its header.")
    header = load(Header, _parsed(lines[0], f"{path}, line 1"), f"{path}, line 1")
    columns = _Columns(header)
    for number, line in enumerate(lines[1:], start=2):
        columns.put(line, f"{path}, line {number}")
    return Trace(header, columns.slots())


def _parsed(line: bytes, source: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"{source} is not JSON ({str(error)[:80]}): a trace has one JSON object a line.") from None


class _Columns:
    """The arrays of a trace as its lines come in. What a device without a task does not say is the world's."""

    def __init__(self, header: Header) -> None:
        self.world, shape = header.world, (header.slots, header.world.tasks)
        self.size_bit, self.noisy = np.zeros(shape), np.zeros(shape, dtype=bool)
        self.deadline_s = np.full(shape, header.world.deadline_s[1])
        self.first_bps_per_hz, self.second_bps_per_hz = (np.full(shape, header.world.bps_per_hz) for _ in range(2))

    def put(self, line: bytes, source: str) -> None:
        try:
            request = TraceRequest.model_validate_json(line)
        except ValidationError as error:
            raise BadRecord(f"{source} is no request: {first_problem(error)}.") from None
        at, (slots, tasks) = (request.slot, request.device), self.size_bit.shape
        if at[0] >= slots:
            raise BadRecord(f"{source} is of slot {at[0]} and the header has {slots}: correct one of the two.")
        if at[1] >= tasks:
            raise BadRecord(
                f"{source} is of device {at[1]} and this factory has {tasks}, counted from 0: correct the line."
            )
        if self.size_bit[at] > 0:
            raise BadRecord(f"{source} is a second request of device {at[1]} in slot {at[0]}: leave one of them.")
        for name in Tasks.__dataclass_fields__:
            getattr(self, name)[at] = getattr(request, name)

    def slots(self) -> tuple[Tasks, ...]:
        columns = {name: getattr(self, name) for name in Tasks.__dataclass_fields__}
        return tuple(Tasks(**{n: c[slot : slot + 1] for n, c in columns.items()}) for slot in range(len(self.noisy)))


# -------------------------------------------------------------------------------------------------------------- recording


@dataclass
class Recorder:
    """A policy that decides as another one does and keeps the tasks that it is shown: it records any run."""

    policy: Policy
    slots_of_tasks: list[Tasks] = field(default_factory=list)

    def __call__(
        self, world: PlacementWorld, models: Models, tasks: Tasks, state: State, rng: np.random.Generator
    ) -> Decision:
        self.slots_of_tasks.append(tasks)
        return self.policy(world, models, tasks, state, rng)

    def trace(self, world: PlacementWorld, source: str = "", *, sample: int = 0) -> Trace:
        """What sample number ``sample`` brought. Raises UsageError before anything was decided, or for another factory."""
        if not self.slots_of_tasks:
            raise UsageError("Nothing was recorded: run the policy for a slot at least.")
        if self.slots_of_tasks[0].size_bit.shape[1] != world.tasks:
            raise UsageError(
                f"{self.slots_of_tasks[0].size_bit.shape[1]} devices were recorded and this world has {world.tasks}."
            )
        slots = tuple(
            Tasks(**{n: getattr(t, n)[sample : sample + 1] for n in Tasks.__dataclass_fields__})
            for t in self.slots_of_tasks
        )
        return Trace(Header(slots=len(slots), world=world, source=source), slots)


def replay(
    world: PlacementWorld, trace: Trace, policy: Policy, *, seed: int = 0, models: Models | None = None
) -> list[SlotOutcome]:
    """The trace's slots through a policy in ``world``, from empty caches.

    Models, random draws of the policy and of measured times are those of ``kit.papers.placement.run`` with this seed (or ``models``),
    so a recorded run comes out as it was. Raises UsageError for a world of other gateways or devices.
    """
    trace_world = trace.header.world
    if (trace_world.gateways, trace_world.devices) != (world.gateways, world.devices):
        raise UsageError(
            f"This trace is of {trace_world.gateways} gateways with {trace_world.devices} devices each, and the world has "
            f"{world.gateways} and {world.devices}: replay it in a world like its own."
        )
    models = sample_models(world, 1, generator(MODELS, seed)) if models is None else models
    state, outcomes = empty(world, 1), []
    for slot, tasks in enumerate(trace.slots):
        decision = policy(world, models, tasks, state, generator(CHOICES, seed, slot))
        outcomes.append(step(world, models, tasks, state, decision, generator(TIMES, seed, slot)))
        state = outcomes[-1].state
    return outcomes


# ------------------------------------------------------------------------------------------------------------- generating


class Arrivals(Record):
    """Mean tasks that a device has in a slot, as Poisson arrivals; none: one in every slot, as in the paper."""

    rate: float | None = Field(default=None, gt=0)
    burst_rate: float | None = Field(default=None, gt=0, description="while its gateway has a burst; none: no bursts")
    burst_slots: float = Field(default=5.0, ge=1, description="mean length of a burst")
    quiet_slots: float = Field(default=20.0, ge=1, description="mean time between two")


class Fading(Record):
    """Links that change from slot to slot: a Gauss-Markov process with a line of sight."""

    memory: float = Field(default=0.9, ge=0, lt=1, description="correlation of one slot with the next")
    rician_k: float = Field(
        default=10.0, ge=0, description="power of the direct path over that of all others; 0: Rayleigh"
    )


def generate(
    world: PlacementWorld,
    slots: int,
    *,
    seed: int = 0,
    arrivals: Arrivals | None = None,
    fading: Fading | None = None,
) -> Trace:
    """A trace for this world: sizes, deadlines and noise as the paper draws them, with these arrivals and links. Raises UsageError."""
    if slots < 1:
        raise UsageError(f"A trace has at least one slot, not {slots}.")
    arrivals = arrivals or Arrivals()
    if arrivals.burst_rate is not None and arrivals.rate is None:
        raise UsageError("Bursts need a rate between them: give both, like --rate 0.3 --burst-rate 2.")
    rng = generator("placement: arrivals and links of a trace", seed)
    arrived = _arrived(world, slots, arrivals, rng)
    first = _links(world, slots, world.tasks, fading, rng)
    second = np.repeat(_links(world, slots, world.gateways, fading, rng), world.devices, axis=1)
    slots_of_tasks = []
    for slot in range(slots):
        tasks = sample(world, 1, generator(TASKS, seed, slot))
        size = np.where(arrived[slot], tasks.size_bit, 0.0)
        slots_of_tasks.append(
            Tasks(size, tasks.deadline_s, tasks.noisy, first[slot : slot + 1], second[slot : slot + 1])
        )
    facts = [f"seed {seed}", f"arrivals {_text(arrivals)}", f"fading {'none' if fading is None else _text(fading)}"]
    return Trace(Header(slots=slots, world=world, source=f"generated: {'; '.join(facts)}"), tuple(slots_of_tasks))


def _text(record: Record) -> str:
    return " ".join(f"{name}={value:g}" for name, value in record if value is not None)


def _arrived(world: PlacementWorld, slots: int, arrivals: Arrivals, rng: np.random.Generator) -> BoolArray:
    """Which devices bring a task: [slots, tasks]."""
    arrived = np.ones((slots, world.tasks), dtype=bool)
    if arrivals.rate is None:
        return arrived
    burst = arrivals.rate if arrivals.burst_rate is None else arrivals.burst_rate
    burst_share = arrivals.burst_slots / (arrivals.burst_slots + arrivals.quiet_slots)
    bursting, waiting = rng.random(world.gateways) < burst_share, np.zeros(world.tasks, dtype=np.int64)
    for slot in range(slots):
        waiting += rng.poisson(np.repeat(np.where(bursting, burst, arrivals.rate), world.devices))
        arrived[slot] = waiting > 0
        waiting -= arrived[slot]
        change = rng.random(world.gateways) < 1.0 / np.where(bursting, arrivals.burst_slots, arrivals.quiet_slots)
        bursting ^= change
    return arrived


def _links(
    world: PlacementWorld, slots: int, links: int, fading: Fading | None, rng: np.random.Generator
) -> Float64Array:
    """gamma of each link: [slots, links]."""
    if fading is None:
        return np.full((slots, links), world.bps_per_hz)
    gains = (rng.standard_normal((slots, links)) + 1j * rng.standard_normal((slots, links))) / np.sqrt(2.0)
    for slot in range(1, slots):
        gains[slot] = fading.memory * gains[slot - 1] + np.sqrt(1.0 - fading.memory**2) * gains[slot]
    path = np.sqrt(fading.rician_k / (fading.rician_k + 1.0)) + gains / np.sqrt(fading.rician_k + 1.0)
    rate: Float64Array = np.log2(1.0 + (2.0**world.bps_per_hz - 1.0) * np.abs(path) ** 2)
    return np.maximum(rate, LEAST_BPS_PER_HZ)


def record(
    world: PlacementWorld, policy: Policy, *, slots: int, seed: int = 0, source: str = ""
) -> tuple[Trace, Sequence[SlotOutcome]]:
    """A run of one factory as ``kit.papers.placement.run`` makes it, with its trace."""
    recorder = Recorder(policy)
    outcomes = run(world, recorder, slots=slots, seed=seed)
    return recorder.trace(world, source or f"recorded: {slots} slots, seed {seed}"), outcomes
