"""ResNet (He et al., CVPR 2016), batch norm folded: torchvision's ImageNet form (7x7 stem, max-pool, 1000 classes) of 18, 34 and 50
layers, and the paper's CIFAR form (3x3 stem, three stages of 16, 32, 64 channels, 10 classes) of 20 to 56.

A sub-network keeps the first blocks of each stage (one at least) and a share of all channels. The CIFAR shortcut is a 1x1
convolution (the paper's option B), as in the implementations that people train today: the padding of option A has no convolution to
be fused with and is slower than what it saves.
"""

from __future__ import annotations

from kit.records import SubNetwork
from kit.spaces.graph import Architecture, Net, Part, channels, classifier, conv, max_pool, relu, residual
from kit.spaces.space import Space, ladder

BRANCH = 0.5  # size of a residual branch over that of the shortcut: values grow by an eighth in each block


def stem(net: Net, x: str, name: str, out: int) -> str:
    """The 7x7 stem and its pool, for images of 224 pixels."""
    return max_pool(net, relu(net, conv(net, x, name, out, 7, 2)), 3, 2, 1)


def small_stem(net: Net, x: str, name: str, out: int) -> str:
    """A 3x3 stem without a pool, for small images."""
    return relu(net, conv(net, x, name, out, 3))


def basic(net: Net, x: str, name: str, out: int, stride: int) -> str:
    """A basic block: two 3x3 convolutions and the shortcut."""
    y = relu(net, conv(net, x, f"{name}.conv1", out, 3, stride))
    y = conv(net, y, f"{name}.conv2", out, 3, rms=BRANCH * net.spreads[x].rms)
    return residual(net, y, _shortcut(net, x, name, out, stride), f"{name}.add")


def bottleneck(net: Net, x: str, name: str, inner: int, stride: int) -> str:
    """1x1, 3x3 (it takes the stride, as in torchvision), 1x1 to four times the channels."""
    y = relu(net, conv(net, x, f"{name}.conv1", inner))
    y = relu(net, conv(net, y, f"{name}.conv2", inner, 3, stride))
    y = conv(net, y, f"{name}.conv3", 4 * inner, rms=BRANCH * net.spreads[x].rms)
    return residual(net, y, _shortcut(net, x, name, 4 * inner, stride), f"{name}.add")


def _shortcut(net: Net, x: str, name: str, out: int, stride: int) -> str:
    if stride == 1 and net.shapes[x][1] == out:
        return x
    return conv(net, x, f"{name}.downsample.0", out, 1, stride, rms=net.spreads[x].rms)


def architecture(sub: SubNetwork) -> Architecture:
    """The parts of a sub-network of one of these spaces."""
    small = sub.root in CIFAR
    widths = [channels(base, sub.width) for base in ((16, 32, 64) if small else (64, 128, 256, 512))]
    block = bottleneck if sub.root == "resnet50" else basic
    parts = [Part(small_stem if small else stem, 0, ("conv1",), (widths[0],))]
    for stage, (width, blocks) in enumerate(zip(widths, sub.blocks or (), strict=True), start=1):
        names = tuple(f"layer{stage}.{i}" for i in range(blocks))
        parts.append(Part(block, stage, names[:1], (width, 2 if stage > 1 else 1)))
        parts += [Part(block, stage, names[1:], (width, 1))] if blocks > 1 else []
    parts.append(Part(classifier, len(widths) + 1, ("fc",), (10 if small else 1000,)))
    return Architecture((1, 3, sub.resolution_px, sub.resolution_px), tuple(parts))


IMAGENET = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
CIFAR = {f"resnet{6 * n + 2}": (n, n, n) for n in (3, 5, 7, 9)}
SPACES = [
    Space(name, "resnet", stages, ladder(2, 8), tuple(range(96, 257, 16)), 224, architecture)
    for name, stages in IMAGENET.items()
] + [
    Space(name, "resnet", stages, ladder(2, 8), tuple(range(16, 65, 8)), 32, architecture)
    for name, stages in CIFAR.items()
]
