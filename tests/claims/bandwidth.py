"""What docs/papers/bandwidth.md says of paper A."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from quoted import Run, run, table

PAGE = "docs/papers/bandwidth.md"
SETTINGS = (
    "seeds 0 to 4",
    "4,000 steps of 256 frames",
    "10,000 evaluation frames",
    "10 MHz, 0.1 W, -40 dB, 1 m, 1e-17 W/Hz",
    "up to 500 m (at least 1 m); 0.8, 0.4, 0.2, 0.1 equally likely",
    "6G Wireless",
    "30 users give the printed 2.17K",
    "(2 cycles a MAC)",
    "uniform, 0 to twice the average",
    "The 4,000-step training",
    "| users | 30 | not stated: 30 outputs give the printed 2.17K MACs an expert, 32 * 36 + 32 + 32 * 30 + 30 |",
    "table I at 10 kbit on average",
    "| 2 cycles a MAC |",
    "K * 2174 * 2 / 0.5 GHz * 0.375",
    "exact to 1e-13 of the band",
    "(ms, 10 kbit)",
    "(ms, 0.5 GHz)",
    "PERF above 90 %",
    "dynamic at full width better than static (99.73 %)",
    "for 5 to 50 users",
    "0.5 to 10 kbit, 10 MHz to 1 GHz",
    "sizes of 0.25 to 10 kbit in steps of 0.25",
    "30 clocks (one per user), uniform from 10 MHz to 1 GHz",
    "of 200 draws",
    "another pooling gives 16 to 97 % for the minimum",
    "K = 1",
    "K = 5",
    "30 experts",
    "50 steps",
    "step 50",
    "4,000 steps",
    "batch 1",
)
WIDTHS = ("1", "2", "5", "10", "20", "30")
COLUMNS = (*WIDTHS, "static")
OURS, EARLY, STOPPED = "mixture of experts", "mixture, a schedule of 50 steps", "mixture, stopped at step 50 of 4,000"
RUNTIMES = ("allocator", "onnxruntime", "pytorch")
FIG4 = ("minimum", "median", "lower quartile")


def percent(share: float, digits: int = 3) -> str:
    return f"{100 * share:.{digits}f}"


def spans(a: Run, figure: str, line: str, places: tuple[str, ...], scale: float, digits: int) -> list[str]:
    """The mean and, in brackets, the least and the largest of the seeds."""
    return [
        f"{scale * a.at(figure, line, x):.{digits}f} ({scale * a.low(figure, line, x):.{digits}f} to {scale * a.high(figure, line, x):.{digits}f})"
        for x in places
    ]


def signed(a: Run, figure: str, line: str) -> list[str]:
    return [f"{100 * v:+.1f}" for v in a.values(figure, line)]


def noted(a: Run, figure: str, pattern: str) -> str:
    """What a note of the figure says."""
    return next(found[1] for note in a.figure(figure).notes if (found := re.search(pattern, note)))


def published(a: Run, figure: str, line: str, scale: float = 1e3, digits: int = 3) -> list[str]:
    return [f"{scale * (v or 0.0):.{digits}f}" for v in a.line(figure, line).published]


def claims() -> Iterator[str]:
    a = run("bandwidth")
    yield from _table1(a)
    yield from _table2(a)
    yield from _figures(a)
    yield from _measured(a)


def _table1(a: Run) -> Iterator[str]:
    yield f"on {a.record.ended_utc[:10]}"
    yield f"one run of {a.record.wall_s / 60:.0f} minutes on one core"
    optimum, root, equal = (1e3 * a.at("table1", n, "1") for n in ("optimum", "square-root rule", "equal split"))
    yield table(
        ("K", *COLUMNS),
        ("paper", *published(a, "table1", OURS)),
        ("ours, 4,000 steps", *(f"{1e3 * a.at('table1', OURS, x):.4f}" for x in COLUMNS)),
        ("above the optimum, %", *spans(a, "table1-excess", OURS, COLUMNS, 100, 3)),
        ("ours, a schedule of 50 steps", *spans(a, "table1", EARLY, COLUMNS, 1e3, 2)),
        ("ours, stopped at step 50 of 4,000", *spans(a, "table1", STOPPED, COLUMNS, 1e3, 2)),
        (f"optimum / square-root rule / equal split: {optimum:.4f} / {root:.4f} / {equal:.4f}", *[""] * len(COLUMNS)),
    )
    printed = a.values("table1-excess", "table I as printed")
    ended, early, cut = (a.values("table1-excess", name)[:-1] for name in (OURS, EARLY, STOPPED))
    yield f"lie {percent(min(printed), 1)} to {percent(max(printed), 1)} % above the optimum of the same world"
    worst = max(a.high("table1-excess", OURS, x) for x in WIDTHS)
    yield f"lies {percent(min(ended))} to {percent(max(ended))} % above it on average at every width, {percent(worst)} % in its worst seed at K = 1"
    yield f"the delay of no seed rises by more than {noted(a, 'table1', r'rises by more than ([^ ]+) %')} %"
    yield f"leaves {percent(min(early), 1)} to {percent(max(early), 1)} % on average"
    yield f"leaves {percent(min(cut), 1)} to {percent(max(cut), 1)} % and a static network {percent(a.at('table1-excess', STOPPED, 'static'), 1)} %"
    yield f"static network of that schedule has {1e3 * a.at('table1', EARLY, 'static'):.2f} ms, {percent(a.at('table1-excess', EARLY, 'static'), 1)} % above"
    best = min(v or 0.0 for v in a.line("table1", OURS).published)
    yield f"without any network, has {percent(optimum / equal, 1)} % of the optimum and {percent(1e3 * best / equal, 1)} % of the printed best"
    static, thirty = (a.at("table1-excess", OURS, x) for x in ("static", "30"))
    yield f"trained to the end they lie {percent(thirty)} and {percent(static)} % above the optimum"
    own = [line.name for line in a.figure("table1-users").lines]
    users = ("5", "15", "30", "50")
    yield table(
        ("users", *users), *((n.removeprefix("per-user, "), *spans(a, "table1-users", n, users, 100, 3)) for n in own)
    )


def _table2(a: Run) -> Iterator[str]:
    sizes = ("2", "4", "6", "8", "10")

    def ours(name: str) -> list[str]:
        return [f"{1e3 * a.at('table2', name, x):.3f}" for x in sizes]

    rows = []
    for name in ("K = 1", "K = 5", "K = 30", "static"):
        rows += [(f"{name}, paper", *published(a, "table2", name)), (f"{name}, ours", *ours(name))]
    for name in ("per-user, 4 units, 1 layer", "per-user, 8 units, 1 layer", "per-user, 32 units, 3 layers"):
        rows.append((name, *ours(name)))
    rows += [("optimum, computing free", *ours("optimum, computing free")), ("equal split", *ours("equal split"))]
    yield table(("average size (kbit)", *sizes), *rows)
    one = [v or 0.0 for v in a.line("table2", "K = 1").published]
    spent = a.at("table2", "K = 1", "10") - a.at("table1", OURS, "1")
    tra = np.array([(v - spent) / float(x) for v, x in zip(one, sizes, strict=True)])
    yield f"K = 1 is off that proportion by up to {percent(float(np.abs(tra / tra[-1] - 1).max()), 1)} %"


def _widths(a: Run, name: str) -> str:
    return noted(a, f"fig3-{name}", r"somewhere the best: ([^.]+)\.")


def _figures(a: Run) -> Iterator[str]:
    yield table(
        ("quality", "widths that are somewhere the best"),
        ("table I as printed", _widths(a, "printed")),
        ("ours, a schedule of 50 steps", _widths(a, "early")),
        ("ours, 4,000 steps", _widths(a, "trained")),
    )
    paper = [f"{100 * (v or 0.0):+.1f}" for v in a.line("fig4-printed", "knowledge").published]
    yield table(
        ("", *FIG4),
        ("paper", *paper),
        ("knowledge, table I as printed", *signed(a, "fig4-printed", "knowledge")),
        ("knowledge, ours, a schedule of 50 steps", *signed(a, "fig4-early", "knowledge")),
        ("knowledge, ours, 4,000 steps", *signed(a, "fig4-trained", "knowledge")),
        ("K = 1, table I as printed", *signed(a, "fig4-printed", "K = 1")),
        ("K = 5, table I as printed", *signed(a, "fig4-printed", "K = 5")),
        ("random K, table I as printed", *signed(a, "fig4-printed", "random K")),
    )
    points = noted(a, "fig4-printed", r"own spread is ([\d., ]+) points").replace(", ", " ").split()
    yield f"move the three numbers by {points[0]}, {points[1]} and {points[2]} points"
    saved = {n: a.at("fig4-saved", f"{n}, clocks of Fig. 4", "best fixed K") for n in ("table I as printed", "a schedule of 50 steps", "trained for 4,000 steps")}  # fmt: skip
    first, second, third = (percent(v, 1 if v else 0) for v in saved.values())
    yield f"saves {first} % of the mean delay (table I), {second} % (a schedule of 50 steps), {third} % (4,000 steps:"
    yield f"by {first} % of the mean delay over the best fixed one with table I"
    worst = noted(a, "fig4-saved", r"schedule of 50 steps: in no cell does knowledge lie more than ([^ ]+) %")
    yield f"In no cell does it lie more than {worst} % above the best fixed width of that cell"


def _measured(a: Run) -> Iterator[str]:
    runs = {name: run(f"bandwidth-measured-{name}") for name in RUNTIMES}
    spent = {n: [1e6 * r.record.parameters["computing_s"]["mixture"][k] for k in ("1", "30")] for n, r in runs.items()}  # type: ignore[index,call-overload]
    yield (
        f"takes {spent['allocator'][0]:.2f} (K = 1) to {spent['allocator'][1]:.1f} µs (K = 30) compiled, "
        f"{spent['onnxruntime'][0]:.1f} to {spent['onnxruntime'][1]:.0f} µs in onnxruntime and {spent['pytorch'][0]:.0f} to "
        f"{spent['pytorch'][1]:.0f} µs in PyTorch"
    )
    own = "per-user, 8 units, 1 layer"

    def at_half(r: Run) -> list[str]:
        names = ("K = 1", "K = 30", "static", own, "optimum, computing free")
        return [f"{1e3 * r.at('table2', n, '10'):.3f}" for n in names]

    yield table(
        ("10 kbit, 0.5 GHz (ms)", "K = 1", "K = 30", "static", "per-user, 8 units", "optimum"),
        ("formula", *at_half(a)),
        *((f"measured: {n}", *at_half(r)) for n, r in runs.items()),
    )

    def three(r: Run, figure: str, line: str) -> str:
        return " / ".join(signed(r, figure, line))

    def fig4(r: Run) -> list[str]:
        return [
            three(r, "fig4-printed", "knowledge"), three(r, "fig4-trained", "knowledge"), three(r, "fig4-trained", "K = 1"),
            three(r, "fig4-trained", "K = 30"), f"{_widths(r, 'printed')} / {_widths(r, 'trained')}",
        ]  # fmt: skip

    yield table(
        ("computing time", "knowledge, table I", "knowledge, ours", "K = 1, ours", "K = 30, ours", "best K somewhere, table I / ours"),
        ("formula, 2 cycles a MAC", *fig4(a)),
        *((f"measured: {n}", *fig4(r)) for n, r in runs.items()),
    )  # fmt: skip
    against = ("K = 1", "K = 30", "random K", "best fixed K", "K by the formula")
    rows = []
    for name, r in runs.items():
        for line in r.figure("fig4-saved").lines:
            if "schedule" not in line.name:
                short = line.name.replace("trained for 4,000 steps", "ours")
                rows.append((f"{name}: {short}", *(f"{100 * (v or 0.0):.2f}" for v in line.values)))
    yield table(("saved of the mean delay (%) against", *against[:-1], "the formula's K"), *rows)
    more = spent["allocator"][1] - spent["allocator"][0]
    printed = runs["allocator"].at("fig4-printed", "knowledge", "median")
    formula = a.at("fig4-printed", "knowledge", "median")
    slow = runs["pytorch"].at("fig4-printed", "knowledge", "median")
    yield f"the widest network costs {more:.1f} µs more than the narrowest"
    yield f"knowledge is {-100 * printed:.1f} % below static at the median with table I, where the formula promises {-100 * formula:.1f} %"
    yield f"In PyTorch it is {100 * slow:.1f} % *above*"
    other = {n: noted(r, "fig3-printed", r"another width in (\d+)%") for n, r in runs.items()}
    yield f"another width in {other['allocator']} % of the cells (compiled), {other['onnxruntime']} % (onnxruntime) and {other['pytorch']} % (PyTorch)"


def results() -> Iterator[str]:  # quoted by docs/results.md
    a = run("bandwidth")
    runs = {name: run(f"bandwidth-measured-{name}") for name in RUNTIMES}
    other = [int(noted(r, "fig3-printed", r"another width in (\d+)%")) for r in runs.values()]
    spent = {n: [1e6 * r.record.parameters["computing_s"]["mixture"][k] for k in ("1", "30")] for n, r in runs.items()}  # type: ignore[index,call-overload]
    yield f"in {min(other)} to {max(other)} % of the cells when its networks are timed in three runtimes"
    yield (
        f"{spent['allocator'][0]:.2f} to {spent['allocator'][1]:.1f} µs for 1 to 30 experts compiled by kit, "
        f"{spent['onnxruntime'][0]:.1f} to {spent['onnxruntime'][1]:.0f} in onnxruntime, {spent['pytorch'][0]:.0f} to {spent['pytorch'][1]:.0f} in PyTorch"
    )
    printed = runs["allocator"].at("fig4-printed", "knowledge", "median")
    formula = a.at("fig4-printed", "knowledge", "median")
    yield f"saves {-100 * printed:.1f} % of the delay at the median where the formula promises {-100 * formula:.1f} %"
    low, high = (
        min(a.low("table1-excess", OURS, x) for x in WIDTHS),
        max(a.high("table1-excess", OURS, x) for x in WIDTHS),
    )
    yield f"every width lies {percent(low)} to {percent(high)} % above the true optimum (five seeds)"
