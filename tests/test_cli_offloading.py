"""``kit simulate offloading``: from words to tables, JSON and a page; what cannot be is one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from invoke import kit

from kit import store
from kit.errors import KitError
from kit.papers.offloading import OffloadingWorld, experiment, figures, train
from kit.papers.offloading.joint import JointRecipe
from kit.papers.results import Simulation
from kit.records import AllocationQuality

FEW = ("--figure", "table1", "--figure", "fig4", "--figure", "fig7", "--figure", "fig10")


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    """Two steps of everything, in six worlds of few tasks: all is made, nothing is learned."""
    joint = JointRecipe(episodes=2, slots=4, pretraining=6, pretraining_steps=3, labelled=1)

    def tiny(seeds: Sequence[int], *, quick: bool, steps: int | None, device: str) -> experiment.Settings:
        return experiment.Settings(tuple(seeds), steps or 2, 2, joint, slots=6, genetic=0, quick=quick, device=device)

    small = {key: (*sweep[:2], sweep[2][:1], *sweep[3:]) for key, sweep in figures.SWEEPS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment.Settings, "of", tiny)
        patch.setattr(figures, "SWEEPS", small)
        patch.setattr(figures, "QUICK_PLACES", (0,))
        patch.setattr(train, "USERS_MAX", 12)
        patch.setattr("kit.papers.offloading.simulate.OffloadingWorld", lambda: OffloadingWorld(users=6))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "simulation"
    kit("simulate", "offloading", *FEW, "--quick", "--steps", "2", "--out", str(out))
    return out


def test_a_run_writes_json_page_quality_and_networks(folder: Path) -> None:
    record = store.read_record(folder / "simulation.json", Simulation)
    assert record.world == "offloading" and record.delay == "analytic:lambda=2" and record.seeds == (0,)
    assert record.parameters["users"] == 6 and record.parameters["quick"] is True and record.parameters["steps"] == 2
    assert isinstance(record.parameters["bars"], dict) and len(record.parameters["bars"]) == 10
    assert {"kit", "python", "numpy", "torch"} <= set(record.versions)
    made = {f.figure.partition("-")[0] for f in record.figures}
    assert made == {"table1", "fig4a", "fig4b", "fig7a", "fig7b", "fig7c", "fig7d", "fig10"}
    kept = {p.name.split("-")[0] for p in (folder / "networks").iterdir()}
    assert kept == {"paper", "static", "per_user", "scheduler", "point"} and len(record.trained) == 3
    page = (folder / "page.html").read_text()
    assert all(f.title in page and (f.shown == "table" or f'id="{f.figure}"' in page) for f in record.figures)
    quality = store.read_record(folder / "quality.json", AllocationQuality)
    assert quality.family == "allocator_b" and len(quality.delay_s) == 30 and "2 steps, seeds 0" in quality.source


def test_a_second_run_trains_nothing_and_prints_what_it_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.learning, "learn", None)
    words = ("simulate", "offloading", "--quick", "--steps", "2", "--out", str(folder))
    said = " ".join(kit(*words, "--figure", "fig7").split())
    assert "fig7a Users who compute too: mean delay over data size" in said and "Policy MoE (RL)" in said
    assert "table1" not in said and str(folder / "page.html") in said
    found = json.loads(kit(*words, "--figure", "table1", "--json"))
    assert found["figures"][0]["figure"] == "table1" and found["figures"][0]["lines"][0]["published"][0] == 87040.0
    assert found["parameters"]["bars"] == {}


def test_deciding_is_free_where_the_delay_says_so(folder: Path) -> None:
    words = ("simulate", "offloading", "--quick", "--steps", "2", "--out", str(folder), "--figure", "fig11", "--json")
    timed, free = (json.loads(kit(*words, *more)) for more in ((), ("--delay", "none")))
    assert free["delay"] == "none" and all(v == 0 for line in free["figures"][0]["lines"] for v in line["values"])
    assert all(v > 0 for line in timed["figures"][0]["lines"] for v in line["values"])


def test_bad_words_are_one_sentence(tmp_path: Path) -> None:
    for words, says in (
        (("--figure", "fig77"), "Unknown figure 'fig77': did you mean 'fig7'"),
        (("--delay", "slow"), "--delay does not take 'slow': write none, analytic"),
        (("--delay", "measured:nothing.json"), "nothing.json does not exist: make it with kit knowledge build"),
        (("--seed", "1", "--seeds", "2"), "--seed names seeds and --seeds counts them: give one of the two"),
        (("--device", "tpu"), "Torch finds no device 'tpu' here: take --device cpu"),
    ):
        with pytest.raises(KitError, match=says) as error:
            kit("simulate", "offloading", "--quick", "--out", str(tmp_path / "out"), *words)
        assert error.value.exit_code == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match="is, or lies under, a file: choose a folder"):
        kit("simulate", "offloading", "--quick", "--out", str(tmp_path / "file"))
