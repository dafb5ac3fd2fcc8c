"""The .onnx files that are measured: with the sidecar that describes them, or bare; a build folder of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kit import backends, store, trust
from kit.backends import dimensions, onnxdata, onnxgraph, precision
from kit.errors import BadModel, IntegrityError, UsageError
from kit.measure import forkserver, worker
from kit.records import Artifact, FileRef

#: Stems and folders that say nothing about a network: hubs call every file so.
GENERIC = frozenset({"model", "model_quantized", "onnx", "weights", "saved_model", "snapshots", "blobs"})
_HASH = re.compile(r"[0-9a-f]{16,}")


def is_onnx(path: Path) -> bool:
    """Whether ``path`` has the ending of an ONNX file, in letters of either case."""
    return path.suffix.lower() == ".onnx"


def refuse_bare(path: Path) -> None:
    """Raises UsageError for an .onnx file without a sidecar: what is packaged is what the sidecar says."""
    if is_onnx(path) and path.is_file() and not store.is_of_kind(path.with_suffix(".json"), "artifact"):
        raise UsageError(f"{path} has no sidecar, which a package needs: write it with kit describe {path}.")


def variants(folder: Path) -> list[Path]:
    """The variants that lie in ``folder``: each .onnx with its sidecar next to it."""
    return sorted(p for p in folder.iterdir() if is_onnx(p) and p.with_suffix(".json").is_file())


def of_build(folder: Path) -> list[Path]:
    """The variants of a build folder. Raises UsageError where there is none."""
    paths = variants(folder)
    if not paths:
        raise UsageError(
            f"{folder} holds no variant (an .onnx with its .json): make one with kit build, or give an .onnx file."
        )
    return paths


def artifact_of(path: Path, backend: str, dims: Sequence[tuple[str, int]] = ()) -> Artifact:
    """What a file is: as its sidecar says, else as its graph states and the runtime ``backend`` reads it (its MACs then stay unknown).

    ``dims`` are sizes of free dimensions. Another shape than the sidecar's is another artifact, whose MACs are unknown, too. Raises
    UsageError (no such file, a name that cannot be stored, a dimension that is not free), BadModel, and what :func:`described` raises.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist.")
    known = described(path, backend) if store.is_of_kind(path.with_suffix(".json"), "artifact") else None
    if known is not None and known.torch_program is None:
        known = known.model_copy(update={"torch_program": _program_of(path, backend)})
    if known is not None and not dims:
        return known
    graph = onnxgraph.read(path)
    if known is not None and (graph is None or _same_shapes(known, graph, dims, path)):
        return known
    if known is None:
        _refuse_untrusted(path, backend)
    name = base_id(known) if known else artifact_name(path)
    bare = Artifact(
        artifact_id=name, model=store.file_ref(path), data=onnxdata.hashed(path), dims=tuple(dims),
        torch_program=known.torch_program if known else _program_of(path, backend),
    )  # fmt: skip
    fixed = dimensions.of_artifact(graph, bare, None, path) if graph else None
    # A program says less about its inputs than the model beside it.
    reader = "onnxruntime" if backends.is_torch(backend) else backend
    reply = forkserver.ask(
        worker.WorkerRequest(path=str(path), artifact=bare, backend=reader, threads=1, describe=True), timeout_s=120
    )
    if reply.status != "ok":
        raise BadModel(reply.reason or f"{path} cannot be loaded.")
    formats = _formats(graph)
    chosen = fixed.chosen if fixed else ()
    shape = {"artifact_id": id_with(name, chosen), "inputs": reply.inputs, "outputs": reply.outputs, "dims": chosen}
    if known is not None:
        counted = {"macs": None, "counted_macs": None, "uncounted": (), "activation_bytes": None, "kernels": None}
        return known.model_copy(update={**shape, **counted})
    notes = (formats.mixed,) if formats.mixed else ()
    return bare.model_copy(
        update={**shape, "precision": formats.precision, "quantization": formats.quantization, "notes": notes}
    )


def _program_of(path: Path, backend: str) -> FileRef | None:
    """The .pt2 of the same name beside an .onnx, for PyTorch."""
    program = path.with_suffix(".pt2")
    return store.file_ref(program) if backends.is_torch(backend) and program.is_file() else None


def _same_shapes(artifact: Artifact, graph: onnxgraph.Graph, dims: Sequence[tuple[str, int]], path: Path) -> bool:
    shapes = dimensions.fixed(graph, {**dict(artifact.dims), **dict(dims)}, None, path).shapes
    return all(shapes.get(spec.name, spec.shape) == spec.shape for spec in artifact.inputs)


def id_with(name: str, dims: Sequence[tuple[str, int]]) -> str:
    """The id of a network at sizes of its free dimensions.

    >>> id_with("net", [("seq", 128), ("x:2", 224)])
    'net-seq128-x-2-224'
    """
    return "-".join([name, *(_dim_name(key, size) for key, size in dims)])


def base_id(artifact: Artifact) -> str:
    """The id without the sizes of free dimensions."""
    return artifact.artifact_id.removesuffix(id_with("", artifact.dims)) if artifact.dims else artifact.artifact_id


def _dim_name(key: str, size: int) -> str:
    word = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-") or "dim"
    return f"{word}-{size}" if word[-1].isdigit() else f"{word}{size}"


def _formats(graph: onnxgraph.Graph | None) -> precision.Formats:
    try:
        return precision.Formats("fp32") if graph is None else precision.of(graph)
    except (ValueError, IndexError):
        return precision.Formats("fp32")


def artifact_name(path: Path) -> str:
    """The id of a file that nobody described: its stem, after the folder's name where hubs call every network alike.

    >>> artifact_name(Path("nets/whisper/onnx/model.onnx")), artifact_name(Path("nets/resnet.onnx"))
    ('whisper-model', 'resnet')
    """
    stem = path.stem
    if stem.lower() not in GENERIC:
        return stem
    for folder in path.absolute().parents:
        name = folder.name
        if name.startswith("models--"):  # the cache of a hub: models--OWNER--NAME/snapshots/HASH
            return f"{name.split('--')[-1]}-{stem}"
        if name and name.lower() not in GENERIC and not _HASH.fullmatch(name):
            return f"{name}-{stem}"
    return stem


def described(path: Path, backend: str) -> Artifact:
    """The sidecar of ``path``. Raises BadRecord (no sidecar of kit's), BadModel (weights in another file), IntegrityError (model or
    program are not those that it describes), UntrustedPackage (a file that came over a link, for a runtime that could run code of it).
    """
    _refuse_untrusted(path, backend)
    sidecar = path.with_suffix(".json")
    artifact = store.read_record(sidecar, Artifact)
    if artifact.model.file != path.name or not store.file_matches(path, artifact.model):
        raise IntegrityError(
            f"{path} is not the file that {sidecar.name} describes: make the sidecar again with kit describe {path}"
        )
    for file in artifact.data:
        if not store.file_matches(path.parent / file.file, file):
            raise IntegrityError(
                f"{file.file} is not the file of weights that {sidecar.name} describes: make the sidecar again with kit describe {path}"
            )
    program = artifact.torch_program
    if (
        backends.is_torch(backend)
        and program is not None
        and not store.file_matches(path.parent / program.file, program)
    ):
        raise IntegrityError(
            f"{program.file} is not the program that {sidecar.name} describes: build or export it again."
        )
    return artifact


def _refuse_untrusted(path: Path, backend: str) -> None:
    """What lies in an install came over a link: it runs as an ONNX model or not at all. Raises UntrustedPackage, and BadModel when the
    model keeps weights outside its folder."""
    trust.refuse_install(backend, path)
    if trust.install_of(path) is not None:
        onnxdata.refuse_programs(path)
    onnxdata.files_of(path)
