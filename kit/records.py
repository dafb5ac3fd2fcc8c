"""The frozen records that flow between verbs: validation, JSON, schema number.

Units are part of each name and SI inside (seconds, bytes, hertz; raw times are integer nanoseconds); nothing is rounded
and every statistic is derived from raw values on demand. Unknown keys are errors. A value that the machine does not tell
is ``None`` and printed as "unknown".

History of the formats (``schema_version`` of each kind)
    1  2026-11  first form of device, artifact, profile, latency_model, knowledge, manifest, install
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator

from kit import stats
from kit.errors import BadRecord, UsageError

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
BITS: dict[str, int] = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}
Label = Literal["stable", "settled", "throttled", "inconclusive"]
DECIDING: tuple[Label, ...] = ("stable", "settled")  # the labels on which something may be decided
Outcome = Literal["ok", "unsupported", "failed", "crashed", "timeout", "out_of_memory"]


class Record(BaseModel):
    """A frozen value object; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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

    The id is parseable: ``resnet18-d6-w0.50-int8-32``.
    """

    family: str
    root: str
    depth: int = Field(ge=1)
    width: float = Field(gt=0, le=1)
    precision: Precision
    resolution_px: int = Field(ge=1)

    _PATTERN: ClassVar[re.Pattern[str]] = re.compile(
        r"(?P<root>[a-z0-9_]+)-d(?P<depth>\d+)-w(?P<width>[01]\.\d\d)-(?P<precision>[a-z]+\d+)-(?P<resolution>\d+)"
    )

    @property
    def id(self) -> str:
        return f"{self.root}-d{self.depth}-w{self.width:.2f}-{self.precision}-{self.resolution_px}"

    @property
    def bits(self) -> int:
        return BITS[self.precision]

    @classmethod
    def parse(cls, text: str) -> SubNetwork:
        """The sub-network that ``text`` names. Raises UsageError when it is no id."""
        match = cls._PATTERN.fullmatch(text)
        if match is None or match["precision"] not in BITS:
            raise UsageError(f"'{text}' is no sub-network id: it reads like resnet18-d6-w0.50-int8-32.")
        return cls(
            family=re.match(r"[a-z]+", match["root"])[0],  # type: ignore[index]
            root=match["root"],
            depth=int(match["depth"]),
            width=float(match["width"]),
            precision=match["precision"],
            resolution_px=int(match["resolution"]),
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


# ----------------------------------------------------------------------------------------------------------- measurement


class MeasureSettings(Record):
    """How to measure. Two records are comparable only when device, backend and settings agree."""

    backend: str = "onnxruntime"
    threads: int = Field(default=1, ge=1)
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


class Memory(Record):
    """Resident bytes of the child process: at its start, with the runtime loaded, with the model open, and at the peak."""

    at_start_bytes: int
    runtime_bytes: int
    opened_bytes: int
    peak_bytes: int

    @property
    def footprint_bytes(self) -> int:
        """Peak memory that running this model adds to a bare process: runtime, weights and activations."""
        return max(0, self.peak_bytes - self.at_start_bytes)


class Visit(Record):
    """One fresh process: every collected value, in nanoseconds per call, and what it took to get there."""

    round: int
    values_ns: tuple[PositiveFloat, ...] = Field(min_length=1)  # each the mean over ``loops`` calls
    loops: int
    warmup_calls: int
    warmup_s: float
    warm: bool  # the last two warm-up windows agreed
    timer_resolution_ns: float
    reference_ns: tuple[float, float] | None  # a fixed matrix product, timed before and after
    open_s: float
    first_ns: float
    memory: Memory
    before: Environment
    after: Environment
    versions: dict[str, str]


class Measurement(Record):
    """Raw values of every process; statistics are derived, never stored."""

    visits: tuple[Visit, ...] = Field(min_length=1)

    def _medians(self) -> list[float]:
        return [stats.quantile(v.values_ns, 0.5) for v in self.visits]

    @property
    def median_s(self) -> float:
        """Median over processes of each process's median, in seconds: no process weighs more for being faster."""
        return stats.quantile(self._medians(), 0.5) * 1e-9

    @property
    def interval_s(self) -> tuple[float, float]:
        """Interval of :attr:`median_s` over processes, in seconds; :attr:`confidence` says how sure it is."""
        low, high, _ = stats.median_interval(self._medians())
        return low * 1e-9, high * 1e-9

    @property
    def confidence(self) -> float:
        """Confidence of :attr:`interval_s`: 0.95 from six processes on, less for fewer."""
        return stats.median_interval(self._medians())[2]

    @property
    def half_width(self) -> float:
        """Half the width of :attr:`interval_s` over the median."""
        low, high = self.interval_s
        return (high - low) / 2 / self.median_s

    @property
    def p99_s(self) -> float:
        """99th percentile of all values of all processes, in seconds; a value of a very short call is a mean over a loop."""
        return self._quantile_s(0.99)

    @property
    def p90_s(self) -> float:
        return self._quantile_s(0.90)

    def _quantile_s(self, q: float) -> float:
        return stats.quantile([x for v in self.visits for x in v.values_ns], q) * 1e-9

    @property
    def memory_bytes(self) -> int:
        return max(v.memory.footprint_bytes for v in self.visits)

    @property
    def calls(self) -> int:
        return sum(len(v.values_ns) * v.loops for v in self.visits)


class ProfileRecord(Record):
    """One artifact on one device: measured, or failed with the reason. A failure is a record too."""

    kind: Literal["profile"] = "profile"
    schema_version: Literal[1] = 1
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

    @property
    def trusted(self) -> bool:
        """Whether the measurement may decide: it is there, and neither throttled nor inconclusive."""
        return self.outcome == "ok" and self.label in DECIDING


# --------------------------------------------------------------------------------------------------------------- judging


class FitQuality(Record):
    """How a latency model meets the measured medians: R2, mean and worst relative error, shares within +-5 and +-10 %."""

    r2: float | None
    mape: float
    worst: float
    within_5: float
    within_10: float


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
    clock_source: str  # "observed", "nominal" or "unknown"
    lambda_cycles_per_mac: float | None
    interval: tuple[float, float] | None
    quality: FitQuality
    paper: FitQuality | None  # lambda = 1, no overhead, at the same clock
    macs_range: tuple[int, int]  # validity region
    record_ids: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # records that did not count, and why


class KnowledgeRow(Record):
    """A measured row: one variant on one device, backend and thread count."""

    artifact_id: str
    sha256: str
    device_id: str
    backend: str
    threads: int
    precision: Precision
    median_s: float
    p99_s: float
    label: Label
    memory_bytes: int
    size_bytes: int
    macs: int | None
    accuracy: float | None
    dataset: str | None = None  # what the accuracy was counted on
    record_id: str


class KnowledgeBase(Record):
    kind: Literal["knowledge"] = "knowledge"
    schema_version: Literal[1] = 1
    created_utc: str
    kit_version: str
    rows: tuple[KnowledgeRow, ...]


class Need(Record):
    """What a device asks for. Every limit is optional; at least the most accurate measured variant is the answer.

    With a link, the deadline covers download + p99 latency, unless ``download_s`` sets a limit of its own for the download.
    """

    deadline_s: float | None = Field(default=None, gt=0)
    memory_bytes: int | None = Field(default=None, gt=0)
    min_accuracy: float | None = Field(default=None, ge=0, le=1)
    link_bps: float | None = Field(default=None, gt=0)
    download_s: float | None = Field(default=None, gt=0)
    device_id: str | None = None
    backend: str | None = None
    threads: int | None = None


class Rejection(Record):
    """Why a variant is out: the limit that it misses, its value and the bound, in the limit's SI unit."""

    artifact_id: str
    backend: str
    threads: int
    limit: str  # "deadline", "memory", "accuracy", "download", "label"
    value: float | str | None
    bound: float | str | None
    text: str


class Answer(Record):
    """The choice: ``margin`` is the share of the tightest limit that is left (0.2: 20 % to spare)."""

    need: Need
    chosen: KnowledgeRow | None
    runner_up: KnowledgeRow | None
    margin: float | None
    binding: str | None  # the limit with the smallest margin
    rejected: tuple[Rejection, ...]
    text: str  # the answer as a sentence


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
    version = data.get("schema_version", 1)
    if wanted is not None and version != 1:
        raise BadRecord(
            f"{source} has schema version {version!r} of '{wanted}' and this kit reads version 1: "
            "use the kit that wrote it, or upgrade this one."
        )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise BadRecord(f"{source} is not a valid {wanted or kind.__name__} record: {first_problem(error)}.") from None


def first_problem(error: ValidationError) -> str:
    """The first complaint of a validation error as half a sentence."""
    problem: Any = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the whole"
    return f"{where}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
