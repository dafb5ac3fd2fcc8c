"""What an ONNX file contains: tensors, multiply-accumulates, parameters, bytes. Also for networks that kit did not make.

Counted operators are Conv, ConvTranspose, Gemm, MatMul and their integer forms, over the shape-inferred graph, so that a
quantized graph counts like the float graph it came from. 1 MAC = 2 FLOP; additions of a bias, normalizations, activations and
softmax are not counted (torch's flop counter does the same; thop counts batch norm too, which an exported graph has folded).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, inliner, shape_inference

from kit.backends import onnxdata
from kit.errors import BadModel
from kit.records import Kernel, Precision, TensorSpec
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
# Multiply-accumulates that this file cannot see; with one of them the sum would be wrong.
_UNCOUNTED = {"Einsum", "Attention", "LSTM", "GRU", "RNN", "Scan", "Loop", "If", "DeformConv"}
_STANDARD = {"", "ai.onnx"}


@dataclass(frozen=True)
class Facts:
    """``macs`` and ``activation_bytes`` are None where the graph does not determine them (custom operators, loops, unknown shapes)."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Precision
    macs: int | None
    parameters: int
    weight_bytes: int
    activation_bytes: int | None


def load(path: Path) -> onnx.ModelProto:
    """The model of a self-contained ONNX file. Raises UsageError (missing), BadModel (no ONNX, weights elsewhere)."""
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
    onnxdata.refuse_external(data, str(path))
    return model


def facts(model: onnx.ModelProto, name: str) -> Facts:
    """Everything that the graph states. ``name`` is what errors call it. Raises BadModel: dynamic shapes or a broken graph."""
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


def kernels(model: onnx.ModelProto, name: str) -> tuple[Kernel, ...] | None:
    """The work of a graph as a runtime runs it: convolutions and products with what is fused to them, and the lighter operators between.

    Fusion follows onnxruntime on a CPU: batch norm, bias, activation and residual addition into the convolution before them, bias
    into a product, the parts of GELU and layer norm into one, quantizers into the int8 operators next to them. None where
    the graph does not state its shapes or holds operators that cannot be counted. Raises BadModel as :func:`facts` does.
    """
    graph = _Graph(model, name)
    return None if graph.macs() is None else _Fusion(graph).kernels()


def distinct(kernels: tuple[Kernel, ...] | None) -> tuple[Kernel, ...] | None:
    """Equal kernels as one with their count, in the order of the first of each: what a sidecar keeps, a few kB for any network."""
    if kernels is None:
        return None
    counts: dict[Kernel, int] = {}
    for kernel in kernels:
        one = kernel.model_copy(update={"count": 1})
        counts[one] = counts.get(one, 0) + kernel.count
    return tuple(one.model_copy(update={"count": count}) for one, count in counts.items())


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
        inlined = inliner.inline_local_functions(model) if model.functions else model
        self.inputs = _true_inputs(inlined)
        self._refuse_dynamic(self.inputs)
        try:
            self.model = shape_inference.infer_shapes(inlined, data_prop=True)
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
            raise BadModel(f"{self.name} does not state the shape of '{name}': export it with fixed shapes.")
        return TensorSpec(name=name, shape=self.shapes[name], dtype=str(_dtype(self.types[name])))

    def precision(self) -> Precision:
        if any(node.op_type in _QUANTIZED for node in self.nodes):
            return "int8"
        sizes = {t: sum(w.nbytes for w in self.weights() if w.dtype == t) for t in {w.dtype for w in self.weights()}}
        most = str(max(sizes, key=lambda t: sizes[t], default="float32"))
        return "fp16" if most == "float16" else "bf16" if most == "bfloat16" else "fp32"

    def weights(self) -> list[_Weight]:
        """The stored numbers that the network computes with; scales, zero points, axes and shapes are not among them."""
        excluded = {name for node in self.nodes for name in _settings_of(node)}
        tensors = [t for key, t in self.constants.items() if key not in excluded and t.data_type != TensorProto.INT64]
        return [_Weight(math.prod(t.dims), _dtype(t.data_type)) for t in tensors]

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


# -------------------------------------------------------------------------------------------------------------------- kernels

_ACTIVATIONS = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid"}
_LIGHT: dict[str, str] = {
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"), "pool"),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceSum", "QLinearAveragePool", "QLinearGlobalAveragePool"), "pool"),
    **dict.fromkeys(("Add", "Sub", "Sum", "QLinearAdd"), "add"),
    **dict.fromkeys(
        ("LayerNormalization", "GroupNormalization", "InstanceNormalization", "BatchNormalization"), "norm"
    ),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization"), "norm"),
    **dict.fromkeys(("Softmax", "LogSoftmax"), "softmax"),
    **dict.fromkeys(("Transpose", "Concat", "Slice", "Gather", "Pad", "Resize", "Split", "Expand", "Tile"), "move"),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth", "QLinearConcat", "Cast"), "move"),
}
_PARTS = {"Add", "Mul", "Div", "Sub", "Pow", "Sqrt", "Erf", "ReduceMean", "Reciprocal"}
_ANCHORS = {
    "Erf": "elementwise",
    "Sqrt": "norm",
}  # what GELU and layer norm are recognised by where they are decomposed
_INTEGER = {"ConvInteger", "MatMulInteger"}
_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


class _Fusion:
    """Walks the nodes of a graph in order; each either starts a kernel or is fused into an earlier one."""

    def __init__(self, graph: _Graph) -> None:
        self.graph, self.nodes = graph, graph.nodes
        self.producer = {out: i for i, node in enumerate(self.nodes) for out in node.output if out}
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(i)
        self.results = {value.name for value in graph.model.graph.output}
        self.fixed = set(graph.constants)
        for node in self.nodes:  # what is computed from constants alone is computed once
            if all(name in self.fixed for name in node.input if name):
                self.fixed |= set(node.output)
        self.assigned: set[int] = set()
        self.regions: dict[int, str] = {}  # last node of each decomposed function -> kind of its kernel
        self.members: dict[int, set[int]] = {}

    def kernels(self) -> tuple[Kernel, ...]:
        for i, node in enumerate(self.nodes):
            if i not in self.assigned and node.op_type in _ANCHORS:
                self._match_decomposed(i)
        return tuple(kernel for i in range(len(self.nodes)) if (kernel := self._weighted_kernel(i)) is not None)

    def _weighted_kernel(self, index: int) -> Kernel | None:
        """The kernel that begins (a decomposed function: ends) at a node, with the stored numbers that its nodes read."""
        before = set(self.assigned)
        kernel = self._kernel(index)
        if kernel is None:
            return None
        nodes = [self.nodes[i] for i in self.members.get(index, {index} | self.assigned - before)]
        weight_bytes = sum(self._stored_bytes(name) for node in nodes for name in self._weights_of(node))
        if any(node.op_type == "Gather" and node.input[0] in self.fixed for node in nodes):
            weight_bytes += kernel.written_bytes  # rows of a stored table: what is written is what is read of it
        return kernel.model_copy(update={"weight_bytes": weight_bytes})

    def _weights_of(self, node: onnx.NodeProto) -> list[str]:
        if node.op_type == "Gather":
            return []
        settings = _settings_of(node)
        return [name for name in node.input if name in self.fixed and name not in settings]

    def _stored_bytes(self, name: str) -> int:
        """Of a constant as the file holds it, or of what it is computed from; a single number and a shape count nothing."""
        if name in self.graph.constants:
            stored = self.graph.constants[name]
            size = math.prod(stored.dims)
            return 0 if size == 1 or stored.data_type == TensorProto.INT64 else size * _dtype(stored.data_type).itemsize
        if name not in self.producer:
            return 0
        node = self.nodes[self.producer[name]]
        if node.op_type == "QuantizeLinear":  # a weight that the file holds in float: the runtime keeps its integers
            return math.prod(self.graph.shapes.get(name, ()))
        return sum(self._stored_bytes(source) for source in self._weights_of(node))

    def _kernel(self, index: int) -> Kernel | None:
        node = self.nodes[index]
        if index in self.regions:
            return self._light_kernel(self.regions[index], node.output[0], self._region_inputs(index), False)
        if index in self.assigned or node.output[0] in self.fixed or self._is_free(index):
            return None
        self.assigned.add(index)
        if node.op_type in _MACS:
            return self._product_kernel(index)
        integers = node.op_type in _QUANTIZERS or self._is_int8(index)
        last = self._through_quantizer(node.output[0]) if self._is_int8(index) else node.output[0]
        return self._light_kernel(
            _LIGHT.get(node.op_type, "elementwise"),
            last,
            [n for n in node.input if n not in self.fixed],
            integers,
            node,
        )

    def _is_free(self, index: int) -> bool:
        """Views cost nothing; a dequantizer nothing where every reader works on the integers itself."""
        node = self.nodes[index]
        if node.op_type == "DequantizeLinear":
            out = node.output[0]
            return out not in self.results and all(
                self._is_int8(i) or self._view_to_int8(i) for i in self.readers.get(out, [])
            )
        return node.op_type in _VIEWS

    def _view_to_int8(self, index: int) -> bool:
        node = self.nodes[index]
        return node.op_type in _VIEWS | {"QuantizeLinear"}

    def _only_reader(self, name: str) -> int | None:
        readers = self.readers.get(name, [])
        return (
            readers[0] if len(readers) == 1 and name not in self.results and readers[0] not in self.assigned else None
        )

    def _is_int8(self, index: int) -> bool:
        """Whether a runtime runs this node on integers: its inputs are dequantized and its output is quantized again (a product
        needs only the first)."""
        node = self.nodes[index]
        if node.op_type.startswith("QLinear") or node.op_type in _INTEGER:
            return True
        inputs = [name for name in node.input if name and (name not in self.fixed or name in self.producer)]
        producers = [self.nodes[self.producer[name]].op_type if name in self.producer else "" for name in inputs]
        if not producers or node.op_type in _QUANTIZERS or any(kind != "DequantizeLinear" for kind in producers):
            return False
        return node.op_type in ("MatMul", "Gemm") or self._quantized_next(node.output[0])

    def _quantized_next(self, name: str) -> bool:
        readers = self.readers.get(name, [])
        if len(readers) != 1 or name in self.results:
            return False
        after = self.nodes[readers[0]]
        return after.op_type == "QuantizeLinear" or (
            after.op_type in ("Relu", "Clip") and self._quantized_next(after.output[0])
        )

    def _through_quantizer(self, name: str) -> str:
        """The last tensor when an activation and a quantizer after ``name`` are fused."""
        while (i := self._only_reader(name)) is not None and self.nodes[i].op_type in (
            "Relu",
            "Clip",
            "QuantizeLinear",
        ):
            self.assigned.add(i)
            name = self.nodes[i].output[0]
            if self.nodes[i].op_type == "QuantizeLinear":
                break
        return name

    # ---------------------------------------------------------------------------------------------- convolutions and products

    def _product_kernel(self, index: int) -> Kernel:
        node = self.nodes[index]
        int8 = self._is_int8(index)
        out, extra = self._fuse(index, node.output[0], int8)
        weight_at = 3 if node.op_type.startswith("QLinear") else 1
        left, right = node.input[0], node.input[weight_at]
        shapes = self.graph.shapes
        geometry = _geometry(node, shapes[left], shapes[right], shapes[node.output[0]], right in self.fixed)
        precision: Precision = "int8" if int8 else self._float_precision(node.output[0])
        size = {"int8": 1, "fp16": 2, "bf16": 2}.get(precision, 4)
        weights = math.prod(shapes[right])
        constant = right in self.fixed
        read = math.prod(shapes[left]) + (0 if constant else weights) + extra
        return Kernel(
            precision=precision,
            read_bytes=read * size,
            written_bytes=math.prod(shapes[node.output[0]]) * self._itemsize(out, size),
            **geometry,
        )

    def _fuse(self, index: int, out: str, int8: bool) -> tuple[str, int]:
        """(the last tensor of the fused kernel, elements that a residual addition reads besides)."""
        conv, integer, extra = "Conv" in self.nodes[index].op_type, self.nodes[index].op_type in _INTEGER, 0
        while (i := self._only_reader(out)) is not None:
            node = self.nodes[i]
            others = [name for name in node.input if name and name != out and name not in self.fixed]
            residual = conv and not int8 and not extra and self._adds_earlier(node, i, index, others, out)
            bias = node.op_type == "Add" and not others
            scaled = integer and node.op_type in ("Cast", "Mul")
            plain = conv and node.op_type == "BatchNormalization"
            active = node.op_type in _ACTIVATIONS and (conv or self.nodes[index].op_type == "Gemm" or int8)
            if not (residual or bias or scaled or plain or active or (int8 and node.op_type == "QuantizeLinear")):
                break
            extra += math.prod(self.graph.shapes[others[0]]) if residual else 0
            self.assigned.add(i)
            out = node.output[0]
            if node.op_type == "QuantizeLinear" or active:
                if active and int8:
                    continue
                break
        return out, extra

    def _adds_earlier(self, node: onnx.NodeProto, position: int, start: int, others: list[str], out: str) -> bool:
        """A residual addition of a tensor that was computed before, of the same shape."""
        if node.op_type != "Add" or len(others) != 1:
            return False
        same_shape = self.graph.shapes.get(others[0]) == self.graph.shapes.get(out) is not None
        return same_shape and self.producer.get(others[0], -1) < start < position

    # ----------------------------------------------------------------------------------------------------------- lighter ones

    def _light_kernel(
        self, kind: str, out: str, inputs: list[str], int8: bool, node: onnx.NodeProto | None = None
    ) -> Kernel | None:
        shapes = self.graph.shapes
        shape = shapes.get(out, ())
        precision: Precision = "int8" if int8 else self._float_precision(out)
        size = {"int8": 1, "fp16": 2, "bf16": 2}.get(precision, 4)
        last = kind in ("softmax", "norm", "move") or len(shape) < 3
        columns = (shape[-1] if last or len(shape) == 3 else shape[1]) if shape else 1
        first = shapes.get(inputs[0], ()) if inputs else ()
        window, stride = _window(node, first) if node is not None and kind == "pool" else ((1,), 1)
        return Kernel(
            kind=kind,
            precision=precision,
            rows=math.prod(shape) // max(columns, 1),
            inner=math.prod(window),
            columns=columns,
            size=window[-1],
            stride=stride,
            read_bytes=sum(math.prod(shapes.get(n, ())) * self._itemsize(n, size) for n in inputs),
            written_bytes=math.prod(shape) * self._itemsize(out, size),
        )

    def _itemsize(self, name: str, default: int) -> int:
        """Bytes of one element; an integer kernel reads the integers that a dequantizer before it would have expanded."""
        code = self.graph.types.get(name)
        return min(default, _dtype(code).itemsize) if code else default

    def _float_precision(self, name: str) -> Precision:
        code = self.graph.types.get(name)
        return "fp16" if code == TensorProto.FLOAT16 else "bf16" if code == TensorProto.BFLOAT16 else "fp32"

    # --------------------------------------------------------------------------------------------- GELU and layer norm, decomposed

    def _match_decomposed(self, anchor: int) -> None:
        region, waiting = {anchor}, [anchor]
        vectors = self.nodes[anchor].op_type == "Sqrt"
        while waiting:
            node = self.nodes[waiting.pop()]
            producers = [self.producer[name] for name in node.input if name in self.producer]
            readers = [i for name in node.output for i in self.readers.get(name, [])]
            for i in (*producers, *readers):
                if i not in region and i not in self.assigned and self._belongs(i, region, vectors and i in readers):
                    region.add(i)
                    waiting.append(i)
        if len(region) > 2:
            self.assigned |= region
            self.regions[max(region)] = _ANCHORS[self.nodes[anchor].op_type]
            self.members[max(region)] = region

    def _belongs(self, index: int, region: set[int], vectors: bool) -> bool:
        node = self.nodes[index]
        if node.op_type not in _PARTS or node.output[0] in self.fixed:
            return False
        moving = [name for name in node.input if name and name not in self.fixed]
        scalars = all(math.prod(self.graph.shapes.get(n, (2,))) == 1 for n in node.input if n in self.fixed and n)
        if len(moving) == 1:
            return scalars or vectors or node.op_type == "ReduceMean"
        inside = [name for name in moving if self.producer.get(name) in region]
        entering = {name for i in region for name in self.nodes[i].input}
        return bool(inside) and all(name in entering or name in inside for name in moving)

    def _region_inputs(self, last: int) -> list[str]:
        """The tensors that a decomposed function reads from outside."""
        region = self.members[last]
        names = dict.fromkeys(n for i in sorted(region) for n in self.nodes[i].input if n and n not in self.fixed)
        return [n for n in names if self.producer.get(n) not in region]


def _geometry(node: onnx.NodeProto, left: Shape, right: Shape, out: Shape, constant: bool) -> dict[str, Any]:
    """kind, rows, inner, columns, groups, size, stride of a convolution or product; their product is its multiply-accumulates."""
    if "Conv" not in node.op_type:
        inner = left[0 if _attribute(node, "transA") else -1] if node.op_type == "Gemm" else left[-1]
        if constant:
            return {"kind": "linear", "rows": math.prod(out[:-1]), "inner": inner, "columns": out[-1]}
        return {"kind": "matmul", "rows": out[-2], "inner": inner, "columns": out[-1], "groups": math.prod(out[:-2])}
    groups = _attribute(node, "group") or 1
    window = right[2:]
    common = {"groups": groups, "size": max(window), "stride": _strides(node)}
    if node.op_type == "ConvTranspose":
        rows = left[0] * math.prod(left[2:])
        columns = right[1] * math.prod(window)
        return {"kind": "conv", "rows": rows, "inner": left[1] // groups, "columns": columns, **common}
    kind = "depthwise" if groups > 1 and right[1] == 1 else "pointwise" if math.prod(window) == 1 else "conv"
    rows = out[0] * math.prod(out[2:])
    return {"kind": kind, "rows": rows, "inner": math.prod(right[1:]), "columns": out[1] // groups, **common}


def _strides(node: onnx.NodeProto) -> int:
    return next((int(a.ints[0]) for a in node.attribute if a.name == "strides" and a.ints), 1)


def _window(node: onnx.NodeProto, input_shape: Shape) -> tuple[Shape, int]:
    """(window, stride) of a pool; a global one takes all positions."""
    kernel = next((tuple(a.ints) for a in node.attribute if a.name == "kernel_shape"), None)
    return (kernel or input_shape[2:] or (1,), _strides(node))
