"""Which form is believed: k-fold cross-validation over sub-networks, and the simplest form that it cannot reject.

All records of one sub-network (its precisions, threads) fall into one fold. Errors are logarithms of predicted over measured. A form is
rejected against the best when its absolute errors are larger than the best one's by more than signs flipped at random explain
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
from kit.latency.features import Ints
from kit.latency.fitting import Data, Fitted, fit
from kit.latency.model import FORMS, REJECTED, Form
from kit.latency.parametric import Cases, Roof
from kit.records import FormScore
from kit.stats import Floats

FOLDS = 10
LEAST_FOR_BASELINES = 8
FLIPS = 4000
BASELINES = {
    "papers": "MACs / clock (lambda = 1)",
    "forest": "random forest on network features",
    "lookup": "layer-wise lookup table",
}

Fit = Callable[[Data], Fitted]


@dataclass(frozen=True)
class Validated:
    """Held-out predictions of each form: seconds [n] and relative standard deviation [n] (nan: the form has none of its own)."""

    seconds: dict[str, Floats]
    sd: dict[str, Floats]


def evaluate(found: Fitted, data: Data) -> dict[Form, tuple[Floats, Floats]]:
    """(seconds, relative standard deviation) by every form that was fitted."""
    out: dict[Form, tuple[Floats, Floats]] = {}
    nothing = np.full(len(data.seconds), np.nan)
    if found.line is not None:
        out["factor"] = (found.line.predict(data.cases), nothing)
    if found.kinds is not None:
        out["kinds"] = (np.maximum(found.kinds.predict(data.cases), 1e-12), nothing)
    if found.roofline is not None:
        roof = Roof(data.cases, data.efficiency)
        entries, call = found.roofline.times(roof)
        out["roofline"] = (data.cases.table.sum_entries(entries) + call, nothing)
        if found.learned is not None and found.posterior is not None:
            shares = found.learned.shares(roof)
            ratio, sd = found.posterior.predict(shares)
            out["learned"] = (ratio * shares.roof_s, sd / ratio)
    return out


def cross_validate(
    data: Data,
    whole: Fitted,
    prior: dict[str, float] | None,
    *,
    kernels: bool,
    baselines: bool,
    clock_hz: float | None,
    seed: int,
) -> Validated:
    """Every form (and baseline), fitted without each fold and asked for it. ``whole`` is the fit of all, from which folds start."""
    seconds: dict[str, Floats] = {}
    sds: dict[str, Floats] = {}
    count = len(data.seconds)

    def keep(name: str, index: Ints, values: Floats, sd: Floats | None = None) -> None:
        seconds.setdefault(name, np.full(count, np.nan))[index] = values
        sds.setdefault(name, np.full(count, np.nan))[index] = np.nan if sd is None else sd

    for held in folds(data.group, seed):
        rest = np.setdiff1d(np.arange(count), held)
        train, test = data.pick(rest), data.pick(held)
        if len(rest) < 2 or not len({*train.cases.macs.tolist()}) > 2:
            continue
        found = fit(train, prior=prior, warm=whole, seed=seed, kernels=kernels)
        for form, (values, sd) in evaluate(found, test).items():
            keep(form, held, values, sd)
        if baselines and kernels:
            for name, values in _baselines(train, test.cases, seed).items():
                keep(name, held, values)
    if baselines and clock_hz is not None:
        seconds["papers"] = data.cases.macs / clock_hz * data.cases.slowness
    return Validated({k: v for k, v in seconds.items() if np.isfinite(v).all()}, sds)


def _baselines(train: Data, test: Cases, seed: int) -> dict[str, Floats]:
    if len(train.seconds) < LEAST_FOR_BASELINES - 1:
        return {}
    out = {"lookup": lookup(train, test)}
    if forest_available():
        out["forest"] = forest(train, test, seed)
    return out


def folds(group: Ints, seed: int) -> list[Ints]:
    """Indices held out together; each group is in one fold. Ten folds, or one for each group where there are fewer."""
    names = np.unique(group)
    shuffled = np.random.default_rng(seed).permutation(names)
    parts = np.array_split(shuffled, min(FOLDS, len(names)))
    return [np.flatnonzero(np.isin(group, part)) for part in parts]


def choose(
    found: Validated, data: Data, level: float, seed: int, usual: Form | None = None
) -> tuple[Form, str, tuple[FormScore, ...]]:
    """(form, sentence, table). The first form in :data:`FORMS` that the best one does not beat beyond chance.

    ``usual`` is the form that served another device, whose structure is borrowed: it is taken before the simpler ones, since ten records
    can reject nothing, and where even they reject it, the best one is.

    Raises BadRecord where the records are too few for every form.
    """
    errors = {f: np.abs(np.log(found.seconds[f] / data.seconds)) for f in FORMS if f in found.seconds}
    if not errors:
        raise BadRecord(
            f"{len(data.seconds)} records, of which some are left out to test on, are too few for any latency model: profile more."
        )
    best = min(errors, key=lambda f: float(errors[f].mean()))
    chances = {f: chance(errors[f] - errors[best], data.group, seed) if f != best else 1.0 for f in errors}
    kept = [f for f in FORMS if f in errors and chances[f] > REJECTED]
    if usual in errors:
        kept = [usual] if usual in kept else [best]
    chosen = kept[0]
    scores = [_score(f, found, data, level, chances[f]) for f in errors]
    scores += [_score(b, found, data, level, None) for b in BASELINES if b in found.seconds]
    return chosen, _sentence(chosen, best, errors, chances, usual), tuple(scores)


def chance(worse_by: Floats, group: Ints, seed: int) -> float:
    """Probability that the mean of ``worse_by`` is as large when, per sub-network, its sign is a coin's (one-sided)."""
    sums = np.bincount(np.unique(group, return_inverse=True)[1], weights=worse_by)
    coins = np.random.default_rng(seed).choice((-1.0, 1.0), size=(FLIPS, len(sums)))
    return float((1 + np.sum(coins @ sums >= sums.sum() - 1e-15)) / (FLIPS + 1))


def _sentence(
    chosen: Form, best: Form, errors: dict[Form, Floats], chances: dict[Form, float], usual: Form | None
) -> str:
    mean = {form: float(np.mean(values)) for form, values in errors.items()}
    rivals = [f for f in errors if FORMS.index(f) < FORMS.index(chosen) or f == usual]
    rejected = [f for f in rivals if chances[f] <= REJECTED]
    text = f"{chosen}: mean error {mean[chosen]:.1%} on {len(errors[chosen])} held-out records"
    if chosen == best:
        text += ", the smallest of all forms"
    else:
        text += f"; {best} has {mean[best]:.1%}, which chance explains (p = {chances[chosen]:.2f})"
    if chosen == usual:
        text += "; it goes first because it served the device that is borrowed from"
    elif rejected:
        text += f"; rejected as worse: {', '.join(rejected)}"
    return text + "."


def _score(form: str, found: Validated, data: Data, level: float, p_value: float | None) -> FormScore:
    errors = np.abs(np.log(found.seconds[form] / data.seconds))
    sd = deviations(form, found, data)
    reach, how = calibrate(errors / sd, level)
    return FormScore(
        form=form,
        candidate=form in FORMS,
        count=len(errors),
        quality=quality(found.seconds[form], data.seconds),
        median_error=float(np.median(errors)),
        sd=float(np.median(sd)),
        reach=reach,
        calibration=how,
        p_value=p_value,
    )


def deviations(form: str, found: Validated, data: Data) -> Floats:
    """The relative standard deviation of each held-out prediction [n]: the form's own, else one for all from its errors."""
    own = found.sd.get(form)
    if own is not None and np.isfinite(own).all():
        return own
    errors = np.log(found.seconds[form] / data.seconds)
    return np.full(len(errors), max(float(np.sqrt(np.mean(errors**2))), 1e-6))


def calibrate(scores: Floats, level: float) -> tuple[float, str]:
    """(standard deviations that an interval reaches to each side, how that was found).

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
