"""Records made up for tests: small, valid, clearly synthetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from kit.records import (
    Accuracy,
    Artifact,
    ClockSpec,
    DeviceSpec,
    Environment,
    FileRef,
    Measurement,
    MeasureSettings,
    Memory,
    ProfileRecord,
    Run,
    SubNetwork,
)
from kit.store import sha256_bytes

NOW = "2026-01-01T00:00:00.000000Z"
CLOCK_HZ = 2.0e9


def device(device_id: str = "synthetic-1c", **changes: Any) -> DeviceSpec:
    fields: dict[str, Any] = {
        "device_id": device_id,
        "config": None,
        "machine": "x86_64",
        "system": "Synthetic OS",
        "kernel": "0.0",
        "cpu_model": "Synthetic CPU",
        "cpu_features": ("avx2",),
        "physical_cores": 1,
        "logical_cores": 1,
        "caches": (),
        "clock": ClockSpec(nominal_hz=CLOCK_HZ, source="cpuinfo (nominal)"),
        "memory_bytes": 2**30,
        "virtual": None,
    }
    return DeviceSpec(**{**fields, **changes})


def run(values_s: list[float], round_: int = 0, **changes: Any) -> Run:
    """One process whose calls took ``values_s`` seconds each; ``loops``, ``block`` and ``references`` as ``changes``."""
    now = Environment(at_utc=NOW)
    fields: dict[str, Any] = {
        "round": round_,
        "elapsed_ns": [v * 1e9 * changes.get("loops", 1) for v in values_s],
        "loops": 1,
        "warmup_calls": 10,
        "warmup_s": 0.1,
        "warm": True,
        "timer_resolution_ns": 20.0,
        "open_s": 0.1,
        "first_ns": 1.0,
        "memory": Memory(
            at_start_bytes=10_000_000, runtime_bytes=20_000_000, opened_bytes=30_000_000, peak_bytes=40_000_000
        ),
        "before": now,
        "after": now,
        "versions": {},
    }
    return Run(**{**fields, **changes})


def artifact(
    name: str = "resnet18-d8-w1.00-fp32-32",
    *,
    macs: int | None = 100_000_000,
    accuracy: float | None = 0.95,
    size: int = 1000,
) -> Artifact:
    sub = SubNetwork.parse(name) if name.startswith("resnet18-") else None
    return Artifact(
        artifact_id=name,
        model=FileRef(file=f"{name}.onnx", sha256=sha256_bytes(name.encode()), size_bytes=size),
        subnetwork=sub,
        precision=sub.precision if sub else "fp32",
        macs=macs,
        accuracy=None if accuracy is None else Accuracy(top1=accuracy, count=100, dataset="synthetic"),
    )


def profile(
    name: str = "resnet18-d8-w1.00-fp32-32",
    latency_s: float = 0.01,
    *,
    spread: float = 0.001,
    processes: int = 6,
    label: str | None = "stable",
    on: DeviceSpec | None = None,
    settings: MeasureSettings | None = None,
    seed: int = 0,
    **about: Any,
) -> ProfileRecord:
    """A measured record whose values scatter by ``spread`` around ``latency_s``."""
    rng = np.random.default_rng(seed)
    runs = tuple(run([latency_s * (1 + spread * x) for x in rng.standard_normal(50)], i) for i in range(processes))
    made = artifact(name, **about)
    return ProfileRecord(
        record_id=f"made-{name}",
        created_utc=NOW,
        kit_version="0",
        device=on or device(),
        artifact=made,
        settings=settings or MeasureSettings(),
        status="ok",
        measurement=Measurement(runs=runs),
        label=label,  # type: ignore[arg-type]
    )
