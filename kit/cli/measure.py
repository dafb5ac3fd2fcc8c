"""Verbs of the measuring room: ``device``, ``device save``, ``profile``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kit.cli import show

device_app = typer.Typer(
    invoke_without_command=True, help="Recognise this machine; [bold]save[/] it as a device configuration."
)

Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET...", help="An .onnx file, a build folder, a variant id (with --build), or fake:250us."
    ),
]


def add_to(app: typer.Typer) -> None:
    app.add_typer(device_app, name="device", rich_help_panel="Measure")
    app.command(rich_help_panel="Measure")(profile)


@device_app.callback()
def device(context: typer.Context, json: show.Json = False) -> None:
    """Recognise this machine: processor, features, caches, memory, clocks, GPUs, runtimes, telemetry."""
    if context.invoked_subcommand is not None:
        return
    from kit.device import recognise

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
    from kit.configs import save_config
    from kit.device import recognise

    path = save_config(name, recognise(), to, force=force)
    if json:
        show.emit({"config": name, "file": str(path)})
    else:
        print(path)


def profile(
    targets: Targets,
    backend: Annotated[str, typer.Option(help="Runtime: onnxruntime, pytorch, fake.")] = "onnxruntime",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    build: Annotated[
        Path | None, typer.Option(help="Build folder in which variant ids are looked up (default: build or run/build).")
    ] = None,
    rounds_min: Annotated[
        int | None, typer.Option(min=1, help="Fresh processes per target at least (default: 6, or --rounds-max).")
    ] = None,
    rounds_max: Annotated[int, typer.Option(min=1, help="Fresh processes per target at most.")] = 10,
    visit_s: Annotated[float, typer.Option(min=0.001, max=3600, help="Seconds of collecting in each process.")] = 0.5,
    precision: Annotated[
        float, typer.Option(min=0.0001, max=1, help="Stop when the median is known within this share.")
    ] = 0.02,
    budget_s: Annotated[
        float | None,
        typer.Option(min=0.1, max=1e7, help="Wall time for the whole run; the first round is always finished."),
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=1, max=1e6, help="Seconds that one process may take.")] = 120.0,
    profiles: Annotated[
        Path, typer.Option(help="Folder of profiles; records go to PROFILES/<device_id>/NAME.jsonl.")
    ] = Path("profiles"),
    name: Annotated[str | None, typer.Option(help="Name of the file (default: target, backend and threads).")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget an interrupted run of the same command instead of going on.")
    ] = False,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """Measure the latency of networks on this machine.

    Every target is visited in fresh processes, in random order, over rounds, until the interval of its median is narrow
    enough or the rounds or the budget end. Raw times are appended to PROFILES/<device_id>/. A killed run goes on when the
    same command is given again.
    """
    from kit import profiler, store
    from kit.device import recognise
    from kit.errors import UsageError
    from kit.records import MeasureSettings

    rounds_min = rounds_min or min(6, rounds_max)
    if rounds_max < rounds_min:
        raise UsageError(
            f"--rounds-max {rounds_max} is below --rounds-min {rounds_min}: raise the one or lower the other."
        )
    settings = MeasureSettings(
        backend=backend, threads=threads, rounds_min=rounds_min, rounds_max=rounds_max, visit_s=visit_s, precision_target=precision,
        budget_s=budget_s, timeout_s=timeout_s, seed=seed,
    )  # fmt: skip
    usual = (folder for folder in (Path("build"), Path("run/build")) if folder.is_dir())
    found = profiler.resolve(targets, backend=backend, build=build or next(usual, None))
    spec = recognise()
    stem = (
        name or f"{Path(targets[0]).resolve().stem if Path(targets[0]).exists() else targets[0]}-{backend}-t{threads}"
    )
    out = profiles / spec.device_id / f"{store.slug(stem)}.jsonl"
    with show.progress("profile") as update:
        records = profiler.profile(
            found, settings, spec, out, fresh=fresh, progress=lambda p: update(p.text, p.done / max(p.planned, 1))
        )
    if json:
        show.emit(
            {"device": spec.device_id, "file": str(out), "seed": seed, "variants": [show.variant(r) for r in records]}
        )
    else:
        show.print_table(show.profile_table(records))
        for record in records:
            if record.reason:
                show.say(f"{record.artifact.artifact_id}: {record.reason}")
        show.say(f"Appended to {out}")
    if all(r.measurement is None for r in records):
        from kit.errors import MeasurementError

        raise MeasurementError(
            f"Nothing was measured: {(records[0].reason or '').rstrip('.')}. The failures are recorded in {out}."
        )
