"""kit ladder: the networks of a family written so that each tensor is stored once, under its hash.

A cut at an early exit holds the same weights as the whole network up to there. As files of their own they are stored and sent again and
again; here each network is a small .onnx whose larger tensors lie in ``tensors/<sha256>``, as ONNX's external data. Every runtime opens
it, and a library that stores files by their hash stores and sends each tensor once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, numpy_helper

from kit import store, variants
from kit.backends import onnxdata
from kit.errors import IntegrityError, UsageError
from kit.measure import onnx_files
from kit.records import Artifact, Ladder, Precision, Rung
from kit.variants import graph

SUFFIX = ".ladder.json"
TENSORS = "tensors"
INLINE_BYTES = 512  # smaller tensors stay in the graph: a file of their own would cost more than it saves

Progress = Callable[[str, float], None]


def networks_of(names: Sequence[Path], precision: Precision | None = None) -> list[Path]:
    """The .onnx files that ``names`` are or, being folders, hold, of one ``precision`` where it is named.

    Raises UsageError (nothing there), BadRecord.
    """
    paths = [path for name in names for path in (onnx_files.of_build(name) if name.is_dir() else [name])]
    if missing := [path for path in paths if not path.is_file()]:
        raise UsageError(f"{missing[0]} does not exist.")
    if precision is not None:
        paths = [path for path in paths if variants.artifact(path).precision == precision]
    if len(paths) < 2:
        listed = f"only {paths[0]}" if paths else "no network"
        raise UsageError(
            f"A ladder has two networks or more, and there is {listed}: name several files, or a build folder."
        )
    return paths


def make(paths: Sequence[Path], out: Path, name: str, *, progress: Progress = lambda text, share: None) -> Ladder:
    """Write the networks ``paths`` as a ladder to the folder ``out``, from the smallest to the largest, and ``<name>.ladder.json``.

    Every network must answer random inputs to the last bit as the file it comes from. Raises UsageError
    (two networks of one name), BadModel, IntegrityError (an answer differs).
    """
    artifacts = {path: _sidecar(path) for path in paths}
    ids = [artifacts[path].artifact_id for path in paths]
    if twice := sorted({one for one in ids if ids.count(one) > 1}):
        raise UsageError(
            f"Two of the networks are called {twice[0]}: name each once, or describe one under another name."
        )
    order = sorted(paths, key=lambda path: (artifacts[path].size_bytes, str(path)))
    store.make_folder(out / TENSORS)
    rungs: list[Rung] = []
    known: set[str] = set()
    total = 0
    for number, path in enumerate(order):
        progress(artifacts[path].artifact_id, number / len(order))
        written = _written(path, artifacts[path], out)
        sizes = {file.file: file.size_bytes for file in written.data}
        new = written.model.size_bytes + sum(size for file, size in sizes.items() if file not in known)
        known |= set(sizes)
        total += new
        rungs.append(
            Rung(
                artifact_id=written.artifact_id,
                model=written.model,
                tensors=len(sizes),
                alone_bytes=written.model.size_bytes + sum(sizes.values()),
                new_bytes=new,
                total_bytes=total,
                macs=written.macs,
                accuracy=written.accuracy,
            )
        )
    ladder = Ladder(name=store.slug(name), rungs=tuple(rungs))
    store.write_record(out / f"{ladder.name}{SUFFIX}", ladder)
    return ladder


def _sidecar(path: Path) -> Artifact:
    sidecar = path.with_suffix(".json")
    return store.read_record(sidecar, Artifact) if store.is_of_kind(sidecar, "artifact") else variants.artifact(path)


def _written(path: Path, artifact: Artifact, out: Path) -> Artifact:
    """The network in ``out`` with its sidecar and sample."""
    model = graph.load_whole(path)
    for tensor in _weights(model):
        data = _raw(tensor)
        if len(data) < INLINE_BYTES:
            continue
        digest = store.sha256_bytes(data)
        file = out / TENSORS / digest
        if not file.exists():
            store.write_atomic(file, data)
        for field in (
            "raw_data",
            "float_data",
            "int32_data",
            "int64_data",
            "double_data",
            "uint64_data",
            "external_data",
        ):
            tensor.ClearField(field)
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": f"{TENSORS}/{digest}", "offset": "0", "length": str(len(data))}
        for key, text in entries.items():
            tensor.external_data.add(key=key, value=text)
    target = out / f"{store.slug(artifact.artifact_id)}.onnx"
    store.write_atomic(target, model.SerializeToString(deterministic=True))
    _assert_equal(path, target, artifact)
    sample = artifact.sample
    if sample is not None:
        store.write_atomic(out / f"{target.stem}.sample.npz", (path.parent / sample.file).read_bytes())
        sample = store.file_ref(out / f"{target.stem}.sample.npz")
    sidecar = artifact.model_copy(
        update={
            "model": store.file_ref(target),
            "data": onnxdata.hashed(target),
            "sample": sample,
            "torch_program": None,
        }
    )
    store.write_record(target.with_suffix(".json"), sidecar)
    return sidecar


def _weights(model: ModelProto) -> Iterator[TensorProto]:
    """The initializers of the graph and of the graphs in its nodes; constants in nodes stay where they are."""
    graphs: list[GraphProto] = [model.graph]
    while graphs:
        one = graphs.pop()
        yield from one.initializer
        for node in one.node:
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)


def _raw(tensor: TensorProto) -> bytes:
    """The bytes of a tensor as external data hold them; none of a text."""
    if tensor.data_type == TensorProto.STRING:
        return b""
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    return numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data


def _assert_equal(source: Path, target: Path, artifact: Artifact) -> None:
    """Raises IntegrityError unless both give the same bits for random inputs."""
    from kit import backends

    leaf = backends.load("onnxruntime")
    one, other = leaf.open(source, artifact, 1), leaf.open(target, None, 1)
    feeds = backends.make_feeds(one.inputs, 0)
    expected, answers = one.run(feeds), other.run(feeds)
    one.close()
    other.close()
    if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(expected, answers, strict=True)):
        raise IntegrityError(
            f"{target} does not answer as {source}: a tensor was not stored as it is; report this file."
        )
