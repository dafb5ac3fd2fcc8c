"""Model selection: k-fold cross-validation over sub-networks, and the simplest model family that it cannot reject.

All records of one sub-network (its precisions, threads) fall into one fold. Errors are logarithms of predicted over measured. A
family is rejected against the best when its absolute errors are larger than the best one's by more than signs flipped at random explain
(one-sided, paired). The same residuals calibrate the intervals (conformal prediction, Vovk et al. 2005; normalised by the model's own
standard deviation, Papadopoulos et al. 2002).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

from kit.errors import BadRecord
from kit.latency.baselines import forest, forest_available, lookup
from kit.latency.efficiency_factor import quality
from kit.latency.fitting import Data, Fitted, fit
from kit.latency.model import FAMILY_NAMES, MODEL_FAMILIES, REJECTED, ModelFamily
from kit.latency.parametric import Cases, Roof
from kit.records import FormScore
from kit.stats import Float64Array, Int64Array

FOLDS = 10
LEAST_FOR_BASELINES = 8
FLIPS = 4000
BASELINES = ("papers", "forest", "lookup")

Fit = Callable[[Data], Fitted]


@dataclass(frozen=True)
class Validated:
    """Held-out predictions of each family: seconds [n] and relative standard deviation [n] (nan: the family has none of its own)."""

    seconds: dict[str, Float64Array]
    sd: dict[str, Float64Array]


def evaluate(fitted: Fitted, data: Data) -> dict[ModelFamily, tuple[Float64Array, Float64Array]]:
    """(seconds, relative standard deviation) by every model family that was fitted."""
    out: dict[ModelFamily, tuple[Float64Array, Float64Array]] = {}
    nothing = np.full(len(data.seconds), np.nan)
    if fitted.line is not None:
        out["factor"] = (fitted.line.predict(data.cases), nothing)
    if fitted.per_kind_linear is not None:
        out["kinds"] = (np.maximum(fitted.per_kind_linear.predict(data.cases), 1e-12), nothing)
    if fitted.roofline is not None:
        roof = Roof(data.cases, data.efficiency)
        entries, call = fitted.roofline.times(roof)
        out["roofline"] = (data.cases.table.sum_entries(entries) + call, nothing)
        if fitted.gaussian_process is not None and fitted.posterior is not None:
            shares = fitted.gaussian_process.shares(roof)
            ratio, sd = fitted.posterior.predict(shares)
            out["learned"] = (ratio * shares.roof_s, sd / ratio)
    return out


def cross_validate(
    data: Data,
    full_fit: Fitted,
    prior: dict[str, float] | None,
    *,
    kernels: bool,
    baselines: bool,
    clock_hz: float | None,
    seed: int,
) -> Validated:
    """Every family (and baseline), fitted without each fold and evaluated on it. ``full_fit`` is the fit of all, from which folds start."""
    seconds: dict[str, Float64Array] = {}
    sds: dict[str, Float64Array] = {}
    count = len(data.seconds)

    def keep(name: str, index: Int64Array, values: Float64Array, sd: Float64Array | None = None) -> None:
        seconds.setdefault(name, np.full(count, np.nan))[index] = values
        sds.setdefault(name, np.full(count, np.nan))[index] = np.nan if sd is None else sd

    for fold in folds(data.group, seed):
        rest = np.setdiff1d(np.arange(count), fold)
        train, test = data.pick(rest), data.pick(fold)
        if len(rest) < 2 or not len({*train.cases.macs.tolist()}) > 2:
            continue
        fitted = fit(train, prior=prior, warm=full_fit, seed=seed, kernels=kernels)
        for family, (values, sd) in evaluate(fitted, test).items():
            keep(family, fold, values, sd)
        if baselines and kernels:
            for name, values in _baselines(train, test.cases, seed).items():
                keep(name, fold, values)
    if baselines and clock_hz is not None:
        seconds["papers"] = data.cases.macs / clock_hz * data.cases.slowdown
    return Validated({k: v for k, v in seconds.items() if np.isfinite(v).all()}, sds)


def _baselines(train: Data, test: Cases, seed: int) -> dict[str, Float64Array]:
    if len(train.seconds) < LEAST_FOR_BASELINES - 1:
        return {}
    out = {"lookup": lookup(train, test)}
    if forest_available():
        out["forest"] = forest(train, test, seed)
    return out


def folds(group: Int64Array, seed: int) -> list[Int64Array]:
    """Indices held out together; each group is in one fold. Ten folds, or one for each group where there are fewer."""
    names = np.unique(group)
    shuffled = np.random.default_rng(seed).permutation(names)
    parts = np.array_split(shuffled, min(FOLDS, len(names)))
    return [np.flatnonzero(np.isin(group, part)) for part in parts]


def choose(
    validated: Validated, data: Data, level: float, seed: int, preferred: ModelFamily | None = None
) -> tuple[ModelFamily, str, tuple[FormScore, ...]]:
    """(family, sentence, table): the first family in :data:`MODEL_FAMILIES` that the best one does not beat significantly.

    ``preferred`` is the family that served the source device of a transfer: it is taken before the simpler ones, since ten records can
    reject nothing, and where even they reject it, the best one is.

    Raises BadRecord where the records are too few for every family.
    """
    errors = {f: np.abs(np.log(validated.seconds[f] / data.seconds)) for f in MODEL_FAMILIES if f in validated.seconds}
    if not errors:
        raise BadRecord(
            f"{len(data.seconds)} records, of which some are left out to test on, are too few for any latency model: profile more."
        )
    best = min(errors, key=lambda f: float(errors[f].mean()))
    p_values = {f: sign_flip_p_value(errors[f] - errors[best], data.group, seed) if f != best else 1.0 for f in errors}
    accepted = [f for f in MODEL_FAMILIES if f in errors and p_values[f] > REJECTED]
    if preferred in errors:
        accepted = [preferred] if preferred in accepted else [best]
    chosen = accepted[0]
    scores = [_score(f, validated, data, level, p_values[f]) for f in errors]
    scores += [_score(b, validated, data, level, None) for b in BASELINES if b in validated.seconds]
    return chosen, _sentence(chosen, best, errors, p_values, preferred), tuple(scores)


def sign_flip_p_value(worse_by: Float64Array, group: Int64Array, seed: int) -> float:
    """One-sided p-value: how often the mean of ``worse_by`` is as large when its sign is a fair coin's, per sub-network."""
    sums = np.bincount(np.unique(group, return_inverse=True)[1], weights=worse_by)
    coins = np.random.default_rng(seed).choice((-1.0, 1.0), size=(FLIPS, len(sums)))
    return float((1 + np.sum(coins @ sums >= sums.sum() - 1e-15)) / (FLIPS + 1))


def _sentence(
    chosen: ModelFamily,
    best: ModelFamily,
    errors: dict[ModelFamily, Float64Array],
    p_values: dict[ModelFamily, float],
    preferred: ModelFamily | None,
) -> str:
    off = {family: float(np.exp(np.mean(values))) for family, values in errors.items()}
    rivals = [f for f in errors if MODEL_FAMILIES.index(f) < MODEL_FAMILIES.index(chosen) or f == preferred]
    rejected = [f for f in rivals if p_values[f] <= REJECTED]
    count = len(errors[chosen])
    text = f"{FAMILY_NAMES[chosen]}: on average a factor of {off[chosen]:.4g} off (geometric mean over {count} held-out records)"
    if len(errors) == 1:
        text += ", the only model family that these records carry"
    elif chosen == best:
        text += f", the smallest of {len(errors)} model families"
    else:
        text += f"; {FAMILY_NAMES[best]} has {off[best]:.4g}, which is not significantly better (p = {p_values[chosen]:.2f})"
    if chosen == preferred:
        text += "; it goes first because it served the source device of the transfer"
    elif rejected:
        text += f"; rejected as worse: {', '.join(FAMILY_NAMES[f] for f in rejected)}"
    return text + "."


def _score(family: str, validated: Validated, data: Data, level: float, p_value: float | None) -> FormScore:
    errors = np.abs(np.log(validated.seconds[family] / data.seconds))
    sd = deviations(family, validated, data)
    reach, how = calibrate(errors / sd, level)
    return FormScore(
        form=family,
        candidate=family in MODEL_FAMILIES,
        count=len(errors),
        quality=quality(validated.seconds[family], data.seconds),
        median_error=float(np.median(errors)),
        sd=float(np.median(sd)),
        reach=reach,
        calibration=how,
        p_value=p_value,
    )


def deviations(family: str, validated: Validated, data: Data) -> Float64Array:
    """The relative standard deviation of each held-out prediction [n]: the family's own, else one for all from its errors."""
    own = validated.sd.get(family)
    if own is not None and np.isfinite(own).all():
        return own
    errors = np.log(validated.seconds[family] / data.seconds)
    return np.full(len(errors), max(float(np.sqrt(np.mean(errors**2))), 1e-6))


def calibrate(scores: Float64Array, level: float) -> tuple[float, str]:
    """(standard deviations that an interval reaches to each side, how that was calibrated).

    The conformal quantile is the ceil((n + 1) level)-th smallest score; with too few scores for it (n < 9 at 90 %) there is none, and
    the largest score is stretched by Student's t instead, which assumes normal errors.
    """
    rank = ceil((len(scores) + 1) * level - 1e-9)
    if rank <= len(scores):
        return float(np.sort(scores)[rank - 1]), "conformal"
    from scipy import stats as distributions

    spread = float(np.sqrt(np.mean(scores**2)))
    t = float(distributions.t.ppf((1 + level) / 2, max(len(scores) - 1, 1)))
    return max(float(scores.max()), t * spread), "student"
