"""Structured pruning driven by measured latency: which layers lose channels is decided by what that saves on this machine.

Fewer multiply-accumulates are not less time: a runtime computes 8 channels in the time of 16, and a narrow layer on a large map saves more
than a wide one on a small map. So layers are put into *parts* that are narrowed together (those of equal width and surroundings: the inner
convolutions of a stage, its residual stream); each part is narrowed alone, the whole network is measured, and a channel's worth is the
squared first-order change of the loss without it (Molchanov et al., CVPR 2019), which can be compared between layers. Weighing the one
against the other (a multiplier between worth and time) gives a row of networks from slow to fast; the slowest of them that measures below
the target is taken. That is NetAdapt's idea (Yang et al., ECCV 2018) with a table of parts in place of one search a step.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kit.errors import BadModel, UsageError
from kit.nets import export as nets_export
from kit.nets.exits import MultiExit
from kit.nets.export import onnx_of, program_of
from kit.variants import quantize
from kit.variants.datasets import Split
from kit.variants.prune import ALIGN, aligned

SHARES = (0.75, 0.5, 0.25)  # of a part's channels that are tried
_IMAGES, _BATCH = 1024, 64  # by which channels are weighed
_MULTIPLIERS = 200

Measure = Callable[[list[Path], Tensor], "list[float]"]
Step = Callable[[float], None]


@dataclass(frozen=True)
class Part:
    """Layers that are narrowed together: their names, their width, and what is lost at each number of channels kept."""

    layers: tuple[str, ...]
    channels: int
    loss_of: Mapping[int, float]


@dataclass(frozen=True)
class Narrowed:
    """The pruned network, not yet fine-tuned, with channels by layer, the seconds that were measured of it and of the root."""

    net: MultiExit
    kept: Mapping[str, int]
    seconds: float
    root_s: float
    measured: int  # networks that were measured on the way

    @property
    def step(self) -> str:
        """What was done, as a sentence."""
        widths = ", ".join(f"{name} {channels}" for name, channels in self.kept.items())
        return (
            f"pruned to {self.seconds / self.root_s:.0%} of the latency measured here at one thread, by {self.measured} measurements "
            f"(channels kept: {widths})"
        )


def prune_to_latency(
    net: MultiExit,
    share: float,
    data: Split,
    *,
    measure: Measure = quantize.medians_in_turns,
    progress: Step = lambda done: None,
) -> Narrowed:
    """``net`` pruned so that its latency at one thread is at most ``share`` of what it is; it still needs fine-tuning.

    ``data`` weighs the channels. ``measure`` gives the seconds of ONNX files for one image, interleaved. Raises UsageError (no choice of
    widths is as fast as that), BadModel (a transformer, or a network whose layers cannot be pruned).
    """
    if any(isinstance(m, nn.MultiheadAttention) for m in net.modules()):
        raise BadModel("Pruning by latency is for convolutional networks: give a transformer --widths instead.")
    net = copy.deepcopy(net).eval()
    image = data.take(slice(1))
    pruner = _Channels(net, image)
    parts = pruner.parts(data.first(_IMAGES))
    options = [(part, kept) for part in parts for kept in part.loss_of]
    with quantize.scratch() as folder:
        files = _Files(pruner, image, folder, measure)
        singles = [{}, *(dict.fromkeys(part.layers, kept) for part, kept in options)]
        root_s, *alone_s = files.seconds(singles, lambda done: progress(0.8 * done))
        saved_s = {(part.layers, kept): root_s - s for (part, kept), s in zip(options, alone_s, strict=True)}
        row = _row(parts, saved_s)
        chosen, seconds, root_s = _slowest_below(row, share, files, lambda done: progress(0.8 + 0.2 * done))
    return Narrowed(pruner.pruned(chosen), chosen, seconds, root_s, files.measured)


def thin(net: MultiExit, kept: Mapping[str, int], image: Tensor) -> MultiExit:
    """A copy of ``net`` of the shapes of an earlier choice ``kept``, to be filled with its weights."""
    return _Channels(net, image).pruned(kept)


def _row(parts: Sequence[Part], saved_s: Mapping[tuple[tuple[str, ...], int], float]) -> list[dict[str, int]]:
    """Choices of channels from the whole network to the fastest, one for each multiplier between worth and time."""
    worth = [loss for part in parts for loss in part.loss_of.values() if loss > 0]
    times = [s for s in saved_s.values() if s > 0]
    if not times:
        return [{}]
    middle = float(np.median(worth)) / float(np.median(times)) if worth else 1.0
    row: list[dict[str, int]] = []
    for multiplier in middle * np.logspace(-4, 4, _MULTIPLIERS):
        kept: dict[str, int] = {}
        for part in parts:
            scores = {part.channels: 0.0}
            scores |= {k: loss - multiplier * saved_s[part.layers, k] for k, loss in part.loss_of.items()}
            best = min(scores, key=lambda k: (scores[k], -k))
            if best < part.channels:
                kept |= dict.fromkeys(part.layers, best)
        if not row or kept != row[-1]:
            row.append(kept)
    return row


def _slowest_below(
    row: Sequence[Mapping[str, int]], share: float, files: _Files, progress: Step
) -> tuple[dict[str, int], float, float]:
    """(channels, seconds, seconds of the root) of the slowest in ``row`` that is fast enough, by halving, each measured beside the
    root."""
    low, high, slowest = 0, len(row) - 1, None
    steps = max(1, len(row).bit_length())
    for step in range(steps + 1):
        if low > high:
            break
        middle = (low + high) // 2
        root_s, seconds = files.seconds([{}, row[middle]])
        if seconds <= share * root_s:
            slowest, high = (dict(row[middle]), seconds, root_s), middle - 1
        else:
            low = middle + 1
        progress((step + 1) / (steps + 1))
    if slowest is None:
        root_s, seconds = files.seconds([{}, row[-1]])
        raise UsageError(
            f"No choice of widths is as fast as {share:.0%} here: the fastest measured {seconds / root_s:.0%}; name a larger share."
        )
    return slowest


class _Files:
    """Networks by their channels, exported and measured in turns."""

    def __init__(self, pruner: _Channels, image: Tensor, folder: Path, measure: Measure) -> None:
        self._pruner, self._image, self._folder, self._measure = pruner, image, folder, measure
        self._paths: dict[tuple[tuple[str, int], ...], Path] = {}
        self.measured = 0

    def seconds(self, choices: Sequence[Mapping[str, int]], progress: Step = lambda done: None) -> list[float]:
        """Seconds of each, measured together."""
        paths = []
        for number, kept in enumerate(choices, 1):
            paths.append(self._path(kept))
            progress(0.7 * number / len(choices))
        self.measured += len(choices)
        seconds = self._measure(paths, self._image)
        progress(1.0)
        return seconds

    def _path(self, kept: Mapping[str, int]) -> Path:
        key = tuple(sorted(kept.items()))
        if key not in self._paths:
            net = self._pruner.pruned(kept)
            program = program_of(net.cut(net.depths[-1]).eval(), (self._image,))
            path = self._folder / f"{len(self._paths)}.onnx"
            path.write_bytes(onnx_of(program, input_names=["input"], output_names=["output"]))
            self._paths[key] = path
        return self._paths[key]


class _Channels:
    """The groups of channels of a network that stand or fall together, what each channel is worth, and copies with fewer of them."""

    def __init__(self, net: MultiExit, image: Tensor) -> None:
        self._net, self._image = net, image
        self._worth: dict[str, NDArray[np.float64]] = {}

    def parts(self, data: Split) -> list[Part]:
        """The parts, weighed on ``data``."""
        _, groups = _groups(self._net, self._image)
        names = {module: name for name, module in self._net.named_modules()}
        weigh = torch_pruning.importance.GroupTaylorImportance(
            group_reduction="sum", normalizer=None, multivariable=True
        )
        roots = [group[0].dep.target.module for group in groups]
        sums = [torch.zeros(len(group[0].idxs)) for group in groups]
        for images, labels in data.batches(_BATCH):
            self._net.zero_grad()
            loss = torch.stack([F.cross_entropy(logits, labels) for logits in self._net(images)]).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            for total, group in zip(sums, groups, strict=True):
                total += weigh(group) ** 2
        self._net.zero_grad()
        self._worth = {names[root]: total.double().numpy() for root, total in zip(roots, sums, strict=True)}
        alike: dict[object, list[str]] = {}
        for root, group in zip(roots, groups, strict=True):
            alike.setdefault(_surroundings(group), []).append(names[root])
        return [self._part(tuple(layers)) for layers in alike.values()]

    def _part(self, layers: tuple[str, ...]) -> Part:
        channels = len(self._worth[layers[0]])
        options = sorted({aligned(channels, share) for share in SHARES} - {channels}, reverse=True)
        lost = {
            kept: sum(float(np.sort(self._worth[name])[: channels - kept].sum()) for name in layers) for kept in options
        }
        return Part(layers, channels, lost)

    def pruned(self, kept: Mapping[str, int]) -> MultiExit:
        """A copy that keeps so many channels of the layers that are named, the ones of most worth."""
        thin = copy.deepcopy(self._net).eval()
        if not kept:
            return thin
        graph, groups = _groups(thin, self._image)
        names = {module: name for name, module in thin.named_modules()}
        for group in groups:
            root = group[0].dep.target.module
            if names[root] in kept:
                worth = self._worth.get(names[root], np.zeros(len(group[0].idxs)))
                order = np.argsort(worth, kind="stable")
                drop = sorted(order[: len(order) - kept[names[root]]].tolist())
                graph.get_pruning_group(root, group[0].dep.handler, drop).prune()
        with torch.no_grad():
            thin(self._image)
        for parameter in thin.parameters():
            parameter.grad = None
        return thin


def _groups(net: MultiExit, image: Tensor) -> tuple[Any, list[Any]]:
    """(dependency graph, groups of all channels) but those that end in class scores or have no channel to spare."""
    classifiers = {[m for m in leave.modules() if isinstance(m, nn.Linear)][-1] for leave in net.exits}
    with warnings.catch_warnings(), nets_export.quiet():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph().build_dependency(net, example_inputs=image)
        groups = list(graph.get_all_groups(ignored_layers=list(classifiers), root_module_types=(nn.Conv2d, nn.Linear)))
    return graph, [group for group in groups if len(group[0].idxs) > ALIGN]


def _surroundings(group: Any) -> tuple[object, ...]:
    """What two groups that are narrowed together share: their width, and the kinds and shapes of the layers in them."""
    layers: list[tuple[object, ...]] = []
    for dep, _ in group:
        module = dep.target.module
        if isinstance(module, nn.Conv2d):
            layers.append((dep.handler.__name__, module.kernel_size, module.groups > 1))
        elif isinstance(module, nn.Linear):
            layers.append((dep.handler.__name__,))
    return len(group[0].idxs), tuple(sorted(map(repr, set(layers))))
