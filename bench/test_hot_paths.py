"""kit's own hot paths beside their floors: ``pytest bench/test_hot_paths.py``."""

from __future__ import annotations

from pathlib import Path

import made
import pytest

from kit import knowledge, latency, store, timing
from kit.backends import fake
from kit.records import Need


def nothing() -> None:
    pass


@pytest.mark.benchmark(group="stopwatch")
def test_stopwatch_overhead_per_call(benchmark) -> None:
    """What the harness adds to one call: the fake backend returns at once. Floor: a bare function call."""
    session = fake.FakeSession("fake:0us")

    def per_call_ns() -> float:
        values = timing.measure(lambda: session.run({}), collect_s=0.02, warmup_max_s=0.01).values_ns
        return sorted(values)[len(values) // 2]

    benchmark.extra_info["harness_ns_per_call"] = benchmark(per_call_ns)


@pytest.mark.benchmark(group="stopwatch")
def test_floor_of_a_call(benchmark) -> None:
    benchmark(nothing)


@pytest.mark.benchmark(group="judge")
def test_fit(benchmark) -> None:
    """20 sub-networks, 2000 bootstrap resamples."""
    profiles = [made.profile(f"net{i}", 1e-4 + 1e-11 * i * 10**7, macs=i * 10**7, seed=i) for i in range(1, 21)]
    (model,) = benchmark(latency.fit, profiles)
    assert model.quality.within_5 == 1.0


@pytest.mark.benchmark(group="judge")
def test_knowledge_ask(benchmark) -> None:
    """One question to 200 rows."""
    base = knowledge.build([made.profile(f"net{i}", 1e-4 * i, accuracy=0.5 + i / 500) for i in range(1, 201)])
    answer = benchmark(knowledge.ask, base.rows, Need(deadline_s=0.01))
    assert answer.chosen is not None and answer.chosen.p99_s <= 0.01


@pytest.mark.benchmark(group="deliver")
def test_package_verify(benchmark, tmp_path: Path) -> None:
    """sha256 of 16 MiB, which dominates verifying a package. Floor: hashlib over bytes in memory."""
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(range(256)) * (1 << 16))
    expected = store.sha256_bytes(path.read_bytes())
    assert benchmark(store.sha256_file, path) == expected


@pytest.mark.benchmark(group="deliver")
def test_floor_of_verify(benchmark) -> None:
    benchmark(store.sha256_bytes, bytes(range(256)) * (1 << 16))
