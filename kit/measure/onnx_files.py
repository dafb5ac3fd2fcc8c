"""The .onnx files that are measured: with the sidecar that describes them, or bare; a build folder of them."""

from __future__ import annotations

from pathlib import Path

from kit import store, trust
from kit.backends import onnxgraph
from kit.errors import BadModel, IntegrityError, UsageError
from kit.measure import forkserver, worker
from kit.records import Artifact, Precision


def is_onnx(path: Path) -> bool:
    """Whether ``path`` has the ending of an ONNX file, in letters of either case."""
    return path.suffix.lower() == ".onnx"


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


def artifact_of(path: Path, backend: str) -> Artifact:
    """What a file is: as its sidecar says, else as the runtime ``backend`` reads it (its MACs then stay unknown).

    Raises UsageError (no such file, a name that cannot be stored), BadModel, and what :func:`described` raises.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist.")
    if store.is_of_kind(path.with_suffix(".json"), "artifact"):
        return described(path, backend)
    _refuse_untrusted(path, backend)
    reply = forkserver.ask(
        worker.WorkerRequest(path=str(path), artifact=None, backend=backend, threads=1, describe=True), timeout_s=120
    )
    if reply.status != "ok":
        raise BadModel(reply.reason or f"{path} cannot be loaded.")
    model = store.file_ref(path)
    precision: Precision = "int8" if b"QuantizeLinear" in path.read_bytes() else "fp32"
    return Artifact(artifact_id=path.stem, model=model, precision=precision, inputs=reply.inputs, outputs=reply.outputs)


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
    program = artifact.torch_program
    if backend == "pytorch" and program is not None and not store.file_matches(path.parent / program.file, program):
        raise IntegrityError(
            f"{program.file} is not the program that {sidecar.name} describes: build or export it again."
        )
    return artifact


def _refuse_untrusted(path: Path, backend: str) -> None:
    """What lies in an install came over a link: it runs as an ONNX model or not at all. Raises UntrustedPackage, and BadModel when the
    model's weights lie in another file."""
    trust.refuse_install(backend, path)
    if trust.install_of(path) is not None:
        onnxgraph.refuse_programs(path)
    onnxgraph.refuse_external(path, str(path))
