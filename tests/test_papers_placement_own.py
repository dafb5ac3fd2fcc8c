"""Kit's own policy for paper C: its prices are a bound, its decisions fit, and it learns the same bits after a kill."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.papers import placement
from kit.papers.placement import Models, PlacementWorld, State, Tasks, own, prices, rules
from kit.papers.placement import world as worlds
from kit.papers.placement.options import demands, least_payments, options_of

SEEDS = st.integers(0, 2**32 - 1)
SMALL = {
    "gateways": 3, "devices": 4, "band_hz": 0.4e6, "edge_band_hz": 0.6e6, "gateway_hz": 0.1e9, "edge_hz": 0.17e9,
    "gateway_cache_bytes": 30e6, "edge_cache_bytes": 65e6,
}  # fmt: skip
OPTIONS = {
    "pools": st.sampled_from(["per_gateway", "literal"]),
    "band": st.sampled_from(["shared", "per_gateway"]),
    "first_hop": st.sampled_from(["free", "counted"]),
}


def scene(world: PlacementWorld, seed: int, samples: int = 2) -> tuple[Models, Tasks, State]:
    """The state that a few random slots leave; some devices are without a task."""
    rng = np.random.default_rng(seed)
    models, state = placement.sample_models(world, samples, rng), placement.empty(world, samples)
    for _ in range(int(rng.integers(0, 3))):
        tasks = placement.sample(world, samples, rng)
        state = placement.step(world, models, tasks, state, placement.at_random(world, models, tasks, state, rng)).state
    tasks = placement.sample(world, samples, rng)
    gains = (rng.uniform(2, 9, tasks.size_bit.shape) for _ in range(2))
    size = tasks.size_bit * (rng.random(tasks.size_bit.shape) < 0.9)
    return models, Tasks(size, tasks.deadline_s, tasks.noisy, *gains), state


def wild(seed: int) -> prices.PriceFunction:
    """A network that has learned nothing and moves prices far."""
    return own.network_of(own.PriceNetwork(seed))


# ------------------------------------------------------------------------------------------------------------- decisions


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_whatever_the_network_says_the_decision_fits_and_what_is_accepted_is_completed(seed: int) -> None:
    world = own.drawn(np.random.default_rng(seed))
    models, tasks, state = scene(world, seed)
    network = wild(seed)
    for factor in (1.0, 30.0):
        policy = prices.policy_of(lambda x, factor=factor: factor * network(x))
        decision = policy(world, models, tasks, state, np.random.default_rng(0))
        accepted = worlds.accepted_tasks(world, tasks, decision)
        _, c4, c5 = worlds.project(world, accepted, decision)
        outcome = placement.step(world, models, tasks, state, decision)
        assert c4.all() and c5.all() and outcome.satisfied[:, 3].all()
        assert (outcome.completed == accepted).all()


@given(SEEDS, st.fixed_dictionaries(OPTIONS))
@settings(max_examples=10, deadline=None)
def test_no_decision_is_above_the_bound(seed: int, changes: dict[str, Any]) -> None:
    world = PlacementWorld(**{**SMALL, **changes})
    models, tasks, state = scene(world, seed)
    decision = prices.policy_of(wild(seed))(world, models, tasks, state, np.random.default_rng(0))
    reward = placement.step(world, models, tasks, state, decision).reward
    assert (reward <= placement.upper_bound(world, models, tasks, state) + 1e-9).all()


def permuted(value: Any, order: Any) -> Any:
    """Tasks, models or a state with the devices in another order."""
    return type(value)(**{f.name: getattr(value, f.name)[:, order] for f in fields(value)})


@given(SEEDS, st.fixed_dictionaries(OPTIONS))
@settings(max_examples=20, deadline=None)
def test_devices_in_another_order_get_the_same_and_samples_do_not_mix(seed: int, changes: dict[str, Any]) -> None:
    world = PlacementWorld(**{**SMALL, **changes})
    models, tasks, state = scene(world, seed)
    policy, rng = prices.policy_of(wild(seed)), np.random.default_rng(seed)
    inside = [g * world.devices + rng.permutation(world.devices) for g in range(world.gateways)]
    order = np.concatenate([inside[g] for g in rng.permutation(world.gateways)])
    one = policy(world, models, tasks, state, rng)
    other = policy(world, *(permuted(v, order) for v in (models, tasks, state)), rng)
    alone = policy(world, *(_row(v, 1) for v in (models, tasks, state)), rng)
    for name in (f.name for f in fields(one)):
        assert getattr(other, name) == pytest.approx(getattr(one, name)[:, order], rel=1e-4, abs=1e-9), name
        assert getattr(alone, name) == pytest.approx(getattr(one, name)[1:], rel=1e-4, abs=1e-9), name


def _row(value: Any, row: int) -> Any:
    return type(value)(**{f.name: getattr(value, f.name)[row : row + 1] for f in fields(value)})


def test_a_decision_sees_no_later_slot() -> None:
    world, policy = PlacementWorld(**SMALL), prices.policy_of(wild(1))
    long, short = (placement.run(world, policy, slots=slots, seed=3) for slots in (4, 2))
    assert all(np.array_equal(a.accuracy, b.accuracy) for a, b in zip(long, short, strict=False))


def test_caches_keep_what_costs_little_room_and_nothing_that_is_not_there() -> None:
    world = PlacementWorld(**SMALL)
    models, tasks, state = scene(world, 5)
    absent = replace(tasks, size_bit=np.zeros_like(tasks.size_bit))
    option = options_of(world, models, absent, state)
    choice, shares = prices.fit(world, option, np.zeros((2, 3, 6)))
    assert (choice == -1).all() and not shares.any()
    idle = placement.decide(world, absent, choice, shares)
    for log_price, caches in ((prices.LOWEST, state), (prices.HIGHEST, placement.empty(world, 2))):
        decision = prices.with_caches(world, models, state, idle, choice, np.full((2, 3, 6), log_price))
        assert np.array_equal(decision.keep_gateway, caches.gateway) and np.array_equal(decision.keep_edge, caches.edge)


@given(SEEDS, st.fixed_dictionaries(OPTIONS))
@settings(max_examples=30, deadline=None)
def test_greedy_in_plain_numbers_decides_as_in_arrays(seed: int, changes: dict[str, Any]) -> None:
    world = PlacementWorld(**{**SMALL, **changes})
    models, tasks, state = scene(world, seed, samples=3)
    option = options_of(world, models, tasks, state)
    for send in (rules.half(option), rules.balanced(world, option)):
        needs, possible = demands(option, send), (option.value > 0) & (option.deadline_s > send)
        options = rules._in_plain_numbers(world, option, needs, possible)
        assert np.array_equal(options, rules._in_arrays(world, option, needs, possible))
        assert (options >= 0).any()


# ------------------------------------------------------------------------------------------------------- prices and loss


@given(SEEDS, st.fixed_dictionaries(OPTIONS))
@settings(max_examples=10, deadline=None)
def test_any_prices_are_a_bound_and_its_slope_is_what_is_free_less_what_is_bought(
    seed: int, changes: dict[str, Any]
) -> None:
    world = PlacementWorld(**{**SMALL, **changes})
    models, tasks, state = scene(world, seed)
    tasks = replace(tasks, size_bit=np.maximum(tasks.size_bit, 4e5))  # the bound counts those who are there
    option, rng = options_of(world, models, tasks, state), np.random.default_rng(seed)
    together = prices.shared(world)
    log_price = np.where(together, rng.uniform(-5, -1, (2, 1, 6)), rng.uniform(-5, -1, (2, 3, 6)))
    at = prices.market(world, option, log_price, 0.01)
    assert (at.earned + at.worth.sum(axis=2).mean(axis=1) >= placement.upper_bound(world, models, tasks, state)).all()
    for thing in range(6):
        move = np.zeros((2, 3, 6))
        move[:, slice(None) if together[thing] else 1, thing] = 1e-5
        high, low = (prices.market(world, option, log_price + sign * move, 0.01).dual for sign in (1, -1))
        expected = (at.slope * move).sum(axis=(1, 2)) / world.gateways
        assert (high - low) / 2 == pytest.approx(expected, rel=1e-3, abs=1e-10)


def test_what_an_option_takes_is_what_it_pays_over_the_price() -> None:
    world = PlacementWorld(**SMALL, first_hop="counted")
    models, tasks, state = scene(world, 2)
    option = options_of(world, models, tasks, state)
    price = prices.pool_prices(world, np.full((2, 3, 6), -3.0))
    cost = least_payments(option, price)
    for row in range(2):
        expected, usable = demands(option.pick(row), cost.send_s[row][None], price[row])[0], option.value[row] > 0
        assert prices._needs(option, cost, price)[row][usable] == pytest.approx(expected[usable], rel=1e-9)


def test_the_loss_has_the_slope_for_its_gradient() -> None:
    world = PlacementWorld(**SMALL)
    models, tasks, state = scene(world, 4)
    at = prices.market(world, options_of(world, models, tasks, state), np.full((2, 3, 6), -3.0), 0.01)
    move = torch.zeros((6, 6), requires_grad=True)
    own.dual_loss(world, at, move).backward()
    assert move.grad is not None
    turnover = (at.spent + at.worth).mean(axis=(1, 2), keepdims=True)
    assert move.grad.numpy().reshape(2, 3, 6) == pytest.approx(at.slope / turnover / 36, rel=1e-4, abs=1e-8)


# --------------------------------------------------------------------------------------------------------------- learning


def test_learning_lowers_the_bound_of_slots_that_it_has_not_seen() -> None:
    world = PlacementWorld(**{**SMALL, "devices": 8, "edge_hz": 0.12e9})
    network, losses = own.train(world, seed=1, steps=60)
    assert losses[-10:].mean() < losses[:10].mean() - 0.02
    models, tasks, state = scene(world, 8, samples=8)
    option = options_of(world, models, tasks, state)
    before, after = (
        prices.market(world, option, prices.log_prices(n, world, option), prices.softness(prices.ROUNDS)).dual.mean()
        for n in (wild(1), own.network_of(network))
    )
    assert after < before - 0.02


def test_a_run_that_goes_on_after_a_kill_ends_with_the_same_bits(tmp_path: Path) -> None:
    world, steps = PlacementWorld(**SMALL), 4
    uninterrupted, losses = own.train(world, seed=2, steps=steps)

    class Killed(Exception):
        pass

    def stop(steps_done: int, of: int, loss: float) -> None:
        raise Killed

    first_part = own.PriceNetwork(2)
    learner = own.DualLearner(first_part, steps, 2, world)
    first = [learner.step(k) for k in range(2)]
    again = own.DualLearner(own.PriceNetwork(5), steps, 2, world)
    again.restore(learner.state())
    assert [*first, *(again.step(k) for k in (2, 3))] == losses.tolist()
    for one, other in zip(uninterrupted.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(Killed):
        own.train(world, seed=2, steps=steps, checkpoint=tmp_path / "c.npz", progress=stop)


def test_one_network_serves_every_drawn_world() -> None:
    network, rng = wild(0), np.random.default_rng(0)
    sizes = set()
    for _ in range(20):
        world = own.drawn(rng)
        sizes.add((world.gateways, world.devices, len(world.variants)))
        models, tasks, state = scene(world, 0, samples=1)
        log_prices = prices.log_prices(network, world, options_of(world, models, tasks, state))
        assert log_prices.shape == (1, world.gateways, 6) and np.isfinite(log_prices).all()
        assert np.ptp(log_prices[:, :, prices.shared(world)], axis=1) == pytest.approx(0)
    assert len(sizes) > 10


def test_the_exported_network_answers_as_torch_and_numpy_do() -> None:
    ort = pytest.importorskip("onnxruntime")
    network = own.PriceNetwork(3)
    session = ort.InferenceSession(own.export(network), providers=["CPUExecutionProvider"])
    for rows in (1, 7):
        x = np.random.default_rng(rows).normal(size=(rows, prices.INPUTS)).astype(np.float32)
        expected = network(torch.from_numpy(x)).detach().numpy()
        assert own.network_of(network)(x) == pytest.approx(expected, abs=1e-5)
        assert session.run(None, {session.get_inputs()[0].name: x})[0] == pytest.approx(expected, abs=1e-5)


def test_nothing_of_a_pool_that_is_used_is_left_over() -> None:
    world = PlacementWorld(**SMALL)
    models, tasks, state = scene(world, 2)
    decision = prices.policy_of(wild(0))(world, models, tasks, state, np.random.default_rng(0))
    for name in ("first_share", "second_share", "edge_share"):
        sums = getattr(decision, name).sum(axis=1)
        assert np.all((sums == 0) | np.isclose(sums, 1.0, atol=1e-6)) and np.all(sums <= 1.0)
