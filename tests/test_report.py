"""The page, from records made up here (and only here): complete, closed, escaped, and with the right numbers in its figures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

from kit import knowledge, latency
from kit import units as show
from kit.errors import NoAnswer, StorageError, UsageError
from kit.records import (
    Accuracy,
    Answer,
    CacheSpec,
    DeviceSpec,
    InstallReceipt,
    KnowledgeBase,
    KnowledgeRow,
    Manifest,
    Measurement,
    MeasureSettings,
    Need,
    Origin,
    ProfileRecord,
    Promise,
)
from kit.report import plots, points
from kit.report.markup import tag
from kit.report.page import PullResult, write_page

# depth, width, precision, MACs in millions, median latency in milliseconds, accuracy, label
SYNTHETIC = [
    (8, 1.0, "fp32", 556, 4.62, 0.9861, "stable"),
    (6, 1.0, "fp32", 422, 3.28, 0.9833, "stable"),
    (4, 1.0, "fp32", 287, 2.31, 0.9722, "stable"),
    (2, 1.0, "fp32", 152, 1.27, 0.9194, "settled"),
    (8, 0.7, "fp32", 281, 2.74, 0.9778, "stable"),
    (8, 0.5, "fp32", 146, 1.66, 0.9667, "inconclusive"),
    (8, 0.3, "fp32", 61, 0.84, 0.9333, "stable"),
    (8, 1.0, "int8", 556, 1.71, 0.9833, "stable"),
    (6, 1.0, "int8", 422, 1.19, 0.9806, "stable"),
    (4, 1.0, "int8", 287, 0.83, 0.9694, "settled"),
    (2, 1.0, "int8", 152, 0.49, 0.9167, "stable"),
    (8, 0.7, "int8", 281, 1.08, 0.9750, "stable"),
    (8, 0.5, "int8", 146, 0.72, 0.9639, "stable"),
    (8, 0.3, "int8", 61, 0.43, 0.9278, "inconclusive"),
]
VIRTUAL = {
    "cpu_model": "Synthetic CPU @ 2.00GHz",
    "cpu_features": ("avx2", "avx512f", "avx512_vnni"),
    "virtual": "kvm",
    "caches": (CacheSpec(level=1, type="data", size_bytes=32768, shared_by=1),),
    "runtimes": {"onnxruntime": "1.0", "openvino": None},
    "telemetry": {"load": "available", "temperature": "no sensor"},
}


def make_profile(row: tuple[Any, ...], on: DeviceSpec, seed: int = 0, values: int = 300) -> ProfileRecord:
    depth, width, precision, mmacs, median_ms, accuracy, label = row
    rng = np.random.default_rng(seed)
    name = f"resnet18-d{depth}-w{width:.2f}-{precision}-32"
    shift = 0.012 if label == "inconclusive" else 0.003
    centres = median_ms * 1e-3 * (1 + shift * rng.standard_normal(4))
    scatter = [c * (1 + 0.004 * rng.standard_normal(values) + 0.02 * rng.exponential(0.4, values)) for c in centres]
    runs = tuple(
        synthetic.run(
            list(s), i, loops=4, block=values, references={"product": [1e6, 1e6]}, versions={"onnxruntime": "1.0"}
        )
        for i, s in enumerate(scatter)
    )
    size = int((44.7e6 if precision == "fp32" else 11.4e6) * width**2 * depth / 8)
    artifact = synthetic.artifact(name, macs=mmacs * 10**6, accuracy=accuracy, size=size)
    origin = Origin(root="resnet18", dataset="synthetic", seed=7, producer="kit 0")
    record = synthetic.profile(name, on=on, label=label, settings=MeasureSettings(seed=3))
    return record.model_copy(
        update={
            "artifact": artifact.model_copy(
                update={"origin": origin, "parameters": 11_000_000, "licence": "Apache-2.0"}
            ),
            "measurement": Measurement(runs=runs),
            "evidence": (f"synthetic evidence of {name}",),
        }
    )


def make_failure(name: str, on: DeviceSpec, **changes: Any) -> ProfileRecord:
    fields = {"status": "out_of_memory", "reason": "the process was killed", "measurement": None, "label": None}
    return synthetic.profile(name, on=on).model_copy(update={**fields, **changes})


def named(record: ProfileRecord, name: str) -> ProfileRecord:
    return record.model_copy(update={"artifact": record.artifact.model_copy(update={"artifact_id": name})})


def make_package(profile: ProfileRecord) -> Manifest:
    row = knowledge.build([profile]).rows[0]
    promise = Promise(**{k: getattr(row, k) for k in Promise.model_fields})
    model = profile.artifact.model
    return Manifest(
        name=profile.artifact.artifact_id,
        created_utc=synthetic.NOW,
        kit_version="0",
        artifact=profile.artifact,
        files=(model, model.model_copy(update={"file": "sample.npz", "size_bytes": 20_000})),
        promises=(promise,),
    )


UNMET = Answer(
    need=Need(deadline_s=0.0002, min_accuracy=0.9), chosen=None, runner_up=None, margin=None, binding=None, rejected=(),
    text="No variant meets 0.2 ms (synthetic).",
)  # fmt: skip


def choice(base: KnowledgeBase, deadline_s: float) -> KnowledgeRow | None:
    try:
        return knowledge.ask(base.rows, Need(deadline_s=deadline_s)).chosen
    except NoAnswer:
        return None


def make_content(extra: list[ProfileRecord] | None = None) -> dict[str, Any]:
    """Everything that write_page takes: 14 variants, one failure, three answers, three packages and a pull."""
    device = synthetic.device("synthetic-2c", **VIRTUAL)
    profiles = [make_profile(row, device, seed) for seed, row in enumerate(SYNTHETIC)]
    base = knowledge.build(profiles)
    deadlines = np.geomspace(0.3e-3, 8e-3, 120).tolist()
    package = make_package(profiles[8])
    receipt = InstallReceipt(
        package=package.name, manifest_digest="sha256:" + "ab" * 32, source="http://127.0.0.1:8000", installed_utc=synthetic.NOW,
        bytes_downloaded=package.size_bytes, download_s=0.21, checked="one batch, largest difference 3e-6",
    )  # fmt: skip
    promise = package.promises[0]
    return {
        "device": device,
        "profiles": [*profiles, make_failure("resnet18-d8-w1.00-int4-32", device), *(extra or [])],
        "models": latency.fit(profiles),
        "knowledge": base,
        "answers": [*(knowledge.ask(base.rows, Need(deadline_s=d)) for d in (0.001, 0.002)), UNMET],
        "deadline_choices": [(d, choice(base, d)) for d in deadlines],
        "packages": [make_package(p) for p in profiles[6:9]],
        "pull": PullResult(
            package=package.name, promised_s=promise.median_s, promised_p99_s=promise.p99_s,
            measured_s=promise.median_s * 1.02, measured_p99_s=promise.p99_s * 0.97, receipt=receipt,
        ),
    }  # fmt: skip


def make_empty(device: DeviceSpec, **changes: Any) -> dict[str, Any]:
    base = KnowledgeBase(created_utc=synthetic.NOW, kit_version="0", rows=())
    nothing: dict[str, Any] = {
        "device": device, "profiles": [], "models": [], "knowledge": base, "answers": [], "deadline_choices": [],
        "packages": [], "pull": None,
    }  # fmt: skip
    return {**nothing, **changes}


class Outline(HTMLParser):
    """Checks that tags nest, and collects elements, attributes and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        self.ids += [value for key, value in attributes if key == "id" and value]
        if name not in {"meta", "br", "hr"}:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open[-1:] == ["script"] else self.words).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def figures(self) -> dict[str, Any]:
        return next(json.loads(s) for s in self.scripts if s.startswith("{"))


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return make_content()


@pytest.fixture(scope="module")
def page(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("report") / "page.html", **content)


@pytest.fixture(scope="module")
def outline(page: Path) -> Outline:
    return Outline(page.read_text(encoding="utf-8"))


def trace(figure: dict[str, Any], name: str) -> dict[str, Any]:
    return next(t for t in figure["data"] if t.get("name") == name)


# -------------------------------------------------------------------------------------------------------------- the page


def test_page_is_small_complete_and_has_every_figure_once(page: Path, outline: Outline) -> None:
    assert page.stat().st_size < 8_000_000
    assert {"tradeoff", "cost", "spread", "choices"} == set(outline.figures) <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    assert sum("plotly.js v" in s for s in outline.scripts) == 1


def test_page_loads_nothing_from_anywhere(outline: Outline) -> None:
    loading = {"src", "href", "srcset", "action", "data", "poster", "background"}
    assert [
        (n, a) for n, a in outline.elements if loading & a.keys() or n in {"link", "iframe", "object", "base"}
    ] == []
    policy = next(a["content"] for n, a in outline.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy and "http" not in policy
    style = " ".join(outline.words)
    assert "@import" not in style and "url(" not in style


def test_page_says_the_main_numbers(outline: Outline, content: dict[str, Any]) -> None:
    model = next(m for m in content["models"] if m.precision == "int8")
    for words in (
        "14 variants measured and 1 failed", "98.6 %", show.number(model.lambda_cycles_per_mac), "training seed 7",
        "measuring seed 3", "onnxruntime 1.0", "L1d 32.0 KiB", "openvino (not installed)", "out of memory",
        "the process was killed", "synthetic evidence of resnet18-d8-w0.50-fp32-32", "+2.0 %", "-3.0 %", "abababababab",
    ):  # fmt: skip
        assert words in outline.text, words


def test_page_says_unknown_where_the_machine_is_silent(outline: Outline) -> None:
    assert "Highest temperature unknown" in outline.text
    assert "temperature: no sensor" in outline.text


def test_page_says_where_the_numbers_are_weak(outline: Outline) -> None:
    assert "virtual machine (kvm)" in outline.text
    assert "4 of 14 measurements are not stable: 2 inconclusive and 2 settled" in outline.text
    assert "one image weighs 1 %" in outline.text
    assert "averages up to 4 calls" in outline.text
    assert "neither temperature nor throttling" in outline.text


def test_rejected_variants_are_listed_with_value_and_bound(outline: Outline, content: dict[str, Any]) -> None:
    rejection = next(r for r in content["answers"][0].rejected if r.limit == "deadline")
    assert f"deadline {show.seconds(rejection.value)} 1.00 ms" in outline.text
    assert UNMET.text in outline.text


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><b>bold</b>"]
)
def test_text_of_records_is_escaped_everywhere(evil: str, tmp_path: Path) -> None:
    device = synthetic.device(
        "synthetic-2c", **{**VIRTUAL, "cpu_model": evil, "virtual": evil, "telemetry": {evil: evil}}
    )
    first, second = (named(synthetic.profile(f"x{i}", 0.002 * i, on=device), f"{evil}-{i}") for i in (1, 2))
    first = first.model_copy(update={"evidence": (evil,), "kit_version": evil})
    failure = named(make_failure("x3", device, reason=evil), f"{evil}-3")
    base = knowledge.build([first, second])
    answer = knowledge.ask(base.rows, Need(deadline_s=0.003))
    manifest = make_package(first).model_copy(update={"name": evil})
    out = write_page(
        tmp_path / "page.html",
        device=device, profiles=[first, second, failure], models=[], knowledge=base, answers=[answer],
        deadline_choices=[(0.001, None), (0.003, answer.chosen)], packages=[manifest],
        pull=PullResult(package=evil, promised_s=None, promised_p99_s=None, measured_s=0.1, measured_p99_s=0.2),
    )  # fmt: skip
    outline = Outline(out.read_text(encoding="utf-8"))
    assert not [n for n, _ in outline.elements if n in {"img", "script"}][
        3:
    ]  # the data, plotly and the page's own script
    assert evil in outline.text
    labels = json.dumps(outline.figures)
    assert evil not in labels and "<script" not in labels and "<img" not in labels and "<b>bold" not in labels


def test_other_devices_are_left_out_and_named(tmp_path: Path) -> None:
    own, other = (
        synthetic.profile(on=synthetic.device("synthetic-a")),
        synthetic.profile(on=synthetic.device("synthetic-b")),
    )
    out = write_page(tmp_path / "p.html", **make_empty(synthetic.device("synthetic-a"), profiles=[own, other]))
    text = Outline(out.read_text(encoding="utf-8")).text
    assert "1 variant measured" in text and "1 record of other devices" in text


@pytest.mark.parametrize(
    ("profiles", "figures", "says"),
    [
        (lambda d: [], set(), "Nothing was measured"),
        (lambda d: [make_failure("a", d)], set(), "out of memory"),
        (lambda d: [synthetic.profile(on=d)], {"tradeoff", "cost", "spread"}, "Every variant ran"),
        (
            lambda d: [synthetic.profile(on=d, accuracy=None, macs=None)],
            {"spread"},
            "No measured variant with known MACs",
        ),
        (lambda d: [synthetic.profile("my-net", on=d, label=None)], {"tradeoff", "cost", "spread"}, "1 unlabelled"),
        (
            lambda d: [synthetic.profile(on=d, spread=0.0, processes=1)],
            {"tradeoff", "cost", "spread"},
            "only 1 process",
        ),
    ],
)
def test_empty_and_tiny_pages_are_complete(
    profiles: Callable[[DeviceSpec], list[ProfileRecord]], figures: set[str], says: str, tmp_path: Path
) -> None:
    device = synthetic.device()
    out = write_page(tmp_path / "deep" / "p.html", **make_empty(device, profiles=profiles(device)))
    outline = Outline(out.read_text(encoding="utf-8"))
    assert set(outline.figures) == figures
    assert says in outline.text
    assert "No package was pulled" in outline.text
    assert not re.search(r"\b(nan|None|inf)\b", outline.text)


def test_a_page_that_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises((StorageError, UsageError)):
        write_page(tmp_path / "file" / "p.html", **make_empty(synthetic.device()))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# ----------------------------------------------------------------------------------------------------------- the figures


def test_tradeoff_holds_medians_intervals_and_front(outline: Outline, content: dict[str, Any]) -> None:
    figure = outline.figures["tradeoff"]
    by_id = {p.artifact.artifact_id: p for p in content["profiles"]}
    measured = by_id["resnet18-d8-w1.00-int8-32"].measurement
    full = trace(figure, "int8, full")
    assert full["x"] == pytest.approx([measured.median_s * 1e3])
    assert full["y"] == pytest.approx([98.33])
    assert full["error_x"]["array"] == pytest.approx([(measured.interval_s[1] - measured.median_s) * 1e3])
    hollow = trace(figure, "fp32, width, inconclusive")
    assert hollow["marker"]["symbol"] == "diamond-open"
    assert not hollow["showlegend"] and trace(figure, "hollow: inconclusive")
    steps = trace(figure, "Pareto front")
    assert steps["y"] == sorted(steps["y"]) and steps["x"] == sorted(steps["x"])
    assert full["x"][0] in steps["x"] and hollow["x"][0] not in steps["x"]


def test_cost_draws_the_fit_in_its_region_and_the_papers_line(outline: Outline, content: dict[str, Any]) -> None:
    figure = outline.figures["cost"]
    model = next(m for m in content["models"] if m.precision == "fp32")
    fit = trace(figure, "fp32, fit")
    assert (fit["x"][0], fit["x"][-1]) == pytest.approx([m / 1e6 for m in model.macs_range])
    assert fit["y"][-1] == pytest.approx((model.overhead_s + model.s_per_mac * 556e6) * 1e3)
    paper = trace(figure, "the papers' λ = 1")
    assert paper["y"][-1] == pytest.approx(556e6 / synthetic.CLOCK_HZ * 1e3)
    assert figure["layout"]["yaxis"]["type"] == "log"


def test_spread_keeps_the_ends_and_stays_small(content: dict[str, Any]) -> None:
    drawn = points.points(points.latest(content["profiles"])[0])
    figure = plots.spread(drawn)
    raw = [t for t in figure.data if t.name in {"fp32", "int8"}]
    assert sum(len(t.x) for t in raw) <= plots.MAX_RAW_POINTS
    values = np.concatenate([v.values_ns for v in drawn[0].measurement.runs]) * 1e-9
    first_row = [x for t in raw for x, y in zip(t.x, t.y, strict=True) if abs(y) < 0.4]
    assert max(first_row) == pytest.approx(100 * (values.max() / drawn[0].median_s - 1), abs=1e-3)
    assert min(first_row) == pytest.approx(100 * (values.min() / drawn[0].median_s - 1), abs=1e-3)
    outside, everything = plots.beyond(drawn)
    assert everything == 14 * 4 * 300 and 0 <= outside < 0.02 * everything


def test_choices_rise_with_the_deadline(outline: Outline, content: dict[str, Any]) -> None:
    line = trace(outline.figures["choices"], "chosen")
    steps = [(d, r) for d, r in content["deadline_choices"] if r]
    assert line["x"] == pytest.approx([d * 1e3 for d, _ in steps])
    assert line["y"] == pytest.approx([100 * r.accuracy for _, r in steps])
    assert line["y"] == sorted(line["y"])
    rows = trace(outline.figures["choices"], "measured variants")
    assert len(rows["x"]) == 12  # the two inconclusive ones cannot be chosen


# ------------------------------------------------------------------------------------------------------------ the pieces


def test_latest_keeps_the_newest_and_forgets_failures_that_were_measured_again() -> None:
    device = synthetic.device()
    old, new = (
        synthetic.profile(latency_s=0.01),
        synthetic.profile(latency_s=0.02).model_copy(update={"created_utc": "2027"}),
    )
    measured_again = make_failure(old.artifact.artifact_id, device, created_utc="2026-06")
    broken_since = make_failure(old.artifact.artifact_id, device, created_utc="2028")
    assert points.latest([new, measured_again, old]) == ([new], [])
    assert points.latest([new, broken_since, old]) == ([new], [broken_since])


def test_another_operating_point_does_not_replace_the_plain_one() -> None:
    plain = synthetic.profile(latency_s=0.01)
    loaded = synthetic.profile(latency_s=0.02, settings=MeasureSettings(load=1)).model_copy(
        update={"created_utc": "2027"}
    )
    measured, _ = points.latest([plain, loaded])
    assert plain in measured


def test_shortener_drops_what_all_share() -> None:
    ids = ["resnet18-d8-w1.00-fp32-32", "resnet18-d6-w0.50-int8-32"]
    short = points.shortener(ids)
    assert [short(i) for i in ids] == ["d8 w1.00 fp32", "d6 w0.50 int8"]
    assert short("vgg11-d8-w1.00-fp32-32") == "vgg11-d8-w1.00-fp32-32"
    assert points.shortener(["a-b"])("a-b") == "a-b"
    assert [points.shortener(["a", "a-b"])(i) for i in ("a", "a-b")] == ["a", "a b"]


def test_accuracies_have_their_intervals() -> None:
    """Wilson's, in the figure as whiskers and in the tables as numbers; none where the answers were not counted."""
    drawn = points.points([synthetic.profile("resnet18-d8-w1.00-fp32-32", accuracy=0.95)])
    assert drawn[0].accuracy_text == "95.0 % (88.8 to 97.8)"  # 95 of 100
    figure = plots.latency_accuracy(drawn)
    assert figure is not None
    (whiskers,) = [t.error_y for t in figure.data if t.error_y.array is not None]
    assert whiskers.array[0] == pytest.approx(2.8, abs=0.05)
    assert whiskers.arrayminus[0] == pytest.approx(6.2, abs=0.05)
    uncounted = drawn[0].record.artifact.model_copy(update={"accuracy": Accuracy(top1=0.95)})
    (point,) = points.points([drawn[0].record.model_copy(update={"artifact": uncounted})])
    assert (point.accuracy_interval, point.accuracy_text) == (None, "95.0 %")
    assert plots._whiskers([point])["array"] == [0]


def test_a_legend_names_series_whose_points_are_all_doubtful() -> None:
    drawn = points.points(
        [synthetic.profile(label="inconclusive"), synthetic.profile("resnet18-d8-w0.50-fp32-32", label="throttled")]
    )
    figure = plots.latency_accuracy(drawn)
    entries = [t.name for t in figure.data if t.showlegend is not False and t.name]
    assert entries == [
        "fp32, full, inconclusive",
        "fp32, width, throttled",
        "hollow: inconclusive",
        "hollow: throttled",
    ]
    assert points.front(drawn) == []


def test_series_name_what_differs() -> None:
    other = synthetic.profile("resnet18-d8-w1.00-int8-32", settings=MeasureSettings(backend="pytorch", threads=2))
    names = points.series(points.points([synthetic.profile(), other]))
    assert list(names.values()) == ["onnxruntime fp32, 1 thread", "pytorch int8, 2 threads"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.00452, "4.52 ms"), (0.0009996, "1.00 ms"), (3.1e-5, "31.0 µs"), (12.0, "12 s"), (0.0, "0 s"), (-2e-6, "-2.00 µs"),
     (8.1e-12, "8.10 ps"), (None, "unknown")],
)  # fmt: skip
def test_seconds_read_well(value: float | None, expected: str) -> None:
    assert show.seconds(value) == expected


def test_other_numbers_read_well() -> None:
    assert show.size(44_700_000) == "44.7 MB" and show.size(512) == "512 B" and show.size(0) == "0 B"
    assert show.binary_size(2**15) == "32.0 KiB" and show.hertz(2.6e9) == "2.60 GHz" and show.macs(556e6) == "556 MMAC"
    assert show.interval(0.0045149, 0.00458, show.TIME) == "4.51 to 4.58 ms"
    assert show.interval(0.0045149, 0.00458, show.TIME, digits=4) == "4.515 to 4.580 ms"
    assert show.interval(-1e-5, 1.2e-4, show.TIME) == "-10 to 120 µs"
    assert show.number(0.03329) == "0.0333" and show.number(None) == "unknown" and show.percent(0.98333) == "98.3 %"
    assert show.moment("2026-01-02T03:04:05Z") == "2026-01-02 03:04 UTC" and show.moment("?") == "?"
    assert show.counted(2, "process") == "2 processes" and show.listed(["a", "b", "c"]) == "a, b and c"


def test_log_ticks_surround_the_values() -> None:
    assert plots.log_ticks(0.45, 9) == pytest.approx([0.5, 1, 2, 5, 10])
    assert plots.log_ticks(0.01, 100) == pytest.approx([0.01, 0.1, 1, 10, 100])


def test_markup_escapes_children_and_attributes() -> None:
    assert tag("p", "a < b", tag("b", "&"), class_='"') == '<p class="&quot;">a &lt; b<b>&amp;</b></p>'
