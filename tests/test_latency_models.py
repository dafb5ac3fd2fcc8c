"""The four forms, their choice, intervals and transfer, on simulated devices whose truth is known."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simulated
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import latency, store
from kit.errors import BadRecord, UsageError
from kit.latency import features, fitting, gaussian_process, selection
from kit.latency.features import arrange
from kit.latency.gaussian_process import NAMES, Shares
from kit.latency.model import Predictor
from kit.latency.parametric import Cases, Roof
from kit.records import Kernel, MeasureSettings, OperatingPoint, ProfileRecord
from kit.stats import Float64Array

NETS = simulated.sample(200, 0)


@cache
def fitted(seed: int = 0) -> Predictor:
    return latency.predictor(simulated.Machine(seed).profiles(NETS[:40]), seed=seed, baselines=not seed)


def quick(profiles: list[ProfileRecord], **more: Any) -> Predictor:
    return latency.predictor(profiles, baselines=False, **more)


def truth(machine: simulated.Machine, nets: list[tuple[str, tuple[Kernel, ...]]], threads: int = 1) -> np.ndarray:
    return np.array([machine.seconds(kernels, threads) for _, kernels in nets])


def kernels_of(nets: list[tuple[str, tuple[Kernel, ...]]]) -> list[tuple[Kernel, ...]]:
    return [kernels for _, kernels in nets]


# --------------------------------------------------------------------------------------------------------------- accuracy


def test_forty_of_two_hundred_predict_the_rest_within_ten_per_cent() -> None:
    errors = []
    for seed in (0, 1):
        predictions = fitted(seed).predict(kernels_of(NETS[40:]), model_family="learned")
        errors.append(predictions.seconds / truth(simulated.Machine(seed), NETS[40:]) - 1)
    assert np.mean(np.abs(errors) <= 0.10) >= 0.99 and np.mean(np.abs(errors) <= 0.05) >= 0.95


def test_the_gaussian_process_beats_the_simple_families_where_efficiency_varies_and_the_reason_says_so() -> None:
    model = fitted()
    scores = {s.form: s for s in model.scores}
    assert model.chosen == "learned" and "rejected as worse: line, per-kind linear" in model.reason
    assert scores["learned"].quality.mape < scores["roofline"].quality.mape < scores["factor"].quality.mape
    assert {f for f, s in scores.items() if not s.candidate} == {"papers", "forest", "lookup"}
    assert scores["lookup"].quality.mape < scores["forest"].quality.mape < scores["papers"].quality.mape


def test_intervals_cover_what_they_promise() -> None:
    """Averaged over devices and training sets; one conformal interval from 40 scores alone scatters by 5 points."""
    covered = []
    for seed in range(6):
        nets, machine = simulated.sample(80, 50 + seed), simulated.Machine(10 + seed)
        predictions = quick(machine.profiles(nets[:29])).predict(kernels_of(nets[29:]))
        measured = np.array([p.measurement.median_s for p in machine.profiles(nets[29:]) if p.measurement])
        covered.append(np.mean((predictions.low <= measured) & (measured <= predictions.high)))
    assert 0.85 <= np.mean(covered) <= 0.96


class Straight(simulated.Machine):
    """The papers' device: nothing counts but multiply-accumulates."""

    def seconds(self, kernels: object, threads: int = 1) -> float:
        return 50e-6 + sum(k.macs * k.count for k in kernels) / 80e9  # type: ignore[attr-defined]


def test_the_simplest_form_is_chosen_where_the_truth_is_a_line() -> None:
    chosen = [quick(Straight(seed).profiles(simulated.sample(14, seed)), seed=seed) for seed in range(3)]
    assert [m.chosen for m in chosen] == ["factor"] * 3
    assert chosen[0].line is not None
    assert next(iter(chosen[0].line.s_per_mac.values())) == pytest.approx(1 / 80e9, rel=0.02)


# ----------------------------------------------------------------------------------------------------------- extrapolation


def test_a_network_like_the_measured_ones_is_no_extrapolation() -> None:
    predictions = fitted().predict(kernels_of(NETS[40:]))
    assert predictions.extrapolates.mean() < 0.1
    assert (
        np.all(predictions.low < predictions.seconds)
        and np.all(predictions.seconds < predictions.high)
        and np.all(predictions.sd > 0)
    )


def test_extrapolations_say_why_and_have_wider_intervals() -> None:
    out_of_distribution = Kernel(
        kind="softmax", rows=10**4, inner=1, columns=10**4, read_bytes=4 * 10**8, written_bytes=4 * 10**8
    )
    nets = [
        simulated.resnet((1, 1, 1, 1), 0.5, 128),
        simulated.resnet((1, 1, 1, 1), 0.5, 128, "int8"),
        simulated.resnet((9, 9, 9, 9), 2.0, 448),
        (*simulated.resnet((1, 1, 1, 1), 0.5, 128), out_of_distribution),
    ]
    for model_family in ("roofline", "learned"):
        predictions = fitted().predict(nets, model_family=model_family)  # type: ignore[arg-type]
        assert predictions.why[0] is None and predictions.why[1] == "int8 was not measured"
        assert predictions.why[2] is not None and predictions.why[2].endswith(
            " times more multiply-accumulates than measured"
        )
        assert predictions.why[3] == "kernels of kind softmax were not measured"
        width = predictions.high / predictions.low
        assert np.all(width[1:] > width[0]) and list(predictions.extrapolates) == [False, True, True, True]


# ------------------------------------------------------------------------------------------------ precisions, threads, points


def test_one_predictor_covers_precisions_and_threads_and_fp32_teaches_int8() -> None:
    machine, quantized = simulated.Machine(2), simulated.sample(60, 0, "int8")
    few = machine.profiles(quantized[:6])
    both = quick([*machine.profiles(NETS[:30]), *few, *machine.profiles(NETS[:6], threads=4)])
    alone = quick(few)
    target = truth(machine, quantized[6:])

    def error(model: Predictor) -> float:
        return float(np.mean(np.abs(model.predict(kernels_of(quantized[6:])).seconds / target - 1)))

    assert error(both) < 0.05 and error(both) < error(alone)
    predictions = both.predict(kernels_of(NETS[100:]), OperatingPoint(threads=4))
    assert np.mean(np.abs(predictions.seconds / truth(machine, NETS[100:], 4) - 1)) < 0.05
    between = both.predict(
        kernels_of(NETS[100:]), OperatingPoint(threads=2)
    ).seconds  # the truth is a power law, as is the interpolation
    assert np.mean(np.abs(between / truth(machine, NETS[100:], 2) - 1)) < 0.06
    assert set(both.predict(kernels_of(quantized[:1]), OperatingPoint(threads=4)).why) == {
        "int8 was not measured at this point"
    }
    for point in (OperatingPoint(threads=8), OperatingPoint(gap_s=0.1), OperatingPoint(load=1)):
        with pytest.raises(UsageError, match="outside of the measured ones .*profile a few networks there"):
            both.predict(kernels_of(NETS[:1]), point)
    with pytest.raises(UsageError, match="the rest of the point t1-cpu0"):
        both.predict(kernels_of(NETS[:1]), OperatingPoint(affinity=(0,)))


def capped(hz: float, nets: list[tuple[str, tuple[Kernel, ...]]]) -> list[ProfileRecord]:
    """Records of a straight device at a clock cap: everything takes longer as the clock is slower than 3 GHz."""
    out = []
    for profile in Straight(0, noise=0.0).profiles(nets, settings=MeasureSettings(clock_cap_hz=hz)):
        assert profile.measurement is not None
        runs = tuple(
            synthetic.run([v.median_ns * 1e-9 * 3e9 / hz] * 3, v.round, clock_hz=hz, clock_source="observed")
            for v in profile.measurement.runs
        )
        out.append(profile.model_copy(update={"measurement": profile.measurement.model_copy(update={"runs": runs})}))
    return out


def test_clocks_are_an_input_where_they_were_chosen() -> None:
    nets = simulated.sample(16, 3)
    model = quick([*capped(3e9, nets[:8]), *capped(1.5e9, nets[4:12])])
    assert model.clocks is not None and (model.clocks.low_hz, model.clocks.high_hz) == (1.5e9, 3e9)
    expected = truth(Straight(0), nets[12:]) * 1.5
    assert model.predict(kernels_of(nets[12:]), clock_hz=2e9).seconds == pytest.approx(expected, rel=0.03)
    assert model.predict(kernels_of(nets[12:]), OperatingPoint(clock_cap_hz=2e9)).seconds == pytest.approx(
        expected, rel=0.03
    )
    with pytest.raises(UsageError, match="1 GHz lies outside of the measured clocks"):
        model.predict(kernels_of(nets[12:]), clock_hz=1e9)
    with pytest.raises(UsageError, match="fitted at one clock"):
        fitted().predict(kernels_of(nets[:1]), clock_hz=1e9)


def test_gaps_between_calls_are_an_input_and_are_interpolated() -> None:
    class Waking(simulated.Machine):
        extra = 0.0

        def seconds(self, kernels: object, threads: int = 1) -> float:
            return super().seconds(kernels, threads) * (1 + self.extra)  # type: ignore[arg-type]

    quiet, gap = Waking(4), Waking(4)
    gap.extra = 0.3
    profiles = [*quiet.profiles(NETS[:20]), *gap.profiles(NETS[10:25], settings=MeasureSettings(gap_s=0.1))]
    model = quick(profiles)
    nets = kernels_of(NETS[30:60])
    slow = model.predict(nets, OperatingPoint(gap_s=0.1)).seconds / model.predict(nets).seconds
    assert slow == pytest.approx(1.3, rel=0.06)
    some = model.predict(nets, OperatingPoint(gap_s=0.01)).seconds / model.predict(nets).seconds
    assert np.all((some > 1.0) & (some < slow))


# ---------------------------------------------------------------------------------------------------------------- transfer


def test_ten_measurements_suffice_with_a_source_device() -> None:
    base = quick(simulated.Machine(3).profiles(NETS[:50], device="old"))
    new = simulated.Machine(3, speed=0.4, memory=0.7)
    source, own = [], []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(200)
        train, test = [NETS[i] for i in order[:10]], [NETS[i] for i in order[10:]]
        profiles = new.profiles(train, device="new")
        model = quick(profiles, base=base)
        assert model.device_id == "new" and model.base == base
        source.append(np.abs(model.predict(kernels_of(test)).seconds / truth(new, test) - 1))
        own.append(np.abs(quick(profiles).predict(kernels_of(test)).seconds / truth(new, test) - 1))
    assert np.mean(np.array(source) <= 0.10) >= 0.95
    assert np.mean(source) < np.mean(own)


def test_the_learning_curve_falls() -> None:
    profiles = simulated.Machine(0).profiles(NETS[:60])
    curve = latency.learning_curve(profiles, counts=(5, 40, 999), repeats=2)
    assert [p.measurements for p in curve] == [5, 40] and curve[0].mape > curve[1].mape
    assert all(len(p.forms) == p.repeats == 2 and 0 <= p.coverage <= 1 for p in curve)
    with pytest.raises(BadRecord, match="more than 500 measured networks"):
        latency.learning_curve(profiles, counts=(500,))


# ------------------------------------------------------------------------------------------------------------ files and numbers


def test_json_brings_back_the_same_predictions_to_the_last_bit(tmp_path: Path) -> None:
    base = fitted()
    model = quick(simulated.Machine(0, speed=2).profiles(NETS[:12], device="new"), base=base)
    for one in (base, model):
        latency.save(tmp_path / "m.json", one)
        again = latency.load(tmp_path / "m.json")
        assert again == one
        for form in ("factor", "kinds", "roofline", "learned"):
            a, b = (m.predict(kernels_of(NETS[100:150]), model_family=form) for m in (one, again))  # type: ignore[arg-type]
            assert np.array_equal(a.seconds, b.seconds) and np.array_equal(a.high, b.high) and a.why == b.why


def test_equal_records_and_seed_give_an_equal_model() -> None:
    profiles = simulated.Machine(5).profiles(NETS[:12])
    assert quick(profiles, seed=3) == quick(profiles, seed=3)


def test_predicting_needs_numpy_alone(tmp_path: Path) -> None:
    latency.save(tmp_path / "m.json", fitted())
    nets = [[k.model_dump() for k in kernels] for kernels in kernels_of(NETS[40:42])]
    (tmp_path / "nets.json").write_text(json.dumps(nets))
    code = """
        import json, pathlib, sys
        from kit import latency
        from kit.records import Kernel
        nets = [[Kernel(**k) for k in net] for net in json.loads(pathlib.Path("nets.json").read_text())]
        print(json.dumps(latency.load(pathlib.Path("m.json")).predict(nets).seconds.tolist()))
        assert not {"scipy", "sklearn", "torch"} & set(sys.modules)
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    completed = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout) == pytest.approx(fitted().predict(kernels_of(NETS[40:42])).seconds, rel=1e-9)


def test_drift_corrected_latencies_are_what_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    from kit.records import Measurement

    profiles = simulated.Machine(0).profiles(NETS[:5])
    monkeypatch.setattr(
        Measurement, "corrected_medians_s", property(lambda m: tuple(2 * x for x in m.medians_s)), raising=True
    )
    model = quick(profiles)
    raw = [p.measurement.median_s for p in profiles if p.measurement]
    assert model.measured.seconds == pytest.approx([2 * x for x in raw])


# ---------------------------------------------------------------------------------------------------------------- wrong inputs


def test_wrong_inputs_are_one_sentence(tmp_path: Path) -> None:
    machine = simulated.Machine(0)
    one = machine.profiles(NETS[:6])
    with pytest.raises(BadRecord, match="2 devices .*--device"):
        quick([*one, *machine.profiles(NETS[6:9], device="other")])
    with pytest.raises(BadRecord, match="2 backends .*--backend"):
        quick([*one, machine.profile("x", NETS[9][1], settings=MeasureSettings(backend="openvino"))])
    with pytest.raises(BadRecord, match="needs 3 measured networks with different MACs and these are 2 .*profile more"):
        quick(one[:2])
    with pytest.raises(UsageError, match="A level of 1 cannot be"):
        quick(one, level=1.0)
    with pytest.raises(BadRecord, match="without kernels has no latency"):
        fitted().predict([()])
    with pytest.raises(UsageError, match="'Gaussian process' was not fitted here"):
        quick(one[:4]).predict([NETS[0][1]], model_family="learned")
    broken = json.loads(store.canonical_json(fitted()))
    changes = (
        ({"schema_version": 9}, "schema version 9"),
        ({"schema_version": 1}, "fit it again"),
        ({"kind": "device"}, "kind 'device'"),
        ({"level": float("nan")}, "finite number"),
    )
    for change, says in changes:
        (tmp_path / "m.json").write_text(json.dumps({**broken, **change}))
        with pytest.raises(BadRecord, match=says):
            latency.load(tmp_path / "m.json")
    (tmp_path / "m.json").write_text("[]")
    with pytest.raises(BadRecord, match="holds efficiency factors alone, as an older version"):
        latency.load(tmp_path / "m.json")


def test_records_without_kernels_still_give_a_line() -> None:
    profiles = [synthetic.profile(f"net{i}", 1e-4 + i * 1e-3, macs=i * 10**7, seed=i) for i in range(1, 8)]
    model = quick(profiles)
    assert model.chosen == "factor" and model.per_kind_linear is None and model.roofline is None
    assert any("only a line was fitted" in note for note in model.notes)
    predictions = model.predict([simulated.resnet((1, 1, 1, 1), 0.25, 96)])
    macs = sum(k.macs for k in simulated.resnet((1, 1, 1, 1), 0.25, 96))
    assert predictions.seconds[0] == pytest.approx(1e-4 + macs * 1e-10, rel=0.02)


def test_what_was_left_out_is_named() -> None:
    machine = simulated.Machine(0)
    odd = machine.profile("odd", NETS[50][1], label="inconclusive")
    pinned = machine.profile("pinned", NETS[51][1], settings=MeasureSettings(affinity=(0,)))
    model = quick([*machine.profiles(NETS[:4]), odd, pinned])
    assert model.notes[:2] == ("odd: inconclusive", "pinned: operating point t1-cpu0")


# ------------------------------------------------------------------------------------------------------------------ the parts


def test_equal_kernels_stand_once_and_networks_come_back() -> None:
    kernels = simulated.resnet((2, 2, 2, 2), 1.0, 224)
    arranged = features.arrange([kernels, kernels[:3], [kernels[0].model_copy(update={"count": 3, "stage": 4})]])
    assert arranged.nets == 3 and len(arranged.attributes) < len(kernels)
    assert arranged.total(arranged.macs) == pytest.approx(
        [sum(k.macs for k in kernels), sum(k.macs for k in kernels[:3]), 3 * kernels[0].macs]
    )
    again = arranged.networks().table()
    assert np.array_equal(again.attributes, arranged.attributes) and np.array_equal(again.count, arranged.count)
    picked = arranged.pick(np.array([2, 0]))
    assert picked.total(picked.macs) == pytest.approx(arranged.total(arranged.macs)[[2, 0]])
    assert picked.weight_bytes == pytest.approx(arranged.weight_bytes[[2, 0]])


def test_the_gradient_of_the_likelihood_is_right() -> None:
    from kit.latency import training

    profiles = [
        *simulated.Machine(1).profiles(NETS[:8]),
        *simulated.Machine(1).profiles(simulated.sample(6, 2, "int8"), threads=2),
    ]
    points, _ = training._observations(profiles, training.kernels_of)
    data = training._data(points, training._states(points), None, None)
    roofline = fitting.fit_roofline(data, None, None, 0)
    shares = Shares(data.cases, *roofline.times(Roof(data.cases)))
    objective = fitting._objective(shares, data.seconds / shares.roof_s, data.spread)
    x = np.array([fitting.HYPER_PRIORS[n][0] for n in NAMES]) + 0.1 * np.random.default_rng(0).standard_normal(
        len(NAMES)
    )
    _, gradient = objective(x)
    for i, name in enumerate(NAMES):
        step = np.eye(len(x))[i] * 1e-5
        assert gradient[i] == pytest.approx(
            (objective(x + step)[0] - objective(x - step)[0]) / 2e-5, rel=1e-3, abs=1e-4
        ), name


def test_the_posterior_returns_to_what_was_measured_and_to_the_prior_far_away() -> None:
    model = fitted()
    posterior = model.posterior
    assert posterior is not None
    shares = posterior.shares
    ratio, sd = posterior.predict(shares)
    assert np.abs(ratio * shares.roof_s / np.array(model.measured.seconds) - 1).max() < 0.05
    blocks = posterior._prior(shares)
    assert blocks == pytest.approx(np.diag(posterior.covariance.between(shares, shares)), rel=1e-6)
    assert np.all(sd**2 < blocks + posterior.noise * ratio**2)
    assert gaussian_process.sigmoid(0.0) == 0.5


def test_the_roofline_is_not_known_either_and_adds_what_a_linear_trend_adds() -> None:
    """The closed form against the whole covariance, trend and all: what a Gaussian process knows after its observations."""
    model = fitted()
    assert model.gaussian_process is not None and model.posterior is not None and model.gaussian_process.freedom
    posterior, shares = model.posterior, model.posterior.shares
    cases = Cases.of(arrange(kernels_of(NETS[100:130])), model.states)
    at = model.shares(cases)
    ratio, sd = posterior.predict(at)

    def full_covariance(a: Shares, b: Shares) -> Float64Array:
        return posterior.covariance.between(a, b) + a.slopes @ b.slopes.T

    measured = posterior.factor @ posterior.factor.T + shares.slopes @ shares.slopes.T
    left = full_covariance(at, at) - full_covariance(at, shares) @ np.linalg.solve(
        measured, full_covariance(shares, at)
    )
    assert sd == pytest.approx(np.sqrt(np.diag(left) + posterior.noise * ratio**2), rel=1e-5)
    speed = sorted(model.gaussian_process.freedom).index("mac")  # scales all times alike
    assert at.slopes[:, speed] == pytest.approx(model.gaussian_process.freedom["mac"])


@given(st.lists(st.floats(0.01, 10), min_size=9, max_size=200), st.sampled_from((0.8, 0.9)))
@settings(max_examples=50, deadline=None)
def test_the_conformal_quantile_holds_at_least_its_share(scores: list[float], level: float) -> None:
    reach, how = selection.calibrate(np.array(scores), level)
    assert how == "conformal" and np.sum(np.array(scores) <= reach) >= level * (len(scores) + 1) - 1e-9


def test_too_few_scores_are_stretched_and_say_so() -> None:
    reach, how = selection.calibrate(np.array([0.5, 1.0, 0.7]), 0.9)
    assert how == "student" and reach > 1.0


@given(st.integers(2, 60), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_folds_hold_every_group_out_exactly_once(groups: int, seed: int) -> None:
    group = np.repeat(np.arange(groups), 2)
    parts = selection.folds(group, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(2 * groups))
    assert all(not set(group[p]) & set(np.delete(group, p)) for p in parts) and len(parts) == min(10, groups)


def test_a_p_value_tells_noise_from_a_difference() -> None:
    noise = np.random.default_rng(0).normal(0, 1, 40)
    assert selection.sign_flip_p_value(noise - noise.mean(), np.arange(40), 0) > 0.3
    assert selection.sign_flip_p_value(noise + 2, np.arange(40), 0) < 0.01


def test_one_family_alone_is_not_called_the_smallest() -> None:
    truth = np.linspace(1.0, 2.0, 10)
    data: Any = SimpleNamespace(seconds=truth, group=np.arange(10))
    _, alone, _ = selection.choose(selection.Validated({"factor": truth * 1.1}, {}), data, 0.9, 0)
    assert "a factor of 1.1 off" in alone and "the only model family that these records carry" in alone
    both = {"factor": truth * 1.1, "roofline": truth * 1.2}
    _, reason, _ = selection.choose(selection.Validated(both, {}), data, 0.9, 0)
    assert "the smallest of 2 model families" in reason and "only" not in reason


def test_the_family_that_served_the_source_device_goes_before_the_simpler_ones() -> None:
    truth = np.linspace(1.0, 2.0, 10)
    data: Any = SimpleNamespace(seconds=truth, group=np.arange(10))
    noise = np.random.default_rng(0).normal(0, 0.05, (2, 10))
    forms = {"factor": truth * np.exp(noise[0]), "learned": truth * np.exp(noise[1])}
    validated = selection.Validated(forms, {})
    assert selection.choose(validated, data, 0.9, 0)[0] == "factor"
    form, reason, _ = selection.choose(validated, data, 0.9, 0, "learned")
    assert form == "learned" and "the source device of the transfer" in reason and "rejected" not in reason
    wild = selection.Validated({**forms, "learned": truth * 2.0}, {})
    form, reason, _ = selection.choose(wild, data, 0.9, 0, "learned")
    assert form == "factor" and "rejected as worse: Gaussian process" in reason  # it may be rejected like any other


def test_where_the_family_that_served_the_source_device_is_rejected_the_best_one_is_taken_not_the_simplest() -> None:
    truth = np.linspace(1.0, 2.0, 10)
    data: Any = SimpleNamespace(seconds=truth, group=np.arange(10))
    wild = np.where(np.arange(10) == 3, 3.0, 1.02)  # one error of 200 %, which a coin explains
    forms = {"factor": truth * wild, "roofline": truth * 1.05, "learned": truth * 1.03}
    form, reason, _ = selection.choose(selection.Validated(forms, {}), data, 0.9, 0, "roofline")
    assert form == "learned" and "rejected as worse: roofline." in reason
    assert selection.choose(selection.Validated(forms, {}), data, 0.9, 0)[0] == "factor"
