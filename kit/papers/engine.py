"""The engine of the papers' experiments. What all of them do alike stands here once: the seeds, training a network or loading it, keeping
points on disk under a name that holds all that decides them, progress, the marks of a quick run, and the assembling of a simulation.

A paper adds its world, its methods and its figures, and offers ``simulate``, which hands them to :func:`run`.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import JsonValue

import kit
from kit import store
from kit.devices import recognise
from kit.errors import UsageError
from kit.papers import learning
from kit.papers.learning import StepProgress
from kit.papers.results import Figure, Simulation
from kit.records import AllocationQuality, Record

PointT = TypeVar("PointT", bound=Record)
N = TypeVar("N")
T = TypeVar("T")

SEEDS, SEEDS_QUICK = 3, 1
SIMULATION, QUALITY = "simulation.json", "quality.json"  # the second is for kit knowledge table --quality

#: What is being done, and which share of the whole is done.
ProgressReport: TypeAlias = Callable[[str, float], None]


# --------------------------------------------------------------------------------------------------------------- what is run


@dataclass(frozen=True)
class RunSettings:
    """What every paper's experiment needs; each adds how much is trained and evaluated."""

    seeds: tuple[int, ...] = tuple(range(SEEDS))
    quick: bool = field(default=False, kw_only=True)
    device: str = field(default="cpu", kw_only=True)  # where torch trains


@dataclass(frozen=True)
class Results:
    """What an experiment found. ``trained``: name of a network -> its recipe, seconds, final loss; ``parameters``: what was run beside the
    world's own numbers; ``quality``: of an allocator's sub-networks, for the knowledge base."""

    figures: tuple[Figure, ...]
    trained: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)
    quality: AllocationQuality | None = None


def seeds_of(seeds: Sequence[int] | None, count: int | None, quick: bool) -> tuple[int, ...]:
    """These seeds, or so many from 0 (three; one in a quick run). Raises UsageError for both.

    >>> seeds_of([4, 2, 4], None, False), seeds_of(None, None, True)
    ((4, 2), (0,))
    """
    if seeds and count:
        raise UsageError("--seed names seeds and --seeds counts them: give one of the two.")
    return tuple(dict.fromkeys(seeds)) if seeds else tuple(range(count or (SEEDS_QUICK if quick else SEEDS)))


def run(
    name: Literal["bandwidth", "offloading", "placement", "downloading"],
    world: Record,
    settings: RunSettings,
    experiment: Callable[[Path, Progress], Results],
    out: Path,
    *,
    delay: str,
    packages: Collection[str],
    report: ProgressReport | None = None,
) -> Simulation:
    """The simulation that ``experiment`` computes on one thread, its networks in ``out/networks``; written to ``out`` as
    ``simulation.json``, and its quality as ``quality.json``. ``packages``: whose versions the result depends on.

    Raises UsageError (a device that torch does not have), StorageError, and as ``experiment`` does.
    """
    start_s = time.monotonic()
    learning.check_device(settings.device)
    store.make_folder(out)
    with learning.one_thread():
        results = experiment(out / "networks", Progress(report))
    if results.quality is not None:
        store.write_record(out / QUALITY, results.quality)
    simulation = Simulation(
        world=name,
        parameters={**world.model_dump(mode="json"), "quick": settings.quick, **results.parameters},
        delay=delay,
        seeds=settings.seeds,
        versions={"kit": kit.__version__, "python": platform.python_version(), **{p: version(p) for p in packages}},
        wall_s=time.monotonic() - start_s,
        device_id=recognise().device_id,
        ended_utc=store.utc_now(),
        trained={name: dict(facts) for name, facts in results.trained.items()},
        figures=results.figures,
    )
    store.write_record(out / SIMULATION, simulation)
    return simulation


# ------------------------------------------------------------------------------------------------------------------ progress


class Progress:
    """Reports a text and the share of the whole that is done; a part of it reports shares of that part.

    >>> half = Progress(lambda text, share: print(f"{text} {share:.2f}")).part(0.5, 0.5)
    >>> half("evaluating", 0.5)
    evaluating 0.75
    >>> half.steps("seed 0, mixture")(1, 10, 1.25)
    seed 0, mixture: 1.2500 0.55
    """

    def __init__(
        self, report: ProgressReport | None = None, first: float = 0.0, width: float = 1.0, name: str = ""
    ) -> None:
        self._report, self._first, self._width, self._name = report, first, width, name

    def __call__(self, text: str, share: float) -> None:
        if self._report is not None:
            self._report(f"{self._name}{text}", min(self._first + self._width * share, 1.0))

    def part(self, first: float, width: float) -> Progress:
        """From the share ``first`` on, ``width`` of it."""
        return Progress(self._report, self._first + self._width * first, self._width * width, self._name)

    def named(self, name: str) -> Progress:
        """The same part; every text follows ``name``."""
        return Progress(self._report, self._first, self._width, f"{self._name}{name}")

    def steps(self, text: str, digits: int = 4) -> StepProgress:
        """For a training: its steps are the shares, and its mean loss or reward follows the text."""
        return lambda done, steps, value: self(f"{text}: {value:.{digits}f}", done / steps)


def for_each_seed(seeds: Sequence[int], progress: Progress, compute: Callable[[int, Progress], T]) -> list[T]:
    """What ``compute`` returns for every seed, each with an equal part of the progress, whose texts name it."""
    width = 1 / len(seeds)
    return [compute(seed, progress.part(i * width, width).named(f"seed {seed}, ")) for i, seed in enumerate(seeds)]


# ---------------------------------------------------------------------------------------------------------- files of a result


def digest(format_version: int, key: Mapping[str, Any]) -> str:
    """The sha256 of what decides a result: the world, recipes, counts and methods as plain JSON, and the paper's format version.

    Raise ``format_version`` when a changed formula gives other results for the same key: what was kept before is then computed again.
    """
    return store.sha256_bytes(store.canonical_json({"format": format_version, **key}))


def load_or_compute(
    folder: Path | None,
    format_version: int,
    key: Mapping[str, Any],
    record_class: type[PointT],
    compute: Callable[[], PointT],
) -> PointT:
    """The point that ``folder`` keeps for this format and key, or what ``compute`` returns, which is then kept. No folder, nothing kept.

    Raises BadRecord (a broken file), StorageError, and as ``compute`` does.
    """
    path = None if folder is None else folder / f"point-{digest(format_version, key)[:16]}.json"
    if path is not None and path.is_file():
        return store.read_record(path, record_class)
    point = compute()
    if path is not None:
        store.write_record(path, point)
    return point


def load_or_train(
    folder: Path | None,
    name: str,
    suffixes: Sequence[str],
    *,
    load: Callable[..., T],
    train: Callable[[Path], N],
    save: Callable[..., object],
) -> T:
    """The network that ``folder`` keeps under ``name``, whose end is a digest of all that decides it, or a new one, which is then kept.

    It has a file for each suffix: ``load(*paths)`` reads it, ``save(network, *paths)`` writes it, and ``train(checkpoint)`` goes on from
    the checkpoint of a run that was stopped. A new network is read back: it is what a later run will load. No folder, nothing kept.

    Raises BadModel and BadRecord (broken files), UsageError (another run's checkpoint), StorageError, and as ``train`` does.
    """
    if folder is None:
        with TemporaryDirectory() as temporary:
            return load_or_train(Path(temporary), name, suffixes, load=load, train=train, save=save)
    paths = [folder / f"{name}{suffix}" for suffix in suffixes]
    if not all(path.is_file() for path in paths):
        store.make_folder(folder)
        save(train(folder / f"{name}.checkpoint.npz"), *paths)
    return load(*paths)


# ------------------------------------------------------------------------------------------------------------------- figures


def marked_quick(figures: Iterable[Figure], note: str) -> list[Figure]:
    """The figures of a quick run: every title says so, and the first figure's first note is ``note``."""
    marked = [figure.model_copy(update={"title": f"{figure.title} (quick)"}) for figure in figures]
    return with_notes(marked, (note,))


def with_notes(figures: Sequence[Figure], notes: Sequence[str]) -> list[Figure]:
    """The figures with ``notes`` before those of the first one. Without figures, nothing."""
    return [f.model_copy(update={"notes": (*notes, *f.notes)}) if i == 0 else f for i, f in enumerate(figures)]
