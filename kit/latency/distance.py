"""How far a network lies from the measured ones, in words: precision, size, kinds and shapes of kernels, their number, weights, shares.

A network of a measured family is near unless something that matters in it lies outside. One of another family is near only when
everything lies inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kit import units
from kit.latency.features import KINDS, PRECISIONS, Table
from kit.latency.parametric import Cases
from kit.stats import BoolArray, Float64Array, Int64Array

MARGIN = 0.35  # natural logarithms by which a feature may leave the range that was measured
SHARE = 0.05  # a kernel that takes less of the time than this does not make a prediction an extrapolation
SHARE_MARGIN = (
    0.25  # of its time that a network of another family may spend on a kind beyond the largest measured share
)
REASONS_MAX = 3  # that are stated of one network


@dataclass(frozen=True)
class Distances:
    """Of each network [n]: ``family`` are the reasons that count in every network, ``others`` those that count in one of another family,
    in the order in which they are stated; ``unlike``: its precision or a kind of kernels that matters was never measured."""

    family: tuple[tuple[str, ...], ...]
    others: tuple[tuple[str, ...], ...]
    unlike: BoolArray


class MeasuredRange:
    """What was measured, as ranges: ``cases`` are the measured networks; without ``kernels`` only precision and size are known."""

    def __init__(self, cases: Cases, *, kernels: bool) -> None:
        self.cases, self.kernels = cases, kernels
        self._pairs = set(zip(cases.precision.tolist(), cases.state.tolist(), strict=True))

    def distances(self, cases: Cases, states: list[int], *, shapes: bool) -> Distances:
        """Those of ``cases`` at ``states``; without ``shapes`` kernels do not count for networks of a measured family."""
        family: list[list[str]] = [[] for _ in range(cases.table.nets)]
        others: list[list[str]] = [[] for _ in range(cases.table.nets)]
        unlike = np.zeros(cases.table.nets, dtype=bool)
        precisions = {precision for precision, _ in self._pairs}
        for index, precision in enumerate(cases.precision.tolist()):
            unlike[index] = precision not in precisions
            if unlike[index]:
                family[index].append(f"{PRECISIONS[precision]} was not measured")
            elif not all((precision, state) in self._pairs for state in states):
                family[index].append(f"{PRECISIONS[precision]} was not measured at this point")
        self._sizes(cases, family)
        if self.kernels:
            for index, text, kind in self._kernels(cases.table):
                if shapes:
                    family[index].append(text)
                unlike[index] |= kind
            self._kinds(cases.table, others)
            self._ranges(cases.table, others)
        joined = tuple(tuple(dict.fromkeys((*a, *b))) for a, b in zip(family, others, strict=True))
        return Distances(tuple(map(tuple, family)), joined, unlike)

    def _sizes(self, cases: Cases, texts: list[list[str]]) -> None:
        """Networks larger or smaller than any that was measured."""
        logs, measured = _logs(cases.macs), _logs(self.cases.macs)
        for index, (less, more) in enumerate(zip(measured.min() - logs, logs - measured.max(), strict=True)):
            if less > MARGIN:
                times = "" if cases.macs[index] < 1 else f"{_times(less)} "
                texts[index].append(f"{times}fewer multiply-accumulates than measured")
            elif more > MARGIN:
                texts[index].append(f"{_times(more)} more multiply-accumulates than measured")

    def _kernels(self, table: Table) -> list[tuple[int, str, bool]]:
        """(network, text, whether the kind is new): networks with a kernel that matters and whose kind was never measured, or whose shape
        leaves the measured range."""
        features, kinds = table.features, table.column("kind")
        why: dict[int, str] = {}
        for kernel, kind in enumerate(kinds.tolist()):
            box = self._boxes.get(kind)
            if box is None:
                why[kernel] = f"kernels of kind {KINDS[kind]} were not measured"
            elif np.any(features[kernel] < box[0] - MARGIN) or np.any(features[kernel] > box[1] + MARGIN):
                why[kernel] = f"a {KINDS[kind]} kernel outside of the measured shapes"
        if not why:
            return []
        share = _shares(table)
        odd = np.isin(table.kernel, list(why))
        total = table.sum_entries(np.where(odd, share, 0.0))
        new = np.array([kind not in self._boxes for kind in kinds.tolist()])[table.kernel]
        new_total = table.sum_entries(np.where(new, share, 0.0))
        first: dict[int, tuple[float, int]] = {}
        for net, kernel, size in zip(
            table.net[odd].tolist(), table.kernel[odd].tolist(), share[odd].tolist(), strict=True
        ):
            first[net] = max(first.get(net, (-1.0, -1)), (size, kernel))
        return [
            (net, why[kernel], bool(new_total[net] > SHARE)) for net, (_, kernel) in first.items() if total[net] > SHARE
        ]

    def _kinds(self, table: Table, texts: list[list[str]]) -> None:
        """Every kind that was never measured, however little work it is: a depthwise convolution has few multiply-accumulates."""
        kinds = table.column("kind")[table.kernel]
        for index in range(table.nets):
            new = [KINDS[k] for k in np.unique(kinds[table.net == index]).tolist() if k not in self._boxes]
            texts[index] += [f"kernels of kind {name} were not measured" for name in new]

    def _ranges(self, table: Table, texts: list[list[str]]) -> None:
        """Numbers of kernels, weights and shares of kinds outside of the measured ones."""
        own = self.cases.table
        counts = (own.total(np.ones(len(own.attributes))), table.total(np.ones(len(table.attributes))))
        largest = _kind_shares(own).max(axis=0)
        shares = _kind_shares(table)
        for (measured, values), name in (
            (counts, "{:.0f} kernels, {:.0f} to {:.0f} were measured"),
            ((own.weight_bytes, table.weight_bytes), "{} of weights, {} to {} were measured"),
        ):
            low, high = float(measured.min()), float(measured.max())
            for index, value in enumerate(values.tolist()):
                if not low * np.exp(-MARGIN) <= value <= high * np.exp(MARGIN):
                    numbers = (value, low, high)
                    texts[index].append(name.format(*(numbers if "kernels" in name else map(units.size, numbers))))
        for index in range(table.nets):
            kind = int(np.argmax(shares[index] - largest))
            if shares[index, kind] > largest[kind] + SHARE_MARGIN:
                texts[index].append(
                    f"{shares[index, kind]:.0%} of its work in {KINDS[kind]} kernels, at most {largest[kind]:.0%} was measured"
                )

    @cached_property
    def _boxes(self) -> dict[int, tuple[Float64Array, Float64Array]]:
        """kind -> (lowest, highest) features of its measured kernels."""
        table = self.cases.table
        kinds: Int64Array = table.column("kind")
        rows = {int(k): table.features[kinds == k] for k in np.unique(kinds)}
        return {kind: (x.min(axis=0), x.max(axis=0)) for kind, x in rows.items()}


def reasons_text(reasons: tuple[str, ...]) -> str:
    """The first few reasons as one text."""
    more = len(reasons) - REASONS_MAX
    return "; ".join(reasons[:REASONS_MAX]) + (f"; and {more} more" if more > 0 else "")


def _logs(values: Float64Array) -> Float64Array:
    return np.log(np.maximum(values, 1.0))


def _times(log: float) -> str:
    return f"{np.exp(log):.3g} times"


def _shares(table: Table) -> Float64Array:
    """Of each entry in its network's work, [entries], by a scale that needs no fit: multiply-accumulates and bytes."""
    rough = table.macs + 4.0 * (table.moved_bytes + table.column("weight_bytes"))
    work = table.count * rough[table.kernel]
    return np.asarray(work / np.maximum(table.sum_entries(work), 1e-30)[table.net])


def _kind_shares(table: Table) -> Float64Array:
    """Of each kind in its network's work, [nets, kinds]."""
    out = np.zeros((table.nets, len(KINDS)))
    np.add.at(out, (table.net, table.column("kind")[table.kernel]), _shares(table))
    return out
