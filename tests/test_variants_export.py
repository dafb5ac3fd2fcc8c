"""kit export and kit describe: what the files say, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from kit import store
from kit.errors import BadModel, UnknownName, UsageError
from kit.records import Artifact
from kit.variants import describe, evaluate, export, graph, quantize
from kit.variants.sources import SourceOptions


def conv_model(batch: int | str = 1, image: int = 8) -> onnx.ModelProto:
    """One 3x3 convolution of 3 to 4 channels, a mean, a Gemm to 2 classes."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "g"], ["y"]),
    ]
    graph_proto = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, image, image])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2])],
        [weight("w", 4, 3, 3, 3), weight("b", 4), weight("g", 4, 2)],
    )
    return helper.make_model(graph_proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def saved(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_describe_counts_by_hand(tmp_path: Path) -> None:
    artifact = describe.describe_onnx(saved(tmp_path / "net.onnx", conv_model()))
    assert artifact.macs == 4 * 8 * 8 * 27 + 4 * 2
    assert artifact.parameters == 4 * 27 + 4 + 8
    assert artifact.weight_bytes == 4 * artifact.parameters
    assert artifact.activation_bytes == 4 * (2 * 4 * 64 + 4 + 2)  # the Flatten is a view
    assert artifact.inputs[0].shape == (1, 3, 8, 8)
    assert artifact.outputs[0].dtype == "float32"
    assert artifact.precision == "fp32"
    assert store.read_record(tmp_path / "net.json", Artifact) == artifact


def test_a_quantized_graph_counts_like_its_source(tmp_path: Path) -> None:
    source = graph.facts(graph.load(saved(tmp_path / "net.onnx", conv_model())), "net")
    images = torch.randn(8, 3, 8, 8)
    model = conv_model()
    model.graph.input[0].name = "input"
    model.graph.node[0].input[0] = "input"
    static = tmp_path / "static.onnx"
    static.write_bytes(quantize.static(saved(tmp_path / "named.onnx", model), images))
    facts = graph.facts(graph.load(static), "static")
    assert facts.precision == "int8"
    assert facts.macs == source.macs
    assert facts.parameters == source.parameters
    assert facts.weight_bytes < source.weight_bytes
    assert facts.activation_bytes is not None
    assert source.activation_bytes is not None
    assert facts.activation_bytes < source.activation_bytes
    dynamic = tmp_path / "dynamic.onnx"
    dynamic.write_bytes(quantize.dynamic(tmp_path / "named.onnx"))
    assert graph.facts(graph.load(dynamic), "dynamic").macs == source.macs


def test_describe_keeps_a_sidecar_that_fits_and_spares_foreign_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.onnx", conv_model())
    mine = describe.describe_onnx(path).model_copy(update={"licence": "MIT"})
    store.write_record(tmp_path / "net.json", mine)
    assert describe.describe_onnx(path).licence == "MIT"
    saved(path, conv_model(image=16))
    assert describe.describe_onnx(path).licence is None
    (tmp_path / "net.json").write_text('{"learning_rate": 1}')
    with pytest.raises(UsageError, match="not overwritten"):
        describe.describe_onnx(path)
    assert json.loads((tmp_path / "net.json").read_text()) == {"learning_rate": 1}


@pytest.mark.parametrize("content", [b"", b"this is not a model\n", b"\x00\xff" * 40])
def test_a_text_file_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(BadModel, match="not an ONNX model"):
        describe.describe_onnx(path)
    assert not (tmp_path / "x.json").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        describe.describe_onnx(tmp_path / "gone.onnx")


def test_a_free_batch_is_described_as_one(tmp_path: Path) -> None:
    artifact = describe.describe_onnx(saved(tmp_path / "x.onnx", conv_model("N")))
    assert artifact.inputs[0].shape[0] == 1 and artifact.dims == () and artifact.macs


def test_a_graph_that_the_runtime_refuses_gets_no_sidecar(tmp_path: Path) -> None:
    model = conv_model()
    model.graph.node[0].op_type = "Convolve"
    with pytest.raises(BadModel):
        describe.describe_onnx(saved(tmp_path / "x.onnx", model))
    assert not (tmp_path / "x.json").exists()


def test_uncountable_operators_give_no_count() -> None:
    model = conv_model()
    model.graph.node[1].op_type = "Frobnicate"
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    assert graph.facts(model, "x").macs is None


def test_export_writes_a_checked_network(tmp_path: Path) -> None:
    artifact = export.export_named("squeezenet1_1", tmp_path, SourceOptions(resolution_px=64, seed=3))
    assert artifact.artifact_id == "squeezenet1_1-64"
    assert artifact.accuracy is None
    assert artifact.check is not None
    assert artifact.check.top1_agreement == 1
    assert artifact.outputs[0].shape == (1, 1000)
    for file in (artifact.model, artifact.torch_program, artifact.sample):
        assert file is not None
        assert store.sha256_file(tmp_path / file.file) == file.sha256
    with np.load(tmp_path / "squeezenet1_1-64.sample.npz", allow_pickle=False) as sample:
        answers = evaluate.logits(tmp_path / artifact.model.file, torch.from_numpy(sample["input"]))
        np.testing.assert_array_equal(answers, sample["output"])
        program = torch.export.load(tmp_path / "squeezenet1_1-64.pt2").module()
        output = program(torch.from_numpy(sample["input"])).detach().numpy()
    np.testing.assert_allclose(output, answers, atol=1e-4)
    again = export.export_named("squeezenet1_1", tmp_path / "again", SourceOptions(resolution_px=64, seed=3))
    assert again.model.sha256 == artifact.model.sha256


def test_no_path_of_this_machine_leaves_with_a_model(tmp_path: Path) -> None:
    export.export_named("squeezenet1_1", tmp_path, SourceOptions(resolution_px=64))
    for name in ("squeezenet1_1-64.onnx", "squeezenet1_1-64.pt2", "squeezenet1_1-64.json"):
        data = (tmp_path / name).read_bytes()
        assert not [
            place
            for place in (str(Path(torch.__file__).parent), str(Path(export.__file__).parent))
            if place.encode() in data
        ]


def test_export_of_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'resnet18'"):
        export.export_named("resnet81", tmp_path, SourceOptions(resolution_px=224))


def test_export_at_an_impossible_resolution(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vit_b_16 does not take 50x50"):
        export.export_named("vit_b_16", tmp_path, SourceOptions(resolution_px=50))
    assert not list(tmp_path.iterdir())
