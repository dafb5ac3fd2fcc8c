"""What the visits of all meters say: a row per statistic, the bars, and tables. Pure functions on visits; seconds throughout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from pydantic import Field

from kit.records import DECIDING, Record

Part = Literal["idle", "disturbed"]
Net = Literal["fp32", "int8", "pair"]  # "pair": both files in one run of kit, whose readings are ratios int8 / fp32

TRUTH_LIMIT = 0.01
OPENVINO_LIMIT = 0.02
SPREAD_LIMITS: dict[Net, float] = {"fp32": 0.01, "int8": 0.02}
PUBLIC_SHARE = 0.25  # kit's spread as a share of the best public meter's
RATIO_LIMIT = 0.01
DISTURBED_LIMIT = 0.03
FAILED = "—"


class Visit(Record):
    """One meter, once: what it said, by the name of the statistic, or why it said nothing. The journal holds these."""

    part: Part
    net: Net
    round: int
    meter: str
    readings: dict[str, float] = Field(default_factory=dict)  # seconds per call; ratios for the pair
    labels: tuple[str, ...] = ()  # kit's own trust in each file it measured
    calls: int | None = None
    version: str | None = None  # name and version of the tool's package, where it is not kit or Python itself
    wall_s: float
    others_share: float  # CPU time of everything but the meter, as a share of one CPU, meanwhile
    steal_share: float  # taken by the hypervisor, as a share of one CPU
    created_utc: str
    reason: str | None = None


@dataclass(frozen=True)
class Statistic:
    """A row of the tables: one statistic of one meter; ``beside`` is the meter whose median it is divided by."""

    title: str
    meter: str
    key: str
    public: bool = False
    beside: str = "plain"


STATISTICS = (
    Statistic("plain onnxruntime loop", "plain", "median"),
    Statistic("torch.utils.benchmark, median", "torch", "median", public=True),
    Statistic("pytest-benchmark, median", "pytest-benchmark", "median", public=True),
    Statistic("pyperf, median", "pyperf", "median", public=True),
    Statistic("timeit, best", "timeit", "best", public=True),
    Statistic("timeit, mean", "timeit", "mean", public=True),
    Statistic("MLCommons LoadGen single stream, median", "loadgen", "median", public=True),
    Statistic("MLCommons LoadGen single stream, p90", "loadgen", "p90", public=True),
    Statistic("kit profile, raw median", "kit", "raw"),
    Statistic("kit profile, corrected", "kit", "corrected"),
    Statistic("openvino benchmark_app, median", "benchmark_app", "median", beside="benchmark_app"),
    Statistic("kit profile --backend openvino, raw median", "kit-openvino", "raw", beside="benchmark_app"),
    Statistic("kit profile --backend openvino, corrected", "kit-openvino", "corrected", beside="benchmark_app"),
    Statistic("int8 / fp32 in one kit profile, raw", "kit-pair", "raw", beside=""),
    Statistic("int8 / fp32 in one kit profile, corrected", "kit-pair", "corrected", beside=""),
)


@dataclass(frozen=True)
class Row:
    """One statistic over the rounds: ``values`` and ``ratios`` hold None where a round has none."""

    part: Part
    net: Net
    statistic: Statistic
    values: tuple[float | None, ...]
    ratios: tuple[float | None, ...]
    labels: tuple[tuple[str, ...], ...]

    @property
    def known(self) -> list[float]:
        return [v for v in self.values if v is not None]

    @property
    def spread(self) -> float | None:
        """(largest - smallest) / median; None for fewer than two values."""
        return (max(self.known) - min(self.known)) / median(self.known) if len(self.known) > 1 else None

    @property
    def median_ratio(self) -> float | None:
        """Median over the rounds of the value over the yardstick's value of the same round."""
        known = [r for r in self.ratios if r is not None]
        return median(known) if known else None

    @property
    def trusted(self) -> tuple[bool, ...]:
        """By round: whether kit lets the measurement decide. A meter without labels trusts nothing and distrusts nothing."""
        return tuple(bool(labels) and all(label in DECIDING for label in labels) for labels in self.labels)


@dataclass(frozen=True)
class Verdict:
    """A bar and whether it was met; ``met`` is None (open) where not every round that it needs was measured."""

    bar: str
    measured: str
    met: bool | None


def rows(visits: Iterable[Visit], rounds: int) -> list[Row]:
    """Every statistic that any visit of the first ``rounds`` rounds gave, in the order of :data:`STATISTICS`."""
    found = {(v.part, v.net, v.meter, v.round): v for v in visits}
    out = []
    for part, net in dict.fromkeys((v.part, v.net) for v in sorted(found.values(), key=_place)):
        for statistic in STATISTICS:
            mine = [found.get((part, net, statistic.meter, i)) for i in range(rounds)]
            yard = [found.get((part, net, statistic.beside, i)) for i in range(rounds)]
            values = tuple(v.readings.get(statistic.key) if v else None for v in mine)
            if all(v is None for v in values):
                continue
            beside = [v.readings.get("median") if v else None for v in yard]
            ratios = tuple(a / b if a is not None and b else None for a, b in zip(values, beside, strict=True))
            out.append(Row(part, net, statistic, values, ratios, tuple(v.labels if v else () for v in mine)))
    return out


def _place(visit: Visit) -> tuple[int, int]:
    return ("idle", "disturbed").index(visit.part), ("fp32", "int8", "pair").index(visit.net)


def _find(table: Sequence[Row], part: Part, net: Net, meter: str, key: str) -> Row | None:
    same = (r for r in table if (r.part, r.net, r.statistic.meter, r.statistic.key) == (part, net, meter, key))
    return next(same, None)


def verdicts(table: Sequence[Row], rounds: int) -> list[Verdict]:
    """The bars: truth, repeatability, the ratio of two artifacts, and, where it was run, the disturbed part."""
    nets: tuple[Net, ...] = ("fp32", "int8")
    out = [truth(table, net, "kit", key, TRUTH_LIMIT, rounds) for net in nets for key in ("raw", "corrected")]
    out += [truth(table, "fp32", "kit-openvino", key, OPENVINO_LIMIT, rounds) for key in ("raw", "corrected")]
    out += [repeats(table, net, "kit", SPREAD_LIMITS[net], rounds) for net in nets]
    out += [beats_public(table, net, rounds) for net in nets]
    out.append(repeats(table, "pair", "kit-pair", RATIO_LIMIT, rounds))
    if any(r.part == "disturbed" for r in table):
        out += [undisturbed(table, net, rounds) for net in nets]
    return out


def truth(table: Sequence[Row], net: Net, meter: str, key: str, limit: float, rounds: int) -> Verdict:
    """Is the median of the paired ratios to the yardstick within ``limit`` of 1?"""
    row = _find(table, "idle", net, meter, key)
    name = "benchmark_app" if meter == "kit-openvino" else "plain loop"
    bar = f"truth, {net}: {meter} {key} / {name} within {limit:.0%} of 1"
    if row is None or row.median_ratio is None:
        return Verdict(bar, FAILED, None)
    known = [r for r in row.ratios if r is not None]
    said = f"{row.median_ratio:.4f} ({min(known):.4f} to {max(known):.4f}{_of(known, rounds)})"
    return Verdict(bar, said, _judged(abs(row.median_ratio - 1) <= limit, known, rounds))


def repeats(table: Sequence[Row], net: Net, meter: str, limit: float, rounds: int) -> Verdict:
    """Do kit's corrected values (for the pair: ratios) of all rounds lie within ``limit``?"""
    row = _find(table, "idle", net, meter, "corrected")
    what = "ratio int8 / fp32" if net == "pair" else f"repeatability, {net}"
    bar = f"{what}: spread of kit corrected <= {limit:.0%}"
    if row is None or row.spread is None:
        return Verdict(bar, FAILED, None)
    return Verdict(bar, f"{row.spread:.2%}{_of(row.known, rounds)}", _judged(row.spread <= limit, row.known, rounds))


def beats_public(table: Sequence[Row], net: Net, rounds: int) -> Verdict:
    """Is kit's spread at most a quarter of the smallest spread among the public meters of the same runtime?"""
    bar = f"repeatability, {net}: spread of kit corrected <= a quarter of the best public meter's"
    row = _find(table, "idle", net, "kit", "corrected")
    public = [r for r in table if (r.part, r.net) == ("idle", net) and r.statistic.public and len(r.known) >= rounds]
    best = min((r for r in public if r.spread is not None), key=lambda r: r.spread or 0.0, default=None)
    if row is None or row.spread is None or best is None or best.spread is None:
        return Verdict(bar, FAILED, None)
    said = f"{row.spread:.2%}{_of(row.known, rounds)} beside {best.spread:.2%} ({best.statistic.title})"
    return Verdict(bar, said, _judged(row.spread <= PUBLIC_SHARE * best.spread, row.known, rounds))


def undisturbed(table: Sequence[Row], net: Net, rounds: int) -> Verdict:
    """Does a disturbance leave each corrected value near the idle median, or without a label that decides?

    A round that kit labels as deciding but for which it gives no corrected value is judged by its raw median.
    """
    bar = f"disturbed, {net}: kit corrected within {DISTURBED_LIMIT:.0%} of idle, or not labelled stable or settled"
    idle = _find(table, "idle", net, "kit", "corrected") or _find(table, "idle", net, "kit", "raw")
    raw = _find(table, "disturbed", net, "kit", "raw")
    corrected = _find(table, "disturbed", net, "kit", "corrected")
    if idle is None or raw is None:
        return Verdict(bar, FAILED, None)
    first = corrected.values if corrected else (None,) * len(raw.values)
    values = [c if c is not None else r for c, r in zip(first, raw.values, strict=True)]
    centre = median(idle.known)
    off = [abs(v / centre - 1) for v, sure in zip(values, raw.trusted, strict=True) if v is not None and sure]
    everywhere = [abs(v / centre - 1) for v in values if v is not None]
    said = f"{len(off)} of {len(everywhere)} rounds trusted{_of(everywhere, rounds)}, " + (
        f"the farthest of them {max(off):.2%} off; " if off else ""
    )
    said += f"median of all {median(everywhere):.2%} off"
    return Verdict(bar, said, _judged(max(off, default=0.0) <= DISTURBED_LIMIT, everywhere, rounds))


def _of(known: Sequence[float], rounds: int) -> str:
    return "" if len(known) == rounds else f", {len(known)} of {rounds} rounds"


def _judged(met: bool, known: Sequence[float], rounds: int) -> bool | None:
    """A bar that is missed is missed; one that holds counts only when every round was measured, and there were two at least."""
    return met if not met or (len(known) == rounds and rounds > 1) else None


# ---------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Sheet:
    """A table as text: a title, the names of the columns, the cells."""

    title: str
    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]


TITLES = {
    "fp32": "fp32, milliseconds per call",
    "int8": "int8, milliseconds per call",
    "pair": "ratio of the two files",
}


def sheets(table: Sequence[Row], judged: Sequence[Verdict], rounds: int) -> list[Sheet]:
    """One sheet per part and network, then the verdicts."""
    parts = dict.fromkeys((r.part, r.net) for r in table)
    out = [_sheet(table, [r for r in table if (r.part, r.net) == key], rounds) for key in parts]
    words = {True: "met", False: "MISSED", None: "open"}
    out.append(Sheet("bars", ("bar", "measured", "verdict"), tuple((v.bar, v.measured, words[v.met]) for v in judged)))
    return out


def _sheet(table: Sequence[Row], mine: Sequence[Row], rounds: int) -> Sheet:
    part, net = mine[0].part, mine[0].net
    last = ("off idle: median", "worst", "trusted") if part == "disturbed" else ()
    beside = () if net == "pair" else ("ratio to the yardstick",)
    columns = ("meter", *(str(i + 1) for i in range(rounds)), "spread", *beside, *last)
    cells = tuple(_cells(table, r, beside=bool(beside), off_idle=bool(last)) for r in mine)
    return Sheet(f"{part}: {TITLES[net]}", columns, cells)


def _cells(table: Sequence[Row], row: Row, *, beside: bool, off_idle: bool) -> tuple[str, ...]:
    scale, digits = (1.0, 4) if row.net == "pair" else (1e3, 3)
    cells = [row.statistic.title, *(FAILED if v is None else f"{v * scale:.{digits}f}" for v in row.values)]
    cells.append(FAILED if row.spread is None else f"{row.spread:.2%}")
    if beside:
        cells.append(FAILED if row.median_ratio is None else f"{row.median_ratio:.4f}")
    if off_idle:
        idle = _find(table, "idle", row.net, row.statistic.meter, row.statistic.key)
        off = [v / median(idle.known) - 1 for v in row.known] if idle else []
        cells += [f"{median(off):+.2%}", f"{max(off, key=abs):+.2%}"] if off else [FAILED, FAILED]
        cells.append(f"{sum(row.trusted)} of {len(row.known)}" if any(row.labels) else "no label")
    return tuple(cells)


def markdown(sheet: Sheet) -> str:
    """The sheet as a Markdown table under its title."""
    rule = ("---", *("---:" for _ in sheet.columns[1:])) if sheet.title != "bars" else ("---",) * len(sheet.columns)
    lines = (sheet.columns, rule, *sheet.cells)
    return f"**{sheet.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
