"""One network, measured now on this machine: what the Python interface, ``kit pull`` and ``kit knowledge ask --measure`` need."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kit.devices import recognise
from kit.errors import UsageError
from kit.measure import profiler
from kit.measure.profiler import Progress
from kit.measure.targets import Target
from kit.records import MeasureSettings, ProfileRecord, first_problem

ROUNDS_MIN, ROUNDS_MAX, ROUNDS_MAX_WITH_BUDGET = 6, 10, 30


def settings(
    *, rounds_min: int | None = None, rounds_max: int | None = None, budget_s: float | None = None, **more: Any
) -> MeasureSettings:
    """Settings with the usual number of processes: 6 to 10, or up to 30 within a budget. Raises UsageError, a sentence."""
    rounds_max = rounds_max or max(ROUNDS_MAX if budget_s is None else ROUNDS_MAX_WITH_BUDGET, rounds_min or 0)
    rounds_min = rounds_min or min(ROUNDS_MIN, rounds_max)
    if rounds_max < rounds_min:
        raise UsageError(f"rounds_max {rounds_max} is below rounds_min {rounds_min}: raise the one or lower the other.")
    try:
        return MeasureSettings(rounds_min=rounds_min, rounds_max=rounds_max, budget_s=budget_s, **more)
    except ValidationError as error:
        raise UsageError(f"These settings cannot be: {first_problem(error)}.") from None


def once(
    target: Target,
    settings: MeasureSettings,
    out: Path | None = None,
    *,
    layers: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> ProfileRecord:
    """The record of ``target`` on this machine, appended to ``PROFILES/<device_id>/NAME.jsonl`` when ``out`` is that file.

    Without ``out`` nothing is kept but the scale of drift, and that for the life of this process: two measurements of it are told apart
    as well as two of one folder. Raises BackendUnavailable, StorageError; a network that fails is a record with the reason.
    """
    device = recognise()
    kept = out is not None
    file = out or _scratch(os.getpid()) / device.device_id / "once.jsonl"
    try:
        (record,) = profiler.profile(
            [profiler.Job(target, settings)], device, file, fresh=not kept, layers=layers, progress=progress
        )
    finally:
        if not kept:
            file.unlink(missing_ok=True)
    return record


@functools.cache
def _scratch(process: int) -> Path:
    """A folder for the life of this process; a fork makes its own."""
    _KEPT.append(tempfile.TemporaryDirectory(prefix="kit-profiles-"))
    return Path(_KEPT[-1].name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
