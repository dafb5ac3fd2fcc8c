"""Which part of a network a node belongs to, from the names that an exporter leaves, and the records of per-node times.

The rule. A parameter's name keeps the module it belongs to (``layer1.0.conv1.weight``), and exporters leave it in the file
even where they strip the names of nodes. A stage is that path up to its first numbered part (``layer1.0``, ``features.3``,
``encoder.layers.encoder_layer_0``). A module at the top without a number (``conv1``, ``fc``) is the ``stem`` before the first
numbered stage and the ``head`` behind it. A node without parameters belongs where its input was computed. A node that the runtime
added (a reorder, a transpose) belongs to the node before it. Where names do not decide, the resolution of a node's output
(``56x56``) is its stage; where there is none either, it is ``other``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kit.records import LayerTime

TOP = ""  # a module at the top of the network: stem or head, by its place
OTHER = "other"


@dataclass(frozen=True)
class Timed:
    """One executed node: seconds over all calls, and the shape of its output (or of its input, where that is all there is)."""

    name: str
    kind: str
    total_s: float
    shape: tuple[int, ...] | None = None
    parent: str | None = None


def of_parameter(name: str) -> str | None:
    """The stage of a parameter's dotted name, :data:`TOP` for a module at the top, None for a name without a module.

    >>> of_parameter("layer1.0.conv1.weight"), of_parameter("fc.bias"), of_parameter("val_12")
    ('layer1.0', '', None)
    """
    module = name.split(".")[:-1]
    if not all(module) or not module:
        return None
    inside = module[:-1]
    first = next((i for i, part in enumerate(inside) if re.search(r"\d", part)), None)
    if first is None:
        return ".".join(module if module[-1].isdigit() else inside)
    in_series = not module[first].isdigit() and module[first + 1].isdigit()  # layer1.0 is one stage, features.3 another
    return ".".join(module[: first + 1 + in_series])


def of_scoped_node(name: str) -> str | None:
    """The stage of a node named by its scope, as older exporters write it (``/layer1/layer1.0/conv1/Conv``)."""
    if not name.startswith("/"):
        return None
    parts = name.strip("/").split("/")[:-1]
    numbered = [part for part in parts[:-1] if re.search(r"\d", part)]
    if numbered:
        return numbered[-1]
    if not parts:
        return None
    return parts[-1] if re.search(r"\.\d+$", parts[-1]) else TOP


def place(stage: str, numbered_before: bool) -> str:
    """``stage``, or stem or head for :data:`TOP`."""
    return stage or ("head" if numbered_before else "stem")


def lookup(stage_of: Mapping[str, str], name: str) -> str | None:
    """The stage by ``stage_of`` of a name that a runtime made of one or more names of the file, or None.

    Fused nodes are written ``a + b`` or ``a/WithoutBiases``, changed ones ``a_nchwc`` or ``a_token_5``: parts are cut off the end
    until a known name is left.
    """
    text = re.split(r" \+ |,", name)[0].strip("{} ")
    while text:
        if text in stage_of:
            return stage_of[text]
        cut = max(text.rfind("_"), text.rfind("/"))
        text = text[:cut] if cut > 0 else ""
    return None


def resolution(shape: Sequence[int] | None) -> str | None:
    """``56x56`` of a shape (N, C, H, W) or (N, H, W, C), None for another one."""
    if shape is None or len(shape) != 4:
        return None
    _, a, b, c = shape
    return f"{a}x{b}" if a == b != c else f"{b}x{c}"


def label(rows: Iterable[Timed], stage_of: Mapping[str, str], calls: int) -> tuple[LayerTime, ...]:
    """The records of executed nodes in their order; ``stage_of`` gives the stage of the names in the file."""
    by_name = len(set(stage_of.values())) > 1
    stages: list[str | None] = []
    timed = list(rows)
    for row in timed:
        stage = lookup(stage_of, row.name) if by_name else resolution(row.shape)
        stages.append(stage or (stages[-1] if stages else None))
    first = next((stage for stage in stages if stage), OTHER)
    return tuple(
        LayerTime(
            name=row.name,
            kind=row.kind,
            stage=stage or first,
            time_s=row.total_s / calls,
            calls=calls,
            parent=row.parent,
        )
        for row, stage in zip(timed, stages, strict=True)
    )
