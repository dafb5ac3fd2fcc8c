"""The command line in this process: a verb and its words, and what it prints."""

from __future__ import annotations

from typer.testing import CliRunner

from kit.cli import app


def kit(*words: object, text: str | None = None) -> str:
    """What a verb that must succeed prints on standard output; ``text`` is its standard input."""
    completed = CliRunner().invoke(app, [str(w) for w in words], input=text)
    if completed.exception is not None and not isinstance(completed.exception, SystemExit):
        raise completed.exception
    assert completed.exit_code == 0, completed.output
    return completed.stdout
