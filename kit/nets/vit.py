"""Vision transformer (Dosovitskiy et al., ICLR 2021): torchvision's VisionTransformer in the "tiny" size of DeiT
(Touvron et al., ICML 2021: 192 channels, 3 heads, MLP 768), 6 encoder blocks, patches of 8x8 on 32x32 pixels.

``VisionTransformer.forward`` is cut open here, because it offers no exits and fixes the embedding's width in a reshape; the
layers are torchvision's own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from kit.nets import Root
from kit.nets.exits import MultiExit


class Embedding(nn.Module):
    """Image ``(N, C, H, W)`` to tokens ``(N, 1 + patches, hidden)``: patches, class token in front, positions added."""

    def __init__(self, vit: VisionTransformer, channels: int) -> None:
        super().__init__()
        patch = vit.patch_size
        self.patches = nn.Conv2d(channels, vit.hidden_dim, kernel_size=patch, stride=patch)
        nn.init.trunc_normal_(self.patches.weight, std=(channels * patch * patch) ** -0.5)
        if self.patches.bias is not None:
            nn.init.zeros_(self.patches.bias)
        self.class_token = vit.class_token
        self.positions = vit.encoder.pos_embedding

    def forward(self, x: Tensor) -> Tensor:
        """Images to tokens with their positions."""
        tokens: Tensor = self.patches(x).flatten(2).transpose(1, 2)
        first = self.class_token.expand(x.shape[0], -1, -1)
        placed: Tensor = torch.cat([first, tokens], dim=1) + self.positions
        return placed


class TokenClassifier(nn.Module):
    """Tokens ``(N, tokens, hidden)`` to logits ``(N, classes)``: normalize the class token, one linear layer."""

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """The class token, normalised, to logits."""
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits


def make(root: Root) -> MultiExit:
    """A tiny vision transformer for ``(N, channels, 32, 32)`` with an exit after every second encoder block."""
    vit = VisionTransformer(
        image_size=root.resolution_px,
        patch_size=8,
        num_layers=root.depths[-1],
        num_heads=3,
        hidden_dim=192,
        mlp_dim=768,
        num_classes=root.classes,
    )
    blocks = list(vit.encoder.layers)
    parts = [blocks[a:b] for a, b in zip((0, *root.depths), root.depths, strict=False)]
    stages = [nn.Sequential(*part) for part in parts]
    stages[0].insert(0, Embedding(vit, root.channels))
    return MultiExit(root.depths, stages, [TokenClassifier(vit.hidden_dim, root.classes) for _ in parts])
