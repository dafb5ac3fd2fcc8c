"""Reference workloads: fixed work, timed between blocks of calls, which separates drift of the machine from the network.

============  ====================================================================  ===============================
workload      what it does                                                          follows
============  ====================================================================  ===============================
``clock``     a chain of dependent instructions (:mod:`kit.devices.clock`)                  the core's clock
``product``   one float32 matrix product whose weights fill more than an L2 cache   arithmetic and the inner caches
``weights``   one whose weights fill a good part of an L3 slice                     arithmetic and the outer caches
``network``   a small convolutional network, run by the runtime that is measured    what convolutions do to all of these
``network8``  a smaller one in int8                                                 the same for integer kernels
============  ====================================================================  ===============================

A network is taken to slow down as a product of powers of them does (:data:`MIXTURES`); where a runtime does not run the reference networks,
products and the chain stand in. Workloads and exponents were chosen on a 2-core virtual machine among products, sums, copies,
gathers, the chain and eleven small networks, over 900 processes of four networks; the optimum is flat. The chain alone
does not serve: it moved by 2 % where networks moved by 1, because the clock of wide vector instructions is another one.

Arrays lie on huge pages where the kernel grants them and on page boundaries everywhere: where a process happens to put an
array would otherwise change the time of the same work by 15 %. What they take on a device in its usual state is stored in
``profiles/<device_id>/reference.json`` and is the scale of every drift-corrected latency of that device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit.devices import clock, working_sets
from kit.records import Reference, Run
from kit.store import utc_now

Workload = Callable[[], int]  # does its work once, returns the nanoseconds that it took

PRODUCTS = {  # rows, inner, columns: 29 and 116 MMACs, as late convolutions have
    "product": (49, 2304, 256),
    "weights": (49, 4608, 512),
}
NETWORKS = {  # run by the runtime that is measured, on one thread: a second pool of threads would spin against the network's own
    "network": "resnet18-d1.1.1.1-w1.00-fp32-160",
    "network8": "resnet18-d1.1.1.1-w0.50-int8-112",
}
WORKLOADS = {
    "clock": f"a chain of dependent instructions, {clock.CYCLES} cycles (Numba: {clock.NUMBA_CYCLES})",
    **{name: "a float32 matrix product of " + " x ".join(map(str, shape)) for name, shape in PRODUCTS.items()},
}
MIXTURES: dict[
    str, tuple[dict[str, float], ...]
] = {  # by the network's precision; the first whose workloads are all timed counts
    "fp32": ({"weights": 0.3, "network": 0.7}, {"product": 0.4, "weights": 0.5, "clock": 0.1}),
    "int8": ({"network": 0.85, "network8": 0.2}, {"product": 0.3, "weights": 1.0, "clock": 0.1}),
}


def mixtures(precision: str) -> tuple[dict[str, float], ...]:
    """Exponents for a network of ``precision``, the best first; other precisions go with fp32."""
    return MIXTURES.get(precision, MIXTURES["fp32"])


def networks(precision: str) -> dict[str, str]:
    """Names and sub-network ids of the reference networks timed with a network of ``precision``."""
    return {name: NETWORKS[name] for name in mixtures(precision)[0] if name in NETWORKS}


def workloads(calls: Mapping[str, Callable[[], Any]] | None = None) -> dict[str, Workload]:
    """The workloads that this machine can run, each warmed up. ``calls`` run reference networks; without any the smaller product
    stands in. ``clock`` is missing where no chain can be run or believed."""
    by_name: dict[str, Workload] = {name: _network(call) for name, call in (calls or {}).items()}
    for name, shape in PRODUCTS.items():
        if name == "weights" or not by_name:
            by_name[name] = _product(*shape)
    chain = clock.chain()
    if chain is not None and clock.agrees(chain):
        passes = chain.first.passes
        by_name["clock"] = lambda: chain.first.elapsed_ns(passes)
    for workload in by_name.values():
        for _ in range(2):
            workload()
    return by_name


def _network(call: Callable[[], Any]) -> Workload:
    def network() -> int:
        call()  # finds its caches again
        start = perf_counter_ns()
        call()
        call()
        return (perf_counter_ns() - start) // 2

    return network


def _product(rows: int, inner: int, columns: int) -> Workload:
    left, right, out = (
        working_sets.aligned((rows, inner)),
        working_sets.aligned((inner, columns)),
        working_sets.aligned((rows, columns)),
    )

    def product() -> int:
        start = perf_counter_ns()
        np.matmul(left, right, out=out)
        return perf_counter_ns() - start

    return product


def clock_of(times_ns: NDArray[np.int64]) -> float | None:
    """The core clock in hertz that the ``clock`` workload's times [n] give: their lower quartile, as nothing shortens a chain."""
    chain = clock.chain()
    if chain is None or not len(times_ns):
        return None
    cycles = chain.first.passes * chain.first.cycles_per_pass
    return float(cycles / max(1.0, float(np.quantile(times_ns, 0.25)) - chain.first.overhead_ns) * 1e9)


def fits(reference: Reference, device_id: str) -> bool:
    """Whether a stored scale is of this device and of the workloads that this kit runs."""
    own = WORKLOADS | NETWORKS
    of_this_kit = all(own.get(_plain(name)) == description for name, description in reference.workloads.items())
    return reference.device_id == device_id and of_this_kit


def _plain(name: str) -> str:
    return name.split(" ")[0]


def _scale_key(name: str, backend: str) -> str:
    """What takes another time in another runtime has a scale of its own there."""
    return f"{name} {backend}" if name in NETWORKS else name


@dataclass(frozen=True)
class TimedRun:
    """One process that timed reference workloads, and by which runtime."""

    run: Run
    backend: str

    def medians_ns(self) -> dict[str, float]:
        """The median of each calibration workload."""
        return {name: float(np.median(series.array())) for name, series in self.run.references.items()}


def scale(reference: Reference | None, device_id: str, timed_runs: Sequence[TimedRun]) -> Reference | None:
    """``reference`` with the workloads that it lacks, from processes that timed them; None when there is neither.

    Medians over processes. A reference network that is new to a device with a scale is put into the usual state by the ``weights``
    timed with it.
    """
    nominal = dict(reference.nominal_ns) if reference else {}
    for names in (WORKLOADS, NETWORKS):
        usual_ns: dict[str, list[float]] = {}
        for timed_run in timed_runs:
            medians = timed_run.medians_ns()
            slowdown = medians["weights"] / nominal["weights"] if names is NETWORKS and "weights" in medians else 1.0
            for name in names.keys() & medians.keys():
                usual_ns.setdefault(_scale_key(name, timed_run.backend), []).append(medians[name] / slowdown)
        nominal = {name: float(np.median(times)) for name, times in sorted(usual_ns.items())} | nominal
    if not nominal:
        return None
    if reference is not None and nominal.keys() == reference.nominal_ns.keys():
        return reference
    return Reference(
        device_id=device_id,
        created_utc=reference.created_utc if reference else utc_now(),
        workloads={name: (WORKLOADS | NETWORKS)[_plain(name)] for name in nominal},
        nominal_ns=nominal,
        weights={},
    )


def of_job(reference: Reference, precision: str, backend: str, runs: Iterable[Run]) -> Reference:
    """``reference`` as a network of ``precision`` in this runtime needs it: the best mixture of workloads that every one of its ``runs``
    timed."""
    timed = [run.references.keys() for run in runs]
    for mixture in mixtures(precision):
        names = {name: _scale_key(name, backend) for name in mixture}
        if all(key in reference.nominal_ns for key in names.values()) and all(mixture.keys() <= each for each in timed):
            break
    else:
        available = set(reference.nominal_ns).intersection(*timed)
        mixture = {name: weight for name, weight in mixtures(precision)[-1].items() if name in available}
        names = {name: name for name in mixture}
    return reference.model_copy(
        update={
            "workloads": {name: reference.workloads[key] for name, key in names.items()},
            "nominal_ns": {name: reference.nominal_ns[key] for name, key in names.items()},
            "weights": mixture,
        }
    )
