"""Packages in a folder: an OCI image layout (image-spec 1.1) that other OCI tools can read.

::

    oci-layout              {"imageLayoutVersion": "1.0.0"}
    index.json              one descriptor per package, named by org.opencontainers.image.ref.name
    blobs/sha256/<hex>      image manifests, kit manifests (configs) and files, each named by its hash

Blobs are written first and ``index.json`` last, each by rename: a kill leaves the older index and at most blobs that
no index entry names yet; the next :func:`add` reuses them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import kit
from kit import records, store
from kit.errors import BadRecord, IntegrityError, KitError, UsageError
from kit.library import oci
from kit.library.oci import Descriptor
from kit.records import Artifact, DataFile, FileRef, Manifest, Promise

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
LAYOUT_VERSION = "1.0.0"
CHUNK_BYTES = 1 << 20

Progress = Callable[[int, int], None]  # (bytes written, bytes in total)


@dataclass(frozen=True)
class Package:
    """A manifest and the digest (``sha256:…``) of the image manifest that names it."""

    manifest: Manifest
    digest: str


def blob_path(layout_dir: Path, digest: str) -> Path:
    """Where the blob of ``digest`` lies. Raises IntegrityError when it is no digest."""
    return layout_dir / "blobs" / "sha256" / oci.digest_hex(digest)


def index_path(layout_dir: Path) -> Path:
    """The index of a library's OCI layout."""
    return layout_dir / "index.json"


# ------------------------------------------------------------------------------------------------------------- reading


def read_packages(layout_dir: Path) -> list[Manifest]:
    """Every package of the library, sorted by name, every blob read and its hash checked.

    Raises UsageError (no library there), BadRecord (another schema), IntegrityError (wrong hash, size or place).
    """
    packages = read_catalog(layout_dir)
    for entry in packages:
        for ref in entry.manifest.files:
            if store.sha256_file(blob_path(layout_dir, f"sha256:{ref.sha256}")) != ref.sha256:
                raise IntegrityError(_broken(entry.manifest.name, ref.file, "has another sha256 than promised"))
    return [entry.manifest for entry in packages]


def read_catalog(layout_dir: Path) -> list[Package]:
    """As :func:`read_packages`, but of the files only place and size are checked: cheap enough to do at each change."""
    packages = [_read_package(layout_dir, entry) for entry in _read_index(layout_dir)["manifests"]]
    names = [p.manifest.name for p in packages]
    if len(set(names)) != len(names):
        raise IntegrityError(f"{index_path(layout_dir)} names a package twice: make the library again.")
    return sorted(packages, key=lambda p: p.manifest.name)


def _read_package(layout_dir: Path, entry: object) -> Package:
    try:
        descriptor = Descriptor.model_validate(entry)
    except ValidationError as error:
        raise BadRecord(f"{index_path(layout_dir)} is broken: {records.first_problem(error)}.") from None
    name = oci.check_name(descriptor.annotations.get(REF_NAME, ""))
    source = f"Package {name}"
    if descriptor.media_type != oci.IMAGE_TYPE:
        raise BadRecord(
            f"{source} is of a kind that this kit does not read ({descriptor.media_type[:80]}): upgrade kit."
        )
    image = oci.parse_image(_read_blob(layout_dir, descriptor, source), source)
    manifest = oci.open_manifest(image, _read_blob(layout_dir, image.config, source), source)
    if manifest.name != name:
        raise IntegrityError(f"{source} calls itself {manifest.name}: refused; add the package again.")
    for ref in manifest.files:
        _check_in_place(layout_dir, name, ref)
    return Package(manifest, descriptor.digest)


def _read_blob(layout_dir: Path, descriptor: Descriptor, source: str) -> bytes:
    path = blob_path(layout_dir, descriptor.digest)
    if not path.is_file() or path.stat().st_size != descriptor.size:
        raise IntegrityError(
            f"{source}: the blob {descriptor.digest[:19]}… is missing or cut short; add the package again."
        )
    with store.explained(path, "read"):
        return oci.check_bytes(path.read_bytes(), descriptor.digest, source)


def _check_in_place(layout_dir: Path, name: str, ref: DataFile) -> None:
    path = blob_path(layout_dir, f"sha256:{ref.sha256}")
    if not path.is_file():
        raise IntegrityError(_broken(name, ref.file, "is missing"))
    if path.stat().st_size != ref.size_bytes:
        raise IntegrityError(_broken(name, ref.file, f"has {path.stat().st_size} bytes instead of {ref.size_bytes}"))


def _broken(name: str, file: str, what: str) -> str:
    return f"Package {name}: {file} {what}; add the package again."


def _read_index(layout_dir: Path) -> dict[str, Any]:
    marker = layout_dir / "oci-layout"
    if not marker.is_file():
        raise UsageError(f"{layout_dir} holds no library: make one with kit library add.")
    layout = store.read_json(marker)
    if not isinstance(layout, dict) or layout.get("imageLayoutVersion") != LAYOUT_VERSION:
        raise BadRecord(f"{marker} is of another version than {LAYOUT_VERSION}: upgrade kit or make the library again.")
    if not index_path(layout_dir).exists():  # the first add was killed before it ended
        return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}
    index = store.read_json(index_path(layout_dir))
    if not isinstance(index, dict) or index.get("schemaVersion") != 2 or not isinstance(index.get("manifests"), list):
        raise BadRecord(f"{index_path(layout_dir)} is no OCI image index of schema version 2: upgrade kit.")
    if index.get("mediaType", INDEX_TYPE) != INDEX_TYPE:
        raise BadRecord(f"{index_path(layout_dir)} is of a kind that this kit does not read: upgrade kit.")
    return index


# ------------------------------------------------------------------------------------------------------------- writing


def make_manifest(artifact: Artifact, folder: Path, promises: Sequence[Promise]) -> Manifest:
    """The manifest of ``artifact``, whose files lie in ``folder``: model, sidecar, files of weights and, where there is one, the sample.

    The torch program stays behind, and the package's sidecar names none: a device never loads a program that came over a link.
    Raises UsageError (a missing file, a name that cannot be a package's), IntegrityError (a file that is not what the sidecar
    promises, UntrustedPackage where it is no ONNX model).
    """
    name = _package_name(artifact)
    sidecar = oci.sidecar_name(artifact)
    files: list[DataFile] = [artifact.model, *map(oci.package_file, artifact.data)]
    files += [artifact.sample] if artifact.sample else []
    for ref in files:
        _check_source(folder, ref)
    if store.read_record(folder / sidecar, Artifact) != artifact:
        raise IntegrityError(f"{folder / sidecar} does not describe {artifact.artifact_id}: build the variant again.")
    artifact = artifact.model_copy(update={"torch_program": None})
    data = _sidecar(artifact)
    files.insert(1, FileRef(file=sidecar, sha256=store.sha256_bytes(data), size_bytes=len(data)))
    manifest = Manifest(
        name=name,
        created_utc=store.utc_now(),
        kit_version=kit.__version__,
        artifact=artifact,
        files=tuple(files),
        promises=tuple(promises),
    )
    oci.check_files(manifest, artifact.artifact_id)
    return manifest


def _package_name(artifact: Artifact) -> str:
    name = store.slug(artifact.artifact_id)
    try:
        return oci.check_name(name)
    except IntegrityError as error:
        raise UsageError(f"{artifact.artifact_id!r} cannot become a package's name: {error}") from None


def _check_source(folder: Path, ref: DataFile) -> None:
    path = folder / ref.file
    if store.sha256_file(path) != ref.sha256:
        raise IntegrityError(f"{path} is not the file that its sidecar describes (sha256 differs): build it again.")


def _sidecar(artifact: Artifact) -> bytes:
    return store.pretty_json(artifact).encode()


def check_sidecar(folder: Path, manifest: Manifest) -> None:
    """The sidecar, which is read when an install is measured, has to equal the manifest, which was checked. Raises IntegrityError."""
    path = folder / oci.sidecar_name(manifest.artifact)
    try:
        same = store.read_record(path, Artifact) == manifest.artifact
    except UsageError:
        same = False
    if not same:
        raise IntegrityError(
            f"{path.name} describes another network than the manifest of package {manifest.name}: refused, nothing "
            "installed; add the package again."
        )


def same_content(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests differ in when and by which kit they were made at most."""
    origin = {"created_utc": one.created_utc, "kit_version": one.kit_version}
    return other.model_copy(update=origin) == one


def add(
    layout_dir: Path,
    folder: Path,
    artifacts: Iterable[Artifact],
    promises: Mapping[str, Sequence[Promise]],
    *,
    progress: Progress | None = None,
) -> list[Manifest]:
    """Package ``artifacts``, whose files lie in ``folder``, into the library; all of them become visible at once.

    ``promises`` are looked up by artifact id. What the library holds already is left as it is; a package of the same name with
    other content takes its place (its older blobs stay, so a device in the middle of a pull can end it). Returns the
    manifests as they stand in the library. Raises UsageError, IntegrityError (a file is not what its sidecar says),
    StorageError.
    """
    manifests = [make_manifest(a, folder, promises.get(a.artifact_id, ())) for a in artifacts]
    names = [manifest.name for manifest in manifests]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"Two artifacts would both be package {min(twice)}: rename one of them.")
    with store.locked(layout_dir):
        _prepare(layout_dir)
        entries = {_entry_name(e, i): e for i, e in enumerate(_read_index(layout_dir)["manifests"])}
        stored = {m.name: _stored_manifest(layout_dir, entries.get(m.name), m) for m in manifests}
        added = [m for m in manifests if stored[m.name] is None]
        total = sum(m.size_bytes for m in added)
        bytes_done = 0
        for manifest in added:
            for ref in manifest.files:
                if ref.file == oci.sidecar_name(manifest.artifact):
                    store.write_atomic(blob_path(layout_dir, f"sha256:{ref.sha256}"), _sidecar(manifest.artifact))
                else:
                    _copy_blob(layout_dir, folder / ref.file, ref, progress, bytes_done, total)
                bytes_done += ref.size_bytes
            entries[manifest.name] = _write_image(layout_dir, manifest)
        if added:
            _write_index(layout_dir, entries)
    return [stored[m.name] or m for m in manifests]


def _prepare(layout_dir: Path) -> None:
    """An empty or existing library without what a killed writer left behind."""
    if not (layout_dir / "oci-layout").exists():
        with store.explained(layout_dir, "read"):
            if any(not p.name.startswith(".") for p in layout_dir.iterdir()):
                raise UsageError(f"{layout_dir} is not empty and holds no library: choose another folder.")
        store.write_atomic(layout_dir / "oci-layout", store.canonical_json({"imageLayoutVersion": LAYOUT_VERSION}))
    blobs = store.make_folder(layout_dir / "blobs" / "sha256")
    for stale in [*layout_dir.glob(".*.tmp"), *blobs.glob(".*.tmp")]:
        with store.explained(stale, "remove"):
            stale.unlink(missing_ok=True)


def _entry_name(entry: object, index: int) -> str:
    """The package that an index entry names; one without a name keeps its place and is checked when it is read."""
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else f"#{index}"


def _stored_manifest(layout_dir: Path, entry: object, manifest: Manifest) -> Manifest | None:
    """The manifest that the library holds already with the same content, all files intact; None when it has to be written."""
    if entry is None:
        return None
    try:
        stored = _read_package(layout_dir, entry).manifest
    except KitError:  # a broken package is repaired by adding it again
        return None
    intact = all(store.file_matches(blob_path(layout_dir, f"sha256:{f.sha256}"), f) for f in stored.files)
    return stored if intact and same_content(stored, manifest) else None


def _copy_blob(
    layout_dir: Path, source: Path, ref: DataFile, progress: Progress | None, bytes_done: int, total: int
) -> None:
    """Copy ``source`` to its blob, hashing what passes: a file that changes meanwhile never becomes a blob."""
    target = blob_path(layout_dir, f"sha256:{ref.sha256}")
    if store.file_matches(target, ref):
        return
    with store.explained(target, "write"):
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            digest = hashlib.sha256()
            with os.fdopen(handle, "wb") as out, source.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    out.write(chunk)
                    bytes_done += len(chunk)
                    if progress:
                        progress(bytes_done, total)
                out.flush()
                os.fsync(out.fileno())
            if digest.hexdigest() != ref.sha256:
                raise IntegrityError(f"{source} changed while it was packaged: run the same command again.")
            temporary.chmod(0o644)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _write_image(layout_dir: Path, manifest: Manifest) -> dict[str, Any]:
    """Write the two JSON blobs of ``manifest``; returns its entry for the index."""
    image, config = oci.image_of(manifest)
    for data in (config, image):
        store.write_atomic(blob_path(layout_dir, f"sha256:{store.sha256_bytes(data)}"), data)
    entry = oci.descriptor(oci.IMAGE_TYPE, store.sha256_bytes(image), len(image), {REF_NAME: manifest.name})
    return entry | {"artifactType": oci.PACKAGE_TYPE}


def _write_index(layout_dir: Path, entries: Mapping[str, Any]) -> None:
    manifests = [entries[name] for name in sorted(entries)]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
    store.write_atomic(index_path(layout_dir), store.pretty_json(index).encode())
