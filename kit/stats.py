"""Quantiles, intervals, drift and quality of fit: pure functions on numbers, no units of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import comb, log, log1p, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def quantile(values: Sequence[float] | Float64Array, q: float) -> float:
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


def wilson_interval(correct: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high): Wilson's score interval (1927) of a share of which ``correct`` out of ``count`` independent trials were drawn.

    It stays within [0, 1] and is no point where all or none are correct. Raises ValueError unless 0 <= correct <= count > 0.

    >>> low, high = wilson_interval(393, 450)
    >>> round(low, 4), round(high, 4)
    (0.8394, 0.9009)
    """
    if not 0 <= correct <= count or count == 0:
        raise ValueError(f"{correct} of {count} is no share")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = correct / count, z * z / count
    centre = share + weight / 2
    half = z * sqrt(share * (1 - share) / count + weight / (4 * count))
    low, high = (centre - half) / (1 + weight), (centre + half) / (1 + weight)
    return (0.0 if correct == 0 else max(0.0, low)), (1.0 if correct == count else min(1.0, high))


def paired_difference(gained: int, lost: int, count: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """(difference, low, high) of two shares on the same ``count`` trials, of which ``gained`` are right in the first alone and ``lost`` in
    the second alone; the interval is Agresti and Min's (2005). Raises ValueError where they do not add up.

    >>> [round(value, 4) for value in paired_difference(10, 20, 1000)]
    [-0.01, -0.0209, 0.0009]
    """
    if gained < 0 or lost < 0 or not gained + lost <= count or count == 0:
        raise ValueError(f"{gained} gained and {lost} lost of {count} cannot be")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    trials, differing = count + 2, gained + lost + 1
    centre = (gained - lost) / trials
    half = z * sqrt(differing - (gained - lost) ** 2 / trials) / trials
    return (gained - lost) / count, centre - half, centre + half


def halves_drift(values: Sequence[float] | Float64Array) -> float:
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


def share_near_median(values: Sequence[float] | Float64Array, tolerance: float = 0.05) -> float:
    """Share of the values within +-``tolerance`` of their median."""
    array = np.asarray(values, dtype=np.float64)
    centre = float(np.median(array))
    return float(np.mean(np.abs(array - centre) <= tolerance * centre))


def half_sample_mode(values: Sequence[float] | Float64Array) -> float:
    """Where the values crowd: the half-sample mode (Robertson and Cryer, 1974; Bickel and Fruehwirth, 2006).

    The shortest interval that holds half of the values is taken again and again until two or three are left. Bursts
    that lengthen even a third of the values do not move it. Raises ValueError on no values.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if len(ordered) == 0:
        raise ValueError("no values")
    while len(ordered) > 3:
        half = (len(ordered) + 1) // 2
        widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
        first = int(np.argmin(widths))
        ordered = ordered[first : first + half]
    if len(ordered) == 3:
        left = ordered[1] - ordered[0] <= ordered[2] - ordered[1]
        ordered = ordered[:2] if left else ordered[1:]
    return float(ordered.mean())


def bootstrap_over_groups(
    groups: Sequence[Float64Array],
    statistic: Callable[[Float64Array], float],
    *,
    confidence: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high): percentile bootstrap of ``statistic`` of the pooled values, whole groups redrawn with replacement.

    A group is a process: its values share a memory layout and a clock, so they are no independent draws.
    """
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(groups), size=(resamples, len(groups)))
    drawn = [statistic(np.concatenate([groups[i] for i in row])) for row in picks]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def relative_errors(predicted: Float64Array, measured: Float64Array) -> Float64Array:
    """(predicted - measured) / measured, elementwise."""
    return (predicted - measured) / measured


def r_squared(predicted: Float64Array, measured: Float64Array) -> float | None:
    """Coefficient of determination; None when the measured values do not vary."""
    total = float(np.sum((measured - measured.mean()) ** 2))
    if total == 0:
        return None
    return 1.0 - float(np.sum((measured - predicted) ** 2)) / total


# ------------------------------------------------------------------------------------------------------ two groups, a shift


def hodges_lehmann(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95
) -> tuple[float, float, float, float]:
    """(shift, low, high, confidence reached): how much larger ``b`` is than ``a``, with an interval.

    The shift is the median of all differences b - a (Hodges and Lehmann, 1963). The interval inverts the exact rank-sum test: it
    needs no distribution, only independent values and groups of the same shape. Its levels are discrete, so it is a little wider
    than asked for (95.9 % for six and six). Groups too small to reach ``confidence`` get the whole range of the differences and the
    confidence that it has (90 % for three and three). Raises ValueError on no values.
    """
    if len(a) == 0 or len(b) == 0:
        raise ValueError("no values")
    differences = np.sort(np.subtract.outer(np.asarray(b, dtype=np.float64), np.asarray(a, dtype=np.float64)).ravel())
    below = _rank_sum_cdf(len(a), len(b))
    k = max(1, int(np.searchsorted(below, (1 - confidence) / 2, side="right")))
    reached = max(0.0, 1 - 2 * float(below[k - 1]))
    return float(np.median(differences)), float(differences[k - 1]), float(differences[-k]), reached


def ratio_interval(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95
) -> tuple[float, float, float, float]:
    """(ratio, low, high, confidence reached) of ``b`` over ``a``: :func:`hodges_lehmann` on the logarithms.

    Raises ValueError on no values or on one that is not above zero.
    """
    if min((*a, *b), default=0.0) <= 0:
        raise ValueError("a ratio needs values above zero")
    shift, low, high, reached = hodges_lehmann([log(x) for x in a], [log(x) for x in b], confidence)
    return float(np.exp(shift)), float(np.exp(low)), float(np.exp(high)), reached


@lru_cache(maxsize=64)
def _rank_sum_cdf(n: int, m: int) -> Float64Array:
    """P(U <= u) for u = 0 .. n*m of the Mann-Whitney statistic when both groups come from one distribution.

    The counts are the coefficients of the Gaussian binomial: the product of (1 - x^(m+i)) / (1 - x^i) for i = 1 .. n.
    """
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):
            counts[u] += counts[u - i]
    total = comb(n + m, n)
    return np.cumsum([count / total for count in counts])


# ------------------------------------------------------------------------------------------------- tails, with a confidence


def overlatency_allowed(queries: int, percentile: float, confidence: float = 0.99) -> int:
    """How many of ``queries`` may lie above a bound that still holds for the share ``percentile`` of all queries, -1 for "too few queries".

    MLPerf's early stopping (inference rules, appendix "Early Stopping Criterion", tolerance 0): the largest t for which a system that
    meets the bound only just, with probability ``percentile``, would show t or fewer misses with a probability of at most
    1 - ``confidence``. 459 queries without a miss prove a p99 at 99 %. Queries count as independent.
    """
    miss = 1 - percentile
    end = min(queries, int(queries * miss) + 1)  # the answer lies below the mean number of misses
    i = np.arange(1, end + 1, dtype=np.float64)
    steps = np.log((queries - i + 1) / i) + log(miss) - log(percentile)
    terms = queries * log(percentile) + np.concatenate(([0.0], np.cumsum(steps)))
    cumulated = np.logaddexp.accumulate(terms)
    return int(np.searchsorted(cumulated, log1p(-confidence), side="right")) - 1


def queries_needed(misses: int, percentile: float, confidence: float = 0.99) -> int:
    """The fewest queries that prove ``percentile`` with ``misses`` of them above the bound: 459 for (0, 0.99), 662 for (1, 0.99)."""
    enough = max(1, misses)
    while overlatency_allowed(enough, percentile, confidence) < misses:
        enough *= 2
    low = enough // 2
    while low + 1 < enough:
        middle = (low + enough) // 2
        low, enough = (
            (low, middle) if overlatency_allowed(middle, percentile, confidence) >= misses else (middle, enough)
        )
    return enough


def early_stopping(values: Sequence[float] | Float64Array, percentile: float, confidence: float = 0.99) -> float | None:
    """MLPerf's early-stopping estimate of a percentile: an upper bound that holds with ``confidence``; None for too few values.

    The t - 1 largest values are discarded, t being :func:`overlatency_allowed`, and the largest of the rest is the estimate
    (64 values give a p90, 662 a p99).
    """
    allowed = overlatency_allowed(len(values), percentile, confidence)
    if allowed < 1:
        return None
    array = np.asarray(values, dtype=np.float64)
    return float(np.partition(array, len(array) - allowed)[len(array) - allowed])


def cluster_effect(events: NDArray[np.bool_], groups: NDArray[np.int64]) -> float:
    """By how much events that come in clusters count less than independent ones: E[C^2] / E[C] over the groups' counts C.

    ``events`` [n] of ``groups`` [n] (numbers from 0); 1 where no group holds two events.
    """
    counts = np.bincount(groups[events])
    total = int(counts.sum())
    return float((counts.astype(np.float64) ** 2).sum() / total) if total else 1.0
