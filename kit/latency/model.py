"""The predictor: one JSON file that turns kernels into seconds with an interval, by numpy alone.

It holds every form that was fitted, which of them is chosen and why, and the networks it was fitted to (the process needs them, and
so does whoever asks whether a network lies outside of what was seen).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kit import records, store, units
from kit.errors import BadRecord, UsageError
from kit.latency.features import KINDS, PRECISIONS, Ints, Networks, Table, arrange
from kit.latency.gaussian_process import Learned, Posterior, Shares
from kit.latency.parametric import Cases, Kinds, Line, Roof, Roofline, State, place
from kit.records import FormScore, Kernel, LatencyModel, Point, Record
from kit.stats import Floats

Form = Literal["factor", "kinds", "roofline", "learned"]
FORMS: tuple[Form, ...] = ("factor", "kinds", "roofline", "learned")  # the simplest first
REJECTED = 0.10  # a form is out when chance explains its disadvantage against the best with a smaller probability
MARGIN = 0.35  # natural logarithms by which a feature may leave the range that was measured
SHARE = 0.05  # a kernel that takes less of the time than this does not make a prediction an extrapolation
WIDER = 3.0  # how much wider the interval of an extrapolation is, for forms that do not know how unsure they are
UNSURE = 3.0  # a standard deviation so much larger than in cross-validation is an extrapolation as well
CLOCK_MARGIN = 0.02
OTHER_FAMILY = "no network of its family was measured, so it is predicted kernel by kernel"


class Measured(Record):
    """What a predictor was fitted to. ``spread`` is each latency's relative standard error, ``kernels_known`` False where only the
    multiply-accumulates of the networks were known."""

    networks: Networks
    kernels_known: bool
    macs: tuple[float, ...]
    precision: tuple[int, ...]
    state: tuple[int, ...]
    slowness: tuple[float, ...]
    seconds: tuple[float, ...]
    spread: tuple[float, ...]
    record_ids: tuple[str, ...]
    families: tuple[str, ...] = ()

    def cases(self, states: tuple[State, ...]) -> Cases:
        return Cases(
            self.networks.table(), np.array(self.macs), np.array(self.precision, dtype=np.int64), states,
            np.array(self.state, dtype=np.int64), np.array(self.slowness),
        )  # fmt: skip


class Clocks(Record):
    """The range of clocks that was chosen on purpose and measured; ``reference_hz`` is the one at which the forms stand."""

    low_hz: float
    high_hz: float
    reference_hz: float


@dataclass(frozen=True)
class Predictions:
    """Of each network: seconds, interval, standard deviation (seconds), and why it is an extrapolation (None: it is none)."""

    seconds: Floats
    low: Floats
    high: Floats
    sd: Floats
    why: tuple[str | None, ...]

    @property
    def extrapolates(self) -> NDArray[np.bool_]:
        return np.array([w is not None for w in self.why], dtype=bool)


class Predictor(Record):
    """Latency of any network on one device and backend. Written by ``kit fit``, read by ``kit predict``."""

    kind: Literal["predictor"] = "predictor"
    schema_version: Literal[2] = 2  # 1: the learned form stood on the roofline form
    device_id: str
    backend: str
    level: float  # of the intervals
    seed: int
    states: tuple[State, ...]
    clocks: Clocks | None
    measured: Measured
    line: Line | None = None
    kinds: Kinds | None = None
    roofline: Roofline | None = None
    learned: Learned | None = None
    chosen: Form
    reason: str  # why this form, as a sentence
    scores: tuple[FormScore, ...]
    held_out_s: tuple[float, ...] = ()  # what the chosen form says of each measured network that it was not fitted to
    held_out_sd: tuple[float, ...] = ()  # its relative standard deviation there
    notes: tuple[str, ...] = ()  # what was left out, and why
    models: tuple[LatencyModel, ...] = ()  # the efficiency factors beside it
    base: Predictor | None = None  # another device, whose kernel efficiencies are borrowed

    def summary(self) -> dict[str, str]:
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
        point: Point | None = None,
        *,
        clock_hz: float | None = None,
        form: Form | None = None,
        families: Sequence[str | None] | None = None,
    ) -> Predictions:
        """Latencies of ``networks`` (the kernels of each) at an operating point; None: the first measured one.

        ``families`` names the family of each, None for a network of none: one that was not measured is predicted kernel by kernel, with
        a wider interval. Raises UsageError for a point or clock outside of the measured ones, or a form that was not fitted; BadRecord
        for a network without kernels.
        """
        if not networks or not all(networks):
            raise BadRecord("There is nothing to predict: a network without kernels has no latency.")
        table = arrange(networks)
        strange = np.zeros(table.nets, dtype=bool)
        if families is not None:
            strange = np.array([family not in self.measured.families for family in families])
        return self.of_table(table, point, clock_hz=clock_hz, form=form, strange=strange)

    def of_table(
        self,
        table: Table,
        point: Point | None = None,
        *,
        clock_hz: float | None = None,
        form: Form | None = None,
        strange: NDArray[np.bool_] | None = None,
    ) -> Predictions:
        """:meth:`predict` for networks that are arranged already; ``strange`` marks those of another family [nets]."""
        form = form or self.chosen
        score = self._score(form)
        cases = Cases.of(table, self.states, np.full(table.nets, self._slowness(point, clock_hz)))
        logs, sds = np.zeros(table.nets), np.zeros(table.nets)
        between = self._between(point)
        for state, weight in between:
            seconds, sd = self.evaluate(form, cases.at(state))
            logs, sds = logs + weight * np.log(seconds), sds + weight * sd
        why = self._why(form, cases, [state for state, _ in between], sds, score)
        if form != "learned":
            sds = sds * np.where([w is not None for w in why], WIDER, 1.0)
        for index in np.flatnonzero(strange).tolist() if strange is not None else []:
            sds[index] *= WIDER if form == "learned" or why[index] is None else 1.0
            why[index] = OTHER_FAMILY + (f"; {why[index]}" if why[index] else "")
        seconds = np.exp(logs)
        reach = score.reach * sds
        return Predictions(seconds, seconds * np.exp(-reach), seconds * np.exp(reach), seconds * sds, tuple(why))

    def held_out(self) -> tuple[Floats, Floats, Floats]:
        """(seconds, low, high) of each measured network, [n], from the fold that it was left out of. Raises BadRecord without."""
        if len(self.held_out_s) != len(self.measured.seconds):
            raise BadRecord(
                "This model was written without its held-out predictions: write it anew with kit fit --out."
            )
        seconds = np.array(self.held_out_s)
        reach = self._score(self.chosen).reach * np.array(self.held_out_sd)
        return seconds, seconds * np.exp(-reach), seconds * np.exp(reach)

    def evaluate(self, form: Form, cases: Cases) -> tuple[Floats, Floats]:
        """(seconds, relative standard deviation) of cases at measured states, before calibration."""
        score = self._score(form)
        found = {"factor": self.line, "kinds": self.kinds, "roofline": self.roofline}.get(form)
        if form == "learned" and self.posterior is not None:
            shares = self.shares(cases)
            ratio, sd = self.posterior.predict(shares)
            return ratio * shares.roof_s, sd / ratio
        if form == "roofline" and self.roofline is not None:
            entries, call = self.roofline.times(self.roof(cases))
            seconds = cases.table.sum_entries(entries) + call
        elif isinstance(found, (Line, Kinds)):
            seconds = found.predict(cases)
        else:
            raise UsageError(f"The form '{form}' was not fitted here: measure more networks, or take '{self.chosen}'.")
        return np.maximum(seconds, 1e-12), np.full(cases.table.nets, score.sd)

    @property
    def roofline_below(self) -> Roofline | None:
        """The roofline that the kernels' efficiencies are relative to."""
        return self.roofline if self.learned is None else self.learned.roofline

    def roof(self, cases: Cases) -> Roof:
        return Roof(cases, self.borrowed(cases))

    def borrowed(self, cases: Cases) -> Floats | None:
        """What the other device says about each kernel beyond its roofline, [entries]; None without another device."""
        return None if self.base is None else self.base.efficiencies(cases)

    def efficiencies(self, cases: Cases) -> Floats | None:
        """1 + h of each entry of networks, seen from this device at its first state; None where no process was fitted."""
        states = np.zeros_like(cases.state)
        here = Cases(cases.table, cases.macs, cases.precision, self.states, states, np.ones_like(cases.slowness))
        if self.posterior is None:
            return self.borrowed(here)
        own, lent = self.posterior.efficiencies(self.shares(here)), self.borrowed(here)
        borrow = self.learned.roofline.parameters.get("borrow", 0.0) if self.learned else 0.0
        return own if lent is None else own * np.maximum(lent, 0.05) ** borrow

    def shares(self, cases: Cases) -> Shares:
        assert self.learned is not None
        return self.learned.shares(self.roof(cases))

    @cached_property
    def posterior(self) -> Posterior | None:
        if self.learned is None:
            return None
        shares = self.shares(self.measured.cases(self.states))
        ratio = np.array(self.measured.seconds) / shares.roof_s
        return Posterior(self.learned.hyper, shares, ratio, np.array(self.measured.spread))

    def _score(self, form: str) -> FormScore:
        for score in self.scores:
            if score.form == form and score.candidate:
                return score
        raise UsageError(f"The form '{form}' was not fitted here: measure more networks, or take '{self.chosen}'.")

    # ------------------------------------------------------------------------------------------------------ operating points

    def _slowness(self, point: Point | None, clock_hz: float | None) -> float:
        wanted = clock_hz or (point.clock_cap_hz if point else None)
        if wanted is None:
            return 1.0
        if self.clocks is None:
            raise UsageError(
                "This model was fitted at one clock and cannot predict another: profile with --sweep clock-ghz=... --control."
            )
        low, high = self.clocks.low_hz, self.clocks.high_hz
        if not low * (1 - CLOCK_MARGIN) <= wanted <= high * (1 + CLOCK_MARGIN):
            raise UsageError(
                f"{wanted / 1e9:.3g} GHz lies outside of the measured clocks ({low / 1e9:.3g} to {high / 1e9:.3g} GHz): measure there."
            )
        return self.clocks.reference_hz / wanted

    def _between(self, point: Point | None) -> list[tuple[int, float]]:
        """(state, weight) of the measured states around ``point``. Raises UsageError outside of them."""
        if point is None:
            return [(0, 1.0)]
        if point.affinity is not None or point.power_mode is not None or (point.batch or 1) != 1:
            raise UsageError(
                f"This model knows threads, gaps, load and clock, not the rest of the point {point.name}: measure it there."
            )
        rows = np.array([place(s) for s in self.states])
        wanted = np.array(place(point))
        exact = np.flatnonzero(np.all(np.abs(rows - wanted) < 1e-9, axis=1))
        if len(exact):
            return [(int(exact[0]), 1.0)]
        for axis in range(rows.shape[1]):
            others = np.delete(np.abs(rows - wanted), axis, axis=1).max(axis=1) < 1e-9
            below = np.flatnonzero(others & (rows[:, axis] < wanted[axis]))
            above = np.flatnonzero(others & (rows[:, axis] > wanted[axis]))
            if len(below) and len(above):
                a, b = int(below[rows[below, axis].argmax()]), int(above[rows[above, axis].argmin()])
                share = float((wanted[axis] - rows[a, axis]) / (rows[b, axis] - rows[a, axis]))
                return [(a, 1 - share), (b, share)]
        known = ", ".join(f"{s.threads} thread(s), gap {s.gap_s * 1e3:g} ms, load {s.load}" for s in self.states)
        raise UsageError(
            f"The point {point.name} lies outside of the measured ones ({known}): profile a few networks there and fit again."
        )

    # ------------------------------------------------------------------------------------------------------- extrapolation

    def _why(self, form: Form, cases: Cases, states: list[int], sds: Floats, score: FormScore) -> list[str | None]:
        why: list[str | None] = [None] * cases.table.nets
        strange = self._strange_kernels(cases.table) if self.measured.kernels_known and form != "factor" else []
        for index, text in [*self._unmeasured(cases, states), *self._sizes(cases), *strange]:
            why[index] = why[index] or text
        if form == "learned":
            for index in np.flatnonzero(sds > UNSURE * score.sd).tolist():
                why[index] = why[index] or f"unlike the measured networks (sd {sds[index]:.0%})"
        return why

    def _unmeasured(self, cases: Cases, states: list[int]) -> list[tuple[int, str]]:
        """Networks of a precision that was never measured, or not at this point."""
        pairs = set(zip(self.measured.precision, self.measured.state, strict=True))
        out = []
        for index, precision in enumerate(cases.precision.tolist()):
            if precision not in self.measured.precision:
                out.append((index, f"{PRECISIONS[precision]} was not measured"))
            elif not all((precision, state) in pairs for state in states):
                out.append((index, f"{PRECISIONS[precision]} was not measured at this point"))
        return out

    def _sizes(self, cases: Cases) -> list[tuple[int, str]]:
        """Networks larger or smaller than any that was measured."""
        logs = np.log(np.maximum(cases.macs, 1.0))
        seen = np.log(np.maximum(np.array(self.measured.macs), 1.0))
        outside = (logs < seen.min() - MARGIN) | (logs > seen.max() + MARGIN)
        side = np.where(logs < seen.min(), "fewer", "more")
        return [(i, f"{side[i]} multiply-accumulates than measured") for i in np.flatnonzero(outside).tolist()]

    def _strange_kernels(self, table: Table) -> list[tuple[int, str]]:
        """Networks with a kernel that matters and whose kind was never measured, or whose shape leaves the measured range."""
        known = self._box
        why: dict[int, str] = {}
        features, kinds = table.features, table.column("kind")
        for kernel in range(len(kinds)):
            box = known.get(int(kinds[kernel]))
            if box is None:
                why[kernel] = f"kernels of kind {KINDS[kinds[kernel]]} were not measured"
            elif np.any(features[kernel] < box[0] - MARGIN) or np.any(features[kernel] > box[1] + MARGIN):
                why[kernel] = f"a {KINDS[kinds[kernel]]} kernel outside of the measured shapes"
        if not why:
            return []
        work = table.count * _rough_work(table)[table.kernel]
        share = work / np.maximum(table.sum_entries(work), 1e-30)[table.net]
        odd = np.isin(table.kernel, list(why))
        total = table.sum_entries(np.where(odd, share, 0.0))
        entries = [
            (int(n), int(k), float(s)) for n, k, s in zip(table.net[odd], table.kernel[odd], share[odd], strict=True)
        ]
        first: dict[int, tuple[float, int]] = {}
        for net, kernel, size in entries:
            first[net] = max(first.get(net, (-1.0, -1)), (size, kernel))
        return [(net, why[kernel]) for net, (_, kernel) in first.items() if total[net] > SHARE]

    @cached_property
    def _box(self) -> dict[int, tuple[Floats, Floats]]:
        table = self.measured.networks.table()
        kinds = table.column("kind")
        rows = {int(k): table.features[kinds == k] for k in np.unique(kinds)}
        return {kind: (x.min(axis=0), x.max(axis=0)) for kind, x in rows.items()}


def _rough_work(table: Table) -> Floats:
    """A scale of how long kernels take that needs no fit: multiply-accumulates and bytes."""
    return np.asarray(table.macs + 4.0 * (table.moved_bytes + table.column("weight_bytes")))


def state_indices(states: Sequence[State], wanted: Sequence[State]) -> Ints:
    place = {state: i for i, state in enumerate(states)}
    return np.array([place[s] for s in wanted], dtype=np.int64)


def save(path: Path, predictor: Predictor) -> None:
    store.write_atomic(path, store.canonical_json(predictor) + b"\n")


def load(path: Path) -> Predictor:
    """A model file. Raises UsageError (missing), BadRecord (not JSON, another schema, the work of an older kit)."""
    data = store.read_json(path)
    if isinstance(data, list):
        raise BadRecord(
            f"{path} holds efficiency factors of an older kit and no predictor: write it anew with kit fit --out."
        )
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version < Predictor.model_fields["schema_version"].default:
        raise BadRecord(
            f"{path} was fitted by an older kit (schema version {version}): fit it anew with kit fit --out."
        )
    return records.load(Predictor, data, str(path))
