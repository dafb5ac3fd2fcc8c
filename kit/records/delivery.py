"""What a package promises and holds, and what a device notes of its install."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kit.records.measurement import Label
from kit.records.network import Artifact, DataFile, FileRef
from kit.records.record import Record


class Promise(Record):
    """Measured latency of this very file on one device, backend and thread count, with the record that it comes from."""

    device_id: str
    backend: str
    threads: int
    median_s: float
    p99_s: float
    memory_bytes: int
    label: Label
    record_id: str


class Manifest(Record):
    """What a package holds and promises. Files are named by hash; nothing outside ``files`` is ever installed."""

    kind: Literal["manifest"] = "manifest"
    schema_version: Literal[1] = 1
    name: str
    created_utc: str
    kit_version: str
    artifact: Artifact
    files: tuple[FileRef | DataFile, ...] = Field(min_length=1)
    promises: tuple[Promise, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(f.size_bytes for f in self.files)


class InstallReceipt(Record):
    """What a pull installed, from where, and how long that took."""

    kind: Literal["install"] = "install"
    schema_version: Literal[1] = 1
    package: str
    manifest_digest: str
    source: str
    installed_utc: str
    bytes_downloaded: int
    download_s: float
    checked: str  # what the sample run compared, as a sentence
