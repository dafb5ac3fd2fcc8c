"""One conformance test for every backend that the machine has, what each refuses, and emulations of the GPU runtimes."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import types
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from kit import backends, store
from kit.backends import cuda, dimensions, fake, onnxdata, onnxgraph, stages
from kit.cli import runtimes
from kit.errors import BackendUnavailable, BadModel, IntegrityError, MeasurementError, UnknownName, UsageError
from kit.measure import targets
from kit.records import Artifact, Layers, LayerTime, TensorSpec

OWN_FILES = {"fake", "allocator", "allocator-numpy"}  # they take no .onnx: tests/test_backend_allocator.py
CPU_BACKENDS = [name for name, leaf in backends.LEAVES.items() if leaf.target == "cpu" and name not in OWN_FILES]
GPU_BACKENDS = [name for name, leaf in backends.LEAVES.items() if leaf.target == "gpu"]
LAYERED = {"onnxruntime", "onnxruntime-xnnpack", "openvino", "pytorch", "pytorch-compile", "pytorch-cuda", "tensorrt"}


def needs(name: str) -> None:
    availability = backends.probe(name)
    if not availability.available:
        assert availability.reason and availability.fix
        pytest.skip(f"{name}: {availability.reason}")


def network(build: Path, index: int = 0) -> tuple[Path, Artifact]:
    sidecar = sorted(build.glob("*.json"))[index]
    return sidecar.with_suffix(".onnx"), store.read_record(sidecar, Artifact)


def expected(build: Path, feeds: backends.Feeds) -> np.ndarray[Any, Any]:
    """What onnxruntime's own CPU provider answers."""
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(network(build)[0]), providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))[0]  # type: ignore[no-any-return]


def conform(name: str, build: Path) -> None:
    """What every backend owes: the same answer as the others, the same answer twice, an untouched input, prepared calls, layers."""
    path, artifact = network(build)
    session = backends.load(name).open(path, artifact, 1)
    assert session.inputs == artifact.inputs
    assert [(s.shape, s.dtype) for s in session.outputs] == [(s.shape, s.dtype) for s in artifact.outputs]
    assert all(isinstance(note, str) and note.endswith(".") for note in session.notes)
    feeds = backends.make_feeds(session.inputs, seed=1)
    copies = {k: v.copy() for k, v in feeds.items()}
    first = [o.copy() for o in session.run(feeds)]
    assert np.allclose(first[0], expected(build, feeds), rtol=1e-3, atol=1e-5)
    call = session.prepare(feeds)
    for _ in range(3):
        call()
    again = session.run(feeds)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True)), "the same input gives the same output"
    assert all(np.array_equal(feeds[k], copies[k]) for k in copies), "run must not change its input"
    other = session.run({k: v + 1 for k, v in feeds.items()})
    assert not np.array_equal(first[0], other[0]), "another input gives another output"
    on_gpu = backends.LEAVES[name].target == "gpu"
    assert (session.device_ns is not None) == on_gpu
    if session.device_ns is not None:
        assert session.device_ns(3) > 0
    assert on_gpu or session.gpu_memory() is None
    session.close()


def conform_layers(name: str, build: Path) -> None:
    """The times of the layers, or one sentence why there are none."""
    path, artifact = network(build)
    session = backends.load(name).open(path, artifact, 1)
    feeds = backends.make_feeds(session.inputs, seed=1)
    if name in LAYERED:
        layers = session.layers(feeds, calls=4)
        assert layers.calls == 4 and layers.total_s > 0
        assert all(node.name and node.kind and node.stage for node in layers.nodes)
        assert sum(node.time_s > 0 for node in layers.nodes) >= 3, "two convolutions and a product"
        assert sum(layers.grouped("stage").values()) == pytest.approx(layers.sum_s)
    else:
        with pytest.raises(UsageError, match="layers"):
            session.layers(feeds, calls=1)
    session.close()


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_conformance(name: str, tiny_build: Path) -> None:
    needs(name)
    conform(name, tiny_build)


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_layers_conform(name: str, layered_build: Path) -> None:
    needs(name)
    conform_layers(name, layered_build)


def test_the_fake_backend_is_a_session_too() -> None:
    session: backends.Session = backends.load("fake").open(Path("fake:0us"), None, 1)
    feeds = backends.make_feeds(session.inputs, seed=0)
    call = session.prepare(feeds)
    assert isinstance(call, partial) and call.args == (feeds,), (
        "nothing of kit's stands between the stopwatch and the work"
    )
    assert np.array_equal(session.run(feeds)[0], call()[0])
    assert session.device_ns is None and session.gpu_memory() is None and session.notes == ()
    with pytest.raises(UsageError, match="no layers"):
        session.layers(feeds, 1)
    with pytest.raises(UsageError, match="no target"):
        fake.cost_ns("fake:soon")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "pytorch"])
def test_real_runtimes_agree_with_the_sample(name: str, tiny_build: Path) -> None:
    needs(name)
    for index in range(3):
        path, artifact = network(tiny_build, index)
        comparison = backends.run_sample(path, artifact, backend=name)
        assert "4 sample inputs" in comparison and "same answers" in comparison


def test_a_model_that_answers_otherwise_is_refused(tiny_build: Path, tmp_path: Path) -> None:
    needs("onnxruntime")
    (_, one), (other, _) = network(tiny_build, 0), network(tiny_build, 1)
    assert one.sample is not None
    shutil.copy(other, tmp_path / "other.onnx")
    shutil.copy(tiny_build / one.sample.file, tmp_path)
    with pytest.raises(IntegrityError, match="does not answer its own sample"):
        backends.run_sample(tmp_path / "other.onnx", one)


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", [name for name in CPU_BACKENDS if not name.startswith("pytorch")])
def test_rubbish_is_no_model(name: str, tmp_path: Path) -> None:
    needs(name)
    (tmp_path / "x.onnx").write_text("hello, this is no model\n")
    (tmp_path / "empty.onnx").touch()
    for file in ("x.onnx", "empty.onnx"):
        with pytest.raises(BadModel, match=f"{file} is not an ONNX model") as caught:
            backends.load(name).open(tmp_path / file, None, 1)
        assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["pytorch", "pytorch-compile"])
def test_rubbish_is_no_program(name: str, tiny_build: Path, tmp_path: Path) -> None:
    needs(name)
    path, artifact = network(tiny_build)
    assert artifact.torch_program is not None
    (tmp_path / artifact.torch_program.file).write_text("no program")
    with pytest.raises(BadModel, match="cannot load") as caught:
        backends.load(name).open(tmp_path / path.name, artifact, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_operator_that_nobody_knows(name: str, tmp_path: Path) -> None:
    needs(name)
    save(tmp_path / "x.onnx", [("Frobnicate", ["x"], ["y"])], [1, 3])
    with pytest.raises(BadModel, match="cannot load") as caught:
        backends.load(name).open(tmp_path / "x.onnx", None, 1)
    assert "\n" not in str(caught.value)


def test_int8_has_no_pytorch_program(tiny_build: Path) -> None:
    needs("pytorch")
    path, artifact = network(tiny_build)
    with pytest.raises(UsageError, match="profile it with onnxruntime"):
        backends.load("pytorch").open(path, artifact.model_copy(update={"torch_program": None}), 1)


def test_unknown_and_missing_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="did you mean 'onnxruntime'"):
        backends.load("onxruntime")
    leaf = backends.Leaf("kit.backends.not_there", "not_there", "pip install it.")
    monkeypatch.setitem(backends.LEAVES, "pytorch", leaf)
    with pytest.raises(BackendUnavailable, match="pip install"):
        backends.load("pytorch")
    with pytest.raises(BackendUnavailable, match="not installed: pip install it"):
        backends.require("pytorch")
    availability = backends.probe("pytorch")
    assert (
        not availability.available
        and availability.fix == "pip install it."
        and "pip" not in (availability.reason or "")
    )


@pytest.mark.parametrize("mode", ["xnnpack", "openvino"])
def test_a_provider_that_does_not_take_part_is_refused(mode: str, tiny_build: Path) -> None:
    """onnxruntime alone would warn and go on with the CPU."""
    needs("onnxruntime")
    if backends.probe(f"onnxruntime-{mode}").available:
        pytest.skip("this onnxruntime has the provider")
    path, artifact = network(tiny_build)
    with pytest.raises(BackendUnavailable, match="could not start .* would have run on CPUExecutionProvider"):
        backends.load(f"onnxruntime-{mode}").open(path, artifact, 1)


def test_a_provider_that_takes_a_part_says_so() -> None:
    pytest.importorskip("onnxruntime")
    onnxrt = importlib.import_module("kit.backends.onnxrt")
    provider = onnxrt.PROVIDERS["xnnpack"]
    cpu = "CPUExecutionProvider"
    assert onnxrt.coverage(Path("x.onnx"), provider, {provider.name: Counter(Conv=20)}) is None
    sentence = onnxrt.coverage(Path("x.onnx"), provider, {provider.name: Counter(Conv=20), cpu: Counter(Add=8, Gemm=1)})
    assert sentence == "XNNPACK takes 20 of 29 nodes; others run the rest (8 Add, 1 Gemm)."
    with pytest.raises(UsageError, match=r"takes no node of x.onnx \(2 Add\)"):
        onnxrt.coverage(Path("x.onnx"), provider, {cpu: Counter(Add=2)})


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-openvino", "openvino"])
def test_threads_and_affinity_are_honoured(name: str, tiny_build: Path) -> None:
    """In a process of its own: a runtime sizes and binds its pools once."""
    needs(name)
    cores = sorted(os.sched_getaffinity(0))
    code = f"""
        import os
        from pathlib import Path
        os.sched_setaffinity(0, {{{cores[-1]}}})
        from kit import backends
        session = backends.load("{name}").open(Path(r"{network(tiny_build)[0]}"), None, 2)
        session.prepare(backends.make_feeds(session.inputs, 0))()
        masks = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
        assert all(mask == {{{cores[-1]}}} for mask in masks), masks
        assert len(masks) <= 12, masks
    """
    completed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr


def test_openvino_says_what_it_computes_in(tiny_build: Path) -> None:
    needs("openvino")
    path, artifact = network(tiny_build)
    session = backends.load("openvino").open(path, artifact, 1)
    assert "in f32" in session.notes[0]
    leaf = importlib.import_module("kit.backends.openvino_rt")
    with pytest.raises(BackendUnavailable, match="computes in bf16 on this CPU where f32 was requested"):
        leaf.precision_note("f32", "bf16")


US = st.floats(1.0, 500.0)


@given(st.lists(st.floats(0, 500.0), min_size=3, max_size=3), US, st.integers(4, 40), st.randoms())
def test_openvinos_whole_microseconds_lose_at_most_one(warm: list[float], usual: float, calls: int, rng: Any) -> None:
    """A node as OpenVINO counts it (each call cut, the mean cut again), whose first calls are as slow as they like."""
    pytest.importorskip("openvino")
    leaf = importlib.import_module("kit.backends.openvino_rt")
    timed = [usual * rng.uniform(1, 1.1) for _ in range(calls)]
    early, late = sum(map(int, warm)), sum(map(int, warm + timed))
    estimate_s = leaf.mean_s(early // 3, late // (3 + calls), calls)
    assert estimate_s > 0
    cut_s = sum(map(int, timed)) / calls * 1e-6
    assert abs(estimate_s - cut_s) <= ((calls + 2) / 2 + 1) / calls * 1e-6 + 1e-12  # of the two means that were cut


def test_nodes_that_openvino_cannot_time(tmp_path: Path) -> None:
    needs("openvino")
    leaf = importlib.import_module("kit.backends.openvino_rt")
    save(tmp_path / "x.onnx", [("Relu", ["x"], ["y"])], [1, 3])
    session = backends.load("openvino").open(tmp_path / "x.onnx", None, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaf, "_means_us", lambda request: {})  # a slow machine may see even this one
        with pytest.raises(UsageError, match="whole microseconds, and every node of .*x.onnx takes less"):
            session.layers(backends.make_feeds(session.inputs, 0), calls=2)


# ------------------------------------------------------------------------------------------------- files that people name


def test_text_named_onnx(tmp_path: Path) -> None:
    needs("onnxruntime")
    (tmp_path / "x.onnx").write_text("hello, this is no model\n")
    with pytest.raises(BadModel, match="x.onnx is not an ONNX model") as caught:
        targets.resolve([str(tmp_path / "x.onnx")], backend="onnxruntime")
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def borrowing(where: str, location: str, length: int | None = None) -> Any:
    """A model whose 64 x 64 weights, a tensor in the place ``where``, lie in the file ``location``."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = onnx.TensorProto(name="w", data_type=kind, dims=[64, 64], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    if length is not None:
        weight.external_data.add(key="length", value=str(length))
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    constant = helper.make_node("Constant", [], ["w"], value=weight)
    values = [helper.make_tensor_value_info(name, kind, [1, 64]) for name in "xy"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    nodes, functions = [product], []
    if where == "constant":
        nodes = [constant, product]
    elif where == "branch":
        branch = helper.make_graph([constant, product], "branch", [], values[1:])
        yes = helper.make_node("Constant", [], ["yes"], value=onnx.numpy_helper.from_array(np.asarray(True)))
        nodes = [yes, helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)]
    elif where == "function":
        nodes = [helper.make_node("F", ["x"], ["y"], domain="own")]
        functions = [helper.make_function("own", "F", ["x"], ["y"], [constant, product], opsets[:1])]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight] if where == "initializer" else [])
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)


PLACES = ["initializer", "constant", "branch", "function"]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(
    "location", ["../secret.bin", "absolute", "link.bin", "a/../../secret.bin", "missing.bin", "short.bin"]
)
def test_a_model_borrows_no_weights_from_outside_wherever_it_asks_for_them(
    where: str, location: str, tmp_path: Path
) -> None:
    """onnxruntime before 1.25 opens each of these files, and Python 3.10 has none later: kit refuses before any runtime looks."""
    needs("onnxruntime")
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(np.ones((64, 64), np.float32).tobytes())
    (folder / "short.bin").write_bytes(bytes(100))
    (folder / "link.bin").symlink_to("../secret.bin")
    name = str(tmp_path / "secret.bin") if location == "absolute" else location
    data = borrowing(where, name, length=64 * 64 * 4).SerializeToString()
    (folder / "x.onnx").write_bytes(data)
    with pytest.raises(BadModel, match="keeps weights in|expects 16384 bytes in short.bin, which has 100"):
        backends.load("onnxruntime").open(folder / "x.onnx", None, 1)
    with pytest.raises(BadModel, match="^This network keeps its weights in another file"):
        onnxdata.refuse_external(data, "This network")


@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
@pytest.mark.parametrize("location", ["w.bin", "weights/w.bin"])
def test_weights_beside_the_model_are_part_of_the_artifact(where: str, location: str, tmp_path: Path) -> None:
    needs("onnxruntime")
    file = tmp_path / location
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(np.full((64, 64), 0.5, np.float32).tobytes())
    (tmp_path / "x.onnx").write_bytes(borrowing(where, location).SerializeToString())
    (target,) = targets.resolve([str(tmp_path / "x.onnx")], backend="onnxruntime")
    assert [(d.file, d.size_bytes) for d in target.artifact.data] == [(location, 64 * 64 * 4)]
    assert target.artifact.size_bytes > 64 * 64 * 4
    session = backends.load("onnxruntime").open(target.path, target.artifact, 1)
    feeds = backends.make_feeds(session.inputs, 0)
    assert np.allclose(session.run(feeds)[0], feeds["x"].sum() * 0.5, atol=1e-3)
    file.write_bytes(np.full((64, 64), 2.0, np.float32).tobytes())
    (other,) = targets.resolve([str(tmp_path / "x.onnx")], backend="onnxruntime")
    assert other.artifact.content_sha256 != target.artifact.content_sha256, "other weights are another network"
    unlisted = target.artifact.model_copy(update={"data": ()})
    with pytest.raises(IntegrityError, match="its sidecar does not list"):
        backends.load("onnxruntime").open(target.path, unlisted, 1)


def test_the_cache_of_a_hub_is_made_of_links(tmp_path: Path) -> None:
    needs("onnxruntime")
    blobs, snapshot = tmp_path / "models--ann--net" / "blobs", tmp_path / "models--ann--net" / "snapshots" / ("0a" * 20)
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    (blobs / "b1").write_bytes(np.ones((64, 64), np.float32).tobytes())
    (blobs / "b2").write_bytes(borrowing("initializer", "model.onnx_data").SerializeToString())
    (snapshot / "model.onnx").symlink_to("../../blobs/b2")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/b1")
    (target,) = targets.resolve([str(snapshot / "model.onnx")], backend="onnxruntime")
    assert target.artifact.artifact_id == "net-model" and len(target.artifact.data) == 1
    backends.load("onnxruntime").open(target.path, target.artifact, 1).close()


@pytest.mark.parametrize(
    ("written", "disguise"),
    [
        (b"\x70\x01", b"\xf0\x00\x01"),  # the tag of data_location in two bytes, of which one would do
        (b"\x70\x01", b"\x70\x81\x80\x80\x80\x10"),  # the enum, too
        (b"\x70\x01", b"\x70\x00\x70\x01"),  # written twice: the last one counts
    ],
)
def test_a_disguised_reference_is_parsed_as_protobuf_parses_it(written: bytes, disguise: bytes) -> None:
    onnx = pytest.importorskip("onnx")
    weight = borrowing("initializer", "../secret.bin").graph.initializer[0].SerializeToString()
    assert weight.count(written) == 1
    disguised = weight.replace(written, disguise)
    assert onnx.TensorProto.FromString(disguised).data_location == onnx.TensorProto.EXTERNAL
    model = message(7, message(5, disguised))
    assert onnx.ModelProto.FromString(model).graph.initializer[0].data_location == onnx.TensorProto.EXTERNAL
    # Both as it is and behind a group of unknown fields, which protobuf steps over.
    for data in (model, b"\xa3\x06\x08\x01\xa4\x06" + model):
        assert onnx.ModelProto.FromString(data).graph.initializer[0].name == "w"
        with pytest.raises(BadModel, match="keeps its weights in another file"):
            onnxdata.refuse_external(data, "x.onnx")


def message(number: int, content: bytes) -> bytes:
    """``content`` (at most 16,383 bytes) as field ``number`` of a protobuf message."""
    return bytes([number << 3 | 2, len(content) & 0x7F | 0x80, len(content) >> 7]) + content


def test_a_model_that_only_speaks_of_locations_is_whole(tmp_path: Path) -> None:
    needs("onnxruntime")
    save(tmp_path / "x.onnx", [("MatMul", ["x", "location"], ["y"])], [1, 64], location=np.ones((64, 64), np.float32))
    assert backends.load("onnxruntime").open(tmp_path / "x.onnx", None, 1).inputs[0].shape == (1, 64)


def test_another_programs_json_next_to_a_model_does_not_matter(tiny_build: Path, tmp_path: Path) -> None:
    needs("onnxruntime")
    shutil.copy(next(tiny_build.glob("*.onnx")), tmp_path / "mine.onnx")
    (tmp_path / "mine.json").write_text('{"labels": ["cat"]}')
    assert targets.resolve([str(tmp_path / "mine.onnx")], backend="onnxruntime")[0].artifact.macs is None


def test_an_onnx_without_a_sidecar_is_profiled_with_its_macs_unknown(tiny_build: Path, tmp_path: Path) -> None:
    needs("onnxruntime")
    shutil.copy(next(tiny_build.glob("*.onnx")), tmp_path / "mine.onnx")
    (target,) = targets.resolve([str(tmp_path / "mine.onnx")], backend="onnxruntime")
    assert target.artifact.artifact_id == "mine" and target.artifact.macs is None
    assert target.artifact.inputs == (TensorSpec(name="x", shape=(1, 3, 8, 8), dtype="float32"),)


# ----------------------------------------------------------------------------------------------------------------- batch


def save(path: Path, nodes: list[tuple[str, list[str], list[str]]], shape: list[Any], **weights: Any) -> None:
    """A small model of ``nodes`` (operator, inputs, outputs) from x to y, both of ``shape``."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(op, inputs, outputs, name=f"node_{outputs[0]}") for op, inputs, outputs in nodes],
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-openvino", "openvino"])
def test_a_free_batch_is_fixed(name: str, tmp_path: Path) -> None:
    needs(name)
    save(tmp_path / "x.onnx", [("Relu", ["x"], ["y"])], ["batch", 3])
    for batch, rows in ((None, 1), (4, 4)):
        session = backends.load(name).open(tmp_path / "x.onnx", None, 1, batch)
        assert session.inputs[0].shape == session.outputs[0].shape == (rows, 3)
        feeds = backends.make_feeds(session.inputs, 0)
        assert np.array_equal(session.run(feeds)[0], np.maximum(feeds["x"], 0))
        session.close()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("shape", [[1, "width"], ["rows", "rows"], ["batch", "width"], [1, None]])
def test_other_dynamic_shapes_are_refused(name: str, shape: list[Any], tmp_path: Path) -> None:
    needs(name)
    save(tmp_path / "x.onnx", [("Relu", ["x"], ["y"])], shape)
    with pytest.raises(BadModel, match="has the dynamic .*a latency belongs to one shape"):
        backends.load(name).open(tmp_path / "x.onnx", None, 1)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "pytorch"])
def test_a_fixed_batch_stays(name: str, tiny_build: Path) -> None:
    needs(name)
    path, artifact = network(tiny_build)
    backends.load(name).open(path, artifact, 1, 1).close()
    with pytest.raises(UsageError, match=r"fixed batch 1, not 8: .*kit export NAME --batch 8"):
        backends.load(name).open(path, artifact, 1, 8)


# ------------------------------------------------------------------------------------------------------ graph and stages


def test_the_graph_is_what_the_onnx_package_reads(tiny_build: Path) -> None:
    onnx = pytest.importorskip("onnx")
    for path in tiny_build.glob("*.onnx"):
        graph, model = onnxgraph.read(path), onnx.load(path)
        assert graph is not None
        nodes = [onnxgraph.Node(n.name, n.op_type, tuple(n.input), tuple(n.output)) for n in model.graph.node]
        assert list(graph.nodes) == nodes
        assert graph.weights == {t.name: t.data_type for t in model.graph.initializer}
        assert [v.name for v in graph.outputs] == [v.name for v in model.graph.output]


DIM = st.one_of(st.integers(1, 2**40), st.sampled_from(["batch", "n", "größe"]), st.none())


@given(st.lists(st.lists(DIM, max_size=4), min_size=1, max_size=3))
def test_shapes_survive_the_wire(shapes: list[list[int | str | None]]) -> None:
    onnx = pytest.importorskip("onnx")
    import tempfile

    values = [onnx.helper.make_tensor_value_info(f"x{i}", 1, shape) for i, shape in enumerate(shapes)]
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", values, []))
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "x.onnx")
        graph = onnxgraph.read(Path(folder) / "x.onnx")
    assert graph is not None
    expected_shapes = [tuple("?" if d is None else d for d in shape) for shape in shapes]
    assert [value.shape for value in graph.inputs] == expected_shapes
    free = [(i, a, d) for i, shape in enumerate(expected_shapes) for a, d in enumerate(shape) if isinstance(d, str)]
    assert [(f.value.name, f.axis, f.symbol or "?") for f in dimensions.of(graph)] == [
        (f"x{i}", a, d) for i, a, d in free
    ]
    assert all(
        not f.axis or f.symbol in ("batch", "n") for f in dimensions.of(graph) if f.key in dimensions.batch_keys(graph)
    )


def test_a_dimension_of_minus_one_is_unknown(tmp_path: Path) -> None:
    save(tmp_path / "x.onnx", [("Relu", ["x"], ["y"])], [-1, 3])
    graph = onnxgraph.read(tmp_path / "x.onnx")
    assert graph is not None and graph.inputs[0].shape == ("?", 3)
    assert dimensions.batch_keys(graph) == {"x:0"}, "the first dimension of the only input"


def test_a_model_that_is_cut_off_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    save(path, [("MatMul", ["x", "w"], ["a"]), ("Relu", ["a"], ["y"])], ["batch", 3], w=np.eye(3, dtype=np.float32))
    data, complete = path.read_bytes(), onnxgraph.read(path)
    graphs = []
    for end in range(len(data)):
        path.write_bytes(data[:end])
        graphs.append(onnxgraph.read(path))
    least = next(end for end, graph in enumerate(graphs) if graph is not None)
    assert least > 100 and all(graph == complete for graph in graphs[least:] if graph is not None)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_model_is_a_graph_of_names_and_shapes_or_none(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    save(path, [("MatMul", ["x", "w"], ["a"]), ("Relu", ["a"], ["y"])], ["batch", 3], w=np.eye(3, dtype=np.float32))
    original = path.read_bytes()
    at, new = data.draw(st.integers(0, len(original))), data.draw(st.binary(max_size=4))
    cut = data.draw(st.integers(0, 4))
    path.write_bytes(original[:at] + new + original[at + cut :])
    graph = onnxgraph.read(path)
    if path.read_bytes() == original:
        assert graph is not None and [node.kind for node in graph.nodes] == ["MatMul", "Relu"]
    if graph is None:
        return
    names = [word for node in graph.nodes for word in (node.name, node.kind, *node.inputs, *node.outputs)]
    assert all(isinstance(name, str) for name in [*names, *graph.weights])
    for value in (*graph.inputs, *graph.outputs):
        assert value.name not in graph.weights or value in graph.outputs
        assert all((isinstance(d, str) and d) or (isinstance(d, int) and 0 <= d < 1 << 63) for d in value.shape)
    assert dimensions.batch_keys(graph) <= {f.key for f in dimensions.of(graph)}
    assert set(graph.stages()) >= {node.name for node in graph.nodes}


@given(st.binary(max_size=300))
@example(b"=\0\0\0\0")  # field 7, the graph's, as a number of four bytes
@example(b"9" + bytes(8))
def test_bytes_that_hold_no_graph_are_none(data: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(data)
        file.flush()
        graph = onnxgraph.read(Path(file.name))
    assert graph is None or (b":" in data and len(graph.nodes) <= len(data))  # ":" is the tag of ModelProto.graph


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("conv1.weight", ""),
        ("layer1.0.conv1.weight_bias", "layer1.0"),
        ("layer2.0.downsample.0.weight_quantized", "layer2.0"),
        ("features.3.weight", "features.3"),
        ("features.0.1.weight", "features.0"),
        ("encoder.layers.encoder_layer_11.mlp.0.weight", "encoder.layers.encoder_layer_11"),
        ("heads.head.weight", "heads"),
        ("blocks.2.attn.qkv.weight", "blocks.2"),
        ("val_12", None),
        ("relu_16_scale", None),
    ],
)
def test_the_stage_of_a_parameter(name: str, stage: str | None) -> None:
    assert stages.of_parameter(name) == stage


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("/layer1/layer1.0/conv1/Conv", "layer1.0"),
        ("/layer2/layer2.0/downsample/downsample.0/Conv", "layer2.0"),
        ("/features/features.3/Conv", "features.3"),
        ("/conv1/Conv", ""),
        ("/Flatten", None),
        ("node_Conv_3", None),
    ],
)
def test_the_stage_of_a_scoped_node(name: str, stage: str | None) -> None:
    assert stages.of_scoped_node(name) == stage


def resnet_like() -> onnxgraph.Graph:
    """Two blocks as the exporter writes a quantized ResNet: nodes without scope, weights dequantized on their way, a shortcut."""
    node = onnxgraph.Node
    nodes = (
        node("dq", "DequantizeLinear", ("layer1.0.conv1.weight_q", "layer1.0.conv1.weight_scale"), ("w1",)),
        node("node_Conv_1", "Conv", ("x", "conv1.weight"), ("a",)),
        node("node_relu", "Relu", ("a",), ("b",)),
        node("node_Conv_2", "Conv", ("b", "w1"), ("c",)),
        node("node_add", "Add", ("b", "c"), ("d",)),
        node("node_Conv_3", "Conv", ("d", "layer1.1.conv1.weight"), ("e",)),
        node("node_mean", "ReduceMean", ("e", "val_1"), ("f",)),
        node("node_linear", "Gemm", ("f", "fc.weight"), ("y",)),
    )
    weights = [
        "conv1.weight",
        "layer1.0.conv1.weight_q",
        "layer1.0.conv1.weight_scale",
        "layer1.1.conv1.weight",
        "fc.weight",
        "val_1",
    ]
    return onnxgraph.Graph(nodes, (), (), dict.fromkeys(weights, 1))


def test_stages_follow_the_weights() -> None:
    stage = resnet_like().stages()
    assert [stage[n] for n in ("node_Conv_1", "node_relu", "a")] == ["stem"] * 3
    assert [stage[n] for n in ("node_Conv_2", "node_add", "d")] == ["layer1.0"] * 3, (
        "an addition belongs to the branch that it ends"
    )
    assert stage["node_Conv_3"] == stage["node_mean"] == "layer1.1"
    assert stage["node_linear"] == "head"


def test_runtimes_rename_nodes() -> None:
    stage_of = resnet_like().stages()
    names = [
        "node_Conv_1_token_4",
        "d_nchwc",
        "node_Conv_3/WithoutBiases",
        "node_linear + node_y",
        "Reorder_7",
        "node_Conv_12",
    ]
    nodes = stages.label([stages.Timed(name, "Op", 0.2) for name in names], stage_of, calls=2)
    assert [n.stage for n in nodes] == ["stem", "layer1.0", "layer1.1", "head", "head", "head"]
    assert all(n.time_s == 0.1 and n.calls == 2 for n in nodes)


def test_without_names_the_resolution_is_the_stage() -> None:
    shapes = [(1, 8, 56, 56), (1, 28, 28, 64), None, (1, 10)]
    nodes = stages.label([stages.Timed("n", "Op", 1.0, shape) for shape in shapes], {}, calls=1)
    assert [n.stage for n in nodes] == ["56x56", "28x28", "28x28", "28x28"]
    assert stages.label([stages.Timed("n", "Op", 1.0)], {}, calls=1)[0].stage == "other"


def test_layers_are_grouped_the_longest_first() -> None:
    rows = [("a", "Conv", "stem", 1.0), ("b", "Relu", "stem", 4.0), ("c", "Conv", "head", 2.0)]
    nodes = tuple(LayerTime(name=n, kind=k, stage=s, time_s=t, calls=3) for n, k, s, t in rows)
    layers = Layers(nodes=nodes, total_s=8.0, calls=3, source="made up")
    assert layers.sum_s == 7.0
    assert list(layers.grouped("kind").items()) == [("Relu", 4.0), ("Conv", 3.0)]
    assert list(layers.grouped("stage").items()) == [("stem", 5.0), ("head", 2.0)]
    assert Layers.model_validate_json(layers.model_dump_json()) == layers


def test_a_recorded_onnxruntime_profile() -> None:
    """The shape of the file that onnxruntime 1.24 and 1.31 write; the first run is a warm-up."""
    pytest.importorskip("onnxruntime")
    onnxrt = importlib.import_module("kit.backends.onnxrt")

    def node(name: str, ts: int, dur: int, index: int) -> dict[str, Any]:
        arguments = {"op_name": "Conv", "node_index": str(index), "output_type_shape": [{"float": [1, 8, 56, 56]}]}
        return {
            "cat": "Node",
            "name": f"{name}_kernel_time",
            "ts": ts,
            "dur": dur,
            "args": {**arguments, "provider": "CPU"},
        }

    events: list[dict[str, Any]] = [{"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 9, "args": {}}]
    for start, dur in ((10, 99), (200, 30), (300, 50)):
        events += [{"cat": "Session", "name": "model_run", "ts": start, "dur": dur, "args": {}}]
        events += [node("relu_nchwc", start + 1, dur // 2, 3), node("relu_nchwc", start + 60, 1, 4)]
    layers = onnxrt.parse_profile(events, {}, 2)
    assert layers.total_s == pytest.approx(40e-6) and layers.calls == 2
    assert [(n.name, n.kind, n.stage, pytest.approx(n.time_s)) for n in layers.nodes] == [
        ("relu_nchwc", "Conv", "56x56", 20e-6),
        ("relu_nchwc", "Conv", "56x56", 1e-6),
    ]
    with pytest.raises(UsageError, match="too few runs"):
        onnxrt.parse_profile(events, {}, 4)


# ----------------------------------------------------------------------------------------------------- GPUs, by emulation


class CudaLibrary:
    """libcudart on host memory: what kit calls, with the real calling convention. One launch takes a microsecond of its clock."""

    def __init__(self, devices: int = 1) -> None:
        self.count, self.blocks, self.calls, self.clock_us, self.failing = devices, {}, Counter[str](), 0.0, 0
        self.events: dict[int, float] = {}
        self.cudaGetErrorString = self.Text()

    class Text:
        restype: Any = None

        def __call__(self, code: int) -> bytes:
            return b"an illegal memory access was encountered"

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls[name] += 1
            if self.failing:
                return self.failing
            handler = getattr(self, f"on_{name}", None)
            if handler is not None:
                handler(*arguments)
            return 0

        return call

    def on_cudaGetDeviceCount(self, count: Any) -> None:
        count._obj.value = self.count

    def on_cudaMalloc(self, pointer: Any, size: Any) -> None:
        block = ctypes.create_string_buffer(size.value)
        self.blocks[ctypes.addressof(block)] = block
        pointer._obj.value = ctypes.addressof(block)

    def on_cudaFree(self, pointer: Any) -> None:
        del self.blocks[pointer.value]

    def on_cudaMemcpy(self, to: Any, origin: Any, size: Any, kind: Any) -> None:
        assert (to.value if kind.value == cuda.TO_DEVICE else origin.value) in self.blocks
        ctypes.memmove(to.value, origin.value, size.value)

    def on_cudaStreamCreateWithFlags(self, handle: Any, flags: Any) -> None:
        handle._obj.value = 0x51

    def on_cudaStreamSynchronize(self, stream: Any) -> None:
        assert stream.value == 0x51

    def on_cudaEventCreate(self, event: Any) -> None:
        event._obj.value = 0x60 + len(self.events)
        self.events[event._obj.value] = 0.0

    def on_cudaEventRecord(self, event: Any, stream: Any) -> None:
        assert stream.value == 0x51
        self.events[event.value] = self.clock_us

    def on_cudaEventElapsedTime(self, elapsed: Any, start: Any, end: Any) -> None:
        elapsed._obj.value = (self.events[end.value] - self.events[start.value]) / 1e3

    def on_cudaDeviceGetAttribute(self, value: Any, attribute: Any, device: Any) -> None:
        value._obj.value = {cuda.MAJOR: 8, cuda.MINOR: 7}[attribute.value]

    def on_cudaRuntimeGetVersion(self, version: Any) -> None:
        version._obj.value = 12060


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> CudaLibrary:
    """A machine with an emulated GPU."""
    library = CudaLibrary()
    device = cuda.Cuda(library)
    monkeypatch.setattr(cuda, "load", lambda: device)
    monkeypatch.setattr(cuda, "gpu_name", lambda: "Orin (emulated)")
    monkeypatch.setattr(cuda.Cuda, "driver_version", lambda self: "540.4.0")
    return library


def test_cuda_through_ctypes(gpu: CudaLibrary) -> None:
    device = cuda.load()
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    address = device.allocate(array.nbytes)
    device.upload(address, array.T.copy().T)
    back = np.zeros_like(array)
    device.download(back, address)
    assert np.array_equal(back, array)
    device.free(address)
    assert not gpu.blocks and device.compute_capability() == "8.7" and device.devices() == 1

    def launch() -> None:
        gpu.clock_us += 1

    assert device.elapsed_ns(device.stream(), launch, 7) == pytest.approx(7000)
    assert gpu.calls["cudaEventDestroy"] == 2


def test_cuda_errors_are_sentences(gpu: CudaLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    device = cuda.load()
    gpu.failing = 700
    with pytest.raises(MeasurementError, match="CUDA failed in cudaMalloc: an illegal memory access was encountered."):
        device.allocate(4)
    gpu.failing = cuda.OUT_OF_MEMORY
    with pytest.raises(MemoryError):
        device.allocate(4)
    monkeypatch.undo()
    cuda.load.cache_clear()
    monkeypatch.setattr(cuda, "_candidates", list)
    assert "no CUDA runtime here" in (cuda.missing() or "")
    monkeypatch.setattr(cuda, "_candidates", lambda: ["any"])
    monkeypatch.setattr(ctypes, "CDLL", lambda name: CudaLibrary(devices=0))
    assert "finds no NVIDIA GPU" in (cuda.missing() or "")
    cuda.load.cache_clear()


def test_an_older_onnxruntime_does_not_list_nodes(tiny_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must refuse the CPU first; here the provider is the CPU's own, so that it must."""
    pytest.importorskip("onnxruntime")
    onnxrt = importlib.import_module("kit.backends.onnxrt")
    monkeypatch.setattr(onnxrt, "LISTS_NODES", False)
    monkeypatch.setitem(onnxrt.PROVIDERS, "xnnpack", onnxrt.Provider(onnxrt.CPU, "XNNPACK"))
    monkeypatch.setattr(onnxrt, "provider_options", lambda *a: [(onnxrt.CPU, {})])
    path, artifact = network(tiny_build)
    session = onnxrt.open(path, artifact, 2, "xnnpack")
    assert len(session.notes) == 1 and "takes a part of the graph" in session.notes[0]
    (tmp := path.with_name("rubbish.onnx")).write_text("no model")
    with pytest.raises(BadModel, match="not an ONNX model"):
        onnxrt.open(tmp, None, 1, "xnnpack")
    tmp.unlink()


def test_a_gpu_that_does_not_start_is_no_bad_model(
    gpu: CudaLibrary, tiny_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    onnxrt = importlib.import_module("kit.backends.onnxrt")

    def refuse(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("CUDA failure 999: unknown error ; GPU=0\nmore")

    monkeypatch.setattr(onnxrt.ort, "InferenceSession", refuse)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with pytest.raises(BackendUnavailable, match=r"CUDA does not start in onnxruntime \(CUDA failure 999") as caught:
        onnxrt.open(*network(tiny_build), 1, "cuda")
    assert "\n" not in str(caught.value)


def test_io_binding_of_onnxruntime(gpu: CudaLibrary, tiny_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU provider, walked with the CPU provider and an emulated stream."""
    pytest.importorskip("onnxruntime")
    onnxrt = importlib.import_module("kit.backends.onnxrt")
    cpu = onnxrt.Provider(onnxrt.CPU, "CUDA", True, "TF32 is off.")
    monkeypatch.setitem(onnxrt.PROVIDERS, "cuda", cpu)
    monkeypatch.setattr(onnxrt, "DEVICE", "cpu")
    monkeypatch.setattr(onnxrt, "provider_options", lambda *a: [(onnxrt.CPU, {})])
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    path, artifact = network(tiny_build)
    session = onnxrt.open(path, artifact, 1, "cuda")
    feeds = backends.make_feeds(session.inputs, 0)
    with pytest.raises(UsageError, match="call prepare"):
        session.device_ns(1)
    assert np.allclose(session.run(feeds)[0], expected(tiny_build, feeds), atol=1e-6)
    before = gpu.calls["cudaStreamSynchronize"]
    call = session.prepare(feeds)
    call()
    assert gpu.calls["cudaStreamSynchronize"] == before + 1, "the timed call waits for its stream, once"
    assert session.device_ns(5) == 0.0 and gpu.calls["cudaStreamSynchronize"] == before + 1, (
        "the events wait, not each call"
    )
    with pytest.raises(UsageError, match="not the work"):
        session.layers(feeds, 1)
    session.close()


def test_options_of_the_providers() -> None:
    pytest.importorskip("onnxruntime")
    onnxrt = importlib.import_module("kit.backends.onnxrt")
    (name, options), *rest = onnxrt.provider_options("cuda", 1, 81, "fp32")
    assert (
        name == "CUDAExecutionProvider"
        and options["use_tf32"] == "0"
        and options["user_compute_stream"] == "81"
        and not rest
    )
    first, second = onnxrt.provider_options("tensorrt", 1, 81, "fp32")
    assert first[0] == "TensorrtExecutionProvider" and second[0] == "CUDAExecutionProvider"
    assert first[1]["trt_engine_cache_enable"] == "1" and "trt_int8_enable" not in first[1]
    (_, options), *_ = onnxrt.provider_options("openvino", 3, None, "fp32")
    assert json.loads(options["load_config"])["CPU"]["INFERENCE_NUM_THREADS"] == "3"
    assert onnxrt.provider_options("xnnpack", 3, None, "fp32")[0][1] == {"intra_op_num_threads": "3"}


class TensorRT(types.ModuleType):
    """The tensorrt module for a network that doubles its input, as versions 10 and 11 show it. It knows nothing that they lack."""

    def __init__(self, version: str) -> None:
        super().__init__("tensorrt")
        major = int(version.split(".")[0])
        self.__version__ = version
        self.built: list[dict[str, Any]] = []
        self.broken: set[bytes] = set()  # plans that no longer load
        self.shape: tuple[int, ...] = (1, 3)
        self.parse_error: str | None = None
        flags = {"STRONGLY_TYPED": 1} if major >= 11 else {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
        self.NetworkDefinitionCreationFlag = types.SimpleNamespace(**flags)
        self.BuilderFlag = types.SimpleNamespace(
            TF32="TF32", **({} if major >= 11 else {"FP16": "FP16", "INT8": "INT8"})
        )
        self.TensorIOMode = types.SimpleNamespace(INPUT="input", OUTPUT="output")
        self.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda s, level: None})
        self.IProfiler = type("IProfiler", (), {"__init__": lambda s: None})
        self.nptype = lambda kind: kind
        self.Builder, self.OnnxParser, self.Runtime = (
            partial(Builder, self),
            partial(Parser, self),
            partial(Runtime, self),
        )


class Builder:
    def __init__(self, trt: TensorRT, logger: Any) -> None:
        self.trt, self.facts = trt, {"cleared": set(), "profiles": []}

    def create_network(self, flags: int = 0) -> Any:
        self.facts["flags"] = flags
        tensor = types.SimpleNamespace(name="x", shape=self.trt.shape)
        return types.SimpleNamespace(num_inputs=1, get_input=lambda index: tensor)

    def create_builder_config(self) -> Any:
        return types.SimpleNamespace(
            clear_flag=self.facts["cleared"].add, add_optimization_profile=self.facts["profiles"].append
        )

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        return types.SimpleNamespace(shapes=shapes, set_shape=lambda name, *three: shapes.update({name: three}))

    def build_serialized_network(self, network: Any, config: Any) -> bytes:
        self.trt.built.append(self.facts)
        return f"plan {len(self.trt.built)}".encode()


class Parser:
    def __init__(self, trt: TensorRT, network: Any, logger: Any) -> None:
        self.trt, self.num_errors = trt, 1

    def parse(self, data: bytes, path: str) -> bool:
        return self.trt.parse_error is None

    def get_error(self, index: int) -> Any:
        return types.SimpleNamespace(desc=lambda: self.trt.parse_error)


class Runtime:
    def __init__(self, trt: TensorRT, logger: Any) -> None:
        self.trt = trt

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        return None if bytes(plan) in self.trt.broken else Engine(self.trt)


class Engine:
    num_io_tensors = 2

    def __init__(self, trt: TensorRT) -> None:
        self.trt = trt

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == "x" else "output"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.trt.shape

    def get_tensor_dtype(self, name: str) -> type[np.float32]:
        return np.float32

    def create_execution_context(self) -> Context:
        return Context(self.trt)


class Context:
    profiler: Any = None

    def __init__(self, trt: TensorRT) -> None:
        self.shape, self.addresses, self.starts = trt.shape, {}, True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 0x51
        count = int(np.prod(self.shape))
        x, y = ((ctypes.c_float * count).from_address(self.addresses[name]) for name in "xy")
        y[:] = [2 * value for value in x]
        if self.profiler is not None:
            self.profiler.report_layer_time("node_Conv_1 + node_y", 0.5)
            self.profiler.report_layer_time("Reformatting CopyNode for Output Tensor 0", 0.25)
        return self.starts


@pytest.fixture(params=["10.3.0", "11.4.1"])
def tensorrt(
    request: pytest.FixtureRequest, gpu: CudaLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TensorRT]:
    """An emulated TensorRT of both major versions, its cache in ``tmp_path``."""
    module = TensorRT(request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.delitem(sys.modules, "kit.backends.tensorrt_rt", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save(tmp_path / "x.onnx", [("Add", ["x", "x"], ["y"])], [1, 3])
    yield module
    sys.modules.pop("kit.backends.tensorrt_rt", None)


def test_tensorrt_builds_keeps_and_runs(tensorrt: TensorRT, gpu: CudaLibrary, tmp_path: Path) -> None:
    backend = backends.load("tensorrt")
    assert backend.probe().version == tensorrt.__version__ and backend.target == "gpu"
    session = backend.open(tmp_path / "x.onnx", None, 1)
    (facts,) = tensorrt.built
    assert facts["flags"] == (2 if tensorrt.__version__.startswith("10") else 0)
    assert facts["cleared"] == {"TF32"} and facts["profiles"] == []
    assert session.inputs == (TensorSpec(name="x", shape=(1, 3), dtype="float32"),)
    feeds = backends.make_feeds(session.inputs, 0)
    assert np.array_equal(session.run(feeds)[0], feeds["x"] * 2)
    session.prepare(feeds)()
    assert session.device_ns is not None and session.device_ns(3) == 0.0
    layers = session.layers(feeds, calls=4)
    assert [(n.name[:11], n.time_s, n.calls) for n in layers.nodes] == [
        ("node_Conv_1", 5e-4, 4),
        ("Reformattin", 2.5e-4, 4),
    ]
    assert layers.nodes[1].kind == "TensorRT"
    session.close()
    assert not gpu.blocks, "every buffer was freed"
    again = backend.open(tmp_path / "x.onnx", None, 1)
    assert len(tensorrt.built) == 1 and "built earlier" in again.notes[0], "every run times the same engine"


def test_an_engine_that_no_longer_loads_is_built_again(tensorrt: TensorRT, tmp_path: Path) -> None:
    backend = backends.load("tensorrt")
    backend.open(tmp_path / "x.onnx", None, 1)
    tensorrt.broken.add(b"plan 1")
    session = backend.open(tmp_path / "x.onnx", None, 1)
    assert len(tensorrt.built) == 2 and "built and stored" in session.notes[0]
    (plan,) = (tmp_path / "cache/insitu-kit/tensorrt").iterdir()
    assert plan.read_bytes() == b"plan 2"
    tensorrt.broken |= {b"plan 2", b"plan 3"}
    with pytest.raises(BackendUnavailable, match="does not load the engine that it just built"):
        backend.open(tmp_path / "x.onnx", None, 1)


def test_the_engine_key_holds_what_an_engine_depends_on(
    tensorrt: TensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends.load("tensorrt")
    trt = importlib.import_module("kit.backends.tensorrt_rt")

    def key(batch: int | None = None) -> str:
        shapes = {"x": (batch, 3)} if batch else {}
        return trt.engine_key(tmp_path / "x.onnx", cuda.load(), shapes)  # type: ignore[no-any-return]

    keys = [key(), key(4)]
    assert key() == keys[0]
    monkeypatch.setattr(cuda, "gpu_name", lambda: "another GPU")
    keys.append(key())
    monkeypatch.setattr(cuda.Cuda, "driver_version", lambda self: "550.1")
    keys.append(key())
    monkeypatch.setattr(tensorrt, "__version__", "10.9.0")
    keys.append(key())
    save(tmp_path / "x.onnx", [("Mul", ["x", "x"], ["y"])], [1, 3])
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_tensorrt_fixes_a_free_batch(tensorrt: TensorRT, tmp_path: Path) -> None:
    tensorrt.shape = (-1, 3)
    save(tmp_path / "x.onnx", [("Add", ["x", "x"], ["y"])], ["batch", 3])
    session = backends.load("tensorrt").open(tmp_path / "x.onnx", None, 1, 4)
    (profile,) = tensorrt.built[0]["profiles"]
    assert profile.shapes == {"x": ((4, 3), (4, 3), (4, 3))} and session.inputs[0].shape == (4, 3)
    feeds = backends.make_feeds(session.inputs, 0)
    assert np.array_equal(session.run(feeds)[0], feeds["x"] * 2)


def test_what_tensorrt_refuses(tensorrt: TensorRT, gpu: CudaLibrary, tmp_path: Path) -> None:
    backend = backends.load("tensorrt")
    with pytest.raises(UsageError, match="fixed batch 1, not 8"):
        backend.open(tmp_path / "x.onnx", None, 1, 8)
    (tmp_path / "rubbish.onnx").write_text("no model")
    with pytest.raises(BadModel, match="not an ONNX model"):
        backend.open(tmp_path / "rubbish.onnx", None, 1)
    unsigned = [("QuantizeLinear", ["x", "s", "z"], ["q"]), ("DequantizeLinear", ["q", "s", "z"], ["y"])]
    save(tmp_path / "u8.onnx", unsigned, [1, 3], s=np.float32(0.1), z=np.uint8(128))
    with pytest.raises(UsageError, match="unsigned activations.*S8S8"):
        backend.open(tmp_path / "u8.onnx", None, 1)
    save(tmp_path / "s8.onnx", unsigned, [1, 3], s=np.float32(0.1), z=np.int8(0))
    backend.open(tmp_path / "s8.onnx", None, 1)
    tensorrt.parse_error = "Unsupported operator Frobnicate.\nmore"
    save(tmp_path / "odd.onnx", [("Frobnicate", ["x"], ["y"])], [1, 3])
    with pytest.raises(BadModel, match="cannot read .*Unsupported operator Frobnicate.$"):
        backend.open(tmp_path / "odd.onnx", None, 1)


def test_an_inference_that_does_not_start_is_not_timed(
    tensorrt: TensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = backends.load("tensorrt").open(tmp_path / "x.onnx", None, 1)
    monkeypatch.setattr(session._context, "starts", False)  # type: ignore[attr-defined]
    call = session.prepare(backends.make_feeds(session.inputs, 0))
    with pytest.raises(BackendUnavailable, match="could not start the inference"):
        call()


def test_an_old_tensorrt_is_refused(tensorrt: TensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backends.load("tensorrt")
    monkeypatch.setattr(tensorrt, "__version__", "8.6.1")
    availability = backend.probe()
    assert not availability.available and "too old" in (availability.reason or "") and availability.fix


# -------------------------------------------------------------------------------------------------------------- the verb


def test_the_verb_lists_every_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "onnxruntime": backends.Probe("1.2.3"),
        "tensorrt": backends.Probe(None, "No module.", "pip install it."),
    }
    monkeypatch.setattr(backends, "probe", lambda name: answers.get(name, backends.Probe(None, "Not here.", "Get it.")))
    app = typer.Typer()
    runtimes.add_to(app)
    listed = json.loads(CliRunner().invoke(app, ["--json"]).stdout)["backends"]
    assert [row["name"] for row in listed] == list(backends.LEAVES)
    rows = {row["name"]: row for row in listed}
    assert rows["onnxruntime"]["version"] == "1.2.3" and rows["onnxruntime"]["available"]
    assert rows["tensorrt"]["fix"] == "pip install it." and not rows["tensorrt"]["tried"]
    text = CliRunner().invoke(app, []).stdout
    assert "pip install it." in text and "untested on hardware" in text
