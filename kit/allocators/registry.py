"""The allocators by name: the families and their sizes, and the files of them that each runtime takes, written on request.

An allocator is the same network under the same id in every runtime: one .alloc.npz for kit's own, an .onnx of its weights for most, for
torch a program of them next to the .alloc.npz.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kit import backends, spaces, store, trust
from kit.allocators import fileformat
from kit.allocators.fileformat import SUFFIX, AllocatorNetwork
from kit.errors import IntegrityError, UsageError
from kit.records import Artifact, FileRef, SubNetwork
from kit.spaces import allocator
from kit.spaces.allocator import FAMILY, USERS

WriteProgram = Callable[
    [AllocatorNetwork, Path], FileRef
]  # kit.variants.program.write: a PC has torch, a board need not

#: What each family name stands for: its dynamic networks, and the static network.
FAMILIES = {
    "allocator": ("allocator_a", "allocator_a_static", "allocator_b", "allocator_b_static", "allocator_u"),
    "allocator_a": ("allocator_a", "allocator_a_static"),
    "allocator_b": ("allocator_b", "allocator_b_static"),
    "allocator_u": ("allocator_u",),
    "allocator_u_b": ("allocator_u_b",),
}
UNITS = (4, 8, 16, 24, 32)  # widths of the per-user allocator, without --all
EXPERTS = (1, 2, 3, 5, 8, 10, 15, 20, 25, 30)  # of paper A, likewise


def sizes(family: str, *, every: bool = False) -> list[SubNetwork]:
    """The sub-networks of :data:`FAMILIES` for 30 users: of paper A ten K, of paper B each (k, l), per user 5 widths by 3 depths, and
    the static networks. ``every``: each K and each width.

    >>> [sub.id for sub in sizes("allocator_u")][:2]
    ['allocator_u-d1-w0.12-fp32-30', 'allocator_u-d1-w0.25-fp32-30']
    """
    usual = {
        "allocator_a": {k / 30 for k in EXPERTS},
        "allocator_u": {u / 32 for u in UNITS},
        "allocator_u_b": {u / 32 for u in UNITS},
    }
    members = (sub for space in allocator.SPACES if space.name in FAMILIES[family] for sub in space)
    return [m for m in members if m.resolution_px == USERS and (every or m.width in usual.get(m.root, (m.width,)))]


def expanded(names: Sequence[str], *, every: bool = False) -> list[str]:
    """``names`` with the ids of the sizes in the place of a family's name; a file of that name goes first.

    >>> expanded(["net.onnx", "allocator_u"])[:2]
    ['net.onnx', 'allocator_u-d1-w0.12-fp32-30']
    """
    ids = [
        [sub.id for sub in sizes(name, every=every)] if name in FAMILIES and not Path(name).exists() else [name]
        for name in names
    ]
    return list(dict.fromkeys(i for group in ids for i in group))


def is_allocator(item: Path | SubNetwork) -> bool:
    """Whether a sub-network is one, or a path reads like the file of one."""
    return item.family == FAMILY if isinstance(item, SubNetwork) else item.name.endswith(SUFFIX)


def of_subnetwork(
    sub: SubNetwork, backend: str, folder: Path, program: WriteProgram | None = None
) -> tuple[Path, Artifact]:
    """The file, written to ``folder`` with random weights, by which ``backend`` runs ``sub``, and its sidecar.

    Raises UnknownName, UsageError (no such size; torch without ``program``), StorageError.
    """
    return _written(fileformat.member(sub), backend, folder, program, seed=0)


def of_file(
    path: Path, backend: str, folder: Path | None = None, program: WriteProgram | None = None
) -> tuple[Path, Artifact]:
    """An .alloc.npz and its sidecar; for a runtime that does not take it, its weights are written to ``folder`` in that runtime's form.

    Raises UsageError, BadModel (no allocator), IntegrityError (not the file that its sidecar describes), UntrustedPackage, StorageError.
    """
    trust.refuse_install(backend, path)
    network = fileformat.read(path)
    if not _takes_allocators(backend):
        if folder is None:
            raise UsageError(f"{path} is run by kit's own runtimes: add --backend allocator.")
        return _written(network, backend, folder, program)
    model = store.file_ref(path)
    sidecar = path.with_suffix(".json")
    if not store.is_of_kind(sidecar, "artifact"):
        return path, fileformat.describe(network, model)
    artifact = store.read_record(sidecar, Artifact)
    if artifact.model != model:
        raise IntegrityError(f"{path} is not the file that {sidecar.name} describes: export it again.")
    return path, artifact


def _written(
    network: AllocatorNetwork, backend: str, folder: Path, program: WriteProgram | None, seed: int | None = None
) -> tuple[Path, Artifact]:
    """``network`` in the form that ``backend`` runs, under the same id in every form."""
    sub = fileformat.subnetwork(network)
    if not _takes_allocators(backend) and not backends.is_torch(backend):
        path = folder / f"{sub.id}.onnx"
        return path, spaces.write(sub, path, weights=allocator.weights_of(network))
    path = folder / f"{sub.id}{SUFFIX}"
    artifact = fileformat.write(network, path, seed=seed, steps=() if seed is None else ("random weights",))
    if backends.is_torch(backend):
        if program is None:
            raise UsageError(f"{sub.id} has no PyTorch program here: profile it with kit profile, or with onnxruntime.")
        artifact = artifact.model_copy(update={"torch_program": program(network, folder / f"{sub.id}.pt2")})
    return path, artifact


def _takes_allocators(backend: str) -> bool:
    return backends.LEAVES[backend].module == backends.LEAVES["allocator"].module
