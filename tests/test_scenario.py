"""MLPerf's scenarios: the scheduling in virtual time against queueing theory, then real child processes on the fake backend."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_cli import complaint, kit

from kit import stats, store
from kit.errors import BadRecord, StorageError, UsageError
from kit.measure import profiler, scenario, targets
from kit.measure.profiler import Progress
from kit.measure.scenario import Served
from kit.records import ScenarioRecord, ScenarioRun, ScenarioSettings

FAST = {"backend": "fake", "run_s": 0.1, "warmup_max_s": 0.0}


class World:
    """Virtual time: a call takes ``service_ns``, waiting costs nothing, and nothing else happens."""

    def __init__(self, service_ns: int) -> None:
        self.now_ns, self.service_ns = 0, service_ns

    def clock(self) -> int:
        return self.now_ns

    def wait(self, at_ns: int) -> None:
        assert at_ns >= self.now_ns
        self.now_ns = at_ns

    def call(self) -> None:
        self.now_ns += self.service_ns

    def serve(self, arrivals_ns: list[int], bound_ns: float = math.inf, misses_allowed: int = 0) -> Served:
        return scenario.serve(
            self.call, arrivals_ns, bound_ns=bound_ns, misses_allowed=misses_allowed, clock=self.clock, wait=self.wait
        )


def lindley(arrivals: NDArray[np.float64], service: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Latencies and busy periods of a first-in first-out queue with one service time, without simulating it."""
    number = np.arange(len(arrivals))
    completion = (number + 1) * service + np.maximum.accumulate(arrivals - number * service)
    fresh = np.concatenate(([0], (arrivals[1:] > completion[:-1]).astype(np.int64)))
    return completion - arrivals, np.cumsum(fresh)


# ------------------------------------------------------------------------------------------------------------ scheduling


def test_waiting_counts_and_idling_does_not() -> None:
    served = World(30).serve([10, 20, 100])
    assert list(served.latencies_ns) == [30, 50, 30] and list(served.periods) == [0, 0, 1]
    assert served.duration_ns == 130 and not served.cut_short


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60), st.integers(1, 300))
def test_any_queue_is_served_as_the_recursion_says(gaps: list[int], service_ns: int) -> None:
    arrivals = np.cumsum(gaps)
    served = World(service_ns).serve(arrivals.tolist())
    latencies, periods = lindley(arrivals.astype(np.float64), service_ns)
    assert list(served.latencies_ns) == latencies.astype(int).tolist()
    assert list(served.periods) == periods.tolist()


@pytest.mark.parametrize("load", [0.3, 0.5, 0.7])
def test_the_mean_wait_of_poisson_arrivals_is_pollaczek_and_khinchine_s(load: float) -> None:
    service_ns, queries = 1_000_000, 200_000
    arrivals = scenario.poisson(load * 1e9 / service_ns, queries, seed=3)
    waits = np.asarray(World(service_ns).serve(arrivals).latencies_ns) - service_ns
    assert waits.mean() == pytest.approx(load * service_ns / (2 * (1 - load)), rel=0.05)
    assert np.mean(waits == 0) == pytest.approx(1 - load, abs=0.01)  # a query that finds the server idle


def test_arrivals_are_poisson_seeded_and_scale_with_the_rate() -> None:
    slow, fast = scenario.poisson(100, 50_000, seed=1), scenario.poisson(200, 50_000, seed=1)
    assert slow == scenario.poisson(100, 50_000, seed=1) != scenario.poisson(100, 50_000, seed=2)
    assert np.allclose(np.asarray(slow), 2 * np.asarray(fast), atol=2)
    gaps = np.diff(slow)
    assert gaps.mean() == pytest.approx(1e7, rel=0.02) and gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert np.mean(gaps > 2e7) == pytest.approx(math.exp(-2), abs=0.01)


def test_a_run_that_can_no_longer_prove_the_bound_ends() -> None:
    served = World(100).serve([0] * 50, bound_ns=250, misses_allowed=3)
    assert served.cut_short and list(served.latencies_ns) == [100, 200, 300, 400, 500, 600]
    assert not World(100).serve([0] * 5, bound_ns=250, misses_allowed=3).cut_short


def test_a_stream_ends_when_both_the_time_and_the_queries_are_there() -> None:
    world = World(100)
    by_time = scenario.stream(world.call, 1000, 3, clock=world.clock)
    assert list(by_time.latencies_ns) == [100] * 10 and by_time.duration_ns == 1000
    assert len(scenario.stream(world.call, 100, 7, clock=world.clock).latencies_ns) == 7


def test_the_wait_ends_at_the_arrival_and_not_before() -> None:
    import time

    for far_ns in (0, 100_000, 5_000_000):
        due = time.perf_counter_ns() + far_ns
        scenario.wait_until(due)
        assert time.perf_counter_ns() >= due


@given(st.floats(0.05, 3.0), st.sampled_from([0.02, 0.05, 0.2]))
def test_the_search_brackets_the_highest_rate(limit: float, precision: float) -> None:
    tried: list[float] = []

    def holds(rate_hz: float) -> bool:
        tried.append(rate_hz)
        return rate_hz <= limit

    rate = scenario.search(holds, 1.0, precision, trials_max=40)
    if rate is None:
        assert min(tried) > limit and min(tried) < 2 * scenario.LEAST_LOAD
    else:
        assert rate in tried and rate <= limit <= rate * (1 + precision)
    assert len(tried) <= 20 and len(set(tried)) == len(tried)


def test_the_search_ends_with_its_trials() -> None:
    assert scenario.search(lambda rate_hz: rate_hz < 0.9, 1.0, 1e-6, trials_max=3) == pytest.approx(0.875)


# ------------------------------------------------------------------------------------------------------ what a run proves


def judged(load: float, miss_share: float, queries: int, trials: int) -> tuple[float, float]:
    """Shares of the runs that pass by LoadGen's rule and that are sure, of a queue that misses its bound with ``miss_share``."""
    rng = np.random.default_rng(int(load * 100))
    long, _ = lindley(np.cumsum(rng.exponential(1 / load, 1_000_000)), 1.0)
    bound = float(np.quantile(long, 1 - miss_share))
    allowed, holds, sure = stats.overlatency_allowed(queries, 0.99), 0, 0
    for _ in range(trials):
        latencies, periods = lindley(np.cumsum(rng.exponential(1 / load, queries)), 1.0)
        served = Served((latencies * 1e6).astype(np.int64), 1, periods)  # type: ignore[arg-type]
        run = ScenarioRun(
            status="ok",
            queries=queries,
            misses=int(np.sum(latencies > bound)),
            misses_allowed=allowed,
            queue_effect=scenario.queue_effect(served, bound * 1e6),
        )
        holds, sure = holds + run.holds, sure + run.sure
    return holds / trials, sure / trials


@pytest.mark.parametrize("load", [0.3, 0.5, 0.7])
def test_only_one_queue_in_a_hundred_that_just_fails_counts_as_sure(load: float) -> None:
    assert judged(load, 0.0101, 5000, 400)[1] <= 0.03


def test_loadgen_s_rule_alone_passes_queues_that_fail() -> None:
    """The reason for ``sure``: the rule promises one in a hundred."""
    assert judged(0.7, 0.0101, 662, 300)[0] > 0.2


def test_a_queue_that_easily_meets_its_bound_is_sure() -> None:
    holds, sure = judged(0.3, 0.001, 10_000, 50)
    assert holds == 1.0 and sure >= 0.95


def test_how_long_a_proof_takes() -> None:
    run = ScenarioRun(
        status="ok", rate_hz=100.0, queries=662, misses=0, misses_allowed=1, queue_effect=4.0, duration_s=6.6
    )
    assert run.holds and not run.sure
    seconds = scenario.proof_s(run)
    assert seconds is not None and 459 * 4 / 100 <= seconds <= 459 * 4 / 100 * 1.11
    assert scenario.proof_s(run.model_copy(update={"misses": 5})) is None
    assert run.model_copy(update={"queries": 2000}).sure


def test_a_run_holds_only_when_all_of_it_arrived() -> None:
    run = ScenarioRun(status="ok", queries=700, misses=1, misses_allowed=1, queue_effect=1.0)
    assert run.holds
    for change in ({"cut_short": True}, {"misses": 2}, {"misses_allowed": -1}, {"status": "crashed"}):
        assert not run.model_copy(update=change).holds


def test_a_summary_keeps_raw_values_where_they_are_few() -> None:
    latencies = scenario.summary(range(1, 1001))
    assert latencies.values_ns is not None and latencies.values_ns.array().tolist() == list(range(1, 1001))
    assert latencies.sure_p90_ns is not None and latencies.sure_p90_ns > latencies.p90_ns
    assert scenario.summary(range(1, 60)).sure_p90_ns is None
    assert scenario.summary(range(scenario.STORED_MAX + 1)).values_ns is None


# ------------------------------------------------------------------------------------------------- the parent, no processes


def queue_of(service_s: float) -> scenario.Ask:
    """Runs in virtual time: a server of one service time."""

    def ask(batch: int | None, rate_hz: float | None, queries: int, planned_s: float) -> ScenarioRun:
        world, bound_s = World(int(service_s * 1e9)), 0.02
        if rate_hz is None:
            served = scenario.stream(world.call, int(planned_s * 1e9), queries, clock=world.clock)
            return ScenarioRun(
                status="ok", batch=1, queries=len(served.latencies_ns), latencies=scenario.summary(served.latencies_ns)
            )
        allowed = stats.overlatency_allowed(queries, 0.99)
        served = world.serve(scenario.poisson(rate_hz, queries, 0), bound_s * 1e9, allowed)
        misses = int(np.sum(np.asarray(served.latencies_ns) > bound_s * 1e9))
        return ScenarioRun(
            status="ok",
            batch=1,
            rate_hz=rate_hz,
            queries=len(served.latencies_ns),
            misses=misses,
            misses_allowed=allowed,
            cut_short=served.cut_short,
            queue_effect=scenario.queue_effect(served, bound_s * 1e9),
        )

    return ask


def record_of(result: scenario.Result, settings: ScenarioSettings) -> ScenarioRecord:
    return ScenarioRecord(
        record_id="r",
        created_utc=synthetic.NOW,
        kit_version="0",
        device=synthetic.device(),
        artifact=synthetic.artifact(),
        settings=settings,
        status=result.status,
        reason=result.reason,
        runs=result.runs,
        remarks=result.remarks,
    )


def test_the_server_finds_the_rate_of_a_known_queue() -> None:
    settings = ScenarioSettings(scenario="server", bound_s=0.02, run_s=300.0, rate_precision=0.02)
    record = record_of(scenario.run_target(queue_of(0.005), settings), settings)
    rng = np.random.default_rng(9)
    unit = np.cumsum(rng.exponential(1.0, 1_000_000))

    def share_above_bound(rate_hz: float) -> float:
        return float(np.mean(lindley(unit / rate_hz, 0.005)[0] > 0.02))

    assert record.best is not None and record.best.rate_hz is not None
    # Early stopping asks for 0.86 % of 26,000 queries instead of 1 %; misses come in clusters of 4: one trace is off by 14 % (1 sigma).
    assert 0.005 <= share_above_bound(record.best.rate_hz) <= 0.011
    assert share_above_bound(record.best.rate_hz * 1.1) > 0.01
    assert record.surest is not None and record.surest.rate_hz is not None
    assert record.surest.rate_hz <= record.best.rate_hz and share_above_bound(record.surest.rate_hz) <= 0.01


def test_a_bound_below_one_call_needs_no_trial() -> None:
    settings = ScenarioSettings(scenario="server", bound_s=0.02, run_s=10.0)
    result = scenario.run_target(queue_of(0.03), settings)
    assert result.status == "ok" and len(result.runs) == 1
    assert result.reason is not None and "one call alone takes 30 ms" in result.reason
    assert record_of(result, settings).best is None


def machine(answer: Callable[[int | None], ScenarioRun]) -> scenario.Ask:
    return lambda batch, rate_hz, queries, planned_s: answer(batch)


def ran(batch: int, samples_per_s: float = 100.0) -> ScenarioRun:
    latencies = scenario.summary([1_000_000] * 10)
    return ScenarioRun(
        status="ok", batch=batch, queries=1000, duration_s=1000 * batch / samples_per_s, latencies=latencies
    )


def test_the_sweep_finds_the_best_batch() -> None:
    settings = ScenarioSettings(scenario="offline", batches=(1, 2, 4))
    speed = {1: 100.0, 2: 150.0, 4: 140.0}
    result = scenario.run_target(machine(lambda batch: ran(batch or 1, speed[batch or 1])), settings)
    best = record_of(result, settings).best
    assert [run.batch for run in result.runs] == [1, 2, 4] and best is not None
    assert best.batch == 2 and best.samples_per_s == pytest.approx(150.0)


@pytest.mark.parametrize("batches", [(1, 2, 4), (2, 4)])
def test_a_fixed_batch_runs_alone_and_says_how_to_free_it(batches: tuple[int, ...]) -> None:
    def answer(batch: int | None) -> ScenarioRun:
        return ran(1) if batch in (None, 1) else ScenarioRun(status="unsupported", reason="fixed")

    result = scenario.run_target(machine(answer), ScenarioSettings(scenario="offline", batches=batches))
    assert [run.batch for run in result.runs] == [1] and result.status == "ok"
    assert "kit export NAME --batch dynamic" in result.remarks[0]


def test_a_batch_that_fails_stops_the_larger_ones_and_keeps_the_smaller_results() -> None:
    def answer(batch: int | None) -> ScenarioRun:
        if batch == 4:
            return ScenarioRun(status="out_of_memory", reason="no memory", batch=4)
        return ran(batch or 1)

    settings = ScenarioSettings(scenario="offline", batches=(1, 4, 8, 2))
    result = scenario.run_target(machine(answer), settings)
    assert [(run.batch, run.status) for run in result.runs] == [(1, "ok"), (4, "out_of_memory"), (2, "ok")]
    assert result.status == "ok" and result.remarks == ("batch 8 was not tried: batch 4 had failed",)


def test_a_crash_in_the_middle_of_the_search_is_the_outcome() -> None:
    calls = iter(range(100))

    def ask(batch: int | None, rate_hz: float | None, queries: int, planned_s: float) -> ScenarioRun:
        crashed = next(calls) == 2
        return (
            ScenarioRun(status="crashed", reason="signal 6") if crashed else queue_of(0.005)(batch, rate_hz, queries, 1)
        )

    result = scenario.run_target(ask, ScenarioSettings(scenario="server", bound_s=0.02, run_s=1.0))
    assert (result.status, result.reason, len(result.runs)) == ("crashed", "signal 6", 2)


# --------------------------------------------------------------------------------------------------- real child processes


def measured(tmp_path: Path, *names: str, **settings: object) -> list[ScenarioRecord]:
    made_settings = ScenarioSettings.model_validate({**FAST, **settings})
    resolved = targets.resolve(names, backend="fake")
    return scenario.measure(resolved, made_settings, synthetic.device(), tmp_path / f"x{scenario.SUFFIX}")


def test_a_single_stream_of_known_cost(tmp_path: Path) -> None:
    record = measured(tmp_path, "fake:1000us", scenario="single-stream")[0]
    run = record.runs[0]
    assert run.queries >= 64 and run.latencies is not None and run.latencies.min_ns >= 1_000_000
    assert record.latency_s is not None and record.latency_s * 1e9 >= run.latencies.p90_ns
    assert any("no MLPerf submission" in remark and "600" in remark for remark in record.remarks)
    assert scenario.read([tmp_path]) == [record]


def test_a_server_of_known_cost(tmp_path: Path) -> None:
    steps: list[Progress] = []
    settings = ScenarioSettings.model_validate({**FAST, "scenario": "server", "bound_s": 0.1, "trials_max": 2})
    record = scenario.measure(
        targets.resolve(["fake:200us"], backend="fake"),
        settings,
        synthetic.device(),
        tmp_path / f"x{scenario.SUFFIX}",
        progress=steps.append,
    )[0]
    assert len(record.runs) == 2 and len(steps) == 3 and all(0 <= step.steps_done < step.planned for step in steps)
    for run in record.runs:
        assert (
            run.latencies is not None
            and run.latencies.min_ns >= 200_000
            and run.rate_hz
            and run.misses_allowed is not None
        )
        assert run.cut_short or run.queries >= 662


def test_every_way_to_fail_is_one_record(tmp_path: Path) -> None:
    records = measured(
        tmp_path, "fake:crash", "fake:memory", "fake:hang", "fake:10us", scenario="single-stream", timeout_s=2.0
    )
    assert [r.status for r in records] == ["crashed", "out_of_memory", "timeout", "ok"]
    assert all(r.reason and r.latency_s is None and r.best is None for r in records[:3])
    assert len(scenario.read([tmp_path])) == 4


def test_whoever_reads_profiles_does_not_see_scenarios(tmp_path: Path) -> None:
    measured(tmp_path, "fake:10us", scenario="offline", batches=(1,))
    with pytest.raises(BadRecord, match=r"no \.jsonl profile"):
        store.read_profiles([tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRecord, match="run kit scenario first"):
        scenario.read([tmp_path / "empty"])


def test_two_measurements_on_one_device_do_not_run_at_once(tmp_path: Path) -> None:
    with profiler.alone(tmp_path), pytest.raises(StorageError, match="wait for it"):
        measured(tmp_path, "fake:10us", scenario="offline")


def test_a_server_without_a_bound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="add --bound-ms"):
        measured(tmp_path, "fake:10us", scenario="server")


def test_a_free_batch_is_swept_by_a_real_runtime(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((8, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "free",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "free.onnx")
    settings = ScenarioSettings(scenario="offline", run_s=0.02, batches=(1, 4), warmup_max_s=0.0)
    target = targets.Target(tmp_path / "free.onnx", synthetic.artifact())
    record = scenario.measure([target], settings, synthetic.device(), tmp_path / f"x{scenario.SUFFIX}")[0]
    assert record.status == "ok" and [run.batch for run in record.runs] == [1, 4]
    assert record.best is not None and record.best.samples_per_s is not None


# ------------------------------------------------------------------------------------------------------------- the verb


def test_the_verb_prints_json_and_a_sentence(tmp_path: Path) -> None:
    words = ("scenario", "fake:100us", "--backend", "fake", "--seconds", "0.05")
    data = json.loads(kit(*words, "--json", cwd=tmp_path).stdout)
    row = data["scenarios"][0]
    assert row["scenario"] == "single-stream" and row["latency_s"] >= 100e-6 and row["runs"][0]["queries"] >= 64
    assert (tmp_path / data["file"]).is_file()
    completed = kit(*words, "--kind", "offline", "--batches", "1,2", cwd=tmp_path)
    assert "samples per second at batch 1" in completed.stdout and "--batch dynamic" in completed.stderr


def test_the_verb_leaves_with_the_right_code(tmp_path: Path) -> None:
    base = ("scenario", "fake:100us", "--backend", "fake", "--seconds", "0.05")
    assert "did you mean 'offline'" in complaint(*base, "--kind", "ofline", cwd=tmp_path, code=2)
    assert "add --bound-ms" in complaint(*base, "--kind", "server", cwd=tmp_path, code=2)
    assert "write it like 1,2,4,8" in complaint(*base, "--kind", "offline", "--batches", "1,x", cwd=tmp_path, code=2)
    assert "no bound" in complaint(*base, "--bound-ms", "3", cwd=tmp_path, code=2)
    none = kit(*base, "--kind", "server", "--bound-ms", "0.01", cwd=tmp_path, check=3)
    assert "No rate keeps 99 % of the queries within 0.01 ms" in none.stderr
    assert "Nothing was measured" in kit(*base, "--kind", "multi-stream", cwd=tmp_path, check=1).stderr


def test_the_verb_takes_sizes_and_inputs(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, number, ["n_frames", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "f.onnx")
    np.save(tmp_path / "x.npy", np.ones((6, 4), np.float32))
    base = ("scenario", "f.onnx", "--seconds", "0.05")
    assert "--dim n_frames=" in complaint(*base, cwd=tmp_path, code=2)
    for words, fed in ((["--dim", "n_frames=6"], "one random input"), (["--input", "x=x.npy"], "one given input")):
        (row,) = json.loads(kit(*base, *words, "--json", cwd=tmp_path).stdout)["scenarios"]
        assert row["id"] == "f-n-frames6" and row["runs"][0]["batch"] == 1, "frames are no batch"
        assert fed in " ".join(row["remarks"])
    assert "--dim, --input and --inputs are about an .onnx file" in complaint(
        "scenario", "fake:100us", "--backend", "fake", "--dim", "a=5", cwd=tmp_path, code=2
    )
