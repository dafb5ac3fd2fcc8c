"""From profile records to a predictor: what counts, at which operating point, with which noise; then fit, validate, choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from kit import store
from kit.errors import BadRecord
from kit.latency import efficiency_factor, fitting, selection
from kit.latency.blas import one_thread
from kit.latency.features import arrange
from kit.latency.fitting import Data, Fitted
from kit.latency.kernels import kernels_of
from kit.latency.model import Clocks, Measured, Predictor, check_level, state_indices
from kit.latency.parametric import Cases, State
from kit.records import DECIDING, Artifact, CurvePoint, Kernel, LatencyModel, Measurement, ProfileRecord
from kit.stats import Float64Array

KernelsOf = Callable[[Artifact], tuple[Kernel, ...] | None]
RECORDS_MIN = 3  # records, of different multiply-accumulates
RECORDS_MIN_WITH_KERNELS = 6
TIMES_OF_HALF_WIDTH = 1.96


@dataclass(frozen=True)
class Observation:
    """One usable record."""

    profile: ProfileRecord
    kernels: tuple[Kernel, ...] | None
    state: State
    clock_hz: float | None  # only where it was chosen on purpose


@one_thread
def predictor(
    profiles: Sequence[ProfileRecord],
    *,
    base: Predictor | None = None,
    level: float = 0.9,
    seed: int = 0,
    kernels: KernelsOf = kernels_of,
    baselines: bool = True,
) -> Predictor:
    """See :func:`kit.latency.predictor`."""
    check_level(level)
    _refuse_mixtures(profiles)
    observations, notes = _observations(profiles, kernels)
    usable = _with_kernels(observations, notes)
    if usable is not None:
        observations = usable
    _refuse_too_few(observations, notes, transferred=base is not None and usable is not None)
    source = base if usable is not None else None
    states, clocks = _states(observations), _clocks(observations)
    data = _data(observations, states, clocks, source)
    prior = None if source is None or source.roofline_below is None else source.roofline_below.parameters
    fitted = fitting.fit(data, prior=prior, seed=seed, kernels=usable is not None)
    validated = selection.cross_validate(
        data,
        fitted,
        prior,
        kernels=usable is not None,
        baselines=baselines,
        clock_hz=_papers_clock(observations),
        seed=seed,
    )
    chosen, reason, scores = selection.choose(validated, data, level, seed, None if source is None else source.chosen)
    scored = {s.form for s in scores}
    first = observations[0].profile
    return Predictor(
        device_id=first.device.device_id,
        backend=first.settings.backend,
        level=level,
        seed=seed,
        states=states,
        clocks=clocks,
        measured=_measured(observations, data, usable is not None),
        chosen=chosen,
        reason=reason,
        scores=scores,
        held_out_s=tuple(validated.seconds[chosen].tolist()),
        held_out_sd=tuple(selection.deviations(chosen, validated, data).tolist()),
        notes=tuple(notes + _absent_baselines(scored, usable is not None)),
        models=_factors(profiles, seed),
        base=source,
        **_families(fitted, scored),
    )


def _families(fitted: Fitted, scored: set[str]) -> dict[str, object]:
    """The families that cross-validation scored, by the predictor's fields."""
    return {
        "line": fitted.line if "factor" in scored else None,
        "per_kind_linear": fitted.per_kind_linear if "kinds" in scored else None,
        "roofline": fitted.roofline if scored & {"roofline", "learned"} else None,
        "gaussian_process": fitted.gaussian_process if "learned" in scored else None,
    }


def _refuse_mixtures(profiles: Sequence[ProfileRecord]) -> None:
    devices = sorted({p.device.device_id for p in profiles})
    if len(devices) > 1:
        raise BadRecord(
            f"These profiles come from {len(devices)} devices ({', '.join(devices)}): fit one device at a time with --device."
        )
    backends = sorted({p.settings.backend for p in profiles})
    if len(backends) > 1:
        raise BadRecord(
            f"These profiles come from {len(backends)} backends ({', '.join(backends)}): a model is of one, say which with --backend."
        )


def _observations(profiles: Sequence[ProfileRecord], kernels: KernelsOf) -> tuple[list[Observation], list[str]]:
    observations, notes = [], []
    for profile in store.decisive(profiles):
        listed = kernels(profile.artifact)
        why = _unusable(profile, listed)
        if why:
            notes.append(f"{profile.artifact.artifact_id}: {why}")
        else:
            observations.append(_observation(profile, listed))
    return observations, notes


def _unusable(profile: ProfileRecord, kernels: tuple[Kernel, ...] | None) -> str | None:
    if profile.status != "ok" or profile.measurement is None:
        return profile.status
    if profile.label is not None and profile.label not in DECIDING:
        return profile.label
    how = profile.settings
    if how.affinity is not None or profile.batch not in (None, 1):
        return f"operating point {how.name}"
    if how.power_mode is not None and profile.measurement.clock_hz is None:
        return f"operating point {how.name} without a clock"
    if not profile.artifact.macs and not kernels:
        return "MACs unknown (kit describe counts them)"
    return None


def _observation(profile: ProfileRecord, kernels: tuple[Kernel, ...] | None) -> Observation:
    how = profile.settings
    assert profile.measurement is not None
    chosen = how.clock_cap_hz is not None or how.power_mode is not None
    clock = (profile.measurement.clock_hz or how.clock_cap_hz) if chosen else None
    return Observation(profile, kernels, State(threads=how.threads, gap_s=how.gap_s, load=how.load), clock)


def _with_kernels(observations: list[Observation], notes: list[str]) -> list[Observation] | None:
    """The records whose kernels are known, when they are enough to go by; else None, and only a line can be drawn."""
    with_kernels = [p for p in observations if p.kernels]
    if len(with_kernels) < min(RECORDS_MIN_WITH_KERNELS, len(observations)) or not with_kernels:
        if observations:
            notes.append("the kernels of these networks are unknown (kit describe lists them): only a line was fitted")
        return None
    notes += [
        f"{p.profile.artifact.artifact_id}: kernels unknown (kit describe lists them)"
        for p in observations
        if not p.kernels
    ]
    return with_kernels


def _refuse_too_few(observations: list[Observation], notes: list[str], *, transferred: bool) -> None:
    different = len({p.profile.artifact.macs or sum(k.macs * k.count for k in p.kernels or ()) for p in observations})
    if different >= RECORDS_MIN:
        return
    more = efficiency_factor.left_out_text({text.split(": ", 1)[-1] for text in notes})
    need = "ten are enough with --from" if transferred else "ten serve a roofline, forty a Gaussian process"
    raise BadRecord(
        f"A latency model needs {RECORDS_MIN} measured networks with different MACs and these are {different} ({need}): profile more.{more}"
    )


def _states(observations: Sequence[Observation]) -> tuple[State, ...]:
    """The quietest state with the fewest threads stands first."""
    return tuple(sorted({p.state for p in observations}, key=lambda s: (s.gap_s, s.load, s.threads)))


def _clocks(observations: Sequence[Observation]) -> Clocks | None:
    """The measured range of clocks, where they were chosen; the reference is the fastest, left alone or not."""
    chosen = [p.clock_hz for p in observations if p.clock_hz is not None]
    if not chosen:
        return None
    free = [m.clock_hz for p in observations if p.clock_hz is None and (m := p.profile.measurement) and m.clock_hz]
    reference = float(np.median(free)) if free else max(chosen)
    return Clocks(low_hz=min(*chosen, reference), high_hz=max(*chosen, reference), reference_hz=reference)


def _data(
    observations: Sequence[Observation], states: tuple[State, ...], clocks: Clocks | None, base: Predictor | None
) -> Data:
    table = arrange([p.kernels or _nameless(p.profile.artifact) for p in observations])
    slowdown = np.array([clocks.reference_hz / p.clock_hz if clocks and p.clock_hz else 1.0 for p in observations])
    macs = table.total(table.macs)
    cases = Cases(
        table, macs, table.precisions(), states, state_indices(states, [p.state for p in observations]), slowdown
    )
    targets = [_target(p.profile.measurement) for p in observations if p.profile.measurement is not None]
    names = [_family_member(p.profile.artifact) for p in observations]
    group = np.unique(np.array(names), return_inverse=True)[1]
    efficiency = None if base is None else base.efficiencies(cases)
    return Data(cases, np.array([t[0] for t in targets]), np.array([t[1] for t in targets]), group, efficiency)


def _nameless(artifact: Artifact) -> tuple[Kernel, ...]:
    """All multiply-accumulates of a network as one kernel, where nobody listed its kernels: enough for a line."""
    work = artifact.macs or 0
    return (
        Kernel(
            kind="linear", precision=artifact.precision, rows=work, inner=1, columns=1, read_bytes=0, written_bytes=0
        ),
    )


def _target(measurement: Measurement) -> tuple[float, float]:
    """(seconds, relative standard error): drift-corrected where that is known."""
    if measurement.corrected_s is not None and measurement.corrected_half_width is not None:
        return measurement.corrected_s, measurement.corrected_half_width / TIMES_OF_HALF_WIDTH
    return measurement.median_s, measurement.half_width / TIMES_OF_HALF_WIDTH


def _family_member(artifact: Artifact) -> str:
    """What belongs together in cross-validation: one sub-network in all its precisions."""
    if artifact.subnetwork is None:
        return artifact.artifact_id
    return artifact.subnetwork.model_copy(update={"precision": "fp32"}).id


def _measured(observations: Sequence[Observation], data: Data, has_kernels: bool) -> Measured:
    cases = data.cases
    return Measured(
        networks=cases.table.networks(),
        kernels_known=has_kernels,
        macs=tuple(cases.macs.tolist()),
        precision=tuple(cases.precision.tolist()),
        state=tuple(cases.state.tolist()),
        slowdown=tuple(cases.slowdown.tolist()),
        seconds=tuple(data.seconds.tolist()),
        spread=tuple(data.spread.tolist()),
        record_ids=tuple(p.profile.record_id for p in observations),
        families=tuple(sorted({sub.family for p in observations if (sub := p.profile.artifact.subnetwork)})),
    )


def _papers_clock(observations: Sequence[Observation]) -> float | None:
    """The clock for the papers' line: measured, else nominal."""
    clocks_hz = [m.clock_hz for p in observations if (m := p.profile.measurement) and m.clock_hz]
    if clocks_hz:
        return float(np.median(clocks_hz))
    clock = observations[0].profile.device.clock
    return clock.nominal_hz or clock.max_hz


def _factors(profiles: Sequence[ProfileRecord], seed: int) -> tuple[LatencyModel, ...]:
    try:
        return tuple(efficiency_factor.fit(profiles, seed=seed))
    except BadRecord:  # ten records at several points may carry no line of their own
        return ()


def _absent_baselines(scored: set[str], has_kernels: bool) -> list[str]:
    from kit.latency import baselines

    if has_kernels and "lookup" in scored and not baselines.forest_available():
        return ["the random forest is left out of the table: scikit-learn is not installed (pip install scikit-learn)"]
    return []


# --------------------------------------------------------------------------------------------------------------- learning curve


@one_thread
def learning_curve(
    profiles: Sequence[ProfileRecord],
    *,
    counts: Sequence[int] = (5, 10, 20, 40),
    repeats: int = 3,
    base: Predictor | None = None,
    level: float = 0.9,
    seed: int = 0,
    kernels: KernelsOf = kernels_of,
) -> tuple[CurvePoint, ...]:
    """See :func:`kit.latency.learning_curve`."""
    usable = [p for p in store.decisive(profiles) if _unusable(p, kernels(p.artifact)) is None and kernels(p.artifact)]
    out = []
    for count in sorted(set(counts)):
        if RECORDS_MIN <= count < len(usable):
            rng = np.random.default_rng((seed, count))
            orders = [rng.permutation(len(usable)) for _ in range(repeats)]
            runs = []
            for order in orders:
                train, test = ([usable[i] for i in part] for part in (order[:count], order[count:]))
                with suppress(BadRecord):  # so few may carry no model at all
                    runs.append(_one_run(train, test, base, level, seed, kernels))
            if runs:
                out.append(_curve_point(count, runs))
    if not out:
        raise BadRecord(
            f"A learning curve needs more than {min(counts)} measured networks with known kernels: profile more."
        )
    return tuple(out)


def _one_run(
    train: Sequence[ProfileRecord],
    test: Sequence[ProfileRecord],
    base: Predictor | None,
    level: float,
    seed: int,
    kernels: KernelsOf,
) -> tuple[str, Float64Array, Float64Array]:
    """(model family, relative errors, whether the interval held) on the networks of ``test`` that lie at a state that ``train`` has."""
    model = predictor(train, base=base, level=level, seed=seed, kernels=kernels, baselines=False)
    errors, inside = [], []
    for point in model.states:
        here = [p for p in test if _observation(p, None).state == point]
        if here:
            predictions = model.predict([kernels(p.artifact) or () for p in here], here[0].settings)
            truth = np.array([_target(p.measurement)[0] for p in here if p.measurement is not None])
            errors.append(predictions.seconds / truth - 1.0)
            inside.append(((predictions.low <= truth) & (truth <= predictions.high)).astype(np.float64))
    return model.chosen, np.concatenate(errors), np.concatenate(inside)


def _curve_point(count: int, runs: Sequence[tuple[str, Float64Array, Float64Array]]) -> CurvePoint:
    errors = np.abs(np.concatenate([r[1] for r in runs]))
    return CurvePoint(
        measurements=count,
        repeats=len(runs),
        mape=float(errors.mean()),
        within_5=float(np.mean(errors <= 0.05)),
        within_10=float(np.mean(errors <= 0.10)),
        coverage=float(np.mean(np.concatenate([r[2] for r in runs]))),
        forms=tuple(r[0] for r in runs),
    )
