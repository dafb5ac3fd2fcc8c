"""Measured models of paper C's world, and request traces: what they hold, what the world makes of them, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kit import store
from kit.errors import BadRecord, UnknownName, UsageError
from kit.papers import placement
from kit.papers.placement import RULES, PlacementWorld, compared, measured, options, trace
from kit.papers.placement.measured import NOISY_PART, DeviceSelection, luckiest, models_of, world_of
from kit.papers.placement.trace import Arrivals, Fading, Recorder, generate, replay
from kit.papers.placement.world import CHOICES, MODELS, TASKS, TIMES, Spread, metrics, run, sample_models, step
from kit.papers.streams import generator
from kit.records import KnowledgeBase, KnowledgeRow, OperatingPoint

SEEDS = st.integers(0, 2**32 - 1)
SMALL = PlacementWorld(gateways=2, devices=4, band_hz=0.3e6, edge_band_hz=0.4e6, gateway_cache_bytes=30e6)
END, EDGE = DeviceSelection(device_id="slow"), DeviceSelection(device_id="fast")


def row(name: str, device: str, median_s: float, **changes: Any) -> KnowledgeRow:
    fields: dict[str, Any] = {
        "artifact_id": name, "sha256": f"sha-{name}", "device_id": device, "backend": "onnxruntime", "threads": 1,
        "precision": "fp32", "median_s": median_s, "p90_s": 1.1 * median_s, "p95_s": 1.2 * median_s, "p99_s": 1.5 * median_s,
        "label": "stable", "memory_bytes": 1, "size_bytes": 4_000_000, "macs": 10_000_000, "accuracy": 0.9, "dataset": "d",
        "record_id": f"{name}@{device}",
    }  # fmt: skip
    return KnowledgeRow(**{**fields, **changes})


HEAVY = {"accuracy": 0.98, "size_bytes": 10_000_000, "macs": 40_000_000}


def rows() -> list[KnowledgeRow]:
    return [
        row("small", "slow", 0.010),
        row("small", "fast", 0.002),
        row("large", "slow", 0.040, **HEAVY),
        row("large", "fast", 0.008, **HEAVY),
        row("doubtful", "slow", 0.001, label="inconclusive"),
        row("doubtful", "fast", 0.001),
    ]


def measured_world(world: PlacementWorld = SMALL, **changes: Any) -> PlacementWorld:
    return world_of(world, models_of(rows(), ["small", "large"], end=END, edge=EDGE, **changes))


# ----------------------------------------------------------------------------------------------------------------- models


def test_the_world_promises_the_percentile_and_keeps_the_rest_as_a_spread() -> None:
    world = measured_world()
    small, large = world.variants
    assert small.cycles == pytest.approx((0.012 * 1.5e9,) * 2) and small.edge_cycles == pytest.approx(
        (0.0024 * 5e9,) * 2
    )
    assert large.size_bytes == (10e6, 10e6) and large.accuracy_clean == (0.98, 0.98)
    assert (
        large.accuracy_noisy == pytest.approx((0.98 * NOISY_PART,) * 2)
        and pytest.approx(0.9576, abs=1e-4) == NOISY_PART
    )
    assert large.spread is not None and large.spread.levels == (0.5, 0.9, 0.95, 0.99)
    assert large.spread.factors == pytest.approx((1 / 1.2, 1.1 / 1.2, 1.0, 1.25))
    assert not world.certain and PlacementWorld().certain
    median = measured_world(percentile=50)
    assert median.variants[0].cycles[0] == pytest.approx(0.010 * 1.5e9)


def test_the_formula_and_the_promise_are_certain() -> None:
    models = models_of(rows(), ["small", "large"], end=END, edge=EDGE, noisy={"large": 0.95})
    formula, promised = world_of(SMALL, models, "formula"), world_of(SMALL, models, "promised")
    assert formula.certain and promised.certain
    assert formula.variants[1].cycles == formula.variants[1].edge_cycles == (80e6, 80e6)
    assert promised.variants[1].cycles == measured_world().variants[1].cycles
    assert formula.variants[1].accuracy_noisy == (0.95, 0.95)
    unknown = [r.model_copy(update={"macs": None}) for r in rows()]
    with pytest.raises(BadRecord, match="Nobody counted the multiply-accumulates of small"):
        world_of(SMALL, models_of(unknown, ["small"], end=END, edge=EDGE), "formula")


def test_what_was_read_and_assumed_is_noted() -> None:
    models = models_of(rows(), ["large", "small"], end=END, edge=EDGE, noisy={"large": 0.95})
    notes = " ".join(models.notes)
    assert (
        "large: accuracy 0.9800, 10.00 MB, p95 48 ms at the gateways (onnxruntime on slow at t1) and 9.6 ms at the edge"
        in notes
    )
    assert "Nobody measured small on noisy data: counted as 95.8%" in notes
    assert "small is not more accurate than large" in notes


def test_a_level_that_nobody_computed_is_left_out() -> None:
    few = [r.model_copy(update={"p90_s": None, "p95_s": None}) for r in rows()]
    models = models_of(few, ["small"], end=END, edge=EDGE)
    assert models.variants[0].end.levels == (0.5, 0.99) and models.variants[0].end.at(95) == pytest.approx(0.015)


@pytest.mark.parametrize(
    ("words", "kind", "sentence"),
    [
        ({"ids": ["smal"]}, UnknownName, "Unknown variant on slow 'smal': did you mean 'small'? Known: doubtful, large, small"),
        ({"end": DeviceSelection(device_id="slo")}, UnknownName, "Unknown device of --end 'slo': did you mean 'slow'?"),
        ({"ids": ["doubtful"]}, BadRecord, "on slow is inconclusive and decides nothing"),
        ({"ids": ["small", "small"]}, UsageError, "each variant once"),
        ({"edge": DeviceSelection(device_id="fast", backend="pytorch")}, BadRecord, "by onnxruntime at t1, not as --edge asks"),
        ({"edge": DeviceSelection(device_id="fast", point="t1-gap10ms")}, BadRecord, "not as --edge asks"),
        ({"noisy": {"smal": 0.5}}, UnknownName, "variant of --noisy 'smal'"),
        ({"noisy": {"small": 1.5}}, UsageError, "above 0 and up to 1, not 1.5"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(words: dict[str, Any], kind: type[Exception], sentence: str) -> None:
    arguments: dict[str, Any] = {"ids": ["small", "large"], "end": END, "edge": EDGE, **words}
    with pytest.raises(kind) as caught:
        models_of(rows(), arguments.pop("ids"), **arguments)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_rows_that_differ_are_distinguished() -> None:
    more = [*rows(), row("small", "slow", 0.050, backend="pytorch", sha256="x", accuracy=None)]
    with pytest.raises(BadRecord, match="by onnxruntime at t1, pytorch at t1: say which, like --end slow,backend="):
        models_of(more, ["small"], end=END, edge=EDGE)
    with pytest.raises(BadRecord, match="Several files named small were measured alike on slow"):
        models_of([*rows(), row("small", "slow", 0.02, sha256="other")], ["small"], end=END, edge=EDGE)
    torch = models_of(more, ["small"], end=DeviceSelection(device_id="slow", backend="pytorch"), edge=EDGE)
    assert torch.variants[0].end.at(50) == 0.05 and torch.variants[0].accuracy == 0.9
    unknown = [r.model_copy(update={"accuracy": None}) for r in rows()]
    with pytest.raises(BadRecord, match="kit knowledge build --accuracy"):
        models_of(unknown, ["small"], end=END, edge=EDGE)
    other = [r.model_copy(update={"dataset": "e"}) if r.artifact_id == "large" else r for r in rows()]
    with pytest.raises(BadRecord, match=r"2 data sets \(d, e\)"):
        models_of(other, ["small", "large"], end=END, edge=EDGE)
    point = OperatingPoint(threads=1, gap_s=0.01)
    idle = [row("small", "slow", 0.02, point=point), row("small", "fast", 0.002)]
    models = models_of(idle, ["small"], end=DeviceSelection(device_id="slow", point=point.name), edge=EDGE)
    assert models.variants[0].end.point == point.name
    predicted = [r.model_copy(update={"origin": "predicted", "label": None}) for r in rows()]
    with pytest.raises(UnknownName, match="device of --end 'slow'"):
        models_of(predicted, ["small"], end=END, edge=EDGE)


def test_the_command_lines_words(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    store.write_record(path, KnowledgeBase(created_utc=synthetic.NOW, kit_version="0", rows=tuple(rows())))
    models = measured.read(f"measured:{path},backend=onnxruntime", ["small"], end="slow,threads=1", edge="fast")
    assert models == models_of(rows(), ["small"], end=END, edge=EDGE)
    for words, sentence in (
        ({"text": "tabel"}, "--models does not take 'tabel': write table, or measured:KNOWLEDGE.json"),
        ({"text": "measured:none.json"}, "none.json does not exist: make it with kit knowledge build"),
        ({"text": f"measured:{path},bakend=x"}, "Unknown option of --models measured 'bakend': did you mean 'backend'"),
        ({"end": "slow,thread=1"}, "Unknown option of --end slow 'thread': did you mean 'threads'"),
        ({"end": "slow,threads=no"}, "--end 'slow,threads=no' cannot be read at 'threads=no'"),
        ({"edge": ""}, "--edge names no device"),
    ):
        arguments: dict[str, Any] = {"text": f"measured:{path}", "end": "slow", "edge": "fast", **words}
        with pytest.raises(UsageError) as caught:
            measured.read(arguments.pop("text"), ["small"], **arguments)
        assert sentence in str(caught.value)


# ------------------------------------------------------------------------------------------------------------------ times


def test_a_spread_is_straight_between_its_levels() -> None:
    spread = Spread(levels=(0.5, 0.9, 0.99), factors=(0.8, 1.0, 1.45))
    assert spread.at(np.array([0.0, 0.5, 0.7, 0.9, 0.99, 1.0])) == pytest.approx([0.8, 0.8, 0.9, 1.0, 1.45, 1.5])
    assert Spread(levels=(0.5,), factors=(1.0,)).at(np.array([0.1, 0.99])).tolist() == [1.0, 1.0]
    for levels, factors, sentence in (
        ((0.5, 0.9), (1.0,), "one factor"),
        ((0.9, 0.5), (1.0, 2.0), "rise"),
        ((0.5, 0.9), (2.0, 1.0), "rise"),
    ):
        with pytest.raises(ValidationError, match=sentence):
            Spread(levels=levels, factors=factors)


@pytest.mark.parametrize(("percentile", "late"), [(50, 0.5), (95, 0.05), (99, 0.01)])
def test_promised_tasks_are_late_as_often_as_the_percentile_says(
    percentile: Any, late: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision by which every task ends just in time is late whenever a run takes longer than promised."""
    monkeypatch.setattr(options, "use_up", lambda world, tasks, decision: decision)
    models = models_of(rows(), ["small", "large"], end=END, edge=EDGE, percentile=percentile)
    world = world_of(PlacementWorld(gateways=5, devices=10), models)
    means = metrics(run(world, RULES["greedy"], slots=4, samples=20))
    assert means.missed == pytest.approx(late, abs=0.01) and means.completion == pytest.approx(1 - late, abs=0.01)
    certain = metrics(run(world_of(world, models, "promised"), RULES["greedy"], slots=4, samples=20))
    assert certain.missed == 0.0 and certain.completion == pytest.approx(1.0)


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_no_luck_exceeds_the_bound_of_the_luckiest(seed: int) -> None:
    world, rng = measured_world(), np.random.default_rng(seed)
    lucky = luckiest(world)
    models, tasks, state = sample_models(world, 2, rng), placement.sample(world, 2, rng), placement.empty(world, 2)
    bound = placement.upper_bound(lucky, sample_models(lucky, 2, rng), tasks)
    for name, rule in RULES.items():
        outcome = step(world, models, tasks, state, rule(world, models, tasks, state, rng), rng)
        assert (outcome.reward <= bound + 1e-9).all(), name
        assert (outcome.promised >= (outcome.completed & ~np.isfinite(outcome.delay_s))).all()
    assert luckiest(PlacementWorld()) == PlacementWorld()


def test_times_are_drawn_in_each_slot_and_alike_for_every_policy() -> None:
    world = measured_world()
    one, two = (run(world, RULES["greedy_balanced"], slots=3, seed=1) for _ in range(2))
    assert all(np.array_equal(a.delay_s, b.delay_s) for a, b in zip(one, two, strict=True))
    models, tasks, state = (
        sample_models(world, 1, generator(MODELS, 0)),
        placement.sample(world, 1, generator(TASKS, 0)),
        placement.empty(world, 1),
    )
    decision = RULES["greedy"](world, models, tasks, state, generator(CHOICES, 0))
    certain, drawn = (
        step(world, models, tasks, state, decision),
        step(world, models, tasks, state, decision, generator(TIMES, 0)),
    )
    assert np.array_equal(certain.promised, drawn.promised) and np.array_equal(certain.completed, certain.promised)
    assert not np.allclose(certain.delay_s, drawn.delay_s)
    assert np.array_equal(certain.state.edge, drawn.state.edge)


@pytest.mark.parametrize("name", ["greedy", "greedy_balanced", "lp_rounding"])
def test_rules_leave_room_for_times_that_are_longer_than_promised(name: str) -> None:
    """What no task needs goes to those that run, so a run beyond its promised percentile seldom makes a task late."""
    means = metrics(run(measured_world(PlacementWorld(gateways=2, devices=4)), RULES[name], slots=20, samples=10))
    assert means.completion > 0.95 and means.missed < 0.01


# ----------------------------------------------------------------------------------------------------------------- traces


@given(SEEDS, st.booleans(), st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_trace_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, seed: int, some: bool, fades: bool
) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    arrivals = Arrivals(rate=0.5, burst_rate=2.0) if some else None
    first = generate(SMALL, 4, seed=seed, arrivals=arrivals, fading=Fading() if fades else None)
    trace.write(path, first)
    back = trace.read(path)
    assert back.header == first.header and back.requests == first.requests == len(path.read_text().splitlines()) - 1
    for one, two in zip(first.slots, back.slots, strict=True):
        present = one.present
        assert np.array_equal(present, two.present)
        for name in one.__dataclass_fields__:
            assert np.array_equal(getattr(one, name)[present], getattr(two, name)[present])


@pytest.mark.parametrize("name", ["random", "greedy_balanced"])
def test_a_recorded_run_comes_out_as_it_was(tmp_path: Path, name: str) -> None:
    world = measured_world()
    recording, outcomes = trace.record(world, RULES[name], slots=3, seed=5)
    trace.write(tmp_path / "t.jsonl", recording)
    again = replay(world, trace.read(tmp_path / "t.jsonl"), RULES[name], seed=5)
    for one, two in zip(outcomes, again, strict=True):
        assert np.array_equal(one.delay_s, two.delay_s) and np.array_equal(one.accuracy, two.accuracy)
    assert recording.header.source == "recorded: 3 slots, seed 5"


def test_a_recorder_needs_something_to_record() -> None:
    recorder = Recorder(RULES["greedy"])
    with pytest.raises(UsageError, match="Nothing was recorded"):
        recorder.trace(SMALL)
    run(SMALL, recorder, slots=2, samples=3)
    assert np.array_equal(recorder.trace(SMALL, sample=2).slots[1].size_bit, recorder.slots_of_tasks[1].size_bit[2:3])
    with pytest.raises(UsageError, match="8 devices were recorded and this world has 350"):
        recorder.trace(PlacementWorld())


def test_a_trace_replays_in_another_world_of_the_same_factory_only() -> None:
    generated = generate(SMALL, 3, arrivals=Arrivals(rate=0.4))
    outcomes = replay(measured_world(), generated, RULES["greedy"])
    assert [int(o.present.sum()) for o in outcomes] == [int(t.present.sum()) for t in generated.slots]
    with pytest.raises(UsageError, match="2 gateways with 4 devices each, and the world has 10 and 35"):
        replay(PlacementWorld(), generated, RULES["greedy"])


HEADER = {"kind": "placement-trace", "schema_version": 1, "slots": 2, "world": {"gateways": 1, "devices": 2}}
LINE = {
    "slot": 0,
    "device": 0,
    "size_bit": 1e5,
    "deadline_s": 1.5,
    "noisy": False,
    "first_bps_per_hz": 7.0,
    "second_bps_per_hz": 7.0,
}


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "is empty: the first line of a trace is its header"),
        (["{"], "line 1 is not JSON"),
        ([{**HEADER, "kind": "x"}], "line 1 holds a record of kind 'x' where 'placement-trace' was expected"),
        ([{**HEADER, "schema_version": 9}], "line 1 has schema version 9"),
        ([{**HEADER, "world": {"gateway": 1}}], "line 1 is not a valid placement-trace record: world.gateway"),
        ([HEADER, LINE, "nonsense"], "line 3 is no request: the record: invalid JSON"),
        ([HEADER, {**LINE, "size_bit": 0}], "line 2 is no request: size_bit"),
        ([HEADER, {**LINE, "deadline": 1}], "line 2 is no request: deadline"),
        ([HEADER, {**LINE, "first_bps_per_hz": "fast"}], "line 2 is no request: first_bps_per_hz"),
        ([HEADER, {**LINE, "slot": 2}], "line 2 is of slot 2 and the header has 2"),
        ([HEADER, {**LINE, "device": 2}], "line 2 is of device 2 and this factory has 2"),
        ([HEADER, LINE, LINE], "line 3 is a second request of device 0 in slot 0"),
    ],
)  # fmt: skip
def test_a_bad_line_is_one_sentence_with_its_number(tmp_path: Path, lines: list[Any], sentence: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    with pytest.raises(BadRecord) as caught:
        trace.read(path)
    assert sentence in str(caught.value) and "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_arrivals_and_fading_are_as_configured() -> None:
    world = PlacementWorld(gateways=20, devices=10)
    poisson = np.concatenate([t.present for t in generate(world, 200, arrivals=Arrivals(rate=0.3)).slots])
    assert poisson[20:].mean() == pytest.approx(0.3, abs=0.02)  # a backlog serves what came: the mean is the rate
    bursty = Arrivals(rate=0.05, burst_rate=0.9, burst_slots=5, quiet_slots=15)
    arrivals = np.concatenate([t.present for t in generate(world, 200, arrivals=bursty).slots]).reshape(200, 20, 10)
    assert arrivals.mean() == pytest.approx(0.25 * 0.9 + 0.75 * 0.05, abs=0.05)
    assert (
        arrivals.mean(axis=2).std() > 2 * poisson.reshape(200, 20, 10).mean(axis=2).std()
    )  # a gateway's devices together
    fading = generate(world, 300, fading=Fading(memory=0.9, rician_k=0.0)).slots
    first = np.concatenate([t.first_bps_per_hz for t in fading])
    power = (2.0**first - 1.0) / (2.0**world.bps_per_hz - 1.0)
    assert power.mean() == pytest.approx(1.0, abs=0.05) and power.std() == pytest.approx(1.0, abs=0.1)  # Rayleigh
    lag = np.corrcoef(power[:-1].ravel(), power[1:].ravel())[0, 1]
    assert lag == pytest.approx(0.81, abs=0.05)  # of the power: the square of that of the wave
    second = fading[7].second_bps_per_hz.reshape(20, 10)
    assert (second == second[:, :1]).all() and len(np.unique(second)) == 20
    assert (generate(world, 1).slots[0].first_bps_per_hz == world.bps_per_hz).all()
    with pytest.raises(UsageError, match="Bursts need a rate between them"):
        generate(world, 1, arrivals=Arrivals(burst_rate=1.0))
    with pytest.raises(UsageError, match="at least one slot"):
        generate(world, 0)


# ----------------------------------------------------------------------------------------------------------- side by side


def test_the_assignment_is_compared_in_shares() -> None:
    models = models_of(rows(), ["small", "large"], end=END, edge=EDGE)
    policies = {"greedy": RULES["greedy"], "random": RULES["random"]}
    figure = compared.by_time(SMALL, models, policies, seeds=(0, 1), slots=2)
    assert figure.x == (*compared.SHARES, "small", "large")
    names = [line.name for line in figure.lines]
    assert names == [f"{name}, {time}" for time in ("formula", "measured") for name in ("greedy", "random", "bound")]
    for line in figure.lines:
        numbers = dict(zip(figure.x, line.values, strict=True))
        if line.name.startswith("bound"):
            assert list(numbers.values())[1:] == [None] * 7
            continue
        accuracy, completed = numbers["average accuracy"], numbers["completed"]
        assert accuracy is not None and completed is not None and accuracy <= completed <= 1
        for parts in (("at gateways", "at the edge"), ("small", "large")):
            assert sum(numbers[p] or 0.0 for p in parts) == pytest.approx(completed)
        assert "measured" in line.name or numbers["late"] == 0
    assert sum("formula to measured" in note for note in figure.notes) == 2


def test_a_trace_is_compared_slot_by_slot() -> None:
    generated = generate(SMALL, 3, arrivals=Arrivals(rate=0.5))
    figure = compared.on_trace(SMALL, generated, {"greedy": RULES["greedy"]}, seeds=(0,))
    greedy, bound = figure.lines
    outcomes = replay(SMALL, generated, RULES["greedy"])
    accuracy = sum(o.accuracy.sum() for o in outcomes) / sum(o.present.sum() for o in outcomes)
    assert greedy.values[0] == pytest.approx(accuracy)
    assert bound.values[0] is not None and bound.values[0] >= accuracy - 1e-9
    assert figure.notes[0].startswith(f"{generated.requests} requests in 3 slots")
    nobody = replace(generated, slots=tuple(replace(t, size_bit=np.zeros_like(t.size_bit)) for t in generated.slots))
    assert compared.on_trace(SMALL, nobody, {"greedy": RULES["greedy"]}, seeds=(0,)).lines[1].values[0] == 0.0


def test_a_percentile_that_rows_do_not_keep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="keep the percentiles 50, 90, 95, 99, not 80"):
        measured.read("measured:k.json", ["small"], end="slow", edge="fast", percentile=80)
