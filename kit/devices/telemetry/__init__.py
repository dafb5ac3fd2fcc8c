"""Clocks, temperatures, throttle flags and power at one instant; energy and disturbance over a window.

"Unknown" is a value: what a machine does not report is ``None``, and a source that breaks while it is read gives ``None``
for its values, never an exception. Sources are looked for once (:func:`discover`), then read cheaply.

======================  ==================================================  =====================================
source                  where                                               values
======================  ==================================================  =====================================
``vcgencmd``            Raspberry Pi firmware tool                          measured Arm clock, temperature, flags
``cpufreq``             /sys/devices/system/cpu/cpufreq/policy*             requested clock (max), governor
``thermal``             /sys/class/thermal/thermal_zone*                    CPU (or GPU) temperature
``hwmon``               /sys/class/hwmon: coretemp, k10temp, cpu_thermal    CPU temperature
``rpi_volt``            /sys/class/hwmon: rpi_volt                          under-voltage alarm
``ina3221``             /sys/class/hwmon, i2c/drivers/ina3221x (old L4T)    board power
``rapl``                /sys/class/powercap                                 CPU package power between two reads, energy
``pmic``                Raspberry Pi 5 firmware tool                        power of the rails that have an ammeter
``nvpmodel``            Jetson tool                                         power mode
``tegrastats``          Jetson tool, only where INA3221 cannot be read      temperature, board power
``nvml``                NVIDIA driver, only when the GPU is the target      GPU clock, temperature, power, reasons, energy
======================  ==================================================  =====================================

An :class:`Environment` describes what the network runs on, so readers are chosen for a target: a GPU's clock never
stands in for the clock of the CPU next to it.

Energy (:func:`meters`, :class:`EnergyWindow`) is read from counters where there are any, else integrated from samples of a
power, by the measuring thread itself between two calls: a sampling thread would disturb what it measures. Counters step:
RAPL every millisecond, NVML every 20 to 100, so a window of a GPU should last seconds. Disturbance (:class:`Counters`,
:func:`disturbance`) is the difference of kernel counters before and after.

The parsers were written after public formats (vendor documents, kernel documentation, posted outputs) and tested on
such texts; of these sources only the ones of an x86 virtual machine, which has none, were at hand.
"""

from kit.devices.telemetry.discovery import (
    OF_CPU_ONLY,
    OF_GPU_ONLY,
    SOURCES,
    Site,
    describe_sources,
    discover,
    gpu_devfreq,
    read_environment,
    readers_here,
    throttled_between,
)
from kit.devices.telemetry.disturbance import (
    Counters,
    disturbance,
    parse_cpu_ticks,
    parse_kilobytes,
    parse_own_stat,
    parse_pressure,
    parse_switches,
)
from kit.devices.telemetry.energy import (
    TICK_NS,
    TICK_SHARE,
    Clock,
    EnergyWindow,
    Meter,
    counted_rails,
    gpu_memory_bytes,
    idle_power,
    meters,
)
from kit.devices.telemetry.files import (
    by_number,
    clock_files,
    highest_hz,
    hwmon_folders,
    read_number,
    read_text,
    run_command,
)
from kit.devices.telemetry.parsers import (
    parse_measure_clock,
    parse_measure_temp,
    parse_nvpmodel,
    parse_pmic,
    parse_tegrastats,
    parse_throttled,
    plausible_c,
    plausible_hz,
    plausible_w,
    total_power_w,
)
from kit.devices.telemetry.readers import (
    Cpufreq,
    Devfreq,
    Ina3221,
    NvmlGpu,
    Nvpmodel,
    Pmic,
    Rail,
    Rapl,
    RpiVolt,
    Tegrastats,
    Temperature,
    Vcgencmd,
    ask,
    grown,
    nvml_of,
)
from kit.devices.telemetry.reading import (
    CPU_HWMON,
    CPU_ZONES,
    GPU_ZONES,
    NESTED_RAILS,
    NVML_REASONS,
    THROTTLE_BITS,
    TOTAL_RAILS,
    Nvml,
    Reader,
    Reading,
    RunCommand,
    Target,
)

__all__ = [
    "CPU_HWMON",
    "CPU_ZONES",
    "GPU_ZONES",
    "NESTED_RAILS",
    "NVML_REASONS",
    "OF_CPU_ONLY",
    "OF_GPU_ONLY",
    "SOURCES",
    "THROTTLE_BITS",
    "TICK_NS",
    "TICK_SHARE",
    "TOTAL_RAILS",
    "Clock",
    "Counters",
    "Cpufreq",
    "Devfreq",
    "EnergyWindow",
    "Ina3221",
    "Meter",
    "Nvml",
    "NvmlGpu",
    "Nvpmodel",
    "Pmic",
    "Rail",
    "Rapl",
    "Reader",
    "Reading",
    "RpiVolt",
    "RunCommand",
    "Site",
    "Target",
    "Tegrastats",
    "Temperature",
    "Vcgencmd",
    "ask",
    "by_number",
    "clock_files",
    "counted_rails",
    "describe_sources",
    "discover",
    "disturbance",
    "gpu_devfreq",
    "gpu_memory_bytes",
    "grown",
    "highest_hz",
    "hwmon_folders",
    "idle_power",
    "meters",
    "nvml_of",
    "parse_cpu_ticks",
    "parse_kilobytes",
    "parse_measure_clock",
    "parse_measure_temp",
    "parse_nvpmodel",
    "parse_own_stat",
    "parse_pmic",
    "parse_pressure",
    "parse_switches",
    "parse_tegrastats",
    "parse_throttled",
    "plausible_c",
    "plausible_hz",
    "plausible_w",
    "read_environment",
    "read_number",
    "read_text",
    "readers_here",
    "run_command",
    "throttled_between",
    "total_power_w",
]
