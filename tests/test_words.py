"""Words of kit's first version that the field does not know stay out of identifiers and pages.

The table of words is docs/glossary.md's. Words are added here as they leave the code.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: Parts of identifiers, and words of pages. Stored JSON keeps its keys: they stand in strings.
GONE = frozenset(
    [
        "nursery",
        "mother",
        "mothers",
        "brood",
        "birth",
        "doubts",
        "criticise",
        "criticism",
        "survey",
        "belief",
        "lender",
        "borrow",
        "borrowed",
        "playground",
    ]
)


def parts(identifier: str) -> set[str]:
    """``ForkServer`` and ``fork_server`` as their words, in small letters."""
    return set(re.findall(r"[a-z]+", re.sub(r"([A-Z])", r" \1", identifier).lower()))


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


@pytest.mark.parametrize("folder", ["kit", "tests", "bench"])
def test_identifiers_are_of_the_field(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, name in identifiers(path)
        if parts(name) & GONE
    ]
    assert wrong == []


def test_pages_are_of_the_field() -> None:
    """Names in code spans, such as the extra ``playground``, are what they are."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    wrong = [
        f"{page.relative_to(ROOT)}: {word}"
        for page in pages
        for word in re.findall(r"[a-z]+", re.sub(r"`[^`]*`", "", page.read_text().lower()))
        if word in GONE
    ]
    assert wrong == []
