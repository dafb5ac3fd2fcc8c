"""The number formats that a graph is stored and computed in: the precision that names it, how it was quantized, what is mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto, NodeProto, TensorProto

from kit.records import Precision
from kit.variants.graph import operators
from kit.variants.graph.macs import Workload
from kit.variants.graph.reading import all_graphs
from kit.variants.graph.shapes import Graph
from kit.variants.graph.weights import weights_of

#: A share below which a second format is not worth a word.
SHARE_MIN = 0.01
Float = Literal["fp64", "fp32", "fp16", "bf16"]
_FLOATS: dict[int, Float] = {
    TensorProto.DOUBLE: "fp64",
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
}
STATIC_QDQ, STATIC_QOPERATOR, DYNAMIC, WEIGHT_ONLY = "static-qdq", "static-qoperator", "dynamic", "weight-only-int"


@dataclass(frozen=True)
class Formats:
    """``precision`` is that of most multiply-accumulates where any are quantized, else of most weights. ``quantization`` is None for
    a graph of floats. ``mixed`` holds a sentence for each thing that is in two formats, with more than 1 % in each."""

    precision: Precision
    quantization: str | None = None
    mixed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Format:
    """Of one product; ``method`` is None for floats."""

    precision: Precision
    method: str | None = None


def precision_of(model: ModelProto, name: str = "the model") -> Formats:
    """The formats of a model of fixed shapes. Raises BadModel as kit.variants.graph.facts does.

    >>> precision_of(onnx.load("quantized.onnx"))
    Formats(precision='int8', quantization='static-qdq', mixed=())
    """
    return formats_of(Workload(Graph.of(model, name)))


def formats_of(workload: Workload) -> Formats:
    """The formats of a graph whose work is counted."""
    shares = _shares(_macs_by_format(workload))
    by_weights = _weights_by_float(workload.graph.source)
    mixed = tuple(filter(None, (_mixed_products(shares), _mixed_weights(by_weights))))
    quantized = {form: share for form, share in shares.items() if form.method}
    if sum(quantized.values()) > SHARE_MIN or (not shares and (quantized := _declared(workload.graph.source))):
        best = max(quantized, key=lambda form: quantized[form])
        return Formats(best.precision, best.method, mixed)
    plain: Float = max(by_weights, key=lambda kind: by_weights[kind], default="fp32")
    return Formats(plain, None, mixed)


def _shares(amounts: Counter[_Format]) -> dict[_Format, float]:
    total = sum(amounts.values())
    return {key: amount / total for key, amount in amounts.items()} if total else {}


def _mixed_products(shares: dict[_Format, float]) -> str:
    """A sentence where floats and integers, or two kinds of integers, each have a share that counts."""
    by_precision: dict[str, float] = {}
    for form, share in shares.items():
        name = form.precision if form.method else "floats"
        by_precision[name] = by_precision.get(name, 0.0) + share
    return _sentence(by_precision, "multiply-accumulates")


def _mixed_weights(counts: dict[Float, int]) -> str:
    total = sum(counts.values())
    return _sentence({key: count / total for key, count in counts.items()}, "float weights")


def _sentence(shares: Mapping[str, float] | Mapping[Float, float], what: str) -> str:
    counting = sorted(((s, name) for name, s in shares.items() if s > SHARE_MIN), reverse=True)
    parts = [f"{share:.0%} {name}" for share, name in counting]
    return f"{what}: {', '.join(parts)}" if len(parts) > 1 else ""


def _weights_by_float(model: ModelProto) -> dict[Float, int]:
    counts = Counter[Float]()
    for weight in weights_of(model.graph):
        if weight.code in _FLOATS:
            counts[_FLOATS[weight.code]] += weight.size
    return dict(counts)


def _declared(model: ModelProto) -> dict[_Format, float]:
    """What a graph without any counted product says by its operators alone."""
    kinds = {node.op_type for graph in all_graphs(model.graph) for node in graph.node}
    if not kinds & (operators.QUANTIZED | operators.FEW_BITS):
        return {}
    if few := kinds & operators.FEW_BITS:
        return {_Format("int4", f"{WEIGHT_ONLY}4"): float(len(few))}
    if kinds & (operators.DYNAMIC_INTEGER | {"DynamicQuantizeLinear"}):
        return {_Format("int8", DYNAMIC): 1.0}
    return {_Format("int8", STATIC_QOPERATOR if kinds & operators.INTEGER_PRODUCTS else STATIC_QDQ): 1.0}


def _macs_by_format(workload: Workload) -> Counter[_Format]:
    amounts = Counter[_Format]()
    for index, work in enumerate(workload.works):
        for body, times in work.bodies:
            for form, amount in _macs_by_format(body).items():
                amounts[form] += amount * times
        if work.products:
            amounts[_format(workload.graph, index, work.products[0].right)] += sum(p.macs for p in work.products)
    return +amounts


def _format(graph: Graph, index: int, right: str) -> _Format:
    node = graph.nodes[index]
    if node.op_type in operators.FEW_BITS:
        return _weight_only(operators.integer(node, "bits", 4))
    if node.op_type in operators.DYNAMIC_INTEGER:
        return _Format("int8", DYNAMIC)
    if node.op_type in operators.INTEGER_PRODUCTS or node.op_type.startswith("QLinear"):
        return _Format("int8", DYNAMIC if _reads_dynamic(graph, node) else STATIC_QOPERATOR)
    if graph.links.reads_quantized(index):
        return _Format("int8", DYNAMIC if _reads_dynamic(graph, node) else STATIC_QDQ)
    bits = graph.links.stored_bits(right) if right else None
    return _weight_only(bits) if bits else _Format(_float_of(graph, node))


def _weight_only(bits: int) -> _Format:
    return _Format("int4" if bits <= 4 else "int8", f"{WEIGHT_ONLY}{bits}")


def _reads_dynamic(graph: Graph, node: NodeProto) -> bool:
    """Whether the first input was quantized with a range of its own run, a dequantizer between or not."""
    name = node.input[0]
    while (index := graph.links.producer.get(name)) is not None:
        before = graph.nodes[index]
        if before.op_type not in operators.VIEWS:
            return before.op_type == "DynamicQuantizeLinear"
        name = before.input[0] if before.input else ""
    return False


def _float_of(graph: Graph, node: NodeProto) -> Float:
    codes = (graph.types.get(name, 0) for name in (*node.output, *node.input))
    return next((_FLOATS[code] for code in codes if code in _FLOATS), "fp32")
