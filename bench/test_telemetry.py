"""What looking at the machine costs beside measuring on it: ``pytest bench/test_telemetry.py``.

Each benchmark notes its share of one core at the rate that kit looks (``share_of_a_core`` in the saved file and in --benchmark-json):
the target is under 1 %. The machines are trees of files; on a board a tool (vcgencmd, nvpmodel) costs milliseconds more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from machines import build, put

from kit.devices import clock
from kit.devices.telemetry import Counters, EnergyWindow, Meter, discover, meters, read_environment

CALLS_HZ = 1e4  # a tick follows each call; shorter calls are looped, with one tick for the loop
SAMPLES_HZ = 20.0  # of a meter
VISITS_HZ = 2.0  # environments and counters: before and after a visit of a second
READINGS_HZ = 50.0  # of the clock: between blocks of 20 ms


def note(benchmark: Any, rate_hz: float) -> None:
    if benchmark.stats is not None:
        benchmark.extra_info["share_of_a_core"] = benchmark.stats.stats.median * rate_hz


def rapl(root: Path) -> Meter:
    put(root, "sys/class/powercap/intel-rapl:0/energy_uj", "90000000")
    put(root, "sys/class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850")
    (meter,) = meters(root)
    return meter


@pytest.mark.benchmark(group="energy")
def test_tick_that_is_not_due(benchmark, tmp_path: Path) -> None:
    window = EnergyWindow(rapl(tmp_path), clock=lambda: 1)
    window.start()
    benchmark(window.tick)
    note(benchmark, CALLS_HZ)


@pytest.mark.benchmark(group="energy")
@pytest.mark.parametrize("name", ["rapl", "jetson-orin-nano", "jetson-agx-orin"])
def test_tick_that_reads(benchmark, tmp_path: Path, name: str) -> None:
    (meter,) = [rapl(tmp_path)] if name == "rapl" else meters(build(name, tmp_path))
    window = EnergyWindow(meter)
    window.start()
    benchmark(window._sample)
    note(benchmark, SAMPLES_HZ)


@pytest.mark.benchmark(group="state")
@pytest.mark.parametrize("name", ["x86-vm", "jetson-orin-nano"])
def test_read_environment(benchmark, tmp_path: Path, name: str) -> None:
    readers = discover(build(name, tmp_path))
    benchmark(read_environment, readers)
    note(benchmark, VISITS_HZ)


@pytest.mark.benchmark(group="state")
@pytest.mark.parametrize("huge_pages", [False, True])
def test_read_counters(benchmark, huge_pages: bool) -> None:
    benchmark(Counters.read, huge_pages=huge_pages)
    note(benchmark, VISITS_HZ)


@pytest.mark.benchmark(group="clock")
def test_read_the_clock(benchmark) -> None:
    """One reading is about 192,000 cycles of work: its floor is itself."""
    chain = clock.chain()
    if chain is None:
        pytest.skip(str(clock.from_chain().reason))
    benchmark(chain.read_hz)
    note(benchmark, READINGS_HZ)
