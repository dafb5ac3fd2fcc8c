"""Is what `kit profile` reports true? Pairs with a plain loop over InferenceSession.run, interleaved.

    python bench/truth.py [--pairs 5] [--seconds 3] [--json]

Each pair runs, in alternating order, a plain loop in a fresh process and `kit profile` of the same file (torchvision's resnet18,
224 px, fp32, one thread, the same session options), for the same time; the table gives both medians and their ratio. Then the
harness's own cost per call with the fake backend. Run it alone on the machine: nothing else may be busy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PLAIN_LOOP = """
import sys, time, statistics
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
node = session.get_inputs()[0]
feeds = {node.name: np.random.default_rng(0).standard_normal(node.shape).astype(np.float32)}
for _ in range(20):
    session.run(None, feeds)
times, until = [], time.perf_counter() + float(sys.argv[2])
while time.perf_counter() < until:
    start = time.perf_counter_ns()
    session.run(None, feeds)
    times.append(time.perf_counter_ns() - start)
print(statistics.median(times) * 1e-9)
"""


def plain_s(model: Path, seconds: float) -> float:
    """Median of a plain loop in a fresh process, in seconds."""
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_LOOP, str(model), str(seconds)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def kit_s(target: str, seconds: float, folder: Path, *more: str) -> float:
    """Median that `kit profile` reports: six processes that share the time."""
    command = [
        sys.executable,
        "-m",
        "kit",
        "profile",
        target,
        "--rounds-max",
        "3",
        "--visit-s",
        str(seconds / 3),
        "--json",
    ]
    done = subprocess.run([*command, "--profiles", str(folder), *more], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["variants"][0]["median_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, "-m", "kit", "export", "resnet18", "--out", name], check=True, capture_output=True
        )
        model = next(folder.glob("*.onnx"))
        pairs = []
        for number in range(args.pairs):
            steps = [
                ("plain", lambda: plain_s(model, args.seconds)),
                ("kit", lambda: kit_s(str(model), args.seconds, folder)),
            ]
            pairs.append({key: step() for key, step in (steps if number % 2 == 0 else steps[::-1])})
        overhead_s = kit_s("fake:0us", 1.5, folder, "--backend", "fake")
    ratios = [p["kit"] / p["plain"] for p in pairs]
    result = {
        "pairs": pairs,
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
        "harness_s_per_call": overhead_s,
    }
    if args.json:
        print(json.dumps(result, indent=2))
        return
    for pair, ratio in zip(pairs, ratios, strict=True):
        print(f"plain loop {pair['plain'] * 1e3:8.3f} ms   kit profile {pair['kit'] * 1e3:8.3f} ms   ratio {ratio:.4f}")
    print(f"median ratio {result['median_ratio']:.4f}; the harness adds {overhead_s * 1e9:.0f} ns to a call")


if __name__ == "__main__":
    main()
