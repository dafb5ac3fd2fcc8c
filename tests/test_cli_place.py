"""``kit place`` and ``kit simulate trace``: a request in, a decision out, by a rule or a trained network; a stream; what is refused."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from invoke import kit
from typer.testing import CliRunner

from kit import store
from kit.cli import app, place
from kit.errors import BadRecord, KitError, UnknownName, UsageError
from kit.papers.placement import RULES, PlacementWorld, controller, trace
from kit.papers.placement.controller import Controller, SlotAnswer, SlotRequest, TaskRequest
from kit.records import KnowledgeBase, KnowledgeRow

SMALL = PlacementWorld(gateways=2, devices=4)
RULE = ("--rule", "greedy_balanced")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    path = tmp_path / "world.json"
    path.write_text(SMALL.model_dump_json())
    return path


# ----------------------------------------------------------------------------------------------------------- one request


def test_the_example_is_answered(tmp_path: Path, world: Path) -> None:
    example = kit("place", "--example", "--world", world)
    assert example.count("\n") == 1 and len(SlotRequest.model_validate_json(example).tasks) == SMALL.tasks
    answer = SlotAnswer.model_validate_json(kit("place", "-", *RULE, "--world", world, "--json", text=example))
    assert answer.promised == SMALL.tasks and answer.slot == 0 and answer.average_accuracy > 0.9
    assert {t.device for t in answer.tasks} == set(range(SMALL.tasks)) and all(t.download for t in answer.tasks)
    path, out = tmp_path / "r.json", tmp_path / "a.json"
    path.write_text(example)
    shown = kit("place", path, *RULE, "--world", world, "--out", out)
    assert "slack (ms)" in shown and "idle (%)" in shown and "gateways' clocks" in shown
    assert f"{SMALL.tasks} of {SMALL.tasks} tasks in time" in shown and str(out) in shown.replace("\n", "")
    assert SlotAnswer.model_validate_json(out.read_text()) == answer


def test_an_answers_caches_are_the_next_requests() -> None:
    desk = Controller.of(SMALL, RULES["greedy"])
    request = controller.example(SMALL)
    first = desk.answer(request)
    again = desk.answer(request.model_copy(update={"at_gateways": first.at_gateways, "at_edge": first.at_edge}))
    assert all(t.download for t in first.tasks) and not any(t.download for t in again.tasks)
    assert sum(t.delay_s or 9 for t in again.tasks) <= sum(t.delay_s or 0 for t in first.tasks)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["random", "greedy", "greedy_balanced", "equal"]))
@settings(max_examples=25, deadline=None)
def test_answers_keep_the_budgets_and_say_what_the_world_would(seed: int, rule: str) -> None:
    rng = np.random.default_rng(seed)
    scarce = SMALL.model_copy(update={"band_hz": 0.3e6, "edge_band_hz": 0.4e6, "gateway_hz": 0.1e9, "edge_hz": 0.12e9})
    devices = rng.permutation(SMALL.tasks)[: int(rng.integers(1, SMALL.tasks + 1))]
    request = SlotRequest(
        tasks=tuple(
            TaskRequest(
                device=int(d),
                size_bit=rng.uniform(1e5, 1e6),
                deadline_s=rng.uniform(0.2, 2),
                noisy=bool(rng.random() < 0.5),
                first_bps_per_hz=rng.uniform(1, 8) if rng.random() < 0.5 else None,
            )
            for d in devices
        ),
        at_gateways={"light": (0, 3)},
        at_edge={"heavy": (1, 2, 7)},
    )
    answer = Controller.of(scarce, RULES[rule]).answer(request)
    assert SlotAnswer.model_validate_json(controller.answer_line(answer)) == answer
    assert [t.device for t in answer.tasks] == devices.tolist()
    for name in ("first_share", "second_share", "edge_share"):
        assert sum(getattr(t, name) for t in answer.tasks) <= 1 + 1e-9
    for gateway in range(SMALL.gateways):
        there = [t.gateway_share for t in answer.tasks if t.device // SMALL.devices == gateway]
        assert sum(there) <= 1 + 1e-9
    for task, asked in zip(answer.tasks, request.tasks, strict=True):
        in_time = task.delay_s is not None and task.delay_s <= asked.deadline_s
        assert (task.accuracy > 0) == in_time
        if task.node == "gateway":
            assert task.second_share == task.edge_share == 0 and task.first_share > 0 and task.gateway_share > 0
        if task.node == "edge":
            assert task.first_share == task.gateway_share == 0 and task.second_share > 0 and task.edge_share > 0
        assert (task.node == "none") == (task.variant is None)
    assert answer.promised == sum(t.accuracy > 0 for t in answer.tasks)
    assert answer.average_accuracy == pytest.approx(np.mean([t.accuracy for t in answer.tasks]))


@pytest.mark.parametrize("rule", ["greedy_balanced", "lp_rounding"])
def test_slack_and_idle_shares_are_told_and_nothing_that_is_used_lies_idle(rule: str) -> None:
    world = PlacementWorld(gateways=3, devices=6)
    request = controller.example(world)
    answer = Controller.of(world, RULES[rule]).answer(request)
    for task, asked in zip(answer.tasks, request.tasks, strict=True):
        assert task.delay_s is not None and task.slack_s == pytest.approx(asked.deadline_s - task.delay_s)
    slacks = [t.slack_s for t in answer.tasks if t.slack_s is not None]
    assert answer.least_slack_s == min(slacks) > 1e-5  # was 9e-9 s beside idle clocks
    idle = answer.idle
    assert (len(idle.first), len(idle.second), len(idle.gateway), len(idle.edge)) == (1, 1, 3, 1)
    for parts, name in ((idle.first, "first"), (idle.second, "second"), (idle.edge, "edge")):
        used = sum(getattr(t, f"{name}_share") for t in answer.tasks)
        assert parts[0] == pytest.approx(1 - used, abs=1e-9) and (used == 0 or parts[0] < 1e-6)


def test_a_pool_of_each_gateway_and_a_late_task_are_told() -> None:
    world = PlacementWorld(gateways=2, devices=2, band="per_gateway", pools="literal")
    request = SlotRequest(tasks=(TaskRequest(device=0, size_bit=4e5, deadline_s=1e-3),))
    desk = Controller.of(world, lambda world, *given: RULES["random"](world, *given))
    answer = desk.answer(request)
    assert len(answer.idle.first) == 2 and len(answer.idle.gateway) == 1
    assert answer.promised == 0 and (answer.least_slack_s is None or answer.least_slack_s < 0)


def test_a_slot_without_tasks_is_answered() -> None:
    answer = Controller.of(SMALL, RULES["greedy"]).answer(SlotRequest(tasks=(), at_edge={"light": (0,)}))
    assert answer.tasks == () and answer.promised == 0 and answer.average_accuracy == 0.0
    assert answer.least_slack_s is None and answer.idle.edge == (1.0,)


TASK = {"device": 0, "size_bit": 4e5, "deadline_s": 1.8}


@pytest.mark.parametrize(
    ("request_", "kind", "says"),
    [
        ("{", BadRecord, "is no request: the record: invalid JSON"),
        ({"tasks": [{**TASK, "deadline_s": -1}]}, BadRecord, "tasks.0.deadline_s"),
        ({"tasks": [{**TASK, "size": 1}]}, BadRecord, "tasks.0.size: extra inputs"),
        ({"tasks": [{**TASK, "device": 8}]}, BadRecord, "Device 8 has a task and this factory has 8 devices"),
        ({"tasks": [TASK, TASK]}, BadRecord, "Device 0 has two tasks in this request"),
        ({"tasks": [], "at_edge": {"heavi": [0]}}, UnknownName, "Unknown variant 'heavi': did you mean 'heavy'"),
        ({"tasks": [], "at_gateways": {"light": [8]}}, BadRecord, "Device 8 has a model light"),
        ({"tasks": [], "at_edge": {"light": [-1]}}, BadRecord, "at_edge.light.0: input should be greater"),
        ({"tasks": [{**TASK, "device": 2**70}]}, BadRecord, "tasks.0.device: input should be less"),
        ({"tasks": [], "schema_version": 2}, BadRecord, "schema_version"),
    ],
)
def test_a_bad_request_is_one_sentence(world: Path, request_: Any, kind: type[KitError], says: str) -> None:
    text = request_ if isinstance(request_, str) else json.dumps(request_)
    with pytest.raises(kind) as caught:
        kit("place", "-", *RULE, "--world", world, text=text)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("place", "r.json"), "Say what decides: --policy FILE.policy.json, or --rule greedy_balanced"),
        (("place", "r.json", *RULE, "--policy", "x.policy.json"), "Say what decides"),
        (("place", *RULE), "Give a request: a file, or - for standard input"),
        (("place", "none.json", *RULE), "none.json does not exist"),
        (("place", "r.json", "--rule", "gready"), "Unknown rule 'gready': did you mean 'greedy'"),
        (("place", "r.json", "--serve", *RULE), "leave REQUEST and --out away"),
        (("place", "--example", "--spectrum", "share"), "did you mean 'shared'"),
        (("place", "--example", "--spectrum", "shared", "--world", "w.json"), "both name a world"),
        (("place", "--example", "--world", "none.json"), "none.json does not exist"),
        (("place", "r.json", "--policy", "none.json"), "ends in .policy.json"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_sentence(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        kit(*words)
    assert says in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------- a stream


def test_a_served_stream_answers_line_by_line_and_survives_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    request = controller.example(SMALL).model_dump_json()
    lines = [request, "", "nonsense", '{"tasks": [{"device": 99, "size_bit": 1, "deadline_s": 1}]}', request]
    answers = io.BytesIO()
    place._serve(Controller.of(SMALL, RULES["greedy"]), io.BytesIO("\n".join(lines).encode()), answers)
    found = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert [f["kind"] for f in found] == ["placement-answer", "placement-error", "placement-error", "placement-answer"]
    assert [f["line"] for f in found if "line" in f] == [3, 4]
    assert "line 3 is no request" in found[1]["error"] and "Device 99" in found[2]["error"]
    told = capsys.readouterr().err
    assert told.startswith("2 decisions, 2 requests refused; from a line read to its answer written: median ")


def test_a_stream_is_recorded_as_a_trace(tmp_path: Path) -> None:
    request = controller.example(SMALL)
    fewer = request.model_copy(update={"tasks": request.tasks[2:5], "slot": 1})
    lines = "\n".join([request.model_dump_json(), "nonsense", fewer.model_dump_json()])
    place._serve(Controller.of(SMALL, RULES["greedy"]), io.BytesIO(lines.encode()), io.BytesIO(), tmp_path / "t.jsonl")
    found = trace.read(tmp_path / "t.jsonl")
    assert [int(t.present.sum()) for t in found.slots] == [SMALL.tasks, 3] and found.requests == SMALL.tasks + 3
    assert found.slots[0].size_bit[0].tolist() == [t.size_bit for t in request.tasks]
    with pytest.raises(UsageError, match="give it with --serve"):
        kit("place", "r.json", *RULE, "--record", tmp_path / "t.jsonl")


def test_the_stream_of_the_command_line(world: Path) -> None:
    example = kit("place", "--example", "--world", world)
    done = CliRunner().invoke(app, ["place", "--serve", *RULE, "--world", str(world)], input=example * 3)
    assert done.exit_code == 0
    assert (
        len({SlotAnswer.model_validate_json(line).promised for line in done.stdout.splitlines() if line[:1] == "{"})
        == 1
    )
    done = CliRunner().invoke(app, ["place", "--serve", *RULE, "--world", str(world)], input="")
    assert done.exit_code == 0 and "0 decisions" in done.output


def test_the_controller_runs_without_the_workshop(tmp_path: Path, world: Path) -> None:
    """A board has neither torch nor scipy nor an agents' library."""
    request = tmp_path / "r.json"
    request.write_text(controller.example(SMALL).model_dump_json())
    code = f"""
        import sys
        class Guard:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("torch", "scipy", "gymnasium", "stable_baselines3", "onnx", "plotly"):
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Guard())
        sys.argv = ["kit", "place", {str(request)!r}, "--rule", "greedy_balanced", "--world", {str(world)!r}, "--json"]
        from kit.cli import main
        main()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert SlotAnswer.model_validate_json(done.stdout).promised == SMALL.tasks


# ------------------------------------------------------------------------------------------------------- a trained policy


def test_a_trained_policy_decides_in_its_own_world(tmp_path: Path) -> None:
    """A network without weights: every entry of every action is 0.6, so all tasks stay at home with the heavy model."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from kit.papers.placement import trained

    seen, acted = SMALL.tasks * 7, SMALL.tasks * 10
    helper, numbers = onnx.helper, onnx.numpy_helper
    weight, bias = np.zeros((seen, acted), np.float32), np.full(acted, 0.6, np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["seen", "w", "b"], ["action"])],
        "actor",
        [helper.make_tensor_value_info("seen", onnx.TensorProto.FLOAT, [None, seen])],
        [helper.make_tensor_value_info("action", onnx.TensorProto.FLOAT, [None, acted])],
        [numbers.from_array(weight, "w"), numbers.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path / "actor.policy.json"
    record = trained.TrainedPolicy(method="td3", world=SMALL, models_seed=3, seed=0, steps=0, train_s=0.0)
    trained.save(path, record, model.SerializeToString())
    request = controller.example(SMALL).model_dump_json()
    answer = SlotAnswer.model_validate_json(kit("place", "-", "--policy", path, "--json", text=request))
    assert {t.node for t in answer.tasks} == {"gateway"} and {t.variant for t in answer.tasks} == {"heavy"}
    assert all(t.first_share == pytest.approx(1 / SMALL.tasks) for t in answer.tasks)
    assert all(t.gateway_share == pytest.approx(1 / SMALL.devices) for t in answer.tasks)
    other = SlotAnswer.model_validate_json(
        kit("place", "-", "--policy", path, "--models-seed", 4, "--json", text=request)
    )
    assert other.average_accuracy != answer.average_accuracy
    with pytest.raises(UsageError, match="trained for 8 tasks of 2 variants"):
        kit("place", "-", "--policy", path, "--spectrum", "shared", text='{"tasks": []}')


# ------------------------------------------------------------------------------------------------------------------ traces


def test_a_trace_is_generated(tmp_path: Path, world: Path) -> None:
    out = tmp_path / "t.jsonl"
    words = (
        "simulate",
        "trace",
        "--out",
        out,
        "--slots",
        6,
        "--rate",
        0.5,
        "--burst-rate",
        2,
        "--fading",
        "--world",
        world,
    )
    said = json.loads(kit(*words, "--json"))
    found = trace.read(out)
    assert said["requests"] == found.requests and said["slots"] == len(found.slots) == 6 and found.header.world == SMALL
    assert "burst_rate=2" in said["source"] and "rician_k=10" in found.header.source
    first = out.read_bytes()
    assert f"{found.requests} requests in 6 slots" in kit(*words) and out.read_bytes() == first
    with pytest.raises(UsageError, match="No trace can be made of this: burst_slots"):
        kit(*words, "--burst-slots", "0.5")
    with pytest.raises(UsageError, match="No trace can be made of this: memory"):
        kit(*words, "--memory", "1")


# ------------------------------------------------------------------------------------------------- the playground's verb


@pytest.fixture
def knowledge(tmp_path: Path) -> Path:
    """Two variants on two devices, one of them slow."""

    def row(name: str, device: str, median_s: float, accuracy: float) -> KnowledgeRow:
        return KnowledgeRow(
            artifact_id=name, sha256=name, device_id=device, backend="onnxruntime", threads=1, precision="fp32",
            median_s=median_s, p95_s=1.1 * median_s, p99_s=1.2 * median_s, label="stable", memory_bytes=1,
            size_bytes=5_000_000, macs=50_000_000, accuracy=accuracy, dataset="d", record_id=name,
        )  # fmt: skip

    rows = [
        row(n, d, s * t, a)
        for n, s, a in (("a", 1e-3, 0.9), ("b", 4e-3, 0.98))
        for d, t in (("slow", 5.0), ("fast", 1.0))
    ]
    path = tmp_path / "k.json"
    store.write_record(path, KnowledgeBase(created_utc=synthetic.NOW, kit_version="0", rows=tuple(rows)))
    return path


def test_measured_models_and_a_trace_are_simulated(
    tmp_path: Path, world: Path, knowledge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("stable_baselines3")
    from kit.papers.placement import experiment

    monkeypatch.setattr(experiment, "own_of", lambda *_: (None, RULES["greedy"]))  # its training has tests of its own
    path, out = tmp_path / "t.jsonl", tmp_path / "out"
    kit("simulate", "trace", "--out", path, "--slots", 2, "--rate", 0.7, "--fading", "--world", world)
    asked = ("simulate", "placement", "--trace", path, "--out", out, "--seed", 3, "--json")
    plain = json.loads(kit(*asked))
    assert [f["figure"] for f in plain["figures"]] == ["trace"] and plain["parameters"]["gateways"] == SMALL.gateways
    assert plain["delay"] == "analytic" and plain["parameters"]["trace"] == str(path)
    variants = ("--models", f"measured:{knowledge}", "--light", "a", "--heavy", "b", "--end", "slow", "--edge", "fast")
    found = json.loads(kit(*asked, *variants, "--noisy", "b=0.95"))
    (figure,) = found["figures"]
    assert figure["figure"] == "assignment" and found["delay"].startswith("measured:")
    assert figure["x"][-2:] == ["a", "b"] and "kit's own, measured" in [line["name"] for line in figure["lines"]]
    assert found["parameters"]["variants"][1]["accuracy_noisy"] == [0.95, 0.95]
    assert (out / "page.html").is_file() and (out / "simulation.json").is_file()
    refused = [
        (("--light", "a"), "--light goes with --models measured:KNOWLEDGE.json"),
        (variants[:6], "needs --end, --edge too"),
        ((*variants, "--noisy", "b"), "--noisy does not take 'b': write ID=0.93"),
        ((*variants, "--percentile", "80"), "keep the percentiles 50, 90, 95, 99, not 80"),
        (("--spectrum", "shared"), "2 gateways with 4 devices each, and the world has 10 and 35"),
    ]
    for words, says in refused:
        with pytest.raises(UsageError) as caught:
            kit(*asked, *words)
        assert says in str(caught.value)
