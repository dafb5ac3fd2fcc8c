"""Latency models: from a handful of measurements to every network, with an interval that holds and a word when it cannot.

``fit`` gives the efficiency factor of the papers, ``predictor`` the best of four forms: a line, a factor per kind of kernel, a roofline
over kernels, and a Gaussian process on the kernels' efficiency above it. Fitting needs scipy, predicting numpy alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from kit import versions
from kit.errors import BackendUnavailable
from kit.latency.efficiency_factor import fit, line, quality
from kit.latency.model import FORMS, Predictions, Predictor, load, save
from kit.records import CurvePoint, ProfileRecord

__all__ = [
    "FORMS",
    "Predictions",
    "Predictor",
    "can_fit",
    "fit",
    "learning_curve",
    "line",
    "load",
    "predictor",
    "quality",
    "save",
]


def predictor(profiles: Sequence[ProfileRecord], **options: Any) -> Predictor:
    """:func:`kit.latency.training.predictor`. Raises BackendUnavailable without scipy."""
    return _assemble().predictor(profiles, **options)  # type: ignore[no-any-return]


def learning_curve(profiles: Sequence[ProfileRecord], **options: Any) -> tuple[CurvePoint, ...]:
    """:func:`kit.latency.training.learning_curve`. Raises BackendUnavailable without scipy."""
    return _assemble().learning_curve(profiles, **options)  # type: ignore[no-any-return]


def can_fit() -> bool:
    """Whether scipy is here, without which models can be used but not fitted."""
    return importlib.util.find_spec("scipy") is not None


def _assemble() -> Any:
    if not can_fit():
        raise BackendUnavailable(
            f"Fitting a latency model needs scipy: {versions.install('scipy')}, or fit on a PC and predict here."
        )
    from kit.latency import training

    return training
