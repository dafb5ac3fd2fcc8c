"""kit build: one root network to a folder of trained, cut, pruned and quantized variants, each file with its sidecar.

The folder is flat: ``<id>.onnx``, ``<id>.json``, ``<id>.sample.npz``, for fp32 ``<id>.pt2``, and at the end ``build.json``.
Trained weights are stored in ``.work``. A killed build resumes where it was: finished files are recognised by their hashes and by the
recipe (data, schedules, seed, library versions) that they were built with, and anything else is built again. The folder ``exits`` holds
the whole network once more, in segments.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

import kit
from kit import nets, store, units, usercode
from kit.errors import UsageError
from kit.nets.exits import MultiExit
from kit.records import Artifact, ExitNetwork, FileRef, NumericCheck, Origin, SubNetwork
from kit.spaces.onnxfile import OPSET
from kit.variants import (
    datasets,
    describe,
    evaluate,
    graph,
    latency_pruning,
    network_files,
    prune,
    quantize,
    recipes,
    roots,
    segments,
    sources,
    train,
)
from kit.variants.datasets import Dataset, Split
from kit.variants.recipes import Recipe
from kit.variants.roots import RootNetwork
from kit.variants.train import Schedule

_FORMAT = 5  # raise it when the same settings would give other files


@dataclass(frozen=True)
class Request:
    """What is to be built: the root, the images, weights for it, and what a person says of the recipe."""

    root: str = "resnet18"
    images: datasets.Request = field(default_factory=datasets.Request)
    checkpoint: Path | None = None
    seed: int = 0
    quick: bool = False
    overrides: recipes.Overrides = field(default_factory=recipes.Overrides)

    @property
    def settings(self) -> dict[str, object]:
        """What makes it another build, as plain data."""
        settings: dict[str, object] = {"root": self.root, "seed": self.seed, "quick": self.quick}
        own = {
            "data": self.images.data if self.images.data != datasets.DIGITS else None,
            "resolution_px": self.images.resolution_px,
            "checkpoint": store.sha256_file(self.checkpoint) if self.checkpoint else None,
            **asdict(replace(self.overrides, exits=None)),  # a build may be given its segments later
        }
        return settings | {key: value for key, value in own.items() if value is not None}


def build(request: Request, out: Path, *, progress: train.Progress | None = None) -> list[Artifact]:
    """Build every variant of a root in the folder ``out`` and return their sidecars, in the order of ``build.json``.

    ``progress`` is called with a text of the current step and the share done in [0, 1].

    Raises UnknownName, UsageError (``out`` holds another build; data, weights or settings that do not fit), BadModel (a network that cannot
    be cut or pruned), StorageError.
    """
    settings = _plain(request.settings)
    _check_settings(out, settings)
    step = progress or (lambda text, share: None)
    with train.deterministic(request.seed):
        data = datasets.load(_images(request, out), step)
        network = roots.root_network(request.root, data, request.checkpoint, seed=request.seed)
        recipe = recipes.recipe_for(network, data, request.images.data, request.quick, request.overrides)
        store.make_folder(out)
        store.write_atomic(out / ".work" / "settings.json", store.pretty_json(settings).encode())
        builder = _Builder(network, data, recipe, out, request.seed, step)
        artifacts = [builder.artifact(sub) for sub in builder.subnetworks]
        networks = builder.exit_networks(artifacts) if recipe.exits else []
    listing = {
        "kind": "build",
        "schema_version": 1,
        **settings,
        "made_by": f"kit {kit.__version__}",
        "versions": network_files.versions(),
        "artifacts": [a.artifact_id for a in artifacts],
        "exits": segments.names(networks),
    }
    store.write_atomic(out / "build.json", store.pretty_json(listing).encode())
    builder.progress("done", 1.0)
    return artifacts


def _images(request: Request, out: Path) -> datasets.Request:
    """The images in the form that the root takes: torchvision's and timm's networks see colour."""
    images = request.images
    small = roots.is_small(request.root, images.resolution_px or datasets.SMALL_PX)
    own = usercode.names_an_object(request.root)
    if images.data == datasets.DIGITS and not small and not own:
        if not sources.is_known(request.root):
            nets.root_of(request.root)
        raise UsageError(
            f"{request.root} is for photographs, not for the embedded digits: give --data (a folder, a zip, cifar10)."
        )
    colour = 3 if not small and not own else None
    px = images.resolution_px or (None if small or images.data == datasets.DIGITS else datasets.USUAL_PX)
    return replace(
        images, resolution_px=px, channels=images.channels or colour, cache=images.cache or out / ".work" / "images"
    )


def _plain(settings: dict[str, object]) -> dict[str, object]:
    """As JSON gives it back."""
    plain: dict[str, object] = json.loads(store.canonical_json(settings))
    return plain


def _check_settings(out: Path, settings: dict[str, object]) -> None:
    """One folder, one build: of two, a listing would name only the files of one."""
    path = out / ".work" / "settings.json"
    existing = store.read_json(path) if path.exists() else None
    if existing is not None and existing != settings:
        raise UsageError(
            f"{out} already holds the build {existing} and not {settings}: choose another folder, or delete that one first."
        )


@dataclass
class _Builder:
    """One build: the recipe, and each network trained when the first of its variants needs it."""

    network_of: RootNetwork
    data: Dataset
    recipe: Recipe
    out: Path
    seed: int
    progress: train.Progress

    def __post_init__(self) -> None:
        self.root = self.network_of.root
        self.subnetworks = list(self.recipe.subnetworks(self.root))
        self._networks: dict[tuple[str, float], MultiExit] = {}
        self._completed = 0.0

    @cached_property
    def training_set(self) -> Split:
        return self.data.train.first(self.recipe.training_images or len(self.data.train))

    @cached_property
    def finetuning_set(self) -> Split:
        return self.training_set.first(self.recipe.finetune_images or len(self.training_set))

    @cached_property
    def test_set(self) -> Split:
        return self.data.test.first(self.recipe.test_images or len(self.data.test))

    @cached_property
    def key(self) -> str:
        """Twelve hex digits that change with anything that would change the files."""
        settings = {
            "format": _FORMAT,
            "root": asdict(self.root),
            "recipe": {k: v for k, v in asdict(self.recipe).items() if k != "exits"},
            "data": [self.data.name, len(self.data.train), self.data.preprocessing.model_dump(mode="json")],
            "weights": [*self.network_of.steps, self.network_of.fingerprint],
            "seed": self.seed,
            "opset": OPSET,
            "versions": network_files.versions(),
        }
        return store.sha256_bytes(store.canonical_json(settings))[:12]

    # ---------------------------------------------------------------------------------------------------- networks

    def network(self, sub: SubNetwork) -> MultiExit:
        """The trained network of the width of ``sub`` with all its exits; from ``.work`` when it is stored there."""
        place = (sub.root, sub.width)
        if place not in self._networks:
            self._networks[place] = self._trained(sub).eval()
        return self._networks[place]

    @property
    def whole(self) -> MultiExit:
        """The root itself."""
        return self.network(next(iter(self.subnetworks)).model_copy(update={"root": self.root.name, "width": 1.0}))

    def _trained(self, sub: SubNetwork) -> MultiExit:
        is_root = sub.width == 1
        weights = self.out / ".work" / f"{self.key}-{_width_text(sub)}.npz"
        net = self.network_of.make() if is_root else self._thin(sub)
        if _load_weights(net, weights):
            self._completed += _share(sub.width)
            return net
        schedule = self.recipe.schedule if is_root else self.recipe.finetune
        text = f"train {self.root.name}" if is_root else f"fine-tune {self.root.name} at {_width_text(sub)}"
        images = self.training_set if is_root else self.finetuning_set
        step = self._progress_of(text, _share(sub.width), schedule.epochs)
        train.fit(net, images, schedule, seed=self.seed, progress=step, resume=weights.with_suffix(".part"))
        _save_weights(net, weights)
        return net

    def _thin(self, sub: SubNetwork) -> MultiExit:
        """The root with fewer channels, not yet fine-tuned."""
        image = self.data.train.take(slice(1))
        if not sub.root.endswith(recipes.BY_LATENCY):
            return prune.prune(self.whole, sub.width, image)
        channels = self.out / ".work" / f"{self.key}-{_width_text(sub)}.json"
        if channels.exists():
            return latency_pruning.thin(self.whole, dict(store.read_json(channels)["kept"]), image)
        step = self._progress_of(f"measure widths for {sub.width:.0%} of the latency", 0.0)
        narrowed = latency_pruning.prune_to_latency(self.whole, sub.width, self.training_set, progress=step)
        store.write_atomic(channels, store.pretty_json({"kept": dict(narrowed.kept), "step": narrowed.step}).encode())
        return narrowed.net

    def _progress_of(self, text: str, weight: float, epochs: int = 1) -> Callable[[float], None]:
        start, self._completed = self._completed, self._completed + weight

        def step(share: float) -> None:
            epoch = f", epoch {min(epochs, int(share * epochs) + 1)} of {epochs}" if epochs > 1 else ""
            self.progress(text + epoch, min(1.0, (start + weight * share) / self._total))

        return step

    @cached_property
    def _total(self) -> float:
        whole = len(recipes.PRECISIONS) * _SEGMENTS_SHARE if self.recipe.exits else 0.0
        shares = sum(map(_share, (*self.recipe.widths, *self.recipe.latencies)))
        return shares + len(self.subnetworks) * _VARIANT_SHARE + whole

    # --------------------------------------------------------------------------------------------------- artifacts

    def artifact(self, sub: SubNetwork) -> Artifact:
        """The finished variant; built now unless its files exist with the recorded hashes."""
        artifact = self._existing_artifact(sub)
        if artifact is None:
            artifact = self._make_float(sub) if sub.precision == "fp32" else self._make_int8(sub)
            store.write_record(self.out / f"{sub.id}.json", artifact)  # last: it lists the others
        self._progress_of(sub.id, _VARIANT_SHARE)(1.0)
        return artifact

    def exit_networks(self, artifacts: Sequence[Artifact]) -> list[ExitNetwork]:
        """The root's whole variants once more, in segments; a root of one depth has none."""
        if len(self.root.depths) < 2:
            return []
        networks = []
        for artifact in artifacts:
            sub = artifact.subnetwork
            if sub is None or (sub.width, sub.depth) != (1, self.root.depths[-1]):
                continue
            whole = segments.Whole(artifact, self.out / artifact.model.file, self.whole)
            step = self._progress_of(f"{sub.id} in segments", _SEGMENTS_SHARE)
            networks.append(segments.write(whole, self.data, self.test_set, self.out / segments.FOLDER, step))
        return networks

    def _existing_artifact(self, sub: SubNetwork) -> Artifact | None:
        with suppress(UsageError):
            artifact = store.read_record(self.out / f"{sub.id}.json", Artifact)
            files = [f for f in (artifact.model, artifact.torch_program, artifact.sample) if f is not None]
            same_recipe = artifact.origin is not None and artifact.origin.versions.get("recipe") == self.key
            if same_recipe and all(store.file_matches(self.out / f.file, f) for f in files):
                return artifact
        return None

    def _make_float(self, sub: SubNetwork) -> Artifact:
        net = self.network(sub).cut(sub.depth).eval()
        files = network_files.to_files(net, self.data.test.take(slice(1)))
        model = network_files.save_file(self.out, f"{sub.id}.onnx", files.onnx)
        program = network_files.save_file(self.out, f"{sub.id}.pt2", files.program)
        logits = evaluate.logits(self.out / model.file, self.test_set)
        check = self._check(sub, logits)
        network_files.assert_same(check.max_abs_error, logits, sub.id)
        return self._record(sub, model, logits, check, program=program)

    def _make_int8(self, sub: SubNetwork) -> Artifact:
        source = self._source(sub)
        quantized = quantize.best(
            source,
            self.data.calibration,
            self.data.validation,
            try_dynamic=self.network_of.is_transformer,
        )
        model = network_files.save_file(self.out, f"{sub.id}.onnx", quantized.model)
        logits = evaluate.logits(self.out / model.file, self.test_set)
        check = self._check(sub, logits)
        parameters = graph.facts(graph.load(source), sub.id).parameters  # the int8 graph holds scales, too
        return self._record(sub, model, logits, check, quantized=quantized).model_copy(
            update={"parameters": parameters}
        )

    def _source(self, sub: SubNetwork) -> Path:
        """The fp32 file of the same cut; it comes before its int8 form in the recipe's order."""
        return self.out / f"{sub.model_copy(update={'precision': 'fp32'}).id}.onnx"

    def _check(self, sub: SubNetwork, logits: evaluate.Logits) -> NumericCheck:
        """The file's ``logits`` of the test images against the torch network's, on the first of them."""
        net = self.network(sub).cut(sub.depth).eval()  # it may have to be pruned first, which needs gradients
        with torch.inference_mode():
            expected: evaluate.Logits = net(self.test_set.take(slice(_CHECKED_IMAGES))).numpy()
        return evaluate.compare(logits[:_CHECKED_IMAGES], expected)

    def _record(
        self,
        sub: SubNetwork,
        model: FileRef,
        logits: evaluate.Logits,
        check: NumericCheck,
        *,
        program: FileRef | None = None,
        quantized: quantize.Quantized | None = None,
    ) -> Artifact:
        contents = graph.contents(graph.load(self.out / model.file), sub.id)
        return Artifact(
            artifact_id=sub.id,
            model=model,
            torch_program=program,
            subnetwork=sub,
            precision=sub.precision,
            quantization=quantized.how if quantized else None,
            **describe.stated(contents),
            preprocessing=self.data.preprocessing,
            accuracy=evaluate.accuracy(logits, self.test_set, self.data.name),
            check=check,
            sample=network_files.save_sample(
                self.out, sub.id, {"input": self.data.test.take(slice(_SAMPLE_IMAGES)).numpy()}, logits[:_SAMPLE_IMAGES]
            ),
            licence=network_files.LICENCE,
            origin=Origin(
                root=self.root.name,
                dataset=self.data.name,
                seed=self.seed,
                producer=f"kit {kit.__version__}",
                versions={**network_files.versions(), "recipe": self.key},
                steps=(*self._steps(sub), *(quantized.steps if quantized else ())),
            ),
        )

    def _steps(self, sub: SubNetwork) -> Iterator[str]:
        exits = ", ".join(map(str, self.root.depths))
        amount = _amount(self.recipe.schedule, self.training_set)
        yield from self.network_of.steps
        if self.recipe.schedule.frozen:
            yield f"exits after {exits} {self.root.block}s trained {amount}, the rest as it was"
        else:
            yield f"trained {amount}, exits after {exits} {self.root.block}s together"
        if sub.width < 1:
            how = f"pruned to {sub.width:.2f} of the channels (multiples of {prune.ALIGN})"
            if sub.root.endswith(recipes.BY_LATENCY):
                how = str(store.read_json(self.out / ".work" / f"{self.key}-{_width_text(sub)}.json")["step"])
            yield f"{how}, fine-tuned {_amount(self.recipe.finetune, self.finetuning_set)}"
        yield f"cut after {self.root.block} {sub.depth} of {self.root.depths[-1]}"
        yield f"exported to ONNX opset {OPSET}, batch norm folded"


_VARIANT_SHARE = 0.05
_SEGMENTS_SHARE = 0.1
_SAMPLE_IMAGES = 4
_CHECKED_IMAGES = 200  # a file that differs from its network differs on these, too


def _share(width: float) -> float:
    """Cost of training at a width relative to the root's, roughly: the multiply-accumulates go with its square."""
    return width * width


def _width_text(sub: SubNetwork) -> str:
    """``w0.50``, or ``l0.50`` of a network that is pruned by latency."""
    return f"{'l' if sub.root.endswith(recipes.BY_LATENCY) else 'w'}{sub.width:.2f}"


def _amount(schedule: Schedule, images: Split) -> str:
    precision = " in bf16" if schedule.bf16 else ""
    return f"{units.counted(schedule.epochs, 'epoch')}{precision} on {len(images)} images"


def _save_weights(net: nn.Module, path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{key: tensor.numpy() for key, tensor in net.state_dict().items()})
    store.write_atomic(path, buffer.getvalue())


def _load_weights(net: nn.Module, path: Path) -> bool:
    """Fill ``net`` from ``path``; False when the file is missing or is not of this network (it is then trained again)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            net.load_state_dict({key: torch.from_numpy(arrays[key]) for key in arrays.files})
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile):
        return False
    return True
