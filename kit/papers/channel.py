"""One band shared by many users: rates, and the split with the least weighted delay.

A user with b hertz of the band has the rate  r(b) = b * log2(1 + reach / b),  reach = power * gain / noise density in hertz: what its
signal-to-noise ratio would be in one hertz. Both papers' links have this form (A: eq. 1 with sigma^2 = N0 * b; B: eq. 1). Least

    sum_i demand_i / r_i(b_i)    subject to   sum_i b_i = band

is convex. With x = reach / b, its multiplier nu satisfies, for every user with a demand,

    h(x_i) = nu * reach_i^2 / (demand_i * ln 2),    h(x) = x^2 * (ln(1+x) - x/(1+x)) / ln(1+x)^2.

h is one increasing function for all users and all samples. Its inverse stands in a table over logarithms, where its slope lies between
1/2 and 0.6; so the logarithm of the band that a multiplier asks for is nearly a straight line in log nu, and Newton's step finds it to
the last digit in four or five evaluations where halving an interval needs fifty.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from kit.errors import UsageError
from kit.stats import Float64Array

STEPS_MAX = 40
EXACT = 1e-13  # of the band: where the search for the multiplier ends
_STEP = 1 / 512  # of the table, in log h
_LOWEST, _HIGHEST = -14.0, 60.0  # of the table, in log x: a signal-to-noise ratio of 1e-6 to 1e26


def drawn_sizes(
    users: int, mean_bit: float, samples: int, rng: np.random.Generator, present: int | None = None
) -> Float64Array:
    """What users have to send, [samples, users]: uniform from 0 to twice the mean; of ``present`` users (None: all), the others 0.

    Raises UsageError for more users than there are.
    """
    present = users if present is None else present
    if not 1 <= present <= users:
        raise UsageError(f"This world has {users} users and cannot hold {present}: set users to {present} or more.")
    size: Float64Array = rng.uniform(0.0, 2.0 * mean_bit, (samples, users))
    size[:, present:] = 0.0
    return size


def rate_bps(band_hz: Float64Array, reach_hz: Float64Array) -> Float64Array:
    """Bits per second of ``band_hz``; 0 where there is no band."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rate: Float64Array = np.log2(1.0 + reach_hz / band_hz)
        rate *= band_hz
    rate[np.broadcast_to(band_hz <= 0, rate.shape)] = 0.0
    return rate


def sending_s(size_bit: Float64Array, band_hz: Float64Array, reach_hz: Float64Array) -> Float64Array:
    """Seconds that ``size_bit`` take: 0 for nothing to send, infinite without a band."""
    with np.errstate(divide="ignore", invalid="ignore"):
        seconds: Float64Array = size_bit / rate_bps(band_hz, reach_hz)
    seconds[np.broadcast_to(size_bit <= 0, seconds.shape)] = 0.0
    return seconds


def best_split(demand: Float64Array, reach_hz: Float64Array, band_hz: float) -> Float64Array:
    """The split of ``band_hz`` with the least sum of demand / rate: [samples, users], whose sum is the band. No demand, no band.

    A demand is what a user's delay counts per bit, times its bits. A sample without any demand gets no band at all.
    """
    wants = demand > 0
    log_reach = np.log(reach_hz)
    offset = 2.0 * log_reach - np.log(np.where(wants, demand, 1.0) * np.log(2.0))
    users = np.maximum(wants.sum(axis=1, keepdims=True), 1)
    equal = _log_h(reach_hz * users / band_hz) - offset  # each user's own multiplier under an equal split
    multiplier = (equal * wants).sum(axis=1, keepdims=True) / users
    for _ in range(STEPS_MAX):
        log_x, slope = _log_inverse(multiplier + offset)
        band = np.exp(log_reach - log_x)
        band *= wants
        total = np.maximum(band.sum(axis=1, keepdims=True), 1e-300)
        excess = np.log(total / band_hz)
        open_ = (np.abs(excess) > EXACT) & (users > 0) & wants.any(axis=1, keepdims=True)
        if not open_.any():
            break
        multiplier += np.where(
            open_, excess * total / np.maximum((slope * band).sum(axis=1, keepdims=True), 1e-300), 0.0
        )
    split: Float64Array = band * (band_hz / total)
    return split


def priced_split(
    demand: Float64Array, reach_hz: Float64Array, log_price: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """(band, band * price + demand / rate) of users who buy at a price per hertz, ``exp(log_price)``: least for each by itself.

    By weak duality the sum of the second over any set of users, less price * band available, bounds that set's best split from below.
    """
    wants = demand > 0
    log_reach = np.log(reach_hz)
    offset = 2.0 * log_reach - np.log(np.where(wants, demand, 1.0) * np.log(2.0))
    log_x, _ = _log_inverse(log_price + offset)
    band = np.where(wants, np.exp(log_reach - log_x), 0.0)
    return band, band * np.exp(log_price) + sending_s(demand, band, reach_hz)


def log_price_of(demand: Float64Array, reach_hz: Float64Array, split: Float64Array) -> Float64Array:
    """The logarithm of the multiplier that a best split has: [samples, 1]; -inf for a sample without demand."""
    wants = (demand > 0) & (split > 0)
    safe = np.where(wants, split, 1.0)
    offset = 2.0 * np.log(reach_hz) - np.log(np.where(wants, demand, 1.0) * np.log(2.0))
    each = np.where(wants, _log_h(reach_hz / safe) - offset, -np.inf)
    best: Float64Array = each.max(axis=1, keepdims=True)
    return best


def root_split(worth: Float64Array, total: float) -> Float64Array:
    """The split of ``total`` with the least sum of worth / share: in proportion to the root of the worth (nothing where no worth is)."""
    roots = np.sqrt(worth)
    roots_sum = roots.sum(axis=1, keepdims=True)
    split: Float64Array = roots * (total / np.where(roots_sum > 0, roots_sum, 1.0))
    return split


def _log_h(x: Float64Array) -> Float64Array:
    nats = np.log1p(x)
    small = x < 1e-3
    bend = np.where(small, x * x * (0.5 - x * (2 / 3 - 0.75 * x)), nats - x / (1.0 + x))
    value: Float64Array = 2.0 * np.log(x) + np.log(bend) - 2.0 * np.log(nats)
    return value


@lru_cache(maxsize=1)
def _table() -> tuple[float, Float64Array, Float64Array]:
    """(first log h, log x at equal steps of log h, their differences per unit of log h)."""
    ends = _log_h(np.exp(np.array([_LOWEST, _HIGHEST])))
    heights = np.arange(ends[0], ends[1], _STEP)
    guess = np.linspace(_LOWEST, _HIGHEST, 4096)
    log_x = np.interp(heights, _log_h(np.exp(guess)), guess)
    for _ in range(3):
        near = 1e-5
        up, here = _log_h(np.exp(log_x + near)), _log_h(np.exp(log_x))
        log_x += (heights - here) * near / (up - here)
    return float(heights[0]), log_x, np.append(np.diff(log_x), log_x[-1] - log_x[-2]) / _STEP


def _log_inverse(log_h: Float64Array) -> tuple[Float64Array, Float64Array]:
    """(log x, its slope) where log h(x) is; beyond the table its ends go on as straight lines."""
    first, log_x, slopes = _table()
    place = (log_h - first) * (1.0 / _STEP)
    index = np.clip(place, 0, len(log_x) - 2).astype(np.int32)
    slope: Float64Array = slopes[index]
    value: Float64Array = log_x[index] + (place - index) * _STEP * slope
    return value, slope
