"""The table of the command line: columns with priorities, laid out for a width or written as CSV.

A number or a word is never broken. Where the width is too small, columns leave by their priority; the first column, and every
other of priority 0, stays. In a pipe no column leaves and no line is padded, unless ``COLUMNS`` asks for a width.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

GAP = "  "
FOLDED = 32  # characters of a word (a path, a hash) above which a column of text may break it, where nothing else helps
TEXT = 24  # characters that a column of text wants at least
KEY = 8  # characters of the first column that stay whatever the width


@dataclass
class Column:
    """``priority`` 0 stays at any width, the largest leaves first. A ``wraps`` column is text that may break between words."""

    name: str
    priority: int = 0
    justify: Literal["left", "right"] = "right"
    wraps: bool = False


def text(name: str, priority: int = 0) -> Column:
    """A column of words, such as a reason."""
    return Column(name, priority, "left", wraps=True)


@dataclass
class Table:
    """Rows of printed cells under their columns; ``empty`` is the sentence printed for a table without rows."""

    title: str
    columns: list[Column]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    caption: str = ""
    show_header: bool = True
    empty: str = ""

    @classmethod
    def of(cls, title: str, columns: Iterable[str | Column], empty: str = "") -> Table:
        """A table whose plain names are columns of numbers that leave from the right; the first names the row, and stays."""
        typed_columns = [
            column if isinstance(column, Column) else Column(column, index, "right" if index else "left")
            for index, column in enumerate(columns)
        ]
        return cls(title, typed_columns, empty=empty)

    def add_row(self, *cells: str) -> None:
        """A row of as many cells as there are columns."""
        assert len(cells) == len(self.columns), f"{self.title}: {len(cells)} cells for {len(self.columns)} columns"
        self.rows.append(tuple(_printable(cell) for cell in cells))

    def lines(self, width: int | None = None, hint: str = "") -> list[str]:
        """The table without its title, at most ``width`` characters wide (None: any). ``hint`` follows the columns left out."""
        if not self.rows:
            return [self.empty or (f"{self.title}: none." if self.title else "Nothing to show.")]
        shown = self._shown(width)
        widths = self._widths(shown, width)
        head = [self.columns[i].name for i in shown]
        out = [*self._row(head, shown, widths), _rule(widths)] if self.show_header else []
        for row in self.rows:
            out += self._row([row[i] for i in shown], shown, widths)
        left = [c.name for i, c in enumerate(self.columns) if i not in shown and c.name and any(self._cells(i))]
        notes = [*self.caption.splitlines(), *([f"Not shown at this width: {', '.join(left)}{hint}."] if left else [])]
        return out + [line for note in notes for line in wrapped(note, width)]

    def csv(self) -> str:
        """A line of names and a line for each row, every column."""
        import csv
        import io

        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([column.name or f"column {i + 1}" for i, column in enumerate(self.columns)])
        writer.writerows(self.rows)
        return out.getvalue()

    # ------------------------------------------------------------------------------------------------------------- widths

    def _cells(self, index: int) -> list[str]:
        return [row[index] for row in self.rows]

    def _least(self, index: int) -> int:
        """The width below which a cell or a word would break."""
        column, cells = self.columns[index], self._cells(index)
        head = _longest_word([column.name]) if self.show_header else 0
        if column.wraps:
            words = min(_longest_word(cells), FOLDED)
            return max(head, words, min(TEXT, _longest(cells)))
        return max(head, _longest(cells))

    def _natural(self, index: int) -> int:
        return max(_longest(self._cells(index)), len(self.columns[index].name) if self.show_header else 0)

    def _shown(self, width: int | None) -> list[int]:
        """The columns with a non-empty cell, as far as they fit ``width``."""
        shown = [i for i in range(len(self.columns)) if i == 0 or any(self._cells(i))]
        while width is not None and _total([self._least(i) for i in shown]) > width:
            free = [i for i in shown[1:] if self.columns[i].priority]
            if not free:
                break
            shown.remove(max(free, key=lambda i: (self.columns[i].priority, i)))
        return shown

    def _widths(self, shown: Sequence[int], width: int | None) -> list[int]:
        if width is None:
            return [self._natural(i) for i in shown]
        widths = [self._least(i) for i in shown]
        over = _total(widths) - width
        if over > 0:  # only names and text may be shortened
            widths[0] = max(min(KEY, widths[0]), widths[0] - over)
        for place, index in sorted(enumerate(shown), key=lambda pair: self.columns[pair[1]].wraps):
            widths[place] += max(0, min(self._natural(index) - widths[place], width - _total(widths)))
        return widths

    def _row(self, cells: Sequence[str], shown: Sequence[int], widths: Sequence[int]) -> list[str]:
        """One row: a cell that does not fit its column continues in the next line, between words."""
        parts = [
            wrapped(_shortened(cell, width) if place == 0 else cell, width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        out = []
        for number in range(max(map(len, parts))):
            line = [part[number] if number < len(part) else "" for part in parts]
            columns = [self.columns[i] for i in shown]
            placed = zip(line, columns, widths, strict=True)
            out.append(
                GAP.join(c.ljust(w) if column.justify == "left" else c.rjust(w) for c, column, w in placed).rstrip()
            )
        return out


def width() -> int | None:
    """Characters of a line: the terminal's, or ``COLUMNS``; None in a pipe or a file, which have no width of their own."""
    if sys.stdout.isatty():
        import shutil

        return shutil.get_terminal_size().columns
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isascii() and columns.isdigit() and int(columns) else None


def wrapped(text: str, width: int | None) -> list[str]:
    """``text`` in lines of at most ``width`` characters, broken between words; a longer word alone is broken."""
    if width is None or len(text) <= width:
        return [text]
    import textwrap

    return textwrap.wrap(text, width, break_on_hyphens=False)


def _printable(cell: str) -> str:
    """Without what could move a terminal's cursor: a file's name may hold anything."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cell)


def _longest(cells: Iterable[str]) -> int:
    return max(map(len, cells), default=0)


def _longest_word(cells: Iterable[str]) -> int:
    return max((len(word) for cell in cells for word in cell.split()), default=0)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _rule(widths: Sequence[int]) -> str:
    return "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * _total(widths)


def _shortened(name: str, width: int) -> str:
    """Its words no longer than ``width``, their ends kept: names of variants differ there."""
    cut = (
        word if len(word) <= width else "\N{HORIZONTAL ELLIPSIS}" + word[len(word) - width + 1 :]
        for word in name.split(" ")
    )
    return " ".join(cut)
