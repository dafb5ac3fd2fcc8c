"""A network with early exits as segments, and where a device leaves it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kit import stats, units
from kit.records.network import FileRef
from kit.records.record import Record

Criterion = Literal["confidence", "entropy"]


class Segment(Record):
    """The blocks up to an exit, from the features of the segment before, and the exit's classifier.

    The first input is an image or features, the first output the exit's logits, the second (not of the last segment) the features that go
    on.
    """

    artifact_id: str
    model: FileRef
    depth: int = Field(ge=1)  # blocks of the root that have run when it ends


class ExitNetwork(Record):
    """One network in segments: ``<name>.exits.json``, in the folder of the segments' files.

    ``outcomes`` is a .npz with, for the parts "validation" and "test", how sure each exit was of each image and whether it was right:
    ``<part>_confidence`` and ``<part>_entropy``, float32, and ``<part>_correct``, bool, all ``(exits, images)``.
    """

    kind: Literal["exit_network"] = "exit_network"
    schema_version: Literal[1] = 1
    name: str
    whole: str  # the id of the network in one piece
    dataset: str
    classes: int = Field(ge=2)
    segments: tuple[Segment, ...] = Field(min_length=2)
    outcomes: FileRef


class Exit(Record):
    """One exit of a policy: an image leaves when its confidence reaches ``threshold``, or its entropy falls to it; None: no image leaves.

    ``share`` of the validation images leave here, and ``accuracy`` of those are right. ``segment_s`` is the measured time of its segment,
    ``arrival_s`` that of all up to here.
    """

    depth: int
    threshold: float | None
    share: float = Field(ge=0, le=1)
    accuracy: float | None
    segment_s: float
    arrival_s: float


class ExitAccuracy(Record):
    """Right answers with early exits and of the whole network on the same images, and on how many the two differ."""

    count: int
    correct: int
    whole_correct: int
    gained: int  # wrong in the whole network, right with exits
    lost: int

    @property
    def change(self) -> tuple[float, float, float]:
        """(difference, low, high): accuracy with exits minus that without, in shares, with its 95 % interval by the images that differ.

        >>> ExitAccuracy(count=1000, correct=890, whole_correct=900, gained=10, lost=20).change[0]
        -0.01
        """
        return stats.paired_difference(self.gained, self.lost, self.count)


class ExitPolicy(Record):
    """When to leave a network early on one device, and what that saves: ``<name>.<device>.policy.json``.

    ``expected_s`` is the sum over exits of the share that leaves there times the measured time to there.
    """

    kind: Literal["exit_policy"] = "exit_policy"
    schema_version: Literal[1] = 1
    network: str  # file of the ExitNetwork
    network_sha256: str
    device_id: str
    backend: str
    threads: int
    criterion: Criterion
    loss_max: float  # accuracy that may be lost on the validation images, a share
    exits: tuple[Exit, ...]
    whole_s: float
    expected_s: float
    validation: ExitAccuracy
    test: ExitAccuracy
    test_s: float  # expected_s by the shares of the test images
    record_ids: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _ends(self) -> ExitPolicy:
        if len(self.exits) < 2 or self.exits[-1].threshold is not None:
            raise ValueError("a policy has two exits or more, and at the last every image leaves")
        return self

    @property
    def ratio(self) -> float:
        """Expected latency over that of the network in one piece."""
        return self.expected_s / self.whole_s

    def summary(self) -> dict[str, str]:
        """The policy as name and text, for people."""
        change, low, high = self.test.change
        return {
            "network": self.network.removesuffix(".exits.json"),
            "expected latency": f"{units.seconds(self.expected_s)}, {self.ratio:.0%} of {units.seconds(self.whole_s)} in one piece",
            "accuracy": f"{units.percent(self.test.correct / self.test.count)}, {100 * change:+.2f} points "
            f"({100 * low:+.2f} to {100 * high:+.2f}) on {self.test.count} test images",
            "leaves by": self.criterion,
            "device": f"{self.device_id}, {self.backend}, {units.counted(self.threads, 'thread')}",
        }
