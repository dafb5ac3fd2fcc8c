"""The page of the decisions: the choice over two limits, and what incomplete knowledge loses. Style and palette are plots.py's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from kit import store
from kit import units as show
from kit.errors import BadRecord, UnknownName
from kit.knowledge import DecisionTable, Regret
from kit.report import markup
from kit.report.frame import Figures, document, place, section
from kit.report.markup import Markup, join, tag
from kit.report.plots import NEUTRAL, PALETTE
from kit.report.points import shortener

CELLS = 160  # along each side of a map
AXES = ("memory", "link")
NONE = "no variant"
NAMED = 12  # variants that a legend can name


def write_page(
    out: Path,
    table: DecisionTable,
    *,
    against: str = "memory",
    percentile: int = 99,
    min_accuracy: float | None = None,
    regrets: Mapping[str, Regret] | None = None,
    no_regret: str = "",
) -> Path:
    """Write the map of ``table``, and the regret of each kind of knowledge in ``regrets``; ``no_regret`` states why there is none.

    Raises as :func:`decision_map` and :func:`regret` do, StorageError or UsageError when ``out`` cannot be written.
    """
    figures: Figures = {}
    figure = decision_map(table, against=against, percentile=percentile, min_accuracy=min_accuracy)
    devices = show.listed(sorted({v.device_id for v in table.variants}))
    predicted = sum(not v.promised for v in table.variants)
    words = (
        f"{show.counted(len(table.variants), 'variant')} of {devices}, {predicted} of them predicted and not measured."
    )
    minimum = "" if min_accuracy is None else f" Accuracy at least {show.percent(min_accuracy)}."
    caption = (
        f"The most accurate variant that meets both limits (among equals the faster), at {CELLS * CELLS:,} places; where there "
        f"is no colour, none does.{minimum}"
    )
    body = join(
        [
            tag("header", tag("h1", "What to deploy, limit by limit"), tag("p", words, class_="soft")),
            section("The choice over two limits", place(figures, "map", figure, caption, "")),
            section(
                "What it costs not to have measured everything",
                place(
                    figures, "regret", regret(regrets) if regrets else None, _regret_caption(regrets or {}), no_regret
                ),
                _regrets(regrets) if regrets else None,
            ),
        ]
    )
    store.write_atomic(out, document(f"kit knowledge map: {devices}", body, figures).encode())
    return out


def _regret_caption(regrets: Mapping[str, Regret]) -> str:
    count = max((len(r.needs) for r in regrets.values()), default=0)
    return (
        f"{count:,} random requirements, each answered from that knowledge and evaluated by the measurements. A choice that misses a "
        "limit in truth counts as no accuracy at all, as does none. Each prediction is one that the model made without this network."
    )


def _regrets(regrets: Mapping[str, Regret]) -> Markup:
    rows = [
        [name, show.percent(r.equal_share), show.percent(float(r.loss.mean()), 2), show.percent(r.missed_share)]
        for name, r in regrets.items()
    ]
    return markup.table(["Chosen by", "As accurate as the best", "Mean accuracy lost", "Deadline missed"], rows)


def decision_map(
    table: DecisionTable, *, against: str = "memory", percentile: int = 99, min_accuracy: float | None = None
) -> go.Figure:
    """The chosen variant over the deadline and ``against``, the memory limit or the rate of the link; both axes logarithmic.

    Raises UnknownName for another axis, BadRecord where no variant knows its memory (or has bytes to download), UsageError for a
    percentile that the table does not have.
    """
    if against not in AXES:
        raise UnknownName("axis", against, AXES)
    latency_s, limits = _ranges(table, against, percentile)
    x, y = np.geomspace(*latency_s, CELLS), np.geomspace(*limits, CELLS)
    deadlines, others = (grid.ravel() for grid in np.meshgrid(x, y))
    other_limit = {"memory_bytes": others} if against == "memory" else {"link_bps": others}
    choices = table.choose_many(deadlines, min_accuracy=min_accuracy, percentile=percentile, **other_limit).reshape(
        CELLS, CELLS
    )
    scale, unit = show.unit(float(np.median(x)), show.TIME)
    other_scale, other_unit = show.unit(float(np.median(y)), show.SIZE if against == "memory" else show.RATE)
    figure = _map(table, choices, x / scale, y / other_scale)
    name = "median" if percentile == 50 else f"p{percentile}"
    what = "deadline for download and latency" if against == "link" else "deadline for the latency"
    figure.update_xaxes(type="log", title=f"{what}, {name} ({unit})")
    side = "limit of peak memory" if against == "memory" else "rate of the link"
    figure.update_yaxes(type="log", title=f"{side} ({other_unit})")
    return figure


def _ranges(table: DecisionTable, against: str, percentile: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """From below what the fastest needs to above what every variant needs, of the deadline and of the other limit."""
    if percentile not in table.percentiles:
        table.choose(percentile=percentile)  # raises, with the ones that there are
    latency = table.arrays[f"p{percentile}_latency_s"]
    bits = table.arrays[f"p{percentile}_bits"]
    memory = table.arrays[f"p{percentile}_memory_bytes"]
    low, high = 0.7 * float(latency.min()), 1.5 * float(latency.max())
    if against == "memory":
        sizes = memory[np.isfinite(memory) & (memory > 0)]
        if not len(sizes):
            raise BadRecord("No variant knows its memory: profile them, or draw the map against the link.")
        return (low, high), (0.7 * float(sizes.min()), 1.5 * float(sizes.max()))
    sent = bits[bits > 0]
    if not len(sent):
        raise BadRecord("No variant has anything to download: draw the map against memory.")
    return (low, 10 * high), (float(sent.min()) / (10 * high), 10 * float(sent.max()) / float(latency.min()))


def _map(
    table: DecisionTable, chosen: np.ndarray[tuple[int, ...], np.dtype[np.int64]], x: np.ndarray, y: np.ndarray
) -> go.Figure:
    """One colour per variant, in the order of the deadlines at which they first appear."""
    variants = table.variants
    shorten = shortener([v.artifact_id for v in variants])
    indices = [int(i) for i in dict.fromkeys(chosen.T.ravel().tolist()) if i >= 0]
    names = [NONE, *(_name(i, table, shorten(variants[i].artifact_id)) for i in indices)]
    order = {-1: 0, **{i: n for n, i in enumerate(indices, 1)}}
    numbers = np.vectorize(order.__getitem__, otypes=[np.int64])(chosen)
    if len(indices) > NAMED:
        return _shaded(numbers, names, [_accuracy(i, table) for i in indices], x, y)
    colours = ["rgba(128,135,144,0.15)", *(PALETTE[n % len(PALETTE)] for n in range(len(indices)))]
    figure = go.Figure(
        go.Heatmap(
            x=x.tolist(),
            y=y.tolist(),
            z=numbers.tolist(),
            zmin=-0.5,
            zmax=len(names) - 0.5,
            colorscale=_steps(colours),
            customdata=[[names[n] for n in row] for row in numbers.tolist()],
            hovertemplate="%{customdata}<extra></extra>",
            showscale=False,
        )
    )
    for name, colour in zip(names, colours, strict=True):
        marker = {"color": colour, "symbol": "square", "size": 12}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker))
    _frame(figure, 480)
    return figure


def _shaded(
    numbers: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    names: Sequence[str],
    accuracies: Sequence[float],
    x: np.ndarray,
    y: np.ndarray,
) -> go.Figure:
    """Too many variants for a legend: the colour is the accuracy of the choice (or its place in the order), the hover its name."""
    with_accuracy = bool(np.isfinite(accuracies).all())
    levels = [100 * a for a in accuracies] if with_accuracy else [float(n) for n in range(1, len(names))]
    values = [[None if n == 0 else round(levels[n - 1], 4) for n in row] for row in numbers.tolist()]
    figure = go.Figure(
        go.Heatmap(
            x=x.tolist(),
            y=y.tolist(),
            z=values,
            colorscale="Viridis",
            customdata=[[names[n] for n in row] for row in numbers.tolist()],
            hovertemplate="%{customdata}" + ("<br>%{z:.2f} %" if with_accuracy else "") + "<extra></extra>",
            hoverongaps=False,
            showscale=with_accuracy,
            colorbar={"title": {"text": "accuracy (%)", "side": "right"}, "thickness": 14, "outlinewidth": 0},
        )
    )
    _frame(figure, 480)
    return figure


def _accuracy(index: int, table: DecisionTable) -> float:
    """Of a variant, not finite where it is unknown."""
    for percentile in table.percentiles:
        place = np.flatnonzero(table.arrays[f"p{percentile}_row"] == index)
        if len(place):
            return float(table.arrays[f"p{percentile}_accuracy"][place[0]])
    return float("nan")


def _name(index: int, table: DecisionTable, short: str) -> str:
    variant = table.variants[index]
    alone = len({(v.backend, v.point) for v in table.variants}) == 1
    where = "" if alone else f" ({variant.backend} {variant.point})"
    return escape(f"{short}{where}{'' if variant.promised else ', predicted'}")


def _steps(colours: Sequence[str]) -> list[list[object]]:
    """A colour scale of steps: each colour from its lower to its upper end."""
    count = len(colours)
    return [[edge / count, colour] for i, colour in enumerate(colours) for edge in (i, i + 1)]


def regret(regrets: Mapping[str, Regret]) -> go.Figure:
    """Of each kind of knowledge the share of needs (vertical) in which no more than so much accuracy is lost (horizontal).

    Raises BadRecord on nothing to draw.
    """
    if not regrets:
        raise BadRecord("There is no regret to draw: give at least one.")
    figure = go.Figure()
    most = 0.0
    for number, (name, one) in enumerate(regrets.items()):
        loss = np.sort(one.loss) * 100
        most = max(most, float(loss[-1]))
        share = np.arange(1, len(loss) + 1) / len(loss) * 100
        text = f"{escape(name)}: equal in {show.percent(one.equal_share)}, deadline missed in {show.percent(one.missed_share)}"
        line = {"color": PALETTE[number % len(PALETTE)], "width": 2, "shape": "hv"}
        figure.add_trace(
            go.Scatter(x=[0.0, *loss.tolist()], y=[0.0, *share.tolist()], mode="lines", name=text, line=line)
        )
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    figure.update_xaxes(
        title="accuracy lost against everything measured (points)", range=[-0.02 * (most or 1), 1.05 * (most or 1)]
    )
    figure.update_yaxes(title="share of the requirements (%)", range=[0, 102])
    _frame(figure, 420)
    return figure


def _frame(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        margin={"l": 8, "r": 14, "t": 8, "b": 8},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hovermode="closest",
    )
    figure.update_xaxes(automargin=True, zeroline=False, ticks="outside")
    figure.update_yaxes(automargin=True, zeroline=False)
