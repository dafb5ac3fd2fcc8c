"""Which sources this machine has, and the environment that they report together."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from kit.devices.telemetry.files import by_number, clock_files, hwmon_folders, read_number, read_text, run_command
from kit.devices.telemetry.parsers import parse_pmic, parse_throttled
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
    nvml_of,
)
from kit.devices.telemetry.reading import CPU_HWMON, CPU_ZONES, GPU_ZONES, Nvml, Reader, Reading, RunCommand, Target
from kit.records import Environment
from kit.store import utc_now


@dataclass(frozen=True)
class Site:
    """Where to look: files below ``root``, commands through ``run``, the GPU through ``nvml`` where one is given."""

    root: Path
    run: RunCommand
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
        return "vcgencmd reports no power rail (Raspberry Pi 5 only)"
    return Pmic(command, site.run)


def _cpufreq(site: Site) -> Reader | str:
    clocks = [file for file in clock_files(site.root, "scaling_cur_freq") if _may_run_on(site, file.parent)]
    return Cpufreq(tuple(clocks), clocks[0].with_name("scaling_governor")) if clocks else "the kernel offers no cpufreq"


def _may_run_on(site: Site, policy: Path) -> bool:
    """Whether this process may run on a CPU of the cpufreq policy: the clock of other cores says nothing about it."""
    cpus = {int(n) for n in (read_text(policy / "affected_cpus") or "").split() if n.isdecimal()}
    return not cpus or site.root != Path("/") or bool(cpus & os.sched_getaffinity(0))


def _devfreq(site: Site) -> Reader | str:
    folder = gpu_devfreq(site.root)
    return Devfreq(folder / "cur_freq") if folder else "no GPU under /sys/class/devfreq"


def gpu_devfreq(root: Path) -> Path | None:
    """The devfreq folder of an integrated NVIDIA GPU (17000000.gpu, 17000000.ga10b, 57000000.gpu, ...)."""
    folders = sorted(root.glob("sys/class/devfreq/*"))
    return next((d for d in folders if re.search(r"\.(gpu|g[apv]\d+b)$", d.name)), None)


def _thermal(site: Site) -> Reader | str:
    zones = by_number(site.root.glob("sys/class/thermal/thermal_zone*"))
    types = [(zone, (read_text(zone / "type") or "").lower()) for zone in zones]
    for prefix in CPU_ZONES if site.target == "cpu" else GPU_ZONES:
        for zone, kind in types:
            if kind.startswith(prefix):
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
    packages = [p for p in zones if read_text(p / "name") != "psys"]  # the platform's total, packages included
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


# In the order of trust: of two sources of the same value the first one counts.
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
# A value of one processor must not describe the other; power of the board serves both.
OF_GPU_ONLY = {"nvml", "devfreq"}
OF_CPU_ONLY = {"vcgencmd", "cpufreq", "hwmon", "rapl"}


def discover(
    root: Path = Path("/"), *, target: Target = "cpu", run: RunCommand = run_command, nvml: Nvml | None = None
) -> list[Reader]:
    """The readers that exist on the machine whose files lie below ``root``, most trusted first.

    ``target`` is the processor that is timed. ``run`` and ``nvml`` replace the tools and the driver in tests.
    """
    skipped = OF_GPU_ONLY if target == "cpu" else OF_CPU_ONLY
    site = Site(root, run, nvml, target)
    readers = [look(site) for name, look in SOURCES.items() if name not in skipped]
    return [reader for reader in readers if not isinstance(reader, str)]


def describe_sources(
    root: Path = Path("/"), *, run: RunCommand = run_command, nvml: Nvml | None = None
) -> dict[str, str]:
    """Every source by name: "available", or why it is not."""
    site = Site(root, run, nvml, "cpu")
    readers = {name: look(site) for name, look in SOURCES.items()}
    return {name: reader if isinstance(reader, str) else "available" for name, reader in readers.items()}


@lru_cache(maxsize=2)
def readers_here(target: Target = "cpu") -> tuple[Reader, ...]:
    """The readers of this machine, looked for once per process."""
    return tuple(discover(target=target))


def read_environment(readers: Sequence[Reader] | None = None) -> Environment:
    """The machine's state now, from ``readers`` (default: those of this machine for the CPU).

    Each value is the first that a reader reports; throttle flags are the union over the readers that know any.
    """
    readings = [_read(reader) for reader in (readers_here() if readers is None else readers)]
    flags = [reading.throttle_flags for reading in readings if reading.throttle_flags is not None]
    values = {name: _first(getattr(reading, name) for reading in readings) for name in _FIRST_WINS}
    return Environment(
        at_utc=utc_now(),
        throttle_flags=tuple(dict.fromkeys(flag for group in flags for flag in group)) if flags else None,
        load_1min=_load(),
        **values,
    )


def throttled_between(before: Environment, after: Environment) -> tuple[str, ...]:
    """Flags that report throttling between two states: set at either, or remembered since boot only by the later one.

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
