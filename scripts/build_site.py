"""Build the site: README, docs/ and the reference of the Python interface, as pages that need no network and no server.

The pages are written to be read in the repository. Here README.md becomes the first page, and each relative link is turned from the
repository's paths to the site's; one to something that is no part of the site (a folder of tests) becomes its text. A link that leads
nowhere, or a docstring that cannot be read, ends the build with exit code 1.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import kit
from kit.records import Record

ROOT = Path(__file__).parent.parent
#: Pages that lie outside of docs/: repository path -> page of the site.
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md"}
#: The order of the pages; whatever is not named follows.
ORDER = (
    "api",
    "cli",
    "measuring",
    "latency",
    "knowledge",
    "library",
    "devices",
    "backends",
    "results",
    "papers/README",
)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]*)(#[^)\s]*)?\)")
SETTINGS: dict[str, Any] = {
    "project": "kit",
    "html_title": f"kit {kit.__version__}",
    "html_theme": "furo",
    "html_show_sphinx": False,
    "html_copy_source": False,
    "extensions": ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"],
    "myst_heading_anchors": 4,
    "autodoc_member_order": "bysource",
    "autodoc_preserve_defaults": True,
    "python_use_unqualified_type_names": True,
    "python_maximum_signature_line_length": 100,
    "suppress_warnings": ["myst.header", "misc.highlighting_failure"],
}


def main() -> int:
    """Build into the folder that the first word names, or ``site``. Warnings are errors."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "site").resolve()
    with tempfile.TemporaryDirectory(prefix="kit-site-") as name:
        source = Path(name) / "source"
        write_source(source)
        app = Sphinx(
            str(source), None, str(out), str(Path(name) / "doctrees"), "html", SETTINGS, status=None, warning=sys.stderr, freshenv=True,
            warningiserror=True,
        )  # fmt: skip
        app.connect("autodoc-process-signature", without_fields)
        app.build()
        shutil.rmtree(out / ".doctrees", ignore_errors=True)
        return app.statuscode


def write_source(source: Path) -> None:
    """The pages as the site has them."""
    shutil.copytree(ROOT / "docs", source)
    pages = {page: ROOT / outside for outside, page in OUTSIDE.items()}
    pages |= {str(p.relative_to(ROOT / "docs")): p for p in (ROOT / "docs").rglob("*.md")}
    folders = sorted(p for p in (ROOT / "docs").rglob("*") if p.is_dir() and not any(p.glob("*.md")))
    names = {*pages, "reference.rst", *(f"{p.relative_to(ROOT / 'docs')}/index.md" for p in folders)}
    for page, path in pages.items():
        (source / page).write_text(turned(path.read_text(), str(path.relative_to(ROOT)), page, names))
    for folder in folders:
        (source / folder.relative_to(ROOT / "docs") / "index.md").write_text(listing(folder))
    (source / "reference.rst").write_text(reference())
    with (source / "index.md").open("a") as first:
        first.write(contents(names - {"index.md"}))


def turned(text: str, path: str, page: str, names: set[str]) -> str:
    """``text`` of the repository's file ``path`` with the links of the site's ``page``."""

    def one(match: re.Match[str]) -> str:
        picture, words, link, anchor = match[1], match[2], match[3], match[4] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        name = OUTSIDE.get(target, target.removeprefix("docs/"))
        name = f"{name}/index.md" if f"{name}/index.md" in names else name
        if name not in names and not (ROOT / "docs" / name).is_file() and (ROOT / target).exists():
            return words
        return f"{picture}[{words}]({posixpath.relpath(name, posixpath.dirname(page) or '.')}{anchor})"

    return LINK.sub(one, text)


def listing(folder: Path) -> str:
    """A page for a folder of files that are not pages."""
    files = sorted(p.name for p in folder.iterdir() if p.is_file())
    title = f"{folder.parent.name} {folder.name}".capitalize()
    return "\n".join([f"# {title}", "", *(f"- [{name}]({name})" for name in files), ""])


def contents(names: set[str]) -> str:
    """The site's table of contents, at the end of its first page."""
    stems = {name.rsplit(".", 1)[0] for name in names}
    ordered = [stem for stem in (*ORDER, "reference") if stem in stems]
    return "\n".join(["", "```{toctree}", ":hidden:", "", *ordered, *sorted(stems - set(ordered)), "```", ""])


def reference() -> str:
    """The page of the Python interface: every public name of kit by its docstring."""
    functions = [name for name in kit.__all__ if name[0].islower() and name not in ("errors", "records")]
    classes = [name for name in kit.__all__ if name[0].isupper() and name != "KitError"]
    parts = ["Reference", "=========", "", "How to use it stands in :doc:`api`.", "", "Functions", "---------", ""]
    parts += [f".. autofunction:: kit.{name}\n" for name in functions]
    parts += ["Classes", "-------", ""]
    for name in classes:
        parts += [
            f".. autoclass:: kit.{name}",
            "   :members:",
            "   :exclude-members: model_config, model_post_init, summary",
        ]
        parts += ["   :undoc-members:" if issubclass(getattr(kit, name), Record) else "", ""]
    parts += [
        "Errors",
        "------",
        "",
        ".. automodule:: kit.errors",
        "   :members:",
        "   :undoc-members:",
        "   :show-inheritance:",
    ]
    return "\n".join([*parts, ""])


def without_fields(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str, None] | None:
    """A record is read, not made: its fields stand below it."""
    return ("", None) if isinstance(obj, type) and issubclass(obj, Record) else None


if __name__ == "__main__":
    sys.exit(main())
