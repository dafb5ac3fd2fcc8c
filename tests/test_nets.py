"""The families: exits, cuts, pruned shapes, and the same multiply-accumulates by three counters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch.utils import flop_counter  # noqa: E402

from kit import nets, store  # noqa: E402
from kit.errors import UnknownName  # noqa: E402
from kit.records import SubNetwork  # noqa: E402
from kit.variants import graph, network_files, prune, train  # noqa: E402

ROOTS = sorted(set(nets.ROOTS) - {"resnet56"})  # which is resnet20 with more blocks of the same
SILENT = (torch.nn.BatchNorm2d, torch.nn.LayerNorm, torch.nn.AdaptiveAvgPool2d)
PROFILES = Path(__file__).parent.parent / "profiles"


@pytest.fixture(scope="module", params=ROOTS)
def root(request: pytest.FixtureRequest) -> nets.Root:
    return nets.ROOTS[request.param]


def graph_macs(net: torch.nn.Module, folder: Path) -> int:
    """Multiply-accumulates as kit states them: of the exported ONNX graph."""
    path = folder / "net.onnx"
    path.write_bytes(network_files.to_files(net, image()).onnx)
    macs = graph.facts(graph.load(path), "net").macs
    assert macs is not None
    return macs


def image(count: int = 1) -> torch.Tensor:
    return torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_names_need_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from kit.nets import ROOTS; print(*ROOTS)"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.split() == list(nets.ROOTS)


def test_unknown_root_says_did_you_mean() -> None:
    with pytest.raises(UnknownName, match="did you mean 'resnet18'"):
        nets.root_of("resnet81")


def test_family_agrees_with_the_parsed_id(root: nets.Root) -> None:
    assert SubNetwork.parse(f"{root.name}-d2-w1.00-fp32-32").family == root.family


def test_each_cut_answers_as_its_exit_and_costs_less(root: nets.Root, tmp_path: Path) -> None:
    with train.deterministic(0, threads=1):
        net = nets.network(root).eval()
        with torch.no_grad():
            all_exits = net(image(3))
            macs = []
            for depth, logits in zip(root.depths, all_exits, strict=True):
                cut = net.cut(depth)
                torch.testing.assert_close(cut(image(3)), logits)
                assert logits.shape == (3, root.classes)
                macs.append(graph_macs(cut, tmp_path))
    assert macs == sorted(set(macs))


def test_no_cut_between_exits() -> None:
    with pytest.raises(ValueError, match="no exit after block 3"):
        nets.network(nets.ROOTS["resnet18"]).cut(3)


def test_the_seed_decides_the_weights() -> None:
    def first(seed: int) -> torch.Tensor:
        with train.deterministic(seed, threads=1):
            return next(nets.network(nets.ROOTS["vit_tiny"]).parameters()).detach().clone()

    assert torch.equal(first(1), first(1))


@pytest.mark.parametrize("keep", [0.7, 0.5, 0.3])
def test_pruned_layers_are_smaller_and_aligned(root: nets.Root, keep: float, tmp_path: Path) -> None:
    with train.deterministic(0, threads=1):
        full_net = nets.network(root).eval()
        thin = prune.prune(full_net, keep, image())
        full, less = (graph_macs(n.cut(root.depths[-1]).eval(), tmp_path) for n in (full_net, thin))
        with torch.no_grad():
            assert all(torch.isfinite(logits).all() for logits in thin(image(2)))
    before, after = dict(full_net.named_modules()), dict(thin.named_modules())
    for name, layer in after.items():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.out_channels % 8 == 0
            assert abs(layer.out_channels - keep * before[name].out_channels) <= 12
        if isinstance(layer, torch.nn.MultiheadAttention):
            assert layer.num_heads == 3
            assert layer.embed_dim % (3 * 8) == 0
            assert layer.embed_dim < 192
            assert layer.in_proj_weight.shape == (3 * layer.embed_dim, layer.embed_dim)
    coarse = root.name.startswith("resnet") and root.name != "resnet18"  # of 16 channels, steps of 8 are large
    assert less < full * (keep + (0.25 if coarse else 0.05)) ** 2 * 1.1


def test_pruned_heads_keep_their_own_channels() -> None:
    """Every channel that stays in the attention must stay in the head it came from."""
    with train.deterministic(0, threads=1):
        full_net = nets.network(nets.ROOTS["vit_tiny"]).eval()
        thin = prune.prune(full_net, 0.5, image())
    source, pruned_weight = (n.stages[0][1].self_attention.in_proj_weight for n in (full_net, thin))
    position = full_net.stages[0][0].positions[0, 0], thin.stages[0][0].positions[0, 0]
    where = [int((position[0] == value).nonzero()[0]) for value in position[1]]
    assert [w // 64 for w in where] == [0] * 32 + [1] * 32 + [2] * 32
    torch.testing.assert_close(pruned_weight[:96], source[where][:, where])


def torch_macs(net: torch.nn.Module) -> int:
    """By torch's flop counter."""
    with flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image())
    return int(counter.get_total_flops()) // 2


def test_three_counters_agree(root: nets.Root, tmp_path: Path) -> None:
    """The ONNX counter, which kit states, against torch's flop counter and thop.

    thop also counts two operations per element of a norm and of a pooling (no multiply-accumulates, or folded away: its hooks
    for them are switched off here), and in attention 3n-1 operations for each softmax over n tokens.
    """
    thop = pytest.importorskip("thop")
    with train.deterministic(0, threads=1):
        cut = nets.network(root).cut(root.depths[1]).eval()
        macs, by_torch = graph_macs(cut, tmp_path), torch_macs(cut)
        silent = {kind: lambda module, x, y: None for kind in SILENT}
        by_thop, _ = thop.profile(cut, inputs=(image(),), custom_ops=silent, verbose=False)
    tokens, heads = 17, 3
    softmax = root.depths[1] * heads * tokens * (3 * tokens - 1) if root.family == "vit" else 0
    # torch 2.14 no longer takes the attention of CPUs apart into products and its counter does not know the kernel: two products of
    # (tokens, width, tokens) a block are missing. Older ones count them.
    attention = root.depths[1] * 2 * tokens * tokens * 192 if root.family == "vit" else 0
    assert by_torch in (macs, macs - attention)
    assert by_thop - softmax == macs


def recorded_macs(root: str) -> dict[int, set[int]]:
    """MACs of the whole-width cuts of a root, by depth, as the records in profiles/ have them: those were made under torch 2.15.0."""
    macs_by_depth: dict[int, set[int]] = {}
    for record in store.read_profiles([*PROFILES.glob(f"*/{root}-variants.jsonl")]):
        sub, origin = record.artifact.subnetwork, record.artifact.origin
        assert origin is not None
        assert origin.versions["torch"] == "2.15.0"
        if sub is not None and sub.width == 1.0:
            macs_by_depth.setdefault(sub.depth, set()).add(record.artifact.macs or 0)
    return macs_by_depth


def test_macs_do_not_depend_on_the_version_of_torch(root: nets.Root, tmp_path: Path) -> None:
    recorded = recorded_macs(root.name)
    if not recorded:
        pytest.skip(f"no profile of {root.name} is committed")
    assert recorded.keys() == set(root.depths)
    with train.deterministic(0, threads=1):
        net = nets.network(root)
        for depth in root.depths:
            assert {graph_macs(net.cut(depth).eval(), tmp_path)} == recorded[depth]


def test_shifting_moves_without_changing_the_size() -> None:
    source = image(4)
    moved = train.shifted(source, 2, torch.Generator().manual_seed(1))
    assert moved.shape == source.shape
    assert torch.equal(train.shifted(source, 0, torch.Generator()), source)


def test_deterministic_restores_torch() -> None:
    before = torch.get_num_threads(), torch.random.get_rng_state()
    with train.deterministic(7, threads=1):
        torch.randn(3)
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert not torch.are_deterministic_algorithms_enabled()
