"""Verbs of the download library: ``library add``, ``library list``, ``library serve``, ``pull``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit import units
from kit.cli import needs, options, show
from kit.cli.table import Column, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kit.cli.table import Table
    from kit.delivery import Delivery
    from kit.records import Manifest, Need

library_app = typer.Typer(
    no_args_is_help=True, help="The download library: [bold]add[/] packages, [bold]list[/] and [bold]serve[/] them."
)

Layout = Annotated[Path, typer.Argument(metavar="DIR", help="OCI image layout directory of the library.")]


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.add_typer(library_app, name="library", rich_help_panel="Deliver")
    app.command(rich_help_panel="Deliver")(options.grouped(pull))


@library_app.command("add")
def add(
    builds: Annotated[
        list[Path], typer.Argument(metavar="BUILD...", help="Build folders (or .onnx files with sidecars).")
    ],
    to: Annotated[Path, typer.Option("--to", help="OCI image layout directory; created when missing.")],
    profiles: Annotated[
        Path, typer.Option(envvar="KIT_PROFILES", help="Profiles that the promises come from.")
    ] = options.PROFILES,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Package variants with their manifests, hashes and advertised latencies."""
    from kit import delivery, store
    from kit.library import package
    from kit.measure import onnx_files
    from kit.measure.targets import resolve

    for build in builds:
        onnx_files.refuse_bare(build)
    records = store.read_profiles([profiles]) if profiles.exists() else []
    measured = delivery.promises(records)
    targets = resolve([str(build) for build in builds], backend="onnxruntime")  # two networks of one name are refused
    folders = list(dict.fromkeys(target.path.parent for target in targets))
    added: list[Manifest] = []
    with show.progress("package") as update:
        for number, folder in enumerate(folders):
            update(str(folder), number / len(folders))
            artifacts = [t.artifact for t in targets if t.path.parent == folder]
            by_id = {a.artifact_id: measured.get(a.content_sha256, []) for a in artifacts}
            added += package.add(to, folder, artifacts, by_id)
    _print_packages(added, to, json=json)
    silent = {} if json else delivery.unpromised(records, added)
    if silent:
        why = "; ".join(f"{name}: {reason}" for name, reason in silent.items())
        show.say(f"{len(silent)} package(s) have no trusted latency, so no device is given them ({why}).")


@library_app.command("list")
def list_packages(layout: Layout, json: show.Json = False, csv: show.Csv = False) -> None:
    """List the packages of a library and verify every one of their hashes."""
    from kit.library import package

    _print_packages(package.read_packages(layout), layout, json=json)


@library_app.command("serve")
def serve(
    layout: Layout,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    json: show.Json = False,
) -> None:
    """Serve a library over HTTP until interrupted."""
    from kit import delivery, versions

    versions.need("Serving needs", "starlette", "uvicorn")
    from kit.library import server

    def ready(url: str) -> None:
        if json:
            show.emit({"library": str(layout), "url": url})
        else:
            show.say(f"Serving {layout} at {url} (Ctrl-C ends it)")

    server.serve(layout, delivery.choose, host, port, ready=ready)


def pull(
    url: Annotated[str, typer.Argument(help="Address of a library, such as http://host:8000.")],
    limits: needs.Limits,
    to: Annotated[Path, typer.Option("--to", help="Folder to install into.")] = Path("models"),
    device: Annotated[
        str | None,
        typer.Option(envvar="KIT_DEVICE", help="Whose advertised latencies to go by (default: this machine's)."),
    ] = None,
    backend: needs.Backend = None,
    threads: needs.Threads = None,
    dataset: needs.Dataset = None,
    measure: Annotated[bool, typer.Option(help="Measure the installed model and compare it with the promise.")] = True,
    json: show.Json = False,
) -> None:
    """As a device: state the need, receive the choice, download, verify, install, run the sample, compare promise and measurement.

    Exit code 3: no variant meets the need. Exit code 1: among other things, the model misses the deadline here; the install before it
    then stays the current one.
    """
    from kit.devices import recognise

    need = needs.requirement(
        limits,
        device=device or recognise().device_id,
        backend=backend or "onnxruntime",
        threads=threads,
        dataset=dataset,
    )
    delivered = fetch(url, need, to, measure=measure)
    if json:
        show.emit_or_raise(as_json(delivered), delivered.broken)
        return
    _print_delivery(delivered)


def fetch(url: str, need: Need, to: Path, *, measure: bool = True) -> Delivery:
    """:func:`kit.delivery.pull` with its progress shown."""
    from kit import delivery

    with show.progress("pull") as update:
        return delivery.pull(
            url, need, to, measure=measure, on_bytes=lambda received, total: update("", received / max(total, 1)),
            on_step=show.steps(update),
        )  # fmt: skip


def _print_delivery(delivered: Delivery) -> None:
    """Raises BrokenPromise."""
    receipt, row, record = delivered.pulled.receipt, delivered.promise, delivered.record
    print(f"Installed {receipt.package} in {delivered.pulled.folder} ({receipt.checked}).")
    if record is not None and record.measurement is not None:
        timing = record.measurement
        print(
            f"median: promised {show.ms(row.median_s)} ms, measured {show.ms(timing.median_s)} ms; "
            f"p99: promised {show.ms(row.p99_s)} ms, measured {show.ms(timing.p99_s)} ms ({record.label})"
        )
    if broken := delivered.broken:
        raise broken
    if delivered.sentence:
        print(delivered.sentence)


def as_json(delivered: Delivery) -> dict[str, Any]:
    """The shared JSON names of a delivery."""
    receipt, row, record = delivered.pulled.receipt, delivered.promise, delivered.record
    timing = record.measurement if record else None
    return {
        "package": receipt.package,
        "folder": str(delivered.pulled.folder),
        "answer": show.answer(delivered.pulled.answer),
        "bytes_downloaded": receipt.bytes_downloaded,
        "download_s": receipt.download_s,
        "checked": receipt.checked,
        "promised_s": row.median_s,
        "promised_p99_s": row.p99_s,
        "promised_record": row.record_id,
        "measured_s": timing.median_s if timing else None,
        "measured_p99_s": timing.p99_s if timing else None,
        "label": record.label if record else None,
        "promise_kept": delivered.deadline_met,
        "current": str(delivered.current) if delivered.current else None,
        **({"measured_record": record.record_id} if record else {}),
    }


def _print_packages(manifests: Sequence[Manifest], layout: Path, *, json: bool) -> None:
    if json:
        show.emit({"library": str(layout), "packages": [_package(m) for m in manifests]})
    else:
        show.print_table(_package_table(manifests, layout))


def _package(manifest: Manifest) -> dict[str, Any]:
    return {
        "package": manifest.name,
        "size_bytes": manifest.size_bytes,
        **manifest.model_dump(mode="json", include={"files", "promises"}),
    }


def _package_table(manifests: Sequence[Manifest], layout: Path) -> Table:
    columns = (Column("MB", 2), Column("accuracy", 1), text("advertised p99 ms"))
    table = show.make_table(f"Packages in {layout}", "package", *columns, empty=f"{layout} holds no package.")
    for m in manifests:
        top1 = m.artifact.accuracy.top1 if m.artifact.accuracy else None
        promised = ", ".join(
            f"{show.ms(p.p99_s)} ({p.device_id}, {p.backend} t{p.threads}, {p.label})" for p in m.promises
        )
        table.add_row(m.name, units.in_unit(m.size_bytes, units.MB, 3), show.accuracy_text(top1), promised or "none")
    return table
