"""Verbs that measure: ``device``, ``device save``, ``profile``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import options, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kit.allocators.fileformat import AllocatorNetwork
    from kit.measure.profiler import Job
    from kit.measure.targets import Inputs
    from kit.records import FileRef, MeasureSettings, ProfileRecord

device_app = typer.Typer(
    invoke_without_command=True, help="Recognise this machine; [bold]save[/] it as a device configuration."
)


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.add_typer(device_app, name="device", rich_help_panel="Measure")
    app.command(rich_help_panel="Measure")(options.grouped(profile))


@device_app.callback()
def device(context: typer.Context, json: show.Json = False, csv: show.Csv = False) -> None:
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
    to: Annotated[
        Path | None, typer.Option(help="Folder of device configurations (default: device_configs in that of profiles).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing configuration.")] = False,
    json: show.Json = False,
) -> None:
    """Write a configuration of this machine, NAME.toml, which kit device and all others then match it with."""
    from kit import folders
    from kit.devices import recognise
    from kit.devices.configs import save_config

    path = save_config(name, recognise(), to or folders.configs(), force=force)
    if json:
        show.emit({"config": name, "file": str(path)})
    else:
        print(path)


@dataclass(frozen=True)
class Retired:
    """What ``kit profile`` took once: each is refused with the name of what took its place."""

    space: Annotated[str | None, typer.Option(hidden=True)] = None
    sample: Annotated[str | None, typer.Option(hidden=True)] = None
    until: Annotated[str | None, typer.Option(hidden=True)] = None
    at_most: Annotated[str | None, typer.Option(hidden=True)] = None
    deadline_ms: Annotated[str | None, typer.Option(hidden=True)] = None
    budget_s: Annotated[str | None, typer.Option(hidden=True)] = None
    visit_s: Annotated[str | None, typer.Option(hidden=True)] = None

    def refuse(self) -> None:
        """Raises UsageError."""
        from kit.errors import UsageError

        if self.budget_s is not None:
            raise UsageError(f"--budget-s is now --budget: write --budget {self.budget_s}s.")
        if self.visit_s is not None:
            raise UsageError(f"--visit-s is now --run-s: write --run-s {self.visit_s}.")
        searching = {
            "--space": self.space, "--sample": self.sample, "--until": self.until, "--at-most": self.at_most,
            "--deadline-ms": self.deadline_ms,
        }  # fmt: skip
        if flag := next((flag for flag, value in searching.items() if value is not None), None):
            raise UsageError(
                f"{flag} belongs to a verb of its own: kit explore {self.space or 'SPACE'} (kit explore --help)."
            )


@dataclass(frozen=True)
class Sweep:
    """Further operating points next to that of the single options, and whether they may change clock and power mode."""

    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Batch of files with a free batch dimension.", rich_help_panel=options.POINT),
    ] = None
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V,V", rich_help_panel=options.POINT,
            help="Operating points; again for more keys: threads=1,2 gap-ms=0,10 load=0,1 affinity=0,1 (or 0+1) batch=1,8 "
            "clock-ghz=1.5,2 power-mode=15W,MAXN dim.seq=64,128.",
        ),
    ] = None  # fmt: skip
    control: Annotated[
        bool,
        typer.Option(
            "--control", help="Allow changing clock and power mode; they are restored on every exit.",
            rich_help_panel=options.POINT,
        ),
    ] = False  # fmt: skip

    def points(
        self, settings: MeasureSettings, inputs: options.InputOptions
    ) -> tuple[list[MeasureSettings], list[Inputs]]:
        """Every combination of points, and of sizes of free dimensions. Raises UsageError."""
        from kit.measure import jobs

        dims, sweeps = jobs.dim_sweeps(inputs.dim or [], self.sweep or [])
        points = jobs.points(settings.model_copy(update={"batch": self.batch}), sweeps)
        return points, [inputs.of(sizes) for sizes in dims]


@dataclass(frozen=True)
class TargetOptions:
    """What runs the targets, and where they are looked up."""

    backend: options.Backends = "onnxruntime"
    build: options.Build = None
    every: Annotated[
        bool,
        typer.Option("--all", help="Every size of the allocators that are named.", rich_help_panel=options.TARGET),
    ] = False


Layers = Annotated[
    bool,
    typer.Option("--layers", help="Times per layer by the runtime's own profiler.", rich_help_panel=options.OUTPUT),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="10m", rich_help_panel=options.PRECISION,
        help="Wall time for the whole command, as 90s, 10m or 1h; the first round is always finished.",
    ),
]  # fmt: skip


def profile(
    target: TargetOptions,
    inputs: options.InputOptions,
    point: options.PointOptions,
    sweep: Sweep,
    precision: options.Precision,
    file: options.RecordFile,
    retired: Retired,
    targets: options.Targets = None,
    budget: Budget = None,
    layers: Layers = False,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Measure the latency of networks on this machine.

    Every target runs in fresh processes, in random order, over rounds, until the interval of its median is narrow enough or the
    rounds or the budget end. Several backends and operating points are compared in one interleaved run. Raw times are appended to
    PROFILES/<device_id>/. A killed run resumes when the same command is given again. kit explore measures a space of networks.
    """
    retired.refuse()
    from kit.measure import jobs

    settings = precision.settings(point, jobs.duration_s(budget) if budget else None, file.seed)
    with jobs.workspace(file.keep) as folder:
        points, shapes = sweep.points(settings, inputs)
        planned = jobs.jobs(
            targets or [], points, target.backend, folder, build=target.build, every=target.every, program=_program,
            inputs=shapes,
        )  # fmt: skip
        name = file.name or jobs.stem(targets or [], target.backend, point.threads)
        _measure(planned, file, name, control=sweep.control, layers=layers, json=json)


def _measure(
    planned: Sequence[Job], file: options.RecordFile, name: str, *, control: bool, layers: bool, json: bool
) -> None:
    """Raises MeasurementError where nothing was measured."""
    from kit.devices import recognise
    from kit.measure import jobs, profiler, quality

    spec = recognise()
    out = jobs.record_file(file.profiles, spec.device_id, name)
    with show.progress("profile") as update:
        records = profiler.profile(
            planned, spec, out, fresh=file.fresh, control=control, layers=layers, spent_s=show.process_age_s(),
            progress=show.steps(update),
        )  # fmt: skip
    warnings = quality.warnings_of(records)
    error = jobs.failure(records, out)
    if json:
        data = {
            "device": spec.device_id,
            "file": str(out),
            "seed": file.seed,
            "variants": [show.variant(r) for r in records],
        }
        show.emit_or_raise({**data, "warnings": list(warnings)}, error)
        return
    _print(records, warnings, out)
    if error:
        raise error


def _print(records: Sequence[ProfileRecord], warnings: tuple[str, ...], out: Path) -> None:
    measured = [r for r in records if r.status == "ok"]
    if measured:
        show.print_table(show.profile_table(records))
    layered = [r for r in records if r.layers]
    for record in layered:
        show.print_table(show.layer_table(record))
        assert record.layers is not None
        show.note("\n".join([*show.flame(record.layers), ""]))
    for record in records:
        if record.reason:
            show.say(f"{record.artifact.artifact_id} ({record.settings.name}): {record.status}: {record.reason}")
    success = "No warnings: narrow, long enough, undisturbed."
    show.say(" ".join(warnings) or (success if len(measured) == len(records) else "Not everything was measured."))
    show.say(f"Appended to {out}")


def _program(network: AllocatorNetwork, path: Path) -> FileRef:
    """What PyTorch runs of an allocator: torch is loaded with the first one."""
    from kit.cli.produce import need_training_tools

    need_training_tools("torch")
    from kit.variants import program

    return program.write(network, path)
