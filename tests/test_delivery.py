"""Where library, measuring and knowledge base meet: what packages promise, and what becomes of a promise that does not hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import library_case
import pytest
import synthetic
from invoke import kit
from typer.testing import CliRunner

from kit import delivery, knowledge
from kit.cli import app
from kit.delivery import Delivery
from kit.errors import BrokenPromise, NoAnswer
from kit.library import client, package, server, swap
from kit.records import Answer, Need, ProfileRecord, TensorSpec


def delivered(need: Need, measured_s: float | None, promised_s: float = 0.07e-3, **changes: Any) -> Delivery:
    """A package whose p99 was promised near ``promised_s``, and which was then measured at ``measured_s``."""
    row = knowledge.row_of(synthetic.profile("net", promised_s))
    record = None if measured_s is None else synthetic.profile("net", measured_s).model_copy(update=changes)
    receipt = SimpleNamespace(package="net:1", bytes_downloaded=1, download_s=0.1, checked="no sample in the package")
    pulled: Any = SimpleNamespace(
        receipt=receipt,
        folder=Path("models/net"),
        answer=Answer(need=need, chosen=row, runner_up=None, margin=None, binding=None, rejected=(), text=""),
    )
    return Delivery(pulled, record, Path("models/before"))


def test_a_promise_that_holds_and_one_that_does_not() -> None:
    need = Need(deadline_s=1e-3)
    assert delivered(need, 0.08e-3).broken is None
    assert delivered(need, 0.9e-3).broken is None  # slower than promised, and still in time
    assert delivered(need, None).broken is None  # not measured
    assert delivered(Need(), 2.9e-3).broken is None  # no deadline
    broken = delivered(need, 2.9e-3).broken
    assert isinstance(broken, BrokenPromise) and broken.exit_code == 1
    message = str(broken)
    assert "net:1 breaks its promise here: its p99 was promised as 7" in message and "measured as 2.9" in message
    assert "over the deadline of 1.00 ms" in message
    assert "lies in models/net and models/before stays the current install" in message
    assert "no install is current" in str(replace(delivered(need, 2.9e-3), current=None).broken)
    assert "its median was promised" in str(delivered(Need(deadline_s=1e-3, percentile=50), 2.9e-3).broken)


def test_a_measurement_that_failed_breaks_no_promise() -> None:
    failed = delivered(Need(deadline_s=1e-3), 2.9e-3, measurement=None, label=None, status="crashed")
    assert failed.broken is None


def test_pull_says_that_the_promise_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, the sentence, and in JSON the details next to it."""
    answer = delivered(Need(deadline_s=1e-3), 2.9e-3)
    monkeypatch.setattr(delivery, "pull", lambda *_, **__: answer)
    completed = CliRunner().invoke(app, ["pull", "http://127.0.0.1:1", "--deadline-ms", "1"])
    assert (
        isinstance(completed.exception, BrokenPromise)
        and "promised 0.07" in completed.stdout
        and "measured 2.9" in completed.stdout
    )
    completed = CliRunner().invoke(app, ["pull", "http://127.0.0.1:1", "--deadline-ms", "1", "--json"])
    assert isinstance(completed.exception, BrokenPromise) and not completed.stdout
    details = completed.exception.details
    assert details["measured_p99_s"] == pytest.approx(2.9e-3, rel=0.1)
    assert details["promise_kept"] is False and details["current"] == "models/before"
    monkeypatch.setattr(delivery, "pull", lambda *_, **__: delivered(Need(deadline_s=1e-3), 0.08e-3))
    data = json.loads(kit("pull", "http://127.0.0.1:1", "--deadline-ms", "1", "--json"))
    assert data["package"] == "net:1" and data["measured_s"] == pytest.approx(0.08e-3, rel=0.01)
    assert data["promise_kept"] is True and data["current"] == "models/before"
    assert "keeps its promise here" in kit("pull", "http://127.0.0.1:1", "--deadline-ms", "1")


@pytest.fixture
def device_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one install, and a library, network and runtime that are replaced: what is pulled next is net-b."""
    to = tmp_path / "device"
    monkeypatch.setattr(delivery, "check", lambda *_: "checked")
    with server.running(_library(tmp_path, "net-a"), library_case.choose) as url:
        client.pull(url, Need(), to, check=lambda *_: "checked")
    return to


def _library(root: Path, name: str) -> Path:
    artifact = library_case.make_artifact(root / name, name)
    package.add(root / f"library-{name}", root / name, [artifact], {name: [library_case.make_promise(p99_s=0.07e-3)]})
    return root / f"library-{name}"


@pytest.mark.parametrize(("measured_s", "current"), [(2.9e-3, "net-a"), (0.08e-3, "net-b")])
def test_only_a_promise_that_holds_becomes_the_current_install(
    device_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured_s: float, current: str
) -> None:
    monkeypatch.setattr(delivery.jobs, "once", lambda *_: synthetic.profile("net-b", measured_s))
    need = Need(deadline_s=1e-3)
    with server.running(_library(tmp_path, "net-b"), library_case.choose) as url:
        first, again = (delivery.pull(url, need, device_folder) for _ in range(2))
    assert first.deadline_met is (current == "net-b") and first.pulled.folder.is_dir()
    assert first.current == swap.current(device_folder) and current in str(first.current)
    assert again.pulled.receipt.bytes_downloaded == 0 and again.current == first.current


def test_a_measurement_that_is_interrupted_leaves_the_install_before(
    device_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> ProfileRecord:
        raise KeyboardInterrupt

    before = swap.current(device_folder)
    monkeypatch.setattr(delivery.jobs, "once", interrupt)
    with server.running(_library(tmp_path, "net-b"), library_case.choose) as url, pytest.raises(KeyboardInterrupt):
        delivery.pull(url, Need(deadline_s=1e-3), device_folder)
    assert before is not None and swap.current(device_folder) == before


def of_backend(backend: str, median_s: float, **changes: Any) -> ProfileRecord:
    record = synthetic.profile("net", median_s)
    return record.model_copy(update={"settings": record.settings.model_copy(update={"backend": backend}), **changes})


def test_only_what_runs_the_packaged_file_promises() -> None:
    records = [
        of_backend("onnxruntime", 1e-3),
        of_backend("pytorch", 1e-3),
        of_backend("onnxruntime", 1e-3, measurement=None),
    ]
    (sha256,) = delivery.promises(records)
    assert [p.backend for p in delivery.promises(records)[sha256]] == ["onnxruntime"]


def test_a_library_without_promises_has_no_answer() -> None:
    with pytest.raises(NoAnswer, match="promises nothing yet"):
        delivery.choose([], Need(deadline_s=1.0))


def test_a_delivery_is_a_value() -> None:
    one = delivered(Need(deadline_s=1e-3), 2.9e-3)
    assert replace(one, record=None).broken is None and one.promise.artifact_id == "net"


def manifest_of(record: ProfileRecord, *promised: str) -> Any:
    """Of a record's artifact, with promises of these labels."""
    return SimpleNamespace(
        name=record.artifact.artifact_id,
        artifact=record.artifact,
        promises=[SimpleNamespace(label=x) for x in promised],
    )


def batched(size: int, **dims: int) -> ProfileRecord:
    record = synthetic.profile("net", 1e-3)
    spec = TensorSpec(name="x", shape=(size, 4), dtype="float32")
    artifact = record.artifact.model_copy(update={"inputs": (spec,), "dims": tuple(dims.items())})
    return record.model_copy(update={"artifact": artifact})


def test_a_package_says_why_nothing_is_promised_of_it() -> None:
    plain, of_five = batched(1), batched(5)
    assert delivery.unpromised([plain], [manifest_of(plain, "stable")]) == {}
    noisy = plain.model_copy(update={"label": "inconclusive"})
    assert delivery.unpromised([noisy], [manifest_of(noisy, "inconclusive")]) == {"net": "its latency is inconclusive"}
    assert delivery.promises([of_five]) == {}
    reasons = delivery.unpromised([of_five], [manifest_of(of_five)])
    assert reasons == {"net": "it takes 5 inputs at a time, and a promise is of one"}
    paced = plain.model_copy(update={"settings": plain.settings.model_copy(update={"gap_s": 0.01})})
    assert "in other states" in delivery.unpromised([paced], [manifest_of(paced)])["net"]
    assert delivery.unpromised([], [manifest_of(plain)]) == {"net": "it was not profiled"}
    sized = batched(1, width=9)
    assert delivery.unpromised([plain], [manifest_of(sized)]) == {"net": "it was not profiled at these sizes"}


def test_a_network_over_time_is_promised() -> None:
    record = batched(30, n_frames=30)
    assert [p.record_id for p in delivery.promises([record])[record.artifact.content_sha256]] == [record.record_id]


def test_a_library_without_promises_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(NoAnswer, match="kit library add says what each lacks"):
        delivery.choose([manifest_of(batched(1))], Need())
