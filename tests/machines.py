"""Machines out of recorded texts: a tree of files to recognise, tools that answer, an NVML that never saw a GPU.

Only x86-vm was recorded on a machine at hand; each board's text says which public format it follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RECORDED = Path(__file__).parent / "recorded"


def build(name: str, folder: Path) -> Path:
    """The recorded machine ``name`` as a tree under ``folder``."""
    for section in (RECORDED / f"{name}.txt").read_text().split("\n=== ")[1:]:
        path, _, text = section.partition("\n")
        put(folder, path, text)
    return folder


def put(root: Path, path: str, text: str) -> Path:
    """Write one file; a device tree's strings end with NUL, and a list of them is joined by it."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    strings = ("device-tree/", "devicetree/")
    file.write_text("".join(f"{line}\0" for line in text.splitlines()) if any(s in path for s in strings) else text)
    return file


def answering(texts: Mapping[str, str]) -> Any:
    """A ``run`` that answers commands by their words, without the folder of the tool."""

    def run(arguments: Sequence[str]) -> str | None:
        return texts.get(" ".join([Path(arguments[0]).name, *arguments[1:]]))

    return run


class FakeNvml:
    """The functions of pynvml that kit asks, answering as a host with ``names`` as its GPUs."""

    def __init__(self, *names: str, reasons: int = 0, without: Sequence[str] = ()) -> None:
        self.names, self.reasons, self.without = names, reasons, without

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in object.__getattribute__(self, "without"):
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.133.20"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return range(len(self.names))[index]

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return self.names[handle].encode()  # old modules answer in bytes

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=143771 << 20)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return 9, 0

    def nvmlDeviceGetMaxClockInfo(self, handle: int, kind: int) -> int:
        return {1: 1980}[kind]

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return {1: 345}[kind]

    def nvmlDeviceGetTemperature(self, handle: int, kind: int) -> int:
        return {0: 31}[kind]

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 76543

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        return self.reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return self.reasons

    def nvmlDeviceGetPerformanceState(self, handle: int) -> int:
        return 0
