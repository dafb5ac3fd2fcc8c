"""Networks far from what was measured: a roofline that knows what usual devices are like, and how sure it is of each parameter.

The model families fit what was measured and are sharp there. Beyond it their parameters are often not known at all: forty sub-networks
of resnet18 say nothing about depthwise convolutions, and cannot tell the cost of a kernel's start from that of a call. Here every
parameter has a prior that states what is usual (:data:`USUAL`), the measurements move it as far as they say something about it, and an
interval comes from many draws of all parameters: a kernel whose kind was never measured may take a third of the expected time, or
three times as much, and what that means for a network depends on how much of its time such kernels take.

Networks of one space share their errors: however many were measured, they count as :data:`INDEPENDENT` at each state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kit.latency.features import Table
from kit.latency.parametric import Cases, Roof
from kit.stats import Float64Array

#: name -> (mean, standard deviation, lowest, highest): as in :data:`kit.latency.fitting.PRIORS`, logarithms relative to the time of one
#: multiply-accumulate but for :data:`SECONDS`. Sources: docs/latency.md, "Networks far from the measured ones".
USUAL: dict[str, tuple[float, float, float, float]] = {
    "byte": (1.4, 0.6, -4.0, 8.0),
    "weight": (0.3, 0.7, -4.0, 8.0),
    "far": (1.0, 0.6, 0.0, 4.0),
    "edge": (15.5, 0.8, 11.0, 20.0),
    "align": (0.4, 0.3, 0.0, 1.5),
    "rows": (0.7, 0.8, -4.0, 4.0),
    "power": (2.0, 0.6, 1.0, 6.0),
    "clock": (0.3, 0.3, 0.0, 1.0),
    "kernel": (-14.5, 1.0, -20.0, -6.0),  # log of the seconds that a kernel's start takes: 0.5 us
    "call": (-12.4, 1.0, -20.0, -4.0),  # and a call's: 4 us
    "kind:pointwise": (0.1, 0.4, -4.0, 4.0),
    "kind:depthwise": (2.1, 0.8, -4.0, 5.0),  # no reuse of what is loaded: a vector unit waits
    "kind:linear": (0.0, 0.5, -4.0, 4.0),
    "kind:matmul": (0.2, 0.5, -4.0, 4.0),
    "kind:pool": (0.3, 0.7, -4.0, 4.0),
    "kind:add": (0.1, 0.5, -4.0, 4.0),
    "kind:norm": (0.4, 0.6, -4.0, 4.0),
    "kind:softmax": (0.6, 0.7, -4.0, 4.0),
    "kind:elementwise": (0.6, 0.7, -4.0, 4.0),  # from a comparison to a hyperbolic tangent
    "kind:move": (0.3, 0.7, -4.0, 4.0),
    "precision:int8": (-1.2, 0.5, -4.0, 4.0),
    "precision:int4": (0.3, 0.8, -4.0, 4.0),
    "precision:fp16": (0.3, 0.9, -4.0, 4.0),  # half the bits where a core computes with them, else converted and back
    "precision:bf16": (0.3, 0.9, -4.0, 4.0),
    "precision:fp64": (0.9, 0.5, -4.0, 4.0),
}
SECONDS = ("kernel", "call")
OWN_ERROR = 0.15  # relative error of a roofline on one network
INDEPENDENT = 8  # networks that a space's many are worth
OWN_SHARE = 0.7  # of a parameter's variance that is one space's own: its elementwise kernels are not those of another
OWN_SPEED = 0.15  # standard deviation of what is a space's own in the time of a multiply-accumulate
GROUP_ERROR = 0.1  # of the kernels of one kind and precision, beyond their parameters, where such were measured
NEW_GROUP_ERROR = 0.3  # and where none were
SHAPE_ERROR = 0.15  # for each natural logarithm by which a kernel's shape lies outside of the measured ones
SHAPE_ERROR_MAX = 0.6
NETWORKS_MAX = 60  # that are fitted: more say nothing more
DRAWS = 200
STEP = 1e-3
STEPS_MAX = 40


@dataclass(frozen=True)
class FarPredictions:
    """Of each network [n]: logarithms of seconds."""

    log_seconds: Float64Array
    log_low: Float64Array
    log_high: Float64Array
    log_sd: Float64Array


class FarRoofline:
    """The parameters after the measurements ``seconds`` [n] of ``cases``, all at one state: a mean and a covariance."""

    @classmethod
    def fitted(cls, cases: Cases, seconds: Float64Array, *, spaces: int) -> FarRoofline:
        """The roofline of so many ``spaces``; of many networks an even choice by latency is fitted."""
        order = np.argsort(seconds, kind="stable")
        chosen = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), NETWORKS_MAX)).astype(np.int64))]
        return cls(cases.pick(chosen), seconds[chosen], spaces)

    def __init__(self, cases: Cases, seconds: Float64Array, spaces: int = 1) -> None:
        self.cases, self.spaces = cases, max(spaces, 1)
        work = cases.table.total(cases.table.macs)
        rough = float(np.log(np.median(seconds / np.maximum(work, 1.0))) - 0.3)
        table = {"mac": (rough, 2.0, rough - 12.0, rough + 8.0), **USUAL}
        self.names = list(table)
        self._usual, self._sd, self._low, self._high = (np.array([table[n][i] for n in self.names]) for i in range(4))
        self._sigma = OWN_ERROR * max(1.0, len(seconds) / INDEPENDENT) ** 0.5
        self._log_seconds = np.log(seconds)
        self.mean, self._root = self._elsewhere(*self._fitted())

    def _elsewhere(self, fitted: Float64Array, covariance: Float64Array) -> tuple[Float64Array, Float64Array]:
        """(mean, root of the covariance) of the parameters of another space's networks.

        A fitted parameter is the device's plus the mean of the measured spaces' own; another space has the device's and an own one.
        """
        own = OWN_SHARE * self._sd**2
        own[self.names.index("mac")] = OWN_SPEED**2
        common = self._sd**2 - own
        kept = common / (common + own / self.spaces)
        left = np.diag(common * (1.0 - kept) + own)
        root = np.linalg.cholesky(kept[:, None] * covariance * kept + left)
        return self._usual + kept * (fitted - self._usual), np.asarray(root, dtype=np.float64)

    def _fitted(self) -> tuple[Float64Array, Float64Array]:
        """(most probable parameters, their covariance): Levenberg and Marquardt's method."""
        roof = Roof(self.cases)
        x, damping = self._usual.copy(), 1e-2
        residuals = self._residuals(roof, x)
        slopes = self._slopes(roof, x)
        for _ in range(STEPS_MAX):
            curvature = slopes.T @ slopes
            step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), -slopes.T @ residuals)
            at = np.clip(x + step, self._low, self._high)
            tried = self._residuals(roof, at)
            gain = float(residuals @ residuals - tried @ tried)
            if gain <= 0:
                damping *= 4.0
                if damping > 1e6:
                    break
                continue
            x, residuals, damping = at, tried, damping / 3.0
            slopes = self._slopes(roof, x)
            if gain < 1e-5:
                break
        return x, np.linalg.inv(slopes.T @ slopes)

    def _residuals(self, roof: Roof, x: Float64Array) -> Float64Array:
        entries, call = self._times(roof, x)
        seconds = self.cases.table.sum_entries(entries) + call
        return np.concatenate([(np.log(seconds) - self._log_seconds) / self._sigma, (x - self._usual) / self._sd])

    def _slopes(self, roof: Roof, x: Float64Array) -> Float64Array:
        columns = []
        for i in range(len(x)):
            up, down = x.copy(), x.copy()
            up[i], down[i] = x[i] + STEP, x[i] - STEP
            columns.append((self._residuals(roof, up) - self._residuals(roof, down)) / (2 * STEP))
        return np.stack(columns, axis=1)

    def predict(self, cases: Cases, level: float) -> FarPredictions:
        """The networks of ``cases``, with intervals that hold ``level`` of them."""
        table, roof = cases.table, Roof(cases)
        errors = self._kernel_errors(table)
        groups, group = np.unique(table.attributes[:, :2], axis=0, return_inverse=True)
        group = group.reshape(-1)[table.kernel]
        rng = np.random.default_rng(0)
        logs = np.empty((2 * DRAWS + 1, table.nets))
        parameters, efficiencies = (
            rng.standard_normal((DRAWS, len(self.mean))),
            rng.standard_normal((DRAWS, len(groups))),
        )
        own = rng.standard_normal(DRAWS)
        for row, sign in enumerate(np.repeat((0.0, 1.0, -1.0), (1, DRAWS, DRAWS))):
            draw = (row - 1) % DRAWS
            x = np.clip(self.mean + sign * (self._root @ parameters[draw]), self._low, self._high)
            entries, call = self._times(roof, x)
            entries = entries * np.exp(sign * efficiencies[draw][group] * errors[table.kernel])
            logs[row] = np.log(table.sum_entries(entries) + call) + sign * OWN_ERROR * own[draw]
        middle = logs[0]
        low, high = np.quantile(logs, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return FarPredictions(
            middle,
            np.minimum(low, middle),
            np.maximum(high, middle),
            np.asarray(logs.std(axis=0)),
        )

    def _times(self, roof: Roof, x: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Seconds of each entry, [entries], and of each call as such, [nets]."""
        parameters = dict(zip(self.names, x.tolist(), strict=True))
        for name in SECONDS:
            parameters[name] -= parameters["mac"]
        return roof.times(parameters)

    def _kernel_errors(self, table: Table) -> Float64Array:
        """Relative error of each kernel beyond what the parameters explain, [kernels]: shared by the kernels of a kind and precision."""
        own = self.cases.table
        out = np.full(len(table.attributes), NEW_GROUP_ERROR)
        for kind, precision in np.unique(own.attributes[:, :2], axis=0):
            here = (table.column("kind") == kind) & (table.column("precision") == precision)
            like = (own.column("kind") == kind) & (own.column("precision") == precision)
            out[here] = GROUP_ERROR
            if here.any():
                rows = own.features[like]
                low, high, at = rows.min(axis=0), rows.max(axis=0), table.features[here]
                outside = np.maximum(np.maximum(low - at, at - high), 0.0).sum(axis=1)
                out[here] = np.hypot(GROUP_ERROR, np.minimum(SHAPE_ERROR * outside, SHAPE_ERROR_MAX))
        return out
