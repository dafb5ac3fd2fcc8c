"""Which tasks to offload: the plain rules, the exhaustive optimum, the flips-and-swaps reference, and how many of a ranking.

The reference changes one decision at a time, or swaps an offloaded task for one at home, and takes the best change until none helps, each
time with the best band and server shares. What a change would cost is first bounded from below: at any price of the band, what the tasks
pay by themselves less the band's worth is a lower bound of their best split (weak duality), and it is a sum over the tasks, so all N
flips and up to N * N / 4 swaps are bounded at a handful of prices by additions. Only changes whose bound lies below the present cost are
computed exactly, so where the search ends, no flip and no swap helps: proven, not sampled.

The same bounds make a network's ranking of the tasks a decision (``likeliest``): along a ranking they are running sums, so all N + 1
numbers of offloaded tasks are compared for little more than one cost takes.
"""

from __future__ import annotations

import numpy as np

from kit.errors import UsageError
from kit.papers.channel import best_split, log_price_of, priced_split, sending_s
from kit.papers.offloading.allocate import Goal, Prices, least_costs, prices_of
from kit.papers.offloading.world import FREE, Inference, OffloadingWorld, Tasks
from kit.stats import BoolArray, Float64Array, Int64Array

EXHAUSTIVE_USERS = 16
EXACT_AT_ONCE = 4  # of the changes with the lowest bounds
PRICES = 8  # of the band, at which changes are bounded
GAIN = 1e-12  # relative: less is rounding
SPAN = 1.0  # of the logarithm of the band's price, to either side of a ranking's own guess
ROWS = 512  # samples searched together: the bounds of their swaps stay within some 10 MB


def all_local(tasks: Tasks) -> BoolArray:
    """Nobody offloads."""
    return np.zeros(tasks.size_bit.shape, dtype=bool)


def all_offloaded(tasks: Tasks) -> BoolArray:
    """Everyone who has a task offloads it."""
    return tasks.present


def at_random(tasks: Tasks, rng: np.random.Generator) -> BoolArray:
    """Each task by the toss of a coin (paper B, section V.B)."""
    return (rng.random(tasks.size_bit.shape) < 0.5) & tasks.present


def half(tasks: Tasks, rng: np.random.Generator) -> BoolArray:
    """Exactly half of each slot's tasks (rounded down), drawn at random."""
    draws = np.where(tasks.present, rng.random(tasks.size_bit.shape), 2.0)
    rank = draws.argsort(axis=1).argsort(axis=1)
    offloaded: BoolArray = rank < tasks.present.sum(axis=1, keepdims=True) // 2
    return offloaded


def exhaustive(
    world: OffloadingWorld, tasks: Tasks, inference: Inference = FREE, *, over: Goal = "cost"
) -> tuple[BoolArray, Float64Array]:
    """(decision [samples, users], joint cost [samples]): the least over all 2^N decisions. Raises UsageError beyond 16 users.

    ``over`` another goal: the sum of its delays in seconds.
    """
    users = tasks.size_bit.shape[1]
    if users > EXHAUSTIVE_USERS:
        raise UsageError(
            f"{users} users have 2^{users} decisions: ask for at most {EXHAUSTIVE_USERS}, or use flips_and_swaps."
        )
    every = (np.arange(2**users)[:, None] >> np.arange(users) & 1).astype(bool)
    prices = prices_of(world, tasks, inference, over=over)
    decision, cost = np.zeros_like(tasks.present), np.empty(len(tasks.size_bit))
    for row in range(len(cost)):
        allowed = every[~(every & ~tasks.present[row]).any(axis=1)]
        costs = least_costs(world, prices.pick(np.full(len(allowed), row)), allowed)
        decision[row], cost[row] = allowed[costs.argmin()], costs.min()
    return decision, cost


def flips_and_swaps(
    world: OffloadingWorld,
    tasks: Tasks,
    inference: Inference = FREE,
    *,
    start: BoolArray | None = None,
    over: Goal = "cost",
) -> tuple[BoolArray, Float64Array]:
    """(decision [samples, users], joint cost [samples]): no single flip and no swap of two tasks lowers the cost any further.

    ``over`` another goal: the sum of its delays in seconds.
    Without a ``start`` it is run from all tasks offloaded and from each task's own better place under equal shares; the better one counts.
    """
    prices = prices_of(world, tasks, inference, over=over)
    starts = [start & tasks.present] if start is not None else [tasks.present, _alone(world, prices, tasks.present)]
    descents = [_descend(world, prices, tasks.present, s) for s in starts]
    decisions, costs = (np.stack(parts) for parts in zip(*descents, strict=True))
    place = costs.argmin(axis=0), np.arange(costs.shape[1])
    return decisions[place], costs[place]


def likeliest(
    world: OffloadingWorld, tasks: Tasks, probability: Float64Array, inference: Inference = FREE
) -> BoolArray:
    """The tasks that are likeliest to be offloaded, as many of them as cost least together: [samples, users], as ``probability``.

    Each number's cost is taken at its lower bound, the highest of a few prices around that of the tasks from a half on.
    """
    prices, present = prices_of(world, tasks, inference), tasks.present
    order = np.where(present, -probability, np.inf).argsort(axis=1, kind="stable")

    def summed(part: Float64Array) -> Float64Array:
        sums = np.zeros((part.shape[0], part.shape[1] + 1))
        np.cumsum(np.take_along_axis(part, order, axis=1), axis=1, out=sums[:, 1:])
        return sums

    guess = _present_price(world, prices, (probability >= 0.5) & present)
    sending = np.zeros((len(order), order.shape[1] + 1))
    for place in np.linspace(-SPAN, SPAN, PRICES):
        _, paid = priced_split(prices.band, prices.reach_hz, guess + place)
        np.maximum(sending, summed(paid) - np.exp(guess + place) * world.band_hz, out=sending)
    roots = summed(np.sqrt(prices.server))
    cost = sending + roots * roots / world.server_hz + summed(prices.joining - prices.local)
    offloaded: BoolArray = (order.argsort(axis=1) < cost.argmin(axis=1)[:, None]) & present
    return offloaded


def joined_costs(
    world: OffloadingWorld, tasks: Tasks, offloaded: BoolArray, inference: Inference = FREE
) -> Float64Array:
    """C_edge of every task, eq. 25: of an offloaded one as it is, of one at home if it alone joined, all shares best: [samples, users]."""
    rows, user = np.nonzero(tasks.present)
    prices, joined = prices_of(world, tasks, inference).pick(rows), _with(offloaded[rows], user, True)
    joiner = np.arange(len(rows)), user
    split = best_split(np.where(joined, prices.band, 0.0), prices.reach_hz, world.band_hz)
    roots = np.where(joined, np.sqrt(prices.server), 0.0).sum(axis=1)
    cost = np.zeros_like(tasks.size_bit)
    cost[rows, user] = prices.joining[joiner] + sending_s(prices.band[joiner], split[joiner], prices.reach_hz[joiner])
    cost[rows, user] += np.sqrt(prices.server[joiner]) * roots / world.server_hz
    return cost


def burdens(
    world: OffloadingWorld, tasks: Tasks, offloaded: BoolArray, worth: Float64Array, inference: Inference = FREE
) -> Float64Array:
    """What each task's being offloaded adds to the C_edge (eq. 25) of all others, each of theirs times its ``worth``: [samples, users].

    Exact for the server; for the band to first order, by its price, which rises alike for all.
    """
    prices = prices_of(world, tasks, inference)
    log_price = _present_price(world, prices, offloaded)
    bought, _ = priced_split(prices.band, prices.reach_hz, log_price)
    roots = np.sqrt(prices.server)

    def others(part: Float64Array) -> Float64Array:
        sums: Float64Array = (worth * part).sum(axis=1, keepdims=True) - worth * part
        return sums

    taken: Float64Array = roots * others(roots) / world.server_hz
    taken += bought * others(bought) * np.exp(log_price) / world.band_hz
    return np.where(tasks.present, taken, 0.0)


def marginal_costs(
    world: OffloadingWorld, tasks: Tasks, offloaded: BoolArray, inference: Inference = FREE
) -> Float64Array:
    """What each task's being offloaded adds to the cost of all, against its staying at home, the others as they are: [samples, users].

    Below zero, offloading it pays for everyone together; eq. 23 sees its own cost alone and so offloads too much.
    """
    rows, user = np.nonzero(tasks.present)
    prices = prices_of(world, tasks, inference).pick(rows)
    joined, home = (_with(offloaded[rows], user, value) for value in (True, False))
    cost = np.zeros_like(tasks.size_bit)
    cost[rows, user] = least_costs(world, prices, joined) - least_costs(world, prices, home)
    return cost


def _with(decisions: BoolArray, user: Int64Array, value: bool) -> BoolArray:
    changed: BoolArray = decisions.copy()
    changed[np.arange(len(user)), user] = value
    return changed


def _alone(world: OffloadingWorld, prices: Prices, present: BoolArray) -> BoolArray:
    """What each task would choose if everyone had the same share of everything."""
    users = np.maximum(present.sum(axis=1, keepdims=True), 1)
    sending = sending_s(prices.band, np.broadcast_to(world.band_hz / users, present.shape), prices.reach_hz)
    better: BoolArray = (prices.joining + sending + prices.server * users / world.server_hz < prices.local) & present
    return better


def _descend(
    world: OffloadingWorld, prices: Prices, present: BoolArray, start: BoolArray
) -> tuple[BoolArray, Float64Array]:
    decision, cost = start.copy(), least_costs(world, prices, start)
    for first in range(0, len(cost), ROWS):
        rows = np.arange(first, min(first + ROWS, len(cost)))
        tried = np.zeros((len(rows), present.shape[1] ** 2), dtype=bool)
        while len(rows):
            moved, open_ = _step(world, prices.pick(rows), present[rows], decision, cost, rows, tried)
            tried[moved] = False
            rows, tried = rows[open_], tried[open_]
    return decision, cost


def _step(
    world: OffloadingWorld,
    prices: Prices,
    present: BoolArray,
    decision: BoolArray,
    cost: Float64Array,
    rows: Int64Array,
    tried: BoolArray,
) -> tuple[BoolArray, BoolArray]:
    """One change for every sample that has one: (which changed, which may have another). Changes ``decision``, ``cost`` and ``tried``."""
    users, each = present.shape[1], np.arange(len(rows))[:, None]
    bound = _bounds(world, prices, present, decision[rows]).reshape(len(rows), -1)
    bound[tried] = np.inf
    best = np.argpartition(bound, EXACT_AT_ONCE - 1, axis=1)[:, :EXACT_AT_ONCE] if users > 1 else np.zeros_like(each)
    hopeful = bound[each, best] < cost[rows, None] * (1.0 - GAIN)
    tried[each, best] = True
    sample, place = np.nonzero(hopeful)
    out, in_ = np.divmod(best[sample, place], users)
    changed = decision[rows[sample]]
    line = np.arange(len(sample))
    changed[line, out] ^= True
    changed[line, in_] ^= out != in_
    exact = np.full(best.shape, np.inf)
    exact[sample, place] = least_costs(world, prices.pick(sample), changed)
    winner = exact.argmin(axis=1)
    moved = exact.min(axis=1) < cost[rows] * (1.0 - GAIN)
    cost[rows[moved]] = exact.min(axis=1)[moved]
    change_index = np.full(best.shape, -1)
    change_index[sample, place] = line
    decision[rows[moved]] = changed[change_index[each[:, 0], winner][moved]]
    return moved, moved | hopeful.all(axis=1)


def _bounds(world: OffloadingWorld, prices: Prices, present: BoolArray, decision: BoolArray) -> Float64Array:
    """A lower bound of the cost after each change: [samples, users, users], flips on the diagonal, swaps (out, in) off it."""
    log_price = _present_price(world, prices, decision)
    band, _ = priced_split(prices.band, prices.reach_hz, log_price)
    part = band.max(axis=1, keepdims=True) / world.band_hz
    low, high = 2.0 * np.log1p(-np.minimum(part, 0.9)), 2.0 * np.log1p(part)
    sign = np.where(decision, -1.0, 1.0)
    sending = np.full((*decision.shape, decision.shape[1]), -np.inf)
    for place in np.linspace(0.0, 1.0, PRICES):
        price = log_price + low + place * (high - low)
        _, paid = priced_split(prices.band, prices.reach_hz, price)
        base = np.where(decision, paid, 0.0).sum(axis=1, keepdims=True) - np.exp(price) * world.band_hz
        np.maximum(sending, _changes(sign * paid) + base[:, :, None], out=sending)
    roots = np.sqrt(prices.server)
    server = _changes(sign * roots) + np.where(decision, roots, 0.0).sum(axis=1)[:, None, None]
    fixed = _changes(sign * (prices.joining - prices.local))
    fixed += np.where(decision, prices.joining, prices.local).sum(axis=1)[:, None, None]
    bound: Float64Array = np.maximum(sending, 0.0) + server * server / world.server_hz + fixed
    allowed = decision[:, :, None] & (present & ~decision)[:, None, :]
    allowed |= np.eye(decision.shape[1], dtype=bool) & present[:, :, None]
    bound[~allowed] = np.inf
    return bound


def _changes(change: Float64Array) -> Float64Array:
    """Sums of the changes of two users, and of one on the diagonal: [samples, users, users]."""
    both = change[:, :, None] + change[:, None, :]
    line = np.arange(change.shape[1])
    both[:, line, line] = change
    return both


def _present_price(world: OffloadingWorld, prices: Prices, decision: BoolArray) -> Float64Array:
    """The logarithm of what a hertz is worth now; where nobody has any, what the first one would pay, on average."""
    demand = np.where(decision, prices.band, 0.0)
    now = log_price_of(demand, prices.reach_hz, best_split(demand, prices.reach_hz, world.band_hz))
    full_band = np.full_like(prices.band, world.band_hz)
    first = log_price_of(prices.band, prices.reach_hz, full_band)
    price: Float64Array = np.where(np.isfinite(now), now, np.where(np.isfinite(first), first, 0.0))
    return price
