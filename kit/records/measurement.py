"""What was measured: settings and operating point, each process's raw values, what they derive to, and the profile record."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from kit import stats, units
from kit.packed import Series
from kit.records.device import DeviceSpec
from kit.records.inputs import FedInput
from kit.records.network import Artifact
from kit.records.record import AliasedRecord, Record

Label = Literal["stable", "settled", "throttled", "inconclusive", "assumed"]
DECIDING: tuple[Label, ...] = ("stable", "settled")  # the labels on which something may be decided
#: How each quality label is printed.
LABELS = {
    "stable": "stable",
    "settled": "settled (converged late)",
    "throttled": "throttled",
    "inconclusive": "inconclusive",
    "assumed": "assumed input",  # the work follows an input that nobody gave
}
RunStatus = Literal["ok", "unsupported", "failed", "crashed", "timeout", "out_of_memory"]


class OperatingPoint(Record):
    """The operating point that a network is timed at: everything about the machine and the calls that one can choose."""

    threads: int = Field(default=1, ge=1)
    batch: int | None = Field(default=None, ge=1)  # fixes a free batch dimension; None: as the file has it
    affinity: tuple[int, ...] | None = None  # logical CPUs that the process may use; None: all
    gap_s: float = Field(default=0.0, ge=0, le=1000)  # idle time before each call
    load: int = Field(default=0, ge=0, le=1024)  # background processes that burn a core each
    clock_cap_hz: float | None = Field(default=None, gt=0)
    power_mode: str | None = None

    @property
    def is_default_state(self) -> bool:
        """Back-to-back calls on an idle machine in its default state."""
        left_alone = self.affinity is None and self.clock_cap_hz is None and self.power_mode is None
        return left_alone and not self.gap_s and not self.load

    @property
    def name(self) -> str:
        """Short and unambiguous: ``t1``, ``t2-gap10ms-load1-cpu0.1-cap1.5GHz-15W``."""
        parts = [f"t{self.threads}"]
        parts += [f"b{self.batch}"] if self.batch is not None else []
        parts += [f"gap{self.gap_s * 1e3:g}ms"] if self.gap_s else []
        parts += [f"load{self.load}"] if self.load else []
        parts += [f"cpu{'.'.join(map(str, self.affinity))}"] if self.affinity is not None else []
        parts += [f"cap{self.clock_cap_hz / 1e9:g}GHz"] if self.clock_cap_hz is not None else []
        parts += [self.power_mode] if self.power_mode is not None else []
        return "-".join(parts)


class MeasureSettings(AliasedRecord, OperatingPoint):
    """How to measure. Two records are comparable only when device, backend and operating point agree."""

    backend: str = "onnxruntime"
    rounds_min: int = Field(default=6, ge=1)
    rounds_max: int = Field(default=10, ge=1)
    run_s: float = Field(default=0.5, gt=0, alias="visit_s")  # time for collecting values in one fresh process
    warmup_max_s: float = Field(default=1.0, ge=0)
    precision_target: float = Field(default=0.02, gt=0)  # half-width of the median's interval over the median
    budget_s: float | None = None  # wall time for the whole run; None: rounds_max decides
    timeout_s: float = Field(default=120.0, gt=0)  # one child process
    seed: int = 0


class Environment(Record):
    """The machine's state at one instant. None: the machine does not report it."""

    at_utc: str
    clock_hz: float | None = None
    temperature_c: float | None = None
    throttle_flags: tuple[str, ...] | None = None
    power_w: float | None = None
    power_mode: str | None = None
    load_1min: float | None = None


class Energy(Record):
    """Energy over an exact window of back-to-back inferences."""

    source: str
    joules: float
    window_s: float = Field(gt=0)
    calls: int = Field(ge=1)
    idle_power_w: float | None = None  # the machine with nothing to do, before the run
    samples: int | None = None  # readings that were integrated; None for a counter

    @property
    def joules_per_call(self) -> float:
        """Energy of one call, in joules."""
        return self.joules / self.calls

    @property
    def net_joules_per_call(self) -> float | None:
        """What an inference adds to an idle machine, in joules; None when the idle power is unknown."""
        if self.idle_power_w is None:
            return None
        return (self.joules - self.idle_power_w * self.window_s) / self.calls


class Disturbance(Record):
    """What else happened on the machine during a window. None: the system does not report it."""

    window_s: float
    steal_share: float | None = None  # CPU time that the hypervisor gave to others, over all CPU time
    busy_elsewhere_share: float | None = None  # CPU time of other processes, over all CPU time
    cpu_pressure_share: float | None = None  # part of the window in which some task of the machine waited for a core
    involuntary_switches: int | None = None
    voluntary_switches: int | None = None
    major_faults: int | None = None
    huge_page_bytes: int | None = None


class Memory(Record):
    """Resident bytes of the child process: at its start, with the runtime loaded, with the model open, and at the peak.

    ``running_peak_bytes`` is the peak of the inferences alone (opening a model often needs more than running it); None where
    the kernel does not let the peak be reset. ``gpu_bytes`` is what the process holds on the GPU after the inferences.
    """

    at_start_bytes: int
    runtime_bytes: int
    opened_bytes: int
    peak_bytes: int
    running_peak_bytes: int | None = None
    gpu_bytes: int | None = None

    @property
    def of_runtime_bytes(self) -> int:
        """What loading the runtime added."""
        return max(0, self.runtime_bytes - self.at_start_bytes)

    @property
    def of_model_bytes(self) -> int:
        """What the open model keeps resident: weights, packed copies of them, the plan."""
        return max(0, self.opened_bytes - self.runtime_bytes)

    @property
    def of_inference_bytes(self) -> int | None:
        """What the inferences need at their peak above the open model: activations and scratch."""
        return None if self.running_peak_bytes is None else max(0, self.running_peak_bytes - self.opened_bytes)

    @property
    def footprint_bytes(self) -> int:
        """Peak memory that running this model adds to a bare process: runtime, weights and activations."""
        return max(0, self.peak_bytes - self.at_start_bytes)


# ---------------------------------------------------------------------------------------------------------------- layers


class LayerTime(Record):
    """One node of a network as a runtime ran it; ``time_s`` is its mean per call of the whole network, in seconds.

    A node inside a Loop, If or Scan names it as its ``parent``, whose own time is without that of the nodes inside.
    """

    name: str
    kind: str  # operator type, in the runtime's words
    stage: str  # the part of the network that it belongs to; kit/backends/stages.py has the rule
    time_s: float = Field(ge=0)
    calls: int = Field(ge=1)
    parent: str | None = None


class Layers(AliasedRecord):
    """Times per node by the runtime's own profiler, which slows the run: a share of the total, never a latency."""

    nodes: tuple[LayerTime, ...]
    total_s: float = Field(gt=0, alias="whole_s")  # mean of a complete call with the profiler on
    calls: int = Field(ge=1)
    source: str  # "onnxruntime profiler"

    @property
    def sum_s(self) -> float:
        """The sum over the layers."""
        return sum(node.time_s for node in self.nodes)

    def grouped(self, by: Literal["kind", "stage"] = "kind") -> dict[str, float]:
        """Seconds per call of each kind or stage, the longest first."""
        sums: dict[str, float] = {}
        for node in self.nodes:
            key = node.kind if by == "kind" else node.stage
            sums[key] = sums.get(key, 0.0) + node.time_s
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


# ------------------------------------------------------------------------------------------------------------------- runs


class Reference(Record):
    """What the reference workloads take on this device in its usual state: the scale by which drift is separated from the network.

    ``nominal_ns`` are nanoseconds per workload when the device was first measured; ``weights`` say how a latency follows
    them: the machine is slower than usual by the product of (time / nominal) ** weight. It is a constant of scale, so it
    stays the same for all records of a device.
    """

    kind: Literal["reference"] = "reference"
    schema_version: Literal[1] = 1
    device_id: str
    created_utc: str
    workloads: dict[str, str]  # name -> what it does
    nominal_ns: dict[str, float]
    weights: dict[str, float]

    def slowdown(self, references: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64] | None:
        """How much slower than usual the machine was, [n], from times [n] of each workload; None when one is missing."""
        if not self.weights or any(name not in references for name in self.weights):
            return None
        logs = [w * np.log(references[name] / self.nominal_ns[name]) for name, w in self.weights.items()]
        return np.asarray(np.exp(np.sum(logs, axis=0)))


class Run(Record):
    """One fresh process: every collected value and what it took to get there.

    Values come in blocks of ``block`` values; the reference workloads are timed before the first block and after each one,
    so a workload has one time more than there are blocks. Version 1 knew no blocks (``block`` is 0).
    """

    round: int
    elapsed_ns: Series  # one number per value: nanoseconds of ``loops`` calls
    loops: int = Field(ge=1)
    block: int = Field(default=0, ge=0)
    timer: Literal["host", "device"] = "host"  # "device": time between two events on the GPU
    references: dict[str, Series] = Field(
        default_factory=dict
    )  # workload -> nanoseconds before the first block and after each
    switches: Series | None = None  # involuntary context switches during each block
    clock_hz: float | None = None  # core clock meanwhile: "observed" by the device or "measured" between the blocks
    clock_source: str = "unknown"
    disturbance: Disturbance | None = None
    energy: Energy | None = None
    warmup_calls: int
    warmup_s: float
    warm: bool  # the last two warm-up windows agreed
    timer_resolution_ns: float
    collected_s: float | None = None  # from the first value to the end of the last
    runtime_s: float | None = None  # loading the runtime
    open_s: float
    first_ns: float
    memory: Memory
    before: Environment
    after: Environment
    versions: dict[str, str]
    notes: tuple[str, ...] = ()  # what the backend says about how it ran
    samples_ns: tuple[float, ...] = ()  # nanoseconds of each of several samples, timed after the run

    @model_validator(mode="after")
    def _check_lengths(self) -> Run:
        count = len(self.elapsed_ns)
        if not count or not self.elapsed_ns.array().min() > 0:
            raise ValueError("a run holds at least one value and none of zero length")
        blocks = count // self.block if self.block else 0
        if blocks and (count % self.block or any(len(s) != blocks + 1 for s in self.references.values())):
            raise ValueError("values, blocks and reference times do not fit together")
        if blocks and self.switches is not None and len(self.switches) != blocks:
            raise ValueError("values, blocks and context switches do not fit together")
        if any(not len(s) or s.array().min() <= 0 for s in self.references.values()):
            raise ValueError("reference times of nothing do not fit together with anything")
        return self

    @cached_property
    def values_ns(self) -> NDArray[np.float64]:
        """Nanoseconds per call, [values], each the mean over ``loops`` calls."""
        return self.elapsed_ns.array() / self.loops

    @cached_property
    def median_ns(self) -> float:
        """The median of this run, in nanoseconds per call."""
        return float(np.median(self.values_ns))

    @cached_property
    def undisturbed(self) -> NDArray[np.bool_]:
        """Which values lie in blocks that no other process interrupted, [values]; all of them where too few do to say."""
        everything = np.ones(len(self.values_ns), dtype=bool)
        if self.switches is None or not self.block:
            return everything
        calm = np.repeat(self.switches.array() == 0, self.block)
        return calm if calm.mean() >= CALM_SHARE_MIN else everything

    def corrected_ns(self, reference: Reference | None) -> float | None:
        """Median over undisturbed blocks of the block's median over the machine's slowdown factor around it, in nanoseconds.

        None without reference workloads.
        """
        if reference is None or not self.block:
            return None
        slowdown = reference.slowdown({name: _around_blocks(series) for name, series in self.references.items()})
        if slowdown is None:
            return None
        calm = self.undisturbed.reshape(-1, self.block)[:, 0]
        blocks = np.median(self.values_ns.reshape(-1, self.block), axis=1)
        return float(np.median((blocks / slowdown)[calm]))

    @property
    def interrupted(self) -> float | None:
        """Share of the blocks in which another process took the core."""
        return None if self.switches is None else float(np.mean(self.switches.array() > 0))


CALM_SHARE_MIN = 0.2  # below this share of uninterrupted blocks there is too little left to look at


def _around_blocks(series: Series) -> NDArray[np.float64]:
    """The time of a reference workload around each block: the geometric mean of the one before and the one after."""
    times = series.array().astype(np.float64)
    return np.asarray(np.sqrt(times[:-1] * times[1:]))


class Measurement(AliasedRecord):
    """Raw values of every process; statistics are derived, never stored.

    The process is the unit of every interval: calls inside one share its memory layout and clock.
    """

    runs: tuple[Run, ...] = Field(min_length=1, alias="visits")
    reference: Reference | None = None

    @cached_property
    def medians_s(self) -> tuple[float, ...]:
        """The median of each process, in seconds."""
        return tuple(run.median_ns * 1e-9 for run in self.runs)

    @cached_property
    def corrected_medians_s(self) -> tuple[float, ...] | None:
        """The drift-corrected median of each process, in seconds; None without reference workloads."""
        corrected_s = [ns * 1e-9 for run in self.runs if (ns := run.corrected_ns(self.reference)) is not None]
        return tuple(corrected_s) if len(corrected_s) == len(self.runs) else None

    @property
    def median_s(self) -> float:
        """Median over processes of each process's median, in seconds: no process weighs more for being faster."""
        return stats.quantile(self.medians_s, 0.5)

    @property
    def corrected_s(self) -> float | None:
        """The latency on this device in its usual state, in seconds: :attr:`median_s` with the machine's drift divided out."""
        return None if self.corrected_medians_s is None else stats.quantile(self.corrected_medians_s, 0.5)

    @property
    def usual_s(self) -> float:
        """The latency on this device in its usual state, in seconds, as far as is known: drift-corrected, else the median."""
        return self.median_s if self.corrected_s is None else self.corrected_s

    @property
    def interval_s(self) -> tuple[float, float]:
        """Interval of :attr:`median_s` over processes, in seconds; :attr:`confidence` says how sure it is."""
        low, high, _ = stats.median_interval(self.medians_s)
        return low, high

    @property
    def corrected_interval_s(self) -> tuple[float, float] | None:
        """Interval of :attr:`corrected_s` over processes, in seconds."""
        if self.corrected_medians_s is None:
            return None
        low, high, _ = stats.median_interval(self.corrected_medians_s)
        return low, high

    @property
    def confidence(self) -> float:
        """Confidence of :attr:`interval_s`: 0.95 from six processes on, less for fewer."""
        return stats.median_interval(self.medians_s)[2]

    @property
    def half_width(self) -> float:
        """Half the width of :attr:`interval_s` over the median."""
        low, high = self.interval_s
        return (high - low) / 2 / self.median_s

    @property
    def corrected_half_width(self) -> float | None:
        """Half the width of :attr:`corrected_interval_s` over the drift-corrected latency."""
        if self.corrected_interval_s is None or self.corrected_s is None:
            return None
        low, high = self.corrected_interval_s
        return (high - low) / 2 / self.corrected_s

    @property
    def p99_s(self) -> float:
        """99th percentile of all values of all processes, in seconds; a value of a very short call is a mean over a loop."""
        return self._quantile_s(0.99)

    @property
    def p90_s(self) -> float:
        """The 90th percentile over all calls."""
        return self._quantile_s(0.90)

    def _quantile_s(self, q: float) -> float:
        return stats.quantile(np.concatenate([run.values_ns for run in self.runs]), q) * 1e-9

    @cached_property
    def mode_s(self) -> float:
        """The undisturbed mode, in seconds: where the values crowd that no other process interrupted."""
        return stats.half_sample_mode(np.concatenate([run.values_ns[run.undisturbed] for run in self.runs])) * 1e-9

    def intervals_s(self, *, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals (nominal 95 %) over processes of p90, p99 and the undisturbed mode, in seconds.

        With six processes that scatter as much as the calls inside them they cover about 80 %.
        """
        every = [run.values_ns * 1e-9 for run in self.runs]
        calm = [run.values_ns[run.undisturbed] * 1e-9 for run in self.runs]
        return {
            "p90": stats.bootstrap_over_groups(every, lambda x: stats.quantile(x, 0.90), seed=seed),
            "p99": stats.bootstrap_over_groups(every, lambda x: stats.quantile(x, 0.99), seed=seed),
            "mode": stats.bootstrap_over_groups(calm, stats.half_sample_mode, seed=seed),
        }

    @property
    def samples_s(self) -> tuple[float, ...]:
        """Seconds of each of several samples that took turns, the median over processes; empty for one."""
        rows = [run.samples_ns for run in self.runs if run.samples_ns]
        count = min(map(len, rows), default=0)
        return tuple(float(np.median([row[i] for row in rows])) * 1e-9 for i in range(count))

    @property
    def clock_hz(self) -> float | None:
        """Core clock during the measurement, in hertz; None where nothing reports it."""
        clocks_hz = [run.clock_hz for run in self.runs if run.clock_hz is not None]
        return float(np.median(clocks_hz)) if clocks_hz else None

    @property
    def clock_source(self) -> str:
        """Where the clock comes from."""
        return next((run.clock_source for run in self.runs if run.clock_hz is not None), "unknown")

    @property
    def cold_start_s(self) -> dict[str, float | None]:
        """Medians over the fresh processes, in seconds: load the runtime, open the model, first call, until it is steady.

        The files were in the page cache unless the run was the first after they were written.
        """
        runtime = [run.runtime_s for run in self.runs if run.runtime_s is not None]
        return {
            "runtime": stats.quantile(runtime, 0.5) if runtime else None,
            "open": stats.quantile([run.open_s for run in self.runs], 0.5),
            "first": stats.quantile([run.first_ns * 1e-9 for run in self.runs], 0.5),
            "until_steady": stats.quantile([run.warmup_s for run in self.runs], 0.5),
        }

    @property
    def energy(self) -> Energy | None:
        """The energy window of the process with the median energy per call, of those that had one."""
        windows = [run.energy for run in self.runs if run.energy is not None]
        ordered = sorted(windows, key=lambda e: e.joules_per_call)
        return ordered[len(ordered) // 2] if ordered else None

    @property
    def memory_bytes(self) -> int:
        """The largest footprint of a run."""
        return max(run.memory.footprint_bytes for run in self.runs)

    @property
    def calls(self) -> int:
        """Calls in all runs."""
        return sum(len(run.values_ns) * run.loops for run in self.runs)


class ProfileRecord(AliasedRecord):
    """One artifact on one device: measured, or failed with the reason. A failure is a record too."""

    kind: Literal["profile"] = "profile"
    schema_version: Literal[2] = 2
    record_id: str
    created_utc: str
    kit_version: str
    device: DeviceSpec
    artifact: Artifact
    settings: MeasureSettings
    status: RunStatus = Field(alias="outcome")
    reason: str | None = None
    measurement: Measurement | None = None
    label: Label | None = None
    evidence: tuple[str, ...] = ()  # what the label rests on, as sentences
    layers: Layers | None = None
    feeds: tuple[FedInput, ...] = ()  # what each input got; empty in records of an older kit

    @property
    def batch(self) -> int | None:
        """Inputs per call: the batch of the settings, else the file's own; None where neither states one."""
        return self.artifact.batch if self.settings.batch is None else self.settings.batch

    @property
    def plain(self) -> bool:
        """Free-running, one input at a time: what decides where a need names nothing else. Only threads are chosen."""
        return self.settings.is_default_state and self.batch in (None, 1)

    @property
    def trusted(self) -> bool:
        """Whether the measurement may decide: it is there, and neither throttled nor inconclusive."""
        return self.status == "ok" and self.label in DECIDING

    def summary(self) -> dict[str, str]:
        """The record as name and text, for people."""
        rows = {"network": self.artifact.artifact_id}
        measured = self.measurement
        if measured is not None and self.status == "ok":
            interval = units.interval(*measured.interval_s, units.TIME)
            rows["median"] = f"{units.seconds(measured.median_s)} ({measured.confidence:.0%}: {interval})"
            rows["quality label"] = LABELS.get(self.label or "", "none")
            rows["p99"] = units.seconds(measured.p99_s)
            rows["memory"] = units.size(measured.memory_bytes)
            rows["processes"] = f"{len(measured.runs)}, {measured.calls} calls"
        else:
            rows["outcome"] = f"{self.status.replace('_', ' ')}: {self.reason or 'no reason given'}"
        rows["runtime"] = f"{self.settings.backend}, {self.settings.name}"
        rows["device"] = self.device.device_id
        rows["evidence"] = "; ".join(self.evidence)
        rows["record"] = self.record_id
        return rows
