"""Reference workloads: fixed work, timed beside a network, so that a machine that moves is told from a network that does.

============  ====================================================================  ===============================
workload      what it does                                                          follows
============  ====================================================================  ===============================
``clock``     a chain of dependent instructions (:mod:`kit.clock`)                  the core's clock
``product``   one float32 matrix product whose weights fill more than an L2 cache   arithmetic and the inner caches
``weights``   one whose weights fill a good part of an L3 slice                     arithmetic and the outer caches
============  ====================================================================  ===============================

A float network is taken to slow down as ``product ** 0.4 * weights ** 0.5 * clock ** 0.1`` does, an int8 network as
``product ** 0.3 * weights * clock ** 0.1``: it computes less per byte, so what disturbs caches disturbs it more. Workloads and
exponents were chosen among mixtures of eighteen (products, sums, copies, gathers, element-wise products, the chain) on a 2-core virtual
machine, over 48 runs and 58 processes of resnet18 in each precision; the optimum is flat. The chain alone does not serve: it
moved by 2 % where networks moved by 1, because the clock of wide vector instructions is another one.

Arrays lie on huge pages where the kernel grants them and on page boundaries everywhere: where a process happens to put an
array would otherwise change the time of the same work by 15 %. What they take on a device in its usual state is kept in
``profiles/<device_id>/reference.json`` and is the scale of every drift-corrected latency of that device.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from kit import clock
from kit.records import Reference, Visit
from kit.store import utc_now

Workload = Callable[[], int]  # does its work once, returns the nanoseconds that it took

PRODUCTS = {  # rows, inner, columns: 29 and 116 MMACs, as late convolutions have
    "product": (49, 2304, 256),
    "weights": (49, 4608, 512),
}
HUGE_PAGE = 2 << 20
WORKLOADS = {
    "clock": f"a chain of dependent instructions, {clock.CYCLES} cycles (Numba: {clock.NUMBA_CYCLES})",
    **{name: "a float32 matrix product of " + " x ".join(map(str, shape)) for name, shape in PRODUCTS.items()},
}
WEIGHTS: dict[str, dict[str, float]] = {  # by the network's precision; others go with fp32
    "fp32": {"product": 0.4, "weights": 0.5, "clock": 0.1},
    "int8": {"product": 0.3, "weights": 1.0, "clock": 0.1},
}


def workloads() -> dict[str, Workload]:
    """The workloads that this machine can run, each warmed up. ``clock`` is missing where no chain can be run or believed."""
    found = {name: _product(*shape) for name, shape in PRODUCTS.items()}
    chain = clock.chain()
    if chain is not None and clock.agrees(chain):
        passes = chain.first.passes
        found["clock"] = lambda: chain.first.elapsed_ns(passes)
    for workload in found.values():
        for _ in range(3):
            workload()
    return found


def _product(rows: int, inner: int, columns: int) -> Workload:
    left, right, out = aligned((rows, inner)), aligned((inner, columns)), aligned((rows, columns))

    def product() -> int:
        start = perf_counter_ns()
        np.matmul(left, right, out=out)
        return perf_counter_ns() - start

    return product


def clock_of(times_ns: NDArray[np.int64]) -> float | None:
    """The core clock in hertz that the ``clock`` workload's times [n] tell: their lower quartile, as nothing shortens a chain."""
    chain = clock.chain()
    if chain is None or not len(times_ns):
        return None
    cycles = chain.first.passes * chain.first.cycles_per_pass
    return float(cycles / max(1.0, float(np.quantile(times_ns, 0.25)) - chain.first.overhead_ns) * 1e9)


def aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A float32 array of ones that starts on a huge page's boundary."""
    size = int(np.prod(shape)) * 4
    room = mmap.mmap(-1, (size // HUGE_PAGE + 2) * HUGE_PAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(room)) % HUGE_PAGE
    with suppress(AttributeError, OSError):
        room.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(room, dtype=np.float32, count=size // 4, offset=start).reshape(shape)
    array[...] = 1.0
    return array


def fits(kept: Reference, device_id: str) -> bool:
    """Whether a stored scale is of this device and of the workloads that this kit runs."""
    return kept.device_id == device_id and all(WORKLOADS.get(name) == what for name, what in kept.workloads.items())


def first_of(device_id: str, visits: Iterable[Visit]) -> Reference | None:
    """The scale of a device from its first visits: the median over processes of each workload's median; None without any."""
    medians: dict[str, list[float]] = {}
    for visit in visits:
        for name, series in visit.references.items():
            medians.setdefault(name, []).append(float(np.median(series.array())))
    nominal = {name: float(np.median(times)) for name, times in medians.items() if name in WORKLOADS}
    if not nominal:
        return None
    return Reference(
        device_id=device_id,
        created_utc=utc_now(),
        workloads={name: WORKLOADS[name] for name in nominal},
        nominal_ns=nominal,
        weights={name: weight for name, weight in WEIGHTS["fp32"].items() if name in nominal},
    )


def for_precision(scale: Reference, precision: str) -> Reference:
    """``scale`` with the exponents of a network of ``precision``."""
    weights = WEIGHTS.get(precision, WEIGHTS["fp32"])
    return scale.model_copy(update={"weights": {name: w for name, w in weights.items() if name in scale.nominal_ns}})
