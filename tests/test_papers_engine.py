"""What the papers' experiments share: a point is computed once for its key and format, and a quick run says that it is one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from kit.errors import BadRecord
from kit.papers import engine
from kit.papers.results import Figure, Line
from kit.records import Record

KEY = {"world": {"users": 3}, "methods": ["random"]}


class Square(Record):
    kind: Literal["square"] = "square"
    schema_version: Literal[1] = 1
    value: float


def load(folder: Path | None, value: float, *, version: int = 1, **changes: object) -> float:
    return engine.load_or_compute(folder, version, {**KEY, **changes}, Square, lambda: Square(value=value)).value


def test_a_point_is_computed_once(tmp_path: Path) -> None:
    assert load(tmp_path, 1.0) == 1.0
    assert load(tmp_path, 2.0) == 1.0, "read, not computed"


def test_without_a_folder_nothing_is_stored() -> None:
    assert load(None, 1.0) == 1.0
    assert load(None, 2.0) == 2.0


def test_another_format_world_or_method_is_computed_again(tmp_path: Path) -> None:
    load(tmp_path, 1.0)
    assert load(tmp_path, 2.0, version=2) == 2.0
    assert load(tmp_path, 3.0, world={"users": 4}) == 3.0
    assert load(tmp_path, 4.0, methods=["random", "greedy"]) == 4.0
    assert load(tmp_path, 5.0) == 1.0 and len(list(tmp_path.glob("point-*.json"))) == 4


def test_the_order_of_a_key_does_not_matter() -> None:
    assert engine.digest(1, KEY) == engine.digest(1, dict(reversed(KEY.items())))


def test_a_failed_computation_keeps_nothing(tmp_path: Path) -> None:
    def fail() -> Square:
        raise ValueError("no optimum")

    with pytest.raises(ValueError, match="no optimum"):
        engine.load_or_compute(tmp_path, 1, KEY, Square, fail)
    assert not list(tmp_path.iterdir())


def test_a_broken_point_is_refused(tmp_path: Path) -> None:
    load(tmp_path, 1.0)
    next(tmp_path.glob("point-*.json")).write_text("{")
    with pytest.raises(BadRecord):
        load(tmp_path, 2.0)


def test_a_quick_run_says_so_in_every_title_and_in_one_note() -> None:
    lines = (Line(name="random", values=(1.0,)),)
    figures = [
        Figure(figure=name, title=name, x_name="users", x=(3,), y_name="delay", lines=lines, notes=("n",))
        for name in "ab"
    ]
    first, second = engine.marked_quick(figures, "Quick.")
    assert (first.title, first.notes) == ("a (quick)", ("Quick.", "n"))
    assert (second.title, second.notes) == ("b (quick)", ("n",))
    assert engine.marked_quick([], "Quick.") == []
