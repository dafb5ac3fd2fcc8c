"""Split inference: two halves that answer as the network, features that are weighed and scored, and the cut that a link wants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import colours
import numpy as np
import pytest
from invoke import kit
from typer.testing import CliRunner

onnx = pytest.importorskip("onnx")
import onnxruntime as ort  # noqa: E402
import synthetic as records  # noqa: E402
from onnx import TensorProto as T  # noqa: E402
from onnx import helper  # noqa: E402

from kit import evaluation, spaces, split, store  # noqa: E402
from kit.cli import app  # noqa: E402
from kit.errors import BadModel, KitError, MeasurementError, NoAnswer  # noqa: E402
from kit.records import Accuracy, Cut, FileRef, Part, SplitNetwork, SubNetwork  # noqa: E402
from kit.variants import splits  # noqa: E402


def run(path: Path, **feeds: np.ndarray) -> list[np.ndarray]:
    return list(ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    spaces.write(SubNetwork.parse("resnet18-d1.1.1.1-w0.25-fp32-96"), path)
    return path


@pytest.fixture(scope="module")
def made(resnet: Path) -> tuple[SplitNetwork, Path]:
    out = resnet.parent / "split"
    return splits.make(resnet, out), out


def test_the_halves_behind_each_other_answer_as_the_network(resnet: Path, made: tuple[SplitNetwork, Path]) -> None:
    network, out = made
    image = np.random.default_rng(1).normal(size=(1, 3, 96, 96)).astype(np.float32)
    (whole,) = run(resnet, input=image)
    assert len(network.cuts) == splits.CUTS + 2
    for cut in network.cuts[1:-1]:
        assert cut.device is not None and cut.server is not None and cut.feature is not None and cut.tensor is not None
        (feature,) = run(out / cut.device.model.file, input=image)
        assert feature.shape == cut.feature.shape and feature.nbytes == cut.raw_bytes == 4 * (cut.int8_bytes - 8)
        (answer,) = run(out / cut.server.model.file, **{cut.tensor: feature})
        assert np.allclose(answer, whole, rtol=1e-4, atol=1e-5)


def test_work_weights_and_bytes_add_up(resnet: Path, made: tuple[SplitNetwork, Path]) -> None:
    network, out = made
    total = network.cuts[0].server.macs
    assert (
        network.cuts[0].device is None
        and network.cuts[-1].server is None
        and network.cuts[-1].device == network.cuts[0].server
    )
    works = [(cut.device.macs, cut.server.macs) for cut in network.cuts[1:-1]]
    assert all(device + server == total for device, server in works) and works == sorted(works)
    sizes = [cut.device.model.size_bytes + cut.server.model.size_bytes for cut in network.cuts[1:-1]]
    assert max(sizes) < 1.1 * resnet.stat().st_size  # each weight lies in one half
    assert all(cut.coded_bytes < cut.int8_bytes < cut.raw_bytes for cut in network.cuts[1:-1] if cut.raw_bytes > 1000)
    assert network.answer_bytes == 4000 and network.samples is None and network.cuts[1].accuracy is None
    assert split.read_network(out / "net.split.json") == network


def test_cuts_are_scored_on_ones_own_images(tmp_path: Path) -> None:
    colours.folder(tmp_path / "images", colours.files())
    path = colours.network(tmp_path / "net.onnx")
    wishes = evaluation.Wishes(mean=(0.0,), std=(1.0,))
    network = splits.make(
        path, tmp_path / "split", str(tmp_path / "images"), evaluation.Request(wishes=wishes, classes=colours.ORDER)
    )
    assert network.samples == 12 and len(network.cuts) > 2
    for cut in network.cuts:
        assert cut.accuracy is not None and cut.int8_accuracy is not None
        assert cut.accuracy.correct == cut.int8_accuracy.correct == 12


def test_what_8_bits_cannot_tell_apart_costs_accuracy() -> None:
    feature = np.array([[0.0, 1.0, 1.0005, 1000.0]], np.float32)
    arrived = splits.in_8_bits(feature)
    assert (
        arrived.dtype == np.float32
        and arrived[0, 1] == arrived[0, 2]
        and arrived[0, 3] == pytest.approx(1000, rel=1e-3)
    )
    constant = np.full((2, 2), 3.5, np.float16)
    assert np.array_equal(splits.in_8_bits(constant), constant)
    assert np.array_equal(splits.in_8_bits(np.uint8([1, 255])), [1, 255])


def value(name: str, shape: list[Any], kind: int = T.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, np.ndarray] | None = None
) -> Path:
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def test_a_weight_of_both_halves_is_in_both_and_a_body_sees_its_own(tmp_path: Path) -> None:
    """A shared weight, a constant node, and an If whose branches read the cut tensor and a weight from outside."""
    then = helper.make_graph([helper.make_node("Add", ["b", "w"], ["t"])], "then", [], [value("t", [1, 4])])
    other = helper.make_graph([helper.make_node("Sub", ["b", "w"], ["e"])], "else", [], [value("e", [1, 4])])
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("v", T.BOOL, [], [True])),
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("If", ["yes"], ["c"], then_branch=then, else_branch=other),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    weight = np.arange(4, dtype=np.float32)[None]
    path = save(tmp_path / "x.onnx", nodes, [value("x", [1, 4])], [value("y", [1, 4])], {"w": weight})
    network = splits.make(path, tmp_path / "split")
    assert [cut.tensor for cut in network.cuts[1:-1]] == ["a", "b", "c"]
    x = np.ones((1, 4), np.float32)
    for cut in network.cuts[1:-1]:
        assert cut.device is not None and cut.server is not None
        (feature,) = run(tmp_path / "split" / cut.device.model.file, x=x)
        (answer,) = run(tmp_path / "split" / cut.server.model.file, **{str(cut.tensor): feature})
        assert np.array_equal(answer, 2 * weight)


def test_where_two_tensors_go_on_there_is_no_cut(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Exp", ["b"], ["c"]),
        helper.make_node("Add", ["a", "c"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    path = save(tmp_path / "x.onnx", nodes, [value("x", [1, 4])], [value("y", [1, 4])])
    network = splits.make(path, tmp_path / "split")
    assert [cut.tensor for cut in network.cuts[1:-1]] == ["a", "d"]


def test_free_dimensions_are_fixed(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["y"])]
    path = save(tmp_path / "x.onnx", nodes, [value("x", ["batch", "n"])], [value("y", ["batch", "n"])])
    network = splits.make(path, tmp_path / "split", dims={"n": 6})
    assert network.cuts[1].feature is not None and network.cuts[1].feature.shape == (1, 6)


@pytest.mark.parametrize(
    ("nodes", "inputs", "sentence"),
    [
        ([("Relu", ["x"], ["y"])], ["x"], "nowhere narrows to one tensor"),
        ([("Add", ["x", "z"], ["a"]), ("Relu", ["a"], ["y"])], ["x", "z"], "takes 2 inputs"),
        ([("Shape", ["x"], ["a"]), ("Neg", ["a"], ["y"])], ["x"], "nowhere narrows to one tensor of numbers"),
    ],
)
def test_networks_that_cannot_be_cut(nodes: list[Any], inputs: list[str], sentence: str, tmp_path: Path) -> None:
    output = value("y", [2], T.INT64) if nodes[0][0] == "Shape" else value("y", [1, 4])
    path = save(
        tmp_path / "x.onnx", [helper.make_node(*node) for node in nodes], [value(n, [1, 4]) for n in inputs], [output]
    )
    with pytest.raises(BadModel, match=sentence):
        splits.make(path, tmp_path / "split")
    assert not list(tmp_path.rglob("*.split.json"))


# ------------------------------------------------------------------------------------------------------------------- the choice


def part(name: str, size: int) -> Part:
    return Part(artifact_id=name, model=FileRef(file=f"{name}.onnx", sha256="0" * 64, size_bytes=size), macs=1)


def listed() -> SplitNetwork:
    """Three cuts of a network of 10 MB: all on the server, in the middle, all on the device."""
    good, worse = (Accuracy(top1=share, count=100, correct=round(100 * share)) for share in (0.9, 0.85))
    whole = part("whole", 10_000_000)
    return SplitNetwork(
        name="n", source=FileRef(file="n.onnx", sha256="0" * 64, size_bytes=1), answer_bytes=4000,
        cuts=(
            Cut(tensor=None, device=None, server=whole, raw_bytes=600_000, int8_bytes=150_008, coded_bytes=100_000,
                accuracy=good, int8_accuracy=good),
            Cut(tensor="m", device=part("d", 1_000_000), server=part("s", 9_000_000), raw_bytes=40_000, int8_bytes=10_008,
                coded_bytes=5_000, accuracy=good, int8_accuracy=worse),
            Cut(tensor=None, device=whole, server=None, accuracy=good, int8_accuracy=good),
        ),
    )  # fmt: skip


def timed(**median_s: float) -> list[Any]:
    made = []
    for name, seconds in median_s.items():
        record = records.profile(name, seconds)
        model = record.artifact.model.model_copy(update={"sha256": "0" * 64})
        made.append(record.model_copy(update={"artifact": record.artifact.model_copy(update={"model": model})}))
    return made


TIMES = {"whole": 0.1, "d": 0.02, "s": 0.08}


def test_the_time_of_an_input_is_the_sum_of_its_way() -> None:
    link = split.Link(8e6, 80e6, 0.01)
    server, middle, device = split.rows(listed(), timed(**TIMES), timed(**TIMES), link, inputs=100, server_speed=10)
    assert (server.device_s, server.uplink_s, server.download_s) == (0, pytest.approx(0.1 + 0.01), 0)
    assert middle.device_s == pytest.approx(0.02, rel=0.01) and middle.server_s == pytest.approx(0.008, rel=0.01)
    assert middle.uplink_s == pytest.approx(0.005 + 0.01) and middle.downlink_s == pytest.approx(0.0004)
    assert middle.download_s == pytest.approx(0.1 / 100) and device.download_s == pytest.approx(1.0 / 100)
    assert (device.uplink_s, device.server_s, device.downlink_s) == (0, 0, 0)
    assert middle.total_s == pytest.approx(0.02 + 0.015 + 0.008 + 0.0004 + 0.001, rel=0.02)


@pytest.mark.parametrize(
    ("uplink_bps", "inputs", "cut"), [(1e9, 1, 0), (1e6, 1000, 1), (1e5, 1_000_000, 2), (1e9, 1_000_000, 0)]
)  # fmt: skip
def test_the_link_and_the_number_of_inputs_choose_the_cut(uplink_bps: float, inputs: int, cut: int) -> None:
    """Paper D: more samples want a larger model on the device, a faster uplink a smaller one."""
    table = split.rows(
        listed(), timed(**TIMES), timed(**TIMES), split.Link(uplink_bps, 80e6), inputs=inputs, server_speed=10
    )
    assert split.best(table).number == cut


def test_a_loss_that_is_not_allowed_excludes_a_cut() -> None:
    table = split.rows(
        listed(), timed(**TIMES), timed(**TIMES), split.Link(4e6, 80e6), inputs=1000, form="int8", server_speed=10
    )
    assert split.best(table).number == 1 and split.best(table, 0.06).number == 1
    assert split.best(table, 0.01).number != 1
    unknown = listed().model_copy(
        update={"cuts": tuple(c.model_copy(update={"accuracy": None, "int8_accuracy": None}) for c in listed().cuts)}
    )
    rows = split.rows(unknown, timed(**TIMES), timed(**TIMES), split.Link(1e6, 80e6), inputs=1)
    with pytest.raises(NoAnswer, match="--data"):
        split.best(rows, 0.01)


def test_a_half_that_was_not_measured_is_named() -> None:
    with pytest.raises(MeasurementError, match="d was not measured"):
        split.rows(listed(), timed(whole=1.0), timed(**TIMES), split.Link(1e6, 1e6), inputs=1)
    other = [
        r.model_copy(
            update={
                "artifact": r.artifact.model_copy(
                    update={"model": FileRef(file="d.onnx", sha256="1" * 64, size_bytes=1)}
                )
            }
        )
        for r in timed(d=1.0)
    ]
    with pytest.raises(MeasurementError, match="d was not measured"):
        split.rows(listed(), [*timed(whole=1.0), *other], timed(**TIMES), split.Link(1e6, 1e6), inputs=1)


def test_from_a_file_to_the_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    colours.network(tmp_path / "net.onnx")
    printed = json.loads(kit("split", "make", "net.onnx", "--cuts", "1", "--json"))
    words = ("split", "choose", printed["file"])
    chosen = json.loads(kit(*words, "--rounds-max", "1", "--run-s", "0.02", "--uplink-mbps", "0.001", "--json"))
    assert chosen["chosen"] == 2 and chosen["rows"][2]["uplink_s"] == 0 and chosen["rows"][0]["uplink_s"] > 0
    stored = ("--profile", "kit-profiles", "--server-profile", "kit-profiles")
    again = json.loads(kit(*words, *stored, "--uplink-mbps", "0.001", "--json"))
    assert again == chosen
    assert "Fastest" in kit(*words, *stored)
    (file,) = Path("kit-profiles").rglob("*.jsonl")
    other = file.parent.parent / "other"
    other.mkdir()
    (other / file.name).write_text(file.read_text().replace(file.parent.name, "other"))
    refused([*words, *stored], "name the file or folder of one device")
    (other / file.name).unlink()
    for wrong, sentence in {
        ("--form", "smoke"): "Unknown --form 'smoke'",
        ("--uplink-mbps", "0"): "above zero",
        ("--loss", "1"): "no accuracy is known",
    }.items():
        refused([*words, *stored, *wrong], sentence)
    model = tmp_path / "split" / store.read_record(Path(printed["file"]), SplitNetwork).cuts[1].device.model.file  # type: ignore[union-attr]
    model.write_bytes(model.read_bytes() + b"x")
    refused([*words, *stored], "make the cuts again")
    refused(["split", "choose", "net.onnx"], "lists no cuts")
    refused(["split", "make", "gone.onnx"], "gone.onnx")


def refused(words: list[str], sentence: str) -> None:
    completed = CliRunner().invoke(app, words)
    assert isinstance(completed.exception, KitError), completed.output
    assert sentence in str(completed.exception) and "\n" not in str(completed.exception)
