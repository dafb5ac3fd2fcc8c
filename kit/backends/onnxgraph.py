"""The graph of an .onnx file without the onnx package, which a board does not have: nodes, shapes, types and small constants.

It reads the few fields of ModelProto that kit needs straight from the protobuf wire format. Weights are stepped over in a memory
map, so a file of any size costs a few pages; attributes of a node are read when somebody asks for them.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit.backends import protobuf, stages
from kit.backends.protobuf import child, fields, text

UINT8 = 2  # TensorProto.DataType
FLOAT16, BFLOAT16 = 10, 16
#: TensorProto.DataType -> NumPy dtype, or ONNX's own name where NumPy has none.
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
    17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4",
    23: "float4e2m1", 24: "float8e8m0", 25: "uint2", 26: "int2",
}  # fmt: skip
#: Types of :data:`DTYPES` whose numbers kit does not handle as NumPy arrays of the same type; names of 8-bit floats begin with float8.
NOT_NUMPY = frozenset({"complex128", "complex64", "bfloat16", "uint4", "int4", "float4e2m1", "uint2", "int2"})
EXTERNAL = 1  # TensorProto.DataLocation
#: Elements of a constant that :meth:`Tensor.values` reads: shapes, axes, trip counts and thresholds are small.
SMALL = 4096
_FORMS = {1: "tensor", 4: "sequence", 5: "map", 8: "sparse", 9: "optional"}  # the fields of TypeProto


@dataclass(frozen=True)
class Tensor:
    """A stored constant: what kind of numbers, how many, and where its bytes lie in the file."""

    name: str
    code: int  # TensorProto.DataType
    dims: tuple[int, ...]
    view: memoryview = field(repr=False)

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    def values(self) -> NDArray[Any] | None:
        """The numbers, of :attr:`dims`, of a constant of at most :data:`SMALL` elements.

        None of a larger one, of one in another file and of a type that NumPy has not.
        """
        dtype = DTYPES.get(self.code, "string")
        if self.size > SMALL or dtype in NOT_NUMPY or dtype.startswith(("float8", "string")):
            return None
        raw = child(self.view, 9)
        if raw is not None:
            data = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<"))
        else:
            packed = {1: 4, 11: 10}.get(self.code)
            if packed is not None:
                data = np.frombuffer(child(self.view, packed) or b"", np.dtype(dtype).newbyteorder("<"))
            else:
                stored = [i for n, v in fields(self.view) if n in (5, 7, 11) for i in protobuf.integers(v)]
                data = np.array(stored, np.int64)
                data = data.astype(np.uint16).view(np.float16) if self.code == FLOAT16 else data.astype(dtype)
        return data.reshape(self.dims) if len(data) == self.size else None


@dataclass(frozen=True)
class Node:
    """One operator of a graph."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""
    views: tuple[memoryview, ...] = field(default=(), repr=False, compare=False)  # its attributes, unread

    @cached_property
    def _attributes(self) -> dict[str, memoryview]:
        return {text(child(view, 1)): view for view in self.views}

    def integer(self, name: str, default: int = 0) -> int:
        """An attribute of one whole number."""
        view = self._attributes.get(name)
        number = None if view is None else next((v for n, v in fields(view) if n == 3 and isinstance(v, int)), None)
        return default if number is None else protobuf.signed(number)

    def tensor(self, name: str) -> Tensor | None:
        """An attribute that is a tensor."""
        view = child(self._attributes.get(name), 5)
        return None if view is None else _tensor(view)

    @cached_property
    def graphs(self) -> dict[str, Graph]:
        """The subgraphs that it runs (the body of a Loop, the branches of an If), by the attribute's name."""
        bodies = {name: child(view, 6) for name, view in self._attributes.items()}
        return {name: _graph(view) for name, view in bodies.items() if view is not None}


@dataclass(frozen=True)
class Value:
    """An input or output: a dimension is a number, or the name of a symbolic one ("?" where it has none)."""

    name: str
    shape: tuple[int | str, ...]
    code: int = field(default=0, compare=False)  # TensorProto.DataType of its elements
    form: str = field(default="tensor", compare=False)  # "tensor", "sequence", "optional", "map", "sparse"

    @property
    def dtype(self) -> str:
        """NumPy's name of the elements' type, or ONNX's own where NumPy has none."""
        return DTYPES.get(self.code, "unknown")


@dataclass(frozen=True)
class Graph:
    """The nodes, inputs and weights of an ONNX file, read without the onnx package."""

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    weights: dict[str, int]  # name -> TensorProto.DataType
    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    functions: dict[tuple[str, str], Graph] = field(default_factory=dict, repr=False, compare=False)  # (domain, name)

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """Constants of this graph by name: its initializers and what its Constant nodes hold."""
        inline = {n.outputs[0]: t for n in self.nodes if n.kind == "Constant" and (t := n.tensor("value")) is not None}
        return self.tensors | inline

    def every(self) -> Iterator[Graph]:
        """This graph, its functions, and all graphs inside their nodes."""
        left = [self, *self.functions.values()]
        while left:
            graph = left.pop()
            yield graph
            left += [inner for node in graph.nodes if node.views for inner in node.graphs.values()]

    def stages(self) -> dict[str, str]:
        """Names of nodes and of what they write -> stage (kit.backends.stages has the rule)."""
        weight = {name: stages.of_parameter(name) for name in self.weights}
        place: dict[str, str] = {}
        writer: dict[str, int] = {}
        numbered = False
        for index, node in enumerate(self.nodes):
            own = [s for s in (weight.get(name) for name in node.inputs) if s is not None]
            scope = max(own, key=len) if own else stages.of_scoped_node(node.name)
            if scope is not None and all(name in weight for name in node.inputs if name):
                weight |= dict.fromkeys(node.outputs, scope)  # a weight that is dequantized or transposed on its way
            elif scope is not None:
                numbered = numbered or any(c.isdigit() for c in scope)
            computed = [name for name in node.inputs if name in writer and name not in weight]
            if scope is not None:
                stage = stages.place(scope, numbered)
            else:
                stage = place[max(computed, key=writer.__getitem__)] if computed else stages.place(stages.TOP, numbered)
            for name in (*node.outputs, node.name):
                place[name] = stage
            writer |= dict.fromkeys(node.outputs, index)
        return place


def read(path: Path) -> Graph | None:
    """The graph of ``path``, or None when it is no readable ONNX model (a runtime then reports why)."""
    try:
        with path.open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _model(view)
    except (OSError, ValueError, IndexError):
        return None


def parse(data: bytes) -> Graph | None:
    """The graph of a model in memory, or None when it is none."""
    try:
        return _model(memoryview(data))
    except (ValueError, IndexError):
        return None


def _model(view: memoryview) -> Graph | None:
    graph, functions = None, {}
    for number, value in fields(view):
        if number == 7 and isinstance(value, memoryview):
            graph = value
        elif number == 25 and isinstance(value, memoryview):
            key = (text(child(value, 10)), text(child(value, 1)))
            functions[key] = _function(value)
    if graph is None:
        return None
    parts = _graph(graph)
    return Graph(parts.nodes, parts.inputs, parts.outputs, parts.weights, parts.tensors, functions)


def _function(view: memoryview) -> Graph:
    names: dict[int, list[Value]] = {4: [], 5: []}
    nodes = []
    for number, value in fields(view):
        if number in names and isinstance(value, memoryview):
            names[number].append(Value(text(value), ()))
        elif number == 7 and isinstance(value, memoryview):
            nodes.append(_node(value))
    return Graph(tuple(nodes), tuple(names[4]), tuple(names[5]), {})


def _graph(view: memoryview) -> Graph:
    parts: dict[int, list[memoryview]] = {1: [], 5: [], 11: [], 12: [], 15: []}
    for number, value in fields(view):
        if number in parts and isinstance(value, memoryview):
            parts[number].append(value)
    sparse = [values for part in parts[15] if (values := child(part, 1)) is not None]  # its name is that of its values
    tensors = {tensor.name: tensor for tensor in map(_tensor, parts[5] + sparse)}
    inputs = tuple(value for value in map(_value, parts[11]) if value.name not in tensors)
    weights = {name: tensor.code for name, tensor in tensors.items()}
    return Graph(tuple(map(_node, parts[1])), inputs, tuple(map(_value, parts[12])), weights, tensors)


def _node(view: memoryview) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
    views = []
    for number, value in fields(view):
        if number in texts and isinstance(value, memoryview):
            texts[number].append(text(value))
        elif number == 5 and isinstance(value, memoryview):
            views.append(value)
    domain = "".join(texts[7])
    name, kind = "".join(texts[3]), "".join(texts[4])
    return Node(name, kind, tuple(texts[1]), tuple(texts[2]), "" if domain == "ai.onnx" else domain, tuple(views))


def _tensor(view: memoryview) -> Tensor:
    name, code = "", 0
    dims: list[int] = []
    for number, value in fields(view):
        if number == 8 and isinstance(value, memoryview):
            name = text(value)
        elif number == 2 and isinstance(value, int):
            code = value
        elif number == 1:
            dims += protobuf.integers(value)
    return Tensor(name, code, tuple(dims), view)


def _value(view: memoryview) -> Value:
    form, kind = "tensor", child(view, 2)
    for number, value in fields(kind) if kind is not None else ():
        if number in _FORMS and isinstance(value, memoryview):
            form, kind = _FORMS[number], value
    if form in ("sequence", "optional"):  # of tensors: the type of one of them
        kind = child(child(kind, 1), 1) or kind
    code = next((v for n, v in fields(kind) if n == 1 and isinstance(v, int)), 0) if kind is not None else 0
    return Value(text(child(view, 1)), tuple(_shape(kind)), code, form)


def _shape(kind: memoryview | None) -> Iterator[int | str]:
    tensor = child(kind, 2)  # TypeProto.tensor_type.shape
    for number, dim in fields(tensor) if tensor is not None else ():
        if number == 1 and isinstance(dim, memoryview):
            parts = dict(fields(dim))
            size, symbol = parts.get(1), parts.get(2)
            if isinstance(size, int) and size < 1 << 63:  # some exporters write -1 for a dimension that is not known
                yield size
            else:
                yield text(symbol) or "?"
