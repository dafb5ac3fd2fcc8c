"""What kit's model families are compared with and never chosen: a random forest on features of networks, and a layer-wise lookup table.

The forest has the features that nn-Meter's and LitePred's comparisons give it (sums over kernels). The lookup table holds a
time for each different kernel, estimated from whole networks by ridge regression around the share that its work suggests; kernels
that were never measured take the time of the nearest one of their kind, scaled by work.
"""

from __future__ import annotations

import importlib.util

import numpy as np

from kit.latency.features import Table
from kit.latency.fitting import Data
from kit.latency.parametric import Cases, kind_amounts
from kit.stats import Float64Array

TREES = 50
RIDGE = 1e-2


def forest_available() -> bool:
    """Whether scikit-learn is here."""
    return importlib.util.find_spec("sklearn") is not None


def forest(train: Data, test: Cases, seed: int) -> Float64Array:
    """Seconds of ``test`` [n] by a random forest on log seconds."""
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(n_estimators=TREES, random_state=seed)
    model.fit(_network_features(train.cases), np.log(train.seconds))
    return np.asarray(np.exp(model.predict(_network_features(test))))


def _network_features(cases: Cases) -> Float64Array:
    table = cases.table
    states = np.array([(s.threads, s.gap_s, s.load) for s in cases.states], dtype=np.float64)[cases.state]
    each = (
        np.ones(len(table.attributes)),
        table.macs,
        table.moved_bytes,
        table.column("weight_bytes").astype(np.float64),
    )
    sums = np.column_stack([table.total(values) for values in each])
    return np.column_stack([kind_amounts(table), sums, cases.precision, states, cases.slowdown])


def lookup(train: Data, test: Cases) -> Float64Array:
    """Seconds of ``test`` [n] by summed table entries; one table for each precision and state would starve, so a factor each."""
    table = train.cases.table
    work = _work(table)
    level = _levels(train)
    seconds = train.seconds / np.array([level[key] for key in train.cases.groups()])
    total = table.total(work)
    unit = float(np.median(seconds / total))
    shares = np.zeros((table.nets, len(table.attributes)))
    np.add.at(shares, (table.net, table.kernel), table.count * (work * unit)[table.kernel])
    shares /= seconds[:, None]
    gram = shares @ shares.T + RIDGE * np.eye(table.nets) * float(np.mean((shares**2).sum(axis=1)))
    factor = 1.0 + shares.T @ np.linalg.solve(gram, 1.0 - shares.sum(axis=1))
    per_work = unit * np.clip(factor, 0.05, 20.0)
    entries = (per_work[_nearest(test.table, table)] * _work(test.table))[test.table.kernel] * test.table.count
    middle = float(np.median(list(level.values())))
    return np.asarray(test.table.sum_entries(entries) * np.array([level.get(key, middle) for key in test.groups()]))


def _work(table: Table) -> Float64Array:
    return np.asarray(table.macs + 4.0 * (table.moved_bytes + table.column("weight_bytes")))


def _levels(data: Data) -> dict[str, float]:
    """Seconds per unit of work of each precision and state, relative to the first."""
    rate = data.seconds / data.cases.table.total(_work(data.cases.table))
    names = np.array(data.cases.groups())
    medians = {str(key): float(np.median(rate[names == key])) for key in np.unique(names)}
    first = next(iter(medians.values()))
    return {key: value / first for key, value in medians.items()}


def _nearest(targets: Table, references: Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """For each kernel of ``targets`` the most similar of ``references``: the same kind where there is one."""
    a, b = targets.features, references.features
    apart = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2.0 * a @ b.T
    apart = apart + 1e3 * (targets.column("kind")[:, None] != references.column("kind")[None])
    apart = apart + 10.0 * (targets.column("precision")[:, None] != references.column("precision")[None])
    return np.asarray(apart.argmin(axis=1), dtype=np.int64)
