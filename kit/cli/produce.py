"""The verbs that make networks, on a computer with torch: ``build``, ``export``, ``describe``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit import units
from kit.cli import options, show
from kit.cli.table import Column, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kit.cli.table import Table
    from kit.records import Artifact
    from kit.variants.build import Request


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    for verb in (options.grouped(build), export, describe):
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


DATA, TRAINING_PANEL = "Data", "Training"


@dataclass(frozen=True)
class Images:
    """What the networks are trained and scored on."""

    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="digits (embedded), cifar10, cifar100, a folder or zip of train/CLASS/NAME.jpg and test/..., or FILE.py:FUNCTION that "
            "yields (image, label) and is run.",
            rich_help_panel=DATA,
        ),
    ] = "digits"
    input_shape: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="CxHxW", help="What the network takes, such as 3x224x224.", rich_help_panel=DATA
        ),
    ] = None
    resolution: Annotated[
        int | None,
        typer.Option(min=8, help="Pixels of the images (default: their own up to 64, else 224).", rich_help_panel=DATA),
    ] = None
    data_cache: Annotated[
        Path | None,
        typer.Option(
            help="Where decoded pixels and downloads are kept (default: the build folder).", rich_help_panel=DATA
        ),
    ] = None
    download: Annotated[bool, typer.Option("--download", help="Fetch cifar10 or cifar100.", rich_help_panel=DATA)] = (
        False
    )
    flips: Annotated[
        bool | None,
        typer.Option(
            "--flips/--no-flips", help="Train on mirror images, too (default: of colour images).", rich_help_panel=DATA
        ),
    ] = None


@dataclass(frozen=True)
class Training:
    """How, and for which sub-networks."""

    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Weights of the root; its exits learn, the rest stays.", rich_help_panel=TRAINING_PANEL),
    ] = None
    epochs: Annotated[
        int | None, typer.Option(min=0, help="Of the root (default: by the data).", rich_help_panel=TRAINING_PANEL)
    ] = None
    finetune_epochs: Annotated[
        int | None, typer.Option(min=0, help="Of each pruned network.", rich_help_panel=TRAINING_PANEL)
    ] = None
    freeze: Annotated[
        bool | None,
        typer.Option(
            "--freeze/--joint",
            help="Early exits alone, or all (default: by --checkpoint).",
            rich_help_panel=TRAINING_PANEL,
        ),
    ] = None
    exits: Annotated[
        bool | None,
        typer.Option(
            "--exits/--no-exits",
            help="Also write the whole network in segments, for kit exits (default: unless --quick).",
            rich_help_panel=TRAINING_PANEL,
        ),
    ] = None
    widths: Annotated[
        str | None, typer.Option(metavar="W,...", help="Shares of the channels: 1,0.5.", rich_help_panel=TRAINING_PANEL)
    ] = None
    latency: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE,...",
            help="Also prune to these shares of the root's latency, measured here: 0.65.",
            rich_help_panel=TRAINING_PANEL,
        ),
    ] = None
    depths: Annotated[
        str | None, typer.Option(metavar="D,...", help="Depths to cut at: 2,4.", rich_help_panel=TRAINING_PANEL)
    ] = None


def build(
    root: Annotated[
        str,
        typer.Argument(
            metavar="ROOT",
            help="resnet18, resnet20, resnet56, vgg11 or vit_tiny for small images; a network of torchvision, timm:NAME, or your own, "
            "FILE.py:NAME (which is run).",
            autocompletion=options.complete_root,
        ),
    ] = "resnet18",
    images: Images = Images(),
    training: Training = Training(),
    out: Annotated[Path, typer.Option(help="Build folder.", rich_help_panel="Output")] = Path("build"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A small build in well under a minute: fewer epochs and variants.")
    ] = False,
    seed: show.Seed = 0,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Train a root network and produce its depth, pruned and quantized variants as ONNX files with sidecars."""
    need_training_tools()
    from kit.variants.build import build as make

    _say_what_runs(root)
    request = _request(root, images, training, quick, seed)
    with show.progress("build") as update:
        artifacts = make(request, out, progress=update)
    if json:
        show.emit({"build": str(out), "seed": seed, "variants": [a.model_dump(mode="json") for a in artifacts]})
    else:
        show.print_table(_variant_table(artifacts, out))


def _request(root: str, images: Images, training: Training, quick: bool, seed: int) -> Request:
    from kit.variants import datasets, recipes
    from kit.variants.build import Request

    channels, px = _shape(images)
    return Request(
        root=root,
        images=datasets.Request(images.data, px, channels, images.data_cache, images.download, images.flips),
        checkpoint=training.checkpoint,
        seed=seed,
        quick=quick,
        overrides=recipes.Overrides(
            epochs=training.epochs,
            finetune_epochs=training.finetune_epochs,
            widths=_numbers("--widths", training.widths, float),
            latencies=_numbers("--latency", training.latency, float),
            depths=_numbers("--depths", training.depths, int),
            freeze=training.freeze,
            exits=training.exits,
        ),
    )


def _shape(images: Images) -> tuple[int | None, int | None]:
    """(channels, pixels) of ``--input`` and ``--resolution``."""
    from kit.errors import UsageError

    if images.input_shape is None:
        return None, images.resolution
    match = re.fullmatch(r"(?:1x)?([13])x(\d+)x(\d+)", images.input_shape)
    if match is None or match[2] != match[3] or not 8 <= int(match[2]) <= 4096:
        raise UsageError(f"--input {images.input_shape} is no square image: write CxHxW, such as 3x224x224 or 1x32x32.")
    if images.resolution not in (None, int(match[2])):
        raise UsageError(f"--input {images.input_shape} and --resolution {images.resolution} differ: leave one away.")
    return int(match[1]), int(match[2])


def _numbers(flag: str, text: str | None, kind: type[Any]) -> tuple[Any, ...] | None:
    from kit.errors import UsageError

    try:
        return None if text is None else tuple(kind(part) for part in text.split(","))
    except ValueError:
        example = "1,0.5" if kind is float else "2,4"
        raise UsageError(f"{flag} {text} is no list of numbers: write {example}.") from None


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
    from kit.variants import examples, export, sources

    source_options = sources.SourceOptions(tuple(map(examples.shape_of, inputs or [])), checkpoint, resolution, seed)
    _say_what_runs(network)
    free = [*(dynamic or []), *(["batch"] if batch == "dynamic" else [])]
    size = int(batch) if batch and batch != "dynamic" else None
    artifact = export.export_named(network, out, source_options, batch=size, dynamic=free, name=name)
    _print_export(artifact, out, json)


def _say_what_runs(network: str) -> None:
    from kit.variants import sources

    if code := sources.runs_code(network):
        show.say(f"Runs the code of {code}.")


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
    from kit.variants.describe import describe_onnx

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
