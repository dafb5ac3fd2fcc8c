"""Quantiles, intervals, drift and quality of fit: pure functions on numbers, no units of their own."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def quantile(values: Sequence[float], q: float) -> float:
    """The ``q`` quantile, linear between order statistics. Raises ValueError on no values."""
    if len(values) == 0:
        raise ValueError("no values")
    return float(np.quantile(np.asarray(values, dtype=np.float64), q))


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """(low, high, confidence reached): an interval for the median of whatever ``values`` were drawn from.

    It needs no distribution: the k-th smallest and k-th largest value enclose the median with a binomial probability, and
    between two such pairs the bounds are interpolated (Hettmansperger and Sheather, 1986). Five values or fewer cannot
    reach 95 %: their whole range is returned with the confidence that it has (75 % for three, 94 % for five).
    """
    ordered = sorted(values)
    n = len(ordered)
    if n == 0:
        raise ValueError("no values")
    covered = [1.0 - 2.0 * sum(comb(n, i) for i in range(k)) / 2**n for k in range(1, (n + 1) // 2 + 1)]
    if covered[0] <= confidence:
        return ordered[0], ordered[-1], max(covered[0], 0.0)
    k = max(i for i, c in enumerate(covered, 1) if c >= confidence)
    if k == len(covered):
        return ordered[k - 1], ordered[-k], covered[k - 1]
    part = (covered[k - 1] - confidence) / (covered[k - 1] - covered[k])
    weight = (n - k) * part / (k + (n - 2 * k) * part)
    low = (1 - weight) * ordered[k - 1] + weight * ordered[k]
    high = (1 - weight) * ordered[-k] + weight * ordered[-k - 1]
    return low, high, confidence


def halves_drift(values: Sequence[float]) -> float:
    """Relative difference between the medians of the second and the first half; 0 for fewer than four values."""
    if len(values) < 4:
        return 0.0
    array = np.asarray(values, dtype=np.float64)
    first, second = float(np.median(array[: len(array) // 2])), float(np.median(array[len(array) // 2 :]))
    return (second - first) / first


def spread(values: Sequence[float]) -> float:
    """Distance of the 10 % and the 90 % quantile over the median; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    low, centre, high = np.quantile(np.asarray(values, dtype=np.float64), [0.1, 0.5, 0.9])
    return float((high - low) / centre)


def share_near_median(values: Sequence[float], tolerance: float = 0.05) -> float:
    """Share of the values within +-``tolerance`` of their median."""
    array = np.asarray(values, dtype=np.float64)
    centre = float(np.median(array))
    return float(np.mean(np.abs(array - centre) <= tolerance * centre))


def relative_errors(predicted: Floats, measured: Floats) -> Floats:
    """(predicted - measured) / measured, elementwise."""
    return (predicted - measured) / measured


def r_squared(predicted: Floats, measured: Floats) -> float | None:
    """Coefficient of determination; None when the measured values do not vary."""
    total = float(np.sum((measured - measured.mean()) ** 2))
    if total == 0:
        return None
    return 1.0 - float(np.sum((measured - predicted) ** 2)) / total
