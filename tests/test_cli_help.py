"""What a person reads before a verb does anything: help, examples, completion, versions, the page of all verbs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from kit import backends, spaces
from kit.cli import app, options
from kit.cli.examples import EXAMPLES

ROOT = Path(__file__).parent.parent


def verbs(command: Any = None, words: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every verb that does something, by its words."""
    command = command or typer.main.get_command(app)
    below = getattr(command, "commands", {})
    known = {" ".join(words): command} if words and (not below or command.invoke_without_command) else {}
    for name, sub in below.items():
        known |= verbs(sub, (*words, name))
    return known


VERBS = verbs()
LINES = [(verb, line) for verb, lines in EXAMPLES.items() for line in lines]


def shown(*words: str) -> str:
    completed = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert completed.exit_code == 0, completed.output
    return completed.stdout


def test_every_verb_has_an_example_and_no_example_is_of_another() -> None:
    assert set(EXAMPLES) == {*VERBS, "kit"}


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_the_examples(verb: str) -> None:
    end = shown(*verb.split())[-2000:]
    for line in EXAMPLES[verb]:
        assert line in end
    assert end.rstrip().endswith(EXAMPLES[verb][-1])


@pytest.mark.parametrize(("verb", "line"), LINES)
def test_every_example_is_a_command_line_that_kit_takes(verb: str, line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "kit" and (verb == "kit" or line.startswith(f"kit {verb}"))
    completed = CliRunner().invoke(app, [*words, "--help"])
    assert completed.exit_code == 0, completed.output
    command: Any = typer.main.get_command(app)
    context = command.make_context("kit", list(words))  # options of kit itself, then the verb's words
    rest = [*getattr(context, "_protected_args", []), *context.args]
    while rest and getattr(command, "commands", None):
        command = command.commands[rest.pop(0)]
        with context:
            context = command.make_context(command.name, list(rest), parent=context)
        rest = [*getattr(context, "_protected_args", []), *context.args] if hasattr(command, "commands") else []
    assert not rest


def test_the_options_of_profile_stand_in_panels() -> None:
    panels = [param.rich_help_panel for param in VERBS["profile"].params if param.param_type_name == "option"]
    named = {options.TARGET, options.POINT, options.PRECISION, options.OUTPUT}
    visible = [p for p in VERBS["profile"].params if p.param_type_name == "option" and not p.hidden]
    assert named <= set(panels) and {p.rich_help_panel for p in visible} == named
    assert not [p.opts for p in VERBS["profile"].params if not p.hidden and "--space" in p.opts]


@pytest.mark.parametrize("verb", VERBS)
def test_a_table_may_be_csv_wherever_it_may_be_json(verb: str) -> None:
    """--csv stands beside --json on every verb that prints a table."""
    source = Path(sys.modules[VERBS[verb].callback.__module__].__file__ or "").read_text()
    names = {name for param in VERBS[verb].params for name in param.opts}
    assert "--csv" not in names or "--json" in names
    if "print_table" not in source:
        assert "--csv" not in names


def test_environment_variables_are_named_in_the_help() -> None:
    for verb, variable in (
        ("profile", "KIT_PROFILES"),
        ("explore", "KIT_PROFILES"),
        ("fit", "KIT_DEVICE"),
        ("pull", "KIT_DEVICE"),
    ):
        assert variable in shown(verb)


def test_kit_profiles_is_where_records_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KIT_PROFILES", str(tmp_path / "mine"))
    words = ["profile", "fake:1us", "--backend", "fake", "--rounds-max", "1", "--run-s", "0.01", "--json"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert list((tmp_path / "mine").rglob("*.jsonl")) and not (tmp_path / "profiles").exists()


def test_completion_knows_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options.complete_backend("onnxruntime-c") == ["onnxruntime-cuda"]
    assert options.complete_backend("fake,openv") == ["fake,openvino"]
    assert set(options.complete_backend("")) == set(backends.LEAVES)
    assert options.complete_space("resnet5") == [name for name in spaces.SPACES if name.startswith("resnet5")]
    assert options.complete_root("vg") == ["vgg11"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KIT_PROFILES", "mine")
    for device in ("board-1", "board-2", "other"):
        (tmp_path / "mine" / device).mkdir(parents=True)
        (tmp_path / "mine" / device / "x.jsonl").touch()
    (tmp_path / "mine" / "board-3").mkdir()
    assert options.complete_device("board") == ["board-1", "board-2"]
    (tmp_path / "zoo.onnx").touch()
    assert options.complete_target("zo") == ["zoo.onnx"]


def kit(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kit", *words], capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_the_shell_asks_and_kit_completes() -> None:
    # Where no shell called, as in a job in the background, there is none to detect: it is named.
    script = kit("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert script.returncode == 0 and "_KIT_COMPLETE" in script.stdout
    completion = kit(_KIT_COMPLETE="complete_bash", COMP_WORDS="kit profile x --backend onnxruntime-x", COMP_CWORD="4")
    assert completion.stdout.split() == ["onnxruntime-xnnpack"]


def test_verbose_says_what_is_read_and_written(tmp_path: Path) -> None:
    words = (
        "profile",
        "fake:1us",
        "--backend",
        "fake",
        "--rounds-max",
        "1",
        "--run-s",
        "0.01",
        "--json",
        "--profiles",
        str(tmp_path),
    )
    quiet, verbose, detailed = kit(*words), kit("-v", *words), kit("-vv", *words)
    assert "kit.store" not in quiet.stderr and "kit 0." not in quiet.stderr
    assert (
        re.search(r"ms kit: kit 0\..*Python 3\.", verbose.stderr)
        and ".jsonl" in verbose.stderr
        and ".journal" not in verbose.stderr
    )
    assert ".journal" in detailed.stderr and "run 1 of the template process" in detailed.stderr
    assert "Traceback" in kit("-vv", "profile", "none.onnx").stderr


def test_the_page_of_all_verbs_is_current_and_fits() -> None:
    completed = subprocess.run(
        [sys.executable, ROOT / "scripts" / "cli-reference", "--check"], capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    page = (ROOT / "docs" / "cli.md").read_text()
    assert all(f"\n## kit {verb}\n" in page for verb in VERBS)
    assert not [line for line in page.splitlines() if len(line) > 100]
