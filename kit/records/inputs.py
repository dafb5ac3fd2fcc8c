"""What a network is fed while it is timed: what was asked for, and what it got."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kit.records.record import Record


class InputRule(Record):
    """How one input is filled: from a ``file`` (.npy), with one ``value``, with ``random`` numbers from ``low`` to ``high``, or with
    ``zeros``."""

    name: str
    form: Literal["file", "value", "random", "zeros"]
    file: str | None = None
    value: float | int | bool | str | None = None
    low: float | None = None
    high: float | None = None


class FedInput(Record):
    """What one input got. ``given`` says whether somebody chose the values (a rule, a file, the sidecar's sample) or kit did.

    ``steers`` names what of the work follows the values ("trip count of Loop 'loop'"); None where they change nothing but numbers.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    rule: str  # "random normal", "value 8: trip count of Loop 'loop'", "file ids.npy", "sample of the sidecar"
    given: bool
    steers: str | None = None
    samples: int = Field(default=1, ge=1)
    sha256: str | None = None  # of the first sample's bytes

    @property
    def option(self) -> str:
        """The option that gives it values, for advice."""
        return f"--input {self.name}={'VALUE' if self.shape in ((), (1,)) else 'FILE.npy'}"

    @property
    def assumed(self) -> bool:
        """Whether the work follows values that nobody gave."""
        return self.steers is not None and not self.given
