"""What docs/results.md says, and what README.md takes from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from quoted import ROOT, table

from claims import bandwidth, offloading, placement
from kit import latency, store
from kit.records import ProfileRecord

PAGE = "docs/results.md"
SETTINGS = (
    "with 2 cores",
    "says 2.6 GHz",
    "batch 1",
    "batch 1, 2026-11-21",
    "at 32 pixels",
    "`d8-w1.00`",
    "Two 512-bit multiply-add units cannot do better than 1/32 in fp32",
    "single images of 450",
    "at 224 pixels",
    "gaps of 1 to 100 ms",
    "4,000 steps",
    "λ is not 1",
    "int8 pays",
    "AVX-512 VNNI",
    "a shallow narrow int8 network does",
    "ResNet-18",
    "for 3,500 outputs",
    "hidden layers of 64",
    "paper has 1.745 for TD3",
    "TD3",
)
README_SETTINGS = (
    "Python 3.10",
    "λ = 1",
    "IEEE TCCN 2023",
    "IEEE TVT 2021",
    "for 6G Wireless",
    "in 6G Mobile Networks",
    "PyTorch, 5 GB",
    "(234 MB)",
    "x86 virtual machines with 2 cores",
    "x86 CPUs",
    "int8 variants",
    "ResNet-18 on 32-pixel",
    "batch 1",
    "`amd-epyc-f26m2-2c-kvm`), 2026-11-21",
    "λ is not 1",
    "int8 pays",
    "ResNet-18",
    "in 6G Networks",
    "Apache-2.0",
)
FOLDER = ROOT / "profiles" / "amd-epyc-f26m2-2c-kvm"
#: what the table calls a variant, and its id without family, precision and resolution
VARIANTS = {
    "whole network": "d8-w1.00",
    "cut after block 4": "d4-w1.00",
    "pruned to half": "d8-w0.50",
    "both": "d4-w0.50",
    "both and more": "d4-w0.30",
}


@lru_cache
def profiles(name: str) -> list[ProfileRecord]:
    return list(store.read_profiles([FOLDER / f"{name}.jsonl"]))


def median_s(record: ProfileRecord) -> float:
    assert record.measurement
    return record.measurement.median_s


def variant(shape: str, precision: str) -> ProfileRecord:
    wanted = f"resnet18-{shape}-{precision}-32"
    return next(r for r in profiles("resnet18-variants") if r.artifact.artifact_id == wanted)


def digits(value: float, count: int = 3) -> str:
    """With so many digits that count: 0.0723, 2.13, 138.6 with four."""
    places = max(count - 1 - int(np.floor(np.log10(abs(value)))), 0)
    return f"{value:.{places}f}"


def variants() -> str:
    rows = []
    for words, shape in VARIANTS.items():
        floating, integer = variant(shape, "fp32"), variant(shape, "int8")
        assert floating.artifact.accuracy and integer.artifact.accuracy and floating.artifact.macs
        rows.append(
            (
                f"{words}, `{shape}`",
                f"{floating.artifact.macs / 1e6:.1f}",
                digits(1e3 * median_s(floating)),
                digits(1e3 * median_s(integer)),
                f"{100 * floating.artifact.accuracy.top1:.1f} % / {100 * integer.artifact.accuracy.top1:.1f} %",
            )
        )
    head = ("variant", "million MACs", "fp32 median ms", "int8 median ms", "fp32 / int8 accuracy")
    return table(head, *rows)


@lru_cache
def lines() -> dict[str, latency.LatencyModel]:
    return {m.precision: m for m in latency.fit(profiles("resnet18-variants"))}


def cycles(precision: str, digits_after: int) -> str:
    low, high = lines()[precision].interval
    return f"(95 %: {low:.{digits_after}f} to {high:.{digits_after}f})"


def ratios() -> tuple[str, str, str]:
    """MACs and time of the whole network over its first four blocks; fp32 over int8."""
    whole, half, integer = variant("d8-w1.00", "fp32"), variant("d4-w1.00", "fp32"), variant("d8-w1.00", "int8")
    assert whole.artifact.macs and half.artifact.macs
    return (
        f"{whole.artifact.macs / half.artifact.macs:.1f}",
        f"{median_s(whole) / median_s(half):.1f}",
        f"{median_s(whole) / median_s(integer):.1f}",
    )


def claims() -> Iterator[str]:
    fp32, int8 = lines()["fp32"], lines()["int8"]
    macs, time, gain = ratios()
    records = profiles("resnet18-variants")
    assert records[0].measurement
    versions = records[0].measurement.runs[0].versions
    yield f"ran at {fp32.clock_hz / 1e9:.1f} GHz"
    yield f"onnxruntime {versions['onnxruntime']}"
    yield f"{len(records)} variants trained"
    yield variants()
    yield f"{fp32.lambda_cycles_per_mac:.3f} cycles per MAC for fp32 {cycles('fp32', 3)}"
    yield f"and {int8.lambda_cycles_per_mac:.4f} for int8 {cycles('int8', 4).removeprefix('(95 %: ')}".replace(
        " for int8 ", " for int8 ("
    )
    yield f"has {macs} times the MACs of its first four blocks and takes {time} times as long"
    yield f"off by {100 * fp32.quality.mape:.0f} % (fp32) and {100 * int8.quality.mape:.0f} % (int8) on average, and by {100 * max(fp32.quality.worst, int8.quality.worst):.0f} % at worst"
    yield f"{gain} times faster for the whole network"
    labels = Counter(r.label for r in records)
    yield f"{labels['stable']} of the {len(records)} are `stable`, {labels['settled']} `settled`"
    runtimes = {(r.settings.backend, r.settings.threads): 1e3 * median_s(r) for r in profiles("resnet18-224-runtimes")}
    names = {"onnxruntime": "onnxruntime", "openvino": "OpenVINO", "pytorch": "PyTorch"}
    rows = [(word, f"{runtimes[name, 1]:.1f}", f"{runtimes[name, 2]:.1f}") for name, word in names.items()]
    yield table(("runtime", "one thread, ms", "two threads, ms"), *rows)
    points = profiles("resnet18-224-gap-load")
    alone = next(r for r in points if r.settings.name == "t1")
    moved = max(abs(median_s(r) / median_s(alone) - 1) for r in points)
    tails = [1e3 * r.measurement.p99_s for r in points if r.measurement]
    yield f"the median by at most {100 * moved:.1f} %, and p99 from {min(tails):.1f} to {max(tails):.1f} ms"
    for page in (bandwidth, offloading, placement):
        yield from page.results()


def readme() -> Iterator[str]:
    fp32, int8 = lines()["fp32"], lines()["int8"]
    macs, time, gain = ratios()
    yield variants()
    yield f"{fp32.lambda_cycles_per_mac:.3f} cycles per MAC for fp32 {cycles('fp32', 3)}"
    yield f"{int8.lambda_cycles_per_mac:.4f} for int8 ({cycles('int8', 4).removeprefix('(95 %: ')}"
    yield f"has {macs} times the MACs of its first four blocks and takes {time} times as long"
    yield f"off by {100 * fp32.quality.mape:.0f} % (fp32) on average and {100 * fp32.quality.worst:.0f} % at worst"
    yield f"{gain} times faster at the same accuracy"
    other = next(piece for piece in bandwidth.results() if "of the cells" in piece)
    yield other.split(" when ")[0].replace("of the cells", "of the cases")
