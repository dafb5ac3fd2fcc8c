"""The frozen value object that all records are, reading one from JSON, and the upgrades of older schemas.

Units are part of each name and SI inside (seconds, bytes, hertz; raw times are integer nanoseconds); nothing is rounded
and every statistic is derived from raw values on demand. Unknown keys are errors. A value that the machine does not report
is ``None`` and printed as "unknown".

History of the formats (``schema_version`` of each kind)
    1  2026-11  first form of device, artifact, profile, latency_model, knowledge, manifest, install
    2  2026-11  profile: raw times as packed series in nanoseconds, calibration workloads between them, operating point;
                version 1 is read and upgraded
    2  2026-11  knowledge: origin (measured or predicted), operating point, p90, p95, intervals, energy, clock; version 1 is read and
                upgraded; first form of allocation_quality, dynamic_table
    1  2026-11  first form of session
    2  2026-11  placement-answer (kit.papers.placement.controller): slack of each task, idle share of each pool
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from kit.errors import BadRecord


class Record(BaseModel):
    """A frozen value object; unknown keys are errors.

    Records that people look at have a :meth:`summary`: it is what they print as, in a terminal and in a notebook. The others print
    their values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    def summary(self) -> dict[str, str]:
        """What a person wants to know of it, name -> text with its unit, the most important first; empty where its values suffice.

        An empty text is not shown.
        """
        return {}

    def _shown(self) -> dict[str, str]:
        return {_printable(name): _printable(text) for name, text in self.summary().items() if text}

    def __repr__(self) -> str:
        first_three = [*self._shown().values()][:3]
        return f"<{type(self).__name__} {', '.join(first_three)}>" if first_three else super().__repr__()

    def __str__(self) -> str:
        rows = self._shown()
        width = max(map(len, rows), default=0)
        lines = [f"{name:<{width}}  {text}" for name, text in rows.items()]
        return "\n".join(lines) if lines else super().__str__()

    def _repr_html_(self) -> str | None:
        """The summary as a table, for notebooks; None leaves it to the text. Every name and value is escaped."""
        rows = "".join(
            f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(text)}</td></tr>'
            for name, text in self._shown().items()
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>" if rows else None


class AliasedRecord(Record):
    """A record with fields that have another name than their key in a file: the ``alias`` of such a field is the key."""

    model_config = ConfigDict(populate_by_name=True)

    @model_serializer(mode="wrap")
    def _by_stored_keys(self, values_of: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            (fields[name].alias if name in fields else None) or name: value for name, value in values_of(self).items()
        }


def _printable(text: str) -> str:
    """``text`` on one line without control characters: a record's strings may come from a stranger's file."""
    return "".join(c if c.isprintable() else " " for c in text)


R = TypeVar("R", bound=Record)


def load(kind: type[R], data: object, source: str) -> R:
    """``data`` (parsed JSON) as a record. Raises BadRecord, one sentence that names ``source`` and what to do."""
    kind_name = kind.model_fields["kind"].default if "kind" in kind.model_fields else None
    if not isinstance(data, Mapping):
        raise BadRecord(f"{source} holds no {kind_name or kind.__name__} record: a JSON object was expected.")
    if kind_name is not None and data.get("kind") != kind_name:
        raise BadRecord(f"{source} holds a record of kind {data.get('kind')!r} where '{kind_name}' was expected.")
    if kind_name is not None:
        version, newest = data.get("schema_version", 1), kind.model_fields["schema_version"].default
        if isinstance(version, int) and (kind_name, version) in _UPGRADES:
            try:
                data, version = _UPGRADES[kind_name, version](data), version + 1
            except (TypeError, ValueError, AttributeError):
                raise BadRecord(f"{source} is not a valid {kind_name} record: its values are of other types.") from None
        if version != newest:
            raise BadRecord(
                f"{source} has schema version {version!r} of '{kind_name}' and this kit reads version {newest}: "
                "use the kit that wrote it, or upgrade this one."
            )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise BadRecord(
            f"{source} is not a valid {kind_name or kind.__name__} record: {first_problem(error)}."
        ) from None


def _profile_2(data: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 kept nanoseconds per call as plain numbers and one matrix product before and after each process."""
    upgraded = {**data, "schema_version": 2}
    measurement = data.get("measurement")
    if isinstance(measurement, dict) and isinstance(runs := measurement.get("visits"), list):
        upgraded["measurement"] = {**measurement, "visits": [_run_2(run) for run in runs]}
    return upgraded


def _run_2(run: Any) -> Any:
    if not isinstance(run, dict) or not isinstance(run.get("values_ns"), list):
        return run
    upgraded = {key: value for key, value in run.items() if key not in ("values_ns", "reference_ns")}
    product = run.get("reference_ns")
    loops = run.get("loops", 1)
    upgraded["elapsed_ns"] = [v * loops if isinstance(v, (int, float)) else v for v in run["values_ns"]]
    clocks_hz = [hz for e in (run.get("before"), run.get("after")) if isinstance(e, dict) and (hz := e.get("clock_hz"))]
    if clocks_hz:
        upgraded |= {"clock_hz": sum(clocks_hz) / len(clocks_hz), "clock_source": "observed"}
    return {**upgraded, "references": {"product-192": product} if product is not None else {}}


def _knowledge_2(data: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 held measured rows of a machine in its default state; what it did not keep is None."""
    return {**data, "schema_version": 2}


_UPGRADES: dict[tuple[str, Any], Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    ("profile", 1): _profile_2,
    ("knowledge", 1): _knowledge_2,
}


def first_problem(error: ValidationError) -> str:
    """The first complaint of a validation error as half a sentence."""
    problem: Any = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the record"
    return f"{where}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
