"""The comparison itself is not timed here: what is asked of each tool, how its answer is read, and what the bars make of the values."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import store
from kit.errors import MeasurementError, UsageError

BENCH = next(p / "bench" for p in Path(__file__).resolve().parents if (p / "bench" / "meters.py").is_file())


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


meters = module(BENCH / "meters.py")
burn = module(BENCH / "meters" / "burn.py")
verdicts = sys.modules["verdicts"]
Visit, Job, Pilot = verdicts.Visit, meters.Job, meters.Pilot

FILES = {"fp32": (Path("a.onnx"),), "int8": (Path("b.onnx"),), "pair": (Path("a.onnx"), Path("b.onnx"))}
PYTHONS = dict.fromkeys(meters.NAMES, sys.executable)
BENCHES = meters.Bench(
    6.0, min(os.sched_getaffinity(0)), 0, FILES, PYTHONS, {"fp32": Pilot(0.0146, 0.5)}, {}, Path("profiles")
)


def header(**changes: Any) -> Any:
    texts = ("device_id", "kit_version", "kit_source", "fp32_sha256", "int8_sha256", "onnxruntime", "numpy", "python")
    return meters.Header(**{**dict.fromkeys(texts, "x"), "budget_s": 6.0, "cpu": 1, "seed": 0, **changes})


def taken(meter: str, round_: int, *, net: str = "fp32", part: str = "idle", **more: Any) -> Any:
    told = {"wall_s": 6.0, "others_share": 0.0, "steal_share": 0.0, "created_utc": "2026-11-21T00:00:00Z"}
    return Visit(part=part, net=net, round=round_, meter=meter, **{**told, **more})


def kit_said(values: list[float], *, part: str = "idle", net: str = "fp32", label: str = "stable") -> list[Any]:
    return [
        taken("kit", i, part=part, net=net, readings={"raw": v, "corrected": v}, labels=(label,))
        for i, v in enumerate(values)
    ]


def plain_said(values: list[float], meter: str = "plain", key: str = "median") -> list[Any]:
    return [taken(meter, i, readings={key: v}) for i, v in enumerate(values)]


def judged(visits: list[Any], rounds: int, start: str) -> Any:
    found = verdicts.verdicts(verdicts.rows(visits, rounds), rounds)
    (one,) = [v for v in found if v.bar.startswith(start)]
    return one


# ------------------------------------------------------------------------------------------------------- what is asked


@given(st.floats(2, 60), st.floats(1e-4, 0.2), st.floats(0.1, 1.0))
def test_pyperf_is_asked_for_what_fits(budget_s: float, call_s: float, start_s: float) -> None:
    options = meters.pyperf_options(budget_s, Pilot(call_s, start_s))
    asked = dict(o.removeprefix("--").split("=") for o in options if "=" in o)
    processes, values, loops = (int(asked[n]) for n in ("processes", "values", "loops"))
    assert loops & (loops - 1) == 0 and loops * call_s >= 0.0999
    took_s = meters.PYPERF_PARENT_S + processes * (start_s + (1 + values) * loops * call_s)
    assert took_s <= budget_s + 1e-9 or processes == values == 1


@pytest.mark.parametrize(("budget_s", "seconds"), [(1, "1"), (2, "1"), (6, "5"), (6.9, "6")])
def test_benchmark_app_takes_whole_seconds(budget_s: float, seconds: str) -> None:
    options = meters.benchmark_app_options(Path("m.onnx"), budget_s, Path("s"))
    assert options[options.index("-t") + 1] == seconds
    assert options[options.index("-infer_precision") + 1] == "f32" and options[options.index("-hint") + 1] == "none"


def test_every_meter_has_a_command_and_a_file() -> None:
    bench = meters.replace(BENCHES, pilots=dict.fromkeys(("fp32", "int8", "pair"), Pilot(0.01, 0.5)))
    for net, names in meters.METERS.items():
        for name in names:
            words = meters.command(bench, Job("idle", net, 0, name), Path("scratch"))
            runners = [w for w in words if w.startswith(str(BENCH))]
            assert all(Path(w).is_file() for w in runners if not w.startswith("--"))
            assert words[0] == sys.executable
    pair = meters.command(bench, Job("idle", "pair", 0, "kit-pair"), Path("scratch"))
    assert pair[3:7] == ["profile", "a.onnx", "b.onnx", "--json"] and pair[pair.index("--budget") + 1] == "12s"


def test_the_runners_learn_when_to_end(tmp_path: Path) -> None:
    told = meters.environment(BENCHES, Job("idle", "fp32", 0, "plain"), tmp_path, 100.0)
    assert float(told["METER_UNTIL_S"]) == 106.0 and float(told["METER_CALL_S"]) == 0.0146
    assert told["OMP_NUM_THREADS"] == "1" and told["METER_MODEL"] == "a.onnx"


def test_rounds_are_shuffled_and_a_choice_of_meters_keeps_the_order() -> None:
    whole = [meters.order(BENCHES, "idle", r, meters.NAMES) for r in range(7)]
    again = meters.order(BENCHES, "idle", 3, meters.NAMES)
    assert whole[3] == again and len({tuple(j.meter for j in jobs) for jobs in whole}) == 7
    assert all(len(jobs) == sum(map(len, meters.METERS.values())) == len(set(jobs)) for jobs in whole)
    some = meters.order(BENCHES, "idle", 3, ("kit", "plain"))
    assert some == [j for j in again if j.meter in ("kit", "plain")]


def test_a_tool_that_cannot_be_had_is_left_out() -> None:
    bench = meters.replace(BENCHES, pythons={"plain": sys.executable})
    assert {j.meter for j in meters.order(bench, "idle", 0, meters.NAMES)} == {
        "plain",
        "kit",
        "kit-openvino",
        "kit-pair",
    }


def test_bursts_are_a_fifth_of_the_time_and_repeat() -> None:
    def first(seed: str) -> list[tuple[float, float]]:
        return [pair for pair, _ in zip(burn.bursts(seed), range(4000), strict=False)]

    drawn = first("0/1")
    assert drawn == first("0/1") != first("0/2")
    assert all(0.01 <= busy <= 0.2 and 2 * busy <= pause <= 6 * busy for busy, pause in drawn)
    busy_s = sum(b for b, _ in drawn)
    assert busy_s / sum(b + p for b, p in drawn) == pytest.approx(0.2, rel=0.03)


# ----------------------------------------------------------------------------------------------- how answers are read


def test_answers_of_the_tools(tmp_path: Path) -> None:
    """Cut from what pytest-benchmark 5.3.1 and openvino 2026.4's benchmark_app wrote."""
    stats = {"median": 0.014650168, "rounds": 172, "iterations": 1}
    (tmp_path / "benchmark.json").write_text(json.dumps({"benchmarks": [{"name": "test_call", "stats": stats}]}))
    results = {"latency (ms)": "14.17", "avg latency": "14.21", "total number of iterations": "351"}
    (tmp_path / "benchmark_report.json").write_text(json.dumps({"execution_results": results}))
    assert meters.said("pytest-benchmark", "", tmp_path) == meters.Said({"median": 0.014650168}, calls=172)
    assert meters.said("benchmark_app", "", tmp_path).readings["median"] == pytest.approx(0.01417)
    line = 'call: Mean +- std dev: 15.1 ms\n{"readings": {"median": 0.015}, "calls": 96}\n'
    assert meters.said("pyperf", line, tmp_path) == meters.Said({"median": 0.015}, calls=96)


@pytest.mark.parametrize("meter", ["plain", "kit", "pytest-benchmark", "benchmark_app"])
@pytest.mark.parametrize("output", ["", "{}", "[]", "not JSON", '{"variants": 3}', '{"readings": 1}'])
def test_an_unreadable_answer_is_a_failure(meter: str, output: str, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="gave no readable answer"):
        meters.said(meter, output, tmp_path)


def test_kit_gives_raw_and_corrected_or_their_ratio() -> None:
    one = {"median_s": 0.016, "corrected_s": 0.015, "label": "stable", "calls": 300, "reason": None}
    two = {"median_s": 0.004, "corrected_s": None, "label": "inconclusive", "calls": 900, "reason": None}
    assert meters.said_by_kit([one]) == meters.Said({"raw": 0.016, "corrected": 0.015}, ("stable",), 300)
    assert meters.said_by_kit([one, two]) == meters.Said({"raw": 0.25}, ("stable", "inconclusive"), 1200)
    assert meters.said_by_kit([one, {**two, "corrected_s": 0.003}]).readings["corrected"] == pytest.approx(0.2)
    with pytest.raises(MeasurementError, match="no room"):
        meters.said_by_kit([one, {**two, "median_s": None, "reason": "no room"}])


# ---------------------------------------------------------------------------------------------------------- processes


def test_a_meter_runs_on_its_cpu_and_failures_are_told(tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    where = "import os; print(sorted(os.sched_getaffinity(0)))"
    assert meters.started([sys.executable, "-c", where], dict(os.environ), cpu, 5) == f"[{cpu}]\n"
    with pytest.raises(MeasurementError, match="code 3: no such luck"):
        meters.started(
            [sys.executable, "-c", "import sys; print('no such luck', file=sys.stderr); sys.exit(3)"],
            dict(os.environ),
            cpu,
            5,
        )


def test_a_failed_meter_is_a_visit_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "command", lambda *_: [sys.executable, "-c", "raise SystemExit('too bad')"])
    visit = meters.visit(BENCHES, Job("disturbed", "fp32", 0, "plain"))
    assert not visit.readings and visit.reason == "It ended with code 1: too bad"
    assert not [c for c in psutil.Process().children() if "burn.py" in " ".join(c.cmdline())]


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    first = meters.tools(tmp_path, ["pyperf"], lambda _: None)
    count = len(asked)
    assert count == 2 and f"onnxruntime=={meters.version('onnxruntime')}" in asked[1]
    assert meters.tools(tmp_path, ["pyperf"], lambda _: None) == first and len(asked) == count
    monkeypatch.setattr(subprocess, "run", lambda w, **_: subprocess.CompletedProcess(w, 1, "", "no such package"))
    pythons, missing = meters.tools(tmp_path, ["loadgen"], lambda _: None)
    assert set(pythons) == {"plain", "timeit"} and "no such package" in missing["loadgen"]


# ------------------------------------------------------------------------------------------------------------ journal


def test_a_killed_run_goes_on_and_failures_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, ran = tmp_path / "j.jsonl", []

    def visit(_: Any, job: Any) -> Any:
        ran.append(job)
        if len(ran) == 3:
            raise KeyboardInterrupt
        said = {"reason": "no"} if len(ran) == 2 else {"readings": {"median": 0.01}}
        return taken(job.meter, job.round, net=job.net, part=job.part, **said)

    monkeypatch.setattr(meters, "visit", visit)
    with pytest.raises(KeyboardInterrupt):
        meters.measure(BENCHES, journal, header(), 2, ("idle",), ("plain", "timeit"))
    with journal.open("a") as file:
        file.write('{"part": "idle", "ne')  # torn by the kill
    visits = meters.measure(BENCHES, journal, header(), 2, ("idle",), ("plain", "timeit"))
    good = [Job(v.part, v.net, v.round, v.meter) for v in visits if v.reason is None]
    assert len(good) == len(set(good)) == 8 and ran[1] in ran[3:] and ran[0] not in ran[3:]
    count = len(ran)
    assert len(meters.measure(BENCHES, journal, header(), 2, ("idle",), ("plain", "timeit"))) == 9
    assert len(ran) == count


def test_journals_do_not_mix(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    assert meters.read_journal(journal, header()) == []
    store.append_line(journal, taken("plain", 0, readings={"median": 0.01}))
    assert len(meters.read_journal(journal, header())) == 1
    with pytest.raises(UsageError, match="--fresh"):
        meters.read_journal(journal, header(kit_source="y"))


# --------------------------------------------------------------------------------------------------------------- bars


@given(st.lists(st.floats(1e-5, 1.0), min_size=2, max_size=9), st.floats(1e-2, 1e2))
def test_the_spread_knows_no_unit(values: list[float], scale: float) -> None:
    one, other = (verdicts.rows(plain_said([v * s for v in values]), len(values))[0].spread for s in (1.0, scale))
    assert one == pytest.approx(other, rel=1e-6, abs=1e-9) and one >= 0


def test_truth_is_the_median_of_the_pairs() -> None:
    plain = [0.010, 0.020, 0.030]
    near = judged(plain_said(plain) + kit_said([0.01005, 0.02018, 0.0330]), 3, "truth, fp32: kit raw")
    assert near.met and near.measured == "1.0090 (1.0050 to 1.1000)"
    assert judged(plain_said(plain) + kit_said([0.0102, 0.0203, 0.0300]), 3, "truth, fp32: kit raw").met is False


def test_a_bar_that_lacks_a_round_stays_open() -> None:
    visits = plain_said([0.01] * 7) + kit_said([0.01] * 6)
    for start in ("truth, fp32: kit corrected", "repeatability, fp32: spread of kit corrected <= 1%"):
        open_ = judged(visits, 7, start)
        assert open_.met is None and "6 of 7 rounds" in open_.measured
        assert judged(visits + kit_said([0.01] * 7)[6:], 7, start).met is True
    assert judged(visits, 7, "truth, fp32: kit-openvino raw").met is None
    worse = plain_said([0.01] * 7) + kit_said([0.01] * 5 + [0.02])
    assert judged(worse, 7, "repeatability, fp32: spread of kit corrected <= 1%").met is False


@pytest.mark.parametrize(("kit_high", "met"), [(0.01009, True), (0.01011, False)])
def test_a_quarter_of_the_best_public_meter(kit_high: float, met: bool) -> None:
    visits = kit_said([0.01, 0.01, kit_high])
    visits += plain_said([0.01, 0.01, 0.01])  # the yardstick is no public meter
    visits += plain_said([0.0100, 0.0100, 0.0104], "torch") + plain_said([0.010, 0.010, 0.012], "pyperf")
    visits += plain_said([0.010, 0.010], "loadgen")  # lacks a round: it does not compete
    verdict = judged(visits, 3, "repeatability, fp32: spread of kit corrected <= a quarter")
    assert verdict.met is met and "torch" in verdict.measured


@pytest.mark.parametrize(
    ("values", "label", "met"),
    [
        ([0.0102, 0.01029, 0.0098], "stable", True),
        ([0.0102, 0.0104, 0.0098], "stable", False),
        ([0.0102, 0.0104, 0.0098], "settled", False),
        ([0.0102, 0.0150, 0.0098], "inconclusive", True),
        ([0.0102, 0.0150, 0.0098], "throttled", True),
    ],
)
def test_a_disturbed_value_is_near_or_not_trusted(values: list[float], label: str, met: bool) -> None:
    visits = kit_said([0.0100, 0.0100, 0.0101]) + kit_said(values, part="disturbed", label=label)
    assert judged(visits, 3, "disturbed, fp32").met is met


def test_a_trusted_disturbed_value_without_correction_is_judged_by_its_raw_median() -> None:
    raw = [taken("kit", i, part="disturbed", readings={"raw": 0.012}, labels=("stable",)) for i in range(2)]
    assert judged(kit_said([0.01, 0.01]) + raw, 2, "disturbed, fp32").met is False


def test_the_ratio_of_two_files() -> None:
    said = [taken("kit-pair", i, net="pair", readings={"corrected": r}) for i, r in enumerate([0.29, 0.291, 0.292])]
    assert judged(said, 3, "ratio int8 / fp32").met is True
    said[0] = taken("kit-pair", 0, net="pair", readings={"corrected": 0.287})
    assert judged(said, 3, "ratio int8 / fp32").met is False


def test_a_second_try_replaces_a_failure_and_tables_keep_gaps() -> None:
    visits = [taken("plain", 0, reason="no"), *plain_said([0.01]), *kit_said([0.01, 0.0101])]
    table = verdicts.rows(visits, 3)
    assert table[0].values == (0.01, None, None) and table[1].ratios == (1.0, None, None)
    sheet, bars = verdicts.sheets(table, verdicts.verdicts(table, 3), 3)
    assert sheet.cells[0] == ("plain onnxruntime loop", "10.000", "—", "—", "—", "1.0000")
    lines = verdicts.markdown(sheet).splitlines()
    assert len({line.count("|") for line in lines[2:]}) == 1 and all(len(c) == len(bars.columns) for c in bars.cells)
