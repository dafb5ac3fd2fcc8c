"""The command line in this process: a verb and its words, and what it prints."""

from __future__ import annotations

from typer.testing import CliRunner

from kit.cli import app


def kit(*words: object, text: str | None = None) -> str:
    """What a verb that must succeed prints on standard output; ``text`` is its standard input."""
    done = CliRunner().invoke(app, [str(w) for w in words], input=text)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout
