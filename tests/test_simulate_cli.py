"""``kit simulate bandwidth``: from words to tables, JSON and a page; what cannot be is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from invoke import kit

from kit import store
from kit.errors import KitError, UsageError
from kit.papers.bandwidth import train
from kit.papers.results import Figure, Line, Simulation
from kit.records import AllocationQuality
from kit.report.simulation import write_page

QUICK = ("--quick", "--steps", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps: everything is made, nothing is learned."""
    out = tmp_path_factory.mktemp("run") / "simulation"
    kit("simulate", "bandwidth", *QUICK, "--out", str(out))
    return out


def test_a_run_writes_json_page_and_networks(folder: Path) -> None:
    record = store.read_record(folder / "simulation.json", Simulation)
    assert record.world == "bandwidth" and record.delay == "analytic:lambda=2" and record.seeds == (0,)
    assert record.parameters["users"] == 30 and record.parameters["quick"] is True and record.parameters["steps"] == 3
    assert {"kit", "python", "numpy", "torch"} <= set(record.versions)
    assert {f.figure.partition("-")[0] for f in record.figures} == {"table1", "table2", "fig2", "fig3", "fig4"}
    networks = sorted(p.name for p in (folder / "networks").glob("*.alloc.npz"))
    assert sorted(f"{name}.alloc.npz" for name in record.trained) == networks and len(networks) >= 3
    page = (folder / "page.html").read_text()
    for figure in record.figures:
        assert figure.shown == "table" or f'id="{figure.figure}"' in page
        assert figure.title in page
    assert "http-equiv" in page and "src=" not in page.partition("<script>")[0]


def test_the_quality_is_what_the_knowledge_base_takes(folder: Path) -> None:
    found = store.read_record(folder / "quality.json", AllocationQuality)
    assert found.family == "allocator_a" and set(found.delay_s) == {"1", "2", "5", "10", "20", "30"}
    assert all(v > 0 for v in found.delay_s.values()) and "kit simulate bandwidth: 3 steps, seeds 0" in found.source


def test_a_second_run_trains_nothing_and_prints_what_it_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.learning, "learn", None)
    said = kit("simulate", "bandwidth", *QUICK, "--out", str(folder), "--figure", "table2", "--figure", "fig3")
    assert "Delay with computing, by average size (quick): T_tra + T_com (ms)" in said and "0.392" in said
    assert "the map is on the page" in said and "table1" not in said and str(folder / "page.html") in said
    found = json.loads(kit("simulate", "bandwidth", *QUICK, "--out", str(folder), "--figure", "table1", "--json"))
    assert found["figures"][0]["figure"] == "table1" and found["figures"][0]["unit"] == "s"
    assert found["figures"][0]["lines"][0]["published"][0] == 1.967e-3
    free = json.loads(
        kit("simulate", "bandwidth", *QUICK, "--out", str(folder), "--figure", "table2", "--delay", "none", "--json")
    )
    one, thirty = (free["figures"][0]["lines"][i]["values"] for i in (0, 5))
    assert (
        free["delay"] == "none" and one[-1] == pytest.approx(5 * one[0]) and thirty[-1] == pytest.approx(5 * thirty[0])
    )


def test_bad_words_are_one_sentence(tmp_path: Path) -> None:
    for words, says in (
        (("--figure", "table3"), "Unknown figure 'table3': did you mean 'table"),
        (("--delay", "slow"), "--delay does not take 'slow': write none, analytic"),
        (("--delay", "measured:nothing.json"), "nothing.json does not exist: make it with kit knowledge build"),
        (("--delay", "analytic:lambda=-1"), "give cycles per multiply-accumulate above zero"),
        (("--seed", "1", "--seeds", "2"), "--seed names seeds and --seeds counts them: give one of the two"),
        (("--device", "tpu"), "Torch finds no device 'tpu' here: take --device cpu"),
    ):
        with pytest.raises(KitError, match=says) as error:
            kit("simulate", "bandwidth", *QUICK, "--out", str(tmp_path / "out"), *words)
        assert error.value.exit_code == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is, or lies under, a file: choose a folder"):
        kit("simulate", "bandwidth", *QUICK, "--out", str(tmp_path / "file"))


def test_the_page_holds_any_figure(tmp_path: Path) -> None:
    """Bands, bars with ranges, gaps and names that are no HTML."""
    shown = ("lines", "bars", "map", "table")
    line = Line(name="<b>ours</b>", values=(1.0, None), low=(0.5, None), high=(2.0, None), published=(1.5, 1.0))
    record = Simulation(
        world="offloading", parameters={"users": 3}, delay="none", seeds=(0, 1), versions={}, wall_s=1.0,
        figures=tuple(
            Figure(figure=f"fig{i}", title="a & b", x_name="f (Hz)", x=(1e6, 1e8), y_name="cost", unit="1", shown=how, lines=(line,))  # type: ignore[arg-type]
            for i, how in enumerate(shown)
        ),
    )  # fmt: skip
    page = write_page(tmp_path / "page.html", record).read_text()
    assert "<b>ours" not in page and "Fig. 2. a &amp; b" in page and page.count('<div id="fig') == 3
