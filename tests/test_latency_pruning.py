"""Pruning by measured latency: what saves time on this machine is narrowed, in groups that still fit together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from invoke import kit
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from stripes import DATA  # noqa: E402
from torch import nn  # noqa: E402
from torchvision.models.resnet import BasicBlock  # noqa: E402

from kit import nets, store  # noqa: E402
from kit.cli import app  # noqa: E402
from kit.errors import BadModel, UsageError  # noqa: E402
from kit.nets.exits import MultiExit, pooled_classifier  # noqa: E402
from kit.records import Artifact, SubNetwork  # noqa: E402
from kit.variants import datasets, latency_pruning, network_files, train  # noqa: E402
from kit.variants.datasets import Split  # noqa: E402


@pytest.fixture(autouse=True)
def few_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two widths of each part are tried: an export takes a second."""
    monkeypatch.setattr(latency_pruning, "SHARES", (0.5, 0.25))


@pytest.fixture(scope="module")
def net() -> MultiExit:
    """Two stages of a block each, 16 and 64 channels, at 16 pixels."""
    with train.deterministic(0, 1):
        first = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), BasicBlock(16, 16)
        )
        short = nn.Sequential(nn.Conv2d(16, 64, 1, 2, bias=False), nn.BatchNorm2d(64))
        second = nn.Sequential(BasicBlock(16, 64, 2, short), BasicBlock(64, 64))
        net = MultiExit((1, 3), [first, second], [pooled_classifier(16, 10, 4), pooled_classifier(64, 10)])
        network_files.scale_activations(net, torch.randn(8, 1, 16, 16))
    return net.eval()


@pytest.fixture(scope="module")
def data() -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split(torch.randn(96, 1, 16, 16, generator=generator), torch.arange(96) % 10)


def by_weights(layers: str) -> latency_pruning.Measure:
    """A machine whose time is the number of weights in convolutions of ``layers`` inputs or more, whatever else is in the network."""

    def measure(paths: Sequence[Path], image: object) -> list[float]:
        return [1e-6 * (1000 + sum(weights(path, int(layers)))) for path in paths]

    return measure


def weights(path: Path, inputs_min: int) -> list[int]:
    tensors = [t for t in onnx.load(path).graph.initializer if len(t.dims) == 4 and t.dims[1] >= inputs_min]
    return [int(np.prod(t.dims)) for t in tensors]


def test_the_layers_that_cost_time_are_narrowed(net: MultiExit, data: Split) -> None:
    wide = latency_pruning.prune_to_latency(net, 0.7, data, measure=by_weights("64"))
    assert wide.seconds <= 0.7 * wide.root_s
    assert {name for name in wide.kept if name.startswith("stages")} <= {
        "stages.1.0.downsample.0", "stages.1.0.conv1", "stages.1.1.conv1"
    }  # fmt: skip
    assert "to " + f"{wide.seconds / wide.root_s:.0%}" in wide.step and "conv1" in wide.step
    assert all(channels % 8 == 0 for channels in wide.kept.values())


def test_the_target_is_met_and_the_network_runs(net: MultiExit, data: Split) -> None:
    share = 0.6
    before = {name: value.clone() for name, value in net.state_dict().items()}
    narrowed = latency_pruning.prune_to_latency(net, share, data, measure=by_weights("1"))
    assert narrowed.seconds <= share * narrowed.root_s
    logits = narrowed.net(torch.zeros(2, 1, 16, 16))
    assert [tuple(row.shape) for row in logits] == [(2, 10)] * 2
    again = latency_pruning.thin(net, narrowed.kept, data.take(slice(1)))
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in narrowed.net.named_parameters()}
    again.load_state_dict(narrowed.net.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_channels_of_no_worth_leave_first(net: MultiExit, data: Split) -> None:
    import copy

    dead = copy.deepcopy(net)
    block = dead.stages[1][1]
    with torch.no_grad():
        block.bn1.weight[::2] = 0
        block.bn1.bias[::2] = 0
    pruner = latency_pruning._Channels(dead, data.take(slice(1)))
    pruner.parts(data)
    thin = pruner.pruned({"stages.1.1.conv1": 32})
    x = data.take(slice(8))
    assert torch.allclose(thin(x)[-1], dead(x)[-1], atol=1e-4)
    assert thin.stages[1][1].conv1.out_channels == 32


def test_what_cannot_be_reached_says_how_far_it_goes(net: MultiExit, data: Split) -> None:
    with pytest.raises(UsageError, match=r"as fast as 1% here: the fastest measured [0-9]+%"):
        latency_pruning.prune_to_latency(net, 0.01, data, measure=by_weights("1"))


def test_a_machine_on_which_nothing_saves_time_is_refused(net: MultiExit, data: Split) -> None:
    with pytest.raises(UsageError, match="fastest measured 100%"):
        latency_pruning.prune_to_latency(net, 0.9, data, measure=lambda paths, image: [1.0] * len(paths))


def test_a_transformer_is_refused(data: Split) -> None:
    with pytest.raises(BadModel, match="convolutional"):
        latency_pruning.prune_to_latency(nets.network(nets.root_of("vit_tiny")), 0.8, data)


def test_a_build_prunes_to_a_latency_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(latency_pruning, "SHARES", (0.5,))
    monkeypatch.setattr(datasets, "load", lambda request, step: DATA)
    monkeypatch.setattr(train.os, "sched_getaffinity", lambda pid: {0})  # one thread
    words = (
        "build",
        "resnet20",
        "--data",
        "stripes",
        "--quick",
        "--widths",
        "1",
        "--depths",
        "9",
        "--latency",
        "0.7",
        "--no-exits",
    )
    printed = json.loads(kit(*words, "--json"))
    pruned = [v for v in printed["variants"] if v["subnetwork"]["root"] == "resnet20_latency"]
    assert [v["artifact_id"] for v in pruned] == [f"resnet20_latency-d9-w0.70-{p}-32" for p in ("fp32", "int8")]
    assert pruned[0]["macs"] < printed["variants"][0]["macs"]
    steps = " ".join(pruned[0]["origin"]["steps"])
    assert "of the latency measured here at one thread, by" in steps and "fine-tuned" in steps
    assert SubNetwork.parse(pruned[0]["artifact_id"]).root == "resnet20_latency"
    monkeypatch.setattr(latency_pruning, "prune_to_latency", lambda *_, **__: pytest.fail("the widths were kept"))
    (tmp_path / "build" / "resnet20_latency-d9-w0.70-int8-32.onnx").unlink()
    kit(*words)
    again = store.read_record(Path("build/resnet20_latency-d9-w0.70-int8-32.json"), Artifact)
    assert again.model.sha256 == pruned[1]["model"]["sha256"]


@pytest.mark.parametrize("share", ["1", "0", "-2", "much"])
def test_shares_that_cannot_be_are_a_sentence(share: str, tmp_path: Path) -> None:
    completed = CliRunner().invoke(app, ["build", "resnet20", "--latency", share, "--out", str(tmp_path / "b")])
    assert isinstance(completed.exception, UsageError) and "--latency" in str(completed.exception)
