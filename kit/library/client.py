"""The client: a device sends its requirement, receives a package, verifies it, tries it and only then makes it current.

Every byte is hashed once, as it passes. A broken link leaves a ``.partial`` file; the same command goes on from its
last byte by an HTTP Range. Nothing that was not verified is opened, and nothing but the files of the verified manifest
is kept.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from kit import records, store, trust, units
from kit.errors import IntegrityError, KitError, LinkError, NoAnswer, StorageError, UntrustedPackage, UsageError
from kit.library import oci, package, swap
from kit.records import Answer, DataFile, InstallReceipt, Manifest, Need

Check = Callable[[Path, Manifest], str]  # runs the staged model; returns what was compared, or raises to refuse
Progress = Callable[[int, int], None]  # (bytes received, bytes in total)
Accept = Callable[["PulledPackage"], bool]  # whether an install becomes the current one

MAX_PACKAGE_BYTES = 4 << 30
MAX_JSON_BYTES = 4 << 20  # the size that OCI sets for a manifest
SPARE_BYTES = 1 << 20  # room for the receipt and for the file system's own books
TIMEOUT = httpx.Timeout(30.0, connect=10.0)


@dataclass(frozen=True)
class PulledPackage:
    """What a pull leaves: the install's ``folder``, and the library's ``answer`` that led to it.

    The receipt counts the file bytes that this call received and the seconds from the first request for them to the
    last verified one; both are 0 when the package was installed already.
    """

    receipt: InstallReceipt
    manifest: Manifest
    answer: Answer
    folder: Path


@dataclass(frozen=True)
class _Choice:
    package: str
    digest: str
    answer: Answer


def pull(
    url: str,
    need: Need,
    to: Path,
    *,
    check: Check,
    accept: Accept = lambda _: True,
    progress: Progress | None = None,
    max_bytes: int = MAX_PACKAGE_BYTES,
    transport: httpx.BaseTransport | None = None,
) -> PulledPackage:
    """Ask the library at ``url`` for a package that meets ``need`` and make it the current install in ``to``.

    ``accept`` is called when the package is installed and verified. Where it returns False, the package stays in its folder and the
    install that was current still is; the next pull of the same package uses it, and of another one removes it.
    Raises NoAnswer (nothing fits), UsageError (address, need), LinkError (unreachable, broken off: call again),
    IntegrityError and BadRecord (not what was promised), UntrustedPackage (could run code here), StorageError (read-only,
    full, too large), and whatever ``check`` and ``accept`` raise. After any of them the install that was current still is.
    """
    base = _address(url)
    with _client(base, transport) as client:
        choice = _choose(client, need)
        with swap.slot(to):
            if swap.find(to, choice.package, choice.digest):
                pulled = _try_installed(to, choice, check)
            else:
                pulled = _install(client, choice, to, check, progress, max_bytes)
            if accept(pulled):
                swap.point(to, pulled.folder)
            return pulled


def _try_installed(to: Path, choice: _Choice, check: Check) -> PulledPackage:
    """The package is installed already: try it with today's runtime."""
    folder = swap.folder_of(to, choice.package, choice.digest)
    receipt, manifest = swap.read_install(folder)
    oci.check_files(manifest, f"Package {choice.package}")  # an older kit may have installed it
    _check_answer(choice, manifest)
    package.check_sidecar(folder, manifest)
    checked = check(folder, manifest)
    receipt = receipt.model_copy(update={"bytes_downloaded": 0, "download_s": 0.0, "checked": checked})
    return PulledPackage(receipt, manifest, choice.answer, folder)


def _install(
    client: httpx.Client, choice: _Choice, to: Path, check: Check, progress: Progress | None, max_bytes: int
) -> PulledPackage:
    start_s = time.perf_counter()
    manifest = _fetch_manifest(client, choice)
    _check_answer(choice, manifest)
    if manifest.size_bytes > max_bytes:
        raise StorageError(
            f"{choice.package} has {units.size(manifest.size_bytes)}, more than the {units.size(max_bytes)} allowed."
        )
    staged = swap.stage(to, choice.digest)
    received = _fetch_files(client, manifest, staged, progress)
    download_s = time.perf_counter() - start_s
    swap.keep_only(staged, manifest)
    try:
        package.check_sidecar(staged, manifest)
        checked = check(staged, manifest)
    except IntegrityError:  # it is another network than promised, or could run code: its partial files are of no use
        swap.discard(staged)
        raise
    swap.keep_only(staged, manifest)
    receipt = InstallReceipt(
        package=manifest.name,
        manifest_digest=choice.digest,
        source=str(client.base_url).rstrip("/"),
        installed_utc=store.utc_now(),
        bytes_downloaded=received,
        download_s=download_s,
        checked=checked,
    )
    return PulledPackage(receipt, manifest, choice.answer, swap.install(to, staged, receipt, manifest))


# --------------------------------------------------------------------------------------------------------- conversation


def _address(url: str) -> str:
    """``url`` without its closing slash. Raises UsageError when it is no HTTP address."""
    try:
        parsed = httpx.URL(url)
        valid = parsed.scheme in ("http", "https") and bool(parsed.host) and not (parsed.query or parsed.fragment)
    except (httpx.InvalidURL, UnicodeError):
        valid = False
    if not valid:
        raise UsageError(f"'{_printable(url)}' is no library address: it reads like http://192.168.1.5:8000.")
    return url.rstrip("/")


def _client(base: str, transport: httpx.BaseTransport | None) -> httpx.Client:
    """Redirects are not followed; a proxy from the environment is not used for this machine itself."""
    host = httpx.URL(base).host
    local = host in ("localhost", "::1") or host.startswith("127.")
    secure = base.lower().startswith(
        "https:"
    )  # loading the certificate store is the slowest part of a small plain pull
    return httpx.Client(base_url=base, transport=transport, timeout=TIMEOUT, trust_env=not local, verify=secure)


@contextmanager
def _linked(base: httpx.URL, message: str) -> Iterator[None]:
    """Turn what httpx raises into a LinkError; ``message`` is the sentence for a link that breaks here."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout):
        raise LinkError(
            f"No library answers at {base}: check the address, and that kit library serve is running there."
        ) from None
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise LinkError(f"{message} ({_printable(str(error)) or type(error).__name__}).") from None


def _choose(client: httpx.Client, need: Need) -> _Choice:
    request = client.build_request("POST", "/v1/choose", json=need.model_dump(mode="json"))
    data = oci.parse_json(_fetch_small(client, request, "the choice"), f"The reply of {client.base_url}")
    try:
        name, digest = oci.check_name(data["package"]), data["manifest_digest"]
        oci.digest_hex(digest)
        answer = records.load(Answer, data["answer"], f"The answer of {client.base_url}")
    except (KeyError, TypeError):
        raise LinkError(_not_a_library(client)) from None
    _check_backend(client, need, answer)
    return _Choice(name, digest, answer)


def _check_backend(client: httpx.Client, need: Need, answer: Answer) -> None:
    """The device measures what it installs in the runtime of the row: that one takes ONNX alone and is the one that the need names.

    Raises UntrustedPackage.
    """
    if answer.chosen is None:
        return
    trust.refuse_backend(answer.chosen.backend, f"The choice of {client.base_url}")
    if need.backend not in (None, answer.chosen.backend):
        raise UntrustedPackage(
            f"The choice of {client.base_url} is for backend {answer.chosen.backend} and {need.backend} was requested: refused, "
            "nothing installed; ask another library."
        )


def _fetch_manifest(client: httpx.Client, choice: _Choice) -> Manifest:
    source = f"Package {choice.package}"
    path = f"/v2/{choice.package}"
    accept = {"Accept": oci.IMAGE_TYPE}
    request = client.build_request("GET", f"{path}/manifests/{choice.digest}", headers=accept)
    data = oci.check_bytes(_fetch_small(client, request, "the manifest"), choice.digest, source)
    image = oci.parse_image(data, source)
    if image.config.size > MAX_JSON_BYTES:
        raise IntegrityError(f"{source} has a manifest of {units.size(image.config.size)}: refused, nothing installed.")
    request = client.build_request("GET", f"{path}/blobs/{image.config.digest}")
    manifest = oci.open_manifest(image, _fetch_small(client, request, "the manifest"), source)
    if manifest.name != choice.package:
        raise IntegrityError(f"{source} calls itself {manifest.name}: refused, nothing installed.")
    return manifest


def _check_answer(choice: _Choice, manifest: Manifest) -> None:
    """The promise that the device is given belongs to the very file that it installs. Raises IntegrityError."""
    chosen = choice.answer.chosen
    if chosen is None or chosen.sha256 != manifest.artifact.content_sha256:
        raise IntegrityError(
            f"The library's answer is about another model than package {choice.package} holds: refused, nothing "
            "installed; add the package again."
        )


def _fetch_small(client: httpx.Client, request: httpx.Request, what: str) -> bytes:
    """The body of a reply that has to be small and has to be a success."""
    with _linked(client.base_url, f"The link to {client.base_url} broke during {what}: run the same command again"):
        response = client.send(request, stream=True)
        try:
            body = b""
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_JSON_BYTES:
                    raise IntegrityError(
                        f"{client.base_url} sends more than {units.size(MAX_JSON_BYTES)} as {what}: refused."
                    )
        finally:
            response.close()
    if response.status_code != 200:
        raise _refused(client, response, body)
    return body


def _refused(client: httpx.Client, response: httpx.Response, body: bytes) -> KitError:
    """The server's refusal as the error that it stands for here."""
    if response.is_redirect:
        target = _printable(response.headers.get("location", "elsewhere"))
        return LinkError(f"{client.base_url} redirects to {target}: give the library's own address.")
    try:
        refusal = json.loads(body)
        text, code = _printable(str(refusal["error"])), refusal["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return LinkError(_not_a_library(client))
    if code == "no_answer":
        return NoAnswer(text)
    if code == "bad_need":
        return UsageError(text)
    return LinkError(f"The library at {client.base_url} refuses ({response.status_code}): {text}")


def _not_a_library(client: httpx.Client) -> str:
    return f"What answers at {client.base_url} is no kit library: check address and port."


def _printable(text: str) -> str:
    """Text from the network for the terminal: one line, printable, at most 1000 characters."""
    return "".join(c if c.isprintable() else " " for c in text[:1000]).strip()


# -------------------------------------------------------------------------------------------------------------- files


class _Partial:
    """A file in transfer, and the running hash of the bytes received: resuming reads the old bytes once, then each new one
    is hashed as it is written."""

    def __init__(self, staged: Path, ref: DataFile) -> None:
        self.ref = ref
        # hidden, so that it can never be mistaken for a file of the package
        self.path = staged / f".{ref.sha256}.partial"
        self.file = self.path.open("a+b")
        self.digest = hashlib.sha256()
        self.size_bytes = 0
        self.file.seek(0)
        while chunk := self.file.read(1 << 20):
            self.digest.update(chunk)
            self.size_bytes += len(chunk)

    def restart(self) -> None:
        self.file.truncate(0)
        self.digest, self.size_bytes = hashlib.sha256(), 0

    def append(self, chunk: bytes) -> None:
        if self.size_bytes + len(chunk) > self.ref.size_bytes:
            raise IntegrityError(f"{self.ref.file} is longer than promised: refused, nothing installed.")
        self.file.write(chunk)
        self.digest.update(chunk)
        self.size_bytes += len(chunk)

    def finish(self, target: Path) -> None:
        """Give the file its name once its hash is the promised one and its bytes are on the disk."""
        if self.digest.hexdigest() != self.ref.sha256:
            raise IntegrityError(
                f"{self.ref.file} arrived with another sha256 than promised: refused, nothing installed. "
                "Run the same command again; if it stays so, add the package again."
            )
        self.file.flush()
        os.fsync(self.file.fileno())
        self.path.replace(target)


def _fetch_files(client: httpx.Client, manifest: Manifest, staged: Path, progress: Progress | None) -> int:
    """Fetch every file of ``manifest`` into ``staged``. Returns the bytes received over the link."""
    with store.explained(staged, "write"):
        missing = [f for f in manifest.files if not store.file_matches(staged / f.file, f)]
        _check_room(staged, missing)
        bytes_before = manifest.size_bytes - sum(f.size_bytes for f in missing)
        received = 0
        for ref in missing:

            def file_progress(size: int, bytes_before: int = bytes_before) -> None:
                if progress:
                    progress(bytes_before + size, manifest.size_bytes)

            received += _fetch_file(client, manifest.name, ref, staged, file_progress)
            bytes_before += ref.size_bytes
    return received


def _check_room(staged: Path, missing: list[DataFile]) -> None:
    partials = [staged / f".{f.sha256}.partial" for f in missing]
    partial_bytes = sum(p.stat().st_size for p in partials if p.exists())
    needed = sum(f.size_bytes for f in missing) - partial_bytes + SPARE_BYTES
    filesystem = os.statvfs(staged)
    free = filesystem.f_bavail * filesystem.f_frsize
    if needed > free:
        raise StorageError(
            f"The disk is too full for this package: {units.size(needed)} are needed and {units.size(free)} are free under "
            f"{staged.parent.parent}. Free some space and run the same command again."
        )


def _fetch_file(client: httpx.Client, name: str, ref: DataFile, staged: Path, progress: Callable[[int], None]) -> int:
    partial = _Partial(staged, ref)
    try:
        with partial.file:
            received = _stream(client, name, partial, progress) if partial.size_bytes != ref.size_bytes else 0
            (staged / ref.file).parent.mkdir(parents=True, exist_ok=True)
            partial.finish(staged / ref.file)
    except IntegrityError:
        partial.path.unlink(missing_ok=True)
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # free the space again: the device has other work to do
            swap.discard(staged)
        raise
    return received


def _stream(client: httpx.Client, name: str, partial: _Partial, progress: Callable[[int], None]) -> int:
    """Receive the rest of a file into ``partial``. Returns the bytes received. Raises LinkError, IntegrityError."""
    ref = partial.ref
    if partial.size_bytes > ref.size_bytes:
        partial.restart()
    headers = {"Accept-Encoding": "identity", "Accept": oci.FILE_TYPE}
    if partial.size_bytes:
        headers["Range"] = f"bytes={partial.size_bytes}-"
    broken = f"The link to {client.base_url} broke off in {ref.file}: run the same command again, it goes on from there"
    with (
        _linked(client.base_url, broken),
        client.stream("GET", f"/v2/{name}/blobs/sha256:{ref.sha256}", headers=headers) as response,
    ):
        _check_headers(client, response, partial)
        start = partial.size_bytes
        progress(start)
        for chunk in response.iter_raw():
            partial.append(chunk)
            progress(partial.size_bytes)
    if partial.size_bytes < ref.size_bytes:
        raise LinkError(f"{broken} ({partial.size_bytes} of {ref.size_bytes} bytes are here).")
    return partial.size_bytes - start


def _check_headers(client: httpx.Client, response: httpx.Response, partial: _Partial) -> None:
    """Check the headers of a blob's reply; a server that ignores the Range sends the complete file, and it starts from byte 0."""
    file, size = partial.ref.file, partial.ref.size_bytes
    if response.status_code == 200:
        partial.restart()
    elif response.status_code == 416:
        raise IntegrityError(f"The library holds fewer bytes of {file} than promised: refused; add the package again.")
    elif response.status_code != 206:
        raise _refused(client, response, b"".join(_bounded(response)))
    elif response.headers.get("content-range") != f"bytes {partial.size_bytes}-{size - 1}/{size}":
        raise IntegrityError(f"The library sends another part of {file} than was requested: refused; run again.")
    expected = size - partial.size_bytes
    if response.headers.get("content-length", str(expected)) != str(expected):
        raise IntegrityError(
            f"The library announces {_printable(response.headers['content-length'])} bytes of {file} where {expected} were "
            "promised: refused, nothing installed; add the package again."
        )


def _bounded(response: httpx.Response) -> Iterator[bytes]:
    remaining = MAX_JSON_BYTES
    for chunk in response.iter_bytes():
        yield chunk[:remaining]
        remaining -= len(chunk)
        if remaining <= 0:
            return
