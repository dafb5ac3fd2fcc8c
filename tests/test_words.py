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


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Parts of identifiers, and words of pages. Stored JSON keeps its keys: they stand in strings.
GONE = words_of(
    """
    nursery mother mothers brood birth doubts criticise criticism survey belief lender borrow borrowed playground slowness anew
    """
)
#: Parts of identifiers in kit alone, where a noun says what a name holds. As words of pages they are English.
VAGUE = words_of(
    """
    found told tell made there said asked begun took judged taught lesson lessons beside verdict verdicts wave waves chance wanted
    """
)
#: Names that the standard library gives.
FOREIGN = frozenset(["ModuleNotFoundError", "FileNotFoundError", "PackageNotFoundError"])


def parts(identifier: str) -> set[str]:
    """``ForkServer`` and ``fork_server`` as their words, in small letters."""
    return set(re.findall(r"[a-z]+", re.sub(r"([A-Z])", r" \1", identifier).lower()))


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


@pytest.mark.parametrize(("folder", "words"), [("kit", GONE | VAGUE), ("tests", GONE), ("bench", GONE)])
def test_identifiers_are_of_the_field(folder: str, words: frozenset[str]) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, name in identifiers(path)
        if parts(name) & words and name not in FOREIGN
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
