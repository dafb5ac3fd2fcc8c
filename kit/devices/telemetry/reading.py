"""What a source of telemetry reports at one instant, and the words of its throttle flags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

RunCommand = Callable[[Sequence[str]], "str | None"]
Target = Literal["cpu", "gpu"]
Nvml = Any  # the pynvml module, or an object with its functions

THROTTLE_BITS = {  # raspberrypi/documentation, os/using-...: vcgencmd get_throttled
    0: "under_voltage",
    1: "frequency_capped",
    2: "throttled",
    3: "soft_temperature_limit",
    16: "under_voltage_since_boot",
    17: "frequency_capped_since_boot",
    18: "throttled_since_boot",
    19: "soft_temperature_limit_since_boot",
}
NVML_REASONS = {  # nvml.h, nvmlClocksEventReason*: idle (0x1) and user-set clocks (0x2) are choices, not throttling
    0x004: "gpu_power_cap",
    0x008: "gpu_hardware_slowdown",
    0x010: "gpu_sync_boost",
    0x020: "gpu_software_thermal_slowdown",
    0x040: "gpu_hardware_thermal_slowdown",
    0x080: "gpu_power_brake",
    0x100: "gpu_display_clock",
}
CPU_ZONES = (
    "x86_pkg_temp",
    "cpu",
    "soc",
    "tj",
)  # best first; acpitz is left out: it is the board, where it is anything
GPU_ZONES = ("gpu", "tj")
CPU_HWMON = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")  # the module's input: the other rails are shares of it
# AGX Orin has no rail for the whole; its DDR rail hangs on VIN_SYS_5V0 (both read 5 V), so it would count twice.
NESTED_RAILS = ("VDDQ_VDD2_1V8AO",)


@dataclass(frozen=True)
class Reading:
    """What one source told. Hertz, degrees Celsius, watts; None for what it does not know."""

    clock_hz: float | None = None
    temperature_c: float | None = None
    throttle_flags: tuple[str, ...] | None = None
    power_w: float | None = None
    power_mode: str | None = None


class Reader(Protocol):
    """One source, found on this machine. ``read`` may raise: :func:`read_environment` takes that as "unknown"."""

    def read(self) -> Reading: ...
