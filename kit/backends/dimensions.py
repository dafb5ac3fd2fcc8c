"""Free dimensions of a network's inputs: what they are called, and what fixes them.

A latency belongs to one shape. A free dimension goes by its symbol (``seq``), or by input and axis (``x:2``) where it has none. The
batch, which is the first dimension of every input that has a free one there, is 1 where nobody chose it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kit.backends.onnxgraph import Graph, Value
from kit.errors import BadModel, UnknownName, UsageError
from kit.records import Artifact
from kit.records.network import TIME

Shape = tuple[int, ...]
SIZE_MAX = 2**31 - 1
_BATCH = re.compile(r"n|b|bs|none|.*batch.*", re.IGNORECASE)
_RECURRENT = ("LSTM", "GRU", "RNN")  # their first dimension is time unless ``layout`` says otherwise
_CHANNELS = (1, 3, 4)  # of an image
_STATE = re.compile(r".*(state|hidden|cell).*|[hc][_n0]*", re.IGNORECASE)  # of a recurrent net: layers, batch, units


@dataclass(frozen=True)
class Free:
    """One free dimension of one input; ``symbol`` is None where it has no name."""

    value: Value
    axis: int
    symbol: str | None

    @property
    def key(self) -> str:
        """What names it: its symbol, else ``input:axis``."""
        return self.symbol or self.place

    @property
    def place(self) -> str:
        """``input:axis``."""
        return f"{self.value.name}:{self.axis}"

    @property
    def usual(self) -> int:
        """A sensible size, for advice: 224 pixels, 128 tokens, 1 input."""
        shape, rank = self.value.shape, len(self.value.shape)
        if self.axis == 0 and rank > 1:
            return 1
        if rank == 4:
            last = shape[3] in _CHANNELS and shape[1] not in _CHANNELS
            channel = 3 if last else 1
            return 3 if self.axis == channel else 224
        if re.search("past|cache", self.value.name, re.IGNORECASE):
            return 0
        if rank == 3 and self.axis == 1 and re.fullmatch(_STATE, self.value.name):
            return 1
        if re.search("audio|wave|pcm|speech|samples", f"{self.value.name} {self.symbol}", re.IGNORECASE):
            return 16000
        return 128 if rank < 4 else 16


@dataclass(frozen=True)
class Fixed:
    """Every input's shape, what its symbols stand for, and what was chosen by the user (the batch of 1 is not listed)."""

    shapes: dict[str, Shape]
    symbols: dict[str, int]
    chosen: tuple[tuple[str, int], ...]

    def known(self, shape: tuple[int | str, ...]) -> Shape:
        """A shape with its symbols replaced; -1 for what no input says."""
        return tuple(d if isinstance(d, int) else self.symbols.get(d, -1) for d in shape)


def of(graph: Graph) -> tuple[Free, ...]:
    """The free dimensions of all inputs, in order."""
    return tuple(
        Free(value, axis, None if size == "?" else size)
        for value in graph.inputs
        for axis, size in enumerate(value.shape)
        if not isinstance(size, int)
    )


def batch_keys(graph: Graph) -> frozenset[str]:
    """The keys of what is the batch: what is called so, and what is the first dimension, and nothing else, of every input with several.

    Time is no batch: a dimension of such a name, or over which a recurrent operator runs.
    """
    free, times = of(graph), _times(graph)
    other = {f.key for f in free if f.axis or f.value.name in times or (f.symbol and TIME.fullmatch(f.symbol))}
    first = [f for f in free if not f.axis and f.key not in other]
    rest = [v for v in graph.inputs if len(v.shape) > 1 and v.name not in {f.value.name for f in first}]
    everywhere = not rest and len({f.symbol for f in first}) == 1 and any(len(f.value.shape) > 1 for f in first)
    called = {f.key for f in free if f.symbol is not None and _BATCH.fullmatch(f.symbol)}
    return frozenset(called | {f.key for f in first if everywhere})


def _times(graph: Graph) -> set[str]:
    """The inputs whose first dimension is the time of a recurrent operator or of a Scan."""
    names: set[str] = set()
    for node in graph.nodes:
        if node.kind in _RECURRENT and not node.integer("layout"):
            names |= set(node.inputs[:1])
        elif node.kind == "Scan":
            names |= set(node.inputs[-node.integer("num_scan_inputs", 1) :])
    return names


def fixed(graph: Graph, dims: Mapping[str, int], batch: int | None, path: Path) -> Fixed:
    """Shapes of all inputs, with ``dims`` by symbol or ``input:axis``.

    Raises UnknownName and UsageError (a name that is no free dimension), BadModel, with the command that fixes it, when a free
    dimension is left over.
    """
    free, batches = of(graph), batch_keys(graph)
    _refuse_unknown(graph, free, dims, path)
    sizes: dict[str, int] = {}
    for dimension in free:
        size = dims.get(dimension.place, dims.get(dimension.key))
        if size is None and dimension.key in batches:
            size = batch or 1
        if size is not None:
            sizes[dimension.place] = size
    if left := [f for f in free if f.place not in sizes]:
        raise BadModel(_advice(left, free, batches, path))
    symbols: dict[str, int] = {}
    for dimension in free:
        size = sizes[dimension.place]
        if dimension.symbol and symbols.setdefault(dimension.symbol, size) != size:
            raise UsageError(
                f"{path}: {dimension.symbol} would be {symbols[dimension.symbol]} and {size} at once: give it one size."
            )
    shapes = {
        value.name: tuple(sizes.get(f"{value.name}:{i}", d) if not isinstance(d, int) else d for i, d in enumerate(value.shape))
        for value in graph.inputs
    }  # fmt: skip
    chosen = {f.key: sizes[f.place] for f in free if f.key not in batches or sizes[f.place] != (batch or 1)}
    return Fixed({k: tuple(map(int, v)) for k, v in shapes.items()}, symbols, tuple(chosen.items()))


def of_artifact(graph: Graph, artifact: Artifact | None, batch: int | None, path: Path) -> Fixed:
    """Shapes of the inputs of an artifact, which say what every free dimension is; ``batch`` overrides theirs. Raises as :func:`fixed`."""
    shapes = {spec.name: spec.shape for spec in artifact.inputs} if artifact else {}
    batches = batch_keys(graph) if batch is not None else ()
    dims = dict(artifact.dims) if artifact else {}
    for free in of(graph):
        if free.key not in batches and len(shapes.get(free.value.name, ())) == len(free.value.shape):
            dims.pop(free.key, None)
            dims[free.place] = shapes[free.value.name][free.axis]
    return fixed(graph, dims, batch, path)


def of_arrays(graph: Graph, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Sizes of free dimensions by the shapes of arrays that inputs are given; the first of several samples may stand in front.

    The batch is not among them: rows are samples that take turns.
    """
    batches, sizes = batch_keys(graph), dict[str, int]()
    for free in of(graph):
        shape, rank = shapes.get(free.value.name, ()), len(free.value.shape)
        shape = shape[1:] if len(shape) == rank + 1 else shape
        if len(shape) == rank and free.key not in batches:
            sizes.setdefault(free.key, shape[free.axis])
    return sizes


def parse(texts: list[str]) -> tuple[tuple[str, int], ...]:
    """``["seq=128", "x:2=224"]`` as pairs. Raises UsageError.

    >>> parse(["seq=128", "x:2=224"])
    (('seq', 128), ('x:2', 224))
    """
    dims: dict[str, int] = {}
    for text in texts:
        key, equals, size = text.rpartition("=")
        if not equals or not key or not (size.isascii() and size.isdecimal()) or int(size) > SIZE_MAX:
            raise UsageError(f"--dim '{text}' cannot be read: write it like --dim seq=128, or --dim INPUT:AXIS=128.")
        dims[key] = int(size)
    return tuple(dims.items())


def _refuse_unknown(graph: Graph, free: tuple[Free, ...], dims: Mapping[str, int], path: Path) -> None:
    known = {f.key for f in free} | {f.place for f in free}
    for key in dims:
        if key in known:
            continue
        name, _, axis = key.rpartition(":")
        value = next((v for v in graph.inputs if v.name == name), None)
        if value is not None and axis.isdecimal() and int(axis) < len(value.shape):
            raise UsageError(
                f"{path}: dimension {axis} of '{name}' is fixed at {value.shape[int(axis)]}: export the network with it free."
            )
        if not known:
            raise UsageError(f"{path} has no free dimension, so --dim {key}={dims[key]} has nothing to fix.")
        raise UnknownName("dimension", key, sorted({f.key for f in free}))


def _advice(left: list[Free], free: tuple[Free, ...], batches: frozenset[str], path: Path) -> str:
    keys = dict.fromkeys(f"{f.key}={f.usual}" for f in free if f.key not in batches)
    options = " ".join(f"--dim {shlex.quote(key)}" for key in keys)
    first = left[0]
    named = f"'{first.symbol}'" if first.symbol else f"without a name ({first.place})"
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return (
        f"{path} has the dynamic dimension {named} in input '{first.value.name}'{more}: a latency belongs to one shape, so say which "
        f"(kit describe and kit predict take the same options, and describe keeps them beside the file): kit profile "
        f"{shlex.quote(str(path))} {options}"
    )
