from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import stats


def test_quantile_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        stats.quantile([], 0.5)


@pytest.mark.parametrize(("count", "level"), [(3, 0.75), (5, 0.9375), (6, 0.95), (8, 0.95), (10, 0.95), (25, 0.95)])
@pytest.mark.parametrize("draw", ["normal", "skewed"])
def test_the_interval_covers_the_median_as_often_as_it_says(count: int, level: float, draw: str) -> None:
    rng = np.random.default_rng(count)
    truth = 0.0 if draw == "normal" else 1.0  # the median of exp(normal)
    trials, covered = 2000, 0
    for _ in range(trials):
        values = rng.standard_normal(count)
        low, high, said = stats.median_interval(list(values if draw == "normal" else np.exp(values)))
        assert said == pytest.approx(level)
        covered += low <= truth <= high
    assert covered / trials == pytest.approx(level, abs=0.02)


def test_one_wild_value_does_not_move_the_interval_of_ten() -> None:
    calm = [1.0, 1.001, 1.002, 1.003, 1.004, 1.005, 1.006, 1.007, 1.008]
    assert stats.median_interval([*calm, 1.009])[1] == pytest.approx(stats.median_interval([*calm, 9.0])[1])


def test_the_interval_of_one_value_is_no_confidence_at_all() -> None:
    assert stats.median_interval([2.0]) == (2.0, 2.0, 0.0)
    with pytest.raises(ValueError, match="no values"):
        stats.median_interval([])


def test_spread() -> None:
    assert stats.spread([1.0]) == 0.0
    assert stats.spread([1.0, 1.0, 2.0, 3.0, 3.0]) == pytest.approx(1.0)


def test_drift_and_nearness() -> None:
    assert stats.halves_drift([1, 1, 1, 1.1, 1.1, 1.1]) == pytest.approx(0.1)
    assert stats.halves_drift([1, 2]) == 0.0
    assert stats.share_near_median([1, 1, 1, 1.04, 2]) == pytest.approx(0.8)
    assert stats.share_near_median([1, 1, 1, 1.06, 0.94]) == pytest.approx(0.6)


def test_the_half_sample_mode_is_its_definition() -> None:
    """Robertson and Cryer: the shortest interval of ceil(n / 2) values, again and again; the first of equal ones."""

    def mode(values: list[float]) -> float:
        if len(values) == 3:
            return sum(values[:2] if values[1] - values[0] <= values[2] - values[1] else values[1:]) / 2
        if len(values) < 3:
            return sum(values) / len(values)
        half = -(-len(values) // 2)
        return mode(min((values[i : i + half] for i in range(len(values) - half + 1)), key=lambda v: v[-1] - v[0]))

    rng = np.random.default_rng(0)
    for n in range(1, 60):
        values = rng.lognormal(0, 1, n).tolist()
        assert stats.half_sample_mode(values) == pytest.approx(mode(sorted(values)))


def test_a_bootstraps_ends_cut_the_same_share_off_on_both_sides() -> None:
    """The mean of two redrawn groups, 0 and 1, is 0 or 1 in a quarter of the cases each."""
    groups = [np.array([0.0]), np.array([1.0])]
    for confidence, ends in ((0.4, (0.5, 0.5)), (0.6, (0.0, 1.0)), (0.95, (0.0, 1.0))):
        assert (
            stats.bootstrap_over_groups(groups, lambda v: float(v.mean()), confidence=confidence, resamples=2000)
            == ends
        )


def test_r_squared() -> None:
    measured = np.array([1.0, 2.0, 3.0])
    assert stats.r_squared(measured, measured) == 1.0
    assert stats.r_squared(np.full(3, 2.0), measured) == 0.0
    assert stats.r_squared(measured, np.ones(3)) is None


@pytest.mark.parametrize(
    ("queries", "discarded"), [(64, 0), (2048, 172), (2116, 178), (2145, 181), (7469, 685), (4776846, 476158)]
)
def test_early_stopping_discards_as_many_as_loadgen_printed(queries: int, discarded: int) -> None:
    """Published LoadGen logs say "Would discard ... highest latency queries" for a p90 at 99 %."""
    assert stats.overlatency_allowed(queries, 0.90) - 1 == discarded


def test_early_stopping_asks_for_loadgen_s_least_queries() -> None:
    assert stats.queries_needed(1, 0.90) == 64 and stats.queries_needed(1, 0.99) == 662
    assert stats.queries_needed(0, 0.99) == 459
    assert stats.early_stopping(range(63), 0.90) is None and stats.early_stopping(range(64), 0.90) == 63


@given(st.integers(0, 40), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_queries_needed_are_the_fewest(misses: int, percentile: float) -> None:
    needed = stats.queries_needed(misses, percentile)
    assert stats.overlatency_allowed(needed, percentile) >= misses > stats.overlatency_allowed(needed - 1, percentile)


@settings(deadline=None)  # the first example imports scipy
@given(st.integers(1, 4000), st.sampled_from([0.5, 0.9, 0.99]))
def test_what_is_allowed_is_the_binomial_bound(queries: int, percentile: float) -> None:
    binom = pytest.importorskip("scipy.stats").binom
    allowed = stats.overlatency_allowed(queries, percentile)
    assert allowed < 0 or binom.cdf(allowed, queries, 1 - percentile) <= 0.01
    assert binom.cdf(allowed + 1, queries, 1 - percentile) > 0.01


@pytest.mark.parametrize(("count", "percentile"), [(64, 0.9), (500, 0.9), (662, 0.99)])
def test_the_early_stopping_estimate_is_an_upper_bound_as_often_as_it_says(count: int, percentile: float) -> None:
    rng = np.random.default_rng(count)
    truth = -np.log(1 - percentile)  # of the exponential distribution
    found = [stats.early_stopping(rng.exponential(size=count), percentile) for _ in range(2000)]
    assert np.mean([value is not None and value >= truth for value in found]) >= 0.985


def test_hodges_lehmann_by_hand() -> None:
    shift, low, high, confidence = stats.hodges_lehmann([1, 2, 3], [11, 12, 14])
    assert (shift, low, high) == (10.0, 8.0, 13.0) and confidence == pytest.approx(0.9)
    assert stats.hodges_lehmann([1], [2])[3] == 0.0
    with pytest.raises(ValueError, match="no values"):
        stats.hodges_lehmann([], [1.0])


@pytest.mark.parametrize(("n", "m"), [(5, 5), (6, 6), (6, 10), (10, 10)])
@pytest.mark.parametrize("draw", ["normal", "heavy", "skewed"])
def test_the_interval_of_a_ratio_covers_it_as_often_as_it_says(n: int, m: int, draw: str) -> None:
    rng = np.random.default_rng(n * m)
    draws = {"normal": rng.standard_normal, "heavy": lambda k: rng.standard_t(2, k), "skewed": rng.standard_exponential}
    trials, covered = 1500, 0
    for _ in range(trials):
        a, b = np.exp(0.02 * draws[draw](n)), 1.1 * np.exp(0.02 * draws[draw](m))
        _, low, high, said = stats.ratio_interval(list(a), list(b))
        assert said >= 0.95
        covered += low <= 1.1 <= high
    assert covered / trials == pytest.approx(said, abs=0.02)


@given(st.integers(1, 12), st.integers(1, 12))
def test_the_rank_sum_distribution_is_a_distribution(n: int, m: int) -> None:
    below = stats._rank_sum_cdf(n, m)
    assert len(below) == n * m + 1 and below[-1] == pytest.approx(1.0)
    assert np.allclose(np.diff(np.concatenate(([0.0], below))), np.diff(np.concatenate(([0.0], below)))[::-1])


def test_the_rank_sum_distribution_is_scipy_s() -> None:
    scipy = pytest.importorskip("scipy.stats")
    a, b = [1.0, 2.0, 6.0, 7.0, 8.0], [3.0, 4.0, 5.0, 9.0, 10.0, 11.0]
    u = sum(x > y for x in b for y in a)
    exact = scipy.mannwhitneyu(b, a, alternative="less", method="exact")
    assert exact.statistic == u and stats._rank_sum_cdf(5, 6)[u] == pytest.approx(exact.pvalue)


def test_a_ratio_needs_values_above_zero() -> None:
    with pytest.raises(ValueError, match="above zero"):
        stats.ratio_interval([1.0], [0.0])


def test_clustered_events_count_less() -> None:
    groups = np.array([0, 0, 0, 1, 2, 2])
    assert stats.cluster_effect(np.zeros(6, dtype=bool), groups) == 1.0
    assert stats.cluster_effect(np.array([True, False, False, True, False, True]), groups) == 1.0
    assert stats.cluster_effect(np.array([True, True, True, True, False, False]), groups) == pytest.approx(10 / 4)
