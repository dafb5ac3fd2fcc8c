"""One conformance test for every backend that the machine has, and what each refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from kit import backends, profiler, store
from kit.errors import BackendUnavailable, BadModel, IntegrityError, UnknownName, UsageError
from kit.profiler import Target
from kit.records import Artifact, TensorSpec


def target_for(backend: str, request: pytest.FixtureRequest) -> Target:
    if backend == "fake":
        return profiler.resolve(["fake:5us"], backend="fake")[0]
    return profiler.resolve([str(request.getfixturevalue("tiny_build"))], backend=backend)[0]


@pytest.mark.parametrize("name", backends.LEAVES)
def test_conformance(name: str, request: pytest.FixtureRequest) -> None:
    probe = backends.probe(name)
    if not probe.available:
        assert probe.reason and probe.fix
        pytest.skip(probe.reason)
    target = target_for(name, request)
    session = backends.load(name).open(target.path, target.artifact, 1)
    assert session.inputs and all(isinstance(s, TensorSpec) and all(d > 0 for d in s.shape) for s in session.inputs)
    feeds = backends.make_feeds(session.inputs, seed=1)
    kept = {k: v.copy() for k, v in feeds.items()}
    first = [o.copy() for o in session.run(feeds)]
    second = session.run(feeds)
    assert [o.shape for o in first] == [s.shape for s in session.outputs]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)), "the same input gives the same output"
    assert all(np.array_equal(feeds[k], kept[k]) for k in kept), "run must not change its input"
    session.close()


@pytest.mark.parametrize("name", ["onnxruntime", "pytorch"])
def test_real_runtimes_agree_with_the_sample(name: str, tiny_build: Path) -> None:
    if not backends.probe(name).available:
        pytest.skip(f"no {name}")
    for target in profiler.resolve([str(tiny_build)], backend=name):
        said = backends.run_sample(target.path, target.artifact, backend=name)
        assert "4 sample inputs" in said and "same answers" in said


def test_a_model_that_answers_otherwise_is_refused(tiny_build: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    one, other = profiler.resolve([str(tiny_build)], backend="onnxruntime")[:2]
    assert one.artifact.sample is not None
    shutil.copy(other.path, tmp_path / "other.onnx")
    shutil.copy(tiny_build / one.artifact.sample.file, tmp_path)
    with pytest.raises(IntegrityError, match="does not answer its own sample"):
        backends.run_sample(tmp_path / "other.onnx", one.artifact)


def test_text_named_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "x.onnx").write_text("hello, this is no model\n")
    with pytest.raises(BadModel, match="x.onnx is not an ONNX model") as caught:
        profiler.resolve([str(tmp_path / "x.onnx")], backend="onnxruntime")
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(BadModel, match="empty.onnx is not an ONNX model"):
        profiler.resolve([str(tmp_path / "empty.onnx")], backend="onnxruntime")


def test_a_dynamic_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, ["batch", 3])],
        [helper.make_tensor_value_info("y", kind, ["batch", 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "x.onnx")
    with pytest.raises(BadModel, match="dynamic dimension 'batch' .*make_dynamic_shape_fixed"):
        profiler.resolve([str(tmp_path / "x.onnx")], backend="onnxruntime")


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    """The hash of the .onnx would not cover them, and two networks would pass for one."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, [1, 64])],
        [helper.make_tensor_value_info("y", kind, [1, 64])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "x.onnx", save_as_external_data=True, location="x.bin", size_threshold=0)
    with pytest.raises(BadModel, match="keeps its weights in another file"):
        profiler.resolve([str(tmp_path / "x.onnx")], backend="onnxruntime")


def test_another_programs_json_beside_a_model_does_not_matter(tiny_build: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copy(next(tiny_build.glob("*.onnx")), tmp_path / "mine.onnx")
    (tmp_path / "mine.json").write_text('{"labels": ["cat"]}')
    assert profiler.resolve([str(tmp_path / "mine.onnx")], backend="onnxruntime")[0].artifact.macs is None


def test_an_onnx_without_a_sidecar_is_profiled_with_its_macs_unknown(tiny_build: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    source = next(tiny_build.glob("*.onnx"))
    shutil.copy(source, tmp_path / "mine.onnx")
    (target,) = profiler.resolve([str(tmp_path / "mine.onnx")], backend="onnxruntime")
    assert target.artifact.artifact_id == "mine" and target.artifact.macs is None
    assert target.artifact.inputs == (TensorSpec(name="x", shape=(1, 3, 8, 8), dtype="float32"),)


def test_int8_has_no_pytorch_program(tiny_build: Path) -> None:
    pytest.importorskip("torch")
    sidecar = next(tiny_build.glob("*.json"))
    artifact = store.read_record(sidecar, Artifact).model_copy(update={"torch_program": None})
    with pytest.raises(UsageError, match="profile it with onnxruntime"):
        backends.load("pytorch").open(sidecar.with_suffix(".onnx"), artifact, 1)


def test_unknown_and_missing_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="did you mean 'onnxruntime'"):
        backends.load("onxruntime")
    leaf = backends.Leaf("kit.backends.not_there", "not_there", "pip install it.")
    monkeypatch.setitem(backends.LEAVES, "pytorch", leaf)
    with pytest.raises(BackendUnavailable, match="pip install"):
        backends.load("pytorch")
    probe = backends.probe("pytorch")
    assert not probe.available and probe.fix
