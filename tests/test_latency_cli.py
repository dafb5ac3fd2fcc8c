"""``kit fit --out`` and ``kit predict`` as a person meets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import simulated
import typer.testing
from test_cli import complaint, kit

from kit import latency, store, variants
from kit.cli import app, run
from kit.errors import BackendUnavailable
from kit.latency import networks

NETS = simulated.sample(24, 0)


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latency") / "p.jsonl"
    for profile in simulated.Machine(0).profiles(NETS[:12]):
        store.append_line(path, profile)
    return path


def test_fit_writes_a_model_and_predict_reads_it(tmp_path: Path, profiles: Path, tiny_build: Path) -> None:
    data = json.loads(kit("fit", profiles, "--out", "m.json", "--json", cwd=tmp_path).stdout)
    about = data["predictor"]
    assert (
        data["latency_models"]
        and about["file"] == "m.json"
        and about["chosen"] in latency.MODEL_FAMILIES
        and about["records"] == 12
    )
    assert {s["form"] for s in about["scores"]} >= {"factor", "kinds", "roofline", "learned", "papers", "lookup"}
    shown = kit("fit", profiles, cwd=tmp_path)
    assert "lambda in cycles per MAC" in shown.stdout and "cross-validation" in shown.stdout
    assert f"Chosen: {about['reason']}" in shown.stdout.replace("\n", " ")
    legend = " ".join(shown.stdout.split())
    assert "* is the chosen family" in legend and "p: how often random signs" in legend

    source = sorted(tiny_build.glob("*.onnx"))[0]
    shutil.copy(source, tmp_path / "own.onnx")
    printed = json.loads(kit("predict", "own.onnx", "--model", "m.json", "--json", cwd=tmp_path).stdout)
    (row,) = printed["predictions"]
    assert printed["form"] == about["chosen"] and printed["level"] == 0.9 and printed["point"] == "t1"
    assert row["family"] is None and row["extrapolates"] and "no network of its family was measured" in row["why"]
    assert 0 < row["interval_s"][0] < row["predicted_s"] < row["interval_s"][1]
    table = kit("predict", "own.onnx", "own.onnx", "--model", "m.json", cwd=tmp_path)
    assert "not measured" in " ".join(table.stdout.split()) and "own.onnx is an extrapolation" in table.stderr


def test_fit_transfers_from_another_device(tmp_path: Path, profiles: Path) -> None:
    for profile in simulated.Machine(0, speed=3).profiles(NETS[12:18], device="new"):
        store.append_line(tmp_path / "new.jsonl", profile)
    words = ("fit", "new.jsonl", "--from", profiles, "--out", "m.json", "--json")
    about = json.loads(kit(*words, cwd=tmp_path).stdout)["predictor"]
    assert about["borrowed_from"] == "simulated" and latency.load(tmp_path / "m.json").device_id == "new"


def test_predict_takes_the_model_that_run_writes(
    tmp_path: Path, profiles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, file = store.read_profiles([profiles]), tmp_path / run.MODEL
    assert len(run._fit(records, file, 0)) == 1 and capsys.readouterr().err == ""
    (row,) = json.loads(
        kit("predict", "resnet18-d2.2.2.2-w1.00-fp32-224", "--model", file, "--json", cwd=tmp_path).stdout
    )["predictions"]
    assert 0 < row["interval_s"][0] < row["predicted_s"] < row["interval_s"][1]
    assert (
        run._fit(records[:2], file, 0) == () and not file.exists()
    )  # a model of other records would be taken for theirs
    assert "No latency model: A line needs 3" in capsys.readouterr().err


def test_wrong_words_are_one_sentence(tmp_path: Path, profiles: Path) -> None:
    latency.save(tmp_path / "m.json", latency.predictor(store.read_profiles([profiles]), baselines=False))
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "old.json").write_text("[]")
    for words, says in (
        (("predict", "none.onnx", "--model", "m.json"), "none.onnx does not exist"),
        (("predict", "text.onnx", "--model", "m.json"), "not an ONNX model"),
        (("predict", "text.onnx", "--model", "old.json"), "efficiency factors alone"),
        (("predict", "text.onnx", "--model", "none.json"), "does not exist"),
        (("predict", "text.onnx", "--model", "m.json", "--clock-ghz", "nan"), "no clock"),
        (("fit", profiles, "--backend", "openvin"), "Unknown backend 'openvin'"),
        *(
            (("fit", profiles, f"--level={level}"), f"A level of {level} cannot be")
            for level in ("1.5", "nan", "0", "1", "-1")
        ),
    ):
        assert says in complaint(*words, cwd=tmp_path, code=2)


def test_a_board_without_onnx_reads_the_sidecar_or_says_what_to_do(
    tmp_path: Path, tiny_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    from kit.variants import describe

    shutil.copy(sorted(tiny_build.glob("*.onnx"))[0], tmp_path / "own.onnx")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    with pytest.raises(BackendUnavailable, match="run kit describe own.onnx on a PC"):
        networks.of_file(tmp_path / "own.onnx", variants.kernels)
    described = describe.describe_onnx(tmp_path / "own.onnx")
    assert networks.of_file(tmp_path / "own.onnx", variants.kernels).kernels == described.kernels
    (tmp_path / "own.onnx").write_bytes(
        (tmp_path / "own.onnx").read_bytes() + b"\x00"
    )  # the sidecar is of another file
    with pytest.raises(BackendUnavailable):
        networks.of_file(tmp_path / "own.onnx", variants.kernels)


def test_predict_answers_help() -> None:
    shown = typer.testing.CliRunner().invoke(app, ["predict", "--help"])
    assert shown.exit_code == 0 and "--model" in shown.output


def test_predict_takes_sizes_of_free_dimensions(tmp_path: Path, profiles: Path) -> None:
    onnx = pytest.importorskip("onnx")
    kit("fit", profiles, "--out", "m.json", cwd=tmp_path)
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    weights = [onnx.numpy_helper.from_array(np.ones((24, 40), np.float32), "w")]
    ends = [helper.make_tensor_value_info(name, number, ["batch", "tokens", n]) for name, n in (("x", 24), ("y", 40))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "f.onnx")

    def macs(*words: object) -> int:
        (row,) = json.loads(kit("predict", "f.onnx", *words, "--model", "m.json", "--json", cwd=tmp_path).stdout)[
            "predictions"
        ]
        return int(row["macs"])

    sentence = complaint("predict", "f.onnx", "--model", "m.json", cwd=tmp_path, code=2)
    assert "kit describe and kit predict take the same options" in sentence and sentence.endswith("--dim tokens=128")
    assert "no sidecar, which a package needs: write it with kit describe f.onnx" in complaint(
        "library", "add", "f.onnx", "--to", "lib", cwd=tmp_path, code=2
    )
    assert macs("--dim", "tokens=7") == 7 * 24 * 40
    kit("describe", "f.onnx", "--dim", "tokens=11", "--dim", "batch=2", cwd=tmp_path)
    assert (macs(), macs("--dim", "tokens=5")) == (2 * 11 * 24 * 40, 2 * 5 * 24 * 40)
    assert "did you mean 'tokens'" in complaint(
        "predict", "f.onnx", "--dim", "token=5", "--model", "m.json", cwd=tmp_path, code=2
    )
    of_an_id = complaint(
        "predict", "resnet18-d2.2.2.2-w1.00-fp32-224", "--dim", "seq=5", "--model", "m.json", cwd=tmp_path, code=2
    )
    assert "--dim is about an .onnx file" in of_an_id
