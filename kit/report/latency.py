"""The page of a latency model: predicted against measured, where the errors lie, what a multiply-accumulate costs, the learning curve.

Every prediction drawn is one that the model made while it was not fitted to that network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

import kit
from kit import store
from kit import units as show
from kit.latency.features import COLUMNS, KINDS, PRECISIONS
from kit.latency.kernels import kernels_of
from kit.latency.model import FAMILY_NAMES, REJECTED, Predictor
from kit.latency.parametric import State
from kit.records import CurvePoint, Kernel, OperatingPoint, ProfileRecord
from kit.report.frame import Figures, document, place, section, tile
from kit.report.markup import Markup, join, table, tag
from kit.report.plots import NEUTRAL, PALETTE, log_ticks
from kit.stats import Float64Array


@dataclass(frozen=True)
class Part:
    """The kernels of one stage or kind in one network: their share of its predicted time, and what a MAC costs there (None: no MACs)."""

    name: str
    share: float
    s_per_mac: float | None


@dataclass(frozen=True)
class Dot:
    """One measured network and its held-out prediction, in seconds."""

    name: str
    series: str
    measured_s: float
    predicted_s: float
    low_s: float
    high_s: float
    clock_hz: float | None
    stages: tuple[Part, ...]
    kinds: tuple[Part, ...]

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted_s / self.measured_s - 1.0


def write_page(
    out: Path, predictor: Predictor, profiles: Sequence[ProfileRecord], curve: Sequence[CurvePoint] = ()
) -> Path:
    """Write the page of ``predictor``, fitted to ``profiles``; ``curve`` is its error against the number of measurements.

    Raises BadRecord where the predictor holds no held-out predictions, StorageError or UsageError when ``out`` cannot be written.
    """
    drawn = dots(predictor, profiles)
    figures: Figures = {}
    body = join(
        [
            _header(predictor, drawn),
            _meeting(figures, predictor, drawn),
            _families(predictor),
            _where(figures, drawn),
            _cost(figures, predictor, drawn),
            _learning_curve(figures, curve),
        ]
    )
    store.write_atomic(out, document(f"kit fit: {predictor.device_id}", body, figures).encode())
    return out


# ------------------------------------------------------------------------------------------------------------ what is drawn


def dots(predictor: Predictor, profiles: Sequence[ProfileRecord]) -> list[Dot]:
    """One for each network that the predictor was fitted to and that is among ``profiles``, the fastest first."""
    by_id = {p.record_id: p for p in profiles}
    seconds, low, high = predictor.held_out()
    entries = _entry_seconds(predictor)
    several = len(predictor.states) > 1
    out = []
    for i, record_id in enumerate(predictor.measured.record_ids):
        profile = by_id.get(record_id)
        if profile is None:
            continue
        sub = profile.artifact.subnetwork
        words = [sub.family if sub else "", profile.artifact.precision, profile.settings.name if several else ""]
        parts = _parts(kernels_of(profile.artifact) or (), entries[i]) if entries else []
        out.append(
            Dot(
                name=profile.artifact.artifact_id,
                series=" ".join(w for w in words if w),
                measured_s=predictor.measured.seconds[i],
                predicted_s=float(seconds[i]),
                low_s=float(low[i]),
                high_s=float(high[i]),
                clock_hz=profile.measurement.clock_hz if profile.measurement else None,
                stages=_grouped([(f"stage {k.stage}", k, s) for k, s in parts]),
                kinds=_grouped([(k.kind, k, s) for k, s in parts]),
            )
        )
    return sorted(out, key=lambda d: d.measured_s)


def _entry_seconds(predictor: Predictor) -> list[dict[tuple[int, ...], float]]:
    """For each measured network the predicted seconds of one run of each of its kernels; nothing without a roofline."""
    if predictor.roofline is None:
        return []
    cases = predictor.measured.cases(predictor.states)
    gaussian_process = predictor.gaussian_process if predictor.chosen == "learned" else None
    seconds, _ = (gaussian_process.roofline if gaussian_process else predictor.roofline).times(predictor.roof(cases))
    if gaussian_process is not None and predictor.posterior is not None:
        seconds = seconds * np.maximum(predictor.posterior.efficiencies(predictor.shares(cases)), 0.05)
    table = cases.table
    rows = [tuple(row) for row in table.attributes.tolist()]
    out: list[dict[tuple[int, ...], float]] = [{} for _ in range(table.nets)]
    for net, kernel, each in zip(
        table.net.tolist(), table.kernel.tolist(), (seconds / table.count).tolist(), strict=True
    ):
        out[net][rows[kernel]] = each
    return out


def _parts(kernels: Sequence[Kernel], seconds: Mapping[tuple[int, ...], float]) -> list[tuple[Kernel, float]]:
    """Each kernel with the seconds of all its runs; none where the listed kernels are others than the fitted ones."""
    numbers = [
        (KINDS.index(k.kind), PRECISIONS.index(k.precision), *(getattr(k, c) for c in COLUMNS[2:])) for k in kernels
    ]
    if not all(n in seconds for n in numbers):
        return []
    return [(k, seconds[n] * k.count) for k, n in zip(kernels, numbers, strict=True)]


def _grouped(parts: Sequence[tuple[str, Kernel, float]]) -> tuple[Part, ...]:
    total = sum(s for _, _, s in parts) or 1.0
    sums: dict[str, tuple[float, int]] = {}
    for name, kernel, seconds in parts:
        before = sums.get(name, (0.0, 0))
        sums[name] = (before[0] + seconds, before[1] + kernel.macs * kernel.count)
    return tuple(Part(name, s / total, s / macs if macs else None) for name, (s, macs) in sums.items())


def _series(drawn: Sequence[Dot]) -> dict[str, str]:
    """Name -> colour, the same in every figure."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(sorted({d.series for d in drawn}))}


# ------------------------------------------------------------------------------------------------------------- the page


def _header(predictor: Predictor, drawn: Sequence[Dot]) -> Markup:
    points = show.listed([_point(s) for s in predictor.states])
    where = f"{predictor.device_id}, {predictor.backend}, {points}"
    errors = np.array([abs(d.error) for d in drawn])
    shares = [show.percent(float(np.mean(errors <= level))) for level in (0.05, 0.10)] if drawn else []
    inside = float(np.mean([d.low_s <= d.measured_s <= d.high_s for d in drawn])) if drawn else None
    held_out = f"{show.counted(len(drawn), 'network')}, each held out"
    tiles = (
        [
            tile("model family", FAMILY_NAMES[predictor.chosen], "chosen by cross-validation"),
            tile("mean error", show.percent(float(errors.mean())), held_out),
            tile("within 10 %", shares[1], f"within 5 %: {shares[0]}"),
            tile(
                f"inside the {predictor.level:.0%} interval", show.percent(inside), "calibrated on these same networks"
            ),
        ]
        if drawn
        else []
    )
    return tag(
        "header",
        tag("h1", "How well latency is predicted"),
        tag("p", f"{where}; fitted to {show.counted(len(predictor.measured.seconds), 'measured network')}.", class_="soft"),
        tag("p", f"Chosen: {predictor.reason}"),
        tag("div", *tiles, class_="tiles") if drawn else None,
        tag("p", f"Page written {show.moment(store.utc_now())} by kit {kit.__version__}, seed {predictor.seed}.", class_="soft"),
    )  # fmt: skip


def _point(state: State) -> str:
    return OperatingPoint(threads=state.threads, gap_s=state.gap_s, load=state.load).name


def _meeting(figures: Figures, predictor: Predictor, drawn: Sequence[Dot]) -> Markup:
    nothing = "None of these profiles is one that this model was fitted to."
    return section(
        "Predicted against measured",
        place(
            figures, "meeting", predicted_against_measured(drawn),
            f"Held-out predictions with their {predictor.level:.0%} intervals: the model was fitted to the other nine tenths of the "
            "sub-networks each time. The dotted lines are ten per cent off.",
            nothing,
        ),
        place(
            figures, "errors", error_over_latency(drawn),
            f"The same as relative errors. A line that misses zero is a network that its {predictor.level:.0%} interval misses.",
            nothing,
        ),
        _worst(drawn),
    )  # fmt: skip


def _worst(drawn: Sequence[Dot]) -> Markup | None:
    worst = sorted(drawn, key=lambda d: -abs(d.error))[:8]
    rows = [
        [d.name, show.seconds(d.measured_s), show.seconds(d.predicted_s), show.interval(d.low_s, d.high_s, show.TIME),
         show.signed_percent(d.error)]
        for d in worst
    ]  # fmt: skip
    return table(["The largest errors", "Measured", "Predicted", "Interval", "Error"], rows) if rows else None


def _families(predictor: Predictor) -> Markup:
    rows = []
    for s in predictor.scores:
        q = s.quality
        name = FAMILY_NAMES[s.form] + (" (chosen)" if s.form == predictor.chosen else "")
        reach = f"±{show.percent(s.reach * s.sd)}" if s.candidate else ""
        p_value = "" if s.p_value is None else f"{s.p_value:.3f}"
        errors = [
            show.percent(q.mape),
            show.percent(q.worst),
            show.percent(q.within_5, 0),
            show.percent(q.within_10, 0),
        ]
        rows.append([name, *errors, f"× {np.exp(s.median_error):.4g}", reach, p_value])
    interval = f"{predictor.level:.0%} interval"
    head = ["Model family", "Mean error", "Worst error", "Within 5 %", "Within 10 %", "Half within", interval, "p"]
    legend = (
        "An error is |predicted / measured − 1| of a held-out network; half of the predictions are off by the factor of “half within” or "
        f"less. p is how often chance alone would put a family so far behind the best one: below {REJECTED:g} it is rejected."
    )
    return section("Model families compared", table(head, rows), tag("p", legend, class_="soft"))


def _where(figures: Figures, drawn: Sequence[Dot]) -> Markup:
    caption = (
        "Mean absolute error of whole networks, each weighted by the share of its predicted time that it spends in this {}. "
        "Whole networks were timed, so an error belongs to a part as far as its network lives there."
    )
    nothing = "The chosen model family knows no stages and kinds: that takes a roofline, so about ten networks whose kernels are known."
    return section(
        "Where the errors lie",
        place(figures, "stage_errors", error_by_part(drawn, "stages"), caption.format("stage"), nothing),
        place(figures, "kind_errors", error_by_part(drawn, "kinds"), caption.format("kind of kernel"), nothing),
    )


def _cost(figures: Figures, predictor: Predictor, drawn: Sequence[Dot]) -> Markup:
    caption = (
        "Predicted time of a stage over its multiply-accumulates, one box per stage over all measured networks, at the clock "
        "measured next to each. One factor for all would be one level; dashed: the λ fitted to whole networks."
    )
    nothing = "The chosen model family does not distinguish stages."
    return section(
        "What a multiply-accumulate costs", place(figures, "cost", cost_by_stage(predictor, drawn), caption, nothing)
    )


def _learning_curve(figures: Figures, curve: Sequence[CurvePoint]) -> Markup:
    rows = [
        [str(c.measurements), show.percent(c.mape), show.percent(c.within_5), show.percent(c.within_10), show.percent(c.coverage),
         ", ".join(FAMILY_NAMES.get(family, family) for family in dict.fromkeys(c.forms))]
        for c in curve
    ]  # fmt: skip
    head = ["Measurements", "Mean error", "Within 5 %", "Within 10 %", "Inside the interval", "Families chosen"]
    repeats = max((c.repeats for c in curve), default=0)
    caption = f"Models fitted to so many networks drawn at random ({show.counted(repeats, 'draw')} each), tested on all the others."
    return section(
        "How many measurements it takes",
        place(figures, "learning", learning(curve), caption, "Too few networks were measured to leave some out."),
        table(head, rows) if rows else None,
    )


# ----------------------------------------------------------------------------------------------------------- the figures


def predicted_against_measured(drawn: Sequence[Dot]) -> go.Figure | None:
    """Both axes logarithmic, the diagonal and ten per cent to each side of it."""
    if not drawn:
        return None
    scale, unit = show.unit(float(np.median([d.measured_s for d in drawn])), show.TIME)
    values = [s / scale for d in drawn for s in (d.measured_s, d.predicted_s)]
    ends = np.array([min(values) / 1.15, max(values) * 1.15])
    figure = _figure(460)
    for factor, dash in ((1.0, "solid"), (1.1, "dot"), (1 / 1.1, "dot")):
        line = {"color": NEUTRAL, "width": 1.2, "dash": dash}
        figure.add_trace(_line(ends, ends * factor, line))
    for name, colour in _series(drawn).items():
        group = [d for d in drawn if d.series == name]
        bars = {
            "array": [(d.high_s - d.predicted_s) / scale for d in group],
            "arrayminus": [(d.predicted_s - d.low_s) / scale for d in group],
            "thickness": 1.2,
            "width": 2,
        }
        x, y = [d.measured_s / scale for d in group], [d.predicted_s / scale for d in group]
        figure.add_trace(_scatter(name, colour, x, y, group, error_y=bars))
    _log_axis(figure, "x", ends, f"measured ({unit})")
    _log_axis(figure, "y", ends, f"predicted ({unit})")
    return figure


def error_over_latency(drawn: Sequence[Dot]) -> go.Figure | None:
    """Relative error and interval in per cent over the measured latency."""
    if not drawn:
        return None
    scale, unit = show.unit(float(np.median([d.measured_s for d in drawn])), show.TIME)
    x = np.array([d.measured_s / scale for d in drawn])
    ends = np.array([x.min() / 1.1, x.max() * 1.1])
    figure = _figure(360)
    for level, dash in ((0.0, "solid"), (10.0, "dot"), (-10.0, "dot")):
        figure.add_trace(_line(ends, np.full(2, level), {"color": NEUTRAL, "width": 1.2, "dash": dash}))
    for name, colour in _series(drawn).items():
        group = [d for d in drawn if d.series == name]
        bars = {
            "array": [100 * (d.high_s - d.predicted_s) / d.measured_s for d in group],
            "arrayminus": [100 * (d.predicted_s - d.low_s) / d.measured_s for d in group],
            "thickness": 1.0,
            "width": 2,
        }
        places = [d.measured_s / scale for d in group], [100 * d.error for d in group]
        figure.add_trace(_scatter(name, colour, *places, group, error_y=bars))
    _log_axis(figure, "x", ends, f"measured ({unit})")
    figure.update_yaxes(title="predicted against measured (%)")
    return figure


def error_by_part(drawn: Sequence[Dot], by: str) -> go.Figure | None:
    """Bars of the mean absolute error by ``stages`` or ``kinds``, networks weighted by the share of their time there."""
    names = _part_names(drawn, by)
    if not names:
        return None
    figure = _figure(320)
    for series, colour in _series(drawn).items():
        errors = {name: _weighted(drawn, series, by, name) for name in names}
        rows = [(name, one) for name, one in errors.items() if one is not None]
        about = [
            f"{escape(series)}, {escape(n)}<br>mean error {e:.1%}, bias {b:+.1%}<br>{s:.0%} of the time"
            for n, (e, b, s) in rows
        ]
        figure.add_trace(
            go.Bar(
                x=[escape(name) for name, _ in rows], y=[100 * e for _, (e, _, _) in rows], name=escape(series),
                marker={"color": colour}, customdata=about, hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_xaxes(categoryorder="array", categoryarray=names, ticks="")
    figure.update_yaxes(title="mean error (%)", rangemode="tozero")
    return figure


def _part_names(drawn: Sequence[Dot], by: str) -> list[str]:
    """The stages by their number, the kinds in the order of the table."""
    names = {p.name for d in drawn for p in getattr(d, by)}
    return sorted(names, key=lambda n: int(n.split(" ")[1]) if by == "stages" else KINDS.index(n))


def _weighted(drawn: Sequence[Dot], series: str, by: str, name: str) -> tuple[float, float, float] | None:
    """(mean absolute error, mean error, mean share of the time) of the networks of a series by their time in one part."""
    group = [d for d in drawn if d.series == series and getattr(d, by)]
    shares = np.array([sum(p.share for p in getattr(d, by) if p.name == name) for d in group])
    if not shares.sum() > 0:
        return None
    errors = np.array([d.error for d in group])
    weights = shares / shares.sum()
    return float(np.abs(errors) @ weights), float(errors @ weights), float(shares.mean())


def cost_by_stage(predictor: Predictor, drawn: Sequence[Dot]) -> go.Figure | None:
    """Boxes of cycles per multiply-accumulate (picoseconds where no clock is known) by stage."""
    names = _part_names(drawn, "stages")
    if not names:
        return None
    clocked = all(d.clock_hz for d in drawn)
    figure = _figure(400)
    for series, colour in _series(drawn).items():
        parts = [
            (d.clock_hz if clocked and d.clock_hz else 1e12, p) for d in drawn if d.series == series for p in d.stages
        ]
        costed = [(p.name, p.s_per_mac * per_s) for per_s, p in parts if p.s_per_mac]
        figure.add_trace(
            go.Box(
                x=[escape(n) for n, _ in costed], y=[y for _, y in costed], name=escape(series), boxpoints=False,
                marker={"color": colour}, line={"width": 1.4}, hoverinfo="y",
            )
        )  # fmt: skip
    for level, colour in _fitted(predictor, drawn) if clocked else []:
        figure.add_hline(y=level, line={"color": colour, "width": 1.2, "dash": "dash"})
    values = [
        p.s_per_mac * (d.clock_hz if clocked and d.clock_hz else 1e12) for d in drawn for p in d.stages if p.s_per_mac
    ]
    figure.update_layout(boxmode="group")
    figure.update_xaxes(categoryorder="array", categoryarray=names, ticks="")
    _log_axis(figure, "y", np.array([min(values), max(values)]), "cycles per MAC" if clocked else "picoseconds per MAC")
    return figure


def _fitted(predictor: Predictor, drawn: Sequence[Dot]) -> list[tuple[float, str]]:
    """The efficiency factor of each precision with the colour of the series that has it alone."""
    colours = {name.split(" ")[-1]: colour for name, colour in _series(drawn).items() if len(predictor.states) == 1}
    models = [(m.lambda_cycles_per_mac, m.precision) for m in predictor.models]
    return [(level, colours[precision]) for level, precision in models if level and precision in colours]


def learning(curve: Sequence[CurvePoint]) -> go.Figure | None:
    """Errors over the number of measurements; None without a curve."""
    if not curve:
        return None
    figure = _figure(360)
    x = [c.measurements for c in curve]
    lines = (
        ("mean error", [c.mape for c in curve], PALETTE[1]),
        ("within 5 %", [c.within_5 for c in curve], PALETTE[5]),
        ("within 10 %", [c.within_10 for c in curve], PALETTE[0]),
        ("inside the interval", [c.coverage for c in curve], PALETTE[2]),
    )
    for name, values, colour in lines:
        figure.add_trace(
            go.Scatter(
                x=x, y=[100 * v for v in values], mode="lines+markers", name=name, line={"color": colour, "width": 2},
                hovertemplate=f"{name}: %{{y:.1f}} %<extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(title="measured networks", tickvals=x)
    figure.update_yaxes(title="per cent", range=[0, 103])
    return figure


# ------------------------------------------------------------------------------------------------------- shared by them


def _figure(height: int) -> go.Figure:
    axis = {"automargin": True, "zeroline": False}
    return go.Figure(
        layout={
            "template": go.layout.Template(),
            "height": height,
            "margin": {"l": 8, "r": 14, "t": 8, "b": 8},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "xaxis": {**axis, "ticks": "outside"},
            "yaxis": axis,
            "hovermode": "closest",
        }
    )


def _line(x: Float64Array, y: Float64Array, line: dict[str, object]) -> go.Scatter:
    return go.Scatter(x=x.tolist(), y=y.tolist(), mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _scatter(
    name: str, colour: str, x: list[float], y: list[float], group: Sequence[Dot], **more: object
) -> go.Scatter:
    about = [
        f"<b>{escape(d.name)}</b><br>measured {show.seconds(d.measured_s)}<br>predicted {show.seconds(d.predicted_s)} "
        f"({show.interval(d.low_s, d.high_s, show.TIME)})<br>{show.signed_percent(d.error)}"
        for d in group
    ]
    return go.Scatter(
        x=x, y=y, mode="markers", name=escape(name), marker={"color": colour, "size": 6}, customdata=about,
        hovertemplate="%{customdata}<extra></extra>", **more,
    )  # fmt: skip


def _log_axis(figure: go.Figure, axis: str, ends: Float64Array, title: str) -> None:
    low, high = float(ends.min()), float(ends.max())
    ticks = log_ticks(low, high)
    pad = 0.03 * float(np.log10(high / low)) + 0.01
    layout = {
        "type": "log", "range": [float(np.log10(low)) - pad, float(np.log10(high)) + pad], "tickvals": ticks,
        "ticktext": [f"{t:,.0f}" if t >= 1 else f"{t:g}" for t in ticks], "title": {"text": title},
    }  # fmt: skip
    figure.update_layout({f"{axis}axis": layout})
