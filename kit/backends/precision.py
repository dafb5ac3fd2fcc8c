"""The precision of a network, and how it is quantized, as its graph states it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from kit.backends.onnxgraph import DTYPES, Graph, Node, Tensor
from kit.records import Precision

SHARE = 0.01  # of the weights: a type with less does not make a network mixed
_FLOATS: dict[str, Precision] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedMatMul", "FusedGemm"})
_DYNAMIC = frozenset(
    {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "ConvInteger", "MatMulInteger"}
)
_FOUR_BITS = ("int4", "uint4")


@dataclass(frozen=True)
class Formats:
    """``quantization`` is None for a graph of floats, else such as "static-qdq-u8s8". ``mixed`` says what is in two formats, with more
    than a hundredth of the weights in each; empty where nothing is."""

    precision: Precision
    quantization: str | None = None
    mixed: str = ""


def of(graph: Graph) -> Formats:
    """The precision of most weights: integers where a graph is quantized, else the float type of most; without weights that of its inputs.

    Raises ValueError, IndexError of a damaged file.
    """
    parts = list(graph.every())
    kinds = Counter(node.kind for part in parts for node in part.nodes)
    floats = _float_elements(parts)
    quantization = _quantization(parts, kinds)
    if quantization is not None:
        integers, left = _product_elements(parts)
        few = "int4" if quantization.endswith("int4") else "int8"
        return Formats("int4" if few == "int4" else "int8", quantization, _mixed({few: integers, "floats": left}))
    usual = [_FLOATS[v.dtype] for v in graph.inputs if v.dtype in _FLOATS]
    most = floats.most_common(1)[0][0] if floats else (usual or ["fp32"])[0]
    return Formats(most, None, _mixed(dict(floats)))


def _mixed(elements: Mapping[str, int] | Mapping[Precision, int]) -> str:
    total = sum(elements.values())
    parts = [f"{count / total:.0%} {name}" for name, count in elements.items() if count > SHARE * total]
    return f"weights: {', '.join(parts)}" if len(parts) > 1 else ""


def _float_elements(parts: list[Graph]) -> Counter[Precision]:
    """Stored float numbers by type; single numbers are settings, not weights."""
    counts: Counter[Precision] = Counter()
    for part in parts:
        for tensor in part.stored.values():
            name = _FLOATS.get(DTYPES.get(tensor.code, ""))
            if name is not None and tensor.size > 1:
                counts[name] += tensor.size
    return counts


def _quantization(parts: list[Graph], kinds: Counter[str]) -> str | None:
    if any(kind in _DYNAMIC for kind in kinds):
        return f"dynamic-{_signs(parts, 'DynamicQuantizeLinear', 'u8')}"
    if any(kind.startswith("QLinear") or kind in ("QGemm", "QAttention") for kind in kinds):
        return f"static-qoperator-{_signs(parts, 'QuantizeLinear', 'u8')}"
    if kinds["MatMulNBits"]:
        bits = {node.integer("bits", 4) for part in parts for node in part.nodes if node.kind == "MatMulNBits"}
        return f"weight-only-int{min(bits)}"
    if not kinds["DequantizeLinear"]:
        return None
    if any(
        node.kind == "QuantizeLinear" and node.inputs[0] not in part.stored
        for part in parts
        for node in part.nodes
        if node.inputs
    ):
        return f"static-qdq-{_signs(parts, 'QuantizeLinear', 'u8')}"
    four = any(DTYPES.get(t.code) in _FOUR_BITS for part in parts for t in _dequantized(part))
    return "weight-only-int4" if four else "weight-only-int8"


def _dequantized(part: Graph) -> list[Tensor]:
    first = [node.inputs[0] for node in part.nodes if node.kind == "DequantizeLinear" and node.inputs]
    return [part.stored[name] for name in first if name in part.stored]


def _signs(parts: list[Graph], quantizer: str, usual: str) -> str:
    """``u8s8``: the types of activations and weights."""
    names = {"uint8": "u8", "int8": "s8", "uint16": "u16", "int16": "s16", "int4": "s4", "uint4": "u4"}
    zero_points = [
        part.stored[node.inputs[2]].code
        for part in parts
        for node in part.nodes
        if node.kind == quantizer
        and len(node.inputs) > 2
        and node.inputs[2] in part.stored
        and node.inputs[0] not in part.stored
    ]
    codes = Counter(names.get(DTYPES.get(code, ""), usual) for code in zero_points)
    stored: Counter[str] = Counter()
    for part in parts:
        for tensor in part.stored.values():
            if tensor.size > 1 and (name := names.get(DTYPES.get(tensor.code, ""))):
                stored[name] += tensor.size
    activations = codes.most_common(1)[0][0] if codes else usual
    return activations + (stored.most_common(1)[0][0] if stored else "s8")


def _product_elements(parts: list[Graph]) -> tuple[int, int]:
    """Numbers that products and convolutions compute with: (as integers, as floats)."""
    integers = left = 0
    for part in parts:
        writers = {name: node for node in part.nodes for name in node.outputs}
        for node in part.nodes:
            if node.kind in _PRODUCTS:
                for name in node.inputs[1:2]:
                    tensor = part.stored.get(name)
                    left += tensor.size if tensor is not None else 0
                    integers += _behind(name, writers, part) if tensor is None else 0
            elif (
                node.kind.startswith(("QLinear", "QGemm"))
                or node.kind.endswith(("Integer", "NBits"))
                or node.kind in _DYNAMIC
            ):
                sizes = [part.stored[name].size for name in node.inputs if name in part.stored]
                integers += max(sizes, default=0)
    return integers, left


def _behind(name: str, writers: Mapping[str, Node], part: Graph) -> int:
    """The size of the stored weight that a dequantizer hands on as ``name``."""
    writer = writers.get(name)
    if writer is None or writer.kind != "DequantizeLinear" or not writer.inputs:
        return 0
    source = part.stored.get(writer.inputs[0])
    if source is not None:
        return source.size
    before = writers.get(writer.inputs[0])
    quantized = before.inputs[0] if before is not None and before.inputs else ""
    return part.stored[quantized].size if quantized in part.stored else 0
