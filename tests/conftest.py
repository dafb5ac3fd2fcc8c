"""Shared set-up: tests import their factory as ``made`` and never measure on more than one thread."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("kit", deadline=None)  # no test asserts a wall-clock time
settings.load_profile("kit")


def save_network(folder: Path, name: str, net: Any, image: Any, macs: int, top1: float) -> None:
    """Write a real, untrained torch network as a variant of a build folder: .onnx, program, sample and sidecar."""
    import torch

    from kit import store
    from kit.records import Accuracy, Artifact, FileRef, SubNetwork, TensorSpec

    torch.onnx.export(
        net,
        (image,),
        folder / f"{name}.onnx",
        input_names=["x"],
        output_names=["y"],
        verbose=False,
        external_data=False,
    )
    torch.export.save(torch.export.export(net, (image,)), folder / f"{name}.pt2")
    shape = tuple(image.shape)
    given = np.random.default_rng(0).standard_normal((4, *shape[1:])).astype(np.float32)
    with torch.inference_mode():
        np.savez(folder / f"{name}.sample.npz", input=given, output=net(torch.from_numpy(given)).numpy())

    def ref(file: str) -> FileRef:
        path = folder / file
        return FileRef(file=file, sha256=store.sha256_file(path), size_bytes=path.stat().st_size)

    artifact = Artifact(
        artifact_id=name,
        model=ref(f"{name}.onnx"),
        torch_program=ref(f"{name}.pt2"),
        subnetwork=SubNetwork.parse(name),
        macs=macs,
        inputs=(TensorSpec(name="x", shape=shape, dtype="float32"),),
        outputs=(TensorSpec(name="y", shape=(1, 10), dtype="float32"),),
        accuracy=Accuracy(top1=top1, count=10, dataset="synthetic"),
        sample=ref(f"{name}.sample.npz"),
    )
    store.write_record(folder / f"{name}.json", artifact)


@pytest.fixture(scope="session")
def tiny_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder with three real, untrained convolutional networks of different MACs, sidecars, programs and samples."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("tiny")
    for index, channels in enumerate((8, 16, 32)):
        torch.manual_seed(index)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, channels, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(channels * 64, 10),
        ).eval()
        name, macs = f"resnet18-d{2 * index + 2}-w1.00-fp32-32", 64 * channels * 27 + channels * 640
        save_network(folder, name, net, torch.zeros(1, 3, 8, 8), macs, 0.5 + 0.1 * index)
    return folder


@pytest.fixture(scope="session")
def layered_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder with one network whose layers each take many times what the coarsest profiler (a microsecond) tells apart."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("layered")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(65536, 10),
    ).eval()
    macs = 1024 * (32 * 27 + 64 * 288) + 655360
    save_network(folder, "resnet18-d8-w1.00-fp32-32", net, torch.zeros(1, 3, 32, 32), macs, 0.5)
    return folder
