"""The Python interface: what ``import kit`` offers. Each function is a verb of the command line, over the same functions below.

Nothing here prints or exits. Every failure is a :class:`kit.KitError` whose text names the problem and the remedy. ``progress`` is a
function of a text and of the share that is done, from 0 to 1; without it a call is silent.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from kit import delivery, evaluation, knowledge, latency, store, variants, versions
from kit.delivery import Delivery
from kit.devices import operating_point, recognise
from kit.errors import MeasurementError, UsageError
from kit.knowledge import limits
from kit.latency import fits, networks
from kit.latency.fits import LatencyFit
from kit.latency.networks import NetworkKernels, Prediction
from kit.measure import compare as comparing
from kit.measure import jobs, profiler, targets
from kit.measure.compare import Comparison
from kit.records import (
    Accuracy,
    Answer,
    Artifact,
    DeviceSpec,
    Explanation,
    FileRef,
    KnowledgeRow,
    Need,
    OperatingPoint,
    ProfileRecord,
)
from kit.records import KnowledgeBase as KnowledgeRecord

if TYPE_CHECKING:
    import torch

    from kit.allocators.fileformat import AllocatorNetwork
    from kit.latency.model import Predictor

PathLike: TypeAlias = "str | os.PathLike[str]"
Profiles: TypeAlias = "ProfileRecord | PathLike | Iterable[ProfileRecord | PathLike]"
Progress: TypeAlias = Callable[[str, float], None]


def device() -> DeviceSpec:
    """This machine: processor, caches, memory, clock, GPUs, runtimes, sensors.

    Example:
        >>> kit.device().logical_cores >= 1
        True
    """
    return recognise()


# ------------------------------------------------------------------------------------------------------------- measuring


def profile(
    network: PathLike | torch.nn.Module,
    *,
    backend: str = "onnxruntime",
    threads: int = 1,
    batch: int | None = None,
    budget: float | str | None = None,
    example_input: torch.Tensor | Sequence[torch.Tensor] | None = None,
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

    ``network`` is an .onnx file, the id of a sub-network (``"resnet18-d2.2.2.2-w1.00-fp32-224"``), or a ``torch.nn.Module`` with an
    ``example_input`` (a tensor, or several in a sequence), which is exported for it. ``budget`` is wall time: seconds, or ``"90s"``,
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
        text = str(_exported(network, example_input, name, Path(folder)))
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
    step = progress or _silent
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


def _silent(text: str, share: float) -> None:
    pass


def _exported(network: object, example_input: Any, name: str | None, folder: Path) -> PathLike:
    """The file of a PyTorch network, exported to ``folder``; a file or an id as it is."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(network, torch.nn.Module):
        if not isinstance(network, (str, os.PathLike)):
            raise UsageError(
                f"{type(network).__name__} is no network: give an .onnx file, an id, or a torch.nn.Module."
            )
        if example_input is not None:
            raise UsageError("example_input is for a PyTorch network: leave it away for a file or an id.")
        return network
    if example_input is None:
        raise UsageError("A PyTorch network needs an example_input: a tensor of the shape that it is to be timed with.")
    versions.need("This needs", "onnx", "onnxscript", "onnxruntime")
    from kit.variants.export import export_module

    stem = store.slug(name or type(network).__name__)
    return folder / export_module(network, example_input, folder, stem).model.file


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
    return comparing.compare(_read(a), _read(b), within)


def _read(profiles: Profiles) -> list[ProfileRecord]:
    """Records as they are, and those of files and folders; the oldest first."""
    if isinstance(profiles, (ProfileRecord, str, os.PathLike)):
        profiles = [profiles]
    items = list(profiles)
    records = [p for p in items if isinstance(p, ProfileRecord)]
    paths = [Path(p) for p in items if not isinstance(p, ProfileRecord)]
    records += store.read_profiles(paths) if paths else []
    return sorted(records, key=lambda record: record.created_utc)


# -------------------------------------------------------------------------------------------------------- latency models


def fit(
    profiles: Profiles,
    *,
    backend: str | None = None,
    device: str | None = None,
    transfer_from: Predictor | Profiles | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> LatencyFit:
    """Latency models of measured networks: the papers' efficiency factor with its interval, and the model that predicts best.

    ``profiles`` are records, files or folders of one device; ``backend`` and ``device`` take a part of them. ``transfer_from`` is another
    device (its model, the model's file, or its profiles) whose structure helps where few networks were measured here. ``level`` is that
    of a prediction's interval. Without scipy (a board) the factors are fitted and ``predictor`` is None.

    Raises BadRecord (several devices, fewer than three networks), UnknownName.

    Example:
        >>> models = kit.fit(PROFILES)
        >>> [line.precision for line in models.lines]
        ['fp32', 'int8']
        >>> models.predictor.backend
        'onnxruntime'
    """
    source = transfer_from
    if isinstance(source, (str, os.PathLike)):
        source = Path(source)
    elif source is not None and not isinstance(source, latency.Predictor):
        source = _read(source)
    return fits.fit_all(_read(profiles), backend=backend, device=device, source=source, level=level, seed=seed)


Network: TypeAlias = "PathLike | Artifact | ProfileRecord | torch.nn.Module"


@overload
def predict(  # type: ignore[overload-overlap]  # a text is a sequence of texts, too
    model: LatencyFit | Predictor | PathLike, network: Network, *, threads: int | None = None, gap_ms: float = 0.0,
    clock_ghz: float | None = None, example_input: torch.Tensor | Sequence[torch.Tensor] | None = None,
) -> Prediction: ...  # fmt: skip
@overload
def predict(
    model: LatencyFit | Predictor | PathLike, network: Sequence[Network], *, threads: int | None = None, gap_ms: float = 0.0,
    clock_ghz: float | None = None, example_input: torch.Tensor | Sequence[torch.Tensor] | None = None,
) -> list[Prediction]: ...  # fmt: skip
def predict(
    model: LatencyFit | Predictor | PathLike,
    network: Network | Sequence[Network],
    *,
    threads: int | None = None,
    gap_ms: float = 0.0,
    clock_ghz: float | None = None,
    example_input: torch.Tensor | Sequence[torch.Tensor] | None = None,
) -> Prediction | list[Prediction]:
    """The latency of a network that was not measured, on the model's device, with an interval; several networks give a list.

    ``model`` comes from ``kit.fit``, or is the file that ``kit fit --out`` wrote. ``network`` is the id of a sub-network, an .onnx file, a
    sidecar, a record, or a ``torch.nn.Module`` with an ``example_input``. ``threads`` (default: the fewest measured), ``gap_ms`` and
    ``clock_ghz`` name the operating point.

    Raises UsageError (an unknown id, a point outside of what was measured), BadModel (operators that kit cannot count).

    Example:
        >>> guess = kit.predict(kit.fit(PROFILES), "resnet18-d2.1.1.1-w0.50-fp32-96")
        >>> guess.interval_s[0] < guess.seconds < guess.interval_s[1]
        True
    """
    if isinstance(model, LatencyFit):
        model = model.needed()
    elif isinstance(model, (str, os.PathLike)):
        model = latency.load(Path(model))
    for name, value in (("gap_ms", gap_ms), ("clock_ghz", clock_ghz)):
        if value is not None and not 0 <= value <= 1e6:
            raise UsageError(f"{name} {value:g} cannot be: give a number from 0 to 1000000.")
    requested = list(network) if isinstance(network, (list, tuple)) else [network]
    kernels = [_kernels(n, example_input) for n in requested]
    point = OperatingPoint(threads=threads or model.states[0].threads, gap_s=gap_ms * 1e-3)
    predictions = networks.predict(model, kernels, point, None if clock_ghz is None else clock_ghz * 1e9)
    return predictions if isinstance(network, (list, tuple)) else predictions[0]


def _kernels(network: Any, example_input: Any) -> NetworkKernels:
    if isinstance(network, (Artifact, ProfileRecord)):
        return networks.of_artifact(network.artifact if isinstance(network, ProfileRecord) else network)
    with tempfile.TemporaryDirectory(prefix="kit-") as folder:
        return networks.of_name(str(_exported(network, example_input, None, Path(folder))), variants.kernels)


# -------------------------------------------------------------------------------------------------------- knowledge base


class KnowledgeBase:
    """What was measured (or predicted) of which variant on which device, and the answers that follow from it.

    ``source`` is a file that ``kit knowledge build`` wrote (.json), or profiles: records, files, folders. ``accuracies`` gives the accuracy
    of variants that do not know their own: from 0 to 1 by id, or a CSV, JSON or folder as ``kit knowledge build --accuracy`` takes it.

    Example:
        >>> base = kit.KnowledgeBase(PROFILES)
        >>> answer = base.ask(deadline_ms=5, min_accuracy=0.9)
        >>> answer.chosen.latency_s(99) <= 0.005
        True
    """

    def __init__(
        self, source: KnowledgeRecord | Profiles, *, accuracies: dict[str, float] | PathLike | None = None
    ) -> None:
        if isinstance(source, (str, os.PathLike)) and Path(source).suffix == ".json":
            self.record = store.read_record(Path(source), KnowledgeRecord)
        elif isinstance(source, KnowledgeRecord):
            self.record = source
        else:
            self.record = knowledge.build(_read(source))
        given: dict[str, Accuracy] = {}
        if isinstance(accuracies, (str, os.PathLike)):
            given = evaluation.read_accuracies(Path(accuracies))
        elif accuracies is not None:
            for name, share in accuracies.items():
                if not 0 <= share <= 1:
                    raise UsageError(f"The accuracy {share:g} of {name} is no share: give a number from 0 to 1.")
            given = {name: Accuracy(top1=share) for name, share in accuracies.items()}
        self.record = knowledge.with_accuracies(self.record, given)

    @property
    def rows(self) -> tuple[KnowledgeRow, ...]:
        """One row for each variant, device, runtime and operating point."""
        return self.record.rows

    def ask(
        self,
        *,
        deadline_ms: float | None = None,
        percentile: int = 99,
        memory_mb: float | None = None,
        energy_mj: float | None = None,
        min_accuracy: float | None = None,
        link_mbps: float | None = None,
        download_ms: float | None = None,
        have: Iterable[str] = (),
        device: str | None = None,
        backend: str | None = None,
        threads: int | None = None,
        batch: int | None = None,
        point: str | None = None,
        dataset: str | None = None,
        unknown_accuracy: bool = False,
    ) -> Answer:
        """The most accurate variant that meets every limit; among equals the fastest.

        ``percentile`` of the latency (50, 90, 95, 99) is held against the deadline. With ``link_mbps`` the download counts towards the
        deadline, or has a limit of its own (``download_ms``); variants in ``have`` (ids or hashes) need none.

        Raises NoAnswer (no variant meets them; the text names the nearest), UsageError (limits that cannot be), UnknownName.

        Example:
            >>> kit.KnowledgeBase(PROFILES).ask(deadline_ms=1e-3)
            Traceback (most recent call last):
            ...
            kit.errors.NoAnswer: No variant meets every limit; ...
        """
        return knowledge.ask(
            self.rows,
            self._need(
                deadline_ms=deadline_ms, percentile=percentile, memory_mb=memory_mb, energy_mj=energy_mj, min_accuracy=min_accuracy,
                link_mbps=link_mbps, download_ms=download_ms, have=have, device=device, backend=backend, threads=threads, batch=batch,
                point=point, dataset=dataset, unknown_accuracy=unknown_accuracy,
            ),
        )  # fmt: skip

    def explain(self, variant: str, **limits: Any) -> list[Explanation]:
        """Why a variant is, or is not, the choice for the limits of ``ask``: each limit, and what would have to change.

        Example:
            >>> base = kit.KnowledgeBase(PROFILES)
            >>> why = base.explain(base.rows[0].artifact_id, deadline_ms=5)
            >>> [limit.met for limit in why[0].limits if limit.limit == "deadline"]
            [True]
        """
        return knowledge.explain(self.rows, self._need(**limits), variant)

    def pareto(self, axes: Sequence[str] = ("latency", "accuracy"), **limits: Any) -> list[KnowledgeRow]:
        """The variants that no other beats on all ``axes`` (latency, accuracy, memory, energy, size) at once, within the limits.

        Example:
            >>> front = kit.KnowledgeBase(PROFILES).pareto()
            >>> front[0].latency_s() <= front[-1].latency_s()
            True
        """
        return knowledge.pareto(self.rows, self._need(**limits), tuple(axes))

    def _need(self, **options: Any) -> Need:
        return limits.need_about(self.rows, **options)

    def save(self, path: PathLike) -> None:
        """Write it as JSON, for ``kit knowledge ask --knowledge`` and for a later ``kit.KnowledgeBase``."""
        store.write_record(Path(path), self.record)

    def __repr__(self) -> str:
        return repr(self.record)

    def __str__(self) -> str:
        return str(self.record)

    def _repr_html_(self) -> str | None:
        return self.record._repr_html_()


# ------------------------------------------------------------------------------------------------- variants and delivery


def evaluate(
    path: PathLike, data: PathLike | Callable[[], Any], *, metric: str | Callable[[Any, Any], Any] = "top1",
    resize: int | None = None, crop: int | None = None, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
    scale: float | None = None, layout: Literal["NCHW", "NHWC"] | None = None, limit: int | None = None, batch: int | None = None,
    backend: str = "onnxruntime", threads: int | None = None, classes: PathLike | Sequence[str] | None = None,
    output: str | None = None, dataset: str | None = None, progress: Progress | None = None,
) -> Artifact:  # fmt: skip
    """The accuracy of your own .onnx file on your own data, written into its sidecar, by which ``kit.KnowledgeBase`` chooses.

    ``data`` is a folder or zip of images in class folders (``CLASS/NAME.jpg``; ``"images.zip/test"`` for a folder inside), or a function
    of no arguments that yields pairs of inputs and label, one by one or in batches (or its name, ``"file.py:function"``: the file is
    run). ``metric`` is "top1", "top5", or a function of all outputs ``(N, ...)`` and labels ``(N,)`` that returns a number from 0 to 1,
    or one for each sample. How images become inputs stands in the sidecar; ``resize`` (pixels of the shorter side) to ``layout`` win, and
    are written there. ``classes`` names the class of each output (default: the folders, sorted), ``limit`` takes so many samples.

    Raises UsageError (it says what is missing), BadModel, BadRecord, BackendUnavailable (no Pillow), IntegrityError, MeasurementError.

    Example:
        >>> evaluated = kit.evaluate(NETWORK, lambda: [([0.1, 0.9], 1), ([0.8, 0.2], 1)])
        >>> evaluated.accuracy.top1, evaluated.accuracy.correct, evaluated.accuracy.count
        (0.5, 1, 2)
    """
    given = evaluation.Wishes(resize, crop, mean, std, scale, layout)
    names = Path(classes) if isinstance(classes, (str, os.PathLike)) else classes
    request = evaluation.Request(metric, given, limit, batch, backend, threads, names, output, dataset)
    source = data if callable(data) else os.fspath(data)
    return evaluation.evaluate(Path(path), source, request, describe=variants.artifact, progress=progress)


def build(
    root: str = "resnet18",
    out: PathLike = "build",
    *,
    quick: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Artifact]:
    """Train a root network (resnet18, vgg11, vit_tiny) and write its depth, pruned and int8 variants to the folder ``out``.

    Takes minutes on a PC (``quick``: under one); a build that was stopped resumes. Raises UnknownName, BackendUnavailable (the training
    tools are missing), UsageError (``out`` holds another build), StorageError.

    Example:
        >>> kit.build("resnet81")
        Traceback (most recent call last):
        ...
        kit.errors.UnknownName: Unknown root 'resnet81': did you mean 'resnet18'? ...
    """
    from kit.nets import root_of

    root_of(root)
    versions.need("This needs", "torch", "torchvision", "onnx", "torch_pruning", "sklearn")
    from kit.variants.build import build as build_variants

    return build_variants(root, Path(out), quick=quick, seed=seed, progress=progress)


class Server:
    """A library that is served from a thread of this process until ``close``, or the end of a ``with`` block."""

    def __init__(self, library: Path, host: str, port: int) -> None:
        from kit.library import server

        self._running = contextlib.ExitStack()
        self.url = self._running.enter_context(server.running(library, delivery.choose, host, port))

    def close(self) -> None:
        """Stop serving; a second time does nothing."""
        self._running.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server {self.url}>"


def serve(library: PathLike, *, host: str = "127.0.0.1", port: int = 8000) -> Server:
    """Serve a library (a folder written by ``kit library add``) over HTTP in the background; ``port`` 0 takes a free one.

    Raises BackendUnavailable (starlette and uvicorn are missing), LinkError (the port is in use), BadRecord (no library).

    Example:
        >>> with kit.serve(LIBRARY, port=0) as server:
        ...     delivery = kit.pull(server.url, to=FOLDER, deadline_ms=1000, measure=False)
        >>> delivery.pulled.folder.is_dir()
        True
    """
    versions.need("Serving needs", "starlette", "uvicorn")
    return Server(Path(library), host, port)


def pull(
    url: str,
    *,
    to: PathLike = "models",
    deadline_ms: float | None = None,
    percentile: int = 99,
    memory_mb: float | None = None,
    min_accuracy: float | None = None,
    link_mbps: float | None = None,
    download_ms: float | None = None,
    device: str | None = None,
    backend: str = "onnxruntime",
    threads: int | None = None,
    dataset: str | None = None,
    measure: bool = True,
    progress: Progress | None = None,
) -> Delivery:
    """Ask the library at ``url`` for the variant that meets the limits, verify it, install it in ``to`` and measure it here.

    ``device`` names whose advertised latency counts (default: this machine's). What is installed is tried on its sample first, and
    replaces the install before it in one step. ``measure=False`` leaves the measurement out.

    Raises NoAnswer, UsageError, LinkError (call again: it resumes), IntegrityError, StorageError, BrokenPromise.

    Example:
        >>> with kit.serve(LIBRARY, port=0) as server:
        ...     delivery = kit.pull(server.url, to=FOLDER, deadline_ms=1000, measure=False)
        >>> delivery.pulled.manifest.name
        'resnet18-d1.1.1.1-w0.25-fp32-96'
    """
    need = limits.need_of(
        deadline_ms=deadline_ms, percentile=percentile, memory_mb=memory_mb, min_accuracy=min_accuracy, link_mbps=link_mbps,
        download_ms=download_ms, device=device or recognise().device_id, backend=backend, threads=threads, dataset=dataset,
    )  # fmt: skip
    step = progress or _silent
    delivered = delivery.pull(
        url, need, Path(to), measure=measure,
        on_bytes=lambda received, total: step("download", received / max(total, 1)),
        on_step=lambda p: step(p.text, p.steps_done / max(p.planned, 1)),
    )  # fmt: skip
    if delivered.broken is not None:
        raise delivered.broken
    return delivered
