"""Early exits: segments that answer as the network, a policy by measured times, the cascade that runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invoke import kit
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from stripes import DATA  # noqa: E402

import kit as kit_api  # noqa: E402
from kit import early_exit, store  # noqa: E402
from kit.cli import app  # noqa: E402
from kit.early_exit import thresholds  # noqa: E402
from kit.errors import IntegrityError, KitError  # noqa: E402
from kit.records import Artifact, ExitNetwork, ExitPolicy  # noqa: E402
from kit.variants import build as building  # noqa: E402
from kit.variants import datasets, recipes, segments, train  # noqa: E402

NAME = "resnet20-w1.00-fp32-32"
FAST = ("--rounds-max", "1", "--run-s", "0.02")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of resnet20 at its full depth, with its segments, trained for a moment."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        schedule = train.Schedule("adamw", 2e-3, 0.05, epochs=1, batch=32)
        patch.setattr(datasets, "load", lambda request, step: DATA)
        patch.setattr(
            recipes, "recipe_for", lambda *_: recipes.Recipe(schedule, schedule, (1.0,), (9,), (9,), exits=True)
        )
        patch.setattr(train.os, "sched_getaffinity", lambda pid: {0})
        building.build(building.Request("resnet20", datasets.Request("stripes")), folder / "build")
    return folder / "build"


@pytest.fixture(scope="module")
def measured(built: Path) -> dict[str, Any]:
    """What kit exits printed, and kit-profiles beside the build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(built.parent)
        return dict(json.loads(kit("exits", str(listing(built)), "--loss", "5", *FAST, "--json")))


@pytest.fixture
def build(built: Path, measured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the measured build that may be broken; the working folder lies above."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(built.parent / "kit-profiles", "kit-profiles")
    return Path(shutil.copytree(built, tmp_path / "build", ignore=shutil.ignore_patterns("*.policy.json")))


@pytest.fixture
def policy_file(build: Path) -> Path:
    """A policy for it."""
    printed = json.loads(kit("exits", str(listing(build)), "--loss", "10", "--profile", "kit-profiles", "--json"))
    return Path(printed["file"])


def listing(build: Path, precision: str = "fp32") -> Path:
    return build / "exits" / f"{NAME.replace('fp32', precision)}.exits.json"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_segments_in_a_chain_answer_as_the_network(built: Path, precision: str) -> None:
    network = early_exit.read_network(listing(built, precision))
    assert [segment.depth for segment in network.segments] == [2, 4, 6, 9]
    assert network.whole == f"resnet20-d9-w1.00-{precision}-32" and network.dataset == "stripes"
    assert json.loads((built / "build.json").read_text())["exits"] == [
        f"exits/{NAME.replace('fp32', p)}.exits.json" for p in ("fp32", "int8")
    ]
    whole = store.read_record(built / f"{network.whole}.json", Artifact)
    sidecars = [
        store.read_record(p.with_suffix(".json"), Artifact) for p in early_exit.segment_paths(built / "exits", network)
    ]
    assert [s.artifact_id for s in sidecars] == [f"resnet20-s{n}-w1.00-{precision}-32" for n in (1, 2, 3, 4)]
    assert {s.precision for s in sidecars} == {precision} and {s.quantization for s in sidecars} == {whole.quantization}
    assert all(s.check is not None and s.check.top1_agreement > 0.9 for s in sidecars)
    outcomes = thresholds.read(built / "exits" / network.outcomes.file, "test", 4)
    assert whole.accuracy is not None and outcomes.count == whole.accuracy.count == 60
    if precision == "fp32":
        assert outcomes.correct[-1].sum() == whole.accuracy.correct


def test_segments_that_answer_otherwise_are_refused(built: Path, tmp_path: Path) -> None:
    artifact = store.read_record(built / "resnet20-d9-w1.00-fp32-32.json", Artifact)
    other = building.roots.root_network("resnet20", DATA).make().eval()
    whole = segments.Whole(artifact, built / artifact.model.file, other)
    with pytest.raises(IntegrityError, match="segments of resnet20-w1.00-fp32-32 differs from the torch network"):
        segments.write(whole, DATA, DATA.test, tmp_path / "exits")
    assert not list(tmp_path.rglob("*.exits.json"))


def test_finished_segments_are_kept(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_Writer", lambda *_: pytest.fail("these were finished already"))
    artifact = store.read_record(built / "resnet20-d9-w1.00-fp32-32.json", Artifact)
    net = building.roots.root_network("resnet20", DATA).make()
    whole = segments.Whole(artifact, built / artifact.model.file, net)
    assert segments.write(whole, DATA, DATA.test, built / "exits").name == NAME


def test_a_policy_by_measured_times(measured: dict[str, Any], build: Path) -> None:
    printed = measured
    policy = store.read_record(Path(printed["file"]), ExitPolicy)
    assert len(policy.record_ids) == 5 and policy.whole_s > 0 and policy.loss_max == 0.05
    assert sum(e.share for e in policy.exits) == pytest.approx(1)
    assert policy.expected_s == pytest.approx(sum(e.share * e.arrival_s for e in policy.exits))
    assert policy.exits[-1].arrival_s == pytest.approx(sum(e.segment_s for e in policy.exits))
    assert printed["ratio"] == pytest.approx(policy.expected_s / policy.whole_s)
    assert len(printed["cascade"]["arrival_s"]) == 4 and printed["cascade"]["whole_s"] > 0
    stored = json.loads(kit("exits", str(listing(build)), "--loss", "5", "--profile", "kit-profiles", "--json"))
    assert stored["policy"] == printed["policy"] and stored["cascade"] is None
    assert "leaves" in kit("exits", str(listing(build)), "--profile", "kit-profiles")


def test_the_cascade_leaves_where_the_policy_says(build: Path, policy_file: Path) -> None:
    file = policy_file
    for criterion in early_exit.CRITERIA:
        network = early_exit.read_network(listing(build))
        outcomes = thresholds.read(build / "exits" / network.outcomes.file, "test", 4)
        middle = [float(np.median(getattr(outcomes, criterion)[number])) for number in range(3)]
        policy = store.read_record(file, ExitPolicy)
        exits = tuple(e.model_copy(update={"threshold": t}) for e, t in zip(policy.exits, (*middle, None), strict=True))
        store.write_record(file, policy.model_copy(update={"exits": exits, "criterion": criterion}))
        cascade = kit_api.Cascade(file)
        answers = [cascade(image.numpy()) for image in DATA.test.images.split(1)]
        cascade.close()
        left_at = outcomes.left_at(criterion, middle)
        assert [a.exit for a in answers] == left_at.tolist() and set(left_at) == {0, 1, 2, 3}
        right = np.array([a.logits.argmax() for a in answers]) == DATA.test.labels.numpy()
        assert right.sum() == outcomes.with_exits(left_at).correct


def test_images_that_no_exit_may_keep_run_to_the_end(build: Path, policy_file: Path) -> None:
    file = policy_file
    policy = store.read_record(file, ExitPolicy)
    store.write_record(
        file, policy.model_copy(update={"exits": tuple(e.model_copy(update={"threshold": None}) for e in policy.exits)})
    )
    cascade = early_exit.Cascade(file)
    assert cascade(DATA.test.take(slice(1)).numpy()).exit == 3
    assert [cascade.to_exit(DATA.test.take(slice(1)).numpy(), n).exit for n in range(4)] == [0, 1, 2, 3]


def test_a_policy_of_other_files_is_refused(build: Path, policy_file: Path) -> None:
    file = policy_file
    network = store.read_record(listing(build), ExitNetwork)
    store.write_record(listing(build), network.model_copy(update={"dataset": "others"}))
    with pytest.raises(IntegrityError, match="was chosen for another"):
        early_exit.Cascade(file)


def test_what_cannot_be_is_a_sentence(build: Path) -> None:
    path = str(listing(build))
    refused(["exits", "gone.exits.json"], "gone.exits.json")
    refused(["exits", str(build / "build.json")], "is no network with early exits")
    refused(["exits", path, "--by", "hope"], "Unknown --by 'hope'")
    Path("empty.jsonl").write_text("")
    refused(["exits", path, "--profile", "empty.jsonl"], "")
    model = build / "exits" / "resnet20-s2-w1.00-fp32-32.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    refused(["exits", path], "resnet20-s2-w1.00-fp32-32.onnx is missing or not the file")


def test_without_the_network_in_one_piece_nothing_is_measured(build: Path) -> None:
    (build / "resnet20-d9-w1.00-fp32-32.onnx").unlink()
    refused(["exits", str(listing(build)), "--name", "other"], "the network in one piece")
    assert not list(Path("kit-profiles").rglob("other*"))


def test_profiles_without_a_segment_are_refused(build: Path) -> None:
    refused(
        ["exits", str(listing(build, "int8")), "--profile", "kit-profiles"],
        "resnet20-s1-w1.00-int8-32 was not measured",
    )


def refused(words: list[str], sentence: str) -> None:
    completed = CliRunner().invoke(app, words)
    assert isinstance(completed.exception, KitError), completed.output
    assert sentence in str(completed.exception) and "\n" not in str(completed.exception)
