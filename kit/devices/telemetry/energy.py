"""Energy over a window: from counters where there are any, else integrated from samples of a power."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Literal

from kit.devices.telemetry.discovery import Site, _ina3221, _nvml, _pmic, _rapl, _read
from kit.devices.telemetry.files import read_number, read_text, run_command
from kit.devices.telemetry.readers import Ina3221, NvmlGpu, Rapl, ask, grown, nvml_of
from kit.devices.telemetry.reading import NESTED_RAILS, TOTAL_RAILS, Nvml, Reader, RunCommand, Target
from kit.records import Energy

Clock = Callable[[], int]  # nanoseconds, like timing.Clock

TICK_NS = 50_000_000
TICK_SHARE = 100  # a reading that costs c is repeated after 100 c at the earliest: at most 1 % of the time


@dataclass(frozen=True)
class Meter:
    """One source of energy. ``read`` gives the joules counted so far, one value per counter, each starting over at its ``ranges_j``;
    or, of kind "power", the watts drawn now. None where it does not answer."""

    source: str
    kind: Literal["counter", "power"]
    read: Callable[[], tuple[float, ...] | None]
    ranges_j: tuple[float, ...] = ()


def meters(
    root: Path = Path("/"), *, target: Target = "cpu", run: RunCommand = run_command, nvml: Nvml | None = None
) -> list[Meter]:
    """The energy meters of the machine whose files lie below ``root``, counters before powers; empty where there is none.

    A meter sees more than the network: its package, its GPU or its board. ``tegrastats`` is too slow to be one.
    """
    site = Site(root, run, nvml, target)
    sources = _gpu_meters(site) if target == "gpu" else _package_meters(site)
    rails, pmic = _ina3221(site), _pmic(site)
    if isinstance(rails, Ina3221):
        sources.append(_power_meter(f"INA3221 ({', '.join(counted_rails(rails))})", rails))
    if not isinstance(pmic, str):
        sources.append(_power_meter("Raspberry Pi PMIC (rails, without the 5 V input)", pmic))
    return sources


def counted_rails(monitor: Ina3221) -> list[str]:
    """The rails that :func:`total_power_w` takes for the total."""
    names = [rail.name for rail in monitor.rails]
    total = next((name for name in TOTAL_RAILS if name in names), None)
    return [total] if total else [name for name in names if name not in NESTED_RAILS]


def _power_meter(source: str, reader: Reader) -> Meter:
    def read() -> tuple[float, ...] | None:
        watts = _read(reader).power_w
        return None if watts is None else (watts,)

    return Meter(source, "power", read)


def _package_meters(site: Site) -> list[Meter]:
    rapl = _rapl(site)
    if not isinstance(rapl, Rapl):
        return []
    names = [read_text(package / "name") or package.name for package in rapl.packages]
    files = [package / "energy_uj" for package in rapl.packages]

    def read() -> tuple[float, ...] | None:
        values = [value * 1e-6 for value in map(read_number, files) if value is not None]
        return tuple(values) if len(values) == len(files) else None

    return [Meter(f"RAPL ({', '.join(names)})", "counter", read, tuple(uj * 1e-6 for uj in rapl.ranges_uj()))]


def _gpu_meters(site: Site) -> list[Meter]:
    gpu = _nvml(site)
    if not isinstance(gpu, NvmlGpu):
        return []
    if ask(gpu.nvml, "nvmlDeviceGetTotalEnergyConsumption", gpu.handle) is None:  # before Volta
        # From Ampere on (GA100 apart) the driver's power is a mean over one second.
        return [_power_meter("NVML (power)", gpu)] if gpu.read().power_w is not None else []

    def read() -> tuple[float, ...] | None:
        millijoules = ask(gpu.nvml, "nvmlDeviceGetTotalEnergyConsumption", gpu.handle)
        return None if millijoules is None else (millijoules * 1e-3,)

    return [Meter("NVML (total energy)", "counter", read, (0.0,))]


class EnergyWindow:
    """Joules between :meth:`start` and :meth:`stop`. ``clock`` is in nanoseconds.

    :meth:`tick` is called between inferences by the thread that runs them; it returns at once unless a reading is due. Each
    reading also carries a counter over its wrap.
    """

    def __init__(self, meter: Meter, clock: Clock = perf_counter_ns, idle_power_w: float | None = None) -> None:
        self.meter, self.idle_power_w = meter, idle_power_w
        self._clock = clock
        self._joules, self._samples, self._complete = 0.0, 0, False
        self._start_ns = self._last_ns = self._due_ns = 0
        self._last: tuple[float, ...] = ()

    def start(self) -> None:
        """Begin to integrate."""
        self._joules, self._samples, self._complete, self._last = 0.0, 0, True, ()
        self._sample()
        self._start_ns = self._last_ns

    def tick(self) -> None:
        """Read the power again where it is due."""
        if self._clock() >= self._due_ns:
            self._sample()

    def stop(self, calls: int) -> Energy | None:
        """The energy of ``calls`` inferences; None when the meter failed meanwhile, or a counter did not step in so short a window."""
        self._sample()
        window_s = (self._last_ns - self._start_ns) * 1e-9
        counted = self.meter.kind == "counter"
        if not self._complete or window_s <= 0 or (counted and self._joules == 0):
            return None
        return Energy(
            source=self.meter.source,
            joules=self._joules,
            window_s=window_s,
            calls=calls,
            idle_power_w=self.idle_power_w,
            samples=None if counted else self._samples,
        )

    def _sample(self) -> None:
        before_ns = self._clock()
        value = self.meter.read()
        after_ns = self._clock()
        now = (before_ns + after_ns) // 2
        self._due_ns = after_ns + max(TICK_NS, TICK_SHARE * (after_ns - before_ns))
        if value is None:
            self._complete = False
            return
        if self._last:
            self._joules += self._between(value, now)
        self._last, self._last_ns, self._samples = value, now, self._samples + 1

    def _between(self, value: tuple[float, ...], now_ns: int) -> float:
        if self.meter.kind == "counter":
            return sum(map(grown, self._last, value, self.meter.ranges_j))
        return (self._last[0] + value[0]) / 2 * (now_ns - self._last_ns) * 1e-9


def idle_power(
    meter: Meter, seconds: float, clock: Clock = perf_counter_ns, sleep: Callable[[float], None] = time.sleep
) -> float | None:
    """Mean watts of ``meter`` while this process sleeps for ``seconds``; None when it reports nothing."""
    window = EnergyWindow(meter, clock)
    window.start()
    until = clock() + int(seconds * 1e9)
    while clock() < until:
        sleep(TICK_NS * 1e-9)
        window.tick()
    energy = window.stop(1)
    return None if energy is None else energy.joules / energy.window_s


def gpu_memory_bytes(root: Path = Path("/"), *, pid: int | None = None, nvml: Nvml | None = None) -> int | None:
    """Memory that process ``pid`` (default: this one) holds on all NVIDIA GPUs; None where the driver does not report it.

    In a container the driver may know processes by the host's numbers: unknown then. Jetson boards share the CPU's memory.
    """
    module, _ = nvml_of(root, nvml)
    if module is None:
        return None
    target_pid, used_bytes = os.getpid() if pid is None else pid, []
    for index in range(ask(module, "nvmlDeviceGetCount") or 0):
        handle = ask(module, "nvmlDeviceGetHandleByIndex", index)
        processes = ask(module, "nvmlDeviceGetComputeRunningProcesses", handle) or []
        used_bytes += [process.usedGpuMemory for process in processes if process.pid == target_pid]
    return int(sum(used_bytes)) if used_bytes and None not in used_bytes else None
