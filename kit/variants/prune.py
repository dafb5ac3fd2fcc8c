"""Structured pruning with torch-pruning (Fang et al., CVPR 2023): whole channels leave, the shapes become smaller.

Channels are chosen by the magnitude of their group (all the weights that stand or fall with them), the same share in every
layer, and the count that remains is the multiple of 8 nearest to the target: widths such as 9 or 17 cost more time than
8 or 16 with fewer MACs.

Convolutional roots lose the target share of all channels, residual streams included. The transformer loses it of the
embedding and of the MLP: the embedding's channels run through queries, keys, values and the output projection of torch's
``MultiheadAttention``, which keeps one width for all of them. The heads stay (3), each loses the same count of its dimensions
so that no channel changes its head, and a head keeps a multiple of 8.
"""

from __future__ import annotations

import copy
import warnings

import torch
import torch_pruning
from torch import nn

from kit.errors import BadModel, first_line
from kit.nets import export as nets_export
from kit.nets.exits import MultiExit
from kit.nets.vit import Embedding

ALIGN = 8


def aligned(channels: int, keep: float) -> int:
    """The multiple of 8 nearest to ``keep * channels``, at least 8, at most ``channels``."""
    return min(channels, max(ALIGN, round(keep * channels / ALIGN) * ALIGN))


def prune(net: MultiExit, keep: float, example: torch.Tensor) -> MultiExit:
    """A copy of ``net`` in which every layer keeps the share ``keep`` of its channels, aligned; it still needs fine-tuning.

    ``example`` is one input ``(1, C, H, W)`` by which the layers' dependencies are traced. Deterministic. Raises BadModel where the network
    does not run any more: its forward relies on a number of channels.
    """
    thin = copy.deepcopy(net).eval()
    try:
        with warnings.catch_warnings(), nets_export.quiet():
            warnings.simplefilter("ignore")  # torch-pruning announces unwrapped parameters, which are named below
            _pruner(thin, keep, example).step()
        with torch.no_grad():
            thin(example)
    except Exception as error:  # a size that stands in somebody's forward, say
        reason = first_line(error)[:160]
        raise BadModel(
            f"The network cannot be pruned ({reason}): build it without narrower widths (--widths 1)."
        ) from None
    for parameter in thin.parameters():
        parameter.grad = None
    return thin


def _pruner(net: MultiExit, keep: float, example: torch.Tensor) -> torch_pruning.BasePruner:
    heads = {m: m.num_heads for m in net.modules() if isinstance(m, nn.MultiheadAttention)}
    per_head = max(heads.values(), default=1)
    classifiers = [[m for m in leave.modules() if isinstance(m, nn.Linear)][-1] for leave in net.exits]
    tokens = [m for m in net.modules() if isinstance(m, Embedding)]
    # A group that runs through attention is counted per head.
    streams = {m.embed_dim for m in heads}
    return torch_pruning.BasePruner(
        net,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio_dict={m: _ratio(c, per_head if c in streams else 1, keep) for m, c in _widths(net)},
        ignored_layers=classifiers,
        out_channel_groups=dict(heads),
        unwrapped_parameters=[(p, 2) for m in tokens for p in (m.class_token, m.positions)],
    )


def _ratio(channels: int, groups: int, keep: float) -> float:
    """The share to remove so that each of ``groups`` keeps :func:`aligned` of its channels; the hair of a millionth guards the
    library's truncation."""
    each = channels // groups
    return 1 - aligned(each, keep) / each - 1e-6


def _widths(net: nn.Module) -> list[tuple[nn.Module, int]]:
    """Every layer that can be a group's root, with its output channels."""
    convolutions = [(m, m.out_channels) for m in net.modules() if isinstance(m, nn.Conv2d)]
    attention = [(m, m.embed_dim) for m in net.modules() if isinstance(m, nn.MultiheadAttention)]
    return [*convolutions, *attention, *((m, m.out_features) for m in net.modules() if isinstance(m, nn.Linear))]
