"""The world of paper A: in each frame N users ask for a download, and the base station splits its band among them.

| array | shape | unit | from |
|---|---|---|---|
| ``Tasks.size_bit`` | [samples, users] | bit | uniform, 0 to twice the average |
| ``Tasks.weight`` | [samples, users] | 1 | one of four urgencies, equally likely |
| ``Tasks.distance_m`` | [samples, users] | m | uniform, up to 500 m |
| action: band | [samples, users] | Hz | not negative, sum at most the world's band (eq. 3a) |
| cost: weighted delay | [samples] | s | eq. 1, mean over the users; with the computing time eq. 3 |

A frame stands alone: nothing that is decided changes the next one. Fewer users than N are users with nothing to send (size 0).

N is not stated in the paper: 30 users, sizes from 0 to twice the average and the mean over the users agree with its table I. The noise
is N0 * b_i as printed, so it grows with the band. Every delay is of degree one in the sizes: twice the bits, twice the seconds, the same
best split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from kit.papers.channel import drawn_sizes, sending_s
from kit.papers.delays import Delay, computing_s
from kit.records import Record
from kit.stats import BoolArray, Float64Array

EXPERT_MACS = 2174.0  # table I: 32 * 36 + 32 + 32 * 30 + 30, biases counted; the gate is left out there


class BandwidthWorld(Record):
    """Every parameter of paper A's simulation; sections and equations are the paper's."""

    users: int = Field(default=30, ge=1, description="N: not stated; 30 outputs make table I's 2.17K MACs an expert")
    size_mean_bit: float = Field(default=10_000.0, gt=0, description="mean of s_i, uniform from 0 to twice it: table I")
    distance_max_m: float = Field(default=500.0, gt=0, description="d_i uniform up to it: section IV")
    distance_min_m: float = Field(default=1.0, gt=0, description="lower cut of d_i: not stated; d_0 itself")
    weights: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.8, 0.4, 0.2, 0.1), min_length=1, description="levels of w_i: section IV"
    )
    band_hz: float = Field(default=10e6, gt=0, description="b_max, eq. 3a: section IV")
    power_w: float = Field(default=0.1, gt=0, description="P, eq. 1: section IV")
    gain: float = Field(default=1e-4, gt=0, description="g_0 = -40 dB at d_0, eq. 1: section IV")
    reference_m: float = Field(default=1.0, gt=0, description="d_0, eq. 1: section IV")
    noise_w_per_hz: float = Field(default=1e-17, gt=0, description="N_0 of sigma^2 = N_0 * b_i, eq. 1: section IV")
    experts: int = Field(default=30, ge=1, description="M, the widest network: section IV")
    clock_hz: float = Field(default=0.5e9, gt=0, description="f, eq. 2: table II")

    @model_validator(mode="after")
    def _ordered(self) -> BandwidthWorld:
        if not self.distance_min_m <= self.distance_max_m:
            raise ValueError(f"distance_min_m {self.distance_min_m:g} lies above distance_max_m: turn them round")
        return self

    @property
    def weight_mean(self) -> float:
        """The mean importance of a task."""
        return sum(self.weights) / len(self.weights)


@dataclass(frozen=True)
class Tasks:
    """One frame per row: [samples, users]. A user who is absent has size 0."""

    size_bit: Float64Array
    weight: Float64Array
    distance_m: Float64Array

    @property
    def present(self) -> BoolArray:
        """Who has something to download: [samples, users]."""
        present: BoolArray = self.size_bit > 0
        return present

    def pick(self, index: object) -> Tasks:
        """Some of the samples, by anything that indexes an array's rows."""
        return Tasks(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def sample(world: BandwidthWorld, samples: int, rng: np.random.Generator, *, present: int | None = None) -> Tasks:
    """Random frames: of ``present`` users, where that is fewer than the world's; the others come last, with size 0. Raises UsageError."""
    size = drawn_sizes(world.users, world.size_mean_bit, samples, rng, present)
    shape = size.shape
    weight = np.asarray(world.weights)[rng.integers(0, len(world.weights), shape)]
    return Tasks(size, weight, rng.uniform(world.distance_min_m, world.distance_max_m, shape))


def reach_hz(world: BandwidthWorld, tasks: Tasks) -> Float64Array:
    """Power times channel gain over noise density (eq. 1): the signal-to-noise ratio in one hertz."""
    nearness = world.reference_m / tasks.distance_m
    reach: Float64Array = nearness * nearness * (world.power_w * world.gain / world.noise_w_per_hz)
    return reach


def efficiency_bps_per_hz(world: BandwidthWorld, tasks: Tasks, band_hz: Float64Array) -> Float64Array:
    """Spectral efficiency at this band: the logarithm of eq. 1."""
    efficiency: Float64Array = np.log2(1.0 + reach_hz(world, tasks) / band_hz)
    return efficiency


def weighted_delays_s(world: BandwidthWorld, tasks: Tasks, band_hz: Float64Array) -> Float64Array:
    """T_tra,i of eq. 1: [samples, users]. Infinite for a task without a band."""
    return tasks.weight * sending_s(tasks.size_bit, band_hz, reach_hz(world, tasks))


def weighted_delay_s(world: BandwidthWorld, tasks: Tasks, band_hz: Float64Array) -> Float64Array:
    """T_tra: the mean weighted delay of the present users, [samples]. The paper writes a sum; its table I holds means."""
    return _mean(tasks, weighted_delays_s(world, tasks, band_hz))


def macs_of(size: str) -> float:
    """Multiply-accumulates of K experts (table I); ``"static"`` is the network of all 30 without a gate."""
    return EXPERT_MACS * (30 if size == "static" else float(size))


def total_s(
    world: BandwidthWorld,
    tasks: Tasks,
    band_hz: Float64Array,
    delay: Delay,
    size: str,
    clock_hz: Float64Array | float | None = None,
) -> Float64Array:
    """T_tra + T_com of eq. 3, means over the users: [samples]. ``clock_hz`` is the world's unless given, one or per sample."""
    clock = world.clock_hz if clock_hz is None else clock_hz
    computing = computing_s(delay, size, clock, macs=macs_of(size))
    total: Float64Array = weighted_delay_s(world, tasks, band_hz) + _mean(tasks, tasks.weight) * computing
    return total


def features(world: BandwidthWorld, tasks: Tasks, *, size_mean_bit: float | None = None) -> Float64Array:
    """What a network sees of each user: size over the average size, weight, distance over the cell's radius: [samples, users, 3].

    The average is that of the frames (``size_mean_bit``, the world's unless given), so one network serves all task sizes: a network
    fed with raw sizes loses 5 to 40 % where the average differs from what it was trained at.
    """
    mean = world.size_mean_bit if size_mean_bit is None else size_mean_bit
    return np.stack([tasks.size_bit / mean, tasks.weight, tasks.distance_m / world.distance_max_m], axis=-1)


def _mean(tasks: Tasks, values: Float64Array) -> Float64Array:
    present = tasks.present
    mean: Float64Array = np.where(present, values, 0.0).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    return mean
