"""One writer at a time: a lock that dies with its process, so a kill never leaves a folder locked."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit import store
from kit.errors import StorageError


@contextmanager
def only_writer(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold ``folder/.lock`` (the folder is made when missing). Without ``wait``, a held lock raises StorageError."""
    path = store.make_folder(folder) / ".lock"
    with store.explained(path, "write"):
        file = path.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise StorageError(f"Another kit is writing in {folder}: wait until it has ended.") from None
        yield
