"""kit evaluate from the command line, accuracies that are stated in a table, and the choice that follows from both."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import colours
import pytest
import synthetic
from invoke import kit
from typer.testing import CliRunner

import kit as kit_api
from kit import evaluation, knowledge, store
from kit.cli import app
from kit.errors import BadRecord, KitError, UsageError
from kit.records import Accuracy, Artifact, KnowledgeBase, Need

pytest.importorskip("PIL")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a zip of twelve images and the classes in the order of the networks' outputs."""
    monkeypatch.chdir(tmp_path)
    colours.archive(tmp_path / "images.zip", {f"test/{name}": data for name, data in colours.files().items()})
    (tmp_path / "classes.txt").write_text("\n".join(colours.ORDER))
    return tmp_path


def refused(*words: str) -> str:
    completed = CliRunner().invoke(app, ["evaluate", *words])
    assert isinstance(completed.exception, KitError), completed.output
    assert completed.exception.exit_code == 2 and "\n" not in str(completed.exception)
    return str(completed.exception)


def sidecar(name: str) -> Artifact:
    return store.read_record(Path(f"{name}.json"), Artifact)


# ---------------------------------------------------------------------------------------------------------------- from end to end


def test_the_more_accurate_of_two_own_networks_is_chosen(here: Path) -> None:
    """Both are evaluated and profiled; the smaller is faster, the larger more accurate, and a deadline that no network meets refuses."""
    colours.network(here / "right.onnx", (0, 1, 2), batch=1)
    colours.network(here / "wrong.onnx", (0, 1, 1), batch=1)
    words = ("--data", "images.zip/test", "--classes", "classes.txt", "--mean", "0", "--std", "1")
    printed = kit("evaluate", "right.onnx", *words)
    assert printed == "right.onnx: 100.0 % (75.8 to 100.0), 12 of 12 images of images/test; in right.json\n"
    data = json.loads(kit("evaluate", "wrong.onnx", *words, "--json"))["networks"][0]
    assert (data["accuracy"], data["correct"], data["count"]) == (8 / 12, 8, 12)
    assert data["interval"] == list(Accuracy(top1=8 / 12, count=12).interval or ())
    for name in ("right", "wrong"):
        kit("profile", f"{name}.onnx", "--rounds-max", "6", "--run-s", "0.02", "--profiles", "p", "--json")
    kit("knowledge", "build", "p")
    base = store.read_record(Path("knowledge.json"), KnowledgeBase)
    accuracies = {row.artifact_id: (row.accuracy, row.dataset) for row in base.rows}
    assert accuracies == {"right": (1.0, "images/test"), "wrong": (8 / 12, "images/test")}
    trusted = base.model_copy(update={"rows": tuple(r.model_copy(update={"label": "stable"}) for r in base.rows)})
    store.write_record(Path("knowledge.json"), trusted)  # so short a measurement may come out as inconclusive
    assert json.loads(kit("knowledge", "ask", "--deadline-ms", "10000", "--json"))["chosen"]["id"] == "right"
    assert json.loads(kit("knowledge", "ask", "--min-accuracy", "0.9", "--json"))["chosen"]["id"] == "right"
    assert CliRunner().invoke(app, ["knowledge", "ask", "--deadline-ms", "0.00001"]).exit_code != 0


def test_accuracies_of_sidecars_reach_profiles_that_are_older(here: Path) -> None:
    colours.network(here / "net.onnx")
    store.append_line(Path("p.jsonl"), synthetic.profile("net", accuracy=None))
    kit("evaluate", "net.onnx", "--data", "images.zip/test", "--classes", "classes.txt", "--mean", "0", "--std", "1")
    kit("knowledge", "build", "p.jsonl", "--accuracy", ".")
    assert store.read_record(Path("knowledge.json"), KnowledgeBase).rows[0].accuracy == 1.0
    base = kit_api.KnowledgeBase("p.jsonl", accuracies=here)
    assert (base.rows[0].accuracy, base.rows[0].dataset) == (1.0, "images/test")


def test_shares_by_other_metrics_are_not_compared(here: Path) -> None:
    rows = knowledge.build([synthetic.profile("a", accuracy=None), synthetic.profile("b", accuracy=None)])
    given = {"a": Accuracy(top1=0.9, dataset="d"), "b": Accuracy(top1=0.99, dataset="d", metric="top5")}
    base = knowledge.with_accuracies(rows, given)
    with pytest.raises(BadRecord, match=r"2 data sets \(d, d, top5\)"):
        knowledge.ask(base.rows, Need())


def test_a_failure_is_a_sentence_and_json(here: Path) -> None:
    colours.network(here / "net.onnx")
    assert "add --mean and --std" in refused("net.onnx", "--data", "images.zip/test", "--classes", "classes.txt")
    assert "takes one .onnx file and --data" in refused("net.onnx")
    assert "takes one .onnx file and --data" in refused("--data", "images.zip/test")
    assert "takes one .onnx file and --data" in refused("a.onnx", "b.onnx", "--data", "images.zip/test")
    assert "--mean 1,x cannot be read" in refused("net.onnx", "--data", "images.zip/test", "--mean", "1,x")
    assert "--layout NCWH cannot be" in refused("net.onnx", "--data", "images.zip/test", "--layout", "NCWH")
    assert "leave out the other options" in refused("net.onnx", "--from", "a.csv", "--limit", "3")
    assert not Path("net.json").exists()


def test_help_says_that_a_file_is_run() -> None:
    completed = CliRunner().invoke(app, ["evaluate", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert "run that file" in completed.stdout


# ---------------------------------------------------------------------------------------------------------- tables of accuracies


@pytest.fixture
def models(here: Path) -> Path:
    """Three networks in a folder; one of them has a sidecar with an id of its own."""
    (here / "models" / "old").mkdir(parents=True)
    for name in ("a", "B_2", "old/c"):
        colours.network(here / "models" / f"{name}.onnx", batch=1)
    artifact = kit_api.evaluate(here / "models/old/c.onnx", lambda: [([[[0] * 8] * 8] * 3, 1)])
    store.write_record(
        here / "models/old/c.json", artifact.model_copy(update={"artifact_id": "mine-3", "licence": "MIT"})
    )
    return here / "models"


def test_a_table_fills_the_sidecars(models: Path) -> None:
    (models / "t.csv").write_text(
        "\ufefffile,Accuracy,count,dataset,metric\na.onnx,0.873,10000,cifar,\nb_2,87.3%,,,top5\n\nmine-3, 91 %,,cifar,top1\n"
    )
    printed = kit("evaluate", "--from", "models/t.csv")
    assert printed.splitlines()[0] == "models/a.onnx: 87.3 % (86.6 to 87.9), 8730 of 10000 images of cifar; in a.json"
    assert sidecar("models/a").accuracy == Accuracy(top1=0.873, count=10_000, dataset="cifar")
    assert sidecar("models/B_2").accuracy == Accuracy(top1=0.873, metric="top5")
    kept = sidecar("models/old/c")
    assert kept.accuracy == Accuracy(top1=0.91, dataset="cifar") and kept.licence == "MIT"
    assert sidecar("models/a").macs is not None


def test_tables_of_every_form(models: Path) -> None:
    one = Accuracy(top1=0.5, count=4, dataset="d")
    for name, text in {
        "t.json": '{"a": {"top1": 0.5, "count": 4, "dataset": "d"}}',
        "list.json": '[{"file": "a.onnx", "accuracy": "50%", "count": 4, "dataset": "d"}]',
        "semicolon.csv": "id;accuracy;count;dataset\na;0.5;4;d\n",
        "path.csv": "dataset,count,top1,file\nd,4,.5,models/a.onnx\n",
    }.items():
        Path(name).write_text(text)
        (given,) = json.loads(kit("evaluate", "--from", name, "models/a.onnx", "--json"))["networks"]
        assert sidecar("models/a").accuracy == one and given["count"] == 4
        assert list(evaluation.read_accuracies(Path(name)).values()) == [one]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "file,accuracy\na.onnx,0.5\nb_2,87.3\n",
            "line 3: the accuracy '87.3' of b_2 is no share: write 0.873 or 87.3%",
        ),
        ("file,accuracy\na.onnx,0.5\nb_2,101%\n", "line 3: the accuracy '101%'"),
        ("file,accuracy\na.onnx,0.5\nb_2,nan\n", "line 3: the accuracy 'nan'"),
        ("file,accuracy\na.onnx,0.5\nb_2,\n", "line 3: the accuracy 'None'"),
        ("file,accuracy\na.onnx,0.5\n,0.5\n", "line 3 names no network"),
        ("file,accuracy\na.onnx,0.5\nb_2\n", "line 3 has 1 cells and the first line 2 columns"),
        ("file,accuracy,count\na.onnx,0.5,3\nb_2,0.5,1.5\n", "line 3: the count '1.5' is no number of samples"),
        ("file,accuracy,count\na.onnx,0.5,3\nb_2,0.5,0\n", "line 3: the count '0'"),
        ("file,accuracy\na.onnx,0.5\na.onnx,0.6\n", "line 3 states the accuracy of a.onnx again"),
        ("file,accuracy\na.onnx,0.5\na,0.6\n", "are of the same network"),
        (
            "file,accuracy\na.onnx,0.5\nz.onnx,0.6\n",
            "line 3: there is no network z.onnx among B_2.onnx, a.onnx, c.onnx",
        ),
        ("file,share\na.onnx,0.5\n", "has the column 'share'"),
        ("file\na.onnx\n", "needs one column file (or id) and one column accuracy"),
        ("file,id,accuracy\na.onnx,a,0.5\n", "needs one column file (or id)"),
        ("file,accuracy\n", "holds no accuracies"),
        ("", "needs one column file"),
    ],
)
def test_a_wrong_row_writes_nothing(models: Path, text: str, sentence: str) -> None:
    (models / "t.csv").write_text(text)
    before = {path: path.read_bytes() for path in models.rglob("*") if path.is_file()}
    assert sentence in refused("--from", "models/t.csv")
    assert {path: path.read_bytes() for path in models.rglob("*") if path.is_file()} == before


def test_a_name_of_two_files_is_refused(models: Path) -> None:
    colours.network(models / "old" / "a.onnx", batch=1)
    (models.parent / "t.csv").write_text("file,accuracy\na.onnx,0.5\n")
    assert re.search(
        r"a.onnx is 2 files here, such as models/a.onnx and models/old/a.onnx", refused("--from", "t.csv", "models")
    )
    (models.parent / "t.csv").write_text("file,accuracy\nold/a.onnx,0.5\n")
    kit("evaluate", "--from", "t.csv", "models")
    assert sidecar("models/old/a").accuracy == Accuracy(top1=0.5) and not Path("models/a.json").exists()
    assert "neither an .onnx file nor a folder" in refused("--from", "t.csv", "gone")


def test_one_bad_sidecar_stops_the_whole_table(models: Path) -> None:
    (models / "B_2.json").write_text('{"mine": 1}')
    (models / "t.csv").write_text("file,accuracy\na.onnx,0.5\nB_2.onnx,0.5\n")
    assert "is no sidecar of kit's" in refused("--from", "models/t.csv")
    assert not (models / "a.json").exists() and (models / "B_2.json").read_text() == '{"mine": 1}'


def test_a_table_reaches_the_knowledge_base(here: Path) -> None:
    store.append_line(Path("p.jsonl"), synthetic.profile("net_1", accuracy=None))
    Path("t.csv").write_text("file,accuracy,dataset\nNet_1.onnx,90%,d\nother,0.5,d\n")
    kit("knowledge", "build", "p.jsonl", "--accuracy", "t.csv")
    row = store.read_record(Path("knowledge.json"), KnowledgeBase).rows[0]
    assert (row.accuracy, row.dataset) == (0.9, "d")
    assert kit_api.KnowledgeBase("p.jsonl", accuracies="t.csv").rows[0].accuracy == 0.9
    assert kit_api.KnowledgeBase("p.jsonl", accuracies={"net_1": 0.8}).rows[0].accuracy == 0.8
    Path("empty").mkdir()
    with pytest.raises(BadRecord, match="empty holds no sidecar with an accuracy"):
        evaluation.read_accuracies(Path("empty"))
    with pytest.raises(UsageError, match=r"gone.csv does not exist"):
        evaluation.read_accuracies(Path("gone.csv"))


def test_a_board_without_the_training_tools_writes_a_sidecar(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the runtime alone says of the file: tensors and hash, no MACs."""
    import builtins

    real = builtins.__import__

    def without(name: str, *words: Any, **more: Any) -> Any:
        if name.split(".")[0] in ("torch", "onnx") or "describe" in (words[2] if len(words) > 2 and words[2] else ()):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *words, **more)

    colours.network(here / "net.onnx")
    monkeypatch.setattr(builtins, "__import__", without)
    kit("evaluate", "net.onnx", "--data", "images.zip/test", "--classes", "classes.txt", "--mean", "0", "--std", "1")
    artifact = sidecar("net")
    assert artifact.accuracy is not None and artifact.accuracy.correct == 12
    assert artifact.macs is None and artifact.inputs[0].shape == (1, 3, 8, 8)
