"""The allocator backend: the torch network's answers to 1e-5, the look-up in the same call, and the conformance of every backend."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import backends, spaces, store
from kit.allocators import fileformat, runtime
from kit.allocators.fileformat import FEATURES_A, AllocatorNetwork, AllocatorSpec, Size
from kit.allocators.runtime import Decider, SizeTable
from kit.errors import BadModel, UsageError
from kit.knowledge import dynamic
from kit.records import Artifact, SizeTiming

RATIOS = tuple(f.model_copy(update={"log": False}) for f in fileformat.FEATURES_A)
SPECS = {
    "a": fileformat.paper_a(),
    "a50": fileformat.paper_a(50, RATIOS),
    "a_static": fileformat.paper_a(gated=False),
    "b": fileformat.paper_b(),
    "b_static": fileformat.static_b(hidden=(24, 24, 8)),
    "u": fileformat.per_user(),
    "u_b": fileformat.per_user(fileformat.FEATURES_B, fileformat.BOTH, users=50, width=24),
}
WAYS = [pytest.param("", marks=pytest.mark.skipif(not runtime.has_numba(), reason="no Numba")), "numpy"]


def network(name: str, seed: int = 0) -> AllocatorNetwork:
    return fileformat.random_network(SPECS[name], seed)


def inputs(net: AllocatorNetwork, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(fileformat.tensors(net)[0].shape).astype(np.float32)


def by_torch(net: AllocatorNetwork, x: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch")
    nets = pytest.importorskip("kit.nets.allocator")
    shaped = x.reshape(1, -1, net.users).transpose(0, 2, 1) if net.spec.form == "flat" else x
    with torch.no_grad():
        got: np.ndarray = nets.Allocator(net.spec, net.arrays).eval()(torch.tensor(shaped.copy()), *net.size)[0].numpy()
    return got


def answer(net: AllocatorNetwork, x: np.ndarray, mode: str, folder: Path) -> np.ndarray:
    path = folder / "x.alloc.npz"
    artifact = fileformat.write(net, path)
    session = runtime.open(path, artifact, 1, mode)
    return session.run({"input": x})[0]


def close(got: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.allclose(got, expected, rtol=1e-5, atol=1e-12))


@pytest.mark.parametrize("mode", WAYS)
@pytest.mark.parametrize("name", SPECS)
def test_the_answers_of_the_torch_network(name: str, mode: str, tmp_path: Path) -> None:
    spec = SPECS[name]
    most = spec.largest
    widths = (
        {1, 2, most.width // 2, most.width - 1, most.width} if spec.gated or spec.form == "per_user" else {most.width}
    )
    if "static" in name:
        widths = {most.width}
    depths = {most.depth} if spec.form == "flat" or "static" in name else {1, 2, most.depth}
    for seed, (width, depth) in enumerate((w, d) for w in sorted(widths) for d in sorted(depths)):
        for users in (spec.users, 5, 1):
            net = network(name, seed).cut(width, depth, users)
            x = inputs(net, seed)
            assert close(answer(net, x, mode, tmp_path), by_torch(net, x)), (width, depth, users)


@pytest.mark.parametrize("mode", WAYS)
def test_equal_gate_values_and_large_numbers(mode: str, tmp_path: Path) -> None:
    """All experts equal: whichever of equal gates are picked, the answer is the same. Scores far apart: no overflow."""
    net = network("a")
    same = {k: np.broadcast_to(v[:1], v.shape).copy() if k.startswith("expert") else v for k, v in net.arrays.items()}
    same["gate_weight"] = np.zeros_like(same["gate_weight"])
    equal = AllocatorNetwork(net.spec, same, Size(7, 2), 30)
    x = inputs(equal, 0)
    assert close(answer(equal, x, mode, tmp_path), by_torch(equal, x))
    large = AllocatorNetwork(net.spec, {k: v * 20 for k, v in net.arrays.items()}, Size(30, 2), 30)
    got = answer(large, x * 10, mode, tmp_path)
    assert np.isfinite(got).all() and got.sum() == pytest.approx(1, abs=1e-5)


def test_experts_that_are_not_picked_are_not_read(tmp_path: Path) -> None:
    """NaN in the weights of every expert but the one that the gate picks."""
    net = network("a").cut(width=1)
    x = inputs(net, 3)
    h = np.maximum(x[0] @ net.arrays["input_weight"] + net.arrays["input_bias"], 0)
    best = int((h @ net.arrays["gate_weight"]).argmax())
    poisoned = {k: v.copy() for k, v in net.arrays.items()}
    for key, value in poisoned.items():
        if key.startswith("expert"):
            value[np.arange(30) != best] = np.nan
    for compiled in (False, True) if runtime.has_numba() else (False,):
        decider = Decider(AllocatorNetwork(net.spec, poisoned, net.size, 30), compiled=compiled)
        tasks = np.exp(np.array(x[0].reshape(3, 30) * 0 + 1.0, np.float64))
        full_decider = Decider(net, compiled=compiled)
        if not np.isnan(decider.decide(tasks)).any():
            assert np.array_equal(decider.decide(tasks), full_decider.decide(tasks))
    if runtime.has_numba():
        module = pytest.importorskip("kit.allocators.compiled")
        code = module.code(net.spec, 30)
        out = np.zeros(30, np.float32)
        scratch = module.aligned(np.zeros(code.scratch))
        code.run(code.pack(net.spec, poisoned, 30), module.aligned(x), out, scratch, 30, 1, 2)
        assert close(out, by_torch(net, x)[0])
    assert close(runtime.shares(AllocatorNetwork(net.spec, poisoned, net.size, 30), x), by_torch(net, x))


# ------------------------------------------------------------------------------------------------------------- a backend


@pytest.mark.parametrize("name", ["allocator", "allocator-numpy"])
@pytest.mark.parametrize("kind", SPECS)
def test_conformance(name: str, kind: str, tmp_path: Path) -> None:
    """What tests/test_backends.py asks of every backend, on the files that this one takes."""
    net = network(kind)
    path = tmp_path / "x.alloc.npz"
    artifact = fileformat.write(net, path)
    assert store.read_record(tmp_path / "x.alloc.json", Artifact) == artifact
    backends.require(name)
    assert backends.probe(name).available
    session: backends.Session = backends.load(name).open(path, artifact, 1)
    assert session.inputs == artifact.inputs and session.outputs == artifact.outputs
    assert all(note.endswith(".") for note in session.notes)
    feeds = backends.make_feeds(session.inputs, seed=1)
    original = feeds["input"].copy()
    first = session.run(feeds)
    assert close(first[0], by_torch(net, feeds["input"]))
    call = session.prepare(feeds)
    for _ in range(3):
        call()
    again = session.run(feeds)
    assert np.array_equal(first[0], again[0]) and np.array_equal(feeds["input"], original)
    moved = feeds["input"] * np.linspace(0.5, 2, feeds["input"].size, dtype=np.float32).reshape(feeds["input"].shape)
    assert not np.array_equal(first[0], session.run({"input": moved})[0])
    assert session.device_ns is None and session.gpu_memory() is None
    with pytest.raises(UsageError, match="layers"):
        session.layers(feeds, calls=1)
    with pytest.raises(UsageError, match="fixed batch 1, not 8"):
        backends.load(name).open(path, artifact, 1, 8)
    session.close()


@pytest.mark.parametrize("name", ["allocator_a-d2-w0.27-fp32-30", "allocator_b-d2-w0.40-fp32-30"])
def test_its_tensors_are_those_of_the_onnx_file(name: str, tmp_path: Path) -> None:
    sub = spaces.subnetwork(name)
    onnx = spaces.write(sub, tmp_path / "x.onnx")
    spec = SPECS["a" if "_a" in name else "b"]
    artifact = fileformat.write(
        fileformat.random_network(spec, 0, round(sub.width * spec.experts), sub.depth), tmp_path / "x.alloc.npz"
    )
    assert artifact.artifact_id == onnx.artifact_id and artifact.macs == onnx.macs
    assert artifact.inputs == onnx.inputs and artifact.outputs == onnx.outputs


def test_without_numba_it_is_numpy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = network("a").cut(width=4)
    x = inputs(net, 0)
    expected = answer(net, x, "numpy", tmp_path)
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "kit.allocators.compiled", None)
    session = runtime.open(tmp_path / "x.alloc.npz", None, 1)
    assert "NumPy" in session.notes[0] and runtime.probe("").version == f"numpy {np.__version__}"
    assert np.array_equal(session.run({"input": x})[0], expected)
    assert Decider(net).decide(np.ones((3, 30))).shape == (1, 30)


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04 torn"])
def test_rubbish_is_no_allocator(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.alloc.npz"
    path.write_bytes(data)
    with pytest.raises(BadModel, match="is no allocator") as caught:
        runtime.open(path, None, 1)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "x.alloc.npz"
    with pytest.raises(UsageError, match="does not exist"):
        fileformat.read(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(BadModel, match="is no allocator"):
        fileformat.read(path)
    net = network("a")
    broken = {**net.arrays, "gate_weight": np.full((36, 30), np.nan, np.float32)}
    fileformat.write(AllocatorNetwork(net.spec, broken, net.size, 30), path)
    with pytest.raises(BadModel, match="gate_weight is not finite numbers"):
        fileformat.read(path)
    with pytest.raises(UsageError, match=r"ending \.alloc\.npz"):
        fileformat.write(net, tmp_path / "x.npz")


# ---------------------------------------------------------------------------------------------------------------- decider


def raw_tasks(spec: AllocatorSpec, users: int, seed: int, mean_bit: float = 1e4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = {
        "size_bit": 2 * mean_bit,
        "distance_m": 500.0,
        "deadline_s": 0.16,
        "local_clock_hz": 0.15e9,
        "workload_cycles_per_bit": 1600.0,
    }
    return np.stack([rng.uniform(0, scale.get(f.name, 1.0), users) for f in spec.features])


TABLE = SizeTable(
    (1e3, 4e3, 1.6e4), (1e7, 1e8, 1e9), tuple(tuple(Size(1 + 3 * i + j, 2) for j in range(3)) for i in range(3))
)


@pytest.mark.parametrize("name", ["a", "a50", "b", "u", "u_b"])
def test_one_call_decides_as_its_parts_do(name: str) -> None:
    spec, net = SPECS[name], network(name)
    ways = [Decider(net, TABLE, compiled=c) for c in ((False, True) if runtime.has_numba() else (False,))]
    for seed, (users, mean_bit, clock_hz) in enumerate(
        [(spec.users, 300.0, 5e6), (7, 5e3, 2e8), (30, 1e6, 1e12), (1, 4e3, 1e8)]
    ):
        tasks = raw_tasks(spec, users, seed, mean_bit)
        size = ways[0].size(float(tasks[[f.name for f in spec.features].index("size_bit")].mean()), clock_hz)
        x = fileformat.normalise(spec.features, tasks)
        cut = net.cut(*size, users)
        expected = by_torch(cut, x[None] if spec.form == "flat" else x.T[None])
        for decider in ways:
            assert np.allclose(decider.decide(tasks, clock_hz), expected, rtol=2e-5, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(bit=st.floats(1, 1e7), clock=st.floats(1e5, 1e12))
def test_the_table_gives_the_nearest_cell(bit: float, clock: float) -> None:
    size = Decider(network("a"), TABLE, compiled=False).size(bit, clock)
    row = min(range(3), key=lambda i: abs(np.log(TABLE.task_bits[i] / bit)))
    column = min(range(3), key=lambda j: abs(np.log(TABLE.clocks_hz[j] / clock)))
    near = {TABLE.sizes[r][c] for r in range(3) for c in range(3) if _as_near(r, c, row, column, bit, clock)}
    assert size in near


def _as_near(r: int, c: int, row: int, column: int, bit: float, clock: float) -> bool:
    """Whether a cell is as near as the nearest one, up to rounding."""
    off = abs(np.log(TABLE.task_bits[r] / bit)) - abs(np.log(TABLE.task_bits[row] / bit))
    aside = abs(np.log(TABLE.clocks_hz[c] / clock)) - abs(np.log(TABLE.clocks_hz[column] / clock))
    return bool(off < 1e-9 and aside < 1e-9)


def test_a_table_of_the_knowledge_base() -> None:
    """Line 2 of paper A's algorithm 2: K by the measured K-knowledge."""
    timings = [
        SizeTiming(size=str(k), clock_hz=1e9, median_s=1e-6 * k, macs=2174.0 * k, record_id="r") for k in (1, 5, 30)
    ]
    table_record = dynamic.dynamic_table(timings, dynamic.TABLE_I, [1e3, 1e4, 1e5], [1e7, 1e9])
    table = SizeTable.of(table_record)
    assert table.sizes[0][0] == Size(1, 2) and table.sizes[2][1].width > 1
    decider = Decider(network("a"), table)
    for cell in table_record.cells:
        assert decider.size(cell.task_bit, cell.clock_hz).width == int(cell.measured)


def test_what_a_decider_refuses() -> None:
    with pytest.raises(UsageError, match="rise"):
        SizeTable((2.0, 1.0), (1.0,), ((Size(1, 2),), (Size(1, 2),)))
    with pytest.raises(UsageError, match="fill every cell"):
        SizeTable((1.0, 2.0), (1.0,), ((Size(1, 2),),))
    with pytest.raises(UsageError, match="1 to 30 experts"):
        Decider(network("a"), SizeTable((1.0,), (1.0,), ((Size(31, 2),),)))
    with pytest.raises(UsageError, match="feature size_bit"):
        Decider(fileformat.random_network(fileformat.per_user(FEATURES_A[2:]), 0), TABLE)
    with pytest.raises(UsageError, match="takes 1 to 30 users"):
        Decider(network("a")).decide(np.ones((3, 31)))


def test_deciding_again_is_the_same() -> None:
    """The scratch is reused: nothing of one decision may be left for the next, nor of more users or wider networks."""
    for name in ("a", "b", "u"):
        spec: Any = SPECS[name]
        decider = Decider(network(name), TABLE)
        tasks = [raw_tasks(spec, users, users, bit) for users, bit in ((30, 1e5), (3, 1e3), (29, 5e3), (3, 1e5))]
        once = [decider.decide(t, 1e8).copy() for t in tasks]
        for at in (2, 0, 3, 1, 1, 0):
            assert np.array_equal(decider.decide(tasks[at], 1e8), once[at])
