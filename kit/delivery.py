"""Delivery, where library, measuring and knowledge base meet: what packages promise, which one a need gets, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import backends, knowledge, store, trust, units
from kit.backends import onnxdata
from kit.devices import recognise
from kit.errors import BrokenPromise, NoAnswer
from kit.library import client, swap
from kit.measure import jobs
from kit.measure.profiler import Progress
from kit.records import (
    DECIDING,
    Answer,
    Artifact,
    KnowledgeRow,
    Manifest,
    MeasureSettings,
    Need,
    ProfileRecord,
    Promise,
)


def promises(profiles: Iterable[ProfileRecord]) -> dict[str, list[Promise]]:
    """What was measured of each model file, by its sha256: the deciding record per device, backend and thread count.

    A package carries the ONNX file alone, so nothing is promised for backends that run something else.
    """
    by_file: dict[str, list[Promise]] = {}
    of_the_file = (p for p in profiles if p.plain and p.settings.backend in trust.ONNX_BACKENDS)
    for p in store.decisive(p for p in of_the_file if p.measurement and p.label):
        by_file.setdefault(p.artifact.content_sha256, []).append(knowledge.promise_of(p))
    return by_file


def unpromised(profiles: Iterable[ProfileRecord], manifests: Iterable[Manifest]) -> dict[str, str]:
    """Why nothing that may decide is promised of a package, by its name: half a sentence."""
    reasons: dict[str, str] = {}
    records = [p for p in profiles if p.measurement and p.label]
    for manifest in manifests:
        if any(promise.label in DECIDING for promise in manifest.promises):
            continue
        own = [p for p in records if p.artifact.content_sha256 == manifest.artifact.content_sha256]
        reasons[manifest.name] = _reason(own, manifest.artifact)
    return reasons


def _reason(own: Sequence[ProfileRecord], artifact: Artifact) -> str:
    promised = [p for p in own if p.plain and p.settings.backend in trust.ONNX_BACKENDS]
    if promised:
        return f"its latency is {promised[-1].label}"
    if own and artifact.batch not in (None, 1):
        return f"it takes {artifact.batch} inputs at a time, and a promise is of one"
    if own:
        return "it was measured in other states of the machine or with other runtimes only"
    return "it was not profiled at these sizes" if artifact.dims else "it was not profiled"


def choose(manifests: Sequence[Manifest], need: Need) -> Answer:
    """The library's choice: the knowledge base's own rule over what the packages promise. Raises NoAnswer."""
    rows = knowledge.rows_of(manifests)
    if not rows:
        raise NoAnswer(
            "This library promises nothing yet: none of its packages has a latency of one input at a time (kit library add says what each "
            "lacks)."
        )
    return knowledge.ask(rows, need)


def check(folder: Path, manifest: Manifest) -> str:
    """Read the staged model and run it on its sample before it is installed. Raises UntrustedPackage, IntegrityError."""
    model = folder / manifest.artifact.model.file
    onnxdata.refuse_programs(model)
    return backends.run_sample(model, manifest.artifact)


@dataclass(frozen=True)
class Delivery:
    """An installed package, its measurement on this machine (None: it was not measured), and the install that is current now.

    A package that breaks its promise does not become the current install: the one before it stays.
    """

    pulled: client.PulledPackage
    record: ProfileRecord | None
    current: Path | None

    @property
    def promise(self) -> KnowledgeRow:
        """The row that the library chose."""
        assert self.pulled.answer.chosen is not None
        return self.pulled.answer.chosen

    @property
    def measured(self) -> KnowledgeRow | None:
        """What was measured here, as the row that compares with :attr:`promise`; None where nothing was."""
        record = self.record
        return knowledge.row_of(record) if record is not None and record.measurement and record.label else None

    @property
    def deadline_met(self) -> bool | None:
        """Whether the latency measured here meets the deadline; None without a deadline or a measurement."""
        need, measured = self.pulled.answer.need, self.measured
        if need.deadline_s is None or measured is None:
            return None
        return measured.latency_s(need.percentile) <= need.deadline_s

    @property
    def sentence(self) -> str | None:
        """The promise against the measurement, in a sentence; None where :attr:`deadline_met` is."""
        need, measured = self.pulled.answer.need, self.measured
        if self.deadline_met is None or need.deadline_s is None or measured is None:
            return None
        name, what = self.pulled.receipt.package, "median" if need.percentile == 50 else f"p{need.percentile}"
        times = (
            f"its {what} was promised as {units.seconds(self.promise.latency_s(need.percentile))} and measured as "
            f"{units.seconds(measured.latency_s(need.percentile))} ({measured.label})"
        )
        if self.deadline_met:
            return f"{name} keeps its promise here: {times}, within the deadline of {units.seconds(need.deadline_s)}."
        stays = f"{self.current} stays the current install" if self.current else "no install is current"
        return (
            f"{name} breaks its promise here: {times}, over the deadline of {units.seconds(need.deadline_s)}. It lies in "
            f"{self.pulled.folder} and {stays}: pull with a wider deadline, or profile it here and add it to the library again."
        )

    @property
    def broken(self) -> BrokenPromise | None:
        """What is wrong when the measured latency misses the deadline that the library promised to meet."""
        if self.deadline_met is not False:
            return None
        return BrokenPromise(self.sentence or "", measured=self.measured, promise=self.promise)


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

    It becomes the current install unless its measurement misses the deadline. ``on_bytes`` is called with bytes received and in total,
    ``on_step`` by the profiler. Raises what :func:`kit.library.client.pull` and :func:`kit.measure.jobs.once` raise.
    """
    records: list[ProfileRecord] = []

    def accept(pulled: client.PulledPackage) -> bool:
        if measure:
            records.append(_measured(pulled, to, on_step))
        return Delivery(pulled, records[0] if records else None, None).deadline_met is not False

    pulled = client.pull(url, need, to, check=check, accept=accept, progress=on_bytes)
    return Delivery(pulled, records[0] if records else None, swap.current(to))


def _measured(pulled: client.PulledPackage, to: Path, on_step: Callable[[Progress], None]) -> ProfileRecord:
    row, device = pulled.answer.chosen, recognise()
    assert row is not None
    out = to / "profiles" / device.device_id / "installed.jsonl"
    settings = MeasureSettings(backend=row.backend, threads=row.threads)
    return jobs.once(pulled.folder / pulled.manifest.artifact.model.file, settings, device, out, on_step)
