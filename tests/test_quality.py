"""Labels follow the evidence, every failed check is a sentence, and a command's warnings say what to do better."""

from __future__ import annotations

from typing import Any

import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from kit.measure import quality
from kit.records import Disturbance, Environment, Measurement, MeasureSettings, ProfileRecord, Reference, Run

SETTINGS = MeasureSettings()
CALM = [1.0, 1.001, 1.002, 1.001, 1.0, 1.001]


def run(median: float, round_: int = 0, spread: float = 0.001, **changes: Any) -> Run:
    return synthetic.run([median * (1 + spread * (-1) ** i * (i % 5)) for i in range(50)], round_, **changes)


def measured(medians: list[float], spread: float = 0.001, **changes: Any) -> Measurement:
    return Measurement(runs=tuple(run(m, r, spread, **changes) for r, m in enumerate(medians)))


def drifting() -> Measurement:
    return Measurement(runs=tuple(synthetic.run([1.0] * 30 + [1.08] * 30, r) for r in range(6)))


def moved(share: float = 0.5) -> Measurement:
    """The model's own times agree, the fixed product between them does not: it goes from 1 to 1 + ``share`` µs."""
    times = [round(1e3 * (1 + share * r / 5)) for r in range(6)]
    return Measurement(runs=tuple(run(1.0, r, block=50, references={"product": [t, t]}) for r, t in enumerate(times)))


def corrected(share: float) -> Measurement:
    """A machine that slows down by ``share`` over six processes and takes the network with it; a reference shows it."""
    scale = Reference(
        device_id="synthetic-1c", created_utc=synthetic.NOW, workloads={"product": "a product"}, nominal_ns={"product": 1e6},
        weights={"product": 1.0},
    )  # fmt: skip
    slower = [1 + share * r / 5 for r in range(6)]
    runs = tuple(run(f, r, block=50, references={"product": [round(1e6 * f)] * 2}) for r, f in enumerate(slower))
    return Measurement(runs=runs, reference=scale)


def interrupted(share: float, elsewhere: float = 0.04) -> Measurement:
    """Involuntary switches in a share of the blocks, while others used so much of the CPU time."""
    switches = [1] * round(25 * share) + [0] * (25 - round(25 * share))
    others = Disturbance(window_s=0.5, busy_elsewhere_share=elsewhere)
    return measured(CALM, block=2, switches=switches, disturbance=others)


def disturbed(**shares: float) -> Measurement:
    return measured(CALM, disturbance=Disturbance(window_s=0.5, **shares))  # type: ignore[arg-type]


THROTTLED = Environment(at_utc=synthetic.NOW, throttle_flags=("throttled",))


@pytest.mark.parametrize(
    ("measurement", "label", "says"),
    [
        (measured(CALM), "stable", "6 processes"),
        (measured([1.0, 1.08, 1.001, 1.0, 1.002, 1.08, 1.001, 1.0, 1.001, 1.002]), "settled", "10 processes"),
        (measured([1.0, 1.01, 1.02, 1.03, 1.05, 1.06]), "settled", "wider than"),
        (measured([1.0, 1.2, 1.4, 1.0, 1.2, 1.4]), "inconclusive", "wider than"),
        (measured(CALM, spread=0.05), "settled", "within 5 %"),
        (measured(CALM[:5]), "inconclusive", "only 5 processes where 6 are needed"),
        (measured(CALM, after=THROTTLED), "throttled", "reports throttled"),
        (measured(CALM, after=Environment(at_utc=synthetic.NOW, throttle_flags=())), "stable", "6 processes"),
        (measured(CALM, warm=False), "stable", "still changing when warm-up ended"),
        (drifting(), "inconclusive", "halves of a process differ"),
        (moved(), "settled", "the machine itself moved"),
        (moved(0.05), "stable", "6 processes"),
        (interrupted(0.4), "settled", "took the core in 40% of the blocks"),
        (interrupted(0.2), "stable", "which the mode leaves out"),
        (interrupted(0.0), "stable", "6 processes"),
        (interrupted(1.0, elsewhere=0.001), "stable", "6 processes"),  # the kernel's own work
        (disturbed(steal_share=0.1), "settled", "the hypervisor gave 10% of the CPU time to others"),
        (disturbed(steal_share=0.01, busy_elsewhere_share=0.5), "stable", "6 processes"),
        (corrected(0.2), "stable", "drift-corrected within +-0.0"),
        (corrected(0.5), "settled", "the machine itself moved"),
    ],
)
def test_labels_follow_the_evidence(measurement: Measurement, label: str, says: str) -> None:
    got, evidence = quality.label_of(measurement, SETTINGS)
    assert got == label, evidence
    assert any(says in text for text in evidence), evidence


def test_a_calm_measurement_fails_no_check() -> None:
    assert quality.failed_checks(measured(CALM), SETTINGS) == []


@pytest.mark.parametrize(
    ("measurement", "says"),
    [
        (measured([1.0, 1.01, 1.02, 1.03, 1.05, 1.06]), "the interval of the median is wider than +-2.0%"),
        (drifting(), "the halves of a process differ by 8.0%"),
        (measured(CALM, spread=0.05), "only 40% of the values lie within 5 % of their median"),
        (moved(), "the machine itself moved: a fixed workload varied by 32% between processes"),
        (interrupted(0.4), "another process took the core in 40% of the blocks"),
        (disturbed(steal_share=0.1), "the hypervisor gave 10% of the CPU time to others"),
    ],
)
def test_every_doubt_says_what_it_rests_on(measurement: Measurement, says: str) -> None:
    assert quality.failed_checks(measurement, SETTINGS) == [says]


def halves(share: float, processes: int = 6) -> Measurement:
    """Processes whose second half is slower by ``share``; those beyond ``processes`` are calm."""
    runs = [synthetic.run([1.0] * 30 + [1.0 + (share if r < processes else 0)] * 30, r) for r in range(6)]
    return Measurement(runs=tuple(runs))


def scattered(share: float) -> Measurement:
    """Processes of a hundred values of which ``share`` lie far above the others."""
    far = round(100 * share)
    values = [1.3 if i * far // 100 != (i + 1) * far // 100 else 1.0 for i in range(100)]
    return Measurement(runs=tuple(synthetic.run(values, r) for r in range(6)))


@pytest.mark.parametrize(
    ("within", "beyond", "doubt"),
    [
        (halves(0.048), halves(0.052), "the halves of a process differ"),
        # most of the processes decide, not the worst of them
        (halves(0.2, processes=2), halves(0.2, processes=4), "the halves of a process differ"),
        (scattered(0.19), scattered(0.21), "of the values lie within 5 % of their median"),
        (moved(0.125), moved(0.14), "the machine itself moved"),  # the 10 % and 90 % quantiles span four fifths of it
        (corrected(0.36), corrected(0.38), "the machine itself moved"),
        (interrupted(0.24), interrupted(0.28), "another process took the core"),
        (interrupted(0.4, elsewhere=0.019), interrupted(0.4, elsewhere=0.021), "another process took the core"),
        (disturbed(steal_share=0.019), disturbed(steal_share=0.021), "the hypervisor gave"),
    ],
)
def test_every_limit_at_a_hair_within_and_beyond(within: Measurement, beyond: Measurement, doubt: str) -> None:
    assert not [text for text in quality.failed_checks(within, SETTINGS) if doubt in text]
    assert [text for text in quality.failed_checks(beyond, SETTINGS) if doubt in text]


def test_the_width_of_the_interval_decides_at_two_and_five_per_cent() -> None:
    labels = {}
    for step in range(1, 80):
        x = step / 1000
        measurement = measured([1 - x, 1 - x, 1 - x / 2, 1 + x / 2, 1 + x, 1 + x], spread=0.0)
        width = measurement.half_width
        labels[width] = quality.label_of(measurement, SETTINGS)[0]
        assert labels[width] == ("stable" if width <= 0.02 else "settled" if width <= 0.05 else "inconclusive"), width
    for limit in (0.02, 0.05):  # a value was tried close to each limit, on either side
        assert min(abs(w - limit) for w in labels if w <= limit) < 0.0015 > min(w - limit for w in labels if w > limit)


def test_more_processes_can_take_a_doubt_away() -> None:
    """What was in doubt at first and is no more is settled; what never was in doubt is stable, however many there are."""
    wild = measured([1.0, 1.08, 1.001, 1.0, 1.002, 1.08, 1.001, 1.0, 1.001, 1.002])
    assert quality.failed_checks(Measurement(runs=wild.runs[:6]), SETTINGS)
    assert quality.label_of(wild, SETTINGS)[0] == "settled" and not quality.failed_checks(wild, SETTINGS)
    assert quality.label_of(measured([*CALM, 1.001]), SETTINGS)[0] == "stable"


def test_a_load_that_was_asked_for_is_no_disturbance() -> None:
    others = Disturbance(window_s=0.5, steal_share=0.5, busy_elsewhere_share=0.3)
    busy = measured(CALM, block=2, switches=[1] * 25, disturbance=others)
    assert len(quality.failed_checks(busy, SETTINGS)) == 2
    assert quality.failed_checks(busy, SETTINGS.model_copy(update={"load": 1})) == []
    wide = measured([1.0, 1.2, 1.4, 1.0, 1.2, 1.4])
    assert quality.failed_checks(wide, SETTINGS.model_copy(update={"load": 1}))  # it must be known as well as any other


def test_the_target_is_the_callers() -> None:
    wide = measured([1.0, 1.01, 1.02, 1.03, 1.05, 1.06])
    assert quality.failed_checks(wide, SETTINGS.model_copy(update={"precision_target": 0.05})) == []
    assert quality.failed_checks(measured(CALM), SETTINGS.model_copy(update={"precision_target": 1e-4}))


@pytest.mark.parametrize(("rounds_min", "needed"), [(1, 5), (5, 5), (8, 8)])
def test_fewer_processes_than_asked_for_or_than_five_decide_nothing(rounds_min: int, needed: int) -> None:
    settings = SETTINGS.model_copy(update={"rounds_min": rounds_min})
    for count in range(1, needed):
        label, evidence = quality.label_of(measured([1.0] * count), settings)
        assert label == "inconclusive" and evidence[-1] == f"only {count} processes where {needed} are needed"
    assert quality.label_of(measured([1.0] * needed), settings)[0] == "stable"


def test_throttling_beats_every_other_word() -> None:
    for measurement in (measured([1.0], after=THROTTLED), measured([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], after=THROTTLED)):
        assert quality.label_of(measurement, SETTINGS)[0] == "throttled"
    one_of_six = measured(CALM)
    hot = one_of_six.runs[3].model_copy(update={"after": THROTTLED})
    runs = (*one_of_six.runs[:3], hot, *one_of_six.runs[4:])
    assert quality.label_of(Measurement(runs=runs), SETTINGS)[0] == "throttled"


def test_drift_that_is_divided_out_is_no_doubt() -> None:
    """The raw medians differ by 20 %, the corrected ones do not: without the scale the same values decide nothing."""
    measurement = corrected(0.2)
    assert quality.failed_checks(measurement, SETTINGS) == []
    raw = Measurement(runs=measurement.runs)
    assert quality.label_of(raw, SETTINGS)[0] == "inconclusive" and len(quality.failed_checks(raw, SETTINGS)) == 2
    (fact,) = [text for text in quality.label_of(measurement, SETTINGS)[1] if "its reference" in text]
    assert fact == "the machine was 10.0% slower than its reference"


def test_the_evidence_names_loop_clock_cold_start_and_notes() -> None:
    measurement = measured(CALM, loops=40, clock_hz=2.5e9, clock_source="measured", warm=False, notes=("bf16 inside",))
    _, evidence = quality.label_of(measurement, SETTINGS)
    assert evidence[0] == "6 processes, 300 values, each value the mean of 40"
    assert "core clock 2.50 GHz (measured)" in evidence and evidence.count("bf16 inside") == 1
    assert "6 of 6 processes were still changing when warm-up ended" in evidence


@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=9), st.floats(0.0, 0.1))
def test_a_trusted_label_means_a_narrow_interval_and_enough_processes(medians: list[float], spread: float) -> None:
    measurement = measured(medians, spread)
    label, evidence = quality.label_of(measurement, SETTINGS)
    assert evidence and all(evidence)
    if label in ("stable", "settled"):
        assert len(medians) >= 6 and measurement.half_width <= quality.SETTLED_LIMIT
    if label == "stable":
        assert measurement.half_width <= SETTINGS.precision_target


# -------------------------------------------------------------------------------------------------------- warnings


def record(measurement: Measurement | None, label: str | None = "stable", **changes: Any) -> ProfileRecord:
    settings = MeasureSettings(**changes)
    status = "ok" if measurement else "crashed"
    update = {"measurement": measurement, "settings": settings, "label": label, "status": status}
    return synthetic.profile().model_copy(update=update)


def long(**shares: Any) -> Measurement:
    """Six processes of half a second in which nothing is unusual but ``shares``."""
    window = {"window_s": 0.5, "steal_share": 0.0, "busy_elsewhere_share": 0.0, "major_faults": 0, **shares}
    return measured([m / 50 for m in CALM], disturbance=Disturbance(**window))


SHORT = measured([1e-5 * m for m in CALM])
WIDE = measured([1.0, 1.2, 1.4, 1.0, 1.2, 1.4])


def test_a_sound_run_is_not_criticised() -> None:
    assert quality.warnings_of([record(long()), record(None, None)]) == ()
    assert quality.warnings_of([]) == () and quality.warnings_of([record(None, None)]) == ()


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([record(long()), record(WIDE)], "1 of 2 are known no better than +-16.7%: raise --rounds-max or --run-s."),
        ([record(measured(CALM[:4]))], "1 of 1 had too few processes for a quality label: raise --budget or --rounds-max."),
        ([record(SHORT), record(long())], "1 of 2 were timed for less than a second: raise --run-s."),
        ([record(long(steal_share=0.05))],
         "The hypervisor gave 5.0% of the CPU time to other machines: measure again later."),
        ([record(long(busy_elsewhere_share=0.3))],
         "The machine was not idle: other processes used 30% of its CPU time; stop them and measure again."),
        ([record(long(), "throttled"), record(long())], "1 of 2 ran throttled: cool the device or mend its supply."),
        ([record(long(major_faults=3))], "Models were read from the disk while they ran: free some memory."),
        ([record(interrupted(0.4))],
         "Another process took the core in 40% of the blocks: stop it, or keep clear of it with --affinity."),
    ],
)  # fmt: skip
def test_what_a_run_should_have_done_better_is_one_sentence(records: list[ProfileRecord], says: str) -> None:
    assert quality.warnings_of(records) == (says,)


def test_a_load_that_was_asked_for_is_not_criticised() -> None:
    busy = long(busy_elsewhere_share=0.5, steal_share=0.2)
    assert quality.warnings_of([record(busy, load=1)]) == ()
    assert len(quality.warnings_of([record(busy, load=1), record(busy)])) == 1


def test_untimed_calls_between_the_values_count_as_time() -> None:
    """A thousandth of a second was timed, but half a second of calls was sampled in each process."""
    sampled = measured([1e-5 * m for m in CALM], collected_s=0.5)
    assert quality.warnings_of([record(sampled)]) == ()


def test_several_faults_are_several_sentences() -> None:
    warnings = quality.warnings_of([record(measured([1e-5, 2e-5]), "throttled")])
    assert len(warnings) == 4 and all(sentence.endswith(".") for sentence in warnings)


def test_a_failure_counts_for_nothing() -> None:
    crashed = record(WIDE, None).model_copy(update={"status": "crashed"})
    assert quality.warnings_of([crashed, record(long())]) == ()
