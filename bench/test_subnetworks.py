"""Latency of the main sub-networks, one thread, batch 1: ``pytest bench/test_subnetworks.py``.

The variants of ``--build`` when it is there, and torchvision's resnet18 at 224 px always. pytest-benchmark compares runs;
`kit profile` is the meter.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from kit import backends
from kit.measure import targets
from kit.measure.targets import Target


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    build = Path(metafunc.config.getoption("--build"))
    variants = targets.resolve([str(build)], backend="onnxruntime") if build.is_dir() else []
    names = [*(variant.artifact.artifact_id for variant in variants), "resnet18-224"]
    metafunc.parametrize("variant", [*variants, None], ids=names)


@pytest.fixture(scope="session")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Target:
    from kit.variants.export import export_named

    folder = tmp_path_factory.mktemp("export")
    artifact = export_named("resnet18", folder)
    return Target(folder / artifact.model.file, artifact)


def test_inference(benchmark, variant: Target | None, resnet18: Target, request: pytest.FixtureRequest) -> None:
    target = variant or resnet18
    backend = request.config.getoption("--backend")
    if backend == "pytorch" and target.artifact.torch_program is None:
        pytest.skip("int8 variants are ONNX graphs")
    session = backends.load(backend).open(target.path, target.artifact, threads=1)
    feeds = backends.make_feeds(session.inputs, seed=0)
    benchmark.extra_info.update(
        artifact=target.artifact.artifact_id, macs=target.artifact.macs, backend=backend, threads=1
    )
    outputs = benchmark.pedantic(partial(session.run, feeds), rounds=50, iterations=1, warmup_rounds=10)
    assert [o.shape for o in outputs] == [spec.shape for spec in session.outputs]
