"""VGG (Simonyan and Zisserman, ICLR 2015), torchvision's 11 and 16 layers with batch norm folded.

The head is the mean over the feature maps and one linear layer to 1000 classes: the published one (two linear layers of 4096) holds 120
of 129 million parameters, fits one resolution only and hides what a narrower network saves. A sub-network keeps the
first convolutions of each stage (one at least), every pooling, and a share of all channels.
"""

from __future__ import annotations

from kit.records import SubNetwork
from kit.spaces.graph import Architecture, Net, Part, channels, classifier, conv, max_pool, relu
from kit.spaces.space import Space, ladder

WIDTHS = (64, 128, 256, 512, 512)


def layer(net: Net, x: str, name: str, out: int) -> str:
    """A 3x3 convolution with batch norm and ReLU."""
    return relu(net, conv(net, x, name, out, 3))


def last_layer(net: Net, x: str, name: str, out: int) -> str:
    """The last convolution of a stage and the pooling behind it."""
    return max_pool(net, layer(net, x, name, out), 2, 2)


def architecture(sub: SubNetwork) -> Architecture:
    """The parts of a sub-network of one of these spaces."""
    parts: list[Part] = []
    place = 0  # torchvision numbers convolution, batch norm, Relu and pooling of ``features``
    for stage, (base, layers) in enumerate(zip(WIDTHS, sub.blocks or (), strict=True), start=1):
        out = (channels(base, sub.width),)
        names = [f"features.{place + 3 * i}" for i in range(layers)]
        parts += [Part(layer, stage, (name,), out) for name in names[:-1]]
        parts.append(Part(last_layer, stage, (names[-1],), out))
        place += 3 * layers + 1
    parts.append(Part(classifier, len(WIDTHS) + 1, ("classifier",), (1000,)))
    return Architecture((1, 3, sub.resolution_px, sub.resolution_px), tuple(parts))


SPACES = [
    Space(name, "vgg", stages, ladder(2, 8), tuple(range(96, 257, 16)), 224, architecture)
    for name, stages in {"vgg11": (1, 1, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3)}.items()
]
