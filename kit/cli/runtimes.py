"""The verb ``backends``: which runtimes can measure here, and what would bring the others."""

from __future__ import annotations

import typer

from kit.cli import show


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Measure")(backends)


def backends(json: show.Json = False) -> None:
    """List the runtimes behind --backend: the version that is here, or the reason why not and the command that brings it."""
    from kit import backends as door

    rows = []
    for name, leaf in door.LEAVES.items():
        found = door.probe(name)
        rows.append(
            {
                "name": name,
                "available": found.available,
                "version": found.version,
                "target": leaf.target,
                "tried": leaf.tried,
                "reason": found.reason,
                "fix": found.fix,
            }
        )
    if json:
        show.emit({"backends": rows})
        return
    table = show.make_table("Runtimes for --backend", "backend", "version", "times", "why not, and what to do")
    table.columns[3].justify = "left"
    for row in rows:
        note = "" if row["available"] else " ".join(str(row[key]) for key in ("reason", "fix") if row[key])
        if not row["tried"]:
            note = f"{note} (untested on hardware)".strip()
        table.add_row(str(row["name"]), str(row["version"] or "not here"), str(row["target"]).upper(), note)
    show.print_table(table)
