"""What a person names becomes what can be measured: files, build folders and ids become targets with their sidecars."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kit import backends, spaces, store
from kit.allocators import registry
from kit.allocators.registry import WriteProgram
from kit.backends import dimensions, fake, feeds, onnxgraph
from kit.errors import UsageError
from kit.measure import onnx_files
from kit.records import Artifact, FileRef, InputRule, SubNetwork


@dataclass(frozen=True)
class Target:
    """An artifact and where its model lies."""

    path: Path
    artifact: Artifact
    rules: tuple[InputRule, ...] = ()  # how single inputs are filled
    samples: Path | None = None  # a .npz, a .npy or a folder of them

    def feeding(self) -> list[object]:
        """What decides the inputs besides the artifact, as plain data; empty where nobody chose any."""
        if not self.rules and self.samples is None:
            return []
        return [[rule.model_dump(mode="json") for rule in self.rules], str(self.samples)]


@dataclass(frozen=True)
class Inputs:
    """What a command says about the inputs of its networks: sizes of free dimensions, rules for single inputs, samples."""

    dims: tuple[tuple[str, int], ...] = ()
    rules: tuple[InputRule, ...] = ()
    samples: Path | None = None


def resolve(
    names: Sequence[str],
    *,
    backend: str,
    build: Path | None = None,
    folder: Path | None = None,
    every: bool = False,
    program: WriteProgram | None = None,
    inputs: Inputs | None = None,
) -> list[Target]:
    """Targets from what a person writes: an .onnx file, a build folder, a variant id of ``build``, or ``fake:250us``.

    An id that ``build`` does not hold but a space does is written to ``folder`` with random weights. A family of allocators
    (``allocator``, ``allocator_b``) is a choice of its sizes, or ``every`` one; ``program`` makes what PyTorch runs of one; ``inputs``
    are for the .onnx files. Raises UsageError (two networks of one name, too), BackendUnavailable, BadModel (no usable model),
    IntegrityError (a model that is not the one its sidecar describes; UntrustedPackage: a file that came over a link, for a runtime that
    could run code of it).

    >>> [target.artifact.artifact_id for target in resolve(["fake:250us"], backend="fake")]
    ['fake:250us']
    """
    backends.require(backend)
    feeding = inputs or Inputs()
    targets: list[Target] = []
    for name in registry.expanded(_checked(names), every=every):
        path = Path(name)
        if feeding != Inputs() and not onnx_files.is_onnx(path):
            raise UsageError(
                f"--dim, --input and --inputs are about an .onnx file, and {name} is none: name the file, or leave them away."
            )
        if backend == "fake" or name.startswith("fake:"):
            targets.append(_fake(name, backend))
        elif path.is_dir():
            targets += [Target(p, onnx_files.described(p, backend)) for p in onnx_files.of_build(path)]
        elif onnx_files.is_onnx(path):
            targets.append(_of_onnx(path, backend, feeding))
        elif registry.is_allocator(path) and path.is_file():
            targets.append(Target(*registry.of_file(path, backend, folder, program)))
        elif build is not None and (build / f"{name}.json").is_file():
            variant = build / f"{name}.onnx"
            targets.append(Target(variant, onnx_files.described(variant, backend)))
        elif folder is not None and (sub := _member(name)) is not None:
            targets.append(_of_subnetwork(sub, backend, folder, program))
        else:
            raise UsageError(_unresolved(name, build))
    distinct = list({t.artifact.content_sha256: t for t in targets}.values())
    _refuse_clash(distinct)
    return distinct


def _of_onnx(path: Path, backend: str, inputs: Inputs) -> Target:
    """A file with the inputs that a command gives it, which are tried before anything runs."""
    artifact = onnx_files.artifact_of(path, backend, _sizes(path, inputs))
    if inputs.rules or inputs.samples is not None:
        feeds.fed(artifact.inputs, rules=inputs.rules, samples=inputs.samples)
    return Target(path, artifact, inputs.rules, inputs.samples)


def _sizes(path: Path, inputs: Inputs) -> tuple[tuple[str, int], ...]:
    """The sizes of free dimensions that a command gives; where it gives none, those of the arrays that it gives."""
    if inputs.dims or not path.is_file() or (inputs.samples is None and all(r.file is None for r in inputs.rules)):
        return inputs.dims
    graph = onnxgraph.read(path)
    if graph is None or not dimensions.of(graph):
        return ()
    shapes = feeds.given_shapes([value.name for value in graph.inputs], inputs.rules, inputs.samples)
    return tuple(dimensions.of_arrays(graph, shapes).items())


def feeding_of(
    inputs: Mapping[str, Any] | str | os.PathLike[str] | None, folder: Path
) -> tuple[tuple[InputRule, ...], Path | None]:
    """(rules for single inputs, path of samples), from arrays, numbers and texts by input, or from a path.

    Arrays are written to ``folder``.

    Raises UsageError.
    """
    if inputs is None or isinstance(inputs, (str, os.PathLike)):
        return (), None if inputs is None else Path(inputs).absolute()
    rules = []
    for index, (name, how) in enumerate(inputs.items()):
        if isinstance(how, (bool, int, float, str)):
            rules.append(feeds.rule_of(f"{name}={how}"))
            continue
        file = folder / f"input-{index}.npy"
        array = np.asarray(how.detach().cpu().numpy() if hasattr(how, "detach") else how)
        if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat):
            array = array.astype(str)
        if array.dtype.kind not in "biufU":
            raise UsageError(
                f"inputs['{name}'] is no array of numbers or texts: give an array, a number, 'zeros' or 'random:0..99'."
            )
        np.save(file, array)
        rules.append(InputRule(name=name, form="file", file=str(file)))
    return tuple(rules), None


def _refuse_clash(targets: Sequence[Target]) -> None:
    """Raises UsageError for two networks of one name: their rows could not be told apart."""
    paths: dict[str, Path] = {}
    for target in targets:
        name = target.artifact.artifact_id
        if name in paths:
            raise UsageError(
                f"{paths[name]} and {target.path} are two networks and would both be called {name}: rename one, or describe it under "
                f"another name (kit describe {target.path} --id NAME)."
            )
        paths[name] = target.path


def _checked(names: Sequence[str]) -> Sequence[str]:
    """``names`` as they are. Raises UsageError for one that is no file name on this machine."""
    for name in names:
        with store.explained(Path(name), "read"):
            Path(name).exists()
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{name!r} is no UTF-8 file name: rename the file.") from None
    return names


def _of_subnetwork(sub: SubNetwork, backend: str, folder: Path, program: WriteProgram | None) -> Target:
    if registry.is_allocator(sub):
        return Target(*registry.of_subnetwork(sub, backend, folder, program))
    path = folder / f"{sub.id}.onnx"
    return Target(path, spaces.write(sub, path))


def _fake(name: str, backend: str) -> Target:
    if backend != "fake":
        raise UsageError(f"'{name}' is a target of the fake backend: add --backend fake.")
    fake.cost_ns(name)
    model = FileRef(file=store.slug(name), sha256=store.sha256_bytes(name.encode()), size_bytes=0)
    return Target(Path(name), Artifact(artifact_id=name, model=model, inputs=(fake.SPEC,), outputs=(fake.SPEC,)))


def _member(name: str) -> SubNetwork | None:
    """The sub-network that ``name`` names when it is a member of a space."""
    try:
        return spaces.subnetwork(name)
    except (UsageError, ValueError):
        return None


def _unresolved(name: str, build: Path | None) -> str:
    if Path(name).exists():
        rename = "" if Path(name).suffix else f" If it is an ONNX network: rename it to {name}.onnx."
        return (
            f"{name} is neither an .onnx file nor a build folder nor an .alloc.npz: give one, or a variant id with "
            f"--build FOLDER.{rename}"
        )
    if name in spaces.SPACES:
        root_id = spaces.SPACES[name].root.id
        return (
            f"{name} is a space of networks: kit explore {name} measures it, kit profile {root_id} its full network; kit export "
            "writes a network to a file."
        )
    try:
        sub = SubNetwork.parse(name)
    except UsageError:
        return f"{name} does not exist: give an .onnx file, a build folder, or a variant id with --build FOLDER."
    space = spaces.SPACES.get(sub.root)
    if space is not None and sub.resolution_px in space.resolutions and (why := space.outside(sub)):
        return why
    if build is None:
        return f"{name} reads like a variant id: say which build folder holds it with --build FOLDER."
    ids = [path.stem for path in onnx_files.variants(build)] if build.is_dir() else []
    depths = sorted({int(match[1]) for i in ids if (match := re.match(rf"{re.escape(sub.root)}-d(\d+)-", i))})
    if depths and sub.depth not in depths:
        return f"{build} holds no variant {name}: of {sub.root} it holds the depths {', '.join(map(str, depths))}."
    return f"{build} holds no variant {name}; it holds {', '.join(ids[:8]) or 'nothing'}."
