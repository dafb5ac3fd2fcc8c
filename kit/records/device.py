"""Who the device is: processor, caches, clock, GPUs, runtimes, telemetry, operating points."""

from __future__ import annotations

from pydantic import Field

from kit import units
from kit.records.record import Record


class CacheSpec(Record):
    """One level of cache."""

    level: int
    type: str  # "data", "instruction" or "unified"
    size_bytes: int
    shared_by: int  # logical CPUs that share one instance


class ClockSpec(Record):
    """Core clock in hertz. ``source`` says who said so; a ``nominal`` clock is printed on the box, not observed."""

    nominal_hz: float | None = None
    current_hz: float | None = None
    max_hz: float | None = None
    source: str = "unknown"


class GpuSpec(Record):
    """One GPU."""

    name: str
    memory_bytes: int | None = None
    driver: str | None = None
    compute_capability: str | None = None
    max_clock_hz: float | None = None


class DeviceMode(Record):
    """A named state that the device can be put into (a power mode, a clock cap)."""

    name: str
    clock_hz: float | None = None
    power_w: float | None = None
    how: str | None = None  # the vendor's command that selects it


class DeviceSpec(Record):
    """Who the device is. ``device_id`` names its folder under profiles/; ``config`` is the device_configs entry that matched."""

    device_id: str
    config: str | None
    machine: str  # x86_64, aarch64
    system: str
    kernel: str
    cpu_model: str
    cpu_features: tuple[str, ...]
    physical_cores: int | None
    logical_cores: int
    caches: tuple[CacheSpec, ...]
    clock: ClockSpec
    memory_bytes: int
    virtual: str | None  # "kvm", "unknown hypervisor"; None on bare metal
    gpus: tuple[GpuSpec, ...] = ()
    runtimes: dict[str, str | None] = Field(default_factory=dict)  # runtime -> version, None when it is not installed
    telemetry: dict[str, str] = Field(default_factory=dict)  # source -> "available" or why not
    operating_points: tuple[DeviceMode, ...] = ()

    def summary(self) -> dict[str, str]:
        """The device as name and text, for people."""
        cores = f"{units.known(self.physical_cores)} physical, {self.logical_cores} logical"
        clock_hz = self.clock.current_hz or self.clock.nominal_hz or self.clock.max_hz
        caches = [f"L{c.level} {c.type} {units.binary_size(c.size_bytes)}" for c in self.caches]
        runtimes = [f"{name} {version}" for name, version in self.runtimes.items() if version]
        return {
            "device": self.device_id,
            "processor": self.cpu_model,
            "cores": cores,
            "clock": f"{units.hertz(clock_hz)} ({self.clock.source})",
            "caches": ", ".join(caches),
            "memory": units.binary_size(self.memory_bytes),
            "GPUs": ", ".join(gpu.name for gpu in self.gpus),
            "system": f"{self.system}, kernel {self.kernel}",
            "virtual machine": self.virtual or "",
            "runtimes": ", ".join(runtimes),
            "configuration": self.config or "",
        }
