"""A network cut in two for split inference: the device runs the first half, a server the second, features go over the uplink."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kit.records.network import Accuracy, FileRef, TensorSpec
from kit.records.record import Record

FeatureForm = Literal["raw", "int8", "coded"]


class Part(Record):
    """One half of a network: the ONNX file and its work (None: it cannot be counted)."""

    artifact_id: str
    model: FileRef
    macs: int | None


class Cut(Record):
    """One place to cut at. Without a ``device`` part the input itself goes to the server; without a ``server`` part nothing does.

    ``feature`` is what crosses the uplink. Its bytes are of one input: ``raw_bytes`` as the network holds it, ``int8_bytes`` as 8-bit
    numbers between the least and the largest with these two, ``coded_bytes`` the mean of the latter after DEFLATE. ``accuracy`` is that of
    the two halves with features as they are, ``int8_accuracy`` with 8-bit features (coded ones are the same).
    """

    tensor: str | None
    device: Part | None
    server: Part | None
    feature: TensorSpec | None = None
    raw_bytes: int = 0
    int8_bytes: int = 0
    coded_bytes: float = 0.0
    accuracy: Accuracy | None = None
    int8_accuracy: Accuracy | None = None

    @model_validator(mode="after")
    def _has_a_part(self) -> Cut:
        if self.device is None and self.server is None:
            raise ValueError("a cut has a device part, a server part, or both")
        return self

    def uplink_bytes(self, form: FeatureForm) -> float:
        """Bytes of one input's features over the uplink; 0 where the device runs the whole network."""
        return {"raw": float(self.raw_bytes), "int8": float(self.int8_bytes), "coded": self.coded_bytes}[form]

    def accuracy_in(self, form: FeatureForm) -> Accuracy | None:
        """The accuracy with features in that form."""
        return self.accuracy if form == "raw" else self.int8_accuracy


class SplitNetwork(Record):
    """All cuts of a network that were made, from everything on the server to everything on the device: ``<name>.split.json``."""

    kind: Literal["split_network"] = "split_network"
    schema_version: Literal[1] = 1
    name: str
    source: FileRef
    answer_bytes: int  # of the outputs, over the downlink
    samples: int | None = None  # by which features were weighed and scored
    cuts: tuple[Cut, ...] = Field(min_length=2)
