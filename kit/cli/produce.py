"""The verbs that make networks, on a computer with torch: ``build``, ``export``, ``describe``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit import units
from kit.cli import options, show
from kit.cli.table import Column, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kit.cli.table import Table
    from kit.records import Artifact


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    for verb in (build, export, describe):
        app.command(rich_help_panel="Produce (needs the training tools)")(verb)


Root = Annotated[
    str,
    typer.Option(
        help="Root network: resnet18, vgg11 or vit_tiny.",
        autocompletion=options.complete_root,
        rich_help_panel="Target",
    ),
]
TRAINING = ("torch", "torchvision", "onnx", "torch_pruning", "sklearn", "plotly")


def need_training_tools(*modules: str) -> None:
    """Raises BackendUnavailable when ``modules`` (default: all of the training tools) are not here."""
    from kit import versions
    from kit.errors import BackendUnavailable

    try:
        versions.need("This verb needs", *(modules or TRAINING))
    except BackendUnavailable:
        if modules:
            raise
        missing = versions.extra("workshop")  # where one is missing the message names all of them
        raise BackendUnavailable(
            f"This verb needs the training tools, of which {', '.join(missing)} are not installed: {versions.install(*missing)}",
            missing=missing,
        ) from None


def build(
    root: Root = "resnet18",
    out: Annotated[Path, typer.Option(help="Build folder.", rich_help_panel="Output")] = Path("build"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A small build in well under a minute: fewer images and variants.")
    ] = False,
    seed: show.Seed = 0,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Train a root network and produce its depth, pruned and quantized variants as ONNX files with sidecars."""
    from kit.nets import root_of

    root_of(root)  # a misspelt name is reported before the training tools are looked for
    need_training_tools()
    from kit.variants.build import build as make

    with show.progress("build") as update:
        artifacts = make(root, out, seed=seed, quick=quick, progress=update)
    if json:
        show.emit({"build": str(out), "seed": seed, "variants": [a.model_dump(mode="json") for a in artifacts]})
    else:
        show.print_table(_variant_table(artifacts, out))


def _variant_table(artifacts: Sequence[Artifact], out: Path) -> Table:
    columns = (Column("accuracy"), Column("MB", 2), Column("MMACs", 1), text("quantization", 3))
    table = show.make_table(f"Variants in {out}", "variant", *columns, empty=f"{out} holds no variant.")
    for a in artifacts:
        table.add_row(a.artifact_id, *show.artifact_cells(a), a.quantization or "none")
    return table


def export(
    name: Annotated[str, typer.Argument(help="A torchvision classification model, such as resnet18.")],
    resolution: Annotated[int, typer.Option(min=16, help="Input height and width in pixels.")] = 224,
    batch: Annotated[str, typer.Option(help="Images per inference; 'dynamic' leaves it free.")] = "1",
    out: Annotated[
        Path, typer.Option(help="Folder for the .onnx, its sidecar and its .pt2.", rich_help_panel="Output")
    ] = Path("models"),
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """Export a torchvision architecture (1000 classes, random weights) to ONNX with a sidecar, to be profiled."""
    from kit.errors import UsageError

    if batch != "dynamic" and not (batch.isdecimal() and 1 <= int(batch) <= 4096):
        raise UsageError(f"--batch {batch} cannot be: give a number from 1 to 4096, or dynamic.")
    need_training_tools()
    from kit.variants.export import export_root

    artifact = export_root(name, resolution, out, batch=None if batch == "dynamic" else int(batch), seed=seed)
    if json:
        show.emit({"file": str(out / artifact.model.file), "artifact": artifact.model_dump(mode="json")})
    else:
        print(out / artifact.model.file)


def describe(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="Your own ONNX model.")],
    dim: options.Dim = None,
    name: Annotated[
        str | None, typer.Option("--id", help="Id of the network (default: the file's name).", rich_help_panel="Output")
    ] = None,
    json: show.Json = False,
) -> None:
    """Write the JSON sidecar of an ONNX file: hash, MACs, parameters, bytes, tensors. kit fit needs the MACs."""
    need_training_tools()
    from kit.backends import dimensions
    from kit.variants.export import describe_onnx

    artifact = describe_onnx(file, dict(dimensions.parse(dim or [])), name)
    if json:
        show.emit({"file": str(file.with_suffix(".json")), "artifact": artifact.model_dump(mode="json")})
    else:
        print(f"{file.with_suffix('.json')}: {_macs(artifact)}, {units.known(artifact.parameters)} parameters")
        for note in artifact.notes:
            print(f"  {note}")


def _macs(artifact: Artifact) -> str:
    """Millions of multiply-accumulates; where they are unknown, what is missing."""
    if artifact.macs is None:
        return f"MACs: {artifact.macs_text}"
    return f"{units.in_unit(artifact.macs, units.MMAC)} MMACs"
