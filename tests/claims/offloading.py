"""What docs/papers/offloading.md says of paper B."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from quoted import Run, run, table

PAGE = "docs/papers/offloading.md"
SETTINGS = (
    "6G Networks",
    "seeds 0, 1 and 2",
    "4,000 steps",
    "2,400 steps",
    "600 episodes",
    "500 evaluation slots",
    "5 to 50 tasks",
    "64 slots of 30 tasks",
    "| 5.126M",
    "two a MAC, 30 users",
    "lambda = 1",
    "2 cycles a MAC",
    "| 1 ms: eq. 19",
    "1 - p: the corrected reward goes to 0 or 1",
    "p goes to 1/4",
    "drives p to 1/4",
    "drives every p to 1",
    "one hidden layer of 32",
    "best of 30 (k, l)",
    "0.125 to 16 kbit",
    "batch 1",
    "all N + 1 numbers",
    "at 8 prices",
    "At 1 kbit",
    "from 0.25 to 4 kbit",
    "seed 0 alone",
    "mu (1e-20)",
)
#: Of the sweeps' places: key, index, as the tables head them.
NINE = (
    ("a", 0, "0.25 kbit"), ("a", 2, "1 kbit"), ("a", 4, "4 kbit"), ("b", 0, "200"), ("b", 4, "3200 cycles/bit"),
    ("c", 0, "10"), ("c", 4, "50 tasks"), ("d", 0, "1"), ("d", 4, "6 GHz"),
)  # fmt: skip
DISTINCT = [("a", i) for i in range(5)] + [(key, i) for key in "bcd" for i in (0, 1, 3, 4)]
NAMES = {
    "Policy MoE (RL)": "paper B's scheduler", "kit's own": "ranked scheduler", "Policy MoE (random)": "random",
    "Policy MoE (half)": "half", "Policy MoE (all offloaded)": "all offloaded", "Local execution": "local",
}  # fmt: skip
PAPERS, KIT, RANDOM, LOCAL = "Policy MoE (RL)", "kit's own", "Policy MoE (random)", "Local execution"
SLOW = "kit's own, deciding as long as the largest network"
PER_USER = "per-user allocator"  # of kit's own methods where all tasks are offloaded
COST, MEAN = "reference of the joint cost", "reference of the mean delay"


def digits(value: float) -> str:
    """Three figures, four from a thousand on."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.4g}"


class Table:
    """Values of a run by figure, sweep and place."""

    def __init__(self, a: Run) -> None:
        self.a = a

    def at(self, figure: str, suffix: str, line: str, key: str, i: int) -> float:
        name = figure if figure in ("fig10", "fig11") else f"{figure}{key}{suffix}"
        return self.a.at(name, line, self.a.figure(name).x[i])

    def cell(self, figure: str, suffix: str, line: str, key: str, i: int, scale: float = 1.0) -> str:
        """The mean, with half the range of the seeds where that is one per cent of it or more."""
        name = f"{figure}{key}{suffix}"
        x = self.a.figure(name).x[i]
        mean, half = scale * self.a.at(name, line, x), scale * self.a.half_range(name, line, x)
        text = digits(mean)
        return f"{text} ± {half:.1g}" if half > 0.01 * abs(mean) and half > 0 else text

    def rows(self, figure: str, suffix: str, scale: float, more: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        lines = {**NAMES, **{name: name for name in more}}
        return [
            (shown, *(self.cell(figure, suffix, line, k, i, scale) for k, i, _ in NINE))
            for line, shown in lines.items()
        ]

    def below(self, figure: str, suffix: str, one: str, other: str, places: Any = DISTINCT) -> int:
        """At how many places the mean of ``one`` lies below that of ``other``."""
        return sum(self.at(figure, suffix, one, k, i) < self.at(figure, suffix, other, k, i) for k, i in places)


HEAD = tuple(name for _, _, name in NINE)


def claims() -> Iterator[str]:
    a = run("offloading")
    t = Table(a)
    yield f"on {a.record.ended_utc[:10]}"
    yield from _table1(a)
    yield from _allocator(a)
    yield from _all_offloaded(a, t)
    yield from _joint(a, t)
    yield from _policy(a, t)
    yield from _decisions(a, t)
    yield from _measured(a, t)


def _table1(a: Run) -> Iterator[str]:
    line = a.line("table1", "paper B's allocator")
    ours, printed = ([v or 0.0 for v in values] for values in (line.values, line.published))
    yield f"{ours[0]:,.0f} dynamic parameters (printed: {printed[0] / 1e3:.2f}K), {ours[1]:,.0f} operations (printed: {printed[1] / 1e6:.3f}M)"
    yield f"{ours[2]:,.0f} MACs"


def _allocator(a: Run) -> Iterator[str]:
    def excess(layers: str, k: str) -> str:
        name = f"{layers} layer{'s' if layers != '1' else ''}"
        mean, low, high = (100 * f("fig4a", name, k) for f in (a.at, a.low, a.high))
        return f"{mean:.3g} ({low:.3g} to {high:.3g})"

    yield table(
        ("layers", "k = 1", "2", "5", "10"),
        *((layers, *(excess(layers, k) for k in ("1", "2", "5", "10"))) for layers in ("3", "2", "1")),
    )
    note = a.figure("fig4a").notes[0]
    static, per_user = (note.partition(mark)[2].partition(" %")[0] for mark in ("static network ", "kit's own "))
    yield f"static network (384, 384, 64) is {static} % above the optimum, the per-user allocator {per_user} %"
    values = {(k, layers): a.at("fig4b", f"{layers} layer{'s' if layers > 1 else ''}", k) for layers in (1, 2, 3) for k in a.figure("fig4b").x}  # fmt: skip
    best = min(values, key=lambda size: values[size])
    yield f"the best size is ({best[0]}, {best[1]}) at {1e3 * values[best]:.2f} ms against {1e3 * values['10', 3]:.2f} ms for the largest"


def _all_offloaded(a: Run, t: Table) -> Iterator[str]:
    sizes = ("0.25", "0.5", "1", "2", "4")
    names = (
        "Policy MoE", "best fixed MoE", "Fix width MoE", "Fix depth MoE", "Fix MoE", "Static model", "kit's own", "equal split",
        "optimum of the mean delay", "optimum of the weighted delay",
    )  # fmt: skip
    yield table(
        ("kbit", *sizes),
        *(
            (PER_USER if n == KIT else n, *(f"{t.cell('fig5', '', n, 'a', i, 1e3)} ({digits(1e3 * t.at('fig5', '-weighted', n, 'a', i))})" for i in range(5)))
            for n in names
        ),
    )  # fmt: skip
    policy, equal, mean, weighted = (
        1e3 * t.at("fig5", "", n, "a", 2)
        for n in ("Policy MoE", "equal split", "optimum of the mean delay", "optimum of the weighted delay")
    )
    yield f"the policy has {policy:.1f} ms, the optimum of the weighted delay {weighted:.1f}, the equal split {equal:.1f} and the optimum of the mean delay {mean:.1f}"
    half, other = (1e3 * t.at("fig5", "-weighted", n, "a", 2) for n in ("optimum of the weighted delay", "equal split"))
    yield f"in weighted delay the order is turned round: {half:.2f} against {other:.1f} ms for the equal split"
    gains = [t.at("fig5", "", "Fix MoE", "a", i) / t.at("fig5", "", "Policy MoE", "a", i) for i in range(5)]
    yield f"{gains[0]:.2f} times the policy's mean delay at 0.25 kbit, {gains[-1]:.2f} times at 4 kbit"
    static = sum(
        t.at("fig5", "", "Static model", k, i)
        == max(t.at("fig5", "", n, k, i) for n in names[:7])
        for k, i in DISTINCT
    )  # fmt: skip
    yield f"static is the slowest of them at {static} of {len(DISTINCT)} places"
    misses = [100 * t.at("fig6", "", n, "a", 2) for n in ("Policy MoE", "Fix MoE", "Static model", "equal split")]
    yield f"the policy misses {misses[0]:.1f} % of the deadlines, the largest network {misses[1]:.1f}, static {misses[2]:.1f}, the equal split {misses[3]:.1f}"
    ga = t.at("fig5", "", "GA", "a", 2)
    assert all(t.at("fig6", "", "GA", k, i) == 1.0 for k, i in DISTINCT)
    yield f"its two slots at 1 kbit take {ga:.1f} s in the mean, its search counted"


def _joint(a: Run, t: Table) -> Iterator[str]:
    yield table(("mean delay, ms", *HEAD), *t.rows("fig7", "", 1e3, (COST, MEAN)))
    yield table(("joint cost", *HEAD), *t.rows("fig7", "-cost", 1.0, (COST, MEAN)))
    yield table(("missed, %", *HEAD), *t.rows("fig8", "", 100.0, (COST, MEAN)))
    yield table(("offloaded, %", *HEAD), *t.rows("fig7", "-offloaded", 100.0, (COST, MEAN)))
    count = len(DISTINCT)
    for scheduler, name in ((PAPERS, "paper B's scheduler"), (KIT, "the ranked scheduler")):
        yield (
            f"{name}: random offloading has less mean delay at {t.below('fig7', '', RANDOM, scheduler)} of {count} places, local execution at "
            f"{t.below('fig7', '', LOCAL, scheduler)}"
        )
    default, slow, light = (("a", 2), ("d", 0), ("b", 0))

    def ms(line: str, place: tuple[str, int]) -> str:
        return f"{1e3 * t.at('fig7', '', line, *place):.1f}"

    yield f"at the default {ms(PAPERS, default)} ms against {ms(RANDOM, default)} of random offloading"
    yield f"at 1 GHz {ms(PAPERS, slow)} against {ms(RANDOM, slow)} (random) and {ms(LOCAL, slow)} (local)"
    yield f"at 200 cycles/bit {ms(PAPERS, light)} against {ms(LOCAL, light)} (local)"
    bars: Any = a.record.parameters["bars"]
    worst = bars["kit's own: cost less the best rival's, worst"]
    assert worst < 0
    yield f"at the closest place and seed by {-worst:.2f}"
    theirs = max(
        t.at("fig7", "-cost", PAPERS, k, i)
        - min(t.at("fig7", "-cost", n, k, i) for n in NAMES if n not in (PAPERS, KIT))
        for k, i in DISTINCT
    )
    ties = bars[f"{PAPERS}: cost less the best rival's, worst"]
    yield f"paper B's scheduler in the mean over the seeds, too (the closest place: {theirs:+.3f}; the closest seed: {ties:+.3f})"
    mean = [1e3 * t.at("fig7", "", n, *default) for n in (COST, MEAN)]
    yield f"{mean[1]:.1f} ms of mean delay where the reference of the joint cost has {mean[0]:.1f}"
    every = t.below("fig8", "", RANDOM, LOCAL)
    yield f"local execution misses more than random offloading at {every} of {count} places"
    home, half = (100 * t.at("fig8", "", n, *default) for n in (LOCAL, RANDOM))
    yield f"at the default {home:.2f} % at home, {half:.2f} % of a random half offloaded"
    above = sum(t.at("fig8", "", KIT, k, i) > t.at("fig8", "", RANDOM, k, i) for k, i in DISTINCT)
    theirs_above = sum(t.at("fig8", "", PAPERS, k, i) > t.at("fig8", "", RANDOM, k, i) for k, i in DISTINCT)
    yield f"the ranked scheduler misses more than random offloading at {above} of {count} places, paper B's scheduler at {theirs_above}"
    crowded = [100 * t.at("fig8", "", n, "a", 4) for n in (COST, RANDOM, "Policy MoE (half)")]
    yield f"at 4 kbit the reference of the joint cost itself misses {crowded[0]:.1f} %, random offloading {crowded[1]:.1f} and a random half {crowded[2]:.1f}"
    energy = [t.at("fig9", "", n, *default) for n in (PAPERS, KIT, COST, LOCAL)]
    yield f"{energy[0]:.0f} J a slot with paper B's scheduler, {energy[1]:.0f} with the ranked one, {energy[2]:.0f} with the reference and {energy[3]:,.0f} at home"
    ga, free = (t.at("fig7", "-cost", n, *default) for n in ("GA", "GA, its time free"))
    yield f"joint cost {ga:.0f} with its time and {free:.2f} without"


def _policy(a: Run, t: Table) -> Iterator[str]:
    gains = [
        t.at("fig5", "-cost", "Fix MoE", k, i) / t.at("fig5", "-cost", "Policy MoE", k, i) - 1 for k, i in DISTINCT
    ]
    yield f"the largest network costs {100 * min(gains):.0f} to {100 * max(gains):.0f} % more than the policy"
    ratio = [
        t.at("fig5", "-cost", "Policy MoE", k, i) / t.at("fig5", "-cost", "best fixed MoE", k, i) for k, i in DISTINCT
    ]
    bars: Any = a.record.parameters["bars"]
    yield f"{min(ratio):.4f} to {max(ratio):.4f} of its cost at the {len(DISTINCT)} places (means over the seeds; the worst seed {bars['policy over best fixed, cost']:.4f})"
    x, name = "fig10-mixed", "all tasks offloaded"

    def mixed(place: str) -> str:
        return f"{a.at(x, name, place):.4f} ({a.low(x, name, place):.4f} to {a.high(x, name, place):.4f})"

    yield f"it costs {mixed('policy of eq. 29')} of the best fixed size, where the best of each slot would cost {mixed('best of each slot')} and the largest network {mixed('largest')}"
    macs = [t.at("fig10", "", "Policy MoE", "a", i) / 1e3 for i in (0, 4)]
    largest, per_user = (t.at("fig10", "", n, "a", 2) for n in ("Fix MoE", "kit's own"))
    yield f"from {macs[0]:.0f} thousand at 0.25 kbit to {macs[1]:.0f} thousand at 4 kbit, against {largest / 1e6:.2f} million fixed and {per_user / 1e3:.0f} thousand of the per-user allocator"
    shares = {
        n: [100 * t.at("fig11", "", n, "a", i) for i in (0, 4)]
        for n in ("Policy MoE", "Fix MoE", "Static model", "kit's own")
    }
    (p0, p1), (f0, f1), (s0, s1), (k0, k1) = shares.values()
    yield f"is {p0:.1f} to {p1:.1f} %, against {f0:.0f} to {f1:.0f} % for the largest, {s0:.0f} to {s1:.0f} % for static and {k0:.1f} to {k1:.1f} % for the per-user allocator"


def _decisions(a: Run, t: Table) -> Iterator[str]:
    shown = {
        PAPERS: "eqs. 22 to 27, overall reward",
        KIT: "ranked scheduler",
        SLOW: "ranked scheduler, deciding takes the largest network's time",
        "all offloaded": "all offloaded",
    }
    head = (
        "0.25",
        "1",
        "4 kbit",
        "200",
        "400",
        "1600",
        "3200 cycles/bit",
        "10",
        "20",
        "40",
        "50 tasks",
        "1",
        "1.5",
        "4",
        "6 GHz",
    )
    places = [("a", 0), ("a", 2), ("a", 4)] + [(key, i) for key in "bcd" for i in (0, 1, 3, 4)]
    yield table(
        ("% above the reference", *head),
        *(
            (name, *(f"{100 * t.at('fig7', '-decisions', line, k, i):.2g}" for k, i in places))
            for line, name in shown.items()
        ),
    )
    worst, mine, slow, light = _worst(a, t)
    yield f"within {worst:.1f} % of the reference at every place and in every seed"
    yield f"within {mine:.3f} % with the smallest network's time, and within {slow:.2f} % where deciding takes as long as with the largest ({light:.2f} % at 200 cycles/bit)"


def _measured(a: Run, t: Table) -> Iterator[str]:
    b = run("offloading-measured")
    m = Table(b)
    spent: Any = b.record.parameters["computing_s"]
    yield f"Deciding takes {1e6 * spent['paper']['1,1']:.1f} µs with (1, 1) and {1e6 * spent['paper']['10,3']:.0f} with (10, 3)"
    yield f"paper B's static network {1e6 * spent['static']['1,3']:.0f}"
    yield f"{len(spent['paper'])} of the 30 sizes were measured well enough to decide"
    three = ((0, "0.25"), (2, "1"), (4, "4"))
    rows = []
    for n in ("Policy MoE", "best fixed MoE", "Fix MoE", "Static model", "kit's own"):
        shares = [f"{100 * m.at('fig11', '', n, 'a', i):.2g}" for i in (0, 4)]
        rows.append(
            (
                PER_USER if n == KIT else n,
                *(digits(1e3 * m.at("fig5", "-weighted", n, "a", i)) for i, _ in three),
                *shares,
            )
        )
    limit = "optimum of the weighted delay"
    rows.append((limit, *(digits(1e3 * m.at("fig5", "-weighted", limit, "a", i)) for i, _ in three), "", ""))
    yield table(("kbit", *(x for _, x in three), "share of deciding at 0.25, %", "at 4, %"), *rows)

    def rows_of(figure: str, suffix: str, scale: float) -> list[tuple[str, ...]]:
        names = {
            PAPERS: "paper B's scheduler",
            "Fix MoE (RL)": "the same, largest network",
            KIT: "ranked scheduler (counts as the largest)",
            RANDOM: "random",
            LOCAL: "local",
            "Policy MoE (all offloaded)": "all offloaded",
            COST: COST,
            MEAN: MEAN,
        }
        return [(s, *(digits(scale * m.at(figure, suffix, n, k, i)) for k, i, _ in NINE)) for n, s in names.items()]

    yield table(("measured: joint cost", *HEAD), *rows_of("fig7", "-cost", 1.0))
    yield table(("measured: mean delay, ms", *HEAD), *rows_of("fig7", "", 1e3))
    more = [
        m.at("fig5", "-cost", "Fix MoE", "a", i) / m.at("fig5", "-cost", "Policy MoE", "a", i) - 1 for i in range(5)
    ]
    formula = [
        t.at("fig5", "-cost", "Fix MoE", "a", i) / t.at("fig5", "-cost", "Policy MoE", "a", i) - 1 for i in range(5)
    ]
    yield f"costs {100 * min(more):.1f} to {100 * max(more):.1f} % more than the policy's choice in place of {100 * min(formula):.0f} to {100 * max(formula):.0f} % (over size)"
    bars: Any = b.record.parameters["bars"]
    gaps = [100 * bars[f"{n}: decisions above the reference, worst"] for n in (PAPERS, KIT, SLOW)]
    yield f"paper B's decisions are up to {gaps[0]:.1f} % above the reference, the ranked scheduler's up to {gaps[1]:.3f} % ({gaps[2]:.3f} % with the time of the largest network)"
    dearer = m.below("fig7", "-cost", PAPERS, KIT)
    ahead = max(m.at("fig7", "-cost", KIT, k, i) / m.at("fig7", "-cost", PAPERS, k, i) - 1 for k, i in DISTINCT)
    yield f"counted as the largest network, it costs more than paper B's scheduler at {dearer} of {len(DISTINCT)} places, {100 * ahead:.1f} % at most"
    yield f"random offloading has less mean delay than paper B's scheduler at {m.below('fig7', '', RANDOM, PAPERS)} of {len(DISTINCT)} places on measured time"
    x, all_at_once = "fig10-mixed", "all tasks offloaded"
    largest, policy, best = (
        b.at(x, all_at_once, place) for place in ("largest", "policy of eq. 29", "best of each slot")
    )
    yield f"the largest network costs {largest:.3f} of the best fixed size, the policy {policy:.4f} and the best of each slot {best:.4f}"


def _worst(a: Run, t: Table) -> tuple[float, float, float, float]:
    bars: Any = a.record.parameters["bars"]
    names = (PAPERS, KIT, SLOW)
    worst, mine, slow = (100 * bars[f"{n}: decisions above the reference, worst"] for n in names)
    return worst, mine, slow, 100 * t.at("fig7", "-decisions", SLOW, "b", 0)


def results() -> Iterator[str]:  # quoted by docs/results.md
    a = run("offloading")
    worst, mine, slow, _ = _worst(a, Table(a))
    yield f"the ranked scheduler is within {mine:.2f} % of the reference in 17 worlds and three seeds ({slow:.1f} % where deciding takes as long as with the largest network), paper B's within {worst:.1f} %"
    t, m = Table(a), Table(run("offloading-measured"))
    more, formula = (
        [
            100 * (of.at("fig5", "-cost", "Fix MoE", "a", i) / of.at("fig5", "-cost", "Policy MoE", "a", i) - 1)
            for i in range(5)
        ]
        for of in (m, t)
    )
    yield f"the largest network costs {min(more):.1f} to {max(more):.1f} % more than the size that the policy picks, where the formula says {min(formula):.0f} to {max(formula):.0f} %"
    count = len(DISTINCT)
    yield f"in mean delay, which the paper prints, random offloading beats paper B's scheduler in {t.below('fig7', '', RANDOM, PAPERS)} of {count} worlds and the ranked scheduler in {t.below('fig7', '', RANDOM, KIT)}"
