from __future__ import annotations

import numpy as np
import pytest

from kit import stats


def test_median_of_medians_gives_every_process_the_same_weight() -> None:
    assert stats.median_of_medians([[1.0] * 1000, [2.0], [3.0]]) == 2.0


def test_quantile_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        stats.quantile([], 0.5)


def test_bootstrap_interval_covers_the_truth_at_about_its_level() -> None:
    """Processes with offsets of their own: an interval over calls alone would be far too narrow."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        groups = [list(1.0 + rng.normal(0, 0.02) + rng.normal(0, 0.005, 40)) for _ in range(8)]
        low, high = stats.bootstrap_median(groups, resamples=400, seed=trial)
        covered += low <= 1.0 <= high
    assert covered / 200 > 0.88


def test_bootstrap_interval_is_the_same_for_the_same_seed_and_narrows_with_less_noise() -> None:
    rng = np.random.default_rng(1)
    noisy = [list(rng.normal(1, 0.05, 30)) for _ in range(5)]
    calm = [[1 + (x - 1) / 10 for x in group] for group in noisy]
    assert stats.bootstrap_median(noisy) == stats.bootstrap_median(noisy)
    width = [high - low for low, high in map(stats.bootstrap_median, (noisy, calm))]
    assert width[1] == pytest.approx(width[0] / 10, rel=0.05)


def test_drift_and_nearness() -> None:
    assert stats.halves_drift([1, 1, 1, 1.1, 1.1, 1.1]) == pytest.approx(0.1)
    assert stats.halves_drift([1, 2]) == 0.0
    assert stats.share_near_median([1, 1, 1, 1.04, 2]) == pytest.approx(0.8)


def test_r_squared() -> None:
    measured = np.array([1.0, 2.0, 3.0])
    assert stats.r_squared(measured, measured) == 1.0
    assert stats.r_squared(np.full(3, 2.0), measured) == 0.0
    assert stats.r_squared(measured, np.ones(3)) is None
