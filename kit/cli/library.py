"""Verbs of the download library: ``library add``, ``library list``, ``library serve``, ``pull``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import needs, show

if TYPE_CHECKING:
    from kit.records import Answer, InstallReceipt, Manifest, Need, ProfileRecord, Promise

library_app = typer.Typer(
    no_args_is_help=True, help="The download library: [bold]add[/] packages, [bold]list[/] and [bold]serve[/] them."
)

Layout = Annotated[Path, typer.Argument(metavar="DIR", help="OCI image layout directory of the library.")]


def add_to(app: typer.Typer) -> None:
    app.add_typer(library_app, name="library", rich_help_panel="Deliver")
    app.command(rich_help_panel="Deliver")(pull)


def promises(profiles: list[ProfileRecord]) -> dict[str, list[Promise]]:
    """What was measured of each model file, by its sha256: the deciding record per device, backend and thread count.

    A package carries the ONNX file alone, so nothing is promised for backends that run something else.
    """
    from kit import knowledge, store, trust

    found: dict[str, list[Promise]] = {}
    of_the_file = (p for p in profiles if p.plain and p.settings.backend in trust.ONNX_BACKENDS)
    for p in store.decisive(p for p in of_the_file if p.measurement and p.label):
        found.setdefault(p.artifact.model.sha256, []).append(knowledge.promise_of(p))
    return found


def choose(manifests: list[Manifest], need: Need) -> Answer:
    """The library's choice: the knowledge base's own rule over what the packages promise."""
    from kit import knowledge
    from kit.errors import NoAnswer

    rows = knowledge.rows_of(manifests)
    if not rows:
        raise NoAnswer("This library promises nothing yet: its packages were added without profiles.")
    return knowledge.ask(rows, need)


def check(folder: Path, manifest: Manifest) -> str:
    """Look into the staged model and run it on its sample before it is installed."""
    from kit import backends
    from kit.backends import onnxgraph

    model = folder / manifest.artifact.model.file
    onnxgraph.refuse_programs(model)
    return backends.run_sample(model, manifest.artifact)


@library_app.command("add")
def add(
    builds: Annotated[
        list[Path], typer.Argument(metavar="BUILD...", help="Build folders (or .onnx files with sidecars).")
    ],
    to: Annotated[Path, typer.Option("--to", help="OCI image layout directory; made when missing.")],
    profiles: Annotated[Path, typer.Option(help="Profiles that the promises come from.")] = Path("profiles"),
    json: show.Json = False,
) -> None:
    """Package variants with their manifests, hashes and promised latencies."""
    from kit import store
    from kit.library import package
    from kit.measure.targets import resolve
    from kit.records import DECIDING

    measured = promises(store.read_profiles([profiles])) if profiles.exists() else {}
    added = []
    with show.progress("package") as update:
        for number, build in enumerate(builds):
            update(str(build), number / len(builds))
            targets = resolve([str(build)], backend="onnxruntime")
            artifacts = [t.artifact for t in targets]
            by_id = {a.artifact_id: measured.get(a.model.sha256, []) for a in artifacts}
            added += package.add(to, targets[0].path.parent, artifacts, by_id)
    if json:
        show.emit({"library": str(to), "packages": [_package(m) for m in added]})
        return
    show.print_table(_package_table(added, str(to)))
    silent = [m.name for m in added if not any(p.label in DECIDING for p in m.promises)]
    if silent:
        show.say(
            f"{len(silent)} package(s) have no trusted latency, so no device is given them: profile them, then add them again."
        )


@library_app.command("list")
def list_packages(layout: Layout, json: show.Json = False) -> None:
    """List the packages of a library and verify every one of their hashes."""
    from kit.library import package

    manifests = package.read_packages(layout)
    if json:
        show.emit({"library": str(layout), "packages": [_package(m) for m in manifests]})
    else:
        show.print_table(_package_table(manifests, str(layout)))


@library_app.command("serve")
def serve(
    layout: Layout,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    json: show.Json = False,
) -> None:
    """Serve a library over HTTP until interrupted."""
    import importlib.util

    from kit.errors import BackendUnavailable

    if importlib.util.find_spec("uvicorn") is None or importlib.util.find_spec("starlette") is None:
        raise BackendUnavailable("Serving needs starlette and uvicorn: pip install 'insitu-kit[server]'.")
    from kit.library import server

    def ready(url: str) -> None:
        if json:
            show.emit({"library": str(layout), "url": url})
        else:
            show.say(f"Serving {layout} at {url} (Ctrl-C ends it)")

    server.serve(layout, choose, host, port, ready=ready)


def pull(
    url: Annotated[str, typer.Argument(help="Address of a library, such as http://host:8000.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to install into.")] = Path("models"),
    deadline_ms: needs.Deadline = None,
    memory_mb: needs.MemoryMb = None,
    min_accuracy: needs.MinAccuracy = None,
    link_mbps: needs.Link = None,
    download_ms: needs.Download = None,
    device: Annotated[str | None, typer.Option(help="Whose promises to go by (default: this machine's).")] = None,
    backend: needs.Backend = None,
    threads: needs.Threads = None,
    percentile: needs.PercentileOf = 99,
    dataset: needs.Dataset = None,
    measure: Annotated[bool, typer.Option(help="Measure the installed model and compare it with the promise.")] = True,
    json: show.Json = False,
) -> None:
    """As a device: state the need, receive the choice, download, verify, install, run the sample, compare promise and measurement."""
    from kit.devices import recognise

    spec = recognise()
    need = needs.make_need(
        deadline_ms,
        memory_mb,
        min_accuracy,
        link_mbps,
        download_ms,
        device or spec.device_id,
        backend or "onnxruntime",
        threads,
        percentile=percentile,
        dataset=dataset,
    )
    result, _ = pull_and_measure(url, need, to, measure=measure)
    if json:
        show.emit(result)
        return
    print(f"Installed {result['package']} in {result['folder']} ({result['checked']}).")
    if result["measured_s"] is not None:
        print(
            f"median: promised {show.ms(result['promised_s'])} ms, measured {show.ms(result['measured_s'])} ms; "
            f"p99: promised {show.ms(result['promised_p99_s'])} ms, measured {show.ms(result['measured_p99_s'])} ms ({result['label']})"
        )


def pull_and_measure(url: str, need: Need, to: Path, *, measure: bool = True) -> tuple[dict[str, Any], InstallReceipt]:
    """Pull a package for ``need``, then measure what was installed beside what was promised: the JSON of it, and the receipt."""
    from kit.library import client

    with show.progress("pull") as update:
        pulled = client.pull(url, need, to, check=check, progress=lambda done, total: update("", done / max(total, 1)))
    receipt, manifest = pulled.receipt, pulled.manifest
    row = pulled.answer.chosen
    assert row is not None
    result: dict[str, Any] = {
        "package": receipt.package,
        "folder": str(pulled.folder),
        "answer": show.answer(pulled.answer),
        "bytes_downloaded": receipt.bytes_downloaded,
        "download_s": receipt.download_s,
        "checked": receipt.checked,
        "promised_s": row.median_s,
        "promised_p99_s": row.p99_s,
        "promised_record": row.record_id,
        "measured_s": None,
        "measured_p99_s": None,
        "label": None,
    }
    if measure:
        record = _measure_installed(pulled.folder / manifest.artifact.model.file, row.backend, row.threads, to)
        result |= {"label": record.label, "measured_record": record.record_id}
        if record.measurement is not None:
            result |= {"measured_s": record.measurement.median_s, "measured_p99_s": record.measurement.p99_s}
    return result, receipt


def _measure_installed(model: Path, backend: str, threads: int, to: Path) -> ProfileRecord:
    from kit.devices import recognise
    from kit.measure import profiler
    from kit.measure.targets import resolve
    from kit.records import MeasureSettings

    settings = MeasureSettings(backend=backend, threads=threads)
    spec = recognise()
    jobs = [profiler.Job(target, settings) for target in resolve([str(model)], backend=backend)]
    with show.progress("measure") as update:
        records = profiler.profile(
            jobs,
            spec,
            to / "profiles" / spec.device_id / "installed.jsonl",
            progress=lambda p: update(p.text, p.done / max(p.planned, 1), p.remaining_s),
        )
    return records[0]


def _package(manifest: Manifest) -> dict[str, Any]:
    return {
        "package": manifest.name,
        "size_bytes": manifest.size_bytes,
        **manifest.model_dump(mode="json", include={"files", "promises"}),
    }


def _package_table(manifests: list[Manifest], title: str) -> Any:
    table = show.make_table(f"Packages in {title}", "package", "MB", "accuracy", "promised p99 ms")
    for m in manifests:
        accuracy = f"{m.artifact.accuracy.top1:.2%}" if m.artifact.accuracy else "unknown"
        promised = ", ".join(
            f"{show.ms(p.p99_s)} ({p.device_id}, {p.backend} t{p.threads}, {p.label})" for p in m.promises
        )
        table.add_row(m.name, f"{m.size_bytes / 1e6:.3g}", accuracy, promised or "none")
    return table
