"""One network on one set of data: samples in batches through a runtime, and the accuracy into its sidecar."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit import backends, store, units, usercode
from kit.backends import Session, dimensions, onnxgraph
from kit.errors import BadModel, KitError, MeasurementError, UsageError, first_line
from kit.evaluation import metrics, own, pictures, preprocess, sidecars
from kit.evaluation.metrics import Metric, OwnMetric
from kit.evaluation.own import Sample
from kit.evaluation.preprocess import Wishes
from kit.evaluation.sidecars import Describe
from kit.records import Accuracy, Artifact, Preprocessing

FREE_BATCH = 32  # of a network that leaves its batch open
KEPT_BYTES = 2 << 30  # of samples that are kept for many networks
Progress = Callable[[str, float], None]
Data = str | Path | Callable[[], Any]


@dataclass(frozen=True)
class Request:
    """How a network is evaluated; None leaves it to the network and its sidecar."""

    metric: str | OwnMetric = "top1"
    wishes: Wishes = field(default_factory=Wishes)
    limit: int | None = None
    batch: int | None = None
    backend: str = "onnxruntime"
    threads: int | None = None  # None: all that this process may use
    classes: Path | Sequence[str] | None = None  # of the outputs, in their order; None: the folders, sorted
    output: str | None = None  # None: the first
    dataset: str | None = None  # None: the name of the folder, zip or function


@dataclass(frozen=True)
class _Source:
    """Where samples come from: what the data are called, how many there are (None: nobody knows), and how images became inputs."""

    name: str
    total: int | None
    samples: Iterator[Sample]
    preprocessing: Preprocessing | None = None


def evaluate(
    network: Path, data: Data, request: Request, *, describe: Describe, progress: Progress | None = None
) -> Artifact:
    """Evaluate ``network`` on ``data`` and write the accuracy into its sidecar; nothing is written where anything fails.

    ``data`` is a folder or a zip of class folders, ``module:function`` or ``file.py:function`` (which is run), or a function, that yields
    (inputs, label). Raises UsageError, BadModel, BadRecord, BackendUnavailable, IntegrityError, MeasurementError (the runtime fails).
    """
    _check(request)
    artifact = sidecars.sidecar(network, request.backend, describe)
    metric = metrics.of(request.metric)
    with ExitStack() as opened:
        session = _session(network, artifact, request)
        opened.callback(session.close)
        source = _source(data, session, artifact, request, network, opened)
        _score(session, source, metric, request, progress or (lambda text, share: None))
    updates: dict[str, Any] = {"accuracy": metric.accuracy(request.dataset or source.name)}
    if source.preprocessing is not None and (request.wishes.given or artifact.preprocessing is None):
        updates["preprocessing"] = source.preprocessing
    evaluated = artifact.model_copy(update=updates)
    store.write_record(sidecars.path_of(network), evaluated)
    return evaluated


class Trial:
    """The samples of an evaluation, read once: any number of networks with the same inputs and outputs are scored on them. Nothing is
    written.

    Raises what :func:`evaluate` raises, and UsageError where the samples need more memory than 2 GiB.
    """

    def __init__(
        self, network: Path, data: Data, request: Request, *, describe: Describe, progress: Progress | None = None
    ) -> None:
        _check(request)
        self.request, self.artifact = request, sidecars.sidecar(network, request.backend, describe)
        metrics.of(request.metric)
        with ExitStack() as opened:
            session = _session(network, self.artifact, request)
            opened.callback(session.close)
            source = _source(data, session, self.artifact, request, network, opened)
            self.samples = list(_kept(source, progress or (lambda text, share: None)))
        self.dataset = request.dataset or source.name

    @cached_property
    def digest(self) -> str:
        """The sha256 of inputs and labels."""
        total = hashlib.sha256()
        for sample in self.samples:
            for name, array in sorted(sample.inputs.items()):
                total.update(f"{name} {array.dtype} {array.shape}".encode())
                total.update(np.ascontiguousarray(array).data)
            total.update(repr(np.asarray(sample.label).tolist()).encode())
        return total.hexdigest()

    def accuracy(self, network: Path) -> Accuracy:
        """Of a network on the samples. Raises BadModel and MeasurementError (the runtime refuses it, or fails), UsageError."""
        session = _session(network, self.artifact, self.request)
        try:
            return self.accuracy_of(session)
        finally:
            session.close()

    def accuracy_of(self, session: Session) -> Accuracy:
        """Of whatever runs as the network does. Raises MeasurementError, UsageError."""
        metric = metrics.of(self.request.metric)
        source = _Source(self.dataset, len(self.samples), iter(self.samples))
        _score(session, source, metric, self.request, lambda text, share: None)
        return metric.accuracy(self.dataset)


def _kept(source: _Source, progress: Progress) -> Iterator[Sample]:
    kept = 0
    for number, sample in enumerate(source.samples, start=1):
        kept += sum(array.nbytes for array in sample.inputs.values())
        if kept > KEPT_BYTES:
            raise UsageError(
                f"The first {number} samples of {source.name} need {kept / 2**30:.1f} GiB of memory and are scored many times: give "
                f"--limit {number // 2}."
            )
        if number % 32 == 1:
            progress(f"reading {source.name}", min(1.0, number / source.total) if source.total else 0.0)
        yield sample


def _check(request: Request) -> None:
    """Raises UsageError for a request that cannot be."""
    for name in ("limit", "batch", "threads"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value} cannot be: give 1 or more.")
    if request.backend in backends.LEAVES and not request.backend.startswith(
        ("onnxruntime", "openvino", "pytorch", "tensorrt")
    ):
        raise UsageError(
            f"Backend {request.backend} runs no ONNX network: evaluate with onnxruntime, or another that does."
        )


def _session(network: Path, artifact: Artifact, request: Request) -> Session:
    graph = onnxgraph.read(network)
    free = graph is not None and bool(dimensions.batch_keys(graph))
    threads = request.threads or len(os.sched_getaffinity(0))
    batch = request.batch or (FREE_BATCH if free else None)
    try:
        session = backends.load(request.backend).open(network, artifact, threads, batch)
    except UsageError as error:
        if request.batch is None or not free:
            raise
        raise BadModel(f"{network} does not open with a batch of {batch} ({error})") from None
    if any(not spec.shape for spec in session.inputs):
        raise UsageError(f"{network} has an input without a batch: kit evaluates networks whose inputs begin with one.")
    return session


def _source(
    data: Data, session: Session, artifact: Artifact, request: Request, network: Path, opened: ExitStack
) -> _Source:
    if callable(data) or (usercode.names_an_object(str(data)) and not Path(data).exists()):
        return _own(data if callable(data) else str(data), session, request)
    if len(session.inputs) != 1:
        names = ", ".join(spec.name for spec in session.inputs)
        raise UsageError(
            f"{network} takes {len(session.inputs)} inputs ({names}): give your data by a function, --data FILE.py:FUNCTION."
        )
    images = opened.enter_context(pictures.pictures(Path(data)))
    spec, classes = session.inputs[0], _classes(session, request)
    how, frame = preprocess.decide(spec, artifact.preprocessing, request.wishes, classes, str(network))
    order = pictures.class_order(request.classes) if isinstance(request.classes, Path) else request.classes
    numbers = pictures.output_of_classes(images.classes, order, classes, images.name)

    def samples() -> Iterator[Sample]:
        for key, label in images.spread(request.limit):
            image = images.decoded(key, frame.channels)
            yield Sample({spec.name: preprocess.array_of(image, how, frame, spec.dtype)}, numbers[label])

    total = min(len(images.keys), request.limit or len(images.keys))
    return _Source(images.name, total, samples(), how)


def _own(data: Callable[[], Any] | str, session: Session, request: Request) -> _Source:
    if request.wishes.given or request.classes is not None:
        raise UsageError(
            "Data of a function are fed as they are: leave out --resize, --crop, --mean, --std, --scale, --layout and --classes."
        )
    name = usercode.name_of(data)
    items = usercode.call(usercode.load(data) if isinstance(data, str) else data, name)
    return _Source(name, request.limit, islice(own.samples(items, session.inputs, name), request.limit))


def _output(session: Session, request: Request) -> int:
    names = [spec.name for spec in session.outputs]
    if request.output is None:
        return 0
    if request.output not in names:
        raise UsageError(f"The network has no output '{request.output}': it has {', '.join(names)}.")
    return names.index(request.output)


def _classes(session: Session, request: Request) -> int:
    """How many classes the output has. Raises UsageError where it is no row of them."""
    spec = session.outputs[_output(session, request)]
    if len(spec.shape) < 2 or any(size != 1 for size in spec.shape[2:]):
        raise UsageError(
            f"The output '{spec.name}' has the shape {list(spec.shape)}, which is no row of classes: name another with --output, or give "
            "your data by a function."
        )
    return spec.shape[1]


def _score(session: Session, source: _Source, metric: Metric, request: Request, progress: Progress) -> None:
    """Feed every sample to ``metric``. The last batch is filled up with its last sample, which is not counted again."""
    size, index = session.inputs[0].shape[0], _output(session, request)
    done = 0
    progress(source.name, 0.0)
    while batch := list(islice(source.samples, size)):
        feeds = {spec.name: _stacked(batch, spec.name, size) for spec in session.inputs}
        outputs = _run(session, feeds)[index]
        if outputs.ndim == 0 or len(outputs) != size:
            name = session.outputs[index].name
            raise UsageError(
                f"The output '{name}' has the shape {list(outputs.shape)}, which does not begin with the batch of {size}."
            )
        metric.add(outputs[: len(batch)], [sample.label for sample in batch])
        done += len(batch)
        progress(
            f"{units.counted(done, 'sample')} of {source.name}", min(1.0, done / source.total) if source.total else 0.0
        )
    if not done:
        raise UsageError(f"{source.name} gives no sample: check that it yields pairs (inputs, label).")


def _stacked(batch: Sequence[Sample], name: str, size: int) -> NDArray[Any]:
    arrays = [sample.inputs[name] for sample in batch]
    return np.stack([*arrays, *[arrays[-1]] * (size - len(arrays))])


def _run(session: Session, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    try:
        return [np.asarray(array) for array in session.run(feeds)]
    except KitError:
        raise
    except Exception as error:  # what a runtime raises has no list
        first = first_line(error)[:200].rstrip(".")
        raise MeasurementError(
            f"The runtime failed on this data ({first}): check the network with kit profile."
        ) from None
