"""Delivery, where library, measuring and knowledge base meet: what packages promise, which one a need gets, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import backends, knowledge, store, trust
from kit.backends import onnxgraph
from kit.devices import recognise
from kit.errors import BrokenPromise, NoAnswer
from kit.library import client
from kit.measure import jobs
from kit.measure.profiler import Progress
from kit.records import Answer, KnowledgeRow, Manifest, MeasureSettings, Need, ProfileRecord, Promise


def promises(profiles: Iterable[ProfileRecord]) -> dict[str, list[Promise]]:
    """What was measured of each model file, by its sha256: the deciding record per device, backend and thread count.

    A package carries the ONNX file alone, so nothing is promised for backends that run something else.
    """
    by_file: dict[str, list[Promise]] = {}
    of_the_file = (p for p in profiles if p.plain and p.settings.backend in trust.ONNX_BACKENDS)
    for p in store.decisive(p for p in of_the_file if p.measurement and p.label):
        by_file.setdefault(p.artifact.model.sha256, []).append(knowledge.promise_of(p))
    return by_file


def choose(manifests: Sequence[Manifest], need: Need) -> Answer:
    """The library's choice: the knowledge base's own rule over what the packages promise. Raises NoAnswer."""
    rows = knowledge.rows_of(manifests)
    if not rows:
        raise NoAnswer("This library promises nothing yet: its packages were added without profiles.")
    return knowledge.ask(rows, need)


def check(folder: Path, manifest: Manifest) -> str:
    """Look into the staged model and run it on its sample before it is installed. Raises UntrustedPackage, IntegrityError."""
    model = folder / manifest.artifact.model.file
    onnxgraph.refuse_programs(model)
    return backends.run_sample(model, manifest.artifact)


@dataclass(frozen=True)
class Delivery:
    """An installed package, and its measurement on this machine (None: it was not asked for)."""

    pulled: client.Pulled
    record: ProfileRecord | None

    @property
    def promise(self) -> KnowledgeRow:
        """The row that the library chose."""
        assert self.pulled.answer.chosen is not None
        return self.pulled.answer.chosen

    @property
    def broken(self) -> BrokenPromise | None:
        """What is wrong when the measured latency misses the deadline that the library promised to meet."""
        need, record = self.pulled.answer.need, self.record
        if need.deadline_s is None or record is None or record.measurement is None or record.label is None:
            return None
        measured = knowledge.row_of(record)
        latency_s, promised_s = measured.latency_s(need.percentile), self.promise.latency_s(need.percentile)
        if latency_s <= need.deadline_s:
            return None
        what = "median" if need.percentile == 50 else f"p{need.percentile}"
        return BrokenPromise(
            f"{self.pulled.receipt.package} breaks its promise here: its {what} was promised as {promised_s * 1e3:.4g} ms and "
            f"measured as {latency_s * 1e3:.4g} ms ({record.label}), over the deadline of {need.deadline_s * 1e3:.4g} ms. It stays "
            f"installed in {self.pulled.folder}: pull with a wider deadline, or profile it here and add it to the library again.",
            measured=measured, promise=self.promise,
        )  # fmt: skip


def pull(
    url: str,
    need: Need,
    to: Path,
    *,
    measure: bool = True,
    on_bytes: Callable[[int, int], None] | None = None,
    on_step: Callable[[Progress], None] = lambda _: None,
) -> Delivery:
    """As a device: ask the library at ``url`` for what meets ``need``, install it in ``to``, and measure what was installed.

    ``on_bytes`` is called with bytes done and in all, ``on_step`` by the profiler. Raises what :func:`kit.library.client.pull` raises.
    """
    pulled = client.pull(url, need, to, check=check, progress=on_bytes)
    if not measure:
        return Delivery(pulled, None)
    row, device = pulled.answer.chosen, recognise()
    assert row is not None
    settings = MeasureSettings(backend=row.backend, threads=row.threads)
    out = to / "profiles" / device.device_id / "installed.jsonl"
    return Delivery(
        pulled, jobs.once(pulled.folder / pulled.manifest.artifact.model.file, settings, device, out, on_step)
    )
