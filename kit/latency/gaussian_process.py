"""A Gaussian process on the efficiency of kernels, on top of a roofline.

T(net) = call + sum over kernels of m * (1 + h(phi)), where m is the kernel's roofline time and h a smooth function of what the
kernel looks like. Divided by the roofline time T0 of the whole network that is a linear observation of h, so the posterior is in
closed form: with shares w = m / T0, the covariance of two networks' relative errors is

    N(net, net') * sum over kernels of w w' k(phi, phi') + c w_call w_call' + n R(net, net')

k: Matern 5/2 with a length per feature, in part shared between kinds and between precisions, plus a constant per kind. N: states
(threads, gap, load) and networks of other weight totals (other caches) share a part. R: a smooth error of whole networks. The
noise is proportional to T. Hyperparameters maximise the marginal likelihood with priors (kit.latency.fitting); numpy does the rest.

The roofline's own parameters are not known either. Linearised, with their priors, they add to the variance of a prediction what
universal kriging adds for its trend: little among the measured networks, much beyond them.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from kit.latency.features import FEATURES, Table
from kit.latency.parametric import Cases, Roof, Roofline, place
from kit.records import Record
from kit.stats import Float64Array, Int64Array

NAMES = (
    "scale", *(f"length {f}" for f in FEATURES), "precisions", "kinds", "kind", "call", "net", "states", "weights",
    "length weights", "noise",
)  # fmt: skip
SHARED = (
    "precisions",
    "kinds",
    "states",
    "weights",
)  # logits of shares; the others are logarithms (of variances, of lengths)
JITTER = 1e-9
CHUNK = 512


class GaussianProcess(Record):
    """Hyperparameters (see :data:`NAMES`) and the roofline below; the posterior follows from them and from the networks that were measured.

    The roofline is fitted a second time, with the process's covariance: networks that share kernels share their errors, and a fit that
    counts them as independent follows whatever was measured most often.
    """

    hyper: dict[str, float]
    roofline: Roofline
    freedom: dict[str, float] | None = None  # prior standard deviations of its parameters; None: they count as known

    def shares(self, roof: Roof) -> Shares:
        """The cases of ``roof`` as the process sees them."""
        return Shares(roof.cases, *self.roofline.times(roof), self.roofline.slopes(roof, self.freedom or {}))


class Shares:
    """Cases as the process sees them: which share of the roofline's time each kernel takes, and the network's own features.

    ``slopes`` [nets, parameters] are those of :meth:`kit.latency.parametric.Roofline.slopes`; None: the roofline counts as known.
    """

    def __init__(
        self, cases: Cases, entries: Float64Array, call: Float64Array, slopes: Float64Array | None = None
    ) -> None:
        table = cases.table
        self.table: Table = table
        self.roof_s = table.sum_entries(entries) + call
        self.entry = entries / self.roof_s[table.net]
        self.call = call / self.roof_s
        self.state = np.array([place(s) for s in cases.states])[cases.state]
        self.state = np.column_stack([self.state, 4.0 * np.log(cases.slowdown)])
        self.log_weights = np.log(np.maximum(table.weight_bytes, 1.0))
        self.size = np.column_stack([np.log(self.roof_s), self.log_weights]) / 2.0
        self.slopes = np.zeros((table.nets, 0)) if slopes is None else slopes

    @cached_property
    def matrix(self) -> Float64Array:
        """Shares as [nets, kernels]."""
        out = np.zeros((self.table.nets, len(self.table.attributes)))
        np.add.at(out, (self.table.net, self.table.kernel), self.entry)
        return out


def sigmoid(x: float) -> float:
    """The share that a logit stands for."""
    return float(1.0 / (1.0 + np.exp(-x)))


class Covariance:
    """The covariance functions at one setting of the hyperparameters."""

    def __init__(self, hyper: dict[str, float]) -> None:
        self.share = {name: sigmoid(hyper[name]) for name in SHARED}
        self.value = {name: float(np.exp(hyper[name])) for name in NAMES if name not in SHARED}
        self.lengths = np.array([self.value[f"length {f}"] for f in FEATURES])

    def kernels(self, a: Table, b: Table) -> Float64Array:
        """k(phi, phi'), [kernels of a, kernels of b]."""
        smooth, kind = self.parts(a, b)
        return self.precisions(a, b) * (self.kinds(a, b) * smooth + kind)

    def parts(self, a: Table, b: Table) -> tuple[Float64Array, Float64Array]:
        """(the smooth part, the constant per kind)."""
        smooth = self.value["scale"] * matern(a.features / self.lengths, b.features / self.lengths)
        return smooth, self.value["kind"] * _same(a.column("kind"), b.column("kind"))

    def precisions(self, a: Table, b: Table) -> Float64Array:
        """What kernels of two precisions share, [kernels of a, kernels of b]."""
        return mixed(self.share["precisions"], _same(a.column("precision"), b.column("precision")))

    def kinds(self, a: Table, b: Table) -> Float64Array:
        """What kernels of two kinds share, [kernels of a, kernels of b]."""
        return mixed(self.share["kinds"], _same(a.column("kind"), b.column("kind")))

    def nets(self, a: Shares, b: Shares) -> Float64Array:
        """N, [nets of a, nets of b]."""
        return self.states(a, b) * self.weights(a, b)

    def states(self, a: Shares, b: Shares) -> Float64Array:
        """What two operating states share, [nets of a, nets of b]."""
        return mixed(self.share["states"], np.exp(-0.5 * _squares(a.state, b.state)))

    def weights(self, a: Shares, b: Shares) -> Float64Array:
        """What networks of two weight totals share, [nets of a, nets of b]."""
        length = self.value["length weights"]
        near = np.exp(-0.5 * _squares(a.log_weights[:, None] / length, b.log_weights[:, None] / length))
        return mixed(self.share["weights"], near)

    def between(self, a: Shares, b: Shares) -> Float64Array:
        """Everything but the noise, [nets of a, nets of b]."""
        cross = a.matrix @ self.kernels(a.table, b.table) @ b.matrix.T
        return np.asarray(self.nets(a, b) * cross + self.rest(a, b))

    def rest(self, a: Shares, b: Shares) -> Float64Array:
        """What whole networks have in common beyond their kernels: calls and size, [nets of a, nets of b]."""
        call = self.value["call"] * np.outer(a.call, b.call)
        return np.asarray(call + self.value["net"] * np.exp(-0.5 * _squares(a.size, b.size)))


def matern(a: Float64Array, b: Float64Array) -> Float64Array:
    """Matern 5/2 of unit length, [rows of a, rows of b]."""
    r = np.sqrt(5.0 * _squares(a, b))
    return np.asarray((1.0 + r + r * r / 3.0) * np.exp(-r))


def _squares(a: Float64Array, b: Float64Array) -> Float64Array:
    distance = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2.0 * a @ b.T
    return np.asarray(np.maximum(distance, 0.0))


def _same(a: Int64Array, b: Int64Array) -> Float64Array:
    return np.asarray(a[:, None] == b[None], dtype=np.float64)


def mixed(share: float, own: Float64Array) -> Float64Array:
    """``share`` for everybody, the rest only as far as ``own`` says."""
    return share + (1.0 - share) * own


class Posterior:
    """The process after its observations: ``ratio`` [n] is measured time over roofline time, ``spread`` [n] its relative noise."""

    def __init__(self, hyper: dict[str, float], shares: Shares, ratio: Float64Array, spread: Float64Array) -> None:
        self.covariance = Covariance(hyper)
        self.shares = shares
        self.noise = self.covariance.value["noise"]
        matrix = self.covariance.between(shares, shares)
        matrix[np.diag_indices_from(matrix)] += (self.noise + spread**2) * ratio**2 + JITTER
        self.factor = np.linalg.cholesky(matrix)
        self.alpha = self._solve(ratio - 1.0)
        self.trend = self._solve(shares.slopes)  # of the roofline's parameters
        self.trend_left = np.linalg.inv(np.eye(self.trend.shape[1]) + shares.slopes.T @ self.trend)

    def _solve(self, values: Float64Array) -> Float64Array:
        return np.asarray(np.linalg.solve(self.factor.T, np.linalg.solve(self.factor, values)))

    def predict(self, at: Shares) -> tuple[Float64Array, Float64Array]:
        """(ratio to the roofline, its standard deviation with the noise of a measurement), each [nets of at]."""
        cross = self._cross(at)
        ratio = 1.0 + cross @ self.alpha
        explained = np.linalg.solve(self.factor, cross.T)
        variance = np.maximum(self._prior(at) - (explained * explained).sum(axis=0), 0.0)
        off = at.slopes - cross @ self.trend
        variance += np.einsum("ni,ij,nj->n", off, self.trend_left, off)
        ratio = np.maximum(ratio, 0.1)
        return ratio, np.sqrt(variance + self.noise * ratio**2)

    def efficiencies(self, at: Shares) -> Float64Array:
        """1 + h of each entry of ``at``: by how much it takes longer than its roofline time, [entries]."""
        each = self._kernels_to_nets(at.table)[at.table.kernel] * self.covariance.nets(at, self.shares)[at.table.net]
        return np.asarray(1.0 + each @ self.alpha)

    def _kernels_to_nets(self, table: Table) -> Float64Array:
        """Covariance of h at each kernel of ``table`` with the relative error of each measured network, [kernels, measured]."""
        out = np.empty((len(table.attributes), self.shares.table.nets))
        for start in range(0, len(out), CHUNK):
            part = Table(table.attributes[start : start + CHUNK], table.net[:0], table.kernel[:0], table.count[:0], 0)
            out[start : start + CHUNK] = self.covariance.kernels(part, self.shares.table) @ self.shares.matrix.T
        return out

    def _cross(self, at: Shares) -> Float64Array:
        table = at.table
        out = np.zeros((table.nets, self.shares.table.nets))
        np.add.at(out, table.net, at.entry[:, None] * self._kernels_to_nets(table)[table.kernel])
        return self.covariance.nets(at, self.shares) * out + self.covariance.rest(at, self.shares)

    def _prior(self, at: Shares) -> Float64Array:
        """Variance of each network before any measurement, [nets]: entries of one network against each other only."""
        table, cov = at.table, self.covariance
        out = cov.value["call"] * at.call**2 + cov.value["net"]
        order = np.argsort(table.net, kind="stable")
        ends = np.searchsorted(table.net[order], np.arange(table.nets + 1))
        width = int(np.diff(ends).max(initial=0))
        for start in range(0, table.nets, CHUNK):
            nets = np.arange(start, min(start + CHUNK, table.nets))
            slots = ends[nets][:, None] + np.arange(width)[None]
            filled = slots < ends[nets + 1][:, None]
            entry = order[np.where(filled, slots, 0)] if len(order) else np.zeros_like(slots)
            share = np.where(filled, at.entry[entry], 0.0)
            out[nets] += np.einsum("ni,nij,nj->n", share, self._block(table, table.kernel[entry]), share)
        return out

    def _block(self, table: Table, kernel: Int64Array) -> Float64Array:
        """k within each row of ``kernel`` [n, width]: [n, width, width]."""
        cov = self.covariance
        x = (table.features / cov.lengths)[kernel]
        norm = (x * x).sum(axis=2)
        squares = np.maximum(norm[:, :, None] + norm[:, None] - 2.0 * x @ x.transpose(0, 2, 1), 0.0)
        r = np.sqrt(5.0 * squares)
        smooth = cov.value["scale"] * (1.0 + r + r * r / 3.0) * np.exp(-r)
        kind, precision = table.column("kind")[kernel], table.column("precision")[kernel]
        same_kind = (kind[:, :, None] == kind[:, None]).astype(np.float64)
        same_bits = (precision[:, :, None] == precision[:, None]).astype(np.float64)
        inner = mixed(cov.share["kinds"], same_kind) * smooth + cov.value["kind"] * same_kind
        return np.asarray(mixed(cov.share["precisions"], same_bits) * inner)
