from __future__ import annotations

import made
import pytest

from kit import knowledge
from kit.errors import BadRecord, NoAnswer, UnknownName
from kit.records import KnowledgeBase, MeasureSettings, Need, ProfileRecord


def profiles() -> list[ProfileRecord]:
    return [
        made.profile("small", 0.001, accuracy=0.90, size=10_000),
        made.profile("middle", 0.005, accuracy=0.95, size=100_000),
        made.profile("large", 0.020, accuracy=0.97, size=1_000_000),
        made.profile("doubtful", 0.0001, accuracy=0.99, label="inconclusive"),
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
    slow_tail = made.profile("tail", 0.004, spread=0.2, accuracy=0.99, seed=3)
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
    base = knowledge.build([made.profile("slow", 0.02, accuracy=0.9), made.profile("fast", 0.01, accuracy=0.9)])
    answer = knowledge.ask(base.rows, Need(deadline_s=1))
    assert answer.chosen is not None and answer.chosen.artifact_id == "fast"


def test_devices_are_kept_apart() -> None:
    base = knowledge.build([*profiles(), made.profile("small", 0.1, on=made.device("slow-board"))])
    with pytest.raises(BadRecord, match="say which with --device"):
        knowledge.ask(base.rows, Need())
    with pytest.raises(UnknownName, match="did you mean 'slow-board'"):
        knowledge.ask(base.rows, Need(device_id="slow-bord"))
    answer = knowledge.ask(base.rows, Need(device_id="slow-board"))
    assert answer.chosen is not None and answer.chosen.median_s > 0.09


def test_unknown_accuracy_never_meets_a_floor() -> None:
    base = knowledge.build([made.profile("blind", accuracy=None)])
    with pytest.raises(NoAnswer, match="accuracy unknown"):
        knowledge.ask(base.rows, Need(min_accuracy=0.1))
    assert knowledge.ask(base.rows, Need()).chosen is not None


def test_the_newest_record_replaces_the_older() -> None:
    base = knowledge.build([made.profile("a", 0.5), made.profile("a", 0.1)])
    assert len(base.rows) == 1 and base.rows[0].median_s < 0.2


def test_failures_are_no_rows() -> None:
    failed = made.profile().model_copy(update={"measurement": None, "label": None, "outcome": "crashed"})
    with pytest.raises(BadRecord, match="None of these profiles holds a measurement"):
        knowledge.build([failed])


def test_a_noisy_repetition_does_not_unseat_a_good_measurement() -> None:
    good, noisy = made.profile("a", 0.1), made.profile("a", 0.5, label="inconclusive")
    (row,) = knowledge.build([good, noisy]).rows
    assert row.label == "stable" and row.median_s < 0.2
    (row,) = knowledge.build([noisy, made.profile("a", 0.6, label="throttled")]).rows
    assert row.label == "throttled"


def test_accuracies_on_different_data_are_not_compared() -> None:
    rows = knowledge.build(profiles()).rows
    other = rows[0].model_copy(update={"dataset": "other images"})
    with pytest.raises(BadRecord, match="2 data sets .other images, synthetic. and cannot be compared"):
        knowledge.ask([*rows, other], Need())


@pytest.mark.parametrize(
    "point",
    [{"gap_s": 0.01}, {"load": 1}, {"affinity": (0,)}, {"clock_cap_hz": 1e9}, {"power_mode": "15W"}, {"batch": 8}],
)
def test_rows_are_of_a_machine_that_is_left_as_it_is(point: dict[str, object]) -> None:
    elsewhere = made.profile("a", 0.5, settings=MeasureSettings(**point))  # type: ignore[arg-type]
    (row,) = knowledge.build([made.profile("a", 0.1), elsewhere]).rows
    assert row.median_s < 0.2
    with pytest.raises(BadRecord, match="None of these profiles holds a measurement"):
        knowledge.build([elsewhere])


def test_thread_counts_are_rows_of_their_own() -> None:
    base = knowledge.build([made.profile("a", 0.1 / t, settings=MeasureSettings(threads=t)) for t in (1, 2)])
    assert [(r.threads, round(r.median_s, 3)) for r in base.rows] == [(1, 0.1), (2, 0.05)]


def test_a_batch_of_one_is_no_other_row() -> None:
    base = knowledge.build([made.profile("a", 0.1), made.profile("a", 0.2, settings=MeasureSettings(batch=1))])
    assert len(base.rows) == 1


def test_the_fake_backend_is_no_row() -> None:
    with pytest.raises(BadRecord, match="None of these"):
        knowledge.build([made.profile("fake:1us", settings=MeasureSettings(backend="fake"))])
