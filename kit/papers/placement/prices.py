"""The dual-price policy: a small network sets a price for every pool, and each task buys what earns it most.

At given prices the best split of a task's time has a closed form (``kit.papers.placement.options.least_payments``), so nothing but prices
has to be learned: six numbers for each gateway, of which those of a pool that all gateways share are one. Prices are found as a market
finds them. The network sees what is asked for at the present prices and moves them, :data:`ROUNDS` times; a row of its input is a gateway,
with the mean of all of them appended, so the same few weights serve any number of gateways, devices and variants.

A price is counted as accuracy for the fair share of a pool, one part in as many as there are devices: no unit of the world is left in it.
Who buys is smoothed (:data:`SOFT`) while prices are sought. Whole tasks are then fitted into the pools: those that would lose most by their
next best option come first, whoever finds a pool sold out takes what is next, and what room is left goes to tasks that can still gain.

What is learned is a bound: the sum of what tasks earn and pools are worth is above every decision, at any prices (see
``kit.papers.placement.bound``), and least at the right ones. No solver and no example is needed; ``kit.papers.placement.own`` does it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from kit.papers.placement.options import (
    MARGIN,
    RESOURCES,
    Fitter,
    Options,
    Payments,
    decide,
    least_payments,
    options_of,
    pools,
)
from kit.papers.placement.world import Decision, Models, PlacementWorld, Policy, State, Tasks
from kit.stats import BoolArray, Float64Array, Int64Array

#: Rows of :data:`INPUTS` features, float32, to rows of :data:`OUTPUTS` moves of log prices.
PriceFunction: TypeAlias = Callable[[Float64Array], Float64Array]

ROUNDS = 6  # of moving the prices
INPUTS, OUTPUTS = 2 * 6 * RESOURCES + 1, RESOURCES
#: Accuracy: options that differ by less are taken by some tasks each, in the first round and at last.
SOFT, HARD = 0.03, 0.005
SLACK = 1e-3  # accuracy: what a fair share is worth if all of its pool is free
START = float(np.log(0.02))
LOWEST, HIGHEST = float(np.log(1e-5)), float(np.log(3.0))
#: Accuracy: up to which price of its room a model is kept that was used in this slot, or was not.
USED, IDLE = 0.06, 0.01
SLOW = 0.6  # of the shortest deadline: models that take longer to come are kept at any price
PASSES = 6  # over the tasks, at most
DEARER = (1.3, 1.8)  # times the prices: tried where tasks are left without an option


@dataclass(frozen=True)
class Market:
    """What is bought at some prices. A row of ``spent`` is a gateway's; what all share has the same number in each."""

    log_price: Float64Array  # [samples, gateways, 6]
    spent: Float64Array  # accuracy paid for the fair share of each pool
    worth: Float64Array  # accuracy that the fair share of what is free costs
    swayed: Float64Array  # of what is spent: what goes elsewhere as the log price rises
    earned: Float64Array  # [samples]: mean accuracy of a task after paying, smoothed

    @property
    def slope(self) -> Float64Array:
        """Of :attr:`dual` by the log prices, times the gateways: [samples, gateways, 6]."""
        return self.worth - self.spent - SLACK

    @property
    def dual(self) -> Float64Array:
        """A bound of the average accuracy, and the slack's part: [samples]. Convex in the prices, least where ``slope`` is nothing."""
        bound: Float64Array = self.earned + (self.worth - SLACK * self.log_price).sum(axis=2).mean(axis=1)
        return bound


def policy_of(network: PriceFunction) -> Policy:
    """The policy that decides by this network's prices."""

    def policy(world: PlacementWorld, models: Models, tasks: Tasks, state: State, rng: np.random.Generator) -> Decision:
        option = options_of(world, models, tasks, state)
        log_price = log_prices(network, world, option)
        choice, shares = fit(world, option, log_price)
        return with_caches(world, models, state, decide(world, tasks, choice, shares), choice, log_price)

    return policy


def with_caches(
    world: PlacementWorld, models: Models, state: State, decision: Decision, choice: Int64Array, log_price: Float64Array
) -> Decision:
    """The decision with what the caches keep: what a model's room costs others is set against fetching it again.

    A kept model fills its room through the next slot even if its task then goes elsewhere. Where the room of the models that were used in
    one kind of node costs more than :data:`USED` on average, and fetching them takes less than :data:`SLOW`, a factory clears its caches;
    else they stay, as does the model of a device that used none while its room costs less than :data:`IDLE`.
    """
    price, idle = pool_prices(world, log_price), (choice < 0)[:, :, None]
    far, limit = 8.0 * models.size_bytes / world.cloud_bps, SLOW * world.deadline_s[0]
    near = far + 8.0 * models.size_bytes / world.backhaul_bps
    gateway = models.size_bytes / world.gateway_cache_bytes * price[:, :, 4, None]
    edge = models.size_bytes / world.edge_cache_bytes * price[:, :, 5, None]
    at_gateway, at_edge = decision.keep_gateway, decision.keep_edge
    clears = (_mean(gateway, at_gateway) > USED) | (_mean(edge, at_edge) > USED)
    stays = ~(clears & (_mean(near, at_gateway) < limit) & (_mean(far, at_edge) < limit))[:, None, None]
    return replace(
        decision,
        keep_gateway=stays & (at_gateway | (state.gateway & idle & (gateway < IDLE))),
        keep_edge=stays & (at_edge | (state.edge & idle & (edge < IDLE))),
    )


def _mean(values: Float64Array, used: BoolArray) -> Float64Array:
    """Over what was used in each sample; 0 where nothing was."""
    mean: Float64Array = (values * used).sum(axis=(1, 2)) / np.maximum(used.sum(axis=(1, 2)), 1)
    return mean


def shared(world: PlacementWorld) -> BoolArray:
    """Which of the six resources all gateways share."""
    of = pools(world)
    everyone: BoolArray = (of == of[:1]).all(axis=0)
    return everyone


def log_prices(network: PriceFunction, world: PlacementWorld, option: Options) -> Float64Array:
    """Logarithms of the prices of fair shares, [samples, gateways, 6], after all rounds."""
    log_price, before = np.full((len(option.value), world.gateways, RESOURCES), START), None
    for number in range(ROUNDS):
        at = market(world, option, log_price, softness(number))
        log_price = next_prices(world, log_price, network(features(at, before, number)))
        before = at
    return log_price


def softness(number: int) -> float:
    """Accuracy, in this round of moving the prices; the last is that of the final prices."""
    accuracy: float = SOFT * (HARD / SOFT) ** (number / ROUNDS)
    return accuracy


def next_prices(world: PlacementWorld, log_price: Float64Array, move: Float64Array) -> Float64Array:
    """The next log prices; a pool that all share moves by the mean of its gateways' moves."""
    step = move.reshape(log_price.shape).astype(np.float64)
    both = np.where(shared(world), step.mean(axis=1, keepdims=True), step)
    bounded: Float64Array = np.clip(log_price + both, LOWEST, HIGHEST)
    return bounded


def features(at: Market, before: Market | None, number: int) -> Float64Array:
    """The network's inputs: [samples * gateways, INPUTS], float32. Of each pool the price, how much too much is bought, and how much."""
    total, last = at.spent + SLACK + at.worth, at if before is None else before
    bought, then = (0.3 * np.log(m.spent / np.exp(m.log_price) + 0.01) for m in (at, last))
    parts = [0.3 * (at.log_price - START), -at.slope / total, bought, at.log_price - last.log_price, bought - then]
    parts.append(-at.slope / (total + at.swayed))
    columns = np.concatenate(parts, axis=2)
    mean = np.broadcast_to(columns.mean(axis=1, keepdims=True), columns.shape)
    step = np.full((*columns.shape[:2], 1), number / ROUNDS)
    return np.concatenate([columns, mean, step], axis=2).reshape(-1, INPUTS).astype(np.float32)


def pool_prices(world: PlacementWorld, log_price: Float64Array) -> Float64Array:
    """What a whole pool costs, for each task: [samples, tasks, 6]."""
    crowd = np.where(shared(world), world.tasks, world.devices)
    return np.repeat(np.exp(log_price) * crowd, world.devices, axis=1)


def market(world: PlacementWorld, option: Options, log_price: Float64Array, soft: float) -> Market:
    """What all tasks buy at these prices, smoothed, and the dual function there."""
    cost = least_payments(option, pool_prices(world, log_price))
    profit = np.where(option.value > 0, option.value - cost.total, -np.inf)
    best = np.maximum(profit.max(axis=2), 0.0)
    weight = np.exp((profit - best[:, :, None]) / soft)
    total = weight.sum(axis=2) + np.exp(-best / soft)
    weight /= total[:, :, None]
    together = shared(world)
    each, sway = _spent(world, cost, weight)
    free = option.budget[:, pools(world)] + 0.5 / world.devices
    return Market(
        log_price=log_price,
        spent=np.where(together, each.mean(axis=1, keepdims=True), each),
        worth=np.exp(log_price) * free,
        swayed=np.where(together, sway.mean(axis=1, keepdims=True), sway) / soft,
        earned=(best + soft * np.log(total)).mean(axis=1),
    )


def _spent(world: PlacementWorld, cost: Payments, weight: Float64Array) -> tuple[Float64Array, Float64Array]:
    """What the devices of each gateway spend on each resource, over their number, and the variance of it: [samples, gateways, 6] each."""
    shape, half = (len(weight), world.gateways, world.devices), weight.shape[2] // 2
    sums, squares = [], []
    for resource, values in enumerate((cost.first, cost.second, cost.clock, cost.space)):
        spent = values * weight
        halves = (spent,) if resource < 2 else (spent[:, :, :half], spent[:, :, half:])
        value = (values,) if resource < 2 else (values[:, :, :half], values[:, :, half:])
        for one, each in zip(halves, value, strict=True):
            mean = one.sum(axis=2)
            sums.append(mean.reshape(shape).mean(axis=2))
            squares.append(((one * each).sum(axis=2) - mean**2).reshape(shape).mean(axis=2))
    return np.stack(sums, axis=2), np.stack(squares, axis=2)


# --------------------------------------------------------------------------------------------------------------- fitting


def fit(world: PlacementWorld, option: Options, log_price: Float64Array) -> tuple[Int64Array, Float64Array]:
    """(option of each task or -1, [samples, tasks]; its shares of bands and clocks, [samples, tasks, 4]) within every budget.

    Where tasks are left without anything the prices were too low: dearer ones are tried too, and the better decision stands.
    """
    choice, shares = _fitted(world, option, log_price)
    for factor in DEARER:
        for row in np.flatnonzero(((choice < 0) & (option.value > 0).any(axis=2)).any(axis=1)).tolist():
            one = option.pick(row)
            dearer = _fitted(world, one, log_price[row : row + 1] + np.log(factor))
            if _worth(one, dearer[0])[0] > _worth(one, choice[row : row + 1])[0]:
                choice[row], shares[row] = dearer[0][0], dearer[1][0]
    return choice, shares


def _worth(option: Options, choice: Int64Array) -> Float64Array:
    value = np.take_along_axis(option.value, np.maximum(choice, 0)[:, :, None], axis=2)[:, :, 0]
    total: Float64Array = (value * (choice >= 0)).sum(axis=1)
    return total


def _fitted(world: PlacementWorld, option: Options, log_price: Float64Array) -> tuple[Int64Array, Float64Array]:
    """In passes: all who are left want their best option that still fits; of these, who would lose most by the next best comes first,
    and is served as long as its pools last.
    """
    price = pool_prices(world, log_price)
    cost = least_payments(option, price)
    profit = np.where(option.value > 0, option.value - cost.total, -1.0)
    need, left = _needs(option, cost, price), option.budget * (1.0 - MARGIN)
    choice = np.full(profit.shape[:2], -1, dtype=np.int64)
    rows, of = np.arange(len(profit))[:, None], np.repeat(pools(world), world.devices, axis=0)
    for _ in range(PASSES):
        can = (need <= left[:, of][:, :, None]).all(axis=3) & (choice < 0)[:, :, None]
        open_ = np.where(can, profit, 0.0)
        best, ordered = open_.argmax(axis=2), np.sort(open_, axis=2)
        candidates = ordered[:, :, -1] > 0
        if not candidates.any():
            break
        regret = ordered[:, :, -1] - np.maximum(ordered[:, :, -2], 0.0)
        order = np.argsort(np.where(candidates, -regret, np.inf), axis=1, kind="stable")
        table = np.zeros((*order.shape, left.shape[1]))
        demanded = need[rows, order, best[rows, order]] * candidates[rows, order][:, :, None]
        table[rows[:, :, None], np.arange(order.shape[1])[None, :, None], of[order]] = demanded
        served = ((table.cumsum(axis=1) <= left[:, None]) | (table == 0)).all(axis=2) & candidates[rows, order]
        left -= (table * served[:, :, None]).sum(axis=1)
        row, place = np.nonzero(served)
        choice[row, order[row, place]] = best[row, order[row, place]]
    shares = np.take_along_axis(need, np.maximum(choice, 0)[:, :, None, None], axis=2)[:, :, 0]
    shares *= (choice >= 0)[:, :, None]
    for one in range(len(choice)):
        _fill(option.pick(one), choice[one], shares[one], left[one], price[one], of)
    return choice, shares[:, :, :4]


def _needs(option: Options, cost: Payments, price: Float64Array) -> Float64Array:
    """Parts of the pools that each option demands at these prices: [samples, tasks, options, 6]."""
    parts = np.zeros((*cost.first.shape, RESOURCES))
    parts[..., 0] = cost.first / price[:, :, None, 0]
    parts[..., 1] = cost.second / price[:, :, None, 1]
    half = cost.first.shape[2] // 2
    for resource, values in ((2, cost.clock), (4, cost.space)):
        parts[..., :half, resource] = values[..., :half] / price[:, :, None, resource]
        parts[..., half:, resource + 1] = values[..., half:] / price[:, :, None, resource + 1]
    return parts


def _fill(
    option: Options, choice: Int64Array, shares: Float64Array, left: Float64Array, price: Float64Array, of: Int64Array
) -> None:
    """What room is left goes, in place, to tasks that gain by it: most gain first. A task may split its time again."""
    current = np.where(
        choice >= 0, np.take_along_axis(option.value[0], np.maximum(choice, 0)[:, None], axis=1)[:, 0], 0.0
    )
    gain = option.value[0].max(axis=1) - current
    candidates = np.argsort(-gain, kind="stable")[: int((gain > 0).sum())]
    if not len(candidates):
        return
    fitter, room, pool = Fitter(option), left.tolist(), of.tolist()
    better = np.argsort(-option.value[0], kind="stable", axis=1)
    better[np.take_along_axis(option.value[0], better, axis=1) <= current[:, None]] = -1
    for task in candidates.tolist():
        task_pools, task_shares = pool[task], shares[task].tolist()
        free = [room[p] + s for p, s in zip(task_pools, task_shares, strict=True)]
        for which in better[task].tolist():
            need = None if which < 0 else fitter.need(task, which, free, price[task].tolist())
            if need is not None:
                choice[task], shares[task] = which, need
                for p, f, n in zip(task_pools, free, need, strict=True):
                    room[p] = max(f - n, 0.0)
                break
