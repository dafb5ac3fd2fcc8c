"""The efficiency factor: latency_s = overhead_s + lambda * MACs / clock_hz, fitted to measured medians.

The papers set lambda = 1 (A, eq. 5; B, eq. 7). Here it is measured, per device, backend, precision and thread count, with a
bootstrap interval over sub-networks and processes. The fit minimises relative errors (weights 1 / latency^2), because
an edge deadline cares for per cent, and keeps the overhead at zero or above: no call takes negative time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from kit import stats, store
from kit.errors import BadRecord
from kit.records import DECIDING, FitQuality, LatencyModel, Measurement, Precision, ProfileRecord
from kit.stats import Float64Array

POINTS_MIN = 3
RESAMPLES = 2000

Group = tuple[str, Precision, int]


def fit(profiles: Sequence[ProfileRecord], *, seed: int = 0) -> list[LatencyModel]:
    """One line per backend, precision and thread count, of one device; groups too small for a line are left out and named in it.

    ``profiles`` count where they may decide and were measured in the default state. A slope is in seconds per MAC and, at the clock of the
    measurements, in cycles per MAC (the papers' lambda), each with a 95 % bootstrap interval drawn with ``seed``; overheads are in seconds.

    Raises BadRecord when the profiles mix devices or hold no group with three sub-networks of different MACs.

    Example:
        >>> lines = latency.fit(store.read_profiles([PROFILES]))
        >>> [line.precision for line in lines]
        ['fp32', 'int8']
        >>> lines[0].interval[0] < lines[0].lambda_cycles_per_mac < lines[0].interval[1]
        True
    """
    devices = sorted({p.device.device_id for p in profiles})
    if len(devices) > 1:
        raise BadRecord(
            f"These profiles come from {len(devices)} devices ({', '.join(devices)}): fit one device at a time with --device."
        )
    groups, left_out = _groups(profiles)
    _leave_small_groups(groups, left_out)
    return [_fit_group(key, members, tuple(left_out[key]), seed) for key, members in sorted(groups.items())]


def _groups(profiles: Sequence[ProfileRecord]) -> tuple[dict[Group, list[ProfileRecord]], dict[Group, list[str]]]:
    """The deciding record of each model file, by group, and what was left out and why."""
    groups: dict[Group, list[ProfileRecord]] = defaultdict(list)
    left_out: dict[Group, list[str]] = defaultdict(list)
    for profile in store.decisive(profiles):
        key = (profile.settings.backend, profile.artifact.precision, profile.settings.threads)
        why = _unusable(profile)
        if why:
            left_out[key].append(f"{profile.artifact.artifact_id}: {why}")
        else:
            groups[key].append(profile)
    return groups, left_out


def _leave_small_groups(groups: dict[Group, list[ProfileRecord]], left_out: dict[Group, list[str]]) -> None:
    """Take out the groups that carry no line, and say so with the first that does."""
    small = {k: n for k, members in groups.items() if (n := len({p.artifact.macs for p in members})) < POINTS_MIN}
    if len(small) == len(groups):
        raise BadRecord(_nothing_to_fit(groups, left_out))
    for backend, precision, threads in small:
        del groups[backend, precision, threads]
    first = min(groups)
    for (backend, precision, threads), count in sorted(small.items()):
        text = (
            f"{backend} {precision} t{threads}: {count} sub-network(s) with different MACs, a line needs {POINTS_MIN}"
        )
        left_out[first].append(text)


def _unusable(profile: ProfileRecord) -> str | None:
    if profile.status != "ok" or profile.measurement is None:
        return profile.status
    if profile.label is not None and profile.label not in DECIDING:
        return profile.label
    if not profile.plain:
        return f"operating point {profile.settings.name}"
    if not profile.artifact.macs:
        return "MACs unknown (kit describe counts them)"
    return None


def _nothing_to_fit(groups: dict[Group, list[ProfileRecord]], left_out: dict[Group, list[str]]) -> str:
    usable = max((len({p.artifact.macs for p in members}) for members in groups.values()), default=0)
    reasons = {text.split(": ", 1)[1] for texts in left_out.values() for text in texts}
    return (
        f"A line needs {POINTS_MIN} measured sub-networks with different MACs per backend, precision and thread count; "
        f"the largest group has {usable}: profile more variants.{left_out_text(reasons)}"
    )


def left_out_text(reasons: Collection[str]) -> str:
    """A sentence on the records that were left out and, where another measurement may help, what to do; empty without any."""
    if not reasons:
        return ""
    again = " Measure these again when the machine is quieter." if "inconclusive" in reasons else ""
    return f" Left out: {'; '.join(sorted(reasons))}.{again}"


def _fit_group(key: Group, members: Sequence[ProfileRecord], left_out: tuple[str, ...], seed: int) -> LatencyModel:
    backend, precision, threads = key
    macs = np.array([float(p.artifact.macs or 0) for p in members])
    measurements = [p.measurement for p in members if p.measurement is not None]
    latency = np.array([m.median_s for m in measurements])
    overhead, slope = (float(v[0]) for v in line(macs[None], latency[None]))
    overheads, slopes = line(*_resamples(macs, measurements, seed))
    clock_hz, source = _clock(members)
    predicted = overhead + slope * macs
    low, high = _interval(slopes)
    return LatencyModel(
        device_id=members[0].device.device_id,
        backend=backend,
        precision=precision,
        threads=threads,
        s_per_mac=slope,
        s_per_mac_interval=(low, high),
        overhead_s=overhead,
        overhead_interval_s=_interval(overheads),
        clock_hz=clock_hz,
        clock_source=source,
        lambda_cycles_per_mac=slope * clock_hz if clock_hz else None,
        interval=(low * clock_hz, high * clock_hz) if clock_hz else None,
        quality=quality(predicted, latency),
        paper=quality(macs / clock_hz, latency) if clock_hz else None,
        macs_range=(int(macs.min()), int(macs.max())),
        record_ids=tuple(p.record_id for p in members),
        left_out=left_out,
    )


def line(macs: Float64Array, latency: Float64Array) -> tuple[Float64Array, Float64Array]:
    """(overhead, slope) of each row of ``macs`` and ``latency`` [rows, points]: weights 1 / latency^2, overhead >= 0."""
    weight = latency**-2.0
    total = weight.sum(axis=1)
    mean_x, mean_y = (weight * macs).sum(axis=1) / total, (weight * latency).sum(axis=1) / total
    dx = macs - mean_x[:, None]
    spread = (weight * dx * dx).sum(axis=1)
    through_origin = (weight * macs * latency).sum(axis=1) / (weight * macs * macs).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (weight * dx * (latency - mean_y[:, None])).sum(axis=1) / spread
    overhead = mean_y - slope * mean_x
    bounded = (spread > 0) & (overhead >= 0) & (slope > 0)
    return np.where(bounded, overhead, 0.0), np.where(bounded, slope, through_origin)


def _resamples(macs: Float64Array, measurements: Sequence[Measurement], seed: int) -> tuple[Float64Array, Float64Array]:
    """Bootstrap rows: sub-networks drawn with replacement, and for each drawn one the median over redrawn processes."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(measurements), size=(RESAMPLES, len(measurements)))
    latency = np.empty(picks.shape)
    for index, measurement in enumerate(measurements):
        chosen = picks == index
        medians = np.array(measurement.medians_s)
        draws = rng.integers(0, len(medians), size=(int(chosen.sum()), len(medians)))
        latency[chosen] = np.median(medians[draws], axis=1)
    return macs[picks], latency


def _interval(values: Float64Array) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _clock(members: Sequence[ProfileRecord]) -> tuple[float | None, str]:
    """The clock that the measurements ran at, observed by the device or measured with them; else the nominal one, marked so."""
    clocks = [(m.clock_hz, m.clock_source) for p in members if (m := p.measurement) and m.clock_hz is not None]
    if clocks:
        return float(np.median([hz for hz, _ in clocks])), clocks[0][1]
    nominal = members[0].device.clock.nominal_hz or members[0].device.clock.max_hz
    return (nominal, "nominal") if nominal else (None, "unknown")


def quality(predicted: Float64Array, measured: Float64Array) -> FitQuality:
    """How predictions meet measurements, both in seconds."""
    errors = np.abs(stats.relative_errors(predicted, measured))
    return FitQuality(
        r2=stats.r_squared(predicted, measured),
        mape=float(errors.mean()),
        worst=float(errors.max()),
        within_5=float(np.mean(errors <= 0.05)),
        within_10=float(np.mean(errors <= 0.10)),
    )
