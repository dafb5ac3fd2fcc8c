"""Paper D, Fig. 3: accuracy against the size of what is downloaded, over links with bit errors, of a family that kit build trained.

    kit build resnet18 --out build
    python bench/bad_link.py --build build [--out docs/papers/results/downloading-bad-link.json]

Depth: the exits of the root, fp32. Parameters: the pruned widths at full depth, fp32. Bits: the root in 4 to 2 bits a weight, sizes in
percent of its 4-bit form, as in the paper. Each in the representations of :data:`PAYLOADS`, on the first ``--images`` held-out digits.
Every draw is kept under BUILD/.work, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402

import kit  # noqa: E402
from kit import evaluation, store  # noqa: E402
from kit.devices import recognise  # noqa: E402
from kit.papers.results import Figure, Line, Simulation  # noqa: E402
from kit.records import Artifact  # noqa: E402
from kit.report.svg import write_charts  # noqa: E402
from kit.variants import bad_link, digits  # noqa: E402
from kit.variants.bad_link import Cell, Channel, Robustness  # noqa: E402

OUT = ROOT / "docs" / "papers" / "results" / "downloading-bad-link.json"
BERS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)
PAYLOADS = ("fp32", "fp32-clipped", "fp32-protected", "int8")
OF_ROOT = (*PAYLOADS, "bf16", "bf16-protected", "int4")
BITS = ("int4", "int3", "int2")


def images(count: int) -> Iterator[tuple[Any, int]]:
    """The first held-out images of kit's data, with their labels."""
    test = digits.dataset().test.first(count)
    yield from ((image.numpy(), int(label)) for image, label in zip(test.images, test.labels, strict=True))


def variants(build: Path) -> list[Artifact]:
    """The fp32 variants of a build, the largest first."""
    listed = store.read_json(build / "build.json")["artifacts"]
    artifacts = [store.read_record(build / f"{name}.json", Artifact) for name in listed]
    return sorted((a for a in artifacts if a.precision == "fp32"), key=lambda a: -a.size_bytes)


def measured(name: str, files: Sequence[Path], payloads: Sequence[str], options: argparse.Namespace) -> Robustness:
    """The draws of a part of the figure; those that the journal holds are not drawn again."""
    request = evaluation.Request(threads=options.threads, dataset=digits.NAME)
    shown = 0.0

    def report(text: str, share: float) -> None:
        nonlocal shown
        if time.monotonic() > shown + 10:
            shown = time.monotonic()
            print(f"{name}: {share:4.0%} {text}", file=sys.stderr, flush=True)

    channel = Channel(options.ber, payloads, options.draws, options.seed)
    out = options.build / ".work" / "bad-link.json"  # one for all parts: what two of them need is drawn once
    return bad_link.robustness(files, lambda: images(options.images), request, channel, out=out, progress=report)


def rates(cells: Sequence[Cell]) -> list[float]:
    return list(dict.fromkeys(cell.ber for cell in cells))


def curves(figure: str, title: str, cells: Sequence[Cell], sizes: Sequence[float], x_name: str) -> list[Figure]:
    """Mean (with worst and best) and median of ``cells``, a line a BER and a place a size."""
    order = sorted(set(sizes))
    lines: dict[str, list[Line]] = {"mean": [], "median": []}
    for ber in rates(cells):
        row = [next(c for c, s in zip(cells, sizes, strict=True) if s == size and c.ber == ber) for size in order]
        low, high = tuple(c.worst for c in row), tuple(max(c.accuracies) for c in row)
        name = f"BER {ber:g}"
        lines["mean"].append(Line(name=name, values=tuple(c.mean for c in row), low=low, high=high))
        lines["median"].append(Line(name=name, values=tuple(c.median for c in row)))
    return [
        Figure(
            figure=figure if of == "mean" else f"{figure}-{of}", title=f"{title}, {of}", x_name=x_name,
            x=tuple(float(f"{100 * size:.4g}") for size in order), y_name="accuracy", unit="1", lines=tuple(lines[of]),
        )
        for of in lines
    ]  # fmt: skip


def kept(cells: Sequence[Cell]) -> list[Figure]:
    """Of the root: accuracy over that of the clean file, a line a representation and a place a BER; and what each sends."""
    names = list(dict.fromkeys(cell.payload for cell in cells))
    rows = {
        name: [next(c for c in cells if c.payload == name and c.ber == ber) for ber in rates(cells)] for name in names
    }
    mean = [
        Line(
            name=name,
            values=tuple(c.mean / c.clean for c in row),
            low=tuple(c.worst / c.clean for c in row),
            high=tuple(max(c.accuracies) / c.clean for c in row),
        )
        for name, row in rows.items()
    ]
    median = [Line(name=name, values=tuple(c.median / c.clean for c in row)) for name, row in rows.items()]
    sent = [Line(name=name, values=(row[0].share_of_root, row[0].protected_share)) for name, row in rows.items()]
    x, shared = (
        tuple(f"{ber:g}" for ber in rates(cells)),
        {"x_name": "BER", "y_name": "accuracy over clean", "unit": "number"},
    )
    return [
        Figure(figure="root", title="The root by representation, mean", x=x, lines=tuple(mean), **shared),
        Figure(figure="root-median", title="The root by representation, median", x=x, lines=tuple(median), **shared),
        Figure(
            figure="sent", title="What a representation sends", x_name="of the download", x=("size", "reliable"), y_name="share",
            unit="1", shown="table", lines=tuple(sent),
        ),
    ]  # fmt: skip


def figures(options: argparse.Namespace) -> Iterator[Figure]:
    """Every part of Fig. 3."""
    networks = variants(options.build)
    root = networks[0]
    assert root.subnetwork is not None
    depths = [a for a in networks if a.subnetwork and a.subnetwork.width == 1]
    widths = [a for a in networks if a.subnetwork and a.subnetwork.depth == root.subnetwork.depth]
    x_name = "downloaded size (% of the root)"
    for part, name, group in (("fig3a", "depth", depths), ("fig3b", "width", widths)):
        result = measured(name, [options.build / a.model.file for a in group], PAYLOADS, options)
        for payload in PAYLOADS:
            cells = [c for c in result.cells if c.payload == payload]
            yield from curves(
                f"{part}-{payload}", f"By {name}, {payload}", cells, [c.share_of_root for c in cells], x_name
            )
    result = measured("bits", [options.build / root.model.file], options.bits, options)
    whole = next(c.share_of_root for c in result.cells if c.payload == "int4")
    sizes = [c.share_of_root / whole for c in result.cells]
    yield from curves("fig3c", "By bits", result.cells, sizes, "downloaded size (% of the 4-bit root)")
    yield from kept(measured("root", [options.build / root.model.file], options.of_root, options).cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True, help="the folder of kit build")
    parser.add_argument("--out", type=Path, default=OUT, help="the record; the plots lie beside it")
    parser.add_argument("--images", type=int, default=150, help="held-out images of each draw (default: 150)")
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--ber", type=lambda text: tuple(map(float, text.split(","))), default=BERS, help="0,1e-5,…")
    parser.add_argument("--bits", type=lambda text: tuple(text.split(",")), default=BITS, help="of Fig. 3 (c): int4,…")
    parser.add_argument("--of-root", type=lambda text: tuple(text.split(",")), default=OF_ROOT, help="fp32,int8,…")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of the runtime (default: all)")
    options = parser.parse_args()
    begin = time.monotonic()
    all_figures = tuple(figures(options))
    root = variants(options.build)[0]
    simulation = Simulation(
        world="downloading",
        parameters={
            "root": root.artifact_id, "recipe": root.origin.versions.get("recipe", "") if root.origin else "",
            "images": options.images, "draws": options.draws, "dataset": digits.NAME,
        },
        delay="none",
        seeds=(options.seed,),
        versions={"kit": kit.__version__, "numpy": np.__version__, "onnxruntime": onnxruntime.__version__},
        wall_s=time.monotonic() - begin,
        device_id=recognise().device_id,
        ended_utc=store.utc_now(),
        figures=all_figures,
    )  # fmt: skip
    store.write_record(options.out, simulation)
    write_charts(simulation, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
