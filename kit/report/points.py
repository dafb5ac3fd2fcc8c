"""What the page draws of each profile record, and what holds for all of them: no drawing, no HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kit import units as show
from kit.records import DECIDING, DeviceSpec, LatencyModel, Measurement, ProfileRecord

Key = tuple[str, str, int]  # artifact id, backend, threads
SeriesKey = tuple[str, int, str]  # backend, threads, precision: what one latency model covers

CUTS = ("full", "depth", "width", "depth + width", "other")
PRECISIONS = ("fp64", "fp32", "bf16", "fp16", "int8", "int4")


@dataclass(frozen=True)
class PlotPoint:
    """A measured variant with its derived statistics, computed once. ``accuracy`` is a share in [0, 1]."""

    record: ProfileRecord
    measurement: Measurement
    short: str
    kind: str
    median_s: float
    interval_s: tuple[float, float]
    p99_s: float

    @property
    def id(self) -> str:
        """Id of the variant."""
        return self.record.artifact.artifact_id

    @property
    def backend(self) -> str:
        """Runtime."""
        return self.record.settings.backend

    @property
    def threads(self) -> int:
        """Thread count."""
        return self.record.settings.threads

    @property
    def precision(self) -> str:
        """Precision of the network."""
        return self.record.artifact.precision

    @property
    def series(self) -> SeriesKey:
        """What one latency model covers."""
        return self.backend, self.threads, self.precision

    @property
    def accuracy(self) -> float | None:
        """Top-1 share, None where it is unknown."""
        evaluated = self.record.artifact.accuracy
        return evaluated.top1 if evaluated else None

    @property
    def accuracy_interval(self) -> tuple[float, float] | None:
        """Between which shares the true one lies (Wilson, 95 %); None where the answers were not counted."""
        evaluated = self.record.artifact.accuracy
        return evaluated.interval if evaluated else None

    @property
    def accuracy_text(self) -> str:
        """For people: ``94.5 % (93.4 to 95.4)``."""
        low, high = self.accuracy_interval or (None, None)
        within = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
        return show.percent(self.accuracy) + within

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates, None where they are unknown."""
        return self.record.artifact.macs

    @property
    def label(self) -> str:
        """The quality label."""
        return self.record.label or "unlabelled"

    @property
    def trusted(self) -> bool:
        """Whether it may decide."""
        return self.label in DECIDING


def key(record: ProfileRecord) -> Key:
    """What one variant on the page is."""
    return record.artifact.artifact_id, record.settings.backend, record.settings.threads


def latest(profiles: Iterable[ProfileRecord]) -> tuple[list[ProfileRecord], list[ProfileRecord]]:
    """``(measured, failed)``: per artifact, backend and threads the deciding measurement, and the newest failure unless a
    later measurement replaced it. Other operating points than back-to-back calls of one input are left out."""
    measured: dict[Key, ProfileRecord] = {}
    failed: dict[Key, ProfileRecord] = {}
    for record in sorted((p for p in profiles if p.plain), key=lambda r: r.created_utc):
        if record.measurement is None or record.status != "ok":
            failed[key(record)] = record
            continue
        failed.pop(key(record), None)
        if key(record) not in measured or record.trusted or not measured[key(record)].trusted:
            measured[key(record)] = record
    return list(measured.values()), list(failed.values())


def points(measured: Sequence[ProfileRecord]) -> list[PlotPoint]:
    """One point per measured record, ordered by backend, threads, precision and median latency."""
    shorten = shortener([r.artifact.artifact_id for r in measured])
    full_depth: dict[str, int] = {}
    for record in measured:
        if net := record.artifact.subnetwork:
            full_depth[net.root] = max(net.depth, full_depth.get(net.root, 0))
    drawn = [_plot_point(record, shorten, full_depth) for record in measured]
    return sorted(drawn, key=lambda p: (p.backend, p.threads, PRECISIONS.index(p.precision), p.median_s))


def _plot_point(record: ProfileRecord, shorten: Callable[[str], str], full_depth: dict[str, int]) -> PlotPoint:
    measurement = record.measurement
    if measurement is None:
        raise ValueError("a failed record has no point")
    return PlotPoint(
        record=record,
        measurement=measurement,
        short=shorten(record.artifact.artifact_id),
        kind=_kind(record, full_depth),
        median_s=measurement.median_s,
        interval_s=measurement.interval_s,
        p99_s=measurement.p99_s,
    )


def _kind(record: ProfileRecord, full_depth: dict[str, int]) -> str:
    net = record.artifact.subnetwork
    if net is None:
        return "other"
    cut = [name for name, is_cut in (("depth", net.depth < full_depth[net.root]), ("width", net.width < 1)) if is_cut]
    return " + ".join(cut) or "full"


def shortener(ids: Sequence[str]) -> Callable[[str], str]:
    """A function that drops from an id the leading and trailing parts (between hyphens) that all ``ids`` share."""
    split = [i.split("-") for i in sorted(set(ids))]
    if len(split) < 2:
        return lambda i: i
    head = min(_shared(split), min(map(len, split)) - 1)
    tail = _shared([parts[::-1][: len(parts) - head - 1] for parts in split])
    start, end = split[0][:head], split[0][len(split[0]) - tail :]

    def shorten(text: str) -> str:
        parts = text.split("-")
        fits = len(parts) > head + tail and parts[:head] == start and parts[len(parts) - tail :] == end
        return " ".join(parts[head : len(parts) - tail]) if fits else text

    return shorten


def _shared(rows: Sequence[Sequence[str]]) -> int:
    """How many leading parts all rows have in common."""
    return next((i for i, parts in enumerate(zip(*rows, strict=False)) if len(set(parts)) > 1), min(map(len, rows)))


def series(drawn: Sequence[PlotPoint]) -> dict[SeriesKey, str]:
    """``(backend, threads, precision) -> name``, in order; the name leaves out what all points share."""
    keys = list(dict.fromkeys(p.series for p in drawn))
    several_backends = len({k[0] for k in keys}) > 1
    several_threads = len({k[1] for k in keys}) > 1

    def name(backend: str, threads: int, precision: str) -> str:
        parts = [backend if several_backends else "", precision]
        return " ".join(p for p in parts if p) + (f", {show.counted(threads, 'thread')}" if several_threads else "")

    return {k: name(*k) for k in keys}


def front(drawn: Sequence[PlotPoint]) -> list[PlotPoint]:
    """The Pareto front of trusted points by median latency and accuracy, fastest first."""
    best: list[PlotPoint] = []
    candidates = [(p.median_s, -p.accuracy, p) for p in drawn if p.trusted and p.accuracy is not None]
    for _, _, point in sorted(candidates, key=lambda c: c[:2]):
        if not best or (point.accuracy or 0) > (best[-1].accuracy or 0):
            best.append(point)
    return best


# ----------------------------------------------------------------------------------------------------------- sentences


def method(drawn: Sequence[PlotPoint]) -> list[str]:
    """How it was measured, in four sentences taken from the records' settings."""
    if not drawn:
        return ["Nothing was measured."]
    settings = [p.record.settings for p in drawn]
    runs = [len(p.measurement.runs) for p in drawn]
    seeds = sorted({s.seed for s in settings})
    durations = show.listed(sorted({show.seconds(s.run_s) for s in settings}))
    threads = show.listed([show.counted(t, "thread") for t in sorted({s.threads for s in settings})])
    referenced = any(v.references for p in drawn for v in p.measurement.runs)
    drift = "Calibration workloads timed between the calls show drift, and" if referenced else "From all of this"
    return [
        f"Each variant ran in {_span(runs, 'fresh process')}, interleaved with the others in random order (seed "
        f"{show.listed([str(s) for s in seeds])}), so that drift hits all alike.",
        "A process warmed up until two successive windows agreed, then collected values for about "
        f"{durations} on {threads}; its raw values are stored.",
        "Latency is the median over processes of each process's median, with the interval that so many processes carry "
        "(95 % from six on); p99 is the 99th percentile of all values.",
        f"{drift} a label says how far to trust the result: stable and settled (converged late) may decide, throttled and "
        "inconclusive never do.",
    ]


def _span(values: Sequence[int], noun: str) -> str:
    low, high = min(values), max(values)
    return show.counted(low, noun) if low == high else f"{low} to {show.counted(high, noun)}"


def weaknesses(device: DeviceSpec, drawn: Sequence[PlotPoint], models: Sequence[LatencyModel]) -> list[str]:
    """Where the numbers are weak: each sentence follows from a record."""
    sentences = [*_machine(device, drawn, models), *_trust(drawn), *_small_print(drawn, models)]
    return sentences or ["The records show no weakness beyond this: one machine, at one time."]


def _machine(device: DeviceSpec, drawn: Sequence[PlotPoint], models: Sequence[LatencyModel]) -> list[str]:
    sentences = []
    if device.virtual:
        sentences.append(
            f"This is a virtual machine ({device.virtual}): its neighbours disturb it and it hides its hardware."
        )
    sources = {m.clock_source for m in models}
    if "nominal" in sources:
        sentences.append(
            "The clock was not observed: λ is stated at the nominal clock, from which the real one may differ by tens "
            "of percent."
        )
    if "unknown" in sources or not (models or device.clock.nominal_hz or device.clock.current_hz):
        sentences.append("The clock is unknown: cost is stated in seconds per MAC, and λ in cycles cannot be.")
    runs = [v for p in drawn for v in p.measurement.runs]
    if runs and all(v.after.temperature_c is None and v.after.throttle_flags is None for v in runs):
        sentences.append(
            "The machine reports neither temperature nor throttling: only the calibration workloads can reveal them."
        )
    return sentences


def _trust(drawn: Sequence[PlotPoint]) -> list[str]:
    sentences = []
    unstable = [p.label for p in drawn if p.label != "stable"]
    if unstable:
        kinds = [f"{unstable.count(name)} {name}" for name in sorted(set(unstable))]
        sentences.append(
            f"{len(unstable)} of {show.counted(len(drawn), 'measurement')} are not stable: {show.listed(kinds)}."
        )
    wide = [p for p in drawn if _half_width(p) > p.record.settings.precision_target]
    if wide:
        worst = max(wide, key=_half_width)
        sentences.append(
            f"{show.counted(len(wide), 'median')} missed the requested precision; the widest interval is "
            f"±{show.percent(_half_width(worst))} ({worst.short})."
        )
    return sentences


def _half_width(point: PlotPoint) -> float:
    low, high = point.interval_s
    return (high - low) / 2 / point.median_s if point.median_s else 0.0


def _small_print(drawn: Sequence[PlotPoint], models: Sequence[LatencyModel]) -> list[str]:
    sentences = []
    runs = [v for p in drawn for v in p.measurement.runs]
    fewest = min((len(p.measurement.runs) for p in drawn), default=3)
    if fewest < 3:
        sentences.append(f"Some medians rest on only {show.counted(fewest, 'process')}.")
    if cold := sum(not v.warm for v in runs):
        sentences.append(
            f"{cold} of {show.counted(len(runs), 'process')} did not reach a steady state while warming up."
        )
    if (loops := max((v.loops for v in runs), default=1)) > 1:
        sentences.append(f"A raw value averages up to {loops} calls, so p99 smooths the peaks of single calls.")
    accuracies = [p.record.artifact.accuracy for p in drawn]
    images = min((a.count for a in accuracies if a is not None and a.count), default=0)
    if 0 < images < 10_000:
        sentences.append(f"Accuracy comes from {images} held-out images: one image weighs {100 / images:.2g} %.")
    if models and (worst := max(m.quality.worst for m in models)) > 0.1:
        sentences.append(
            f"The fitted line misses a measured median by up to {show.percent(worst, 0)}: measure before you decide."
        )
    return sentences
