"""ResNet (He et al., CVPR 2016): torchvision's ResNet-18 with the stem fitted to small images.

The 7x7 stride-2 convolution and the max-pool of the 224-pixel stem would leave 1x1 maps of a 32-pixel image. A 3x3 stride-2
convolution keeps 16, 8, 4 and 2 pixels in the four stages, 139 million multiply-accumulates in all; a stride-1 stem costs
four times as much to train and to run, and the digits do not need it.
"""

from __future__ import annotations

import torchvision
from torch import nn

from kit.nets import Root
from kit.nets.exits import MultiExit, pooled_classifier


def make(root: Root) -> MultiExit:
    """ResNet-18 for ``(N, channels, 32, 32)`` with an exit after each of its four stages (2, 4, 6, 8 residual blocks)."""
    net = torchvision.models.resnet18(num_classes=root.classes)
    stem = nn.Conv2d(root.channels, 64, kernel_size=3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    stages = [nn.Sequential(stem, net.bn1, net.relu, *net.layer1), net.layer2, net.layer3, net.layer4]
    exits = [pooled_classifier(c, root.classes, grid) for c, grid in ((64, 4), (128, 4), (256, 4), (512, 1))]
    return MultiExit(root.depths, stages, exits)
