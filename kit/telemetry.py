"""Clocks, temperatures, throttle flags and power at one instant; energy and disturbance over a window.

"Unknown" is a value: what a machine does not tell is ``None``, and a source that breaks while it is read gives ``None``
for its values, never an exception. Sources are looked for once (:func:`discover`), then read cheaply.

======================  ==================================================  =====================================
source                  where                                               tells
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
stands in for the clock of the CPU beside it.

Energy (:func:`meters`, :class:`EnergyWindow`) is read from counters where there are any, else integrated from samples of a
power, by the measuring thread itself between two calls: a sampling thread would disturb what it measures. Counters step:
RAPL every millisecond, NVML every 20 to 100, so a window of a GPU should last seconds. Disturbance (:class:`Counters`,
:func:`disturbance`) is the difference of kernel counters before and after.

The parsers were written after public formats (vendor documents, kernel documentation, posted outputs) and tested on
such texts; of these sources only the ones of an x86 virtual machine, which has none, were at hand.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Literal, Protocol

from kit.records import Disturbance, Energy, Environment
from kit.store import utc_now

Run = Callable[[Sequence[str]], "str | None"]
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


# -------------------------------------------------------------------------------------------------------------- parsers


def parse_throttled(text: str) -> tuple[str, ...] | None:
    """The set flags of ``throttled=0x50005`` (vcgencmd get_throttled), low bit first; None for other text."""
    match = re.fullmatch(r"throttled=(0x[0-9a-fA-F]+)", text.strip())
    if match is None:
        return None
    bits = int(match[1], 16)
    return tuple(name for bit, name in THROTTLE_BITS.items() if bits >> bit & 1)


def parse_measure_temp(text: str) -> float | None:
    """Degrees Celsius of ``temp=48.3'C`` (vcgencmd measure_temp)."""
    match = re.fullmatch(r"temp=(-?\d+(?:\.\d+)?)'C", text.strip())
    return plausible_c(float(match[1])) if match else None


def parse_measure_clock(text: str) -> float | None:
    """Hertz of ``frequency(48)=1500398464`` (vcgencmd measure_clock arm); 0 means that the firmware does not know."""
    match = re.fullmatch(r"frequency\(\d+\)=(\d+)", text.strip())
    return plausible_hz(float(match[1])) if match else None


def parse_pmic(text: str) -> dict[str, float]:
    """Watts by rail of ``vcgencmd pmic_read_adc``: lines ``VDD_CORE_A current(7)=1.42880000A``, ``VDD_CORE_V volt(15)=0.9V``.

    The 5 V input and the battery have a voltmeter alone: what hangs on them (USB, fan, HATs, conversion losses) is not in it.
    Empty when a current lacks its voltage, or is none: the sum of the others would pass for a smaller power.
    """
    found = re.findall(r"^\s*(\w+)_([AV]) (?:current|volt)\(\d+\)=(\d+(?:\.\d+)?)[AV]\s*$", text, re.MULTILINE)
    amps = {rail: float(value) for rail, unit, value in found if unit == "A"}
    volts = {rail: float(value) for rail, unit, value in found if unit == "V"}
    watts = {rail: plausible_w(amps[rail] * volts.get(rail, math.nan)) for rail in amps}
    return {rail: w for rail, w in watts.items() if w is not None} if None not in watts.values() else {}


def parse_nvpmodel(text: str) -> str | None:
    """The mode's name of ``nvpmodel -q``: a line ``NV Power Mode: 15W``, then the id."""
    match = re.search(r"^NV Power Mode: *(\S+) *$", text, re.MULTILINE)
    return match[1].removeprefix("MODE_") if match else None


def parse_tegrastats(text: str, target: Target = "cpu") -> Reading:
    """CPU (or GPU) temperature, highest CPU clock and board power of one line of ``tegrastats``."""
    clocks = re.search(r"CPU \[([^\]]*)\]", text)
    mhz = [float(value) for value in re.findall(r"@(\d+)", clocks[1])] if clocks and target == "cpu" else []
    degrees = {name.lower(): float(value) for name, value in re.findall(r"(\w+)@(-?\d+(?:\.\d+)?)C", text)}
    rails = {
        name: float(value) * 1e-3 for name, value in re.findall(r"\b((?:VDD|VIN|POM)\w*) (\d+)(?:mW)?/\d+(?:mW)?", text)
    }
    return Reading(
        clock_hz=plausible_hz(max(mhz) * 1e6 if mhz else None),
        temperature_c=plausible_c(degrees.get(target)),
        power_w=plausible_w(total_power_w(rails)),
    )


def plausible_c(degrees: float | None) -> float | None:
    """``degrees`` unless it is a sensor's word for "off" (a power-gated Jetson zone says -256)."""
    return degrees if degrees is not None and -60 < degrees < 200 else None


def plausible_hz(hz: float | None) -> float | None:
    """``hz`` unless it is 0, a firmware's word for "unknown", or a number that is no clock."""
    return hz if hz is not None and 0 < hz < 1e11 else None


def plausible_w(watts: float | None) -> float | None:
    """``watts`` unless it is a number that no machine of one board or one server takes."""
    return watts if watts is not None and 0 <= watts < 1e5 else None


def total_power_w(rails: dict[str, float]) -> float | None:
    """Watts of the whole board from the watts of its rails; None without a rail.

    A rail that measures the input is the total; otherwise the rails that do not hang on one another are summed.
    """
    for name in TOTAL_RAILS:
        if name in rails:
            return rails[name]
    return sum(watts for name, watts in rails.items() if name not in NESTED_RAILS) if rails else None


# ---------------------------------------------------------------------------------------------------------------- files


def read_text(path: Path) -> str | None:
    """The stripped text of a small file (NUL bytes of device trees cut off), or None when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \n\t")
    except OSError:
        return None


def read_number(path: Path) -> float | None:
    text = read_text(path)
    try:
        return float(text) if text else None
    except ValueError:
        return None


def by_number(paths: Iterable[Path]) -> list[Path]:
    """``paths`` of one folder in the order of the numbers in them (hwmon2 before hwmon10, policy0/x before policy4/x)."""
    return sorted(paths, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))])


def hwmon_folders(root: Path, *names: str) -> list[Path]:
    """The folders under /sys/class/hwmon whose driver has one of ``names``."""
    return [d for d in by_number(root.glob("sys/class/hwmon/hwmon*")) if read_text(d / "name") in names]


def clock_files(root: Path, name: str) -> list[Path]:
    """cpufreq files called ``name``: one per policy, or one per CPU on kernels without policy folders."""
    cpus = root / "sys/devices/system/cpu"
    return by_number(cpus.glob(f"cpufreq/policy*/{name}")) or by_number(cpus.glob(f"cpu[0-9]*/cpufreq/{name}"))


def highest_hz(files: Iterable[Path]) -> float | None:
    """The highest of some cpufreq values (kilohertz in the file), in hertz."""
    known = [khz for khz in map(read_number, files) if khz]
    return max(known) * 1e3 if known else None


def run_command(arguments: Sequence[str]) -> str | None:
    """Standard output of a command that ends within two seconds; None when it cannot be had."""
    try:
        done = subprocess.run(list(arguments), capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout


# -------------------------------------------------------------------------------------------------------------- readers


@dataclass(frozen=True)
class Vcgencmd:
    """Raspberry Pi firmware. Its clock is measured, where cpufreq's is what the kernel asked for."""

    command: str
    run: Run

    def _ask(self, *words: str) -> str:
        return self.run([self.command, *words]) or ""

    def read(self) -> Reading:
        return Reading(
            clock_hz=parse_measure_clock(self._ask("measure_clock", "arm")),
            temperature_c=parse_measure_temp(self._ask("measure_temp")),
            throttle_flags=parse_throttled(self._ask("get_throttled")),
        )


@dataclass(frozen=True)
class Pmic:
    """Power management chip of a Raspberry Pi 5: twelve rails with a voltmeter and an ammeter each."""

    command: str
    run: Run

    def read(self) -> Reading:
        rails = parse_pmic(self.run([self.command, "pmic_read_adc"]) or "")
        return Reading(power_w=sum(rails.values()) if rails else None)


@dataclass(frozen=True)
class Cpufreq:
    clocks: tuple[Path, ...]
    governor: Path

    def read(self) -> Reading:
        return Reading(clock_hz=highest_hz(self.clocks), power_mode=read_text(self.governor) or None)


@dataclass(frozen=True)
class Devfreq:
    """Clock of an integrated GPU; devfreq files are in hertz."""

    clock: Path

    def read(self) -> Reading:
        return Reading(clock_hz=read_number(self.clock))


@dataclass(frozen=True)
class Temperature:
    """A thermal zone or a hwmon sensor, in thousandths of a degree."""

    sensor: Path

    def read(self) -> Reading:
        value = read_number(self.sensor)
        return Reading(temperature_c=None if value is None else plausible_c(value * 1e-3))


@dataclass(frozen=True)
class RpiVolt:
    """The kernel's own under-voltage alarm: needs neither vcgencmd nor its permission."""

    alarm: Path

    def read(self) -> Reading:
        value = read_number(self.alarm)
        return Reading(throttle_flags=None if value is None else ("under_voltage",) if value else ())


@dataclass(frozen=True)
class Rail:
    """One supply rail: either millivolts and milliamperes, or (old drivers) milliwatts."""

    name: str
    files: tuple[Path, ...]

    def watts(self) -> float | None:
        watts = 1.0
        for file in self.files:
            value = read_number(file)
            if value is None:
                return None
            watts *= value * 1e-3
        return watts


@dataclass(frozen=True)
class Ina3221:
    rails: tuple[Rail, ...]

    def read(self) -> Reading:
        watts = {rail.name: rail.watts() for rail in self.rails}
        known = {name: value for name, value in watts.items() if value is not None}
        # A sum that lacks a rail would pass for a smaller power.
        return Reading(power_w=total_power_w(known) if len(known) == len(watts) else None)


@dataclass
class Rapl:
    """Mean power of the CPU packages since the previous read; the first read knows none."""

    packages: tuple[Path, ...]
    clock_s: Callable[[], float] = time.monotonic
    _last: tuple[float, tuple[float, ...]] | None = field(default=None, init=False)

    def read(self) -> Reading:
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
    command: str
    run: Run

    def read(self) -> Reading:
        return Reading(power_mode=parse_nvpmodel(self.run([self.command, "-q"]) or ""))


@dataclass(frozen=True)
class Tegrastats:
    command: str
    run: Run
    target: Target

    def read(self) -> Reading:
        # tegrastats never ends by itself: timeout stops it after its first lines.
        text = self.run(["timeout", "0.5", self.command, "--interval", "100"]) or ""
        return parse_tegrastats(text.partition("\n")[0], self.target)


@dataclass(frozen=True)
class NvmlGpu:
    """One NVIDIA GPU. Each value is asked for on its own: a board supports some and not others."""

    nvml: Nvml
    handle: Any

    def read(self) -> Reading:
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


# ------------------------------------------------------------------------------------------------------------ discovery


@dataclass(frozen=True)
class Site:
    """Where to look: files below ``root``, commands through ``run``, the GPU through ``nvml`` where one is given."""

    root: Path
    run: Run
    nvml: Nvml | None
    target: Target

    def command(self, name: str) -> str | None:
        """The path of a tool that lies below ``root``."""
        for folder in ("usr/bin", "usr/sbin", "opt/vc/bin"):
            if (self.root / folder / name).is_file():
                return str(self.root / folder / name)
        return shutil.which(name) if self.root == Path("/") else None


def _vcgencmd(site: Site) -> Reader | str:
    command = site.command("vcgencmd")
    if command is None:
        return "no vcgencmd (Raspberry Pi only)"
    if parse_throttled(site.run([command, "get_throttled"]) or "") is None:
        return "vcgencmd does not answer: add this user to the group 'video'"
    return Vcgencmd(command, site.run)


def _pmic(site: Site) -> Reader | str:
    command = site.command("vcgencmd")
    if command is None:
        return "no vcgencmd (Raspberry Pi 5 only)"
    if not parse_pmic(site.run([command, "pmic_read_adc"]) or ""):
        return "vcgencmd tells of no power rail (Raspberry Pi 5 only)"
    return Pmic(command, site.run)


def _cpufreq(site: Site) -> Reader | str:
    clocks = [file for file in clock_files(site.root, "scaling_cur_freq") if _may_run_on(site, file.parent)]
    return Cpufreq(tuple(clocks), clocks[0].with_name("scaling_governor")) if clocks else "the kernel offers no cpufreq"


def _may_run_on(site: Site, policy: Path) -> bool:
    """Whether this process may run on a CPU of the cpufreq policy: the clock of other cores says nothing about it."""
    cpus = {int(n) for n in (read_text(policy / "affected_cpus") or "").split() if n.isdecimal()}
    return not cpus or site.root != Path("/") or bool(cpus & os.sched_getaffinity(0))


def _devfreq(site: Site) -> Reader | str:
    found = gpu_devfreq(site.root)
    return Devfreq(found / "cur_freq") if found else "no GPU under /sys/class/devfreq"


def gpu_devfreq(root: Path) -> Path | None:
    """The devfreq folder of an integrated NVIDIA GPU (17000000.gpu, 17000000.ga10b, 57000000.gpu, ...)."""
    folders = sorted(root.glob("sys/class/devfreq/*"))
    return next((d for d in folders if re.search(r"\.(gpu|g[apv]\d+b)$", d.name)), None)


def _thermal(site: Site) -> Reader | str:
    zones = by_number(site.root.glob("sys/class/thermal/thermal_zone*"))
    types = [(zone, (read_text(zone / "type") or "").lower()) for zone in zones]
    for wanted in CPU_ZONES if site.target == "cpu" else GPU_ZONES:
        for zone, kind in types:
            if kind.startswith(wanted):
                return Temperature(zone / "temp")
    return "no thermal zone" if not zones else f"no thermal zone of the {site.target.upper()}"


def _hwmon(site: Site) -> Reader | str:
    for folder in hwmon_folders(site.root, *CPU_HWMON):
        if (folder / "temp1_input").exists():
            return Temperature(folder / "temp1_input")
    return "no CPU temperature under /sys/class/hwmon"


def _rpi_volt(site: Site) -> Reader | str:
    for folder in hwmon_folders(site.root, "rpi_volt"):
        return RpiVolt(folder / "in0_lcrit_alarm")
    return "no rpi_volt under /sys/class/hwmon (Raspberry Pi only)"


def _ina3221(site: Site) -> Reader | str:
    rails = [rail for folder in hwmon_folders(site.root, "ina3221") for rail in _hwmon_rails(folder)]
    rails += [rail for folder in _iio_folders(site.root) for rail in _iio_rails(folder)]
    return Ina3221(tuple(rails)) if rails else "no INA3221 power monitor (Jetson only)"


def _hwmon_rails(folder: Path) -> list[Rail]:
    """Channels 1 to 3 that are connected; channel 7 is the sum of shunt voltages, no rail."""
    labels = {n: read_text(folder / f"in{n}_label") for n in (1, 2, 3)}
    files = {n: (folder / f"in{n}_input", folder / f"curr{n}_input") for n in labels}
    return [Rail(name, files[n]) for n, name in labels.items() if name and name != "NC"]


def _iio_folders(root: Path) -> list[Path]:
    return by_number(root.glob("sys/bus/i2c/drivers/ina3221x/*/iio*device*"))


def _iio_rails(folder: Path) -> list[Rail]:
    labels = {n: read_text(folder / f"rail_name_{n}") for n in (0, 1, 2)}
    return [Rail(name, (folder / f"in_power{n}_input",)) for n, name in labels.items() if name and name != "NC"]


def _rapl(site: Site) -> Reader | str:
    zones = [p for p in by_number(site.root.glob("sys/class/powercap/intel-rapl:*")) if p.name.count(":") == 1]
    packages = [p for p in zones if read_text(p / "name") != "psys"]  # the whole platform, packages included
    if not packages:
        return "no energy counter under /sys/class/powercap"
    if any(read_number(package / "energy_uj") is None for package in packages):
        return "the energy counters may be read by root only: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
    return Rapl(tuple(packages))


def _nvpmodel(site: Site) -> Reader | str:
    command = site.command("nvpmodel")
    return Nvpmodel(command, site.run) if command else "no nvpmodel (Jetson only)"


def _tegrastats(site: Site) -> Reader | str:
    if not isinstance(_ina3221(site), str):
        return "not needed: INA3221 is read directly"
    command = site.command("tegrastats")
    return Tegrastats(command, site.run, site.target) if command else "no tegrastats (Jetson only)"


def _nvml(site: Site) -> Reader | str:
    nvml, reason = nvml_of(site.root, site.nvml)
    if nvml is None:
        return reason
    handle = ask(nvml, "nvmlDeviceGetHandleByIndex", 0)
    return "the NVIDIA driver lists no GPU" if handle is None else NvmlGpu(nvml, handle)


# In the order of trust: of two sources that tell the same value the first one is taken.
SOURCES: dict[str, Callable[[Site], Reader | str]] = {
    "nvml": _nvml,
    "vcgencmd": _vcgencmd,
    "nvpmodel": _nvpmodel,
    "cpufreq": _cpufreq,
    "devfreq": _devfreq,
    "thermal": _thermal,
    "hwmon": _hwmon,
    "rpi_volt": _rpi_volt,
    "ina3221": _ina3221,
    "rapl": _rapl,
    "pmic": _pmic,
    "tegrastats": _tegrastats,
}
# A value of one processor must not describe the other; power of the whole board serves both.
OF_GPU_ONLY = {"nvml", "devfreq"}
OF_CPU_ONLY = {"vcgencmd", "cpufreq", "hwmon", "rapl"}


def discover(
    root: Path = Path("/"), *, target: Target = "cpu", run: Run = run_command, nvml: Nvml | None = None
) -> list[Reader]:
    """The readers that exist on the machine whose files lie below ``root``, most trusted first.

    ``target`` is the processor that is timed. ``run`` and ``nvml`` replace the tools and the driver in tests.
    """
    skipped = OF_GPU_ONLY if target == "cpu" else OF_CPU_ONLY
    site = Site(root, run, nvml, target)
    found = [look(site) for name, look in SOURCES.items() if name not in skipped]
    return [reader for reader in found if not isinstance(reader, str)]


def describe_sources(root: Path = Path("/"), *, run: Run = run_command, nvml: Nvml | None = None) -> dict[str, str]:
    """Every source by name: "available", or why it is not."""
    site = Site(root, run, nvml, "cpu")
    found = {name: look(site) for name, look in SOURCES.items()}
    return {name: reader if isinstance(reader, str) else "available" for name, reader in found.items()}


@lru_cache(maxsize=2)
def readers_here(target: Target = "cpu") -> tuple[Reader, ...]:
    """The readers of this machine, looked for once per process."""
    return tuple(discover(target=target))


def read_environment(readers: Sequence[Reader] | None = None) -> Environment:
    """The machine's state now, from ``readers`` (default: those of this machine for the CPU).

    Each value is the first that a reader tells; throttle flags are the union over the readers that know any.
    """
    told = [_read(reader) for reader in (readers_here() if readers is None else readers)]
    flags = [reading.throttle_flags for reading in told if reading.throttle_flags is not None]
    values = {name: _first(getattr(reading, name) for reading in told) for name in _FIRST_WINS}
    return Environment(
        at_utc=utc_now(),
        throttle_flags=tuple(dict.fromkeys(flag for group in flags for flag in group)) if flags else None,
        load_1min=_load(),
        **values,
    )


def throttled_between(before: Environment, after: Environment) -> tuple[str, ...]:
    """Flags that tell of throttling between two states: set at either, or remembered since boot only by the later one.

    A board that was throttled once remembers it until it is switched off, so such a flag alone says nothing about now.
    """
    early, late = before.throttle_flags or (), after.throttle_flags or ()
    now = [flag for flag in (*early, *late) if not flag.endswith("_since_boot")]
    new = [flag for flag in late if flag not in early] if before.throttle_flags is not None else []
    return tuple(dict.fromkeys(now + new))


_FIRST_WINS = tuple(f.name for f in fields(Reading) if f.name != "throttle_flags")


def _read(reader: Reader) -> Reading:
    try:
        return reader.read()
    except Exception:  # a broken sensor must not end a measurement that does not need it
        return Reading()


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


# --------------------------------------------------------------------------------------------------------------- energy


Clock = Callable[[], int]  # nanoseconds, like timing.Clock

TICK_NS = 50_000_000
TICK_SHARE = 100  # a reading that costs c is repeated after 100 c at the earliest: at most 1 % of the time


@dataclass(frozen=True)
class Meter:
    """One source of energy. ``read`` tells the joules counted so far, one value per counter, each starting over at its ``ranges_j``;
    or, of kind "power", the watts drawn now. None where it does not answer."""

    source: str
    kind: Literal["counter", "power"]
    read: Callable[[], tuple[float, ...] | None]
    ranges_j: tuple[float, ...] = ()


def meters(
    root: Path = Path("/"), *, target: Target = "cpu", run: Run = run_command, nvml: Nvml | None = None
) -> list[Meter]:
    """The energy meters of the machine whose files lie below ``root``, counters before powers; empty where there is none.

    A meter sees more than the network: its package, its GPU or its board. ``tegrastats`` is too slow to be one.
    """
    site = Site(root, run, nvml, target)
    found = _gpu_meters(site) if target == "gpu" else _package_meters(site)
    rails, pmic = _ina3221(site), _pmic(site)
    if isinstance(rails, Ina3221):
        found.append(_power_meter(f"INA3221 ({', '.join(counted_rails(rails))})", rails))
    if not isinstance(pmic, str):
        found.append(_power_meter("Raspberry Pi PMIC (rails, without the 5 V input)", pmic))
    return found


def counted_rails(monitor: Ina3221) -> list[str]:
    """The rails that :func:`total_power_w` takes for the whole."""
    names = [rail.name for rail in monitor.rails]
    whole = next((name for name in TOTAL_RAILS if name in names), None)
    return [whole] if whole else [name for name in names if name not in NESTED_RAILS]


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
        self._joules, self._samples, self._whole = 0.0, 0, False
        self._began_ns = self._last_ns = self._due_ns = 0
        self._last: tuple[float, ...] = ()

    def start(self) -> None:
        self._joules, self._samples, self._whole, self._last = 0.0, 0, True, ()
        self._sample()
        self._began_ns = self._last_ns

    def tick(self) -> None:
        if self._clock() >= self._due_ns:
            self._sample()

    def stop(self, calls: int) -> Energy | None:
        """The energy of ``calls`` inferences; None when the meter failed meanwhile, or a counter did not step in so short a window."""
        self._sample()
        window_s = (self._last_ns - self._began_ns) * 1e-9
        counted = self.meter.kind == "counter"
        if not self._whole or window_s <= 0 or (counted and self._joules == 0):
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
        asked = self._clock()
        value = self.meter.read()
        told = self._clock()
        now = (asked + told) // 2
        self._due_ns = told + max(TICK_NS, TICK_SHARE * (told - asked))
        if value is None:
            self._whole = False
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
    """Mean watts of ``meter`` while this process sleeps for ``seconds``; None when it does not tell."""
    window = EnergyWindow(meter, clock)
    window.start()
    until = clock() + int(seconds * 1e9)
    while clock() < until:
        sleep(TICK_NS * 1e-9)
        window.tick()
    energy = window.stop(1)
    return None if energy is None else energy.joules / energy.window_s


def gpu_memory_bytes(root: Path = Path("/"), *, pid: int | None = None, nvml: Nvml | None = None) -> int | None:
    """Memory that process ``pid`` (default: this one) holds on all NVIDIA GPUs; None where the driver does not tell.

    In a container the driver may know processes by the host's numbers: unknown then. Jetson boards share the CPU's memory.
    """
    module, _ = nvml_of(root, nvml)
    if module is None:
        return None
    wanted, found = os.getpid() if pid is None else pid, []
    for index in range(ask(module, "nvmlDeviceGetCount") or 0):
        handle = ask(module, "nvmlDeviceGetHandleByIndex", index)
        processes = ask(module, "nvmlDeviceGetComputeRunningProcesses", handle) or []
        found += [process.usedGpuMemory for process in processes if process.pid == wanted]
    return int(sum(found)) if found and None not in found else None


# ---------------------------------------------------------------------------------------------------------- disturbance


@dataclass(frozen=True)
class Counters:
    """Kernel counters at one instant: CPU time in clock ticks (of the machine, summed over its cores; and of this process)."""

    at_s: float
    total_ticks: int | None = None
    idle_ticks: int | None = None
    steal_ticks: int | None = None
    own_ticks: int | None = None
    waited_us: int | None = None  # some task of the machine waited for a core
    involuntary: int | None = None
    voluntary: int | None = None
    major_faults: int | None = None
    huge_page_bytes: int | None = None

    @classmethod
    def read(
        cls, root: Path = Path("/"), *, huge_pages: bool = False, clock_s: Callable[[], float] = time.monotonic
    ) -> Counters:
        """The counters below ``root`` now. ``huge_pages`` walks all page tables of the process (milliseconds): at the end only."""
        total, idle, stolen = parse_cpu_ticks(read_text(root / "proc/stat") or "") or (None, None, None)
        own = parse_own_stat(read_text(root / "proc/self/stat") or "")
        switches = _switches(root)
        smaps = (read_text(root / "proc/self/smaps_rollup") or "") if huge_pages else ""
        return cls(
            clock_s(),
            total_ticks=total,
            idle_ticks=idle,
            steal_ticks=stolen,
            own_ticks=own[1] if own else None,
            waited_us=parse_pressure(read_text(root / "proc/pressure/cpu") or ""),
            involuntary=switches[1] if switches else None,
            voluntary=switches[0] if switches else None,
            major_faults=own[0] if own else None,
            huge_page_bytes=parse_kilobytes(smaps, "AnonHugePages"),
        )


def parse_cpu_ticks(text: str) -> tuple[int, int, int | None] | None:
    """(all, idle, stolen) clock ticks of /proc/stat's first line, guests counted once; None for other text."""
    match = re.match(r"cpu +([\d ]+)", text, re.ASCII)
    ticks = [int(n) for n in match[1].split()][:8] if match else []
    if len(ticks) < 4:
        return None
    return sum(ticks), ticks[3] + sum(ticks[4:5]), ticks[7] if len(ticks) == 8 else None


def parse_own_stat(text: str) -> tuple[int, int] | None:
    """(major faults, clock ticks of user and system time) of /proc/self/stat; the name in it may hold spaces and brackets."""
    words = text.rpartition(")")[2].split()
    numbers = words[9:10] + words[11:13]  # majflt, utime, stime: fields 12, 14, 15
    if len(numbers) < 3 or not all(n.isdecimal() for n in numbers):
        return None
    return int(numbers[0]), int(numbers[1]) + int(numbers[2])


def parse_pressure(text: str) -> int | None:
    """Microseconds since boot in which some task waited: ``some avg10=0.09 avg60=0.34 avg300=0.37 total=5254052``."""
    match = re.search(r"^some .*\btotal=(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else None


def parse_kilobytes(text: str, key: str) -> int | None:
    """Bytes of one line of /proc/self/status or smaps: ``AnonHugePages:      2048 kB``."""
    match = re.search(rf"^{re.escape(key)}:\s*(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def parse_switches(text: str) -> tuple[int, int] | None:
    """(voluntary, involuntary) context switches of a /proc/.../status, which tells them of one thread."""
    found = dict(re.findall(r"^(voluntary|nonvoluntary)_ctxt_switches:\s*(\d+)", text, re.MULTILINE))
    return (int(found["voluntary"]), int(found["nonvoluntary"])) if len(found) == 2 else None


def _switches(root: Path) -> tuple[int, int] | None:
    """Switches of all living threads of this process; of the first alone where the others cannot be read."""
    files = sorted(root.glob("proc/self/task/*/status")) or [root / "proc/self/status"]
    found = [told for told in (parse_switches(read_text(file) or "") for file in files) if told]
    return (sum(v for v, _ in found), sum(n for _, n in found)) if found else None


def disturbance(before: Counters, after: Counters) -> Disturbance:
    """What disturbed the time between two readings. Ticks are hundredths of a second: windows should last a second or more."""
    window_s = max(0.0, after.at_s - before.at_s)
    total, stolen = _more(before.total_ticks, after.total_ticks), _more(before.steal_ticks, after.steal_ticks)
    idle, own = _more(before.idle_ticks, after.idle_ticks), _more(before.own_ticks, after.own_ticks)
    waited = _more(before.waited_us, after.waited_us)
    elsewhere = None if total is None or idle is None or own is None else max(0, total - idle - (stolen or 0) - own)
    return Disturbance(
        window_s=window_s,
        steal_share=_share(stolen, total),
        busy_elsewhere_share=_share(elsewhere, total),
        cpu_pressure_share=_share(waited, window_s * 1e6),
        involuntary_switches=_more(before.involuntary, after.involuntary),
        voluntary_switches=_more(before.voluntary, after.voluntary),
        major_faults=_more(before.major_faults, after.major_faults),
        huge_page_bytes=after.huge_page_bytes,
    )


def _more(before: int | None, after: int | None) -> int | None:
    """What a counter counted; a thread that ended took its counts along, hence at least 0."""
    return None if before is None or after is None else max(0, after - before)


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else min(1.0, part / whole)
