"""The verbs of the knowledge base, from files to words and JSON, and the figures of the decisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from invoke import kit
from typer.testing import CliRunner

from kit import knowledge, store
from kit.cli import app
from kit.errors import BadRecord, KitError, UnknownName
from kit.records import KnowledgeBase, KnowledgeRow, MeasureSettings, SubNetwork


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnowledgeBase:
    """Five networks, the more accurate the slower, and one at another operating point, as files of a working folder."""
    monkeypatch.chdir(tmp_path)
    for i in range(1, 6):
        store.append_line(Path("p.jsonl"), synthetic.profile(f"net{i}", i * 1e-3, accuracy=0.5 + i / 20, size=1000 * i))
    store.append_line(Path("p.jsonl"), synthetic.profile("net1", 9e-3, settings=MeasureSettings(gap_s=0.01)))
    printed = kit("knowledge", "build", "p.jsonl")
    assert "6 rows, 0 of them not trusted to decide, 1 at chosen operating points" in printed
    return store.read_record(Path("knowledge.json"), KnowledgeBase)


def test_ask_takes_every_limit(base: KnowledgeBase) -> None:
    printed = json.loads(kit("knowledge", "ask", "--deadline-ms", "3.5", "--percentile", "95", "--json"))
    assert printed["chosen"]["id"] == "net3" and printed["promised"] and printed["measure_next"] == []
    assert printed["need"]["percentile"] == 95 and printed["need"]["deadline_s"] == 0.0035
    slow_link = ("--deadline-ms", "10", "--link-mbps", "4", "--json")  # 5000 bytes take 10 ms
    assert json.loads(kit("knowledge", "ask", *slow_link))["chosen"]["id"] == "net3"
    sha = base.rows[-1].sha256[:10]
    for have in ("net5", sha):
        assert json.loads(kit("knowledge", "ask", *slow_link, "--have", have))["chosen"]["id"] == "net5"
    assert json.loads(kit("knowledge", "ask", "--point", "t1-gap10ms", "--json"))["chosen"]["median_s"] > 8e-3
    with pytest.raises(UnknownName, match="did you mean 'net5'"):
        kit("knowledge", "ask", *slow_link, "--have", "net55")


def test_bad_flags_are_one_sentence(base: KnowledgeBase) -> None:
    for words, says in (
        (("ask", "--percentile", "42"), "--percentile 42 is not kept: give one of 50, 90, 95, 99"),
        (("ask", "--energy-mj", "nan"), "no limit"),
        (("ask", "--energy-mj", "1"), "energy unknown"),
        (("ask", "--dataset", "synthetik"), "did you mean 'synthetic'"),
        (("ask", "--batch", "4"), "batches: 1"),
        (("explain", "net6"), "did you mean"),
        (("pareto", "--energy"), "knows its latency, accuracy, energy"),
        (("table",), "no trusted measured row of allocator_a"),
        (("table", "--family", "alocator_a"), "did you mean 'allocator_a'"),
        (("compile", "--threads", "7"), "threads measured: 1"),
        (("map", "--against", "lnk"), "did you mean 'link'"),
    ):
        with pytest.raises(KitError, match=says):
            kit("knowledge", *words)
    assert not Path("decisions.npz").exists()


def test_explain_in_words_and_json(base: KnowledgeBase) -> None:
    printed = kit("knowledge", "explain", "net5", "--deadline-ms", "3.5")
    assert "net5 (onnxruntime, t1) is not chosen" in printed and "the deadline to rise to" in printed
    (one,) = json.loads(kit("knowledge", "explain", "net3", "--deadline-ms", "3.5", "--json"))["explanations"]
    assert one["chosen"] and one["limits"][0]["limit"] == "deadline" and one["limits"][0]["met"]
    assert "would make it the choice" in kit("knowledge", "explain", "net2", "--deadline-ms", "3.5")


def test_pareto_as_table_plot_and_json(base: KnowledgeBase) -> None:
    printed = kit("knowledge", "pareto")
    assert (
        "Nothing beats these 5" in printed
        and printed.count("o") >= 5
        and "75.00% |" in printed
        and "55.00% |" in printed
    )
    front = json.loads(kit("knowledge", "pareto", "--memory", "--size", "--deadline-ms", "2.5", "--json"))
    assert [r["id"] for r in front["front"]] == ["net1", "net2"] and front["axes"] == [
        "latency",
        "accuracy",
        "memory",
        "size",
    ]


def test_compile_writes_what_python_loads(base: KnowledgeBase) -> None:
    assert "5 variants, of which some requirement can choose 5 at p50" in kit("knowledge", "compile", "--out", "d.npz")
    table = knowledge.DecisionTable.load(Path("d.npz"))
    assert table.variants[table.choose(deadline_s=3.5e-3)].artifact_id == "net3"


def allocator(k: int, median_s: float) -> KnowledgeRow:
    sub = SubNetwork(family="allocator", root="allocator_a", depth=2, width=k / 30, precision="fp32", resolution_px=30)
    return KnowledgeRow(
        artifact_id=sub.id, sha256=str(k), device_id="d", backend="b", threads=1, precision="fp32", median_s=median_s, p99_s=2 * median_s,
        label="stable", memory_bytes=1, size_bytes=1, macs=1, accuracy=None, clock_hz=3e9, record_id=str(k),
    )  # fmt: skip


def test_the_size_table_and_the_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = tuple(allocator(k, 10e-6 + 1e-6 * k) for k in (1, 2, 5, 8))
    store.write_record(Path("knowledge.json"), KnowledgeBase(created_utc=synthetic.NOW, kit_version="0", rows=rows))
    completed = CliRunner().invoke(
        app, ["knowledge", "table", "--sizes-kbit", "1,10", "--clocks-ghz", "0.1,3", "--out", "k.json"]
    )
    printed = " ".join(completed.output.split())
    assert (
        completed.exit_code == 0 and "Best K by measured times" in printed and "Best K at 2 cycle(s) per MAC" in printed
    )
    assert "published data" in completed.output and "quality: 8, 10, 20, 30" in completed.output
    table = json.loads(Path("k.json").read_text())
    assert [c["measured"] for c in table["cells"]] == ["1", "5", "5", "5"] and table["kind"] == "dynamic_table"
    quality = knowledge.TABLE_I.model_copy(update={"source": "mine", "delay_s": {"1": 1.0, "8": 0.5}})
    store.write_record(Path("q.json"), quality)
    mine = json.loads(kit("knowledge", "table", "--quality", "q.json", "--json"))
    assert {c["measured"] for c in mine["cells"]} == {"8"} and mine["quality"]["source"] == "mine"
    store.write_record(Path("b.json"), quality.model_copy(update={"family": "allocator_b"}))
    with pytest.raises(KitError, match="is the quality of allocator_b: add --family allocator_b"):
        kit("knowledge", "table", "--quality", "b.json")
    with pytest.raises(KitError, match="No allocation quality of allocator_b is published"):
        kit("knowledge", "table", "--family", "allocator_b") if _with_b(rows) else None
    with pytest.raises(KitError, match="does not take '1,x'"):
        kit("knowledge", "table", "--sizes-kbit", "1,x")


def _with_b(rows: tuple[KnowledgeRow, ...]) -> bool:
    """Add rows of paper B's network to the base of the working folder."""
    more = [r.model_copy(update={"artifact_id": r.artifact_id.replace("_a-", "_b-")}) for r in rows]
    store.write_record(
        Path("knowledge.json"), KnowledgeBase(created_utc=synthetic.NOW, kit_version="0", rows=(*rows, *more))
    )
    return True


# --------------------------------------------------------------------------------------------------------------- figures


@pytest.fixture
def decisions() -> Any:
    pytest.importorskip("plotly")
    from kit.report import decisions

    return decisions


@pytest.mark.parametrize("against", ["memory", "link"])
def test_the_map_is_what_ask_says(base: KnowledgeBase, decisions: Any, against: str) -> None:
    table = knowledge.compile(base.rows)
    figure = decisions.decision_map(table, against=against)
    heat, names = figure.data[0], [trace.name for trace in figure.data[1:]]
    numbers = np.array(heat.z)
    assert numbers.min() == 0 and len(names) == numbers.max() + 1 and names[0] == "no variant" and names[-1]
    i, j = numbers.shape[0] - 3, 90
    scale = 1e-3  # the axis is in milliseconds
    limit = {"memory_bytes": 1e12} if against == "memory" else {"link_bps": float("inf")}
    if against == "memory":
        chosen = table.choose(deadline_s=heat.x[j] * scale, **limit)
        assert names[int(numbers[i, j])] == table.variants[chosen].artifact_id
    assert "ms" in figure.layout.xaxis.title.text and figure.layout.yaxis.type == "log"


def test_the_map_needs_its_axis(base: KnowledgeBase, decisions: Any) -> None:
    blank = [r.model_copy(update={"memory_bytes": None, "size_bytes": 0}) for r in base.rows]
    table = knowledge.compile(blank)
    for against in ("memory", "link"):
        with pytest.raises(BadRecord, match="No variant"):
            decisions.decision_map(table, against=against)


def test_the_map_is_a_page_of_its_own(base: KnowledgeBase, decisions: Any) -> None:
    kit("knowledge", "map", "--against", "link", "--min-accuracy", "0.6", "--out", "m.html")
    page = Path("m.html").read_text()
    assert "<html" in page and "net5" in page and "rate of the link" in page


def test_the_regret_figure_says_its_shares(base: KnowledgeBase, decisions: Any) -> None:
    rows = [r for r in base.rows if r.point is None]
    losses = knowledge.regret(rows, rows, knowledge.random_needs(rows, 50))
    figure = decisions.regret({"measured": losses})
    assert figure.data[0].name == "measured: equal in 100.0 %, deadline missed in 0.0 %" and figure.data[0].y[-1] == 100
    with pytest.raises(BadRecord, match="no regret to draw"):
        decisions.regret({})
