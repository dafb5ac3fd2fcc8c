"""VGG (Simonyan and Zisserman, ICLR 2015): torchvision's VGG-11 with batch normalization, classifiers fitted to small images.

The published head (two linear layers of 4096) holds 120 of the 129 million parameters and expects 7x7 maps; here each exit is
means over the map and one linear layer. Depth counts convolutions. The first stage (one convolution, 64 channels) has no
exit of its own: a linear classifier on one convolution's mean is no useful network.
"""

from __future__ import annotations

from torch import nn
from torchvision.models import vgg

from kit.nets import Root
from kit.nets.exits import MultiExit, pooled_classifier


def make(root: Root) -> MultiExit:
    """VGG-11 with batch normalization for ``(N, channels, 32, 32)``, an exit before the pooling after 2, 4, 6, 8
    convolutions."""
    layers = list(vgg.make_layers(vgg.cfgs["A"], batch_norm=True))
    layers[0] = nn.Conv2d(root.channels, 64, kernel_size=3, padding=1)
    for conv in (layer for layer in layers if isinstance(layer, nn.Conv2d)):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    stages, widths = _cut_after(layers, root.depths)
    return MultiExit(
        root.depths,
        stages,
        [pooled_classifier(w, root.classes, grid) for w, grid in zip(widths, (4, 4, 4, 1), strict=True)],
    )


def _cut_after(layers: list[nn.Module], depths: tuple[int, ...]) -> tuple[list[nn.Module], list[int]]:
    """``layers`` split after the ReLU that follows each convolution of ``depths``, and the channels at each split.

    The last pooling (2x2 to 1x1) is dropped: the exit averages the map anyway.
    """
    ends = [i for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]
    stops = [ends[depth - 1] + 1 for depth in depths]
    stages: list[nn.Module] = [nn.Sequential(*layers[a:b]) for a, b in zip([0, *stops], stops, strict=False)]
    widths = [next(m.out_channels for m in reversed(layers[:b]) if isinstance(m, nn.Conv2d)) for b in stops]
    return stages, widths
