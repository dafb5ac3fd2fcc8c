"""HTML that cannot be injected: every child and attribute is escaped unless it was made here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

VOID = frozenset({"meta"})  # elements without an end tag


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | Markup | None


def text(child: Child) -> Markup:
    """``child`` as HTML: escaped unless it is HTML already."""
    if isinstance(child, Markup):
        return child
    return Markup(escape(child or ""))


def join(children: Iterable[Child], between: str = "") -> Markup:
    """The children one after the other."""
    return Markup(between.join(text(child) for child in children))


def tag(name: str, /, *children: Child, **attributes: str | None) -> Markup:
    """``<name …>children</name>``. A trailing underscore is dropped from an attribute's name (``class_``), other
    underscores become hyphens, and an attribute that is None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def table(
    head: Sequence[str], rows: Iterable[Sequence[Child]], *, words: int = 1, caption: str | None = None
) -> Markup:
    """A table that scrolls sideways on a narrow screen. The first ``words`` columns hold words, the others numbers."""

    def cells(kind: str, row: Sequence[Child]) -> Markup:
        return tag("tr", *(tag(kind, cell, class_=None if i < words else "number") for i, cell in enumerate(row)))

    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption) if caption else None,
            tag("thead", cells("th", head)),
            tag("tbody", *(cells("td", row) for row in rows)),
        ),
        class_="scroll",
        tabindex="0",
    )


def facts(pairs: Iterable[tuple[str, Child]]) -> Markup:
    """A list of name and value."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs))


def folded(summary: Child, *children: Child) -> Markup:
    """Children behind a summary that opens."""
    return tag("details", tag("summary", summary), *children)
