"""Do the embedded images show a trade-off? ``kit run`` with several training seeds, and what its variants reach.

    python bench/digits.py [--seeds 0,1,2] [--root resnet18] [--runs FOLDER] [--note TEXT]

Runs ``kit run`` once per seed into the cache, or FOLDER, and writes bench/digits.json and the section of docs/networks.md that quotes it:
of each variant the accuracy with Wilson's interval, the multiply-accumulates, the measured median and its label, and the Pareto front as
the report draws it. Seven minutes a seed on two cores; it wants a machine with nothing else to do. A killed one goes on where it was, as
``kit run`` does. The runs of another root stay in the file.

The acceptance criteria: the whole network is at least five points more accurate than the smallest variant, and at least five
networks stand on the front. Ends with 1 where a run misses one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kit import store
from kit.records import DeviceSpec
from kit.report import points
from kit.variants import digits, network_files

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path.home() / ".cache" / "kit" / "digits"
FILE = Path(__file__).with_suffix(".json")
PAGE, HEADING = ROOT / "docs" / "networks.md", "### What the variants reach"
GAP, ON_FRONT = 0.05, 5
Run = dict[str, Any]


def run(root: str, seed: int, folder: Path) -> Run:
    """One ``kit run`` in ``folder``. Raises subprocess.CalledProcessError where it fails."""
    command = [sys.executable, "-m", "kit", "run", "--root", root, "--seed", str(seed), "--out", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return of_records(root, seed, folder)


def of_records(root: str, seed: int, folder: Path) -> Run:
    """What the records of a finished ``kit run`` hold."""
    device = DeviceSpec.model_validate(json.loads((folder / "summary.json").read_text())["device"])
    records, _ = points.latest(store.read_profiles([folder / "profiles" / device.device_id / "variants.jsonl"]))
    drawn = points.points(records)
    return {
        "root": root,
        "seed": seed,
        "device": device.device_id,
        "cpu": device.cpu_model,
        "date": max(p.record.created_utc for p in drawn)[:10],
        "versions": network_files.versions() | {"onnxruntime": device.runtimes.get("onnxruntime")},
        "variants": [_variant(p) for p in sorted(drawn, key=_order)],
        "front": [p.id for p in points.front(drawn)],
    }


def _order(point: points.PlotPoint) -> tuple[float, int, str]:
    """The whole network first; fp32 before int8."""
    sub = point.record.artifact.subnetwork
    assert sub is not None
    return -sub.width, -sub.depth, sub.precision


def _variant(point: points.PlotPoint) -> dict[str, Any]:
    accuracy = point.record.artifact.accuracy
    assert accuracy is not None
    return {
        "variant": point.id,
        "macs": point.macs,
        "accuracy": accuracy.top1,
        "interval": accuracy.interval,
        "count": accuracy.count,
        "median_s": point.median_s,
        "p99_s": point.p99_s,
        "label": point.label,
    }


def accuracy(one: Run, shape: str, precision: str) -> float:
    """Of the variant of that depth and width, as ``d2-w0.30``."""
    return float(next(v["accuracy"] for v in one["variants"] if f"-{shape}-{precision}-" in v["variant"]))


def gap(one: Run) -> float:
    """By how much the whole network in fp32 is more accurate than the narrowest and shallowest in int8."""
    return float(one["variants"][0]["accuracy"] - one["variants"][-1]["accuracy"])


def table(report: dict[str, Any], root: str = "resnet18") -> str:
    """The variants of a root as a table in Markdown, as docs/networks.md has it: latency of the first seed, accuracy of each."""
    runs = [one for one in report["runs"] if one["root"] == root]
    seeds = ", ".join(str(one["seed"]) for one in runs)
    lines = [
        f"| variant | million MACs | fp32 ms | int8 ms | fp32 %, seeds {seeds} | int8 %, seeds {seeds} |",
        "|---|---:|---:|---:|---|---|",
    ]
    first = runs[0]["variants"]
    for floating, integer in zip(first[::2], first[1::2], strict=True):
        shape = floating["variant"].removeprefix(f"{root}-").split("-fp32")[0]
        shares = [" / ".join(f"{100 * accuracy(one, shape, p):.1f}" for one in runs) for p in ("fp32", "int8")]
        medians = [f"{1e3 * v['median_s']:.3g}" for v in (floating, integer)]
        lines.append(f"| `{shape}` | {floating['macs'] / 1e6:.1f} | {' | '.join(medians)} | {' | '.join(shares)} |")
    return "\n".join(lines)


def summary(report: dict[str, Any], root: str = "resnet18") -> str:
    """The acceptance criteria's figures as a sentence, as docs/networks.md has it."""
    runs = [one for one in report["runs"] if one["root"] == root]
    gaps = ", ".join(f"{100 * gap(one):.1f}" for one in runs)
    fronts = ", ".join(str(len(one["front"])) for one in runs)
    widest = max(high - low for one in runs for low, high in (v["interval"] for v in one["variants"]))
    return (
        f"The whole network is {gaps} points more accurate than the smallest one in int8, {fronts} networks stand on "
        f"the Pareto front, and no interval is wider than ±{100 * widest / 2:.1f} points."
    )


def section(report: dict[str, Any], root: str = "resnet18") -> str:
    """What docs/networks.md says below :data:`HEADING`: machine and day, the criteria's figures, and the table."""
    first = next(one for one in report["runs"] if one["root"] == root)
    where = (
        f"`{first['device']}` on {first['date']}, onnxruntime {first['versions']['onnxruntime']}, one thread, batch 1"
    )
    about = (
        f"`kit run` with the training seeds of the table (`bench/digits.py`; {where}). {summary(report, root)} "
        f"Latencies are medians of the first seed's run. {first['note']}"
    )
    return "\n".join([*textwrap.wrap(about, 100, break_on_hyphens=False), "", table(report, root)])


def write_page(report: dict[str, Any]) -> None:
    """Replace the section's text, which is the last of the page."""
    text = PAGE.read_text()
    PAGE.write_text(f"{text[: text.index(HEADING)]}{HEADING}\n\n{section(report)}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--root", default="resnet18")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--note", default="", help="what the numbers should be read with, such as a shared machine")
    arguments = parser.parse_args()
    runs = []
    for seed in map(int, arguments.seeds.split(",")):
        one = run(arguments.root, seed, arguments.runs / f"{arguments.root}-seed-{seed}") | {"note": arguments.note}
        print(f"{one['root']}, seed {seed}: {100 * gap(one):.1f} points, {len(one['front'])} on the front")
        runs.append(one)
    kept = json.loads(FILE.read_text())["runs"] if FILE.exists() else []
    runs += [one for one in kept if one["root"] != arguments.root]
    runs.sort(key=lambda one: (one["root"], one["seed"]))
    report = {"images": digits.NAME, "runs": runs}
    FILE.write_text(json.dumps(report, indent=1) + "\n")
    write_page(report)
    short = [one for one in runs if gap(one) < GAP or len(one["front"]) < ON_FRONT]
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
