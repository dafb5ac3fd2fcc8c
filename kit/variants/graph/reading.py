"""ONNX files as models: read, given a batch, and asked for the tensors that go in, are stored or are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    external_data_helper,
    helper,
)

from kit.backends import dimensions, onnxdata, onnxgraph
from kit.errors import BadModel
from kit.store import explained

#: Tensors in other files up to this size are read: they decide shapes.
SMALL_BYTES = 1 << 14
_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}


def load(path: Path) -> ModelProto:
    """The model of an ONNX file without the weights that lie in other files, whose names and ranges are checked.

    Raises UsageError (missing), BadModel (no ONNX, weights outside its folder).
    """
    with explained(path, "read"):
        data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError):
        raise BadModel(f"{path} is not an ONNX model: export one, for example with kit export resnet18.") from None
    if not model.graph.node:
        raise BadModel(
            f"{path} is not an ONNX model, or an empty one: export one, for example with kit export resnet18."
        )
    if onnxgraph.read(path) is None or any(not node.output for graph in all_graphs(model.graph) for node in graph.node):
        raise BadModel(
            f"{path} is a damaged ONNX model (names that are no text, or operators without a result): export it again."
        )
    onnxdata.files_of(path)
    for tensor in _external_tensors(model.graph):
        if tensor_bytes(math.prod(tensor.dims), tensor.data_type) <= SMALL_BYTES:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent.resolve()))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    return model


def load_whole(path: Path) -> ModelProto:
    """The model of an ONNX file with all of its weights, those of other files checked. Raises as :func:`load` does."""
    model = load(path)
    external_data_helper.load_external_data_for_model(model, str(path.parent.resolve()))
    return model


def _external_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    for part in all_graphs(graph):
        constants = [a.t for node in part.node for a in node.attribute if a.HasField("t")]
        yield from (t for t in (*part.initializer, *constants) if t.data_location == TensorProto.EXTERNAL)


def with_shapes(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> ModelProto:
    """A copy whose inputs have ``shapes`` and whose outputs have the shapes that follow; ``model`` itself where nothing is free.

    What other dimensions of the model are called by a symbol that is fixed so, gets its size, too.
    """
    free = [
        v for v in true_inputs(model.graph) if any(not d.HasField("dim_value") for d in v.type.tensor_type.shape.dim)
    ]
    if not free:
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    symbols: dict[str, int] = {}
    for value in true_inputs(copy.graph):
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            if dim.dim_param:
                symbols[dim.dim_param] = size
            dim.dim_value = size
    for value in (*copy.graph.output, *copy.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param]
    return copy


def fixed(model: ModelProto, path: Path, dims: Mapping[str, int]) -> tuple[ModelProto, tuple[tuple[str, int], ...]]:
    """The model of the file ``path`` with its free dimensions fixed, and which of them were chosen (a batch of 1 is not listed).

    Raises UnknownName, UsageError (a dimension that is not free), BadModel (one is left over).
    """
    graph = onnxgraph.read(path)
    if graph is None:
        return model, ()
    sizes = dimensions.fixed(graph, dims, None, path)
    return with_shapes(model, sizes.shapes), sizes.chosen


def with_batch(model: ModelProto, batch: int) -> ModelProto:
    """``model`` itself where its shapes are fixed, else a copy whose inputs have ``batch`` as their free first dimension."""
    if all(dims[0].dim_value for value in true_inputs(model.graph) if (dims := value.type.tensor_type.shape.dim)):
        return model
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_param:
            dims[0].dim_value = batch
    return fixed


def true_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Old exporters list the weights among the inputs; those are no inputs."""
    stored = {t.name for t in graph.initializer}
    return [v for v in graph.input if v.name not in stored]


def other_form(value: ValueInfoProto) -> str | None:
    """The type of a value that is no tensor, as onnxruntime writes it (``seq(tensor(float))``); None of a tensor."""
    return None if value.type.WhichOneof("value") in ("tensor_type", None) else _type_text(value.type)


def _type_text(kind: TypeProto) -> str:
    form = kind.WhichOneof("value")
    if form == "sequence_type":
        return f"seq({_type_text(kind.sequence_type.elem_type)})"
    if form == "optional_type":
        return f"optional({_type_text(kind.optional_type.elem_type)})"
    if form == "map_type":
        return f"map({_element(kind.map_type.key_type)},{_type_text(kind.map_type.value_type)})"
    if form == "sparse_tensor_type":
        return f"sparse_tensor({_element(kind.sparse_tensor_type.elem_type)})"
    return f"tensor({_element(kind.tensor_type.elem_type)})"


def _element(code: int) -> str:
    """``float`` for TensorProto.FLOAT."""
    return str(TensorProto.DataType.Name(code)).lower()


def constants_of(graph: GraphProto) -> dict[str, TensorProto]:
    """The stored tensors of a graph by name: its initializers and the values of its Constant nodes."""
    values = ((n.output[0], n.attribute[0]) for n in graph.node if n.op_type == "Constant" and n.attribute)
    listed = {name: attribute.t for name, attribute in values if attribute.name == "value"}
    return {t.name: t for t in graph.initializer} | listed


def subgraphs_of(node: NodeProto) -> dict[str, GraphProto]:
    """The graphs that a node holds as attributes, by the name of the attribute."""
    return {a.name: a.g for a in node.attribute if a.HasField("g")}


def all_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """``graph`` and every graph inside of it."""
    waiting = [graph]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += [inner for node in one.node for inner in subgraphs_of(node).values()]


def captured(graph: GraphProto) -> list[str]:
    """The tensors that a subgraph reads from the graphs around it, in the order of their first use."""
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    return list(dict.fromkeys(name for name in _read_names(graph) if name and name not in own))


def _read_names(graph: GraphProto) -> Iterable[str]:
    for node in graph.node:
        yield from node.input
        for inner in subgraphs_of(node).values():
            yield from captured(inner)
    yield from (value.name for value in graph.output)


def dtype_of(code: int) -> np.dtype[np.generic]:
    """NumPy's type of a TensorProto.DataType."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(code))


def packed_bits(code: int) -> int | None:
    """Bits of an element of the TensorProto.DataType ``code``, where several share a byte; else None."""
    return _BITS.get(TensorProto.DataType.Name(code))


def tensor_bytes(size: int, code: int) -> int:
    """Bytes of ``size`` elements of the TensorProto.DataType ``code``, packed where several share a byte."""
    bits = packed_bits(code)
    return size * dtype_of(code).itemsize if bits is None else -(-size * bits // 8)
