"""Accuracies that somebody states, as CSV or JSON: read and checked row by row, and given to the networks that they name."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import store
from kit.errors import BadRecord, UsageError
from kit.evaluation import sidecars
from kit.evaluation.sidecars import Describe
from kit.measure import onnx_files
from kit.records import Accuracy, Artifact

#: Column of a table -> the field that it fills; in small letters.
COLUMNS = {
    **dict.fromkeys(("file", "id", "artifact", "artifact_id", "artifact id"), "name"),
    **dict.fromkeys(("accuracy", "top1"), "accuracy"),
    "count": "count",
    "dataset": "dataset",
    "metric": "metric",
}
SHAPE = 'a CSV with the columns file,accuracy (and count,dataset,metric), or JSON {"ID": 0.91} or {"ID": {"top1": 0.91, "dataset": "..."}}'
_NUMBER = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<percent>%?)")


@dataclass(frozen=True)
class Row:
    """One stated accuracy; ``place`` is where it stands, for errors."""

    place: str
    name: str
    accuracy: Accuracy

    @property
    def stem(self) -> str:
        """The name without folder and .onnx."""
        return Path(self.name).stem if onnx_files.is_onnx(Path(self.name)) else self.name


def read(file: Path) -> list[Row]:
    """The rows of a CSV or JSON file. Raises UsageError (missing), BadRecord with the row that is wrong, and why."""
    raw = list(_of_csv(file) if file.suffix.lower() == ".csv" else _of_json(file))
    if not raw:
        raise BadRecord(f"{file} holds no accuracies: write {SHAPE}.")
    rows = [_row(place, values) for place, values in raw]
    first: dict[str, str] = {}
    for row in rows:
        if row.name in first:
            raise BadRecord(
                f"{row.place} states the accuracy of {row.name} again ({first[row.name]} does, too): keep one."
            )
        first[row.name] = row.place
    return rows


def read_accuracies(file: Path) -> dict[str, Accuracy]:
    """id -> its accuracy, of a CSV or JSON file, or of the sidecars in a folder. Raises UsageError (missing), BadRecord with the row that
    is wrong.

    A file in place of an id counts by its name without .onnx.
    """
    if not file.is_dir():
        return {row.stem: row.accuracy for row in read(file)}
    with store.explained(file, "read"):
        places = sorted(p for p in file.rglob("*.json") if store.is_of_kind(p, "artifact"))
    known = {
        a.artifact_id: a.accuracy for a in (store.read_record(p, Artifact) for p in places) if a.accuracy is not None
    }
    if not known:
        raise BadRecord(f"{file} holds no sidecar with an accuracy: run kit evaluate first.")
    return known


def _of_csv(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with store.explained(file, "read"):
        data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
        head = text.partition("\n")[0]
        lines = csv.reader(io.StringIO(text), delimiter=";" if ";" in head and "," not in head else ",")
        columns = [_column(name, file) for name in next(lines, [])]
        if not {"name", "accuracy"} <= set(columns) or len(set(columns)) < len(columns):
            raise BadRecord(
                f"{file} needs one column file (or id) and one column accuracy in its first line: write {SHAPE}."
            )
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            place = f"{file} line {lines.line_num}"
            if len(cells) != len(columns):
                raise BadRecord(
                    f"{place} has {len(cells)} cells and the first line {len(columns)} columns: correct it."
                )
            yield place, {name: cell.strip() for name, cell in zip(columns, cells, strict=True) if cell.strip()}
    except (UnicodeDecodeError, csv.Error):
        raise BadRecord(f"{file} is no CSV in UTF-8: write {SHAPE}.") from None


def _column(name: str, file: Path) -> str:
    field = COLUMNS.get(name.strip().lower())
    if field is None:
        raise BadRecord(
            f"{file} has the column {name.strip()[:40]!r}: kit reads file (or id), accuracy, count, dataset and metric."
        )
    return field


def _of_json(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    data = store.read_json(file)
    if isinstance(data, list):
        pairs: list[tuple[str, Any, dict[str, Any]]] = [(f"{file} row {i}", row, {}) for i, row in enumerate(data, 1)]
    elif isinstance(data, dict):
        pairs = [
            (f"{file}: {name}", value if isinstance(value, dict) else {"accuracy": value}, {"name": name})
            for name, value in data.items()
        ]
    else:
        pairs = []
    for place, row, more in pairs:
        if not isinstance(row, dict):
            raise BadRecord(f"{place} is no object: write {SHAPE}.")
        named = {_column(key, file): value for key, value in row.items() if value is not None}
        yield place, {**named, **more}


def _row(place: str, values: dict[str, Any]) -> Row:
    name, share = values.get("name"), values.get("accuracy")
    if not isinstance(name, str) or not name:
        raise BadRecord(f"{place} names no network: give its file or its id.")
    number = _share(share)
    if number is None or not 0 <= number <= 1:
        raise BadRecord(f"{place}: the accuracy {str(share)[:40]!r} of {name} is no share: write 0.873 or 87.3%.")
    dataset, metric = values.get("dataset"), values.get("metric", "top1")
    if not isinstance(dataset, str | None) or not isinstance(metric, str) or not metric:
        raise BadRecord(f"{place}: data set and metric of {name} are no text: correct them.")
    return Row(
        place, name, Accuracy(top1=number, count=_count(values.get("count"), place), dataset=dataset, metric=metric)
    )


def _share(value: object) -> float | None:
    """0.873, "0.873" or "87.3%" as a number; None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    return float(match["number"]) / (100 if match["percent"] else 1)


def _count(value: object, place: str) -> int | None:
    if value is None:
        return None
    text = value.strip() if isinstance(value, str) else str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 10**12:
        raise BadRecord(
            f"{place}: the count {str(value)[:40]!r} is no number of samples: write a whole number, or leave it out."
        )
    return int(text)


# ---------------------------------------------------------------------------------------------------------- into sidecars


@dataclass(frozen=True)
class Given:
    """A network and the accuracy that it was given."""

    path: Path
    artifact: Artifact


def stated(file: Path, networks: Sequence[Path], *, describe: Describe) -> list[Given]:
    """Write the accuracies of ``file`` into the sidecars of the networks that its rows name, in the order of the rows.

    ``networks`` are .onnx files and folders of them (none: the folder of ``file``). Every row is checked, and every sidecar read or made,
    before the first is written. Raises BadRecord and UsageError with the row that names no network here, or two.
    """
    rows = read(file)
    candidates = {path: _id_of(path) for path in _candidates(networks or [file.parent])}
    assigned: dict[Path, Row] = {}
    for row in rows:
        path = _network_of(row, file, candidates)
        if path in assigned:
            raise BadRecord(f"{row.place} and {assigned[path].place} are of the same network, {path}: keep one.")
        assigned[path] = row
    given = [
        Given(path, sidecars.sidecar(path, "onnxruntime", describe).model_copy(update={"accuracy": row.accuracy}))
        for path, row in assigned.items()
    ]
    for one in given:
        store.write_record(sidecars.path_of(one.path), one.artifact)
    return given


def _candidates(places: Sequence[Path]) -> list[Path]:
    paths: list[Path] = []
    for place in places:
        if place.is_dir():
            with store.explained(place, "read"):
                paths += sorted(p for p in place.rglob("*") if onnx_files.is_onnx(p) and p.is_file())
        elif onnx_files.is_onnx(place) and place.is_file():
            paths.append(place)
        else:
            raise UsageError(
                f"{place} is neither an .onnx file nor a folder: give where the networks of the table lie."
            )
    return list(dict.fromkeys(paths))


def _network_of(row: Row, file: Path, candidates: dict[Path, str | None]) -> Path:
    """The one candidate (path -> id) that the row names: by its path, its file name, or its id."""
    named = Path(row.name)
    if onnx_files.is_onnx(named):
        fitting = [p for p in candidates if p.resolve() == (file.parent / named).resolve()]
        fitting = fitting or [p for p in candidates if p.parts[-len(named.parts) :] == named.parts]
    else:
        fitting = [p for p, name in candidates.items() if name == row.name]
        fitting = fitting or [p for p in candidates if store.slug(p.stem) == store.slug(row.name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise BadRecord(
            f"{row.place}: {row.name} is {len(fitting)} files here, such as {fitting[0]} and {fitting[1]}: name the path of one."
        )
    here = ", ".join(p.name for p in list(candidates)[:8]) or "no .onnx file"
    raise BadRecord(
        f"{row.place}: there is no network {row.name} among {here}: correct the name, or give its file or folder."
    )


def _id_of(path: Path) -> str | None:
    """The id in the sidecar of ``path``, where it has one."""
    place = sidecars.path_of(path)
    return store.read_record(place, Artifact).artifact_id if store.is_of_kind(place, "artifact") else None
