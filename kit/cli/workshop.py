"""Verbs of the workshop (a PC with torch): ``build``, ``export``, ``describe``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kit.cli import show


def add_to(app: typer.Typer) -> None:
    for verb in (build, export, describe):
        app.command(rich_help_panel="Produce (needs the workshop install)")(verb)


Root = Annotated[str, typer.Option(help="Root network: resnet18, vgg11 or vit_tiny.")]
PACKAGES = ("torch", "torchvision", "onnx", "torch_pruning", "sklearn", "plotly")


def need_workshop(*packages: str) -> None:
    """Raises BackendUnavailable with the command that installs the workshop, when ``packages`` (default: all) are not there."""
    import importlib.util

    from kit.errors import BackendUnavailable

    missing = [m for m in packages or PACKAGES if importlib.util.find_spec(m) is None]
    if missing:
        raise BackendUnavailable(
            f"This verb needs the workshop ({', '.join(missing)} missing): pip install 'insitu-kit[workshop]'."
        )


def build(
    root: Root = "resnet18",
    out: Annotated[Path, typer.Option(help="Build folder.")] = Path("build"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A small build in well under a minute: fewer epochs and variants.")
    ] = False,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """Train a root network and produce its depth, pruned and quantized variants as ONNX files with sidecars."""
    from kit.nets import root_of

    root_of(root)  # a misspelt name is told before the workshop is looked for
    need_workshop()
    from kit.variants.build import build as make

    with show.progress("build") as update:
        artifacts = make(root, out, seed=seed, quick=quick, progress=update)
    if json:
        show.emit({"build": str(out), "seed": seed, "variants": [a.model_dump(mode="json") for a in artifacts]})
        return
    table = show.make_table(f"Variants in {out}", "variant", "accuracy", "MB", "MMACs", "how")
    for a in artifacts:
        accuracy = f"{a.accuracy.top1:.2%}" if a.accuracy else "unknown"
        macs = f"{a.macs / 1e6:.4g}" if a.macs else "unknown"
        table.add_row(a.artifact_id, accuracy, f"{a.model.size_bytes / 1e6:.3g}", macs, a.quantization or "")
    show.print_table(table)


def export(
    name: Annotated[str, typer.Argument(help="A torchvision classification model, such as resnet18.")],
    resolution: Annotated[int, typer.Option(min=16, help="Input height and width in pixels.")] = 224,
    batch: Annotated[str, typer.Option(help="Images per inference; 'dynamic' leaves it free.")] = "1",
    out: Annotated[Path, typer.Option(help="Folder for the .onnx, its sidecar and its .pt2.")] = Path("models"),
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """Export a torchvision architecture (1000 classes, random weights) to ONNX with a sidecar, to be profiled."""
    from kit.errors import UsageError

    if batch != "dynamic" and not (batch.isdecimal() and 1 <= int(batch) <= 4096):
        raise UsageError(f"--batch {batch} cannot be: give a number from 1 to 4096, or dynamic.")
    need_workshop()
    from kit.variants.export import export_root

    artifact = export_root(name, resolution, out, batch=None if batch == "dynamic" else int(batch), seed=seed)
    if json:
        show.emit({"file": str(out / artifact.model.file), "artifact": artifact.model_dump(mode="json")})
    else:
        print(out / artifact.model.file)


def describe(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="Your own ONNX model with fixed shapes.")],
    json: show.Json = False,
) -> None:
    """Write the JSON sidecar of an ONNX file: hash, MACs, parameters, bytes, tensors. kit fit needs the MACs."""
    need_workshop()
    from kit.variants.export import describe_onnx

    artifact = describe_onnx(file)
    if json:
        show.emit({"file": str(file.with_suffix(".json")), "artifact": artifact.model_dump(mode="json")})
    else:
        print(f"{file.with_suffix('.json')}: {(artifact.macs or 0) / 1e6:.4g} MMACs, {artifact.parameters} parameters")
