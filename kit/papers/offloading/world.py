"""The world of paper B: N users each bring a task with a deadline, and compute it themselves or hand it to one edge server.

| array | shape | unit | from |
|---|---|---|---|
| ``Tasks.size_bit`` | [samples, users] | bit | uniform, 0 to twice the average |
| ``Tasks.cycles_per_bit`` | [samples, users] | 1/bit | uniform, 0 to twice the average |
| ``Tasks.deadline_s`` | [samples, users] | s | uniform, from the lower cut to 160 ms |
| ``Tasks.distance_m`` | [samples, users] | m | uniform, 5 to 500 m |
| ``Tasks.local_hz`` | [samples, users] | Hz | uniform, 10 to 150 MHz |
| action: offloaded | [samples, users] | yes or no | eq. 11b |
| action: band, server clock | [samples, users] | Hz | not negative, sums at most the budgets (eqs. 11h to 11k) |
| cost | [samples, users] | ms (or s) and J, weighted | eqs. 24 and 25; eq. 11a as ``objective`` |

A slot stands alone: nothing that is decided changes the next one. Fewer users than N are users with nothing to do (size 0).

Three things that the paper leaves open are parameters here.

- The lower cut of the deadline: the importance weight (eq. 19) divides by the deadline and has no finite mean without one.
- The unit of delay in the cost. With seconds against joules, mu = 1e-20 makes local energy (tens of joules) dwarf every delay and all
  tasks offload; with milliseconds the decision is mixed, and that is the default. The weight takes the deadline in milliseconds, as the
  paper prints it, in both. (Deadlines and delays both in seconds would give the numbers of ``ms`` again: only their ratio counts.)
- The price of a missed deadline (delta, eq. 11a) has no value in the paper; it enters ``objective`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from kit.papers.channel import drawn_sizes, sending_s
from kit.records import Record
from kit.stats import BoolArray, Float64Array

MS = 1e-3
#: Of what a folder keeps (networks, schedulers, points): raise it when the same world and recipe would give other numbers.
FORMAT = 2
DelayUnit = Literal["ms", "s"]


class OffloadingWorld(Record):
    """Every parameter of paper B's simulation; sections, tables and equations are the paper's."""

    users: int = Field(default=30, ge=1, description="N: table II")
    size_mean_bit: float = Field(default=1000.0, gt=0, description="s_avg, s_i uniform from 0 to twice it: section V")
    cycles_per_bit_mean: float = Field(
        default=797.5, gt=0, description="c_avg, c_i uniform from 0 to twice it: section V"
    )
    deadline_max_s: float = Field(default=0.160, gt=0, description="d_i uniform up to it: section V")
    deadline_min_s: float = Field(default=0.001, gt=0, description="lower cut of d_i: not stated, 0 in section V")
    distance_min_m: float = Field(default=5.0, gt=0, description="l_i: table II")
    distance_max_m: float = Field(default=500.0, gt=0, description="l_i: table II")
    local_min_hz: float = Field(default=0.01e9, gt=0, description="f_loc, eq. 4: section V")
    local_max_hz: float = Field(default=0.15e9, gt=0, description="f_loc, eq. 4: section V")
    band_hz: float = Field(default=0.5e6, gt=0, description="b_max, eq. 11i: table II")
    server_hz: float = Field(default=2.5e9, gt=0, description="f_ser, eq. 11k: table II")
    power_w: float = Field(default=0.1, gt=0, description="p, eqs. 1 and 5: table II")
    noise_w_per_hz: float = Field(default=10**-20.4, gt=0, description="sigma_0 = -174 dBm/Hz, eq. 1: table II")
    gain: float = Field(default=1e-4, gt=0, description="g_0 = -40 dB, eq. 1: table II")
    exponent: float = Field(default=2.8, gt=0, description="h, eq. 1: table II")
    reference_m: float = Field(default=1.0, gt=0, description="l_0, eq. 1: not stated")
    energy_coefficient: float = Field(default=1e-20, ge=0, description="mu in J s^2, eq. 6: table II")
    importance: float = Field(default=60.0, gt=0, description="gamma, eq. 19, for deadlines in ms: table II")
    delay_worth: float = Field(default=1.0, ge=0, description="alpha, eqs. 11a, 24, 25: section V")
    energy_worth: float = Field(default=0.1, ge=0, description="beta, eqs. 11a, 24, 25: section V")
    miss_worth: float = Field(default=1.0, ge=0, description="delta, eq. 11a: not stated")
    delay_unit: DelayUnit = Field(
        default="ms", description="of delays in the cost: not stated; s makes every task offload"
    )

    @model_validator(mode="after")
    def _ordered(self) -> OffloadingWorld:
        for name in ("deadline_{}_s", "distance_{}_m", "local_{}_hz"):
            low, high = getattr(self, name.format("min")), getattr(self, name.format("max"))
            if not low <= high:
                raise ValueError(
                    f"{name.format('min')} {low:g} lies above {name.format('max')} {high:g}: turn them round"
                )
        return self

    @property
    def unit_s(self) -> float:
        """The unit of the cost's delay, in seconds."""
        return MS if self.delay_unit == "ms" else 1.0


@dataclass(frozen=True)
class Tasks:
    """One slot per row: [samples, users]. A user who is absent has size 0."""

    size_bit: Float64Array
    cycles_per_bit: Float64Array
    deadline_s: Float64Array
    distance_m: Float64Array
    local_hz: Float64Array

    @property
    def present(self) -> BoolArray:
        """Who has a task: [samples, users]."""
        present: BoolArray = self.size_bit > 0
        return present

    @property
    def cycles(self) -> Float64Array:
        """Cycles of each task: [samples, users]."""
        cycles: Float64Array = self.size_bit * self.cycles_per_bit
        return cycles

    def pick(self, index: object) -> Tasks:
        """Some of the samples, by anything that indexes an array's rows."""
        return Tasks(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Allocation:
    """Hertz of band and of server clock for each task: [samples, users]; zero for tasks that stay at home."""

    band_hz: Float64Array
    server_hz: Float64Array


@dataclass(frozen=True)
class Inference:
    """Seconds that deciding takes (eqs. 34 and 35): for tasks that stay at home, and for offloaded ones; one number, or one per sample."""

    local_s: Float64Array | float = 0.0
    edge_s: Float64Array | float = 0.0


@dataclass(frozen=True)
class OffloadingOutcome:
    """What a decision costs each task: [samples, users]. ``objective`` is eq. 11a per task, ``cost`` eq. 24 or 25. Absent users: zeros."""

    delay_s: Float64Array
    weighted_delay_s: Float64Array
    energy_j: Float64Array
    missed: BoolArray
    cost: Float64Array
    objective: Float64Array
    present: BoolArray

    def mean(
        self, what: Literal["delay_s", "weighted_delay_s", "energy_j", "missed", "cost", "objective"]
    ) -> Float64Array:
        """Over the present users: [samples]."""
        mean: Float64Array = getattr(self, what).sum(axis=1) / np.maximum(self.present.sum(axis=1), 1)
        return mean


FREE = Inference()


def sample(world: OffloadingWorld, samples: int, rng: np.random.Generator, *, present: int | None = None) -> Tasks:
    """Random slots: of ``present`` users, where that is fewer than the world's; the others come last, with size 0. Raises UsageError."""
    size = drawn_sizes(world.users, world.size_mean_bit, samples, rng, present)
    shape = size.shape
    return Tasks(
        size_bit=size,
        cycles_per_bit=rng.uniform(0.0, 2.0 * world.cycles_per_bit_mean, shape),
        deadline_s=rng.uniform(world.deadline_min_s, world.deadline_max_s, shape),
        distance_m=rng.uniform(world.distance_min_m, world.distance_max_m, shape),
        local_hz=rng.uniform(world.local_min_hz, world.local_max_hz, shape),
    )


def reach_hz(world: OffloadingWorld, tasks: Tasks) -> Float64Array:
    """Power times channel gain over noise density (eq. 1): the signal-to-noise ratio in one hertz."""
    gain = world.gain * (world.reference_m / tasks.distance_m) ** world.exponent
    reach: Float64Array = gain * (world.power_w / world.noise_w_per_hz)
    return reach


def sending_delay_s(world: OffloadingWorld, tasks: Tasks, band_hz: Float64Array) -> Float64Array:
    """T_tra, eq. 1: infinite without a band."""
    return sending_s(tasks.size_bit, band_hz, reach_hz(world, tasks))


def server_delay_s(tasks: Tasks, server_hz: Float64Array) -> Float64Array:
    """T_com, eq. 2: infinite without a share of the server, 0 for nothing to compute."""
    cycles = tasks.cycles
    with np.errstate(divide="ignore", invalid="ignore"):
        delay: Float64Array = np.where(cycles > 0, cycles / server_hz, 0.0)
    return delay


def local_delay_s(tasks: Tasks) -> Float64Array:
    """T_loc, eq. 4."""
    delay: Float64Array = tasks.cycles / tasks.local_hz
    return delay


def local_energy_j(world: OffloadingWorld, tasks: Tasks) -> Float64Array:
    """E_loc, eq. 6."""
    energy: Float64Array = world.energy_coefficient * tasks.cycles * tasks.local_hz**2
    return energy


def importance(world: OffloadingWorld, tasks: Tasks) -> Float64Array:
    """w_i of eq. 19: workload and size over their maxima, the deadline in milliseconds."""
    workload = tasks.cycles_per_bit / (2.0 * world.cycles_per_bit_mean)
    size = tasks.size_bit / (2.0 * world.size_mean_bit)
    weight: Float64Array = world.importance * MS * workload * size / tasks.deadline_s
    return weight


def evaluate(
    world: OffloadingWorld, tasks: Tasks, offloaded: BoolArray, allocation: Allocation, inference: Inference = FREE
) -> OffloadingOutcome:
    """Eqs. 1 to 6, 11a, 24 and 25 for every task. An offloaded task without band or server clock never ends (infinite)."""
    present = tasks.present
    sending = np.where(offloaded, sending_delay_s(world, tasks, allocation.band_hz), 0.0)
    edge = sending + np.where(offloaded, server_delay_s(tasks, allocation.server_hz), 0.0) + _column(inference.edge_s)
    delay = np.where(offloaded, edge, local_delay_s(tasks) + _column(inference.local_s)) * present
    energy = np.where(offloaded, world.power_w * sending, local_energy_j(world, tasks))
    missed = (delay > tasks.deadline_s) & present
    weight = importance(world, tasks)
    weighted = np.multiply(weight, delay, out=np.zeros_like(delay), where=weight > 0)
    paid = world.energy_worth * energy
    return OffloadingOutcome(
        delay_s=delay,
        weighted_delay_s=weighted,
        energy_j=energy,
        missed=missed,
        cost=world.delay_worth * weighted / world.unit_s + paid,
        objective=world.delay_worth * delay / world.unit_s + paid + world.miss_worth * missed,
        present=present,
    )


def features(world: OffloadingWorld, tasks: Tasks) -> Float64Array:
    """u_i of eq. 7 for a network, each over its largest value: [samples, users, 5] of size, workload, deadline, distance, own clock."""
    return np.stack(
        [
            tasks.size_bit / (2.0 * world.size_mean_bit),
            tasks.cycles_per_bit / (2.0 * world.cycles_per_bit_mean),
            tasks.deadline_s / world.deadline_max_s,
            tasks.distance_m / world.distance_max_m,
            tasks.local_hz / world.local_max_hz,
        ],
        axis=-1,
    )


def _column(seconds: Float64Array | float) -> Float64Array:
    column = np.asarray(seconds, dtype=np.float64)
    return column[:, None] if column.ndim else column
