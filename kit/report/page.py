"""One self-contained HTML page about one device: what was measured, chosen and delivered, and how far to trust it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import plotly.graph_objects as go

import kit
from kit import store
from kit import units as show
from kit.records import (
    DECIDING,
    Answer,
    CacheSpec,
    ClockSpec,
    DeviceSpec,
    InstallReceipt,
    KnowledgeBase,
    KnowledgeRow,
    LatencyModel,
    Manifest,
    Need,
    ProfileRecord,
    Record,
    Rejection,
)
from kit.report import plots
from kit.report.frame import code, document, place, section, tile
from kit.report.markup import Child, Markup, facts, folded, join, table, tag
from kit.report.points import PlotPoint, front, latest, method, points, shortener, weaknesses


class PullResult(Record):
    """What a pull promised and what the device then measured, in seconds; None where the package promised nothing."""

    package: str
    promised_s: float | None
    promised_p99_s: float | None
    measured_s: float
    measured_p99_s: float
    receipt: InstallReceipt | None = None


def write_page(
    out: Path,
    *,
    device: DeviceSpec,
    profiles: Sequence[ProfileRecord],
    models: Sequence[LatencyModel],
    knowledge: KnowledgeBase,
    answers: Sequence[Answer],
    deadline_choices: Sequence[tuple[float, KnowledgeRow | None]],
    packages: Sequence[Manifest],
    pull: PullResult | None,
) -> Path:
    """Write the page to ``out`` (complete or not at all) and return its path.

    Only profiles of ``device`` are shown: per artifact, backend and threads the newest measurement, and the newest
    failure without a later measurement. ``deadline_choices`` are (deadline in seconds, chosen row), by rising
    deadline.

    Raises StorageError or UsageError when ``out`` cannot be written.
    """
    own = [p for p in profiles if p.device.device_id == device.device_id]
    measured, failed = latest(own)
    drawn = points(measured)
    figures: dict[str, go.Figure] = {}
    body = join(
        [
            _header(device, own, drawn, failed, models, answers),
            _device(device, drawn),
            _trade_off(figures, drawn),
            _cost(figures, drawn, models),
            _spread(figures, drawn),
            _knowledge(figures, knowledge, deadline_choices, answers),
            _packages(packages, pull),
            _trust(device, drawn, failed, models, ignored=len(profiles) - len(own)),
        ]
    )
    store.write_atomic(out, document(f"kit report: {device.device_id}", body, figures).encode())
    return out


# ------------------------------------------------------------------------------------------------------- header, device


def _header(
    device: DeviceSpec,
    own: Sequence[ProfileRecord],
    drawn: Sequence[PlotPoint],
    failed: Sequence[ProfileRecord],
    models: Sequence[LatencyModel],
    answers: Sequence[Answer],
) -> Markup:
    where = f"{device.cpu_model} ({device.device_id})"
    what = f"{show.counted(len(drawn), 'variant')} measured" + (f" and {len(failed)} failed" if failed else "")
    dates = [r.created_utc for r in own]
    when = show.moment(max(dates)) if dates else show.moment(store.utc_now())
    return tag(
        "header",
        tag("h1", "Neural networks, measured where they run"),
        tag("p", f"{what} on {where}; last measured {when}.", class_="soft"),
        tag(
            "p",
            "kit ran each variant of the network on this machine, took its latency from the clock and not from a "
            "formula, and let the measurements choose what to deploy.",
        ),
        tag("div", *_tiles(drawn, models, answers), class_="tiles") if drawn else None,
        tag("p", _provenance(own, drawn), class_="soft"),
    )


def _tiles(drawn: Sequence[PlotPoint], models: Sequence[LatencyModel], answers: Sequence[Answer]) -> list[Markup]:
    trusted = [p for p in drawn if p.trusted]
    shorten = shortener([p.id for p in drawn])
    tiles = []
    if trusted:
        fastest = min(trusted, key=lambda p: p.median_s)
        tiles.append(tile("fastest", show.seconds(fastest.median_s), f"{fastest.short}, {_accuracy(fastest.accuracy)}"))
    rated = [p for p in trusted if p.accuracy is not None]
    if rated:
        best = max(rated, key=lambda p: (p.accuracy or 0, -p.median_s))
        note = f"{best.short}, {show.seconds(best.median_s)}"
        tiles.append(tile("most accurate, trusted", show.percent(best.accuracy), note))
    for answer in answers[:3]:
        limit = _limit(answer.need)
        if answer.chosen is None:
            tiles.append(tile(f"chosen for {limit}", "none", "no variant meets it"))
        else:
            note = f"{_accuracy(answer.chosen.accuracy)}, p99 {show.seconds(answer.chosen.p99_s)}"
            tiles.append(tile(f"chosen for {limit}", shorten(answer.chosen.artifact_id), note))
    tiles += [_lambda_tile(m) for m in models[:2]]
    return tiles


def _accuracy(value: float | None) -> str:
    return "accuracy unknown" if value is None else f"{show.percent(value)} accurate"


def _limit(need: Need) -> str:
    """The need's first limit in a few words; all of them are in the answers' table."""
    return _need_words(need)[0] if _need_words(need) else "no limit"


def _lambda_tile(model: LatencyModel) -> Markup:
    name = f"λ, {model.backend} {model.precision}"
    if model.lambda_cycles_per_mac is None:
        return tile(name, f"{show.scaled(model.s_per_mac, show.TIME)} per MAC", "clock unknown, so not in cycles")
    note = f"cycles per MAC at the {model.clock_source} clock"
    if model.lambda_cycles_per_mac > 0:
        note += f"; the papers' λ = 1 is {show.significant(1 / model.lambda_cycles_per_mac, 2)}× that"
    return tile(name, show.number(model.lambda_cycles_per_mac), note)


def _provenance(own: Sequence[ProfileRecord], drawn: Sequence[PlotPoint]) -> str:
    parts = [f"Page written {show.moment(store.utc_now())} by kit {kit.__version__}"]
    if kits := sorted({r.kit_version for r in own}):
        parts.append(f"profiles by kit {show.listed(kits)}")
    versions = {(k, v) for p in drawn for run in p.measurement.runs for k, v in run.versions.items()}
    if versions:
        parts.append("measured with " + ", ".join(f"{name} {version}" for name, version in sorted(versions)))
    seeds = {p.record.artifact.origin.seed for p in drawn if p.record.artifact.origin}
    trained = sorted(s for s in seeds if s is not None)
    if trained:
        parts.append(f"training {'seed' if len(trained) == 1 else 'seeds'} {show.listed([str(s) for s in trained])}")
    orders = sorted({p.record.settings.seed for p in drawn})
    if orders:
        parts.append(f"measuring {'seed' if len(orders) == 1 else 'seeds'} {show.listed([str(s) for s in orders])}")
    return "; ".join(parts) + "."


def _device(device: DeviceSpec, drawn: Sequence[PlotPoint]) -> Markup:
    runtimes = [
        f"{name} {version}" if version else f"{name} (not installed)" for name, version in device.runtimes.items()
    ]
    readable = [name for name, state in device.telemetry.items() if state == "available"]
    silent = [f"{name}: {state}" for name, state in device.telemetry.items() if state != "available"]
    temperatures = [t for p in drawn for v in p.measurement.runs if (t := v.after.temperature_c) is not None]
    cores = f"{show.known(device.physical_cores)} physical, {device.logical_cores} logical"
    pairs: list[tuple[str, Child]] = [
        ("Processor", device.cpu_model),
        ("Cores", cores),
        ("Clock", _clock(device.clock)),
        ("Memory", show.binary_size(device.memory_bytes)),
        ("Caches", "; ".join(_cache(c) for c in device.caches) or show.UNKNOWN),
        ("Features", ", ".join(device.cpu_features) or show.UNKNOWN),
        ("Graphics", "; ".join(f"{g.name}, {show.binary_size(g.memory_bytes)}" for g in device.gpus) or "none found"),
        ("Machine", f"{device.machine}, {f'virtual ({device.virtual})' if device.virtual else 'not virtual'}"),
        ("System", f"{device.system}, {device.kernel}"),
        ("Configuration", device.config or "no entry of device_configs matches"),
        ("Runtimes", ", ".join(runtimes) or "none found"),
        ("Telemetry", ", ".join(readable) or "none"),
        ("Highest temperature", f"{max(temperatures):.1f} °C" if temperatures else show.UNKNOWN),
    ]
    missing = folded("What the machine does not report", tag("ul", *(tag("li", s) for s in silent))) if silent else None
    return section("The device", facts(pairs), missing)


def _clock(clock: ClockSpec) -> str:
    parts = [("nominal", clock.nominal_hz), ("now", clock.current_hz), ("highest", clock.max_hz)]
    clocks = [f"{name} {show.hertz(value)}" for name, value in parts if value is not None]
    return f"{', '.join(clocks)}; source: {clock.source}" if clocks else show.UNKNOWN


def _cache(cache: CacheSpec) -> str:
    kind = {"data": "d", "instruction": "i"}.get(cache.type, "")
    shared = f" for {cache.shared_by} CPUs" if cache.shared_by > 1 else ""
    return f"L{cache.level}{kind} {show.binary_size(cache.size_bytes)}{shared}"


# ---------------------------------------------------------------------------------------------------------- the figures


def _trade_off(figures: dict[str, go.Figure], drawn: Sequence[PlotPoint]) -> Markup:
    best = front(drawn)
    unrated = sum(p.accuracy is None for p in drawn)
    caption = (
        "Median latency with its interval over processes against top-1 accuracy on held-out images with Wilson's 95 % interval. "
        "Colour is the precision, the symbol what was cut; hollow points are not trusted and never chosen. Up and to the left "
        "is better: the grey line is the best that may be chosen, and the table names its numbered corners."
    )
    if unrated:
        caption += f" {show.counted(unrated, 'variant')} of unknown accuracy: only in the table of all variants."
    rows = [
        [f"{i}. {p.short}", show.seconds(p.median_s), show.seconds(p.p99_s), p.accuracy_text, _file_size(p)]
        for i, p in enumerate(best, 1)
    ]
    return section(
        "Latency against accuracy",
        place(
            figures, "tradeoff", plots.latency_accuracy(drawn), caption, "No measured variant with a known accuracy."
        ),
        table(["Pareto front", "Median", "p99", "Accuracy", "Model file"], rows) if rows else None,
        folded("All measured variants in numbers", _all_variants(drawn)) if drawn else None,
    )


def _file_size(point: PlotPoint) -> str:
    return show.size(point.record.artifact.size_bytes)


def _all_variants(drawn: Sequence[PlotPoint]) -> Markup:
    head = [
        "Variant",
        "Backend",
        "Label",
        "Threads",
        "Median",
        "Interval",
        "p99",
        "Accuracy",
        "MACs",
        "Parameters",
    ]
    rows = [
        [
            p.id,
            p.backend,
            p.label,
            str(p.threads),
            show.seconds(p.median_s),
            show.interval(*p.interval_s, show.TIME, digits=4),
            show.seconds(p.p99_s),
            p.accuracy_text,
            show.macs(p.macs),
            show.count(p.record.artifact.parameters),
            _file_size(p),
            show.size(p.measurement.memory_bytes),
        ]
        for p in drawn
    ]
    return table([*head, "Model file", "Peak memory"], rows, words=3)


def _cost(figures: dict[str, go.Figure], drawn: Sequence[PlotPoint], models: Sequence[LatencyModel]) -> Markup:
    caption = (
        "Each line is overhead + λ · MACs / clock, drawn only over the sub-networks that it was fitted to. "
        if models
        else "No line is drawn: too few trusted measurements to fit one. "
    )
    caption += "Axes are logarithmic where the values span more than a factor of five. "
    if any(m.clock_hz for m in models):
        caption += "The dashed line is the papers' assumption: λ = 1, one cycle per MAC and no overhead."
    elif models:
        caption += "Without a known clock the papers' λ = 1 cannot be drawn."
    return section(
        "Do multiply-accumulates predict the latency?",
        place(figures, "cost", plots.latency_macs(drawn, models), caption, "No measured variant with known MACs."),
        _models(models) if models else tag("p", "No latency model was fitted.", class_="soft"),
    )


def _models(models: Sequence[LatencyModel]) -> Markup:
    """One column per model: there are few models and many facts about each."""
    columns = [_model_facts(m) for m in models]
    head = ["", *(f"{m.backend} {m.precision}, {show.counted(m.threads, 'thread')}" for m in models)]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    note = "Errors are relative to the measured medians; intervals are 95 % bootstrap intervals."
    left_out = [reason for m in models for reason in m.left_out]
    left_out_list = folded(f"Left out of the fits ({len(left_out)})", tag("ul", *(tag("li", r) for r in left_out)))
    return join([table(head, rows, words=len(head), caption=note), left_out_list if left_out else None])


def _model_facts(model: LatencyModel) -> dict[str, str]:
    quality, paper = model.quality, model.paper
    cycles = show.number(model.lambda_cycles_per_mac)
    low_ps, high_ps = (1e12 * s for s in model.s_per_mac_interval)
    return {
        "λ (cycles per MAC)": f"{cycles} ({show.interval(*model.interval)})" if model.interval else cycles,
        "Clock": f"{show.hertz(model.clock_hz)} ({model.clock_source})" if model.clock_hz else show.UNKNOWN,
        "Time per MAC": f"{show.number(1e12 * model.s_per_mac)} ps ({show.interval(low_ps, high_ps)})",
        "Overhead": f"{show.seconds(model.overhead_s)} ({show.interval(*model.overhead_interval_s, show.TIME)})",
        "R²": show.number(quality.r2),
        "Mean error": show.percent(quality.mape),
        "Worst error": show.percent(quality.worst),
        "Within 5 %, 10 %": f"{show.percent(quality.within_5, 0)}, {show.percent(quality.within_10, 0)}",
        "Mean error of the papers' λ = 1": show.percent(paper.mape, 0) if paper else show.UNKNOWN,
        "Fitted to": f"{show.macs(model.macs_range[0])} to {show.macs(model.macs_range[1])}, "
        f"{show.counted(len(model.record_ids), 'record')}",
    }


def _spread(figures: dict[str, go.Figure], drawn: Sequence[PlotPoint]) -> Markup:
    caption = (
        "Raw values around each variant's median, one line of dots per process: lines that stand apart are processes "
        "that disagree. The grey bar is the interval of the median over processes, the tick is p99."
    )
    if drawn:
        outside, everything = plots.beyond(drawn)
        share = f"{outside:,} of {everything:,} values lie" if outside != 1 else f"1 of {everything:,} values lies"
        caption += f" Of large sets only evenly spaced ranks are drawn; {share} beyond the axis."
    return section(
        "How steady are the measurements?",
        place(figures, "spread", plots.spread(drawn), caption, "Nothing was measured."),
    )


# -------------------------------------------------------------------------------------------------------- the decisions


def _knowledge(
    figures: dict[str, go.Figure],
    knowledge: KnowledgeBase,
    steps: Sequence[tuple[float, KnowledgeRow | None]],
    answers: Sequence[Answer],
) -> Markup:
    shorten = shortener([r.artifact_id for r in knowledge.rows])
    able = sum(r.label in DECIDING for r in knowledge.rows)
    caption = (
        f"The most accurate variant whose measured p99 latency meets the deadline, at {len(steps)} deadlines. "
        "Circles are the rows to choose from."
    )
    lead = (
        f"The knowledge base holds {show.counted(len(knowledge.rows), 'measured row')}, of which {able} may be chosen "
        "(a throttled or inconclusive one never is)."
    )
    return section(
        "What to deploy under a deadline",
        tag("p", lead),
        place(figures, "choices", plots.choices(steps, knowledge), caption, "No variant meets any of the deadlines."),
        _steps(steps, shorten),
        tag("h3", "Questions and answers") if answers else None,
        _answers(answers, shorten) if answers else None,
        *(_rejected(answer, shorten) for answer in answers if answer.rejected),
    )


def _steps(steps: Sequence[tuple[float, KnowledgeRow | None]], shorten: Callable[[str], str]) -> Markup | None:
    rows = [
        [f"{i}. {shorten(row.artifact_id)}", show.seconds(d), show.seconds(row.p99_s), show.percent(row.accuracy)]
        for i, (d, row) in enumerate(((d, r) for d, r in plots.changes(steps) if r is not None), 1)
        if row is not None
    ]
    return table(["Chosen", "From deadline", "p99", "Accuracy"], rows) if rows else None


def _need_words(need: Need) -> list[str]:
    limits: list[tuple[str, float | None, Callable[[float], str]]] = [
        ("p99 ≤", need.deadline_s, show.seconds),
        ("accuracy ≥", need.min_accuracy, show.percent),
        ("memory ≤", need.memory_bytes, show.size),
        ("link", need.link_bps, show.rate),
        ("download ≤", need.download_s, show.seconds),
    ]
    return [f"{name} {say(value)}" for name, value, say in limits if value is not None]


def _need_text(need: Need) -> str:
    return ", ".join(_need_words(need)) or "no limit"


def _answers(answers: Sequence[Answer], shorten: Callable[[str], str]) -> Markup:
    rows = [
        [
            _need_text(a.need),
            shorten(a.chosen.artifact_id) if a.chosen else a.text,
            shorten(a.runner_up.artifact_id) if a.runner_up else "none",
            show.percent(a.chosen.accuracy) if a.chosen else "",
            show.seconds(a.chosen.p99_s) if a.chosen else "",
            "" if a.margin is None else f"{show.percent(a.margin)} of {a.binding or 'the limit'}",
        ]
        for a in answers
    ]
    return table(["Asked", "Chosen", "Runner-up", "Accuracy", "p99", "Margin left"], rows, words=3)


def _rejected(answer: Answer, shorten: Callable[[str], str]) -> Markup:
    rows = [_rejection(r, shorten) for r in answer.rejected]
    return folded(
        f"Rejected for {_need_text(answer.need)} ({len(rows)}), and the limit that each misses",
        table(["Variant", "Limit", "Has", "Needs"], rows, words=2),
    )


def _rejection(rejection: Rejection, shorten: Callable[[str], str]) -> list[Child]:
    says: dict[str, Callable[[float], str]] = {
        "deadline": show.seconds,
        "download": show.seconds,
        "memory": show.size,
        "accuracy": show.percent,
    }
    say = says.get(rejection.limit)

    def worded(value: float | str | None) -> str:
        return say(value) if say and isinstance(value, int | float) else show.known(value)

    name = f"{shorten(rejection.artifact_id)} ({rejection.backend})"
    bound = "stable or settled" if rejection.limit == "label" else worded(rejection.bound)
    return [name, rejection.limit, worded(rejection.value), bound]


# --------------------------------------------------------------------------------------------------------- the delivery


def _packages(packages: Sequence[Manifest], pull: PullResult | None) -> Markup:
    rows = [
        [
            p.name,
            code(show.short_hash(p.artifact.content_sha256)),
            show.known(p.artifact.licence),
            str(len(p.files)),
            show.size(p.size_bytes),
            show.percent(p.artifact.accuracy.top1 if p.artifact.accuracy else None),
            join(_promises(p), "<br>"),
        ]
        for p in packages
    ]
    head = ["Package", "Model's SHA-256", "Licence", "Files", "Size", "Accuracy", "Advertised median, p99"]
    return section(
        "Packages",
        table(head, rows, words=3) if rows else tag("p", "No package was built.", class_="soft"),
        tag("h3", "Advertised against measured"),
        _pulled(pull) if pull else tag("p", "No package was pulled.", class_="soft"),
    )


def _promises(manifest: Manifest) -> list[str]:
    several = len({(p.device_id, p.backend, p.threads) for p in manifest.promises}) > 1
    return [
        f"{show.seconds(p.median_s)}, {show.seconds(p.p99_s)}" + (f" ({p.device_id}, {p.backend})" if several else "")
        for p in manifest.promises
    ] or ["none"]


def _pulled(pull: PullResult) -> Markup:
    rows = [
        [
            "Median",
            show.seconds(pull.promised_s),
            show.seconds(pull.measured_s),
            _change(pull.promised_s, pull.measured_s),
        ],
        [
            "p99",
            show.seconds(pull.promised_p99_s),
            show.seconds(pull.measured_p99_s),
            _change(pull.promised_p99_s, pull.measured_p99_s),
        ],
    ]
    receipt = pull.receipt
    pairs: list[tuple[str, Child]] = [("Package", pull.package)]
    if receipt:
        speed = f" ({show.size(receipt.bytes_downloaded / receipt.download_s)}/s)" if receipt.download_s > 0 else ""
        pairs += [
            ("Downloaded", f"{show.size(receipt.bytes_downloaded)} in {show.seconds(receipt.download_s)}{speed}"),
            ("From", receipt.source),
            ("Manifest", code(show.short_hash(receipt.manifest_digest))),
            ("Installed", show.moment(receipt.installed_utc)),
            ("Checked", receipt.checked),
        ]
    return join([table(["After the pull", "Advertised", "Measured", "Difference"], rows), facts(pairs)])


def _change(promised: float | None, measured: float) -> str:
    return show.signed_percent(measured / promised - 1) if promised else show.UNKNOWN


# ------------------------------------------------------------------------------------------------------------ the trust


def _trust(
    device: DeviceSpec,
    drawn: Sequence[PlotPoint],
    failed: Sequence[ProfileRecord],
    models: Sequence[LatencyModel],
    *,
    ignored: int,
) -> Markup:
    weak = weaknesses(device, drawn, models)
    if ignored:
        weak.append(f"{show.counted(ignored, 'record')} of other devices are not shown here.")
    labels = [[p.short, p.label, "; ".join(p.record.evidence) or "none"] for p in drawn]
    failures = [
        [
            f.artifact.artifact_id,
            f.settings.backend,
            f.status.replace("_", " "),
            f.reason or "; ".join(f.evidence) or "none",
        ]
        for f in failed
    ]
    return section(
        "How far to trust this",
        tag("p", " ".join(method(drawn))),
        tag("div", tag("b", "Where these numbers are weak"), tag("ul", *(tag("li", w) for w in weak)), class_="weak"),
        tag("h3", "Failures"),
        table(["Variant", "Backend", "Outcome", "Reason"], failures, words=4)
        if failures
        else tag("p", "Every variant ran.", class_="soft"),
        folded("Labels and what they rest on", table(["Variant", "Label", "Evidence"], labels, words=3))
        if labels
        else None,
    )
