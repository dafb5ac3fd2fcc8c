"""A package as an OCI artifact: names, digests, image manifests. Pure: no folder, no network.

An OCI artifact (image-spec 1.1): ``artifactType`` names the kind, the config blob is kit's own :class:`Manifest`, each
layer is one file under its bare name. Both sides read packages through :func:`parse_image` and :func:`open_manifest`,
so the server and the client accept the same packages.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kit import records, store, trust
from kit.errors import BadRecord, IntegrityError, UntrustedPackage
from kit.records import Artifact, DataFile, FileRef, Manifest

PACKAGE_TYPE = "application/vnd.insitu-kit.package.v1+json"
CONFIG_TYPE = "application/vnd.insitu-kit.manifest.v1+json"
FILE_TYPE = "application/octet-stream"
IMAGE_TYPE = "application/vnd.oci.image.manifest.v1+json"
TITLE = "org.opencontainers.image.title"

MANIFEST_FILE = "manifest.json"

_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")  # one component of an OCI repository name
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Descriptor(BaseModel):
    """An OCI content descriptor: type, digest and size of one blob. Unknown keys are ignored, as OCI requires."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    media_type: str = Field(alias="mediaType")
    digest: str
    size: int = Field(ge=0)
    artifact_type: str | None = Field(default=None, alias="artifactType")
    annotations: dict[str, str] = {}


class Image(BaseModel):
    """The parts of an OCI image manifest that a package uses."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    media_type: str = Field(alias="mediaType")
    artifact_type: str | None = Field(default=None, alias="artifactType")
    config: Descriptor
    layers: tuple[Descriptor, ...]


def check_name(name: str) -> str:
    """``name`` itself when it can name a package, a folder and an OCI repository. Raises IntegrityError."""
    if len(name) > 128 or not _NAME.fullmatch(name):
        raise IntegrityError(f"{name[:80]!r} is no package name: it reads like resnet18-d6-w0.50-int8-32.")
    return name


def digest_hex(digest: str) -> str:
    """The 64 hex digits of ``sha256:…``; checked before any path is built from a digest. Raises IntegrityError."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise IntegrityError(f"{digest[:80]!r} is no sha256 digest: the package is refused.")
    return match[1]


def check_bytes(data: bytes, digest: str, what: str) -> bytes:
    """``data`` itself when its sha256 is ``digest``. Raises IntegrityError."""
    if store.sha256_bytes(data) != digest_hex(digest):
        raise IntegrityError(
            f"{what} has another sha256 than promised ({digest[:19]}…): refused; add the package again."
        )
    return data


def image_of(manifest: Manifest) -> tuple[bytes, bytes]:
    """``(image manifest, config)``: the two JSON blobs that describe ``manifest`` in OCI's schema, canonical."""
    config = store.canonical_json(manifest)
    annotations = {"org.opencontainers.image.created": manifest.created_utc, TITLE: manifest.name}
    if manifest.artifact.licence:
        annotations["org.opencontainers.image.licenses"] = manifest.artifact.licence
    image = {
        "schemaVersion": 2,
        "mediaType": IMAGE_TYPE,
        "artifactType": PACKAGE_TYPE,
        "config": descriptor(CONFIG_TYPE, store.sha256_bytes(config), len(config)),
        "layers": [descriptor(FILE_TYPE, f.sha256, f.size_bytes, {TITLE: f.file}) for f in manifest.files],
        "annotations": annotations,
    }
    return store.canonical_json(image), config


def descriptor(media_type: str, sha256: str, size: int, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    """An OCI descriptor as plain JSON."""
    plain: dict[str, Any] = {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": size}
    return plain | ({"annotations": annotations} if annotations else {})


def parse_image(data: bytes, source: str) -> Image:
    """The OCI image manifest in ``data``, whose hash the caller has checked.

    Raises BadRecord (not a package that this kit reads), IntegrityError (a digest or file name that could escape).
    """
    try:
        image = Image.model_validate(parse_json(data, source))
    except ValidationError as error:
        raise BadRecord(f"{source} is not an OCI image manifest: {records.first_problem(error)}.") from None
    media_types = {image.media_type, image.artifact_type, image.config.media_type} | {
        x.media_type for x in image.layers
    }
    unknown = media_types - {IMAGE_TYPE, PACKAGE_TYPE, CONFIG_TYPE, FILE_TYPE}
    if unknown or image.media_type != IMAGE_TYPE or image.config.media_type != CONFIG_TYPE:
        kinds = ", ".join(sorted(map(str, unknown))) or image.media_type
        raise BadRecord(f"{source} is of a kind that this kit does not read ({kinds[:200]}): upgrade kit.")
    if image.artifact_type != PACKAGE_TYPE:
        raise BadRecord(f"{source} is no kit package (artifactType {image.artifact_type!r}): ask another library.")
    for layer in (image.config, *image.layers):
        digest_hex(layer.digest)
    for layer in image.layers:
        _refuse_escape(layer.annotations.get(TITLE), source)
    return image


def open_manifest(image: Image, config: bytes, source: str) -> Manifest:
    """The manifest in ``config``, checked against the image that names it.

    Raises BadRecord (another schema), IntegrityError (wrong hash, an escaping name, files other than the layers).
    """
    check_bytes(config, image.config.digest, f"The manifest of {source}")
    data = parse_json(config, source)
    files = data.get("files") if isinstance(data, dict) else None
    for entry in files if isinstance(files, list) else []:
        _refuse_escape(entry.get("file") if isinstance(entry, dict) else None, source)
    manifest = records.load(Manifest, data, source)
    check_name(manifest.name)
    check_files(manifest, source)
    promised = [(f.file, f"sha256:{f.sha256}", f.size_bytes) for f in manifest.files]
    if [(x.annotations.get(TITLE), x.digest, x.size) for x in image.layers] != promised:
        raise IntegrityError(f"{source} lists other files than its manifest promises: refused; add the package again.")
    return manifest


def parse_json(data: bytes, source: str) -> Any:
    """``data`` as JSON. Raises BadRecord, a sentence that begins with ``source``."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise BadRecord(f"{source} is not JSON, so this kit cannot read it.") from None


def _refuse_escape(name: object, source: str) -> None:
    """A name that could leave its folder is an attack or a fault, never a matter of schema: it gets its own sentence."""
    try:
        DataFile(file=name, sha256="0" * 64, size_bytes=0)
    except ValidationError:
        raise IntegrityError(
            f"{source} names a file outside its folder ({str(name)[:80]!r}): refused, nothing installed."
        ) from None


def check_files(manifest: Manifest, source: str) -> None:
    """Raises IntegrityError for a manifest that names a file twice, or one of the names that installing needs."""
    names = [f.file for f in manifest.files]
    if len(set(names)) != len(names) or {trust.RECEIPT_FILE, MANIFEST_FILE} & set(names):
        raise IntegrityError(
            f"{source} names a file twice or takes a name that installing needs ({trust.RECEIPT_FILE}, {MANIFEST_FILE}): "
            "name the model differently."
        )
    artifact = manifest.artifact
    needed = {artifact.model, *map(package_file, artifact.data)} | ({artifact.sample} if artifact.sample else set())
    if not needed <= set(manifest.files):
        raise IntegrityError(
            f"{source} does not hold the model, weights and sample that it describes: add the package again."
        )
    _refuse_programs(manifest, source)


def package_file(file: DataFile) -> DataFile:
    """A file of weights as a manifest lists it: a bare name like all other files."""
    return FileRef(**file.model_dump()) if "/" not in file.file else file


def sidecar_name(artifact: Artifact) -> str:
    """The sidecar's file name: ``x.json`` of ``x.onnx``."""
    return Path(artifact.model.file).with_suffix(".json").name


def _refuse_programs(manifest: Manifest, source: str) -> None:
    """A package is one ONNX model, its sidecar, its files of weights and perhaps a sample, promised for runtimes that take ONNX: nothing
    else is let in."""
    artifact = manifest.artifact
    samples = {artifact.sample.file} if artifact.sample else set()
    weights = {file.file for file in artifact.data}
    formats = artifact.model.file.endswith(".onnx") and all(name.endswith(".npz") for name in samples)
    strangers = {f.file for f in manifest.files} - {artifact.model.file, sidecar_name(artifact)} - samples - weights
    if artifact.torch_program is not None:
        strangers.add(artifact.torch_program.file)
    if strangers or not formats or len(manifest.files) != 2 + len(samples) + len(weights):
        listed = ", ".join(repr(name[:80]) for name in sorted(strangers or {f.file for f in manifest.files}))
        raise UntrustedPackage(
            f"{source} is more or other than an ONNX model, its sidecar, weights and a sample ({listed}), and a package holds no "
            "programs: refused, nothing installed; add the package again with this kit."
        )
    for promise in manifest.promises:
        trust.refuse_backend(promise.backend, f"{source} promises what")
