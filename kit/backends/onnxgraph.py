"""The graph of an .onnx file without the onnx package, which a board does not have: names, shapes and operators, no weights.

It reads the few fields of ModelProto that kit needs straight from the protobuf wire format (onnx/onnx.proto: field numbers
never change their meaning). Weights are stepped over in a memory map, so a file of any size costs a few pages.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kit import store
from kit.backends import stages
from kit.errors import BadModel, UntrustedPackage

UINT8 = 2  # TensorProto.DataType
COMPILED = (
    b"EPContext"  # onnxruntime's operator that holds what TensorRT, OpenVINO or QNN compiled, or names a file of it
)

EXTERNAL = 1  # TensorProto.DataLocation
_UINT32 = 2**32 - 1  # what protobuf keeps of a tag or an enum that is written longer
#: Where tensors lie in a model: the fields of each kind of message that lead to them (onnx/onnx.proto).
_WAYS_TO_TENSORS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "sparse": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
}
_DATA_LOCATION = 14  # of a tensor


@dataclass(frozen=True)
class Node:
    """One operator of a graph."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Value:
    """An input or output: a dimension is a number, or the name of a symbolic one ("?" where it has none)."""

    name: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """The nodes, inputs and weights of an ONNX file, read without the onnx package."""

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    weights: dict[str, int]  # name -> TensorProto.DataType

    @property
    def free_batch(self) -> str | None:
        """The name of the one symbolic dimension, where it is the first of every input and of nothing else; else None."""
        loose = {(i, d) for value in self.inputs for i, d in enumerate(value.shape) if not isinstance(d, int)}
        named = {d for _, d in loose}
        firsts = [value.shape[0] if value.shape else None for value in self.inputs]
        if len(loose) != 1 or "?" in named or set(firsts) != named:
            return None
        return str(firsts[0])

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
        graph = next((value for number, value in _fields(view) if number == 7 and isinstance(value, memoryview)), None)
        return None if graph is None else _graph(graph)
    except (OSError, ValueError, IndexError):
        return None


def refuse_programs(path: Path) -> None:
    """Raises UntrustedPackage unless the file, which came over a link, is an ONNX model of operators and weights alone.

    A compiled part is looked for in the bytes, in which a protobuf holds each name as it is: also of a graph inside an operator.
    """
    if read(path) is None:
        raise UntrustedPackage(f"{path.name} came over a link and is no ONNX model: refused; add the package again.")
    with (
        store.explained(path, "read"),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        compiled = view.find(COMPILED) >= 0
    if compiled:
        raise UntrustedPackage(
            f"{path.name} came over a link and holds a part that was compiled elsewhere ({COMPILED.decode()}): refused; export the "
            "network itself."
        )


def refuse_external(model: Path | bytes, subject: str) -> None:
    """Raises BadModel, a sentence that begins with ``subject``, when a tensor of the ONNX ``model`` lies in another file.

    No hash covers that file, and runtimes read it from any path that the model names (onnxruntime before 1.25 also outside of the
    model's folder, and none later exists for Python 3.10). What is no readable ONNX model passes: a runtime then says why.
    """
    try:
        if isinstance(model, Path):
            with model.open("rb") as file:
                external = _holds_external(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        else:
            external = _holds_external(memoryview(model))
    except (OSError, ValueError, IndexError):
        return
    if external:
        raise BadModel(
            f"{subject} keeps its weights in another file, which no hash covers: export with external_data=False, or "
            "onnx.save(onnx.load(FILE), ONE_FILE)."
        )


def _holds_external(model: memoryview) -> bool:
    """Whether any tensor of ``model``, also in a subgraph or a function, says that its data lie elsewhere. Raises as :func:`_fields`."""
    left = [("model", model)]
    while left:
        kind, view = left.pop()
        for number, value in _fields(view):
            if isinstance(value, memoryview):
                if inner := _WAYS_TO_TENSORS.get(kind, {}).get(number):
                    left.append((inner, value))
            elif kind == "tensor" and number == _DATA_LOCATION and value & _UINT32 == EXTERNAL:
                return True
    return False


def _graph(view: memoryview) -> Graph:
    parts: dict[int, list[memoryview]] = {1: [], 5: [], 11: [], 12: []}
    for number, value in _fields(view):
        if number in parts and isinstance(value, memoryview):
            parts[number].append(value)
    weights = dict(map(_weight, parts[5]))
    inputs = tuple(value for value in map(_value, parts[11]) if value.name not in weights)
    return Graph(tuple(map(_node, parts[1])), inputs, tuple(map(_value, parts[12])), weights)


def _node(view: memoryview) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}
    for number, value in _fields(view):
        if number in texts and isinstance(value, memoryview):
            texts[number].append(_text(value))
    return Node("".join(texts[3]), "".join(texts[4]), tuple(texts[1]), tuple(texts[2]))


def _weight(view: memoryview) -> tuple[str, int]:
    name, kind = "", 0
    for number, value in _fields(view):
        if number == 8 and isinstance(value, memoryview):
            name = _text(value)
        elif number == 2 and isinstance(value, int):
            kind = value
    return name, kind


def _value(view: memoryview) -> Value:
    fields = dict(_fields(view))
    name = fields.get(1)
    return Value(_text(name) if isinstance(name, memoryview) else "", tuple(_shape(fields.get(2))))


def _shape(kind: int | memoryview | None) -> Iterator[int | str]:
    tensor = _child(_child(kind, 1), 2)  # TypeProto.tensor_type.shape
    for number, dim in _fields(tensor) if tensor is not None else ():
        if number == 1 and isinstance(dim, memoryview):
            fields = dict(_fields(dim))
            size, symbol = fields.get(1), fields.get(2)
            if isinstance(size, int) and size < 1 << 63:  # some exporters write -1 for a dimension that is not known
                yield size
            else:
                yield _text(symbol) or "?" if isinstance(symbol, memoryview) else "?"


def _child(message: int | memoryview | None, field: int) -> memoryview | None:
    if not isinstance(message, memoryview):
        return None
    child = dict(_fields(message)).get(field)
    return child if isinstance(child, memoryview) else None


def _text(view: memoryview) -> str:
    return bytes(view).decode()


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one message: its number, and its value as an integer or as bytes; numbers of fixed width, of which nothing here is
    one, are left out. Raises ValueError, IndexError."""
    at = 0
    while at < len(view):
        key, at = _varint(view, at)
        key &= _UINT32
        kind = key & 7
        if kind == 0:
            value, at = _varint(view, at)
            yield key >> 3, value
            continue
        if kind in (3, 4):  # the ends of a group, which ONNX has none of: what is inside counts like what is around
            continue
        if kind == 2:
            size, at = _varint(view, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("no protobuf message")
        if at + size > len(view):
            raise ValueError("a message that is cut off")
        if kind == 2:
            yield key >> 3, view[at : at + size]
        at += size


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("no protobuf number")
