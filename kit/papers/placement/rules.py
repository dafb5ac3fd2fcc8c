"""Rules that decide without learning, all of them policies: random, the best constant equal shares, greedy in two forms."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import inf

import numpy as np

from kit.papers.placement.options import MARGIN, Options, decide, demands, options_of, pools
from kit.papers.placement.world import (
    Decision,
    Models,
    PlacementWorld,
    State,
    Tasks,
    empty,
    sample,
    sample_models,
    step,
)
from kit.papers.streams import generator
from kit.stats import BoolArray, Float64Array, Int64Array

TRIAL_SLOTS = 8  # slots on which the constant rule is chosen
FEW = 3  # samples: up to here plain numbers are faster than arrays


def at_random(world: PlacementWorld, models: Models, tasks: Tasks, state: State, rng: np.random.Generator) -> Decision:
    """Every entry of eq. 13 uniform: the paper's Random."""
    shape, variants = tasks.size_bit.shape, len(world.variants)
    return Decision(
        at_gateway=rng.random(shape) < 0.5,
        variant=rng.integers(0, variants, shape),
        first_share=rng.random(shape),
        second_share=rng.random(shape),
        gateway_share=rng.random(shape),
        edge_share=rng.random(shape),
        keep_gateway=rng.random((*shape, variants)) < 0.5,
        keep_edge=rng.random((*shape, variants)) < 0.5,
    )


def equal_shares(
    world: PlacementWorld, models: Models, tasks: Tasks, state: State, rng: np.random.Generator
) -> Decision:
    """One constant decision: one variant for all, the same first devices of each gateway at home, equal shares of each pool.

    Which variant and how many devices is :func:`constant`'s choice: the rule is the limit of what needs no look at the tasks.
    """
    return _equal(world, tasks, *constant(world))


@lru_cache(maxsize=256)
def constant(world: PlacementWorld) -> tuple[int, int]:
    """(devices of each gateway that stay at home, variant) with the most accuracy under equal shares, models at hand: all are tried on
    the same few slots.
    """
    rng = generator("placement: slots that choose the constant rule", 0)
    models, (first, second) = (
        sample_models(world, TRIAL_SLOTS, rng),
        (sample(world, TRIAL_SLOTS, rng) for _ in range(2)),
    )
    start, accuracy = empty(world, TRIAL_SLOTS), {}
    for choice in product(range(world.devices + 1), range(len(world.variants))):
        placed = step(world, models, first, start, _equal(world, first, *choice)).state
        accuracy[choice] = step(world, models, second, placed, _equal(world, second, *choice)).accuracy.sum()
    return max(accuracy, key=lambda choice: accuracy[choice])


def _equal(world: PlacementWorld, tasks: Tasks, homes: int, variant: int) -> Decision:
    home = np.broadcast_to(np.arange(world.tasks) % world.devices < homes, tasks.size_bit.shape)
    choice = np.where(home, variant, len(world.variants) + variant)
    return decide(world, tasks, choice, np.ones((*home.shape, 4)))


def greedy(world: PlacementWorld, models: Models, tasks: Tasks, state: State, rng: np.random.Generator) -> Decision:
    """One task after the other takes its most accurate option that still fits, at the node that then has more room.

    A task sends for half of its time, or as long as its model's download takes, and computes for the rest: that fixes what it needs of
    band, clock and cache. Room is what is left of the scarcest of the three. A task with no option that fits is turned away. The order is
    first devices first, gateway by gateway, so that no gateway has a better place. Models that are used stay, the others go.
    """
    option = options_of(world, models, tasks, state)
    return _one_by_one(world, tasks, option, half(option))


def greedy_balanced(
    world: PlacementWorld, models: Models, tasks: Tasks, state: State, rng: np.random.Generator
) -> Decision:
    """Greedy, but each task splits its time so that band and clock of its node would be used up together (:func:`balanced`)."""
    option = options_of(world, models, tasks, state)
    return _one_by_one(world, tasks, option, balanced(world, option))


def half(option: Options) -> Float64Array:
    """Seconds of sending: half of what a free first hop leaves, and not less than the download."""
    send: Float64Array = np.maximum((option.fixed_s + option.deadline_s) / 2, option.fetch_s)
    return send


def balanced(world: PlacementWorld, option: Options) -> Float64Array:
    """Seconds of sending, in proportion to what the task takes of its bands, each times the gateways that share it, against its clock."""
    many = float(world.gateways)
    crowd = 1.0 if world.band == "per_gateway" else many
    sending = option.first_s * crowd + option.second_s * many
    clock = option.compute_s * np.where(option.home, 1.0 if world.pools == "per_gateway" else many, many)
    part = sending / (sending + clock)
    send: Float64Array = np.maximum(option.fixed_s + part * (option.deadline_s - option.fixed_s), option.fetch_s)
    return send


def _one_by_one(world: PlacementWorld, tasks: Tasks, option: Options, send_s: Float64Array) -> Decision:
    needs = demands(option, send_s)
    possible = (option.value > 0) & (option.deadline_s > send_s)
    search = _in_plain_numbers if len(needs) <= FEW else _in_arrays
    choice = search(world, option, needs, possible)
    shares = np.take_along_axis(needs, np.maximum(choice, 0)[:, :, None, None], axis=2)[:, :, 0]
    return decide(world, tasks, choice, shares)


def _in_plain_numbers(world: PlacementWorld, option: Options, needs: Float64Array, possible: BoolArray) -> Int64Array:
    """The option of each task or -1, a sample at a time: for one sample, numbers are several times faster than arrays of one."""
    choice, of, order = np.full(possible.shape[:2], -1, dtype=np.int64), pools(world).tolist(), _order(world)
    things = [(0, 2, 4) if home else (0, 1, 3, 5) for home in option.home.tolist()]
    for row in range(len(needs)):
        value = np.where(possible[row], option.value[row], -1.0)
        ranked, values = np.argsort(-value, axis=1, kind="stable").tolist(), value.tolist()
        left, task_needs = (option.budget[row] * (1.0 - MARGIN)).tolist(), needs[row].tolist()
        for task in order:
            pool, best, best_room = of[task // world.devices], -1, -1.0
            for which in ranked[task]:
                worth = values[task][which]
                if worth < 0.0 or (best >= 0 and worth < values[task][best]):
                    break
                need = task_needs[task][which]
                room = min([left[pool[j]] - need[j] for j in things[which] if need[j] > 0.0], default=inf)
                if room >= 0.0 and room > best_room:
                    best, best_room = which, room
            if best >= 0:
                choice[row, task] = best
                need = task_needs[task][best]
                for j in things[best]:
                    left[pool[j]] -= need[j]
    return choice


def _in_arrays(world: PlacementWorld, option: Options, needs: Float64Array, possible: BoolArray) -> Int64Array:
    """The same for all samples at once."""
    left, rows, of = option.budget * (1.0 - MARGIN), np.arange(len(needs)), pools(world)
    choice = np.full(possible.shape[:2], -1, dtype=np.int64)
    for task in _order(world):
        task_pools, need = of[task // world.devices], needs[:, task]
        after = left[:, None, task_pools] - need
        fits = (after >= 0.0).all(axis=2) & possible[:, task]
        value = np.where(fits, option.value[:, task], -1.0)
        room = np.where(need > 0, after, np.inf).min(axis=2)
        best = np.where(value == value.max(axis=1, keepdims=True), room, -np.inf).argmax(axis=1)
        served = fits[rows, best]
        choice[served, task] = best[served]
        left[:, task_pools] -= need[rows, best] * served[:, None]
    return choice


def _order(world: PlacementWorld) -> list[int]:
    """First devices first, gateway by gateway."""
    order: list[int] = np.arange(world.tasks).reshape(world.gateways, world.devices).T.ravel().tolist()
    return order
