"""Allocators of a few thousand weights, decided in microseconds: gate, the selected experts, softmax over the users, in one call.

With Numba the network is machine code (:mod:`kit.allocators.compiled`), without it NumPy; ``allocator-numpy`` is NumPy in any case.
It runs on one thread. The timed call writes into a fixed array, ``run`` copies. :class:`Decider` adds what stands before the
network: the look-up of the best size for the mean task size and the clock, and the features from raw quantities.

Tested on x86-64; the compiled way is untested on aarch64 boards.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.allocators import fileformat
from kit.allocators.fileformat import LEAK, AllocatorNetwork, Float32Array, Size
from kit.backends import Feeds, Probe, check_batch
from kit.errors import UsageError
from kit.records import Artifact, DynamicTable, Layers

NUMPY = "numpy"
_COMPILED = "kit.allocators.compiled"


def has_numba() -> bool:
    """Whether Numba can be imported; nothing is imported to see."""
    return importlib.util.find_spec("numba") is not None


def probe(mode: str) -> Probe:
    """Whether this runtime can measure here, and why not; see :class:`kit.backends.Probe`."""
    if mode == NUMPY or not has_numba():
        return Probe(f"numpy {np.__version__}")
    return Probe(importlib.import_module(_COMPILED).VERSION)


# ------------------------------------------------------------------------------------------------------------------ NumPy


def shares(network: AllocatorNetwork, x: ArrayLike) -> Float32Array:
    """Shares ``(resources, users)`` for inputs ``x`` as :func:`kit.allocators.fileformat.tensors` shapes them, by NumPy."""
    inputs = np.asarray(x, np.float32)
    result: Float32Array = _FORMS[network.spec.form](network, inputs)
    return result


def _softmax(values: Float32Array) -> Float32Array:
    e: Float32Array = np.exp(values - values.max(-1, keepdims=True))
    e /= e.sum(-1, keepdims=True)
    return e


def _top_experts(network: AllocatorNetwork, gate: Float32Array) -> tuple[NDArray[np.int64] | slice, Float32Array]:
    """Numbers and weights of the experts with the largest gate values; all of them as a slice, which copies nothing."""
    width = network.size.width
    if width == gate.size:
        return slice(None), _softmax(gate)
    experts = np.argpartition(gate, gate.size - width)[gate.size - width :]
    return experts, _softmax(gate[experts])


def _equal(network: AllocatorNetwork) -> tuple[slice, Float32Array]:
    many = network.spec.experts
    return slice(None), np.full(many, 1.0 / many, np.float32)


def _flat(network: AllocatorNetwork, x: Float32Array) -> Float32Array:
    """Paper A, eqs. (4) to (6). An expert's log-softmax moves all users alike, and the last softmax takes that out again."""
    spec, a, users = network.spec, network.arrays, network.users
    if users < spec.users:
        wide = np.zeros((len(spec.features), spec.users), np.float32)
        wide[:, :users] = x.reshape(-1, users)
        x = wide
    h = np.maximum(x.reshape(-1) @ a["input_weight"] + a["input_bias"], 0.0)
    experts, weights = _top_experts(network, h @ a["gate_weight"]) if spec.gated else _equal(network)
    y = np.maximum(np.matmul(h, a["expert0_weight"][experts]) + a["expert0_bias"][experts], 0.0) * weights[:, None]
    logits = np.einsum("eh,ehu->u", y, a["expert1_weight"][experts]) + weights @ a["expert1_bias"][experts]
    return _softmax(logits[None, :users])


def _shared(network: AllocatorNetwork, x: Float32Array) -> Float32Array:
    """Paper B, eqs. (12) to (20), without the noise of training."""
    spec, a = network.spec, network.arrays
    y = x.reshape(network.users, -1)
    gated = spec.gated
    experts, weights = _top_experts(network, y.mean(0) @ a["gate_weight"]) if gated else _equal(network)
    for layer in range(network.size.depth):
        z = np.matmul(y, a[f"expert{layer}_weight"][experts]) + a[f"expert{layer}_bias"][experts][:, None]
        y = np.maximum(z, LEAK * z)
    together = np.tensordot(weights, y, 1)
    return _softmax((together @ a["output_weight"]).T)


def _per_user(network: AllocatorNetwork, x: Float32Array) -> Float32Array:
    a, users, width = network.arrays, network.users, network.size.width
    x = h = x.reshape(users, -1)
    for layer in range(network.size.depth):
        rows = h.shape[1]
        others = (h.sum(0) - h) / max(users - 1, 1)
        z = h @ a[f"own{layer}_weight"][:rows, :width] + others @ a[f"others{layer}_weight"][:rows, :width]
        z = z + a[f"layer{layer}_bias"][:width]
        z = np.maximum(z, LEAK * z)
        h = h + z if layer else z
    return _softmax((h @ a["output_weight"][:width] + x @ a["direct_weight"]).T)


_FORMS: dict[str, Callable[[AllocatorNetwork, Float32Array], Float32Array]] = {
    "flat": _flat,
    "shared": _shared,
    "per_user": _per_user,
}


# ---------------------------------------------------------------------------------------------------------------- session


class AllocatorSession:
    """An open allocator at one size; see :class:`kit.backends.Session`."""

    device_ns: Callable[[int], float] | None = None

    def __init__(self, path: Path, mode: str, batch: int | None) -> None:
        self._network = fileformat.read(path)
        input_spec, output_spec = fileformat.tensors(self._network)
        self.inputs, self.outputs = (input_spec,), (output_spec,)
        check_batch(path, self.inputs, batch)
        compiled = mode != NUMPY and has_numba()
        how = "Compiled by Numba for this CPU" if compiled else "Computed by NumPy"
        self.notes: tuple[str, ...] = (f"{how}, on one thread.",)
        self.prepare = self._machine_code if compiled else self._numpy

    def run(self, feeds: Feeds) -> list[NDArray[Any]]:
        """The network's outputs for these inputs: a decision."""
        result = self.prepare(feeds)()
        return [self._out if result is None else result]

    def _numpy(self, feeds: Feeds) -> Callable[[], Any]:
        return partial(shares, self._network, feeds["input"])

    def _machine_code(self, feeds: Feeds) -> Callable[[], Any]:
        network, users = self._network, self._network.users
        module = importlib.import_module(_COMPILED)
        code = module.code(network.spec, users)
        x, scratch = module.aligned(feeds["input"]), module.aligned(np.zeros(code.scratch))
        out = np.zeros(self.outputs[0].shape, np.float32)
        weights = code.pack(network.spec, network.arrays, users)
        self._out = out
        call = partial(code.run, weights, x, out.ravel(), scratch, users, *network.size)
        call()  # compiles, or reads the code from the disk
        return call

    def layers(self, feeds: Feeds, calls: int) -> Layers:
        """Raises UsageError: one function computes the whole network."""
        raise UsageError(
            "An allocator has no separate layers: it is one piece of machine code. Profile its .onnx form with onnxruntime."
        )

    def gpu_memory(self) -> dict[str, int] | None:
        """None: it runs on the CPU."""
        return None

    def close(self) -> None:
        """Nothing to free."""


def open(  # noqa: A001
    path: Path, artifact: Artifact | None, threads: int, mode: str = "", batch: int | None = None
) -> AllocatorSession:
    """Raises BadModel when ``path`` is no allocator."""
    return AllocatorSession(path, mode, batch)


# ---------------------------------------------------------------------------------------------------------------- decider


@dataclass(frozen=True)
class SizeTable:
    """The best size over mean task size and clock: ``sizes[i][j]`` belongs to ``task_bits[i]`` and ``clocks_hz[j]`` (both rising).

    A point between two belongs to the nearer one, by their ratio.
    """

    task_bits: tuple[float, ...]
    clocks_hz: tuple[float, ...]
    sizes: tuple[tuple[Size, ...], ...]

    def __post_init__(self) -> None:
        for values, what in ((self.task_bits, "task sizes"), (self.clocks_hz, "clocks")):
            if not values or values[0] <= 0 or any(a >= b for a, b in pairwise(values)):
                raise UsageError(f"The {what} of a size table must be above zero and rise: sort them.")
        if {len(row) for row in self.sizes} != {len(self.clocks_hz)} or len(self.sizes) != len(self.task_bits):
            raise UsageError("A size table needs one size for each task size and clock: fill every cell.")

    @classmethod
    def of(cls, table: DynamicTable, depth: int = fileformat.FLAT_DEPTH) -> SizeTable:
        """The measured choices of a K- or (k, l)-table; ``depth`` where its sizes give only K. Raises UsageError: a cell is missing."""
        bits, clocks = (sorted({getattr(c, name) for c in table.cells}) for name in ("task_bit", "clock_hz"))
        sizes = {(c.task_bit, c.clock_hz): _size(c.measured, depth) for c in table.cells}
        if len(sizes) != len(bits) * len(clocks):
            raise UsageError("This table has no choice for some task size and clock: build it over all pairs of both.")
        return cls(tuple(bits), tuple(clocks), tuple(tuple(sizes[b, c] for c in clocks) for b in bits))


def _size(text: str, depth: int) -> Size:
    width, _, layers = text.partition(",")
    return Size(int(width), int(layers or depth))


class Decider:
    """From raw quantities of the users to their shares, in one call: look-up of the size, features, gate, experts, softmax.

    ``tasks`` is float64 ``(features, users)`` in the units that the features' names give, one column for each user that is present (at
    most as many as the network takes). The result ``(resources, users)`` is overwritten by the next call for as many users.
    Without a table the network's own size is run. ``compiled`` None takes Numba where it is.
    """

    def __init__(
        self, network: AllocatorNetwork, table: SizeTable | None = None, *, compiled: bool | None = None
    ) -> None:
        self.network, self.table = network, table
        for size in {s for row in table.sizes for s in row} if table else ():
            fileformat.check_size(network.spec, size, network.users)
        names = [f.name for f in network.spec.features]
        if table and "size_bit" not in names:
            raise UsageError("A size table takes the mean task size: the network needs a feature size_bit.")
        self._row = names.index("size_bit") if table else -1
        self._bits, self._clocks = (_middles(table.task_bits), _middles(table.clocks_hz)) if table else ((), ())
        self._calls: dict[int, tuple[Callable[..., Any], Float32Array]] = {}
        self._table: NDArray[np.float64] | None = None
        if has_numba() if compiled is None else compiled:
            self._table = self._table_array()
            self.decide = self._decide_compiled
        else:
            self.decide = self._decide_numpy

    def size(self, mean_bit: float, clock_hz: float) -> Size:
        """The size in the table. Without one: the network's own size."""
        if self.table is None:
            return self.network.size
        row, column = (int(np.searchsorted(b, v)) for b, v in ((self._bits, mean_bit), (self._clocks, clock_hz)))
        return self.table.sizes[row][column]

    def _decide_numpy(self, tasks: NDArray[np.float64], clock_hz: float = 0.0) -> Float32Array:
        users = tasks.shape[1]
        size = self.size(float(tasks[self._row].mean()), clock_hz) if self.table else self.network.size
        x = fileformat.normalise(self.network.spec.features, tasks)
        network = self.network.cut(*size, users)
        return shares(network, x if network.spec.form == "flat" else x.T)

    def _decide_compiled(self, tasks: NDArray[np.float64], clock_hz: float = 0.0) -> Float32Array:
        users = tasks.shape[1]
        call, out = self._calls.get(users) or self._prepare(users)
        call(tasks, clock_hz)
        return out

    def _prepare(self, users: int) -> tuple[Callable[..., Any], Float32Array]:
        spec = self.network.spec
        fileformat.check_size(spec, self.network.size, users)
        module = importlib.import_module(_COMPILED)
        code = module.code(spec, users)
        out = np.zeros((len(spec.outputs), users), np.float32)
        flat, scratch = out.ravel(), module.aligned(np.zeros(code.scratch))
        weights, decide, table_array = code.pack(spec, self.network.arrays, users), code.decide, self._table

        def call(tasks: NDArray[np.float64], clock_hz: float) -> None:
            decide(weights, table_array, tasks, clock_hz, flat, scratch)

        self._calls[users] = call, out
        return self._calls[users]

    def _table_array(self) -> NDArray[np.float64]:
        """All numbers that the look-up and the features need, in one array: an argument of a compiled call costs time."""
        rules = [
            (0.0 if f.scale is None else 1.0 / f.scale, float(f.log), f.least, f.centre, 1.0 / f.spread)
            for f in self.network.spec.features
        ]
        cells = [s for row in self.table.sizes for s in row] if self.table else [self.network.size]
        head = (self._row, len(self._bits), len(self._clocks))
        numbers = (
            *head,
            *np.ravel(rules),
            *self._bits,
            *self._clocks,
            *(s.width for s in cells),
            *(s.depth for s in cells),
        )
        return np.array(numbers, np.float64)


def _middles(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple((a * b) ** 0.5 for a, b in pairwise(values))
