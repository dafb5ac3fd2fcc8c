"""The Python interface as a script, a notebook and a board meet it."""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import colours
import pytest
import synthetic

import kit
from kit import knowledge, latency, spaces, store
from kit.devices import recognise
from kit.library import package
from kit.measure.compare import COMPARISON_LABELS, compare_pair
from kit.records import Need, Promise, Record, SubNetwork

ROOT = Path(__file__).parent.parent
SMALL = "resnet18-d1.1.1.1-w0.25-fp32-96"
#: What kit.compare prints of two records.
COMPARED = re.compile(rf"^label +({'|'.join(COMPARISON_LABELS)})$", re.MULTILINE)
SHIPPED = ROOT / "profiles" / "amd-epyc-f25m17-2c-kvm" / "resnet18-variants.jsonl"
VERBS = ("profile", "compare", "fit", "predict", "KnowledgeBase", "build", "serve", "pull", "device", "evaluate")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test runs in an empty folder and leaves it empty but for what it names."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield here
    assert list(here.iterdir()) == []


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library of one small network that promises a latency on this machine."""
    build = tmp_path / "build"
    artifact = spaces.write(SubNetwork.parse(SMALL), build / f"{SMALL}.onnx")
    store.write_record(build / f"{SMALL}.json", artifact)
    promise = Promise(
        device_id=recognise().device_id, backend="onnxruntime", threads=1, median_s=0.001, p99_s=0.002, memory_bytes=10**7,
        label="stable", record_id="r",
    )  # fmt: skip
    package.add(tmp_path / "library", build, [artifact], {SMALL: [promise]})
    return tmp_path / "library"


# ------------------------------------------------------------------------------------------------------------ the examples


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=False)
    examples = [test for name in VERBS for test in finder.find(getattr(kit, name), name=f"kit.{name}")]
    return [*examples, *finder.find(kit, extraglobs={}, name="kit")[:1]]


@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name)
def test_examples_of_the_docstrings_hold(example: doctest.DocTest, library: Path, tmp_path: Path) -> None:
    public = not any(part.startswith("_") for part in example.name.split("."))
    if not public or example.name == "kit.KnowledgeBase.rows" or example.name == "kit.KnowledgeBase.save":
        assert not example.examples
        return
    assert example.examples, f"{example.name} has no example"
    example.globs = {"kit": kit, "PROFILES": SHIPPED, "LIBRARY": library, "FOLDER": tmp_path / "models"}
    if example.name == "kit.evaluate":
        example.globs["NETWORK"] = colours.identity(tmp_path / "net.onnx", 2)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    output: list[str] = []
    runner.run(example, out=output.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(output)


def test_the_script_of_the_page_works(tmp_path: Path) -> None:
    """The first script of docs/api.md, as a file without a guard: twelve lines, on a machine without torch."""
    script = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)[0]
    assert len(script.strip().splitlines()) <= 12
    (tmp_path / "script.py").write_text(script)
    completed = python(str(tmp_path / "script.py"), cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert COMPARED.search(completed.stdout) and SMALL in completed.stdout
    assert len(list((tmp_path / "records").rglob("*.jsonl"))) == 2


@pytest.mark.slow
def test_the_script_of_the_readme_works(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("onnxscript")
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(script.strip().splitlines()) <= 12
    completed = python("-", text=script, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert COMPARED.search(completed.stdout)


# ------------------------------------------------------------------------------------------------------------- the package


def python(*words: str, text: str | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], input=text, capture_output=True, text=True, cwd=cwd, env=environment, timeout=240
    )


def test_every_name_is_exported_and_no_other() -> None:
    assert set(VERBS) < set(kit.__all__)
    assert set(kit.__all__) <= set(dir(kit))
    for name in kit.__all__:
        assert getattr(kit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'profil'"):
        kit.profil  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_see_each_name_where_it_is_loaded_from() -> None:
    tree = ast.parse((ROOT / "kit" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module != "kit"
    }
    assert homes == kit._HOMES  # type: ignore[attr-defined]
    assert (ROOT / "kit" / "py.typed").is_file()


@pytest.mark.slow
def test_a_type_checker_knows_what_each_function_takes_and_gives(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text("""
import kit
record = kit.profile("x.onnx")
reveal_type(record)
reveal_type(kit.compare(record, record))
reveal_type(kit.compare("a", "b"))
reveal_type(kit.predict("m.json", ["a"]))
reveal_type(kit.KnowledgeBase("a").ask(deadline_ms=5))
kit.profil
kit.profile("x", thread=2)
""")
    completed = python("-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(tmp_path / "user.py"), cwd=ROOT)
    lines = re.findall(
        r"user.py:(\d+): (?:note: Revealed type is \"([^\"]*)\"|error: .*\[([\w-]+)\])", completed.stdout
    )
    assert [(line, kind or code) for line, kind, code in lines] == [
        ("4", "kit.records.measurement.ProfileRecord"),
        ("5", "kit.measure.compare.Comparison"),
        ("6", "list[kit.measure.compare.Comparison]"),
        ("7", "list[kit.latency.networks.Prediction]"),
        ("8", "kit.records.knowledge.Answer"),
        ("9", "attr-defined"),
        ("10", "call-arg"),
    ], completed.stdout


@pytest.mark.board
def test_it_measures_from_standard_input_on_a_board() -> None:
    """No file, no main guard, no torch: as a notebook or a shell on a board sends it."""
    code = f"""
import importlib.util, sys
absent, find = ("torch", "torchvision", "onnx", "scipy", "gymnasium"), importlib.util.find_spec
sys.modules |= dict.fromkeys(absent)  # an import of one fails
importlib.util.find_spec = lambda name, *words: None if name in absent else find(name, *words)
import kit
records = [kit.profile("{SMALL}", budget=1, threads=1) for _ in range(2)]
kit.compare(*records)
models = kit.fit({str(SHIPPED)!r})
base = kit.KnowledgeBase({str(SHIPPED)!r})
print(records[0].artifact.artifact_id, base.ask(deadline_ms=5).chosen.backend, len(models.lines), models.predictor)
print(models.missing)
"""
    completed = python("-", text=code)
    assert completed.returncode == 0, completed.stderr
    first, second = completed.stdout.splitlines()
    assert first == f"{SMALL} onnxruntime 2 None"
    assert "needs scipy" in second
    assert completed.stderr == ""


# --------------------------------------------------------------------------------------------------------------- measuring


def test_profile_is_silent_and_stores_a_record_only_with_a_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[tuple[str, float]] = []
    record = kit.profile("fake:200us", backend="fake", rounds_min=2, rounds_max=2, budget=2)
    record = kit.profile(
        "fake:200us", backend="fake", rounds_min=2, rounds_max=2, budget=2, profiles=tmp_path / "p", name="mine",
        progress=lambda text, share: steps.append((text, share)),
    )  # fmt: skip
    assert capfd.readouterr() == ("", "")
    assert record.measurement is not None and record.measurement.median_s >= 0.0002
    assert steps and all(text and 0 <= share <= 1 for text, share in steps)
    (file,) = (tmp_path / "p").rglob("*.jsonl")
    assert file == tmp_path / "p" / record.device.device_id / "mine.jsonl"
    assert store.read_profiles([file]) == [record]


def test_records_of_one_process_share_a_scale_of_drift() -> None:
    one, two = (kit.profile(SMALL, rounds_min=6, rounds_max=6, run_s=0.05) for _ in range(2))
    assert one.measurement is not None and two.measurement is not None
    assert one.measurement.reference is not None
    assert one.measurement.reference == two.measurement.reference


def test_profile_takes_a_network_of_torch_and_leaves_it_as_it_is() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    class Two(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.drop = torch.nn.Linear(64, 32), torch.nn.Dropout()

        def forward(self, x: Any, y: Any) -> Any:
            return {"sum": self.drop(self.layer(x + y))}

    net = Two().train()
    net.drop.eval()
    inputs = (torch.rand(1, 64), torch.rand(1, 64))
    record = kit.profile(net, example_input=inputs, budget=1, backend="pytorch")
    assert record.artifact.artifact_id == "two"
    assert record.artifact.macs == 64 * 32
    assert [t.shape for t in record.artifact.inputs] == [(1, 64), (1, 64)]
    assert net.training and net.layer.training and not net.drop.training
    assert (
        kit.profile(torch.nn.Linear(4, 4), example_input=torch.rand(1, 4), budget=1, name="My net").artifact.artifact_id
        == "my-net"
    )
    with pytest.raises(kit.errors.UsageError, match="needs an example_input"):
        kit.profile(net)
    with pytest.raises(kit.errors.UsageError, match="Two does not take the inputs x 1x3, y 1x3 .*64"):
        kit.profile(net, example_input=(torch.rand(1, 3), torch.rand(1, 3)))

    class Branching(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(kit.errors.BadModel, match="torch cannot export Branching"):
        kit.profile(Branching(), example_input=torch.rand(1, 3))


@pytest.mark.parametrize(
    ("network", "how", "kind", "text"),
    [
        ("none.onnx", {}, "UsageError", "none.onnx does not exist"),
        ("resnet18-d9.9.9.9-w0.25-fp32-96", {}, "UsageError", "resnet18"),
        (SMALL, {"backend": "onnxruntim"}, "UnknownName", "did you mean 'onnxruntime'"),
        (SMALL, {"threads": 0}, "UsageError", "threads"),
        (SMALL, {"budget": "soon"}, "UsageError", "soon"),
        (SMALL, {"budget": -1}, "UsageError", "-1"),
        (SMALL, {"precision": 0}, "UsageError", "precision"),
        (SMALL, {"rounds_min": 0}, "UsageError", "rounds_min"),
        (SMALL, {"rounds_min": 5, "rounds_max": 2}, "UsageError", "rounds_max 2 is below rounds_min 5"),
        (SMALL, {"gap_ms": -1}, "UsageError", "gap"),
        (SMALL, {"example_input": 1}, "UsageError", "example_input is for a PyTorch network"),
        (3, {}, "UsageError", "int is no network"),
        ("fake:crash", {"backend": "fake", "rounds_min": 1}, "MeasurementError", "fake:crash was not measured"),
        ("fake:1us", {}, "UsageError", "fake backend"),
    ],
)
def test_profile_refuses_in_a_sentence(network: Any, how: dict[str, Any], kind: str, text: str) -> None:
    with pytest.raises(kit.KitError, match=re.escape(text)) as refused:
        kit.profile(network, **how)
    assert type(refused.value).__name__ == kind
    assert "\n" not in str(refused.value)


def test_compare_of_two_records_is_one_comparison_whatever_differs() -> None:
    slow, fast = (
        synthetic.profile(latency_s=0.02),
        synthetic.profile(latency_s=0.01, settings=synthetic.MeasureSettings(threads=2)),
    )
    comparison = kit.compare(slow, fast)
    assert comparison.label == "faster" and comparison.ratio == pytest.approx(0.5, rel=0.01)
    assert "threads differs (A 1, B 2)" in comparison.remarks
    assert compare_pair(slow, fast, 0.02).label == "not comparable"
    (alone,) = kit.compare([slow], [fast])
    assert alone.label == "not comparable"
    elsewhere = kit.compare(slow, synthetic.profile(latency_s=0.01, on=synthetic.device("other")))
    assert elsewhere.label == "faster" and any("device differs" in remark for remark in elsewhere.remarks)
    assert "two networks" in kit.compare(slow, synthetic.profile("resnet18-d4-w1.00-fp32-32")).remarks[0]
    assert kit.compare(slow, synthetic.profile(label="inconclusive")).label == "not comparable"


def test_compare_reads_files_and_folders() -> None:
    comparison = kit.compare(SHIPPED, str(SHIPPED.parent / "resnet18-variants.jsonl"))
    assert len(comparison) > 3 and all("both sides are the same record" in c.remarks for c in comparison)
    for within in (0, 1.5, float("nan")):
        with pytest.raises(kit.errors.UsageError, match="is no share"):
            kit.compare(SHIPPED, SHIPPED, within=within)
    with pytest.raises(kit.errors.UsageError, match="does not exist"):
        kit.compare("a.jsonl", "b.jsonl")


# ------------------------------------------------------------------------------------------------ models, knowledge, library


def test_fit_and_predict_are_those_of_the_packages(tmp_path: Path) -> None:
    profiles = store.read_profiles([SHIPPED])
    models = kit.fit(SHIPPED, seed=1)
    assert list(models.lines) == latency.fit(profiles, seed=1)
    assert models.predictor == latency.predictor(profiles, seed=1)
    artifact = spaces.write(SubNetwork.parse(SMALL), tmp_path / "x.onnx")
    guesses = kit.predict(models, [SMALL, artifact])
    models.save(tmp_path / "m.json")
    assert kit.predict(tmp_path / "m.json", SMALL) == guesses[0]
    assert guesses[1] == guesses[0]
    other = [p.model_copy(update={"settings": p.settings.model_copy(update={"backend": "openvino"})}) for p in profiles]
    both = kit.fit([*profiles, *other])
    assert {line.backend for line in both.lines} == {"onnxruntime", "openvino"}
    assert both.predictor is None and "2 backends" in (both.missing or "")
    with pytest.raises(kit.errors.BadRecord, match="There is no predictor: .*2 backends"):
        kit.predict(both, SMALL)
    for refused, text in (
        (lambda: kit.predict(models, "nonsense"), "nonsense"),
        (lambda: kit.predict(models, SMALL, threads=64), "outside of the measured"),
        (lambda: kit.predict(models, SMALL, clock_ghz=float("nan")), "clock_ghz nan cannot be"),
        (lambda: kit.fit(SHIPPED, backend="openvin"), "Unknown backend"),
        (lambda: kit.fit(SHIPPED, device="pi"), "Unknown device 'pi'"),
        (lambda: kit.fit([]), "A line needs 3"),
    ):
        with pytest.raises(kit.errors.UsageError, match=re.escape(text)):
            refused()  # type: ignore[no-untyped-call]


def test_predict_takes_a_network_of_torch() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3))
    guess = kit.predict(kit.fit(SHIPPED), net, example_input=torch.rand(1, 3, 32, 32))
    assert guess.interval_s[0] < guess.seconds < guess.interval_s[1]


def test_the_knowledge_base_answers_as_the_command_does(tmp_path: Path) -> None:
    profiles = store.read_profiles([SHIPPED])
    base = kit.KnowledgeBase(profiles)
    row = knowledge.build(profiles).rows[0]
    need = Need(deadline_s=0.005, min_accuracy=0.9, memory_bytes=60_000_000, have=(row.sha256,), link_bps=1e6)
    answer = base.ask(deadline_ms=5, min_accuracy=0.9, memory_mb=60, have=[row.sha256[:8]], link_mbps=1)
    assert answer == knowledge.ask(base.rows, need)
    base.save(tmp_path / "k.json")
    again = kit.KnowledgeBase(tmp_path / "k.json", accuracies={"no-such": 0.5})
    assert again.rows == base.rows
    assert base.pareto(min_accuracy=0.9) == knowledge.pareto(base.rows, Need(min_accuracy=0.9))
    assert base.explain(row.artifact_id, deadline_ms=5) == knowledge.explain(
        base.rows, Need(deadline_s=0.005), row.artifact_id
    )
    for limits, text in (
        ({"deadline_ms": 0}, "deadline_ms 0 is no limit"),
        ({"percentile": 42}, "percentile 42 is not kept"),
        ({"min_accuracy": 2}, "min_accuracy 2 is no share"),
        ({"link_mbps": 3}, "link_mbps alone limits nothing: add deadline_ms or download_ms"),
        ({"device": "pi"}, "Unknown device 'pi'"),
        ({"have": ["nothing"]}, "Unknown variant 'nothing'"),
        ({"threads": 0}, "threads 0 cannot be"),
    ):
        with pytest.raises(kit.errors.UsageError, match=re.escape(text)):
            base.ask(**limits)  # type: ignore[arg-type]
    with pytest.raises(kit.errors.UsageError, match="accuracy 3 of a is no share"):
        kit.KnowledgeBase(profiles, accuracies={"a": 3})


def test_serve_and_pull_end_to_end(library: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps: list[str] = []
    with kit.serve(library, port=0) as server:
        delivery = kit.pull(
            server.url, to=tmp_path / "models", deadline_ms=1000, progress=lambda text, share: steps.append(text)
        )
        with pytest.raises(kit.errors.NoAnswer):
            kit.pull(server.url, to=tmp_path / "models", deadline_ms=1e-3)
    server.close()
    assert capfd.readouterr() == ("", "")
    assert (delivery.pulled.folder / f"{SMALL}.onnx").is_file()
    assert delivery.record is not None and delivery.record.status == "ok"
    assert "download" in steps and any(SMALL in step for step in steps)
    with pytest.raises(kit.errors.LinkError):
        kit.pull(server.url, to=tmp_path / "models")


# ------------------------------------------------------------------------------------------------------------ how it prints


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>\x1b[31m\n&amp;'


def shown_records() -> list[Record]:
    """One record of each kind that prints as a table, its strings a stranger's."""
    device = synthetic.device(HOSTILE, cpu_model=HOSTILE, system=HOSTILE, runtimes={HOSTILE: HOSTILE}, virtual=HOSTILE)
    profile = synthetic.profile(on=device)
    artifact = profile.artifact.model_copy(update={"artifact_id": HOSTILE})
    profile = profile.model_copy(update={"artifact": artifact, "evidence": (HOSTILE,), "record_id": HOSTILE})
    failed = profile.model_copy(update={"status": "failed", "reason": HOSTILE, "measurement": None, "label": None})
    models = kit.fit(SHIPPED)
    assert models.predictor is not None
    line = models.lines[0].model_copy(update={"device_id": HOSTILE, "backend": HOSTILE, "clock_source": HOSTILE})
    predictor = models.predictor.model_copy(update={"device_id": HOSTILE, "reason": HOSTILE})
    base = knowledge.build([profile])
    return [
        device, profile, failed, artifact, line, predictor, models.model_copy(update={"lines": (line,), "missing": HOSTILE}),
        kit.compare(profile, profile.model_copy(update={"record_id": "b"})), kit.compare(profile, failed),
        kit.predict(models, SMALL).model_copy(update={"network": HOSTILE, "extrapolates": HOSTILE}), base,
        knowledge.ask(base.rows, Need()),
    ]  # fmt: skip


def test_records_show_in_a_notebook_and_inject_nothing() -> None:
    for record in shown_records():
        shown = record._repr_html_()
        assert shown is not None
        parser = _Tags()
        parser.feed(shown)
        assert parser.tags == {"table", "caption", "tr", "th", "td"} and parser.attributes == {"style"}, type(
            record
        ).__name__
        assert "&lt;script&gt;" in shown
        for text in (str(record), repr(record)):
            assert "\x1b" not in text
        assert "\n" not in repr(record) and len(repr(record)) < 700
        assert type(record).__name__ in repr(record)


def test_records_of_values_print_as_values() -> None:
    reference = synthetic.artifact().model
    assert reference._repr_html_() is None
    assert repr(reference).startswith("FileRef(file=")


def test_a_record_prints_what_a_person_asks_of_it() -> None:
    record = synthetic.profile(latency_s=0.0123, spread=1e-6)
    text = str(record)
    for text_part in ("12.3 ms", "stable", "onnxruntime, t1", "synthetic-1c", "6, 300 calls"):
        assert text_part in text
    assert repr(record) == "<ProfileRecord resnet18-d8-w1.00-fp32-32, 12.3 ms (95%: 12.3 to 12.3 ms), stable>"
    settled = record.model_copy(update={"label": "settled"})
    assert "settled (converged late)" in str(settled)
