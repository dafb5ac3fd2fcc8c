"""A network with an exit after each stage, and the plain network that is left when it is cut there.

Joint exits as in BranchyNet (Teerapittayanon et al., ICPR 2016). There is no branch at run time: a cut is a network of its
own, because an exit behind an ``If`` in one graph saves nothing on the runtimes that kit targets.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class MultiExit(nn.Module):
    """Stages in a row, each with a classifier.

    ``forward`` takes images ``(N, C, H, W)`` and returns one tensor of logits ``(N, classes)`` per exit, shallowest first.
    """

    def __init__(self, depths: Sequence[int], stages: Sequence[nn.Module], exits: Sequence[nn.Module]) -> None:
        super().__init__()
        if not len(depths) == len(stages) == len(exits):
            raise ValueError("one depth and one exit per stage")
        self.depths = tuple(depths)
        self.stages = nn.ModuleList(stages)
        self.exits = nn.ModuleList(exits)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The logits of every exit, the shallowest first."""
        logits = []
        for stage, leave in zip(self.stages, self.exits, strict=True):
            x = stage(x)
            logits.append(leave(x))
        return tuple(logits)

    def cut(self, depth: int) -> nn.Sequential:
        """The plain network of the first ``depth`` blocks and their classifier; it shares the weights, copies nothing.

        Raises ValueError when no exit sits at ``depth``.
        """
        if depth not in self.depths:
            raise ValueError(f"no exit after block {depth}: exits sit at {', '.join(map(str, self.depths))}")
        keep = self.depths.index(depth) + 1
        return nn.Sequential(*self.stages[:keep], self.exits[keep - 1]).train(self.training)


def pooled_classifier(channels: int, classes: int, grid: int = 1) -> nn.Sequential:
    """Feature maps ``(N, channels, H, W)`` to logits ``(N, classes)``: mean over each cell of a ``grid`` x ``grid`` raster, one
    linear layer. Shallow maps see little of the image at once, so an exit there needs to know where things are."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(grid), nn.Flatten(1), nn.Linear(channels * grid * grid, classes))


def strided_classifier(channels: int, classes: int, steps: int) -> nn.Sequential:
    """Feature maps ``(N, channels, H, W)`` to logits ``(N, classes)``: ``steps`` convolutions that halve the map and double the channels,
    then the mean over the map and one linear layer. Features early in a network are fine-grained and say little of the class; coarse ones
    are what an exit there lacks (Huang et al., MSDNet, ICLR 2018). A step costs about half a convolution of the stage before it."""
    layers: list[nn.Module] = []
    for _ in range(steps):
        step = nn.Conv2d(channels, 2 * channels, kernel_size=3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(step.weight, mode="fan_out", nonlinearity="relu")
        channels *= 2
        layers += [step, nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, *pooled_classifier(channels, classes))
