"""Rows that nobody measured: how they are made, how far they are believed, and what replaces them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulated
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from invoke import kit

from kit import knowledge, latency, spaces, store
from kit.cli.front import thinned
from kit.errors import BadRecord, KitError, NoAnswer, UsageError
from kit.evaluation import read_accuracies
from kit.knowledge import measuring
from kit.knowledge.predicted import MEMORY_LEAST, fit_memory
from kit.knowledge.rows import Tail
from kit.records import Accuracy, KnowledgeBase, KnowledgeRow, Need, ProfileRecord, SubNetwork

SPACE = spaces.space_of("resnet18")
FP32 = [sub for sub in SPACE.sample(120, 0) if sub.precision == "fp32"]
MEASURED, OTHERS = FP32[:14], FP32[14:20]
HERE = "simulated"


def profile(sub: SubNetwork, **more: Any) -> ProfileRecord:
    record = simulated.Machine(0).profile(sub.id, spaces.kernels(sub), **more)
    return record.model_copy(update={"record_id": f"made-{sub.id}"})


@pytest.fixture(scope="module")
def profiles() -> list[ProfileRecord]:
    return [profile(sub) for sub in MEASURED]


@pytest.fixture(scope="module")
def predictor(profiles: list[ProfileRecord]) -> latency.Predictor:
    return latency.predictor(profiles, baselines=False)


@pytest.fixture(scope="module")
def base(profiles: list[ProfileRecord]) -> KnowledgeBase:
    return knowledge.build(profiles)


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profiles: list[ProfileRecord], predictor: latency.Predictor
) -> Path:
    """Profiles, the model fitted to them, and an accuracy for every member of the space that grows with its work."""
    monkeypatch.chdir(tmp_path)
    for one in profiles:
        bare = one.artifact.model_copy(update={"accuracy": None})
        store.append_line(Path("p.jsonl"), one.model_copy(update={"artifact": bare}))
    latency.save(Path("m.json"), predictor)
    shares = {sub.id: 0.5 + 0.02 * float(np.log10(spaces.macs(sub))) for sub in FP32}
    Path("a.json").write_text(json.dumps(shares))
    return tmp_path


# ---------------------------------------------------------------------------------------------------------------- rows


def test_a_predicted_row_is_marked_and_states_its_uncertainty(
    predictor: latency.Predictor, base: KnowledgeBase
) -> None:
    int8 = next(sub for sub in SPACE if sub.precision == "int8")
    predicted = knowledge.predicted_rows(predictor, [*OTHERS, int8], base.rows, threads=1, model="m")
    assert [r.artifact_id for r in predicted.rows] == [sub.id for sub in OTHERS]
    assert predicted.left_out == {int8.id: "int8 was not measured"}
    for row, sub in zip(predicted.rows, OTHERS, strict=True):
        assert (row.origin, row.label, row.sha256, row.accuracy, row.record_id) == ("predicted", None, "", None, "m")
        assert row.low_s is not None and row.high_s is not None and row.low_s < row.median_s < row.high_s
        assert row.size_bytes == spaces.counts(sub).weight_bytes and row.macs == spaces.macs(sub)
        truth = simulated.Machine(0).seconds(spaces.kernels(sub))
        assert row.low_s * 0.8 < truth < row.high_s * 1.25


def test_nothing_is_predicted_where_nothing_was_measured(predictor: latency.Predictor, base: KnowledgeBase) -> None:
    elsewhere = [r.model_copy(update={"device_id": "other"}) for r in base.rows]
    with pytest.raises(BadRecord, match="Nothing trusted was measured on simulated"):
        knowledge.predicted_rows(predictor, OTHERS, elsewhere, threads=1, model="m")


@given(
    st.floats(1e-6, 1.0), st.floats(0, 0.5), st.floats(0, 0.5),
    st.floats(1.0, 1.5), st.floats(0, 0.2), st.floats(0, 0.5),
)  # fmt: skip
def test_the_interval_of_a_p99_holds_both_uncertainties(
    seconds: float, down: float, up: float, ratio: float, below: float, above: float
) -> None:
    tail = Tail({90: 1.0, 95: 1.0, 99: ratio}, ratio * (1 - below), ratio * (1 + above))
    low, high = tail.p99_interval(seconds, seconds * (1 - down), seconds * (1 + up))
    p99 = seconds * ratio
    assert low <= p99 * min(1 - down, 1 - below) * (1 + 1e-9) and high >= p99 * max(1 + up, 1 + above) * (1 - 1e-9)
    assert low >= p99 * (1 - down) * (1 - below) * (1 - 1e-9) and high <= p99 * (1 + up) * (1 + above) * (1 + 1e-9)


def test_what_was_measured_takes_the_place_of_a_prediction(
    predictor: latency.Predictor, base: KnowledgeBase, profiles: list[ProfileRecord]
) -> None:
    predicted = knowledge.predicted_rows(predictor, [*MEASURED[:3], *OTHERS], base.rows, threads=1, model="m").rows
    both = knowledge.joined(base, predicted)
    assert sum(r.origin == "predicted" for r in both.rows) == len(OTHERS)
    measured = knowledge.row_of(profile(OTHERS[0]))
    better = knowledge.joined(both, [measured])
    assert [r.origin for r in better.rows if r.artifact_id == OTHERS[0].id] == ["measured"]
    doubtful = measured.model_copy(update={"label": "inconclusive"})
    assert len(knowledge.joined(both, [doubtful]).rows) == len(both.rows)
    failed = profile(OTHERS[0]).model_copy(
        update={"measurement": None, "label": None, "status": "crashed", "reason": None}
    )
    with pytest.raises(BadRecord, match="was not measured: crashed"):
        knowledge.row_of(failed)


# -------------------------------------------------------------------------------------------------------------- memory


def features(count: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return np.column_stack([np.ones(count), rng.uniform(1e5, 5e7, count), rng.uniform(1e5, 5e6, count)])


@given(st.integers(MEMORY_LEAST, 40), st.integers(0, 1000), st.floats(1.0, 4.0), st.floats(0, 8.0))
def test_memory_follows_weights_and_activations(count: int, seed: int, per_weight: float, per_byte: float) -> None:
    x = features(count, seed)
    true = x @ np.array([2e7, per_weight, per_byte])
    model = fit_memory(x, true)
    assert model is not None
    estimates = np.array([model.estimate(row) or 0 for row in x])
    assert np.all(np.abs(estimates / true - 1) < 1e-3)
    assert model.estimate(x.max(axis=0) * 2) is None and model.estimate(np.array([1.0, 1e3, 1e3])) is None


def test_memory_stays_unknown_where_nothing_carries_it() -> None:
    x = features(30, 1)
    assert fit_memory(x[:9], x[:9] @ np.array([1e7, 3.0, 1.0])) is None
    assert fit_memory(x, np.random.default_rng(2).uniform(1e6, 1e9, 30)) is None


def test_an_estimate_of_memory_is_an_upper_one() -> None:
    rng = np.random.default_rng(3)
    x = features(200, 4)
    true = x @ np.array([2e7, 3.0, 2.0]) * np.exp(0.03 * rng.standard_normal(200))
    model = fit_memory(x[:100], true[:100])
    assert model is not None
    estimates = [(e, t) for row, t in zip(x[100:], true[100:], strict=True) if (e := model.estimate(row)) is not None]
    assert 0.8 <= np.mean([e >= t for e, t in estimates]) <= 0.98


def test_rows_carry_memory_when_enough_was_measured(predictor: latency.Predictor, base: KnowledgeBase) -> None:
    def of(row: KnowledgeRow) -> KnowledgeRow:
        weights = spaces.counts(spaces.subnetwork(row.artifact_id)).weight_bytes
        return row.model_copy(update={"memory_bytes": 20_000_000 + 3 * weights})

    like = [of(r) for r in base.rows]
    predicted = knowledge.predicted_rows(predictor, OTHERS, like, threads=1, model="m").rows
    known = [(r, 20e6 + 3 * r.size_bytes) for r in predicted if r.memory_bytes is not None]
    assert known and all(r.memory_bytes == pytest.approx(true, rel=0.02) for r, true in known)
    few = knowledge.predicted_rows(predictor, OTHERS, like[:5], threads=1, model="m").rows
    assert all(r.memory_bytes is None for r in few)


# -------------------------------------------------------------------------------------------------- what they would choose


def test_regret_of_held_out_predictions(predictor: latency.Predictor, base: KnowledgeBase) -> None:
    predicted, truth = knowledge.held_out_rows(predictor, base.rows)
    assert {r.artifact_id for r in predicted} == {r.artifact_id for r in truth} == {sub.id for sub in MEASURED}
    seconds, low, high = predictor.held_out()
    assert sorted(r.median_s for r in predicted) == pytest.approx(sorted(seconds.tolist()))
    assert np.all((low < seconds) & (seconds < high))
    needs = knowledge.random_needs(truth, 40, seed=1)
    true_rows = {knowledge.key(r): r for r in truth}
    measured_first = knowledge.regret(predicted, truth, needs, measure=lambda row: true_rows[knowledge.key(row)])
    assert measured_first.missed_share == 0
    papers = knowledge.papers_rows([r.model_copy(update={"clock_hz": 2e9}) for r in truth])
    assert [r.median_s for r in papers] == [pytest.approx((r.macs or 0) / 2e9) for r in truth]
    assert knowledge.papers_rows([r.model_copy(update={"clock_hz": None}) for r in truth]) == []


def test_a_model_of_other_measurements_says_so(predictor: latency.Predictor, base: KnowledgeBase) -> None:
    others = [r.model_copy(update={"record_id": "other"}) for r in base.rows]
    with pytest.raises(BadRecord, match="fitted to none of these measurements"):
        knowledge.held_out_rows(predictor, others)
    with pytest.raises(BadRecord, match="without its held-out predictions"):
        knowledge.held_out_rows(predictor.model_copy(update={"held_out_s": ()}), base.rows)


# ---------------------------------------------------------------------------------------------------------------- verbs


def build(*more: str) -> Any:
    words = ("knowledge", "build", "p.jsonl", "--model", "m.json", "--space", "resnet18", "--sample", "60", *more)
    return json.loads(kit(*words, "--json"))


def test_build_adds_predicted_rows_and_says_what_it_left_out(folder: Path) -> None:
    about = build("--accuracy", "a.json")
    rows = store.read_record(Path("knowledge.json"), KnowledgeBase).rows
    predicted = [r for r in rows if r.origin == "predicted"]
    assert about["predicted"] == len(predicted) > 10 and set(about["left_out"].values()) == {"int8 was not measured"}
    assert {r.record_id.split()[0] for r in predicted} == {"m.json"}
    assert all(r.accuracy is not None for r in rows if r.artifact_id in {sub.id for sub in MEASURED})
    assert build("--seed", "1")["predicted"] != 0


def test_a_choice_that_is_predicted_is_not_promised(folder: Path) -> None:
    build("--accuracy", "a.json")
    printed = json.loads(kit("knowledge", "ask", "--json"))
    if printed["chosen"]["origin"] == "predicted":
        assert not printed["promised"] and f"kit profile {printed['chosen']['id']}" in printed["text"]
    unknown = json.loads(kit("knowledge", "build", "p.jsonl", "--json"))
    assert unknown["predicted"] == 0 and all(r["accuracy"] is None for r in unknown["rows"])


def test_measure_measures_before_it_promises(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measuring itself is the profiler's and tested there; here a record made up stands for it."""
    build("--accuracy", "a.json")
    monkeypatch.setattr(measuring, "recognise", lambda: synthetic.device(HERE))
    measured_rows: list[tuple[str, Path]] = []

    def profiled(row: KnowledgeRow, spec: Any, out: Path, on_step: Any) -> ProfileRecord:
        measured_rows.append((row.artifact_id, out))
        return profile(spaces.subnetwork(row.artifact_id))

    monkeypatch.setattr(measuring, "_profiled", profiled)
    rows = store.read_record(Path("knowledge.json"), KnowledgeBase).rows
    best = max((r for r in rows if r.origin == "predicted"), key=lambda r: (r.accuracy or 0, -r.p99_s))
    need = ("--min-accuracy", f"{(best.accuracy or 0) - 1e-9:.12f}", "--deadline-ms", f"{best.p99_s * 1.3e3}")
    printed = json.loads(kit("knowledge", "ask", *need, "--measure", "--json"))
    assert printed["promised"] and printed["chosen"]["origin"] == "measured"
    now = store.read_record(Path("knowledge.json"), KnowledgeBase).rows
    for name, out in measured_rows:
        assert out == Path("kit-profiles") / HERE / measuring.FILE
        (row,) = [r for r in now if r.artifact_id == name]
        assert row.origin == "measured" and row.sha256 and row.accuracy is not None
    assert json.loads(kit("knowledge", "ask", *need, "--measure", "--json"))["chosen"] == printed["chosen"]


def test_measure_that_fails_goes_on_to_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("--accuracy", "a.json")
    monkeypatch.setattr(measuring, "recognise", lambda: synthetic.device(HERE))

    def crashed(row: KnowledgeRow, spec: Any, out: Path, on_step: Any) -> ProfileRecord:
        gone = {"measurement": None, "label": None, "status": "crashed", "reason": "no luck"}
        return profile(spaces.subnetwork(row.artifact_id)).model_copy(update=gone)

    monkeypatch.setattr(measuring, "_profiled", crashed)
    printed = json.loads(kit("knowledge", "ask", "--measure", "--json"))
    assert printed["chosen"]["origin"] in ("measured", "predicted") and printed["promised"] == (
        printed["chosen"]["origin"] == "measured"
    )


def test_measure_needs_the_device_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build()
    monkeypatch.setattr(measuring, "recognise", lambda: synthetic.device("another"))
    with pytest.raises(UsageError, match=r"this machine \(another\) and these rows are of simulated"):
        kit("knowledge", "ask", "--measure")


def test_a_front_of_thousands_fits_a_screen(base: KnowledgeBase) -> None:
    rows = [base.rows[0].model_copy(update={"p99_s": 1e-3 * i}) for i in range(1, 1001)]
    shown = thinned(rows)
    assert len(shown) == 40 and shown[0] is rows[0] and shown[-1] is rows[-1] and thinned(rows[:7]) == rows[:7]


# ------------------------------------------------------------------------------------------------------------ wrong inputs


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"a": 91}', '{"a": NaN}', '{"a": true}', '{"a": "high"}', '{"a": {"top1": 0.9, "set": 1}}',
     '{"a": {"dataset": "d"}}', '{"a": {"top1": 0.9, "dataset": 3}}', "no json"],
)  # fmt: skip
def test_accuracies_that_are_none_are_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadRecord) as caught:
        read_accuracies(tmp_path / "a.json")
    assert "a.json" in str(caught.value) and "\n" not in str(caught.value)


def test_accuracies_of_both_shapes(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 0.9, "b": {"top1": 1, "dataset": "d"}}')
    assert read_accuracies(tmp_path / "a.json") == {
        "a": Accuracy(top1=0.9),
        "b": Accuracy(top1=1.0, dataset="d"),
    }


def test_wrong_words_are_one_sentence(folder: Path, predictor: latency.Predictor) -> None:
    data = json.loads(Path("m.json").read_text())
    Path("newer.json").write_text(json.dumps({**data, "schema_version": 9}))
    Path("nan.json").write_text(json.dumps({**data, "level": float("nan")}))
    latency.save(Path("other.json"), predictor.model_copy(update={"device_id": "elsewhere"}))
    build_words = ("build", "p.jsonl")
    for words, says in (
        ((*build_words, "--space", "resnet18"), "add --model M.json"),
        ((*build_words, "--model", "m.json"), "add --space NAME"),
        ((*build_words, "--model", "m.json", "--space", "resnet81"), "did you mean 'resnet18'"),
        ((*build_words, "--model", "none.json", "--space", "resnet18"), "none.json does not exist"),
        ((*build_words, "--model", "newer.json", "--space", "resnet18"), "schema version"),
        ((*build_words, "--model", "nan.json", "--space", "resnet18"), "nan.json"),
        ((*build_words, "--model", "other.json", "--space", "resnet18"), "Nothing trusted was measured on elsewhere"),
        ((*build_words, "--accuracy", "none.json"), "none.json does not exist"),
    ):
        with pytest.raises(KitError, match=says) as caught:
            kit("knowledge", *words)
        assert "\n" not in str(caught.value)
    assert not Path("knowledge.json").exists()


def test_limits_that_contradict_each_other_say_how_far_each_must_give(folder: Path) -> None:
    kit("knowledge", "build", "p.jsonl", "--accuracy", "a.json")
    rows = store.read_record(Path("knowledge.json"), KnowledgeBase).rows
    fastest, best = min(r.p99_s for r in rows), max(r.accuracy or 0 for r in rows)
    need = ("--deadline-ms", f"{fastest * 1.01e3}", "--min-accuracy", f"{best - 1e-9}")
    with pytest.raises(NoAnswer, match="Each limit alone can be met, not all at once: the deadline would have to be"):
        kit("knowledge", "ask", *need)


def test_a_base_of_one_row_answers_every_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("plotly")
    monkeypatch.chdir(tmp_path)
    store.append_line(Path("p.jsonl"), synthetic.profile("net1", 1e-3, accuracy=0.9))
    kit("knowledge", "build", "p.jsonl")
    assert json.loads(kit("knowledge", "ask", "--deadline-ms", "2", "--json"))["runner_up"] is None
    assert "is chosen" in kit("knowledge", "explain", "net1")
    assert "Nothing beats these 1" in kit("knowledge", "pareto")
    assert "1 variants" in kit("knowledge", "compile")
    assert "decisions.html" in kit("knowledge", "map")
    with pytest.raises(NoAnswer, match="the nearest is net1"):
        kit("knowledge", "ask", "--deadline-ms", "0.5")
    with pytest.raises(KitError, match="Unknown device"):
        kit("knowledge", "ask", "--device", "synthetic-9c")


def test_need_of_an_empty_base() -> None:
    with pytest.raises(BadRecord, match="empty"):
        knowledge.ask([], Need())
