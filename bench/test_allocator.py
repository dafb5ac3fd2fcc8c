"""Microseconds per decision of the allocators: ``pytest bench/test_allocator.py -s``.

The same sub-network in every runtime, batch 1, one thread, interleaved in one run, so that a machine that moves hits all alike: compiled
(kit's own), NumPy, onnxruntime (kit.spaces' file of the same shapes), PyTorch eager. Medians over the rounds are printed; only ratios are
asserted. The weights are random: what a runtime takes does not depend on them.

The floor of the compiled way is a call that does nothing (Numba's dispatch with as many arguments) and the arithmetic: multiply-
accumulates at two 16-wide fused ones per cycle. Paper A reads each weight once per decision (9 kB per expert): copying those of the active
experts, from the cache, is its other floor. The rest is exp, the gate's ranks, and the chain from layer to layer.

The compiled way and NumPy leave out the log-softmax of each expert, which the last softmax takes out again; the file that onnxruntime runs
has it, and no last softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest

from kit import backends, clock, spaces
from kit.backends import allocator, allocfile
from kit.backends.allocator import Decider, SizeTable
from kit.backends.allocfile import Size

ROUNDS, SPAN_NS, MACS_PER_CYCLE = 15, 4_000_000, 32
CASES = [("a", 1, 2), ("a", 8, 2), ("a", 30, 2), ("b", 1, 1), ("b", 5, 2), ("b", 10, 3), ("u", 8, 1), ("u", 32, 3)]
SPECS = {"a": allocfile.paper_a(), "b": allocfile.paper_b(), "u": allocfile.per_user()}
TIMES_ORT, TIMES_TORCH = 4.0, 10.0  # paper A, end to end: this much faster at least

numba = pytest.importorskip("numba")


def interleaved_us(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median microseconds of one call of each, over rounds in which all take their turn."""
    loops = {}
    for name, call in calls.items():
        for _ in range(20):
            call()
        start = perf_counter_ns()
        call()
        loops[name] = max(3, int(SPAN_NS / max(perf_counter_ns() - start, 200)))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            turns = range(loops[name])
            start = perf_counter_ns()
            for _ in turns:
                call()
            taken[name].append((perf_counter_ns() - start) / loops[name] / 1e3)
    return {name: median(values) for name, values in taken.items()}


@numba.njit
def nothing(weights: Any, x: Any, out: Any, scratch: Any, users: int, width: int, depth: int) -> None:
    pass


@numba.njit
def read(weights: Any, out: Any, count: int) -> None:
    for i in range(count):
        out[i] = weights[i]


def floors(weights: int) -> dict[str, Callable[[], Any]]:
    """``weights``: how many are read once; none where every user meets them."""
    empty, many = np.zeros(64, np.float32), np.zeros(weights, np.float32)
    onto = np.zeros_like(many)
    found: dict[str, Callable[[], Any]] = {"floor: call": lambda: nothing(empty, empty, empty, empty, 30, 1, 1)}
    return found | ({"floor: copy of the active weights": lambda: read(many, onto, weights)} if weights else {})


def runtimes(kind: str, size: Size, folder: Path) -> dict[str, Callable[[], Any]]:
    """The prepared call of each runtime that is here."""
    spec = SPECS[kind]
    net = allocfile.random_network(spec, 0, *size)
    artifact = allocfile.write(net, folder / "x.alloc.npz")
    files = {"compiled": ("allocator", folder / "x.alloc.npz"), "numpy": ("allocator-numpy", folder / "x.alloc.npz")}
    if kind != "u" and backends.probe("onnxruntime").available:
        spaces.write(spaces.subnetwork(artifact.artifact_id), folder / "x.onnx")
        files["onnxruntime"] = ("onnxruntime", folder / "x.onnx")
    calls = {}
    for name, (backend, path) in files.items():
        session = backends.load(backend).open(path, None, 1)
        calls[name] = session.prepare(backends.make_feeds(session.inputs, seed=1))
    return calls | torch_call(net)


def torch_call(net: allocfile.Network) -> dict[str, Callable[[], Any]]:
    torch = pytest.importorskip("torch")
    nets = pytest.importorskip("kit.nets.allocator")
    torch.set_num_threads(1)
    eager, x = nets.Allocator(net.spec, net.arrays).eval(), torch.randn(1, net.users, len(net.spec.features))

    def call() -> Any:
        with torch.inference_mode():
            return eager(x, *net.size)

    return {"torch eager": call}


@pytest.mark.parametrize(("kind", "width", "depth"), CASES)
def test_a_decision(kind: str, width: int, depth: int, tmp_path: Path) -> None:
    spec, size = SPECS[kind], Size(width, depth)
    macs = allocfile.macs(spec, size, spec.users)
    active = allocfile.dynamic_parameters(spec) * width // spec.experts if kind == "a" else 0
    took = interleaved_us({**runtimes(kind, size, tmp_path), **floors(active)})
    hz = clock.from_chain().hz or 0.0
    arithmetic = f"{macs / MACS_PER_CYCLE / hz * 1e6:.2f} us at {hz / 1e9:.2f} GHz" if hz else "clock unknown"
    print(f"\n{spec.root} {width},{depth}: {macs} MACs, floor: arithmetic {arithmetic}")
    for name, us in took.items():
        print(f"  {name:34} {us:8.2f} us  {us / took['compiled']:6.1f} times compiled")
    assert took["compiled"] < took["numpy"] and took["compiled"] < took["torch eager"]
    if kind == "a":
        assert took["onnxruntime"] > TIMES_ORT * took["compiled"]
        assert took["torch eager"] > TIMES_TORCH * took["compiled"]


@pytest.mark.parametrize("width", [1, 8, 30])
def test_end_to_end(width: int) -> None:
    """From importance, size, distance and the clock to shares: look-up in a table of 40 sizes x 25 clocks, features, network."""
    net = allocfile.random_network(SPECS["a"], 0, width)
    bits, clocks = tuple(np.linspace(250, 10_000, 40)), tuple(np.linspace(1e7, 1e9, 25))
    table = SizeTable(bits, clocks, ((Size(width, 2),) * 25,) * 40)
    rng = np.random.default_rng(0)
    tasks = np.stack([rng.choice([0.8, 0.4, 0.2, 0.1], 30), rng.uniform(0, 1e4, 30), rng.uniform(5, 500, 30)])
    with_table, without = Decider(net, table), Decider(net)
    took = interleaved_us(
        {"with look-up": lambda: with_table.decide(tasks, 5e8), "without": lambda: without.decide(tasks, 5e8)}
    )
    print(f"\nend to end, K = {width}: {took['with look-up']:.2f} us, without the look-up {took['without']:.2f} us")
    assert np.array_equal(with_table.decide(tasks, 5e8), without.decide(tasks, 5e8))
    assert took["with look-up"] - took["without"] < 0.2 * took["without"]


def test_it_is_machine_code() -> None:
    assert "numba" in (allocator.probe("").version or "")
