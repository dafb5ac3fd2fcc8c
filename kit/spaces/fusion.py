"""From a network to the kernels that onnxruntime executes at its full optimisation level, without onnxruntime.

What it fuses is stated by the nodes themselves (``Node.folds``). In int8, operators that have no integer form run in float between a
dequantize and a quantize kernel, and feature maps are turned where the integer convolutions begin and end.

In float on x86, convolutions work on blocks of 16 channels (AVX-512) or 8. They want blocked maps as input unless these have fewer
channels than a block; a pooling wants whole blocks; a shortcut is added inside the convolution only when it is blocked, too. Everything
else is reordered first. So 24 or 40 channels cost more than their multiply-accumulates suggest, and ``block`` belongs to the device.
tests/test_spaces_files.py compares all this with the graph that onnxruntime itself builds from the written file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Literal, NamedTuple

from kit.records import Kernel, Precision
from kit.spaces.graph import ITEM_BYTES, Architecture, Net, Node, Shape, without_relu

Kind = Literal[
    "conv", "pointwise", "depthwise", "linear", "matmul", "pool", "add", "norm", "softmax", "elementwise", "move"
]
#: Operators that onnxruntime's static quantization surrounds with Q/DQ (its default list, as far as these networks go) ...
QUANTIZED = {"Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "Softmax", "LayerNormalization"}
#: ... and those that pass an int8 tensor on as it is.
DIRECT = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "MaxPool", "Gather"}
_NO_INTEGER_FORM = {"ReduceMean", "Div", "Erf", "LayerNormalization"}
_VIEWS = {"Reshape", "Squeeze", "Unsqueeze"}
_ON_MAPS = {"Conv", "Relu", "Add", "MaxPool", "ReduceMean"}
_LIGHT: dict[str, Kind] = {
    "MaxPool": "pool", "ReduceMean": "pool", "Add": "add", "LayerNormalization": "norm", "Softmax": "softmax",
    "LogSoftmax": "softmax", "Transpose": "move", "Concat": "move", "Gather": "move",
}  # fmt: skip


def owners(nodes: list[Node], net: Net, int8_inputs: tuple[str, ...] = ()) -> dict[str, str]:
    """The tensors that are int8 in the quantized network, each with the tensor whose scale it shares. ``int8_inputs`` come in as int8."""
    owner = {name: name for name in int8_inputs}
    for node in nodes:
        if node.op in QUANTIZED:
            flowing = (name for name in (*node.inputs, *node.outputs) if name not in net.stored)
            owner |= {name: name for name in flowing if name not in owner}
        elif node.op in DIRECT and node.inputs[0] in owner:
            owner[node.outputs[0]] = owner[node.inputs[0]]
    return owner


def kernels(architecture: Architecture, precision: Precision, block: int) -> tuple[Kernel, ...]:
    """The kernels of a network in their order; equal ones of a repeated part are one with a count. ``block`` 1: maps are never blocked."""
    listed: list[Kernel] = []
    shape, blocked = architecture.shape, False
    for index, part in enumerate(architecture.parts):
        where = _Where(precision, block, index == 0, blocked)
        of_part, shape, blocked = _of_part(part.build, part.settings, part.stage, len(part.names), shape, where)
        listed += of_part
    return tuple(listed)


class _Where(NamedTuple):
    """What surrounds a part: the precision, the channels in a block, whether it is the first, whether its input is blocked."""

    precision: Precision
    block: int
    first: bool
    blocked: bool


@lru_cache(maxsize=65536)
def _of_part(
    build: Callable[..., str], settings: tuple[int, ...], stage: int, count: int, shape: Shape, where: _Where
) -> tuple[tuple[Kernel, ...], Shape, bool]:
    """Kernels of one part on an input of ``shape``; the shape of its output, and whether that is blocked."""
    net = Net()
    out = build(net, net.input("input" if where.first else "x", shape), "part", *settings)
    walk = _Walk(net, where)
    kernels = tuple(Kernel(stage=stage, count=count, **draft.fields()) for draft in walk.drafts())
    return kernels, net.shapes[out], out in walk.blocked


@dataclass
class _Draft:
    """A kernel whose fused neighbours are still to come."""

    kind: Kind
    precision: Precision
    rows: int
    inner: int
    columns: int
    read_bytes: int
    written_bytes: int
    groups: int = 1
    size: int = 1
    stride: int = 1
    weight_bytes: int = 0

    def fields(self) -> dict[str, Any]:
        return vars(self)


class _Walk:
    """The nodes of a part in their order, and the kernels that come of them."""

    def __init__(self, net: Net, where: _Where) -> None:
        self.net, self.precision, self.block = net, where.precision, where.block
        self.int8 = where.precision == "int8"
        self.nodes = without_relu(net.nodes) if self.int8 else net.nodes
        self.owner = owners(self.nodes, net, () if where.first else ("x",)) if self.int8 else {}
        self.blocked = {"x"} if where.blocked else set()  # maps in the layout of blocked convolutions ...
        self.both = set[str]()  # ... and those that exist in either layout, because they were reordered
        self.drafted: list[_Draft] = []
        self.by: dict[str, _Draft] = {}  # tensor -> the kernel that writes it
        self.through: dict[str, tuple[str, ...]] = {}  # output of a node that runs inside its reader -> what it reads
        self.split: set[str] = set()
        self.maps = {name for name in net.inputs if len(net.shapes[name]) == 4}
        for node in self.nodes:
            if node.op in _ON_MAPS and node.inputs[0] in self.maps:
                self.maps |= set(node.outputs)

    def drafts(self) -> list[_Draft]:
        for node in self.nodes:
            fold = node.folds.get(self.precision)
            if fold == "on":
                self.through[node.outputs[0]] = self._flowing(node)
            elif fold == "back" and self._joins(node):
                self._join(node)
            else:
                self._run(node)
        return self.drafted

    def _joins(self, node: Node) -> bool:
        """Whether what may run inside the kernel before it does so: in blocks, only when every input is blocked. A Relu behind a sum
        that stayed alone stays alone, too."""
        if self.block == 1 or self.int8 or node.inputs[0] not in self.maps:
            return True
        return all(name in self.blocked for name in self._flowing(node))

    def _join(self, node: Node) -> None:
        if node.inputs[0] in self.blocked:
            self.blocked.add(node.outputs[0])
        draft = self.by[node.inputs[0]]
        draft.read_bytes += sum(self._bytes(name) for name in self._flowing(node)[1:])
        self.by[node.outputs[0]] = draft

    def _run(self, node: Node) -> None:
        self.drafted += self._before(node)
        draft = self._kernel(node)
        if draft is not None:
            self.drafted.append(draft)
            self.by[node.outputs[0]] = draft
        self.drafted += self._after(node)

    def _before(self, node: Node) -> Iterator[_Draft]:
        """Changes of layout and precision that the inputs of ``node`` need."""
        x = node.inputs[0]
        if self.int8 and x == "input":
            yield self._change(x, 4, 1)
            if node.op == "Conv":
                yield self._change(x, 1, 1, "move")
        if self.int8 and node.leaves_maps:
            yield self._change(x, 1, 1, "move")
        if not self.int8 and self.block > 1:
            yield from self._reordered(node)
        if node.op in _NO_INTEGER_FORM:
            yield from (self._change(name, 1, 4) for name in self._flowing(node) if name in self.owner)
        if self.int8 and node.op == "LayerNormalization":
            width = self.net.shapes[x][-1]
            for item_bytes in (1, 4):  # scale and shift
                yield self._light("elementwise", 1, width, 0, 4 * width, weight=item_bytes * width)

    def _reordered(self, node: Node) -> Iterator[_Draft]:
        """Maps that ``node`` wants in the other layout, each reordered once; and the layout of what it writes."""
        maps = [name for name in self._flowing(node) if name in self.maps]
        blocks = False
        if maps and node.op == "Conv":
            blocks = self.net.shapes[maps[0]][1] >= self.block
            self.blocked.add(node.outputs[0])
        elif maps and node.op == "MaxPool" and self.net.shapes[maps[0]][1] % self.block == 0:
            blocks = True
            self.blocked.add(node.outputs[0])
        for name in maps:
            if (name in self.blocked) != blocks and name not in self.both:
                self.both.add(name)
                yield self._change(name, 4, 4, "move")

    def _after(self, node: Node) -> Iterator[_Draft]:
        if not self.int8:
            return
        out = node.outputs[0]
        arrived = node.op in DIRECT and node.inputs[0] not in self.owner and node.inputs[0] not in self.net.stored
        if out in self.owner and (node.op in _NO_INTEGER_FORM or arrived):
            yield self._change(out, 4, 1)
        if out == "output" and out in self.owner:
            yield self._change(out, 1, 4)

    def _kernel(self, node: Node) -> _Draft | None:
        if node.op in _VIEWS or (node.op == "Gather" and self._already_split(node)):
            return None
        if node.op in ("Conv", "Gemm", "MatMul"):
            return self._product(node)
        read = sum(self._operand(name, node) for name in self._flowing(node))
        written = sum(self._operand(name, node) for name in node.outputs)
        weights = [self.net.stored[n] for n in node.inputs if n in self.net.stored and not self.net.stored[n].setting]
        weight = sum(self._stored(s.size, s.nbytes) for s in weights if s.shape not in ((), (1,)))
        extent = self._extent(node.outputs[0])
        kind = _LIGHT.get(node.op, "elementwise")
        if node.op == "Add" and (len(self._flowing(node)) == 1 and not weight):
            kind = "elementwise"  # a scalar is added
        if node.op == "Gather" and weights:  # rows of a stored table: what is read is what is written
            return self._light(kind, *extent, 0, written, weight=written)
        if node.op == "Gather":
            read = written = read if node.inputs[0] in self.split else written
        if node.op in _NO_INTEGER_FORM and self.int8:
            weight = 0  # it was counted where it is dequantized
        draft = self._light(kind, *extent, read, written, weight=weight)
        if node.op == "ReduceMean":
            draft.inner = prod(self.net.shapes[node.inputs[0]]) // prod(extent)
        if node.op == "MaxPool":
            draft.size, draft.stride, draft.inner = *_window(node), _window(node)[0] ** 2
        return draft

    def _already_split(self, node: Node) -> bool:
        """Slices of one tensor along its first axis are one Split: the first of them stands for all."""
        source = node.inputs[0]
        if node.attributes["axis"] != 0 or source in self.net.stored:
            return False
        counted = source in self.split
        self.split.add(source)
        return counted

    def _product(self, node: Node) -> _Draft:
        stored = [self.net.stored[n] for n in node.inputs[1:] if n in self.net.stored]
        weight = sum(self._stored(s.size, s.nbytes) for s in stored[:1]) + sum(s.nbytes for s in stored[1:])
        out, left = self.net.shapes[node.outputs[0]], self.net.shapes[node.inputs[0]]
        read = sum(self._bytes(name) for name in self._flowing(node))
        draft = self._light("matmul", 1, 1, read, self._bytes(node.outputs[0]), weight=weight)
        if node.op == "Conv":
            draft.size, draft.stride = _window(node)
            draft.kind = "conv" if draft.size > 1 else "pointwise"
            draft.rows, draft.inner, draft.columns = out[2] * out[3], left[1] * draft.size**2, out[1]
        else:
            draft.rows, draft.inner, draft.columns, draft.groups = out[-2], left[-1], out[-1], prod(out[:-2])
            alike = bool(stored) and len(stored[0].shape) == 2  # the same weight for every group
            draft.kind = "linear" if alike else "matmul"
            if alike:
                draft.rows, draft.groups = draft.rows * draft.groups, 1
        return draft

    def _flowing(self, node: Node) -> tuple[str, ...]:
        """The tensors that ``node`` reads, with those in place of them that run inside it."""
        names = (n for n in node.inputs if n not in self.net.stored)
        return tuple(inner for n in names for inner in self.through.get(n, (n,)))

    def _stored(self, size: int, nbytes: int) -> int:
        return size if self.int8 else nbytes

    def _item(self, name: str) -> int:
        return 1 if name in self.owner else ITEM_BYTES[self.net.dtypes[name]]

    def _bytes(self, name: str) -> int:
        return prod(self.net.shapes[name]) * self._item(name)

    def _operand(self, name: str, node: Node) -> int:
        """Bytes of a tensor as ``node`` sees it: float where it has no integer form."""
        return self.net.nbytes(name) if node.op in _NO_INTEGER_FORM else self._bytes(name)

    def _change(self, name: str, before: int, after: int, kind: Kind = "elementwise") -> _Draft:
        rows, columns = self._extent(name)
        return self._light(kind, rows, columns, rows * columns * before, rows * columns * after)

    def _extent(self, name: str) -> tuple[int, int]:
        """Positions and channels of a tensor."""
        shape = self.net.shapes[name]
        columns = shape[1] if name in self.maps else shape[-1]
        return prod(shape) // columns, columns

    def _light(self, kind: Kind, rows: int, columns: int, read: int, written: int, weight: int = 0) -> _Draft:
        return _Draft(kind, self.precision, rows, 1, columns, read, written, weight_bytes=weight)


def _window(node: Node) -> tuple[int, int]:
    size, stride = node.attributes["kernel_shape"], node.attributes["strides"]
    assert isinstance(size, tuple) and isinstance(stride, tuple)
    return size[0], stride[0]
