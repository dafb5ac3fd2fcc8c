"""The pieces of one network, measured together under the shared options, or taken from a profile: for ``exits`` and ``split``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kit.cli import options, show

if TYPE_CHECKING:
    from kit.records import ProfileRecord


def measured(
    paths: Sequence[Path], stem: str, verb: str, runtime: options.Runtime, point: options.PointOptions,
    precision: options.Precision, file: options.RecordFile,
) -> list[ProfileRecord]:  # fmt: skip
    """The records of ``paths``, interleaved, in a file that is called after ``stem`` unless it is named."""
    from kit.devices import recognise
    from kit.measure import jobs

    settings = precision.settings(point, None, file.seed).model_copy(update={"backend": runtime.backend})
    spec = recognise()
    name = file.name or jobs.stem([stem], runtime.backend, point.threads)
    out = jobs.record_file(file.profiles, spec.device_id, name)
    with show.progress(verb) as update:
        return jobs.together(paths, settings, spec, out, fresh=file.fresh, progress=show.steps(update))


def stored(profile: Path, runtime: options.Runtime | None = None, threads: int | None = None) -> list[ProfileRecord]:
    """The records of ``profile``, of a runtime and a number of threads where they are named.

    Raises UsageError: they are of several devices, whose times do not add up.
    """
    from kit import store
    from kit.errors import UsageError

    records = [
        record
        for record in store.read_profiles([profile])
        if (runtime is None or record.settings.backend == runtime.backend)
        and threads in (None, record.settings.threads)
    ]
    devices = sorted({record.device.device_id for record in records})
    if len(devices) > 1:
        raise UsageError(
            f"{profile} holds measurements of {', '.join(devices)}: name the file or folder of one device."
        )
    return records
