"""Do the intervals of far networks hold on committed records? Each space is left out and predicted from the others.

    python bench/far_networks.py [profiles/DEVICE] [--json]

What kit.latency.far takes for usual was set with these records and without those of bench/foreign_networks.py, which is the test. Forty
random networks of each combination of spaces are fitted, forty of each precision of every other space are predicted. A pair counts as
one: the networks of a space share their errors.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kit import store
from kit.latency import kernels_of
from kit.latency.far import FarRoofline
from kit.latency.features import arrange
from kit.latency.parametric import Cases, State
from kit.records import ProfileRecord
from kit.stats import Float64Array

ROOT = Path(__file__).resolve().parent.parent
DEVICE = ROOT / "profiles" / "amd-epyc-f26m2-2c-kvm"
FILES = {"resnet18": "resnet18-space", "vgg11": "vgg11-space", "vit_tiny": "vit_tiny-space", "allocators": "allocators"}
COUNT = 40
LEVEL = 0.9


def records(folder: Path, stem: str) -> list[ProfileRecord]:
    """Those of onnxruntime on one thread whose kernels are known."""
    return [
        p
        for p in store.read_profiles([folder / f"{stem}.jsonl"])
        if p.settings.backend == "onnxruntime" and p.settings.name == "t1" and p.measurement and kernels_of(p.artifact)
    ]


def cases_of(profiles: list[ProfileRecord]) -> tuple[Cases, Float64Array]:
    """(networks, seconds [n]): drift-corrected medians."""
    medians = [m.corrected_s or m.median_s for p in profiles if (m := p.measurement)]
    table = arrange([kernels_of(p.artifact) or () for p in profiles])
    return Cases.of(table, (State(threads=1),)), np.array(medians)


def sampled(profiles: list[ProfileRecord], seed: int) -> list[ProfileRecord]:
    order = np.random.default_rng(seed).permutation(len(profiles))[:COUNT]
    return [profiles[i] for i in order]


def pairs(folder: Path) -> list[dict[str, Any]]:
    """What is fitted, what is predicted, and how well."""
    spaces = {name: records(folder, stem) for name, stem in FILES.items()}
    out = []
    for size in (1, 2, 3):
        for names in itertools.combinations(FILES, size):
            cases, seconds = cases_of([p for name in names for p in sampled(spaces[name], 0)])
            model = FarRoofline.fitted(cases, seconds, spaces=size)
            for other, precision in itertools.product([n for n in FILES if n not in names], ("fp32", "int8")):
                held_out = sampled([p for p in spaces[other] if p.artifact.precision == precision], 1)
                if not held_out:
                    continue
                networks, truth = cases_of(held_out)
                predictions = model.predict(networks, LEVEL)
                logs = np.log(truth)
                out.append(
                    {
                        "fitted": " + ".join(names),
                        "predicted": f"{other} {precision}",
                        "held": float(np.mean((predictions.log_low <= logs) & (logs <= predictions.log_high))),
                        "high_over_low": float(np.median(np.exp(predictions.log_high - predictions.log_low))),
                        "measured_over_predicted": float(np.median(np.exp(logs - predictions.log_seconds))),
                    }
                )
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=DEVICE)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = pairs(arguments.folder)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        print(
            f"{row['fitted']:<32} {row['predicted']:<16} held {row['held']:>4.0%}  high/low {row['high_over_low']:5.1f}  "
            f"measured/predicted {row['measured_over_predicted']:.2f}"
        )
    mean = float(np.mean([row["held"] for row in rows]))
    width = float(np.median([row["high_over_low"] for row in rows]))
    off = float(np.median([np.exp(abs(np.log(row["measured_over_predicted"]))) for row in rows]))
    print(
        f"{len(rows)} pairs: held {mean:.1%} on average, high / low {width:.1f}, off by a factor of {off:.2f} (medians)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
