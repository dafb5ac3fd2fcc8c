"""``kit simulate placement``: from words to tables, JSON and a page, on a small factory; what cannot be is one sentence."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import pytest
from factory import scaled
from invoke import kit

from kit import store
from kit.errors import BackendUnavailable, UsageError
from kit.papers.placement import SPECTRUM_MODELS, PlacementWorld, agents, experiment, figures, trained
from kit.papers.results import Simulation

QUICK = ("--quick", "--steps", "2")
SMALL = scaled(PlacementWorld(), 2, 14)


@pytest.fixture(scope="module")
def patched() -> pytest.MonkeyPatch:  # type: ignore[misc]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPECTRUM_MODELS, "shared", SMALL)
        patch.setattr(experiment, "OWN_QUICK", 2)
        patch.setattr(experiment, "SHARED_QUICK", 2)
        patch.setattr(experiment, "QUICK_SLOTS", 2)
        yield patch


@pytest.fixture(scope="module")
def folder(patched: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two episodes: everything is made, nothing is learned."""
    out = tmp_path_factory.mktemp("run") / "simulation"
    kit("simulate", "placement", *QUICK, "--out", str(out))
    return out


def test_a_run_writes_json_page_and_policies(folder: Path) -> None:
    record = store.read_record(folder / "simulation.json", Simulation)
    assert record.world == "placement" and record.seeds == (0,) and record.parameters["reading"] == "shared"
    assert record.parameters["episodes"] == 2 and record.parameters["quick"] is True
    assert {f.figure.partition("-")[0].rstrip("abc") for f in record.figures} == set(figures.FIGURES)
    assert {"stable-baselines3", "torch", "scipy", "gymnasium"} <= set(record.versions)
    kept = {trained.load(path)[0].method for path in (folder / "networks").glob("*.policy.json")}
    assert kept == {"td3", "ddpg", "own"}
    page = (folder / "page.html").read_text()
    for figure in record.figures:
        assert escape(figure.title) in page


def test_no_line_exceeds_the_bound_and_random_is_the_worst_rule(folder: Path) -> None:
    record = store.read_record(folder / "simulation.json", Simulation)
    for figure in record.figures:
        if figure.y_name == "average accuracy" and figure.unit == "1" and figure.figure != "fig4-own":
            lines = {line.name: line.values for line in figure.lines}
            for name, values in lines.items():
                for value, bound in zip(values, lines["bound"], strict=True):
                    assert value is None or bound is None or value <= bound + 1e-9, (figure.figure, name)


def test_what_was_found_is_kept_and_one_figure_is_made_alone(folder: Path, patched: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "evaluate", None)
        patch.setattr(agents, "AgentLearner", None)
        told = json.loads(kit("simulate", "placement", *QUICK, "--out", str(folder), "--figure", "scarce", "--json"))
    assert [f["figure"] for f in told["figures"]] == ["scarce"]
    assert told["kind"] == "simulation" and "own over bound, worst world" in told["parameters"]["bars"]


def test_a_given_policy_stands_beside(folder: Path, tmp_path: Path) -> None:
    given = next(p for p in (folder / "networks").glob("own-*.policy.json"))
    told = json.loads(
        kit(
            "simulate", "placement", *QUICK, "--figure", "default", "--policy", str(given), "--out", str(folder), "--json"
        )
    )  # fmt: skip
    lines = {line["name"]: line["values"] for line in told["figures"][0]["lines"]}
    assert lines[f"{given.name.partition('.')[0]} (given)"] == lines["kit's own"]


def test_what_cannot_be_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, message in (
        (("--figure", "fig9"), "Unknown figure 'fig9'"),
        (("--spectrum", "sharde"), "did you mean 'shared'"),
        (("--policy", str(tmp_path / "x.json")), "no policy's name"),
        (("--seed", "1", "--seeds", "2"), "give one of the two"),
        (("--device", "tpu"), "take --device cpu"),
    ):
        with pytest.raises(UsageError, match=message):
            kit("simulate", "placement", *words, "--out", str(tmp_path))
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "stable_baselines3" else found(name, *rest)
    )
    with pytest.raises(
        BackendUnavailable, match=r"agents need stable-baselines3, which is not installed: .*install stable-baselines3$"
    ):
        kit("simulate", "placement", "--out", str(tmp_path))
