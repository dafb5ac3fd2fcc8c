"""Rows and queries made up for decisions, and their answers by nothing but comparisons: for the tests and the bench alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from kit import knowledge
from kit.errors import NoAnswer
from kit.records import STORED_PERCENTILES, KnowledgeRow, Need

LIMITS = ("deadline_s", "memory_bytes", "min_accuracy", "link_bps", "download_s", "energy_j")


def row(name: str, **changes: Any) -> KnowledgeRow:
    fields: dict[str, Any] = {
        "artifact_id": name, "sha256": name, "device_id": "d", "backend": "b", "threads": 1, "precision": "fp32", "median_s": 0.010,
        "p90_s": 0.011, "p95_s": 0.012, "p99_s": 0.013, "label": "stable", "memory_bytes": 1000, "size_bytes": 100, "macs": None,
        "accuracy": 0.5, "dataset": "x", "record_id": name,
    }  # fmt: skip
    return KnowledgeRow(**{**fields, **changes})


def random_rows(count: int, seed: int = 0, **fixed: Any) -> list[KnowledgeRow]:
    """Rows that are no front by themselves; a few doubtful, predicted, blind, without memory or energy, and with ties."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        median = float(np.exp(rng.normal(-5, 1)))
        doubtful, predicted = rng.random() < 0.05, rng.random() < 0.2
        known = rng.random(4) < 0.9
        fields = {
            "median_s": median, "p90_s": median * 1.1, "p95_s": median * 1.2 if known[0] else None, "p99_s": median * rng.uniform(1.2, 2),
            "label": None if predicted else "inconclusive" if doubtful else "stable", "origin": "predicted" if predicted else "measured",
            "low_s": median * 0.9, "high_s": median * 1.1, "memory_bytes": round(np.exp(rng.normal(18, 1))) if known[1] else None,
            "size_bytes": round(np.exp(rng.normal(15, 1.5))), "energy_j": float(np.exp(rng.normal(-3, 1))) if known[2] else None,
            "accuracy": round(0.6 + 0.05 * np.log(median / 1e-3) / 2 + rng.normal(0, 0.02), 2) if known[3] else None,
        }  # fmt: skip
        out.append(row(f"net{i}", **{**fields, **fixed}))
    return out


def random_queries(rows: list[KnowledgeRow], count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Each limit absent in a third of the queries; a tenth of the values lie exactly on a row's own."""
    rng = np.random.default_rng(seed)
    columns = {
        "deadline_s": [r.latency_s(p) for r in rows for p in STORED_PERCENTILES],
        "memory_bytes": [float(r.memory_bytes) for r in rows if r.memory_bytes] or [1.0],
        "min_accuracy": [r.accuracy for r in rows if r.accuracy is not None] or [0.5],
        "link_bps": [8 * r.size_bytes / r.median_s for r in rows if r.size_bytes] or [1.0],
        "download_s": [r.median_s for r in rows],
        "energy_j": [r.energy_j for r in rows if r.energy_j is not None] or [1.0],
    }
    out = {}
    for name, values in columns.items():
        drawn = rng.choice(np.array(values, dtype=float), count)
        moved = drawn * np.exp(rng.normal(0, 1, count)) if name != "min_accuracy" else rng.uniform(0, 1, count)
        moved = np.maximum(np.rint(moved), 1) if name == "memory_bytes" else moved
        exact, absent = rng.random(count) < 0.1, rng.random(count) < (0.8 if name == "download_s" else 1 / 3)
        out[name] = np.where(absent, -np.inf if name == "min_accuracy" else np.inf, np.where(exact, drawn, moved))
    out["percentile"] = rng.choice(STORED_PERCENTILES, count)
    return out


def choice(rows: list[KnowledgeRow], need: Need) -> str | None:
    try:
        chosen = knowledge.ask(rows, need).chosen
    except NoAnswer:
        return None
    return chosen.artifact_id if chosen else None


def limits_of(queries: dict[str, np.ndarray], i: int) -> dict[str, Any]:
    one = {name: queries[name][i].item() for name in LIMITS if np.isfinite(queries[name][i])}
    if "memory_bytes" in one:
        one["memory_bytes"] = int(one["memory_bytes"])
    return {**one, "percentile": int(queries["percentile"][i])}


def plainly(rows: list[KnowledgeRow], queries: dict[str, np.ndarray], need: Need | None = None) -> np.ndarray:
    """Every query against every row, by nothing but comparisons: indices into ``rows``, -1 for none."""
    need = need or Need()
    accuracy_required = any(r.accuracy is not None for r in rows) and not need.unknown_accuracy
    count = len(queries["deadline_s"])
    out = np.full(count, -1)
    inf = np.inf
    for percentile in STORED_PERCENTILES:
        order = sorted(
            range(len(rows)),
            key=lambda i: (-(-1 if rows[i].accuracy is None else rows[i].accuracy), rows[i].latency_s(percentile)),  # type: ignore[operator]
        )
        at = np.flatnonzero(queries["percentile"] == percentile)
        q = {name: values[at] for name, values in queries.items()}
        chosen = np.full(len(at), -1)
        for i in order:
            r = rows[i]
            if r.label == "inconclusive" or (accuracy_required and r.accuracy is None):
                continue
            download = (0.0 if {r.sha256, r.artifact_id} & set(need.have) else 8.0 * r.size_bytes) / q["link_bps"]
            fits = r.latency_s(percentile) + np.where(np.isinf(q["download_s"]), download, 0) <= q["deadline_s"]
            fits &= download <= q["download_s"]
            fits &= (inf if r.memory_bytes is None else r.memory_bytes) <= q["memory_bytes"]
            fits &= (inf if r.energy_j is None else r.energy_j) <= q["energy_j"]
            fits &= (-inf if r.accuracy is None else r.accuracy) >= q["min_accuracy"]
            chosen[(chosen < 0) & fits] = i
        out[at] = chosen
    return out
