"""Options that several verbs share: each named once, in its panel of ``--help``, and grouped where verbs take them together.

A group is a dataclass of options. :func:`grouped` lets a verb take one: typer reads the fields, the verb gets the object.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from kit import folders
from kit.cli import show

if TYPE_CHECKING:
    from kit.measure.targets import Inputs
    from kit.records import MeasureSettings

TARGET, POINT, PRECISION, OUTPUT = "Target", "Operating point", "Precision and budget", "Output"

# ---------------------------------------------------------------------------------------------------------- shell completion


def complete_backend(incomplete: str) -> list[str]:
    """Runtimes of ``--backend``, also behind a comma."""
    from kit.backends import LEAVES

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in LEAVES if name.startswith(last)]


def complete_root(incomplete: str) -> list[str]:
    """Roots that kit build trains."""
    from kit.nets import ROOTS

    return [name for name in ROOTS if name.startswith(incomplete)]


def complete_space(incomplete: str) -> list[str]:
    """Roots of spaces, and the families of allocators among them."""
    from kit.spaces import SPACES

    return [name for name in SPACES if name.startswith(incomplete)]


def complete_device(incomplete: str) -> list[str]:
    """Device ids: folders of profiles here."""
    places = (folders.profiles(), folders.shipped("profiles"))
    names = {path.name for place in places for path in place.glob("*/") if any(path.glob("*.jsonl"))}
    return sorted(name for name in names if name.startswith(incomplete))


def complete_target(incomplete: str) -> list[str]:
    """Families of allocators, roots of spaces, and files (which the shell would leave out otherwise)."""
    files = (path for path in Path().glob(f"{incomplete}*") if path.suffix == ".onnx" or path.is_dir())
    return [*complete_space(incomplete), *(f"{path}/" if path.is_dir() else str(path) for path in files)]


# ------------------------------------------------------------------------------------------------------------------ options

Targets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TARGET...]", autocompletion=complete_target,
        help="An .onnx file, a build folder, a variant id (with --build), an id of a space, allocator (the sizes of papers A and B; also "
        "allocator_a, allocator_b, allocator_u), an .alloc.npz, or fake:250us.",
    ),
]  # fmt: skip
Backends = Annotated[
    str,
    typer.Option(
        help="Runtime, or several with commas; kit backends lists them.", autocompletion=complete_backend,
        rich_help_panel=TARGET,
    ),
]  # fmt: skip
Backend = Annotated[
    str,
    typer.Option(
        help="Runtime; kit backends lists them.", autocompletion=complete_backend, rich_help_panel=TARGET
    ),
]  # fmt: skip
Build = Annotated[
    Path | None,
    typer.Option(
        help="Build folder in which variant ids are looked up (default: build or run/build).", rich_help_panel=TARGET
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Only the profiles of this device.", envvar="KIT_DEVICE", autocompletion=complete_device,
        rich_help_panel=TARGET,
    ),
]  # fmt: skip
Dim = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SIZE", rich_help_panel=TARGET,
        help="Size of a free dimension, by its name or as INPUT:AXIS; again for more: --dim seq=128 --dim image:2=224.",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class InputOptions:
    """Shapes and values of the inputs of .onnx files."""

    dim: Dim = None
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=HOW", rich_help_panel=TARGET,
            help="Values of an input: NAME=FILE.npy, NAME=5, NAME=random:0..99 or NAME=zeros; again for more.",
        ),
    ] = None  # fmt: skip
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER|NPZ", rich_help_panel=TARGET,
            help="Samples that take turns: a .npz with an array for each input, a .npy, or a folder of them.",
        ),
    ] = None  # fmt: skip

    def of(self, dims: tuple[tuple[str, int], ...]) -> Inputs:
        """With these sizes of free dimensions. Raises UsageError."""
        from kit.backends.feeds import rule_of
        from kit.errors import UsageError
        from kit.measure.targets import Inputs

        rules = tuple(rule_of(text) for text in self.input or [])
        if len({rule.name for rule in rules}) < len(rules):
            raise UsageError("--input names one input twice: give each input once.")
        return Inputs(dims, rules, None if self.inputs is None else self.inputs.absolute())


Threads = Annotated[int, typer.Option(min=1, help="Threads of the runtime.", rich_help_panel=POINT)]
Profiles = Annotated[
    Path,
    typer.Option(
        help="Folder of profiles; records go to PROFILES/<device_id>/.", envvar="KIT_PROFILES", rich_help_panel=OUTPUT
    ),
]
PROFILES = folders.DEFAULT
Name = Annotated[
    str | None,
    typer.Option(help="Name of the file (default: target, backend and threads).", rich_help_panel=OUTPUT),
]
Timeout = Annotated[
    float,
    typer.Option(min=1, max=1e6, help="Seconds that one process may take.", rich_help_panel=PRECISION),
]


@dataclass(frozen=True)
class Runtime:
    """The one runtime of a verb that takes no several."""

    backend: Backend = "onnxruntime"


@dataclass(frozen=True)
class PointOptions:
    """The state of the machine while it is measured."""

    threads: Threads = 1
    affinity: Annotated[
        str | None, typer.Option(help="Logical CPUs to run on, like 0 or 0,1.", rich_help_panel=POINT)
    ] = None
    gap_ms: Annotated[
        float, typer.Option(min=0, max=1e6, help="Idle time before each call.", rich_help_panel=POINT)
    ] = 0.0
    load: Annotated[
        int, typer.Option(min=0, max=1024, help="Background processes that burn a core each.", rich_help_panel=POINT)
    ] = 0

    def cpus(self) -> tuple[int, ...] | None:
        """Raises UsageError for an affinity that is no list of CPUs of this machine, or more threads than it can serve."""
        from kit.devices.operating_point import require_cpus
        from kit.errors import UsageError
        from kit.measure.jobs import cpus

        try:
            numbers = cpus(self.affinity) if self.affinity else None
        except ValueError:
            raise UsageError(f"--affinity {self.affinity} cannot be read: give logical CPUs like 0 or 0,1.") from None
        require_cpus(self.threads, numbers)
        return numbers


@dataclass(frozen=True)
class Precision:
    """How exactly a median must be known, and what may be spent on it."""

    rounds_min: Annotated[
        int | None,
        typer.Option(
            min=1, help="Fresh processes per target at least (default: 6, or --rounds-max).", rich_help_panel=PRECISION
        ),
    ] = None
    rounds_max: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Fresh processes per target at most (default: 10, or 30 with --budget).",
            rich_help_panel=PRECISION,
        ),
    ] = None
    run_s: Annotated[
        float,
        typer.Option(min=0.001, max=3600, help="Seconds of collecting in each process.", rich_help_panel=PRECISION),
    ] = 0.5
    precision: Annotated[
        float,
        typer.Option(
            min=0.0001, max=1, help="Stop when the median is known within this share.", rich_help_panel=PRECISION
        ),
    ] = 0.02
    timeout_s: Timeout = 120.0

    def settings(self, point: PointOptions, budget_s: float | None, seed: int) -> MeasureSettings:
        """Options as settings in SI units. Raises UsageError for limits that contradict each other."""
        from kit.measure import jobs

        return jobs.settings(
            threads=point.threads, affinity=point.cpus(), gap_s=point.gap_ms * 1e-3, load=point.load, rounds_min=self.rounds_min,
            rounds_max=self.rounds_max, run_s=self.run_s, precision_target=self.precision, budget_s=budget_s,
            timeout_s=self.timeout_s, seed=seed,
            spelled=lambda name: f"--{name.replace('_', '-')}",
        )  # fmt: skip


@dataclass(frozen=True)
class RecordFile:
    """Where records go, and what becomes of an interrupted run and of files that were written for it."""

    profiles: Profiles = PROFILES
    name: Name = None
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep the files that are written for ids here.", rich_help_panel=OUTPUT),
    ] = None
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Forget an interrupted run of the same command instead of going on.", rich_help_panel=OUTPUT
        ),
    ] = False
    seed: show.Seed = 0


# ------------------------------------------------------------------------------------------------------------------- groups


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """``verb`` with each parameter that is a dataclass of options replaced by the options, in their places."""
    # Not get_type_hints, which on Python 3.10 hides an option whose default is None.
    hints = inspect.get_annotations(verb, eval_str=True)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint)}

    def flat(**options: Any) -> None:
        filled = {
            name: group(**{f.name: options.pop(f.name) for f in fields(group)})  # type: ignore[operator]
            for name, group in groups.items()
        }
        verb(**options, **filled)

    parameters = list(_flattened(verb, hints, groups))
    flat.__name__, flat.__doc__, flat.__module__ = verb.__name__, verb.__doc__, verb.__module__
    flat.__annotations__ = {p.name: p.annotation for p in parameters}
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return flat


def _flattened(verb: Callable[..., None], hints: dict[str, Any], groups: dict[str, Any]) -> Iterator[inspect.Parameter]:
    for parameter in inspect.signature(verb).parameters.values():
        if parameter.name not in groups:
            yield _keyword(parameter.name, parameter.default, hints[parameter.name])
            continue
        group = groups[parameter.name]
        of_group = get_type_hints(group, include_extras=True)
        for f in fields(group):
            yield _keyword(f.name, inspect.Parameter.empty if f.default is MISSING else f.default, of_group[f.name])


def _keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
