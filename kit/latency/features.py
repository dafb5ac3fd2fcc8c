"""Kernels of many networks as arrays: equal kernels are stored once, a network is a few (kernel, count) pairs.

Everything that the latency models know about a network is here: what each kernel computes and moves, how its channels are
aligned, and how many bytes of weights the whole network holds. Bytes and counts are plain numbers, features are logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

import numpy as np

from kit.records import BITS, Kernel, Record
from kit.stats import Float64Array, Int64Array

KINDS = (
    "conv", "pointwise", "depthwise", "linear", "matmul", "pool", "add", "norm", "softmax", "elementwise", "move",
)  # fmt: skip
WORKING = 5  # the first so many kinds multiply and accumulate
PRECISIONS = tuple(BITS)
COLUMNS = (
    "kind", "precision", "rows", "inner", "columns", "groups", "size", "stride", "weight_bytes", "read_bytes", "written_bytes",
)  # fmt: skip
FEATURES = ("log rows", "log inner", "log columns", "log2 size", "log2 stride", "misaligned")
ALIGNED = 16  # channels that a vector unit takes at once: 512 bits of fp32
_key = attrgetter(*COLUMNS)


class Networks(Record):
    """Networks as they are stored: different kernels (values in the order of :data:`COLUMNS`), and per network (kernel, count)."""

    kernels: tuple[tuple[int, ...], ...]
    nets: tuple[tuple[tuple[int, int], ...], ...]

    def table(self) -> Table:
        """The same as arrays."""
        pairs = [(net, kernel, count) for net, entries in enumerate(self.nets) for kernel, count in entries]
        return _table(list(self.kernels), pairs, len(self.nets))


@dataclass(frozen=True)
class Table:
    """``attributes`` [kernels, columns]; entry ``i`` says that network ``net[i]`` runs kernel ``kernel[i]`` ``count[i]`` times."""

    attributes: Int64Array
    net: Int64Array
    kernel: Int64Array
    count: Float64Array
    nets: int

    def column(self, name: str) -> Int64Array:
        """One attribute of each kernel, [kernels]."""
        return self.attributes[:, COLUMNS.index(name)]

    @cached_property
    def macs(self) -> Float64Array:
        """Of one run of each kernel, [kernels]."""
        product = np.prod(self.attributes[:, 2:6].astype(np.float64), axis=1)
        return np.where(self.column("kind") < WORKING, product, 0.0)

    @cached_property
    def moved_bytes(self) -> Float64Array:
        """Activations read and written by one run, [kernels]."""
        return (self.column("read_bytes") + self.column("written_bytes")).astype(np.float64)

    @cached_property
    def features(self) -> Float64Array:
        """What the efficiency of a kernel may depend on, [kernels, features] in the order of :data:`FEATURES`."""
        logs = np.log(np.maximum(self.attributes[:, 2:5], 1).astype(np.float64))
        shape = np.log2(np.maximum(self.attributes[:, 6:8], 1).astype(np.float64))
        return np.column_stack([logs, shape, np.minimum(self.misaligned, 1.0)])

    @cached_property
    def misaligned(self) -> Float64Array:
        """Share of work added when output channels are filled up to whole vectors, [kernels]; the lighter kinds waste none. A depthwise
        convolution has one channel a group, and a vector holds those of many groups."""
        across = np.where(self.column("kind") == KINDS.index("depthwise"), self.column("groups"), 1)
        columns = np.maximum(self.column("columns") * across, 1)
        waste = -(-columns // ALIGNED) * ALIGNED / columns - 1.0
        return np.where(self.column("kind") < WORKING, waste, 0.0)

    def total(self, per_kernel: Float64Array) -> Float64Array:
        """Sum over the kernels of each network, [nets]."""
        return self.sum_entries(self.count * per_kernel[self.kernel])

    def sum_entries(self, per_entry: Float64Array) -> Float64Array:
        """Sum over the entries of each network, [nets]."""
        return np.bincount(self.net, weights=per_entry, minlength=self.nets).astype(np.float64)

    @cached_property
    def weight_bytes(self) -> Float64Array:
        """Of each whole network, [nets]."""
        return self.total(self.column("weight_bytes").astype(np.float64))

    def precisions(self) -> Int64Array:
        """The precision that most multiply-accumulates of each network run at, as an index into :data:`PRECISIONS`, [nets]."""
        share = np.zeros((self.nets, len(PRECISIONS)))
        work = self.count * (self.macs + 1e-9 * self.moved_bytes)[self.kernel]
        np.add.at(share, (self.net, self.column("precision")[self.kernel]), work)
        return np.asarray(share.argmax(axis=1))

    def pick(self, nets: Int64Array) -> Table:
        """The networks of these indices, in their order, with only the kernels that they run."""
        place = [np.flatnonzero(self.net == n) for n in nets]
        entries = np.concatenate(place) if place else np.zeros(0, dtype=np.int64)
        net = np.repeat(np.arange(len(nets)), [len(p) for p in place])
        used_kernels, kernel = np.unique(self.kernel[entries], return_inverse=True)
        return Table(self.attributes[used_kernels], net, kernel, self.count[entries], len(nets))

    def networks(self) -> Networks:
        """The same as it is stored."""
        pairs: list[list[tuple[int, int]]] = [[] for _ in range(self.nets)]
        for net, kernel, count in zip(self.net.tolist(), self.kernel.tolist(), self.count.tolist(), strict=True):
            pairs[net].append((kernel, int(count)))
        return Networks(kernels=tuple(map(tuple, self.attributes.tolist())), nets=tuple(map(tuple, pairs)))


def arrange(nets: Sequence[Sequence[Kernel]]) -> Table:
    """The table of ``nets``, each a list of kernels. Kernels that differ only in their stage are equal."""
    number: dict[tuple[object, ...], int] = {}
    pairs: list[tuple[int, int, int]] = []
    for net, kernels in enumerate(nets):
        counts: dict[int, int] = {}
        for kernel in kernels:
            index = number.setdefault(_key(kernel), len(number))
            counts[index] = counts.get(index, 0) + kernel.count
        pairs += [(net, index, count) for index, count in counts.items()]
    rows = [(KINDS.index(k[0]), PRECISIONS.index(k[1]), *k[2:]) for k in number]
    return _table(rows, pairs, len(nets))


def _table(kernels: Sequence[Sequence[object]], pairs: Sequence[tuple[int, int, int]], nets: int) -> Table:
    attributes = np.array(kernels, dtype=np.int64).reshape(-1, len(COLUMNS))
    entries = np.array(pairs, dtype=np.int64).reshape(-1, 3)
    return Table(attributes, entries[:, 0], entries[:, 1], entries[:, 2].astype(np.float64), nets)
