"""Networks of a family that share their tensors: each rung is a network of its own, and adds to what is there."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kit.records.network import Accuracy, FileRef
from kit.records.record import Record


class Rung(Record):
    """One network: ``new_bytes`` is what it adds to the rungs before it, ``total_bytes`` what all up to it need, each tensor once."""

    artifact_id: str
    model: FileRef  # the graph; its weights lie in files named by their hash
    tensors: int
    alone_bytes: int  # the graph and all of its weights
    new_bytes: int
    total_bytes: int
    macs: int | None
    accuracy: Accuracy | None


class Ladder(Record):
    """A family as a ladder, the smallest network first: ``<name>.ladder.json``."""

    kind: Literal["ladder"] = "ladder"
    schema_version: Literal[1] = 1
    name: str
    rungs: tuple[Rung, ...] = Field(min_length=1)

    @property
    def separate_bytes(self) -> int:
        """Of all networks, were each a file of its own."""
        return sum(rung.alone_bytes for rung in self.rungs)

    @property
    def shared_bytes(self) -> int:
        """Of all networks, each tensor once."""
        return self.rungs[-1].total_bytes

    @property
    def overhead(self) -> float:
        """Bytes of the whole ladder over those of its largest network alone."""
        return self.shared_bytes / max(rung.alone_bytes for rung in self.rungs)
