"""Verbs of the measuring room: ``device``, ``device save``, ``profile``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import show

if TYPE_CHECKING:
    from rich.table import Table

    from kit.allocators.fileformat import Network
    from kit.latency.explore import Exploration, Plan, Step
    from kit.measure.profiler import Job
    from kit.records import DeviceSpec, FileRef, MeasureSettings, ProfileRecord

device_app = typer.Typer(
    invoke_without_command=True, help="Recognise this machine; [bold]save[/] it as a device configuration."
)

Targets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TARGET...]",
        help="An .onnx file, a build folder, a variant id (with --build), an id of a space, allocator (the sizes of papers A and B; also "
        "allocator_a, allocator_b, allocator_u), an .alloc.npz, or fake:250us.",
    ),
]
Backends = Annotated[str, typer.Option(help="Runtime, or several with commas; kit backends lists them.")]
Build = Annotated[
    Path | None, typer.Option(help="Build folder in which variant ids are looked up (default: build or run/build).")
]
Profiles = Annotated[Path, typer.Option(help="Folder of profiles; records go to PROFILES/<device_id>/NAME.jsonl.")]


def add_to(app: typer.Typer) -> None:
    app.add_typer(device_app, name="device", rich_help_panel="Measure")
    app.command(rich_help_panel="Measure")(profile)


@device_app.callback()
def device(context: typer.Context, json: show.Json = False) -> None:
    """Recognise this machine: processor, features, caches, memory, clocks, GPUs, runtimes, telemetry."""
    if context.invoked_subcommand is not None:
        return
    from kit.devices import recognise

    spec = recognise()
    if json:
        show.emit(spec.model_dump(mode="json"))
    else:
        show.print_table(show.device_table(spec))


@device_app.command()
def save(
    name: Annotated[str, typer.Argument(help="Name of the configuration.")],
    to: Annotated[Path, typer.Option(help="Folder of device configurations.")] = Path("device_configs"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing configuration.")] = False,
    json: show.Json = False,
) -> None:
    """Write device_configs/NAME.toml for this machine."""
    from kit.devices import recognise
    from kit.devices.configs import save_config

    path = save_config(name, recognise(), to, force=force)
    if json:
        show.emit({"config": name, "file": str(path)})
    else:
        print(path)


def profile(
    targets: Targets = None,
    backend: Backends = "onnxruntime",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    affinity: Annotated[str | None, typer.Option(help="Logical CPUs to run on, like 0 or 0,1.")] = None,
    gap_ms: Annotated[float, typer.Option(min=0, max=1e6, help="Idle time before each call.")] = 0.0,
    load: Annotated[int, typer.Option(min=0, max=1024, help="Background processes that burn a core each.")] = 0,
    batch: Annotated[int | None, typer.Option(min=1, help="Batch of files with a free batch dimension.")] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V,V",
            help="Operating points; again for more keys: threads=1,2 gap-ms=0,10 load=0,1 affinity=0,1 (or 0+1) batch=1,8 "
            "clock-ghz=1.5,2 power-mode=15W,MAXN.",
        ),
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Allow changing clock and power mode; they are restored on every exit.")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Times per layer by the runtime's own profiler.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Every size of the allocators that are named.")] = False,
    build: Build = None,
    rounds_min: Annotated[
        int | None, typer.Option(min=1, help="Fresh processes per target at least (default: 6, or --rounds-max).")
    ] = None,
    rounds_max: Annotated[
        int | None, typer.Option(min=1, help="Fresh processes per target at most (default: 10, or 30 with --budget-s).")
    ] = None,
    visit_s: Annotated[float, typer.Option(min=0.001, max=3600, help="Seconds of collecting in each process.")] = 0.5,
    precision: Annotated[
        float, typer.Option(min=0.0001, max=1, help="Stop when the median is known within this share.")
    ] = 0.02,
    budget_s: Annotated[
        float | None,
        typer.Option(min=0.1, max=1e7, help="Wall time for the whole run; the first round is always finished."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="10m", help="The same as --budget-s, as 90s, 10m or 1h.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=1, max=1e6, help="Seconds that one process may take.")] = 120.0,
    space: Annotated[
        str | None,
        typer.Option(
            metavar="ROOT", help="Measure sub-networks of this space, like resnet18, chosen by the model so far."
        ),
    ] = None,
    sample: Annotated[int | None, typer.Option(metavar="N", help="With --space: N random ones instead.")] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="within10=0.99", help="With --space: until that share of it is predicted within so many per cent."
        ),
    ] = None,
    at_most: Annotated[
        int | None, typer.Option(metavar="N", help="With --space: at most N networks (default: 40, without --budget).")
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="With --space: choose what decides which sub-networks keep this deadline.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep the files that are written for ids and spaces here.")
    ] = None,
    profiles: Profiles = Path("profiles"),
    name: Annotated[str | None, typer.Option(help="Name of the file (default: target, backend and threads).")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget an interrupted run of the same command instead of going on.")
    ] = False,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """Measure the latency of networks on this machine.

    Every target is visited in fresh processes, in random order, over rounds, until the interval of its median is narrow
    enough or the rounds or the budget end. Several backends and operating points are compared in one interleaved run. Raw
    times are appended to PROFILES/<device_id>/. A killed run goes on when the same command is given again.

    With [bold]--space[/] the next sub-networks are chosen by what reduces the latency model's error, until it predicts 99 % of the
    space within 10 % (--until), or until the time or the number is spent.
    """
    from kit import store
    from kit.devices import recognise
    from kit.errors import MeasurementError, UsageError
    from kit.measure import profiler, quality
    from kit.records import MeasureSettings

    targets = targets or []
    budget_s = _budget_s(budget_s, budget)
    rounds_max = rounds_max or max(10 if budget_s is None else 30, rounds_min or 0)
    rounds_min = rounds_min or min(6, rounds_max)
    if rounds_max < rounds_min:
        raise UsageError(
            f"--rounds-max {rounds_max} is below --rounds-min {rounds_min}: raise the one or lower the other."
        )
    settings = MeasureSettings(
        threads=threads, affinity=_affinity(affinity) if affinity else None, gap_s=gap_ms * 1e-3, load=load, batch=batch,
        rounds_min=rounds_min, rounds_max=rounds_max, visit_s=visit_s, precision_target=precision, budget_s=budget_s,
        timeout_s=timeout_s, seed=seed,
    )  # fmt: skip
    if space is not None:
        refused: dict[str, object] = {
            "a target": targets,
            "--sweep": sweep,
            "--layers": layers,
            "--build": build,
            "--batch": batch,
            "--all": every,
        }
        plan = _plan(space, settings, backend, sample, until, at_most, deadline_ms, refused)
        _explore(plan, recognise(), profiles, name, keep, fresh=fresh, json=json)
        return
    _refuse_without_space({"--sample": sample, "--until": until, "--at-most": at_most, "--deadline-ms": deadline_ms})
    if not targets:
        raise UsageError(
            "There is nothing to measure: name an .onnx file, a build folder or an id, or a space with --space."
        )
    spec = recognise()
    with _folder(keep) as folder:
        jobs = _jobs(targets, backend.split(","), build, points(settings, sweep or []), folder, every=every)
        first = Path(targets[0])
        stem = name or f"{first.resolve().stem if first.exists() else targets[0]}-{backend}-t{threads}"
        out = profiles / spec.device_id / f"{store.slug(stem)}.jsonl"
        with show.progress("profile") as update:
            records = profiler.profile(
                jobs, spec, out, fresh=fresh, control=control, layers=layers, spent_s=show.process_age_s(),
                progress=lambda p: update(p.text, p.done / max(p.planned, 1), p.remaining_s),
            )  # fmt: skip
    warnings = quality.warnings_of(records)
    if json:
        variants = [show.variant(r) for r in records]
        show.emit({
            "device": spec.device_id, "file": str(out), "seed": seed, "variants": variants, "warnings": list(warnings)
        })  # fmt: skip
    else:
        _print(records, warnings, out)
    if all(r.outcome != "ok" for r in records):
        raise MeasurementError(
            f"Nothing was measured: {(records[0].reason or '').rstrip('.')}. The failures are recorded in {out}."
        )


def _print(records: list[ProfileRecord], warnings: tuple[str, ...], out: Path) -> None:
    show.print_table(show.profile_table(records))
    for record in records:
        if record.layers:
            show.print_table(show.layer_table(record))
            print(*show.flame(record.layers), "", sep="\n")
    for record in records:
        if record.reason:
            show.say(f"{record.artifact.artifact_id} ({record.settings.name}): {record.reason}")
    praise = "No warnings: narrow, long enough, undisturbed."
    show.say(
        " ".join(warnings) or (praise if all(r.outcome == "ok" for r in records) else "Not everything was measured.")
    )
    show.say(f"Appended to {out}")


def _jobs(
    targets: list[str], backends: list[str], build: Path | None, at: list[MeasureSettings], made: Path, *, every: bool
) -> list[Job]:
    """Every target with every backend at every operating point."""
    from kit.errors import UsageError
    from kit.measure.profiler import Job
    from kit.measure.targets import resolve
    from kit.spaces.allocator import FAMILIES

    if every and not set(targets) & set(FAMILIES):
        raise UsageError(f"--all is about a family of allocators: name {', '.join(FAMILIES)}, or leave it away.")
    usual = (folder for folder in (Path("build"), Path("run/build")) if folder.is_dir())
    folder = build or next(usual, None)
    jobs = []
    for backend in dict.fromkeys(part.strip() for part in backends):
        found = resolve(targets, backend=backend, build=folder, folder=made, every=every, program=_program)
        jobs += [Job(target, point.model_copy(update={"backend": backend})) for target in found for point in at]
    return jobs


def _program(network: Network, path: Path) -> FileRef:
    """What PyTorch runs of an allocator: torch is loaded when the first is asked for."""
    from kit.cli.workshop import need_workshop

    need_workshop("torch")
    from kit.variants import program

    return program.write(network, path)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Where files are written that were named by id only: to be kept, or for the time of the run."""
    from tempfile import TemporaryDirectory

    from kit import store

    if keep is not None:
        yield store.make_folder(keep)
        return
    with TemporaryDirectory(prefix="kit-") as name:
        yield Path(name)


# --------------------------------------------------------------------------------------------------------------- spaces


def _budget_s(seconds: float | None, text: str | None) -> float | None:
    if text is None:
        return seconds
    from kit.errors import UsageError
    from kit.latency.explore import read_span

    if seconds is not None:
        raise UsageError("--budget and --budget-s are the same: give one of them.")
    return read_span(text)


def _refuse_without_space(given: dict[str, object]) -> None:
    from kit.errors import UsageError

    for flag, value in given.items():
        if value is not None:
            raise UsageError(f"{flag} is about a space: say which with --space, like --space resnet18.")


def _plan(
    space: str,
    settings: MeasureSettings,
    backend: str,
    sample: int | None,
    until: str | None,
    at_most: int | None,
    deadline_ms: float | None,
    refused: dict[str, object],
) -> Plan:
    """What --space and its companions ask for. Raises UsageError for what does not go together."""
    from math import isfinite

    from kit import backends
    from kit.errors import UsageError
    from kit.latency import explore

    if wrong := next((flag for flag, value in refused.items() if value), None):
        raise UsageError(f"--space chooses what is measured: leave {wrong} away, or leave --space away.")
    if "," in backend:
        raise UsageError(f"--space is measured with one runtime: take one of {backend}.")
    if sample is not None and (until or at_most or deadline_ms):
        raise UsageError(
            "--sample N is a random choice of N: leave --until, --at-most and --deadline-ms away, or --sample."
        )
    if deadline_ms is not None and not (isfinite(deadline_ms) and deadline_ms > 0):
        raise UsageError(f"--deadline-ms {deadline_ms:g} is no deadline: give a number above zero.")
    found = explore.space_of(space)
    backends.require(backend)
    free = sample is None and settings.budget_s is None
    criterion = (
        explore.read_criterion(until)
        if until
        else explore.Criterion()
        if free and at_most is None and deadline_ms is None
        else None
    )
    plan = explore.Plan(
        found,
        settings.model_copy(update={"backend": backend, "budget_s": None}),
        criterion=criterion,
        deadline_s=None if deadline_ms is None else deadline_ms * 1e-3,
        at_most=at_most if at_most is not None or not free else min(explore.AT_MOST, found.size),
        sample=sample,
        budget_s=settings.budget_s,
        seed=settings.seed,
    )
    explore.check(plan)
    return plan


def _explore(
    plan: Plan, spec: DeviceSpec, profiles: Path, name: str | None, keep: Path | None, *, fresh: bool, json: bool
) -> None:
    from kit import store
    from kit.latency import explore
    from kit.measure import quality

    how = plan.settings
    stem = name or f"{plan.space.name}-space-{how.backend}-{how.name}"
    out = profiles / spec.device_id / f"{store.slug(stem)}.jsonl"
    with _folder(keep) as folder, show.progress("profile") as update:
        found = explore.run(
            plan, spec, out, folder, fresh=fresh, spent_s=show.process_age_s(),
            progress=lambda p: update(p.text, p.done / max(p.planned, 1), p.remaining_s),
            told=lambda step: show.say(_step_line(step)),
        )  # fmt: skip
    records = list(found.records)
    warnings = quality.warnings_of(records)
    if json:
        show.emit({
            "device": spec.device_id, "file": str(out), "seed": plan.seed, "space": plan.space.name, "measured": len(records),
            "new": found.new, "ended": found.ended, "reached": found.reached, "steps": [_step_json(s) for s in found.steps],
            "variants": [show.variant(r) for r in records], "warnings": list(warnings),
        })  # fmt: skip
        return
    show.print_table(show.profile_table(records))
    if found.steps:
        show.print_table(_steps_table(found))
    show.say(" ".join(warnings))
    fit = "kit fit" if plan.settings.backend == "onnxruntime" else f"kit fit --backend {plan.settings.backend}"
    show.say(f"Ended because {found.ended}. {found.new} new records, {len(records)} in all: {out}")
    show.say(
        f"The model of them: {fit} {out} --out {plan.space.name}.json, then kit predict ID --model {plan.space.name}.json"
    )


def _step_line(step: Step) -> str:
    parts = [f"{step.measured} measured"]
    if step.error is not None:
        parts.append(
            f"the last {step.predicted} had been predicted {step.error:.1%} off, {step.within:.0%} of them close enough"
        )
    if step.share is not None:
        parts.append(
            f"expected {step.share:.1%} of the space (intervals {step.estimated:.1%}, cross-validation {step.validated:.1%})"
        )
    if step.undecided is not None:
        parts.append(f"undecided {step.undecided:.1%}")
    return "; ".join(parts)


def _step_json(step: Step) -> dict[str, object]:
    return {
        "measured": step.measured,
        "batch": step.batch,
        "predicted_before": step.predicted,
        "within_before": step.within,
        "mean_error_before": step.error,
        "form": step.form,
        "expected_share": step.share,
        "expected_by_intervals": step.estimated,
        "expected_by_cross_validation": step.validated,
        "undecided_share": step.undecided,
    }


def _steps_table(found: Exploration) -> Table:
    title = "Error of each batch before it was measured, and what is expected of the rest of the space"
    table = show.make_table(
        title, "measured", "batch", "mean error", "within", "form", "by intervals", "by cross-validation"
    )
    for s in found.steps:
        cells = [show.known(None if v is None else f"{v:.1%}") for v in (s.error, s.within, s.estimated, s.validated)]
        table.add_row(str(s.measured), str(s.batch), *cells[:2], s.form or "none", *cells[2:])
    return table


# ------------------------------------------------------------------------------------------------------ operating points


def points(settings: MeasureSettings, sweeps: list[str]) -> list[MeasureSettings]:
    """``settings`` at every combination of the swept values. Raises UsageError for a sweep that cannot be read."""
    from itertools import product

    from kit.errors import UnknownName, UsageError

    axes: dict[str, list[object]] = {}
    for text in sweeps:
        key, equals, values = text.partition("=")
        if not equals or not values.strip(","):
            raise UsageError(f"--sweep '{text}' cannot be read: write it like --sweep threads=1,2.")
        if key not in _AXES:
            raise UnknownName("sweep", key, _AXES)
        field, read = _AXES[key]
        try:
            given = [read(value.strip()) for value in values.split(",") if value.strip()]
        except ValueError:
            raise UsageError(f"--sweep {key} does not take '{values}': {_TAKES[key]}.") from None
        axes[field] = list(dict.fromkeys([*axes.get(field, []), *given]))
    return [_checked(settings, dict(zip(axes, chosen, strict=True))) for chosen in product(*axes.values())]


def _checked(settings: MeasureSettings, changes: dict[str, object]) -> MeasureSettings:
    from pydantic import ValidationError

    from kit.errors import UsageError
    from kit.records import MeasureSettings, first_problem

    try:
        return MeasureSettings.model_validate({**settings.model_dump(), **changes})
    except ValidationError as error:
        raise UsageError(f"--sweep names a point that cannot be: {first_problem(error)}.") from None


def _affinity(text: str) -> tuple[int, ...]:
    from kit.errors import UsageError

    try:
        return _cpus(text, ",")
    except ValueError:
        raise UsageError(f"--affinity {text} cannot be read: give logical CPUs like 0 or 0,1.") from None


def _cpus(text: str, separator: str) -> tuple[int, ...]:
    return tuple(sorted({int(part) for part in text.split(separator)}))


_AXES: dict[str, tuple[str, Callable[[str], object]]] = {
    "threads": ("threads", int),
    "batch": ("batch", int),
    "gap-ms": ("gap_s", lambda v: float(v) * 1e-3),
    "load": ("load", int),
    "affinity": ("affinity", lambda v: _cpus(v, "+")),
    "clock-ghz": ("clock_cap_hz", lambda v: float(v) * 1e9),
    "power-mode": ("power_mode", str),
}
_TAKES = {
    "threads": "whole numbers from 1",
    "batch": "whole numbers from 1",
    "gap-ms": "milliseconds from 0",
    "load": "numbers of background processes from 0",
    "affinity": "CPUs, several together like 0+1",
    "clock-ghz": "gigahertz",
    "power-mode": "names of power modes",
}
