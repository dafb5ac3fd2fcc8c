"""What only a machine with an NVIDIA GPU can show: every GPU backend against the CPU's answers, and device times against torch's
own benchmark. Skipped elsewhere. Times are compared as medians of interleaved pairs, never against a wall clock's figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from test_backends import GPU_BACKENDS, conform, conform_layers, needs

from kit import backends
from kit.backends import cuda
from kit.devices import telemetry

pytestmark = pytest.mark.gpu

PAIRS = 15


@pytest.fixture(autouse=True)
def real_gpu() -> None:
    missing = cuda.missing()
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """resnet18 at 224 px with random weights, as kit export writes it."""
    pytest.importorskip("torchvision")
    from kit.variants.export import export_named

    folder = tmp_path_factory.mktemp("resnet18")
    artifact = export_named("resnet18", folder)
    return folder / artifact.model.file, artifact


def ratio(one: Callable[[], float], other: Callable[[], float]) -> float:
    """Median of one/other over pairs measured in turn, so that a clock that moves moves both."""
    one(), other()
    pairs = [(one(), other()) if i % 2 else (other(), one())[::-1] for i in range(PAIRS)]
    return median(a / b for a, b in pairs)


@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_conformance(name: str, tiny_build: Path) -> None:
    needs(name)
    conform(name, tiny_build)


@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_layers_conform(name: str, layered_build: Path) -> None:
    needs(name)
    conform_layers(name, layered_build)


@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_memory_on_the_gpu_is_reported(name: str, resnet18: tuple[Path, Any]) -> None:
    needs(name)
    path, artifact = resnet18
    session = backends.load(name).open(path, artifact, 1)
    session.run(backends.make_feeds(session.inputs, 0))
    memory = session.gpu_memory()
    if memory is None:
        pytest.skip("nobody tells how much GPU memory this process holds")
    assert memory["allocated_bytes"] > artifact.weight_bytes / 2
    session.close()


def test_device_times_are_those_of_torch_utils_benchmark(resnet18: tuple[Path, Any]) -> None:
    needs("pytorch-cuda")
    import torch
    from torch.utils.benchmark import Timer

    path, artifact = resnet18
    session = backends.load("pytorch-cuda").open(path, artifact, 1)
    feeds = backends.make_feeds(session.inputs, 0)
    session.prepare(feeds)
    device_ns = session.device_ns
    assert device_ns is not None
    tensor = torch.from_numpy(feeds[session.inputs[0].name]).cuda()
    call = session._call  # type: ignore[attr-defined]

    def launch() -> None:
        with torch.inference_mode():
            call(tensor)

    timer = Timer("launch()", globals={"launch": launch})
    device_ns(100)
    factor = ratio(lambda: device_ns(100) / 100e9, lambda: timer.timeit(100).mean)
    assert factor == pytest.approx(1, abs=0.02)


def test_a_cuda_graph_is_no_slower_than_its_launches(resnet18: tuple[Path, Any]) -> None:
    needs("pytorch-cudagraphs")
    path, artifact = resnet18
    timed = []
    for name in ("pytorch-cudagraphs", "pytorch-cuda"):
        session = backends.load(name).open(path, artifact, 1)
        session.prepare(backends.make_feeds(session.inputs, 0))
        assert session.device_ns is not None
        timed.append(session.device_ns)
    graph, eager = timed
    assert ratio(lambda: graph(50), lambda: eager(50)) <= 1.02


@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_loops_take_their_time(name: str, resnet18: tuple[Path, Any]) -> None:
    """Ten times the calls, about ten times the device's time: nothing is skipped and nothing is counted twice."""
    needs(name)
    path, artifact = resnet18
    session = backends.load(name).open(path, artifact, 1)
    call = session.prepare(backends.make_feeds(session.inputs, 0))
    for _ in range(20):
        call()
    device_ns = session.device_ns
    assert device_ns is not None
    assert 8 < ratio(lambda: device_ns(200), lambda: device_ns(20)) < 12
    session.close()


def test_nvml_reads_the_gpu() -> None:
    readers = telemetry.discover(target="gpu")
    now = telemetry.read_environment(readers)
    if telemetry.nvml_of(Path("/"))[0] is None:
        pytest.skip("no NVML here")
    assert now.clock_hz is not None and 1e8 < now.clock_hz < 5e9
    assert now.temperature_c is not None and 0 < now.temperature_c < 120
    assert now.throttle_flags is not None
