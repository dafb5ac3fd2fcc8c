from __future__ import annotations

import numpy as np
import pytest
import synthetic

from kit import latency
from kit.errors import BadRecord
from kit.records import ClockSpec, Measurement, MeasureSettings, ProfileRecord

LAMBDA, OVERHEAD_S = 0.04, 50e-6
MACS = [10**7 * k for k in (1, 2, 4, 8, 12, 16)]


def on_the_line(**more: object) -> list[ProfileRecord]:
    return [
        synthetic.profile(f"net{i}", OVERHEAD_S + LAMBDA * macs / synthetic.CLOCK_HZ, macs=macs, seed=i, **more)  # type: ignore[arg-type]
        for i, macs in enumerate(MACS)
    ]


def clocked(hz: float, source: str) -> list[ProfileRecord]:
    """The same, with the clock that each process ran at."""
    profiles = []
    for p in on_the_line():
        assert p.measurement is not None
        runs = tuple(v.model_copy(update={"clock_hz": hz, "clock_source": source}) for v in p.measurement.runs)
        profiles.append(p.model_copy(update={"measurement": Measurement(runs=runs)}))
    return profiles


def test_a_known_line_is_recovered_with_an_interval_around_it() -> None:
    (model,) = latency.fit(on_the_line())
    assert model.lambda_cycles_per_mac == pytest.approx(LAMBDA, rel=0.01)
    assert model.overhead_s == pytest.approx(OVERHEAD_S, rel=0.05)
    assert model.interval is not None and model.interval[0] <= LAMBDA * 1.005 and model.interval[1] >= LAMBDA * 0.995
    assert model.quality.r2 is not None and model.quality.r2 > 0.999 and model.quality.within_5 == 1.0
    assert model.clock_source == "nominal" and model.macs_range == (MACS[0], MACS[-1])
    assert len(model.record_ids) == len(MACS)


def test_the_papers_lambda_is_fitted_too_and_fails() -> None:
    (model,) = latency.fit(on_the_line())
    assert model.paper is not None and model.paper.mape > 5 and model.paper.within_10 == 0.0


def test_the_interval_widens_with_scatter_between_processes() -> None:
    calm, wild = (latency.fit(on_the_line(spread=s))[0].interval for s in (0.001, 0.2))
    assert calm is not None and wild is not None and wild[1] - wild[0] > 3 * (calm[1] - calm[0])


def test_without_a_clock_the_factor_is_in_seconds_per_mac() -> None:
    (model,) = latency.fit(on_the_line(on=synthetic.device(clock=ClockSpec())))
    assert model.lambda_cycles_per_mac is None and model.interval is None and model.paper is None
    assert model.clock_source == "unknown" and model.s_per_mac == pytest.approx(LAMBDA / synthetic.CLOCK_HZ, rel=0.01)


def test_a_clock_observed_during_the_measurement_beats_the_nominal_one() -> None:
    (model,) = latency.fit(clocked(3.0e9, "observed"))
    assert model.clock_source == "observed" and model.clock_hz == 3.0e9
    assert model.lambda_cycles_per_mac == pytest.approx(LAMBDA * 1.5, rel=0.01)


def test_a_clock_measured_between_the_networks_is_named_so() -> None:
    (model,) = latency.fit(clocked(2.5e9, "measured"))
    assert (model.clock_source, model.clock_hz) == ("measured", 2.5e9)
    assert model.paper is not None and model.s_per_mac == pytest.approx(LAMBDA / synthetic.CLOCK_HZ, rel=0.01)


def test_the_nominal_clock_does_not_mix_with_a_measured_one() -> None:
    """One record that knows its clock beats those that do not."""
    (model,) = latency.fit([*on_the_line()[:-1], clocked(3.0e9, "measured")[-1]])
    assert (model.clock_source, model.clock_hz) == ("measured", 3.0e9)


def test_overhead_is_never_negative() -> None:
    macs = np.array([[1.0, 2.0, 3.0]])
    overhead, slope = latency.line(macs, np.array([[0.5, 2.0, 3.6]]))
    assert overhead[0] == 0.0 and slope[0] > 0


def test_line_minimises_the_weighted_error() -> None:
    rng = np.random.default_rng(0)
    macs = rng.uniform(1, 10, (1, 20))
    y = 5 + macs + rng.normal(0, 0.3, (1, 20))
    overhead, slope = (float(v[0]) for v in latency.line(macs, y))
    slope2, overhead2 = np.polyfit(macs[0], y[0], 1, w=1 / y[0])
    assert (overhead, slope) == pytest.approx((overhead2, slope2))


def test_quality_counts_what_lies_within_five_and_ten_per_cent() -> None:
    errors = np.array([0.0, 0.049, -0.049, 0.051, -0.051, 0.099, -0.099, 0.101, -0.101, 0.3])
    measured = np.linspace(1e-3, 2e-3, 10)
    fit_quality = latency.quality(measured * (1 + errors), measured)
    assert (fit_quality.within_5, fit_quality.within_10) == (0.3, 0.7)
    assert (fit_quality.mape, fit_quality.worst) == (pytest.approx(0.09), pytest.approx(0.3))


def test_devices_do_not_mix() -> None:
    with pytest.raises(BadRecord, match="2 devices .*fit one device at a time"):
        latency.fit(on_the_line() + on_the_line(on=synthetic.device("other")))


def test_what_does_not_count_is_named() -> None:
    profiles = [
        *on_the_line(),
        synthetic.profile("bad", 1.0, label="inconclusive", macs=5),
        synthetic.profile("blind", 1.0, macs=None),
    ]
    (model,) = latency.fit(profiles)
    assert len(model.record_ids) == len(MACS)
    assert model.left_out == ("bad: inconclusive", "blind: MACs unknown (kit describe counts them)")


def test_a_crash_half_way_is_no_measurement() -> None:
    crashed = synthetic.profile("half", 9.0, macs=5, label=None).model_copy(update={"status": "crashed"})
    (model,) = latency.fit([*on_the_line(), crashed])
    assert model.left_out == ("half: crashed",) and model.quality.worst < 0.05


def test_a_group_too_small_for_a_line_is_named() -> None:
    small = synthetic.profile("resnet18-d2-w1.00-int8-32", 0.001, macs=10**6)
    (model,) = latency.fit([*on_the_line(), small])
    assert model.precision == "fp32"
    assert model.left_out == ("onnxruntime int8 t1: 1 sub-network(s) with different MACs, a line needs 3",)


def test_too_few_points_is_one_sentence() -> None:
    with pytest.raises(BadRecord, match="A line needs 3 measured sub-networks .* largest group has 2"):
        latency.fit(on_the_line()[:2])


def test_records_that_were_too_noisy_are_to_be_measured_again() -> None:
    noisy = [p.model_copy(update={"label": "inconclusive"}) for p in on_the_line()[2:]]
    with pytest.raises(BadRecord, match="Left out: inconclusive. Measure these again when the machine is quieter."):
        latency.fit([*on_the_line()[:2], *noisy])
    crashed = [p.model_copy(update={"status": "crashed"}) for p in noisy]
    with pytest.raises(BadRecord, match=r"Left out: crashed\.$"):
        latency.fit([*on_the_line()[:2], *crashed])


def test_the_newest_record_of_an_artifact_counts() -> None:
    old = synthetic.profile("net0", 9.0, macs=MACS[0])
    (model,) = latency.fit([old, *on_the_line()])
    assert model.quality.worst < 0.05


def test_other_operating_points_are_not_on_the_line() -> None:
    """A loaded or idling machine is another machine: its records are named and left out, however new they are."""
    gap, loaded = MeasureSettings(gap_s=0.01), MeasureSettings(load=1)
    others = [
        synthetic.profile("net0", 9.0, macs=MACS[0], settings=gap),
        synthetic.profile("net1", 9.0, macs=MACS[1], settings=loaded),
        synthetic.profile("net2", 9.0, macs=MACS[2], settings=MeasureSettings(batch=8)),
    ]
    (model,) = latency.fit([*on_the_line(), *others])
    assert model.quality.worst < 0.05 and len(model.record_ids) == len(MACS)
    assert model.left_out == (
        "net0: operating point t1-gap10ms", "net1: operating point t1-load1", "net2: operating point t1-b8",
    )  # fmt: skip
    with pytest.raises(BadRecord, match="Left out: operating point t1-load1"):
        latency.fit(on_the_line(settings=loaded))
