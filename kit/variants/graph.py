"""What an ONNX file says about itself: tensors, multiply-accumulates, parameters, bytes. Also for networks that kit did not make.

Counted operators are Conv, ConvTranspose, Gemm, MatMul and their integer forms, over the shape-inferred graph, so that a
quantized graph counts like the float graph it came from. 1 MAC = 2 FLOP; additions of a bias, normalizations, activations and
softmax are not counted (torch's flop counter does the same; thop counts batch norm too, which an exported graph has folded).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, inliner, shape_inference

from kit.errors import BadModel
from kit.records import Precision, TensorSpec
from kit.store import explained

Shape = tuple[int, ...]
# No tensor is written for these: runtimes pass the same bytes on under another shape, or compute the value ahead.
_VIEWS = {
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Identity",
    "Constant",
    "Shape",
    "ConstantOfShape",
    "DequantizeLinear",
}
_QUANTIZED = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
# Multiply-accumulates that this file cannot see; with one of them the sum would be a lie.
_UNCOUNTED = {"Einsum", "Attention", "LSTM", "GRU", "RNN", "Scan", "Loop", "If", "DeformConv"}
_STANDARD = {"", "ai.onnx"}


@dataclass(frozen=True)
class Facts:
    """``macs`` and ``activation_bytes`` are None where the graph does not tell them (custom operators, loops, unknown shapes)."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Precision
    macs: int | None
    parameters: int
    weight_bytes: int
    activation_bytes: int | None


def load(path: Path) -> onnx.ModelProto:
    """The model of an ONNX file that is whole in itself. Raises UsageError (missing), BadModel (no ONNX, weights elsewhere)."""
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
    if any(t.data_location == TensorProto.EXTERNAL for t in model.graph.initializer):
        raise BadModel(
            f"{path} keeps its weights in another file: export with external_data=False, or onnx.save(onnx.load(FILE), ONE_FILE)."
        )
    return model


def facts(model: onnx.ModelProto, name: str) -> Facts:
    """Everything that the graph tells. ``name`` is what errors call it. Raises BadModel: dynamic shapes or a broken graph."""
    graph = _Graph(model, name)
    return Facts(
        inputs=graph.specs(graph.inputs),
        outputs=graph.specs(graph.model.graph.output),
        precision=graph.precision(),
        macs=graph.macs(),
        parameters=sum(w.size for w in graph.weights()),
        weight_bytes=sum(w.nbytes for w in graph.weights()),
        activation_bytes=graph.activation_bytes(),
    )


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """``model`` itself where its shapes are fixed, else a copy whose inputs have ``batch`` as their free first dimension."""
    if all(value.type.tensor_type.shape.dim[0].dim_value for value in _true_inputs(model)):
        return model
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if first.dim_param:
            first.dim_value = batch
    return fixed


class _Graph:
    """A model with its shapes inferred and looked up by tensor name."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self.name = name
        whole = inliner.inline_local_functions(model) if model.functions else model
        self.inputs = _true_inputs(whole)
        self._refuse_dynamic(self.inputs)
        try:
            self.model = shape_inference.infer_shapes(whole, data_prop=True)
        except shape_inference.InferenceError as error:
            raise BadModel(f"{name} is a broken ONNX graph ({str(error).splitlines()[0]}): export it again.") from None
        self.nodes = list(self.model.graph.node)
        self.constants = {t.name: t for t in self.model.graph.initializer} | _constant_nodes(self.nodes)
        values = [*self.model.graph.input, *self.model.graph.value_info, *self.model.graph.output]
        self.shapes = {v.name: s for v in values if (s := _shape(v)) is not None}
        self.shapes |= {key: tuple(t.dims) for key, t in self.constants.items()}
        self.types = {v.name: v.type.tensor_type.elem_type for v in values}

    def _refuse_dynamic(self, values: Iterable[onnx.ValueInfoProto]) -> None:
        for value in values:
            dims = value.type.tensor_type.shape.dim
            for index, dim in enumerate(dims):
                if dim.dim_value < 1:
                    kind = (
                        f"--dim_param {dim.dim_param} --dim_value 1"
                        if dim.dim_param
                        else f"--input_name {value.name} --input_shape ..."
                    )
                    raise BadModel(
                        f"{self.name} has a dynamic shape (dimension {index} of input '{value.name}'): fix it with "
                        f"python -m onnxruntime.tools.make_dynamic_shape_fixed {kind} IN.onnx OUT.onnx, or export with a fixed batch of 1."
                    )

    def specs(self, values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
        return tuple(self._spec(value.name) for value in values)

    def _spec(self, name: str) -> TensorSpec:
        if name not in self.shapes:
            raise BadModel(f"{self.name} does not tell the shape of '{name}': export it with fixed shapes.")
        return TensorSpec(name=name, shape=self.shapes[name], dtype=str(_dtype(self.types[name])))

    def precision(self) -> Precision:
        if any(node.op_type in _QUANTIZED for node in self.nodes):
            return "int8"
        sizes = {t: sum(w.nbytes for w in self.weights() if w.dtype == t) for t in {w.dtype for w in self.weights()}}
        most = str(max(sizes, key=lambda t: sizes[t], default="float32"))
        return "fp16" if most == "float16" else "bf16" if most == "bfloat16" else "fp32"

    def weights(self) -> list[_Weight]:
        """The stored numbers that the network computes with; scales, zero points, axes and shapes are not among them."""
        aside = {name for node in self.nodes for name in _settings_of(node)}
        kept = [t for key, t in self.constants.items() if key not in aside and t.data_type != TensorProto.INT64]
        return [_Weight(math.prod(t.dims), _dtype(t.data_type)) for t in kept]

    def macs(self) -> int | None:
        total = 0
        for node in self.nodes:
            count = self._node_macs(node)
            if count is None:
                return None
            total += count
        return total

    def _node_macs(self, node: onnx.NodeProto) -> int | None:
        if node.op_type in _UNCOUNTED or (node.domain not in _STANDARD and node.op_type not in _VIEWS | _QUANTIZED):
            return None
        count = _MACS.get(node.op_type)
        if count is None:
            return 0
        names = [*node.input, node.output[0]]
        if any(name and name not in self.shapes for name in names):
            return None
        return count(node, [self.shapes.get(name, ()) for name in node.input], self.shapes[node.output[0]])

    def activation_bytes(self) -> int | None:
        """Bytes of the tensors that the nodes write for one input. Views are free; a float tensor that only feeds a quantizer
        stays inside the quantized operator, so its int8 form is what counts."""
        readers: dict[str, set[str]] = {}
        for node in self.nodes:
            for name in node.input:
                readers.setdefault(name, set()).add(node.op_type)
        total = 0
        for node in self.nodes:
            if node.op_type in _VIEWS:
                continue
            for name in node.output:
                if not name or readers.get(name) == {"QuantizeLinear"}:
                    continue
                if name not in self.shapes or not self.types.get(name):
                    return None
                total += math.prod(self.shapes[name]) * _dtype(self.types[name]).itemsize
        return total


@dataclass(frozen=True)
class _Weight:
    size: int
    dtype: np.dtype[np.generic]

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


def _true_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Old exporters list the weights among the inputs; those are no inputs."""
    stored = {t.name for t in model.graph.initializer}
    return [v for v in model.graph.input if v.name not in stored]


def _constant_nodes(nodes: Iterable[onnx.NodeProto]) -> dict[str, TensorProto]:
    values = ((n.output[0], n.attribute[0]) for n in nodes if n.op_type == "Constant" and n.attribute)
    return {name: attribute.t for name, attribute in values if attribute.name == "value"}


def _settings_of(node: onnx.NodeProto) -> list[str]:
    """Inputs of ``node`` that say how to compute and are not computed with."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return list(node.input[1:])
    if node.op_type in ("QLinearConv", "QLinearMatMul"):
        return [name for i, name in enumerate(node.input) if i not in (0, 3, 8)]
    if node.op_type in ("ConvInteger", "MatMulInteger"):
        return list(node.input[2:])
    return list(node.input[1:]) if node.op_type in ("Clip", "Pad", "Resize", "Slice", "Gather") else []


def _shape(value: onnx.ValueInfoProto) -> Shape | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(not d.HasField("dim_value") for d in kind.shape.dim):
        return None
    return tuple(d.dim_value for d in kind.shape.dim)


def _dtype(code: int) -> np.dtype[np.generic]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(code))


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), 0)


def _conv(weight: int) -> Callable[[onnx.NodeProto, list[Shape], Shape], int]:
    return lambda node, inputs, output: math.prod(output) * math.prod(inputs[weight][1:])


def _transposed(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _gemm(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * inputs[0][0 if _attribute(node, "transA") else 1]


def _matmul(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * inputs[0][-1]


_MACS: dict[str, Callable[[onnx.NodeProto, list[Shape], Shape], int]] = {
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
}
