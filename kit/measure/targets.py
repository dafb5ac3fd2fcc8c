"""What a person names becomes what can be measured: files, build folders and variant ids become targets with their sidecars.

An allocator is the same network in every runtime: one .alloc.npz for kit's own, an .onnx of its weights, a torch program of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import backends, spaces, store, trust
from kit.allocators import fileformat
from kit.allocators.fileformat import Network
from kit.backends import fake, onnxgraph
from kit.errors import BadModel, BadRecord, IntegrityError, UsageError
from kit.measure import forkserver, worker
from kit.records import Artifact, FileRef, Precision, SubNetwork
from kit.spaces import allocator

Program = Callable[[Network, Path], FileRef]  # writes the torch program of an allocator: kit.variants.program


@dataclass(frozen=True)
class Target:
    """An artifact and where its model lies."""

    path: Path
    artifact: Artifact


def resolve(
    texts: Sequence[str],
    *,
    backend: str,
    build: Path | None = None,
    folder: Path | None = None,
    every: bool = False,
    program: Program | None = None,
) -> list[Target]:
    """Targets from what a person writes: an .onnx file, a build folder, a variant id of ``build``, or ``fake:250us``.

    An id that ``build`` does not hold but a space does is written to ``folder`` with random weights. A family of allocators
    (``allocator``, ``allocator_b``) is a choice of its sizes, or ``every`` one; ``program`` makes what PyTorch runs of one. Raises
    UsageError, BackendUnavailable, BadModel (no usable model), IntegrityError (a model that is not the one its sidecar describes;
    UntrustedPackage: a file that came over a link, for a runtime that could run code of it).
    """
    backends.require(backend)
    targets: list[Target] = []
    for text in _spelled_out(texts, every=every):
        path = _path(text)
        if backend == "fake" or text.startswith("fake:"):
            targets.append(_fake_target(text, backend))
        elif path.is_dir():
            targets += [_from_sidecar(p, backend) for p in _build_sidecars(path)]
        elif path.suffix == ".onnx":
            targets.append(_onnx_target(path, backend))
        elif path.name.endswith(fileformat.SUFFIX) and path.is_file():
            targets.append(_trained_allocator(path, backend, folder, program))
        elif build is not None and (build / f"{text}.json").is_file():
            targets.append(_from_sidecar(build / f"{text}.json", backend))
        elif folder is not None and (sub := _member(text)) is not None:
            targets.append(_of_space(sub, backend, folder, program))
        else:
            raise UsageError(_unresolved(text, build))
    return list({t.artifact.model.sha256: t for t in targets}.values())


def _spelled_out(texts: Sequence[str], *, every: bool) -> list[str]:
    """``texts`` with the ids of the sizes in the place of a family's name; a file of that name goes first."""
    found: list[str] = []
    for text in texts:
        family = text in allocator.FAMILIES and not _path(text).exists()
        found += [sub.id for sub in allocator.sizes(text, every=every)] if family else [text]
    return list(dict.fromkeys(found))


def _of_space(sub: SubNetwork, backend: str, folder: Path, program: Program | None) -> Target:
    if sub.family == allocator.FAMILY:
        return _allocator_target(fileformat.member(sub), backend, folder, program, seed=0)
    made = folder / f"{sub.id}.onnx"
    return Target(made, spaces.write(sub, made))


def _trained_allocator(path: Path, backend: str, folder: Path | None, program: Program | None) -> Target:
    """A file of the allocator backend; for another runtime its weights are written to ``folder`` in that runtime's form."""
    trust.refuse_install(backend, path)
    network = fileformat.read(path)
    if not _takes_allocators(backend):
        if folder is None:
            raise UsageError(f"{path} is run by kit's own runtimes: add --backend allocator.")
        return _allocator_target(network, backend, folder, program)
    data = path.read_bytes()
    model = FileRef(file=path.name, sha256=store.sha256_bytes(data), size_bytes=len(data))
    sidecar = path.with_suffix(".json")
    if not (sidecar.is_file() and _is_sidecar(sidecar)):
        return Target(path, fileformat.describe(network, model))
    artifact = store.read_record(sidecar, Artifact)
    if artifact.model != model:
        raise IntegrityError(f"{path} is not the file that {sidecar.name} describes: export it anew.")
    return Target(path, artifact)


def _allocator_target(
    network: Network, backend: str, folder: Path, program: Program | None, seed: int | None = None
) -> Target:
    """``network`` in the form that ``backend`` runs, under the same id in every form."""
    steps = () if seed is None else ("random weights",)
    stem = fileformat.subnetwork(network).id
    if not _takes_allocators(backend) and not _is_torch(backend):
        path = folder / f"{stem}.onnx"
        return Target(path, spaces.write(fileformat.subnetwork(network), path, weights=allocator.weights_of(network)))
    path = folder / f"{stem}{fileformat.SUFFIX}"
    artifact = fileformat.write(network, path, seed=seed, steps=steps)
    if _is_torch(backend):
        if program is None:
            raise UsageError(f"{stem} has no PyTorch program here: profile it with kit profile, or with onnxruntime.")
        artifact = artifact.model_copy(update={"torch_program": program(network, folder / f"{stem}.pt2")})
    return Target(path, artifact)


def _takes_allocators(backend: str) -> bool:
    return backends.LEAVES[backend].module == backends.LEAVES["allocator"].module


def _is_torch(backend: str) -> bool:
    return backends.LEAVES[backend].module == backends.LEAVES["pytorch"].module


def _path(text: str) -> Path:
    path = Path(text)
    with store.explained(path, "read"):
        path.exists()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{text!r} is no UTF-8 file name: rename the file.") from None
    return path


def _member(text: str) -> SubNetwork | None:
    """The sub-network that ``text`` names when it is a member of a space."""
    try:
        return spaces.subnetwork(text)
    except (UsageError, ValueError):
        return None


def _unresolved(text: str, build: Path | None) -> str:
    if Path(text).exists():
        return f"{text} is neither an .onnx file nor a build folder nor an .alloc.npz: give one, or a variant id with --build FOLDER."
    if text in spaces.SPACES:
        return f"{text} is a space of networks: kit explore {text} measures it, kit export {text} writes one to be profiled."
    try:
        SubNetwork.parse(text)
    except UsageError:
        return f"{text} does not exist: give an .onnx file, a build folder, or a variant id with --build FOLDER."
    if build is None:
        return f"{text} reads like a variant id: say which build folder holds it with --build FOLDER."
    known = ", ".join(sorted(p.stem for p in build.glob("*.onnx"))[:8]) if build.is_dir() else "nothing"
    return f"{build} holds no variant {text}; it holds {known or 'nothing'}."


def _build_sidecars(folder: Path) -> list[Path]:
    sidecars = sorted(p.with_suffix(".json") for p in folder.glob("*.onnx") if p.with_suffix(".json").is_file())
    if not sidecars:
        raise UsageError(
            f"{folder} holds no variant (an .onnx with its .json): make one with kit build, or give an .onnx file."
        )
    return sidecars


def _from_sidecar(sidecar: Path, backend: str) -> Target:
    path = sidecar.with_suffix(".onnx")
    _refuse_untrusted(path, backend)
    artifact = store.read_record(sidecar, Artifact)
    if artifact.model.file != path.name or store.sha256_file(path) != artifact.model.sha256:
        raise IntegrityError(
            f"{path} is not the file that {sidecar.name} describes: make the sidecar anew with kit describe {path}"
        )
    program = artifact.torch_program
    if backend == "pytorch" and program is not None and store.sha256_file(path.parent / program.file) != program.sha256:
        raise IntegrityError(
            f"{program.file} is not the program that {sidecar.name} describes: build or export it anew."
        )
    return Target(path, artifact)


def _onnx_target(path: Path, backend: str) -> Target:
    """A file with its sidecar, or a bare file: its tensors then come from the runtime and its MACs stay unknown."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist.")
    sidecar = path.with_suffix(".json")
    if sidecar.is_file() and _is_sidecar(sidecar):
        return _from_sidecar(sidecar, backend)
    _refuse_untrusted(path, backend)
    reply = forkserver.ask(
        worker.WorkerRequest(path=str(path), artifact=None, backend=backend, threads=1, describe=True), timeout_s=120
    )
    if reply.outcome != "ok":
        raise BadModel(reply.reason or f"{path} cannot be loaded.")
    data = path.read_bytes()
    try:
        model = FileRef(file=path.name, sha256=store.sha256_bytes(data), size_bytes=len(data))
    except ValueError:
        raise UsageError(
            f"{path} has a name that kit cannot store: rename it without leading dot or backslash."
        ) from None
    precision: Precision = "int8" if b"QuantizeLinear" in data else "fp32"
    made = Artifact(artifact_id=path.stem, model=model, precision=precision, inputs=reply.inputs, outputs=reply.outputs)
    return Target(path, made)


def _refuse_untrusted(path: Path, backend: str) -> None:
    """What lies in an install came over a link: it runs as an ONNX model or not at all. Raises UntrustedPackage, and BadModel when the
    model's weights lie in another file."""
    trust.refuse_install(backend, path)
    if trust.install_of(path) is not None:
        onnxgraph.refuse_programs(path)
    onnxgraph.refuse_external(path, str(path))


def _is_sidecar(path: Path) -> bool:
    """Whether the JSON beside a model is kit's; somebody else's is none of our business."""
    try:
        data = store.read_json(path)
    except BadRecord:
        return False
    return isinstance(data, dict) and data.get("kind") == "artifact"


def _fake_target(text: str, backend: str) -> Target:
    if backend != "fake":
        raise UsageError(f"'{text}' is a target of the fake backend: add --backend fake.")
    fake.cost_ns(text)
    model = FileRef(file=store.slug(text), sha256=store.sha256_bytes(text.encode()), size_bytes=0)
    return Target(Path(text), Artifact(artifact_id=text, model=model, inputs=(fake.SPEC,), outputs=(fake.SPEC,)))
