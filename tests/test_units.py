"""Every flag and every column that names a unit, at a value where any other unit would give another answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import simulated
import synthetic
from invoke import kit
from typer.testing import CliRunner

from kit import delivery, latency, store, units
from kit.cli import app
from kit.latency import explore
from kit.measure import profiler, scenario
from kit.measure.jobs import duration_s
from kit.records import KnowledgeBase, KnowledgeRow, Need, OperatingPoint, SubNetwork

ROW = KnowledgeRow(
    artifact_id="net", sha256="5" * 64, device_id="d", backend="onnxruntime", threads=1, precision="fp32", median_s=0.010, p90_s=0.011,
    p95_s=0.012, p99_s=0.013, label="stable", memory_bytes=30_000_000, size_bytes=5_000, energy_j=0.004, macs=None, accuracy=0.5,
    dataset="x", record_id="r",
)  # fmt: skip


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A knowledge base of one row: p99 13 ms, 30 MB (28.6 MiB), 4 mJ, a file of 40 kbit."""
    monkeypatch.chdir(tmp_path)
    store.write_record(Path("knowledge.json"), KnowledgeBase(created_utc=synthetic.NOW, kit_version="0", rows=(ROW,)))
    return tmp_path


#: A limit that the row meets by a hair, and one that it misses by a hair: a hair is less than a MiB is from a MB.
HAIRS = [
    (("--deadline-ms", "13.1"), ("--deadline-ms", "12.9")),
    (("--deadline-ms", "10.1", "--percentile", "50"), ("--deadline-ms", "9.9", "--percentile", "50")),
    (("--memory-mb", "30"), ("--memory-mb", "29")),
    (("--energy-mj", "4.05"), ("--energy-mj", "3.95")),
    (("--min-accuracy", "0.5"), ("--min-accuracy", "0.51")),
    (("--link-mbps", "4.1", "--deadline-ms", "23"), ("--link-mbps", "3.9", "--deadline-ms", "23")),  # 40 kbit in 10 ms
    (("--link-mbps", "4", "--download-ms", "10.1"), ("--link-mbps", "4", "--download-ms", "9.9")),
]


@pytest.mark.parametrize(("met", "missed"), HAIRS)
def test_limits_are_in_the_units_of_their_names(base: Path, met: tuple[str, ...], missed: tuple[str, ...]) -> None:
    assert json.loads(kit("knowledge", "ask", *met, "--json"))["chosen"]["id"] == "net"
    done = CliRunner().invoke(app, ["knowledge", "ask", *missed])
    assert getattr(done.exception, "exit_code", done.exit_code) == 3
    for words, holds in ((met, True), (missed, False)):
        (why,) = json.loads(kit("knowledge", "explain", "net", *words, "--json"))["explanations"]
        assert all(limit["met"] for limit in why["limits"]) is holds and why["chosen"] is holds


@pytest.mark.parametrize(("met", "missed"), [HAIRS[0], HAIRS[2]])
def test_the_fronts_limits_too(base: Path, met: tuple[str, ...], missed: tuple[str, ...]) -> None:
    assert len(json.loads(kit("knowledge", "pareto", *met, "--json"))["front"]) == 1
    done = CliRunner().invoke(app, ["knowledge", "pareto", *missed, "--json"])
    assert done.exception is not None or json.loads(done.stdout)["front"] == []


def test_what_is_printed_is_in_the_units_of_its_column(base: Path) -> None:
    said = kit("knowledge", "pareto", "--memory", "--size", "--energy")
    words = said.replace("│", " ").replace("|", " ").split()
    assert {"13", "30", "4", "0.005"} <= set(words), said  # ms, MB, mJ, MB


def test_a_pull_needs_what_its_flags_say(monkeypatch: pytest.MonkeyPatch) -> None:
    needs: list[Need] = []

    def pulled(url: str, need: Need, to: Path, **_: object) -> Any:
        needs.append(need)
        raise SystemExit(0)

    monkeypatch.setattr(delivery, "pull", pulled)
    words = (
        "--deadline-ms",
        "1.5",
        "--memory-mb",
        "2.5",
        "--link-mbps",
        "3",
        "--download-ms",
        "7",
        "--min-accuracy",
        "0.25",
    )
    kit("pull", "http://127.0.0.1:1", *words)
    (need,) = needs
    assert (need.deadline_s, need.memory_bytes, need.link_bps) == (pytest.approx(1.5e-3), 2_500_000, pytest.approx(3e6))
    assert (need.download_s, need.min_accuracy) == (pytest.approx(7e-3), 0.25)


class Called(Exception):
    """What a stand-in raises: what it was called with is all that a test of words wants."""


def called(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *words: str) -> tuple[Any, ...]:
    """What ``owner.name`` gets when kit is given ``words``."""
    got: list[tuple[Any, ...]] = []

    def stand_in(*arguments: Any, **more: Any) -> Any:
        got.append((*arguments, more))
        raise Called

    monkeypatch.setattr(owner, name, stand_in)
    with pytest.raises(Called):
        kit(*words)
    return got[0]


def test_the_words_of_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fake = ("profile", "fake:5us", "--backend", "fake")
    (job,) = called(monkeypatch, profiler, "profile", *fake, "--gap-ms", "2.5", "--run-s", "0.25", "--budget", "2m")[0]
    assert (job.settings.gap_s, job.settings.run_s, job.settings.budget_s) == (pytest.approx(2.5e-3), 0.25, 120)
    sweep = ("--sweep", "gap-ms=0,2.5", "--sweep", "clock-ghz=1.5")
    jobs = called(monkeypatch, profiler, "profile", *fake, *sweep)[0]
    assert [job.settings.gap_s for job in jobs] == [0, pytest.approx(2.5e-3)]
    assert {job.settings.clock_cap_hz for job in jobs} == {1.5e9}
    space = ("explore", "resnet18", "--deadline-ms", "2.5", "--budget", "1h")
    plan = called(monkeypatch, explore, "run", *space)[0]
    assert (plan.deadline_s, plan.budget_s) == (pytest.approx(2.5e-3), 3600)
    assert [duration_s(text) for text in ("90s", "1.5m", "1h")] == [90, 90, 3600]


def test_the_words_of_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("scenario", "fake:5us", "--backend", "fake", "--kind", "server", "--bound-ms", "2.5", "--seconds", "3")
    settings = called(monkeypatch, scenario, "measure", *words)[1]
    assert (settings.bound_s, settings.run_s) == (pytest.approx(2.5e-3), 3)


def test_the_words_of_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    predictor = latency.predictor(simulated.Machine(0).profiles(simulated.sample(12, 0)), baselines=False)
    monkeypatch.setattr(latency, "load", lambda path: predictor)
    words = (
        "predict",
        "resnet18-d2.2.2.2-w1.00-fp32-224",
        "--model",
        "m.json",
        "--gap-ms",
        "2.5",
        "--clock-ghz",
        "1.5",
    )
    _, _, point, more = called(monkeypatch, type(predictor), "predict", *words)
    assert (
        isinstance(point, OperatingPoint)
        and point.gap_s == pytest.approx(2.5e-3)
        and more["clock_hz"] == pytest.approx(1.5e9)
    )


def test_the_words_of_the_size_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kit import knowledge

    monkeypatch.chdir(tmp_path)
    sub = SubNetwork(family="allocator", root="allocator_a", depth=2, width=0.5, precision="fp32", resolution_px=30)
    row = ROW.model_copy(update={"artifact_id": sub.id, "macs": 1, "clock_hz": None})
    store.write_record(Path("knowledge.json"), KnowledgeBase(created_utc=synthetic.NOW, kit_version="0", rows=(row,)))
    words = ("knowledge", "table", "--sizes-kbit", "0.25,8", "--clocks-ghz", "0.5,2", "--clock-ghz", "3")
    timings, _, sizes_bit, clocks_hz, _ = called(monkeypatch, knowledge, "dynamic_table", *words)
    assert sizes_bit == [250, 8000] and clocks_hz == [0.5e9, 2e9]
    assert {timing.clock_hz for timing in timings} == {3e9}


def test_the_clock_of_a_simulated_delay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kit.papers import delays

    monkeypatch.chdir(tmp_path)
    store.write_record(Path("knowledge.json"), KnowledgeBase(created_utc=synthetic.NOW, kit_version="0", rows=(ROW,)))
    got: list[dict[str, Any]] = []
    monkeypatch.setattr(delays.Measured, "from_rows", lambda rows, family, **more: got.append(more))
    delays.delay_of("measured:knowledge.json,clock-ghz=2.5")
    assert got[0]["clock_hz"] == 2.5e9


def test_a_command_that_kit_suggests_measures_the_point_that_it_is_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kit.knowledge import uncertainty

    monkeypatch.chdir(tmp_path)
    point = OperatingPoint(threads=1, gap_s=2.5e-3, clock_cap_hz=1.5e9)
    row = ROW.model_copy(update={"artifact_id": "fake:5us", "origin": "predicted", "backend": "fake", "point": point})
    words = uncertainty.command(row).split()
    (job,) = called(monkeypatch, profiler, "profile", *words[1:])[0]
    assert (
        job.settings.gap_s == pytest.approx(2.5e-3) and job.settings.clock_cap_hz == 1.5e9 and job.settings.threads == 1
    )


def test_sizes_in_messages_are_in_megabytes() -> None:
    assert units.size(30_000_000) == "30.0 MB" and units.size(29_949_999) == "29.9 MB"
