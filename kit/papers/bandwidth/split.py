"""Splits of paper A's band that need no network: the optimum, the equal split, the rule of the square root."""

from __future__ import annotations

import numpy as np

from kit.papers.bandwidth.world import BandwidthWorld, Tasks, efficiency_bps_per_hz, reach_hz
from kit.papers.channel import best_split, root_split
from kit.stats import Float64Array


def best_band(world: BandwidthWorld, tasks: Tasks) -> Float64Array:
    """The split with the least weighted delay: [samples, users] in hertz, whose sum is the band. No network comes below its delay."""
    return best_split(tasks.weight * tasks.size_bit, reach_hz(world, tasks), world.band_hz)


def equal_band(world: BandwidthWorld, tasks: Tasks) -> Float64Array:
    """The same band for every present user, in hertz."""
    return shared_band(world, tasks.present.astype(np.float64))


def root_band(world: BandwidthWorld, tasks: Tasks) -> Float64Array:
    """In proportion to sqrt(w_i * s_i / efficiency_i), the efficiency taken at the equal split: what would be best if it were constant."""
    equal = world.band_hz / np.maximum(tasks.present.sum(axis=1, keepdims=True), 1)
    worth = tasks.weight * tasks.size_bit / efficiency_bps_per_hz(world, tasks, equal)
    return root_split(worth, world.band_hz)


def shared_band(world: BandwidthWorld, shares: Float64Array) -> Float64Array:
    """Hertz from what a network puts out: shares of any scale, brought to the band's sum (absent users must have share 0)."""
    sums = shares.sum(axis=1, keepdims=True)
    band: Float64Array = shares * (world.band_hz / np.where(sums > 0, sums, 1.0))
    return band
