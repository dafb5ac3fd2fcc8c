from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import knowledge, records, stats, store
from kit.errors import BadRecord, NoAnswer, UnknownName
from kit.records import (
    STORED_PERCENTILES,
    Accuracy,
    Energy,
    KnowledgeBase,
    KnowledgeRow,
    Measurement,
    MeasureSettings,
    Need,
    OperatingPoint,
    ProfileRecord,
    SubNetwork,
)


def profiles() -> list[ProfileRecord]:
    return [
        synthetic.profile("small", 0.001, accuracy=0.90, size=10_000),
        synthetic.profile("middle", 0.005, accuracy=0.95, size=100_000),
        synthetic.profile("large", 0.020, accuracy=0.97, size=1_000_000),
        synthetic.profile("doubtful", 0.0001, accuracy=0.99, label="inconclusive"),
    ]


@pytest.fixture
def base() -> KnowledgeBase:
    return knowledge.build(profiles())


@pytest.mark.parametrize(
    ("deadline_ms", "chosen", "runner_up"), [(2, "small", None), (6, "middle", "small"), (50, "large", "middle")]
)
def test_the_most_accurate_that_meets_the_deadline(
    base: KnowledgeBase, deadline_ms: float, chosen: str, runner_up: str | None
) -> None:
    answer = knowledge.ask(base.rows, Need(deadline_s=deadline_ms * 1e-3))
    assert answer.chosen is not None and answer.chosen.artifact_id == chosen
    assert (answer.runner_up.artifact_id if answer.runner_up else None) == runner_up
    assert answer.binding == "deadline"
    assert answer.margin == pytest.approx(1 - answer.chosen.p99_s / (deadline_ms * 1e-3))


def test_p99_decides_not_the_median() -> None:
    slow_tail = synthetic.profile("tail", 0.004, spread=0.2, accuracy=0.99, seed=3)
    assert slow_tail.measurement is not None and slow_tail.measurement.median_s < 0.005 < slow_tail.measurement.p99_s
    answer = knowledge.ask(knowledge.build([slow_tail, *profiles()]).rows, Need(deadline_s=0.00502))
    assert answer.chosen is not None and answer.chosen.artifact_id == "middle"


def test_each_rejected_variant_says_which_limit_it_misses(base: KnowledgeBase) -> None:
    answer = knowledge.ask(base.rows, Need(deadline_s=0.006, min_accuracy=0.92))
    why = {r.artifact_id: r.limit for r in answer.rejected}
    assert why == {"large": "deadline", "small": "accuracy", "doubtful": "label"}
    large = next(r for r in answer.rejected if r.artifact_id == "large")
    assert (
        large.bound == 0.006
        and isinstance(large.value, float)
        and large.value > 0.019
        and "over the deadline limit of 6 ms" in large.text
    )


def test_the_download_counts_towards_the_deadline(base: KnowledgeBase) -> None:
    need = Need(deadline_s=0.5, link_bps=8e6)  # large needs one second
    answer = knowledge.ask(base.rows, need)
    assert answer.chosen is not None and answer.chosen.artifact_id == "middle"
    assert any("with its download" in r.text for r in answer.rejected if r.artifact_id == "large")


def test_a_download_limit_of_its_own_frees_the_deadline(base: KnowledgeBase) -> None:
    answer = knowledge.ask(base.rows, Need(deadline_s=0.03, link_bps=8e6, download_s=2.0))
    assert answer.chosen is not None and answer.chosen.artifact_id == "large"
    with pytest.raises(NoAnswer, match="download"):
        knowledge.ask(base.rows, Need(deadline_s=0.03, link_bps=8e6, download_s=1e-6))


def test_memory_counts(base: KnowledgeBase) -> None:
    with pytest.raises(NoAnswer, match="peak memory 30 MB over the memory limit of 10 MB"):
        knowledge.ask(base.rows, Need(memory_bytes=10_000_000))


def test_no_variant_fits_names_the_nearest_and_what_it_lacks(base: KnowledgeBase) -> None:
    with pytest.raises(NoAnswer, match="nearest is small: p99 .* over the deadline limit of 0.5 ms") as caught:
        knowledge.ask(base.rows, Need(deadline_s=0.0005))
    assert caught.value.exit_code == 3


def test_no_limits_give_the_most_accurate_trusted_one(base: KnowledgeBase) -> None:
    answer = knowledge.ask(base.rows, Need())
    assert answer.chosen is not None and answer.chosen.artifact_id == "large" and answer.margin is None


def test_equal_accuracy_goes_to_the_faster() -> None:
    base = knowledge.build(
        [synthetic.profile("slow", 0.02, accuracy=0.9), synthetic.profile("fast", 0.01, accuracy=0.9)]
    )
    answer = knowledge.ask(base.rows, Need(deadline_s=1))
    assert answer.chosen is not None and answer.chosen.artifact_id == "fast"


def test_devices_are_not_mixed() -> None:
    base = knowledge.build([*profiles(), synthetic.profile("small", 0.1, on=synthetic.device("slow-board"))])
    with pytest.raises(BadRecord, match="say which with --device"):
        knowledge.ask(base.rows, Need())
    with pytest.raises(UnknownName, match="did you mean 'slow-board'"):
        knowledge.ask(base.rows, Need(device_id="slow-bord"))
    answer = knowledge.ask(base.rows, Need(device_id="slow-board"))
    assert answer.chosen is not None and answer.chosen.median_s > 0.09


def test_unknown_accuracy_never_meets_a_floor() -> None:
    base = knowledge.build([synthetic.profile("blind", accuracy=None)])
    with pytest.raises(NoAnswer, match="accuracy unknown"):
        knowledge.ask(base.rows, Need(min_accuracy=0.1))
    assert knowledge.ask(base.rows, Need()).chosen is not None


def test_the_newest_record_replaces_the_older() -> None:
    base = knowledge.build([synthetic.profile("a", 0.5), synthetic.profile("a", 0.1)])
    assert len(base.rows) == 1 and base.rows[0].median_s < 0.2


def test_failures_are_no_rows() -> None:
    failed = synthetic.profile().model_copy(update={"measurement": None, "label": None, "status": "crashed"})
    with pytest.raises(BadRecord, match="None of these profiles holds a measurement"):
        knowledge.build([failed])


def test_a_noisy_repetition_does_not_unseat_a_good_measurement() -> None:
    good, noisy = synthetic.profile("a", 0.1), synthetic.profile("a", 0.5, label="inconclusive")
    (row,) = knowledge.build([good, noisy]).rows
    assert row.label == "stable" and row.median_s < 0.2
    (row,) = knowledge.build([noisy, synthetic.profile("a", 0.6, label="throttled")]).rows
    assert row.label == "throttled"


def test_accuracies_on_different_data_are_not_compared() -> None:
    rows = knowledge.build(profiles()).rows
    other = rows[0].model_copy(update={"dataset": "other images"})
    with pytest.raises(
        BadRecord, match="2 data sets .other images, synthetic. and cannot be compared: say which with --dataset"
    ):
        knowledge.ask([*rows, other], Need())


@pytest.mark.parametrize(
    "point",
    [{"gap_s": 0.01}, {"load": 1}, {"affinity": (0,)}, {"clock_cap_hz": 1e9}, {"power_mode": "15W"}, {"batch": 8}],
)
def test_rows_are_of_a_machine_that_is_left_as_it_is(point: dict[str, object]) -> None:
    elsewhere = synthetic.profile("a", 0.02, settings=MeasureSettings(**point))  # type: ignore[arg-type] # faster: it would win
    base = knowledge.build([synthetic.profile("a", 0.1), elsewhere])
    assert len(base.rows) == 2
    answer = knowledge.ask(base.rows, Need())
    assert answer.chosen is not None and answer.chosen.median_s > 0.05
    chosen_point = next(r for r in base.rows if r.point is not None)
    named = knowledge.ask(base.rows, Need(point=chosen_point.point_name)).chosen
    assert named == chosen_point and chosen_point.median_s < 0.05 and chosen_point.threads == 1


def test_other_operating_points_decide_only_where_they_are_named() -> None:
    point = MeasureSettings(gap_s=0.01, load=1)
    rows = knowledge.build([synthetic.profile("a", 0.5, settings=point)]).rows
    with pytest.raises(BadRecord, match="name one of them with --point"):
        knowledge.ask(rows, Need())
    with pytest.raises(UnknownName, match="did you mean 't1-b1-gap10ms-load1'|did you mean 't1-gap10ms-load1'"):
        knowledge.ask(rows, Need(point="t1-gap10ms"))


def test_batches_are_named() -> None:
    rows = knowledge.build(
        [
            synthetic.profile("a", 0.1),
            synthetic.profile("a", 0.5, settings=MeasureSettings(batch=8)),
            synthetic.profile("b", 0.4, accuracy=0.9),
        ]
    ).rows
    chosen = knowledge.ask(rows, Need(batch=8)).chosen
    assert chosen is not None and chosen.batch == 8 and chosen.median_s > 0.4
    with pytest.raises(BadRecord, match="batches: 1, 8"):
        knowledge.ask(rows, Need(batch=4))


def test_thread_counts_are_rows_of_their_own() -> None:
    base = knowledge.build([synthetic.profile("a", 0.1 / t, settings=MeasureSettings(threads=t)) for t in (1, 2)])
    assert [(r.threads, round(r.median_s, 3)) for r in base.rows] == [(1, 0.1), (2, 0.05)]


def test_a_batch_of_one_is_no_other_row() -> None:
    base = knowledge.build(
        [synthetic.profile("a", 0.1), synthetic.profile("a", 0.2, settings=MeasureSettings(batch=1))]
    )
    assert len(base.rows) == 1


def test_the_fake_backend_is_no_row() -> None:
    with pytest.raises(BadRecord, match="None of these"):
        knowledge.build([synthetic.profile("fake:1us", settings=MeasureSettings(backend="fake"))])


# ------------------------------------------------------------------------------------------------------------ the rows


def row(name: str, p99_s: float = 0.012, **changes: Any) -> KnowledgeRow:
    fields: dict[str, Any] = {
        "artifact_id": name, "sha256": name * 8, "device_id": "d", "backend": "b", "threads": 1, "precision": "fp32",
        "median_s": p99_s / 1.2, "p99_s": p99_s, "label": "stable", "memory_bytes": 1000, "size_bytes": 100,
        "macs": None, "accuracy": 0.5, "dataset": "x",
        "record_id": name,
    }  # fmt: skip
    return KnowledgeRow(**{**fields, **changes})


def predicted(name: str, p99_s: float, wide: float = 0.1, **changes: Any) -> KnowledgeRow:
    """``wide`` is half the interval over the median."""
    median = p99_s / 1.2
    limits = {"low_s": median * (1 - wide), "high_s": median * (1 + wide)}
    return row(name, p99_s, **{"origin": "predicted", "label": None, "sha256": "", **limits, **changes})


def test_a_row_keeps_percentiles_intervals_and_energy() -> None:
    energy = Energy(source="made", joules=3.0, window_s=1.0, calls=10)
    runs = [synthetic.run([0.01 * (1 + 0.01 * i * k) for i in range(60)], k, energy=energy) for k in range(1, 7)]
    profile = synthetic.profile("a").model_copy(update={"measurement": Measurement(runs=tuple(runs))})
    (r,) = knowledge.build([profile]).rows
    pooled = np.concatenate([v.values_ns for v in runs]) * 1e-9
    assert [r.latency_s(p) for p in STORED_PERCENTILES[1:]] == pytest.approx(
        [stats.quantile(pooled, p / 100) for p in (90, 95, 99)]
    )
    assert r.low_s is not None and r.high_s is not None and r.p99_low_s is not None and r.p99_high_s is not None
    assert r.low_s < r.median_s < r.high_s and r.p99_low_s < r.p99_s <= r.p99_high_s
    assert r.interval_s(99)[0] == r.p99_low_s and r.interval_s(50) == pytest.approx((r.low_s, r.high_s))
    assert r.energy_j == pytest.approx(0.3) and r.origin == "measured" and r.point is None


def test_an_unknown_percentile_is_answered_by_the_next_higher() -> None:
    r = row("a", 0.012, p90_s=None, p95_s=0.011)
    assert [r.latency_s(p) for p in STORED_PERCENTILES] == [0.01, 0.011, 0.011, 0.012]


def test_a_base_of_version_1_is_read() -> None:
    base = knowledge.build(profiles())
    data = json.loads(store.canonical_json(base))
    new = set(KnowledgeRow.model_fields) - {
        "artifact_id", "sha256", "device_id", "backend", "threads", "precision", "median_s", "p99_s", "label", "memory_bytes", "size_bytes",
        "macs", "accuracy", "dataset", "record_id",
    }  # fmt: skip
    old = {**data, "schema_version": 1, "rows": [{k: v for k, v in r.items() if k not in new} for r in data["rows"]]}
    again = records.load(KnowledgeBase, old, "old.json")
    assert again.schema_version == 2 and [r.p99_s for r in again.rows] == [r.p99_s for r in base.rows]
    assert knowledge.ask(again.rows, Need(deadline_s=0.006)).chosen == again.rows[2]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label": None}, "a measured row has a label"),
        ({"origin": "predicted"}, "a measured row has a label"),
        ({"origin": "predicted", "label": None}, "states its interval"),
        ({"low_s": 0.02, "high_s": 0.03}, "outside its own interval"),
        ({"point": OperatingPoint(threads=2)}, "another thread count"),
        ({"median_s": 0.0}, "greater than 0"),
        ({"p99_s": float("nan")}, "finite"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        row("a", **changes)


# ----------------------------------------------------------------------------------------------------- percentile, energy


def test_the_percentile_of_the_need_decides() -> None:
    rows = [
        row("long tail", 0.030, median_s=0.010, p90_s=0.012, p95_s=0.02, accuracy=0.9),
        row("steady", 0.014, accuracy=0.8),
    ]
    for percentile, chosen in ((50, "long tail"), (90, "long tail"), (95, "steady"), (99, "steady")):
        answer = knowledge.ask(rows, Need(deadline_s=0.015, percentile=percentile))
        assert answer.chosen is not None and answer.chosen.artifact_id == chosen
        assert ("median " if percentile == 50 else f"p{percentile} ") in answer.text


def test_energy_is_a_limit_and_unknown_energy_never_meets_it() -> None:
    rows = [row("hungry", accuracy=0.9, energy_j=0.5), row("frugal", energy_j=0.1), row("silent", accuracy=0.99)]
    answer = knowledge.ask(rows, Need(energy_j=0.2))
    assert answer.chosen is not None and answer.chosen.artifact_id == "frugal" and answer.binding == "energy"
    why = {r.artifact_id: r.text for r in answer.rejected}
    assert why == {"hungry": "energy 500 mJ over the energy limit of 200 mJ", "silent": "energy unknown"}


@pytest.mark.parametrize("name", ["large", "l" * 8])
def test_what_is_on_the_device_needs_no_download(name: str) -> None:
    rows = [row("large", 0.01, sha256="l" * 8, size_bytes=10**7, accuracy=0.9), row("small", 0.01, size_bytes=10)]
    need = Need(deadline_s=0.02, link_bps=1e6)
    first, second = (knowledge.ask(rows, need.model_copy(update={"have": have})).chosen for have in ((), (name,)))
    assert first is not None and second is not None and (first.artifact_id, second.artifact_id) == ("small", "large")


def test_a_data_set_can_be_named() -> None:
    rows = [row("a", dataset="digits"), row("b", dataset="photos", accuracy=0.9), row("c", dataset=None, accuracy=None)]
    chosen = knowledge.ask(rows, Need(dataset="digits")).chosen
    assert chosen is not None and chosen.artifact_id == "a"
    with pytest.raises(UnknownName, match="Unknown data set 'digit': did you mean 'digits'"):
        knowledge.ask(rows, Need(dataset="digit"))


def test_an_unknown_accuracy_competes_only_with_its_like_or_by_option() -> None:
    rows = [row("known", 0.02), row("blind", 0.001, accuracy=None, dataset=None)]
    answer = knowledge.ask(rows, Need(deadline_s=0.03))
    assert answer.chosen is not None and answer.chosen.artifact_id == "known"
    assert [r.text for r in answer.rejected] == ["accuracy unknown, which the others know"]
    with pytest.raises(NoAnswer, match="accuracy unknown|over the deadline"):
        knowledge.ask(rows, Need(deadline_s=0.01))
    for reply in (knowledge.ask(rows, Need(deadline_s=0.01, unknown_accuracy=True)), knowledge.ask(rows[1:], Need())):
        assert reply.chosen is not None and reply.chosen.artifact_id == "blind"


# ------------------------------------------------------------------------------------------- predictions and what to measure


def test_a_chosen_prediction_is_not_promised_and_says_how_to_measure_it() -> None:
    rows = [row("small", 0.004), predicted("big-net", 0.009, accuracy=0.9)]
    answer = knowledge.ask(rows, Need(deadline_s=0.01))
    assert answer.chosen is not None and answer.chosen.artifact_id == "big-net" and not answer.promised
    assert "not promised: measure it first with kit profile big-net --backend b --threads 1" in answer.text
    assert [m.artifact_id for m in answer.measure_next] == ["big-net"]


def test_a_prediction_that_may_still_fit_is_named_next() -> None:
    rows = [row("small", 0.004), predicted("near", 0.0105, accuracy=0.9), predicted("far", 0.02, accuracy=0.95)]
    answer = knowledge.ask(rows, Need(deadline_s=0.01))
    assert answer.chosen is not None and answer.chosen.artifact_id == "small" and answer.promised
    assert [(m.artifact_id, m.why) for m in answer.measure_next] == [("near", "it is predicted, not measured")]
    assert "Unsure: near could change this" in answer.text
    with pytest.raises(NoAnswer, match="Measuring near could change that: kit profile near"):
        knowledge.ask(rows[1:], Need(deadline_s=0.01))


def test_measured_intervals_across_the_deadline_are_named() -> None:
    wide = {"p99_low_s": 0.009, "p99_high_s": 0.013}
    rows = [row("edge", 0.0101, accuracy=0.9, **wide), row("lucky", 0.0099, accuracy=0.8, **wide), row("sure", 0.005)]
    answer = knowledge.ask(rows, Need(deadline_s=0.01))
    assert answer.chosen is not None and answer.chosen.artifact_id == "lucky"
    assert [m.artifact_id for m in answer.measure_next] == ["edge", "lucky"]
    assert all("p99 reaches across the deadline" in m.why for m in answer.measure_next)
    assert answer.measure_next[0].command == "kit profile edge.onnx --backend b --threads 1"
    assert knowledge.ask(rows, Need(deadline_s=0.02)).measure_next == ()


def test_a_doubtful_label_that_would_be_better_is_named() -> None:
    rows = [
        row("good", 0.005),
        row("doubtful", 0.004, accuracy=0.9, label="inconclusive"),
        row("worse", 0.003, accuracy=0.1, label="throttled"),
    ]
    answer = knowledge.ask(rows, Need(deadline_s=0.01))
    assert [(m.artifact_id, m.why) for m in answer.measure_next] == [("doubtful", "its measurement is inconclusive")]


def test_measuring_settles_what_was_predicted() -> None:
    truth = {"hope": row("hope", 0.013, accuracy=0.95), "near": row("near", 0.0099, accuracy=0.9), "gone": None}
    rows = [
        row("small", 0.004),
        *(predicted(n, 0.0098, accuracy=a) for n, a in (("hope", 0.95), ("near", 0.9), ("gone", 0.97))),
    ]
    measured_ids: list[str] = []

    def measure(next_row: KnowledgeRow) -> KnowledgeRow | None:
        measured_ids.append(next_row.artifact_id)
        return truth[next_row.artifact_id]

    answer = knowledge.ask(rows, Need(deadline_s=0.01), measure=measure)
    assert answer.chosen == truth["near"] and answer.promised and measured_ids == ["gone", "hope", "near"]
    again = knowledge.ask(rows, Need(deadline_s=0.01), measure=measure, measures_max=1)
    assert not again.promised
    with pytest.raises(NoAnswer, match="could not be measured"):
        knowledge.ask([predicted("gone", 0.001)], Need(), measure=measure)


def test_a_predicted_row_joins_with_the_tail_of_its_like() -> None:
    base = knowledge.build(
        [
            synthetic.profile("resnet18-d8-w1.00-fp32-32", 0.01, spread=0.05),
            synthetic.profile("resnet18-d6-w1.00-fp32-32", 0.008),
        ]
    )
    device, sub = base.rows[0].device_id, SubNetwork.parse("resnet18-d4-w1.00-fp32-32")
    more: dict[str, Any] = {
        "like": base.rows,
        "model": "m.json",
        "device_id": device,
        "backend": "onnxruntime",
        "size_bytes": 10,
    }
    guess = knowledge.predicted_row(sub, 0.005, 0.004, 0.007, **more, accuracy=0.9, dataset="synthetic")
    ratios = [r.p99_s / r.median_s for r in base.rows]
    assert (
        guess.p99_s == pytest.approx(0.005 * float(np.median(ratios)))
        and guess.origin == "predicted"
        and guess.sha256 == ""
    )
    measured_too = knowledge.predicted_row(SubNetwork.parse("resnet18-d8-w1.00-fp32-32"), 0.02, 0.01, 0.03, **more)
    joined = knowledge.build(
        [
            synthetic.profile("resnet18-d8-w1.00-fp32-32", 0.01),
            synthetic.profile("resnet18-d6-w1.00-fp32-32", 0.008, label="inconclusive"),
        ],
        [guess, measured_too, guess],
    )
    assert [(r.artifact_id[9:11], r.origin) for r in joined.rows] == [
        ("d4", "predicted"),
        ("d6", "measured"),
        ("d8", "measured"),
    ]
    with pytest.raises(BadRecord, match="no latency with an interval"):
        knowledge.predicted_row(sub, float("nan"), 0.004, 0.007, **more)
    with pytest.raises(BadRecord, match="the tail of a prediction is unknown"):
        knowledge.predicted_row(sub, 0.005, 0.004, 0.007, **{**more, "backend": "openvino"})


# ------------------------------------------------------------------------------------------------------ explain and pareto


def test_explain_says_what_would_have_to_change() -> None:
    rows = [
        row("best", 0.010, accuracy=0.9),
        row("slow", 0.030, accuracy=0.95),
        row("fast", 0.002, accuracy=0.8),
        row("beaten", 0.011, accuracy=0.8),
    ]
    need = Need(deadline_s=0.02, min_accuracy=0.7)
    (best,), (slow,), (fast,), (beaten,) = (
        knowledge.explain(rows, need, name) for name in ("best", "slow", "fast", "beaten")
    )
    assert (
        best.chosen and all(x.met for x in best.limits) and [x.limit for x in best.limits] == ["deadline", "accuracy"]
    )
    late = slow.limits[0]
    assert (
        not slow.chosen
        and not late.met
        and (late.value, late.bound) == (0.03, 0.02)
        and late.slack == pytest.approx(-0.5)
    )
    assert late.change == "p99 would have to lose 10 ms to reach 20 ms, or the deadline to rise to 30 ms"
    assert fast.beaten_by == "best" and "A deadline from 2 ms to below 10 ms would make it the choice" in fast.text
    assert "No deadline makes it the choice" in beaten.text
    with pytest.raises(UnknownName, match="did you mean 'best'"):
        knowledge.explain(rows, need, "bestt")


def test_explain_of_a_need_that_nothing_meets() -> None:
    rows = [row("a", 0.01), row("b", 0.02, label="inconclusive", accuracy=None)]
    (a,) = knowledge.explain(rows, Need(deadline_s=0.001, memory_bytes=10), "a")
    assert not a.chosen and [x.limit for x in a.limits if not x.met] == ["deadline", "memory"]
    (b,) = knowledge.explain(rows, Need(), "b")
    assert [x.limit for x in b.limits] == ["label", "accuracy"] and "profile b.onnx" in (b.limits[0].change or "")


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
@settings(max_examples=80, deadline=None)
def test_the_front_is_what_nothing_beats(drawn: list[tuple[int, int, int]]) -> None:
    rows = [row(f"n{i}", float(t), accuracy=a / 10, memory_bytes=m) for i, (t, a, m) in enumerate(drawn)]
    front = knowledge.pareto(rows, Need(), ("latency", "accuracy", "memory"))

    def beats(a: KnowledgeRow, b: KnowledgeRow) -> bool:
        pairs = [
            (a.p99_s, b.p99_s),
            (-(a.accuracy or 0), -(b.accuracy or 0)),
            (a.memory_bytes or 0, b.memory_bytes or 0),
        ]
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    assert front == sorted(front, key=lambda r: r.p99_s)
    assert not any(beats(r, f) for r in rows for f in front)
    places = {(f.p99_s, f.accuracy, f.memory_bytes) for f in front}
    assert len(places) == len(front)
    assert all(any(beats(f, r) for f in front) or (r.p99_s, r.accuracy, r.memory_bytes) in places for r in rows)


def test_a_front_needs_its_axes() -> None:
    with pytest.raises(UnknownName, match="did you mean 'memory'"):
        knowledge.pareto([row("a")], Need(), ("latency", "memry"))
    with pytest.raises(NoAnswer, match="knows its latency, energy"):
        knowledge.pareto([row("a")], Need(), ("latency", "energy"))


# ------------------------------------------------------------------------------------------------------------ bad inputs


def test_limits_that_contradict_each_other_say_how_far_each_must_give() -> None:
    rows = [row("fast", 0.004, accuracy=0.8), row("good", 0.012, accuracy=0.95)]
    with pytest.raises(NoAnswer) as caught:
        knowledge.ask(rows, Need(deadline_s=0.005, min_accuracy=0.9))
    message = str(caught.value)
    assert "Each limit alone can be met, not all at once" in message
    assert "the deadline would have to be 12 ms or the minimum accuracy would have to be 80.00%" in message


def test_one_row_is_a_knowledge_base() -> None:
    answer = knowledge.ask([row("only")], Need(deadline_s=1))
    assert answer.chosen is not None and answer.runner_up is None and answer.rejected == ()


@pytest.mark.parametrize(
    "limits", [{"deadline_s": float("nan")}, {"energy_j": -1.0}, {"percentile": 42}, {"min_accuracy": 2}]
)
def test_a_need_of_nonsense_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(BadRecord, match=next(iter(limits))):
        records.load(Need, limits, "The need")


def test_an_empty_base_and_an_unknown_backend() -> None:
    with pytest.raises(BadRecord, match="The knowledge base is empty"):
        knowledge.ask([], Need())
    with pytest.raises(UnknownName, match="Unknown backend 'onnxruntim'"):
        knowledge.ask([row("a", backend="onnxruntime")], Need(backend="onnxruntim"))


def test_what_is_measured_first_is_what_is_most_probably_the_best() -> None:
    hopes = [predicted("dream", 0.0115, accuracy=0.99), predicted("likely", 0.0098, accuracy=0.9)]
    safe = row("safe", 0.004, accuracy=0.5)
    measured_ids: list[str] = []

    def measure(predicted_row: KnowledgeRow) -> KnowledgeRow:
        measured_ids.append(predicted_row.artifact_id)
        return row(predicted_row.artifact_id, predicted_row.p99_s, accuracy=predicted_row.accuracy)

    answer = knowledge.ask([*hopes, safe], Need(deadline_s=0.01), measure=measure, measures_max=1)
    assert measured_ids == ["likely"] and answer.promised and answer.chosen is not None
    assert answer.chosen.artifact_id == "likely"
    knowledge.ask([*hopes, safe], Need(deadline_s=0.01), measure=measure)
    assert measured_ids[1:] == ["likely", "dream"]  # a small probability is looked at as long as measurements are left


def test_a_predicted_memory_is_an_upper_estimate() -> None:
    rows = [predicted(f"over{p}", 0.001, accuracy=0.9, memory_bytes=1000 + 10 * p) for p in (5, 30)]
    answer = knowledge.ask([*rows, row("safe", 0.001, memory_bytes=900)], Need(memory_bytes=1000))
    assert [m.artifact_id for m in answer.measure_next] == ["over5"]


# ---------------------------------------------------------------------------------------------------------------- regret


def test_regret_of_perfect_and_of_wrong_knowledge() -> None:
    truth = [row(f"n{i}", 0.001 * (i + 1), accuracy=0.5 + 0.05 * i) for i in range(8)]
    needs = knowledge.random_needs(truth, 200, seed=1)
    assert len({n.model_dump_json() for n in needs}) == 200 and needs == knowledge.random_needs(truth, 200, seed=1)
    perfect = knowledge.regret(truth, truth, needs)
    assert perfect.equal_share == 1 and perfect.missed_share == 0 and perfect.chosen == perfect.best
    hopeful = [predicted(r.artifact_id, 0.8 * r.p99_s, accuracy=r.accuracy) for r in truth]
    wrong = knowledge.regret(hopeful, truth, needs)
    assert 0 < wrong.missed_share < 1 and wrong.equal_share < 1 and (wrong.loss >= 0).all()
    by_name = {r.artifact_id: r for r in truth}
    right = knowledge.regret(hopeful, truth, needs, measure=lambda r: by_name[r.artifact_id])
    assert right.equal_share == 1 and right.missed_share == 0
    with pytest.raises(BadRecord, match="at least one need"):
        knowledge.regret(truth, truth, [])
    with pytest.raises(BadRecord, match="was chosen and never measured"):
        knowledge.regret(truth, truth[:2], [Need()])


def test_every_artifact_of_packages_is_a_row_like_any_other() -> None:
    profile = synthetic.profile("a", 0.01, accuracy=0.9)
    promise = knowledge.promise_of(profile)
    manifest = records.Manifest(
        name="p",
        created_utc=synthetic.NOW,
        kit_version="0",
        artifact=profile.artifact,
        files=(profile.artifact.model,),
        promises=(promise,),
    )
    (of_package,), (of_profile,) = knowledge.rows_of([manifest]), knowledge.build([profile]).rows
    shared = (
        "artifact_id",
        "sha256",
        "median_s",
        "p99_s",
        "accuracy",
        "dataset",
        "memory_bytes",
        "label",
        "macs",
        "record_id",
    )
    assert all(getattr(of_package, name) == getattr(of_profile, name) for name in shared)
    assert of_package.size_bytes == manifest.size_bytes and profile.artifact.accuracy == Accuracy(
        top1=0.9, count=100, dataset="synthetic"
    )


def test_two_networks_of_one_name_are_told_apart() -> None:
    """A file that was exported again: the newest keeps its name, and neither row is lost."""
    old = synthetic.profile("net", 1e-3)
    changed = old.artifact.model.model_copy(update={"sha256": "e" * 64})
    new = old.model_copy(
        update={
            "artifact": old.artifact.model_copy(update={"model": changed}),
            "record_id": "newer",
            "created_utc": "2099-01-01T00:00:00Z",
        }
    )
    rows = knowledge.build([old, new]).rows
    names = {row.sha256: row.artifact_id for row in rows}
    assert names == {"e" * 64: "net", old.artifact.model.sha256: f"net@{old.artifact.model.sha256[:8]}"}


def test_one_network_in_several_formats_has_one_name() -> None:
    onnx = synthetic.profile("net", 1e-3)
    program = onnx.artifact.model.model_copy(update={"file": "net.pt2", "sha256": "e" * 64})
    other = onnx.model_copy(
        update={"artifact": onnx.artifact.model_copy(update={"model": program}), "record_id": "other"}
    )
    assert [row.artifact_id for row in knowledge.build([onnx, other]).rows] == ["net", "net"]


def test_three_deadlines_have_three_answers_where_there_is_a_front() -> None:
    """The middle one is in the middle of the front: the variants behind it, many and slow, do not move it."""
    behind = [synthetic.profile(f"behind-{i}", 0.006 + 0.001 * i, accuracy=0.94) for i in range(8)]
    base = knowledge.build([*profiles(), *behind])
    answers = knowledge.three_answers(base, base.rows[0].device_id)
    assert [a.chosen.artifact_id for a in answers if a.chosen] == ["small", "middle", "large"]


def test_three_deadlines_without_accuracies_are_those_of_the_variants() -> None:
    rows = [synthetic.profile(f"net-{i}", 0.001 * i, accuracy=None) for i in range(1, 6)]
    base = knowledge.build(rows)
    answers = knowledge.three_answers(base, base.rows[0].device_id)
    assert [a.need.deadline_s for a in answers] == sorted(a.need.deadline_s for a in answers)  # type: ignore[type-var]
    assert len(answers) == 3
