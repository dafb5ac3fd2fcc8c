"""Latency models: from a handful of measurements to every network, with an interval that holds and a sentence where it cannot.

:func:`fit` gives the papers' efficiency factor, :func:`predictor` the best of four model families: a line, a linear model with a factor
per kind of kernel, a roofline over kernels, and a Gaussian process on the kernels' efficiency above it. Fitting needs scipy, predicting
numpy alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from kit import versions
from kit.errors import BackendUnavailable
from kit.latency.efficiency_factor import fit, line, quality
from kit.latency.kernels import kernels_of
from kit.latency.model import FAMILY_NAMES, MODEL_FAMILIES, REJECTED, Predictions, Predictor, check_level, load, save
from kit.records import Artifact, CurvePoint, Kernel, ProfileRecord

__all__ = [
    "FAMILY_NAMES",
    "MODEL_FAMILIES",
    "REJECTED",
    "Predictions",
    "Predictor",
    "can_fit",
    "check_level",
    "fit",
    "kernels_of",
    "learning_curve",
    "line",
    "load",
    "predictor",
    "quality",
    "require_scipy",
    "save",
]

KernelsOf = Callable[[Artifact], "tuple[Kernel, ...] | None"]


def predictor(
    profiles: Sequence[ProfileRecord],
    *,
    base: Predictor | None = None,
    level: float = 0.9,
    seed: int = 0,
    kernels: KernelsOf = kernels_of,
    baselines: bool = True,
) -> Predictor:
    """The latency model of one device and backend: every model family is cross-validated, and the simplest that cannot be rejected taken.

    ``profiles`` are records of at least three networks with different multiply-accumulates; ten carry a roofline, forty a Gaussian
    process. What may not decide (failed, throttled, inconclusive) is left out and named in ``notes``. ``base`` is the predictor of a
    source device (or backend, precision, thread count): its structure is transferred. ``level`` is the share of networks that an
    interval holds, in [0.5, 1). ``kernels`` lists the kernels of an artifact. ``baselines=False`` leaves the papers' line, the random
    forest and the lookup table out of the scores (a third faster). Equal records and seed give an equal predictor.

    Raises BadRecord (several devices or backends, too few usable records), UsageError (the level), BackendUnavailable (no scipy).

    Example:
        >>> model = latency.predictor(store.read_profiles([PROFILES]), baselines=False)
        >>> network = spaces.kernels(spaces.subnetwork("resnet18-d1.1.1.1-w0.50-fp32-96"))
        >>> predictions = model.predict([network])
        >>> bool(predictions.low[0] < predictions.seconds[0] < predictions.high[0])
        True
    """
    return _training().predictor(  # type: ignore[no-any-return]
        profiles, base=base, level=level, seed=seed, kernels=kernels, baselines=baselines
    )


def learning_curve(
    profiles: Sequence[ProfileRecord],
    *,
    counts: Sequence[int] = (5, 10, 20, 40),
    repeats: int = 3,
    base: Predictor | None = None,
    level: float = 0.9,
    seed: int = 0,
    kernels: KernelsOf = kernels_of,
) -> tuple[CurvePoint, ...]:
    """Error on the networks that were left out, against how many were measured; each count with ``repeats`` random choices.

    The other arguments are those of :func:`predictor`. Counts that leave nothing to test, or are too few for any model family, are left
    out. Raises as :func:`predictor` does.
    """
    return _training().learning_curve(  # type: ignore[no-any-return]
        profiles, counts=counts, repeats=repeats, base=base, level=level, seed=seed, kernels=kernels
    )


def can_fit() -> bool:
    """Whether scipy is here, without which models can be used but not fitted."""
    return importlib.util.find_spec("scipy") is not None


def require_scipy() -> None:
    """Raises BackendUnavailable where models cannot be fitted."""
    if not can_fit():
        raise BackendUnavailable(
            f"Fitting a latency model needs scipy: {versions.install('scipy')}, or fit on a PC and predict here."
        )


def _training() -> Any:
    require_scipy()
    from kit.latency import training

    return training
