"""Clocks, temperatures, throttle flags and power of the machine at one instant: one reader per source.

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
``rapl``                /sys/class/powercap                                 CPU package power between two reads
``nvpmodel``            Jetson tool                                         power mode
``tegrastats``          Jetson tool, only where INA3221 cannot be read      temperature, board power
``nvml``                NVIDIA driver, only when the GPU is the target      GPU clock, temperature, power, reasons
======================  ==================================================  =====================================

An :class:`Environment` describes what the network runs on, so readers are chosen for a target: a GPU's clock never
stands in for the clock of the CPU beside it.

The parsers were written after public formats (vendor documents, kernel documentation, posted outputs) and tested on
such texts; of these sources only the ones of an x86 virtual machine, which has none, were at hand.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

from kit.records import Environment
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
    return float(match[1]) if match else None


def parse_measure_clock(text: str) -> float | None:
    """Hertz of ``frequency(48)=1500398464`` (vcgencmd measure_clock arm); 0 means that the firmware does not know."""
    match = re.fullmatch(r"frequency\(\d+\)=(\d+)", text.strip())
    return float(match[1]) or None if match else None


def parse_nvpmodel(text: str) -> str | None:
    """The mode's name of ``nvpmodel -q``: a line ``NV Power Mode: 15W``, then the id."""
    match = re.search(r"^NV Power Mode: *(\S+) *$", text, re.MULTILINE)
    return match[1].removeprefix("MODE_") if match else None


def parse_tegrastats(text: str, target: Target = "cpu") -> Reading:
    """CPU (or GPU) temperature, highest CPU clock and board power of one line of ``tegrastats``."""
    clocks = re.search(r"CPU \[([^\]]*)\]", text)
    mhz = [int(value) for value in re.findall(r"@(\d+)", clocks[1])] if clocks and target == "cpu" else []
    degrees = {name.lower(): float(value) for name, value in re.findall(r"(\w+)@(-?\d+(?:\.\d+)?)C", text)}
    rails = {
        name: int(value) * 1e-3 for name, value in re.findall(r"\b((?:VDD|VIN|POM)\w*) (\d+)(?:mW)?/\d+(?:mW)?", text)
    }
    return Reading(
        clock_hz=max(mhz) * 1e6 if mhz else None,
        temperature_c=plausible_c(degrees.get(target)),
        power_w=total_power_w(rails),
    )


def plausible_c(degrees: float | None) -> float | None:
    """``degrees`` unless it is a sensor's word for "off" (a power-gated Jetson zone says -256)."""
    return degrees if degrees is not None and -60 < degrees < 200 else None


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
    """``paths`` in the order of the numbers in their names (hwmon2 before hwmon10)."""
    return sorted(paths, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])


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
        energy_uj = sum(map(self._grown, self.packages, before[1], now[1]))
        return Reading(power_w=energy_uj * 1e-6 / (now[0] - before[0]))

    @staticmethod
    def _grown(package: Path, before_uj: float, now_uj: float) -> float:
        """Microjoules counted between two values of a counter that wraps around."""
        if now_uj >= before_uj:
            return now_uj - before_uj
        return now_uj - before_uj + (read_number(package / "max_energy_range_uj") or 0.0)


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


def _cpufreq(site: Site) -> Reader | str:
    clocks = clock_files(site.root, "scaling_cur_freq")
    return Cpufreq(tuple(clocks), clocks[0].with_name("scaling_governor")) if clocks else "the kernel offers no cpufreq"


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
    packages = [p for p in by_number(site.root.glob("sys/class/powercap/intel-rapl:*")) if p.name.count(":") == 1]
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
