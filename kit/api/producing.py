"""Networks as files: exported, built as variants, and how accurate they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kit import evaluation, variants, versions
from kit.api.arguments import ExampleInput, PathLike, Progress
from kit.errors import UsageError
from kit.records import (
    Artifact,
)

if TYPE_CHECKING:
    import torch


def evaluate(
    path: PathLike, data: PathLike | Callable[[], Any], *, metric: str | Callable[[Any, Any], Any] = "top1",
    resize: int | None = None, crop: int | None = None, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
    scale: float | None = None, layout: Literal["NCHW", "NHWC"] | None = None, limit: int | None = None, batch: int | None = None,
    backend: str = "onnxruntime", threads: int | None = None, classes: PathLike | Sequence[str] | None = None,
    output: str | None = None, dataset: str | None = None, progress: Progress | None = None,
) -> Artifact:  # fmt: skip
    """The accuracy of your own .onnx file on your own data, written into its sidecar, by which ``kit.KnowledgeBase`` chooses.

    ``data`` is a folder or zip of images in class folders (``CLASS/NAME.jpg``; ``"images.zip/test"`` for a folder inside), or a function
    of no arguments that yields pairs of inputs and label, one by one or in batches (or its name, ``"file.py:function"``: the file is
    run). ``metric`` is "top1", "top5", or a function of all outputs ``(N, ...)`` and labels ``(N,)`` that returns a number from 0 to 1,
    or one for each sample. How images become inputs stands in the sidecar; ``resize`` (pixels of the shorter side) to ``layout`` win, and
    are written there. ``classes`` names the class of each output (default: the folders, sorted), ``limit`` takes so many samples.

    Raises UsageError (it says what is missing), BadModel, BadRecord, BackendUnavailable (no Pillow), IntegrityError, MeasurementError.

    Example:
        >>> evaluated = kit.evaluate(NETWORK, lambda: [([0.1, 0.9], 1), ([0.8, 0.2], 1)])
        >>> evaluated.accuracy.top1, evaluated.accuracy.correct, evaluated.accuracy.count
        (0.5, 1, 2)
    """
    given = evaluation.Wishes(resize, crop, mean, std, scale, layout)
    names = Path(classes) if isinstance(classes, (str, os.PathLike)) else classes
    request = evaluation.Request(metric, given, limit, batch, backend, threads, names, output, dataset)
    source = data if callable(data) else os.fspath(data)
    return evaluation.evaluate(Path(path), source, request, describe=variants.artifact, progress=progress)


def export(
    network: str | torch.nn.Module,
    example_input: ExampleInput | None = None,
    *,
    out: PathLike = "models",
    name: str | None = None,
    inputs: Sequence[str] = (),
    dynamic: Sequence[str] = (),
    checkpoint: PathLike | None = None,
    resolution: int | None = None,
    batch: int | None = None,
    seed: int = 0,
) -> Artifact:
    """A PyTorch network as ``<name>.onnx`` with its sidecar, sample and .pt2 in ``out``, compared with the network.

    ``network`` is a ``torch.nn.Module`` with an ``example_input`` (a tensor, several in a sequence, or by name), or a text as ``kit
    export`` takes it: ``"resnet18"``, ``"timm:NAME"``, ``"my_net.py:make"``, a .pt2, TorchScript, with ``inputs`` such as
    ``"1x3x224x224"``. ``dynamic`` names dimensions that stay free (``"batch"``, ``"seq=1"``, ``"seq=ids:1"``), ``checkpoint`` is a file of
    weights, of which nothing is run. ``resolution`` is of torchvision and timm, ``batch`` the first dimension of every input.

    Raises UsageError, UnknownName, BadModel (torch cannot export it), IntegrityError (the file answers otherwise), BackendUnavailable.

    Example:
        >>> import torch
        >>> artifact = kit.export(torch.nn.Linear(8, 4), torch.rand(1, 8), out=FOLDER, dynamic=["batch"])
        >>> artifact.model.file, artifact.macs
        ('linear-bfree.onnx', 32)
    """
    versions.need("This needs", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
    from kit.variants import examples, export, sources

    file = None if checkpoint is None else Path(checkpoint)
    if not isinstance(network, str):
        return export.export_module(
            network,
            example_input,
            Path(out),
            name or type(network).__name__,
            dynamic=dynamic,
            checkpoint=file,
            batch=batch,
        )
    if example_input is not None:
        raise UsageError("example_input is for a PyTorch network that lies in memory: give inputs=['1x3x224x224'].")
    options = sources.SourceOptions(tuple(map(examples.shape_of, inputs)), file, resolution, seed)
    return export.export_named(network, Path(out), options, batch=batch, dynamic=dynamic, name=name)


def build(
    root: str = "resnet18",
    out: PathLike = "build",
    *,
    data: str = "digits",
    resolution: int | None = None,
    checkpoint: PathLike | None = None,
    epochs: int | None = None,
    finetune_epochs: int | None = None,
    widths: Sequence[float] | None = None,
    depths: Sequence[int] | None = None,
    latencies: Sequence[float] | None = None,
    quick: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Artifact]:
    """Train a root network and write its depth, pruned and int8 variants to the folder ``out``.

    ``root`` is one of kit's for small images (resnet18, resnet20, resnet56, vgg11, vit_tiny), a network of torchvision, ``"timm:NAME"`` or
    ``"my_net.py:make"``, which is run. ``data`` is ``"digits"``, ``"cifar10"``, a folder or zip with ``train/CLASS/NAME.jpg`` and
    ``test/...``, or ``"my_data.py:images"``. With a ``checkpoint`` the early exits learn and the rest stays. ``epochs``,
    ``finetune_epochs``, ``widths`` and ``depths`` are chosen by the data and the root where they are None; ``latencies`` are shares of the
    root's measured latency to prune to.

    Takes minutes on a PC (``quick``: under one); a build that was stopped resumes. Raises UnknownName, BackendUnavailable (the training
    tools are missing), UsageError (``out`` holds another build, data or weights that do not fit), BadModel, StorageError.

    Example:
        >>> kit.build("resnet81")
        Traceback (most recent call last):
        ...
        kit.errors.UnknownName: Unknown root 'resnet81': did you mean 'resnet18'? ...
    """
    versions.need("This needs", "torch", "torchvision", "onnx", "torch_pruning", "sklearn")
    from kit.variants import datasets, recipes
    from kit.variants.build import Request
    from kit.variants.build import build as build_variants

    request = Request(
        root=root,
        images=datasets.Request(data, resolution),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        seed=seed,
        quick=quick,
        overrides=recipes.Overrides(
            epochs,
            finetune_epochs,
            None if widths is None else tuple(widths),
            None if latencies is None else tuple(latencies),
            None if depths is None else tuple(depths),
        ),
    )
    return build_variants(request, Path(out), progress=progress)
