"""Microseconds per decision of the allocators: ``pytest bench/test_allocator.py -s``.

The same sub-network with the same weights in every runtime, batch 1, one thread, interleaved in one run, so that a machine that moves hits
all alike: compiled (kit's own), NumPy, onnxruntime (kit.spaces' file), PyTorch as the network that is trained and as the exported program
that ``kit profile --backend pytorch`` runs. Medians over the rounds are printed; ratios are asserted, and microseconds only as cycles of
the clock that a chain of instructions tells.

The floor of the compiled way is a call that does nothing (Numba's dispatch with as many arguments) and the arithmetic: multiply-
accumulates at two 16-wide fused ones per cycle. Paper A reads each weight once per decision (9 kB per expert): copying those of the active
experts, from the cache, is its other floor. The rest is exp, the gate's ranks, and the chain from layer to layer.

The compiled way and NumPy leave out the log-softmax of each expert, which the last softmax takes out again; the others compute it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest

from kit import backends, spaces
from kit.allocators import fileformat, runtime
from kit.allocators.fileformat import Size
from kit.allocators.runtime import Decider, SizeTable
from kit.devices import clock
from kit.spaces.allocator import weights_of

ROUNDS, SPAN_NS, MACS_PER_CYCLE = 15, 4_000_000, 32
CASES = [("a", 1, 2), ("a", 8, 2), ("a", 30, 2), ("b", 1, 1), ("b", 5, 2), ("b", 10, 3), ("u", 8, 1), ("u", 32, 3)]
SPECS = {"a": fileformat.paper_a(), "b": fileformat.paper_b(), "u": fileformat.per_user()}
TIMES_ORT, TIMES_TORCH = 4.0, 10.0  # paper A, end to end: this much faster at least
BARS_US, BARS_HZ = {1: 2.5, 30: 9.0}, 3.5e9  # paper A, end to end: at most this at this clock, elsewhere as many cycles
LOOK_UP_US = 0.5  # likewise

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
    net = fileformat.random_network(spec, 0, *size)
    artifact = fileformat.write(net, folder / "x.alloc.npz")
    files = {"compiled": ("allocator", "x.alloc.npz"), "numpy": ("allocator-numpy", "x.alloc.npz")}
    if backends.probe("onnxruntime").available:
        spaces.write(fileformat.subnetwork(net), folder / "x.onnx", weights=weights_of(net))
        files["onnxruntime"] = ("onnxruntime", "x.onnx")
    if backends.probe("pytorch").available:
        program = pytest.importorskip("kit.variants.program")
        artifact = artifact.model_copy(update={"torch_program": program.write(net, folder / "x.pt2")})
        files["torch program"] = ("pytorch", "x.alloc.npz")
    calls = {}
    for name, (backend, file) in files.items():
        session = backends.load(backend).open(folder / file, artifact, 1)
        calls[name] = session.prepare(backends.make_feeds(session.inputs, seed=1))
    return calls | torch_call(net)


def torch_call(net: fileformat.AllocatorNetwork) -> dict[str, Callable[[], Any]]:
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
    macs = fileformat.macs(spec, size, spec.users)
    active = fileformat.dynamic_parameters(spec) * width // spec.experts if kind == "a" else 0
    took = interleaved_us({**runtimes(kind, size, tmp_path), **floors(active)})
    hz = clock.from_chain().hz or 0.0
    arithmetic = f"{macs / MACS_PER_CYCLE / hz * 1e6:.2f} us at {hz / 1e9:.2f} GHz" if hz else "clock unknown"
    print(f"\n{spec.root} {width},{depth}: {macs} MACs, floor: arithmetic {arithmetic}")
    for name, us in took.items():
        print(f"  {name:34} {us:8.2f} us  {us / took['compiled']:6.1f} times compiled")
    assert took["compiled"] < took["numpy"] and took["compiled"] < took["torch program"]
    if kind == "a":
        assert took["onnxruntime"] > TIMES_ORT * took["compiled"]
        assert min(took["torch eager"], took["torch program"]) > TIMES_TORCH * took["compiled"]


@pytest.mark.parametrize("width", [1, 8, 30])
def test_end_to_end(width: int, tmp_path: Path) -> None:
    """From importance, size, distance and the clock to shares: look-up in a table of 40 sizes x 25 clocks, features, network.

    The other runtimes get their features for nothing, and still take as many times longer.
    """
    net = fileformat.random_network(SPECS["a"], 0, width)
    bits, clocks = tuple(np.linspace(250, 10_000, 40)), tuple(np.linspace(1e7, 1e9, 25))
    table = SizeTable(bits, clocks, ((Size(width, 2),) * 25,) * 40)
    rng = np.random.default_rng(0)
    tasks = np.stack([rng.choice([0.8, 0.4, 0.2, 0.1], 30), rng.uniform(0, 1e4, 30), rng.uniform(5, 500, 30)])
    with_table, without = Decider(net, table), Decider(net)
    others = runtimes("a", Size(width, 2), tmp_path)
    took = interleaved_us(
        {
            "with look-up": lambda: with_table.decide(tasks, 5e8),
            "without": lambda: without.decide(tasks, 5e8),
            **others,
            **floors(fileformat.dynamic_parameters(net.spec) * width // net.spec.experts),
        }
    )
    us, look_up = took["with look-up"], took["with look-up"] - took["without"]
    floor = sum(value for name, value in took.items() if name.startswith("floor"))
    hz = clock.from_chain().hz or BARS_HZ
    bar = f", bar {BARS_US[width]} us at {BARS_HZ / 1e9} GHz" if width in BARS_US else ""
    print(
        f"\nend to end, K = {width}: {us:.2f} us at {hz / 1e9:.2f} GHz{bar}, look-up {look_up:.2f}, floors {floor:.2f} us"
    )
    for name in others:
        print(f"  {name:34} {took[name]:8.2f} us  {took[name] / us:6.1f} times the whole decision")
    assert np.array_equal(with_table.decide(tasks, 5e8), without.decide(tasks, 5e8))
    assert look_up * hz < LOOK_UP_US * BARS_HZ and look_up < 0.2 * took["without"]
    assert us * hz < BARS_US.get(width, BARS_US[30]) * BARS_HZ
    assert took["onnxruntime"] > TIMES_ORT * us
    assert min(took["torch eager"], took["torch program"]) > TIMES_TORCH * us


def test_it_is_machine_code() -> None:
    assert "numba" in (runtime.probe("").version or "")
