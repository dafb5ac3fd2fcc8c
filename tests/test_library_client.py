"""Pulling over a real server on the loopback: what is installed, what is refused, what a broken link or a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from library_case import check, choose, make_artifact, make_promise, read_only, small_disk

from kit import store
from kit.errors import BadRecord, IntegrityError, KitError, LinkError, NoAnswer, StorageError, UsageError
from kit.library import client, oci, package, server, swap
from kit.records import Artifact, DataFile, Manifest, Need, load

SIZE = 300_000


class Site:
    """A library that holds one package of SIZE bytes, its server's address, and a device's folder."""

    def __init__(self, root: Path, library: Path, url: str) -> None:
        self.root, self.library, self.url, self.to = root, library, url, root / "device"
        self.requests: list[httpx.Request] = []

    def add(self, name: str = "net-a", **how: Any) -> Artifact:
        artifact = make_artifact(self.root / "build", name, **{"size": SIZE, **how})
        package.add(self.library, self.root / "build", [artifact], {name: [make_promise()]})
        return artifact

    def pull(self, spoil: Callable[[httpx.Request, httpx.Response], httpx.Response] | None = None, **how: Any) -> Any:
        how = {"need": Need(deadline_s=0.1), "to": self.to, "check": check, "transport": Link(self, spoil), **how}
        return client.pull(self.url, **how)

    def ranges(self) -> list[str | None]:
        """The Range of every request for a blob, in order."""
        return [r.headers.get("range") for r in self.requests if "/blobs/" in r.url.path]


class Link(httpx.BaseTransport):
    """The network, watched, with a hand that may spoil what comes back."""

    def __init__(self, site: Site, spoil: Callable[[httpx.Request, httpx.Response], httpx.Response] | None) -> None:
        self.site, self.spoil, self.wire = site, spoil, httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.site.requests.append(request)
        response = self.wire.handle_request(request)
        return self.spoil(request, response) if self.spoil else response

    def close(self) -> None:
        self.wire.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """One library folder and its server for all tests; each test fills the folder again, and the server follows."""
    library = tmp_path_factory.mktemp("served") / "lib"
    package.add(library, library.parent, [], {})
    with server.running(library, choose) as url:
        yield library, url


@pytest.fixture
def site(served: tuple[Path, str], tmp_path: Path) -> Site:
    shutil.rmtree(served[0])
    site = Site(tmp_path, *served)
    site.add()
    return site


def model_only(change: Callable[[httpx.Response, bytes], httpx.Response]) -> Any:
    """Spoil the replies that carry the model and no other."""

    def spoil(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if "/blobs/" not in request.url.path:
            return response
        body = response.read()
        same = httpx.Response(response.status_code, headers=response.headers, content=body)
        return change(same, body) if len(body) > 10_000 else same

    return spoil


def reply(response: httpx.Response, body: bytes, **headers: str) -> httpx.Response:
    kept_headers = {k: v for k, v in response.headers.items() if k not in ("content-length", "transfer-encoding")}
    return httpx.Response(response.status_code, headers={**kept_headers, **headers}, content=iter([body]))


def flip(response: httpx.Response, body: bytes) -> httpx.Response:
    return reply(response, body[:-5] + bytes([body[-5] ^ 1]) + body[-4:])


def cut(response: httpx.Response, body: bytes) -> httpx.Response:
    return reply(response, body[:100_000])


def test_weights_beside_the_model_arrive_with_it(site: Site) -> None:
    """Also in a folder below it, and an install whose file of weights was damaged is mended."""
    build = site.root / "build"
    artifact = make_artifact(build, "net-b", size=5000, accuracy=0.99)
    files = []
    for name in ("net-b.onnx.data", "weights/layer.1.bin"):
        (build / name).parent.mkdir(exist_ok=True)
        (build / name).write_bytes(name.encode() * 1000)
        data = (build / name).read_bytes()
        files.append(DataFile(file=name, sha256=store.sha256_bytes(data), size_bytes=len(data)))
    artifact = artifact.model_copy(update={"data": tuple(files)})
    store.write_record(build / "net-b.json", artifact)
    package.add(site.library, build, [artifact], {"net-b": [make_promise()]})
    pulled = site.pull()
    assert pulled.manifest.artifact.data == tuple(files) and pulled.receipt.bytes_downloaded > sum(
        f.size_bytes for f in files
    )
    for file in files:
        assert store.file_matches(pulled.folder / file.file, file)
    damaged = pulled.folder / "weights" / "layer.1.bin"
    damaged.write_bytes(b"other weights")
    again = site.pull()
    assert store.file_matches(damaged, files[1]) and again.folder == pulled.folder


@pytest.mark.parametrize(
    "name", ["../w.bin", "/etc/passwd", "a/../../w.bin", ".hidden", "a/.b", "a\\b", "install.json", "net-c.json"]
)
def test_files_of_weights_stay_in_their_folder(name: str, site: Site) -> None:
    artifact = make_artifact(site.root / "build", "net-c", size=5000)
    entry = {"file": name, "sha256": artifact.model.sha256, "size_bytes": artifact.model.size_bytes}
    data = {**artifact.model_dump(mode="json"), "data": [entry]}
    with pytest.raises((BadRecord, IntegrityError, UsageError)):
        package.add(
            site.library, site.root / "build", [load(Artifact, data, "net-c.json")], {"net-c": [make_promise()]}
        )


def installed(to: Path) -> dict[str, bytes]:
    folder = swap.current(to)
    assert folder is not None
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# ------------------------------------------------------------------------------------------------------------ the way


def test_round_trip(site: Site) -> None:
    steps: list[tuple[int, int]] = []
    pulled = site.pull(progress=lambda received, total: steps.append((received, total)))
    files = installed(site.to)
    assert set(files) == {"net-a.onnx", "net-a.json", "net-a.npz", "manifest.json", "install.json"}
    for name in ("net-a.onnx", "net-a.npz"):
        assert files[name] == (site.root / "build" / name).read_bytes()
    sidecar = store.read_record(site.root / "build/net-a.json", Artifact)
    assert sidecar.torch_program is not None  # which stays at home: a device never loads one
    installed_sidecar = Artifact.model_validate_json(files["net-a.json"])
    assert installed_sidecar == sidecar.model_copy(update={"torch_program": None}) == pulled.manifest.artifact
    assert pulled.folder == swap.current(site.to)
    assert pulled.answer.chosen is not None and pulled.answer.chosen.artifact_id == "net-a"
    assert swap.read_install(pulled.folder) == (pulled.receipt, pulled.manifest)
    assert pulled.manifest == package.read_packages(site.library)[0]
    assert pulled.receipt.bytes_downloaded == pulled.manifest.size_bytes == steps[-1][0] == steps[-1][1]
    assert (pulled.receipt.source, pulled.receipt.checked) == (site.url, "compared the sample")
    assert [received for received, _ in steps] == sorted(received for received, _ in steps)
    assert not (site.to / ".staging").exists()


def test_second_pull_downloads_nothing(site: Site) -> None:
    first = site.pull()
    before = {p: p.stat().st_mtime_ns for p in site.to.rglob("*")}
    site.requests.clear()
    again = site.pull()
    assert [r.url.path for r in site.requests] == ["/v1/choose"]
    assert (again.receipt.bytes_downloaded, again.manifest) == (0, first.manifest)
    assert {p: p.stat().st_mtime_ns for p in site.to.rglob("*")} == before


def test_previous_install_is_kept_and_older_ones_removed(site: Site) -> None:
    (site.to / "letters").mkdir(parents=True)
    folders = [site.pull().folder]
    for seed in (1, 2):
        site.add(seed=seed)
        folders.append(site.pull().folder)
    assert [folder.exists() for folder in folders] == [False, True, True]
    assert swap.current(site.to) == folders[-1]
    assert (site.to / "letters").exists()


def test_damaged_install_is_mended(site: Site) -> None:
    folder = site.pull().folder
    good = installed(site.to)
    (folder / "net-a.onnx").write_bytes(b"rotten")
    assert site.pull().receipt.bytes_downloaded > 0
    assert installed(site.to)["net-a.onnx"] == good["net-a.onnx"]


def test_staged_files_are_not_requested_again(site: Site) -> None:
    """A check that cannot run (a missing runtime, say) refuses; the next pull needs no byte of the link."""

    def no_runtime(folder: Path, manifest: Manifest) -> str:
        raise StorageError("no runtime")

    with pytest.raises(StorageError, match="no runtime"):
        site.pull(check=no_runtime)
    assert swap.current(site.to) is None
    assert site.pull().receipt.bytes_downloaded == 0


def test_file_that_the_manifest_does_not_name_is_not_installed(site: Site) -> None:
    with pytest.raises(LinkError):
        site.pull(model_only(cut))
    (staged,) = (site.to / ".staging").iterdir()
    (staged / "stranger.so").write_bytes(b"x")
    site.pull()
    assert "stranger.so" not in installed(site.to)


# ----------------------------------------------------------------------------------------------------------- resuming


def test_goes_on_from_the_last_byte(site: Site) -> None:
    with pytest.raises(LinkError, match="run the same command again"):
        site.pull(model_only(cut))
    site.requests.clear()
    receipt = site.pull().receipt
    assert site.ranges()[1] == "bytes=100000-"  # [0] asks for the manifest
    assert (
        receipt.bytes_downloaded
        == sum(f.size_bytes for f in swap.read_install(swap.current(site.to))[1].files) - 100_000
    )  # type: ignore[arg-type]


def test_server_that_ignores_the_range(site: Site) -> None:
    with pytest.raises(LinkError):
        site.pull(model_only(cut))

    def full_reply(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if "range" not in request.headers:
            return response
        return httpx.Response(200, content=iter([(site.root / "build/net-a.onnx").read_bytes()]))

    receipt, manifest = site.pull(full_reply).receipt, site.pull().manifest
    assert receipt.bytes_downloaded == manifest.size_bytes


@pytest.mark.parametrize("content", [b"not the model" * 9, b"x" * (SIZE + 5), b"x" * SIZE])
def test_partial_that_is_not_a_beginning(site: Site, content: bytes) -> None:
    """Wrong bytes in a partial file are found by the hash of the whole and never survive; too many restart at once."""
    digest = package.read_catalog(site.library)[0].digest
    staged = swap.stage(site.to, digest)
    sha = package.read_packages(site.library)[0].artifact.model.sha256
    (staged / f".{sha}.partial").write_bytes(content)
    if len(content) <= SIZE:
        with pytest.raises(IntegrityError, match="another sha256"):
            site.pull()
    site.pull()
    assert installed(site.to)["net-a.onnx"] == (site.root / "build/net-a.onnx").read_bytes()


def test_server_gone_in_the_middle(site: Site) -> None:
    class Dying(httpx.SyncByteStream):
        def __init__(self, body: bytes) -> None:
            self.body = body

        def __iter__(self) -> Iterator[bytes]:
            yield self.body[:70_000]
            raise httpx.ReadError("connection reset")

    def die(response: httpx.Response, body: bytes) -> httpx.Response:
        return httpx.Response(response.status_code, headers=response.headers, stream=Dying(body))

    with pytest.raises(LinkError, match="broke off in net-a.onnx: run the same command again"):
        site.pull(model_only(die))
    site.requests.clear()
    site.pull()
    assert site.ranges()[1] == "bytes=70000-"


def test_sigkill_in_the_middle_of_pull(site: Site) -> None:
    before = site.pull()
    site.add(seed=9, size=6 << 20)
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from library_case import check
from kit.library import client
from kit.records import Need
def die(done, total):
    if done >= 2 << 20:
        os.kill(os.getpid(), signal.SIGKILL)
client.pull({site.url!r}, Need(), Path({str(site.to)!r}), check=check, progress=die)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert swap.current(site.to) == before.folder
    check(before.folder, before.manifest)
    site.requests.clear()
    after = site.pull()
    start = int(str(site.ranges()[1]).removeprefix("bytes=").removesuffix("-"))
    assert 1 << 20 < start < 6 << 20
    assert after.receipt.bytes_downloaded == after.manifest.size_bytes - start
    assert installed(site.to)["net-a.onnx"] == (site.root / "build/net-a.onnx").read_bytes()


def test_killed_between_install_and_swap(site: Site) -> None:
    """The folder is there, ``current`` is not: the next pull only swaps."""
    folder = site.pull().folder
    (site.to / "current").unlink()
    (site.to / ".current.tmp").symlink_to("nowhere")
    assert site.pull().receipt.bytes_downloaded == 0
    assert swap.current(site.to) == folder


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (model_only(flip), IntegrityError, "another sha256 than promised"),
        (model_only(cut), LinkError, "100000 of 300000 bytes"),
        (model_only(lambda r, b: reply(r, b + b"more")), IntegrityError, "longer than promised"),
        (model_only(lambda r, b: reply(r, b[:9], **{"content-length": "9"})), IntegrityError, "announces 9 bytes"),
        (model_only(lambda r, b: httpx.Response(416)), IntegrityError, "fewer bytes"),
        (model_only(lambda r, b: httpx.Response(500, content=b"oops")), LinkError, "no kit library"),
        (model_only(lambda r, b: httpx.Response(302, headers={"location": "http://evil"})), LinkError, "redirects to"),
        (model_only(lambda r, b: reply(httpx.Response(206, headers={"content-range": "bytes 1-2/3"}), b)), IntegrityError, "another part"),
    ],
)  # fmt: skip
def test_spoiled_files_leave_the_running_install(site: Site, spoil: Any, kind: type[KitError], words: str) -> None:
    site.pull()
    before = installed(site.to)
    site.add(seed=4)
    with pytest.raises(kind, match=words) as caught:
        site.pull(spoil)
    assert "\n" not in str(caught.value)
    assert installed(site.to) == before
    site.pull()
    assert installed(site.to)["net-a.onnx"] == (site.root / "build/net-a.onnx").read_bytes()


def test_blob_cut_short_on_the_server(site: Site) -> None:
    artifact = site.add(seed=6)
    blob = package.blob_path(site.library, f"sha256:{artifact.model.sha256}")
    httpx.get(f"{site.url}/healthz")  # the server has read the index with the whole blob
    os.truncate(blob, 1000)
    with pytest.raises(IntegrityError, match=r"announces 1000 bytes of net-a\.onnx where 300000 were promised"):
        site.pull()
    assert swap.current(site.to) is None


def forged(site: Site, change: Callable[[dict[str, Any]], Any], *, config: bool) -> Any:
    """A hand on the wire that forges config or image and mends every hash above it, up to the choice itself."""
    (packaged,) = package.read_catalog(site.library)
    image = json.loads(package.blob_path(site.library, packaged.digest).read_bytes())
    inner = json.loads(package.blob_path(site.library, image["config"]["digest"]).read_bytes())
    change(inner if config else image)
    inner_raw = json.dumps(inner).encode()
    if config:
        image["config"].update(digest=f"sha256:{store.sha256_bytes(inner_raw)}", size=len(inner_raw))
    image_raw = json.dumps(image).encode()

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/choose":
            reply = httpx.post(f"{site.url}/v1/choose", json={}).json()
            return httpx.Response(200, json={**reply, "manifest_digest": f"sha256:{store.sha256_bytes(image_raw)}"})
        return httpx.Response(200, content=image_raw if "/manifests/" in request.url.path else inner_raw)

    return httpx.MockTransport(handler)


@pytest.mark.parametrize(
    ("config", "change", "kind", "words"),
    [
        (True, lambda c: c.update(schema_version=7), BadRecord, "schema version 7"),
        (True, lambda c: c["files"][0].update(file="../../../tmp/evil"), IntegrityError, "outside its folder"),
        (True, lambda c: c["files"][0].update(file="..\\evil"), IntegrityError, "outside its folder"),
        (True, lambda c: c["files"][0].update(file=".bashrc"), IntegrityError, "outside its folder"),
        (True, lambda c: c["files"][0].update(file="install.json"), IntegrityError, "installing needs"),
        (True, lambda c: c["artifact"]["model"].update(file="../x.onnx"), BadRecord, "not a bare file name"),
        (True, lambda c: c.update(name="other"), IntegrityError, "calls itself other"),
        (False, lambda i: i.update(artifactType="application/x-evil"), BadRecord, "does not read"),
        (False, lambda i: i["layers"][0].update(digest="sha256:../../etc/passwd"), IntegrityError, "no sha256"),
        (False, lambda i: i["layers"][0]["annotations"].update({oci.TITLE: "/etc/cron.d/x"}), IntegrityError, "outside"),
        (False, lambda i: i["config"].update(size=1 << 40), IntegrityError, "manifest of"),
    ],
)  # fmt: skip
def test_forged_package(site: Site, config: bool, change: Any, kind: type[KitError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        site.pull(transport=forged(site, change, config=config))
    assert "\n" not in str(caught.value)
    assert [p.name for p in site.to.iterdir()] == [".lock"]


def test_manifest_with_another_hash(site: Site) -> None:
    def spoil(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        body = response.read()
        return httpx.Response(200, content=body + b" ") if "/manifests/" in request.url.path else _same(response, body)

    with pytest.raises(IntegrityError, match="Package net-a has another sha256"):
        site.pull(spoil)


def test_a_packages_own_manifest_with_another_hash(site: Site) -> None:
    """One more space is the same JSON: the hash alone can tell."""

    def spoil(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        body = response.read()
        own = "/blobs/" in request.url.path and body.startswith(b"{")
        return httpx.Response(200, content=body + b" ") if own else _same(response, body)

    with pytest.raises(IntegrityError, match="The manifest of Package net-a has another sha256"):
        site.pull(spoil)
    assert [p.name for p in site.to.iterdir()] == [".lock"]


def _same(response: httpx.Response, body: bytes) -> httpx.Response:
    return httpx.Response(response.status_code, headers=response.headers, content=body)


def test_answer_about_another_file(site: Site) -> None:
    def spoil(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        body = response.read()
        if request.url.path != "/v1/choose":
            return _same(response, body)
        reply = json.loads(body)
        reply["answer"]["chosen"]["sha256"] = "0" * 64
        return httpx.Response(200, json=reply)

    with pytest.raises(IntegrityError, match="about another model than package net-a holds"):
        site.pull(spoil)
    assert swap.current(site.to) is None


def test_check_that_finds_another_result(site: Site) -> None:
    before = site.pull().folder
    site.add(seed=3)

    def refuse(folder: Path, manifest: Manifest) -> str:
        raise IntegrityError("The sample gives another result than promised.")

    with pytest.raises(IntegrityError, match="another result"):
        site.pull(check=refuse)
    assert swap.current(site.to) == before
    assert not list((site.to / ".staging").iterdir())


def test_nothing_fits(site: Site) -> None:
    with pytest.raises(NoAnswer, match="No variant meets 1 ms: the nearest one needs 4 ms"):
        site.pull(need=Need(deadline_s=0.001))
    assert not site.to.exists()


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", "file:///etc/passwd", "a\nb"])
def test_bad_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="is no library address"):
        client.pull(url, Need(), tmp_path, check=check)


def test_nobody_answers(tmp_path: Path) -> None:
    listener = server.bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(LinkError, match=f"No library answers at http://127.0.0.1:{port}"):
        client.pull(f"http://127.0.0.1:{port}", Need(), tmp_path, check=check)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, content=b"<html>hello</html>"),
        httpx.Response(404, content=b"<html>no</html>"),
        httpx.Response(200, json={"package": "net-a"}),
        httpx.Response(200, json=["x"]),
        httpx.Response(200, json={"package": "../x", "manifest_digest": "sha256:" + "0" * 64, "answer": {}}),
        httpx.Response(200, json={"package": "net-a", "manifest_digest": "../x", "answer": {}}),
        httpx.Response(200, json={"package": 3, "manifest_digest": None, "answer": {}}),
        httpx.Response(301, headers={"location": "https://elsewhere.example"}),
        httpx.Response(200, content=b"[" * (5 << 20)),
        httpx.Response(500, json={"error": "\x1b[2Jboom", "code": "failed"}),
    ],
)
def test_stranger_at_the_address(tmp_path: Path, response: httpx.Response) -> None:
    transport = httpx.MockTransport(lambda request: response)
    with pytest.raises(KitError) as caught:
        client.pull("http://library.example", Need(), tmp_path / "to", check=check, transport=transport)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "to").exists()


# --------------------------------------------------------------------------------------------------------------- disks


def test_package_larger_than_allowed(site: Site) -> None:
    with pytest.raises(StorageError, match=r"kB, more than the .* allowed"):
        site.pull(max_bytes=1000)


def test_disk_too_small_is_reported_before_the_first_byte(site: Site) -> None:
    site.add(seed=8, size=4 << 20)
    with small_disk(site.root / "disk") as disk:
        with pytest.raises(StorageError, match="disk is too full for this package"):
            site.pull(to=disk / "to")
        assert len(site.ranges()) == 1  # the manifest alone


def test_disk_that_fills_up_meanwhile(site: Site) -> None:
    """What was taken is given back, and the running install stays."""
    with small_disk(site.root / "disk", 4 << 20) as disk:
        before = site.pull(to=disk / "to").folder
        site.add(seed=8, size=2 << 20)

        def fill(received: int, total: int) -> None:
            if received > 200_000 and not (disk / "other").exists():
                with (disk / "other").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                    while True:
                        file.write(b"x" * 4096)

        with pytest.raises(StorageError, match="disk is full"):
            site.pull(to=disk / "to", progress=fill)
        assert swap.current(disk / "to") == before
        assert not list((disk / "to/.staging").iterdir())
        (disk / "other").unlink()
        assert site.pull(to=disk / "to").folder != before


def test_read_only_folder(site: Site) -> None:
    with read_only(site.root / "disk") as disk:
        for to in (disk, disk / "to"):
            with pytest.raises(StorageError, match="No permission"):
                site.pull(to=to)


def test_folder_that_is_a_file_or_somebody_elses(site: Site) -> None:
    (site.root / "file").write_text("x")
    with pytest.raises(UsageError, match="file"):
        site.pull(to=site.root / "file")
    (site.root / "mine/current").mkdir(parents=True)
    with pytest.raises(UsageError, match="was not made by kit pull"):
        site.pull(to=site.root / "mine")


def test_two_pulls_into_one_folder(site: Site) -> None:
    def again(folder: Path, manifest: Manifest) -> str:
        with pytest.raises(StorageError, match="Another kit is writing"):
            site.pull()
        return "ok"

    site.pull(check=again)


# ---------------------------------------------------------------------------------------------------------------- swap


def test_a_reader_always_sees_a_complete_install(site: Site) -> None:
    site.pull()
    steps: set[str] = set()
    faults: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            folder = swap.current(site.to)
            if folder is None:
                faults.append("no current")
                continue
            _, manifest = swap.read_install(folder)
            faults.extend(f.file for f in manifest.files if store.sha256_file(folder / f.file) != f.sha256)
            steps.add(folder.name)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for seed in range(1, 9):
            site.add(seed=seed, size=20_000)
            folder = site.pull().folder
            while folder.name not in steps and reader.is_alive():  # each version is read before the next swap
                stop.wait(0.001)
    finally:
        stop.set()
        reader.join()
    assert not faults
    assert len(steps) == 9
