"""kit build on a tiny recipe: what lies in the folder, what is reused, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import synthetic as records

torch = pytest.importorskip("torch")

from kit import store  # noqa: E402
from kit.errors import UnknownName, UsageError  # noqa: E402
from kit.latency import training  # noqa: E402
from kit.latency.kernels import kernels_of  # noqa: E402
from kit.records import Accuracy, Artifact  # noqa: E402
from kit.variants import build as building  # noqa: E402
from kit.variants import digits, evaluate, quantize, recipes, train  # noqa: E402


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shallowest cut, whole and halved, one short epoch, one thread."""

    def recipe(*_: object) -> recipes.Recipe:
        schedule = train.Schedule("adamw", 2e-3, 0.05, epochs=2, batch=16)
        return recipes.Recipe(schedule, schedule, (1.0, 0.5), (2,), (2,), training_images=64)

    monkeypatch.setattr(recipes, "recipe_for", recipe)
    monkeypatch.setattr(train.os, "sched_getaffinity", lambda pid: {0})


@pytest.fixture(scope="module")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build")


def build(
    folder: Path, root: str = "vit_tiny", progress: train.Progress | None = None, **settings: object
) -> list[Artifact]:
    return building.build(building.Request(root, **settings), folder, progress=progress)  # type: ignore[arg-type]


def test_every_variant_is_complete_and_checked(build_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def medians(paths: list[Path], image: object) -> list[float]:
        timed.extend(path.stem for path in paths)
        return [2.0, 1.0]

    monkeypatch.setattr(quantize, "medians_in_turns", medians)
    shares: list[float] = []
    artifacts = build(build_folder, progress=lambda words, share: shares.append(share))
    ids = ["d2-w1.00-fp32", "d2-w1.00-int8", "d2-w0.50-fp32", "d2-w0.50-int8"]
    assert [a.artifact_id for a in artifacts] == [f"vit_tiny-{i}-32" for i in ids]
    assert json.loads((build_folder / "build.json").read_text())["artifacts"] == [a.artifact_id for a in artifacts]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert timed == ["static-qdq-u8s8", "dynamic-u8s8"] * 2
    for a in artifacts:
        assert store.read_record(build_folder / f"{a.artifact_id}.json", Artifact) == a
        assert a.subnetwork is not None
        assert a.subnetwork.id == a.artifact_id
        for file in (a.model, a.sample, a.torch_program):
            assert file is None or store.sha256_file(build_folder / file.file) == file.sha256
        assert a.check is not None
        assert a.check.count == 200
        assert a.accuracy is not None
        assert a.accuracy.count == 2000
        assert a.accuracy.interval is not None
        assert a.origin is not None
        with np.load(build_folder / f"{a.artifact_id}.sample.npz", allow_pickle=False) as sample:
            answers = evaluate.logits(build_folder / a.model.file, torch.from_numpy(sample["input"]))
            np.testing.assert_allclose(answers, sample["output"], rtol=1e-5, atol=1e-5)
    full_model, small, half, _ = artifacts
    assert full_model.check is not None
    assert full_model.check.top1_agreement == 1
    assert full_model.macs == small.macs
    assert half.macs < 0.5 * full_model.macs  # type: ignore[operator]
    assert small.weight_bytes < 0.5 * full_model.weight_bytes  # type: ignore[operator]
    assert "static-qdq-u8s8 2000000.0 us" in small.origin.steps[-1]  # type: ignore[union-attr]
    assert small.parameters == full_model.parameters
    assert small.quantization == "dynamic-u8s8"
    assert small.torch_program is None
    for a in artifacts:
        assert a.kernels is not None
        assert sum(k.macs * k.count for k in a.kernels) == a.macs
        assert sum(k.weight_bytes * k.count for k in a.kernels) == pytest.approx(a.weight_bytes, rel=1e-3)


def test_a_fit_of_built_variants_knows_their_kernels(build_folder: Path) -> None:
    built = build(build_folder)
    profiles = [records.profile(a.artifact_id, 1e-3 * (i + 1)) for i, a in enumerate(built)]
    profiles = [p.model_copy(update={"artifact": a}) for p, a in zip(profiles, built, strict=True)]
    points, notes = training._observations(profiles, kernels_of)
    assert training._with_kernels(points, notes) == points
    assert not [note for note in notes if "unknown" in note]


def test_the_more_accurate_form_wins_over_the_faster(build_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_model = (build_folder / "vit_tiny-d2-w1.00-fp32-32.onnx").read_bytes()
    validation = digits.dataset().validation
    monkeypatch.setattr(quantize, "medians_in_turns", lambda paths, image: [2.0, 1.0])
    scores = iter([0.97, 0.95, 0.97, 0.965])
    monkeypatch.setattr(quantize.evaluate, "logits", lambda path, images: None)
    monkeypatch.setattr(
        quantize.evaluate,
        "accuracy",
        lambda answers, split, name: Accuracy(top1=next(scores), count=150, dataset="synthetic"),
    )
    slow, fast = quantize.Quantized("slow", full_model, ()), quantize.Quantized("fast", full_model, ())
    assert quantize._choose([slow, fast], validation).how == "slow"
    assert quantize._choose([slow, fast], validation).how == "fast"


def test_timing_in_turns_gives_seconds_per_file(build_folder: Path) -> None:
    paths = [build_folder / f"vit_tiny-d2-w{width}-fp32-32.onnx" for width in ("1.00", "0.50")]
    seconds = quantize.medians_in_turns(paths, digits.dataset().test.images[:1], rounds=1)
    assert len(seconds) == 2
    assert all(1e-7 < s < 1 for s in seconds)


def test_a_finished_build_is_reused_without_work(build_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("this was finished already")

    monkeypatch.setattr(train, "fit", never)
    monkeypatch.setattr(building.network_files, "to_files", never)
    assert len(build(build_folder)) == 4


def test_a_damaged_file_is_built_again_from_stored_weights(build_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build_folder / "vit_tiny-d2-w0.50-fp32-32.onnx"
    full_model = path.read_bytes()
    path.write_bytes(full_model[:-1] + bytes([full_model[-1] ^ 1]))
    monkeypatch.setattr(train, "fit", lambda *_, **__: pytest.fail("the weights were kept"))
    build(build_folder)
    assert path.read_bytes() == full_model


def test_an_interrupted_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def stop(words: str, share: float) -> None:
        if words == "resnet18-d2-w1.00-fp32-32":
            raise Killed

    with pytest.raises(Killed):
        build(tmp_path, "resnet18", progress=stop)
    assert not (tmp_path / "build.json").exists()
    first = (tmp_path / "resnet18-d2-w1.00-fp32-32.onnx").stat().st_mtime_ns
    trained: list[str] = []
    original = train.fit

    def fit(*args: object, **kwargs: object) -> None:
        trained.append("net")
        original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "fit", fit)
    artifacts = build(tmp_path, "resnet18")
    assert len(trained) == 1  # the pruned network; the root's weights were kept
    assert (tmp_path / "resnet18-d2-w1.00-fp32-32.onnx").stat().st_mtime_ns == first
    assert {a.quantization for a in artifacts} == {None, "static-qdq-u8s8"}


def test_one_folder_holds_one_build(build_folder: Path) -> None:
    before = sorted(build_folder.iterdir())
    with pytest.raises(UsageError, match="choose another folder"):
        build(build_folder, "resnet18")
    with pytest.raises(UsageError, match="choose another folder"):
        build(build_folder, seed=1)
    assert sorted(build_folder.iterdir()) == before


def test_unknown_root(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'vgg11'"):
        build(tmp_path / "new", "vgg1")
    assert not (tmp_path / "new").exists()
