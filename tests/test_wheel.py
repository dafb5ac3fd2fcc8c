"""The wheel: what it holds, and what the package index would show of it."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import kit

ROOT = Path(__file__).parent.parent
pytest.importorskip("hatchling")
pytest.importorskip("hatch_fancy_pypi_readme")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as pip builds it, without a network."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--wheel-dir", out, ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.whl")
    return zipfile.ZipFile(file)


@pytest.fixture(scope="module")
def about(wheel: zipfile.ZipFile) -> Message:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_it_holds_every_module_and_what_they_read(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "kit"], cwd=ROOT, capture_output=True, text=True
    )
    modules = {n for n in tracked.stdout.split() if (ROOT / n).is_file()} or {
        str(p.relative_to(ROOT)) for p in (ROOT / "kit").rglob("*.py")
    }
    assert modules <= names
    assert "kit/py.typed" in names
    shipped = {f"kit/_device_configs/{p.name}" for p in (ROOT / "device_configs").glob("*.toml")}
    assert len(shipped) >= 6 and shipped <= names
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names)


def test_it_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"kit", f"insitu_kit-{kit.__version__}.dist-info"}
    assert not [n for n in wheel.namelist() if "__pycache__" in n or n.endswith((".pyc", ".lock", ".journal"))]
    assert sum(info.file_size for info in wheel.infolist()) < 40e6


def test_it_installs_the_command(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "kit = kit.cli:main" in wheel.read(name).decode()


def test_its_metadata_says_what_it_is(about: Message) -> None:
    assert about["Name"] == "insitu-kit" and about["Version"] == kit.__version__
    assert about["License-Expression"] == "Apache-2.0" and about["Author"] and "onnx" in about["Keywords"].split(",")
    classifiers = about.get_all("Classifier") or []
    for version in ("3.10", "3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    assert "Typing :: Typed" in classifiers
    required = {
        re.split(r"[<>=; \[]", text)[0] for text in about.get_all("Requires-Dist") or [] if "extra ==" not in text
    }
    assert not required & {"torch", "torchvision", "onnx", "scipy", "onnxruntime"}
    assert "docs" in (about.get_all("Provides-Extra") or [])


def test_the_index_shows_no_link_that_leads_nowhere(about: Message) -> None:
    text = about.get_payload()
    assert isinstance(text, str) and about["Description-Content-Type"] == "text/markdown"
    assert text.lstrip().startswith("# kit")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    links = re.findall(r"\]\(([^)]*)\)", prose)
    assert [link for link in links if not link.startswith(("https://", "http://"))] == []
    words = set(re.findall(r"[A-Za-z]{4,}", (ROOT / "README.md").read_text()))
    assert len(words - set(re.findall(r"[A-Za-z]{4,}", text))) < 0.1 * len(words)
