"""kit split make: a network's cuts for split inference, each as two ONNX files, with what its features weigh and cost in accuracy.

A network may be cut where one tensor carries everything that is still needed. Device and server part are the nodes before and behind, with
the weights that each of them uses. Of many such places those are kept where the tensor changes its size, and some between them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper

from kit import backends, evaluation, store, variants
from kit.backends import Feeds, Session
from kit.errors import BadModel, UsageError
from kit.evaluation.scoring import Trial
from kit.records import Accuracy, Artifact, Cut, Part, SplitNetwork, TensorSpec
from kit.split import SUFFIX
from kit.variants import describe, graph

CUTS = 8
_WEIGHED = 64  # samples by which coded bytes are counted
_RANGE_BYTES = 8  # least and largest value of 8-bit features
_ONE_FILE_BYTES = 3 << 29
_FLOATS = ("float32", "float16", "float64")
_SMALL = ("uint8", "int8")

Progress = Callable[[str, float], None]
Array = NDArray[Any]


@dataclass(frozen=True)
class Place:
    """A tensor that carries everything, the number of nodes before it, and one example of its value."""

    tensor: str
    nodes_before: int
    value: Array


def make(
    path: Path, out: Path, data: str | Path | Callable[[], Any] | None = None, request: evaluation.Request | None = None, *,
    cuts: int = CUTS, dims: Mapping[str, int] | None = None, progress: Progress = lambda text, share: None,
) -> SplitNetwork:  # fmt: skip
    """Write up to ``cuts`` cuts of the network in ``path`` to the folder ``out`` and ``<name>.split.json``, which lists them.

    With ``data`` (as :func:`kit.evaluation.evaluate` takes it) the two halves of each are scored, with features as they are and in 8 bits;
    without, bytes are counted on random inputs and no accuracy is known. Raises UsageError, BadModel (nowhere narrows to one tensor; more
    weights than one file holds), and what the evaluation raises.
    """
    if cuts < 1:
        raise UsageError(f"--cuts {cuts} cannot be: give 1 or more.")
    artifact = describe.artifact_of(path, dims) if dims else variants.artifact(path)
    model, _ = graph.fixed(_loaded(path), path, dict(artifact.dims))
    request = replace(request or evaluation.Request(), batch=1)
    progress("read the network and its samples", 0.0)
    trial = None if data is None else Trial(path, data, request, describe=variants.artifact)
    maker = _Maker(path, model, artifact, out, trial)
    places = chosen(maker.places(), cuts)
    if not places:
        raise BadModel(
            f"{path} nowhere narrows to one tensor of numbers between its operators: it cannot be cut in two."
        )
    store.make_folder(out)
    listed = []
    for number, place in enumerate(places, 1):
        progress(f"cut {number} of {len(places)} at {place.tensor}", number / (len(places) + 2))
        listed.append(maker.cut(number, place))
    network = SplitNetwork(
        name=store.slug(artifact.artifact_id), source=store.file_ref(path), answer_bytes=maker.answer_bytes,
        samples=None if trial is None else len(trial.samples), cuts=(maker.on_server(), *listed, maker.on_device()),
    )  # fmt: skip
    store.write_record(out / f"{network.name}{SUFFIX}", network)
    return network


def _loaded(path: Path) -> ModelProto:
    model = graph.load_whole(path)
    if model.ByteSize() > _ONE_FILE_BYTES:
        raise BadModel(f"{path} has more weights than one ONNX file holds: kit split makes its parts of one file each.")
    return model


def chosen(places: Sequence[Place], count: int) -> list[Place]:
    """The last place of each size of the tensor; where these are too many or too few, others evenly over the network.

    >>> sizes = [8, 8, 4, 4, 4, 2]
    >>> places = [Place(str(n), n, np.zeros(size)) for n, size in enumerate(sizes)]
    >>> [place.tensor for place in chosen(places, 3)]
    ['1', '4', '5']
    """
    ends = list({place.value.nbytes: place for place in places}.values())
    if len(ends) > count:
        ends = [ends[round(index * (len(ends) - 1) / max(1, count - 1))] for index in range(count)]
    others = [place for place in places if place not in ends]
    missing = min(count - len(ends), len(others))
    between = [others[round((index + 0.5) * len(others) / missing - 0.5)] for index in range(missing)]
    return sorted({id(place): place for place in (*ends, *between)}.values(), key=lambda place: place.nodes_before)


# --------------------------------------------------------------------------------------------------------------- the parts


def narrows(
    nodes: Sequence[NodeProto], inputs: Sequence[str], outputs: Sequence[str], constants: set[str]
) -> Iterator[tuple[str, int]]:
    """(tensor, nodes before it) wherever one tensor alone is still needed, of those that depend on ``inputs``."""
    depends, last_use = set(inputs), dict.fromkeys(outputs, len(nodes))
    for node in nodes:
        names = [name for name in needs(node) if name not in constants]
        if any(name in depends for name in names):
            depends.update(filter(None, node.output))
    for index, node in enumerate(nodes):
        for name in needs(node):
            last_use[name] = max(last_use.get(name, -1), index)
    live = {name for name in inputs if last_use.get(name, -1) >= 0}
    for index, node in enumerate(nodes):
        live.update(name for name in node.output if name in depends and name in last_use)
        live = {name for name in live if last_use[name] > index}
        if len(live) == 1:
            (name,) = live
            if name in node.output and name not in outputs:
                yield name, index + 1


def needs(node: NodeProto) -> set[str]:
    """The tensors that a node reads, those of its bodies and branches included."""
    names = set(filter(None, node.input))
    for attribute in node.attribute:
        bodies = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
        for body in bodies:
            own = {value.name for value in body.input} | {t.name for t in body.initializer}
            for inner in body.node:
                names |= needs(inner) - own
                own |= set(inner.output)
            names |= {value.name for value in body.output} - own
    return names


def part_of(model: ModelProto, inputs: Mapping[str, Array] | None, outputs: Mapping[str, Array] | None) -> ModelProto:
    """The nodes of ``model`` that lead from ``inputs`` (None: its own) to ``outputs`` (None: its own), with the weights that they use."""
    source = model.graph
    results = [value.name for value in source.output] if outputs is None else list(outputs)
    given = set() if inputs is None else set(inputs)
    needed, kept = set(results) - given, []
    for node in reversed(source.node):
        if needed & set(node.output) - given:
            kept.append(node)
            needed |= needs(node)
    kept.reverse()
    body = GraphProto(name=source.name or "part", node=kept)
    body.initializer.extend(t for t in source.initializer if t.name in needed)
    body.sparse_initializer.extend(t for t in source.sparse_initializer if t.values.name in needed)
    weights = {t.name for t in source.initializer}
    body.input.extend(v for v in source.input if v.name in needed and v.name not in given and v.name not in weights)
    body.input.extend(_value(name, array) for name, array in (inputs or {}).items())
    body.output.extend(source.output if outputs is None else (_value(name, array) for name, array in outputs.items()))
    part = ModelProto()
    part.CopyFrom(model)
    part.graph.CopyFrom(body)
    return part


def _value(name: str, array: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


# ------------------------------------------------------------------------------------------------------------- 8-bit features


def quantized(feature: Array) -> tuple[NDArray[np.uint8], float, float]:
    """(numbers from 0 to 255, least value, step) of a feature."""
    low, high = float(feature.min()), float(feature.max())
    step = (high - low) / 255 or 1.0
    return np.round((feature.astype(np.float64) - low) / step).astype(np.uint8), low, step


def restored(numbers: NDArray[np.uint8], low: float, step: float, dtype: np.dtype[Any]) -> Array:
    """What the server computes with."""
    return np.asarray(numbers * step + low).astype(dtype)


class _TwoHalves:
    """The two halves behind each other, as a session; ``between`` is what happens to the features on the way."""

    def __init__(
        self, whole: Session, device: Session | None, server: Session, between: Callable[[Array], Array]
    ) -> None:
        self.inputs, self.outputs, self.notes = whole.inputs, whole.outputs, ()
        self._device, self._server, self._between = device, server, between

    def run(self, feeds: Feeds) -> list[Array]:
        (feature,) = self._device.run(feeds) if self._device else feeds.values()
        return self._server.run({self._server.inputs[0].name: self._between(np.asarray(feature))})


def in_8_bits(feature: Array) -> Array:
    """A feature as it arrives after it was sent in 8 bits."""
    return restored(*quantized(feature), feature.dtype) if feature.dtype.name in _FLOATS else feature


# ----------------------------------------------------------------------------------------------------------------- the cuts


class _Maker:
    """One network's parts: written, described, weighed and scored."""

    def __init__(self, path: Path, model: ModelProto, artifact: Artifact, out: Path, trial: Trial | None) -> None:
        self._model, self._id, self._out, self._trial = model, store.slug(artifact.artifact_id), out, trial
        self._whole_session = backends.load("onnxruntime").open(path, artifact, 1, None if artifact.dims else 1)
        if len(self._whole_session.inputs) != 1:
            raise BadModel(f"{path} takes {len(self._whole_session.inputs)} inputs: kit split cuts networks of one.")
        self._feeds = self._examples()
        answers = self._whole_session.run(self._feeds[0])
        self.answer_bytes = sum(np.asarray(answer).nbytes for answer in answers)

    def _examples(self) -> list[Feeds]:
        if self._trial is None:
            return [backends.make_feeds(self._whole_session.inputs, seed) for seed in range(4)]
        return [
            {name: array[None] for name, array in sample.inputs.items()} for sample in self._trial.samples[:_WEIGHED]
        ]

    def places(self) -> list[Place]:
        """Wherever the network may be cut, with an example of the tensor there."""
        source = self._model.graph
        constants = {t.name for t in source.initializer} | {t.values.name for t in source.sparse_initializer}
        inputs = [value.name for value in source.input if value.name not in constants]
        outputs = [value.name for value in source.output]
        candidates = dict(narrows(source.node, inputs, outputs, constants))
        if not candidates:
            return []
        extended = ModelProto()
        extended.CopyFrom(self._model)
        extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in candidates)
        values = _opened(extended).run(list(candidates), dict(self._feeds[0]))
        return [
            Place(name, before, np.asarray(value))
            for (name, before), value in zip(candidates.items(), values, strict=True)
            if isinstance(value, np.ndarray) and value.dtype.name in (*_FLOATS, *_SMALL) and value.size
        ]

    def cut(self, number: int, place: Place) -> Cut:
        """The two files of a cut, and what its features are worth."""
        edge = {place.tensor: place.value}
        device = self._part(f"{self._id}-c{number}-device", part_of(self._model, None, edge))
        server = self._part(f"{self._id}-c{number}-server", part_of(self._model, edge, None))
        before, behind = (self._session(part) for part in (device, server))
        features = [np.asarray(before.run(feeds)[0]) for feeds in self._feeds]
        weighed = self._weighed(place.tensor, features, device, server, before, behind)
        before.close()
        behind.close()
        return weighed

    def on_server(self) -> Cut:
        """The input goes to the server, which runs the whole."""
        name = self._whole_session.inputs[0].name
        features = [np.asarray(feeds[name]) for feeds in self._feeds]
        return self._weighed(None, features, None, self._whole(), None, self._whole_session)

    def on_device(self) -> Cut:
        """Nothing goes over the uplink."""
        return Cut(
            tensor=None, device=self._whole(), server=None, accuracy=self._accuracy, int8_accuracy=self._accuracy
        )

    @property
    def _accuracy(self) -> Accuracy | None:
        return None if self._trial is None else self._trial.accuracy_of(self._whole_session)

    def _weighed(
        self, tensor: str | None, features: Sequence[Array], device: Part | None, server: Part, before: Session | None, behind: Session
    ) -> Cut:  # fmt: skip
        one = features[0]
        is_float = one.dtype.name in _FLOATS
        packed = [(quantized(f)[0] if is_float else f).tobytes() for f in features]
        header = _RANGE_BYTES if is_float else 0
        scored: dict[str, Accuracy] = {}
        if self._trial is not None:
            for name, between in {"accuracy": lambda feature: feature, "int8_accuracy": in_8_bits}.items():
                scored[name] = self._trial.accuracy_of(_TwoHalves(self._whole_session, before, behind, between))  # type: ignore[arg-type]
        return Cut(
            tensor=tensor, device=device, server=server,
            feature=TensorSpec(name=tensor or self._whole_session.inputs[0].name, shape=one.shape, dtype=one.dtype.name),
            raw_bytes=one.nbytes, int8_bytes=len(packed[0]) + header,
            coded_bytes=header + float(np.mean([len(zlib.compress(data, 9)) for data in packed])), **scored,
        )  # fmt: skip

    def _whole(self) -> Part:
        name = f"{self._id}-whole"
        return self._part(name, self._model)

    def _part(self, name: str, model: ModelProto) -> Part:
        file = self._out / f"{name}.onnx"
        store.write_atomic(file, model.SerializeToString(deterministic=True))
        file.with_suffix(".json").unlink(missing_ok=True)
        artifact = describe.describe_onnx(file, name=name)
        return Part(artifact_id=artifact.artifact_id, model=artifact.model, macs=artifact.macs)

    def _session(self, part: Part) -> Session:
        return backends.load("onnxruntime").open(self._out / part.model.file, None, 1, 1)


def _opened(model: ModelProto) -> onnxruntime.InferenceSession:
    """A session of the graph as it stands: optimizations would remove the tensors that are asked for."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BadModel(f"onnxruntime cannot open the network with its inner tensors ({str(error)[:200]}).") from None
