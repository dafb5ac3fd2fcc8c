"""The stored numbers that a network computes with, those of its loops and branches included."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, TensorProto

from kit.variants.graph import operators
from kit.variants.graph.reading import all_graphs, constants_of, tensor_bytes

_NO_NUMBERS = (TensorProto.INT64, TensorProto.STRING)


@dataclass(frozen=True)
class Weight:
    """A stored tensor: how many numbers it stands for, its TensorProto.DataType, and bytes in the file."""

    size: int
    code: int
    nbytes: int


def weights_of(graph: GraphProto) -> list[Weight]:
    """Every weight of a graph; scales, zero points, axes and shapes are not among them. Where bytes hold several packed weights,
    each counts."""
    graphs = list(all_graphs(graph))
    excluded = {name for one in graphs for node in one.node for name in operators.settings_of(node)}
    packed = {node.input[1]: _unpacked(node) for one in graphs for node in one.node if _is_packed(node)}
    stored = [(key, t) for one in graphs for key, t in constants_of(one).items()]
    return [
        Weight(packed.get(key, size), tensor.data_type, tensor_bytes(size, tensor.data_type))
        for key, tensor in stored
        if key not in excluded and tensor.data_type not in _NO_NUMBERS
        for size in (math.prod(tensor.dims),)
    ]


def _is_packed(node: NodeProto) -> bool:
    return node.op_type in operators.FEW_BITS and _unpacked(node) > 0


def _unpacked(node: NodeProto) -> int:
    return operators.integer(node, "K") * operators.integer(node, "N")
