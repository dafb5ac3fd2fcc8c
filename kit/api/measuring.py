"""Measuring: this device, a network on it, two measurements beside each other."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from kit import versions
from kit.api.arguments import ExampleInput, PathLike, Profiles, Progress, exported, records_of, silent
from kit.devices import operating_point, recognise
from kit.errors import MeasurementError, UsageError
from kit.measure import compare as comparing
from kit.measure import jobs, profiler, targets
from kit.measure.compare import Comparison
from kit.records import (
    DeviceSpec,
    FileRef,
    ProfileRecord,
)

if TYPE_CHECKING:
    import torch

    from kit.allocators.fileformat import AllocatorNetwork


def device() -> DeviceSpec:
    """This machine: processor, caches, memory, clock, GPUs, runtimes, sensors.

    Example:
        >>> kit.device().logical_cores >= 1
        True
    """
    return recognise()


def profile(
    network: PathLike | torch.nn.Module,
    example_input: ExampleInput | None = None,
    *,
    backend: str = "onnxruntime",
    threads: int = 1,
    batch: int | None = None,
    budget: float | str | None = None,
    name: str | None = None,
    affinity: Sequence[int] | None = None,
    gap_ms: float = 0.0,
    load: int = 0,
    precision: float = 0.02,
    rounds_min: int | None = None,
    rounds_max: int | None = None,
    run_s: float = 0.5,
    timeout_s: float = 120.0,
    layers: bool = False,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    inputs: Mapping[str, Any] | PathLike | None = None,
    profiles: PathLike | None = None,
    progress: Progress | None = None,
) -> ProfileRecord:
    """Measure the latency of one network on this machine, in fresh processes, until the interval of its median is narrow.

    ``network`` is an .onnx file, the id of a sub-network (``"resnet18-d2.2.2.2-w1.00-fp32-224"``), or a ``torch.nn.Module``, exported
    for its ``example_input`` (a tensor, several in a sequence, or by name). ``budget`` is wall time: seconds, or ``"90s"``,
    ``"10m"``. ``batch`` fixes a free batch dimension, ``affinity`` names logical CPUs, ``gap_ms`` is idle time before each call, ``load``
    a number of busy background processes. ``precision`` is the half-width of the interval over the median at which it stops, after
    ``rounds_min`` to ``rounds_max`` processes that collect for ``run_s`` seconds each. ``layers`` adds the times per layer.

    ``dims`` are sizes of free dimensions of an .onnx file, by name or as ``"input:axis"``. ``inputs`` says what it is fed: an array, a
    number or ``"random:0..99"`` for each input that matters, or the path of samples (a .npz, a .npy, a folder of them), which take turns.
    A network whose work follows an input that nobody gave is labelled ``assumed``.

    Nothing is kept unless ``profiles`` names a folder; the record is then appended to ``profiles/<device_id>/<name>.jsonl``.

    Raises UsageError (no such network, settings that cannot be), BackendUnavailable, BadModel, MeasurementError (it ran and failed).

    Example:
        >>> record = kit.profile("resnet18-d1.1.1.1-w0.25-fp32-96", budget=2)
        >>> 0 < record.measurement.median_s < 1
        True
    """
    settings = jobs.settings(
        backend=backend, threads=threads, batch=batch, budget_s=_seconds(budget), affinity=None if affinity is None else tuple(affinity),
        gap_s=gap_ms * 1e-3, load=load, precision_target=precision, rounds_min=rounds_min, rounds_max=rounds_max, run_s=run_s,
        timeout_s=timeout_s, seed=seed,
    )  # fmt: skip
    operating_point.require_cpus(settings.threads, settings.affinity)
    with tempfile.TemporaryDirectory(prefix="kit-") as folder:
        text = str(exported(network, example_input, name, Path(folder)))
        feeding = targets.Inputs(tuple((dims or {}).items()), *targets.feeding_of(inputs, Path(folder)))
        matches = targets.resolve(
            [text], backend=backend, build=jobs.usual_build(), folder=Path(folder), program=_program, inputs=feeding
        )
        if len(matches) != 1:
            raise UsageError(f"{text} holds {len(matches)} networks: name one of their .onnx files.")
        job = profiler.Job(matches[0], settings)
        record = _measured(job, name, profiles, layers=layers, progress=progress)
    if record.status != "ok":
        raise MeasurementError(f"{record.artifact.artifact_id} was not measured: {record.reason or record.status}")
    return record


def _seconds(budget: float | str | None) -> float | None:
    if budget is None:
        return None
    return jobs.duration_s(
        budget if isinstance(budget, str) else f"{budget}s", "seconds, or a time like '90s' or '10m'"
    )


def _measured(
    job: profiler.Job, name: str | None, profiles: PathLike | None, *, layers: bool, progress: Progress | None
) -> ProfileRecord:
    spec = recognise()
    if profiles is None:
        file = _scratch(os.getpid()) / spec.device_id / "once.jsonl"
    else:
        stem = name or f"{job.target.artifact.artifact_id}-{job.settings.backend}-t{job.settings.threads}"
        file = jobs.record_file(Path(profiles), spec.device_id, stem)
    step = progress or silent
    try:
        (record,) = profiler.profile(
            [job], spec, file, fresh=profiles is None, layers=layers,
            progress=lambda p: step(p.text, p.steps_done / max(p.planned, 1)),
        )  # fmt: skip
    finally:
        if profiles is None:
            file.unlink(missing_ok=True)
    return record


@functools.cache
def _scratch(process: int) -> Path:
    """A folder for the life of this process (a fork makes its own): what is measured without a folder of profiles shares one scale of
    drift, by which two measurements can be compared."""
    folder = tempfile.TemporaryDirectory(prefix="kit-profiles-")
    _SCRATCH.append(folder)
    return Path(folder.name)


_SCRATCH: list[tempfile.TemporaryDirectory[str]] = []


def _program(allocator: AllocatorNetwork, path: Path) -> FileRef:
    versions.need("This needs", "torch")
    from kit.variants import program

    return program.write(allocator, path)


@overload
def compare(a: ProfileRecord, b: ProfileRecord, *, within: float = 0.02) -> Comparison: ...  # type: ignore[overload-overlap]
@overload
def compare(a: Profiles, b: Profiles, *, within: float = 0.02) -> list[Comparison]: ...
def compare(a: Profiles, b: Profiles, *, within: float = 0.02) -> Comparison | list[Comparison]:
    """Is B faster than A? The ratio of the latencies B over A with its interval over processes, and the result.

    Two records give one comparison, whatever differs between them (a thread count, a runtime, a device): that is said in its remarks.
    Files, folders or lists of records give one for each network, and only what was measured under equal conditions is compared.
    ``within`` is the share up to which a difference is none.

    Raises UsageError (a missing file, ``within`` that is no share), BadRecord.

    Example:
        >>> record = kit.profile("resnet18-d1.1.1.1-w0.25-fp32-96", budget=2)
        >>> kit.compare(record, record).label in ("same", "undecided", "not comparable")
        True
    """
    if not 0 < within < 1:
        raise UsageError(f"within {within:g} is no share: give a number between 0 and 1, such as 0.02.")
    if isinstance(a, ProfileRecord) and isinstance(b, ProfileRecord):
        return comparing.compare_pair(a, b, within, across=True)
    return comparing.compare(records_of(a), records_of(b), within)
