"""Fitting the model families, with scipy, which a board does without: predicting needs none of this.

All fits minimise relative errors. The roofline and the process have priors on every parameter, so that ten measurements are
enough to get something sensible and hundreds override them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize

from kit.latency.efficiency_factor import line
from kit.latency.features import FEATURES, KINDS, PRECISIONS, WORKING
from kit.latency.gaussian_process import JITTER, NAMES, Covariance, GaussianProcess, Posterior, Shares, mixed, sigmoid
from kit.latency.parametric import Cases, Line, PerKindLinear, Roof, Roofline, State, kind_amounts
from kit.records import BITS
from kit.stats import Float64Array, Int64Array

#: name -> (prior mean, standard deviation, lowest, highest); costs are logarithms relative to one multiply-accumulate.
PRIORS: dict[str, tuple[float, float, float, float]] = {
    "byte": (1.4, 1.2, -4.0, 8.0),  # an activation byte
    "weight": (0.7, 1.2, -4.0, 8.0),  # a weight byte from the nearest cache
    "far": (1.0, 0.7, 0.0, 4.0),  # log of how much dearer from the farthest
    "edge": (15.5, 1.0, 11.0, 20.0),  # log of the weight bytes at which half of them come from far: 5 MB
    "align": (0.4, 0.3, 0.0, 1.5),  # share of the filled-up channels that is paid for
    "rows": (0.7, 1.0, -4.0, 4.0),  # log of the output positions that cost as much as starting
    "power": (2.0, 1.0, 1.0, 6.0),  # of the smooth maximum; 1 is the sum
    "borrow": (1.0, 0.25, -0.2, 1.5),  # how far the source device's efficiencies hold here
    "clock": (0.3, 0.3, 0.0, 1.0),  # how far memory follows the core's clock
}
DATA_SPREAD = 0.03  # relative error that a roofline is allowed before the priors give way
FEWEST = {"line": 3, "kinds": 5, "roofline": 6, "learned": 8}
FEWEST_TRANSFERRED = {"line": 3, "kinds": 5, "roofline": 3, "learned": 5}
STARTS = 3

#: name -> (prior mean, standard deviation) of the process's hyperparameters, logarithms of variances and lengths, logits of shares.
#: Those of the kernels' lengths, the noise and the share of precisions are where 150 sub-networks of resnet18 put them (x86, onnxruntime).
HYPER_PRIORS: dict[str, tuple[float, float]] = {
    "scale": (2 * np.log(0.21), 0.7),
    **{f"length {f}": (np.log(2.0), 0.7) for f in FEATURES},
    "length log rows": (np.log(4.5), 0.6),
    "length log inner": (np.log(2.0), 0.5),
    "length log columns": (np.log(1.2), 0.5),
    "length log2 size": (np.log(1.9), 0.5),
    "length misaligned": (np.log(0.3), 0.5),
    "precisions": (1.0, 0.8),
    "kinds": (0.0, 1.0),
    "kind": (2 * np.log(0.10), 1.2),
    "call": (2 * np.log(0.20), 1.0),
    "net": (2 * np.log(0.015), 1.2),
    "states": (1.0, 1.0),
    "weights": (1.0, 1.0),
    "length weights": (np.log(1.5), 0.5),
    "noise": (2 * np.log(0.014), 0.6),
}


@dataclass(frozen=True)
class Data:
    """Measured cases: seconds [n], their own relative standard error [n], and which sub-network each is of [n].

    ``efficiency`` [entries] is the source device's time of each kernel over its roofline time.
    """

    cases: Cases
    seconds: Float64Array
    spread: Float64Array
    group: Int64Array
    efficiency: Float64Array | None = None

    def pick(self, index: Int64Array) -> Data:
        """The cases of these indices."""
        efficiency = self.efficiency
        if efficiency is not None:
            place = [np.flatnonzero(self.cases.table.net == n) for n in index]
            efficiency = efficiency[np.concatenate(place)]
        return Data(self.cases.pick(index), self.seconds[index], self.spread[index], self.group[index], efficiency)


@dataclass(frozen=True)
class Fitted:
    """The model families that the data carry; the others are None. ``posterior`` is that of ``gaussian_process``."""

    line: Line | None
    per_kind_linear: PerKindLinear | None
    roofline: Roofline | None
    gaussian_process: GaussianProcess | None
    posterior: Posterior | None = None


def fit(
    data: Data,
    *,
    prior: dict[str, float] | None = None,
    warm: Fitted | None = None,
    seed: int = 0,
    kernels: bool = True,
) -> Fitted:
    """Every model family that has enough data. ``prior``: the source device's roofline; ``warm``: a fit of nearly the same data;
    ``kernels``: whether the kernels of the networks are known."""
    fewest = FEWEST if prior is None else FEWEST_TRANSFERRED
    count = len(data.seconds)
    straight = fit_line(data) if _enough_for_a_line(data) else None
    if not kernels or count < fewest["roofline"]:
        return Fitted(straight, None, None, None)
    per_kind_linear = fit_per_kind_linear(data) if count >= fewest["kinds"] else None
    roofline = fit_roofline(data, prior, warm.roofline if warm else None, seed)
    fitted = Fitted(straight, per_kind_linear, roofline, None)
    return (
        fitted
        if count < fewest["learned"]
        else fit_gaussian_process(data, fitted, prior, warm.gaussian_process if warm else None)
    )


def _enough_for_a_line(data: Data) -> bool:
    return any(len(set(macs)) >= FEWEST["line"] for macs in _grouped(data).values())


def _grouped(data: Data) -> dict[str, list[float]]:
    out: dict[str, list[float]] = {}
    for key, macs in zip(data.cases.groups(), data.cases.macs.tolist(), strict=True):
        out.setdefault(key, []).append(macs)
    return out


# ------------------------------------------------------------------------------------------------------------------ line, per-kind linear


def fit_line(data: Data) -> Line:
    """Per precision and state with three different MACs a line, else the largest group's line, scaled."""
    groups, macs_by_group = _indices(data), _grouped(data)
    complete_groups = [key for key in groups if len(set(macs_by_group[key])) >= FEWEST["line"]]
    fallback = max(complete_groups, key=lambda key: (len(groups[key]), key))
    seconds = data.seconds / data.cases.slowdown
    overheads: dict[str, float] = {}
    slopes: dict[str, float] = {}
    for key in sorted(groups, key=lambda key: (key != fallback, key)):
        index = groups[key]
        if key in complete_groups:
            overhead, slope = (float(v[0]) for v in line(data.cases.macs[index][None], seconds[index][None]))
        else:
            base = overheads[fallback] + slopes[fallback] * data.cases.macs[index]
            scale = float(np.median(seconds[index] / base))
            overhead, slope = overheads[fallback] * scale, slopes[fallback] * scale
        overheads[key], slopes[key] = overhead, slope
    return Line(overhead_s=overheads, s_per_mac=slopes, fallback=fallback)


def fit_per_kind_linear(data: Data) -> PerKindLinear:
    """Non-negative least squares on relative errors; a group with too few records takes the largest one's factors, scaled."""
    groups = _indices(data)
    fallback = max(groups, key=lambda key: (len(groups[key]), key))
    amounts, seconds = kind_amounts(data.cases.table), data.seconds / data.cases.slowdown
    out: dict[str, tuple[float, ...]] = {}
    for key in sorted(groups, key=lambda key: (key != fallback, key)):
        index = groups[key]
        if key == fallback or len(index) >= FEWEST["kinds"]:
            row = _relative_nnls(amounts[index], seconds[index])
        else:
            base = np.array(out[fallback])
            row = base * float(np.median(seconds[index] / np.maximum(amounts[index] @ base, 1e-30)))
        out[key] = tuple(row.tolist())
    return PerKindLinear(coefficients=out, fallback=fallback)


def _relative_nnls(amounts: Float64Array, seconds: Float64Array) -> Float64Array:
    scale = np.maximum(amounts.max(axis=0), 1e-30)
    coefficients, _ = optimize.nnls(amounts / scale / seconds[:, None], np.ones(len(seconds)))
    return np.asarray(coefficients / scale)


def _indices(data: Data) -> dict[str, Int64Array]:
    names = np.array(data.cases.groups())
    return {str(key): np.flatnonzero(names == key) for key in np.unique(names)}


# --------------------------------------------------------------------------------------------------------------------- roofline


def fit_roofline(data: Data, prior: dict[str, float] | None, warm: Roofline | None, seed: int) -> Roofline:
    """Least squares on log errors and priors, from several starting points; the best counts."""
    sigma = np.sqrt(DATA_SPREAD**2 + data.spread**2)
    return _least_squares(data, prior, lambda errors: errors / sigma, warm, seed)


def _least_squares(
    data: Data,
    prior: dict[str, float] | None,
    whiten: Callable[[Float64Array], Float64Array],
    warm: Roofline | None,
    seed: int = 0,
) -> Roofline:
    """``whiten`` turns log errors [n] into ones that are independent and of unit spread."""
    table = roofline_priors(data, prior)
    names = list(table)
    mean, sd, low, high = (np.array([table[n][i] for n in names]) for i in range(4))
    roof = Roof(data.cases, data.efficiency)

    def residuals(x: Float64Array) -> Float64Array:
        entries, call = roof.times(dict(zip(names, x.tolist(), strict=True)))
        predicted = data.cases.table.sum_entries(entries) + call
        return np.concatenate([whiten(np.log(predicted / data.seconds)), (x - mean) / sd])

    best = None
    for start in _starts(names, mean, sd, warm, seed):
        inside = np.clip(start, low + 1e-6, high - 1e-6)
        solution = optimize.least_squares(
            residuals, inside, bounds=(low, high), x_scale=sd, max_nfev=60, xtol=1e-6, ftol=1e-6
        )
        if best is None or solution.cost < best.cost:
            best = solution
    assert best is not None
    return Roofline(parameters=dict(zip(names, best.x.tolist(), strict=True)))


def _starts(
    names: list[str], mean: Float64Array, sd: Float64Array, warm: Roofline | None, seed: int
) -> Iterator[Float64Array]:
    if warm is not None:
        yield np.array([warm.parameters.get(n, m) for n, m in zip(names, mean, strict=True)])
        return
    rng = np.random.default_rng(seed)
    yield mean
    for _ in range(STARTS - 1):
        yield mean + 0.5 * np.minimum(sd, 2.0) * rng.standard_normal(len(names))


def roofline_priors(data: Data, prior: dict[str, float] | None) -> dict[str, tuple[float, float, float, float]]:
    """Prior mean, standard deviation and bounds of every parameter that these data can say something about."""
    cases, work = data.cases, data.cases.table.total(data.cases.table.macs)
    mac = float(np.log(np.median(data.seconds / np.maximum(work, 1.0))) - 0.3)
    shortest = float(np.log(data.seconds.min())) - mac
    kernels = float(np.log(np.maximum(np.median(cases.table.total(np.ones(len(cases.table.attributes)))), 1.0)))
    out = {"mac": (mac, 2.0, mac - 12.0, mac + 8.0)}
    skipped = {"borrow"} if data.efficiency is None else set()
    skipped |= {"clock"} if np.ptp(cases.slowdown) < 1e-9 else set()
    out |= {name: values for name, values in PRIORS.items() if name not in skipped}
    out["kernel"] = (shortest - kernels - 2.5, 1.5, shortest - kernels - 9.0, shortest - kernels + 0.5)
    out["call"] = (shortest - 3.0, 1.5, shortest - 10.0, shortest + 0.3)
    table = cases.table
    for kind in np.unique(table.column("kind")).tolist():
        if kind != 0:
            out[f"kind:{KINDS[kind]}"] = (0.0 if kind < WORKING else 0.3, 0.6, -4.0, 4.0)
    for precision in np.unique(table.column("precision")).tolist():
        name = PRECISIONS[precision]
        if name != "fp32":
            out[f"precision:{name}"] = (float(np.log(BITS[name] / 32)), 0.6, -4.0, 4.0)
    out |= _state_priors(cases, shortest)
    return out if prior is None else _transferred(out, prior)


def _state_priors(cases: Cases, shortest: float) -> dict[str, tuple[float, float, float, float]]:
    used = [cases.states[i] for i in np.unique(cases.state)]
    threads = sorted({s.threads for s in used})
    out: dict[str, tuple[float, float, float, float]] = {}
    for count in threads[1:]:
        ratio = float(np.log(count / threads[0]))
        out[f"threads:{count}"] = (-0.8 * ratio, 0.4, -2.0 * ratio, 2.0)
        out[f"memory:{count}"] = (-0.4 * ratio, 0.4, -2.0 * ratio, 2.0)
        out[f"spawn:{count}"] = (shortest - 7.0, 1.5, shortest - 12.0, shortest)
    others: list[State] = [s for s in used if s.gap_s or s.load]
    for name in sorted({f"gap{s.gap_s:g}-load{s.load}" for s in others}):
        out[f"state:{name}"] = (0.05, 0.4, -1.0, 4.0)
        out[f"wake:{name}"] = (shortest - 3.0, 1.5, shortest - 10.0, shortest + 3.0)
    return out


def _transferred(
    own: dict[str, tuple[float, float, float, float]], base: dict[str, float]
) -> dict[str, tuple[float, float, float, float]]:
    """The source device's values as means, each with half its freedom; its speed as such says nothing."""
    out = {}
    for name, (mean, sd, low, high) in own.items():
        if name in base and name not in ("mac", "borrow", "call", "kernel"):
            value = min(max(base[name], low), high)
            out[name] = (value, min(sd, 0.5 if name != "power" else 0.7), low, high)
        else:
            out[name] = (mean, sd, low, high)
    return out


# ------------------------------------------------------------------------------------------------------------ Gaussian process


def fit_gaussian_process(
    data: Data, fitted: Fitted, prior: dict[str, float] | None, warm: GaussianProcess | None
) -> Fitted:
    """``fitted`` with the process on top of a roofline: of its own first, then of one that is fitted with the process's covariance."""
    assert fitted.roofline is not None
    gaussian_process = _on_top(data, fitted.roofline, warm)
    if (
        prior is None
    ):  # the source device's efficiencies have taken out what networks with the same kernels have in common
        gaussian_process = _on_top(data, _generalised(data, gaussian_process), gaussian_process)
    freedom = {name: sd for name, (_, sd, _, _) in roofline_priors(data, prior).items()}
    gaussian_process = gaussian_process.model_copy(update={"freedom": freedom})
    shares = gaussian_process.shares(Roof(data.cases, data.efficiency))
    ratio = data.seconds / shares.roof_s
    return replace(
        fitted,
        gaussian_process=gaussian_process,
        posterior=Posterior(gaussian_process.hyper, shares, ratio, data.spread),
    )


def _on_top(data: Data, roofline: Roofline, warm: GaussianProcess | None) -> GaussianProcess:
    shares, ratio = _shares_and_ratio(data, roofline)
    return GaussianProcess(hyper=_maximise(_objective(shares, ratio, data.spread), warm), roofline=roofline)


def _shares_and_ratio(data: Data, roofline: Roofline) -> tuple[Shares, Float64Array]:
    """(the process's view of the networks, measured time over roofline time [n])."""
    shares = Shares(data.cases, *roofline.times(Roof(data.cases, data.efficiency)))
    return shares, data.seconds / shares.roof_s


def _generalised(data: Data, gaussian_process: GaussianProcess) -> Roofline:
    """Generalised least squares: the roofline when the errors of networks are as like each other as the process says."""
    shares, _ = _shares_and_ratio(data, gaussian_process.roofline)
    covariance = Covariance(gaussian_process.hyper)
    matrix = covariance.between(shares, shares)
    matrix[np.diag_indices_from(matrix)] += covariance.value["noise"] + data.spread**2 + JITTER
    whitening = np.linalg.inv(np.linalg.cholesky(matrix))
    return _least_squares(data, None, lambda errors: whitening @ errors, gaussian_process.roofline)


def _maximise(
    objective: Callable[[Float64Array], tuple[float, Float64Array]], warm: GaussianProcess | None
) -> dict[str, float]:
    """From the priors' means, and from there a fit of nearly the same data only takes a few steps."""
    mean = np.array([HYPER_PRIORS[n][0] for n in NAMES])
    sd = np.array([HYPER_PRIORS[n][1] for n in NAMES])
    start = mean if warm is None else np.array([warm.hyper[n] for n in NAMES])
    bounds = list(zip((mean - 4 * sd).tolist(), (mean + 4 * sd).tolist(), strict=True))
    optimum, _, _ = optimize.fmin_l_bfgs_b(objective, start, bounds=bounds, maxiter=60 if warm is None else 5)
    return dict(zip(NAMES, optimum.tolist(), strict=True))


class _Likelihood:
    """What stays the same while hyperparameters change: squared distances and equalities, computed once."""

    def __init__(self, shares: Shares, ratio: Float64Array, spread: Float64Array) -> None:
        table = shares.table
        self.shares, self.ratio, self.spread = shares, ratio, spread
        self.apart = np.stack([_apart(column) for column in table.features.T])
        self.same_kind = _apart(table.column("kind").astype(np.float64)) == 0
        self.same_bits = _apart(table.column("precision").astype(np.float64)) == 0
        self.states = np.exp(-0.5 * np.sum([_apart(column) for column in shares.state.T], axis=0))
        self.weights = _apart(shares.log_weights)
        self.call = np.outer(shares.call, shares.call)
        self.net = np.exp(-0.5 * np.sum([_apart(column) for column in shares.size.T], axis=0))

    def loss(self, hyper: dict[str, float]) -> tuple[float, Float64Array]:
        """Minus the log of the likelihood and its gradient, which goes through the kernels by B = A' (G * N) A, so that it costs
        about as much as the value itself."""
        cov, a = Covariance(hyper), self.shares.matrix
        r = np.sqrt(5.0 * np.tensordot(cov.lengths**-2.0, self.apart, axes=1))
        fall = cov.value["scale"] * np.exp(-r)
        smooth = fall * (1.0 + r + r * r / 3.0)
        constant = cov.value["kind"] * self.same_kind
        bits, kinds = mixed(cov.share["precisions"], self.same_bits), mixed(cov.share["kinds"], self.same_kind)
        inside = kinds * smooth + constant
        cross = a @ (bits * inside) @ a.T
        near = np.exp(-0.5 * self.weights / cov.value["length weights"] ** 2)
        states, weights = mixed(cov.share["states"], self.states), mixed(cov.share["weights"], near)
        nets = states * weights
        call, net = cov.value["call"] * self.call, cov.value["net"] * self.net
        noise = cov.value["noise"] * self.ratio**2
        matrix = nets * cross + call + net
        matrix[np.diag_indices_from(matrix)] += noise + (self.spread * self.ratio) ** 2 + JITTER
        inverse, y = np.linalg.inv(matrix), self.ratio - 1.0
        alpha = inverse @ y
        g = 0.5 * (inverse - np.outer(alpha, alpha))
        b = (a.T @ (g * nets) @ a) * bits
        slopes = np.tensordot(self.apart, b * kinds * (5.0 / 3.0 * fall * (1.0 + r)), axes=2) / cov.lengths**2
        by_weights = g * states * cross
        gradient = {
            "scale": float((b * kinds * smooth).sum()),
            "kind": float((b * constant).sum()),
            "call": float((g * call).sum()),
            "net": float((g * net).sum()),
            "noise": float((np.diag(g) * noise).sum()),
            "precisions": _share_gradient(hyper["precisions"], bits, b / bits * inside),
            "kinds": _share_gradient(hyper["kinds"], kinds, b * smooth),
            "states": _share_gradient(hyper["states"], states, g * weights * cross),
            "weights": _share_gradient(hyper["weights"], weights, by_weights),
            "length weights": float((by_weights * near * self.weights).sum())
            * (1.0 - cov.share["weights"])
            / cov.value["length weights"] ** 2,
            **{f"length {f}": float(v) for f, v in zip(FEATURES, slopes, strict=True)},
        }
        loss = 0.5 * float(y @ alpha) + 0.5 * float(np.linalg.slogdet(matrix)[1])
        return loss, np.array([gradient[n] for n in NAMES])


def _objective(
    shares: Shares, ratio: Float64Array, spread: Float64Array
) -> Callable[[Float64Array], tuple[float, Float64Array]]:
    """Minus the log of marginal likelihood times prior, and its gradient."""
    mean = np.array([HYPER_PRIORS[n][0] for n in NAMES])
    sd = np.array([HYPER_PRIORS[n][1] for n in NAMES])
    likelihood = _Likelihood(shares, ratio, spread)

    def value(x: Float64Array) -> tuple[float, Float64Array]:
        loss, gradient = likelihood.loss(dict(zip(NAMES, x.tolist(), strict=True)))
        return loss + 0.5 * float((((x - mean) / sd) ** 2).sum()), gradient + (x - mean) / sd**2

    return value


def _apart(values: Float64Array) -> Float64Array:
    """Squared differences of all pairs, [n, n]."""
    return np.asarray((values[:, None] - values[None]) ** 2)


def _share_gradient(logit: float, values: Float64Array, outer: Float64Array) -> float:
    """d/dlogit of sum(outer * (s + (1 - s) own)), given the mixture itself: (1 - own) = (1 - values) / (1 - s)."""
    share = sigmoid(logit)
    return float((outer * (1.0 - values)).sum() * share)
