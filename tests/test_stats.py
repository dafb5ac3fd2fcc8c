from __future__ import annotations

import numpy as np
import pytest

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


def test_r_squared() -> None:
    measured = np.array([1.0, 2.0, 3.0])
    assert stats.r_squared(measured, measured) == 1.0
    assert stats.r_squared(np.full(3, 2.0), measured) == 0.0
    assert stats.r_squared(measured, np.ones(3)) is None
