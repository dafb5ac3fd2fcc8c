"""Rules that decide without learning, all of them policies: random, the best constant equal shares, greedy in two forms."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np

from kit.sim.channel import Floats
from kit.sim.placement.options import MARGIN, Options, decide, options_of, pools, takes
from kit.sim.placement.world import (
    Decision,
    Models,
    PlacementWorld,
    State,
    Tasks,
    asked,
    empty,
    project,
    sample,
    sample_models,
    step,
)

TRIED = 8  # slots on which the constant rule is chosen


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
    rng = np.random.default_rng(0)
    models, (first, second) = sample_models(world, TRIED, rng), (sample(world, TRIED, rng) for _ in range(2))
    start, found = empty(world, TRIED), {}
    for choice in product(range(world.devices + 1), range(len(world.variants))):
        placed = step(world, models, first, start, _equal(world, first, *choice)).state
        found[choice] = step(world, models, second, placed, _equal(world, second, *choice)).accuracy.sum()
    return max(found, key=lambda choice: found[choice])


def _equal(world: PlacementWorld, tasks: Tasks, homes: int, variant: int) -> Decision:
    home = np.broadcast_to(np.arange(world.tasks) % world.devices < homes, tasks.size_bit.shape)
    chosen = np.where(home, variant, len(world.variants) + variant)
    asking = decide(world, tasks, chosen, np.ones((*home.shape, 4)))
    shares, _, _ = project(world, asked(world, tasks, asking), asking)
    return decide(world, tasks, chosen, np.stack(shares, axis=2) * (1.0 - MARGIN))


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
    """Greedy, but each task takes its time apart so that band and clock of its node would be used up together (:func:`balanced`)."""
    option = options_of(world, models, tasks, state)
    return _one_by_one(world, tasks, option, balanced(world, option))


def half(option: Options) -> Floats:
    """Seconds of sending: half of what a free first hop leaves, and not less than the download."""
    send: Floats = np.maximum((option.fixed_s + option.deadline_s) / 2, option.fetch_s)
    return send


def balanced(world: PlacementWorld, option: Options) -> Floats:
    """Seconds of sending, in proportion to what the task takes of its bands, each times the gateways that share it, against its clock."""
    many = float(world.gateways)
    crowd = 1.0 if world.band == "per_gateway" else many
    sending = option.first_s * crowd + option.second_s * many
    clock = option.compute_s * np.where(option.home, 1.0 if world.pools == "per_gateway" else many, many)
    part = sending / (sending + clock)
    send: Floats = np.maximum(option.fixed_s + part * (option.deadline_s - option.fixed_s), option.fetch_s)
    return send


def _one_by_one(world: PlacementWorld, tasks: Tasks, option: Options, send_s: Floats) -> Decision:
    needs = takes(option, send_s)
    possible = (option.value > 0) & (option.deadline_s > send_s)
    left, rows, of = option.budget * (1.0 - MARGIN), np.arange(len(tasks.size_bit)), pools(world)
    chosen = np.full(tasks.size_bit.shape, -1, dtype=np.int64)
    for place in range(world.tasks):
        gateway = place % world.gateways
        task = gateway * world.devices + place // world.gateways
        need = needs[:, task]
        after = left[:, None, of[gateway]] - need
        fits = (after >= 0.0).all(axis=2) & possible[:, task]
        value = np.where(fits, option.value[:, task], -1.0)
        room = np.where(need > 0, after, np.inf).min(axis=2)
        best = np.where(value == value.max(axis=1, keepdims=True), room, -np.inf).argmax(axis=1)
        served = fits[rows, best]
        chosen[served, task] = best[served]
        left[:, of[gateway]] -= need[rows, best] * served[:, None]
    shares = np.take_along_axis(needs, np.maximum(chosen, 0)[:, :, None, None], axis=2)[:, :, 0]
    return decide(world, tasks, chosen, shares)
