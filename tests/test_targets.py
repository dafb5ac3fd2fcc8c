"""What a person names becomes what can be measured, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic

from kit import store
from kit.errors import BackendUnavailable, BadModel, BadRecord, IntegrityError, UnknownName, UsageError
from kit.measure import forkserver, targets, worker
from kit.records import Artifact, FileRef, TensorSpec

SPEC = TensorSpec(name="x", shape=(1, 4), dtype="float32")


def described(monkeypatch: pytest.MonkeyPatch, reply: worker.WorkerReply) -> list[worker.WorkerRequest]:
    """Answer every question about a bare file with ``reply``; returns the requests."""
    requests: list[worker.WorkerRequest] = []

    def ask(request: worker.WorkerRequest, timeout_s: float) -> worker.WorkerReply:
        requests.append(request)
        return reply

    monkeypatch.setattr(forkserver, "ask", ask)
    return requests


def variant(folder: Path, name: str, data: bytes = b"model") -> Path:
    """An .onnx with its sidecar, as a build folder holds it; no runtime looks at its bytes."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.onnx"
    path.write_bytes(data)
    artifact = synthetic.artifact(name)
    model = artifact.model.model_copy(update={"sha256": store.sha256_bytes(data), "size_bytes": len(data)})
    store.write_record(path.with_suffix(".json"), artifact.model_copy(update={"model": model}))
    return path


def test_targets_that_cannot_be_are_refused(tmp_path: Path) -> None:
    cases = {
        "none.onnx": "does not exist",
        "resnet18-d8-w1.00-fp32-32": "--build",
        "whatever": "give an .onnx file",
        str(tmp_path): "holds no variant",
        "fake:1us": "--backend fake",
    }
    for text, says in cases.items():
        with pytest.raises(UsageError, match=says):
            targets.resolve([text], backend="onnxruntime")
    with pytest.raises(UsageError, match="like fake:250us"):
        targets.resolve(["fake:fast"], backend="fake")
    with pytest.raises(UsageError, match="holds no variant resnet18"):
        targets.resolve(["resnet18-d8-w1.00-fp32-32"], backend="onnxruntime", build=tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"neither an \.onnx file nor a build folder"):
        targets.resolve([str(tmp_path / "notes.txt")], backend="onnxruntime")
    with pytest.raises(UsageError, match="no UTF-8 file name"):
        targets.resolve(["\udcff.onnx"], backend="onnxruntime")


def test_an_ending_in_capitals_is_an_ending(tmp_path: Path) -> None:
    path = variant(tmp_path / "b", "net").rename(tmp_path / "b" / "NET.ONNX")
    sidecar = (tmp_path / "b" / "net.json").rename(tmp_path / "b" / "NET.json")
    artifact = store.read_record(sidecar, Artifact)
    store.write_record(sidecar, artifact.model_copy(update={"model": store.file_ref(path)}))
    for name in (path, path.parent):
        (target,) = targets.resolve([str(name)], backend="onnxruntime")
        assert (target.path, target.artifact.model.file) == (path, "NET.ONNX")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet18", r"kit explore resnet18 .* kit export"),
        ("resnet20-d3.3.4-w1.00-fp32-32", r"stages keep 1 to 3\.3\.3 blocks"),
        ("vit_tiny-d13-w1.00-fp32-224", "keeps 1 to 12 blocks"),
        ("allocator_b-d4-w1.00-fp32-30", "keeps 1 to 3 blocks"),
        ("resnet20-d3.3.3-w0.99-fp32-32", "no width 0.99"),
        ("resnet18-d7-w1.00-fp32-32", "of resnet18 it holds the depths 2, 8"),
        ("resnet18-d8-w0.50-fp32-32", "holds no variant resnet18-d8-w0.50-fp32-32; it holds"),
        ("ending", r"rename it to ending\.onnx"),
    ],
)
def test_a_name_that_is_nearly_one_says_what_there_is(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ending").touch()
    for depth in (2, 8):
        variant(tmp_path / "b", f"resnet18-d{depth}-w1.00-fp32-32")
    with pytest.raises(UsageError, match=says):
        targets.resolve([name], backend="onnxruntime", build=tmp_path / "b", folder=tmp_path)


def test_a_backend_that_is_missing_is_reported_before_any_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="did you mean 'onnxruntime'"):
        targets.resolve(["none.onnx"], backend="onnxruntim")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match="pip install"):
        targets.resolve(["none.onnx"], backend="onnxruntime")


def test_a_build_folder_a_file_and_an_id_name_the_same(tmp_path: Path) -> None:
    names = ["resnet18-d2-w1.00-fp32-32", "resnet18-d8-w1.00-fp32-32"]
    paths = [variant(tmp_path / "b", name, name.encode()) for name in names]
    of_build = targets.resolve([str(tmp_path / "b")], backend="onnxruntime")
    assert [t.artifact.artifact_id for t in of_build] == names and [t.path for t in of_build] == paths
    assert targets.resolve([str(paths[1])], backend="onnxruntime") == of_build[1:]
    assert targets.resolve([names[1]], backend="onnxruntime", build=tmp_path / "b") == of_build[1:]


def test_a_file_that_is_named_twice_is_measured_once(tmp_path: Path) -> None:
    path = variant(tmp_path / "b", "net")
    (tmp_path / "copy.onnx").write_bytes(path.read_bytes())
    copy = variant(tmp_path / "c", "copy")
    resolved = targets.resolve([str(path), str(tmp_path / "b"), str(copy)], backend="onnxruntime")
    assert [t.path for t in resolved] == [copy]  # equal bytes are one network; the last name stays


def test_fake_targets_need_no_file() -> None:
    first, second = targets.resolve(["fake:250us", "fake:crash", "fake:250us"], backend="fake")
    assert first.artifact.artifact_id == "fake:250us" and first.artifact.model.file == "fake-250us"
    assert second.artifact.model.sha256 != first.artifact.model.sha256


# ------------------------------------------------------------------------------------------------------------ bare files


def test_a_bare_file_is_described_by_its_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = described(monkeypatch, worker.WorkerReply(status="ok", inputs=(SPEC,), outputs=(SPEC,)))
    (tmp_path / "net.onnx").write_bytes(b"float weights")
    (tmp_path / "quick.onnx").write_bytes(b"other weights")
    resolved = targets.resolve([str(tmp_path / "net.onnx"), str(tmp_path / "quick.onnx")], backend="onnxruntime")
    assert [t.artifact.precision for t in resolved] == ["fp32", "fp32"], "what is no graph states no precision"
    assert [r.describe for r in requests] == [True, True]
    artifact = resolved[0].artifact
    assert (artifact.artifact_id, artifact.macs, artifact.inputs) == ("net", None, (SPEC,))
    assert artifact.model.sha256 == store.sha256_bytes(b"float weights") and artifact.model.size_bytes == 13


def test_a_file_that_no_runtime_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described(monkeypatch, worker.WorkerReply(status="unsupported", reason="net.onnx is not an ONNX model."))
    (tmp_path / "net.onnx").write_bytes(b"text")
    with pytest.raises(BadModel, match="not an ONNX model"):
        targets.resolve([str(tmp_path / "net.onnx")], backend="onnxruntime")


def test_weights_without_a_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described(monkeypatch, worker.WorkerReply(status="ok", inputs=(SPEC,), outputs=(SPEC,)))
    data = b"\x3a\x04\x2a\x02\x70\x01"  # a graph of one tensor, of which only data_location is stated: external
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(BadModel, match="outside its own folder"):
        targets.resolve([str(tmp_path / "net.onnx")], backend="onnxruntime")
    model = FileRef(file="net.onnx", sha256=store.sha256_bytes(data), size_bytes=len(data))
    store.write_record(tmp_path / "net.json", Artifact(artifact_id="net", model=model, inputs=(SPEC,), outputs=(SPEC,)))
    with pytest.raises(BadModel, match="outside its own folder"):
        targets.resolve([str(tmp_path / "net.onnx")], backend="onnxruntime")


def test_a_name_that_cannot_be_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described(monkeypatch, worker.WorkerReply(status="ok", inputs=(SPEC,), outputs=(SPEC,)))
    (tmp_path / "a\\b.onnx").write_bytes(b"model")
    with pytest.raises(UsageError, match="rename it"):
        targets.resolve([str(tmp_path / "a\\b.onnx")], backend="onnxruntime")


def test_somebody_elses_json_is_no_sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described(monkeypatch, worker.WorkerReply(status="ok", inputs=(SPEC,), outputs=(SPEC,)))
    for number, text in enumerate(('{"labels": ["cat"]}', "no JSON", "[1]")):
        path = tmp_path / f"net{number}.onnx"
        path.write_bytes(text.encode())
        path.with_suffix(".json").write_text(text)
        (resolved,) = targets.resolve([str(path)], backend="onnxruntime")
        assert resolved.artifact.macs is None


# -------------------------------------------------------------------------------------------------------------- sidecars


def test_a_sidecar_that_names_another_file(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"a")
    (tmp_path / "c.onnx").write_bytes(b"c")
    store.write_record(tmp_path / "c.json", synthetic.artifact("a"))
    with pytest.raises(IntegrityError, match="c.onnx is not the file that c.json describes"):
        targets.resolve([str(tmp_path / "c.onnx")], backend="onnxruntime")


def test_a_model_that_is_not_the_one_its_sidecar_describes(tmp_path: Path) -> None:
    artifact = synthetic.artifact("net")
    (tmp_path / "net.onnx").write_bytes(b"another model")
    store.write_record(tmp_path / "net.json", artifact)
    with pytest.raises(IntegrityError, match="not the file that net.json describes"):
        targets.resolve([str(tmp_path / "net.onnx")], backend="onnxruntime")


def test_a_sidecar_that_is_broken(tmp_path: Path) -> None:
    path = variant(tmp_path / "b", "net")
    path.with_suffix(".json").write_text('{"kind": "artifact", "schema_version": 1, "artifact_id": 5}')
    with pytest.raises(BadRecord, match="net.json is not a valid artifact record"):
        targets.resolve([str(path)], backend="onnxruntime")
