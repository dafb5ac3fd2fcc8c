"""The verb ``predict``, and what ``fit`` says about a predictor: networks that were never measured, with an interval."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import show
from kit.cli.table import Column, text

if TYPE_CHECKING:
    from kit.cli.table import Table
    from kit.latency import Predictions, Predictor
    from kit.records import Artifact, Kernel, ProfileRecord

NAMES = {
    "factor": "1 overhead + lambda * MACs",
    "kinds": "2 lambda per kind of kernel",
    "roofline": "3 roofline over kernels",
    "learned": "4 learned efficiency above it",
    "papers": "papers: lambda = 1",
    "forest": "random forest",
    "lookup": "layer-wise lookup table",
}


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Judge")(predict)


@dataclass(frozen=True)
class Target:
    """What is to be predicted; ``family`` is None for a file that kit did not make."""

    name: str
    family: str | None
    kernels: tuple[Kernel, ...]


def predict(
    targets: Annotated[list[str], typer.Argument(metavar="ID|FILE.onnx...", help="Sub-network ids, or ONNX files.")],
    model: Annotated[Path, typer.Option(help="The model that kit fit --out wrote.")],
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads (default: the fewest that were measured).")
    ] = None,
    gap_ms: Annotated[float, typer.Option(min=0, help="Idle time before each call.")] = 0.0,
    clock_ghz: Annotated[float | None, typer.Option(help="Core clock, where the model was fitted to several.")] = None,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Predict latencies of networks that were never measured, each with an interval and a word when it extrapolates."""
    from math import isfinite

    from kit import latency
    from kit.errors import UsageError
    from kit.records import Point

    if clock_ghz is not None and not (isfinite(clock_ghz) and clock_ghz > 0):
        raise UsageError(f"--clock-ghz {clock_ghz:g} is no clock: give a number above zero.")
    if not isfinite(gap_ms) or gap_ms > 1e6:
        raise UsageError(f"--gap-ms {gap_ms:g} is no gap: give a number from 0 to 1000000.")
    predictor = latency.load(model)
    wanted = [_target(text) for text in targets]
    point = Point(threads=threads or predictor.states[0].threads, gap_s=gap_ms * 1e-3)
    found = predictor.predict(
        [t.kernels for t in wanted],
        point,
        clock_hz=None if clock_ghz is None else clock_ghz * 1e9,
        families=[t.family for t in wanted],
    )
    if json:
        show.emit(_as_json(predictor, point.name, wanted, found))
        return
    show.print_table(_table(predictor, point.name, wanted, found))
    for target, why in zip(wanted, found.why, strict=True):
        if why:
            show.say(f"{target.name} is an extrapolation: {why}; measure it before you rest on it.")


def _target(text: str) -> Target:
    path = Path(text)
    if path.suffix == ".onnx":
        return _of_file(path)
    from kit import spaces
    from kit.records import SubNetwork

    sub = SubNetwork.parse(text)
    return Target(text, sub.family, spaces.kernels(sub))


def _of_file(path: Path) -> Target:
    """A file's kernels from its sidecar, else from its graph. Raises UsageError, BadModel, BackendUnavailable (a board)."""
    import importlib.util

    from kit import store
    from kit.errors import BackendUnavailable, BadModel, UsageError

    if not path.is_file():
        raise UsageError(f"{path} does not exist.")
    described = _sidecar(path)
    if described is not None and (found := _kernels(described)) is not None:
        return Target(path.name, _family(described), found)
    if importlib.util.find_spec("onnx") is None:
        raise BackendUnavailable(
            f"{path} has no sidecar that lists its kernels and this machine has no onnx: run kit describe {path.name} on a PC "
            "and copy the .json beside the file."
        )
    from kit.variants import graph

    with store.explained(path, "read"):
        listed = graph.kernels(graph.load(path), str(path))
    if not listed:
        raise BadModel(f"{path} holds operators or shapes that kit cannot count: measure it with kit profile instead.")
    return Target(path.name, None if described is None else _family(described), listed)


def _family(artifact: Artifact) -> str | None:
    """The family of a file by its sidecar: of its sub-network, else of the root that it was exported from."""
    from kit.spaces import SPACES

    if artifact.subnetwork is not None:
        return artifact.subnetwork.family
    root = artifact.origin.root if artifact.origin else None
    return SPACES[root].family if root in SPACES else None


def _kernels(artifact: Any) -> tuple[Kernel, ...] | None:
    from kit.latency.kernels import kernels_of

    return kernels_of(artifact)


def _sidecar(path: Path) -> Any:
    """The artifact beside a file, when it is kit's and of this very file."""
    from kit import store
    from kit.errors import BadRecord
    from kit.records import Artifact

    beside = path.with_suffix(".json")
    if not beside.is_file():
        return None
    try:
        artifact = store.read_record(beside, Artifact)
    except BadRecord:
        return None
    return artifact if artifact.model.sha256 == store.sha256_file(path) else None


def _as_json(predictor: Predictor, point: str, wanted: list[Target], found: Predictions) -> dict[str, Any]:
    rows = [
        {
            "id": target.name,
            "family": target.family,
            "macs": sum(k.macs * k.count for k in target.kernels),
            "predicted_s": float(found.seconds[i]),
            "interval_s": [float(found.low[i]), float(found.high[i])],
            "sd_s": float(found.sd[i]),
            "extrapolates": found.why[i] is not None,
            "why": found.why[i],
        }
        for i, target in enumerate(wanted)
    ]
    return {
        "device": predictor.device_id,
        "backend": predictor.backend,
        "point": point,
        "form": predictor.chosen,
        "level": predictor.level,
        "predictions": rows,
    }


def _table(predictor: Predictor, point: str, wanted: list[Target], found: Predictions) -> Table:
    title = f"{predictor.device_id}, {predictor.backend}, {point}: predicted by form '{predictor.chosen}', not measured"
    table = show.make_table(
        title, "network", Column("ms"), Column(f"{predictor.level:.0%} interval", 1), text("extrapolates", 2)
    )
    for i, target in enumerate(wanted):
        interval = f"{found.low[i] * 1e3:.4g} .. {found.high[i] * 1e3:.4g}"
        table.add_row(target.name, f"{found.seconds[i] * 1e3:.4g}", interval, found.why[i] or "no")
    return table


# -------------------------------------------------------------------------------------------------------------- for kit fit


def fit_predictor(
    profiles: list[ProfileRecord], backend: str | None, source: Path | None, level: float, seed: int
) -> Predictor:
    """The predictor of one backend, structure borrowed from the profiles or model at ``source``.

    Raises BadRecord (several backends, too few records), UnknownName, BackendUnavailable (no scipy).
    """
    from kit import latency

    mine = of_backend(profiles, backend)
    base = None if source is None else _source_model(source, mine[0].settings.backend, level, seed)
    return latency.predictor(mine, base=base, level=level, seed=seed)


def of_backend(profiles: list[ProfileRecord], backend: str | None) -> list[ProfileRecord]:
    """The profiles of one backend, when it is named. Raises UnknownName."""
    from kit.errors import UnknownName

    known = sorted({p.settings.backend for p in profiles})
    if backend is not None and backend not in known:
        raise UnknownName("backend", backend, known)
    return [p for p in profiles if backend in (None, p.settings.backend)]


def _source_model(path: Path, backend: str, level: float, seed: int) -> Predictor:
    """A model file as it is; profiles are fitted first: the same backend where it was measured there, else the one most used."""
    from kit import latency, store

    if path.suffix == ".json":
        return latency.load(path)
    profiles = store.read_profiles([path])
    used = [p.settings.backend for p in profiles if p.outcome == "ok"] or [p.settings.backend for p in profiles]
    taken = backend if backend in used else max(sorted(set(used)), key=used.count)
    return latency.predictor(
        [p for p in profiles if p.settings.backend == taken], level=level, seed=seed, baselines=False
    )


def score_table(predictor: Predictor) -> Table:
    title = f"{predictor.backend}: cross-validation, errors on networks that were not fitted"
    table = show.make_table(
        title, "form", "mean", "median", "worst", "in 5 %", "in 10 %", f"{predictor.level:.0%} interval", "p"
    )
    for s in predictor.scores:
        q = s.quality
        mark = " *" if s.form == predictor.chosen else ""
        reach = f"+-{s.reach * s.sd:.1%}" if s.candidate else ""
        p = "" if s.p_value is None else f"{s.p_value:.3f}"
        cells = (f"{q.mape:.1%}", f"{s.median_error:.1%}", f"{q.worst:.1%}", f"{q.within_5:.0%}", f"{q.within_10:.0%}")
        table.add_row(NAMES[s.form] + mark, *cells, reach, p)
    return table


def predictor_json(predictor: Predictor, file: Path | None, plots: Path | None = None) -> dict[str, Any]:
    """What ``kit fit --json`` says about the predictor; the whole of it is in the file."""
    return {
        "file": None if file is None else str(file),
        "plots": None if plots is None else str(plots),
        "backend": predictor.backend,
        "chosen": predictor.chosen,
        "reason": predictor.reason,
        "level": predictor.level,
        "points": [s.model_dump(mode="json") for s in predictor.states],
        "records": len(predictor.measured.seconds),
        "borrowed_from": None if predictor.base is None else predictor.base.device_id,
        "scores": [s.model_dump(mode="json") for s in predictor.scores],
        "notes": list(predictor.notes),
    }
