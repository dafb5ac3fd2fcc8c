"""Who writes and who reads each tensor of a graph, what is constant, and which nodes compute with integers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnx import NodeProto, TensorProto

from kit.variants.graph import operators
from kit.variants.graph.operators import VIEWS
from kit.variants.graph.reading import captured, packed_bits, subgraphs_of, tensor_bytes


class Links:
    """The tensors of one graph as edges between its nodes, which have indices in the order of the file."""

    def __init__(
        self,
        nodes: Sequence[NodeProto],
        constants: Mapping[str, TensorProto],
        outputs: Sequence[str],
        shapes: Mapping[str, tuple[int, ...]],
        outer: Mapping[str, int],
    ) -> None:
        """``outer`` holds the constants of the graphs around: name -> bytes."""
        self.nodes = nodes
        self.results = set(outputs)
        self.producer = {out: i for i, node in enumerate(nodes) for out in node.output if out}
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(nodes):
            inner = [name for body in subgraphs_of(node).values() for name in captured(body)]
            for name in dict.fromkeys([*node.input, *inner]):
                self.readers.setdefault(name, []).append(i)
        self._bits = {key: packed_bits(tensor.data_type) for key, tensor in constants.items()}
        #: Bytes of what is stored, or computed from what is stored, as the file holds it; a single number and a shape count nothing.
        self.stored: dict[str, int] = {**outer, **{key: _bytes(tensor) for key, tensor in constants.items()}}
        for node in nodes:  # what is computed from constants alone is computed once
            if all(name in self.stored for name in node.input if name) and not subgraphs_of(node):
                size = self._folded_bytes(node, shapes)
                for name in node.output:
                    self.stored.setdefault(name, size if name else 0)

    @property
    def fixed(self) -> Mapping[str, int]:
        """The tensors that are the same in every run."""
        return self.stored

    def _folded_bytes(self, node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
        if node.op_type == "QuantizeLinear":  # a weight that the file holds in float: the runtime keeps its integers
            return math.prod(shapes.get(node.output[0], ()))
        return sum(self.stored[source] for source in self.weights_of(node))

    def weights_of(self, node: NodeProto) -> list[str]:
        """The constants that a node computes with; of a table it reads some rows, which its result counts."""
        if node.op_type == "Gather":
            return []
        settings = operators.settings_of(node)
        return [name for name in node.input if name in self.stored and name not in settings]

    # ----------------------------------------------------------------------------------------------------------- quantization

    def is_int8(self, index: int) -> bool:
        """Whether a runtime runs this node on integers: its inputs are dequantized and its output is quantized again (a product
        needs only the first)."""
        node = self.nodes[index]
        if node.op_type.startswith("QLinear") or node.op_type in operators.INTEGER_PRODUCTS:
            return True
        if not self.reads_quantized(index):
            return False
        return node.op_type in ("MatMul", "Gemm") or self._quantized_next(node.output[0])

    def reads_quantized(self, index: int) -> bool:
        """Whether everything that this node computes with was dequantized just before."""
        node = self.nodes[index]
        inputs = [name for name in node.input if name and (name not in self.stored or name in self.producer)]
        producers = [self.nodes[self.producer[name]].op_type if name in self.producer else "" for name in inputs]
        return (
            bool(producers)
            and node.op_type not in operators.QUANTIZERS
            and all(kind == "DequantizeLinear" for kind in producers)
        )

    def _quantized_next(self, name: str) -> bool:
        while len(readers := self.readers.get(name, [])) == 1 and name not in self.results:
            after = self.nodes[readers[0]]
            if after.op_type not in ("Relu", "Clip"):
                return after.op_type == "QuantizeLinear"
            name = after.output[0]
        return False

    def stored_bits(self, name: str) -> int | None:
        """Bits of a weight of few bits behind a DequantizeLinear, its views included; None for every other tensor."""
        while (index := self.producer.get(name)) is not None and name in self.stored:
            node = self.nodes[index]
            if node.op_type == "DequantizeLinear":
                source = node.input[0]
                return self._bits.get(source) or (8 if source in self.stored else None)
            if node.op_type not in VIEWS | {"Transpose", "Cast"} or not node.input:
                return None
            name = node.input[0]
        return None


def _bytes(tensor: TensorProto) -> int:
    size = math.prod(tensor.dims)
    return 0 if size == 1 or tensor.data_type == TensorProto.INT64 else tensor_bytes(size, tensor.data_type)
