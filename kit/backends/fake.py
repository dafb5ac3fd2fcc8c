"""A workload of known cost: it shows what the harness itself adds, and tests all of the measuring without a runtime.

The target is written ``fake:250us``: each run spins for 250 microseconds of the monotonic clock; ``fake:0us`` returns at once.
``fake:crash``, ``fake:hang`` and ``fake:memory`` end a child process the way bad models do.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit.backends import Feeds, Probe, check_batch
from kit.errors import UsageError
from kit.records import Artifact, Layers, TensorSpec

SPEC = TensorSpec(name="x", shape=(1,), dtype="float32")
_COST = re.compile(r"fake:(\d+(?:\.\d+)?)us")
_ENDINGS = ("fake:crash", "fake:hang", "fake:memory")


def probe(mode: str) -> Probe:
    """Always available: it waits instead of computing."""
    return Probe("1")


def cost_ns(name: str) -> int | None:
    """Nanoseconds of one run of target ``name``; None for the ones that never return. Raises UsageError for another text."""
    if name in _ENDINGS:
        return None
    match = _COST.fullmatch(name)
    if match is None:
        raise UsageError(f"'{name}' is no target of the fake backend: write its cost in microseconds, like fake:250us.")
    return round(float(match[1]) * 1000)


class FakeSession:
    """A session that takes a stated time; for tests."""

    notes: tuple[str, ...] = ()
    device_ns: Callable[[int], float] | None = None

    def __init__(self, name: str) -> None:
        self.inputs = self.outputs = (SPEC,)
        self._result: list[NDArray[Any]] = [np.zeros(SPEC.shape, SPEC.dtype)]
        self._ending = name.removeprefix("fake:")
        cost = cost_ns(name)
        self.run = self._end if cost is None else self._spin if cost else self._nothing
        self._cost_ns = cost or 0

    def _nothing(self, feeds: Feeds) -> list[NDArray[Any]]:
        return self._result

    def _spin(self, feeds: Feeds) -> list[NDArray[Any]]:
        until = time.perf_counter_ns() + self._cost_ns
        while time.perf_counter_ns() < until:
            pass
        return self._result

    def _end(self, feeds: Feeds) -> list[NDArray[Any]]:
        if self._ending == "crash":
            os.abort()
        if self._ending == "memory":
            raise MemoryError
        while True:
            time.sleep(3600)

    def prepare(self, feeds: Feeds) -> Callable[[], Any]:
        """A function that takes the stated time."""
        return partial(self.run, feeds)

    def layers(self, feeds: Feeds, calls: int) -> Layers:
        """Raises UsageError: it has no layers."""
        raise UsageError("The fake backend has no layers: take the layers of an .onnx file with onnxruntime.")

    def gpu_memory(self) -> dict[str, int] | None:
        """None."""
        return None

    def close(self) -> None:
        """Nothing to free."""


def open(  # noqa: A001
    path: Path, artifact: Artifact | None, threads: int, mode: str = "", batch: int | None = None
) -> FakeSession:
    """The session of a fake target such as ``fake:1ms``."""
    check_batch(path, (SPEC,), batch)
    return FakeSession(artifact.artifact_id if artifact else str(path))
