"""kit robustness: accuracy after downloads with bit errors, kept and gone on with; what cannot be is one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import colours
import numpy as np
import pytest
from invoke import kit
from typer.testing import CliRunner

onnx = pytest.importorskip("onnx")

from kit import evaluation, store, variants  # noqa: E402
from kit.cli import app  # noqa: E402
from kit.errors import BadModel, KitError, MeasurementError, UsageError  # noqa: E402
from kit.variants import bad_link, bitflips  # noqa: E402
from kit.variants.bad_link import Channel, Robustness  # noqa: E402


def pairs() -> Iterator[tuple[np.ndarray[Any, Any], int]]:
    """Twelve inputs whose strongest channel is the label."""
    for i in range(12):
        image = np.full((3, 8, 8), 0.1, np.float32)
        image[i % 3] = 1
        yield image, i % 3


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A network that is right."""
    return colours.network(tmp_path / "net.onnx")


def run(*files: Path, out: Path | None = None, **settings: Any) -> Robustness:
    channel = Channel(**{"bers": (0.0, 0.2), "payloads": ("fp32", "int8"), "draws": 5, **settings})
    return bad_link.robustness(files, pairs, evaluation.Request(threads=1), channel, out=out)


def test_draws_are_evaluated_and_sizes_are_of_the_first_file(net: Path, tmp_path: Path) -> None:
    other = colours.network(tmp_path / "other.onnx", (0, 1, 1))
    result = run(net, other, payloads=("fp32", "fp32-clipped", "int8"))
    assert (result.samples, result.draws, result.metric, result.exposed) == (12, 5, "top1", "weights")
    assert len(result.cells) == 2 * 3 * 2 and not net.with_suffix(".json").exists()
    assert result.at("net.onnx", "fp32", 0.0).accuracies == (1.0,)  # without errors all draws are one
    assert result.at("other.onnx", "int8", 0.0).clean == 8 / 12
    broken = result.at("net.onnx", "fp32", 0.2)
    assert len(broken.accuracies) == 5 and broken.worst < 1 and broken.worst <= broken.median and broken.mean < 1
    assert result.at("net.onnx", "fp32", 0.2).share_of_root == 1
    assert result.at("net.onnx", "int8", 0.2).download_bytes > 0
    assert set(bad_link.sufficient(result, 0.0)) >= {("net.onnx", "fp32", True)}
    with pytest.raises(KeyError):
        result.at("net.onnx", "bf16", 0.0)


def test_a_run_that_was_stopped_goes_on_and_ends_alike(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "draws.json", 0
    whole = run(net)

    def stopped(transmission: Any, ber: float, generator: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise KeyboardInterrupt
        return received(transmission, ber, generator)

    received = bitflips.Transmission.received
    monkeypatch.setattr(bitflips.Transmission, "received", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(net, out=out)
    assert len(store.read_record(out, Robustness).cells) == 1
    monkeypatch.setattr(bitflips.Transmission, "received", received)
    assert run(net, out=out).cells == whole.cells
    monkeypatch.setattr(bitflips.Transmission, "received", None)
    assert run(net, out=out).cells == whole.cells  # nothing is drawn again
    assert run(net, out=out, bers=(0.0,)).cells == tuple(c for c in whole.cells if not c.ber)
    assert store.read_record(out, Robustness).cells[2:]  # and what this run did not need is kept


def test_another_seed_file_or_data_is_another_cell(net: Path, tmp_path: Path) -> None:
    first = {c.key for c in run(net).cells}
    assert not first & {c.key for c in run(net, seed=1).cells if c.ber}
    assert not first & {c.key for c in run(net, everything=True).cells}
    assert not first & {c.key for c in run(colours.network(tmp_path / "x.onnx", (0, 1, 1))).cells}


def test_everything_exposed_loses_more(net: Path) -> None:
    draws = {"bers": (0.02,), "payloads": ("int8",), "draws": 30}
    assert run(net, everything=True, **draws).cells[0].mean <= run(net, **draws).cells[0].mean


def test_a_download_that_does_not_run_counts_as_nothing(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracy = evaluation.Trial.accuracy

    def refused(trial: evaluation.Trial, file: Path) -> Any:
        if file.name == "received.onnx":
            raise MeasurementError("no")
        return accuracy(trial, file)

    monkeypatch.setattr(evaluation.Trial, "accuracy", refused)
    cell = run(net).cells[0]
    assert (cell.failures, cell.accuracies, cell.clean) == (1, (0.0,), 1.0)


def test_large_models_are_received_with_their_weights_beside(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bad_link, "_ONE_FILE_BYTES", 10)
    assert run(net, bers=(0.0,)).cells[0].accuracies == (1.0,)


def test_a_trial_keeps_its_samples_and_bounds_them(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = evaluation.Request(threads=1)
    trial = evaluation.Trial(net, pairs, request, describe=variants.artifact)
    assert trial.accuracy(net).correct_count == 12 and trial.accuracy(net).count == 12
    assert trial.digest == evaluation.Trial(net, pairs, request, describe=variants.artifact).digest
    monkeypatch.setattr("kit.evaluation.scoring.KEPT_BYTES", 3000)
    with pytest.raises(UsageError, match=r"The first 4 samples of .*--limit 2"):
        evaluation.Trial(net, pairs, request, describe=variants.artifact)


# ------------------------------------------------------------------------------------------------------------ the command line


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def pairs():\n"
        "    for i in range(12):\n"
        "        image = np.full((3, 8, 8), 0.1, np.float32); image[i % 3] = 1\n"
        "        yield image, i % 3\n"
    )
    return tmp_path


DATA = ("--data", "mine.py:pairs", "--draws", "4", "--ber", "0,1e-3,0.3")


def test_the_verb_prints_a_table_and_what_suffices(net: Path, here: Path) -> None:
    printed = kit("robustness", "net.onnx", *DATA, "--payload", "fp32,int8", "--out", "draws.json")
    assert "4 downloads a rate, 12 samples of mine.py:pairs" in printed and "0.001" in printed and "100.0%" in printed
    assert "net.onnx: at a BER of 0.001, 99% of the accuracy is kept in the median by" in printed
    data = json.loads(kit("robustness", "net.onnx", *DATA, "--payload", "fp32,int8", "--out", "draws.json", "--json"))
    assert data["kind"] == "robustness" and len(data["cells"]) == 6
    assert {"mean", "median", "worst", "accuracies", "share_of_root", "protected_share"} <= set(data["cells"][0])
    rows = kit("robustness", "net.onnx", *DATA, "--out", "draws.json", "--payload", "int8", "--csv").splitlines()
    assert len(rows) == 4 and rows[0].startswith("network,payload,size")


def test_images_are_read_as_kit_evaluate_reads_them(net: Path, here: Path) -> None:
    pytest.importorskip("PIL")
    colours.archive(here / "images.zip", {f"test/{name}": data for name, data in colours.files().items()})
    (here / "classes.txt").write_text("\n".join(colours.ORDER))
    words = (
        "--data",
        "images.zip/test",
        "--classes",
        "classes.txt",
        "--mean",
        "0",
        "--std",
        "1",
        "--ber",
        "0",
        "--payload",
        "int8",
    )
    assert json.loads(kit("robustness", "net.onnx", *words, "--json"))["cells"][0]["accuracies"] == [1.0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("net.onnx",), "needs --data"),
        (("net.onnx", *DATA, "--payload", "fp23"), "Unknown payload 'fp23'"),
        (("net.onnx", *DATA[:4], "--ber", "0,often"), "--ber often is no number"),
        (("net.onnx", *DATA[:4], "--ber", "2"), "bit error rate of 2 cannot be"),
        (("net.onnx", *DATA[:4], "--ber", ","), "at least one bit error rate"),
        (("net.onnx", *DATA, "--expose", "some"), "Unknown --expose 'some'"),
        (("gone.onnx", *DATA), "gone.onnx"),
        (("net.onnx", "mine.py", *DATA), "mine.py is not an ONNX model"),
        (("net.onnx", *DATA, "--out", "mine.json"), "no result of kit robustness"),
        (("wrong.onnx", *DATA), "answers nothing correctly"),
        (("identity.onnx", *DATA), "no weights of two dimensions"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_a_sentence(net: Path, here: Path, words: tuple[str, ...], sentence: str) -> None:
    (here / "mine.json").write_text("{}")
    colours.network(here / "wrong.onnx", (1, 2, 0))
    pool(here / "identity.onnx")
    completed = CliRunner().invoke(app, ["robustness", *words])
    assert isinstance(completed.exception, (KitError, UsageError, BadModel)), completed.output
    assert sentence in str(completed.exception) and "\n" not in str(completed.exception)


def pool(path: Path) -> None:
    """A network that is right and has no weights."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    x = helper.make_tensor_value_info("x", kind, ["N", 3, 8, 8])
    y = helper.make_tensor_value_info("y", kind, ["N", 3])
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    graph = helper.make_graph(nodes, "pool", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


def quantized(path: Path) -> None:
    """The network that is right with its weights as int8, dequantized in the graph."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=1),
        helper.make_node("MatMul", ["mean", "d"], ["y"]),
    ]
    constants = {"w": np.eye(3, dtype=np.int8) * 100, "s": np.full(3, 0.01, np.float32), "z": np.zeros(3, np.int8)}
    x = helper.make_tensor_value_info("x", kind, ["N", 3, 8, 8])
    graph = helper.make_graph(
        nodes, "q", [x], [helper.make_tensor_value_info("y", kind, ["N", 3])],
        initializer=[onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


def test_a_quantized_file_is_sent_as_it_is_stored(net: Path, here: Path) -> None:
    quantized(here / "eight.onnx")
    cells = json.loads(kit("robustness", "net.onnx", "eight.onnx", *DATA, "--payload", "bf16,int8", "--json"))["cells"]
    assert [c["payload"] for c in cells] == ["bf16"] * 3 + ["int8"] * 3 + ["stored"] * 3
    assert cells[-3]["accuracies"] == [1.0] and cells[-1]["exposed_bits"] == 8 * 9
