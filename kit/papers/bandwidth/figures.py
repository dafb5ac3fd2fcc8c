"""The tables and figures of paper A: ours over the seeds beside the optimum, the splits that need no network, and what is printed.

``table1`` transmission delay by width, ``table2`` with the computing time by task size, ``fig2`` over the clock, ``fig3`` the best width
over size and clock, ``fig4`` what the knowledge of the best width saves. Figures 3 and 4 stand on three qualities: table I as printed,
our networks, and networks with a schedule of a few steps only. What is printed stands beside the paper's own world alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.knowledge import TABLE_I
from kit.papers import engine
from kit.papers.bandwidth.experiment import USERS_SHOWN, BandwidthPoint, Delays, Experiment, quality, size_key
from kit.papers.bandwidth.printed import CLOCKS_HZ, FIG4, SIZES_BIT, STATIC_S, TABLE_II, best_sizes, pool
from kit.papers.bandwidth.train import PER_USER
from kit.papers.bandwidth.world import BandwidthWorld
from kit.papers.delays import Analytic, Measured
from kit.papers.results import Figure, Line, Value, check_figures, line_of
from kit.papers.streams import generator
from kit.records import AllocationQuality
from kit.stats import Float64Array

TABLE_II_BIT = (2e3, 4e3, 6e3, 8e3, 10e3)
FIG2_HZ = tuple(float(f) for f in np.geomspace(20e6, 2e9, 13).round(-5))
FIG3_BIT = tuple(500.0 * step for step in range(1, 21))
FIG3_HZ = tuple(float(f) for f in np.geomspace(*CLOCKS_HZ, 25))
RANDOM, FORMULA = "random K", "K by the formula"
POOLS = 200  # repeats of Fig. 4's random clocks
STATISTICS: dict[str, Callable[[Float64Array], Float64Array]] = {
    "minimum": lambda v: v.min(axis=1),
    "median": lambda v: np.median(v, axis=1),
    "lower quartile": lambda v: np.quantile(v, 0.25, axis=1),
}
PRINTED = "table I as printed"
FEW = 0.005  # of the delay: below this, width buys next to nothing


def figures_of(experiment: Experiment, delays: Delays, names: Sequence[str] = ()) -> tuple[Figure, ...]:
    """The figures of these names, all unless named. Raises UnknownName."""
    check_figures(names, FIGURES)
    figures = [figure for name in FIGURES if name in names or not names for figure in FIGURES[name](experiment, delays)]
    settings = experiment.settings
    if not settings.quick:
        return tuple(figures)
    note = f"Quick: {settings.steps} steps and {settings.frames:,} frames, to see that it works."
    return tuple(engine.marked_quick(figures, note))


# ---------------------------------------------------------------------------------------------------------------- table I


def table1(experiment: Experiment, delays: Delays) -> Iterator[Figure]:
    """T_tra by width, how far that lies above the optimum, the paper's PERF, and the per-user network for other numbers of users."""
    widths = list(TABLE_I.delay_s)
    x = (*widths, "static")
    printed = (*TABLE_I.delay_s.values(), STATIC_S) if experiment.printed else ()
    trained_s = _runs(experiment, lambda point: [*(point.mixture[k] for k in widths), point.static_s])
    early_s = _runs(experiment, lambda point: [*(point.early[k] for k in widths), point.early_static_s])
    stopped = _runs(experiment, lambda point: [*(point.stopped[k] for k in widths), point.stopped_static_s])
    limits = experiment.limits
    per_user = {size: _runs(experiment, lambda point, size=size: [point.per_user[size_key(size)]]) for size in PER_USER}  # type: ignore[misc]
    early = f"mixture, a schedule of {experiment.early} steps"
    cut = f"mixture, stopped at step {experiment.early} of {experiment.settings.steps:,}"
    flat = {"optimum": limits.optimum_s, "square-root rule": limits.root_s, "equal split": limits.equal_s}
    yield Figure(
        figure="table1",
        title=f"Transmission delay by width, average size {_kbit(experiment.world)} kbit",
        x_name="width K",
        x=x,
        y_name="T_tra",
        shown="table",
        lines=(
            line_of("mixture of experts", trained_s, published=printed),
            line_of(early, early_s),
            line_of(cut, stopped),
            *(line_of(_per_user_name(size), np.repeat(runs, len(x), axis=1)) for size, runs in per_user.items()),
            *(line_of(name, [[value] * len(x)]) for name, value in flat.items()),
        ),
        notes=_about_table1(experiment, trained_s, early_s, stopped),
    )
    yield Figure(
        figure="table1-excess",
        title="How far above the true optimum",
        x_name="width K",
        x=x,
        y_name="T_tra / optimum - 1",
        unit="1",
        shown="lines",
        lines=(
            line_of("mixture of experts", trained_s / limits.optimum_s - 1),
            line_of(early, early_s / limits.optimum_s - 1),
            line_of(cut, stopped / limits.optimum_s - 1),
            *([line_of(PRINTED, np.array(printed)[None] / limits.optimum_s - 1)] if printed else []),
            line_of(
                _per_user_name(PER_USER[0]), np.repeat(per_user[PER_USER[0]], len(x), axis=1) / limits.optimum_s - 1
            ),
            line_of("equal split", [[limits.equal_s / limits.optimum_s - 1] * len(x)]),
        ),
    )
    perf = tuple(min(printed) / value for value in printed)
    yield Figure(
        figure="table1-perf",
        title="PERF: the least delay of the row over each",
        x_name="width K",
        x=x,
        y_name="PERF",
        unit="1",
        shown="table",
        lines=(
            line_of("mixture of experts", trained_s.min(axis=1, keepdims=True) / trained_s, published=perf),
            line_of(early, early_s.min(axis=1, keepdims=True) / early_s),
            line_of(cut, stopped.min(axis=1, keepdims=True) / stopped),
            line_of("equal split", [[float(trained_s.min(axis=1).mean()) / limits.equal_s] * len(x)]),
        ),
        notes=(
            "PERF compares with the best of its own row; the equal split's is against the best network of its seed.",
        ),
    )
    yield Figure(
        figure="table1-users",
        title="One network for 5 to 50 users: above the optimum",
        x_name="users",
        x=tuple(map(str, USERS_SHOWN)),
        y_name="T_tra / optimum - 1",
        unit="1",
        shown="lines",
        lines=tuple(
            line_of(_per_user_name(size), _runs(experiment, lambda point, at=at: point.users_excess[at]))  # type: ignore[misc]
            for at, size in enumerate(PER_USER)
        ),
        notes=("The same weights serve every number of users; absent ones are masked.",),
    )


def _about_table1(
    experiment: Experiment, trained_s: Float64Array, early_s: Float64Array, stopped: Float64Array
) -> tuple[str, ...]:
    least = experiment.limits.optimum_s
    rise = float((np.diff(trained_s[:, :-1], axis=1) / trained_s[:, :-2]).max())
    means = trained_s.mean(axis=0) / least - 1
    width_buys = float(means[0] - means[:-1].min())
    steps, static = f"{experiment.settings.steps:,} steps", _percent(means[-1])
    finding = f"Trained for {steps}, the mixture lies {_range(means[:-1])} above it and the static network {static}"
    if width_buys < FEW:
        finding += ": width buys next to nothing, and the printed order of the columns is not to be expected"
    early_excess, stopped_excess = (rows.mean(axis=0)[:-1] / least - 1 for rows in (early_s, stopped))
    notes = [
        f"{finding}.",
        f"A schedule of {experiment.early} steps, learned to its end, leaves the mixture {_range(early_excess)} above.",
        f"A schedule of {steps}, stopped at step {experiment.early}, leaves it {_range(stopped_excess)} above.",
        f"From one width to the next the delay of no seed rises by more than {_percent(max(rise, 0.0))}.",
    ]
    if experiment.printed:
        printed = np.array([*TABLE_I.delay_s.values(), STATIC_S]) / least - 1
        notes.insert(0, f"The printed delays lie {_range(printed)} above the optimum of the same world.")
    return tuple(notes)


# --------------------------------------------------------------------------------------------------- table II and figure 2


def table2(experiment: Experiment, delays: Delays) -> Iterator[Figure]:
    """T_tra + T_com by average size, at the world's clock."""
    clock = experiment.world.clock_hz
    notes = [
        f"Computing at {clock / 1e9:g} GHz. Every delay is of degree one in the sizes, so T_tra follows from one size; the paper ran "
        "each of them."
    ]
    if delays.measured:
        notes.append("Measured at another clock: its cycles are kept.")
    yield Figure(
        figure="table2",
        title="Delay with computing, by average size",
        x_name="average size (kbit)",
        x=tuple(f"{bits / 1e3:g}" for bits in TABLE_II_BIT),
        y_name="T_tra + T_com",
        shown="table",
        lines=tuple(
            _totals(
                experiment,
                delays,
                [(bits, clock) for bits in TABLE_II_BIT],
                lambda width: tuple(v * 1e-3 for v in TABLE_II[width]) if experiment.printed else (),
            )
        ),
        notes=(*notes, *delays.notes),
    )


def fig2(experiment: Experiment, delays: Delays) -> Iterator[Figure]:
    """T_tra + T_com over the clock, at the world's average size."""
    world = experiment.world
    printed = isinstance(delays.mixture, Analytic) and experiment.printed

    def follows(width: str) -> tuple[float, ...]:
        allocation = STATIC_S if width == "static" else TABLE_I.delay_s[width]
        computing_s = world.weight_mean * delays.mixture_s(width, np.array(FIG2_HZ))
        return tuple(float(v) for v in allocation + computing_s)

    yield Figure(
        figure="fig2",
        title=f"Delay with computing, over the clock, average size {_kbit(world)} kbit",
        x_name="clock (Hz)",
        x=FIG2_HZ,
        y_name="T_tra + T_com",
        shown="lines",
        lines=tuple(
            _totals(
                experiment,
                delays,
                [(world.size_mean_bit, hz) for hz in FIG2_HZ],
                follows if printed else lambda width: (),
            )
        ),
        notes=(
            *(("The paper prints no numbers here: its column is what follows from its table I.",) if printed else ()),
            *delays.notes,
        ),
    )


def _totals(
    experiment: Experiment,
    delays: Delays,
    places: Sequence[tuple[float, float]],
    published: Callable[[str], Sequence[Value]],
) -> Iterator[Line]:
    """Of each network and split at the (average size in bit, clock) of ``places``."""
    world, limits = experiment.world, experiment.limits
    bits, clocks = np.array(places).T
    scale = bits / world.size_mean_bit
    for width in (*delays.widths, "static"):
        computing_s = world.weight_mean * delays.mixture_s(width, clocks)
        runs = [
            scale * (point.static_s if width == "static" else point.mixture[width]) + computing_s
            for point in experiment.points
        ]
        name = width if width == "static" else f"K = {width}"
        yield line_of(name, np.array(runs), published=published(width))
    for size in delays.per_user_sizes:
        computing_s = world.weight_mean * delays.per_user_s(world, size, clocks)
        yield line_of(
            _per_user_name(size),
            np.array([scale * point.per_user[size_key(size)] + computing_s for point in experiment.points]),
        )
    yield line_of("optimum, computing free", [limits.optimum_s * scale])
    yield line_of("equal split", [limits.equal_s * scale])


# ------------------------------------------------------------------------------------------------------- figures 3 and 4


@dataclass(frozen=True)
class _Source:
    """The quality that the knowledge is drawn from (``known``), and the one that evaluates its choice; with the static network's delay."""

    known: AllocationQuality
    test: AllocationQuality
    static_s: float


def _sources(experiment: Experiment, delays: Delays) -> Iterator[tuple[str, str, list[_Source]]]:
    """(short name, title, one source per seed) of the printed table, of trained networks and of hardly trained ones."""
    world = experiment.world

    def source(
        point: BandwidthPoint, title: str, known: dict[str, float], test: dict[str, float], static_s: float
    ) -> _Source:
        guess, truth = (
            quality(world, {k: v[k] for k in delays.widths}, f"{title}, seed {point.seed}") for v in (known, test)
        )
        return _Source(guess, truth, static_s)

    cut = TABLE_I.model_copy(update={"delay_s": {k: TABLE_I.delay_s[k] for k in delays.widths}})
    yield "printed", PRINTED, [_Source(cut, cut, STATIC_S)]
    points = experiment.points
    title = f"trained for {experiment.settings.steps:,} steps"
    yield "trained", title, [source(p, title, p.mixture_known, p.mixture, p.static_s) for p in points]
    title = f"a schedule of {experiment.early} steps"
    yield "early", title, [source(p, title, p.early_known, p.early, p.early_static_s) for p in points]


def trained_quality(experiment: Experiment) -> AllocationQuality:
    """The delays of the trained mixture, means over the seeds, as the knowledge base takes them."""
    steps, seeds = experiment.settings.steps, ", ".join(map(str, experiment.settings.seeds))
    source = f"kit simulate bandwidth: {steps:,} steps, seeds {seeds}"
    return _mean_quality([quality(experiment.world, point.mixture_known, source) for point in experiment.points])


def fig3(experiment: Experiment, delays: Delays) -> Iterator[Figure]:
    """The best width over average size and clock. Over several seeds the map is that of their mean quality."""
    for name, title, sources in _sources(experiment, delays):
        mean = _mean_quality([s.known for s in sources])
        best = best_sizes(FIG3_BIT, FIG3_HZ, quality=mean, delay=delays.mixture)
        notes = [f"Widths that are somewhere the best: {', '.join(map(str, np.unique(best)))}."]
        if delays.measured:
            formula = best_sizes(FIG3_BIT, FIG3_HZ, quality=mean, delay=Analytic())
            notes.append(
                f"The formula (two cycles a multiply-accumulate) chooses another width in {np.mean(formula != best):.0%} of the cells."
            )
        yield Figure(
            figure=f"fig3-{name}",
            title=f"The best width K: {title}",
            x_name="clock (Hz)",
            x=FIG3_HZ,
            y_name="average size",
            value_name="K",
            unit="number",
            shown="map",
            lines=tuple(
                Line(name=f"{bits / 1e3:g} kbit", values=tuple(map(float, row)))
                for bits, row in zip(FIG3_BIT, best, strict=True)
            ),
            notes=tuple(notes),
        )


def fig4(experiment: Experiment, delays: Delays) -> Iterator[Figure]:
    """Knowledge and its rivals against the static network over pooled cells, and what the choice of the width saves."""
    saved: list[Line] = []
    notes = []
    for name, title, sources in _sources(experiment, delays):
        pooled = [_pooled(s, delays, experiment.settings.seeds[0]) for s in sources]
        gains = {m: np.array([_gains(p[m], p["static"]) for p in pooled]) for m in pooled[0] if m != "static"}
        yield Figure(
            figure=f"fig4-{name}",
            title=f"Delay against the static network: {title}",
            x_name="statistic of the pooled delays",
            x=tuple(STATISTICS),
            y_name="relative to static",
            unit="1",
            shown="bars",
            lines=tuple(
                line_of(m, runs, published=FIG4 if m == "knowledge" and name == "printed" else ())
                for m, runs in gains.items()
            ),
            notes=(
                "Pooled: sizes of 0.25 to 10 kbit in steps of 0.25, 30 clocks each, uniform from 10 MHz to 1 GHz; mean of "
                f"{POOLS} draws, whose own spread is {', '.join(f'{100 * s:.1f}' for s in _gain_spread(pooled[0]))} points.",
            ),
        )
        saved += _saved_lines(title, sources, pooled, delays, experiment.world)
        most = _percent(max(map(_worst, pooled)))
        notes.append(f"{_capital(title)}: in no cell does knowledge lie more than {most} above the best fixed width.")
    yield Figure(
        figure="fig4-saved",
        title="What the choice of the width saves, of the mean delay",
        x_name="against",
        x=("K = 1", "K = 30", RANDOM, "best fixed K", *((FORMULA,) if delays.measured else ())),
        y_name="share of the mean delay saved",
        unit="1",
        shown="table",
        lines=tuple(saved),
        notes=(*_finding(saved, delays), *notes, *delays.notes),
    )


Methods = dict[str, Float64Array]


def _pooled(source: _Source, delays: Delays, seed: int) -> Methods:
    """The delay of each method in each cell of Fig. 4's pool: [repeats, cells]."""
    rng = generator("bandwidth: clocks and widths by chance", seed)
    bits, clocks = pool(rng, POOLS)
    return _methods(source, delays, np.broadcast_to(bits, clocks.shape), clocks, rng)


def _methods(
    source: _Source, delays: Delays, bits: Float64Array, clocks: Float64Array, rng: np.random.Generator
) -> Methods:
    weight = source.known.weight
    widths = list(source.known.delay_s)
    bits, clocks = bits.reshape(len(bits), -1), clocks.reshape(len(clocks), -1)
    scale = bits / source.known.task_bit
    computing_s = [weight * delays.mixture_s(k, clocks) for k in widths]
    truth = np.stack([source.test.delay_s[k] * scale + s for k, s in zip(widths, computing_s, strict=True)])
    guess = np.stack([source.known.delay_s[k] * scale + s for k, s in zip(widths, computing_s, strict=True)])
    methods = {"knowledge": _taken(truth, guess.argmin(axis=0))}
    methods |= {f"K = {k}": truth[index] for index, k in enumerate(widths)}
    methods[RANDOM] = _taken(truth, rng.integers(0, len(widths), bits.shape))
    methods["static"] = source.static_s * scale + weight * delays.mixture_s("static", clocks)
    if delays.measured:
        analytic = [weight * Delays().mixture_s(k, clocks) for k in widths]
        papers = np.stack([source.known.delay_s[k] * scale + s for k, s in zip(widths, analytic, strict=True)])
        methods[FORMULA] = _taken(truth, papers.argmin(axis=0))
    return methods


def _taken(delays: Float64Array, index: NDArray[np.intp]) -> Float64Array:
    taken: Float64Array = np.take_along_axis(delays, index[None], axis=0)[0]
    return taken


def _gains(one: Float64Array, other: Float64Array) -> list[float]:
    return [float((statistic(one) / statistic(other) - 1).mean()) for statistic in STATISTICS.values()]


def _gain_spread(pooled: Methods) -> list[float]:
    one, other = pooled["knowledge"], pooled["static"]
    return [float((statistic(one) / statistic(other) - 1).std()) for statistic in STATISTICS.values()]


def _fixed(pooled: Methods) -> list[Float64Array]:
    return [values for name, values in pooled.items() if name.startswith("K = ")]


def _worst(pooled: Methods) -> float:
    """The most, over all cells, by which knowledge lies above the fixed width that is best in that cell."""
    best = np.minimum.reduce(_fixed(pooled))
    return float((pooled["knowledge"] / best - 1).max())


def _saved(pooled: Methods) -> list[float]:
    mean = float(pooled["knowledge"].mean())
    best = min(float(v.mean()) for v in _fixed(pooled))
    one, thirty, drawn = (float(pooled[name].mean()) for name in ("K = 1", "K = 30", RANDOM))
    formula = [float(pooled[FORMULA].mean())] if FORMULA in pooled else []
    return [1 - mean / other for other in (one, thirty, drawn, best, *formula)]


def _saved_lines(
    title: str, sources: Sequence[_Source], pooled: Sequence[Methods], delays: Delays, world: BandwidthWorld
) -> list[Line]:
    """Over the pool of Fig. 4, and at one clock over its sizes."""
    clock = delays.clock_hz(world)
    bits = np.array([SIZES_BIT])
    alone = [
        _methods(s, delays, bits, np.full_like(bits, clock), generator("bandwidth: widths at one clock", 0))
        for s in sources
    ]
    return [
        line_of(f"{title}, clocks of Fig. 4", np.array([_saved(p) for p in pooled])),
        line_of(f"{title}, at {clock / 1e9:.3g} GHz", np.array([_saved(p) for p in alone])),
    ]


def _finding(saved: Sequence[Line], delays: Delays) -> tuple[str, ...]:
    """What the choice by measured times saves, a sentence for each of the first two lines of ``saved`` (table I, then ours)."""
    if not isinstance(delays.mixture, Measured):
        return ()

    def as_text(line: Line) -> str:
        one, thirty, _, _, formula = ((v or 0.0) for v in line.values)
        return f"{_percent(one)} against K = 1, {_percent(thirty)} against K = 30 and {_percent(formula)} against the formula's choice"

    source = delays.mixture.source or "their source is not recorded"
    places = ("over the sizes and clocks of Fig. 4", "at the measured clock")
    return tuple(
        f"With measured times ({source}), {place}, the choice of the width saves {as_text(printed)} with {PRINTED}, and "
        f"{as_text(trained_s)} with our networks."
        for place, printed, trained_s in zip(places, saved[:2], saved[2:4], strict=True)
    )


def _mean_quality(of: Sequence[AllocationQuality]) -> AllocationQuality:
    means = {k: float(np.mean([q.delay_s[k] for q in of])) for k in of[0].delay_s}
    return of[0].model_copy(update={"delay_s": means})


# ------------------------------------------------------------------------------------------------------------ shared by them


def _runs(experiment: Experiment, of: Callable[[BandwidthPoint], Sequence[float] | Float64Array]) -> Float64Array:
    return np.array([of(point) for point in experiment.points], dtype=np.float64)


def _per_user_name(size: tuple[int, int]) -> str:
    layers = "layer" if size[1] == 1 else "layers"
    return f"per-user, {size[0]} units, {size[1]} {layers}"


def _kbit(world: BandwidthWorld) -> str:
    return f"{world.size_mean_bit / 1e3:g}"


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _percent(share: float) -> str:
    value = 100 * float(share)
    return f"{value:.1f} %" if abs(value) >= 1 else f"{value:.2g} %"


def _range(shares: Float64Array) -> str:
    low, high = _percent(shares.min()), _percent(shares.max())
    return low if low == high else f"{low.removesuffix(' %')} to {high}"


FIGURES: dict[str, Callable[[Experiment, Delays], Iterator[Figure]]] = {
    "table1": table1,
    "table2": table2,
    "fig2": fig2,
    "fig3": fig3,
    "fig4": fig4,
}
