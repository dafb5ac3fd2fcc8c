"""Measuring predicted rows on this machine, so that a choice rests on a measurement before anything is promised."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from kit import spaces, store, units
from kit.devices import recognise
from kit.errors import UsageError
from kit.knowledge.rows import joined, row_of
from kit.measure import profiler
from kit.measure.profiler import Job, Progress
from kit.measure.targets import Target
from kit.records import DeviceSpec, KnowledgeBase, KnowledgeRow, MeasureSettings, ProfileRecord

FILE = "knowledge.jsonl"  # of the device's folder of profiles


def measurer(
    base: KnowledgeBase,
    file: Path,
    profiles: Path,
    device: str | None,
    *,
    on_message: Callable[[str], None] = lambda _: None,
    on_step: Callable[[Progress], None] = lambda _: None,
) -> Callable[[KnowledgeRow], KnowledgeRow | None]:
    """A function for ``measure`` of :func:`kit.knowledge.ask`: the record goes to ``profiles``, the row into ``file``.

    It returns None for a row that could not be measured. Raises UsageError where the rows of ``device`` are of another machine.
    """
    spec = recognise()
    _refuse_others(base.rows, device, spec.device_id)
    current = base

    def measure(row: KnowledgeRow) -> KnowledgeRow | None:
        nonlocal current
        record = _profiled(row, spec, profiles / spec.device_id / FILE, on_step)
        if record.measurement is None or record.label is None:
            on_message(f"{row.artifact_id} could not be measured: {record.reason or record.status}")
            return None
        # The weights of the measured file are random, so the accuracy stays that of the predicted row.
        measured = row_of(record).model_copy(update={"accuracy": row.accuracy, "dataset": row.dataset})
        predicted_s, measured_s = units.seconds(row.median_s), units.seconds(measured.median_s)
        on_message(f"{row.artifact_id}: predicted {predicted_s}, measured {measured_s} ({measured.label})")
        current = joined(current, [measured])
        store.write_record(file, current)
        return measured

    return measure


def _refuse_others(rows: Sequence[KnowledgeRow], device: str | None, this_device: str) -> None:
    devices = {device} if device else {r.device_id for r in rows}
    if this_device not in devices:
        raise UsageError(
            f"--measure measures on this machine ({this_device}) and these rows are of {', '.join(sorted(devices))}: run it there, "
            "or leave --measure out and run the command that is printed there."
        )


def _profiled(row: KnowledgeRow, spec: DeviceSpec, out: Path, on_step: Callable[[Progress], None]) -> ProfileRecord:
    """The record of one row's sub-network, from a file with random weights: latency does not depend on them."""
    sub = spaces.subnetwork(row.artifact_id)
    with tempfile.TemporaryDirectory(prefix="kit-") as folder:
        path = Path(folder) / f"{sub.id}.onnx"
        job = Job(Target(path, spaces.write(sub, path)), _settings(row))
        (record,) = profiler.profile([job], spec, out, progress=on_step)
    return record


def _settings(row: KnowledgeRow) -> MeasureSettings:
    point = {"threads": row.threads} if row.point is None else row.point.model_dump()
    return MeasureSettings(backend=row.backend, **point)
