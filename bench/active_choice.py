"""Does choosing what to measure next pay? Active against random order on records of a random sample of one space, offline.

    python bench/active_choice.py profiles/DEVICE/resnet18-space.jsonl [--seeds 5] [--batch 5] [--journal FILE] [--json]

The measured networks are the pool. Both orders start with ten networks and add a batch at a time: the active one what `kit explore`
would choose (kit.latency.active_sampling), the other a random permutation. After each batch `kit fit`'s predictor is fitted to what was
"measured" so far and asked for every network that was not, by the form with the smallest cross-validated error, as the verb does.
Counted is how many measurements it takes until the share of those within +-10 % first reaches 99 % (and 95 %), for each seed.

With ``--journal`` each finished order is kept: the same command goes on after a kill.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kit import latency, store
from kit.cli import show
from kit.errors import BadRecord, KitError
from kit.latency import Predictor, active_sampling
from kit.latency.features import arrange
from kit.latency.kernels import kernels_of
from kit.records import ProfileRecord

ORDERS = ("active", "random")
WITHIN, AIMS = 0.10, (0.95, 0.99)
FIRST = 10
BAR = 0.5  # of the measurements that random order needs


@dataclass(frozen=True)
class Reached:
    """One order: the share of unmeasured networks within 10 % after each count, and seconds spent choosing a batch at worst."""

    file: str
    order: str
    seed: int
    counts: tuple[int, ...]
    shares: tuple[float, ...]
    forms: tuple[str, ...]
    choosing_s: float

    def needs(self, criterion: float) -> int | None:
        return next((n for n, share in zip(self.counts, self.shares, strict=True) if share >= criterion), None)


class Pool:
    """The measured networks of one file: what is to be predicted, and what a measurement would say."""

    def __init__(self, path: Path) -> None:
        usable = [p for p in store.decisive(store.read_profiles([path])) if p.trusted and kernels_of(p.artifact)]
        if len(usable) < 3 * FIRST:
            raise BadRecord(
                f"{path} holds {len(usable)} trusted networks with known kernels: {3 * FIRST} are the least here."
            )
        self.name = path.stem
        self.profiles: list[ProfileRecord] = usable
        self.table = arrange([kernels_of(p.artifact) or () for p in usable])
        self.seconds = np.array([_seconds(p) for p in usable])

    def share(self, model: Predictor, taken: Sequence[int]) -> float:
        rest = np.setdiff1d(np.arange(len(self.profiles)), taken)
        predictions = model.of_table(self.table.pick(rest), model_family=active_sampling.richest_family(model))
        return float(np.mean(np.abs(predictions.seconds / self.seconds[rest] - 1.0) <= WITHIN))

    def fit(self, taken: Sequence[int]) -> Predictor:
        return latency.predictor([self.profiles[i] for i in taken], baselines=False)


def _seconds(profile: ProfileRecord) -> float:
    assert profile.measurement is not None
    return profile.measurement.usual_s


def follow(pool: Pool, order: str, seed: int, batch: int) -> Reached:
    """One order until the highest aim is reached."""
    permutation = np.random.default_rng(seed).permutation(len(pool.profiles)).tolist()
    counts, shares, forms, worst_s = [], [], [], 0.0
    taken = (
        permutation[:FIRST]
        if order == "random"
        else active_sampling.first(active_sampling.pool_posterior(pool.table), FIRST, seed)
    )
    while len(taken) < len(pool.profiles):
        model = pool.fit(taken)
        counts.append(len(taken))
        shares.append(pool.share(model, taken))
        forms.append(active_sampling.richest_family(model))
        if shares[-1] >= max(AIMS):
            break
        start_s = time.perf_counter()
        taken = permutation[: len(taken) + batch] if order == "random" else [*taken, *_next(pool, model, taken, batch)]
        worst_s = max(worst_s, time.perf_counter() - start_s)
    return Reached(pool.name, order, seed, tuple(counts), tuple(shares), tuple(forms), worst_s)


def _next(pool: Pool, model: Predictor, taken: Sequence[int], batch: int) -> list[int]:
    free = np.ones(len(pool.profiles), dtype=bool)
    free[list(taken)] = False
    return active_sampling.choose(active_sampling.pool_posterior(pool.table, model), free, batch)


def runs(paths: Sequence[Path], seeds: int, batch: int, journal: Path | None) -> Iterator[Reached]:
    known = _read(journal, batch)
    for path in paths:
        pool = Pool(path)
        for seed in range(seeds):
            for order in ORDERS:
                key = (pool.name, len(pool.profiles), order, seed)
                if key not in known:
                    known[key] = follow(pool, order, seed, batch)
                    if journal is not None:
                        run = {**vars(known[key]), "pool": len(pool.profiles), "batch": batch}
                        store.append_line(journal, run)
                yield known[key]


def _read(journal: Path | None, batch: int) -> dict[tuple[str, int, str, int], Reached]:
    if journal is None or not journal.is_file():
        return {}
    orders = {}
    for _, data in store.read_lines(journal, torn_ok=True):
        size, of_batch = data.pop("pool"), data.pop("batch")
        if of_batch == batch:
            lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
            orders[data["file"], size, data["order"], data["seed"]] = Reached(**lists)
    return orders


def summary(orders: Sequence[Reached]) -> list[dict[str, object]]:
    """Per file and aim: what each order needed, by seed, and the ratio of the sums. None: the whole pool was not enough."""
    out: list[dict[str, object]] = []
    for file in dict.fromkeys(r.file for r in orders):
        for criterion in sorted(AIMS, reverse=True):
            needs = {o: [r.needs(criterion) for r in orders if r.file == file and r.order == o] for o in ORDERS}
            reached = {o: [n for n in values if n is not None] for o, values in needs.items()}
            whole = all(len(reached[o]) == len(needs[o]) for o in ORDERS)
            ratio = mean(reached["active"]) / mean(reached["random"]) if whole else None
            kept = None if ratio is None else ratio <= BAR
            out.append({"file": file, "share": criterion, "within": WITHIN, **needs, "ratio": ratio, "kept": kept})
    return out


def print_tables(orders: Sequence[Reached]) -> None:
    table = show.make_table(
        f"Measurements until the rest is within +-{WITHIN:.0%}", "networks", "share", "active", "random", "ratio"
    )
    for row in summary(orders):
        cells = [" ".join("-" if n is None else str(n) for n in row[o]) for o in ORDERS]  # type: ignore[attr-defined]
        ratio = row["ratio"]
        evaluation = "-" if ratio is None else f"{ratio:.2f} ({'kept' if row['kept'] else 'missed'}: {BAR:g} allowed)"
        table.add_row(str(row["file"]), f"{row['share']:.0%}", *cells, evaluation)
    show.print_table(table)
    curves = show.make_table("Share within +-10 % of what is not measured, mean over seeds", "networks", "n", *ORDERS)
    for file in dict.fromkeys(r.file for r in orders):
        for count in sorted({n for r in orders for n in r.counts if r.file == file}):
            at = {o: [_at(r, count) for r in orders if r.file == file and r.order == o] for o in ORDERS}
            curves.add_row(file, str(count), *(f"{mean(at[o]):.1%}" for o in ORDERS))
    show.print_table(curves)
    show.say(f"Choosing a batch took {max(r.choosing_s for r in orders):.2f} s at most.")


def _at(run: Reached, count: int) -> float:
    """The share after ``count`` measurements; a finished order stays where it ended."""
    return run.shares[run.counts.index(count) if count in run.counts else -1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        orders = list(runs(given.files, given.seeds, given.batch, given.journal))
    except KitError as error:
        sys.exit(f"active_choice: {error}")
    if given.json:
        print(json.dumps({"summary": summary(orders), "runs": [vars(r) for r in orders]}, indent=2))
    else:
        print_tables(orders)


if __name__ == "__main__":
    main()
