"""What is promised about versions: bounds, tested versions and scripts agree, and sidecars say what made them."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from kit import spaces, versions
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
    export = pytest.importorskip("kit.variants.export")
    (tmp_path / "x.json").unlink()
    described = export.describe_onnx(tmp_path / "x.onnx")
    assert described.origin is not None
    assert described.origin.versions == versions.installed(["onnx", "onnxruntime", "numpy"])
    assert described.macs == written.macs
