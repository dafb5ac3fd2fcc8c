"""What to measure next: the networks whose measurement leaves the least uncertainty about all others.

The posterior of a pool of networks is the covariance of their relative errors: that of the process on the kernels' efficiency
(kit.latency.gaussian_process) plus, linearised, that of the roofline below it, whose parameters ten measurements do not settle. Without the
latter the process is too sure of itself, and the choice hardly better than a random one. Measuring a network subtracts a rank-one
term from the covariance whatever its result, so a batch is chosen before any of it is measured: greedily by the mean variance that is left
(A-optimal design; ALC, Cohn 1996). Before the first measurement the priors stand in for it. Choosing needs numpy alone, the priors
are those of the fitting (scipy).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from kit.latency.features import Table
from kit.latency.gaussian_process import Covariance, Shares
from kit.latency.model import MODEL_FAMILIES, REJECTED, ModelFamily, Predictions, Predictor
from kit.latency.parametric import Cases, Roof, Roofline, State
from kit.stats import BoolArray, Float64Array

GUESS_S_PER_MAC, GUESS_CALL_S = 2e-11, 1e-4  # before anything is measured; only ratios of what follows from them count
TYPICAL_SPREAD = 0.008  # relative standard error of a measurement, before one is known


@dataclass(frozen=True)
class PoolPosterior:
    """``covariance`` of the relative errors of a pool [nets, nets], and the relative variance ``noise`` that a measurement adds."""

    covariance: Float64Array
    noise: float

    @property
    def variance(self) -> Float64Array:
        """[nets]"""
        return np.maximum(np.diag(self.covariance), 0.0)

    def after(self, index: int) -> PoolPosterior:
        """The posterior once network ``index`` is measured, whatever its latency."""
        column = self.covariance[:, index]
        return replace(self, covariance=self.covariance - np.outer(column, column) / (column[index] + self.noise))

    def conditioned(self, count: int, spread: Float64Array) -> PoolPosterior:
        """The posterior of the other networks once the last ``count`` are measured, each with its relative standard error."""
        split = len(self.covariance) - count
        measured_covariance = self.covariance[split:, split:] + np.diag(self.noise + spread**2)
        cross = self.covariance[:split, split:]
        return replace(
            self, covariance=self.covariance[:split, :split] - cross @ np.linalg.solve(measured_covariance, cross.T)
        )


def pool_posterior(pool: Table, predictor: Predictor | None = None, threads: int = 1) -> PoolPosterior:
    """What ``predictor`` (None: the priors) knows about the networks of ``pool``, at its first state.

    Raises BackendUnavailable without scipy.
    """
    from kit import latency

    latency.require_scipy()
    from kit.latency import fitting

    states = (State(threads=threads),) if predictor is None else predictor.states
    cases = Cases.of(pool, states)
    efficiency = None if predictor is None else predictor.source_efficiencies(cases)
    guess = GUESS_CALL_S + GUESS_S_PER_MAC * cases.macs
    has_kernels = predictor is not None and predictor.measured.kernels_known
    if predictor is not None and has_kernels:
        measured = predictor.measured
        efficiency_measured = predictor.source_efficiencies(measured.cases(states))
        cases = _joined(cases, measured.cases(states))
        guess = np.concatenate([guess, np.array(measured.seconds)])
        efficiency = (
            None
            if efficiency is None or efficiency_measured is None
            else np.concatenate([efficiency, efficiency_measured])
        )
    data = fitting.Data(cases, guess, np.zeros(len(guess)), np.arange(len(guess)), efficiency)
    source = predictor.base.roofline_below if predictor is not None and predictor.base is not None else None
    priors = fitting.roofline_priors(data, None if source is None else source.parameters)
    gaussian_process = predictor.gaussian_process if predictor is not None else None
    roofline = predictor.roofline_below if predictor is not None and has_kernels else None
    if roofline is None:
        roofline = Roofline(parameters={name: values[0] for name, values in priors.items()})
    hyper = (
        {name: mean for name, (mean, _) in fitting.HYPER_PRIORS.items()}
        if gaussian_process is None
        else gaussian_process.hyper
    )
    freedom = {name: sd for name, (_, sd, _, _) in priors.items() if name in roofline.parameters}
    covariance = Covariance(hyper)
    spread = np.array(predictor.measured.spread) if predictor is not None else np.zeros(0)
    noise = covariance.value["noise"]
    posterior = PoolPosterior(_prior(Roof(cases, efficiency), roofline, freedom, covariance), noise)
    if has_kernels:
        posterior = posterior.conditioned(len(spread), spread)
    typical = float(np.median(spread)) if len(spread) else TYPICAL_SPREAD
    return replace(posterior, noise=noise + typical**2)


def _joined(a: Cases, b: Cases) -> Cases:
    """The networks of ``a``, then those of ``b``. A kernel of both stands twice, which changes no covariance."""
    one, two = a.table, b.table
    table = Table(
        np.concatenate([one.attributes, two.attributes]),
        np.concatenate([one.net, two.net + one.nets]),
        np.concatenate([one.kernel, two.kernel + len(one.attributes)]),
        np.concatenate([one.count, two.count]),
        one.nets + two.nets,
    )
    return Cases(
        table,
        np.concatenate([a.macs, b.macs]),
        np.concatenate([a.precision, b.precision]),
        a.states,
        np.concatenate([a.state, b.state]),
        np.concatenate([a.slowdown, b.slowdown]),
    )


def _prior(roof: Roof, roofline: Roofline, freedom: dict[str, float], covariance: Covariance) -> Float64Array:
    """Covariance of the logarithms of latencies before any measurement, [nets, nets]. The ratio to the roofline counts as 1."""
    shares = Shares(roof.cases, *roofline.times(roof))
    slopes = roofline.slopes(roof, freedom)
    return np.asarray(covariance.between(shares, shares) + slopes @ slopes.T)


# -------------------------------------------------------------------------------------------------------------------- choosing


def choose(posterior: PoolPosterior, free: BoolArray, count: int, weights: Float64Array | None = None) -> list[int]:
    """The ``count`` networks to measure next of those that are ``free`` [nets]: greedily, each what leaves the smallest mean variance.

    ``weights`` [nets] say how much each network of the pool matters (None: all the same), as :func:`undecided` does for a deadline.
    Fewer come back where fewer are free.
    """
    matters = np.ones(len(free)) if weights is None else weights
    free, chosen = free.copy(), []
    for _ in range(min(count, int(free.sum()))):
        removed = matters @ posterior.covariance**2 / (posterior.variance + posterior.noise)
        index = int(np.argmax(np.where(free, removed, -np.inf)))
        chosen.append(index)
        free[index] = False
        posterior = posterior.after(index)
    return chosen


def farthest(features: Float64Array, free: BoolArray, count: int, seed: int = 0) -> list[int]:
    """The k-centre choice, for where nothing can be fitted: each the farthest from all that is measured (not ``free``) or chosen.

    ``features`` [nets, features] are scaled to unit spread here; the first, where none is measured, is drawn.
    """
    x = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-12)
    taken = np.flatnonzero(~free)
    chosen = [] if len(taken) or not count else [int(np.random.default_rng(seed).integers(len(x)))]
    near = _nearest(x, x[[*taken, *chosen]])
    while len(chosen) < min(count, int(free.sum())):
        near[[*taken, *chosen]] = -1.0
        chosen.append(int(near.argmax()))
        near = np.minimum(near, _nearest(x, x[chosen[-1:]]))
    return chosen


def _nearest(x: Float64Array, to: Float64Array) -> Float64Array:
    """Squared distance of each row of ``x`` to the nearest row of ``to``, [rows of x]."""
    return np.min([((x - row) ** 2).sum(axis=1) for row in to], axis=0) if len(to) else np.full(len(x), np.inf)


# ------------------------------------------------------------------------------------------------------------- how far it is


def richest_family(model: Predictor) -> ModelFamily:
    """The richest model family that cross-validation does not reject against the best one. ``model.chosen`` is the simplest: right for what
    is measured once, but ten measurements reject little, and what is measured next is for the richest family to learn from."""
    accepted = {s.form for s in model.scores if s.candidate and (s.p_value is None or s.p_value > REJECTED)}
    return next(f for f in reversed(MODEL_FAMILIES) if f in accepted)


def share_within(predictions: Predictions, level: float, within: float) -> float:
    """The share of networks whose measurement is expected within the relative error ``within`` of the prediction.

    Errors count as normal in logarithms, as wide as the calibrated intervals (of ``level``) say.
    """
    reach = np.log(predictions.high / predictions.seconds)
    return float(np.mean([normal_share(r, level, within) for r in reach.tolist()]))


def normal_share(reach: float, level: float, within: float) -> float:
    """The probability of a relative error of at most ``within`` where an interval of ``level`` reaches ``reach`` (natural logarithms)."""
    unit = NormalDist()
    sd = max(reach, 1e-9) / unit.inv_cdf((1 + level) / 2)
    return unit.cdf(float(np.log1p(within)) / sd) - unit.cdf(float(np.log1p(-within)) / sd)


def undecided(predictions: Predictions, deadline_s: float) -> Float64Array:
    """1 for each network whose interval holds the deadline (seconds), 0 for those that keep or miss it for sure, [nets]."""
    return np.asarray((predictions.low <= deadline_s) & (deadline_s < predictions.high), dtype=np.float64)


def first(posterior: PoolPosterior, count: int, seed: int) -> list[int]:
    """The first design: one network drawn with ``seed``, the others as :func:`choose` does."""
    drawn = int(np.random.default_rng(seed).integers(len(posterior.covariance)))
    free = np.ones(len(posterior.covariance), dtype=bool)
    free[drawn] = False
    return [drawn, *choose(posterior.after(drawn), free, count - 1)][:count]
