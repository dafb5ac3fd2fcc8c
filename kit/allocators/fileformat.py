"""The file of an allocator, ``x.alloc.npz``: what the network is, its weights as plain arrays, and which sub-network is run.

An allocator takes the features of each user and returns shares of one or two resources that add up to one. Three forms:

``flat``      paper A: all users in one vector; an input layer, a gate that picks k of M experts of two layers, eqs. (4) to (6).
``shared``    paper B: experts of l layers, each seeing one user's features and shared by all users, eqs. (12) to (20).
``per_user``  the same layers for each user, with the mean of the other users as input, too, so that it does not matter who comes
              first and how many they are. A narrower or shallower sub-network is a prefix of the full network.

A size is (width, depth): k experts and layers l, or units and layers. The weights are stored as ``(inputs, outputs)``, experts first; no
pickle. numpy alone reads it; ``kit.nets.allocator`` trains such networks and exports them.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, ValidationError

import kit
from kit import store
from kit.errors import BadModel, UnknownName, UsageError
from kit.records import Artifact, FileRef, Origin, Record, SubNetwork, TensorSpec
from kit.versions import installed

SUFFIX = ".alloc.npz"
ABOUT = "about"  # the array that holds the description, as bytes of JSON
FLAT_DEPTH = 2  # layers of an expert of paper A; they are always both run
LEAK = 0.01  # torch's LeakyReLU
Float32Array = NDArray[np.float32]
Form = Literal["flat", "shared", "per_user"]


class Feature(Record):
    """How one quantity of a user becomes an input: ``(f(value / scale) - centre) / spread``, f the logarithm or nothing.

    ``scale`` None divides by the mean over the users that are present. Ratios below ``least`` count as ``least``.
    """

    name: str  # with its unit: "size_bit"
    scale: float | None = Field(default=None, gt=0)
    log: bool = True
    least: float = Field(default=1e-3, gt=0)
    centre: float = 0.0
    spread: float = Field(default=1.0, gt=0)


class AllocatorSpec(Record):
    """Everything about an allocator but its weights. ``users`` is the most that it takes; fewer are always possible.

    ``inner`` is the width of paper A's input layer, ``hidden`` the layers of an expert (or of the network, where there are none).
    """

    root: str
    form: Form
    features: tuple[Feature, ...] = Field(min_length=1)
    outputs: tuple[str, ...] = Field(default=("bandwidth",), min_length=1)
    users: int = Field(default=30, ge=1, le=4096)
    experts: int = Field(default=1, ge=1, le=4096)
    gated: bool = True
    inner: int = Field(default=0, ge=0, le=4096)
    hidden: tuple[int, ...] = Field(min_length=1, max_length=16)

    @property
    def largest(self) -> Size:
        """The whole network as a size."""
        width = self.hidden[0] if self.form == "per_user" else self.experts
        return Size(width, FLAT_DEPTH if self.form == "flat" else len(self.hidden))


class Size(NamedTuple):
    """Experts (units, for the form ``per_user``) and layers."""

    width: int
    depth: int


class About(Record):
    """The description in the file: the network, and the sub-network and number of users that the file stands for."""

    kind: Literal["allocator"] = "allocator"
    schema_version: Literal[1] = 1
    spec: AllocatorSpec
    width: int
    depth: int
    users: int


@dataclass(frozen=True)
class AllocatorNetwork:
    """An allocator with its weights, cut to ``size``, for ``users`` users. Sub-networks share the arrays: nothing is copied."""

    spec: AllocatorSpec
    arrays: dict[str, Float32Array]
    size: Size
    users: int

    def cut(self, width: int | None = None, depth: int | None = None, users: int | None = None) -> AllocatorNetwork:
        """Another sub-network of the same weights. Raises UsageError when there is none of this size."""
        size = Size(self.size.width if width is None else width, self.size.depth if depth is None else depth)
        network = replace(self, size=size, users=self.users if users is None else users)
        check_size(self.spec, network.size, network.users)
        return network


#: Paper A, eq. (1): only ratios of importance and of size matter, and the logarithm makes the closed square-root rule a linear one.
#: ``centre`` and ``spread`` are the mean and deviation where the paper draws them from (section IV).
FEATURES_A = (
    Feature(name="importance", centre=-0.284, spread=0.775),
    Feature(name="size_bit", centre=-0.307),
    Feature(name="distance_m", scale=500.0, centre=-1.0),
)
#: Paper B, eq. (7): size, workload, deadline, distance, local clock; scales from its section V.
FEATURES_B = (
    Feature(name="size_bit", centre=-0.307),
    Feature(name="workload_cycles_per_bit", centre=-0.307),
    Feature(name="deadline_s", scale=0.160, centre=-1.0),
    Feature(name="distance_m", scale=500.0, centre=-1.0),
    Feature(name="local_clock_hz", scale=0.15e9, centre=-0.8, spread=0.7),
)
BOTH = ("bandwidth", "computing")


def paper_a(users: int = 30, features: tuple[Feature, ...] = FEATURES_A, *, gated: bool = True) -> AllocatorSpec:
    """Paper A: 90 -> 36, 30 experts of 36 -> 32 -> 30 for 30 users. Without ``gated`` its static network: all experts, equal weights."""
    root = "allocator_a" if gated else "allocator_a_static"
    return AllocatorSpec(
        root=root, form="flat", features=features, users=users, experts=30, gated=gated, inner=36, hidden=(32,)
    )


def paper_b(users: int = 30, features: tuple[Feature, ...] = FEATURES_B) -> AllocatorSpec:
    """Paper B: 10 experts of 5 -> 64 -> 64 -> 64 and two output layers."""
    hidden = (64, 64, 64)
    return AllocatorSpec(
        root="allocator_b", form="shared", features=features, outputs=BOTH, users=users, experts=10, hidden=hidden
    )


def static_b(users: int = 30, hidden: tuple[int, ...] = (384, 384, 64)) -> AllocatorSpec:
    """Paper B's static model: one network as deep as the deepest expert, 384 wide.

    Its last layer is read as 64 wide, like an expert's: 5.22M MACs, against the 5.126M that the paper prints for the dynamic one.
    """
    return paper_b(users).model_copy(
        update={"root": "allocator_b_static", "experts": 1, "gated": False, "hidden": hidden}
    )


def per_user(
    features: tuple[Feature, ...] = FEATURES_A,
    outputs: tuple[str, ...] = ("bandwidth",),
    users: int = 30,
    width: int = 32,
    depth: int = 3,
) -> AllocatorSpec:
    """The per-user allocator for the world whose ``features`` and ``outputs`` these are; two outputs make it ``allocator_u_b``."""
    root = "allocator_u" if len(outputs) == 1 else "allocator_u_b"
    return AllocatorSpec(
        root=root, form="per_user", features=features, outputs=outputs, users=users, hidden=(width,) * depth
    )


#: The full network of each root whose sub-networks have ids, for so many users.
ROOTS: dict[str, Callable[[int], AllocatorSpec]] = {
    "allocator_a": paper_a,
    "allocator_a_static": lambda users: paper_a(users, gated=False),
    "allocator_b": paper_b,
    "allocator_b_static": static_b,
    "allocator_u": lambda users: per_user(users=users),
    "allocator_u_b": lambda users: per_user(FEATURES_B, BOTH, users),
}
WIDEST = {root: make(1).largest.width for root, make in ROOTS.items()}  # experts; units of the per-user network


def member(sub: SubNetwork, seed: int = 0) -> AllocatorNetwork:
    """The sub-network that an id names, with random weights. Raises UnknownName, UsageError for a size that there is not."""
    if sub.root not in ROOTS:
        raise UnknownName("allocator", sub.root, ROOTS)
    return random_network(ROOTS[sub.root](sub.resolution_px), seed, round(sub.width * WIDEST[sub.root]), sub.depth)


def shapes(spec: AllocatorSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight. ``noise_weight`` serves training alone (paper B, eq. 16)."""
    count, outputs, hidden, many = len(spec.features), len(spec.outputs), spec.hidden, spec.experts
    by_name: dict[str, tuple[int, ...]] = {}
    if spec.form == "flat":
        by_name |= {"input_weight": (count * spec.users, spec.inner), "input_bias": (spec.inner,)}
        by_name |= {"gate_weight": (spec.inner, many)} if spec.gated else {}
        layers = [spec.inner, *hidden[:1], spec.users]
    else:
        layers = [count, *hidden]
    if spec.form == "per_user":
        for layer, (before, after) in enumerate(pairwise(layers)):
            by_name |= {f"own{layer}_weight": (before, after), f"others{layer}_weight": (before, after)}
            by_name[f"layer{layer}_bias"] = (after,)
        return by_name | {"output_weight": (hidden[-1], outputs), "direct_weight": (count, outputs)}
    if spec.form == "shared":
        by_name |= {"gate_weight": (count, many), "noise_weight": (count, many)} if spec.gated else {}
    for layer, (before, after) in enumerate(pairwise(layers)):
        by_name |= {f"expert{layer}_weight": (many, before, after), f"expert{layer}_bias": (many, after)}
    return by_name | (
        {"output_weight": (hidden[-1], outputs), "output_bias": (outputs,)} if spec.form == "shared" else {}
    )


def fan_in(spec: AllocatorSpec, name: str) -> int:
    """Inputs of the layer that weight or bias ``name`` belongs to."""
    weight_name = name.replace("layer", "own").replace("bias", "weight")
    return shapes(spec)[weight_name][-2]


def random_arrays(spec: AllocatorSpec, seed: int) -> dict[str, Float32Array]:
    """Weights as torch's Linear draws them (uniform within 1 / sqrt(inputs)); equal seeds give equal arrays."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.uniform(-1.0, 1.0, shape) / fan_in(spec, name) ** 0.5).astype(np.float32)
        for name, shape in shapes(spec).items()
    }


def random_network(
    spec: AllocatorSpec, seed: int, width: int | None = None, depth: int | None = None
) -> AllocatorNetwork:
    """A network to be timed: what it takes does not depend on its weights. Raises UsageError for a size that it has not."""
    return AllocatorNetwork(spec, random_arrays(spec, seed), spec.largest, spec.users).cut(width, depth)


def check_size(spec: AllocatorSpec, size: Size, users: int) -> None:
    """Raises UsageError when the network has no such sub-network or takes fewer users."""
    most = spec.largest
    least_depth = most.depth if spec.form == "flat" or len(set(spec.hidden)) > 1 else 1
    least_width = 1 if spec.gated or spec.form == "per_user" else most.width
    if not (least_width <= size.width <= most.width and least_depth <= size.depth <= most.depth):
        what = "units" if spec.form == "per_user" else "experts"
        raise UsageError(
            f"{spec.root} has no sub-network of {size.width} {what} and {size.depth} layers: "
            f"take {least_width} to {most.width} {what} and {least_depth} to {most.depth} layers."
        )
    if not 1 <= users <= spec.users:
        raise UsageError(f"{spec.root} takes 1 to {spec.users} users, not {users}: make one for more users.")


def parameters(spec: AllocatorSpec) -> int:
    """Weights and biases, what only training needs left out."""
    return sum(int(np.prod(shape)) for name, shape in shapes(spec).items() if name != "noise_weight")


def dynamic_parameters(spec: AllocatorSpec) -> int:
    """Those of the experts: paper B prints 87.04K."""
    return sum(int(np.prod(shape)) for name, shape in shapes(spec).items() if name.startswith("expert"))


def expert_macs(spec: AllocatorSpec, size: Size, users: int) -> int:
    """Multiply-accumulates of the experts of ``size`` alone, biases not counted: 2,553,600 for paper B's (10, 3) and 30 users."""
    if spec.form == "flat":
        return size.width * (spec.inner * spec.hidden[0] + spec.hidden[0] * spec.users)
    layers = [len(spec.features), *spec.hidden[: size.depth]]
    return users * size.width * sum(a * b for a, b in pairwise(layers))


def macs(spec: AllocatorSpec, size: Size, users: int) -> int:
    """All multiply-accumulates of a decision, counted as the network is written (kit.spaces counts the same)."""
    count, outputs = len(spec.features), len(spec.outputs)
    if spec.form == "per_user":
        others = count * size.width + (size.depth - 1) * size.width**2  # once for all users
        return (users + 1) * others + users * outputs * (size.width + count)
    weighing = size.width if spec.gated else 0
    if spec.form == "flat":
        gate = spec.inner * spec.experts if spec.gated else 0
        return count * spec.users * spec.inner + gate + expert_macs(spec, size, users) + weighing * spec.users
    last = spec.hidden[size.depth - 1]
    gate = users * count * spec.experts if spec.gated else 0
    return gate + expert_macs(spec, size, users) + users * last * (weighing + outputs)


def normalise(features: tuple[Feature, ...], tasks: ArrayLike) -> Float32Array:
    """Inputs ``(features, users)`` from raw quantities ``(features, users)`` in the units that the features' names give."""
    raw = np.asarray(tasks, np.float64)
    rows = []
    for feature, row in zip(features, raw, strict=True):
        ratio = np.maximum(row / (row.mean() if feature.scale is None else feature.scale), feature.least)
        value = np.log(ratio.astype(np.float32)) if feature.log else ratio
        rows.append((value - feature.centre) / feature.spread)
    return np.asarray(rows, np.float32)


def subnetwork(network: AllocatorNetwork) -> SubNetwork:
    """Its name among all sub-networks: width as a share, the number of users in the place of the resolution."""
    return SubNetwork(
        family="allocator",
        root=network.spec.root,
        depth=network.size.depth,
        width=network.size.width / network.spec.largest.width,
        precision="fp32",
        resolution_px=network.users,
    )


def tensors(network: AllocatorNetwork) -> tuple[TensorSpec, TensorSpec]:
    """Input and output, as in kit.spaces: users in one vector, feature after feature (``flat``), or user after user."""
    count, users = len(network.spec.features), network.users
    shape = (1, count * users) if network.spec.form == "flat" else (1, users, count)
    return (
        TensorSpec(name="input", shape=shape, dtype="float32"),
        TensorSpec(name="output", shape=(len(network.spec.outputs), users), dtype="float32"),
    )


def describe(
    network: AllocatorNetwork, model: FileRef, *, seed: int | None = None, steps: tuple[str, ...] = ()
) -> Artifact:
    """The sidecar of ``network`` in the file ``model``."""
    spec, sub = network.spec, subnetwork(network)
    input_spec, output_spec = tensors(network)
    return Artifact(
        artifact_id=sub.id,
        model=model,
        subnetwork=sub,
        macs=macs(spec, network.size, network.users),
        parameters=parameters(spec),
        weight_bytes=4 * parameters(spec),
        inputs=(input_spec,),
        outputs=(output_spec,),
        licence="Apache-2.0",
        origin=Origin(
            root=spec.root, seed=seed, producer=f"kit {kit.__version__}", versions=installed(("numpy",)), steps=steps
        ),
    )


def write(network: AllocatorNetwork, path: Path, *, seed: int | None = None, steps: tuple[str, ...] = ()) -> Artifact:
    """``network`` as the file ``path`` (``x.alloc.npz``), with its sidecar ``x.alloc.json``; equal networks give equal files.

    Raises UsageError (another ending, a size that the network has not), StorageError.
    """
    if not path.name.endswith(SUFFIX):
        raise UsageError(f"{path} is no name for an allocator: give it the ending {SUFFIX}.")
    spec, size = network.spec, network.size
    check_size(spec, size, network.users)
    about = About(spec=spec, width=size.width, depth=size.depth, users=network.users)
    arrays: dict[str, Any] = {ABOUT: np.frombuffer(store.canonical_json(about), np.uint8), **network.arrays}
    buffer = BytesIO()
    np.savez(buffer, **arrays)
    data = buffer.getvalue()
    store.write_atomic(path, data)
    model = FileRef(file=path.name, sha256=store.sha256_bytes(data), size_bytes=len(data))
    artifact = describe(network, model, seed=seed, steps=steps)
    store.write_record(path.with_suffix(".json"), artifact)
    return artifact


def read(path: Path) -> AllocatorNetwork:
    """The network in ``path``. Raises UsageError when it is missing, BadModel when it is no allocator or its arrays do not fit."""
    with store.explained(path, "read"):
        data = path.read_bytes()
    try:
        with np.load(BytesIO(data), allow_pickle=False) as file:
            about = About.model_validate(json.loads(file[ABOUT].tobytes()))
            expected = shapes(about.spec)
            arrays = {name: np.ascontiguousarray(file[name], np.float32) for name in expected}
    except (ValueError, KeyError, EOFError, OSError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        reason = "its description is not one" if isinstance(error, ValidationError) else str(error)[:80]
        raise BadModel(f"{path} is no allocator ({reason}): give a file that kit wrote (*{SUFFIX}).") from None
    for name, shape in expected.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise BadModel(f"{path}: its array {name} is not finite numbers of shape {shape}: export it again.")
    network = AllocatorNetwork(about.spec, arrays, Size(about.width, about.depth), about.users)
    check_size(network.spec, network.size, network.users)
    return network
