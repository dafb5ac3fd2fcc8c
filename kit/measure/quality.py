"""The quality label of a measurement, the evidence for it, and what the command should have done better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kit import stats, units
from kit.devices import telemetry
from kit.records import DECIDING, FedInput, Label, Measurement, MeasureSettings, ProfileRecord, Run

DRIFT_LIMIT = 0.05  # medians of a process's two halves
MOVED_LIMIT = 0.10  # the reference workloads between processes, where their drift is not divided out
MOVED_LIMIT_CORRECTED = 0.25  # and where it is
NEAR_SHARE = 0.8  # share of the values within 5 % of their median
SETTLED_LIMIT = 0.05  # widest half-width of the median's interval that still decides
INTERRUPTED_LIMIT = 0.25  # share of the blocks in which another process took the core
ELSEWHERE_LIMIT = (
    0.02  # of the CPU time: the kernel's own work interrupts a network on all cores, and takes next to nothing
)
STEAL_LIMIT = 0.02
RUNS_MIN = 5  # the range of fewer processes encloses the median with less than 90 %
SHORT_S = 1.0  # a run that timed a network for less is called short


def label_of(measurement: Measurement, settings: MeasureSettings) -> tuple[Label, tuple[str, ...]]:
    """The quality label and the evidence for it.

    ``throttled``: the device itself said so. ``inconclusive``: fewer than five processes (or than ``rounds_min``), a drift inside
    the processes, or the median known no better than +-5 %. ``stable``: no failed check, after the first rounds either. ``settled``: no
    failed check after more rounds, or one that leaves the median within +-5 %.
    """
    runs = measurement.runs
    evidence = _facts(measurement)
    flags = sorted({flag for run in runs for flag in telemetry.throttled_between(run.before, run.after)})
    if flags:
        return "throttled", (*evidence, f"the device reports {', '.join(flags)}")
    needed = max(RUNS_MIN, settings.rounds_min)
    if len(runs) < needed:
        return "inconclusive", (*evidence, f"only {len(runs)} processes where {needed} are needed")
    failed = failed_checks(measurement, settings)
    evidence += failed
    if not failed:
        at_first = Measurement(runs=runs[:needed], reference=measurement.reference)
        return ("settled" if failed_checks(at_first, settings) else "stable"), tuple(evidence)
    if _half_width(measurement) <= SETTLED_LIMIT and _drift(measurement) <= DRIFT_LIMIT:
        return "settled", tuple(evidence)
    return "inconclusive", tuple(evidence)


def label_by_inputs(label: Label, feeds: Sequence[FedInput]) -> tuple[Label, tuple[str, ...]]:
    """The label, ``assumed`` where the work follows an input that nobody gave, and sentences on what the inputs got."""
    assumed = [f for f in feeds if f.assumed]
    facts = tuple(
        f"input '{f.name}' is the {f.steers} and nobody gave it: kit fed {f.rule}; give it with {f.option}"
        for f in assumed
    )
    return ("assumed" if assumed and label in DECIDING else label), facts


def failed_checks(measurement: Measurement, settings: MeasureSettings) -> list[str]:
    """The checks that the measurement fails, a sentence each; none means that no further process is needed."""
    failed = []
    width, target = _half_width(measurement), settings.precision_target
    if width > target:
        failed.append(f"the interval of the median is wider than +-{target:.1%}")
    if (drift := _drift(measurement)) > DRIFT_LIMIT:
        failed.append(f"the halves of a process differ by {drift:.1%}")
    if (near := _near_share(measurement)) < NEAR_SHARE:
        failed.append(f"only {near:.0%} of the values lie within 5 % of their median")
    limit = MOVED_LIMIT if measurement.corrected_s is None else MOVED_LIMIT_CORRECTED
    if (moved := _machine_moved(measurement)) > limit:
        failed.append(f"the machine itself moved: a fixed workload varied by {moved:.0%} between processes")
    if settings.load:
        return failed  # other processes are what is measured
    interrupted, elsewhere = _interrupted(measurement.runs), _worst(measurement.runs, "busy_elsewhere_share")
    if interrupted > INTERRUPTED_LIMIT and elsewhere > ELSEWHERE_LIMIT:
        failed.append(f"another process took the core in {interrupted:.0%} of the blocks")
    if (steal := _worst(measurement.runs, "steal_share")) > STEAL_LIMIT:
        failed.append(f"the hypervisor gave {steal:.0%} of the CPU time to others")
    return failed


def _facts(measurement: Measurement) -> list[str]:
    runs, loops = measurement.runs, max(run.loops for run in measurement.runs)
    looped = f", each value the mean of {loops}" if loops > 1 else ""
    facts = [
        f"{len(runs)} processes, {sum(len(run.elapsed_ns) for run in runs)} values{looped}",
        f"median within +-{measurement.half_width:.2%} (confidence {measurement.confidence:.0%})",
    ]
    if measurement.corrected_half_width is not None and measurement.corrected_s is not None:
        slower = measurement.median_s / measurement.corrected_s - 1
        facts.append(f"drift-corrected within +-{measurement.corrected_half_width:.2%}")
        facts.append(f"the machine was {abs(slower):.1%} {'slower' if slower > 0 else 'faster'} than its reference")
    facts.append(f"{_near_share(measurement):.0%} of the values within 5 % of their median")
    if measurement.clock_hz is not None:
        facts.append(f"core clock {measurement.clock_hz / 1e9:.2f} GHz ({measurement.clock_source})")
    if cold := sum(not run.warm for run in runs):
        facts.append(f"{cold} of {len(runs)} processes were still changing when warm-up ended")
    if (interrupted := _interrupted(runs)) > 0.05:
        facts.append(f"another process took the core in {interrupted:.0%} of the blocks, which the mode leaves out")
    if samples_s := measurement.samples_s:
        low, high = min(samples_s), max(samples_s)
        facts.append(
            f"{len(samples_s)} samples took turns: {units.seconds(low)} to {units.seconds(high)}, "
            f"{(high - low) / float(np.median(samples_s)):.0%} of their median apart"
        )
    notes = dict.fromkeys(note for run in runs for note in run.notes)
    return [*facts, *notes]


def _half_width(measurement: Measurement) -> float:
    """The narrower of the raw and the drift-corrected interval: dividing the drift out helps what drifts, and adds its noise to
    what does not."""
    corrected = measurement.corrected_half_width
    return measurement.half_width if corrected is None else min(corrected, measurement.half_width)


def _drift(measurement: Measurement) -> float:
    return float(np.median([abs(stats.halves_drift(run.values_ns)) for run in measurement.runs]))


def _near_share(measurement: Measurement) -> float:
    return float(np.median([stats.share_near_median(run.values_ns) for run in measurement.runs]))


def _machine_moved(measurement: Measurement) -> float:
    """Largest spread of a reference workload over the processes, as a share of its median."""
    names = set.intersection(*(set(run.references) for run in measurement.runs))
    medians = [[float(np.median(run.references[name].array())) for run in measurement.runs] for name in names]
    return max(map(stats.spread, medians), default=0.0)


def _interrupted(runs: Sequence[Run]) -> float:
    shares = [run.interrupted for run in runs if run.interrupted is not None]
    return float(np.median(shares)) if shares else 0.0


def _worst(runs: Sequence[Run], name: str) -> float:
    """Median over the processes of one number of their disturbance; 0 where the system does not report it."""
    numbers = [number for run in runs if run.disturbance and (number := getattr(run.disturbance, name)) is not None]
    return float(np.median(numbers)) if numbers else 0.0


# -------------------------------------------------------------------------------------------------------- warnings


def warnings_of(records: Sequence[ProfileRecord]) -> tuple[str, ...]:
    """The warnings of a command's records, each a sentence with what to do; empty when there is nothing."""
    measured = [r for r in records if r.measurement is not None and r.status == "ok"]
    runs = [run for r in measured if r.measurement for run in r.measurement.runs]
    calm = [run for r in measured if r.measurement and not r.settings.load for run in r.measurement.runs]
    sentences = [_wide(measured), _few(measured), _short(measured), _taken(calm), _not_idle(calm), _throttled(measured)]
    sentences.append(_assumed(measured))
    if _worst(runs, "major_faults") > 0:
        sentences.append("Models were read from the disk while they ran: free some memory.")
    return tuple(sentence for sentence in sentences if sentence)


def _wide(records: Sequence[ProfileRecord]) -> str | None:
    wide = [r for r in records if r.measurement and _half_width(r.measurement) > r.settings.precision_target]
    if not wide:
        return None
    worst = max(_half_width(r.measurement) for r in wide if r.measurement)
    return f"{len(wide)} of {len(records)} are known no better than +-{worst:.1%}: raise --rounds-max or --run-s."


def _few(records: Sequence[ProfileRecord]) -> str | None:
    few = [r for r in records if r.measurement and len(r.measurement.runs) < max(RUNS_MIN, r.settings.rounds_min)]
    return (
        f"{len(few)} of {len(records)} had too few processes for a quality label: raise --budget or --rounds-max."
        if few
        else None
    )


def _short(records: Sequence[ProfileRecord]) -> str | None:
    short = [r for r in records if r.measurement and _timed_s(r.measurement) < SHORT_S]
    return f"{len(short)} of {len(records)} were timed for less than a second: raise --run-s." if short else None


def _timed_s(measurement: Measurement) -> float:
    """The time from the first value to the last, over all processes: the untimed calls between them count too."""
    return sum(run.collected_s or float(run.elapsed_ns.array().sum()) * 1e-9 for run in measurement.runs)


def _taken(runs: Sequence[Run]) -> str | None:
    share = _interrupted(runs)
    if share <= 0.10 or _worst(runs, "busy_elsewhere_share") <= ELSEWHERE_LIMIT:
        return None
    return f"Another process took the core in {share:.0%} of the blocks: stop it, or keep clear of it with --affinity."


def _not_idle(runs: Sequence[Run]) -> str | None:
    elsewhere, steal = _worst(runs, "busy_elsewhere_share"), _worst(runs, "steal_share")
    if steal > 0.01:
        return f"The hypervisor gave {steal:.1%} of the CPU time to other machines: measure again later."
    if elsewhere <= 0.05:
        return None
    return (
        f"The machine was not idle: other processes used {elsewhere:.0%} of its CPU time; stop them and measure again."
    )


def _assumed(records: Sequence[ProfileRecord]) -> str | None:
    steering = [f for r in records for f in r.feeds if f.assumed]
    count = sum(any(f.assumed for f in r.feeds) for r in records)
    if not steering:
        return None
    first = steering[0]
    return (
        f"{count} of {len(records)} were timed on an input that decides how much they compute and that nobody gave ('{first.name}', "
        f"{first.steers}; kit fed {first.rule}): give it with {first.option}, or samples with --inputs FOLDER."
    )


def _throttled(records: Sequence[ProfileRecord]) -> str | None:
    count = sum(r.label == "throttled" for r in records)
    return f"{count} of {len(records)} ran throttled: cool the device or mend its supply." if count else None
