"""What every paper's experiment does alike: keep each point on disk under a name that holds all that decides it, and mark quick runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kit import store
from kit.papers.results import Figure
from kit.records import Record

PointT = TypeVar("PointT", bound=Record)


def digest(format_version: int, key: Mapping[str, Any]) -> str:
    """The sha256 of what decides a result: the world, recipes, counts and methods as plain JSON, and the paper's format version.

    Raise ``format_version`` when a changed formula gives other results for the same key: what was kept before is then computed again.
    """
    return store.sha256_bytes(store.canonical_json({"format": format_version, **key}))


def load_or_compute(
    folder: Path | None,
    format_version: int,
    key: Mapping[str, Any],
    record_class: type[PointT],
    compute: Callable[[], PointT],
) -> PointT:
    """The point that ``folder`` keeps for this format and key, or what ``compute`` returns, which is then kept. No folder, nothing kept.

    Raises BadRecord (a broken file), StorageError, and as ``compute`` does.
    """
    path = None if folder is None else folder / f"point-{digest(format_version, key)[:16]}.json"
    if path is not None and path.is_file():
        return store.read_record(path, record_class)
    point = compute()
    if path is not None:
        store.write_record(path, point)
    return point


def marked_quick(figures: Iterable[Figure], note: str) -> list[Figure]:
    """The figures of a quick run: every title says so, and the first figure's first note is ``note``."""
    marked = [figure.model_copy(update={"title": f"{figure.title} (quick)"}) for figure in figures]
    return with_notes(marked, (note,))


def with_notes(figures: Sequence[Figure], notes: Sequence[str]) -> list[Figure]:
    """The figures with ``notes`` before those of the first one. Without figures, nothing."""
    return [f.model_copy(update={"notes": (*notes, *f.notes)}) if i == 0 else f for i, f in enumerate(figures)]
