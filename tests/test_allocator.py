"""The allocator networks: counts of the papers, feasible shares, masks, prefixes, gradients, and that a step of training helps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from printed import printed_count

from kit import spaces
from kit.allocators import fileformat
from kit.allocators.fileformat import AllocatorSpec, Size
from kit.errors import BadModel, UsageError
from kit.nets import allocator

RATIOS = tuple(f.model_copy(update={"log": False}) for f in fileformat.FEATURES_A)
A, B, U = fileformat.paper_a(), fileformat.paper_b(), fileformat.per_user(width=16)
SPECS = {
    "a": A,
    "b": B,
    "u": U,
    "a_static": fileformat.paper_a(gated=False),
    "b_static": fileformat.static_b(hidden=(24, 24, 8)),
}
NETS = {name: allocator.make(spec, 0).eval() for name, spec in SPECS.items()}
SIZES = {"a": [(1, 2), (7, 2), (30, 2)], "b": [(1, 1), (4, 2), (10, 3)], "u": [(1, 1), (5, 2), (16, 3)]}


def features(spec: AllocatorSpec, samples: int, users: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(
        np.random.default_rng(seed).standard_normal((samples, users, len(spec.features))), dtype=torch.float32
    )


def size_of(spec: AllocatorSpec) -> tuple[int, int]:
    return tuple(spec.largest)


# ----------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("k", [1, 2, 5, 10, 20, 30])
def test_paper_a_counts(k: int) -> None:
    sub = spaces.subnetwork(f"allocator_a-d2-w{k / 30:.2f}-fp32-30")
    assert printed_count(sub) == k * 2174 == fileformat.dynamic_parameters(A) * k // 30
    assert fileformat.macs(A, Size(k, 2), 30) == spaces.macs(sub)


@pytest.mark.parametrize("k", [1, 4, 10])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_paper_b_counts(k: int, layers: int) -> None:
    sub = spaces.subnetwork(f"allocator_b-d{layers}-w{k / 10:.2f}-fp32-30")
    assert fileformat.macs(B, Size(k, layers), 30) == spaces.macs(sub)
    assert printed_count(sub) == 2 * fileformat.expert_macs(B, Size(k, layers), 30) + 30 * k * 64


def test_paper_b_prints_87040_parameters_and_computes_2553600_macs() -> None:
    expert_parameters = sum(p.numel() for name, p in NETS["b"].named_parameters() if name.startswith("expert"))
    assert expert_parameters == fileformat.dynamic_parameters(B) == 87_040
    assert fileformat.expert_macs(B, Size(10, 3), 30) == 2_553_600
    counted = spaces.counts(spaces.subnetwork("allocator_b-d3-w1.00-fp32-30")).parameters
    assert fileformat.parameters(B) == counted and fileformat.parameters(A) == 69_576


def test_the_static_model_of_b_is_5_2_million_macs() -> None:
    static = fileformat.static_b()
    assert fileformat.expert_macs(static, static.largest, 30) == 30 * (5 * 384 + 384 * 384 + 384 * 64)


# ----------------------------------------------------------------------------------------------------------------- shares


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(SPECS)),
    users=st.integers(1, 30),
    seed=st.integers(0, 1000),
    place=st.floats(0, 1),
)
def test_shares_are_feasible_for_any_mask(name: str, users: int, seed: int, place: float) -> None:
    spec, net = SPECS[name], NETS[name]
    sizes = SIZES.get(name, [size_of(spec)])
    width, depth = sizes[int(place * (len(sizes) - 1))]
    mask = torch.tensor(np.random.default_rng(seed).random((3, users)) < 0.6)
    mask[:, 0] = True
    shares = net(features(spec, 3, users, seed), width, depth, mask)
    assert shares.shape == (3, len(spec.outputs), users)
    assert torch.allclose(shares.sum(-1), torch.ones(3, len(spec.outputs)), atol=1e-5)
    assert bool((shares >= 0).all()) and not bool(shares[~mask[:, None].expand_as(shares)].any())


@pytest.mark.parametrize("name", SPECS)
def test_who_is_absent_moves_nothing(name: str) -> None:
    spec, net = SPECS[name], NETS[name]
    x = features(spec, 2, 30)
    mask = torch.arange(30).expand(2, 30) < 12
    other = torch.where(mask[..., None], x, x + 7)
    got = net(x, mask=mask)
    assert torch.equal(got, net(other, mask=mask))
    assert torch.allclose(got[..., :12], net(x[:, :12]), atol=1e-6)


@pytest.mark.parametrize("name", ["b", "u", "b_static"])
def test_the_order_of_the_users_does_not_matter(name: str) -> None:
    spec, net = SPECS[name], NETS[name]
    x, order = features(spec, 2, 20), torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(net(x)[..., order], net(x[:, order]), atol=1e-6)


def test_one_network_serves_5_to_50_users() -> None:
    for spec in (fileformat.paper_a(users=50), fileformat.paper_b(users=50), fileformat.per_user(users=50)):
        net = allocator.make(spec, 0).eval()
        for users in (5, 30, 50):
            assert net(features(spec, 1, users)).shape[-1] == users
        with pytest.raises(UsageError, match="takes 1 to 50 users, not 51"):
            net(features(spec, 1, 51))


@pytest.mark.parametrize(("name", "size"), [(n, s) for n, sizes in SIZES.items() for s in sizes])
def test_one_sample_alone_gets_what_it_gets_among_many(name: str, size: tuple[int, int]) -> None:
    """One sample computes the picked experts, many all of them or each expert its samples."""
    spec, net = SPECS[name], NETS[name]
    x = features(spec, 6, 30)
    together = net(x, *size)
    alone = torch.cat([net(x[i : i + 1], *size) for i in range(6)])
    assert torch.allclose(together, alone, rtol=1e-5, atol=1e-7)


def test_a_smaller_network_is_a_prefix() -> None:
    full_arrays = allocator.export_arrays(NETS["u"])
    small = fileformat.per_user(width=5, depth=2)
    cut = {name: full_arrays[name][tuple(slice(n) for n in shape)] for name, shape in fileformat.shapes(small).items()}
    x = features(U, 2, 30)
    assert torch.allclose(allocator.Allocator(small, cut)(x), NETS["u"](x, 5, 2), atol=1e-6)


def test_the_noise_of_eq_16_belongs_to_training() -> None:
    net, x = allocator.make(B, 0), features(B, 4, 30)
    draw = [net(x, 2, 1, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])
    net.eval()
    assert torch.equal(net(x, 2, 1), net(x, 2, 1))


def test_seeds() -> None:
    one, two, three = (allocator.export_arrays(allocator.make(B, seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(one[n], two[n]) for n in one) and not np.array_equal(
        one["gate_weight"], three["gate_weight"]
    )


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("a", (31, 2), "1 to 30 experts"),
        ("a", (3, 1), "2 to 2 layers"),
        ("b", (0, 1), "1 to 10"),
        ("u", (17, 1), "16 units"),
        ("a_static", (3, 2), "30 to 30"),
    ],
)
def test_sizes_that_do_not_exist(name: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NETS[name](features(SPECS[name], 1, 30), *size)


# --------------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("name", ["a", "b", "u"])
def test_gradients_against_finite_differences(name: str) -> None:
    spec = SPECS[name]
    net, x = allocator.make(spec, 3).double().eval(), features(spec, 1, 6).double()
    target = torch.arange(6.0, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (net(x, *SIZES[name][1])[0] * target).sum()

    loss().backward()
    step = 1e-6
    for parameter in net.parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        at = int(gradient.abs().argmax())
        flat = parameter.data.view(-1)
        value = float(flat[at])
        values = []
        for moved in (value + step, value - step):
            flat[at] = moved
            values.append(loss().item())
        flat[at] = value
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(gradient.view(-1)[at]), rel=1e-3, abs=1e-7)


def tasks_a(samples: int, seed: int) -> torch.Tensor:
    """Paper A, section IV: importance, size in bit (10 kbit on average), distance in m; ``(samples, 3, users)``."""
    rng = np.random.default_rng(seed)
    importance = rng.choice([0.8, 0.4, 0.2, 0.1], (samples, 30))
    size, distance = rng.uniform(0, 20_000, (samples, 30)), rng.uniform(5, 500, (samples, 30))
    return torch.tensor(np.stack([importance, size, distance], 1))


def delay_a(tasks: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Paper A, eq. (1), averaged over the users, in seconds: 10 MHz, 0.1 W, -40 dB at 1 m, 1e-17 W/Hz."""
    importance, size, distance = tasks.unbind(1)
    hz = 10e6 * shares[:, 0].double().clamp(min=1e-9)
    return (importance * size / (hz * torch.log2(1 + 0.1 * 1e-4 / distance**2 / (1e-17 * hz)))).mean()


@pytest.mark.parametrize("name", ["a", "u"])
def test_a_few_steps_lower_the_delay_of_paper_a(name: str) -> None:
    spec = SPECS[name]
    net, rng = allocator.make(spec, 0), np.random.default_rng(0)
    tasks = tasks_a(256, 99)
    before = delay_a(tasks, net(allocator.normalise(spec.features, tasks))).item()
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(30):
        tasks = tasks_a(64, step)
        width = int(rng.integers(1, spec.largest.width + 1))
        loss = delay_a(tasks, net(allocator.normalise(spec.features, tasks), width))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        after = float(delay_a(tasks, net(allocator.normalise(spec.features, tasks))))
    assert after < 0.99 * before


# ----------------------------------------------------------------------------------------------------------------- export


def test_the_features_are_the_runtimes() -> None:
    for features_ in (fileformat.FEATURES_A, RATIOS):
        tasks = tasks_a(3, 0)
        ours = allocator.normalise(features_, tasks).numpy()
        for sample, expected in zip(tasks.numpy(), ours, strict=True):
            assert np.allclose(fileformat.normalise(features_, sample).T, expected, atol=1e-5)


def test_features_of_those_present_alone() -> None:
    tasks = tasks_a(2, 0)
    mask = torch.arange(30).expand(2, 30) < 9
    masked = allocator.normalise(A.features, tasks, mask)[:, :9]
    assert torch.allclose(masked, allocator.normalise(A.features, tasks[..., :9]))


@pytest.mark.parametrize("name", SPECS)
def test_export_and_back(name: str, tmp_path: Path) -> None:
    spec, net = SPECS[name], NETS[name]
    path = tmp_path / "x.alloc.npz"
    artifact = allocator.write(net, path, users=9, seed=0, steps=("untrained",))
    read = fileformat.read(path)
    assert read.spec == spec and read.users == 9 and read.size == spec.largest
    assert artifact.artifact_id == f"{spec.root}-d{spec.largest.depth}-w1.00-fp32-9" and artifact.macs
    back = allocator.Allocator(read.spec, read.arrays)
    assert torch.equal(back.eval()(features(spec, 1, 9)), net(features(spec, 1, 9)))
    first = path.read_bytes()
    allocator.write(net, path, users=9, seed=0)
    assert path.read_bytes() == first


def test_arrays_of_another_shape_are_refused() -> None:
    arrays = dict(allocator.export_arrays(NETS["a"]))
    arrays["gate_weight"] = arrays["gate_weight"][:, :4]
    with pytest.raises(BadModel, match=r"gate_weight has the shape \(36, 4\), not \(36, 30\)"):
        allocator.Allocator(A, arrays)
