"""What else happened on the machine during a window, by the kernel's own counters."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kit.devices.telemetry.files import read_text
from kit.records import Disturbance


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
    """(voluntary, involuntary) context switches of a /proc/.../status, which counts them for one thread."""
    counts = dict(re.findall(r"^(voluntary|nonvoluntary)_ctxt_switches:\s*(\d+)", text, re.MULTILINE))
    return (int(counts["voluntary"]), int(counts["nonvoluntary"])) if len(counts) == 2 else None


def _switches(root: Path) -> tuple[int, int] | None:
    """Switches of all living threads of this process; of the first alone where the others cannot be read."""
    files = sorted(root.glob("proc/self/task/*/status")) or [root / "proc/self/status"]
    switches = [counts for counts in (parse_switches(read_text(file) or "") for file in files) if counts]
    return (sum(v for v, _ in switches), sum(n for _, n in switches)) if switches else None


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


def _share(part: float | None, total: float | None) -> float | None:
    return None if part is None or not total else min(1.0, part / total)
