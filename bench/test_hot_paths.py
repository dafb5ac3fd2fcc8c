"""kit's own hot paths beside their floors: ``pytest bench/test_hot_paths.py``."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter_ns

import pytest
import synthetic

from kit import knowledge, latency, store
from kit.backends import fake
from kit.library import package
from kit.measure import stopwatch
from kit.records import FileRef, Need


def nothing() -> None:
    pass


@pytest.mark.benchmark(group="stopwatch")
def test_stopwatch(benchmark) -> None:
    """A thousand calls of a model that costs nothing through the timed loop. Floor: the same number of bare calls."""
    session = fake.FakeSession("fake:0us")
    call = session.prepare({})
    plan = stopwatch.TimingPlan(loops=1000, block=1, between=0, rewarm=0, values_max=1)
    values, _, _ = benchmark(
        stopwatch._collect, call, stopwatch._timed(call, perf_counter_ns), plan, 0, {}, None, perf_counter_ns
    )
    assert len(values) == 1


@pytest.mark.benchmark(group="stopwatch")
def test_floor_of_the_stopwatch(benchmark) -> None:
    def thousand() -> None:
        for _ in range(1000):
            nothing()

    benchmark(thousand)


@pytest.mark.benchmark(group="judge")
def test_fit(benchmark) -> None:
    """20 sub-networks, 2000 bootstrap resamples."""
    profiles = [synthetic.profile(f"net{i}", 1e-4 + 1e-11 * i * 10**7, macs=i * 10**7, seed=i) for i in range(1, 21)]
    (model,) = benchmark(latency.fit, profiles)
    assert model.quality.within_5 == 1.0


@pytest.mark.benchmark(group="judge")
def test_knowledge_ask(benchmark) -> None:
    """One question to 200 rows."""
    base = knowledge.build([synthetic.profile(f"net{i}", 1e-4 * i, accuracy=0.5 + i / 500) for i in range(1, 201)])
    answer = benchmark(knowledge.ask, base.rows, Need(deadline_s=0.01))
    assert answer.chosen is not None and answer.chosen.p99_s <= 0.01


@pytest.mark.benchmark(group="deliver")
def test_package_verify(benchmark, tmp_path: Path) -> None:
    """Every hash of a library with one package of 16 MiB. Floor: sha256 of as many bytes in memory."""
    model = bytes(range(256)) * (1 << 16)
    artifact = synthetic.artifact("net")
    artifact = artifact.model_copy(
        update={"model": FileRef(file="net.onnx", sha256=store.sha256_bytes(model), size_bytes=len(model))}
    )
    (tmp_path / "net.onnx").write_bytes(model)
    store.write_record(tmp_path / "net.json", artifact)
    package.add(tmp_path / "library", tmp_path, [artifact], {})
    (manifest,) = benchmark(package.read_packages, tmp_path / "library")
    assert manifest.artifact.model.sha256 == artifact.model.sha256


@pytest.mark.benchmark(group="deliver")
def test_floor_of_verify(benchmark) -> None:
    benchmark(store.sha256_bytes, bytes(range(256)) * (1 << 16))
