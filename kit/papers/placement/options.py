"""Each task's options, and what each demands of every pool: what the rules, the bound and its rounding are computed from.

An option is a node and a variant: option o is variant o % variants at the gateway, or, from the number of variants on, at the edge. An
option demands six resources, each a part of one pool; :func:`pools` names the factory's pool of each for each gateway:

    0 the devices' band    1 the base station's band    2 a gateway's clock    3 the edge's clock    4 a gateway's cache    5 the edge's

A task may split its time T freely: sending for ``send`` seconds takes d / send of a band, computing for the rest q / (T - send)
of a clock, and ``send`` is not less than the model's download.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from kit.papers.placement.world import (
    Decision,
    Models,
    PlacementWorld,
    State,
    Tasks,
    accepted_tasks,
    cached_bytes,
    pooled,
    project,
    separate_pools,
)
from kit.stats import BoolArray, Float64Array, Int64Array

RESOURCES = 6
MARGIN = 1e-8  # of a budget: left free, so that rounding in the last digits misses no deadline
LEAST_PRICE = 1e-6  # at which the time is split, so that no pool is taken without end


@dataclass(frozen=True)
class Options:
    """[samples, tasks, options] unless stated. What has no value cannot be had: -1."""

    value: Float64Array  # accuracy that the option earns
    first_s: Float64Array  # seconds of the whole of the devices' band that sending takes; 0 where that hop is free
    second_s: Float64Array  # seconds of the whole of the base station's band
    compute_s: Float64Array  # seconds of the node's whole clock
    fixed_s: Float64Array  # of sending, whatever the share: a free first hop
    fetch_s: Float64Array  # until the model has arrived
    space: Float64Array  # of the node's cache that the model would newly take, a part of it
    deadline_s: Float64Array  # [samples, tasks, 1]
    budget: Float64Array  # [samples, pools]: 1, and of the caches what is free
    home: BoolArray  # [options]

    def pick(self, row: int) -> Options:
        """One sample, the axis kept."""
        names = [n for n in self.__dataclass_fields__ if n != "home"]
        return Options(**{n: getattr(self, n)[row : row + 1] for n in names}, home=self.home)


def options_of(world: PlacementWorld, models: Models, tasks: Tasks, state: State | None = None) -> Options:
    """Every task's options in this state; without one, where every model lies in every cache and takes its space all the same.

    No state leaves more to choose than that: what is valid above all decisions there is valid in any state.
    """
    variants = len(world.variants)
    home = np.arange(2 * variants) < variants
    shape = (*tasks.size_bit.shape, 2 * variants)
    size = np.concatenate([models.size_bytes, models.size_bytes], axis=2)
    room = np.where(home, world.gateway_cache_bytes, world.edge_cache_bytes)
    budget = np.ones((shape[0], _count(world)))
    fetch, space = np.zeros(shape), size / room
    if state is not None:
        cached = np.concatenate([state.gateway, state.edge], axis=2)
        upstream = np.concatenate([state.edge, np.zeros_like(state.edge)], axis=2)
        fetch = 8.0 * size * ~cached * (~upstream / world.cloud_bps + home / world.backhaul_bps)
        space = space * ~cached
        budget = _free(world, models, state, budget)
    first = (tasks.size_bit / (world.band_hz * tasks.first_bps_per_hz))[:, :, None]
    second = (tasks.size_bit / (world.edge_band_hz * tasks.second_bps_per_hz))[:, :, None]
    free = ~home & (world.first_hop == "free")
    quality = tasks.noisy.astype(np.int64)[:, :, None, None]
    value = np.tile(np.take_along_axis(models.accuracy, quality, axis=2)[:, :, 0], (1, 1, 2))
    fixed, deadline = first * free, tasks.deadline_s[:, :, None]
    possible = (np.maximum(fetch, fixed) < deadline) & tasks.present[:, :, None]
    clock = np.where(home, world.gateway_hz, world.edge_hz)
    return Options(
        value=np.where(possible, value, -1.0),
        first_s=first * ~free,
        second_s=second * ~home,
        compute_s=models.cycles.reshape(shape) / clock,
        fixed_s=fixed,
        fetch_s=fetch,
        space=space,
        deadline_s=deadline,
        budget=budget,
        home=home,
    )


def pools(world: PlacementWorld) -> Int64Array:
    """The pool of each of the six resources, by gateway: [gateways, 6]."""
    separate = (*separate_pools(world), world.pools == "per_gateway", False)
    numbers, next_ = np.zeros((world.gateways, RESOURCES), dtype=np.int64), 0
    for resource, per_gateway in enumerate(separate):
        numbers[:, resource] = next_ + (np.arange(world.gateways) if per_gateway else 0)
        next_ += world.gateways if per_gateway else 1
    return numbers


def demands(option: Options, send_s: Float64Array, price: Float64Array | None = None) -> Float64Array:
    """What the options demand if they send for ``send_s``: [samples, tasks, options, 6].

    Two hops share the time by the roots of their demands, each at its pool's ``price`` ([tasks, 6]).
    """
    worth = np.ones((option.value.shape[1], RESOURCES)) if price is None else price
    one, two = np.sqrt(worth[:, None, 0] * option.first_s), np.sqrt(worth[:, None, 1] * option.second_s)
    left = np.maximum(send_s - option.fixed_s, 1e-12)
    parts = np.zeros((*option.value.shape, RESOURCES))
    with np.errstate(divide="ignore", invalid="ignore"):
        parts[..., 0] = np.where(option.first_s > 0, option.first_s * (one + two) / (one * left), 0.0)
        parts[..., 1] = np.where(option.second_s > 0, option.second_s * (one + two) / (two * left), 0.0)
    clock = option.compute_s / np.maximum(option.deadline_s - send_s, 1e-12)
    for resource, values in ((2, clock), (4, option.space)):
        parts[..., resource] = np.where(option.home, values, 0.0)
        parts[..., resource + 1] = np.where(option.home, 0.0, values)
    return parts


@dataclass(frozen=True)
class Payments:
    """The least that each option pays for what it demands, and how long it then sends: [samples, tasks, options]."""

    first: Float64Array
    second: Float64Array
    clock: Float64Array
    space: Float64Array
    send_s: Float64Array

    @property
    def total(self) -> Float64Array:
        """What an option pays in all: [samples, tasks, options]."""
        return self.first + self.second + self.clock + self.space


def least_payments(option: Options, price: Float64Array) -> Payments:
    """Every option at the price of each whole pool, [samples, tasks, 6]: the best split of the time has a closed form.

    Demands d1 and d2 of two bands at prices p1, p2 and q of a clock at pc cost at least (sqrt(p1 d1) + sqrt(p2 d2) + sqrt(pc q))^2 / T,
    with the time in proportion to the roots; a download that takes longer than that holds the sending back.
    """
    each, home = price[:, :, None, :], option.home
    one, two = np.sqrt(each[..., 0] * option.first_s), np.sqrt(each[..., 1] * option.second_s)
    clock = np.sqrt(np.where(home, each[..., 2], each[..., 3]) * option.compute_s)
    bands = one + two
    roots = bands + clock
    part = np.where(roots > 0, bands / np.maximum(roots, 1e-300), 0.5)
    send = np.maximum(option.fixed_s + (option.deadline_s - option.fixed_s) * part, option.fetch_s)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(bands > 0, bands / (send - option.fixed_s), 0.0)
        computing = np.where(clock > 0, clock**2 / (option.deadline_s - send), 0.0)
    return Payments(one * rate, two * rate, computing, np.where(home, each[..., 4], each[..., 5]) * option.space, send)


class Fitter:
    """Fits single options of one sample into what is left, in plain numbers: a task at a time is too little for arrays."""

    def __init__(self, option: Options) -> None:
        names = "first_s", "second_s", "compute_s", "fixed_s", "fetch_s", "space"
        self._of = list(zip(*(getattr(option, name)[0].tolist() for name in names), strict=True))
        self._deadline_s, self._home = option.deadline_s[0, :, 0].tolist(), option.home.tolist()

    def need(self, task: int, which: int, left: Sequence[float], price: Sequence[float]) -> list[float] | None:
        """What an option demands of the six resources if it fits into ``left``, with its time split so that it pays least;
        None if it does not fit.
        """
        one, two, compute, fixed, fetch, space = (values[which] for values in self._of[task])
        clock, room = (2, 4) if self._home[which] else (3, 5)
        if left[clock] <= 0 or space > left[room] or (one > 0 and left[0] <= 0) or (two > 0 and left[1] <= 0):
            return None
        least = (one / left[0] if one > 0 else 0.0) + (two / left[1] if two > 0 else 0.0)
        deadline = self._deadline_s[task]
        low, high = max(fetch, fixed + least), deadline - compute / left[clock]
        if not low < high:
            return None
        worth = [max(p, LEAST_PRICE) for p in price]
        bands = sqrt(worth[0] * one) + sqrt(worth[1] * two)
        part = bands / (bands + sqrt(worth[clock] * compute))
        send = min(max(fixed + (deadline - fixed) * part, low), high)
        scale, need = least / (send - fixed), [0.0] * RESOURCES
        need[0], need[1] = left[0] * scale if one > 0 else 0.0, left[1] * scale if two > 0 else 0.0
        need[clock], need[room] = compute / (deadline - send), space
        return need


def decide(world: PlacementWorld, tasks: Tasks, choice: Int64Array, shares: Float64Array) -> Decision:
    """The decision that takes an option for each task ([samples, tasks], -1: turned away) with at least its ``shares``, [samples, tasks, 4
    or more], which are parts of the pools.

    What they leave of a pool goes to its users (:func:`use_up`), so that nothing lies idle while a task ends just in time. Every node keeps
    the models that were asked of it, and drops the others.
    """
    variants, accepted = len(world.variants), choice >= 0
    home, variant = accepted & (choice < variants), np.where(accepted, choice % variants, 0)
    granted = shares * (accepted & tasks.present)[:, :, None] * (1.0 + MARGIN / 2)
    used = (np.arange(variants) == variant[:, :, None]) & accepted[:, :, None]
    decision = Decision(
        at_gateway=home,
        variant=variant,
        first_share=granted[:, :, 0],
        second_share=granted[:, :, 1],
        gateway_share=granted[:, :, 2],
        edge_share=granted[:, :, 3],
        keep_gateway=used & home[:, :, None],
        keep_edge=used & ~home[:, :, None],
    )
    return use_up(world, tasks, decision)


def use_up(world: PlacementWorld, tasks: Tasks, decision: Decision) -> Decision:
    """The same decision with nothing left over: a pool that is not used up is given to its users in proportion.

    Every task then ends as early or earlier: a reserve that costs nothing, against times that are longer than was promised.
    """
    shares, _, _ = project(world, accepted_tasks(world, tasks, decision), decision)
    full = []
    for share, per_gateway in zip(shares, separate_pools(world), strict=True):
        sums = np.maximum(pooled(world, share, per_gateway), np.finfo(float).tiny)
        blocks = share.reshape(len(share), world.gateways, world.devices) * np.maximum((1.0 - MARGIN) / sums, 1.0)
        full.append(blocks.reshape(share.shape))
    first, second, gateway, edge = full
    return replace(decision, first_share=first, second_share=second, gateway_share=gateway, edge_share=edge)


def _count(world: PlacementWorld) -> int:
    return int(pools(world).max()) + 1


def _free(world: PlacementWorld, models: Models, state: State, budget: Float64Array) -> Float64Array:
    gateway, edge = cached_bytes(world, models, state)
    of = pools(world)
    if world.pools == "literal":
        gateway = np.broadcast_to(gateway.sum(axis=1, keepdims=True), gateway.shape)
    free: Float64Array = budget.copy()
    free[:, of[:, 4]] = 1.0 - gateway / world.gateway_cache_bytes
    free[:, of[:, 5]] = 1.0 - edge[:, None] / world.edge_cache_bytes
    return free.clip(min=0.0)
