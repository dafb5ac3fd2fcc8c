"""The OCI layout: what add writes, what a reader refuses, what a kill leaves."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from library_case import make_artifact, make_promise, read_only, small_disk

from kit import store
from kit.errors import BadRecord, IntegrityError, KitError, StorageError, UsageError
from kit.library import oci, package
from kit.records import Artifact

pytestmark = pytest.mark.board


def add(library: Path, build: Path, *names: str, **how: Any) -> list[Any]:
    artifacts = [make_artifact(build, name, **how) for name in names]
    return package.add(library, build, artifacts, {name: [make_promise()] for name in names})


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def rewrite(library: Path, change: Any, *, config: bool) -> None:
    """Change the config or the image of the only package and mend every hash above, as a forger would."""
    index = json.loads((library / "index.json").read_bytes())
    image = json.loads(package.blob_path(library, index["manifests"][0]["digest"]).read_bytes())
    if config:
        inner = json.loads(package.blob_path(library, image["config"]["digest"]).read_bytes())
        change(inner)
        image["config"].update(put(library, inner))
    else:
        change(image)
    index["manifests"][0].update(put(library, image))
    (library / "index.json").write_text(json.dumps(index))


def put(library: Path, data: dict[str, Any]) -> dict[str, Any]:
    raw = json.dumps(data).encode()
    digest = f"sha256:{store.sha256_bytes(raw)}"
    package.blob_path(library, digest).write_bytes(raw)
    return {"digest": digest, "size": len(raw)}


def test_add_then_read(tmp_path: Path) -> None:
    manifests = add(tmp_path / "lib", tmp_path / "build", "net-b", "net-a")
    read = package.read_packages(tmp_path / "lib")
    assert [m.name for m in manifests] == ["net-b", "net-a"]
    assert read == sorted(manifests, key=lambda m: m.name)
    assert [f.file for f in read[0].files] == ["net-a.onnx", "net-a.json", "net-a.npz"]  # the torch program stays
    assert read[0].promises == (make_promise(),)


def test_layout_is_what_oci_tools_expect(tmp_path: Path) -> None:
    add(tmp_path / "lib", tmp_path / "build", "net-a")
    assert json.loads((tmp_path / "lib/oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads((tmp_path / "lib/index.json").read_bytes())["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "net-a"}
    data = package.blob_path(tmp_path / "lib", entry["digest"]).read_bytes()
    assert len(data) == entry["size"]
    image = json.loads(data)
    assert (image["schemaVersion"], image["artifactType"]) == (2, oci.PACKAGE_TYPE)
    assert [x["annotations"][oci.TITLE] for x in image["layers"]] == ["net-a.onnx", "net-a.json", "net-a.npz"]
    for blob in (tmp_path / "lib/blobs/sha256").iterdir():
        assert store.sha256_file(blob) == blob.name


def test_same_again_changes_no_byte(tmp_path: Path) -> None:
    first = add(tmp_path / "lib", tmp_path / "build", "net-a", "net-b")
    before = snapshot(tmp_path / "lib")
    assert add(tmp_path / "lib", tmp_path / "build", "net-a", "net-b") == first
    assert snapshot(tmp_path / "lib") == before


def test_new_content_takes_the_place_of_the_name(tmp_path: Path) -> None:
    add(tmp_path / "lib", tmp_path / "build", "net-a", "net-b")
    (changed,) = add(tmp_path / "lib", tmp_path / "build", "net-a", seed=5)
    read = package.read_packages(tmp_path / "lib")
    assert [m.name for m in read] == ["net-a", "net-b"]
    assert read[0] == changed


def test_new_promises_make_a_new_manifest_and_copy_no_file(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "build", "net-a")
    package.add(tmp_path / "lib", tmp_path / "build", [artifact], {})
    model = package.blob_path(tmp_path / "lib", f"sha256:{artifact.model.sha256}").stat().st_mtime_ns
    package.add(tmp_path / "lib", tmp_path / "build", [artifact], {"net-a": [make_promise("r-2")]})
    assert package.read_packages(tmp_path / "lib")[0].promises[0].record_id == "r-2"
    assert package.blob_path(tmp_path / "lib", f"sha256:{artifact.model.sha256}").stat().st_mtime_ns == model


def test_source_that_is_not_what_its_sidecar_says(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "build", "net-a")
    (tmp_path / "build/net-a.onnx").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"net-a.onnx is not the file that its sidecar describes"):
        package.add(tmp_path / "lib", tmp_path / "build", [artifact], {})
    (tmp_path / "build/net-a.onnx").unlink()
    with pytest.raises(UsageError, match=r"net-a\.onnx does not exist"):
        package.add(tmp_path / "lib", tmp_path / "build", [artifact], {})
    assert not (tmp_path / "lib").exists()


def test_sidecar_of_another_artifact(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "build", "net-a")
    store.write_record(tmp_path / "build/net-a.json", artifact.model_copy(update={"macs": 2}))
    with pytest.raises(IntegrityError, match="does not describe net-a"):
        package.add(tmp_path / "lib", tmp_path / "build", [artifact], {})


def test_names_that_installing_needs(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="name the model differently"):
        add(tmp_path / "lib", tmp_path / "build", "manifest")


def test_two_artifacts_of_one_name(tmp_path: Path) -> None:
    one, two = make_artifact(tmp_path / "b", "Net A"), make_artifact(tmp_path / "b", "net-a")
    with pytest.raises(UsageError, match="both be package net-a"):
        package.add(tmp_path / "lib", tmp_path / "b", [one, two], {})


def test_folder_that_is_no_library(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no library"):
        package.read_packages(tmp_path / "nowhere")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and holds no library"):
        add(tmp_path / "home", tmp_path / "build", "net-a")
    assert sorted(p.name for p in (tmp_path / "home").iterdir()) == [".lock", "letter.txt"]


def test_damaged_blob_is_refused_then_mended_by_adding_again(tmp_path: Path) -> None:
    (manifest,) = add(tmp_path / "lib", tmp_path / "build", "net-a")
    blob = package.blob_path(tmp_path / "lib", f"sha256:{manifest.artifact.model.sha256}")
    good = blob.read_bytes()
    blob.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    with pytest.raises(IntegrityError, match=r"net-a\.onnx has another sha256"):
        package.read_packages(tmp_path / "lib")
    add(tmp_path / "lib", tmp_path / "build", "net-a")
    assert package.read_packages(tmp_path / "lib") == [manifest.model_copy(update={"created_utc": _born(tmp_path)})]
    blob.write_bytes(good[:-1])
    with pytest.raises(IntegrityError, match="has 2999 bytes instead of 3000"):
        package.read_catalog(tmp_path / "lib")
    blob.unlink()
    with pytest.raises(IntegrityError, match=r"net-a\.onnx is missing"):
        package.read_catalog(tmp_path / "lib")


def test_an_image_manifest_of_another_hash_is_refused(tmp_path: Path) -> None:
    """Valid and as long as promised, but not the bytes that the index names."""
    add(tmp_path / "lib", tmp_path / "build", "net-a")
    (entry,) = json.loads((tmp_path / "lib" / "index.json").read_text())["manifests"]
    blob = package.blob_path(tmp_path / "lib", entry["digest"])
    image = json.loads(blob.read_text())
    assert len(blob.read_bytes()) == len(store.canonical_json(image))
    reordered = json.dumps(dict(reversed(image.items())), separators=(",", ":"), ensure_ascii=False).encode()
    assert len(reordered) == entry["size"] and reordered != blob.read_bytes()
    blob.write_bytes(reordered)
    with pytest.raises(IntegrityError, match="Package net-a has another sha256"):
        package.read_catalog(tmp_path / "lib")


def _born(tmp_path: Path) -> str:
    return package.read_packages(tmp_path / "lib")[0].created_utc


@pytest.mark.parametrize(
    ("config", "change", "kind", "words"),
    [
        (True, lambda c: c.update(schema_version=2), BadRecord, "schema version 2"),
        (True, lambda c: c.update(surprise=1), BadRecord, "surprise"),
        (True, lambda c: c.update(name="net-b"), IntegrityError, "calls itself net-b"),
        (True, lambda c: c.update(name="../net"), IntegrityError, "no package name"),
        (True, lambda c: c["files"][0].update(file="../../evil"), IntegrityError, "outside its folder"),
        (True, lambda c: c["files"][0].update(file="/etc/passwd"), IntegrityError, "outside its folder"),
        (True, lambda c: c["files"][0].update(size_bytes=1), IntegrityError, "model, weights and sample|other files"),
        (True, lambda c: c["files"].append(c["files"][0]), IntegrityError, "twice"),
        (True, lambda c: c["files"].pop(), IntegrityError, "model, weights and sample"),
        (False, lambda i: i.update(mediaType="application/x-tar"), BadRecord, "does not read"),
        (False, lambda i: i.update(artifactType="application/x-other"), BadRecord, "does not read"),
        (False, lambda i: i.pop("artifactType"), BadRecord, "does not read|no kit package"),
        (False, lambda i: i["layers"][0].update(mediaType="application/x-tar+gzip"), BadRecord, "x-tar"),
        (False, lambda i: i["layers"][0].update(digest="sha256:../../../etc/passwd"), IntegrityError, "no sha256"),
        (False, lambda i: i["config"].update(digest="sha512:" + "0" * 128), IntegrityError, "no sha256"),
        (False, lambda i: i["layers"][0]["annotations"].update({oci.TITLE: "a/../../b"}), IntegrityError, "outside"),
        (False, lambda i: i["layers"][0]["annotations"].clear(), IntegrityError, "outside its folder"),
        (False, lambda i: i["layers"].pop(), IntegrityError, "other files"),
        (False, lambda i: i["layers"][0].update(size=-1), BadRecord, "greater than or equal"),
    ],
)
def test_forged_packages_are_refused(tmp_path: Path, config: bool, change: Any, kind: type, words: str) -> None:
    add(tmp_path / "lib", tmp_path / "build", "net-a")
    rewrite(tmp_path / "lib", change, config=config)
    with pytest.raises(kind, match=words):
        package.read_packages(tmp_path / "lib")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("index.json", "not json"),
        ("index.json", '{"schemaVersion": 3, "manifests": []}'),
        ("index.json", '{"schemaVersion": 2, "manifests": [{"digest": "x"}]}'),
        ("index.json", '{"schemaVersion": 2, "manifests": ["x"]}'),
        ("oci-layout", '{"imageLayoutVersion": "9.0.0"}'),
    ],
)
def test_broken_index_is_one_sentence(tmp_path: Path, file: str, text: str) -> None:
    add(tmp_path / "lib", tmp_path / "build", "net-a")
    (tmp_path / "lib" / file).write_text(text)
    with pytest.raises(BadRecord) as caught:
        package.read_packages(tmp_path / "lib")
    assert "\n" not in str(caught.value)


def test_sigkill_in_the_middle_of_add(tmp_path: Path) -> None:
    """Killed in the middle of a blob of the second call: the library is what it was; the next call ends the work."""
    before = add(tmp_path / "lib", tmp_path / "build", "net-a")
    artifact = make_artifact(tmp_path / "build", "net-b", size=5 << 20)
    script = f"""
import os, signal
from pathlib import Path
from kit.library import package
from kit.records import Artifact
from kit import store
build = Path({str(tmp_path / "build")!r})
def die(done, total):
    if done >= 2 << 20:
        os.kill(os.getpid(), signal.SIGKILL)
artifact = store.read_record(build / "net-b.json", Artifact)
package.add(Path({str(tmp_path / "lib")!r}), build, [artifact], {{}}, progress=die)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    blobs = tmp_path / "lib/blobs/sha256"
    assert len(list(blobs.glob(".*.tmp"))) == 1
    assert package.read_packages(tmp_path / "lib") == before
    package.add(tmp_path / "lib", tmp_path / "build", [artifact], {})
    assert [m.name for m in package.read_packages(tmp_path / "lib")] == ["net-a", "net-b"]
    assert not list(blobs.glob(".*.tmp"))


def test_killed_before_the_first_index(tmp_path: Path) -> None:
    add(tmp_path / "lib", tmp_path / "build", "net-a")
    (tmp_path / "lib/index.json").unlink()
    assert package.read_packages(tmp_path / "lib") == []
    add(tmp_path / "lib", tmp_path / "build", "net-a")
    assert len(package.read_packages(tmp_path / "lib")) == 1


def _add_one(library: Path, build: Path, name: str) -> None:
    package.add(library, build, [store.read_record(build / f"{name}.json", Artifact)], {})


def test_concurrent_adders_lose_nothing(tmp_path: Path) -> None:
    names = [f"net-{i}" for i in range(4)]
    for i, name in enumerate(names):
        make_artifact(tmp_path / "build", name, seed=i)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add_one, args=(tmp_path / "lib", tmp_path / "build", n)) for n in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert [m.name for m in package.read_packages(tmp_path / "lib")] == names


def test_full_disk_leaves_the_older_library(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        before = add(disk / "lib", tmp_path / "build", "net-a")
        with pytest.raises(StorageError, match="disk is full"):
            add(disk / "lib", tmp_path / "build", "net-b", size=4 << 20)
        assert package.read_packages(disk / "lib") == before
        assert not list((disk / "lib/blobs/sha256").glob(".*"))


def test_read_only_library(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "build", "net-a")
    with read_only(tmp_path / "disk") as disk, pytest.raises(StorageError, match="No permission"):
        package.add(disk / "lib", tmp_path / "build", [artifact], {})


def test_names_and_digests_never_become_paths(tmp_path: Path) -> None:
    for digest in ("", "sha256:", "sha256:" + "A" * 64, "sha256:../x", "md5:" + "0" * 32, "sha256:" + "0" * 64 + "\n"):
        with pytest.raises(KitError):
            package.blob_path(tmp_path, digest)
    for name in ("", ".", "..", "a/b", "A", "-a", "a b", "a\n", "x" * 129, ".hidden"):
        with pytest.raises(IntegrityError):
            oci.check_name(name)
    assert os.sep not in oci.check_name("resnet18-d6-w0.50-int8-32")
