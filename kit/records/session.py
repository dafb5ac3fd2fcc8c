"""One machine on one day: its state, and a fixed set of networks."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from kit.packed import Series
from kit.records.device import DeviceSpec
from kit.records.measurement import Disturbance, Environment, MeasureSettings, Reference, Run, RunStatus
from kit.records.network import Artifact
from kit.records.record import AliasedRecord, Record


class WorkingSet(Record):
    """Reading one working set on one core: ``read_ns`` holds the nanoseconds of ``read_passes`` passes in order, ``chase_ns`` those of
    ``chase_loads`` loads that wait for each other (None where the machine has no such loop)."""

    size_bytes: int = Field(gt=0)
    source: str  # "machine code", "numpy"
    read_passes: int = Field(ge=1)
    read_ns: Series
    chase_loads: int | None = Field(default=None, ge=1)
    chase_ns: Series | None = None

    @property
    def bandwidth_bytes_s(self) -> float:
        """Bytes per second in order: from the lower quartile of the times, because neighbours only lengthen them."""
        return self.size_bytes * self.read_passes / (float(np.quantile(self.read_ns.array(), 0.25)) * 1e-9)

    @property
    def latency_s(self) -> float | None:
        """Seconds per dependent load in random order, from the lower quartile."""
        if self.chase_ns is None or self.chase_loads is None:
            return None
        return float(np.quantile(self.chase_ns.array(), 0.25)) * 1e-9 / self.chase_loads


class MachineState(Record):
    """The machine in one fresh process: clock, working sets, and every calibration workload's nanoseconds."""

    before: Environment
    clock_hz: float | None = None
    clock_source: str = "unknown"
    working_sets: tuple[WorkingSet, ...]
    workloads: dict[str, Series]  # calibration workload -> nanoseconds of each repetition
    disturbance: Disturbance | None = None

    def workload_s(self, name: str) -> float:
        """Seconds of a calibration workload, the lower quartile of its repetitions."""
        return float(np.quantile(self.workloads[name].array(), 0.25)) * 1e-9


class Session(Record):
    """One machine on one day: its state before and after a fixed set of networks was measured.

    ``machine_tag`` tells one machine from another of the same device id and cannot be turned back into what it was made from;
    ``boot_tag`` changes whenever that machine starts.
    """

    kind: Literal["session"] = "session"
    schema_version: Literal[1] = 1
    session_id: str
    created_utc: str
    kit_version: str
    machine_tag: str
    boot_tag: str
    device: DeviceSpec
    packages: dict[str, str]
    settings: MeasureSettings
    reference: Reference | None  # the device's scale, by which the networks' times may be corrected for drift
    states_before: tuple[MachineState, ...]
    states_after: tuple[MachineState, ...]
    disturbance: Disturbance | None = None  # over the whole session
    wall_s: float


class SessionNetwork(AliasedRecord):
    """One network of a session: raw values of each process, as in a profile record, without what the session states once."""

    artifact: Artifact
    status: RunStatus = Field(alias="outcome")
    reason: str | None = None
    runs: tuple[Run, ...] = Field(default=(), alias="visits")
