"""Paper D, Fig. 4: the data rate that a download needs, by the size of the sub-model and what its application allows.

A download of ``share`` of a model's parameters, each of 32 bits, within ``latency_s`` needs ``parameters * bits * share / latency_s``.
Headers, coding and retransmissions are not counted, as in the paper. A variant that lies in a build folder or a library needs its
bytes. The accuracy over a link with bit errors (Fig. 3) is ``kit robustness`` and ``bench/bad_link.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kit import store
from kit.errors import UsageError
from kit.library import package
from kit.papers import engine
from kit.papers.engine import Progress, ProgressReport, Results, RunSettings
from kit.papers.results import Figure, Line, Simulation, check_figures
from kit.records import Artifact, Record

FIGURES: Final = ("fig4", "shares", "counts", "3gpp", "variants")
SHARES: Final = tuple(percent / 100 for percent in (5, *range(10, 101, 10)))


@dataclass(frozen=True)
class Model:
    """A root model: its parameters as the paper counts them, and as torchvision's weights do (``meta["num_params"]``)."""

    name: str
    paper: int
    torchvision: int


@dataclass(frozen=True)
class Link:
    """What a generation of mobile networks promises a user, or one at best."""

    name: str
    bit_s: float
    source: str


@dataclass(frozen=True)
class Requirement:
    """A row of 3GPP TS 22.261, table 7.10.1-2."""

    name: str
    latency_s: float
    bit_s: float
    model_bytes: float


MODELS: Final = (
    Model("ResNet-50", 23_000_000, 25_557_032),
    Model("VGG-16", 135_000_000, 138_357_544),
    Model("ViT-L", 307_000_000, 304_326_632),
)
LINKS: Final = (
    Link("5G experienced", 100e6, "Report ITU-R M.2410: user experienced data rate, downlink, dense urban"),
    Link("6G experienced", 1e9, "the paper; Samsung, The Next Hyper-Connected Experience for All (2020)"),
    Link("5G peak", 20e9, "Report ITU-R M.2410: peak data rate, downlink"),
    Link("6G peak", 1e12, "Samsung, The Next Hyper-Connected Experience for All (2020)"),
)
#: What an application allows for the download over the air, as the paper has it.
LATENCIES: Final = {"image recognition": 1.0, "video call": 0.2, "tactile": 1e-3}
REQUIREMENTS: Final = (
    Requirement("image recognition", 1.0, 1.1e9, 138e6),
    Requirement("speech recognition", 1.0, 640e6, 80e6),
)


class DownloadingWorld(Record):
    """What the paper's Fig. 4 is made of."""

    bits_per_parameter: int = 32


def rate_bit_s(parameters: float, latency_s: float, share: float = 1.0, bits: float = 32) -> float:
    """The data rate that brings ``share`` of the parameters within ``latency_s``.

    >>> rate_bit_s(135e6, 1.0, 0.2), rate_bit_s(307e6, 1.0)
    (864000000.0, 9824000000.0)
    """
    return parameters * bits * share / latency_s


def largest_share(parameters: float, latency_s: float, bit_s: float, bits: float = 32) -> float:
    """The largest share of the parameters, at most all, that a link of ``bit_s`` brings within ``latency_s``.

    >>> round(largest_share(23e6, 0.2, 1e9), 4)
    0.2717
    """
    return min(1.0, bit_s * latency_s / (parameters * bits))


def variants_in(place: Path) -> dict[str, int]:
    """Bytes of each variant of a build folder (its sidecars) or of a library. Raises UsageError (no variant), BadRecord."""
    if package.index_path(place).is_file():
        return {m.artifact.artifact_id: m.artifact.size_bytes for m in package.read_packages(place)}
    sidecars = [p for p in sorted(place.glob("*.json")) if store.is_of_kind(p, "artifact")]
    if not sidecars:
        raise UsageError(f"{place} holds no variants: name the folder of kit build, or of kit library add.")
    artifacts = [store.read_record(path, Artifact) for path in sidecars]
    return {a.artifact_id: a.size_bytes for a in artifacts}


def simulate(
    names: Sequence[str] = (), *, variants: Path | None = None, out: Path, report: ProgressReport | None = None
) -> Simulation:
    """Paper D's Fig. 4 and the tables beside it (all unless named), written to ``out``. ``variants``: a build folder or a library.

    Raises UnknownName (a figure), UsageError (no variants), BadRecord, StorageError.
    """
    check_figures(names, FIGURES)
    sizes = variants_in(variants) if variants is not None else {}
    if "variants" in names and not sizes:
        raise UsageError("The figure variants needs --variants FOLDER, of kit build or of kit library add.")

    def run(folder: Path, progress: Progress) -> Results:
        chosen = [f for f in figures_of(sizes) if not names or f.figure.partition("-")[0] in names]
        return Results(tuple(chosen), parameters={"sources": {link.name: link.source for link in LINKS}})

    settings = RunSettings(seeds=())
    return engine.run(
        "downloading", DownloadingWorld(), settings, run, out, delay="none", packages=("numpy",), report=report
    )


def figures_of(sizes: dict[str, int]) -> list[Figure]:
    """Fig. 4 by latency, and the tables; ``sizes``: id of a variant -> bytes."""
    curves = [_curves(application, latency_s) for application, latency_s in LATENCIES.items()]
    return [*curves, _shares(), _counts(), _requirements(), *(_variants(sizes) if sizes else ())]


def _curves(application: str, latency_s: float) -> Figure:
    x = tuple(100 * share for share in SHARES)
    lines = [Line(name=m.name, values=tuple(rate_bit_s(m.paper, latency_s, s) for s in SHARES)) for m in MODELS]
    lines += [Line(name=link.name, values=(link.bit_s,) * len(x)) for link in LINKS]
    return Figure(
        figure=f"fig4-{application.replace(' ', '-')}", title=f"Rates for a download within {latency_s:g} s ({application})",
        x_name="size of the sub-model (% of the root)", x=x, y_name="data rate", unit="bit/s", lines=tuple(lines),
    )  # fmt: skip


def _shares() -> Figure:
    lines = [
        Line(name=f"{m.name}, {latency_s:g} s", values=tuple(largest_share(m.paper, latency_s, k.bit_s) for k in LINKS))
        for m in MODELS
        for latency_s in LATENCIES.values()
    ]
    return Figure(
        figure="shares", title="The largest sub-model that a link brings in time", x_name="link", x=tuple(k.name for k in LINKS),
        y_name="size in percent of the root", unit="1", shown="table", lines=tuple(lines),
    )  # fmt: skip


def _counts() -> Figure:
    shares = (1.0, 0.2)
    lines = [
        Line(name=f"{m.name}, {source}", values=(*(rate_bit_s(count, 1.0, s) for s in shares), rate_bit_s(count, 0.2)))
        for m in MODELS
        for source, count in (("paper", m.paper), ("torchvision", m.torchvision))
    ]
    return Figure(
        figure="counts", title="Rates by the paper's parameter counts and by torchvision's", x_name="download",
        x=("all, 1 s", "20 %, 1 s", "all, 0.2 s"), y_name="data rate", unit="bit/s", shown="table", lines=tuple(lines),
    )  # fmt: skip


def _requirements() -> Figure:
    stated = tuple(r.bit_s for r in REQUIREMENTS)
    computed = tuple(8 * r.model_bytes / r.latency_s for r in REQUIREMENTS)
    return Figure(
        figure="3gpp", title="3GPP TS 22.261 (20.1.0), table 7.10.1-2: model downloading", x_name="use",
        x=tuple(f"{r.name}, {r.model_bytes / 1e6:g} MB in {r.latency_s:g} s" for r in REQUIREMENTS), y_name="data rate",
        unit="bit/s", shown="table", lines=(Line(name="stated", values=stated), Line(name="by the model's bytes", values=computed)),
        notes=("The table asks for a reliability of 99.9 % for weights and of 99.999 % for the topology.",),
    )  # fmt: skip


def _variants(sizes: dict[str, int]) -> tuple[Figure, Figure]:
    """By name, and by size as Fig. 4 draws it, a mark each."""
    lines = [
        Line(name=name, values=tuple(8 * size / latency_s for latency_s in LATENCIES.values()))
        for name, size in sorted(sizes.items(), key=lambda item: -item[1])
    ]
    order = sorted(sizes.values())
    marks = [Line(name=f"{s:g} s", values=tuple(8 * size / s for size in order)) for s in LATENCIES.values()]
    marks += [Line(name=link.name, values=(link.bit_s,) * len(order)) for link in LINKS]
    curve = Figure(
        figure="variants-curve", title="Rates for kit's variants", x_name="size of the file (% of the largest)",
        x=tuple(float(f"{100 * size / order[-1]:.4g}") for size in order), y_name="data rate", unit="bit/s", lines=tuple(marks),
    )  # fmt: skip
    table = Figure(
        figure="variants", title="Rates for kit's variants, by the bytes of their files", x_name="application",
        x=tuple(f"{name}, {latency_s:g} s" for name, latency_s in LATENCIES.items()), y_name="data rate", unit="bit/s",
        shown="table", lines=tuple(lines),
    )  # fmt: skip
    return curve, table
