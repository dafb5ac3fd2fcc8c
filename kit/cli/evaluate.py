"""The verb ``evaluate``: the accuracy of a person's own network, into its sidecar."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import options, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kit.evaluation import Request, Wishes
    from kit.records import Accuracy, Artifact

DATA, IMAGES = "Data", "From an image to the input (default: the sidecar)"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(rich_help_panel="Judge")(options.grouped(evaluate))


@dataclass(frozen=True)
class Samples:
    """What a network is evaluated on, and by what."""

    data: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|ZIP|MODULE:FUNCTION",
            help="A folder or zip of images in class folders, CLASS/NAME.jpg (ZIP/test: a folder inside); or a function that yields "
            "(inputs, label), as FILE.py:FUNCTION or MODULE:FUNCTION. The file or module is run.",
            rich_help_panel=DATA,
        ),
    ] = None
    metric: Annotated[
        str,
        typer.Option(
            help="top1, top5, or FILE.py:FUNCTION (which is run): from outputs and labels to scores from 0 to 1.",
            rich_help_panel=DATA,
        ),
    ] = "top1"
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Classes in the order of the outputs, one a line or a JSON list (default: the folders, sorted).",
            rich_help_panel=DATA,
        ),
    ] = None  # fmt: skip
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="So many samples; of images evenly over the classes.", rich_help_panel=DATA),
    ] = None
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What to call the data (default: folder, zip or function).", rich_help_panel=DATA
        ),
    ] = None


@dataclass(frozen=True)
class ImageOptions:
    """From an image to the input."""

    resize: Annotated[
        int | None,
        typer.Option(metavar="PX", min=1, max=65536, help="Pixels of the shorter side.", rich_help_panel=IMAGES),
    ] = None
    crop: Annotated[
        int | None,
        typer.Option(
            metavar="PX", min=1, max=65536, help="Pixels of the centre that is cut out.", rich_help_panel=IMAGES
        ),
    ] = None
    mean: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Mean of each channel, or one for all.", rich_help_panel=IMAGES)
    ] = None
    std: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Deviation of each channel, or one for all.", rich_help_panel=IMAGES),
    ] = None
    scale: Annotated[
        float | None,
        typer.Option(
            help="What a white pixel is before mean and std: 1, or 255 for raw pixels.", rich_help_panel=IMAGES
        ),
    ] = None
    layout: Annotated[
        str | None, typer.Option(help="NCHW or NHWC (default: where the channels stand).", rich_help_panel=IMAGES)
    ] = None

    def wishes(self) -> Wishes:
        """The options as numbers. Raises UsageError for those that are none."""
        from kit.errors import UsageError
        from kit.evaluation import Wishes

        layout = self.layout.upper() if self.layout else None
        if layout not in ("NCHW", "NHWC", None):
            raise UsageError(f"--layout {self.layout} cannot be: give NCHW or NHWC.")
        mean, std = _numbers("--mean", self.mean), _numbers("--std", self.std)
        return Wishes(self.resize, self.crop, mean, std, self.scale, layout)  # type: ignore[arg-type]


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    from kit.errors import UsageError

    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{flag} {text} cannot be read: give numbers with commas, such as 0.485,0.456,0.406."
        ) from None


@dataclass(frozen=True)
class Running:
    """How the network runs."""

    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65536,
            help="Samples a call (default: 32 where the batch is free).",
            rich_help_panel=options.POINT,
        ),
    ] = None
    backend: options.Backend = "onnxruntime"
    output: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The output to judge (default: the first).", rich_help_panel=options.TARGET),
    ] = None


Networks = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[FILE.onnx...]", help="The network; with --from networks, or folders of them."),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="TABLE", rich_help_panel=DATA,
        help="Take the accuracies of a CSV (columns file or id, accuracy as 0.873 or 87.3%, and count, dataset, metric) or a JSON file.",
    ),
]  # fmt: skip


def evaluate(
    samples: Samples,
    images: ImageOptions,
    running: Running,
    networks: Networks = None,
    table: From = None,
    json: show.Json = False,
) -> None:
    """The accuracy of your own ONNX network on your own data, with its interval; kit knowledge chooses by it.

    It is written into the sidecar FILE.json, which is made where there is none. --data FILE.py:FUNCTION and --metric FILE.py:FUNCTION
    run that file.
    """
    from kit.errors import UsageError

    if table is not None:
        if (samples, images, running) != (Samples(), ImageOptions(), Running()):
            raise UsageError(
                "--from takes accuracies as they are stated: leave out the other options, or leave out --from."
            )
        _from_table(table, networks or [], json)
        return
    if not networks or len(networks) != 1 or samples.data is None:
        raise UsageError(
            "kit evaluate takes one .onnx file and --data FOLDER, ZIP or FILE.py:FUNCTION; or --from TABLE."
        )
    _evaluate(networks[0], samples, images.wishes(), running, json)


def _evaluate(network: Path, samples: Samples, wishes: Wishes, running: Running, json: bool) -> None:
    from kit import evaluation, variants

    request = request_of(samples, wishes, running)
    with show.progress("evaluate", resumes=False) as update:
        artifact = evaluation.evaluate(
            network, samples.data or "", request, describe=variants.artifact, progress=update
        )
    _print([(network, artifact)], json)


def request_of(samples: Samples, wishes: Wishes, running: Running) -> Request:
    """The options as one request."""
    from kit.evaluation import Request

    return Request(
        metric=samples.metric, wishes=wishes, limit=samples.limit, batch=running.batch, backend=running.backend,
        classes=samples.classes, output=running.output, dataset=samples.dataset,
    )  # fmt: skip


def _from_table(table: Path, networks: Sequence[Path], json: bool) -> None:
    from kit import evaluation, variants

    given = evaluation.stated(table, networks, describe=variants.artifact)
    _print([(one.path, one.artifact) for one in given], json)


def _print(evaluated: Sequence[tuple[Path, Artifact]], json: bool) -> None:
    if json:
        show.emit({"networks": [_json(path, artifact) for path, artifact in evaluated]})
        return
    for path, artifact in evaluated:
        assert artifact.accuracy is not None
        print(f"{path}: {artifact.accuracy.text(artifact.noun)}; in {path.with_suffix('.json').name}")


def _json(path: Path, artifact: Artifact) -> dict[str, Any]:
    accuracy: Accuracy | None = artifact.accuracy
    assert accuracy is not None
    return {
        "file": str(path.with_suffix(".json")),
        "id": artifact.artifact_id,
        "accuracy": accuracy.top1,
        "interval": accuracy.interval and list(accuracy.interval),
        "correct": accuracy.correct_count,
        "count": accuracy.count,
        "dataset": accuracy.dataset,
        "metric": accuracy.metric,
        "artifact": artifact.model_dump(mode="json"),
    }
