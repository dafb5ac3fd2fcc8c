"""What mkdocs needs beside docs/: the repository's own pages, the reference of the Python interface, links that lead somewhere.

The pages are written to be read in the repository. Here README.md becomes the first page, and each relative link is turned from the
repository's paths to the site's; one that leads to something that is no part of the site (a folder of tests) becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import kit

ROOT = Path(__file__).parent.parent
#: Pages that lie outside of docs/: repository path -> page of the site.
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, *, config: Any, **_: Any) -> Files:
    """Add the pages that no file in docs/ holds."""
    pages = {page: (ROOT / source).read_text() for source, page in OUTSIDE.items()}
    pages["reference.md"] = reference()
    for folder in sorted(p for p in (ROOT / "docs").rglob("*/") if p.is_dir() and not any(p.glob("*.md"))):
        pages[f"{folder.relative_to(ROOT / 'docs')}/index.md"] = listing(folder)
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, files: Files, **_: Any) -> str:
    """The page with the site's links in place of the repository's."""
    here: str = page.file.src_uri
    source = next((outside for outside, name in OUTSIDE.items() if name == here), f"docs/{here}")

    def turned(match: re.Match[str]) -> str:
        picture, text, link, anchor = match[1], match[2], match[3], match[4] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        name = OUTSIDE.get(target, target.removeprefix("docs/"))
        name = f"{name}/index.md" if (ROOT / "docs" / name).is_dir() else name
        if files.get_file_from_path(name) is None and (ROOT / target).exists():
            return text
        return f"{picture}[{text}]({posixpath.relpath(name, posixpath.dirname(here) or '.')}{anchor})"

    return LINK.sub(turned, markdown)


def listing(folder: Path) -> str:
    """A page for a folder of files that are not pages."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    title = f"{folder.parent.name} {folder.name}".capitalize()
    return "\n".join([f"# {title}", "", *(f"- [{name}]({name})" for name in names), ""])


def reference() -> str:
    """The page of the Python interface: every public name of ``kit`` by its docstring."""
    verbs = [name for name in kit.__all__ if name[0].islower() and name not in kit.SUBMODULES]
    classes = [name for name in kit.__all__ if name[0].isupper()]
    parts = ["# Python interface", "", "How to use it stands in [Python](api.md).", "", "## Functions", ""]
    parts += [f"::: kit.{name}\n" for name in verbs]
    parts += ["## Classes", "", *(f"::: kit.{name}\n" for name in classes)]
    return "\n".join(parts)
