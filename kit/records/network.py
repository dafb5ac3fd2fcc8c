"""What is measured: sub-networks, kernels, tensors, and the sidecar that describes an exported file."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from kit import stats, units
from kit.errors import UsageError
from kit.records.record import AliasedRecord, Record

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4", "fp64"]
BITS: dict[str, int] = {
    "fp32": 32,
    "fp16": 16,
    "bf16": 16,
    "int8": 8,
    "int4": 4,
    "fp64": 64,
}  # stored latency models count their order

_KINDS_SHOWN = 4  # of operators that could not be counted


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
        """The id, such as ``resnet18-d2.2.2.2-w1.00-fp32-224``."""
        depth = ".".join(map(str, self.blocks or (self.depth,)))
        return f"{self.root}-d{depth}-w{self.width:.2f}-{self.precision}-{self.resolution_px}"

    @property
    def bits(self) -> int:
        """Bits of a weight."""
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
    """From an image with values in [0, 1] to the input tensor: the shorter side to ``resize_px``, the centre of ``crop_px`` cut out
    (None: of the network's own size), then (x * scale - mean) / std per channel, in ``layout``."""

    resize_px: int
    crop_px: int | None = None
    scale: float = 1.0  # what a white pixel is before mean and std: 255 for networks that take pixels as they are
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    classes: int


class Accuracy(Record):
    """The share of correct answers in [0, 1] on ``count`` held-out samples of ``dataset``; what nobody stated is None.

    ``metric`` says what counts as correct: "top1", "top5", or the name of somebody's own function. The key ``top1`` holds the share by
    that metric (it is of the time when top-1 was the only one).
    """

    top1: float = Field(ge=0, le=1)
    count: int | None = Field(default=None, ge=1)
    dataset: str | None = None
    metric: str = Field(default="top1", min_length=1)
    correct: int | None = Field(default=None, ge=0)  # None: not counted, or no whole number, as of an own metric

    @model_validator(mode="after")
    def _adds_up(self) -> Accuracy:
        if self.correct is None:
            return self
        if self.count is None or self.correct > self.count:
            raise ValueError(f"{self.correct} correct of {self.count} cannot be")
        if abs(self.top1 - self.correct / self.count) > 0.5 / self.count:
            raise ValueError(f"{self.correct} of {self.count} is not the share {self.top1:g}")
        return self

    @property
    def correct_count(self) -> int | None:
        """How many answers were correct; of a top-1 or top-5 share on a known count it is computed where it was not stored."""
        if self.correct is None and self.count is not None and self.metric in ("top1", "top5"):
            return round(self.top1 * self.count)
        return self.correct

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high): between which shares the true one lies (Wilson, 95 %); None where the answers are not counted.

        >>> [round(bound, 3) for bound in Accuracy(top1=0.95, count=100).interval]
        [0.888, 0.978]
        """
        correct = self.correct_count
        return None if correct is None or self.count is None else stats.wilson_interval(correct, self.count)

    @property
    def basis(self) -> str | None:
        """What two accuracies must share to be compared: the data set, and the metric where it is not top-1."""
        if self.metric == "top1":
            return self.dataset
        return f"{self.dataset or 'unknown data set'}, {self.metric}"

    def text(self, noun: str = "images") -> str:
        """For people: ``87.3 % (83.9 to 90.1), 393 of 450 images of digits/test``; ``noun`` is what the samples are called."""
        low, high = self.interval or (None, None)
        within = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
        kind = "" if self.metric == "top1" else f" by {self.metric}"
        counted = "" if self.count is None else f"{self.count} {noun}"
        if self.count is not None and self.correct_count is not None:
            counted = f"{self.correct_count} of {counted}"
        parts = (f"{units.percent(self.top1)}{within}{kind}", " of ".join(filter(None, (counted, self.dataset))))
        return ", ".join(filter(None, parts))


def inner_path(name: str) -> str:
    """``name`` itself where it is a plain relative path (``w.bin``, ``weights/w.bin``). Raises ValueError: it could leave its folder."""
    parts = name.split("/")
    if any(not part or part.startswith(".") or set(part) & set("\\:\0") for part in parts) or len(name) > 1024:
        raise ValueError(f"'{name[:80]}' is no plain path inside a folder")
    return name


class DataFile(Record):
    """A file of weights of a model: ``file`` is its path relative to the model's folder, with slashes, and never leaves it."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)

    @field_validator("file")
    @classmethod
    def _check_name(cls, value: str) -> str:
        return inner_path(value)


class FileRef(DataFile):
    """A file next to the record that names it. ``file`` is a bare name: a path is refused."""

    @field_validator("file")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not value or value in {".", ".."} or "/" in value or "\\" in value or "\0" in value or value.startswith("."):
            raise ValueError(f"'{value}' is not a bare file name")
        return value


class Origin(AliasedRecord):
    """Where the weights come from: data, seed, the versions that trained them and what they were made from."""

    root: str
    dataset: str | None = None
    seed: int | None = None
    producer: str = Field(alias="made_by")  # "kit 0.1.0"
    versions: dict[str, str] = Field(default_factory=dict)
    steps: tuple[str, ...] = ()  # what was done, in order


class NumericCheck(Record):
    """The exported file against the torch network on held-out inputs: largest absolute difference of the logits and the
    share of equal top-1 answers."""

    max_abs_error: float | None
    top1_agreement: float
    count: int


#: Names of free dimensions that are time, not a batch.
TIME = re.compile(r"t|time.*|.*(seq|frame|step|token|length).*", re.IGNORECASE)


class Artifact(Record):
    """The JSON sidecar of an exported network: ``x.onnx`` travels with ``x.json``.

    1 MAC = 2 FLOP. ``weight_bytes`` counts the stored parameters, ``activation_bytes`` the tensors that the network writes
    for one input, both at the artifact's own precision. Sizes that nobody computed are None. ``macs`` is None, too, where a part of
    the graph could not be counted: ``uncounted`` names its nodes, ``counted_macs`` is the sum of the others.
    """

    kind: Literal["artifact"] = "artifact"
    schema_version: Literal[1] = 1
    artifact_id: str
    model: FileRef  # the ONNX file (or the fake workload)
    data: tuple[DataFile, ...] = ()  # the files besides it that hold weights
    dims: tuple[tuple[str, int], ...] = ()  # what free dimensions were fixed to: symbol (or input:axis), size
    torch_program: FileRef | None = None  # torch.export archive of the same network, for the pytorch backend
    subnetwork: SubNetwork | None = None
    precision: Precision = "fp32"
    quantization: str | None = (
        None  # "static-qdq-u8s8", "dynamic-u8s8"; of a foreign file "static-qdq", "weight-only-int4"
    )
    macs: int | None = None
    counted_macs: int | None = None
    uncounted: tuple[str, ...] = ()  # "Loop 'decoder'"
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
    notes: tuple[str, ...] = ()  # what the numbers assume, and which formats are mixed

    @property
    def macs_text(self) -> str:
        """The multiply-accumulates for people; where they are unknown, what could be counted and what is missing.

        >>> Artifact(..., counted_macs=12_300_000, uncounted=("Loop 'a'", "Loop 'b'", "Det 'c'")).macs_text
        'unknown (12.3 M in what could be counted; missing: 2 Loop, 1 Det)'
        """
        if self.macs is not None or not self.uncounted:
            return units.macs(self.macs)
        kinds = Counter(name.partition(" ")[0] for name in self.uncounted).most_common()
        missing = ", ".join(f"{count} {kind}" for kind, count in kinds[:_KINDS_SHOWN])
        more = f" and {len(kinds) - _KINDS_SHOWN} more kinds" if len(kinds) > _KINDS_SHOWN else ""
        return f"unknown ({units.count(self.counted_macs)} in what could be counted; missing: {missing}{more})"

    @property
    def size_bytes(self) -> int:
        """Bytes of the model and of the files that hold its weights."""
        return self.model.size_bytes + sum(file.size_bytes for file in self.data)

    @property
    def content_sha256(self) -> str:
        """What the network is, whatever it is called: the hash of the model, with those of its files of weights and its dimensions."""
        if not self.data and not self.dims:
            return self.model.sha256
        parts = [self.model.sha256, *(f"{f.file}={f.sha256}" for f in self.data), *(f"{k}={n}" for k, n in self.dims)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def batch(self) -> int | None:
        """Inputs per call: the first dimension of the first input, 1 where that is time; None where no input is known."""
        if not self.inputs:
            return None
        size = self.inputs[0].shape[0] if self.inputs[0].shape else 1
        return 1 if any(n == size and TIME.fullmatch(key) for key, n in self.dims) else size

    @property
    def noun(self) -> str:
        """What its inputs are called: "images" where it takes four dimensions, or where nobody knows."""
        return "images" if not self.inputs or len(self.inputs[0].shape) == 4 else "samples"

    def summary(self) -> dict[str, str]:
        """The artifact as name and text, for people."""
        return {
            "network": self.artifact_id,
            "precision": self.precision,
            "multiply-accumulates": self.macs_text,
            "accuracy": self.accuracy.text(self.noun) if self.accuracy else "",
            "file": f"{self.model.file}, {units.size(self.size_bytes)}",
            "inputs": ", ".join(f"{t.name} {list(t.shape)} {t.dtype}" for t in self.inputs),
            "outputs": ", ".join(f"{t.name} {list(t.shape)} {t.dtype}" for t in self.outputs),
            "notes": "; ".join(self.notes),
        }
