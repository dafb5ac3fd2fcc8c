"""The server's side of the protocol, asked over a real socket."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from library_case import choose, make_artifact, make_promise

from kit.errors import LinkError, UsageError
from kit.library import oci, package, server
from kit.records import Answer, Manifest, Need


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    build = root / "build"
    artifacts = [make_artifact(build, "net-a", accuracy=0.8), make_artifact(build, "net-b", seed=1, accuracy=0.9)]
    package.add(root / "lib", build, artifacts, {a.artifact_id: [make_promise()] for a in artifacts})
    return root / "lib"


@pytest.fixture(scope="module")
def web(library: Path) -> Iterator[httpx.Client]:
    with server.running(library, choose) as url, httpx.Client(base_url=url) as web:
        yield web


def test_health_and_list(web: httpx.Client, library: Path) -> None:
    assert web.get("/healthz").json() == {"status": "ok", "packages": 2}
    reply = web.get("/v1/packages").json()["packages"]
    assert [Manifest.model_validate(p["manifest"]) for p in reply] == package.read_packages(library)


def test_choice(web: httpx.Client) -> None:
    reply = web.post("/v1/choose", json={"deadline_s": 0.1}).json()
    assert reply["package"] == "net-b"
    assert Answer.model_validate(reply["answer"]).need == Need(deadline_s=0.1)
    oci.digest_hex(reply["manifest_digest"])


@pytest.mark.parametrize("body", [b"", b"hello", b"[]", b'{"deadline_s": -1}', b'{"deadlines": 1}', b"{" * 70_000])
def test_bad_need(web: httpx.Client, body: bytes) -> None:
    response = web.post("/v1/choose", content=body)
    assert (response.status_code, response.json()["code"]) == (422, "bad_need")
    assert response.json()["error"].startswith("The need")


def test_nothing_fits(web: httpx.Client) -> None:
    response = web.post("/v1/choose", json={"deadline_s": 0.001})
    assert response.status_code == 404
    assert response.json()["code"] == "no_answer"
    assert response.json()["error"].startswith("No variant meets")


def test_choice_that_is_not_in_the_library(library: Path) -> None:
    def stale(packages: list[Manifest], need: Need) -> Answer:
        answer = choose(packages, need)
        assert answer.chosen is not None
        return answer.model_copy(update={"chosen": answer.chosen.model_copy(update={"sha256": "0" * 64})})

    with server.running(library, stale) as url:
        response = httpx.post(f"{url}/v1/choose", json={})
    assert (response.status_code, response.json()["code"]) == (404, "not_packaged")


def test_oci_way(web: httpx.Client) -> None:
    """What an OCI client does: version, manifest by tag, then each layer by digest."""
    assert web.get("/v2/").status_code == 200
    response = web.get("/v2/net-a/manifests/latest")
    digest = response.headers["docker-content-digest"]
    assert response.headers["content-type"] == oci.IMAGE_TYPE
    assert digest == f"sha256:{hashlib.sha256(response.content).hexdigest()}"
    assert web.get(f"/v2/net-a/manifests/{digest}").content == response.content
    assert web.head(f"/v2/net-a/manifests/{digest}").headers["content-length"] == str(len(response.content))
    for layer in response.json()["layers"]:
        blob = web.get(f"/v2/net-a/blobs/{layer['digest']}")
        assert f"sha256:{hashlib.sha256(blob.content).hexdigest()}" == layer["digest"]
        assert blob.headers["etag"] == f'"{layer["digest"]}"'
        head = web.head(f"/v2/net-a/blobs/{layer['digest']}")
        assert (head.content, head.headers["content-length"]) == (b"", str(layer["size"]))


def test_ranges_and_validators(web: httpx.Client, library: Path) -> None:
    model = package.read_packages(library)[0].artifact.model
    place = f"/v2/net-a/blobs/sha256:{model.sha256}"
    content = web.get(place).content
    part = web.get(place, headers={"Range": "bytes=1000-"})
    assert (part.status_code, part.content) == (206, content[1000:])
    assert part.headers["content-range"] == f"bytes 1000-{model.size_bytes - 1}/{model.size_bytes}"
    assert web.get(place, headers={"Range": f"bytes={model.size_bytes}-"}).status_code == 416
    assert web.get(place, headers={"If-None-Match": f'"sha256:{model.sha256}"'}).status_code == 304
    assert web.get(place, headers={"Range": "bytes=5-", "If-Range": '"other"'}).content == content


@pytest.mark.parametrize(
    ("place", "status"),
    [
        ("/", 404),
        ("/v2/net-z/manifests/latest", 404),
        ("/v2/net-a/manifests/v9", 404),
        ("/v2/net-a/manifests/sha256:" + "0" * 64, 404),
        ("/v2/net-a/blobs/sha256:" + "0" * 64, 404),
        ("/v2/net-z/blobs/sha256:" + "0" * 64, 404),
        ("/v2/net-a/blobs/sha256:..%2f..%2f..%2findex.json", 404),
        ("/v2/net-a/blobs/..", 404),
        ("/v2/net-a/blobs/index.json", 400),
        ("/v2/..%2f..%2fetc/blobs/passwd", 404),
    ],
)
def test_addresses_that_lead_nowhere(web: httpx.Client, place: str, status: int) -> None:
    response = web.get(place)
    assert response.status_code == status
    assert response.json()["error"]
    assert response.json()["errors"][0]["message"] == response.json()["error"]


def test_wrong_method(web: httpx.Client) -> None:
    assert web.get("/v1/choose").status_code == 405
    assert web.delete("/v2/net-a/manifests/latest").status_code == 405


def test_index_is_read_again_when_it_changes(tmp_path: Path) -> None:
    artifacts = [make_artifact(tmp_path / "build", name) for name in ("net-a", "net-b")]
    package.add(tmp_path / "lib", tmp_path / "build", artifacts[:1], {})
    with server.running(tmp_path / "lib", choose) as url:
        package.add(tmp_path / "lib", tmp_path / "build", artifacts[1:], {})
        assert httpx.get(f"{url}/healthz").json()["packages"] == 2
        (tmp_path / "lib/index.json").write_text("broken")
        assert httpx.get(f"{url}/healthz").json()["packages"] == 2  # goes on with what it last read whole


def test_port_in_use(library: Path) -> None:
    listener = server.bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    try:
        with pytest.raises(LinkError, match=f"Port {port} on 127.0.0.1 is in use"):
            server.serve(library, choose, "127.0.0.1", port)
    finally:
        listener.close()


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("203.0.113.1", 0), ("no such host", 0)])
def test_address_that_cannot_be_had(library: Path, host: str, port: int) -> None:
    with pytest.raises(LinkError, match="Cannot listen on|There is no port 70000"):
        server.serve(library, choose, host, port)


def test_no_library(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no library"):
        server.make_app(tmp_path, choose)
