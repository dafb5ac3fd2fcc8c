"""Files: canonical JSON, sha256, atomic write, append-only JSONL, the lock of a folder.

Whatever is written here is either complete or absent: a temporary file in the same folder, flushed, then
renamed. A line appended to a JSONL file is one write and one flush; a reader skips a torn last line.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from kit import folders, records
from kit.errors import BadRecord, MeasurementError, StorageError, UsageError
from kit.records import Record

log = logging.getLogger(__name__)

SESSIONS = "sessions"  # the folder of a device's sessions, next to its profiles


def utc_now() -> str:
    """ISO 8601, UTC, to the microsecond."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def slug(text: str) -> str:
    """``text`` as a lower-case file name of letters, digits, '.', '_' and '-'."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-.") or "unnamed"


def canonical_json(value: Record | dict[str, Any] | list[Any]) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes."""
    data = value.model_dump(mode="json") if isinstance(value, Record) else value
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def pretty_json(value: Record | dict[str, Any] | list[Any]) -> str:
    """A record as indented JSON with a newline at its end."""
    data = value.model_dump(mode="json") if isinstance(value, Record) else value
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def sha256_bytes(data: bytes) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises StorageError."""
    with explained(path, "read"), path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def file_ref(path: Path) -> records.FileRef:
    """What a record keeps of the file at ``path``. Raises UsageError: it is missing, or has a name that cannot be stored."""
    sha256, size_bytes = sha256_file(path), path.stat().st_size
    try:
        return records.FileRef(file=path.name, sha256=sha256, size_bytes=size_bytes)
    except ValueError:
        raise UsageError(
            f"{path} has a name that kit cannot store: rename it without leading dot or backslash."
        ) from None


def file_matches(path: Path, file: records.DataFile) -> bool:
    """Whether the file at ``path`` is the one that ``file`` promises (reads all of it)."""
    return path.is_file() and path.stat().st_size == file.size_bytes and sha256_file(path) == file.sha256


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turn the operating system's refusals into one sentence that says what to do."""
    try:
        yield
    except OSError as error:
        raise _storage_error(path, doing, error) from None


def _storage_error(path: Path, doing: str, error: OSError) -> StorageError | UsageError:
    if error.errno == errno.ENOSPC:
        return StorageError(
            f"The disk is full: could not {doing} {path}. Free some space and run the same command again."
        )
    if error.errno == errno.EDQUOT:
        return StorageError(f"The disk quota is used up: could not {doing} {path}. Free some space and run again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(f"No permission to {doing} {path}: choose another folder or change its permissions.")
    if error.errno == errno.ENOENT and doing == "read":
        return UsageError(f"{path} does not exist.")
    if error.errno == errno.EISDIR:
        return UsageError(f"{path} is a folder where a file was expected.")
    return StorageError(f"Could not {doing} {path}: {error.strerror or error}.")


def make_folder(path: Path) -> Path:
    """``path`` as an existing folder. Raises StorageError with the way out."""
    with explained(path, "create the folder"):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"{path} is, or lies under, a file: choose a folder.") from None
    return path


@contextmanager
def locked(folder: Path, busy: str | None = None) -> Iterator[None]:
    """Hold ``folder/.lock`` (the folder is created when missing): one process at a time, and a kill leaves nothing locked.

    Where another process holds it, StorageError with the sentence ``busy``; without one, the call waits.
    """
    path = make_folder(folder) / ".lock"
    with explained(path, "write"):
        file = path.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise StorageError(busy or f"{path} is held by another process.") from None
        yield


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either its old content or all of the new one, whatever happens meanwhile."""
    make_folder(path.parent)
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no regular file: name a file to write.")
    with explained(path, "write"):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    log.info("wrote %s, %d bytes", path, len(data))


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, whole or not at all. Raises StorageError."""
    write_atomic(path, pretty_json(record).encode())


def read_json(path: Path) -> Any:
    """Parsed JSON. Raises UsageError when it is missing, BadRecord when it is not JSON."""
    with explained(path, "read"):
        text = path.read_bytes()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"{path} is not JSON ({str(error)[:80]}): give a file that kit wrote.") from None


def read_record(path: Path, kind: type[records.R]) -> records.R:
    """The record of this class in a JSON file. Raises UsageError (no such file), BadRecord, StorageError."""
    return records.load(kind, read_json(path), str(path))


def is_of_kind(path: Path, kind: str) -> bool:
    """Whether ``path`` is JSON of kit's own ``kind``, such as "artifact"; somebody else's, or none, is not."""
    try:
        data = read_json(path) if path.is_file() else None
    except BadRecord:
        return False
    return isinstance(data, dict) and data.get("kind") == kind


def append_line(path: Path, record: Record | dict[str, Any]) -> None:
    """Append one JSON line and flush it to the disk; a torn last line left by a kill is cut off first."""
    make_folder(path.parent)
    line = canonical_json(record) + b"\n"
    with explained(path, "write"), path.open("a+b") as file:
        start = _end_of_complete_lines(file)
        try:
            file.truncate(start)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, start)
            raise
    log.log(logging.DEBUG if path.name.startswith(".") else logging.INFO, "appended to %s, %d bytes", path, len(line))


def _end_of_complete_lines(file: BinaryIO) -> int:
    """Where to go on writing: the end, or, after a kill in the middle of a line, the end of the line before it.

    A last line that lacks only its newline is completed.
    """
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return 0
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return end
    file.seek(0)
    complete, newline, torn = file.read().rpartition(b"\n")
    try:
        json.loads(torn)
    except (ValueError, RecursionError):
        return len(complete) + len(newline)
    file.write(b"\n")
    return end + 1


def read_lines(path: Path, *, torn_ok: bool = False) -> list[tuple[str, Any]]:
    """``(place, parsed)`` for every line of a JSONL file. A torn last line (killed writer) is skipped, any other broken line
    raises BadRecord. A file that holds nothing but a torn line is refused, unless it is the caller's own (``torn_ok``)."""
    with explained(path, "read"):
        data = path.read_bytes()
    complete, _, torn = data.rpartition(b"\n")
    lines = complete.split(b"\n") if complete else []
    parsed = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            parsed.append((f"{path}:{number}", json.loads(line)))
        except (ValueError, RecursionError):
            raise BadRecord(f"{path}:{number} is not JSON: give a .jsonl file that kit wrote.") from None
    if torn.strip():
        try:
            parsed.append((f"{path}:{len(lines) + 1}", json.loads(torn)))
        except (ValueError, RecursionError):
            if not parsed and not torn_ok:
                raise BadRecord(f"{path} is not JSON lines: give a .jsonl file that kit wrote.") from None
    return parsed


def decisive(profiles: Iterable[records.ProfileRecord]) -> list[records.ProfileRecord]:
    """Of the records of each model file, device, backend and operating point: the newest trusted one, else the newest.

    ``profiles`` come oldest first, as :func:`read_profiles` gives them. A noisy repetition does not unseat a good measurement.
    """
    deciding: dict[tuple[str, str, str, str], records.ProfileRecord] = {}
    for profile in profiles:
        how = profile.settings
        point = how.model_copy(update={"batch": profile.batch or 1}).name  # t1 and t1-b1 of a free batch are one point
        key = (profile.artifact.content_sha256, profile.device.device_id, how.backend, point)
        if key not in deciding or profile.trusted or not deciding[key].trusted:
            deciding[key] = profile
    return list(deciding.values())


def measured(
    artifact_id: str, profiles: Iterable[records.ProfileRecord], sha256: str | None = None
) -> records.ProfileRecord:
    """The deciding record of a network among those that were measured; ``sha256`` is that of its model file where it matters.

    Raises MeasurementError: there is none.
    """
    own = [p for p in profiles if p.artifact.artifact_id == artifact_id and sha256 in (None, p.artifact.model.sha256)]
    deciding = decisive(p for p in own if p.measurement is not None)
    if not deciding:
        reason = f": {own[-1].reason}" if own and own[-1].reason else ""
        raise MeasurementError(f"{artifact_id} was not measured{reason.rstrip('.')}.")
    return deciding[-1]


def read_profiles(paths: list[Path]) -> list[records.ProfileRecord]:
    """Every profile record of the given .jsonl files, folders of such files, and device ids, the oldest first.

    A folder's ``sessions/`` are left alone; :func:`kit.folders.of_devices` says which folder a device id names.
    Raises UsageError (missing), BadRecord (another schema, empty).
    """
    files: list[Path] = []
    for path in folders.of_devices(paths):
        if path.is_dir():
            profile_files = sorted(
                p for p in path.rglob("*.jsonl") if not p.name.startswith(".") and p.parent.name != SESSIONS
            )
            if not profile_files:
                raise BadRecord(f"{path} holds no .jsonl profile: run kit profile first.")
            files += profile_files
        else:
            files.append(path)
    out: list[records.ProfileRecord] = []
    for path in files:
        lines = read_lines(path)
        if not lines:
            raise BadRecord(f"{path} is an empty profile: run kit profile first.")
        out += [records.load(records.ProfileRecord, data, place) for place, data in lines]
        log.info("read %s, %d records", path, len(lines))
    return sorted(out, key=lambda record: record.created_utc)
