"""The frozen records that flow between verbs: validation, JSON, schema number.

Units are part of each name and SI inside (seconds, bytes, hertz; raw times are integer nanoseconds); nothing is rounded
and every statistic is derived from raw values on demand. Unknown keys are errors. A value that the machine does not tell
is ``None`` and printed as "unknown".

History of the formats (``schema_version`` of each kind)
    1  2026-11  first form of device, artifact, profile, latency_model, knowledge, manifest, install
    2  2026-11  profile: raw times as packed series in nanoseconds, reference workloads between them, operating point;
                version 1 is read and upgraded
    2  2026-11  knowledge: origin (measured or predicted), operating point, p90, p95, intervals, energy, clock; version 1 is read and
                upgraded; first form of allocation_quality, dynamic_table
    2  2026-11  placement-answer (kit.sim.placement.controller): slack of each task, idle share of each pool
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kit import stats
from kit.errors import BadRecord, UsageError
from kit.series import Series

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
BITS: dict[str, int] = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}
Label = Literal["stable", "settled", "throttled", "inconclusive"]
DECIDING: tuple[Label, ...] = ("stable", "settled")  # the labels on which something may be decided
Outcome = Literal["ok", "unsupported", "failed", "crashed", "timeout", "out_of_memory"]


class Record(BaseModel):
    """A frozen value object; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


# ---------------------------------------------------------------------------------------------------------------- device


class CacheSpec(Record):
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
    name: str
    memory_bytes: int | None = None
    driver: str | None = None
    compute_capability: str | None = None
    max_clock_hz: float | None = None


class OperatingPoint(Record):
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
    runtimes: dict[str, str | None] = {}  # runtime -> version, None when it is not installed
    telemetry: dict[str, str] = {}  # source -> "available" or why not
    operating_points: tuple[OperatingPoint, ...] = ()


# --------------------------------------------------------------------------------------------------------------- network


class SubNetwork(Record):
    """One sub-network of a root: how deep (in blocks), how wide (share of the channels), how precise, at which resolution.

    ``blocks`` tells the depth of each stage where a space chooses it stage by stage. The id is parseable:
    ``resnet18-d6-w0.50-int8-32``, ``resnet18-d1.2.2.1-w0.75-fp32-224``.
    """

    family: str
    root: str
    depth: int = Field(ge=1)
    width: float = Field(gt=0, le=1)
    precision: Precision
    resolution_px: int = Field(ge=1)
    blocks: tuple[int, ...] | None = None  # per stage, their sum is the depth

    _PATTERN: ClassVar[re.Pattern[str]] = re.compile(
        r"(?P<root>[a-z0-9_]+)-d(?P<depth>\d+(\.\d+)*)-w(?P<width>[01]\.\d\d)-(?P<precision>[a-z]+\d+)-(?P<resolution>\d+)"
    )

    @model_validator(mode="after")
    def _adds_up(self) -> SubNetwork:
        if self.blocks is not None and (sum(self.blocks) != self.depth or len(self.blocks) < 2):
            raise ValueError(f"the blocks {self.blocks} are not {self.depth} in two stages or more")
        return self

    @property
    def id(self) -> str:
        depth = ".".join(map(str, self.blocks or (self.depth,)))
        return f"{self.root}-d{depth}-w{self.width:.2f}-{self.precision}-{self.resolution_px}"

    @property
    def bits(self) -> int:
        return BITS[self.precision]

    @classmethod
    def parse(cls, text: str) -> SubNetwork:
        """The sub-network that ``text`` names. Raises UsageError when it is no id."""
        match = cls._PATTERN.fullmatch(text)
        if match is None or match["precision"] not in BITS:
            raise UsageError(f"'{text}' is no sub-network id: it reads like resnet18-d6-w0.50-int8-32.")
        stages = tuple(map(int, match["depth"].split(".")))
        return cls(
            family=re.match(r"[a-z]+", match["root"])[0],  # type: ignore[index]
            root=match["root"],
            depth=sum(stages),
            width=float(match["width"]),
            precision=match["precision"],
            resolution_px=int(match["resolution"]),
            blocks=stages if len(stages) > 1 else None,
        )


class Kernel(Record):
    """One piece of work that a runtime runs as a whole, for one input: a convolution or product with what is fused to it, or one of
    the lighter operators between them. ``macs = rows * inner * columns * groups``; the lighter ones have none.

    ``rows`` counts output positions (pixels, tokens), ``inner`` multiply-accumulates per output and group, ``columns`` output channels
    per group. Bytes are at the precision that the kernel works at. ``count`` equal kernels in a row may stand as one.
    """

    kind: Literal[
        "conv", "pointwise", "depthwise", "linear", "matmul", "pool", "add", "norm", "softmax", "elementwise", "move"
    ]
    stage: int = 0
    precision: Precision = "fp32"
    rows: int
    inner: int
    columns: int
    groups: int = 1
    size: int = 1  # of a convolution's or pool's window, in pixels along one side
    stride: int = 1
    weight_bytes: int = 0
    read_bytes: int  # activations
    written_bytes: int
    count: int = 1

    @property
    def macs(self) -> int:
        """Of one of the ``count``."""
        return (
            self.rows * self.inner * self.columns * self.groups
            if self.kind in ("conv", "pointwise", "depthwise", "linear", "matmul")
            else 0
        )


class TensorSpec(Record):
    """Name, shape (fixed; batch first) and NumPy dtype of one input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Preprocessing(Record):
    """From an image with values in [0, 1] to the input tensor: resize, then (x - mean) / std per channel, NCHW."""

    resize_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: Literal["NCHW"] = "NCHW"
    classes: int


class Accuracy(Record):
    """Top-1 share of correct answers in [0, 1] on ``count`` held-out images of ``dataset``."""

    top1: float = Field(ge=0, le=1)
    count: int = Field(ge=1)
    dataset: str


class FileRef(Record):
    """A file beside the record that names it. ``file`` is a bare name: a path is refused."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)

    @field_validator("file")
    @classmethod
    def _bare(cls, value: str) -> str:
        if not value or value in {".", ".."} or "/" in value or "\\" in value or "\0" in value or value.startswith("."):
            raise ValueError(f"'{value}' is not a bare file name")
        return value


class Origin(Record):
    """Where the weights come from: data, seed, the versions that trained them and what they were made from."""

    root: str
    dataset: str | None = None
    seed: int | None = None
    made_by: str  # "kit 0.1.0"
    versions: dict[str, str] = {}
    steps: tuple[str, ...] = ()  # what was done, in order, in words


class NumericCheck(Record):
    """The exported file against the torch network on held-out inputs: largest absolute difference of the logits and the
    share of equal top-1 answers."""

    max_abs_error: float | None
    top1_agreement: float
    count: int


class Artifact(Record):
    """The JSON sidecar of an exported network: ``x.onnx`` travels with ``x.json``.

    1 MAC = 2 FLOP. ``weight_bytes`` counts the stored parameters, ``activation_bytes`` the tensors that the network writes
    for one input, both at the artifact's own precision. Sizes that nobody computed are None.
    """

    kind: Literal["artifact"] = "artifact"
    schema_version: Literal[1] = 1
    artifact_id: str
    model: FileRef  # the ONNX file (or the fake workload)
    torch_program: FileRef | None = None  # torch.export archive of the same network, for the pytorch backend
    subnetwork: SubNetwork | None = None
    precision: Precision = "fp32"
    quantization: str | None = None  # "static-qdq-u8s8", "dynamic-u8s8"
    macs: int | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    preprocessing: Preprocessing | None = None
    accuracy: Accuracy | None = None
    check: NumericCheck | None = None
    sample: FileRef | None = (
        None  # .npz: arrays "input" and "output" (one held-out batch and the logits promised for it)
    )
    licence: str | None = None
    origin: Origin | None = None
    kernels: tuple[Kernel, ...] | None = None  # what a runtime runs as a whole, in order; None where nobody listed them


# ----------------------------------------------------------------------------------------------------------- measurement


class Point(Record):
    """The operating point that a network is timed at: everything about the machine and the calls that one can choose."""

    threads: int = Field(default=1, ge=1)
    batch: int | None = Field(default=None, ge=1)  # fixes a free batch dimension; None: as the file has it
    affinity: tuple[int, ...] | None = None  # logical CPUs that the process may use; None: all
    gap_s: float = Field(default=0.0, ge=0, le=1000)  # idle time before each call
    load: int = Field(default=0, ge=0, le=1024)  # background processes that burn a core each
    clock_cap_hz: float | None = Field(default=None, gt=0)
    power_mode: str | None = None

    @property
    def free_running(self) -> bool:
        """Back-to-back calls on an idle machine that is left as it is."""
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


class MeasureSettings(Point):
    """How to measure. Two records are comparable only when device, backend and operating point agree."""

    backend: str = "onnxruntime"
    rounds_min: int = Field(default=6, ge=1)
    rounds_max: int = Field(default=10, ge=1)
    visit_s: float = Field(default=0.5, gt=0)  # time for collecting values in one fresh process
    warmup_max_s: float = Field(default=1.0, ge=0)
    precision_target: float = Field(default=0.02, gt=0)  # half-width of the median's interval over the median
    budget_s: float | None = None  # wall time for the whole run; None: rounds_max decides
    timeout_s: float = Field(default=120.0, gt=0)  # one child process
    seed: int = 0


class Environment(Record):
    """The machine's state at one instant. None means that the machine does not tell."""

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
        return self.joules / self.calls

    @property
    def net_joules_per_call(self) -> float | None:
        """What an inference adds to an idle machine, in joules; None when the idle power is unknown."""
        if self.idle_power_w is None:
            return None
        return (self.joules - self.idle_power_w * self.window_s) / self.calls


class Disturbance(Record):
    """What else happened on the machine during a window. None is what the system does not tell."""

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
    """One node of a network as a runtime ran it; ``time_s`` is its mean per call of the whole network, in seconds."""

    name: str
    kind: str  # operator type, in the runtime's words
    stage: str  # the part of the network that it belongs to; kit/backends/stages.py has the rule
    time_s: float = Field(ge=0)
    calls: int = Field(ge=1)


class Layers(Record):
    """Times per node by the runtime's own profiler, which slows the run: a share of the whole, never a latency."""

    nodes: tuple[LayerTime, ...]
    whole_s: float = Field(gt=0)  # mean whole call with the profiler on
    calls: int = Field(ge=1)
    source: str  # "onnxruntime profiler"

    @property
    def sum_s(self) -> float:
        return sum(node.time_s for node in self.nodes)

    def grouped(self, by: Literal["kind", "stage"] = "kind") -> dict[str, float]:
        """Seconds per call of each kind or stage, the longest first."""
        sums: dict[str, float] = {}
        for node in self.nodes:
            key = node.kind if by == "kind" else node.stage
            sums[key] = sums.get(key, 0.0) + node.time_s
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


# ----------------------------------------------------------------------------------------------------------------- visits


class Reference(Record):
    """What the reference workloads take on this device in its usual state, by which drift is told from the network.

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

    def slowness(self, references: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64] | None:
        """How much slower than usual the machine was, [n], from times [n] of each workload; None when one is missing."""
        if not self.weights or any(name not in references for name in self.weights):
            return None
        logs = [w * np.log(references[name] / self.nominal_ns[name]) for name, w in self.weights.items()]
        return np.asarray(np.exp(np.sum(logs, axis=0)))


class Visit(Record):
    """One fresh process: every collected value and what it took to get there.

    Values come in blocks of ``block`` values; the reference workloads are timed before the first block and after each one,
    so a workload has one time more than there are blocks. Version 1 knew no blocks (``block`` is 0).
    """

    round: int
    elapsed_ns: Series  # one number per value: nanoseconds of ``loops`` calls
    loops: int = Field(ge=1)
    block: int = Field(default=0, ge=0)
    timer: Literal["host", "device"] = "host"  # "device": time between two events on the GPU
    references: dict[str, Series] = {}  # workload -> nanoseconds before the first block and after each
    switches: Series | None = None  # involuntary context switches during each block
    clock_hz: float | None = None  # core clock meanwhile: "observed" by the device or "measured" by a chain beside it
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

    @model_validator(mode="after")
    def _whole(self) -> Visit:
        count = len(self.elapsed_ns)
        if not count or not self.elapsed_ns.array().min() > 0:
            raise ValueError("a visit holds at least one value and none of zero length")
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
        """Median over undisturbed blocks of the block's median over the machine's slowness beside it, in nanoseconds.

        None without reference workloads.
        """
        if reference is None or not self.block:
            return None
        slowness = reference.slowness({name: _beside(series) for name, series in self.references.items()})
        if slowness is None:
            return None
        calm = self.undisturbed.reshape(-1, self.block)[:, 0]
        blocks = np.median(self.values_ns.reshape(-1, self.block), axis=1)
        return float(np.median((blocks / slowness)[calm]))

    @property
    def interrupted(self) -> float | None:
        """Share of the blocks in which another process took the core."""
        return None if self.switches is None else float(np.mean(self.switches.array() > 0))


CALM_SHARE_MIN = 0.2  # below this share of uninterrupted blocks there is too little left to look at


def _beside(series: Series) -> NDArray[np.float64]:
    """The time of a reference workload around each block: the geometric mean of the one before and the one after."""
    times = series.array().astype(np.float64)
    return np.asarray(np.sqrt(times[:-1] * times[1:]))


class Measurement(Record):
    """Raw values of every process; statistics are derived, never stored.

    The process is the unit of every interval: calls inside one share its memory layout and clock.
    """

    visits: tuple[Visit, ...] = Field(min_length=1)
    reference: Reference | None = None

    @cached_property
    def medians_s(self) -> tuple[float, ...]:
        """The median of each process, in seconds."""
        return tuple(v.median_ns * 1e-9 for v in self.visits)

    @cached_property
    def corrected_medians_s(self) -> tuple[float, ...] | None:
        """The drift-corrected median of each process, in seconds; None without reference workloads."""
        found = [v.corrected_ns(self.reference) for v in self.visits]
        known = [ns * 1e-9 for ns in found if ns is not None]
        return tuple(known) if len(known) == len(found) else None

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
        return self._quantile_s(0.90)

    def _quantile_s(self, q: float) -> float:
        return stats.quantile(np.concatenate([v.values_ns for v in self.visits]), q) * 1e-9

    @cached_property
    def mode_s(self) -> float:
        """The undisturbed mode, in seconds: where the values crowd that no other process interrupted."""
        return stats.half_sample_mode(np.concatenate([v.values_ns[v.undisturbed] for v in self.visits])) * 1e-9

    def intervals_s(self, *, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals (nominal 95 %) over processes of p90, p99 and the undisturbed mode, in seconds.

        With six processes that scatter as much as the calls inside them they cover about 80 %.
        """
        every = [v.values_ns * 1e-9 for v in self.visits]
        calm = [v.values_ns[v.undisturbed] * 1e-9 for v in self.visits]
        return {
            "p90": stats.bootstrap_over_groups(every, lambda x: stats.quantile(x, 0.90), seed=seed),
            "p99": stats.bootstrap_over_groups(every, lambda x: stats.quantile(x, 0.99), seed=seed),
            "mode": stats.bootstrap_over_groups(calm, stats.half_sample_mode, seed=seed),
        }

    @property
    def clock_hz(self) -> float | None:
        """Core clock during the measurement, in hertz; None where nothing tells it."""
        known = [v.clock_hz for v in self.visits if v.clock_hz is not None]
        return float(np.median(known)) if known else None

    @property
    def clock_source(self) -> str:
        return next((v.clock_source for v in self.visits if v.clock_hz is not None), "unknown")

    @property
    def cold_start_s(self) -> dict[str, float | None]:
        """Medians over the fresh processes, in seconds: load the runtime, open the model, first call, until it is steady.

        The files were in the page cache unless the visit was the first after they were written.
        """
        runtime = [v.runtime_s for v in self.visits if v.runtime_s is not None]
        return {
            "runtime": stats.quantile(runtime, 0.5) if runtime else None,
            "open": stats.quantile([v.open_s for v in self.visits], 0.5),
            "first": stats.quantile([v.first_ns * 1e-9 for v in self.visits], 0.5),
            "until_steady": stats.quantile([v.warmup_s for v in self.visits], 0.5),
        }

    @property
    def energy(self) -> Energy | None:
        """The energy window of the process with the median energy per call, of those that had one."""
        known = [v.energy for v in self.visits if v.energy is not None]
        ordered = sorted(known, key=lambda e: e.joules_per_call)
        return ordered[len(ordered) // 2] if ordered else None

    @property
    def memory_bytes(self) -> int:
        return max(v.memory.footprint_bytes for v in self.visits)

    @property
    def calls(self) -> int:
        return sum(len(v.values_ns) * v.loops for v in self.visits)


class ProfileRecord(Record):
    """One artifact on one device: measured, or failed with the reason. A failure is a record too."""

    kind: Literal["profile"] = "profile"
    schema_version: Literal[2] = 2
    record_id: str
    created_utc: str
    kit_version: str
    device: DeviceSpec
    artifact: Artifact
    settings: MeasureSettings
    outcome: Outcome
    reason: str | None = None
    measurement: Measurement | None = None
    label: Label | None = None
    evidence: tuple[str, ...] = ()  # what the label rests on, in words
    layers: Layers | None = None

    @property
    def batch(self) -> int | None:
        """Inputs per call: the batch that was asked for, else the file's own; None where nobody told."""
        if self.settings.batch is not None or not self.artifact.inputs:
            return self.settings.batch
        shape = self.artifact.inputs[0].shape
        return shape[0] if shape else 1

    @property
    def plain(self) -> bool:
        """Free-running, one input at a time: what decides where nothing else is asked for. Only threads are chosen."""
        return self.settings.free_running and self.batch in (None, 1)

    @property
    def trusted(self) -> bool:
        """Whether the measurement may decide: it is there, and neither throttled nor inconclusive."""
        return self.outcome == "ok" and self.label in DECIDING


# --------------------------------------------------------------------------------------------------------------- sessions


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


class SessionNetwork(Record):
    """One network of a session: raw values of each process, as in a profile record, without what the session says once."""

    artifact: Artifact
    outcome: Outcome
    reason: str | None = None
    visits: tuple[Visit, ...] = ()


# -------------------------------------------------------------------------------------------------------------- scenarios


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


class ScenarioRun(Record):
    """One fresh process under one load: a batch size, or an arrival rate. A failure is a run too."""

    outcome: Outcome
    reason: str | None = None
    batch: int | None = None  # samples per query; None when it was not known before the failure
    rate_hz: float | None = None  # server: queries per second that were offered
    queries: int = 0
    duration_s: float | None = None  # from the first arrival to the last completion
    misses: int | None = None  # server: queries above the bound
    misses_allowed: int | None = None  # server: as many of them still prove the bound; -1: too few queries to prove it
    queue_effect: float | None = None  # server: as many clustered misses count as one (kit/scenario.py)
    cut_short: bool = False  # server: ended when the misses had passed what the whole run allows
    latencies: Latencies | None = None
    memory: Memory | None = None
    before: Environment | None = None
    after: Environment | None = None
    versions: dict[str, str] = {}
    notes: tuple[str, ...] = ()  # what the backend says about how it ran

    @property
    def samples_per_s(self) -> float | None:
        if self.batch is None or not self.duration_s:
            return None
        return self.queries * self.batch / self.duration_s

    @property
    def holds(self) -> bool:
        """LoadGen's rule for the server: all queries arrived and no more missed the bound than early stopping allows."""
        if self.outcome != "ok" or self.misses is None or self.misses_allowed is None:
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


class ScenarioRecord(Record):
    """One artifact under one scenario on one device: every run, and the reason where there is no result."""

    kind: Literal["scenario"] = "scenario"
    schema_version: Literal[1] = 1
    record_id: str
    created_utc: str
    kit_version: str
    device: DeviceSpec
    artifact: Artifact
    settings: ScenarioSettings
    outcome: Outcome
    reason: str | None = None
    runs: tuple[ScenarioRun, ...]
    remarks: tuple[str, ...] = ()

    @property
    def latency_s(self) -> float | None:
        """Single-stream and multi-stream: the early-stopping estimate of the 90th or 99th percentile, per query."""
        if self.outcome != "ok" or self.settings.scenario not in ("single-stream", "multi-stream"):
            return None
        found = self.runs[-1].latencies
        value = None
        if found is not None:
            value = found.sure_p90_ns if self.settings.scenario == "single-stream" else found.sure_p99_ns
        return None if value is None else value * 1e-9

    @property
    def best(self) -> ScenarioRun | None:
        """Offline: the run with the highest throughput. Server: the run at the highest rate that held the bound."""
        done = [run for run in self.runs if run.outcome == "ok"]
        if self.settings.scenario == "offline":
            return max(done, key=lambda run: run.samples_per_s or 0.0, default=None)
        return max((run for run in done if run.holds), key=lambda run: run.rate_hz or 0.0, default=None)

    @property
    def surest(self) -> ScenarioRun | None:
        """Server: the run at the highest rate whose bound is :attr:`ScenarioRun.sure`."""
        return max((run for run in self.runs if run.sure), key=lambda run: run.rate_hz or 0.0, default=None)


# --------------------------------------------------------------------------------------------------------------- judging


class FitQuality(Record):
    """How a latency model meets the measured medians: R2, mean and worst relative error, shares within +-5 and +-10 %."""

    r2: float | None
    mape: float
    worst: float
    within_5: float
    within_10: float


class FormScore(Record):
    """One form of latency model in cross-validation: every error is on networks that it was not fitted to.

    The interval of a prediction reaches ``reach`` standard deviations to each side, in logarithms; ``sd`` is the median relative one.
    """

    form: str  # "factor", "kinds", "roofline", "learned", or a baseline: "papers", "forest", "lookup"
    candidate: bool  # baselines are compared and never chosen
    count: int  # held-out records
    quality: FitQuality
    median_error: float
    sd: float
    reach: float
    calibration: str  # "conformal", or "student" where the records are too few for it
    p_value: float | None  # that chance explains its distance from the best form


class CurvePoint(Record):
    """How well networks are predicted from so many measurements: errors on the rest, over ``repeats`` random choices."""

    measurements: int
    repeats: int
    mape: float
    within_5: float
    within_10: float
    coverage: float  # share of the rest inside the interval
    forms: tuple[str, ...]  # the form chosen in each repeat


class LatencyModel(Record):
    """latency_s = overhead_s + lambda * MACs / clock_hz for one device, backend, precision and thread count.

    ``lambda_cycles_per_mac`` is the papers' efficiency factor (A, eq. 5; B, eq. 7; alpha or lambda there). Where the clock
    was not observed it is stated at the nominal clock (``clock_source`` says so) and is None without one; ``s_per_mac`` never
    needs a clock. Intervals are 95 % bootstrap intervals over sub-networks and processes.
    """

    kind: Literal["latency_model"] = "latency_model"
    schema_version: Literal[1] = 1
    device_id: str
    backend: str
    precision: Precision
    threads: int
    s_per_mac: float
    s_per_mac_interval: tuple[float, float]
    overhead_s: float
    overhead_interval_s: tuple[float, float]
    clock_hz: float | None
    clock_source: str  # "observed", "measured" (beside the network, by a chain), "nominal" or "unknown"
    lambda_cycles_per_mac: float | None
    interval: tuple[float, float] | None
    quality: FitQuality
    paper: FitQuality | None  # lambda = 1, no overhead, at the same clock
    macs_range: tuple[int, int]  # validity region
    record_ids: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # records that did not count, and why


Percentile = Literal[50, 90, 95, 99]
PERCENTILES_KEPT: tuple[Percentile, ...] = (50, 90, 95, 99)  # of each row's latency


class KnowledgeRow(Record):
    """One variant on one device, backend and operating point: measured, or predicted by a latency model.

    ``low_s`` to ``high_s`` is the interval of ``median_s`` (over processes; of a predicted row what its model states),
    ``p99_low_s`` to ``p99_high_s`` that of ``p99_s``. A percentile that nobody computed is None and the next higher one stands in.
    ``energy_j`` is the whole draw of one inference, the idle machine included.
    """

    artifact_id: str
    sha256: str  # empty where no file exists yet: a predicted row
    device_id: str
    backend: str
    threads: int
    precision: Precision
    origin: Literal["measured", "predicted"] = "measured"
    point: Point | None = None  # None: back-to-back calls of one input on an idle machine that is left as it is
    median_s: float = Field(gt=0)
    p90_s: float | None = Field(default=None, gt=0)
    p95_s: float | None = Field(default=None, gt=0)
    p99_s: float = Field(gt=0)
    low_s: float | None = Field(default=None, ge=0)
    high_s: float | None = None
    p99_low_s: float | None = Field(default=None, ge=0)
    p99_high_s: float | None = None
    label: Label | None = None  # None: predicted
    memory_bytes: int | None
    size_bytes: int
    macs: int | None
    energy_j: float | None = None
    clock_hz: float | None = None
    accuracy: float | None
    dataset: str | None = None  # what the accuracy was counted on
    record_id: str  # the profile record, or the latency model of a predicted row

    @model_validator(mode="after")
    def _whole(self) -> KnowledgeRow:
        if (self.origin == "measured") != (self.label is not None):
            raise ValueError("a measured row has a label and a predicted one has none")
        if self.origin == "predicted" and (self.low_s is None or self.high_s is None):
            raise ValueError("a predicted row states its interval")
        if self.low_s is not None and self.high_s is not None and not self.low_s <= self.median_s <= self.high_s:
            raise ValueError("the median lies outside its own interval")
        if self.point is not None and self.point.threads != self.threads:
            raise ValueError("the operating point has another thread count than the row")
        return self

    @property
    def batch(self) -> int:
        """Inputs per call; the latencies are those of the call."""
        return (self.point.batch if self.point else None) or 1

    @property
    def free_running(self) -> bool:
        return self.point is None or self.point.free_running

    @property
    def point_name(self) -> str:
        return (self.point or Point(threads=self.threads)).name

    def latency_s(self, percentile: int = 99) -> float:
        """The latency at a percentile, in seconds; where it is unknown the next higher one, which is the safer."""
        if percentile >= 99:
            return self.p99_s
        if percentile == 50:
            return self.median_s
        known = (self.p90_s, self.p95_s) if percentile == 90 else (self.p95_s,)
        return next((value for value in known if value is not None), self.p99_s)

    def interval_s(self, percentile: int = 99) -> tuple[float, float]:
        """Between which latencies the percentile lies, in seconds, as far as the row tells.

        Above the median it is as wide, relative to its centre, as the interval of the p99 (of the median where that is unknown).
        """
        value, low, high = self.latency_s(percentile), self.p99_low_s, self.p99_high_s
        centre = self.p99_s
        if percentile == 50 or low is None or high is None:
            centre, low, high = self.median_s, self.low_s, self.high_s
        if low is None or high is None:
            return value, value
        return min(value, value * (low / centre)), max(value, value * (high / centre))


class KnowledgeBase(Record):
    kind: Literal["knowledge"] = "knowledge"
    schema_version: Literal[2] = 2
    created_utc: str
    kit_version: str
    rows: tuple[KnowledgeRow, ...]


class Need(Record):
    """What a device asks for. Every limit is optional; at least the most accurate measured variant is the answer.

    With a link, the deadline covers download + latency, unless ``download_s`` sets a limit of its own for the download. What
    the device already has (``have``: sha256 or ids of variants) needs no download.
    """

    deadline_s: float | None = Field(default=None, gt=0)
    percentile: Percentile = 99  # of the latency that the deadline is set against
    memory_bytes: int | None = Field(default=None, gt=0)
    energy_j: float | None = Field(default=None, gt=0)
    min_accuracy: float | None = Field(default=None, ge=0, le=1)
    link_bps: float | None = Field(default=None, gt=0)
    download_s: float | None = Field(default=None, gt=0)
    have: tuple[str, ...] = ()
    device_id: str | None = None
    backend: str | None = None
    threads: int | None = None
    batch: int | None = Field(default=None, ge=1)  # None: one input per call
    point: str | None = None  # name of an operating point, such as t1-gap10ms; None: a machine that is left as it is
    dataset: str | None = None  # None: the only one
    unknown_accuracy: bool = False  # variants of unknown accuracy compete (last) with those that know theirs


class Rejection(Record):
    """Why a variant is out: the limit that it misses, its value and the bound, in the limit's SI unit."""

    artifact_id: str
    backend: str
    threads: int
    limit: str  # "deadline", "memory", "energy", "accuracy", "download", "label"
    value: float | str | None
    bound: float | str | None
    text: str


class MeasureNext(Record):
    """A row whose measurement could change the answer, and the command that measures it."""

    artifact_id: str
    backend: str
    threads: int
    point: str
    why: str
    command: str


class Answer(Record):
    """The choice: ``margin`` is the share of the tightest limit that is left (0.2: 20 % to spare)."""

    need: Need
    chosen: KnowledgeRow | None
    runner_up: KnowledgeRow | None
    margin: float | None
    binding: str | None  # the limit with the smallest margin
    rejected: tuple[Rejection, ...]
    text: str  # the answer as a sentence
    promised: bool = True  # False: the chosen row is predicted, so measure it first
    measure_next: tuple[MeasureNext, ...] = ()  # what could change the answer, the most promising first


class Limit(Record):
    """One limit on one row: ``slack`` is the share of the bound that is left (negative: missed, None: nothing to compare)."""

    limit: str
    value: float | str | None
    bound: float | str | None
    slack: float | None
    met: bool
    text: str
    change: str | None  # what would have to change, where it is missed


class Explanation(Record):
    """Why one row is, or is not, the choice for a need."""

    row: KnowledgeRow
    chosen: bool
    limits: tuple[Limit, ...]
    beaten_by: str | None  # the id that is chosen although this row meets every limit
    text: str


class AllocationQuality(Record):
    """What a dynamic network of each size achieves: the (weighted) delay of its allocation for tasks of ``task_bit``, in seconds.

    Keys are sizes: ``"8"`` for K experts (paper A), ``"10,3"`` for k experts of l layers (paper B). The delay grows in proportion to
    the task size. ``weight`` is the mean importance by which the computing time counts.
    """

    kind: Literal["allocation_quality"] = "allocation_quality"
    schema_version: Literal[1] = 1
    family: str  # allocator_a, allocator_b
    source: str
    task_bit: float = Field(gt=0)
    weight: float = Field(gt=0)
    delay_s: dict[str, float] = Field(min_length=1)

    @field_validator("delay_s")
    @classmethod
    def _sizes(cls, value: dict[str, float]) -> dict[str, float]:
        for key, delay in value.items():
            if not re.fullmatch(r"\d+(,\d+)*", key) or not delay > 0:
                raise ValueError(
                    f'\'{key}: {delay}\' is no size with a delay above zero: write "8" or "10,3" and seconds'
                )
        return value


class SizeTiming(Record):
    """What a dynamic network of one size takes to compute, measured at one clock."""

    size: str
    clock_hz: float = Field(gt=0)
    median_s: float = Field(gt=0)
    macs: float | None = None  # as its paper counts them
    record_id: str


class SizeChoice(Record):
    """Of one cell, task size x compute budget: the best size by the measured times, and by each analytic factor."""

    task_bit: float
    clock_hz: float
    measured: str
    measured_delay_s: float  # allocation and computing together
    analytic: dict[str, str]  # factor in cycles per MAC -> size
    excess: dict[str, float]  # factor -> how much longer the analytic choice takes, by the measured times (0.02: 2 %)


class DynamicTable(Record):
    """Papers A and B: the best size of a dynamic network over task size and compute budget."""

    kind: Literal["dynamic_table"] = "dynamic_table"
    schema_version: Literal[1] = 1
    quality: AllocationQuality
    timings: tuple[SizeTiming, ...]
    left_out: tuple[str, ...]  # sizes with a timing or a quality, but not both
    factors: tuple[float, ...]  # cycles per MAC; none where the MACs are unknown
    cells: tuple[SizeChoice, ...]

    def differing(self, factor: float) -> float:
        """Share of the cells in which the analytic choice is another than the measured one."""
        return sum(c.analytic[f"{factor:g}"] != c.measured for c in self.cells) / len(self.cells)

    def worst_excess(self, factor: float) -> float:
        """The largest share by which the analytic choice takes longer, by the measured times."""
        return max(c.excess[f"{factor:g}"] for c in self.cells)


# -------------------------------------------------------------------------------------------------------------- delivery


class Promise(Record):
    """Measured latency of this very file on one device, backend and thread count, with the record that it comes from."""

    device_id: str
    backend: str
    threads: int
    median_s: float
    p99_s: float
    memory_bytes: int
    label: Label
    record_id: str


class Manifest(Record):
    """What a package holds and promises. Files are named by hash; nothing outside ``files`` is ever installed."""

    kind: Literal["manifest"] = "manifest"
    schema_version: Literal[1] = 1
    name: str
    created_utc: str
    kit_version: str
    artifact: Artifact
    files: tuple[FileRef, ...] = Field(min_length=1)
    promises: tuple[Promise, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(f.size_bytes for f in self.files)


class InstallReceipt(Record):
    kind: Literal["install"] = "install"
    schema_version: Literal[1] = 1
    package: str
    manifest_digest: str
    source: str
    installed_utc: str
    bytes_downloaded: int
    download_s: float
    checked: str  # what the sample run compared, in words


R = TypeVar("R", bound=Record)


def load(kind: type[R], data: object, source: str) -> R:
    """``data`` (parsed JSON) as a record. Raises BadRecord, one sentence that names ``source`` and what to do."""
    wanted = kind.model_fields["kind"].default if "kind" in kind.model_fields else None
    if not isinstance(data, Mapping):
        raise BadRecord(f"{source} holds no {wanted or kind.__name__} record: a JSON object was expected.")
    if wanted is not None and data.get("kind") != wanted:
        raise BadRecord(f"{source} holds a record of kind {data.get('kind')!r} where '{wanted}' was expected.")
    if wanted is not None:
        version, newest = data.get("schema_version", 1), kind.model_fields["schema_version"].default
        if isinstance(version, int) and (wanted, version) in _UPGRADES:
            try:
                data, version = _UPGRADES[wanted, version](data), version + 1
            except (TypeError, ValueError, AttributeError):
                raise BadRecord(f"{source} is not a valid {wanted} record: its values are of other types.") from None
        if version != newest:
            raise BadRecord(
                f"{source} has schema version {version!r} of '{wanted}' and this kit reads version {newest}: "
                "use the kit that wrote it, or upgrade this one."
            )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise BadRecord(f"{source} is not a valid {wanted or kind.__name__} record: {first_problem(error)}.") from None


def _profile_2(data: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 kept nanoseconds per call as plain numbers and one matrix product before and after each process."""
    upgraded = {**data, "schema_version": 2}
    measurement = data.get("measurement")
    if isinstance(measurement, dict) and isinstance(visits := measurement.get("visits"), list):
        upgraded["measurement"] = {**measurement, "visits": [_visit_2(v) for v in visits]}
    return upgraded


def _visit_2(visit: Any) -> Any:
    if not isinstance(visit, dict) or not isinstance(visit.get("values_ns"), list):
        return visit
    kept = {key: value for key, value in visit.items() if key not in ("values_ns", "reference_ns")}
    product = visit.get("reference_ns")
    loops = visit.get("loops", 1)
    kept["elapsed_ns"] = [v * loops if isinstance(v, (int, float)) else v for v in visit["values_ns"]]
    told = [hz for e in (visit.get("before"), visit.get("after")) if isinstance(e, dict) and (hz := e.get("clock_hz"))]
    if told:
        kept |= {"clock_hz": sum(told) / len(told), "clock_source": "observed"}
    return {**kept, "references": {"product-192": product} if product is not None else {}}


def _knowledge_2(data: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 held measured rows of a machine that is left as it is; what it did not keep is None."""
    return {**data, "schema_version": 2}


_UPGRADES: dict[tuple[str, Any], Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    ("profile", 1): _profile_2,
    ("knowledge", 1): _knowledge_2,
}


def first_problem(error: ValidationError) -> str:
    """The first complaint of a validation error as half a sentence."""
    problem: Any = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the whole"
    return f"{where}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
