"""Quantiles, bootstrap intervals, drift and quality of fit: pure functions on numbers, no units of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def quantile(values: Sequence[float], q: float) -> float:
    """The ``q`` quantile, linear between order statistics. Raises ValueError on no values."""
    if len(values) == 0:
        raise ValueError("no values")
    return float(np.quantile(np.asarray(values, dtype=np.float64), q))


def median_of_medians(groups: Sequence[Sequence[float]]) -> float:
    """Median over groups (processes) of each group's median: no process weighs more for being faster."""
    return float(np.median([np.median(np.asarray(g)) for g in groups]))


def bootstrap_median(
    groups: Sequence[Sequence[float]], *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Interval of :func:`median_of_medians` by resampling groups, then values inside each drawn group.

    Values inside one process share its memory layout and clock, so the group is the unit that carries the uncertainty. The
    inner resampling uses the normal limit of a sample median (quantile of the order statistics), which is exact enough for
    the tens to thousands of values that a group holds and makes one resample one random draw.
    """
    rng = np.random.default_rng(seed)
    ordered = [np.sort(np.asarray(g, dtype=np.float64)) for g in groups]
    picks = rng.integers(0, len(ordered), size=(resamples, len(ordered)))
    levels = rng.standard_normal(size=picks.shape)
    medians = np.empty(picks.shape)
    for index, values in enumerate(ordered):
        chosen = picks == index
        position = np.clip(0.5 + levels[chosen] * 0.5 / np.sqrt(len(values)), 0.0, 1.0)
        medians[chosen] = np.interp(position * (len(values) - 1), np.arange(len(values)), values)
    low, high = np.quantile(np.median(medians, axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def halves_drift(values: Sequence[float]) -> float:
    """Relative difference between the medians of the second and the first half; 0 for fewer than four values."""
    if len(values) < 4:
        return 0.0
    array = np.asarray(values, dtype=np.float64)
    first, second = float(np.median(array[: len(array) // 2])), float(np.median(array[len(array) // 2 :]))
    return (second - first) / first


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
