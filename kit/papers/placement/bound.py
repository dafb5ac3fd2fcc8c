"""A proven upper bound of a slot's accuracy, and its rounding to a decision.

At a price for every pool each task by itself takes the option that earns most after what it pays; the sum of that, plus what all pools
are worth, bounds every decision of the slot from above (weak duality). How a task best splits its time has a closed form: demands
d1 and d2 of two bands at prices p1, p2 and q of a clock at pc cost at least (sqrt(p1 d1) + sqrt(p2 d2) + sqrt(pc q))^2 / T, with the time
in proportion to the roots. So the bound is exact for its prices, wherever they come from.

The prices are the dual values of a linear program (scipy's HiGHS): each column is an option of a task with one way to split its time,
each row a pool or a task. Columns that would pay at the present prices are added until the bound meets the program's value; what is then
between them is in no integer decision. A basic solution splits no more tasks than there are pools, and only these have to be rounded.
For rounding every pool has a small price of its own, so that where there is plenty the program leaves room for the split tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kit.errors import KitError
from kit.papers.placement.options import (
    LEAST_PRICE,
    MARGIN,
    RESOURCES,
    Fitter,
    Options,
    decide,
    demands,
    least_payments,
    options_of,
    pools,
)
from kit.papers.placement.world import Decision, Models, PlacementWorld, State, Tasks
from kit.stats import BoolArray, Float64Array, Int64Array

ROUNDS = 30  # of new columns, at most
DIVES = 4  # of rounding: programs solved, at most
GOOD = 5e-4  # relative: where rounding is near enough to the bound
CLOSE = 1e-4  # relative: where bound and program meet
UNDIVIDED = 1.0 - 1e-6  # part of a task
THRIFT = 2e-3  # for rounding: accuracy that a whole pool is worth where nothing is scarce
SHARES = 4  # of the six resources: bands and clocks
_STARTS = (0.35, 0.55, 0.75)  # of the time for sending: the first columns


@dataclass(frozen=True)
class Solution:
    """One slot's linear program: what it reaches, what nothing exceeds, and its columns that are in use."""

    value: float  # sum of accuracies, less thrift
    bound: float  # sum of accuracies
    prices: Float64Array  # [pools]
    task: Int64Array  # [columns]
    option: Int64Array
    part: Float64Array  # of the task
    demands: Float64Array  # [columns, 6]


def upper_bound(world: PlacementWorld, models: Models, tasks: Tasks, state: State | None = None) -> Float64Array:
    """What no decision's average accuracy exceeds, [samples]: in this state, or, without one, in any.

    It counts completed tasks, so it bounds the strict reward too.
    """
    option, count = options_of(world, models, tasks, state), np.maximum(tasks.present.sum(axis=1), 1)
    bounds = [solve(world, option.pick(row)).bound for row in range(len(count))]
    best: Float64Array = np.array(bounds) / count
    return best


def rounded(world: PlacementWorld, models: Models, tasks: Tasks, state: State, rng: np.random.Generator) -> Decision:
    """The linear program's decision: whole tasks as they are, split and unserved ones by what room is left. A policy."""
    option = options_of(world, models, tasks, state)
    choice = np.full(tasks.size_bit.shape, -1, dtype=np.int64)
    shares = np.zeros((*choice.shape, SHARES))
    for row in range(len(choice)):
        choice[row], shares[row] = _dive(world, option.pick(row))
    return decide(world, tasks, choice, shares)


def solve(world: PlacementWorld, option: Options, *, thrift: float = 0.0, close: float = CLOSE) -> Solution:
    """The linear program of one slot (one sample), to within ``close`` of its bound. A whole pool costs ``thrift``."""
    of = np.repeat(pools(world), world.devices, axis=0)  # [tasks, 6]
    budget, bound, prices = option.budget[0], np.inf, np.ones(option.budget.shape[1])
    possible = (option.value[0] > 0) & (option.deadline_s[0] > 0)
    columns = [
        _columns(
            option, np.maximum(option.fixed_s + f * (option.deadline_s - option.fixed_s), option.fetch_s), possible
        )
        for f in _STARTS
    ]
    for _ in range(ROUNDS):
        task, which, used = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        value, part, task_prices, scarcity = _program(option, of, task, which, used, budget, thrift)
        prices = scarcity + thrift
        profit, send = _priced(option, of, prices)
        served = float(np.maximum(profit, 0.0).max(axis=1).sum())
        bound = min(bound, served + float(prices @ budget))
        if served + float(scarcity @ budget) - value <= close * max(bound, 1e-12):
            break
        columns.append(_columns(option, send[None], possible & (profit > task_prices[:, None] + 1e-9), prices[of]))
    live = part > 1e-9
    return Solution(value, bound, prices, task[live], which[live], part[live], used[live])


def _columns(
    option: Options, send: Float64Array, possible: BoolArray, price: Float64Array | None = None
) -> tuple[Int64Array, Int64Array, Float64Array]:
    """(task, option, what it demands) of the possible ones; sending must leave time to compute."""
    used = demands(option, send, None if price is None else np.maximum(price, LEAST_PRICE))[0]
    task, which = np.nonzero(possible & (send[0] < option.deadline_s[0]))
    return task, which, used[task, which]


def _program(
    option: Options,
    of: Int64Array,
    task: Int64Array,
    which: Int64Array,
    used: Float64Array,
    budget: Float64Array,
    thrift: float,
) -> tuple[float, Float64Array, Float64Array, Float64Array]:
    """(value, parts of the columns, prices of the tasks, prices of the pools). Pools keep their margin."""
    from scipy.optimize import linprog  # here, so that a board, which has no scipy, runs all the other policies
    from scipy.sparse import csr_array, vstack

    columns, tasks = np.arange(len(task)), option.value.shape[1]
    if not len(task):
        return 0.0, np.zeros(0), np.zeros(tasks), np.zeros(len(budget))
    row, resource = np.nonzero(used)
    limits = csr_array((used[row, resource], (of[task[row], resource], row)), shape=(len(budget), len(task)))
    one_of_each = csr_array((np.ones(len(task)), (task, columns)), shape=(tasks, len(task)))
    room = np.concatenate([budget * (1.0 - MARGIN), np.ones(tasks)])
    gain = option.value[0, task, which] - thrift * used.sum(axis=1)
    rows = vstack([limits, one_of_each])
    solved = linprog(-gain, A_ub=rows, b_ub=room, bounds=(0, None), method="highs")  # type: ignore[call-overload]
    if solved.x is None:
        raise KitError(f"The linear program of this slot was not solved: {solved.message}")
    prices = np.maximum(-solved.ineqlin.marginals, 0.0)
    return -float(solved.fun), np.asarray(solved.x), prices[len(budget) :], prices[: len(budget)]


def _priced(option: Options, of: Int64Array, prices: Float64Array) -> tuple[Float64Array, Float64Array]:
    """What each option earns less the least that it pays, and how long it then sends: [tasks, options]."""
    payment = least_payments(option, prices[of][None])
    profit = np.where(option.value[0] > 0, option.value[0] - payment.total[0], -1.0)
    return profit, _inner(option, payment.send_s[0])


def _inner(option: Options, send: Float64Array) -> Float64Array:
    """``send`` moved off the ends of the time, where a pool that costs nothing would be taken without end."""
    low = np.maximum(option.fixed_s[0] + 1e-3 * (option.deadline_s[0] - option.fixed_s[0]), option.fetch_s[0])
    high = np.maximum(option.deadline_s[0] - 1e-3 * (option.deadline_s[0] - low), low)
    inner: Float64Array = np.clip(send, low, high)
    return inner


# -------------------------------------------------------------------------------------------------------------- rounding


def _dive(world: PlacementWorld, option: Options) -> tuple[Int64Array, Float64Array]:
    """(option of each task or -1, its four shares): [tasks], [tasks, 4]. Split tasks are held to their greater part and the program solved
    again, while the decision is far from the bound and gets better.
    """
    best_value, bound, open_ = -1.0, np.inf, option
    best = np.zeros(0, dtype=np.int64), np.zeros(0)
    for _ in range(DIVES):
        solution = solve(world, open_, thrift=THRIFT)
        bound = min(bound, solution.bound)
        choice, shares, part = _round(world, option, solution)
        value = float(
            np.where(choice >= 0, np.take_along_axis(option.value[0], choice[:, None], axis=1)[:, 0], 0).sum()
        )
        if value > best_value:
            best_value, best = value, (choice, shares)
        split = part.max(axis=1) < UNDIVIDED
        if not split.any() or value >= (1.0 - GOOD) * bound:
            break
        lesser = split[:, None] & (np.arange(part.shape[1]) != part.argmax(axis=1)[:, None])
        open_ = replace(open_, value=np.where(lesser[None], -1.0, open_.value))
    return best


def _round(world: PlacementWorld, option: Options, solution: Solution) -> tuple[Int64Array, Float64Array, Float64Array]:
    """(option of each task or -1, its four shares, the program's part of each option): whole tasks stand, the others take what is left."""
    tasks, choices = option.value.shape[1:]
    part, used = np.zeros((tasks, choices)), np.zeros((tasks, choices, RESOURCES))
    np.add.at(part, (solution.task, solution.option), solution.part)
    np.add.at(used, (solution.task, solution.option), solution.part[:, None] * solution.demands)
    used /= np.maximum(part, 1e-12)[:, :, None]
    best = part.argmax(axis=1)
    undivided = part.max(axis=1) >= UNDIVIDED
    of = np.repeat(pools(world), world.devices, axis=0)
    left = option.budget[0] * (1.0 - MARGIN)
    choice, shares = np.where(undivided, best, -1), np.zeros((tasks, SHARES))
    shares[undivided] = used[undivided, best[undivided], :SHARES]
    np.subtract.at(left, of[undivided], used[undivided, best[undivided]])
    left, fitter = np.maximum(left, 0.0), Fitter(option)
    for task in np.flatnonzero(~undivided)[np.argsort(-part[~undivided].max(axis=1), kind="stable")]:
        for which in np.argsort(-option.value[0, task], kind="stable"):
            if option.value[0, task, which] <= 0:
                break
            task_pools = of[task]
            need = fitter.need(int(task), int(which), left[task_pools].tolist(), solution.prices[task_pools].tolist())
            if need is not None:
                choice[task], shares[task] = which, need[:SHARES]
                left[task_pools] = np.maximum(left[task_pools] - need, 0.0)
                break
    return choice, shares, part
