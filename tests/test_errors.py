"""The error tree: what its docstring draws is what is there, and every error says what the command line leaves with."""

from __future__ import annotations

import inspect
import re

import pytest

from kit import errors
from kit.errors import KitError, UnknownName

_DRAWN = re.compile(r"^    (?P<indent>[│├└─ ]*)(?P<name>[A-Z]\w+)\s+(?:exit (?P<code>\d)\b)?", re.MULTILINE)


def drawn() -> dict[str, tuple[str | None, int]]:
    """Parent and exit code of every error in the docstring's figure, by name; a code that is not written is the parent's."""
    tree: dict[str, tuple[str | None, int]] = {}
    path: list[str] = []
    for match in _DRAWN.finditer(errors.__doc__ or ""):
        depth = len(match["indent"]) // 4
        parent = path[depth - 1] if depth else None
        code = int(match["code"]) if match["code"] else tree[str(parent)][1]
        tree[match["name"]] = parent, code
        path[depth:] = [match["name"]]
    return tree


def defined() -> dict[str, tuple[str | None, int]]:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, KitError)]
    return {c.__name__: (None if c is KitError else c.__bases__[0].__name__, c.exit_code) for c in classes}


def test_the_docstring_draws_the_whole_tree() -> None:
    assert drawn() == defined()
    assert len(drawn()) >= 12 and drawn()["UnknownName"] == ("UsageError", 2)


@pytest.mark.parametrize("name", sorted(defined()))
def test_every_error_carries_its_sentence_and_what_else_is_known(name: str) -> None:
    kind: type[KitError] = getattr(errors, name)
    if kind is UnknownName:
        return
    error = kind("It is broken: mend it.", file="x.json")
    assert str(error) == "It is broken: mend it." and error.details == {"file": "x.json"}
    assert error.exit_code in (1, 2, 3)


@pytest.mark.parametrize(
    ("name", "names", "sentence"),
    [
        ("vgg12", ["vgg11", "vgg13"], "did you mean 'vgg1"),
        ("zebra", ["vgg11"], "Unknown root 'zebra'. Known: vgg11."),
        ("zebra", [], "Known: none."),
        ("zebra", [f"net{i}" for i in range(20)], "net11, …."),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(name: str, names: list[str], sentence: str) -> None:
    error = UnknownName("root", name, iter(names))
    assert sentence in str(error) and error.details["known"] == names
    assert error.details["nearest"] == (
        str(error).split("mean '")[1].split("'")[0] if "did you" in str(error) else None
    )
