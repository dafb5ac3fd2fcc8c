"""A family of networks with each tensor stored once: every rung answers as its file, and the bytes are those on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invoke import kit
from typer.testing import CliRunner

onnx = pytest.importorskip("onnx")
import onnxruntime as ort  # noqa: E402
from onnx import TensorProto as T  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from kit import store  # noqa: E402
from kit.cli import app  # noqa: E402
from kit.errors import IntegrityError, KitError, UsageError  # noqa: E402
from kit.records import Artifact, Ladder  # noqa: E402
from kit.variants import ladder  # noqa: E402

SIDE = 64
WEIGHTS = [np.random.default_rng(seed).normal(size=(SIDE, SIDE)).astype(np.float32) for seed in range(4)]
TENSOR_BYTES = SIDE * SIDE * 4


def network(path: Path, depth: int, *, weights: list[np.ndarray] = WEIGHTS, form: str = "raw") -> Path:
    """``depth`` products in a row, with a bias that is too small for a file of its own."""
    nodes, tensors, name = [], [], "x"
    for index in range(depth):
        array = weights[index]
        values = array.flatten().tolist() if form == "floats" else array.tobytes()
        tensors.append(helper.make_tensor(f"{path.stem}-w{index}", T.FLOAT, array.shape, values, raw=form == "raw"))
        nodes += [helper.make_node("MatMul", [name, f"{path.stem}-w{index}"], [f"m{index}"])]
        name = f"m{index}"
    tensors.append(numpy_helper.from_array(np.ones(SIDE, np.float32), "bias"))
    nodes.append(helper.make_node("Add", [name, "bias"], ["y"]))
    value = [helper.make_tensor_value_info(n, T.FLOAT, [1, SIDE]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


@pytest.fixture
def family(tmp_path: Path) -> list[Path]:
    """Depths 4, 1 and 2; one of them stores its numbers as a list of floats, under names of its own."""
    return [network(tmp_path / f"d{n}.onnx", n, form="floats" if n == 2 else "raw") for n in (4, 1, 2)]


def run(path: Path, x: np.ndarray) -> np.ndarray:
    return np.asarray(ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0])


def test_each_rung_answers_as_its_file_and_adds_what_is_new(family: list[Path], tmp_path: Path) -> None:
    made = ladder.make(family, tmp_path / "out", "net")
    assert [rung.artifact_id for rung in made.rungs] == ["d1", "d2", "d4"] and [
        rung.tensors for rung in made.rungs
    ] == [1, 2, 4]
    x = np.random.default_rng(9).normal(size=(1, SIDE)).astype(np.float32)
    graphs = 0
    for rung, source in zip(made.rungs, sorted(family), strict=True):
        file = tmp_path / "out" / rung.model.file
        assert np.array_equal(run(file, x), run(source, x))
        assert file.stat().st_size == rung.model.size_bytes < 2000
        graphs += rung.model.size_bytes
    assert [rung.new_bytes - rung.model.size_bytes for rung in made.rungs] == [
        TENSOR_BYTES,
        TENSOR_BYTES,
        2 * TENSOR_BYTES,
    ]
    on_disk = sum(path.stat().st_size for path in (tmp_path / "out" / "tensors").iterdir())
    assert made.shared_bytes == on_disk + graphs == made.rungs[-1].total_bytes and on_disk == 4 * TENSOR_BYTES
    assert made.separate_bytes == 7 * TENSOR_BYTES + graphs and made.overhead < 1.1
    assert {p.name for p in (tmp_path / "out" / "tensors").iterdir()} == {
        store.sha256_bytes(w.tobytes()) for w in WEIGHTS
    }


def test_a_changed_weight_is_not_shared(tmp_path: Path) -> None:
    other = [WEIGHTS[0], WEIGHTS[1] + 1e-6]
    made = ladder.make(
        [network(tmp_path / "a.onnx", 2), network(tmp_path / "b.onnx", 2, weights=other)], tmp_path / "out", "n"
    )
    assert made.rungs[1].new_bytes - made.rungs[1].model.size_bytes == TENSOR_BYTES


def test_a_library_stores_each_tensor_once(family: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kit("ladder", *map(str, family), "--out", "rungs")
    for name in ("d1", "d2", "d4"):
        kit("profile", f"rungs/{name}.onnx", "--rounds-max", "1", "--run-s", "0.02")
        artifact = store.read_record(Path(f"rungs/{name}.json"), Artifact)
        assert len(artifact.data) == int(name[1]) and artifact.macs == int(name[1]) * SIDE * SIDE
    from kit.library import package

    artifacts = [store.read_record(Path(f"rungs/{n}.json"), Artifact) for n in ("d1", "d2", "d4")]
    package.add(Path("library"), Path("rungs"), artifacts, {})
    large = [p for p in Path("library/blobs/sha256").iterdir() if p.stat().st_size == TENSOR_BYTES]
    assert len(large) == 4


def test_weights_that_lie_beside_the_file_already(family: list[Path], tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    model = onnx.load(family[0])
    onnx.save(model, str(tmp_path / "x" / "e.onnx"), save_as_external_data=True, location="e.data", size_threshold=0)
    made = ladder.make([tmp_path / "x" / "e.onnx", family[1]], tmp_path / "out", "n")
    assert made.rungs[-1].tensors == 4 and made.rungs[-1].total_bytes < 4.2 * TENSOR_BYTES


def test_an_answer_that_differs_is_refused(family: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "_raw", lambda tensor: bytes(4 * int(np.prod(tensor.dims))))
    with pytest.raises(IntegrityError, match="does not answer as"):
        ladder.make(family, tmp_path / "out", "n")
    assert not list(tmp_path.rglob("*.ladder.json"))


def test_the_verb(family: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kit("profile", "d1.onnx", "--rounds-max", "1", "--run-s", "0.02")
    printed: dict[str, Any] = json.loads(kit("ladder", *map(str, family), "--profile", "kit-profiles", "--json"))
    assert store.read_record(Path(printed["file"]), Ladder).rungs[0].artifact_id == "d1"
    assert printed["median_s"]["d1"] > 0 and printed["median_s"]["d4"] is None
    assert printed["overhead"] == pytest.approx(printed["shared_bytes"] / printed["ladder"]["rungs"][-1]["alone_bytes"])
    assert "of the largest network alone" in kit("ladder", *map(str, family), "--precision", "fp32")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("d1.onnx",), "only"),
        (("gone.onnx", "d1.onnx"), "gone.onnx does not exist"),
        (("d1.onnx", "d2.onnx", "--precision", "int8"), "there is no network"),
        (("d1.onnx", "d2.onnx", "--precision", "int9"), "Unknown precision 'int9'"),
        (("d1.onnx", "d1.onnx"), "called d1"),
        (("empty",), "holds no variant"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    family: list[Path], tmp_path: Path, words: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    completed = CliRunner().invoke(app, ["ladder", *words])
    assert isinstance(completed.exception, (KitError, UsageError)), completed.output
    assert sentence in str(completed.exception) and "\n" not in str(completed.exception)
