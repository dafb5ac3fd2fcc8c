"""What ``knowledge ask --measure`` does: a predicted row is measured on this machine before anything is promised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kit.cli import show

if TYPE_CHECKING:
    from kit.records import DeviceSpec, KnowledgeBase, KnowledgeRow, MeasureSettings, ProfileRecord

FILE = "knowledge.jsonl"  # of the device's folder of profiles: what was measured to keep a promise


def measuring(
    base: KnowledgeBase, file: Path, profiles: Path, device: str | None
) -> Callable[[KnowledgeRow], KnowledgeRow | None]:
    """A function that measures a row's sub-network on this machine: the record goes to ``profiles``, the row into ``file``.

    None says that it could not be measured. Raises UsageError where the rows are of another device.
    """
    from kit import knowledge, store
    from kit.devices import recognise

    spec = recognise()
    _refuse_others(base.rows, device, spec.device_id)
    known = base

    def measure(row: KnowledgeRow) -> KnowledgeRow | None:
        nonlocal known
        record = _profiled(row, spec, profiles / spec.device_id / FILE)
        if record.measurement is None or record.label is None:
            show.say(f"{row.artifact_id} could not be measured: {record.reason or record.outcome}")
            return None
        about = {
            "accuracy": row.accuracy,
            "dataset": row.dataset,
        }  # its weights are random here: its accuracy is known from elsewhere
        found = knowledge.row_of(record).model_copy(update=about)
        show.say(
            f"{row.artifact_id}: predicted {show.ms(row.median_s)} ms, measured {show.ms(found.median_s)} ms ({found.label})"
        )
        known = knowledge.joined(known, [found])
        store.write_record(file, known)
        return found

    return measure


def _refuse_others(rows: Sequence[KnowledgeRow], device: str | None, here: str) -> None:
    from kit.errors import UsageError

    asked = {device} if device else {r.device_id for r in rows}
    if here not in asked:
        raise UsageError(
            f"--measure measures on this machine ({here}) and these rows are of {', '.join(sorted(asked))}: run it there, "
            "or leave --measure out and run the command that is printed there."
        )


def _profiled(row: KnowledgeRow, spec: DeviceSpec, out: Path) -> ProfileRecord:
    """The record of one row's sub-network, from a file with random weights: latency does not depend on them."""
    import tempfile

    from kit import spaces
    from kit.measure import profiler
    from kit.measure.targets import Target

    sub = spaces.subnetwork(row.artifact_id)
    with tempfile.TemporaryDirectory(prefix="kit-") as folder, show.progress("measure") as update:
        path = Path(folder) / f"{sub.id}.onnx"
        job = profiler.Job(Target(path, spaces.write(sub, path)), _settings(row))
        (record,) = profiler.profile(
            [job], spec, out, progress=lambda p: update(p.text, p.done / max(p.planned, 1), p.remaining_s)
        )
    return record


def _settings(row: KnowledgeRow) -> MeasureSettings:
    from kit.records import MeasureSettings

    point = {"threads": row.threads} if row.point is None else row.point.model_dump()
    return MeasureSettings(backend=row.backend, **point)
