"""Tables at every width: nothing is broken inside a number or a word, what matters stays, a pipe is not padded."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kit import knowledge, store
from kit.cli import app, show
from kit.cli.table import Column, Table, text

WIDTHS = (40, 60, 80, 120)


def profile_table() -> Table:
    names = ("resnet18-d6-w0.50-int8-32", "resnet18-d2-w1.00-fp32-32", "model.onnx")
    records = [synthetic.profile(name, 0.02377 * (i + 1), accuracy=0.9) for i, name in enumerate(names)]
    failed = synthetic.profile("broken").model_copy(update={"status": "crashed", "measurement": None, "label": None})
    return show.profile_table([*records, failed])


def words_of(table: Table) -> set[str]:
    """Every word and number that a cell of the table holds."""
    return {word for row in table.rows for cell in row for word in cell.split()}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_latency_is_never_cut_at_every_width(width: int) -> None:
    table = profile_table()
    lines = table.lines(width)
    assert all(len(line) <= width and line == line.rstrip() for line in lines)
    rule = next(i for i, line in enumerate(lines) if line.startswith("─"))
    body = lines[rule + 1 : rule + 1 + len(table.rows)]  # a row a line: nothing was broken
    for line, row in zip(body, table.rows, strict=True):
        assert line.split()[0] == row[0] and row[1] in line.split()
        assert set(line.split()) <= words_of(table)


def test_what_leaves_is_named_and_comes_back_with_width() -> None:
    table = profile_table()
    narrow, wide = table.lines(40, " (--csv has all)"), table.lines(200)
    assert "MMACs" in " ".join(narrow[-4:]) and "(--csv has all)" in " ".join(narrow).replace("\n", " ")
    assert "MMACs" in wide[0] and not [line for line in wide if "Not shown" in line]
    counts = [len(table.lines(width)[0].split("  ")) for width in WIDTHS]
    assert counts == sorted(counts)


def test_text_is_broken_between_words_only() -> None:
    table = Table.of("t", ("backend", Column("version"), text("why not")))
    reason = "This runtime was built without CUDAExecutionProvider: pip install another-runtime in its place."
    table.add_row("onnxruntime", "1.25.0", reason)
    lines = table.lines(50)
    assert all(len(line) <= 50 for line in lines)
    cells_text = " ".join(line[line.rindex("  ") + 2 :] if "  " in line else line for line in lines[2:])
    assert cells_text.split() == reason.split()


def test_a_column_without_a_word_and_a_table_without_a_row() -> None:
    table = Table.of("Nothing", ("a", "b", "c"), empty="No row fits: ask for less.")
    assert table.lines(80) == ["No row fits: ask for less."]
    assert Table.of("Rows", ("a",)).lines() == ["Rows: none."]
    table.add_row("1", "", "3")
    assert table.lines(80)[0].split() == ["a", "c"]


def test_what_could_move_the_cursor_is_not_printed() -> None:
    table = Table.of("t", ("name", "ms"))
    table.add_row("evil\x1b[2J\r\n.onnx", "1.5")
    assert "\x1b" not in "".join(table.lines()) and "\r" not in "".join(table.lines())


cells = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=12)


@given(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=5), st.integers(40, 200))
def test_every_cell_that_is_shown_is_complete(rows: list[tuple[str, str, str]], width: int) -> None:
    table = Table.of("", ("name", "one", "two"))
    for row in rows:
        table.add_row(*row)
    lines = table.lines(width)[2 : 2 + len(rows)]
    assert [tuple(line.split()) for line in lines] == [
        tuple(c for cell in row for c in cell.split()) for row in table.rows
    ]


# ------------------------------------------------------------------------------------------------------------------ verbs


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for i in range(1, 8):
        record = synthetic.profile(
            f"resnet18-d{i}-w0.50-int8-32", i * 1e-3, macs=i * 10**7, accuracy=0.8 + i / 50, size=i * 10**5
        )
        store.append_line(tmp_path / "p.jsonl", record)
    store.write_record(tmp_path / "knowledge.json", knowledge.build(store.read_profiles([tmp_path / "p.jsonl"])))
    return tmp_path


TABLES: dict[str, tuple[str, ...]] = {
    "fit": ("fit", "p.jsonl"),
    "pareto": ("knowledge", "pareto"),
    "ask": ("knowledge", "ask", "--deadline-ms", "3.5"),
    "explain": ("knowledge", "explain", "resnet18-d2-w0.50-int8-32", "--deadline-ms", "3.5"),
    "compare": ("compare", "p.jsonl", "p.jsonl"),
    "backends": ("backends",),
    "device": ("device",),
}


def run(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, width: int | None) -> Any:
    monkeypatch.delenv("COLUMNS", raising=False)
    if width is not None:
        monkeypatch.setenv("COLUMNS", str(width))
    completed = CliRunner().invoke(app, list(words))
    assert completed.exit_code == 0, completed.output
    return completed


def tables_of(stdout: str, width: int | None) -> list[str]:
    """The lines of tables: from a rule to the empty line behind it."""
    lines, inside = [], False
    for line in stdout.splitlines():
        inside = (inside or line.startswith("──")) and bool(line)
        if inside and not line.startswith("──"):
            lines.append(line)
    return lines


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("verb", TABLES)
def test_no_verb_breaks_a_word(verb: str, width: int, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece of a line of a table is a word of the same table in a pipe, where nothing is broken."""
    full_table = run(TABLES[verb], monkeypatch, None).stdout
    narrow = run(TABLES[verb], monkeypatch, width).stdout
    full_words = {*full_table.split(), "Not", "shown", "at", "this", "width:", "(--csv", "has", "all)."}
    pieces = {word for line in tables_of(narrow, width) for word in line.split() if "/" not in word}
    plain = {word.rstrip(",.") for word in full_words}
    shortened = {
        p for p in pieces if p.startswith("…")
    }  # the name of a row, its end kept, where nothing else is left to give
    assert not {p for p in pieces - shortened if p.rstrip(",.") not in plain}
    assert all(any(word.endswith(p[1:]) for word in full_words) for p in shortened)
    assert all(len(line) <= width for line in tables_of(narrow, width))


@pytest.mark.parametrize("verb", TABLES)
def test_a_pipe_is_not_padded(verb: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = run(TABLES[verb], monkeypatch, None).stdout
    assert all(line == line.rstrip() for line in stdout.splitlines()) and "Not shown" not in stdout


@pytest.mark.parametrize("verb", TABLES)
def test_csv_is_csv_and_nothing_else(verb: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = run((*TABLES[verb], "--csv"), monkeypatch, 40).stdout
    blocks = stdout.split("\n\n")
    for block in blocks:
        head, *rows = csv.reader(io.StringIO(block))
        assert rows and all(len(row) == len(head) for row in rows) and len(set(head)) == len(head)


def test_json_and_csv_exclude_each_other(base: Path) -> None:
    for words in (("--json", "--csv"), ("--csv", "--json")):
        completed = CliRunner().invoke(app, ["backends", *words])
        assert completed.exit_code == 2 and "not both" in completed.output
