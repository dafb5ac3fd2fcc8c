"""A library that is served, and what a device pulls from it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from kit import delivery, versions
from kit.api.arguments import PathLike, Progress, silent
from kit.delivery import Delivery
from kit.devices import recognise
from kit.knowledge import limits

if TYPE_CHECKING:
    pass


class Server:
    """A library that is served from a thread of this process until ``close``, or the end of a ``with`` block."""

    def __init__(self, library: Path, host: str, port: int) -> None:
        from kit.library import server

        self._running = contextlib.ExitStack()
        self.url = self._running.enter_context(server.running(library, delivery.choose, host, port))

    def close(self) -> None:
        """Stop serving; a second time does nothing."""
        self._running.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server {self.url}>"


def serve(library: PathLike, *, host: str = "127.0.0.1", port: int = 8000) -> Server:
    """Serve a library (a folder written by ``kit library add``) over HTTP in the background; ``port`` 0 takes a free one.

    Raises BackendUnavailable (starlette and uvicorn are missing), LinkError (the port is in use), BadRecord (no library).

    Example:
        >>> with kit.serve(LIBRARY, port=0) as server:
        ...     delivery = kit.pull(server.url, to=FOLDER, deadline_ms=1000, measure=False)
        >>> delivery.pulled.folder.is_dir()
        True
    """
    versions.need("Serving needs", "starlette", "uvicorn")
    return Server(Path(library), host, port)


def pull(
    url: str,
    *,
    to: PathLike = "models",
    deadline_ms: float | None = None,
    percentile: int = 99,
    memory_mb: float | None = None,
    min_accuracy: float | None = None,
    link_mbps: float | None = None,
    download_ms: float | None = None,
    device: str | None = None,
    backend: str = "onnxruntime",
    threads: int | None = None,
    dataset: str | None = None,
    measure: bool = True,
    progress: Progress | None = None,
) -> Delivery:
    """Ask the library at ``url`` for the variant that meets the limits, verify it, install it in ``to`` and measure it here.

    ``device`` names whose advertised latency counts (default: this machine's). What is installed is tried on its sample first, and
    replaces the install before it in one step. ``measure=False`` leaves the measurement out.

    Raises NoAnswer, UsageError, LinkError (call again: it resumes), IntegrityError, StorageError, BrokenPromise.

    Example:
        >>> with kit.serve(LIBRARY, port=0) as server:
        ...     delivery = kit.pull(server.url, to=FOLDER, deadline_ms=1000, measure=False)
        >>> delivery.pulled.manifest.name
        'resnet18-d1.1.1.1-w0.25-fp32-96'
    """
    need = limits.need_of(
        deadline_ms=deadline_ms, percentile=percentile, memory_mb=memory_mb, min_accuracy=min_accuracy, link_mbps=link_mbps,
        download_ms=download_ms, device=device or recognise().device_id, backend=backend, threads=threads, dataset=dataset,
    )  # fmt: skip
    step = progress or silent
    delivered = delivery.pull(
        url, need, Path(to), measure=measure,
        on_bytes=lambda received, total: step("download", received / max(total, 1)),
        on_step=lambda p: step(p.text, p.steps_done / max(p.planned, 1)),
    )  # fmt: skip
    if delivered.broken is not None:
        raise delivered.broken
    return delivered
