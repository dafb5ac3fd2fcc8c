"""What does a choice lose that rests on few measurements? 1,000 random needs, asked of forty measured networks and predictions of the rest.

    python bench/regret.py profiles/DEVICE/resnet18-space.jsonl [--count 40] [--needs 1000] [--measures 8] [--seeds 3] [--json]

Of each file's networks ``--count`` are "measured", chosen as `kit explore` would; a latency model is fitted to them and predicts
all others, tail and memory included. Each need (a deadline at the 99th percentile, in a third of the cases each a memory limit, an accuracy
floor or a link) is answered by the predictions alone, and by `ask --measure`, which measures what could change the answer, here by looking
it up. The truth are the measurements of all. With NAME-again.jsonl beside NAME.jsonl each choice is also judged by the second
measurement, made later: how often does it miss its deadline then, and how often does the best choice of the first measurement?

The accuracies are made up, for nobody trained hundreds of networks: they rise with the logarithm of the multiply-accumulates, with the
scatter that training leaves (standard deviation ``SCATTER``). What is lost is therefore a share of needs, and no accuracy of a real
network.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from latency_models import Sample

from kit import knowledge, latency, store
from kit.cli import show
from kit.errors import KitError
from kit.knowledge.checks import total_latency_s
from kit.records import KnowledgeRow, Need, ProfileRecord
from kit.spaces import subnetwork
from kit.stats import Float64Array

BAR = 0.98
SCATTER = 0.01
SLOPE = 0.03  # of the accuracy, per doubling of the multiply-accumulates


@dataclass(frozen=True)
class RegretRow:
    """One file, one way to choose, one seed: shares of the needs, and measurements a need."""

    file: str
    way: str
    seed: int
    equal: float
    lost: float  # mean accuracy lost
    missed: float  # of the deadlines, by the truth
    measured: float
    later_missed: float | None  # share of the choices whose p99 lies beyond the deadline when it is measured later
    later_missed_by_best: float | None  # the same of the choices with everything measured
    late_calls: float | None  # share of the later calls of the chosen networks that take longer than the deadline


@dataclass(frozen=True)
class Later:
    """The second measurement of a network: its row, and the seconds of every call [calls]."""

    row: KnowledgeRow
    calls_s: Float64Array


def truth_of(sample: Sample, seed: int) -> list[KnowledgeRow]:
    rng = np.random.default_rng(seed)
    rows = [knowledge.row_of(p) for p in sample.profiles]
    octaves = np.log2([r.macs or 1 for r in rows])
    values = 0.9 + SLOPE * (octaves - octaves.max()) + SCATTER * rng.standard_normal(len(rows))
    return [row.model_copy(update={"accuracy": float(v)}) for row, v in zip(rows, values, strict=True)]


def known_of(sample: Sample, truth: list[KnowledgeRow], count: int, seed: int) -> list[KnowledgeRow]:
    """What is known after ``count`` measurements: these, and a prediction of everything else with its accuracy."""
    taken = sample.chosen("active", count, seed)
    model = latency.predictor(sample.pick(taken), baselines=False)
    measured = [truth[i] for i in taken]
    rest = {truth[i].artifact_id: truth[i] for i in range(len(truth)) if i not in set(taken)}
    members = [subnetwork(name) for name in rest]
    predicted = knowledge.predicted_rows(model, members, measured, threads=measured[0].threads, model="forty")
    named = [
        row.model_copy(
            update={"accuracy": rest[row.artifact_id].accuracy, "size_bytes": rest[row.artifact_id].size_bytes}
        )
        for row in predicted.rows
    ]
    return [*measured, *named]


def judge(sample: Sample, count: int, needs: int, measures: int, seed: int) -> list[RegretRow]:
    truth = truth_of(sample, seed)
    known = known_of(sample, truth, count, seed)
    by_key = {knowledge.key(r): r for r in truth}
    asked = knowledge.random_needs(truth, needs, seed=seed)
    looked = [0]

    def look(row: KnowledgeRow) -> KnowledgeRow:
        looked[0] += 1
        return by_key[knowledge.key(row)]

    ways = {
        "predictions alone": partial(knowledge.regret, known, truth, asked),
        "what matters measured first": partial(
            knowledge.regret, known, truth, asked, measure=look, measures_max=measures
        ),
    }
    later = later_of(sample)
    out = []
    for way, run in ways.items():
        looked[0] = 0
        losses = run()
        out.append(
            RegretRow(
                sample.name, way, seed, losses.equal_share, float(losses.loss.mean()), losses.missed_share, looked[0] / needs,
                misses(losses.chosen, later, asked), misses(losses.best, later, asked), late_calls(losses.chosen, later, asked),
            )
        )  # fmt: skip
    return out


def later_of(sample: Sample) -> dict[str, Later]:
    again = sample.path.with_name(f"{sample.path.stem}-again.jsonl")
    if not again.is_file():
        return {}
    profiles = [p for p in store.read_profiles([again]) if p.trusted]
    return {p.artifact.artifact_id: Later(knowledge.row_of(p), _calls_s(p)) for p in profiles}


def _calls_s(profile: ProfileRecord) -> Float64Array:
    assert profile.measurement is not None
    return np.concatenate([v.values_ns for v in profile.measurement.runs]) * 1e-9


def misses(chosen: tuple[str | None, ...], later: dict[str, Later], needs: list[Need]) -> float | None:
    """Of the choices that were measured again, the share whose p99 then lies beyond the deadline."""
    missed = [
        total_latency_s(later[name].row, need, None) > (need.deadline_s or np.inf)
        for name, need in zip(chosen, needs, strict=True)
        if name in later
    ]
    return float(np.mean(missed)) if missed else None


def late_calls(chosen: tuple[str | None, ...], later: dict[str, Later], needs: list[Need]) -> float | None:
    shares = [
        np.mean(later[name].calls_s + total_latency_s(later[name].row, need, 0.0) > (need.deadline_s or np.inf))
        for name, need in zip(chosen, needs, strict=True)
        if name in later
    ]
    return float(np.mean(shares)) if shares else None


def print_table(outcomes: list[RegretRow]) -> None:
    table = show.make_table(
        "Choices from few measurements against everything measured (mean over seeds, worst in brackets)",
        "networks", "way", "equal", "deadline missed", "measured a need", "p99 beyond it later", "of the best choices", "calls late then",
    )  # fmt: skip
    for file, way in dict.fromkeys((f.file, f.way) for f in outcomes):
        runs = [f for f in outcomes if (f.file, f.way) == (file, way)]
        equal, missed = [f.equal for f in runs], [f.missed for f in runs]
        later = [(f.later_missed, f.later_missed_by_best, f.late_calls) for f in runs if f.later_missed is not None]
        cells = [f"{np.mean([shares[i] for shares in later]):.2%}" if later else "-" for i in range(3)]
        table.add_row(
            file, way, f"{np.mean(equal):.1%} ({min(equal):.1%})", f"{np.mean(missed):.2%} ({max(missed):.2%})",
            f"{np.mean([f.measured for f in runs]):.2f}", *cells,
        )  # fmt: skip
    show.print_table(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--needs", type=int, default=1000)
    parser.add_argument("--measures", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        samples = [Sample(path, given.count) for path in given.files]
        outcomes = [
            one for s in samples for seed in range(given.seeds)
            for one in judge(s, given.count, given.needs, given.measures, seed)
        ]  # fmt: skip
    except KitError as error:
        sys.exit(f"regret: {error}")
    if given.json:
        print(json.dumps([vars(f) for f in outcomes], indent=2))
    else:
        print_table(outcomes)


if __name__ == "__main__":
    main()
