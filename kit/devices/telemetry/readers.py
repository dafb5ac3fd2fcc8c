"""One reader a source: found on this machine, then read cheaply."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from kit.devices.telemetry.files import highest_hz, read_number, read_text
from kit.devices.telemetry.parsers import (
    parse_measure_clock,
    parse_measure_temp,
    parse_nvpmodel,
    parse_pmic,
    parse_tegrastats,
    parse_throttled,
    plausible_c,
    total_power_w,
)
from kit.devices.telemetry.reading import NVML_REASONS, Nvml, Reading, RunCommand, Target


@dataclass(frozen=True)
class Vcgencmd:
    """Raspberry Pi firmware. Its clock is measured, where cpufreq's is what the kernel asked for."""

    command: str
    run: RunCommand

    def _ask(self, *words: str) -> str:
        return self.run([self.command, *words]) or ""

    def read(self) -> Reading:
        """Throttling, clock and temperature of a Raspberry Pi."""
        return Reading(
            clock_hz=parse_measure_clock(self._ask("measure_clock", "arm")),
            temperature_c=parse_measure_temp(self._ask("measure_temp")),
            throttle_flags=parse_throttled(self._ask("get_throttled")),
        )


@dataclass(frozen=True)
class Pmic:
    """Power management chip of a Raspberry Pi 5: twelve rails with a voltmeter and an ammeter each."""

    command: str
    run: RunCommand

    def read(self) -> Reading:
        """Power of all rails of a Raspberry Pi 5's power chip."""
        rails = parse_pmic(self.run([self.command, "pmic_read_adc"]) or "")
        return Reading(power_w=sum(rails.values()) if rails else None)


@dataclass(frozen=True)
class Cpufreq:
    """Clocks of the cores, from sysfs."""

    clocks: tuple[Path, ...]
    governor: Path

    def read(self) -> Reading:
        """The highest clock of the cores, and the governor."""
        return Reading(clock_hz=highest_hz(self.clocks), power_mode=read_text(self.governor) or None)


@dataclass(frozen=True)
class Devfreq:
    """Clock of an integrated GPU; devfreq files are in hertz."""

    clock: Path

    def read(self) -> Reading:
        """The clock of the GPU now."""
        return Reading(clock_hz=read_number(self.clock))


@dataclass(frozen=True)
class Temperature:
    """A thermal zone or a hwmon sensor, in thousandths of a degree."""

    sensor: Path

    def read(self) -> Reading:
        """The sensor's temperature."""
        value = read_number(self.sensor)
        return Reading(temperature_c=None if value is None else plausible_c(value * 1e-3))


@dataclass(frozen=True)
class RpiVolt:
    """The kernel's own under-voltage alarm: needs neither vcgencmd nor its permission."""

    alarm: Path

    def read(self) -> Reading:
        """Whether the voltage is too low now."""
        value = read_number(self.alarm)
        return Reading(throttle_flags=None if value is None else ("under_voltage",) if value else ())


@dataclass(frozen=True)
class Rail:
    """One supply rail: either millivolts and milliamperes, or (old drivers) milliwatts."""

    name: str
    files: tuple[Path, ...]

    def watts(self) -> float | None:
        """The rail's power now."""
        watts = 1.0
        for file in self.files:
            value = read_number(file)
            if value is None:
                return None
            watts *= value * 1e-3
        return watts


@dataclass(frozen=True)
class Ina3221:
    """Power rails of a Jetson, from hwmon."""

    rails: tuple[Rail, ...]

    def read(self) -> Reading:
        """Power of the board's rails."""
        watts = {rail.name: rail.watts() for rail in self.rails}
        readings = {name: value for name, value in watts.items() if value is not None}
        # A sum that lacks a rail would pass for a smaller power.
        return Reading(power_w=total_power_w(readings) if len(readings) == len(watts) else None)


@dataclass
class Rapl:
    """Mean power of the CPU packages since the previous read; the first read knows none."""

    packages: tuple[Path, ...]
    clock_s: Callable[[], float] = time.monotonic
    _last: tuple[float, tuple[float, ...]] | None = field(default=None, init=False)

    def read(self) -> Reading:
        """Power of the package since the last reading."""
        counters = [read_number(package / "energy_uj") for package in self.packages]
        if any(value is None for value in counters):
            self._last = None
            return Reading()
        now = (self.clock_s(), tuple(value for value in counters if value is not None))
        before, self._last = self._last, now
        if before is None or now[0] <= before[0]:
            return Reading()
        energy_uj = sum(map(grown, before[1], now[1], self.ranges_uj()))
        return Reading(power_w=energy_uj * 1e-6 / (now[0] - before[0]))

    def ranges_uj(self) -> tuple[float, ...]:
        """Where each counter starts over."""
        return tuple(read_number(package / "max_energy_range_uj") or 0.0 for package in self.packages)


def grown(before: float, now: float, range_: float) -> float:
    """What a counter that starts over at ``range_`` counted between two values; at least 0."""
    return max(0.0, now - before if now >= before else now - before + range_)


@dataclass(frozen=True)
class Nvpmodel:
    """A Jetson's power mode."""

    command: str
    run: RunCommand

    def read(self) -> Reading:
        """The power mode now."""
        return Reading(power_mode=parse_nvpmodel(self.run([self.command, "-q"]) or ""))


@dataclass(frozen=True)
class Tegrastats:
    """Power and temperatures of a Jetson, by its tool tegrastats."""

    command: str
    run: RunCommand
    target: Target

    def read(self) -> Reading:
        """What the first line of tegrastats says."""
        # tegrastats never ends by itself: timeout stops it after its first lines.
        text = self.run(["timeout", "0.5", self.command, "--interval", "100"]) or ""
        return parse_tegrastats(text.partition("\n")[0], self.target)


@dataclass(frozen=True)
class NvmlGpu:
    """One NVIDIA GPU. Each value is asked for on its own: a board supports some and not others."""

    nvml: Nvml
    handle: Any

    def read(self) -> Reading:
        """Clock, temperature, power and throttling of an NVIDIA GPU."""
        n, h = self.nvml, self.handle
        mhz = ask(n, "nvmlDeviceGetClockInfo", h, 1)  # NVML_CLOCK_SM
        milliwatts = ask(n, "nvmlDeviceGetPowerUsage", h)
        bits = ask(n, "nvmlDeviceGetCurrentClocksEventReasons", h)
        if bits is None:  # drivers before 535 know it by its old name
            bits = ask(n, "nvmlDeviceGetCurrentClocksThrottleReasons", h)
        state = ask(n, "nvmlDeviceGetPerformanceState", h)
        return Reading(
            clock_hz=None if mhz is None else mhz * 1e6,
            temperature_c=ask(n, "nvmlDeviceGetTemperature", h, 0),  # NVML_TEMPERATURE_GPU
            throttle_flags=None if bits is None else tuple(name for bit, name in NVML_REASONS.items() if bits & bit),
            power_w=None if milliwatts is None else milliwatts * 1e-3,
            power_mode=None if state is None else f"P{state}",
        )


def ask(nvml: Nvml, function: str, *arguments: Any) -> Any:
    """The answer of one NVML function, or None when this board, driver or module does not know it."""
    try:
        return getattr(nvml, function)(*arguments)
    except Exception:  # NVMLError has a class per code; an old module lacks the function altogether
        return None


def nvml_of(root: Path, nvml: Nvml | None = None) -> tuple[Nvml | None, str]:
    """The given NVML, or this machine's when ``root`` is this machine; None and why when there is none."""
    if nvml is not None:
        return nvml, "available"
    return _load_nvml() if root == Path("/") else (None, "a GPU is asked for on the running machine only")


@lru_cache(maxsize=1)
def _load_nvml() -> tuple[Nvml | None, str]:
    """The initialised NVML module, or None and why not. The only place that imports pynvml."""
    try:
        import pynvml
    except ImportError:
        return None, "the pynvml module is missing: pip install nvidia-ml-py"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, f"no NVIDIA driver answers ({error})"
    return pynvml, "available"
