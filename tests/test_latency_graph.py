"""The kernels of ONNX graphs: fused as onnxruntime fuses them, and their multiply-accumulates those of the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from kit import spaces, store  # noqa: E402
from kit.records import Artifact, Kernel, Precision  # noqa: E402
from kit.variants import describe, graph, network_files, quantize  # noqa: E402


def parsed(body: str, inputs: str = "float[1,8,16,16] x", outputs: str = "float[1,8,16,16] y") -> onnx.ModelProto:
    text = f'<ir_version: 9, opset_import: ["" : 18]>\ng ({inputs}) => ({outputs}) {{ {body} }}'
    return onnx.parser.parse_model(text)


def listed(model: onnx.ModelProto) -> tuple[Kernel, ...]:
    listing = graph.kernels(model, "g")
    assert listing is not None
    assert sum(k.macs * k.count for k in listing) == graph.facts(model, "g").macs
    return listing


def with_weights(body: str, **more: str) -> onnx.ModelProto:
    """``w`` (8x8x3x3), ``u`` (8x8x1x1), ``d`` (8x1x3x3) and ``b`` (8) are constants of zeros."""
    model = parsed(body, **more)
    shapes = {"w": (8, 8, 3, 3), "u": (8, 8, 1, 1), "d": (8, 1, 3, 3), "b": (8,), "m": (16, 32), "c": (32,)}
    outputs = {name for node in model.graph.node for name in node.output}
    used = {name for node in model.graph.node for name in node.input} - outputs
    for name in sorted(used & set(shapes)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shapes[name], dtype=np.float32), name))
    scalars = {
        "one": np.float32(1),
        "half": np.float32(0.5),
        "root": np.float32(1.414),
        "zero": np.uint8(128),
        "s": np.float32(0.1),
    }
    for name in sorted(used & set(scalars)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(scalars[name]), name))
    return model


def test_a_residual_block_is_two_convolutions() -> None:
    body = """
        a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w, b)
        n = BatchNormalization(a, b, b, b, b)
        r = Relu(n)
        c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, w)
        s = Add(c, x)
        y = Relu(s)
    """
    kernels = listed(with_weights(body))
    assert [k.kind for k in kernels] == ["conv", "conv"]
    assert (kernels[0].rows, kernels[0].inner, kernels[0].columns, kernels[0].size) == (256, 72, 8, 3)
    assert kernels[0].weight_bytes == (8 * 8 * 9 + 5 * 8) * 4 and kernels[0].written_bytes == 8 * 256 * 4
    assert kernels[1].read_bytes == 2 * kernels[0].read_bytes == 2 * 8 * 256 * 4


def test_a_branch_that_comes_later_takes_the_addition() -> None:
    body = """
        a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w)
        c = Conv(x, u)
        s = Add(a, c)
        y = Relu(s)
    """
    first, second = listed(with_weights(body))
    assert (first.kind, second.kind) == ("conv", "pointwise") and second.read_bytes == 2 * first.read_bytes


def test_depthwise_pools_and_gates_stand_as_they_are() -> None:
    body = """
        a = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=8, strides=[2,2]>(x, d)
        g = Sigmoid(a)
        h = Mul(a, g)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h)
        y = GlobalAveragePool(p)
    """
    kernels = listed(with_weights(body, outputs="float[1,8,1,1] y"))
    assert [k.kind for k in kernels] == ["depthwise", "elementwise", "elementwise", "pool", "pool"]
    assert (kernels[0].groups, kernels[0].columns, kernels[0].stride, kernels[0].inner) == (8, 1, 2, 9)
    assert (kernels[3].size, kernels[3].stride, kernels[3].inner) == (2, 2, 4) and (
        kernels[4].inner,
        kernels[4].rows,
    ) == (16, 1)


def test_gelu_spelt_out_is_one_kernel_and_a_bias_none() -> None:
    body = """
        p = MatMul(x, m)
        q = Add(p, c)
        d = Div(q, root)
        e = Erf(d)
        f = Add(e, one)
        g = Mul(q, f)
        y = Mul(g, half)
    """
    kernels = listed(with_weights(body, inputs="float[1,4,16] x", outputs="float[1,4,32] y"))
    assert [k.kind for k in kernels] == ["linear", "elementwise"]
    assert (kernels[0].rows, kernels[0].inner, kernels[0].columns) == (4, 16, 32)
    assert (kernels[1].rows, kernels[1].columns) == (4, 32) and kernels[1].read_bytes == kernels[
        1
    ].written_bytes == 4 * 32 * 4


def test_attention_products_are_kernels_without_weights() -> None:
    body = "k = Transpose<perm=[0,1,3,2]>(x) s = MatMul(x, k) p = Softmax(s) y = MatMul(p, x)"
    shape = "float[1,3,10,16]"
    kernels = listed(with_weights(body, inputs=f"{shape} x", outputs=f"{shape} y"))
    assert [k.kind for k in kernels] == ["move", "matmul", "softmax", "matmul"]
    assert (kernels[1].groups, kernels[1].rows, kernels[1].inner, kernels[1].columns) == (3, 10, 16, 10)
    assert kernels[1].weight_bytes == 0 and kernels[1].read_bytes == 2 * 3 * 160 * 4


def test_quantized_operators_swallow_their_quantizers() -> None:
    body = """
        xq = QuantizeLinear(x, s, zero)
        xf = DequantizeLinear(xq, s, zero)
        wq = QuantizeLinear(w, s, zero)
        wf = DequantizeLinear(wq, s, zero)
        a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(xf, wf)
        r = Relu(a)
        aq = QuantizeLinear(r, s, zero)
        af = DequantizeLinear(aq, s, zero)
        t = Add(af, xf)
        tq = QuantizeLinear(t, s, zero)
        tf = DequantizeLinear(tq, s, zero)
        y = Softmax(tf)
    """
    kernels = listed(with_weights(body))
    assert [(k.kind, k.precision) for k in kernels] == [
        ("elementwise", "int8"), ("conv", "int8"), ("add", "int8"), ("elementwise", "int8"), ("softmax", "fp32"),
    ]  # fmt: skip
    conv, addition = kernels[1], kernels[2]
    assert conv.weight_bytes == 8 * 8 * 9 and conv.read_bytes == conv.written_bytes == 8 * 256
    assert addition.read_bytes == 2 * 8 * 256 and addition.written_bytes == 8 * 256


def test_exported_and_quantized_networks(tmp_path: Path) -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(512, 10)
    )
    source = tmp_path / "f.onnx"
    source.write_bytes(network_files.to_files(net.eval(), torch.rand(1, 3, 8, 8)).onnx)
    floats = listed(graph.load(source))
    assert [k.kind for k in floats] == ["conv", "linear"] and {k.precision for k in floats} == {"fp32"}
    (tmp_path / "q.onnx").write_bytes(quantize.static(source, torch.rand(4, 3, 8, 8)))
    small = listed(graph.load(tmp_path / "q.onnx"))
    working = [k for k in small if k.macs]
    assert [(k.kind, k.precision) for k in working] == [("conv", "int8"), ("linear", "int8")]
    assert [k.macs for k in working] == [k.macs for k in floats]
    biases = [4 * 8, 4 * 10]  # float32, and int32 beside int8
    assert [(k.weight_bytes - b) * 4 + b for k, b in zip(working, biases, strict=True)] == [
        k.weight_bytes for k in floats
    ]


def test_what_cannot_be_counted_has_no_kernels() -> None:
    model = parsed("y = com.example.Frobnicate(x)")
    model.opset_import.add(domain="com.example", version=1)
    assert graph.kernels(model, "g") is None


def test_describe_stores_the_kernels(tiny_build: Path, tmp_path: Path) -> None:
    source = sorted(tiny_build.glob("*.onnx"))[0]
    (tmp_path / "own.onnx").write_bytes(source.read_bytes())
    artifact = describe.describe_onnx(tmp_path / "own.onnx")
    assert artifact.kernels is not None and sum(k.macs * k.count for k in artifact.kernels) == artifact.macs
    assert store.read_record(tmp_path / "own.json", Artifact) == artifact
    old = artifact.model_copy(update={"kernels": None})  # as an older kit wrote it
    store.write_record(tmp_path / "own.json", old)
    assert (
        describe.describe_onnx(tmp_path / "own.onnx") == artifact == store.read_record(tmp_path / "own.json", Artifact)
    )


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["resnet20", "vgg11", "vit_tiny"])
def test_a_file_and_its_space_count_the_same(name: str, precision: Precision, tmp_path: Path) -> None:
    sub = spaces.space_of(name).root.model_copy(update={"precision": precision})
    written = spaces.write(sub, tmp_path / f"{sub.id}.onnx")
    of_file, of_space = (
        graph.distinct(graph.kernels(graph.load(tmp_path / written.model.file), sub.id)),
        spaces.kernels(sub),
    )
    assert of_file is not None
    for count in (lambda k: k.macs, lambda k: k.weight_bytes):
        assert sum(count(k) * k.count for k in of_file) == sum(count(k) * k.count for k in of_space) > 0
    assert len(of_file) < 40  # 295 kernels of a ViT are 22 different ones
    assert len(store.pretty_json([k.model_dump(mode="json") for k in of_file])) < 12_000


def test_equal_kernels_stand_as_one() -> None:
    model = with_weights("a = Relu(x) b = Sigmoid(a) c = Relu(b) y = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(c, w)")
    kernels = graph.kernels(model, "g")
    assert kernels is not None and len(kernels) == 4
    assert graph.distinct(kernels) == (kernels[0].model_copy(update={"count": 3}), kernels[3])
    assert graph.distinct(None) is None
