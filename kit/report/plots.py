"""The four figures, as plotly figures made of numbers; colours of text and grid are the page's (light or dark).

Text from records is escaped here, because plotly reads a little HTML in labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kit import units as show
from kit.records import DECIDING, KnowledgeBase, KnowledgeRow, LatencyModel
from kit.report.points import CUTS, PlotPoint, SeriesKey, front, series

# Okabe and Ito's palette, which the colour-blind can distinguish; black and yellow are left out for the dark page.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
NEUTRAL = "#808790"
SYMBOLS = dict(zip(CUTS, ("circle", "square", "diamond", "triangle-up", "pentagon"), strict=True))
MAX_RAW_POINTS = 6000  # of all processes together: keeps the page small
FEWEST_PER_PROCESS = 8

Choice = tuple[float, KnowledgeRow | None]


def latency_accuracy(drawn: Sequence[PlotPoint]) -> go.Figure | None:
    """Median latency against accuracy, both with their intervals, and the Pareto front; points that are not trusted are hollow."""
    shown = [p for p in drawn if p.accuracy is not None]
    if not shown:
        return None
    scale, unit = show.unit(float(np.median([p.median_s for p in shown])), show.TIME)
    figure = _figure(460)
    best = front(shown)
    if best:
        _add_front(figure, best, [p.median_s for p in shown], scale)
    for marks, group in _marked(shown, _styles(drawn)):
        figure.add_trace(
            go.Scatter(
                x=[p.median_s / scale for p in group],
                y=[100 * (p.accuracy or 0) for p in group],
                error_x={
                    "array": [(p.interval_s[1] - p.median_s) / scale for p in group],
                    "arrayminus": [(p.median_s - p.interval_s[0]) / scale for p in group],
                    "thickness": 1.2,
                    "width": 3,
                },
                error_y=_whiskers(group),
                customdata=[_about(p) for p in group],
                hovertemplate="%{customdata}<extra></extra>",
                **marks,
            )
        )
    _explain_hollow(figure, shown)
    _number(figure, [(p.median_s / scale, 100 * (p.accuracy or 0)) for p in best])
    _scale_axis(figure, "x", [p.median_s / scale for p in shown], f"median latency ({unit})")
    figure.update_yaxes(title="held-out accuracy (%)")
    return figure


def _whiskers(group: Sequence[PlotPoint]) -> dict[str, Any]:
    """Wilson's interval of each accuracy in per cent; none where the answers were not counted."""
    spans = [(p.accuracy or 0, *(p.accuracy_interval or (p.accuracy or 0,) * 2)) for p in group]
    return {
        "array": [100 * (high - share) for share, _, high in spans],
        "arrayminus": [100 * (share - low) for share, low, _ in spans],
        "thickness": 0.8,
        "width": 0,
    }


def _add_front(figure: go.Figure, best: Sequence[PlotPoint], medians: Sequence[float], scale: float) -> None:
    """Steps, because between two variants there is none: to the next latency the last accuracy holds."""
    x = [p.median_s / scale for p in best] + [max(medians) / scale]
    y = [100 * (p.accuracy or 0) for p in best] + [100 * (best[-1].accuracy or 0)]
    line = {"color": NEUTRAL, "width": 1.5, "shape": "hv"}
    figure.add_trace(go.Scatter(x=x, y=y, mode="lines", name="Pareto front", line=line, hoverinfo="skip"))


def latency_macs(drawn: Sequence[PlotPoint], models: Sequence[LatencyModel]) -> go.Figure | None:
    """Median latency against MACs, the fitted lines inside their validity region, and the papers' line (lambda = 1)."""
    shown = [p for p in drawn if p.macs]
    if not shown:
        return None
    scale, unit = show.unit(float(np.median([p.median_s for p in shown])), show.TIME)
    mac_scale, mac_unit = show.unit(float(np.median([p.macs or 0 for p in shown])), show.MACS)
    figure = _figure(480)
    styles = _styles(drawn)
    for model in models:
        style = styles.get((model.backend, model.threads, model.precision), (model.precision, NEUTRAL))
        x = np.geomspace(*model.macs_range, 60)
        y = model.overhead_s + model.s_per_mac * x
        _add_line(figure, f"{style[0]}, fit", x / mac_scale, y / scale, {"color": style[1], "width": 1.8})
    clock_hz = next((m.clock_hz for m in models if m.clock_hz), None)
    latencies = [p.median_s / scale for p in shown]
    if clock_hz:
        x = np.geomspace(min(p.macs or 1 for p in shown), max(p.macs or 1 for p in shown), 60)
        y = x / clock_hz
        _add_line(
            figure, "the papers' λ = 1", x / mac_scale, y / scale, {"color": NEUTRAL, "width": 1.8, "dash": "dash"}
        )
        latencies += [float(y[0]) / scale, float(y[-1]) / scale]
    for marks, group in _marked(shown, styles):
        figure.add_trace(
            go.Scatter(
                x=[(p.macs or 0) / mac_scale for p in group],
                y=[p.median_s / scale for p in group],
                customdata=[_about(p) for p in group],
                hovertemplate="%{customdata}<extra></extra>",
                **marks,
            )
        )
    _explain_hollow(figure, shown)
    _scale_axis(figure, "x", [(p.macs or 0) / mac_scale for p in shown], f"multiply-accumulates ({mac_unit})")
    _scale_axis(figure, "y", latencies, f"median latency ({unit})")
    return figure


def _add_line(figure: go.Figure, name: str, x: Any, y: Any, line: dict[str, Any]) -> None:
    above = y > 0  # a fitted overhead may be negative, and a logarithmic axis has no place for it
    figure.add_trace(
        go.Scatter(x=x[above].tolist(), y=y[above].tolist(), mode="lines", name=name, line=line, hoverinfo="skip")
    )


def spread(drawn: Sequence[PlotPoint]) -> go.Figure | None:
    """Every process's raw values around the variant's median, in percent of it; rows named with the median.

    Each process is one line of dots inside the row, so that a shift between processes is visible apart from the scatter
    inside one. Processes with many values are drawn by evenly spaced order statistics, both ends included.
    """
    if not drawn:
        return None
    per_process = max(FEWEST_PER_PROCESS, MAX_RAW_POINTS // sum(len(p.measurement.runs) for p in drawn))
    figure = _figure(90 + 34 * len(drawn))
    for key, (name, colour) in _styles(drawn).items():
        x, y, hover = [], [], []
        for row, point in enumerate(drawn):
            if point.series == key:
                dots = _dots(point, row, min(per_process, 60))
                x += dots[0]
                y += dots[1]
                hover += dots[2]
        marker = {"color": colour, "size": 4, "opacity": 0.5}
        figure.add_trace(
            go.Scatter(
                x=x, y=y, mode="markers", name=name, marker=marker, customdata=hover,
                hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
    _add_interval_and_p99(figure, drawn)
    _spread_axes(figure, drawn)
    return figure


def _dots(point: PlotPoint, row: int, dots_max: int) -> tuple[list[float], list[float], list[str]]:
    runs = point.measurement.runs
    lanes = np.linspace(-0.28, 0.28, len(runs)) if len(runs) > 1 else np.zeros(1)
    x: list[float] = []
    y: list[float] = []
    hover: list[str] = []
    for run, lane in zip(runs, lanes, strict=True):
        ordered = np.sort(np.asarray(run.values_ns)) * 1e-9
        if len(ordered) > dots_max:
            ordered = ordered[np.linspace(0, len(ordered) - 1, dots_max).round().astype(int)]
        x += [round(100 * (float(v) / point.median_s - 1), 3) for v in ordered]
        y += [round(row + float(lane), 3)] * len(ordered)
        hover += [f"{escape(point.id)}<br>process {run.round}: {show.scaled(float(v), show.TIME)}" for v in ordered]
    return x, y, hover


def _add_interval_and_p99(figure: go.Figure, drawn: Sequence[PlotPoint]) -> None:
    x: list[float | None] = []
    y: list[float | None] = []
    for row, point in enumerate(drawn):
        x += [100 * (edge / point.median_s - 1) for edge in point.interval_s] + [None]
        y += [row, row, None]
    line = {"color": NEUTRAL, "width": 4}
    figure.add_trace(go.Scatter(x=x, y=y, mode="lines", name="interval of the median", line=line, hoverinfo="skip"))
    marker = {"color": NEUTRAL, "symbol": "line-ns-open", "size": 18, "line": {"width": 2}}
    figure.add_trace(
        go.Scatter(
            x=[100 * (p.p99_s / p.median_s - 1) for p in drawn],
            y=list(range(len(drawn))),
            mode="markers",
            name="p99",
            marker=marker,
            customdata=[f"{escape(p.id)}<br>p99 {show.seconds(p.p99_s)}" for p in drawn],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )


def _spread_axes(figure: go.Figure, drawn: Sequence[PlotPoint]) -> None:
    low, high = spread_range(drawn)
    figure.update_xaxes(title="deviation from the variant's median (%)", range=[low, high], zeroline=True)
    figure.update_layout(legend_itemsizing="constant")  # the dots are small, their colour is not
    figure.update_yaxes(
        tickvals=list(range(len(drawn))),
        ticktext=[f"{escape(p.short)} · {show.seconds(p.median_s)}" for p in drawn],
        range=[len(drawn) - 0.4, -0.6],
        showgrid=False,
    )


def spread_range(drawn: Sequence[PlotPoint]) -> tuple[float, float]:
    """The axis of :func:`spread` in percent: 99 % of all raw values and every p99 that is not itself far out."""
    pooled = np.concatenate([_deviations(p) for p in drawn])
    low, high = np.quantile(pooled, [0.005, 0.99])
    p99 = [100 * (p.p99_s / p.median_s - 1) for p in drawn]
    high = max(float(high), float(np.quantile(p99, 0.9)))
    margin = 0.06 * (high - float(low)) or 1.0
    return float(low) - margin, high + margin


def beyond(drawn: Sequence[PlotPoint]) -> tuple[int, int]:
    """``(raw values outside the axis of spread, all raw values)``."""
    low, high = spread_range(drawn)
    pooled = np.concatenate([_deviations(p) for p in drawn])
    return int(np.sum((pooled < low) | (pooled > high))), len(pooled)


def _deviations(point: PlotPoint) -> Any:
    values = np.concatenate([np.asarray(v.values_ns) for v in point.measurement.runs])
    return 100 * (values * 1e-9 / point.median_s - 1)


def choices(steps: Sequence[Choice], knowledge: KnowledgeBase) -> go.Figure | None:
    """The chosen variant's accuracy over the deadline, with every row to choose from (p99, accuracy)."""
    chosen = [(deadline, row) for deadline, row in steps if row is not None and row.accuracy is not None]
    if not chosen:
        return None
    scale, unit = show.unit(float(np.median([d for d, _ in chosen])), show.TIME)
    figure = _figure(440)
    _add_rows(figure, knowledge, scale)
    x = [d / scale for d, _ in chosen]
    y = [100 * (row.accuracy or 0) for _, row in chosen]
    line = {"color": PALETTE[0], "width": 2, "shape": "hv"}
    hover = [
        f"{escape(row.artifact_id)}<br>deadline {show.seconds(d)}, p99 {show.seconds(row.p99_s)}" for d, row in chosen
    ]
    figure.add_trace(
        go.Scatter(
            x=x, y=y, mode="lines", name="chosen", line=line, customdata=hover,
            hovertemplate="%{customdata}<br>%{y:.2f} %<extra></extra>",
        )
    )  # fmt: skip
    _number(figure, [(d / scale, 100 * (row.accuracy or 0)) for d, row in changes(chosen) if row])
    _scale_axis(figure, "x", [d / scale for d, _ in steps], f"deadline for the p99 latency ({unit})")
    figure.update_yaxes(title="accuracy of the choice (%)")
    return figure


def _add_rows(figure: go.Figure, knowledge: KnowledgeBase, scale: float) -> None:
    rows = [r for r in knowledge.rows if r.accuracy is not None and r.label in DECIDING]
    figure.add_trace(
        go.Scatter(
            x=[r.p99_s / scale for r in rows],
            y=[100 * (r.accuracy or 0) for r in rows],
            mode="markers",
            name="measured variants",
            marker={"color": NEUTRAL, "size": 7, "symbol": "circle-open"},
            customdata=[f"{escape(r.artifact_id)}<br>p99 {show.seconds(r.p99_s)}" for r in rows],
            hovertemplate="%{customdata}<br>%{y:.2f} %<extra></extra>",
        )
    )


def changes(steps: Sequence[Choice]) -> list[Choice]:
    """The first deadline of each run of equal choices."""
    return [
        step
        for i, step in enumerate(steps)
        if i == 0 or _same(step[1]) != _same(steps[i - 1][1])
    ]  # fmt: skip


def _same(row: KnowledgeRow | None) -> tuple[str, str, int] | None:
    return (row.artifact_id, row.backend, row.threads) if row else None


# ------------------------------------------------------------------------------------------------------- shared by them


def _figure(height: int) -> go.Figure:
    return go.Figure(
        layout={
            "template": go.layout.Template(),
            "height": height,
            "margin": {"l": 8, "r": 14, "t": 8, "b": 8},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "xaxis": {"automargin": True, "zeroline": False, "ticks": "outside"},
            "yaxis": {"automargin": True, "zeroline": False},
            "hovermode": "closest",
        }
    )


def _styles(drawn: Sequence[PlotPoint]) -> dict[SeriesKey, tuple[str, str]]:
    """Name (escaped) and colour of each series: the same in every figure."""
    return {key: (escape(name), PALETTE[i % len(PALETTE)]) for i, (key, name) in enumerate(series(drawn).items())}


def _marked(
    shown: Sequence[PlotPoint], styles: dict[SeriesKey, tuple[str, str]]
) -> Iterator[tuple[dict[str, Any], list[PlotPoint]]]:
    """``(marks, points)`` by series (colour), kind (symbol) and trust (hollow), in the order of the legend."""
    for key, (name, colour) in styles.items():
        for kind in CUTS:
            alike = [p for p in shown if p.series == key and p.kind == kind]
            for distrust in ("", "throttled", "inconclusive", "unlabelled"):
                group = [p for p in alike if ("" if p.trusted else p.label) == distrust]
                if group:
                    # The legend explains hollow marks once for all; here it needs them only where no solid one stands.
                    in_legend = not distrust or (not any(p.trusted for p in alike) and group[0] is alike[0])
                    yield _marks(name, colour, kind, distrust) | {"showlegend": in_legend}, group


def _marks(name: str, colour: str, kind: str, distrust: str) -> dict[str, Any]:
    words = [name, "" if kind == "other" else kind, distrust]
    symbol = f"{SYMBOLS[kind]}-open" if distrust else SYMBOLS[kind]
    return {
        "mode": "markers",
        "name": ", ".join(word for word in words if word),
        "marker": {"color": colour, "symbol": symbol, "size": 10, "line": {"width": 1.8 if distrust else 0}},
    }


def _explain_hollow(figure: go.Figure, shown: Sequence[PlotPoint]) -> None:
    """One entry of the legend for each label that is not trusted, whatever its points' colour and symbol."""
    for label in sorted({p.label for p in shown if not p.trusted}):
        marker = {"color": NEUTRAL, "symbol": "circle-open", "size": 10, "line": {"width": 1.8}}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=f"hollow: {label}", marker=marker))


def _about(p: PlotPoint) -> str:
    """What a hover says about a point."""
    return "<br>".join(
        (
            f"<b>{escape(p.id)}</b>",
            f"{escape(p.backend)}, {show.counted(p.threads, 'thread')}, {p.label}",
            f"median {show.seconds(p.median_s)} ({show.interval(*p.interval_s, show.TIME, digits=4)})",
            f"p99 {show.seconds(p.p99_s)}",
            f"accuracy {p.accuracy_text}, {show.macs(p.macs)}",
        )
    )


def _number(figure: go.Figure, places: Sequence[tuple[float, float]]) -> None:
    """1, 2, 3, … above the places, for the table below the figure."""
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in places],
            y=[y for _, y in places],
            mode="markers+text",
            marker={"size": 12, "opacity": 0},  # unseen: it keeps the text off the point
            text=[f"<b>{i}</b>" for i in range(1, len(places) + 1)],
            textposition="top left",
            showlegend=False,
            hoverinfo="skip",
            cliponaxis=False,
        )
    )


def _scale_axis(figure: go.Figure, axis: str, values: Sequence[float], title: str) -> None:
    """Logarithmic where the values span more than a factor of five, with ticks at 1, 2, 5; from zero otherwise."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 5:
        ticks = log_ticks(low, high)
        pad = 0.04 * math.log10(high / low) + 0.02
        layout = {
            "type": "log",
            "range": [math.log10(low) - pad, math.log10(high) + pad],
            "tickvals": ticks,
            "ticktext": [f"{t:,.0f}" if t >= 1 else f"{t:g}" for t in ticks],
        }
    else:
        layout = {"rangemode": "tozero"}
    figure.update_layout({f"{axis}axis": {"title": {"text": title}, **layout}})


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten around ``low`` to ``high``; powers of ten alone beyond three decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) <= 3 else (1,)
    return [s * 10.0**d for d in decades for s in steps if low / 1.2 <= s * 10.0**d <= high * 1.2]
