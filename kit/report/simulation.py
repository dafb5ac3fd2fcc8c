"""The page of a simulation: each figure of the paper as lines with the range of the seeds, as bars, as a map or as a table.

Published values are drawn hollow or dashed in the colour of the line that they belong to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go

import kit
from kit import store
from kit import units as show
from kit.papers.results import Figure, Line, Simulation, Value, heading, rows, scale_of
from kit.report.frame import Figures, document, place, section, tile
from kit.report.markup import Markup, facts, folded, join, table, tag
from kit.report.plots import NEUTRAL, PALETTE, log_ticks

PAPERS = {
    "bandwidth": "Paper A: one band, many downloads, and a network that decides",
    "offloading": "Paper B: what to offload, and with how much band and computing",
    "placement": "Paper C: which gateway computes, and where the networks lie",
    "downloading": "Paper D: models that are downloaded when they are needed",
}
ROMAN = {"1": "I", "2": "II", "3": "III", "4": "IV"}
NAMED = 6  # colours before they come again, dotted


def write_page(out: Path, simulation: Simulation) -> Path:
    """Write the page. Raises StorageError or UsageError when ``out`` cannot be written."""
    figures: Figures = {}
    levels = sorted(
        {v for f in simulation.figures if f.shown == "map" for line in f.lines for v in line.values if v is not None}
    )
    sections = [_section(figures, figure, levels) for figure in simulation.figures]
    body = join([_header(simulation), *sections, _how(simulation)])
    store.write_atomic(out, document(f"kit simulate {simulation.world}", body, figures).encode())
    return out


def _header(simulation: Simulation) -> Markup:
    seeds = show.listed(list(map(str, simulation.seeds)))
    delay, _, settings = simulation.delay.partition(":")
    seeded = (  # what is computed without a draw has neither seeds nor an agent that decides
        tile("computing delay", delay, settings or "of a decision"),
        tile("seeds", str(len(simulation.seeds)), seeds),
    )
    tiles = (
        *(seeded if simulation.seeds else ()),
        tile("figures", str(len({f.figure.partition("-")[0] for f in simulation.figures})), "of the paper"),
        tile("took", f"{simulation.wall_s:.0f} s", "of wall time, training that was already on the disk left out"),
    )
    words = "Means over the seeds; bands and error bars reach from the least to the largest of them. Dashed and hollow: as published."
    if not simulation.seeds:
        words = "Computed from the paper's formula and from published numbers."
    return tag(
        "header",
        tag("h1", PAPERS[simulation.world]),
        tag("p", words, class_="soft"),
        tag("div", *tiles, class_="tiles"),
    )


def _section(figures: Figures, figure: Figure, levels: Sequence[float]) -> Markup:
    notes = tag("ul", *(tag("li", note) for note in figure.notes)) if figure.notes else None
    head, body = rows(figure)
    numbers = table(head, [[_indented(row[0]), *row[1:]] for row in body], caption=scale_of(figure)[1] or None)
    if figure.shown == "table":
        return section(_title(figure), numbers, notes)
    drawn = _map(figure, levels) if figure.shown == "map" else {"lines": _lines, "bars": _bars}[figure.shown](figure)
    caption = f"{_capital(figure.y_name)}, by {figure.x_name}."
    room = place(figures, figure.figure, drawn, caption, "")
    return section(_title(figure), room, notes, folded("The numbers", numbers))


def _indented(name: str) -> str | Markup:
    """What stands below a line's values belongs to it."""
    inner = name.strip()
    return name if inner == name else tag("span", inner, class_="soft", style="padding-left:1.2rem")


def _title(figure: Figure) -> str:
    """With the paper's own name before it: table1 is its Table I."""
    name = figure.figure.partition("-")[0]
    kind, number, part = re.fullmatch(r"(table|fig|)(\d*)(\w*)", name).groups()  # type: ignore[union-attr]
    if not (kind and number):
        return figure.title
    if kind == "table":
        return f"Table {ROMAN.get(number, number)}. {figure.title}"
    return f"Fig. {number}{f'({part})' if part else ''}. {figure.title}"


def _how(simulation: Simulation) -> Markup:
    parameters = [(name, _shown(value)) for name, value in simulation.parameters.items()]
    trained = [
        [name, *(_shown(of.get(key)) if isinstance(of, dict) else "" for key in ("order", "steps", "train_s", "loss"))]
        for name, of in simulation.trained.items()
    ]
    head = ["network", "order of sizes", "steps", "trained in (s)", "last loss"]
    versions = ", ".join(f"{name} {version}" for name, version in simulation.versions.items())
    return section(
        "How",
        folded("The world", facts(parameters)),
        folded("What was trained", table(head, trained)) if trained else None,
        tag(
            "footer",
            f"kit {kit.__version__}, {simulation.device_id}, {simulation.ended_utc[:10]}, delay {simulation.delay}, {versions}",
            class_="soft",
        ),
    )


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------------------------------------------ plots


def _frame(figure: Figure, height: int) -> go.Figure:
    drawn = go.Figure(
        layout={
            "template": go.layout.Template(),
            "height": height,
            "margin": {"l": 8, "r": 14, "t": 8, "b": 8},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "xaxis": {"automargin": True, "zeroline": False, "ticks": "outside"},
            "yaxis": {"automargin": True, "zeroline": False, "title": {"standoff": 12}},
            "hovermode": "closest",
        }
    )
    drawn.update_xaxes(title=escape(heading(figure)[1]))
    if any(isinstance(x, str) for x in figure.x):
        drawn.update_xaxes(type="category")
    elif (
        len(figure.x) > 1
        and min(map(float, figure.x)) > 0
        and max(map(float, figure.x)) > 5 * min(map(float, figure.x))
    ):
        ticks = log_ticks(min(map(float, figure.x)), max(map(float, figure.x)))
        drawn.update_xaxes(type="log", tickvals=ticks, ticktext=[show.scaled(t, show.COUNT) for t in ticks])
    return drawn


def _y_title(figure: Figure) -> str:
    return escape(f"{figure.y_name} ({scale_of(figure)[1]})" if scale_of(figure)[1] else figure.y_name)


def _style(index: int) -> tuple[str, str]:
    return PALETTE[index % NAMED], ("solid", "dot", "dashdot")[index // NAMED % 3]


def _lines(figure: Figure) -> go.Figure:
    drawn = _frame(figure, 460)
    scale = scale_of(figure)[0]
    x = list(figure.x)
    for index, line in enumerate(figure.lines):
        colour, dash = _style(index)
        if line.low:
            _band(drawn, x, line, scale, colour)
        drawn.add_trace(
            go.Scatter(
                x=x,
                y=_scaled(line.values, scale),
                mode="lines+markers",
                name=escape(line.name),
                line={"color": colour, "width": 2, "dash": dash},
                marker={"size": 5},
                hovertemplate=f"{escape(line.name)}<br>%{{x}}: %{{y:.4g}}<extra></extra>",
            )
        )
        if line.published:
            drawn.add_trace(
                go.Scatter(
                    x=x,
                    y=_scaled(line.published, scale),
                    mode="lines",
                    showlegend=False,
                    opacity=0.6,
                    line={"color": colour, "width": 1, "dash": "dash"},
                    hovertemplate=f"{escape(line.name)}, published<br>%{{x}}: %{{y:.4g}}<extra></extra>",
                )
            )
    values = [v for line in figure.lines for v in (*line.values, *line.published) if v is not None]
    if values and min(values) > 0 and max(values) > 8 * min(values):
        low, high = min(values) * scale, max(values) * scale
        ticks = log_ticks(low, high)
        drawn.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{t:g}" for t in ticks])
    drawn.update_yaxes(title_text=_y_title(figure))
    return drawn


def _band(drawn: go.Figure, x: list[str | float], line: Line, scale: float, colour: str) -> None:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    drawn.add_trace(
        go.Scatter(
            x=[*x, *reversed(x)],
            y=[*_scaled(line.high, scale), *reversed(_scaled(line.low, scale))],
            fill="toself",
            fillcolor=f"rgba({red},{green},{blue},0.18)",
            line={"width": 0},
            mode="lines",
            showlegend=False,
            hoverinfo="skip",
        )
    )


def _bars(figure: Figure) -> go.Figure:
    drawn = _frame(figure, 460)
    scale = scale_of(figure)[0]
    for index, line in enumerate(figure.lines):
        colour, _ = _style(index)
        if index >= NAMED:
            colour = NEUTRAL
        values = _scaled(line.values, scale)
        error = None
        if line.low:
            above, below = _between(values, _scaled(line.high, scale)), _between(_scaled(line.low, scale), values)
            error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.2}
        drawn.add_trace(
            go.Bar(
                x=list(figure.x),
                y=values,
                name=escape(line.name),
                offsetgroup=str(index),
                marker={"color": colour, "pattern": {"shape": ("", "/", "x", ".")[max(0, index - NAMED) % 4]}},
                error_y=error,
                hovertemplate=f"{escape(line.name)}<br>%{{x}}: %{{y:.4g}}<extra></extra>",
            )
        )
        if line.published:
            drawn.add_trace(
                go.Bar(
                    x=list(figure.x),
                    y=_scaled(line.published, scale),
                    name=escape(f"{line.name}, published"),
                    offsetgroup=f"{index}p",
                    marker={"color": "rgba(0,0,0,0)", "line": {"color": colour, "width": 2}},
                    hovertemplate=f"{escape(line.name)}, published<br>%{{x}}: %{{y:.4g}}<extra></extra>",
                )
            )
    drawn.update_layout(barmode="group", bargap=0.2)
    drawn.update_yaxes(title_text=_y_title(figure), zeroline=True)
    return drawn


def _map(figure: Figure, levels: Sequence[float]) -> go.Figure:
    """One colour for each of ``levels``, the values of all maps of the page: they are sizes, not amounts."""
    drawn = _frame(figure, 480)
    scale = scale_of(figure)[0]
    order = {value: place for place, value in enumerate(levels)}
    colours = [PALETTE[i % NAMED] for i in range(len(levels))]
    steps = [[edge / len(levels), colour] for i, colour in enumerate(colours) for edge in (i, i + 1)]
    drawn.add_trace(
        go.Heatmap(
            x=list(figure.x),
            y=[escape(line.name) for line in figure.lines],
            z=[[None if v is None else order[v] for v in line.values] for line in figure.lines],
            zmin=-0.5,
            zmax=len(levels) - 0.5,
            colorscale=steps,
            customdata=[[None if v is None else v * scale for v in line.values] for line in figure.lines],
            hovertemplate="%{y}, %{x:.3s}: %{customdata}<extra></extra>",
            showscale=False,
            xgap=1,
            ygap=1,
        )
    )
    for value, colour in zip(levels, colours, strict=True):
        marker = {"color": colour, "symbol": "square", "size": 12}
        name = f"{figure.value_name} = {value * scale:g}" if figure.value_name else f"{value * scale:g}"
        drawn.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker))
    drawn.update_yaxes(showgrid=False)
    drawn.update_xaxes(showgrid=False)
    return drawn


def _between(low: Sequence[Value], high: Sequence[Value]) -> list[Value]:
    return [None if a is None or b is None else b - a for a, b in zip(low, high, strict=True)]


def _scaled(values: Sequence[Value], scale: float) -> list[Value]:
    return [None if v is None else v * scale for v in values]
