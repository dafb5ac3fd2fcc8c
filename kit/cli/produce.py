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


Network = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        help="resnet18 or another network of torchvision, timm:NAME, FILE.py:NAME or package.module:NAME (a module, or a function that "
        "returns one), FILE.pt2, or a TorchScript file. Files of Python, .pt2 and TorchScript run code: only your own.",
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="Shape of an input, once for each: 1x3x224x224, ids=1x128:int64:0..999, or a .npy file.",
    ),
]
Dynamic = Annotated[
    list[str] | None,
    typer.Option(help="Dimension that stays free: batch, seq=1 (axis 1 of every input), seq=INPUT:1.", metavar="DIM"),
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Weights: a state_dict of torch.save, .safetensors or .npz; nothing of it is run.")
]
Resolution = Annotated[
    int | None,
    typer.Option(min=16, help="Height and width in pixels, of torchvision and timm (default: 224, or timm's)."),
]


def export(
    network: Network,
    inputs: Shapes = None,
    dynamic: Dynamic = None,
    checkpoint: Checkpoint = None,
    resolution: Resolution = None,
    batch: Annotated[str | None, typer.Option(help="Inputs per inference; 'dynamic' leaves it free.")] = None,
    name: Annotated[
        str | None, typer.Option("--id", help="Id of the network (default: from its name).", rich_help_panel="Output")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the .onnx, its sidecar and its .pt2.", rich_help_panel="Output")
    ] = Path("models"),
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """Export a PyTorch network to ONNX with a sidecar, compared with the network; without weights they are random."""
    from kit.errors import UsageError

    if batch not in (None, "dynamic") and not (str(batch).isdecimal() and 1 <= int(str(batch)) <= 4096):
        raise UsageError(f"--batch {batch} cannot be: give a number from 1 to 4096, or dynamic.")
    need_training_tools("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
    from kit.variants import examples, sources, torch_export

    wishes = sources.Wishes(tuple(map(examples.shape_of, inputs or [])), checkpoint, resolution, seed)
    if code := sources.runs_code(network):
        show.say(f"Runs the code of {code}.")
    free = [*(dynamic or []), *(["batch"] if batch == "dynamic" else [])]
    size = int(batch) if batch and batch != "dynamic" else None
    artifact = torch_export.export_named(network, out, wishes, batch=size, dynamic=free, name=name)
    _print_export(artifact, out, json)


def _print_export(artifact: Artifact, out: Path, json: bool) -> None:
    file = out / artifact.model.file
    if json:
        show.emit({"file": str(file), "artifact": artifact.model_dump(mode="json")})
        return
    assert artifact.check is not None
    inputs = ", ".join(f"{spec.name} {'x'.join(map(str, spec.shape)) or 'scalar'}" for spec in artifact.inputs)
    show.say(
        f"{artifact.artifact_id}: {_macs(artifact)}, inputs {inputs}; differs from PyTorch by {artifact.check.max_abs_error:.2g} at most."
    )
    print(file)


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
