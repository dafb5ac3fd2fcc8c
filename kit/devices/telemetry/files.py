"""Reading the kernel's small files and running vendors' tools: None where there is nothing to read."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path


def read_text(path: Path) -> str | None:
    """The stripped text of a small file (NUL bytes of device trees cut off), or None when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \n\t")
    except OSError:
        return None


def read_number(path: Path) -> float | None:
    """A number from a file of one line; None where there is none."""
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
    clocks_khz = [khz for khz in map(read_number, files) if khz]
    return max(clocks_khz) * 1e3 if clocks_khz else None


def run_command(arguments: Sequence[str]) -> str | None:
    """Standard output of a command that ends within two seconds; None when there is none."""
    try:
        completed = subprocess.run(list(arguments), capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return completed.stdout
