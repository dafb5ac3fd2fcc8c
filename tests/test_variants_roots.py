"""kit build of anyone's network: roots by name or file, recipes, training that resumes, exits beside a frozen backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invoke import kit as run

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning")
from torch import nn  # noqa: E402

from kit import nets, store  # noqa: E402
from kit.errors import BadModel, UsageError  # noqa: E402
from kit.nets.exits import MultiExit  # noqa: E402
from kit.records import Artifact, Preprocessing  # noqa: E402
from kit.variants import build as building  # noqa: E402
from kit.variants import datasets, recipes, roots, train  # noqa: E402
from kit.variants.datasets import Dataset, Split  # noqa: E402

OWN = """
import torch
from torch import nn


def make(classes=2):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes),
    )


def three():
    return make(3)
"""
IMAGES = """
import numpy as np


def bright(part):
    rng = np.random.default_rng(part == "test")
    for number in range(160 if part == "train" else 40):
        yield rng.integers(0, 120, (16, 16, 3), dtype=np.uint8) + np.uint8(120 * (number % 2)), number % 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "net.py").write_text(OWN)
    (folder / "images.py").write_text(IMAGES)
    return folder


def noise(classes: int = 3, px: int = 32, channels: int = 3, count: int = 64) -> Dataset:
    """Images without a meaning."""
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(count, channels, px, px, generator=generator), torch.arange(count) % classes)
    how = Preprocessing(resize_px=px, mean=(0.0,) * channels, std=(1.0,) * channels, classes=classes)
    return Dataset("noise", tuple(map(str, range(classes))), split, split, split, split, how)


def schedule(**settings: Any) -> train.Schedule:
    return train.Schedule(
        **({"optimizer": "sgd", "peak_rate": 0.05, "weight_decay": 0.0, "epochs": 3, "batch": 16} | settings)
    )


# ---------------------------------------------------------------------------------------------------------------- roots


def test_a_small_root_takes_the_images_and_classes_of_the_data() -> None:
    network = roots.root_network("resnet20", noise(classes=7))
    assert (network.root.channels, network.root.classes, network.root.depths) == (3, 7, (2, 4, 6, 9))
    assert [o.shape for o in network.make().eval()(torch.zeros(2, 3, 32, 32))] == [(2, 7)] * 4
    assert not network.trained and not network.is_transformer
    assert roots.root_network("vit_tiny", noise()).is_transformer


def test_a_network_of_torchvision_with_a_fresh_head(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    trained = torchvision.models.squeezenet1_1(num_classes=10)
    torch.save(trained.state_dict(), tmp_path / "ten.pth")
    network = roots.root_network("squeezenet1_1", noise(px=64), tmp_path / "ten.pth")
    assert network.trained and network.root.block == "stage" and network.root.name == "squeezenet1_1"
    net = network.make()
    stored = {p.data_ptr() for p in net.parameters()}
    assert len(stored) == len(list(net.parameters()))
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    assert torch.equal(first.weight, trained.features[0].weight)
    assert net.eval()(torch.zeros(1, 3, 64, 64))[-1].shape == (1, 3)


def test_ones_own_network(folder: Path) -> None:
    network = roots.root_network(f"{folder / 'net.py'}:three", noise(px=16))
    assert network.root.name == "net_three" and network.root.family == "net" and network.root.depths == (1, 2)
    with pytest.raises(UsageError, match="gives 2 scores and noise has 3 classes"):
        roots.root_network(f"{folder / 'net.py'}:make", noise(px=16))


def test_a_root_for_photographs_is_not_trained_on_the_digits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="resnet50 is for photographs, not for the embedded digits: give --data"):
        building.build(building.Request("resnet50"), tmp_path / "out")
    with pytest.raises(UsageError, match="Unknown root 'resnet51': did you mean 'resnet"):
        building.build(building.Request("resnet51"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------------------- recipes


def test_recipes_by_data_and_weights() -> None:
    fresh = roots.root_network("resnet20", noise())
    recipe = recipes.recipe_for(fresh, noise(), "photos", quick=False)
    assert recipe.schedule.optimizer == "sgd" and not recipe.schedule.frozen and recipe.schedule.shift_px == 4
    trained = roots.RootNetwork(fresh.root, fresh.make, True, False)
    assert recipes.recipe_for(trained, noise(), "photos", quick=False).schedule.frozen
    overrides = recipes.Overrides(epochs=2, finetune_epochs=1, widths=(0.5,), depths=(9, 4), freeze=False)
    overridden = recipes.recipe_for(trained, noise(), "photos", quick=False, overrides=overrides)
    assert (overridden.widths, overridden.depths, overridden.narrow_depths) == ((1.0, 0.5), (4, 9), (4, 9))
    assert (overridden.schedule.epochs, overridden.finetune.epochs, overridden.schedule.frozen) == (2, 1, False)
    ids = [sub.id for sub in overridden.subnetworks(fresh.root)]
    assert len(ids) == 8 and ids[0] == "resnet20-d4-w1.00-fp32-32"
    for wrong, sentence in (
        (recipes.Overrides(widths=(1.5,)), "--widths 1.5 cannot be"),
        (recipes.Overrides(depths=(3,)), "no exit after .* 3: its depths are 2, 4, 6, 9"),
    ):
        with pytest.raises(UsageError, match=sentence):
            recipes.recipe_for(fresh, noise(), "photos", quick=False, overrides=wrong)


# ------------------------------------------------------------------------------------------------------------- training


def small() -> MultiExit:
    torch.manual_seed(3)
    return nets.network(nets.Root("resnet20", "resnet", "block", (1, 2, 3), channels=3, classes=3))


def weights(net: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in net.state_dict().values()]


def test_a_training_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    data = noise().train
    how = schedule(flips=True, distillation=0.5)

    class Stopped(Exception):
        pass

    def stop_after(steps: int) -> Any:
        seen = iter(range(steps))

        def progress(share: float) -> None:
            if next(seen, None) is None:
                raise Stopped

        return progress

    with train.deterministic(0, threads=1):
        whole = small()
        train.fit(whole, data, how, seed=5, progress=lambda share: None)
    file = tmp_path / "training.part"
    with train.deterministic(0, threads=1):
        stopped = small()
        with pytest.raises(Stopped):
            train.fit(stopped, data, how, seed=5, progress=stop_after(6), resume=file)
    assert file.exists()
    with train.deterministic(1, threads=1):  # another process has another state
        again = small()
        train.fit(again, data, how, seed=5, progress=lambda share: None, resume=file)
    assert not file.exists()
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


def test_a_broken_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    for content in (b"", b"nothing", b"PK\x03\x04"):
        (tmp_path / "x.part").write_bytes(content)
        with train.deterministic(0, threads=1):
            net = small()
            train.fit(
                net, noise().train, schedule(epochs=1), seed=0, progress=lambda share: None, resume=tmp_path / "x.part"
            )
    assert not (tmp_path / "x.part").exists()


def test_a_frozen_backbone_stays_and_its_early_exits_learn() -> None:
    with train.deterministic(0, threads=1):
        net = small()
        before = [weights(part) for part in (net.stages, net.exits[-1], net.exits[0])]
        train.fit(net, noise().train, schedule(frozen=True), seed=0, progress=lambda share: None)
        after = [weights(part) for part in (net.stages, net.exits[-1], net.exits[0])]
    equal = [all(torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in zip(before, after, strict=True)]
    assert equal == [True, True, False]
    assert all(p.requires_grad for p in net.parameters()) and not net.training


def test_exits_learn_what_there_is_to_learn() -> None:
    """Three brightnesses: every exit gets them right after a few epochs, with and without distillation."""
    labels = torch.arange(96) % 3
    pixels = torch.randn(96, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.2 + labels.reshape(-1, 1, 1, 1)
    for distillation in (0.0, 0.5):
        with train.deterministic(0, threads=1):
            net = small()
            train.fit(
                net,
                Split(pixels, labels),
                schedule(epochs=6, distillation=distillation),
                seed=0,
                progress=lambda share: None,
            )
            assert min(train.accuracies(net, Split(pixels, labels)).values()) > 0.9


def test_mirrored_images_are_whole_images() -> None:
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4).repeat(50, 1, 1, 1)
    varied = train.varied(images, schedule(shift_px=0, flips=True), torch.Generator().manual_seed(0))
    mirrored = [torch.equal(v, i.flip(2)) for v, i in zip(varied, images, strict=True)]
    plain = [torch.equal(v, i) for v, i in zip(varied, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True)) and 30 < sum(mirrored) < 70


# ------------------------------------------------------------------------------------------------------------- the build


def test_ones_own_network_on_ones_own_images(folder: Path, tmp_path: Path) -> None:
    command = ["build", f"{folder / 'net.py'}:make", "--data", f"{folder / 'images.py'}:bright", "--epochs", "4", "--finetune-epochs", "2",
               "--widths", "1,0.5", "--out", tmp_path / "out", "--json"]  # fmt: skip
    printed = json.loads(run(*command))
    ids = [variant["artifact_id"] for variant in printed["variants"]]
    assert ids == [f"net-d{d}-w{w}-{p}-16" for w in ("1.00", "0.50") for d in (1, 2) for p in ("fp32", "int8")]
    artifacts = {a.artifact_id: a for a in (store.read_record(tmp_path / "out" / f"{i}.json", Artifact) for i in ids)}
    whole, half = artifacts["net-d2-w1.00-fp32-16"], artifacts["net-d2-w0.50-fp32-16"]
    assert half.macs < 0.5 * whole.macs  # type: ignore[operator]
    assert whole.accuracy is not None and whole.accuracy.top1 > 0.9 and whole.accuracy.count == 40
    assert whole.accuracy.dataset == "images.py:bright"
    assert whole.origin is not None and whole.origin.steps[0] == "a PyTorch module of net.py:make"
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.onnx")}
    run(*command)  # finished: nothing is made again
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.onnx")}
    with pytest.raises(UsageError, match="already holds the build"):
        building.build(
            building.Request(f"{folder / 'net.py'}:make", datasets.Request(f"{folder / 'images.py'}:bright"), seed=1),
            tmp_path / "out",
        )


def test_a_changed_file_of_python_is_built_again(tmp_path: Path) -> None:
    (tmp_path / "images.py").write_text(IMAGES)
    overrides = recipes.Overrides(epochs=1, widths=(1.0,), depths=(2,))
    images = datasets.Request(f"{tmp_path / 'images.py'}:bright")

    def hashes(code: str) -> list[str]:
        (tmp_path / "net.py").write_text(code)
        request = building.Request(f"{tmp_path / 'net.py'}:make", images, overrides=overrides)
        return [artifact.model.sha256 for artifact in building.build(request, tmp_path / "out")]

    first = hashes(OWN)
    assert hashes(OWN) == first
    assert hashes(OWN.replace("nn.ReLU()", "nn.Hardtanh()")) != first  # tensors of the same names and shapes


def test_what_cannot_be_pruned_is_one_sentence(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = (
                nn.Conv2d(3, 16, 3, padding=1),
                nn.Conv2d(16, 16, 3, padding=1),
                nn.Linear(16, 3),
            )
            self.register_buffer("scale", torch.ones(1, 16, 1, 1))  # of which pruning does not know

        def forward(self, x: Any) -> Any:
            return self.head(self.b(self.a(x) * self.scale).mean((2, 3)))

    from kit.nets import stages
    from kit.variants import prune

    with pytest.raises(BadModel, match="cannot be pruned .*--widths 1"):
        prune.prune(stages.staged(Fixed().eval(), torch.zeros(1, 3, 16, 16)), 0.5, torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--input", "3x32"), "is no square image"),
        (("--input", "3x32x32", "--resolution", "64"), "differ: leave one away"),
        (("--widths", "a"), "--widths a is no list of numbers"),
    ],
)
def test_options_that_do_not_fit(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        run("build", "resnet18", *words, "--out", tmp_path / "out")
    assert np.size(list(tmp_path.iterdir())) == 0
