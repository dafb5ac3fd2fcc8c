"""The frame that every page of kit stands in: one HTML file that loads nothing, with plotly.js, style and data inside.

Its content security policy forbids any other source.
"""

from __future__ import annotations

from importlib import resources

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

import kit
from kit.report.markup import Child, Markup, join, tag

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

Figures = dict[str, go.Figure]


def document(title: str, body: Markup, figures: Figures) -> str:
    # Plotly's JSON writes <, > and / as escapes: no text in it can close the script element.
    """The page as HTML."""
    data = ",".join(f'"{name}":{figure.to_json()}' for name, figure in figures.items())
    scripts = [f"<script>{get_plotlyjs()}</script>", f"<script>{_own('page.js')}</script>"] if figures else []
    head = join(
        [
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="generator", content=f"kit {kit.__version__}"),
            tag("title", title),
            tag("style", Markup(_own("page.css"))),
        ]
    )
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">',
            tag("head", head),
            f"<body>{body}",
            f'<script type="application/json" id="figures">{{{data}}}</script>',
            *scripts,
            "</body>\n</html>\n",
        ]
    )


def _own(name: str) -> str:
    return resources.files("kit.report").joinpath(name).read_text(encoding="utf-8")


def section(title: str, *children: Child) -> Markup:
    """A section with its heading."""
    return tag("section", tag("h2", title), *children)


def place(figures: Figures, name: str, figure: go.Figure | None, caption: Child, nothing: str) -> Markup:
    """A place for ``figure``, which is noted down in ``figures``; the sentence ``nothing`` where there is none."""
    if figure is None:
        return tag("p", nothing, class_="soft")
    figures[name] = figure
    container = tag("div", id=name, style=f"min-height:{figure.layout.height}px")
    needs_script = tag(
        "noscript", tag("p", "This figure needs JavaScript; the tables hold its numbers.", class_="soft")
    )
    return tag("figure", container, needs_script, tag("figcaption", caption))


def code(text: str) -> Markup:
    """Text in the typeface of code."""
    return tag("code", text)


def tile(name: str, value: str, note: str) -> Markup:
    """A number with its name above and a note below."""
    return tag("div", tag("span", name), tag("b", value), tag("span", note), class_="tile")
