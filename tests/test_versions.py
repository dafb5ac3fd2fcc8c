"""What is promised about versions: bounds, tested versions and scripts agree, and sidecars say what made them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from kit import spaces, versions
from kit.errors import BackendUnavailable
from kit.records import SubNetwork

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
#: Named by an extra that is no part of the tested set: its libraries come from the vendor at install time.
UNTESTED = {"tensorrt"}


def slug(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def bounds() -> dict[str, list[tuple[int, ...]]]:
    """Distribution -> its lower bounds in pyproject.toml, kit's own extras left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    found: dict[str, list[tuple[int, ...]]] = {}
    for text in wanted:
        match = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(?:>=([\d.]+))?(?:,<[\d.]+)?(?: *;.*)?", text)
        assert match, text
        if match[1] != project["name"]:
            assert match[2], f"{text} has no lower bound"
            found.setdefault(slug(match[1]), []).append(numbers(match[2]))
    return found


def constraints() -> dict[str, list[tuple[str, str]]]:
    """Distribution -> (version, marker) of each of its lines."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([\w.-]+)==([\w.+]+)(?: ; (.*))?", line)
            assert match, line
            found.setdefault(slug(match[1]), []).append((match[2], match[3] or ""))
    return found


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def test_every_dependency_has_a_tested_version_within_its_bound() -> None:
    tested = constraints()
    for name, lowest in bounds().items():
        if name in UNTESTED:
            continue
        assert name in tested, f"{name} is in pyproject.toml and not in constraints.txt"
        assert all(numbers(version) >= min(lowest) for version, _ in tested[name]), name


def test_onnxruntime_is_one_that_stays_in_the_models_folder_where_there_is_one() -> None:
    """Versions before 1.25 read weights from any path that a model names; none later exists for Python 3.10."""
    new, old = sorted(bounds()["onnxruntime"], reverse=True)
    assert new >= (1, 25)
    assert old == (1, 23, 2)
    tested = {marker: version for version, marker in constraints()["onnxruntime"]}
    assert tested["python_full_version < '3.11'"] == "1.23.2"


def test_the_environment_holds_what_its_stamp_says() -> None:
    """Where scripts/setup installed the tested set, that set is what the tests run with; elsewhere the versions meet the bounds."""
    tested, lowest = constraints(), bounds()
    constrained = [*Path(sys.prefix).glob(".installed-*-constrained-*")]
    # Only what is installed: once imported, setuptools puts its private copies of other distributions at the end of sys.path.
    for distribution in metadata.distributions(path=[*{sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}]):
        name = slug(distribution.metadata["Name"])
        if name in lowest:
            assert numbers(distribution.version) >= min(lowest[name]), name
        if constrained and name in tested:
            assert distribution.version.split("+")[0] in [version for version, _ in tested[name]], name


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--newest",), "does not know --newest"),
        (("dev", "bench"), "write dev,bench"),
        (("--latest", "-x"), "does not know -x"),
    ],
)
def test_setup_refuses_words_that_it_does_not_know(words: tuple[str, ...], why: str) -> None:
    done = subprocess.run([ROOT / "scripts" / "setup", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_setup_installs_again_when_the_set_changes(tmp_path: Path) -> None:
    """One set at a time: from --latest back to the constraints, and to other constraints, versions move."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "scripts" / "setup").write_bytes((ROOT / "scripts" / "setup").read_bytes())
    for program in ("pip", "python"):
        (tmp_path / ".venv" / "bin" / program).write_text('#!/bin/sh\n[ ! -e broken ] && echo "$@" >> log\n')
        (tmp_path / ".venv" / "bin" / program).chmod(0o755)
    for file in ("pyproject.toml", "constraints.txt"):
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    log = tmp_path / "log"

    def installed(*words: str) -> list[str]:
        """What is installed by ``scripts/setup words``, pip's own upgrade left out."""
        log.write_text("")
        subprocess.run(["bash", tmp_path / "scripts" / "setup", *words], capture_output=True, check=True)
        return [line for line in log.read_text().splitlines() if not line.endswith("--upgrade pip")]

    (first,) = installed("dev")
    assert "--constraint constraints.txt" in first and first.endswith("-e .[dev]")
    assert installed("dev") == []
    assert len(installed()) == 1  # other extras of the same set stand beside the first
    assert installed("dev") == []
    (newest,) = installed("--latest", "dev")
    assert "--constraint" not in newest and "--upgrade-strategy eager" in newest
    assert installed("--latest", "dev") == []
    assert installed("dev") == [first]
    (tmp_path / "constraints.txt").write_text("numpy==2.1.0\n")
    assert installed("dev") == [first]
    (tmp_path / "broken").touch()
    assert subprocess.run(["bash", tmp_path / "scripts" / "setup", "--latest", "dev"], capture_output=True).returncode
    (tmp_path / "broken").unlink()
    assert installed("dev") == [first]  # an installation that broke off is of no set


@pytest.mark.parametrize("script", ["quickstart", "test"])
def test_scripts_hand_latest_to_the_setup_and_the_rest_on(script: str, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    copied = tmp_path / "scripts" / script
    copied.write_bytes((ROOT / "scripts" / script).read_bytes())
    for program in ("scripts/setup", ".venv/bin/kit", ".venv/bin/python"):
        (tmp_path / program).write_text(f'#!/bin/sh\necho {program} "$@"\n')
        (tmp_path / program).chmod(0o755)
    extras = {"quickstart": "workshop", "test": "dev"}[script]
    rest = {"quickstart": ".venv/bin/kit run --quick", "test": ".venv/bin/python -m pytest -m not slow --quick"}[script]
    for words, setup in ((("--quick",), extras), (("--latest", "--quick"), f"--latest {extras}")):
        done = subprocess.run(["bash", copied, *words], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == [f"scripts/setup {setup}", rest]


def test_versions_of_what_is_installed() -> None:
    assert versions.installed(["numpy", "no-such-distribution"]) == {"numpy": metadata.version("numpy")}


def test_sidecars_say_which_versions_made_them(tmp_path: Path) -> None:
    written = spaces.write(SubNetwork.parse("resnet18-d1.1.1.1-w0.25-fp32-96"), tmp_path / "x.onnx")
    assert written.origin is not None
    assert written.origin.versions == {"numpy": metadata.version("numpy")}
    describe = pytest.importorskip("kit.variants.describe")
    (tmp_path / "x.json").unlink()
    described = describe.describe_onnx(tmp_path / "x.onnx")
    assert described.origin is not None
    assert described.origin.versions == versions.installed(["onnx", "onnxruntime", "numpy"])
    assert described.macs == written.macs


# --------------------------------------------------------------------------------------------------------- what installs it


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment below the current folder that nobody activated."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    return tmp_path / ".venv"


def test_the_command_that_installs_is_one_that_works_here(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        versions.install("openvino") == ".venv/bin/python -m pip install openvino"
    )  # an environment without pip's script
    (environment / "bin" / "pip").touch()
    assert versions.install("openvino", "scipy") == ".venv/bin/pip install openvino scipy"
    monkeypatch.chdir(environment / "bin")
    assert versions.install("openvino") == f"{environment}/bin/pip install openvino"
    monkeypatch.setenv("VIRTUAL_ENV", str(environment))
    assert versions.install("openvino") == "python -m pip install openvino"
    monkeypatch.delenv("VIRTUAL_ENV")
    monkeypatch.setattr(sys, "base_prefix", str(environment))
    assert versions.install("openvino") == "python -m pip install openvino"


def test_what_is_missing_is_one_sentence_with_the_command(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions.need("Numbers need", "numpy", "json")
    here = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("sklearn", "nets") else here(name))
    with pytest.raises(BackendUnavailable) as caught:
        versions.need("Fits need", "numpy", "sklearn", "nets")
    assert str(caught.value) == (
        "Fits need scikit-learn, nets, which are not installed: .venv/bin/python -m pip install scikit-learn nets"
    )
    assert caught.value.details == {"missing": ["scikit-learn", "nets"]}


def test_an_extra_is_the_distributions_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    monkeypatch.setattr(versions, "installed", lambda names: {name: "1" for name in names if name == "scipy"})
    for name in ("openvino", "playground", "server"):
        listed = [re.split("[>=;]", text)[0].strip() for text in extras[name]]
        assert sorted(versions.extra(name)) == sorted(set(listed) - {"scipy"})
    assert {"torch", "plotly", "onnxruntime"} <= set(versions.extra("workshop"))
    assert versions.extra("no-such-extra") == []


def test_no_hint_names_a_distribution_that_is_on_no_index() -> None:
    """kit itself is installed from its source, so no sentence may tell to install an extra of it by name."""
    for path in (ROOT / "kit").rglob("*.py"):
        assert "pip install 'insitu-kit" not in path.read_text() and "pip install kit" not in path.read_text(), path
