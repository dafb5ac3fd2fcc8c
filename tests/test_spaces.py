"""Family spaces without torch or onnx: ids, sampling, kernels, and what the papers count."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import log2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from printed import experts_of, printed_count

from kit import spaces
from kit.errors import UnknownName, UsageError
from kit.records import Kernel, SubNetwork
from kit.spaces import SPACES, allocator, onnxfile
from kit.spaces.graph import Stored, channels
from kit.spaces.space import Space

NETWORKS = [name for name in SPACES if not name.startswith("allocator")]
members = st.sampled_from(sorted(SPACES)).flatmap(
    lambda name: st.integers(0, SPACES[name].size - 1).map(lambda i: SPACES[name][i])
)


@given(members)
def test_every_member_is_parsed_from_its_id(sub: SubNetwork) -> None:
    assert spaces.subnetwork(sub.id) == sub
    space = SPACES[sub.root]
    assert sub in space and space.normal(SubNetwork.parse(sub.id)) == sub


@pytest.mark.parametrize("name", SPACES)
def test_a_space_is_a_sequence_of_different_ids(name: str) -> None:
    space = SPACES[name]
    ids = space.ids()
    assert len(ids) == len(space) == space.size
    assert space.size >= (1000 if name in NETWORKS else 1 if "static" in name else 30)
    step = max(1, space.size // 997)
    picked = ids[::step]
    assert len(set(picked)) == len(picked)
    assert ids[-1] == space[-1].id == space[space.size - 1].id
    with pytest.raises(IndexError):
        space[space.size]


def test_a_small_space_is_listed_completely() -> None:
    space = SPACES["vgg11"]
    assert len(set(space.ids())) == space.size == 2**3 * 7 * 11 * 2
    assert len(list(space)) == space.size


@pytest.mark.parametrize("name", SPACES)
def test_the_root_is_the_full_network_and_a_member(name: str) -> None:
    root = SPACES[name].root
    assert root in SPACES[name] and root.width == 1.0 and root.precision == "fp32"
    assert all(
        spaces.macs(sub) <= spaces.macs(root)
        for sub in SPACES[name].sample(min(20, SPACES[name].size), 0)
        if sub.resolution_px <= root.resolution_px
    )


def test_channels_are_multiples_of_eight_and_grow_with_the_width() -> None:
    for name in NETWORKS:
        space = SPACES[name]
        widest = [space.normal(space.root.model_copy(update={"width": w})) for w in space.widths]
        columns = [[k.columns for k in spaces.kernels(s) if k.kind in ("conv", "pointwise")] for s in widest]
        assert all(c % 8 == 0 for one in columns for c in one)
        sizes = [spaces.macs(s) for s in widest]
        assert all(a < b for a, b in pairwise(sizes)), f"two widths of {name} are the same network"
    assert [channels(16, w / 8) for w in range(2, 9)] == [8, 8, 8, 8, 16, 16, 16]


def test_a_sample_is_reproducible_and_without_repetition() -> None:
    space = SPACES["resnet34"]
    one, two = space.sample(200, 7), space.sample(200, 7)
    assert one == two and len({s.id for s in one}) == 200
    assert space.sample(200, 8) != one
    assert sorted(s.id for s in SPACES["allocator_a"].sample(30, 0)) == sorted(SPACES["allocator_a"].ids())


@pytest.mark.parametrize("name", ["resnet18", "vit_base"])
def test_a_sample_is_uniform(name: str) -> None:
    """Chi-squared over each choice alone stays below its 99.99 % quantile (Wilson and Hilferty)."""
    space = SPACES[name]
    drawn = [sub for seed in range(5) for sub in space.sample(400, seed)]
    choices = {
        "width": len(space.widths), "resolution_px": len(space.resolutions), "precision": 2,
        "depth" if len(space.stages) == 1 else "blocks": int(np.prod(space.stages)),
    }  # fmt: skip
    for what, count in choices.items():
        counts = Counter(getattr(sub, what) for sub in drawn)
        expected = len(drawn) / count
        chi = sum((counts[key] - expected) ** 2 / expected for key in counts) + (count - len(counts)) * expected
        free = count - 1
        assert chi < free * (1 - 2 / (9 * free) + 3.72 * (2 / (9 * free)) ** 0.5) ** 3, what


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("resnet81-d2.2.2.2-w1.00-fp32-224", UnknownName, "did you mean 'resnet18'"),
        ("resnet18-d6-w1.00-fp32-224", UsageError, "its 4 stages keep 1 to 2.2.2.2 blocks"),
        ("resnet18-d3.2.2.2-w1.00-fp32-224", UsageError, "resnet18-d2.2.2.2-w1.00-fp32-224"),
        ("vit_tiny-d13-w1.00-fp32-224", UsageError, "it keeps 1 to 12 blocks"),
        (
            "vit_tiny-d9-w0.67-fp32-192",
            UsageError,
            "no width 0.67; take one of 0.25, 0.38, 0.50, 0.62, 0.75, 0.88, 1.00",
        ),
        ("vgg11-d1.1.2.2.2-w1.00-fp32-100", UsageError, "no resolution 100; take one of 96, 112"),
        ("vgg11-d1.1.2.2.2-w1.00-fp16-96", UsageError, "not made in fp16; take fp32 or int8"),
        ("allocator_a-d2-w0.27-fp32-20", UsageError, "no number of users 20; take one of 30"),
        ("allocator_a-d1-w0.27-fp32-30", UsageError, "it keeps 2 to 2 blocks"),
        ("resnet18", UsageError, "is no sub-network id"),
    ],
)
def test_a_wrong_id_gets_one_sentence(text: str, error: type[UsageError], words: str) -> None:
    with pytest.raises(error) as raised:
        spaces.subnetwork(text)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_other_wrong_inputs_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'vit_tiny'"):
        spaces.space_of("vit_tini")
    for count in (0, 31):
        with pytest.raises(UsageError, match="ask for 1 to 30"):
            SPACES["allocator_a"].sample(count, 0)
    with pytest.raises(UsageError, match="name its own space"):
        SPACES["resnet34"].normal(SPACES["resnet18"].root)
    with pytest.raises(UsageError, match="the ending .onnx"):
        spaces.write(SPACES["allocator_a"].root, tmp_path / "net.bin")
    with pytest.raises(UsageError, match="blocks of 4 channels"):
        spaces.kernels(SPACES["resnet18"].root, block=4)


@given(members, st.sampled_from(spaces.BLOCKS))
def test_kernels_are_consistent(sub: SubNetwork, block: int) -> None:
    kernels = spaces.kernels(sub, block)
    assert kernels == spaces.kernels(sub, block)
    assert all(k.read_bytes >= 0 and k.written_bytes > 0 and k.count >= 1 for k in kernels)
    assert all(k.precision == sub.precision for k in kernels)
    assert [k.stage for k in kernels] == sorted(k.stage for k in kernels)
    assert sum(k.macs * k.count for k in kernels) == spaces.macs(sub) > 0
    item = 1 if sub.precision == "int8" else 4
    for k in kernels:
        if k.kind in ("conv", "pointwise", "linear"):
            biases = 0 if k.weight_bytes == item * k.inner * k.columns else 4 * k.columns
            assert k.weight_bytes == item * k.inner * k.columns + biases
            assert k.written_bytes == item * k.rows * k.columns
        if k.kind == "matmul":
            assert k.written_bytes == item * k.rows * k.columns * k.groups


@given(st.sampled_from(NETWORKS), st.integers(0, 10**9), st.integers(0, 10**9))
def test_precision_and_layout_do_not_change_the_work(name: str, one: int, two: int) -> None:
    space: Space = SPACES[name]
    sub = space[one % space.size]
    other = sub.model_copy(update={"precision": "int8" if sub.precision == "fp32" else "fp32"})
    assert spaces.macs(sub) == spaces.macs(other)
    working = [[k for k in spaces.kernels(sub, b) if k.macs] for b in spaces.BLOCKS]
    assert [k.macs for k in working[0]] == [k.macs for k in working[1]] == [k.macs for k in working[2]]


def test_channels_that_fill_no_block_cost_a_reorder() -> None:
    def moves(width: float, block: int) -> int:
        sub = SPACES["resnet18"].root.model_copy(update={"width": width})
        return sum(k.count for k in spaces.kernels(sub, block) if k.kind == "move")

    assert moves(0.5, 16) == moves(0.375, 8) == 1  # only behind the last convolution
    assert moves(0.375, 16) > 4  # 24 channels: the pooling and the shortcuts of the first stage leave the blocks
    assert moves(0.375, 1) == 0
    assert [spaces.block_of(f) for f in (("avx", "avx512f"), ("avx", "avx2"), ("neon",))] == [16, 8, 1]


def test_kernels_of_an_artifact_come_from_its_id_or_its_sidecar(tmp_path: Path) -> None:
    artifact = spaces.write(SPACES["allocator_a"][7], tmp_path / "net.onnx")
    assert artifact.subnetwork is not None
    assert spaces.kernels_of(artifact) == spaces.kernels(artifact.subnetwork)
    trained = SubNetwork.parse("resnet18-d6-w0.50-int8-32")  # of kit.nets: the same root, another network
    listed = spaces.kernels(SPACES["resnet18"].root)[:3]
    assert spaces.kernels_of(artifact.model_copy(update={"subnetwork": trained, "kernels": listed})) == listed
    assert spaces.kernels_of(artifact.model_copy(update={"subnetwork": None})) is None


def test_equal_blocks_stand_as_one_kernel_with_a_count() -> None:
    kernels: tuple[Kernel, ...] = spaces.kernels(SPACES["vit_large"].root)
    assert {k.count for k in kernels if k.stage == 1} == {23, 1}
    assert sum(k.count for k in kernels if k.kind == "softmax") == 24
    assert sum(k.count for k in kernels if k.kind == "matmul") == 48


# ------------------------------------------------------------------------------------------------------ allocators


def allocator_of(root: str, experts: int, depth: int = 2, users: int = 30) -> SubNetwork:
    width = experts / allocator.EXPERTS[root]
    return spaces.subnetwork(f"{root}-d{depth}-w{width:.2f}-fp32-{users}")


@pytest.mark.parametrize("experts", range(1, 31))
def test_paper_a_counts_multiply_accumulates_with_biases(experts: int) -> None:
    sub = allocator_of("allocator_a", experts)
    assert experts_of(sub) == experts
    assert printed_count(sub) == experts * 2174
    outside = 90 * 36 + 36 * 30  # input layer, gate: the paper leaves them out
    biases, weighted_sum = experts * (32 + 30), experts * 30
    assert spaces.macs(sub) == printed_count(sub) - biases + weighted_sum + outside


def test_paper_a_table_i() -> None:
    printed = {1: "2.17", 2: "4.35", 5: "10.87", 10: "21.74", 20: "43.48", 30: "65.22"}
    counted = {k: f"{printed_count(allocator_of('allocator_a', k)) / 1e3:.2f}" for k in printed}
    assert counted == printed


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("experts", [1, 4, 10])
def test_paper_b_prints_operations_for_macs(experts: int, depth: int) -> None:
    sub = allocator_of("allocator_b", experts, depth)
    layers = [5 * 64, 64 * 64, 64 * 64][:depth]
    true = 30 * experts * sum(layers)  # eq. 30 to 33
    weighted_sum = 30 * experts * 64
    assert printed_count(sub) == 2 * true + weighted_sum
    outside = 30 * 5 * 10 + 30 * 64 * 2  # gate, output layers A and B
    assert spaces.macs(sub) == true + weighted_sum + outside
    if (experts, depth) == (10, 3):
        assert true == 2_553_600 and f"{printed_count(sub) / 1e6:.3f}M" == "5.126M"
        fixed = 5 * 10 + 64 * 2 + 2
        assert spaces.counts(sub).parameters - fixed == 87_040  # table I: 87.04K dynamic parameters


def test_only_the_chosen_experts_are_read() -> None:
    one, all_ = (sum(k.weight_bytes for k in spaces.kernels(allocator_of("allocator_a", k))) for k in (1, 30))
    fixed = 4 * (90 * 36 + 36 + 36 * 30)
    assert one - fixed == 4 * 2174 and all_ - fixed == 30 * (one - fixed)
    assert spaces.counts(allocator_of("allocator_a", 1)).weight_bytes == all_  # the file holds them all


# ----------------------------------------------------------------------------------------------------------- weights


@given(st.integers(0, 3), st.integers(0, 10**6), st.integers(1, 3000))
def test_weights_have_the_requested_size(seed: int, place: int, columns: int) -> None:
    drawn = onnxfile.numbers(Stored("float32", (64, columns), std=0.3, mean=1.0), seed, place)
    assert drawn.dtype == np.float32 and drawn.shape == (64, columns)
    assert drawn.mean() == pytest.approx(1.0, abs=6 * 0.3 / drawn.size**0.5)
    assert not (drawn[0] == drawn[1:]).all(axis=1).any()  # no two output channels are the same


def test_integer_weights_fill_their_range_without_sticking_to_it() -> None:
    drawn = onnxfile.numbers(Stored("int8", (100_000,), std=32.0), 0, 0)
    assert drawn.dtype == np.int8 and 30 < drawn.std() < 34
    assert (np.abs(drawn.astype(int)) >= 127).mean() < 1e-3
    shares, _ = np.histogram(drawn, bins=256, range=(-128, 128), density=True)
    assert -(shares[shares > 0] * np.log2(shares[shares > 0])).sum() > log2(256) - 2
