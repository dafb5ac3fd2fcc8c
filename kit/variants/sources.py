"""What a person names becomes a PyTorch network: an architecture of torchvision or timm, a file of Python, a .pt2, TorchScript.

A file of Python is run, and a .pt2 or TorchScript file can run code, too: only those of somebody you trust belong here. Weights are read
without running anything (:mod:`kit.variants.checkpoints`). Nothing is downloaded.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
import torchvision
from torch import Tensor, nn

from kit import trust, usercode, versions
from kit.errors import BadModel, UnknownName, UsageError, first_line
from kit.nets.export import quiet
from kit.records import Preprocessing
from kit.variants import checkpoints, examples
from kit.variants.examples import Examples, InputShape

RESOLUTION_PX = 224
_USUAL_NAMES = ("make", "model", "net", "network", "build", "create", "get_model")
_PLAIN = {"input_size": (3, RESOLUTION_PX, RESOLUTION_PX), "mean": (0.5,) * 3, "std": (0.5,) * 3}
_ARCHIVES = (".pt", ".pth", ".pt2", ".ts", ".torchscript", ".ckpt", ".bin", ".safetensors", ".npz")


@dataclass(frozen=True)
class Source:
    """A network with inputs for it. ``net`` is a module (in evaluation mode), a program of torch.export, or a TorchScript module."""

    net: Any
    name: str  # what its files are called
    root: str  # what it was made from
    inputs: Examples
    steps: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    random: bool = False  # weights that nobody trained
    resolution_px: int | None = None

    @property
    def is_program(self) -> bool:
        """Whether torch.export wrote it: its free dimensions are fixed."""
        return isinstance(self.net, torch.export.ExportedProgram)

    @property
    def is_script(self) -> bool:
        """Whether it is TorchScript."""
        return isinstance(self.net, torch.jit.ScriptModule)

    @cached_property
    def module(self) -> nn.Module:
        """What can be called."""
        module: nn.Module = self.net.module() if self.is_program else self.net
        return module


@dataclass(frozen=True)
class SourceOptions:
    """What a command says besides the network's name."""

    inputs: tuple[InputShape, ...] = ()
    checkpoint: Path | None = None
    resolution_px: int | None = None
    seed: int = 0
    classes: int | None = None  # the head is to have so many outputs, fresh where the checkpoint has others


def runs_code(text: str) -> str | None:
    """The file (or module) of which code is run when ``text`` is opened; None for an architecture of a library."""
    if text.startswith("timm:"):
        return None
    if usercode.names_an_object(text):
        return text.rpartition(":")[0]
    names = _entries(Path(text)) if Path(text).is_file() else []
    return text if _is_program(names) or _is_script(names) else None


def source_of(text: str, options: SourceOptions) -> Source:
    """The network that ``text`` names: ``resnet18``, ``timm:NAME``, ``FILE.py:NAME``, ``package.module:NAME``, ``FILE.pt2``, TorchScript.

    Raises UsageError (no such file or name, an input is missing, weights that do not fit), UnknownName ("did you mean"), BadModel,
    IntegrityError, BackendUnavailable (timm is missing).
    """
    path = Path(text)
    if text.startswith("timm:"):
        return _of_timm(text.removeprefix("timm:"), options)
    if usercode.names_an_object(text):
        return _of_python(text, options)
    if path.suffix in _ARCHIVES or path.is_file():
        return _of_archive(path, options)
    return _of_torchvision(text, options)


# ------------------------------------------------------------------------------------------------------- architectures


def is_known(text: str) -> bool:
    """Whether ``text`` is an architecture of torchvision, or one that timm is asked for."""
    return text.startswith("timm:") or text in torchvision.models.list_models()


def check_known(text: str) -> None:
    """Raises UnknownName ("did you mean") where ``text`` is no architecture of torchvision or timm."""
    if not text.startswith("timm:"):
        names = torchvision.models.list_models()
        if text not in names:
            raise UnknownName("network", text, names)
        return
    versions.need("timm:NAME needs", "timm")
    import timm

    architecture, names = text.removeprefix("timm:").partition(".")[0], timm.list_models()
    if architecture not in names:
        raise UnknownName("timm network", architecture, names)


def _of_torchvision(name: str, options: SourceOptions) -> Source:
    check_known(name)
    px = options.resolution_px or RESOLUTION_PX
    sizes: dict[str, dict[str, Any]] = {"vit": {"image_size": px}, "maxvit": {"input_size": (px,) * 2}}
    arguments = dict(sizes.get(name.split("_")[0], {}))
    if name not in torchvision.models.list_models(module=torchvision.models):
        arguments["weights_backbone"] = None  # which would be downloaded

    def make(**classes: int) -> nn.Module:
        try:
            with quiet():
                net: nn.Module = torchvision.models.get_model(name, weights=None, **arguments, **classes)
        except TypeError:
            arguments.pop("weights_backbone", None)  # a video network, which has none
            with quiet():
                net = torchvision.models.get_model(name, weights=None, **arguments, **classes)
        except (ValueError, AssertionError, RuntimeError) as error:
            raise wrong_resolution(name, px, error) from None
        return net

    net = _architecture(name, make, options)
    return Source(
        net=net,
        name=name if options.inputs else f"{name}-{px}",
        root=name,
        inputs=_inputs(net, options, _image(px)),
        steps=_weights_step(options),
        preprocessing=Preprocessing(
            resize_px=px, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), classes=_outputs(net) or 1000
        ),
        random=options.checkpoint is None,
        resolution_px=px,
    )


def _of_timm(name: str, options: SourceOptions) -> Source:
    check_known(f"timm:{name}")
    import timm

    architecture = name.partition(".")[0]
    create: Any = timm.create_model
    sized = {} if options.resolution_px is None else {"img_size": options.resolution_px}

    def make(**classes: int) -> nn.Module:
        try:
            net: nn.Module = create(architecture, pretrained=False, exportable=True, **sized, **classes)
        except TypeError:  # a network of convolutions takes any size
            net = create(architecture, pretrained=False, exportable=True, **classes)
        except (ValueError, AssertionError, RuntimeError) as error:
            raise wrong_resolution(architecture, options.resolution_px or 0, error) from None
        return net

    net = _architecture(architecture, make, options)
    usual: Any = getattr(net, "pretrained_cfg", None) or _PLAIN
    channels, height, width = usual["input_size"]
    px = options.resolution_px or int(height)
    shape = (1, channels, px, px if options.resolution_px else int(width))
    return Source(
        net=net,
        name=architecture if options.inputs else f"{architecture}-{px}",
        root=f"timm:{architecture}",
        inputs=_inputs(net, options, Examples({"x": _normal(shape, options.seed)})),
        steps=_weights_step(options),
        preprocessing=Preprocessing(
            resize_px=px, mean=tuple(usual["mean"]), std=tuple(usual["std"]), classes=_outputs(net) or 1000
        ),
        random=options.checkpoint is None,
        resolution_px=px,
    )


class _Make(Protocol):
    def __call__(self, **classes: int) -> nn.Module: ...


def _architecture(name: str, make: _Make, options: SourceOptions) -> nn.Module:
    """The network with the weights of the checkpoint, and as many classes as the options say, else as those have."""
    net = make() if options.classes is None else make(num_classes=options.classes)
    if options.checkpoint is not None:
        weights = checkpoints.read(options.checkpoint)
        classes = checkpoints.classes(weights, net)
        if classes is not None and options.classes is None:
            net = make(num_classes=classes)
        elif classes is not None:
            weights = checkpoints.without_head(weights, net)
        checkpoints.load(net, weights, options.checkpoint, name)
    return net.eval()


def _image(px: int) -> Examples:
    return Examples({"x": torch.randn(1, 3, px, px)})


def _normal(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def _inputs(net: nn.Module, options: SourceOptions, usual: Examples) -> Examples:
    return examples.of(net, options.inputs, seed=options.seed) if options.inputs else usual


def _outputs(net: nn.Module) -> int | None:
    """The classes of the last layer."""
    heads = [m.out_features for m in net.modules() if isinstance(m, nn.Linear)]
    return heads[-1] if heads else None


def _weights_step(options: SourceOptions) -> tuple[str, ...]:
    return ("random weights",) if options.checkpoint is None else (f"weights of {options.checkpoint.name}",)


def wrong_resolution(name: str, resolution_px: int, error: Exception) -> UsageError:
    """The sentence for a network that does not take images of this size."""
    return UsageError(f"{name} does not take {resolution_px}x{resolution_px} pixels ({first_line(error)}): try 224.")


# ---------------------------------------------------------------------------------------------------- the user's own code


def _of_python(text: str, options: SourceOptions) -> Source:
    if options.resolution_px is not None:
        raise UsageError("--resolution is for the networks of torchvision and timm: give --input 1x3x224x224.")
    place, _, name = text.rpartition(":")
    network = usercode.load(text)
    if not isinstance(network, nn.Module):
        if not callable(network):
            raise UsageError(
                f"{text} is {type(network).__name__}: name a torch.nn.Module, or a function that returns one."
            )
        network = usercode.call(network, text)
    inputs: Any = None
    if isinstance(network, tuple) and len(network) == 2:
        network, inputs = network
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"{text} gives {type(network).__name__}: let it return a torch.nn.Module, or a pair of it and its inputs."
        )
    stem = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    label = stem if name in _USUAL_NAMES else f"{stem}-{name}"
    if options.checkpoint is not None:
        checkpoints.load(network, checkpoints.read(options.checkpoint), options.checkpoint, label)
    steps = (f"a PyTorch module of {usercode.name_of(text)}",)
    return Source(
        net=network.eval(),
        name=label,
        root=label,
        inputs=own_inputs(network, options.inputs or inputs, seed=options.seed),
        steps=steps + (() if options.checkpoint is None else _weights_step(options)),
    )


def own_inputs(net: nn.Module, given: Any, *, seed: int = 0) -> Examples:
    """Inputs of somebody's network: as given, else its own ``example_input_array``. Raises UsageError when there are none."""
    if given is None or (isinstance(given, (tuple, list)) and not given):
        given = getattr(net, "example_input_array", None)  # of Lightning
    if given is None:
        raise UsageError(
            "The network's inputs are not known: give a shape for each (--input 1x3x224x224, or --input ids=1x128:int64:0..999)."
        )
    return examples.of(net, given, seed=seed)


# -------------------------------------------------------------------------------------------------------------- archives


def _of_archive(path: Path, options: SourceOptions) -> Source:
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist: give a .pt2, a TorchScript file, FILE.py:NAME, timm:NAME or a torchvision name."
        )
    if path.suffix.lower() == ".onnx":
        raise UsageError(
            f"{path} is an ONNX file already: kit describe {path} writes its sidecar, kit profile {path} measures it."
        )
    if path.suffix == ".py":
        raise UsageError(f"{path} is a file of Python: name what makes the network, such as {path}:make.")
    if trust.install_of(path) is not None:
        raise UsageError(f"{path} came over a link and is not run: name a file of your own.")
    if options.checkpoint is not None or options.resolution_px is not None:
        raise UsageError(f"{path} holds its weights and shapes: leave --checkpoint and --resolution away.")
    names = _entries(path)
    if _is_program(names):
        return _of_program(path, options)
    if _is_script(names):
        return _of_script(path, options)
    checkpoints.read(path)  # its sentence, when it is no file of weights either
    raise UsageError(
        f"{path} holds weights and no network: name the network, too (kit export FILE.py:NAME --checkpoint {path}, or a torchvision name)."
    )


def _entries(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def _is_program(names: Sequence[str]) -> bool:
    return any(re.fullmatch(r"(?:[^/]+/)?(?:models/[^/]+|serialized_exported_program)\.json", name) for name in names)


def _is_script(names: Sequence[str]) -> bool:
    return any("/code/" in f"/{name}" for name in names)


def _of_program(path: Path, options: SourceOptions) -> Source:
    try:
        with quiet():
            program = torch.export.load(path)
    except Exception as error:  # whatever a broken archive raises
        raise BadModel(f"PyTorch {torch.__version__} cannot load {path}: {first_line(error)}") from None
    inputs: Any = options.inputs
    if not inputs:
        args, kwargs = program.example_inputs or ((), {})
        names = program.graph_signature.user_inputs
        tensors = [*args, *kwargs.values()]
        if not tensors or not all(isinstance(t, Tensor) for t in tensors):
            raise UsageError(f"{path} keeps no inputs of its own: give their shapes (--input 1x3x224x224).")
        inputs = Examples(dict(zip(map(str, names), tensors, strict=False)), named=not args)
    else:
        inputs = examples.of(program.module(), inputs, seed=options.seed)
    return Source(program, path.stem, path.stem, inputs, (f"a program of torch.export, {path.name}",))


def _of_script(path: Path, options: SourceOptions) -> Source:
    try:
        with quiet():
            module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever a broken archive raises
        raise BadModel(f"PyTorch {torch.__version__} cannot load {path}: {first_line(error)}") from None
    return Source(
        module.eval(),
        path.stem,
        path.stem,
        own_inputs(module, options.inputs, seed=options.seed),
        (f"TorchScript, {path.name}",),
    )
