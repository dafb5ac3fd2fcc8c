"""Allocators are profiled like any network: one network, one id, in every runtime's form; and their times reach the papers' worlds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import synthetic
from invoke import kit

from kit import backends, knowledge, spaces, store
from kit.allocators import fileformat, registry
from kit.allocators import runtime as runtime
from kit.errors import BadRecord, IntegrityError, KitError, UnknownName, UsageError
from kit.measure import targets
from kit.papers.delays import Analytic, Measured, computing_s, delay_of, describe
from kit.records import AllocationQuality, Artifact, KnowledgeBase, KnowledgeRow, SizeTiming
from kit.spaces import allocator

SIZES = [
    "allocator_a-d2-w0.03-fp32-30", "allocator_a-d2-w0.27-fp32-30", "allocator_a-d2-w1.00-fp32-30", "allocator_a_static-d2-w1.00-fp32-30",
    "allocator_b-d1-w0.10-fp32-5", "allocator_b-d2-w0.40-fp32-30", "allocator_b-d3-w1.00-fp32-30", "allocator_b_static-d3-w1.00-fp32-30",
    "allocator_u-d1-w0.03-fp32-30", "allocator_u-d2-w0.50-fp32-30", "allocator_u-d3-w1.00-fp32-30", "allocator_u_b-d3-w0.75-fp32-30",
]  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the same network


@pytest.mark.parametrize("text", SIZES)
def test_one_network_in_every_runtime(text: str, tmp_path: Path) -> None:
    """The same id, MACs, tensors and answers: only the runtime differs."""
    pytest.importorskip("torch")
    from kit.variants import program

    resolved = {
        name: targets.resolve([text], backend=name, folder=tmp_path, program=program.write)[0]
        for name in ("allocator", "allocator-numpy", "onnxruntime", "pytorch")
    }
    ours = resolved["allocator"].artifact
    assert {t.artifact.artifact_id for t in resolved.values()} == {text} == {ours.artifact_id}
    assert len({(t.artifact.macs, t.artifact.inputs, t.artifact.outputs) for t in resolved.values()}) == 1
    assert ours.macs == spaces.macs(spaces.subnetwork(text))
    answers = {}
    for name, target in resolved.items():
        session = backends.load(name).open(target.path, target.artifact, 1)
        answers[name] = session.run(backends.make_feeds(session.inputs, seed=3))[0]
        session.close()
    for name, answer in answers.items():
        assert np.allclose(answer, answers["allocator-numpy"], rtol=1e-5, atol=1e-9), name
        assert answer.sum(1) == pytest.approx(np.ones(len(answer)), abs=1e-5)


def test_a_torch_program_computes_the_active_experts_alone(tmp_path: Path) -> None:
    """NaN in every expert that the gate leaves out changes nothing; equal networks give equal programs."""
    torch = pytest.importorskip("torch")
    from kit.variants import program

    net = fileformat.member(spaces.subnetwork("allocator_a-d2-w0.10-fp32-30"))
    x = np.random.default_rng(1).standard_normal((1, 90)).astype(np.float32)
    h = np.maximum(x[0] @ net.arrays["input_weight"] + net.arrays["input_bias"], 0)
    chosen = np.argsort(-(h @ net.arrays["gate_weight"]))[:3]
    arrays = {k: v.copy() for k, v in net.arrays.items()}
    for name, value in arrays.items():
        if name.startswith("expert"):
            value[np.setdiff1d(np.arange(30), chosen)] = np.nan
    poisoned = fileformat.AllocatorNetwork(net.spec, arrays, net.size, net.users)
    program.write(poisoned, tmp_path / "x.pt2")
    with torch.inference_mode():
        answer = torch.export.load(tmp_path / "x.pt2").module()(torch.tensor(x)).numpy()
    assert np.allclose(answer, runtime.shares(net, x), rtol=1e-5)
    assert program.write(net, tmp_path / "y.pt2").sha256 == program.write(net, tmp_path / "z.pt2").sha256


def test_nothing_of_torchs_export_stands_around_a_timed_call(tmp_path: Path) -> None:
    """Its hooks and its unpacking of nested inputs take as long as a small allocator's operators."""
    pytest.importorskip("torch")
    from kit.backends import pytorch
    from kit.variants import program

    program.write(fileformat.member(spaces.subnetwork(SIZES[0])), tmp_path / "x.pt2")
    module = pytorch._load(tmp_path / "x.pt2", "cpu")
    assert not module._forward_hooks and not module._forward_pre_hooks
    assert "pytree" not in module.code


@pytest.mark.parametrize("root", fileformat.ROOTS)
def test_both_descriptions_count_the_same(root: str) -> None:
    for sub in spaces.SPACES[root].sample(min(40, spaces.SPACES[root].size), 0):
        net = fileformat.member(sub)
        assert fileformat.subnetwork(net) == sub
        assert fileformat.macs(net.spec, net.size, net.users) == spaces.macs(sub)
        stored = spaces.space_of(root).architecture(sub).net().stored
        shapes = {name: s.shape for name, s in stored.items() if not s.setting}
        assert {name: w.shape for name, w in allocator.weights_of(net).items()} == shapes


def test_sizes_of_the_families() -> None:
    named = {name: [s.id for s in registry.sizes(name)] for name in registry.FAMILIES}
    every = {name: [s.id for s in registry.sizes(name, every=True)] for name in registry.FAMILIES}
    assert [len(v) for v in named.values()] == [57, 11, 31, 15, 15]
    assert [len(v) for v in every.values()] == [158, 31, 31, 96, 96]
    assert all(set(named[f]) <= set(every[f]) for f in named)
    assert {knowledge.size_of(spaces.subnetwork(i)) for i in every["allocator_b"]} == {
        f"{k},{n}" for k in range(1, 11) for n in (1, 2, 3)
    }
    assert {knowledge.size_of(spaces.subnetwork(i)) for i in every["allocator_a"]} == {str(k) for k in range(1, 31)}
    assert knowledge.size_of(spaces.subnetwork("allocator_u-d2-w0.25-fp32-30")) == "8,2"
    assert knowledge.size_of(spaces.subnetwork("allocator_b_static-d3-w1.00-fp32-30")) == "1,3"


# ---------------------------------------------------------------------------------------------------------------- targets


def test_a_family_is_its_sizes_and_a_file_of_that_name_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    resolved = targets.resolve(["allocator_u", "allocator_u-d1-w0.12-fp32-30"], backend="allocator", folder=tmp_path)
    assert len(resolved) == 15 and all(t.path.name == f"{t.artifact.artifact_id}.alloc.npz" for t in resolved)
    assert len(targets.resolve(["allocator_u"], backend="allocator", folder=tmp_path, every=True)) == 96
    Path("allocator_u").mkdir()
    with pytest.raises(UsageError, match="holds no variant"):
        targets.resolve(["allocator_u"], backend="onnxruntime", folder=tmp_path)


def test_a_trained_file_in_each_runtime(tmp_path: Path) -> None:
    net = fileformat.random_network(fileformat.per_user(users=50), 7, 8, 2).cut(users=30)
    path, made_here = tmp_path / "trained.alloc.npz", tmp_path / "made"
    made_here.mkdir()
    written = fileformat.write(net, path, seed=7)
    (own,) = targets.resolve([str(path)], backend="allocator")
    assert own.path == path and own.artifact == written
    (onnx,) = targets.resolve([str(path)], backend="onnxruntime", folder=made_here)
    assert onnx.path.parent == made_here and onnx.artifact.artifact_id == written.artifact_id
    x = backends.make_feeds(written.inputs, 1)
    session = backends.load("onnxruntime").open(onnx.path, onnx.artifact, 1)
    assert np.allclose(session.run(x)[0], runtime.shares(net, x["input"]), rtol=1e-5)
    path.with_suffix(".json").unlink()
    (bare,) = targets.resolve([str(path)], backend="allocator-numpy")
    assert bare.artifact.model == written.model and bare.artifact.macs == written.macs


def test_allocators_that_cannot_be_measured(tmp_path: Path) -> None:
    net = fileformat.random_network(fileformat.per_user(width=12), 0)
    path = tmp_path / "x.alloc.npz"
    artifact = fileformat.write(net, path)
    with pytest.raises(UsageError, match="other shapes than allocator_u-d3-w1.00-fp32-30"):
        targets.resolve([str(path)], backend="onnxruntime", folder=tmp_path)
    with pytest.raises(UsageError, match="add --backend allocator"):
        targets.resolve([str(path)], backend="onnxruntime")
    with pytest.raises(UsageError, match="no PyTorch program"):
        targets.resolve(["allocator_a-d2-w0.27-fp32-30"], backend="pytorch", folder=tmp_path)
    store.write_record(
        path.with_suffix(".json"),
        artifact.model_copy(update={"model": artifact.model.model_copy(update={"size_bytes": 1})}),
    )
    with pytest.raises(IntegrityError, match=r"not the file that x\.alloc\.json describes"):
        targets.resolve([str(path)], backend="allocator")
    with pytest.raises(UnknownName, match="Unknown allocator 'resnet18'"):
        fileformat.member(spaces.SPACES["resnet18"].root)
    with pytest.raises(KitError, match="--all is about a family of allocators"):
        kit("profile", "fake:1us", "--backend", "fake", "--all")


# ----------------------------------------------------------------------------------------------- from a profile to a delay


def test_profiles_become_tables_and_delays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    names = [f"allocator_a-d2-w{w}-fp32-30" for w in ("0.03", "1.00")]
    printed = kit(
        "profile", *names, "--backend", "allocator,onnxruntime,pytorch", "--rounds-max", "1", "--run-s", "0.01", "--name", "allocators",
        "--json",
    )  # fmt: skip
    file = Path(json.loads(printed)["file"])
    records = store.read_profiles([file])
    assert file.name == "allocators.jsonl" and [r.status for r in records] == ["ok"] * 6
    assert {(r.artifact.artifact_id, r.settings.backend) for r in records} == {
        (n, b) for n in names for b in ("allocator", "onnxruntime", "pytorch")
    }
    for record in records:
        assert record.measurement is not None
        run = record.measurement.runs[0]
        if record.settings.backend == "allocator":  # a value spans a thousand steps of the clock
            assert run.loops * record.measurement.median_s * 1e9 > 500 * run.timer_resolution_ns
    trusted = [r.model_copy(update={"label": "stable", "evidence": ()}) for r in records]
    for record in trusted:
        store.append_line(Path("trusted.jsonl"), record)
    kit("knowledge", "build", "trusted.jsonl")
    shown = " ".join(kit("knowledge", "table", "--backend", "allocator", "--clock-ghz", "3").split())
    assert "Best K by measured times" in shown and "Best K at 2 cycle(s) per MAC" in shown
    with pytest.raises(
        BadRecord, match="come from several .allocator, onnxruntime, pytorch.: say which with --backend"
    ):
        kit("knowledge", "table")
    for backend in ("allocator", "onnxruntime", "pytorch"):
        delay = delay_of(f"measured:knowledge.json,backend={backend},clock-ghz=3")
        assert isinstance(delay, Measured) and delay.sizes == ("1", "30")
        assert describe(delay).startswith(f"measured:allocator_a by {backend} on ")
    with pytest.raises(BadRecord, match=r"in --delay: backend=\.\.\."):
        delay_of("measured:knowledge.json,clock-ghz=3")


def rows(family: str, sizes: list[tuple[int, int]]) -> tuple[KnowledgeRow, ...]:
    """Made up: a microsecond for each expert and layer."""
    subs = [
        spaces.SPACES[family].normal(
            spaces.SPACES[family].root.model_copy(update={"width": w / fileformat.WIDEST[family], "depth": n})
        )
        for w, n in sizes
    ]
    return tuple(
        KnowledgeRow(
            artifact_id=sub.id, sha256=sub.id, device_id="d", backend="b", threads=1, precision="fp32", median_s=1e-6 * w * n,
            p99_s=1.0, label="stable", memory_bytes=1, size_bytes=1, macs=1000 * w * n, accuracy=None, clock_hz=1e9, record_id=sub.id,
        )
        for sub, (w, n) in zip(subs, sizes, strict=True)
    )  # fmt: skip


def test_the_table_of_kits_own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own, few = rows("allocator_u", [(4, 1), (32, 3)]), rows("allocator_u", [(4, 1)])
    fewer = few[0].model_copy(update={"artifact_id": few[0].artifact_id.replace("-30", "-10"), "sha256": "10"})
    base = KnowledgeBase(created_utc=synthetic.NOW, kit_version="0", rows=(*own, fewer))
    store.write_record(Path("knowledge.json"), base)
    quality = AllocationQuality(
        family="allocator_u", source="made up", task_bit=1e4, weight=1.0, delay_s={"4,1": 2.1e-3, "32,3": 2.0e-3}
    )
    store.write_record(Path("q.json"), quality)
    words = ("knowledge", "table", "--family", "allocator_u", "--quality", "q.json", "--sizes-kbit", "0.1,10")
    with pytest.raises(BadRecord, match="come from several .10, 30.: say which with --users"):
        kit(*words)
    shown = " ".join(kit(*words, "--users", "30", "--clocks-ghz", "1").split())
    assert "Best width,depth by measured times" in shown and "32,3" in shown and "4,1" in shown
    delay = delay_of("measured:knowledge.json,users=30", "allocator_u")
    assert isinstance(delay, Measured) and delay.sizes == ("4,1", "32,3")
    assert float(computing_s(delay, "32,3", 2e9, macs=0.0)) == pytest.approx(48e-6)


def test_delays_are_read_and_told(tmp_path: Path) -> None:
    assert delay_of("none") is None and describe(None) == "none"
    assert delay_of("analytic") == Analytic() and describe(Analytic()) == "analytic:lambda=2"
    assert delay_of("analytic:lambda=0.5") == Analytic(factor=0.5)
    assert delay_of(describe(Analytic(factor=0.5))) == Analytic(factor=0.5)
    bare = Measured(timings=(SizeTiming(size="1", clock_hz=1.0, median_s=1.0, record_id=""),))
    assert describe(bare) == "measured"
    path = tmp_path / "k.json"
    store.write_record(
        path, KnowledgeBase(created_utc=synthetic.NOW, kit_version="0", rows=rows("allocator_b", [(1, 2)]))
    )
    delay = delay_of(f"measured:{path},backend=b,device=d,threads=1", "allocator_b")
    assert isinstance(delay, Measured) and delay.sizes == ("1,2",)
    assert describe(delay) == "measured:allocator_b by b on d, 1 thread"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "--delay does not take ''"),
        ("analytical", "write none, analytic, analytic:lambda=0.5 or measured:KNOWLEDGE.json"),
        ("none:", "does not take 'none:'"),
        ("analytic:", "does not take 'analytic:'"),
        ("measured", "does not take 'measured'"),
        ("analytic:lamda=2", "Unknown option of --delay analytic 'lamda': did you mean 'lambda'"),
        ("analytic:lambda=0", "cycles per multiply-accumulate above zero"),
        ("analytic:lambda", "cycles per multiply-accumulate above zero"),
        ("measured:none.json", "none.json does not exist: make it with kit knowledge build"),
        ("measured:none.json,threads=0", "a whole number from 1, like threads=1"),
        ("measured:none.json,clock-ghz=nan", "gigahertz above zero"),
        ("measured:none.json,backend", "name a runtime"),
    ],
)
def test_a_delay_that_cannot_be_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        delay_of(text)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_fewer_users_are_decided_by_shorter_vectors() -> None:
    """Users lie in vectors of 16: a network for 50 that serves 5 runs the code for 16."""
    compiled = pytest.importorskip("kit.allocators.compiled")
    wide = fileformat.per_user(users=50)
    assert compiled.code(wide, 5) is compiled.code(fileformat.per_user(users=16), 16)
    assert compiled.code(wide, 50).scratch > compiled.code(wide, 5).scratch
    assert compiled.code(fileformat.paper_a(), 5) is compiled.code(fileformat.paper_a(), 30)


def test_the_sidecar_of_a_file_says_what_write_says(tmp_path: Path) -> None:
    net = fileformat.member(spaces.subnetwork(SIZES[1]))
    written = fileformat.write(net, tmp_path / "x.alloc.npz", seed=0, steps=("random weights",))
    assert fileformat.describe(net, written.model, seed=0, steps=("random weights",)) == written
    assert store.read_record(tmp_path / "x.alloc.json", Artifact) == written
