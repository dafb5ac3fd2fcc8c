"""What the paper's scheduler is rewarded with (eqs. 23 to 26), and the shares of eqs. 14, 18 and 20, each as printed and as meant.

Eq. 23 as printed has the factor p in both branches. The expected reward of one task is then (C_loc - C_edge) * p * (2p - 1): where
staying at home is better its greatest value lies at p = 1/4, and the policy goes on offloading every fourth such task. With 1 - p in the
second branch it is (C_loc - C_edge) * (2p - 1), which is greatest at 0 or 1. Eq. 14 as printed lacks the exponential in the numerator and
is no softmax.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from kit.papers.offloading.allocate import prices_of
from kit.papers.offloading.world import FREE, Inference, OffloadingWorld, Tasks
from kit.stats import BoolArray, Float64Array

Form = Literal["corrected", "printed"]


def home_costs(world: OffloadingWorld, tasks: Tasks, inference: Inference = FREE) -> Float64Array:
    """C_loc of every task, eq. 24: [samples, users]."""
    return prices_of(world, tasks, inference).local


def rewards(
    probability: Float64Array, offloaded: BoolArray, home: Float64Array, edge: Float64Array, *, form: Form = "corrected"
) -> Float64Array:
    """R_i of eq. 23 for decisions drawn with these probabilities of offloading: the same shape. ``home``, ``edge``: C_loc, C_edge."""
    other = probability if form == "printed" else 1.0 - probability
    reward: Float64Array = np.where(offloaded, (home - edge) * probability, (edge - home) * other)
    return reward


def expected_rewards(
    probability: Float64Array, home: Float64Array, edge: Float64Array, *, form: Form = "corrected"
) -> Float64Array:
    """The mean of ``rewards`` over decisions drawn with these probabilities."""
    yes, no = np.ones(np.shape(probability), dtype=bool), np.zeros(np.shape(probability), dtype=bool)
    home_part = (1.0 - probability) * rewards(probability, no, home, edge, form=form)
    expected: Float64Array = probability * rewards(probability, yes, home, edge, form=form) + home_part
    return expected


def shares(outputs: Float64Array, *, form: Form = "corrected") -> Float64Array:
    """Eq. 14 along the last axis: a softmax; as printed z_i / sum(exp(z)), which neither sums to one nor stays above zero."""
    if form == "printed":
        printed: Float64Array = outputs / np.exp(outputs).sum(axis=-1, keepdims=True)
        return printed
    powers = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    softmax: Float64Array = powers / powers.sum(axis=-1, keepdims=True)
    return softmax
