"""How a root is trained, and which of its sub-networks are built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kit import nets
from kit.errors import UsageError
from kit.records import Precision, SubNetwork
from kit.variants import train
from kit.variants.datasets import DIGITS, Dataset
from kit.variants.roots import RootNetwork
from kit.variants.train import Schedule

WIDTHS = (1.0, 0.7, 0.5, 0.3)
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
#: Ends the name of the root in the id of a network that is pruned by latency; its width is the share of the root's latency.
BY_LATENCY = "_latency"
_QUICK_IMAGES, _QUICK_TEST_IMAGES = 896, 500


@dataclass(frozen=True)
class Recipe:
    """How a root is trained, and which of its sub-networks are built: all ``widths`` at all ``depths``, fp32 and int8."""

    schedule: Schedule
    finetune: Schedule
    widths: tuple[float, ...]
    depths: tuple[int, ...]
    narrow_depths: tuple[int, ...]  # of the pruned networks
    training_images: int | None = None  # None: all
    finetune_images: int | None = None  # the first of those; None: all
    test_images: int | None = None  # None: all
    latencies: tuple[float, ...] = ()  # shares of the root's latency to prune to, measured here
    exits: bool = False  # also the whole network in segments, for early exits

    def subnetworks(self, root: nets.Root) -> Iterator[SubNetwork]:
        """The sub-networks that are built."""
        for width in self.widths:
            for depth in self.depths if width == 1 else self.narrow_depths:
                for precision in PRECISIONS:
                    yield _subnetwork(root, root.name, depth, width, precision)
        for share in self.latencies:
            for depth in self.narrow_depths:
                for precision in PRECISIONS:
                    yield _subnetwork(root, root.name + BY_LATENCY, depth, share, precision)


def _subnetwork(root: nets.Root, name: str, depth: int, width: float, precision: Precision) -> SubNetwork:
    return SubNetwork(
        family=root.family, root=name, depth=depth, width=width, precision=precision, resolution_px=root.resolution_px
    )


@dataclass(frozen=True)
class Overrides:
    """What a person says of the recipe; None leaves it to kit."""

    epochs: int | None = None
    finetune_epochs: int | None = None
    widths: tuple[float, ...] | None = None
    latencies: tuple[float, ...] | None = None
    depths: tuple[int, ...] | None = None
    freeze: bool | None = None
    exits: bool | None = None


def recipe_for(
    network: RootNetwork, data: Dataset, data_name: str, quick: bool, overrides: Overrides | None = None
) -> Recipe:
    """The full recipe, or a quick one: few images, the full depth and one cut, one pruning, six variants.

    Raises UsageError: a width or depth that the root does not have.
    """
    recipe = _of_digits(network, quick) if data_name == DIGITS else _of_images(network, data, quick)
    return _overridden(recipe, network.root, overrides or Overrides())


def _of_digits(network: RootNetwork, quick: bool) -> Recipe:
    # Convolutional roots see each scene once: further scenes teach more than further epochs.
    root = network.root
    if network.is_transformer:
        schedule = Schedule("adamw", peak_rate=1e-3, weight_decay=0.05, epochs=6)
        finetune = replace(schedule, peak_rate=5e-4)
    else:
        schedule = Schedule("adamw", peak_rate=2e-3, weight_decay=0.05, epochs=1)
        finetune = replace(schedule, peak_rate=1e-3)
    if not quick:
        return Recipe(schedule, finetune, WIDTHS, root.depths, root.depths, finetune_images=2000, exits=True)
    epochs, images, finetune_images = (2, 3200, 1600) if network.is_transformer else (1, 1024, 480)
    # Few images: small batches, so that there are steps enough, and no shifts, which take longer to learn from.
    return Recipe(
        replace(schedule, epochs=epochs, batch=16, shift_px=0),
        replace(finetune, epochs=1, batch=16, shift_px=0),
        (1.0, 0.5),
        _two(root.depths),
        (root.depths[-1],),
        training_images=images,
        finetune_images=finetune_images,
        test_images=_QUICK_TEST_IMAGES,
    )


def _of_images(network: RootNetwork, data: Dataset, quick: bool) -> Recipe:
    """For photographs: some epochs of mirrored and moved images; weights that are given stay, and the early exits learn from them."""
    root = network.root
    moved = {
        "shift_px": max(2, data.resolution_px // 8), "flips": data.flips, "distillation": 0.5, "bf16": train.computes_bf16(),
    }  # fmt: skip
    if network.is_transformer:
        schedule = Schedule("adamw", peak_rate=1e-3, weight_decay=0.05, epochs=30, batch=64, **moved)  # type: ignore[arg-type]
    else:
        schedule = Schedule("sgd", 0.1, weight_decay=5e-4, epochs=20, batch=64, channels_last=True, **moved)  # type: ignore[arg-type]
    finetune = replace(schedule, peak_rate=schedule.peak_rate / 4, epochs=schedule.epochs // 4)
    if network.trained:
        schedule = replace(schedule, epochs=schedule.epochs // 4, frozen=True)
    if not quick:
        return Recipe(schedule, finetune, WIDTHS, root.depths, root.depths, exits=True)
    return Recipe(
        replace(schedule, epochs=1, batch=16),
        replace(finetune, epochs=1, batch=16),
        (1.0, 0.5),
        _two(root.depths),
        (root.depths[-1],),
        training_images=_QUICK_IMAGES,
        test_images=_QUICK_TEST_IMAGES,
    )


def _two(depths: Sequence[int]) -> tuple[int, ...]:
    """The full depth and one cut."""
    return tuple(dict.fromkeys((depths[max(0, len(depths) - 3)], depths[-1])))


def _overridden(recipe: Recipe, root: nets.Root, overrides: Overrides) -> Recipe:
    changes: dict[str, object] = {}
    if overrides.widths is not None:
        wrong = next((width for width in overrides.widths if not 0 < width <= 1), None)
        if wrong is not None:
            raise UsageError(f"--widths {wrong:g} cannot be: give shares of the channels above 0, up to 1.")
        changes["widths"] = tuple(
            sorted({1.0, *overrides.widths}, reverse=True)
        )  # the narrow ones are cut from the whole
    if overrides.latencies is not None:
        wrong = next((share for share in overrides.latencies if not 0.01 <= share < 1), None)
        if wrong is not None:
            raise UsageError(f"--latency {wrong:g} cannot be: give shares of the root's latency from 0.01, below 1.")
        changes["latencies"] = tuple(sorted({round(share, 2) for share in overrides.latencies}, reverse=True))
    if overrides.depths is not None:
        strange = [depth for depth in overrides.depths if depth not in root.depths]
        if strange:
            raise UsageError(
                f"{root.name} has no exit after {root.block} {strange[0]}: its depths are {', '.join(map(str, root.depths))}."
            )
        changes["depths"] = changes["narrow_depths"] = tuple(sorted(set(overrides.depths)))
    schedule, finetune = recipe.schedule, recipe.finetune
    if overrides.epochs is not None:
        schedule = replace(schedule, epochs=overrides.epochs)
    if overrides.finetune_epochs is not None:
        finetune = replace(finetune, epochs=overrides.finetune_epochs)
    if overrides.exits is not None:
        changes["exits"] = overrides.exits
    if overrides.freeze is not None:
        schedule = replace(schedule, frozen=overrides.freeze)
    return replace(recipe, schedule=schedule, finetune=finetune, **changes)  # type: ignore[arg-type]
