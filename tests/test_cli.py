"""The command line as a person meets it: real ``kit`` processes, their output, sentences and exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import synthetic

from kit import knowledge, store
from kit.devices import recognise
from kit.records import Artifact

FAST = ("--rounds-min", "2", "--rounds-max", "2", "--run-s", "0.02")


def kit(*words: object, cwd: Path, check: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
    completed = subprocess.run(
        [sys.executable, "-m", "kit", *map(str, words)], cwd=cwd, capture_output=True, text=True, **more
    )
    if check is not None:
        assert completed.returncode == check, completed.stderr
    assert "Traceback" not in completed.stderr
    return completed


def complaint(*words: object, cwd: Path, code: int, **more: Any) -> str:
    """The one line that a refused command says."""
    completed = kit(*words, cwd=cwd, check=code, **more)
    lines = [line for line in completed.stderr.splitlines() if line.startswith("kit: ")]
    assert len(lines) == 1 and not completed.stdout, completed.stderr
    return lines[0]


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    path = tmp_path / "p.jsonl"
    for i in range(1, 6):
        store.append_line(
            path, synthetic.profile(f"net{i}", i * 1e-3, macs=i * 10**7, accuracy=0.8 + i / 50, size=i * 10**5)
        )
    return path


def test_version_and_unknown_verb(tmp_path: Path) -> None:
    assert kit("--version", cwd=tmp_path).stdout.startswith("kit 0.")
    completed = kit("profle", cwd=tmp_path, check=2)
    assert "profile" in completed.stderr


def test_device_prints_saves_and_recognises_itself(tmp_path: Path) -> None:
    data = json.loads(kit("device", "--json", cwd=tmp_path).stdout)
    assert data["logical_cores"] >= 1 and data["cpu_model"] and data["clock"]["source"]
    assert data["device_id"] in kit("device", cwd=tmp_path).stdout
    saved = json.loads(kit("device", "save", "my-box", "--json", cwd=tmp_path).stdout)
    assert (tmp_path / saved["file"]).is_file()
    assert json.loads(kit("device", "--json", cwd=tmp_path).stdout)["config"] == "my-box"
    assert "my-box" in complaint("device", "save", "my-box", cwd=tmp_path, code=2)
    kit("device", "save", "my-box", "--force", cwd=tmp_path)


def test_profile_prints_json_on_stdout_and_progress_on_stderr(tmp_path: Path) -> None:
    completed = kit("profile", "fake:100us", "fake:300us", "--backend", "fake", *FAST, "--json", cwd=tmp_path)
    data = json.loads(completed.stdout)
    assert [v["id"] for v in data["variants"]] == ["fake:100us", "fake:300us"]
    assert data["variants"][1]["median_s"] > data["variants"][0]["median_s"] >= 100e-6
    assert "profile:" in completed.stderr
    assert len(store.read_profiles([tmp_path / data["file"]])) == 2


#: What a measured variant says under --json; scripts of users rest on these names.
KEYS = {
    "id", "family", "depth", "width", "bits", "accuracy", "size_bytes", "macs", "backend", "threads", "point", "median_s",
    "interval_s", "confidence", "corrected_s", "corrected_interval_s", "mode_s", "p90_s", "p99_s", "intervals_s", "clock_hz",
    "clock_source", "cold_start_s", "memory_bytes", "memory", "energy", "layers", "processes", "calls", "evidence", "label",
    "outcome", "reason", "record_id",
}  # fmt: skip


def test_a_sweep_measures_every_combination_in_one_run(tmp_path: Path) -> None:
    sweep = ("--sweep", "threads=1,2", "--sweep", "gap-ms=0,1", "--rounds-max", "1", "--run-s", "0.02")
    completed = kit("profile", "fake:100us", "--backend", "fake", *sweep, "--json", cwd=tmp_path)
    data = json.loads(completed.stdout)
    assert set(data) >= {"device", "file", "seed", "variants", "warnings"}
    assert [v["point"] for v in data["variants"]] == ["t1", "t1-gap1ms", "t2", "t2-gap1ms"]
    assert [v["threads"] for v in data["variants"]] == [1, 1, 2, 2]
    for variant in data["variants"]:
        assert set(variant) >= KEYS and variant["outcome"] == "ok" and variant["processes"] == 1
        assert variant["mode_s"] >= 100e-6 and set(variant["intervals_s"]) == {"p90", "p99", "mode"}
        assert set(variant["cold_start_s"]) == {"runtime", "open", "first", "until_steady"}
        assert variant["memory"]["peak_bytes"] == variant["memory_bytes"] > 0
    assert any("too few processes" in sentence for sentence in data["warnings"])
    assert [r.settings.gap_s for r in store.read_profiles([tmp_path / data["file"]])] == [0.0, 0.001, 0.0, 0.001]


def test_a_point_that_this_machine_does_not_have_is_a_row_of_the_sweep(tmp_path: Path) -> None:
    words = (
        "profile",
        "fake:1us",
        "--backend",
        "fake",
        "--sweep",
        f"affinity={min(os.sched_getaffinity(0))},99999",
        "--rounds-max",
        "1",
        "--run-s",
        "0.01",
    )
    completed = kit(*words, cwd=tmp_path)
    assert "unsupported" in completed.stdout and "CPU 99999 does not exist" in completed.stderr
    missing = json.loads(kit(*words, "--json", cwd=tmp_path).stdout)["variants"][1]
    assert missing["outcome"] == "unsupported" and missing["median_s"] is None and missing["label"] is None


def test_several_backends_are_compared_in_one_run(tmp_path: Path, tiny_build: Path) -> None:
    model = sorted(tiny_build.glob("*.onnx"))[0]
    words = ("--backend", "onnxruntime, pytorch,onnxruntime", "--layers", "--rounds-max", "1", "--run-s", "0.05")
    data = json.loads(kit("profile", model, *words, "--json", cwd=tmp_path).stdout)
    assert [v["backend"] for v in data["variants"]] == ["onnxruntime", "pytorch"]
    assert {v["outcome"] for v in data["variants"]} == {"ok"}
    layers = data["variants"][0]["layers"]
    assert set(layers) == {"source", "sum_s", "whole_with_profiler_s", "whole_s", "by_kind_s", "by_stage_s", "nodes"}
    assert layers["sum_s"] == pytest.approx(sum(node["time_s"] for node in layers["nodes"]))
    assert "Conv" in layers["by_kind_s"] and 0 < layers["whole_s"] == data["variants"][0]["median_s"]
    shown = kit("profile", model, "--layers", "--rounds-max", "1", "--run-s", "0.05", cwd=tmp_path).stdout
    assert "By stage:" in shown and "Conv" in shown


def test_profile_of_a_build_folder_a_file_and_an_id(tmp_path: Path, tiny_build: Path) -> None:
    data = json.loads(kit("profile", tiny_build, *FAST, "--json", cwd=tmp_path).stdout)
    assert len(data["variants"]) == 3 and {v["outcome"] for v in data["variants"]} == {"ok"}
    first = data["variants"][0]
    assert {
        "id",
        "family",
        "depth",
        "width",
        "bits",
        "accuracy",
        "size_bytes",
        "macs",
        "backend",
        "threads",
        "median_s",
        "p99_s",
        "label",
    } <= set(first)
    assert (first["family"], first["depth"], first["width"], first["bits"]) == ("resnet", 2, 1.0, 32)
    by_id = json.loads(kit("profile", first["id"], "--build", tiny_build, *FAST, "--json", cwd=tmp_path).stdout)
    assert [v["id"] for v in by_id["variants"]] == [first["id"]]
    by_file = json.loads(
        kit("profile", tiny_build / f"{first['id']}.onnx", "--backend", "pytorch", *FAST, "--json", cwd=tmp_path).stdout
    )
    assert by_file["variants"][0]["backend"] == "pytorch"


def test_profile_killed_and_started_again(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "kit",
        "profile",
        "fake:10us",
        "fake:20us",
        "fake:30us",
        "--backend",
        "fake",
        "--rounds-max",
        "3",
        "--json",
    ]
    child = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not (journals := list(tmp_path.rglob("*.journal"))) or journals[0].read_text().count("\n") < 4:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    journal_records = journals[0].read_text().count("\n") - 1
    assert not list(tmp_path.rglob("*.jsonl"))
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    data = json.loads(completed.stdout)
    assert [v["processes"] for v in data["variants"]] == [3, 3, 3]
    assert journal_records >= 3 and not list(tmp_path.rglob("*.journal"))


def test_a_run_in_which_nothing_was_measured_fails_and_keeps_the_record(tmp_path: Path) -> None:
    completed = kit("profile", "fake:crash", "--backend", "fake", "--json", cwd=tmp_path, check=1)
    assert "kit: Nothing was measured: The process died by signal 6" in completed.stderr
    assert json.loads(completed.stdout)["variants"][0]["outcome"] == "crashed"
    assert store.read_profiles([tmp_path / "kit-profiles"])[0].status == "crashed"


def test_fit_shows_lambda_and_the_papers(tmp_path: Path, profiles: Path) -> None:
    data = json.loads(kit("fit", profiles, "--json", cwd=tmp_path).stdout)
    model = data["latency_models"][0]
    assert model["lambda_cycles_per_mac"] == pytest.approx(1e-3 / 1e7 * synthetic.CLOCK_HZ, rel=0.01)
    assert model["interval"][0] <= model["lambda_cycles_per_mac"] <= model["interval"][1]
    assert {"backend", "precision", "threads", "overhead_s", "r2", "mape", "within_5", "within_10"} <= set(model)
    assert model["paper"]["lambda_cycles_per_mac"] == 1.0 and model["clock_source"] == "nominal"
    shown = kit("fit", profiles, cwd=tmp_path).stdout
    assert "nominal" in shown and "lambda" in shown


def test_knowledge_build_and_ask(tmp_path: Path, profiles: Path) -> None:
    kit("knowledge", "build", profiles, "--out", "k.json", cwd=tmp_path)
    answer = json.loads(
        kit("knowledge", "ask", "--knowledge", "k.json", "--deadline-ms", "3.5", "--json", cwd=tmp_path).stdout
    )
    assert answer["chosen"]["id"] == "net3" and answer["runner_up"]["id"] == "net2" and 0 < answer["margin"] < 1
    assert {r["artifact_id"]: r["limit"] for r in answer["rejected"]} == {"net4": "deadline", "net5": "deadline"}
    assert "net3" in kit("knowledge", "ask", "--knowledge", "k.json", "--deadline-ms", "3.5", cwd=tmp_path).stdout
    message = complaint("knowledge", "ask", "--knowledge", "k.json", "--deadline-ms", "0.5", cwd=tmp_path, code=3)
    assert "nearest is net1" in message and "over the deadline limit of 0.5 ms" in message


def test_bad_words_and_files_are_one_sentence(tmp_path: Path, profiles: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "other.jsonl").write_text(
        json.dumps({**json.loads(store.canonical_json(synthetic.profile())), "schema_version": 99}) + "\n"
    )
    (tmp_path / "nan.jsonl").write_bytes(
        store.canonical_json(synthetic.profile(spread=0.0)).replace(b'"warmup_s":0.1', b'"warmup_s":NaN') + b"\n"
    )
    mixed = tmp_path / "mixed.jsonl"
    for i, device in enumerate(("one", "two")):
        store.append_line(mixed, synthetic.profile(f"net{i}", on=synthetic.device(device)))
    store.write_record(tmp_path / "k.json", knowledge.build(store.read_profiles([profiles])))
    ask = ("knowledge", "ask", "--knowledge", "k.json")
    cases: list[tuple[tuple[object, ...], int, str]] = [
        (("profile", "text.onnx"), 2, "not an ONNX model"),
        (("profile", "none.onnx"), 2, "does not exist"),
        (("profile", "fake:1us"), 2, "--backend fake"),
        (("profile", "fake:1us", "--backend", "fak"), 2, "did you mean 'fake'"),
        (("profile", "fake:1us", "--backend", "fake", "--rounds-min", "12", "--rounds-max", "10"), 2, "--rounds-max 10 is below"),
        (("profile", "fake:1us", "--backend", "fake", "--sweep", "threads=1,x"), 2, "does not take '1,x'"),
        (("profile", "fake:1us", "--backend", "fake", "--sweep", "thread=1"), 2, "did you mean 'threads'"),
        (("profile", "fake:1us", "--backend", "fake", "--affinity", "first"), 2, "give logical CPUs like 0"),
        (("profile", "fake:1us", "--backend", "fake", "--affinity", "99999"), 2, "CPU 99999 does not exist; this machine has"),
        (("profile", "fake:1us", "--backend", "fake", "--affinity", "0,0"), 2, "names CPU 0 twice"),
        (("profile", "fake:1us", "--backend", "fake", "--threads", "99999"), 2, "CPUs of this machine: give at most"),
        (("scenario", "fake:1us", "--backend", "fake", "--threads", "99999"), 2, "CPUs of this machine: give at most"),
        (("explore", "resnet18", "--affinity", "99999"), 2, "CPU 99999 does not exist"),
        (("profile", "fake:1us", "--backend", "fake,onnxruntime"), 2, "add --backend fake"),
        (("run", "--root", "resnet81"), 2, "did you mean 'resnet18'"),
        (("build", "vgg"), 2, "Unknown root 'vgg'"),
        (("fit", "none.jsonl"), 2, "does not exist"),
        (("fit", "empty.jsonl"), 2, "empty profile"),
        (("fit", "other.jsonl"), 2, "schema version 99"),
        (("fit", "mixed.jsonl"), 2, "fit one device at a time with --device"),
        (("fit", "mixed.jsonl", "--device", "on"), 2, "did you mean 'one'"),
        (("fit", "mixed.jsonl", "--device", "one"), 2, "A line needs 3"),
        (("profile", "x" * 5000), 1, "File name too long"),
        (("fit", "nan.jsonl"), 2, "finite number"),
        (("fit", "k.json"), 2, "k.json:1 is not JSON"),
        (("knowledge", "build", "empty.jsonl"), 2, "empty profile"),
        (("knowledge", "ask"), 2, "knowledge.json does not exist"),
        (("knowledge", "ask", "--knowledge", "p.jsonl"), 2, "p.jsonl is not JSON"),
        ((*ask, "--deadline-ms", "0"), 2, "above zero"),
        ((*ask, "--deadline-ms", "nan"), 2, "above zero"),
        ((*ask, "--min-accuracy", "95"), 2, "from 0 to 1"),
        ((*ask, "--deadline-ms", "1e-322"), 2, "above zero"),
        ((*ask, "--link-mbps", "5"), 2, "limits nothing"),
        ((*ask, "--download-ms", "5"), 2, "add --link-mbps"),
        ((*ask, "--device", "synthetic-2c"), 2, "did you mean 'synthetic-1c'"),
        (("pull", "localhost:1", "--deadline-ms", "5"), 2, "http://"),
        (("pull", "http://127.0.0.1:9", "--deadline-ms", "5"), 1, "127.0.0.1"),
        (("library", "serve", "nowhere"), 2, "nowhere"),
        (("library", "add", "nowhere", "--to", "lib"), 2, "nowhere"),
    ]  # fmt: skip
    before = sorted(p.name for p in tmp_path.iterdir())
    for words, code, says in cases:
        message = complaint(*words, cwd=tmp_path, code=code)
        assert says in message, (words, message)
    assert sorted({p.name for p in tmp_path.iterdir()} - {"profiles", "models"}) == before, (
        "a refused command leaves nothing behind"
    )


def test_a_failure_with_json_is_one_json_object(tmp_path: Path, profiles: Path) -> None:
    kit("knowledge", "build", profiles, "--out", "k.json", cwd=tmp_path)
    ask = ("knowledge", "ask", "--knowledge", "k.json")
    cases: list[tuple[tuple[object, ...], int, str]] = [
        (("profle",), 2, "profile"),
        (("profile", "x.onnx", "--threads", "none"), 2, "--threads"),
        (("profile", "x.onnx", "--nonsense"), 2, "--nonsense"),
        (("predict", "resnet18"), 2, "--model"),
        (("profile", "none.onnx"), 2, "does not exist"),
        (("profile", "fake:crash", "--backend", "fake", "--rounds-max", "1"), 1, "signal 6"),
        (("compare", profiles, profiles, "--fail-slower", "1", "--within", "nan"), 2, "--within"),
        ((*ask, "--deadline-ms", "0.5"), 3, "nearest is net1"),
        ((*ask, "--device", "synthetic-2c"), 2, "did you mean"),
        (("pull", "http://127.0.0.1:9", "--deadline-ms", "5"), 1, "127.0.0.1"),
    ]
    for words, code, says in cases:
        completed = kit(*words, "--json", cwd=tmp_path, check=code)
        data = json.loads(completed.stdout)
        assert data["code"] == code and says in data["error"], words
        assert completed.stderr.splitlines()[-1] == f"kit: {data['error']}"


def test_no_answer_names_the_nearest_and_the_reasons(tmp_path: Path, profiles: Path) -> None:
    kit("knowledge", "build", profiles, "--out", "k.json", cwd=tmp_path)
    words = ("knowledge", "ask", "--knowledge", "k.json", "--deadline-ms", "0.5", "--json")
    data = json.loads(kit(*words, cwd=tmp_path, check=3).stdout)
    assert data["nearest"]["id"] == "net1" and data["nearest"]["median_s"] > 0
    assert [(r["artifact_id"], r["limit"]) for r in data["reasons"]] == [(f"net{i}", "deadline") for i in range(1, 6)]
    assert all("over the deadline limit" in r["text"] for r in data["reasons"])


def test_output_that_nobody_reads_is_no_traceback(tmp_path: Path) -> None:
    completed = subprocess.run(
        f"{sys.executable} -m kit device --json | true", shell=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert completed.returncode == 0 and not completed.stderr


def test_a_folder_that_cannot_be_written(tmp_path: Path, profiles: Path) -> None:
    for words in (
        ("knowledge", "build", profiles, "--out", "/proc/kit/k.json"),
        ("fit", profiles, "--out", "/proc/kit/m.json"),
        ("profile", "fake:1us", "--backend", "fake", "--profiles", "/proc/kit"),
    ):
        assert "/proc/kit" in complaint(*words, cwd=tmp_path, code=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 16 KiB, where this user may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(tmp_path: Path, small_disk: Path, tiny_build: Path) -> None:
    words = ("profile", "fake:1us", "fake:2us", "--backend", "fake", *FAST, "--profiles", small_disk)
    assert "disk is full" in complaint(*words, cwd=tmp_path, code=1)
    assert not list(small_disk.rglob("*.tmp")) and all(
        line.endswith("}") for p in small_disk.rglob("*.journal") for line in p.read_text().splitlines()
    )
    for path in small_disk.rglob("*.journal"):
        path.unlink()
    assert "full" in complaint("library", "add", tiny_build, "--to", small_disk / "lib", cwd=tmp_path, code=1)
    assert not list(small_disk.rglob("*.tmp"))


def promise(build: Path, profiles: Path) -> None:
    """Trusted records of a build for this device: a busy machine may leave its own measurements inconclusive."""
    here = recognise()
    for sidecar in sorted(build.glob("*.json")):
        record = synthetic.profile(on=here).model_copy(update={"artifact": store.read_record(sidecar, Artifact)})
        store.append_line(profiles / here.device_id / "synthetic.jsonl", record)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_library_round_trip(tmp_path: Path, tiny_build: Path) -> None:
    promise(tiny_build, tmp_path / "kit-profiles")
    added = json.loads(kit("library", "add", tiny_build, "--to", "lib", "--json", cwd=tmp_path).stdout)
    assert len(added["packages"]) == 3 and all(p["promises"] for p in added["packages"])
    assert len(json.loads(kit("library", "list", "lib", "--json", cwd=tmp_path).stdout)["packages"]) == 3
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "kit", "library", "serve", "lib", "--port", str(port)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(port)
        assert "in use" in complaint("library", "serve", "lib", "--port", port, cwd=tmp_path, code=1)
        url = f"http://127.0.0.1:{port}"
        got = json.loads(kit("pull", url, "--deadline-ms", "1000", "--to", "dev", "--json", cwd=tmp_path).stdout)
        assert (
            got["promised_s"] > 0
            and got["measured_s"] > 0
            and "same answers" in got["checked"]
            and got["bytes_downloaded"] > 0
        )
        again = json.loads(
            kit("pull", url, "--deadline-ms", "1000", "--to", "dev", "--no-measure", "--json", cwd=tmp_path).stdout
        )
        assert again["package"] == got["package"] and again["bytes_downloaded"] == 0 and again["measured_s"] is None
        message = complaint("pull", url, "--deadline-ms", "0.000001", "--to", "dev", cwd=tmp_path, code=3)
        assert "nearest is" in message
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(10) == 0


def wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server did not come up")
