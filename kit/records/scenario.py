"""Loads as MLPerf defines them, and what a network reached under them."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from kit import stats
from kit.packed import Series
from kit.records.device import DeviceSpec
from kit.records.measurement import Environment, Memory, RunStatus
from kit.records.network import Artifact
from kit.records.record import AliasedRecord, Record

ScenarioKind = Literal["single-stream", "multi-stream", "offline", "server"]
PERCENTILES: dict[str, float] = {"single-stream": 0.90, "multi-stream": 0.99, "server": 0.99}  # MLPerf's tail of each


class ScenarioSettings(Record):
    """How to load a network: MLPerf's scenarios (inference rules, section "Scenarios"), each run in a fresh process."""

    scenario: ScenarioKind
    backend: str = "onnxruntime"
    threads: int = Field(default=1, ge=1)
    run_s: float = Field(default=10.0, gt=0)  # least duration of each run; a submission needs 600
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # offline only
    bound_s: float | None = Field(default=None, gt=0)  # server only: the latency that 99 % of the queries must meet
    rate_precision: float = Field(default=0.05, gt=0)  # server: the search ends when the bracket is this narrow
    trials_max: int = Field(default=12, ge=1)  # server: trials at most
    warmup_max_s: float = Field(default=1.0, ge=0)
    timeout_s: float = Field(default=120.0, gt=0)  # for one process beyond the time that its run should take
    seed: int = 0


class Latencies(Record):
    """The latencies of one run, from the scheduled arrival to the completion, in nanoseconds.

    ``sure_p90_ns`` and ``sure_p99_ns`` are MLPerf's early-stopping estimates (99 % confidence), None where the queries are too few.
    The raw values stand in the order of arrival, but are None where there are more than 100,000 (600 s of a fast network are
    millions): that is why the statistics are stored here and not derived.
    """

    mean_ns: float
    min_ns: float
    median_ns: float
    p90_ns: float
    p99_ns: float
    max_ns: float
    sure_p90_ns: float | None
    sure_p99_ns: float | None
    values_ns: Series | None


class ScenarioRun(AliasedRecord):
    """One fresh process under one load: a batch size, or an arrival rate. A failure is a run too."""

    status: RunStatus = Field(alias="outcome")
    reason: str | None = None
    batch: int | None = None  # samples per query; None when it was not known before the failure
    rate_hz: float | None = None  # server: queries per second that were offered
    queries: int = 0
    duration_s: float | None = None  # from the first arrival to the last completion
    misses: int | None = None  # server: queries above the bound
    misses_allowed: int | None = None  # server: as many of them still prove the bound; -1: too few queries to prove it
    queue_effect: float | None = None  # server: as many clustered misses count as one (kit/measure/scenario.py)
    cut_short: bool = False  # server: ended when the misses had passed what the whole run allows
    latencies: Latencies | None = None
    memory: Memory | None = None
    before: Environment | None = None
    after: Environment | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what the backend says about how it ran

    @property
    def samples_per_s(self) -> float | None:
        """Samples answered in a second."""
        if self.batch is None or not self.duration_s:
            return None
        return self.queries * self.batch / self.duration_s

    @property
    def holds(self) -> bool:
        """LoadGen's rule for the server: all queries arrived and no more missed the bound than early stopping allows."""
        if self.status != "ok" or self.misses is None or self.misses_allowed is None:
            return False
        return not self.cut_short and self.misses <= self.misses_allowed

    @property
    def sure(self) -> bool:
        """:attr:`holds`, also when queries that waited for each other count as one: then the 99 % confidence is real."""
        if not self.holds or self.queue_effect is None or self.misses is None:
            return False
        independent = int(self.queries / self.queue_effect)
        misses = math.ceil(self.misses / self.queue_effect)
        return misses <= stats.overlatency_allowed(independent, PERCENTILES["server"])


class ScenarioRecord(AliasedRecord):
    """One artifact under one scenario on one device: every run, and the reason where there is no result."""

    kind: Literal["scenario"] = "scenario"
    schema_version: Literal[1] = 1
    record_id: str
    created_utc: str
    kit_version: str
    device: DeviceSpec
    artifact: Artifact
    settings: ScenarioSettings
    status: RunStatus = Field(alias="outcome")
    reason: str | None = None
    runs: tuple[ScenarioRun, ...]
    remarks: tuple[str, ...] = ()

    @property
    def latency_s(self) -> float | None:
        """Single-stream and multi-stream: the early-stopping estimate of the 90th or 99th percentile, per query."""
        if self.status != "ok" or self.settings.scenario not in ("single-stream", "multi-stream"):
            return None
        latencies = self.runs[-1].latencies
        tail_ns = None
        if latencies is not None:
            tail_ns = latencies.sure_p90_ns if self.settings.scenario == "single-stream" else latencies.sure_p99_ns
        return None if tail_ns is None else tail_ns * 1e-9

    @property
    def best(self) -> ScenarioRun | None:
        """Offline: the run with the highest throughput. Server: the run at the highest rate that met the bound."""
        completed = [run for run in self.runs if run.status == "ok"]
        if self.settings.scenario == "offline":
            return max(completed, key=lambda run: run.samples_per_s or 0.0, default=None)
        return max((run for run in completed if run.holds), key=lambda run: run.rate_hz or 0.0, default=None)

    @property
    def surest(self) -> ScenarioRun | None:
        """Server: the run at the highest rate whose bound is :attr:`ScenarioRun.sure`."""
        return max((run for run in self.runs if run.sure), key=lambda run: run.rate_hz or 0.0, default=None)
