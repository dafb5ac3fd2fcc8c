"""The knowledge base and its answers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit import evaluation, knowledge, store
from kit.api.arguments import PathLike, Profiles, records_of
from kit.errors import UsageError
from kit.knowledge import limits
from kit.records import (
    Accuracy,
    Answer,
    Explanation,
    KnowledgeRow,
    Need,
)
from kit.records import KnowledgeBase as KnowledgeRecord

if TYPE_CHECKING:
    pass


class KnowledgeBase:
    """What was measured (or predicted) of which variant on which device, and the answers that follow from it.

    ``source`` is a file that ``kit knowledge build`` wrote (.json), or profiles: records, files, folders. ``accuracies`` gives the accuracy
    of variants that do not know their own: from 0 to 1 by id, or a CSV, JSON or folder as ``kit knowledge build --accuracy`` takes it.

    Example:
        >>> base = kit.KnowledgeBase(PROFILES)
        >>> answer = base.ask(deadline_ms=5, min_accuracy=0.9)
        >>> answer.chosen.latency_s(99) <= 0.005
        True
    """

    def __init__(
        self, source: KnowledgeRecord | Profiles, *, accuracies: dict[str, float] | PathLike | None = None
    ) -> None:
        if isinstance(source, (str, os.PathLike)) and Path(source).suffix == ".json":
            self.record = store.read_record(Path(source), KnowledgeRecord)
        elif isinstance(source, KnowledgeRecord):
            self.record = source
        else:
            self.record = knowledge.build(records_of(source))
        given: dict[str, Accuracy] = {}
        if isinstance(accuracies, (str, os.PathLike)):
            given = evaluation.read_accuracies(Path(accuracies))
        elif accuracies is not None:
            for name, share in accuracies.items():
                if not 0 <= share <= 1:
                    raise UsageError(f"The accuracy {share:g} of {name} is no share: give a number from 0 to 1.")
            given = {name: Accuracy(top1=share) for name, share in accuracies.items()}
        self.record = knowledge.with_accuracies(self.record, given)

    @property
    def rows(self) -> tuple[KnowledgeRow, ...]:
        """One row for each variant, device, runtime and operating point."""
        return self.record.rows

    def ask(
        self,
        *,
        deadline_ms: float | None = None,
        percentile: int = 99,
        memory_mb: float | None = None,
        energy_mj: float | None = None,
        min_accuracy: float | None = None,
        link_mbps: float | None = None,
        download_ms: float | None = None,
        have: Iterable[str] = (),
        device: str | None = None,
        backend: str | None = None,
        threads: int | None = None,
        batch: int | None = None,
        point: str | None = None,
        dataset: str | None = None,
        unknown_accuracy: bool = False,
    ) -> Answer:
        """The most accurate variant that meets every limit; among equals the fastest.

        ``percentile`` of the latency (50, 90, 95, 99) is held against the deadline. With ``link_mbps`` the download counts towards the
        deadline, or has a limit of its own (``download_ms``); variants in ``have`` (ids or hashes) need none.

        Raises NoAnswer (no variant meets them; the text names the nearest), UsageError (limits that cannot be), UnknownName.

        Example:
            >>> kit.KnowledgeBase(PROFILES).ask(deadline_ms=1e-3)
            Traceback (most recent call last):
            ...
            kit.errors.NoAnswer: No variant meets every limit; ...
        """
        return knowledge.ask(
            self.rows,
            self._need(
                deadline_ms=deadline_ms, percentile=percentile, memory_mb=memory_mb, energy_mj=energy_mj, min_accuracy=min_accuracy,
                link_mbps=link_mbps, download_ms=download_ms, have=have, device=device, backend=backend, threads=threads, batch=batch,
                point=point, dataset=dataset, unknown_accuracy=unknown_accuracy,
            ),
        )  # fmt: skip

    def explain(self, variant: str, **limits: Any) -> list[Explanation]:
        """Why a variant is, or is not, the choice for the limits of ``ask``: each limit, and what would have to change.

        Example:
            >>> base = kit.KnowledgeBase(PROFILES)
            >>> why = base.explain(base.rows[0].artifact_id, deadline_ms=5)
            >>> [limit.met for limit in why[0].limits if limit.limit == "deadline"]
            [True]
        """
        return knowledge.explain(self.rows, self._need(**limits), variant)

    def pareto(self, axes: Sequence[str] = ("latency", "accuracy"), **limits: Any) -> list[KnowledgeRow]:
        """The variants that no other beats on all ``axes`` (latency, accuracy, memory, energy, size) at once, within the limits.

        Example:
            >>> front = kit.KnowledgeBase(PROFILES).pareto()
            >>> front[0].latency_s() <= front[-1].latency_s()
            True
        """
        return knowledge.pareto(self.rows, self._need(**limits), tuple(axes))

    def _need(self, **options: Any) -> Need:
        return limits.need_about(self.rows, **options)

    def save(self, path: PathLike) -> None:
        """Write it as JSON, for ``kit knowledge ask --knowledge`` and for a later ``kit.KnowledgeBase``."""
        store.write_record(Path(path), self.record)

    def __repr__(self) -> str:
        return repr(self.record)

    def __str__(self) -> str:
        return str(self.record)

    def _repr_html_(self) -> str | None:
        return self.record._repr_html_()
