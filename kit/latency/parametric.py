"""The model families that need no training data to predict: line, per-kind linear, roofline. Evaluated with numpy alone.

Each is a record that turns :class:`Cases` (networks at operating states) into seconds. States are the measured combinations
of threads, idle gap and background load; between them the predictor interpolates, inside a family they are categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kit.latency.features import KINDS, PRECISIONS, WORKING, Table
from kit.records import OperatingPoint, Record
from kit.stats import Float64Array, Int64Array


class State(Record):
    """One measured combination of what is chosen about the calls."""

    threads: int
    gap_s: float = 0.0
    load: int = 0

    @property
    def name(self) -> str:
        """As groups are named: ``t1-gap0-load0``."""
        return f"t{self.threads}-gap{self.gap_s:g}-load{self.load}"


def place(of: State | OperatingPoint) -> tuple[float, float, float]:
    """The coordinates of a state: logarithms of threads and idle gap (milliseconds), and the load."""
    return float(np.log2(of.threads)), float(np.log1p(of.gap_s * 1e3)), float(of.load)


@dataclass(frozen=True)
class Cases:
    """Networks to predict: kernels, the state of each, and by how much the clock is slower than the reference one.

    ``state`` [n] indexes ``states``; ``slowdown`` [n] is reference clock / clock, 1 where the clock was left alone.
    """

    table: Table
    macs: Float64Array
    precision: Int64Array
    states: tuple[State, ...]
    state: Int64Array
    slowdown: Float64Array

    @classmethod
    def of(cls, table: Table, states: tuple[State, ...], slowdown: Float64Array | None = None) -> Cases:
        """The networks of ``table`` at the first of ``states``, at the reference clock where ``slowdown`` says nothing else."""
        zero = np.zeros(table.nets, dtype=np.int64)
        clock = np.ones(table.nets) if slowdown is None else slowdown
        return cls(table, table.total(table.macs), table.precisions(), states, zero, clock)

    def pick(self, index: Int64Array) -> Cases:
        """The cases of these indices."""
        return Cases(
            self.table.pick(index),
            self.macs[index],
            self.precision[index],
            self.states,
            self.state[index],
            self.slowdown[index],
        )

    def at(self, state: int) -> Cases:
        """The same networks, all at one state."""
        return Cases(self.table, self.macs, self.precision, self.states, np.full_like(self.state, state), self.slowdown)

    def groups(self) -> list[str]:
        """Precision and state of each case as one word: what a line is drawn through."""
        names = [s.name for s in self.states]
        return [f"{PRECISIONS[p]} {names[s]}" for p, s in zip(self.precision, self.state, strict=True)]


class Line(Record):
    """overhead_s + s_per_mac * MACs for each precision and state, at the reference clock. A group that was not measured takes the
    one with the most records."""

    overhead_s: dict[str, float]
    s_per_mac: dict[str, float]
    fallback: str

    def predict(self, cases: Cases) -> Float64Array:
        """Seconds, [n]."""
        keys = [k if k in self.s_per_mac else self.fallback for k in cases.groups()]
        slope, overhead = (np.array([d[k] for k in keys]) for d in (self.s_per_mac, self.overhead_s))
        return (overhead + slope * cases.macs) * cases.slowdown


class PerKindLinear(Record):
    """overhead + seconds per multiply-accumulate of each working kind + seconds per byte of each lighter kind, by precision and
    state. ``coefficients`` follow :func:`kind_amounts`."""

    coefficients: dict[str, tuple[float, ...]]
    fallback: str

    def predict(self, cases: Cases) -> Float64Array:
        """Seconds, [n]."""
        rows = np.array([self.coefficients.get(k, self.coefficients[self.fallback]) for k in cases.groups()])
        return np.asarray((kind_amounts(cases.table) * rows).sum(axis=1) * cases.slowdown)


def kind_amounts(table: Table) -> Float64Array:
    """[nets, 1 + kinds]: one call, multiply-accumulates of the working kinds, bytes moved by the lighter ones."""
    kind = table.column("kind")
    amount = np.where(kind < WORKING, table.macs, table.moved_bytes)
    out = np.zeros((table.nets, 1 + len(KINDS)))
    out[:, 0] = 1.0
    np.add.at(out, (table.net, 1 + kind[table.kernel]), table.count * amount[table.kernel])
    return out


class Roofline(Record):
    """Sum over kernels of a smooth maximum of arithmetic, weight traffic and activation traffic, plus an overhead for each.

    ``parameters`` are logarithms where they scale (``mac``: seconds per multiply-accumulate of an fp32 convolution; the other
    costs are relative to it), see :data:`kit.latency.fitting.PRIORS` for all of them. Missing ones count as neutral.
    """

    parameters: dict[str, float]

    def predict(self, cases: Cases) -> Float64Array:
        """Seconds, [n]."""
        entries, call = self.times(Roof(cases))
        return cases.table.sum_entries(entries) + call

    def times(self, roof: Roof) -> tuple[Float64Array, Float64Array]:
        """Seconds of each entry (kernel times count), [entries], and of each call as such, [nets]."""
        return roof.times(self.parameters)

    def slopes(self, roof: Roof, freedom: dict[str, float]) -> Float64Array:
        """d log latency / d parameter times the parameter's standard deviation in ``freedom``, [nets, parameters]."""

        def log_seconds(name: str, step: float) -> Float64Array:
            entries, call = roof.times({**self.parameters, name: self.parameters[name] + step})
            return np.log(roof.cases.table.sum_entries(entries) + call)

        both = [sd * (log_seconds(n, STEP) - log_seconds(n, -STEP)) for n, sd in sorted(freedom.items())]
        return np.stack(both, axis=1) / (2 * STEP) if both else np.zeros((roof.cases.table.nets, 0))


class Roof:
    """What a roofline computes with, laid out once per set of cases: fitting evaluates it thousands of times."""

    def __init__(self, cases: Cases, efficiency: Float64Array | None = None) -> None:
        table = cases.table
        self.cases = cases
        of = table.kernel
        self.net, self.count = table.net, table.count
        self.kind, self.precision = table.column("kind")[of], table.column("precision")[of]
        self.state = cases.state[table.net]
        self.macs, self.moved = table.macs[of], table.moved_bytes[of]
        self.weights = table.column("weight_bytes").astype(np.float64)[of]
        self.misaligned = table.misaligned[of]
        self.rows = np.maximum(table.column("rows")[of], 1).astype(np.float64)
        self.log_weights = np.log(np.maximum(table.weight_bytes, 1.0))[table.net]
        self.slowdown = cases.slowdown[table.net]
        self.log_efficiency = None if efficiency is None else np.log(np.maximum(efficiency, 0.05))

    def times(self, p: dict[str, float]) -> tuple[Float64Array, Float64Array]:
        """See :meth:`Roofline.times`; ``p`` are the parameters."""
        states = self.cases.states
        kind = np.array([p.get(f"kind:{k}", 0.0) for k in KINDS])
        bits = np.array([p.get(f"precision:{k}", 0.0) for k in PRECISIONS])
        threads = np.array([p.get(f"threads:{s.threads}", 0.0) for s in states])
        memory = np.array([p.get(f"memory:{s.threads}", 0.0) for s in states])
        scale = np.array([p.get(f"state:{_quiet(s)}", 0.0) for s in states])
        wake = np.array([np.exp(p["mac"] + p[k]) if (k := f"wake:{_quiet(s)}") in p else 0.0 for s in states])
        spawn = np.array([np.exp(p["mac"] + p[k]) if (k := f"spawn:{s.threads}") in p else 0.0 for s in states])

        mac = np.exp(p["mac"])
        fill = (1.0 + p.get("align", 0.0) * self.misaligned) * (1.0 + np.exp(p.get("rows", -20.0)) / self.rows)
        working = self.kind < WORKING
        arithmetic = mac * self.macs * fill * np.exp(np.where(working, kind[self.kind], 0.0))
        arithmetic = arithmetic * np.exp(bits[self.precision] + threads[self.state]) * self.slowdown
        far = 1.0 / (1.0 + np.exp(-(self.log_weights - p.get("edge", 15.0)) / EDGE_WIDTH))
        traffic = mac * np.exp(memory[self.state]) * self.slowdown ** p.get("clock", 0.0)
        weight = traffic * self.weights * (np.exp(p["weight"]) * (1.0 + far * np.expm1(p.get("far", 0.0))))
        light = np.where(working, 0.0, kind[self.kind])
        moved = traffic * self.moved * np.exp(p["byte"] + light)
        power = p.get("power", 2.0)
        largest = np.maximum(np.maximum(arithmetic, weight), np.maximum(moved, 1e-30))
        parts = (arithmetic / largest) ** power + (weight / largest) ** power + (moved / largest) ** power
        each = largest * parts ** (1.0 / power) + (mac * np.exp(p["kernel"]) + spawn[self.state]) * self.slowdown
        if self.log_efficiency is not None:
            each = each * np.exp(p.get("borrow", 1.0) * self.log_efficiency)
        level = np.exp(scale)
        call = (mac * np.exp(p["call"]) * self.cases.slowdown + wake[self.cases.state]) * level[self.cases.state]
        return self.count * each * level[self.state], call


STEP = 1e-4  # of a parameter, for its derivative
EDGE_WIDTH = 0.6  # how softly weights leave a cache, in natural logarithms of the network's weight bytes


def _quiet(state: State) -> str:
    """What of a state is not its threads."""
    return f"gap{state.gap_s:g}-load{state.load}"
