"""The predictor: one JSON file that turns kernels into seconds with an interval, by numpy alone.

It holds every model family that was fitted, which of them is chosen and why, and the networks it was fitted to (the Gaussian process
needs them, and so does the check whether a network lies outside of the measured ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from kit import records, store, units
from kit.errors import BadRecord, UsageError
from kit.latency.blas import one_thread
from kit.latency.distance import MeasuredRange, reasons_text
from kit.latency.far import FarPredictions, FarRoofline
from kit.latency.features import Networks, Table, arrange
from kit.latency.gaussian_process import GaussianProcess, Posterior, Shares
from kit.latency.parametric import Cases, Line, PerKindLinear, Roof, Roofline, State, place
from kit.records import AliasedRecord, FormScore, Kernel, LatencyModel, OperatingPoint, Record
from kit.stats import BoolArray, Float64Array, Int64Array

ModelFamily = Literal["factor", "kinds", "roofline", "learned"]
MODEL_FAMILIES: tuple[ModelFamily, ...] = ("factor", "kinds", "roofline", "learned")  # the simplest first
#: The name of each family and baseline: the identifiers are those of the stored files.
FAMILY_NAMES: dict[str, str] = {
    "factor": "line",
    "kinds": "per-kind linear",
    "roofline": "roofline",
    "learned": "Gaussian process",
    "papers": "papers' lambda = 1",
    "forest": "random forest",
    "lookup": "layer-wise lookup table",
}
REJECTED = 0.10  # a family with a smaller p-value against the best one is out
WIDER = 3.0  # how much wider the interval of an extrapolation is that is not far, for families without a variance of their own
UNSURE = 3.0  # a standard deviation so much larger than in cross-validation is an extrapolation as well
ANY_LINE = float(
    np.log(6.0)
)  # where only a line is known: cycles per MAC of ResNet-18, VGG, MobileNetV2 and ViT differ by so much
CLOCK_MARGIN = 0.02
OTHER_FAMILY = "no network of its family was measured, so it is predicted kernel by kernel"


class Measured(AliasedRecord):
    """What a predictor was fitted to. ``spread`` is each latency's relative standard error, ``kernels_known`` False where only the
    multiply-accumulates of the networks were known."""

    networks: Networks
    kernels_known: bool
    macs: tuple[float, ...]
    precision: tuple[int, ...]
    state: tuple[int, ...]
    slowdown: tuple[float, ...] = Field(alias="slowness")
    seconds: tuple[float, ...]
    spread: tuple[float, ...]
    record_ids: tuple[str, ...]
    families: tuple[str, ...] = ()

    def cases(self, states: tuple[State, ...]) -> Cases:
        """The measured networks at their states."""
        return Cases(
            self.networks.table(), np.array(self.macs), np.array(self.precision, dtype=np.int64), states,
            np.array(self.state, dtype=np.int64), np.array(self.slowdown),
        )  # fmt: skip


class Clocks(Record):
    """The range of clocks that was chosen on purpose and measured; ``reference_hz`` is the one that the coefficients are stated at."""

    low_hz: float
    high_hz: float
    reference_hz: float


@dataclass(frozen=True)
class Predictions:
    """Of each network [n]: median latency, interval and standard deviation, all in seconds, and why it is an extrapolation (None: it is
    none)."""

    seconds: Float64Array
    low: Float64Array
    high: Float64Array
    sd: Float64Array
    why: tuple[str | None, ...]

    @property
    def extrapolates(self) -> BoolArray:
        """Whether each is an extrapolation, [n]."""
        return np.array([w is not None for w in self.why], dtype=bool)


class Predictor(AliasedRecord):
    """Latency of any network on one device and backend. Written by ``kit fit``, read by ``kit predict``."""

    kind: Literal["predictor"] = "predictor"
    schema_version: Literal[2] = 2  # 1: the Gaussian process stood on the roofline that is a family of its own
    device_id: str
    backend: str
    level: float  # of the intervals
    seed: int
    states: tuple[State, ...]
    clocks: Clocks | None
    measured: Measured
    line: Line | None = None
    per_kind_linear: PerKindLinear | None = Field(default=None, alias="kinds")
    roofline: Roofline | None = None
    gaussian_process: GaussianProcess | None = Field(default=None, alias="learned")
    chosen: ModelFamily
    reason: str  # why this family, as a sentence
    scores: tuple[FormScore, ...]
    held_out_s: tuple[
        float, ...
    ] = ()  # what the chosen family predicts for each measured network that it was not fitted to
    held_out_sd: tuple[float, ...] = ()  # its relative standard deviation there
    notes: tuple[str, ...] = ()  # what was left out, and why
    models: tuple[LatencyModel, ...] = ()  # the efficiency factors of the same records
    base: Predictor | None = (
        None  # another device, the source of a transfer: its kernel efficiencies are the prior of this one's
    )

    def summary(self) -> dict[str, str]:
        """The chosen family, its error, and the efficiency factors."""
        points = [
            f"{s.threads} thread(s)" + (f", gap {units.seconds(s.gap_s)}" if s.gap_s else "") for s in self.states
        ]
        rows = {
            "model": f"{self.chosen} ({self.backend})",
            "error": units.percent(self._score(self.chosen).quality.mape) + " on networks that it was not fitted to",
            "intervals": f"{self.level:.0%}",
            "points": "; ".join(dict.fromkeys(points)),
            "records": str(len(self.measured.seconds)),
            "device": self.device_id,
            "because": self.reason,
        }
        rows |= {f"efficiency factor, {m.precision}": m.summary()["efficiency factor"] for m in self.models}
        return rows

    def predict(
        self,
        networks: Sequence[Sequence[Kernel]],
        point: OperatingPoint | None = None,
        *,
        clock_hz: float | None = None,
        model_family: ModelFamily | None = None,
        families: Sequence[str | None] | None = None,
    ) -> Predictions:
        """Latencies of ``networks`` (the kernels of each) at an operating point; None: the first measured one.

        ``families`` names the family of each, None for a network of none: one that was not measured is predicted kernel by kernel, with
        a wider interval. Raises UsageError for a point or clock outside of the measured ones, or a family that was not fitted; BadRecord
        for a network without kernels.
        """
        if not networks or not all(networks):
            raise BadRecord("There is nothing to predict: a network without kernels has no latency.")
        table = arrange(networks)
        out_of_distribution = np.zeros(table.nets, dtype=bool)
        if families is not None:
            out_of_distribution = np.array([family not in self.measured.families for family in families])
        return self.of_table(
            table, point, clock_hz=clock_hz, model_family=model_family, out_of_distribution=out_of_distribution
        )

    @one_thread
    def of_table(
        self,
        table: Table,
        point: OperatingPoint | None = None,
        *,
        clock_hz: float | None = None,
        model_family: ModelFamily | None = None,
        out_of_distribution: BoolArray | None = None,
    ) -> Predictions:
        """:meth:`predict` for networks that are arranged already; ``out_of_distribution`` marks those of another family [nets]."""
        model_family = model_family or self.chosen
        score = self._score(model_family)
        cases = Cases.of(table, self.states, np.full(table.nets, self._slowdown(point, clock_hz)))
        logs, sds = np.zeros(table.nets), np.zeros(table.nets)
        between = self._between(point)
        for state, weight in between:
            seconds, sd = self.evaluate(model_family, cases.at(state))
            logs, sds = logs + weight * np.log(seconds), sds + weight * sd
        others = np.zeros(table.nets, dtype=bool) if out_of_distribution is None else out_of_distribution
        distances = self.measured_range.distances(cases, [s for s, _ in between], shapes=model_family != "factor")
        why = [reasons[0] if reasons else None for reasons in distances.family]
        if model_family == "learned":
            for index in np.flatnonzero(sds > UNSURE * score.sd).tolist():
                why[index] = why[index] or f"unlike the measured networks (sd {sds[index]:.0%})"
        else:
            sds = sds * np.where([w is not None for w in why], WIDER, 1.0)
        for index in np.flatnonzero(others).tolist():
            sds[index] *= WIDER if model_family == "learned" or why[index] is None else 1.0
            reasons = distances.others[index] or tuple(filter(None, [why[index]]))
            why[index] = OTHER_FAMILY + (f"; {reasons_text(reasons)}" if reasons else "")
        reach = score.reach * sds
        out = FarPredictions(logs, logs - reach, logs + reach, sds)
        if self.measured.kernels_known:
            far = distances.unlike | (others & np.array([bool(reasons) for reasons in distances.others]))
            out = self._with_far(out, cases, np.flatnonzero(far), between)
        elif others.any():
            widest = np.where(others, np.maximum(reach, ANY_LINE), reach)
            out = FarPredictions(logs, logs - widest, logs + widest, sds * widest / np.maximum(reach, 1e-12))
        seconds = np.exp(out.log_seconds)
        return Predictions(seconds, np.exp(out.log_low), np.exp(out.log_high), seconds * out.log_sd, tuple(why))

    def _with_far(
        self, near: FarPredictions, cases: Cases, far: Int64Array, between: list[tuple[int, float]]
    ) -> FarPredictions:
        """``near`` with the networks of ``far`` predicted kernel by kernel by what is usual."""
        if not len(far):
            return near
        at = cases.pick(far)
        parts = [(weight, self.far_roofline(state).predict(at.at(state), self.level)) for state, weight in between]
        columns = {name: getattr(near, name).copy() for name in FarPredictions.__dataclass_fields__}
        for name, values in columns.items():
            values[far] = sum(weight * getattr(part, name) for weight, part in parts)
        return FarPredictions(**columns)

    def held_out(self) -> tuple[Float64Array, Float64Array, Float64Array]:
        """(seconds, low, high) of each measured network, [n], from the fold that it was left out of. Raises BadRecord without."""
        if len(self.held_out_s) != len(self.measured.seconds):
            raise BadRecord(
                "This model was written without its held-out predictions: write it again with kit fit --out."
            )
        seconds = np.array(self.held_out_s)
        reach = self._score(self.chosen).reach * np.array(self.held_out_sd)
        return seconds, seconds * np.exp(-reach), seconds * np.exp(reach)

    def evaluate(self, model_family: ModelFamily, cases: Cases) -> tuple[Float64Array, Float64Array]:
        """(seconds, relative standard deviation) of cases at measured states, before calibration."""
        score = self._score(model_family)
        linear = {"factor": self.line, "kinds": self.per_kind_linear}.get(model_family)
        if model_family == "learned" and self.posterior is not None:
            shares = self.shares(cases)
            ratio, sd = self.posterior.predict(shares)
            return ratio * shares.roof_s, sd / ratio
        if model_family == "roofline" and self.roofline is not None:
            entries, call = self.roofline.times(self.roof(cases))
            seconds = cases.table.sum_entries(entries) + call
        elif linear is not None:
            seconds = linear.predict(cases)
        else:
            raise self._not_fitted(model_family)
        return np.maximum(seconds, 1e-12), np.full(cases.table.nets, score.sd)

    @property
    def roofline_below(self) -> Roofline | None:
        """The roofline that the kernels' efficiencies are relative to."""
        return self.roofline if self.gaussian_process is None else self.gaussian_process.roofline

    def roof(self, cases: Cases) -> Roof:
        """``cases`` laid out for the roofline, over the source device's efficiencies."""
        return Roof(cases, self.source_efficiencies(cases))

    def source_efficiencies(self, cases: Cases) -> Float64Array | None:
        """The source device's time of each kernel over its roofline time, [entries]; None without a source."""
        return None if self.base is None else self.base.efficiencies(cases)

    def efficiencies(self, cases: Cases) -> Float64Array | None:
        """1 + h of each entry of networks, seen from this device at its first state; None where no Gaussian process was fitted."""
        states = np.zeros_like(cases.state)
        here = Cases(cases.table, cases.macs, cases.precision, self.states, states, np.ones_like(cases.slowdown))
        if self.posterior is None:
            return self.source_efficiencies(here)
        own, source = self.posterior.efficiencies(self.shares(here)), self.source_efficiencies(here)
        transferred = self.gaussian_process.roofline.parameters.get("borrow", 0.0) if self.gaussian_process else 0.0
        return own if source is None else own * np.maximum(source, 0.05) ** transferred

    def shares(self, cases: Cases) -> Shares:
        """``cases`` as the Gaussian process sees them."""
        assert self.gaussian_process is not None
        return self.gaussian_process.shares(self.roof(cases))

    @cached_property
    def posterior(self) -> Posterior | None:
        """The process after the measurements; None where none was fitted."""
        if self.gaussian_process is None:
            return None
        shares = self.shares(self.measured.cases(self.states))
        ratio = np.array(self.measured.seconds) / shares.roof_s
        return Posterior(self.gaussian_process.hyper, shares, ratio, np.array(self.measured.spread))

    def _score(self, model_family: str) -> FormScore:
        for score in self.scores:
            if score.form == model_family and score.candidate:
                return score
        raise self._not_fitted(model_family)

    def _not_fitted(self, model_family: str) -> UsageError:
        name = FAMILY_NAMES.get(model_family, model_family)
        return UsageError(
            f"The model family '{name}' was not fitted here: measure more networks, or take '{FAMILY_NAMES[self.chosen]}'."
        )

    # ------------------------------------------------------------------------------------------------------ operating points

    def _slowdown(self, point: OperatingPoint | None, clock_hz: float | None) -> float:
        clock = clock_hz or (point.clock_cap_hz if point else None)
        if clock is None:
            return 1.0
        if self.clocks is None:
            raise UsageError(
                "This model was fitted at one clock and cannot predict another: profile with --sweep clock-ghz=... --control."
            )
        low, high = self.clocks.low_hz, self.clocks.high_hz
        if not low * (1 - CLOCK_MARGIN) <= clock <= high * (1 + CLOCK_MARGIN):
            raise UsageError(
                f"{units.brief(clock, units.CLOCK, 3)} lies outside of the measured clocks ({units.in_unit(low, units.GHZ, 3)} to "
                f"{units.in_unit(high, units.GHZ, 3)} GHz): measure there."
            )
        return self.clocks.reference_hz / clock

    def _between(self, point: OperatingPoint | None) -> list[tuple[int, float]]:
        """(state, weight) of the measured states around ``point``. Raises UsageError outside of them."""
        if point is None:
            return [(0, 1.0)]
        if point.affinity is not None or point.power_mode is not None or (point.batch or 1) != 1:
            raise UsageError(
                f"This model knows threads, gaps, load and clock, not the rest of the point {point.name}: measure it there."
            )
        rows = np.array([place(s) for s in self.states])
        target = np.array(place(point))
        exact = np.flatnonzero(np.all(np.abs(rows - target) < 1e-9, axis=1))
        if len(exact):
            return [(int(exact[0]), 1.0)]
        for axis in range(rows.shape[1]):
            others = np.delete(np.abs(rows - target), axis, axis=1).max(axis=1) < 1e-9
            below = np.flatnonzero(others & (rows[:, axis] < target[axis]))
            above = np.flatnonzero(others & (rows[:, axis] > target[axis]))
            if len(below) and len(above):
                a, b = int(below[rows[below, axis].argmax()]), int(above[rows[above, axis].argmin()])
                share = float((target[axis] - rows[a, axis]) / (rows[b, axis] - rows[a, axis]))
                return [(a, 1 - share), (b, share)]
        points = ", ".join(
            f"{s.threads} thread(s), gap {units.in_unit(s.gap_s, units.MS, 6)} ms, load {s.load}" for s in self.states
        )
        raise UsageError(
            f"The point {point.name} lies outside of the measured ones ({points}): profile a few networks there and fit again."
        )

    # ------------------------------------------------------------------------------------------------------- extrapolation

    @cached_property
    def measured_range(self) -> MeasuredRange:
        """What was measured, as ranges."""
        return MeasuredRange(self.measured.cases(self.states), kernels=self.measured.kernels_known)

    def far_roofline(self, state: int) -> FarRoofline:
        """What networks far from the measured ones are predicted by at a measured state."""
        if state not in self._far_rooflines:
            cases = self.measured.cases(self.states)
            here = np.flatnonzero(cases.state == state)
            self._far_rooflines[state] = FarRoofline.fitted(
                cases.pick(here), np.array(self.measured.seconds)[here], spaces=len(self.measured.families)
            )
        return self._far_rooflines[state]

    @cached_property
    def _far_rooflines(self) -> dict[int, FarRoofline]:
        return {}


def check_level(level: float) -> None:
    """Raises UsageError for a level that no interval can have."""
    if not 0.5 <= level < 1:
        raise UsageError(
            f"A level of {level:g} cannot be: an interval holds a share of the networks, from 0.5 to below 1, such as 0.9."
        )


def state_indices(states: Sequence[State], requested: Sequence[State]) -> Int64Array:
    """The index in ``states`` of each requested state, [n]."""
    index = {state: i for i, state in enumerate(states)}
    return np.array([index[s] for s in requested], dtype=np.int64)


def save(path: Path, predictor: Predictor) -> None:
    """Write a model for :func:`load`. Raises StorageError."""
    store.write_atomic(path, store.canonical_json(predictor) + b"\n")


def load(path: Path) -> Predictor:
    """A model file. Raises UsageError (missing), BadRecord (not JSON, another schema, the work of an older version)."""
    data = store.read_json(path)
    if isinstance(data, list):
        raise BadRecord(
            f"{path} holds efficiency factors alone, as an older version of kit wrote them: write a model with kit fit --out."
        )
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version < Predictor.model_fields["schema_version"].default:
        raise BadRecord(
            f"{path} was fitted by an older version of kit (schema version {version}): fit it again with kit fit --out."
        )
    return records.load(Predictor, data, str(path))
