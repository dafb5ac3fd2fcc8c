"""The products that an operator computes: rows x inner x columns, as often as there are groups. From names and shapes alone.

1 MAC = 2 FLOP; additions of a bias, scales and activations are no multiply-accumulates. An operator without an entry in
:data:`PRODUCTS` multiplies nothing, or is unknown: kit.variants.graph.operators says which.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from onnx import NodeProto

from kit.variants.graph.operators import LAYOUTS, MICROSOFT, STANDARD, integer, integers

Shape = tuple[int, ...]
Kind = Literal["conv", "pointwise", "depthwise", "linear", "matmul"]


class UnknownExtent(Exception):
    """A product whose extents the graph does not state."""


class Tensors(Protocol):
    """What is known of the tensors of a graph."""

    def shape(self, name: str) -> Shape:
        """The shape of a tensor. Raises UnknownExtent."""
        ...

    def is_fixed(self, name: str) -> bool:
        """Whether a tensor is stored, or computed from stored ones alone."""
        ...

    def whole_number(self, name: str) -> int | None:
        """The value of a tensor of one number that every run computes alike; else None."""
        ...


@dataclass(frozen=True)
class Product:
    """``rows x inner x columns`` multiply-accumulates in each of ``groups``, ``count`` times one after the other.

    ``left`` and ``right`` are the tensors that it multiplies, "" where it makes one itself. ``size`` and ``stride`` are a
    convolution's window and step, in pixels along one side.
    """

    kind: Kind
    rows: int
    inner: int
    columns: int
    groups: int = 1
    size: int = 1
    stride: int = 1
    count: int = 1
    left: str = ""
    right: str = ""

    @property
    def macs(self) -> int:
        """Of all ``count``."""
        return self.rows * self.inner * self.columns * self.groups * self.count


Count = Callable[[NodeProto, Tensors], tuple[Product, ...]]


def products_of(node: NodeProto, tensors: Tensors) -> tuple[Product, ...] | None:
    """What ``node`` multiplies; None for an operator without an entry here. Raises UnknownExtent where shapes are missing."""
    count = PRODUCTS.get((_family(node.domain), node.op_type))
    if count is None:
        return None
    try:
        return count(node, tensors)
    except (IndexError, ValueError, ZeroDivisionError):  # shapes that the operator does not take
        raise UnknownExtent(node.op_type) from None


def is_product(node: NodeProto) -> bool:
    """Whether ``node`` is an operator whose products kit can count."""
    return (_family(node.domain), node.op_type) in PRODUCTS


def _family(domain: str) -> str:
    return "" if domain in STANDARD or domain in LAYOUTS else domain


def product(out: Shape, *, inner: int, constant: bool) -> Product:
    """A matrix product with a result of two dimensions or more; its right operand is a weight where it is ``constant``."""
    if constant:
        return Product("linear", math.prod(out[:-1]), inner, out[-1])
    return Product("matmul", out[-2], inner, out[-1], math.prod(out[:-2]))


def _at(node: NodeProto, index: int) -> str:
    """The name of an input, empty where the node has none."""
    return node.input[index] if index < len(node.input) else ""


# --------------------------------------------------------------------------------------------------------------- convolutions


def _convolution(weight: int) -> Count:
    def count(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
        left, right = node.input[0], node.input[weight]
        window, out = tensors.shape(right), tensors.shape(node.output[0])
        groups = integer(node, "group", 1) or 1
        kind: Kind = (
            "depthwise" if groups > 1 and window[1] == 1 else "pointwise" if math.prod(window[2:]) == 1 else "conv"
        )
        channels = out[-1] if _channels_last(node) else out[1]
        rows, inner, columns = math.prod(out) // max(channels, 1), math.prod(window[1:]), channels // groups
        if channels % groups:  # no convolution, but its extents say how much it would multiply
            groups, columns = 1, channels
        size = max(window[2:], default=1)
        return (Product(kind, rows, inner, columns, groups, size, _stride(node), 1, left, right),)

    return count


def _channels_last(node: NodeProto) -> bool:
    return (
        node.domain == "com.ms.internal.nhwc"
        or node.op_type.startswith("Nhwc")
        or (node.domain == MICROSOFT and node.op_type == "QLinearConv" and integer(node, "channels_last") == 1)
    )


def _transposed(weight: int) -> Count:
    def count(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
        left, right = node.input[0], node.input[weight]
        image, window = tensors.shape(left), tensors.shape(right)
        groups = integer(node, "group", 1) or 1
        channels = image[-1] if _channels_last(node) else image[1]
        rows, columns = math.prod(image) // max(channels, 1), math.prod(window[1:])
        size = max(window[2:], default=1)
        return (Product("conv", rows, channels // groups, columns, groups, size, _stride(node), 1, left, right),)

    return count


def _stride(node: NodeProto) -> int:
    return (integers(node, "strides") or (1,))[0]


# ------------------------------------------------------------------------------------------------------------- matrix products


def _gemm(weight: int) -> Count:
    def count(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
        left, right = node.input[0], node.input[weight]
        first, out = tensors.shape(left), tensors.shape(node.output[0])
        inner = first[0 if integer(node, "transA") else 1]
        plain = product(out, inner=inner, constant=tensors.is_fixed(right))
        return (replace(plain, left=left, right=right),)

    return count


def _matmul(weight: int) -> Count:
    """A vector on the left is one row, on the right one column; the result then lacks that dimension."""

    def count(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
        left, right = node.input[0], node.input[weight]
        first, second, out = tensors.shape(left), tensors.shape(right), tensors.shape(node.output[0])
        if len(second) == 1:
            out = (*out, 1)
        if len(first) == 1:
            out = (*out[:-1], 1, out[-1])
        inner = first[_contracted(node, len(first))]
        plain = product(out, inner=inner, constant=tensors.is_fixed(right))
        return (replace(plain, left=left, right=right),)

    return count


def _contracted(node: NodeProto, rank: int) -> int:
    """The dimension of the left operand that is summed over: the last, unless it is transposed."""
    if rank < 2 or not integer(node, "transA"):
        return -1
    return 0 if integer(node, "transBatchA") else -2


def _few_bits(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
    left, inner, columns = node.input[0], integer(node, "K"), integer(node, "N")
    if not inner or not columns:
        raise UnknownExtent(node.op_type)
    rows = math.prod(tensors.shape(left)) // inner
    return (Product("linear", rows, inner, columns, left=left, right=node.input[1]),)


def _affine_grid(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
    theta, out = tensors.shape(node.input[0]), tensors.shape(node.output[0])
    return (
        Product("matmul", math.prod(out[1:-1]), theta[-1], theta[-2], out[0], left=node.output[0], right=node.input[0]),
    )


def _linear_of_ml(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
    """A linear classifier or regressor: features times classes or targets, for each row.

    onnxruntime computes as many classes as there are intercepts, also where the file holds coefficients of further features.
    """
    shape = tensors.shape(node.input[0])
    features = shape[-1]
    lengths = {a.name: len(a.floats) for a in node.attribute}
    results = lengths.get("coefficients", 0) // features
    if classes := lengths.get("intercepts", 0) if node.op_type == "LinearClassifier" else integer(node, "targets", 1):
        results = min(results, classes)
    return (Product("linear", math.prod(shape[:-1]), features, results, left=node.input[0]),)


# --------------------------------------------------------------------------------------------------------------- recurrent nets


def _recurrent(transposed: bool) -> Count:
    """The product of all steps with the input's weights, and one a step with the state's; peepholes are elementwise."""

    def count(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
        x, weights, recurrence = (tensors.shape(node.input[i]) for i in range(3))
        if not len(x) == len(weights) == len(recurrence) == 3:
            raise UnknownExtent(node.op_type)
        steps, batch = (x[1], x[0]) if integer(node, "layout") else (x[0], x[1])
        features, gates = (weights[1], weights[2]) if transposed else (weights[2], weights[1])
        hidden = recurrence[1 if transposed else 2]
        directions = weights[0]
        of_input = Product(
            "linear", steps * batch, features, gates, directions, left=node.input[0], right=node.input[1]
        )
        of_state = Product("linear", batch, hidden, gates, directions, count=steps, right=node.input[2])
        return (of_input, of_state)

    return count


# ------------------------------------------------------------------------------------------------------------------- attention


def _attention_products(
    batch: int, heads: int, queries: int, keys: int, depth: int, value_depth: int
) -> tuple[Product, ...]:
    """Queries with keys, and their weights with the values; a causal mask computes as much."""
    groups = batch * heads
    return (
        Product("matmul", queries, depth, keys, groups),
        Product("matmul", queries, keys, value_depth, groups),
    )


def _attention(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
    """Attention of the standard: four dimensions (batch, heads, tokens, depth), or three with the heads as attributes."""
    query, key, value = (tensors.shape(node.input[i]) for i in range(3))
    earlier = tensors.shape(node.input[4])[2] if _at(node, 4) else 0
    if len(query) == 4:
        batch, heads, queries, depth = query
        return _attention_products(batch, heads, queries, earlier + key[2], depth, value[3])
    heads, stored = integer(node, "q_num_heads"), integer(node, "kv_num_heads")
    batch, queries, hidden = query
    return _attention_products(batch, heads, queries, earlier + key[1], hidden // heads, value[2] // stored)


def _attention_with_weights(past: int) -> Count:
    """Attention and QAttention of com.microsoft: the three projections are inside. ``past`` is the input with earlier keys."""

    def count(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
        if integer(node, "past_present_share_buffer"):
            raise UnknownExtent("keys in a buffer of their own length")
        (batch, queries, features), columns = tensors.shape(node.input[0]), tensors.shape(node.input[1])[1]
        sizes = integers(node, "qkv_hidden_sizes") or (columns // 3,) * 3
        heads = integer(node, "num_heads")
        keys = queries + (tensors.shape(node.input[past])[3] if _at(node, past) else 0)
        projections = Product("linear", batch * queries, features, columns, left=node.input[0], right=node.input[1])
        return (
            projections,
            *_attention_products(batch, heads, queries, keys, sizes[0] // heads, sizes[2] // heads),
        )

    return count


def _multi_head(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
    """MultiHeadAttention of com.microsoft: queries, keys and values apart (3), packed (5), or keys laid out by heads (4)."""
    heads, query = integer(node, "num_heads"), tensors.shape(node.input[0])
    if _at(node, 8):
        raise UnknownExtent("keys in a buffer of their own length")
    earlier = tensors.shape(node.input[6])[2] if _at(node, 6) else 0
    if len(query) == 5:  # batch, tokens, heads, 3, depth
        batch, queries, depth = query[0], query[1], query[4]
        return _attention_products(batch, heads, queries, earlier + queries, depth, depth)
    batch, queries, hidden = query
    key = tensors.shape(node.input[1])
    if len(key) == 5:  # batch, tokens, heads, 2, depth
        return _attention_products(batch, heads, queries, earlier + key[1], hidden // heads, key[4])
    value = tensors.shape(node.input[2])
    keys, value_depth = (key[2], value[3]) if len(key) == 4 else (key[1], value[2] // heads)
    return _attention_products(batch, heads, queries, earlier + keys, hidden // heads, value_depth)


def _grouped_query(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
    """GroupQueryAttention of com.microsoft. Without a constant length of all tokens, all earlier keys count as used."""
    heads, stored = integer(node, "num_heads"), integer(node, "kv_num_heads")
    batch, queries, hidden = tensors.shape(node.input[0])
    depth = hidden // heads if _at(node, 1) else hidden // (heads + 2 * stored)
    keys = tensors.whole_number(_at(node, 6))
    if keys is None:
        keys = queries + (tensors.shape(node.input[3])[2] if _at(node, 3) else 0)
    return _attention_products(batch, heads, queries, keys, depth, depth)


# ------------------------------------------------------------------------------------------------------------------------ table


def _einsum(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
    from kit.variants.graph.einsum import contractions

    return contractions(node, tensors)


PRODUCTS: dict[tuple[str, str], Count] = {
    **dict.fromkeys(((d, n) for d in ("", MICROSOFT) for n in ("Conv", "ConvInteger", "FusedConv")), _convolution(1)),
    **dict.fromkeys([("", "DeformConv"), (MICROSOFT, "NhwcConv"), (MICROSOFT, "NhwcFusedConv")], _convolution(1)),
    **dict.fromkeys([("", "QLinearConv"), (MICROSOFT, "QLinearConv")], _convolution(3)),
    **dict.fromkeys([("", "ConvTranspose"), (MICROSOFT, "ConvTransposeWithDynamicPads")], _transposed(1)),
    ("", "QLinearConvTranspose"): _transposed(3),
    **dict.fromkeys([("", "Gemm"), (MICROSOFT, "FusedGemm")], _gemm(1)),
    (MICROSOFT, "QGemm"): _gemm(3),
    **dict.fromkeys([("", "MatMul"), ("", "MatMulInteger")], _matmul(1)),
    **dict.fromkeys(
        (
            (MICROSOFT, name)
            for name in (
                "FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "GemmFastGelu", "MatMulInteger16",
                "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
            )
        ),
        _matmul(1),
    ),
    **dict.fromkeys([("", "QLinearMatMul"), (MICROSOFT, "QLinearMatMul")], _matmul(3)),
    **dict.fromkeys([(MICROSOFT, "MatMulNBits"), (MICROSOFT, "MatMulBnb4")], _few_bits),
    **dict.fromkeys([("", "LSTM"), ("", "GRU"), ("", "RNN")], _recurrent(transposed=False)),
    (MICROSOFT, "DynamicQuantizeLSTM"): _recurrent(transposed=True),
    ("", "Attention"): _attention,
    (MICROSOFT, "Attention"): _attention_with_weights(4),
    (MICROSOFT, "QAttention"): _attention_with_weights(8),
    (MICROSOFT, "MultiHeadAttention"): _multi_head,
    (MICROSOFT, "GroupQueryAttention"): _grouped_query,
    ("", "Einsum"): _einsum,
    ("", "AffineGrid"): _affine_grid,
    **dict.fromkeys([("ai.onnx.ml", "LinearClassifier"), ("ai.onnx.ml", "LinearRegressor")], _linear_of_ml),
}  # fmt: skip
