"""How pages quote results: every number of a page of docs/papers is read from the committed JSON of its run.

``tests/claims/NAME.py`` declares what the page of that name says::

    PAGE = "docs/papers/bandwidth.md"
    SETTINGS = ("30 users", "paper | 1.967 | 1.922")     # pieces of the page that are no result: settings, what a paper prints

    def claims() -> Iterator[str]:                       # pieces of the page, each there once, made of a run's JSON
        a = run("bandwidth")                             # docs/papers/results/bandwidth.json
        yield f"comes within {100 * a.at('table1-excess', 'mixture of experts', '1'):.2f} % of the optimum at K = 1"

    def results() -> Iterator[str]: ...                  # pieces of docs/results.md that quote the run

White space does not count, so a page may be wrapped and a claim may be a whole table. What is left of a page without claims, settings,
code and references (Fig. 4, eq. 14) must hold no number. After a new run ``python tests/quoted.py NAME`` writes the new numbers into the
page wherever the words around them are still there.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from kit import store  # noqa: E402
from kit.papers.results import Figure, Line, Simulation, Value  # noqa: E402

RESULTS = ROOT / "docs" / "papers" / "results"
CLAIMS = ROOT / "tests" / "claims"
NUMBER = re.compile(r"(?<![\w.])\d(?:[\d,.]*\d)?(?:e[+-]?\d+)?[^\W\d_]*")  # 1,024, 1.5, 1e-17, 2.17K, 8x
#: Where digits are no numbers: fenced and inline code, link targets, and the names of figures, equations, sections and seeds.
EXEMPT = re.compile(
    r"```.*?```|`[^`]*`|\]\([^)]*\)"
    r"|\b(?:fig|figure|eq|section|table|algorithm)\.?\s\d+(?: ?\(?[a-d]\b\)?)?"
    r"|\b(?:figs|figures|eqs|sections|tables)\.?\s\d+(?: ?\(?[a-d]\b\)?)?(?:(?:,|,? and|,? to)\s\d+(?: ?\(?[a-d]\b\)?)?)*",
    re.IGNORECASE | re.DOTALL,
)


def masked(text: str) -> str:
    """With ~ in place of what is exempt; as long as the text."""
    return EXEMPT.sub(lambda match: re.sub(r"\S", "~", match[0]), text)


@dataclass(frozen=True)
class Run:
    """A committed run; values are as the record holds them: SI, shares of one."""

    record: Simulation

    def figure(self, name: str) -> Figure:
        return next(f for f in self.record.figures if f.figure == name)

    def line(self, figure: str, line: str) -> Line:
        return next(one for one in self.figure(figure).lines if one.name == line)

    def place(self, figure: str, x: str | float) -> int:
        return self.figure(figure).x.index(x)

    def at(self, figure: str, line: str, x: str | float) -> float:
        """The mean over the seeds."""
        return _known(self.line(figure, line).values[self.place(figure, x)])

    def low(self, figure: str, line: str, x: str | float) -> float:
        """The least of the seeds."""
        one = self.line(figure, line)
        return _known((one.low or one.values)[self.place(figure, x)])

    def high(self, figure: str, line: str, x: str | float) -> float:
        """The largest of the seeds."""
        one = self.line(figure, line)
        return _known((one.high or one.values)[self.place(figure, x)])

    def values(self, figure: str, line: str) -> list[float]:
        return [_known(v) for v in self.line(figure, line).values]

    def half_range(self, figure: str, line: str, x: str | float) -> float:
        return (self.high(figure, line, x) - self.low(figure, line, x)) / 2


def _known(value: Value) -> float:
    assert value is not None, "a place of this line holds nothing"
    return value


@lru_cache
def run(name: str) -> Run:
    return Run(store.read_record(RESULTS / f"{name}.json", Simulation))


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def table(head: Sequence[str], *rows: Sequence[str]) -> str:
    return "\n".join([row(*head), "|" + "---|" * len(head), *(row(*cells) for cells in rows)])


# --------------------------------------------------------------------------------------------------------------- the check


def pages() -> dict[str, ModuleType]:
    """The declarations by name."""
    return {p.stem: importlib.import_module(f"claims.{p.stem}") for p in sorted(CLAIMS.glob("[a-z]*.py"))}


def flat(text: str) -> str:
    return " ".join(text.split())


def bounded(piece: str) -> re.Pattern[str]:
    """The piece where it does not end inside of a word or a number."""
    before = r"(?<![\w.,])" if piece[:1].isalnum() else ""
    after = r"(?!\w|[.,]\d)" if piece[-1:].isalnum() else ""
    return re.compile(f"{before}{re.escape(piece)}{after}")


def problems(text: str, claims: Iterable[str], settings: Iterable[str] = (), *, whole: bool = True) -> list[str]:
    """What is wrong with a page, one sentence each. ``whole``: no number may be left over."""
    left = flat(masked(text)) if whole else flat(text)
    found = []
    for claim in sorted(map(flat, claims), key=len, reverse=True):
        piece = flat(masked(claim)) if whole else claim
        pattern = bounded(piece)
        if len(pattern.findall(left)) != 1:
            found.append(f"The page should say once: {claim}")
        left = pattern.sub(" ", left, count=1)
    for piece in sorted(map(flat, settings), key=len, reverse=True):
        if not re.search(r"[^\W\d]", piece):
            found.append(f"A setting needs a word beside its number: {piece}")
        piece = flat(masked(piece))
        pattern = bounded(piece)
        if not pattern.search(left):
            found.append(f"The page does not hold this setting any more: {piece}")
        left = pattern.sub(" ", left)
    if whole:
        for number in NUMBER.finditer(left):
            around = left[max(number.start() - 60, 0) : number.end() + 40]
            found.append(f"No run and no setting stands behind {number[0]}: …{around}…")
    return found


def renewed(text: str, claims: Iterable[str]) -> str:
    """The page with the claims' numbers, wherever their words stand exactly once."""
    for claim in map(flat, claims):
        words = [r"\s+".join(re.escape(part) for part in re.split(r"\s+", piece)) for piece in NUMBER.split(claim)]
        pattern = re.compile(f"({NUMBER.pattern})".join(words))
        matches = list(pattern.finditer(text))
        if len(matches) != 1:
            continue
        spans = [matches[0].span(group) for group in range(1, len(words))]
        for (begin, end), number in reversed(list(zip(spans, NUMBER.findall(claim), strict=True))):
            text = f"{text[:begin]}{number}{text[end:]}"
    return text


def numbers(text: str) -> Iterator[re.Match[str]]:
    """The numbers of a page that count."""
    return NUMBER.finditer(masked(text))


if __name__ == "__main__":
    for name, module in pages().items():
        if name in sys.argv[1:]:
            path = ROOT / module.PAGE
            path.write_text(renewed(path.read_text(), module.claims()))
            for problem in problems(path.read_text(), module.claims(), module.SETTINGS):
                print(problem)
