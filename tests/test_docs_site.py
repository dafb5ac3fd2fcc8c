"""The site builds without a network, its links lead somewhere, and it asks nobody for a script, a style or a font."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

import kit

ROOT = Path(__file__).parent.parent
pytest.importorskip("sphinx")


def builder() -> ModuleType:
    """scripts/build_site.py as a module."""
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "scripts" / "build_site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    command = [sys.executable, ROOT / "scripts" / "build_site.py", out]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


class Links(HTMLParser):
    """What a page loads, where its links lead, and the places in it that a link may name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag in ("script", "img", "iframe", "source") and "src" in values:
            self.loads.append(values["src"])
        if tag == "link" and "href" in values and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(values["href"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


def pages(site: Path) -> dict[Path, Links]:
    return {page: Links(page.read_text()) for page in sorted(site.rglob("*.html"))}


def test_every_page_is_there(site: Path) -> None:
    sources = {p.relative_to(ROOT / "docs").with_suffix(".html") for p in (ROOT / "docs").rglob("*.md")}
    built = {p.relative_to(site) for p in pages(site)}
    assert (
        sources | {Path(name) for name in ("index.html", "reference.html", "changes.html", "contributing.html")}
        <= built
    )
    reference = (site / "reference.html").read_text()
    for name in set(kit.__all__) - {"__version__", "errors", "records", "KitError"}:
        assert f'id="kit.{name}"' in reference, name
    assert 'id="kit.errors.NoAnswer"' in reference
    first = pages(site)[site / "index.html"]
    assert any(picture.endswith("report.png") for picture in first.loads)


def test_pages_load_only_what_lies_beside_them(site: Path) -> None:
    for page, found in pages(site).items():
        for address in found.loads:
            parts = urlsplit(address)
            assert not parts.netloc, f"{page.name} loads {address}"
            assert parts.scheme == "data" or (page.parent / unquote(parts.path)).is_file(), (
                f"{page.name} loads {address}"
            )
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", style.read_text()), style.name


def test_links_between_pages_lead_somewhere(site: Path) -> None:
    found = pages(site)
    for page, links in found.items():
        for address in links.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.is_file(), f"{page.name} links to {address}"
            if parts.fragment and target in found:
                assert unquote(parts.fragment) in found[target].places, f"{page.name} links to {address}"


def test_links_of_the_repository_become_those_of_the_site() -> None:
    turned = builder().turned
    names = {"index.md", "api.md", "changes.md", "papers/README.md", "papers/results/index.md"}
    text = "[a](docs/api.md#x) [c](CHANGELOG.md) ![p](docs/report.png) [t](tests/claims/) [w](https://a.b) [none](docs/none.md) [h](#h)"
    assert turned(text, "README.md", "index.md", names) == (
        "[a](api.md#x) [c](changes.md) ![p](report.png) t [w](https://a.b) [none](none.md) [h](#h)"
    )
    assert turned("[r](../../README.md) [d](results/)", "docs/papers/x.md", "papers/x.md", names) == (
        "[r](../index.md) [d](results/index.md)"
    )


@pytest.mark.filterwarnings("ignore:.*is deprecated. Check CHANGES for Sphinx API modifications")
def test_a_link_that_leads_nowhere_ends_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    module = builder()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A\n\n[b](b.md)\n")
    for name in module.OUTSIDE:
        (tmp_path / name).write_text(f"# {name}\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "reference", lambda: "Reference\n=========\n")
    monkeypatch.setattr(sys, "argv", ["build_site.py", str(tmp_path / "site")])
    assert module.main() == 1
    assert "b.md" in capfd.readouterr().err
