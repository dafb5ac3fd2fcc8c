"""Shares of band and server for tasks that are offloaded: the optimum, the equal split, and what a network puts out.

For a fixed offloading the two problems are convex and separate: the band by ``kit.papers.channel.best_split``, the server's clock in
proportion to the root of what each task counts per cycle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from kit.papers.channel import best_split, root_split, sending_s
from kit.papers.offloading.world import (
    FREE,
    Allocation,
    Inference,
    OffloadingWorld,
    Tasks,
    importance,
    local_delay_s,
    local_energy_j,
    reach_hz,
)
from kit.stats import BoolArray, Float64Array

#: What is summed over the tasks: eqs. 24 and 25, the weighted delay (the papers' loss), or the plain delay (what figs. 5 and 7 print).
Goal: TypeAlias = Literal["cost", "weighted_delay", "delay"]


@dataclass(frozen=True)
class Prices:
    """The terms of a slot's goal, [samples, users]: the joint cost or a delay in seconds. A task costs ``local`` at home; at the server

    joining + band / rate in bits per second + server / share in hertz.
    """

    local: Float64Array
    joining: Float64Array
    band: Float64Array
    server: Float64Array
    reach_hz: Float64Array

    def pick(self, index: object) -> Prices:
        """Some of the samples, by anything that indexes an array's rows."""
        return Prices(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def prices_of(world: OffloadingWorld, tasks: Tasks, inference: Inference = FREE, *, over: Goal = "cost") -> Prices:
    """The weights of eqs. 24 and 25: alpha * w on delays, beta * p on the time of sending; of a delay the weight alone, or one."""
    weight = np.ones_like(tasks.size_bit) if over == "delay" else importance(world, tasks)
    worth, paid = (world.delay_worth * weight / world.unit_s, world.energy_worth) if over == "cost" else (weight, 0.0)
    home, away = (np.asarray(s, float).reshape(-1, 1) for s in (inference.local_s, inference.edge_s))
    return Prices(
        local=worth * (home + local_delay_s(tasks)) + paid * local_energy_j(world, tasks),
        joining=worth * away,
        band=(worth + paid * world.power_w) * tasks.size_bit,
        server=worth * tasks.cycles,
        reach_hz=reach_hz(world, tasks),
    )


def best(world: OffloadingWorld, tasks: Tasks, offloaded: BoolArray, *, over: Goal = "cost") -> Allocation:
    """The allocation with the least joint cost (eq. 25, energy of sending included), weighted delay or mean delay."""
    prices = prices_of(world, tasks, over=over)
    return Allocation(
        band_hz=best_split(np.where(offloaded, prices.band, 0.0), prices.reach_hz, world.band_hz),
        server_hz=root_split(np.where(offloaded, prices.server, 0.0), world.server_hz),
    )


def equal(world: OffloadingWorld, tasks: Tasks, offloaded: BoolArray) -> Allocation:
    """The same share for each offloaded task."""
    return shared(world, offloaded & tasks.present, np.ones_like(tasks.size_bit), np.ones_like(tasks.size_bit))


def shared(world: OffloadingWorld, offloaded: BoolArray, band: Float64Array, server: Float64Array) -> Allocation:
    """What networks put out, of any scale, brought to the budgets over the offloaded tasks."""
    return Allocation(
        band_hz=_scaled(band * offloaded, world.band_hz), server_hz=_scaled(server * offloaded, world.server_hz)
    )


def least_costs(world: OffloadingWorld, prices: Prices, offloaded: BoolArray) -> Float64Array:
    """The goal of ``prices`` under its best allocation, summed over the users: [samples]."""
    band = np.where(offloaded, prices.band, 0.0)
    split = best_split(band, prices.reach_hz, world.band_hz)
    roots = np.where(offloaded, np.sqrt(prices.server), 0.0).sum(axis=1)
    fixed = np.where(offloaded, prices.joining, prices.local).sum(axis=1)
    cost: Float64Array = fixed + sending_s(band, split, prices.reach_hz).sum(axis=1) + roots * roots / world.server_hz
    return cost


def _scaled(shares: Float64Array, total: float) -> Float64Array:
    sums = shares.sum(axis=1, keepdims=True)
    scaled: Float64Array = shares * (total / np.where(sums > 0, sums, 1.0))
    return scaled
