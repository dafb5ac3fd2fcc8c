"""Anyone's network in stages: where it is cut, that the last exit is the network, and what has no stages."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
from torch import fx, nn  # noqa: E402
from torch.fx.passes.shape_prop import ShapeProp  # noqa: E402

from kit.errors import BadModel  # noqa: E402
from kit.nets import stages  # noqa: E402


class Residual(nn.Module):
    """Two branches that meet: between them nothing can be cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.a(x) + self.b(x))


def pyramid(classes: int = 5) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), Residual(8), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), Residual(16), nn.MaxPool2d(2),
        Residual(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    ("name", "px", "depths"),
    [
        ("resnet18", 64, 4),
        ("vgg11_bn", 64, 4),
        ("vit_b_32", 64, 4),
        ("mobilenet_v3_small", 64, 4),
        ("densenet121", 64, 3),
    ],
)
def test_the_last_exit_is_the_network(name: str, px: int, depths: int) -> None:
    torch.manual_seed(0)
    options = {"image_size": px} if name.startswith("vit") else {}
    net = torchvision.models.get_model(name, weights=None, **options).eval()
    images = torch.randn(2, 3, px, px)
    parts = stages.staged(net, images[:1])
    assert parts.depths == tuple(range(1, depths + 1)) and not parts.training
    with torch.no_grad():
        outputs = parts(images)
        torch.testing.assert_close(outputs[-1], net(images))
        assert [o.shape for o in outputs] == [(2, 1000)] * depths
        torch.testing.assert_close(parts.cut(2)(images), outputs[1])
    stored = {p.data_ptr() for p in net.parameters()}
    shared = [p for stage in parts.stages for p in stage.parameters()]
    assert {p.data_ptr() for p in shared} <= stored and len(shared) == len({p.data_ptr() for p in shared})


def test_a_stage_ends_where_the_map_shrinks_and_never_between_branches() -> None:
    net = pyramid()
    traced = fx.symbolic_trace(net)
    ShapeProp(traced).propagate(torch.zeros(1, 3, 16, 16))
    assert not [p.node.name for p in stages.places(traced) if str(p.node.target).endswith((".a", ".b"))]
    shares = [place.share for place in stages.places(traced)]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1, abs=0.01)
    parts = stages.staged(net, torch.zeros(1, 3, 16, 16))
    features = torch.zeros(1, 3, 16, 16)
    sizes = []
    for stage in parts.stages:
        features = stage(features)
        sizes.append(tuple(features.shape[1:]))
    assert sizes == [(8, 16, 16), (16, 8, 8), (16, 4, 4)]
    assert len(stages.staged(net, torch.zeros(1, 3, 16, 16), count=2).depths) == 2


def test_tokens_are_cut_by_shares_of_the_work() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(12, 32)
            self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU()) for _ in range(8))
            self.place, self.head = nn.Parameter(torch.zeros(1, 16, 32)), nn.Linear(32, 7)

        def forward(self, x: Any) -> Any:
            x = self.embed(x.flatten(1).reshape(-1, 16, 12)) + self.place
            for block in self.blocks:
                x = x + block(x)
            return self.head(x.mean(1))

    net = Tokens().eval()
    parts = stages.staged(net, torch.zeros(1, 3, 8, 8))
    assert len(parts.depths) == 4
    counts = [sum(p.numel() for p in stage.parameters()) for stage in parts.stages]
    assert max(counts[1:]) == min(counts[1:])  # two blocks each
    images = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(parts(images)[-1], net(images))


def test_what_has_no_stages_is_one_sentence() -> None:
    class Deciding(nn.Module):
        def forward(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    class Pair(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.mean((2, 3)), x

    image = torch.zeros(1, 3, 8, 8)
    for net, sentence in (
        (Deciding(), "Deciding cannot be cut into stages .*without decisions by values"),
        (Pair(), "several outputs"),
        (nn.Conv2d(3, 4, 3), "no row of class scores"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), "nowhere narrows to one tensor"),
    ):
        with pytest.raises(BadModel, match=sentence):
            stages.staged(net, image)
