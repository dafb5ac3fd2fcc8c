"""ResNet (He et al., CVPR 2016) for small images: torchvision's ResNet-18 with another stem, and the paper's own forms for CIFAR.

The 7x7 stride-2 convolution and the max-pool of the 224-pixel stem would leave 1x1 maps of a 32-pixel image. A 3x3 stride-2
convolution keeps 16, 8, 4 and 2 pixels in the four stages, 139 million multiply-accumulates in all; a stride-1 stem costs
four times as much to train and to run, and the digits do not need it. ResNet-20 and ResNet-56 (section 4.2 of the paper) have three
groups of 16, 32 and 64 channels at full, half and quarter size; where a group begins, the short cut is a 1x1 convolution.
"""

from __future__ import annotations

import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock

from kit.nets import Root
from kit.nets.exits import MultiExit, pooled_classifier, strided_classifier

_GROUPS = (16, 32, 64)  # channels


def make(root: Root) -> MultiExit:
    """ResNet-18, -20 or -56 for ``(N, channels, 32, 32)`` with exits after ``root.depths`` blocks."""
    return _eighteen(root) if root.name == "resnet18" else _three_groups(root)


def _eighteen(root: Root) -> MultiExit:
    net = torchvision.models.resnet18(num_classes=root.classes)
    stem = nn.Conv2d(root.channels, 64, kernel_size=3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    stages = [nn.Sequential(stem, net.bn1, net.relu, *net.layer1), net.layer2, net.layer3, net.layer4]
    exits = [pooled_classifier(c, root.classes, grid) for c, grid in ((64, 4), (128, 4), (256, 4), (512, 1))]
    return MultiExit(root.depths, stages, exits)


def _three_groups(root: Root) -> MultiExit:
    each = root.depths[-1] // len(_GROUPS)
    stem = nn.Conv2d(root.channels, _GROUPS[0], kernel_size=3, padding=1, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(_GROUPS[0]), nn.ReLU()]
    stages: list[nn.Module] = []
    exits: list[nn.Module] = []
    before = _GROUPS[0]
    for block in range(root.depths[-1]):
        group = block // each
        channels = _GROUPS[group]
        shrinks = channels != before
        shortcut = (
            nn.Sequential(nn.Conv2d(before, channels, 1, 2, bias=False), nn.BatchNorm2d(channels)) if shrinks else None
        )
        layers.append(BasicBlock(before, channels, 2 if shrinks else 1, shortcut))
        before = channels
        if block + 1 in root.depths:
            stages.append(nn.Sequential(*layers))
            exits.append(strided_classifier(channels, root.classes, len(_GROUPS) - 1 - group))
            layers = []
    for layer in (m for stage in stages for m in stage.modules() if isinstance(m, nn.Conv2d)):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return MultiExit(root.depths, stages, exits)
