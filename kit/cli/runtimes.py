"""The verb ``backends``: which runtimes can measure here, and what installs the others."""

from __future__ import annotations

from typing import Any

import typer

from kit.cli import show
from kit.cli.table import Column, text


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(rich_help_panel="Measure")(backends)


def backends(json: show.Json = False, csv: show.Csv = False) -> None:
    """List the runtimes behind --backend: the version that is here, or the reason why not and the command that installs it."""
    from kit import backends as runtimes

    rows: list[dict[str, Any]] = []
    for name, leaf in runtimes.LEAVES.items():
        probe = runtimes.probe(name)
        rows.append({
            "name": name, "available": probe.available, "version": probe.version, "target": leaf.target, "tried": leaf.tried,
            "reason": probe.reason, "fix": probe.fix,
        })  # fmt: skip
    if json:
        show.emit({"backends": rows})
        return
    columns = (Column("version", 0, "left"), Column("times", 2, "left"), text("note", 1))
    table = show.make_table("Runtimes for --backend", "backend", *columns)
    for row in rows:
        note = "" if row["available"] else " ".join(str(row[key]) for key in ("reason", "fix") if row[key])
        if not row["tried"]:
            note = f"{note} (untested on hardware)".strip()
        table.add_row(row["name"], row["version"] or "not here", row["target"].upper(), note)
    show.print_table(table)
