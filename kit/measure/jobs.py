"""Jobs: what a command names (targets, runtimes, operating points) as the list that the profiler measures, or as one record."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from kit import store
from kit.allocators.registry import FAMILIES, WriteProgram
from kit.backends import check_batch, dimensions, onnxgraph, require
from kit.errors import MeasurementError, UnknownName, UsageError
from kit.measure import profiler
from kit.measure.onnx_files import is_onnx
from kit.measure.profiler import Job, Progress
from kit.measure.targets import Inputs, Target, resolve
from kit.records import DeviceSpec, MeasureSettings, ProfileRecord, ScenarioRecord, first_problem

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|min|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_STEM_MAX = 180  # characters: a file name has 255, and others are made of this one
BUILDS = (Path("build"), Path("run/build"))  # where kit build and kit run leave variants


def targets(
    names: Sequence[str], backend: str, folder: Path | None = None, *, build: Path | None = None, every: bool = False,
    program: WriteProgram | None = None, inputs: Inputs | None = None,
) -> list[Target]:  # fmt: skip
    """What ``names`` are for one backend: :func:`kit.measure.targets.resolve`, with variants looked up in the usual builds.

    ``folder`` takes the files of what is named by id, ``build`` holds variants (default: the first of ``BUILDS``), ``every`` lists
    all sizes of a family of allocators. Raises UsageError and what ``resolve`` raises.
    """
    if not names:
        raise UsageError(
            "There is nothing to measure: name an .onnx file, a build folder or an id; kit explore takes a space."
        )
    if every and not set(names) & set(FAMILIES):
        raise UsageError(f"--all is about a family of allocators: name {', '.join(FAMILIES)}, or leave it away.")
    return resolve(
        names, backend=backend, build=build or usual_build(), folder=folder, every=every, program=program, inputs=inputs
    )


def jobs(
    names: Sequence[str], points: Sequence[MeasureSettings], backends: str, folder: Path, *, build: Path | None = None,
    every: bool = False, program: WriteProgram | None = None, inputs: Sequence[Inputs] = (Inputs(),),
) -> list[Job]:  # fmt: skip
    """Every target, with every one of ``inputs``, with every one of the comma-separated ``backends`` at every one of ``points``.

    All of it is checked before any of it runs. Raises as :func:`targets` does, and UsageError for a batch that a network has not.
    """
    runtimes = list(dict.fromkeys(part.strip() for part in backends.split(",")))
    for runtime in runtimes:
        require(runtime)
    listed = [
        Job(target, point.model_copy(update={"backend": runtime}))
        for runtime in runtimes
        for target in _with_inputs(names, runtime, folder, inputs, build=build, every=every, program=program)
        for point in points
    ]
    for job in listed:
        _refuse_batch(job.target, job.settings.batch)
    return listed


def _with_inputs(
    names: Sequence[str], backend: str, folder: Path, inputs: Sequence[Inputs], **more: Any
) -> list[Target]:
    """The targets with each of ``inputs``; those that have no free dimension stand once."""
    every = [t for one in inputs for t in targets(names, backend, folder, inputs=one, **more)]
    return list({t.artifact.content_sha256: t for t in every}.values())


def _refuse_batch(target: Target, batch: int | None) -> None:
    """Raises UsageError where ``batch`` is requested of a file with another, fixed one."""
    if batch is None or not target.path.is_file():
        return
    graph = onnxgraph.read(target.path) if is_onnx(target.path) else None
    if graph is None or not dimensions.batch_keys(graph):
        check_batch(target.path, target.artifact.inputs, batch)


def usual_build() -> Path | None:
    """The build folder of this directory, if there is one."""
    return next((folder for folder in BUILDS if folder.is_dir()), None)


@contextmanager
def workspace(keep: Path | None = None) -> Iterator[Path]:
    """A folder for files that were named by id only: ``keep``, or one that lives as long as the run."""
    if keep is not None:
        yield store.make_folder(keep)
        return
    with TemporaryDirectory(prefix="kit-") as name:
        yield Path(name)


def record_file(folder: Path, device_id: str, stem: str, suffix: str = ".jsonl") -> Path:
    """FOLDER/DEVICE/STEM.jsonl, the stem made fit for a file name: a long one is cut and ends in eight digits of its hash."""
    name = store.slug(stem)
    if len(name) > _STEM_MAX:
        name = f"{name[: _STEM_MAX - 9]}-{store.sha256_bytes(name.encode())[:8]}"
    return folder / device_id / f"{name}{suffix}"


def stem(names: Sequence[str], backend: str, threads: int) -> str:
    """The name of a record file where none is named: first target, backend and threads."""
    first = Path(names[0])
    return f"{first.resolve().stem if first.exists() else names[0]}-{backend}-t{threads}"


def once(
    target: Target | Path, settings: MeasureSettings, device: DeviceSpec, out: Path,
    progress: Callable[[Progress], None] = lambda _: None,
) -> ProfileRecord:  # fmt: skip
    """The record of one network, appended to ``out``. Raises UsageError for a path that is no network."""
    if isinstance(target, Path):
        (target,) = resolve([str(target)], backend=settings.backend)
    (record,) = profiler.profile([Job(target, settings)], device, out, progress=progress)
    return record


def together(
    paths: Sequence[Path], settings: MeasureSettings, device: DeviceSpec, out: Path, *, fresh: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[ProfileRecord]:  # fmt: skip
    """The records of networks that are measured interleaved under one setting, appended to ``out``. Raises UsageError."""
    networks = resolve([str(path) for path in paths], backend=settings.backend)
    return profiler.profile([Job(target, settings) for target in networks], device, out, fresh=fresh, progress=progress)


def failure(records: Sequence[ProfileRecord] | Sequence[ScenarioRecord], out: Path) -> MeasurementError | None:
    """The error of a run in which nothing was measured; None where something was."""
    if any(r.status == "ok" for r in records):
        return None
    reason = (records[0].reason or "").rstrip(".")
    return MeasurementError(f"Nothing was measured: {reason}. The failures are recorded in {out}.")


def settings(
    *, rounds_min: int | None, rounds_max: int | None, budget_s: float | None, spelled: Callable[[str], str] = str, **more: Any
) -> MeasureSettings:  # fmt: skip
    """Settings with the usual numbers of processes where none is named: 6 to 10, or to 30 within a budget.

    ``spelled`` writes a name as the caller's user reads it (``--rounds-max``). Raises UsageError for what cannot be.
    """
    most = max(10 if budget_s is None else 30, rounds_min or 0) if rounds_max is None else rounds_max
    least = min(6, most) if rounds_min is None else rounds_min
    if most < least:
        raise UsageError(
            f"{spelled('rounds_max')} {most} is below {spelled('rounds_min')} {least}: raise the one or lower the other."
        )
    try:
        return MeasureSettings(rounds_min=least, rounds_max=most, budget_s=budget_s, **more)
    except ValidationError as error:
        raise UsageError(f"These settings cannot be: {first_problem(error)}.") from None


def duration_s(text: str, takes: str = "a time like 90s, 10m or 1h") -> float:
    """Seconds of ``90s``, ``10m`` or ``1h``. Raises UsageError, with what --budget ``takes``."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0.1 <= seconds <= 1e7:
        raise UsageError(f"budget '{text}' cannot be read: give {takes}.")
    return seconds


# ------------------------------------------------------------------------------------------------------ operating points


def points(settings: MeasureSettings, sweeps: Sequence[str]) -> list[MeasureSettings]:
    """``settings`` at every combination of the swept values, such as ``threads=1,2``. Raises UsageError, UnknownName (a key)."""
    axes: dict[str, list[object]] = {}
    for sweep in sweeps:
        key, equals, values = sweep.partition("=")
        if not equals or not values.strip(","):
            raise UsageError(f"--sweep '{sweep}' cannot be read: write it like --sweep threads=1,2.")
        if key not in _AXES:
            raise UnknownName("sweep", key, _AXES)
        field, read, takes = _AXES[key]
        try:
            values_read = [read(value.strip()) for value in values.split(",") if value.strip()]
        except ValueError:
            raise UsageError(f"--sweep {key} does not take '{values}': {takes}.") from None
        axes[field] = list(dict.fromkeys([*axes.get(field, []), *values_read]))
    return [_point(settings, dict(zip(axes, combination, strict=True))) for combination in product(*axes.values())]


def dim_sweeps(dims: Sequence[str], sweeps: Sequence[str]) -> tuple[list[tuple[tuple[str, int], ...]], list[str]]:
    """(every combination of sizes of free dimensions, the other sweeps), from ``--dim seq=64`` and ``--sweep dim.seq=64,128``.

    Raises UsageError.

    >>> dim_sweeps(["H=224"], ["dim.seq=64,128", "threads=1,2"])
    ([(('H', 224), ('seq', 64)), (('H', 224), ('seq', 128))], ['threads=1,2'])
    """
    fixed = dimensions.parse(list(dims))
    axes = []
    for sweep in sweeps:
        if sweep.startswith("dim."):
            key, _, values = sweep.removeprefix("dim.").rpartition("=")
            axes.append(
                [dimensions.parse([f"{key}={value.strip()}"])[0] for value in values.split(",") if value.strip()]
            )
            if not axes[-1]:
                raise UsageError(f"--sweep '{sweep}' cannot be read: write it like --sweep dim.seq=64,128.")
    rest = [sweep for sweep in sweeps if not sweep.startswith("dim.")]
    return [(*fixed, *combination) for combination in product(*axes)], rest


def _point(settings: MeasureSettings, changes: dict[str, object]) -> MeasureSettings:
    try:
        return MeasureSettings.model_validate({**settings.model_dump(), **changes})
    except ValidationError as error:
        raise UsageError(f"--sweep names a point that cannot be: {first_problem(error)}.") from None


def cpus(text: str, separator: str = ",") -> tuple[int, ...]:
    """Logical CPUs of ``0,1``. Raises ValueError (no numbers), UsageError (one of them twice)."""
    numbers = sorted(int(part) for part in text.split(separator))
    if twice := [a for a, b in pairwise(numbers) if a == b]:
        raise UsageError(f"The affinity {text} names CPU {twice[0]} twice: name each CPU once.")
    return tuple(numbers)


_AXES: dict[str, tuple[str, Callable[[str], object], str]] = {
    "threads": ("threads", int, "whole numbers from 1"),
    "batch": ("batch", int, "whole numbers from 1"),
    "gap-ms": ("gap_s", lambda v: float(v) * 1e-3, "milliseconds from 0"),
    "load": ("load", int, "numbers of background processes from 0"),
    "affinity": ("affinity", lambda v: cpus(v, "+"), "CPUs, several together like 0+1"),
    "clock-ghz": ("clock_cap_hz", lambda v: float(v) * 1e9, "gigahertz"),
    "power-mode": ("power_mode", str, "names of power modes"),
}
