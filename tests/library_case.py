"""Small but whole artifacts, promises, a chooser and odd disks for the tests of the download library."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit import store
from kit.errors import NoAnswer
from kit.records import Accuracy, Answer, Artifact, FileRef, KnowledgeRow, Manifest, Need, Origin, Promise


def make_artifact(folder: Path, name: str, *, size: int = 3000, seed: int = 0, accuracy: float = 0.9) -> Artifact:
    """An artifact whose "model" is ``size`` bytes that depend on ``seed``, with sidecar, sample and torch program."""
    folder.mkdir(parents=True, exist_ok=True)
    pattern = bytes((i * 31 + seed * 7 + i // 251) % 256 for i in range(4096))
    contents = {
        f"{name}.onnx": (pattern * (size // len(pattern) + 1))[:size],
        f"{name}.npz": b"sample of " + name.encode(),
        f"{name}.pt2": b"torch stays at home",
    }
    refs = {}
    for file, data in contents.items():
        (folder / file).write_bytes(data)
        refs[file] = FileRef(file=file, sha256=store.sha256_bytes(data), size_bytes=len(data))
    artifact = Artifact(
        artifact_id=name,
        model=refs[f"{name}.onnx"],
        torch_program=refs[f"{name}.pt2"],
        macs=1_000_000,
        accuracy=Accuracy(top1=accuracy, count=360, dataset="digits"),
        sample=refs[f"{name}.npz"],
        licence="Apache-2.0",
        origin=Origin(root="resnet18", seed=0, producer="kit test"),
    )
    store.write_record(folder / f"{name}.json", artifact)
    return artifact


def make_promise(record_id: str = "r-1", p99_s: float = 0.004) -> Promise:
    return Promise(
        device_id="test-device",
        backend="onnxruntime",
        threads=1,
        median_s=0.75 * p99_s,
        p99_s=p99_s,
        memory_bytes=1_000_000,
        label="stable",
        record_id=record_id,
    )


def choose(packages: list[Manifest], need: Need) -> Answer:
    """The most accurate package whose first promise meets the deadline: a small stand-in for the knowledge base."""
    fitting = [m for m in packages if m.promises and m.promises[0].p99_s <= (need.deadline_s or 1e9)]
    if not fitting:
        raise NoAnswer("No variant meets 1 ms: the nearest one needs 4 ms.")
    best = max(fitting, key=lambda m: m.artifact.accuracy.top1 if m.artifact.accuracy else 0.0)
    promise, artifact = best.promises[0], best.artifact
    row = KnowledgeRow(
        artifact_id=artifact.artifact_id,
        sha256=artifact.content_sha256,
        device_id=promise.device_id,
        backend=promise.backend,
        threads=promise.threads,
        precision=artifact.precision,
        median_s=promise.median_s,
        p99_s=promise.p99_s,
        label=promise.label,
        memory_bytes=promise.memory_bytes,
        size_bytes=artifact.size_bytes,
        macs=artifact.macs,
        accuracy=artifact.accuracy.top1 if artifact.accuracy else None,
        record_id=promise.record_id,
    )
    return Answer(
        need=need, chosen=row, runner_up=None, margin=0.1, binding="deadline", rejected=(), text="The best that fits."
    )


def check(folder: Path, manifest: Manifest) -> str:
    """Stands in for the sample run: the staged folder holds exactly the package's files."""
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert present - {"install.json", "manifest.json"} == {f.file for f in manifest.files}
    return "compared the sample"


@contextmanager
def small_disk(at: Path, size: int = 2 << 20) -> Iterator[Path]:
    """A file system of ``size`` bytes; the test is skipped where none can be mounted."""
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@contextmanager
def read_only(at: Path) -> Iterator[Path]:
    """A folder that refuses every write, to root as well."""
    if os.geteuid() == 0:
        with small_disk(at) as disk:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            yield disk
    else:
        at.mkdir()
        at.chmod(0o555)
        yield at
        at.chmod(0o755)
