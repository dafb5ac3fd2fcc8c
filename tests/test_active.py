"""What to measure next: a belief shrinks as measurements say, and the choice is the one that shrinks it most."""

from __future__ import annotations

import numpy as np
import pytest
import simulated
from hypothesis import given
from hypothesis import strategies as st

from kit import latency
from kit.latency import active_sampling
from kit.latency.active_sampling import PoolPosterior
from kit.latency.features import arrange
from kit.latency.model import Predictions

pytest.importorskip("scipy")


def random_posterior(seed: int, size: int = 12) -> PoolPosterior:
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((size, size // 2)) * rng.uniform(0.01, 0.3, size)[:, None]
    return PoolPosterior(roots @ roots.T + 1e-6 * np.eye(size), noise=1e-4)


@given(st.integers(0, 200), st.integers(0, 11))
def test_a_measurement_only_takes_uncertainty_away(seed: int, index: int) -> None:
    before = random_posterior(seed)
    after = before.after(index)
    assert np.all(after.variance <= before.variance + 1e-12)
    assert after.variance[index] <= before.noise
    assert np.linalg.eigvalsh(after.covariance).min() > -1e-9


@given(st.integers(0, 200), st.permutations(range(4)))
def test_one_at_a_time_or_all_at_once_is_the_same(seed: int, order: list[int]) -> None:
    pool = random_posterior(seed)
    one_by_one = pool
    for index in order:
        one_by_one = one_by_one.after(8 + index)
    at_once = pool.conditioned(4, np.zeros(4))
    assert np.allclose(one_by_one.covariance[:8, :8], at_once.covariance, atol=1e-9)


@given(st.integers(0, 200))
def test_the_first_choice_is_the_best_of_all(seed: int) -> None:
    posterior = random_posterior(seed)
    chosen = active_sampling.choose(posterior, np.ones(12, dtype=bool), 1)[0]
    left = [posterior.after(i).variance.mean() for i in range(12)]
    assert left[chosen] <= min(left) + 1e-12


def test_only_free_networks_are_chosen_and_each_once() -> None:
    free = np.ones(12, dtype=bool)
    free[[0, 3, 7]] = False
    chosen = active_sampling.choose(random_posterior(1), free, 20)
    assert sorted(chosen) == [1, 2, 4, 5, 6, 8, 9, 10, 11]
    assert not free[[0, 3, 7]].any() and free.sum() == 9  # the caller's array is left alone


def test_weights_say_which_networks_matter() -> None:
    blocks = np.kron(np.eye(2), np.full((3, 3), 0.04)) + 1e-6 * np.eye(6)
    weights = np.array([0.0, 0, 0, 1, 1, 1])
    assert active_sampling.choose(PoolPosterior(blocks, 1e-4), np.ones(6, dtype=bool), 1, weights)[0] >= 3


@given(st.integers(0, 50), st.integers(1, 10))
def test_the_farthest_are_spread_and_depend_on_the_seed_only(seed: int, count: int) -> None:
    x = np.random.default_rng(seed).standard_normal((30, 3))
    free = np.ones(30, dtype=bool)
    chosen = active_sampling.farthest(x, free, count, seed)
    assert chosen == active_sampling.farthest(x, free, count, seed) and len(set(chosen)) == count
    free[chosen] = False
    assert not set(active_sampling.farthest(x, free, 5, seed)) & set(chosen)


def test_the_farthest_of_a_line_are_its_ends() -> None:
    free = np.ones(11, dtype=bool)
    free[5] = False
    assert set(active_sampling.farthest(np.arange(11.0)[:, None], free, 2)) == {0, 10}


def test_the_share_follows_from_the_interval() -> None:
    assert active_sampling.normal_share(1e-12, 0.9, 0.1) == pytest.approx(1.0)
    assert active_sampling.normal_share(float(np.log(1.1)), 0.9, 0.1) == pytest.approx(
        0.9, abs=0.02
    )  # 1 / 1.1 is nearer than 0.9
    wide = np.array([0.5, 0.05])
    predictions = Predictions(np.ones(2), np.exp(-wide), np.exp(wide), wide / 2, (None, None))
    halves = [active_sampling.normal_share(w, 0.9, 0.1) for w in wide.tolist()]
    assert active_sampling.share_within(predictions, 0.9, 0.1) == pytest.approx(np.mean(halves))
    assert active_sampling.undecided(predictions, 1.2).tolist() == [1.0, 0.0]


def test_priors_alone_ask_for_both_precisions_and_many_sizes() -> None:
    nets = [kernels for bits in ("fp32", "int8") for _, kernels in simulated.sample(30, 1, bits)]
    table = arrange(nets)
    chosen = active_sampling.first(active_sampling.pool_posterior(table), 10, seed=3)
    assert len(set(chosen)) == 10 and chosen == active_sampling.first(active_sampling.pool_posterior(table), 10, seed=3)
    assert 3 <= sum(i < 30 for i in chosen) <= 7
    macs = table.total(table.macs)
    assert np.ptp(np.log(macs[chosen])) > 0.6 * np.ptp(np.log(macs))


@pytest.mark.parametrize("count", [4, 12])
def test_a_posterior_knows_what_was_measured(count: int) -> None:
    """With only simple forms fitted (4 records) the priors stand in for the process."""
    nets = simulated.sample(40, 2)
    machine = simulated.Machine()
    table = arrange([kernels for _, kernels in nets])
    model = latency.predictor(machine.profiles(nets[:count]), baselines=False)
    posterior = active_sampling.pool_posterior(table, model)
    assert (model.gaussian_process is None) == (count == 4)
    assert posterior.variance[:count].mean() < 0.5 * posterior.variance[count:].mean()
    free = np.arange(40) >= count
    assert all(i >= count for i in active_sampling.choose(posterior, free, 5))


def test_chosen_networks_teach_more_than_random_ones() -> None:
    machine, pool = simulated.Machine(seed=4), simulated.sample(80, 5) + simulated.sample(80, 5, "int8")
    table = arrange([kernels for _, kernels in pool])
    truth = np.array([machine.seconds(kernels) for _, kernels in pool])

    def error(taken: list[int]) -> float:
        model = latency.predictor(machine.profiles([pool[i] for i in taken]), baselines=False)
        rest = np.setdiff1d(np.arange(len(pool)), taken)
        predicted = model.of_table(table.pick(rest), model_family=active_sampling.richest_family(model)).seconds
        return float(np.mean(np.abs(predicted / truth[rest] - 1)))

    randomly = [error(np.random.default_rng(s).permutation(len(pool))[:12].tolist()) for s in range(3)]
    chosen = [error(active_sampling.first(active_sampling.pool_posterior(table), 12, s)) for s in range(3)]
    assert np.mean(chosen) < np.mean(randomly)


def test_exploration_follows_the_richest_form_that_is_not_rejected() -> None:
    model = latency.predictor(simulated.Machine().profiles(simulated.sample(12, 3)), baselines=False)

    def richest(**p_values: float) -> str:
        scores = [s.model_copy(update={"p_value": p_values.get(s.form, 0.0)}) for s in model.scores]
        return active_sampling.richest_family(model.model_copy(update={"scores": tuple(scores)}))

    assert richest(factor=1.0, roofline=0.2, learned=0.3) == "learned"
    assert richest(factor=1.0, roofline=0.2, learned=0.05) == "roofline"
    assert richest(factor=1.0, learned=0.1) == "factor"
