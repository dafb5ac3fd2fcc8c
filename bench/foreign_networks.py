"""Does the interval of a far network hold? Networks of kinds that were never measured, predicted, then measured.

    python bench/foreign_networks.py [--work FOLDER] [--json] [--fast]

1. A space or two of this machine is explored (``kit explore``), as a user would, and a model is fitted to it.
2. Foreign networks are written as ONNX files: architectures of torchvision with random weights, hand-made ones, quantized ones, and files
   out of public Python packages (those of bench/networks.py).
3. Each is measured by ``kit.profile`` and predicted by each model. ``bench/foreign_networks.json`` holds both.

Whatever lies in the work folder is not made again, so that a killed run goes on. No constant of kit was set by these networks: see
bench/far_networks.py for the records that it was set with. ``--fast`` is a trial with a tenth of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import kit
from bench import networks as files
from kit import latency, store, variants
from kit.devices import recognise
from kit.errors import KitError
from kit.latency import networks
from kit.records import ProfileRecord

ROOT = Path(__file__).resolve().parent.parent
WORK = Path.home() / ".cache" / "kit" / "foreign-networks"
OUT = ROOT / "bench" / "foreign_networks.json"
SPACES = {"resnet18": 40, "vit_tiny": 25}  # space -> networks that are explored
FITS = (("resnet18",), ("resnet18", "vit_tiny"))  # what each model is fitted to
PACKAGES = ("rapidocr-onnxruntime", "ddddocr", "magika", "nudenet", "basic-pitch", "silero-vad")
BUDGET_S = 6.0  # of the measurement of one foreign network


@dataclass(frozen=True)
class Foreign:
    """A network, what writes its file, and which inputs it is fed where random numbers do not serve."""

    name: str
    source: str  # "torchvision", "hand-made", "quantized", "package"
    write: Callable[[Path], None]
    shipped: files.File | None = None


# ------------------------------------------------------------------------------------------------------------ the networks


def _torchvision(root: str, px: int, path: Path, **settings: Any) -> None:
    import torchvision

    if root == "googlenet":
        settings |= {"init_weights": False}  # else it takes minutes to draw them
    _export(lambda: torchvision.models.get_model(root, weights=None, **settings), (1, 3, px, px), path)


def _export(build: Callable[[], Any], shape: tuple[int, ...], path: Path) -> None:
    """A module with random weights as an ONNX file; batch norms take their statistics from random inputs, as if it were trained."""
    import torch

    from kit.nets.export import onnx_of, program_of

    torch.manual_seed(0)
    net, example = build(), torch.randn(shape)
    norms = [m for m in net.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    for norm in norms:
        norm.momentum = None
    if norms:
        with torch.no_grad():
            net.train()(torch.randn(4, *shape[1:]))
    program = program_of(net.eval(), [example])
    store.write_atomic(path, onnx_of(program, input_names=["input"], output_names=["output"]))


def _mlp(width: int, depth: int, path: Path) -> None:
    from torch import nn

    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    _export(lambda: nn.Sequential(*layers, nn.Linear(width, 10)), (1, width), path)


def _recurrent(kind: str, width: int, steps: int, path: Path) -> None:
    from torch import Tensor, nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = getattr(nn, kind)(width, width, batch_first=True)
            self.head = nn.Linear(width, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0])

    _export(Recurrent, (1, steps, width), path)


def _encoder(width: int, layers: int, tokens: int, path: Path) -> None:
    from torch import nn

    layer = partial(nn.TransformerEncoderLayer, width, 4, 4 * width, batch_first=True, activation="gelu")
    _export(lambda: nn.TransformerEncoder(layer(), layers, enable_nested_tensor=False), (1, tokens, width), path)


def _depthwise(channels: int, depth: int, px: int, path: Path) -> None:
    from torch import nn

    layers = [
        m for _ in range(depth) for m in (nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.ReLU())
    ]
    _export(lambda: nn.Sequential(*layers), (1, channels, px, px), path)


def _temporal(channels: int, depth: int, steps: int, path: Path) -> None:
    from torch import nn

    layers = [m for i in range(depth) for m in (nn.Conv1d(channels, channels, 3, dilation=2**i), nn.ReLU())]
    _export(lambda: nn.Sequential(*layers), (1, channels, steps), path)


def _upsampler(channels: int, px: int, path: Path) -> None:
    from torch import nn

    down = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU(), nn.Conv2d(channels, 2 * channels, 3, 2, 1))
    up = nn.Sequential(
        nn.ReLU(), nn.ConvTranspose2d(2 * channels, channels, 2, 2), nn.ReLU(), nn.ConvTranspose2d(channels, 3, 2, 2)
    )
    _export(lambda: nn.Sequential(down, up), (1, 3, px, px), path)


def _int8(write: Callable[[Path], None], static_px: int | None, path: Path) -> None:
    """A float network as static QDQ for images of ``static_px`` pixels, else as dynamic int8."""
    import torch

    from kit.variants import quantize

    source = path.with_name(f"{path.stem}.float.onnx")
    write(source)
    data = (
        quantize.dynamic(source)
        if static_px is None
        else quantize.static(source, torch.randn(4, 3, static_px, static_px))
    )
    store.write_atomic(path, data)
    source.unlink()


def _shipped(file: files.File, path: Path) -> None:
    model = files.with_shapes(onnx.load(files.fetched(file, files.CACHE)), file.shapes)
    store.write_atomic(path, model.SerializeToString())


def foreign_networks() -> list[Foreign]:
    """All of them; tests compare docs with their number."""
    listed = [
        Foreign(f"{root}-{px}", "torchvision", partial(_torchvision, root, px))
        for root, sizes in {
            "mobilenet_v3_small": (32, 96, 224), "mobilenet_v3_large": (64, 224), "mobilenet_v2": (96,), "efficientnet_b0": (64, 224),
            "shufflenet_v2_x0_5": (64, 224), "squeezenet1_1": (64, 224), "mnasnet0_5": (96, 224), "densenet121": (64, 160),
            "regnet_y_400mf": (64, 224), "regnet_x_400mf": (128,), "convnext_tiny": (64, 128), "swin_t": (128,), "googlenet": (96,),
            "resnet50": (96,), "resnext50_32x4d": (96,), "alexnet": (128,), "vgg16": (64,), "vit_b_32": (224,),
        }.items()
        for px in sizes
    ]  # fmt: skip
    listed += [
        Foreign("mobilenet_v2-w0.35-160", "torchvision", partial(_torchvision, "mobilenet_v2", 160, width_mult=0.35)),
        Foreign("mlp-64x3", "hand-made", partial(_mlp, 64, 3)),
        Foreign("mlp-1024x4", "hand-made", partial(_mlp, 1024, 4)),
        Foreign("lstm-64x20", "hand-made", partial(_recurrent, "LSTM", 64, 20)),
        Foreign("lstm-256x100", "hand-made", partial(_recurrent, "LSTM", 256, 100)),
        Foreign("gru-128x50", "hand-made", partial(_recurrent, "GRU", 128, 50)),
        Foreign("encoder-64x2-16", "hand-made", partial(_encoder, 64, 2, 16)),
        Foreign("encoder-256x4-128", "hand-made", partial(_encoder, 256, 4, 128)),
        Foreign("depthwise-32x8-32", "hand-made", partial(_depthwise, 32, 8, 32)),
        Foreign("depthwise-128x4-56", "hand-made", partial(_depthwise, 128, 4, 56)),
        Foreign("temporal-64x4-200", "hand-made", partial(_temporal, 64, 4, 200)),
        Foreign("upsampler-16-64", "hand-made", partial(_upsampler, 16, 64)),
        Foreign("mobilenet_v2-96-qdq", "quantized", partial(_int8, partial(_torchvision, "mobilenet_v2", 96), 96)),
        Foreign("squeezenet1_1-128-qdq", "quantized", partial(_int8, partial(_torchvision, "squeezenet1_1", 128), 128)),
        Foreign("encoder-128x2-32-dynamic", "quantized", partial(_int8, partial(_encoder, 128, 2, 32), None)),
        Foreign("mlp-512x4-dynamic", "quantized", partial(_int8, partial(_mlp, 512, 4), None)),
    ]
    listed += [
        Foreign(f"{file.source.split('=')[0]}-{Path(file.name).stem}", "package", partial(_shipped, file), file)
        for file in files.SHIPPED
        if file.source.split("=")[0] in PACKAGES
        and file.name != "silero_vad.onnx"  # its two branches want other shapes than the one that is fixed here
    ]
    return listed


# ---------------------------------------------------------------------------------------------------- measured and predicted


def explored(space: str, count: int, work: Path) -> list[ProfileRecord]:
    """Records of ``count`` sub-networks of a space, measured once and kept."""
    folder = work / "profiles"
    done = work / f"{space}.done"
    if not done.is_file():
        command = [sys.executable, "-m", "kit", "explore", space, "--budget", str(count), "--profiles", str(folder)]
        command += ["--name", space, "--rounds-max", "6"]
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=sys.stderr)
        done.touch()
    return store.read_profiles([folder / recognise().device_id / f"{space}.jsonl"])


def written(network: Foreign, work: Path) -> Path | None:
    """The file of a network; None where it cannot be written here, and why goes to stderr."""
    path = work / "networks" / f"{network.name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        try:
            network.write(path)
        except Exception as error:  # an exporter, or a package that cannot be fetched
            print(f"{network.name} cannot be written: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
            return None
    return path


def measured(network: Foreign, path: Path, work: Path, budget_s: float) -> ProfileRecord | None:
    """The record of a network, from an earlier run where there is one; None where it does not run."""
    file = work / "profiles" / recognise().device_id / f"foreign-{network.name}.jsonl"
    if file.is_file() and (records := store.read_profiles([file])):
        return records[-1]
    inputs = None
    if network.shipped is not None:
        inputs = files.feeds_of(onnx.load(path)) | network.shipped.values
    try:
        return kit.profile(
            path, budget=budget_s, inputs=inputs, profiles=work / "profiles", name=f"foreign-{network.name}"
        )
    except KitError as error:
        print(f"{network.name}: {error}", file=sys.stderr)
        return None


def row_of(
    network: Foreign, path: Path, record: ProfileRecord | None, models: dict[str, latency.Predictor]
) -> dict[str, Any]:
    """What was measured of a network, and what each model predicts."""
    row: dict[str, Any] = {"network": network.name, "source": network.source, "measured_s": None, "label": None}
    if record is not None and record.measurement is not None:
        row |= {"measured_s": record.measurement.corrected_s or record.measurement.median_s, "label": record.label}
    try:
        kernels = networks.of_name(str(path), variants.kernels)
    except KitError as error:
        return row | {"refused": str(error).replace(str(path), path.name), "predictions": {}}
    predictions = {name: networks.predict(model, [kernels])[0] for name, model in models.items()}
    return row | {
        "refused": None,
        "kernels": sum(k.count for k in kernels.kernels),
        "predictions": {
            name: {"predicted_s": p.seconds, "interval_s": list(p.interval_s), "why": p.extrapolates}
            for name, p in predictions.items()
        },
    }


def summaries(rows: list[dict[str, Any]], names: list[str]) -> dict[str, dict[str, Any]]:
    """Of each model: how many far networks, in how many the interval held, how wide it is, and how far off the prediction."""
    out = {}
    for name in names:
        pairs = [
            (row["predictions"][name], row["measured_s"]) for row in rows if row["predictions"] and row["measured_s"]
        ]
        far = [(p, s) for p, s in pairs if p["why"]]
        held = [p["interval_s"][0] <= s <= p["interval_s"][1] for p, s in far]
        wide = [p["interval_s"][1] / p["interval_s"][0] for p, _ in far]
        off = [max(p["predicted_s"] / s, s / p["predicted_s"]) for p, s in far]
        out[name] = {
            "far": len(far), "near": len(pairs) - len(far), "held": int(sum(held)), "coverage": float(np.mean(held)),
            "median_high_over_low": float(np.median(wide)), "median_factor_off": float(np.median(off)),
            "worst_factor_off": float(max(off)),
        }  # fmt: skip
    return out


def report(
    rows: list[dict[str, Any]], models: dict[str, latency.Predictor], clock: str = "kit profile"
) -> dict[str, Any]:
    """The rows with the machine, the day and the versions; ``clock`` says what measured them."""
    return {
        "device": recognise().device_id,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {"kit": kit.__version__, "onnxruntime": ort.__version__},
        "clock": clock,
        "level": next(iter(models.values())).level,
        "summary": summaries(rows, list(models)),
        "rows": rows,
    }


def table(data: dict[str, Any], name: str) -> str:
    """The predictions of one model as a table in Markdown, one network a line."""
    lines = ["| network | measured ms | predicted ms | interval ms | held |", "|---|---:|---:|---:|---|"]
    for row in data["rows"]:
        prediction, seconds = row["predictions"].get(name), row["measured_s"]
        if prediction is None or seconds is None:
            continue
        low, high = prediction["interval_s"]
        held = "yes" if low <= seconds <= high else "no"
        near = "" if prediction["why"] else ", near"
        lines.append(
            f"| {row['network']} | {1e3 * seconds:.3g} | {1e3 * prediction['predicted_s']:.3g} "
            f"| {1e3 * low:.3g} .. {1e3 * high:.3g} | {held}{near} |"
        )
    return "\n".join(lines)


def summary_table(data: dict[str, Any]) -> str:
    """The summary as docs/latency.md has it."""
    lines = [
        "| fitted to | far networks | interval held | high / low, median | half within | worst |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, s in data["summary"].items():
        lines.append(
            f"| {name} | {s['far']} | {s['held']} ({s['coverage']:.0%}) | {s['median_high_over_low']:.1f} "
            f"| x{s['median_factor_off']:.2f} | x{s['worst_factor_off']:.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--json", action="store_true", help="print the JSON in place of the tables")
    parser.add_argument("--fast", action="store_true")
    arguments = parser.parse_args()
    share = 0.1 if arguments.fast else 1.0
    records = {s: explored(s, max(8, int(n * share)), arguments.work) for s, n in SPACES.items()}
    models = {" + ".join(fit): latency.predictor([r for s in fit for r in records[s]], baselines=False) for fit in FITS}
    rows = []
    for network in foreign_networks():
        path = written(network, arguments.work)
        if path is not None:
            record = measured(network, path, arguments.work, max(1.0, BUDGET_S * share))
            rows.append(row_of(network, path, record, models))
            print(f"{network.name}: {rows[-1]['measured_s']}", file=sys.stderr)
    data = report(rows, models)
    OUT.write_text(json.dumps(data, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(data, indent=1))
        return 0
    for name in models:
        print(f"\nfitted to {name}\n{table(data, name)}")
    print(f"\n{summary_table(data)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
