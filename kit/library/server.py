"""The server: answers a device's need with a package, and hands out its bytes.

========  ================================  ============================================================================
GET       /healthz                          ``{"status": "ok", "packages": n}``
GET       /v1/packages                      every package with its manifest
POST      /v1/choose                        body: a Need; answers with the chosen package, its digest and the Answer
GET HEAD  /v2/                              version check of the OCI distribution protocol
GET HEAD  /v2/<name>/manifests/<ref>        image manifest; ``ref`` is its digest or "latest"
GET HEAD  /v2/<name>/blobs/<digest>         a blob; Range, If-Range and If-None-Match are honoured
========  ================================  ============================================================================

Refusals are ``{"error": sentence, "code": word}`` and OCI's ``errors`` list. The choice itself is a
callable that the caller passes.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from kit import records, trust
from kit.errors import BadRecord, KitError, LinkError, NoAnswer, UsageError
from kit.library import oci, package
from kit.library.package import Package
from kit.records import Answer, Manifest, Need

Choose = Callable[[list[Manifest], Need], Answer]

MAX_NEED_BYTES = 64 << 10
STOP_S = 5.0  # an unfinished transfer gets this long when the server is stopped

log = logging.getLogger(__name__)


class _Catalog:
    """The packages, read again when ``index.json`` is another file than last time (it is only ever replaced)."""

    def __init__(self, layout_dir: Path) -> None:
        self.layout_dir = layout_dir
        self._lock = threading.Lock()
        self._stamp = self._index_stamp()
        self._packages = package.read_catalog(layout_dir)

    def packages(self) -> list[Package]:
        with self._lock:
            stamp = self._index_stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._packages = package.read_catalog(self.layout_dir)
                except KitError as error:  # a running server goes on with the last catalog that it could read
                    log.warning("The library changed and cannot be read, serving the packages read before: %s", error)
            return self._packages

    def find(self, name: str) -> Package | None:
        return next((p for p in self.packages() if p.manifest.name == name), None)

    def _index_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = package.index_path(self.layout_dir).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


class _Blob(FileResponse):
    chunk_size = package.CHUNK_BYTES


def _refusal(status: int, code: str, text: str) -> JSONResponse:
    body = {"error": text, "code": code, "errors": [{"code": code.upper(), "message": text}]}
    return JSONResponse(body, status)


def _content(request: Request, path: Path, digest: str, media_type: str) -> Response:
    """A content-addressed file: its digest is its validator and it never changes."""
    etag = f'"{digest}"'
    headers = {"ETag": etag, "Docker-Content-Digest": digest, "Cache-Control": "public, max-age=31536000, immutable"}
    if etag in (tag.strip() for tag in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    return _Blob(path, headers=headers, media_type=media_type)


async def _read_need(request: Request) -> Need:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_NEED_BYTES:
            raise BadRecord(f"The need is longer than {MAX_NEED_BYTES} bytes: send the limits alone.")
    return records.load(Need, oci.parse_json(body, "The need"), "The need")


def _answer(catalog: _Catalog, choose: Choose, need: Need) -> Response:
    packages = catalog.packages()
    try:
        answer = choose([p.manifest for p in packages], need)
    except NoAnswer as error:
        return _refusal(404, "no_answer", str(error))
    except UsageError as error:
        return _refusal(422, "bad_need", str(error))
    except KitError as error:
        return _refusal(500, "failed", str(error))
    if answer.chosen is None:
        return _refusal(404, "no_answer", answer.text)
    if answer.chosen.backend not in trust.ONNX_BACKENDS:
        return _refusal(
            404, "not_packaged", f"The choice is for backend {answer.chosen.backend}, and packages hold ONNX models."
        )
    chosen_id = answer.chosen.artifact_id
    for listed in packages:
        artifact = listed.manifest.artifact
        if (artifact.artifact_id, artifact.content_sha256) == (chosen_id, answer.chosen.sha256):
            return JSONResponse({**_summary(listed), "answer": answer.model_dump(mode="json")})
    return _refusal(404, "not_packaged", f"The choice is {chosen_id}, and this library does not hold that very file.")


def _summary(listed: Package) -> dict[str, object]:
    return {
        "package": listed.manifest.name,
        "manifest_digest": listed.digest,
        "size_bytes": listed.manifest.size_bytes,
    }


class _Library:
    """The endpoints over one catalog. Plain methods run in Starlette's worker threads."""

    def __init__(self, layout_dir: Path, choose: Choose) -> None:
        self.layout_dir = layout_dir
        self.choose = choose
        self.catalog = _Catalog(layout_dir)

    def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "packages": len(self.catalog.packages())})

    def list_packages(self, request: Request) -> Response:
        packages = [{**_summary(p), "manifest": p.manifest.model_dump(mode="json")} for p in self.catalog.packages()]
        return JSONResponse({"packages": packages})

    async def choose_package(self, request: Request) -> Response:
        try:
            need = await _read_need(request)
        except UsageError as error:
            return _refusal(422, "bad_need", str(error))
        return await run_in_threadpool(_answer, self.catalog, self.choose, need)

    def version(self, request: Request) -> Response:
        return JSONResponse({}, headers={"Docker-Distribution-API-Version": "registry/2.0"})

    def image(self, request: Request) -> Response:
        listed = self.catalog.find(request.path_params["name"])
        if listed is None:
            return _refusal(404, "name_unknown", "No package of that name is here.")
        if request.path_params["ref"] not in ("latest", listed.digest):
            return _refusal(404, "manifest_unknown", f"Package {listed.manifest.name} has no such manifest (any more).")
        return _content(request, package.blob_path(self.layout_dir, listed.digest), listed.digest, oci.IMAGE_TYPE)

    def blob(self, request: Request) -> Response:
        if self.catalog.find(request.path_params["name"]) is None:
            return _refusal(404, "name_unknown", "No package of that name is here.")
        digest = request.path_params["digest"]
        try:
            path = package.blob_path(self.layout_dir, digest)
        except KitError as error:
            return _refusal(400, "digest_invalid", str(error))
        if not path.is_file():
            return _refusal(404, "blob_unknown", "No blob of that digest is here.")
        return _content(request, path, digest, oci.FILE_TYPE)


def make_app(layout_dir: Path, choose: Choose) -> Starlette:
    """The web application over the library at ``layout_dir``.

    ``choose`` gets the packages' manifests and the need, in a worker thread; it returns an Answer whose ``chosen`` row
    is one of them (by artifact id and sha256) or raises NoAnswer. Raises what :func:`package.read_catalog` raises.
    """
    library = _Library(layout_dir, choose)
    routes = [
        Route("/healthz", library.health),
        Route("/v1/packages", library.list_packages),
        Route("/v1/choose", library.choose_package, methods=["POST"]),
        Route("/v2/", library.version),
        Route("/v2/{name}/manifests/{ref}", library.image),
        Route("/v2/{name}/blobs/{digest}", library.blob),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_refusal})


def _http_refusal(request: Request, error: Exception) -> Response | Awaitable[Response]:
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = "There is nothing at this address: a kit library has /v1/packages, /v1/choose and /v2/."
    return _refusal(status, "not_found", text) if status == 404 else _refusal(status, "refused", f"HTTP {status}.")


# ------------------------------------------------------------------------------------------------------------- running


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on ``host:port`` (0: any free port). Raises LinkError when the port cannot be had."""
    if not 0 <= port <= 65535:  # getaddrinfo would take it modulo 65536
        raise LinkError(f"There is no port {port}: choose one from 1024 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise LinkError(_bind_refusal(host, port, error)) from None
    return listener


def _bind_refusal(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use: choose another with --port, or stop what listens there."
    if error.errno == errno.EACCES:
        return f"No permission to listen on port {port}: choose one from 1024 up."
    return f"Cannot listen on {host}:{port} ({error}): choose an address of this machine."


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(app: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=int(STOP_S)
    )
    return uvicorn.Server(config)


def serve(
    layout_dir: Path, choose: Choose, host: str, port: int, *, ready: Callable[[str], None] | None = None
) -> None:
    """Serve until interrupted (Ctrl-C). ``ready`` gets the address once the port is bound.

    Raises LinkError (the port is in use) and what :func:`make_app` raises.
    """
    app = make_app(layout_dir, choose)
    with contextlib.closing(bind(host, port)) as listener:
        if ready:
            ready(_url(listener))
        with contextlib.suppress(KeyboardInterrupt):
            _server(app).run(sockets=[listener])


@contextlib.contextmanager
def running(layout_dir: Path, choose: Choose, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve from a thread of this process while the block lasts; yields the address."""
    server = _server(make_app(layout_dir, choose))
    with contextlib.closing(bind(host, port)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.005)
            yield _url(listener)
        finally:
            server.should_exit = True
            thread.join(2 * STOP_S)
