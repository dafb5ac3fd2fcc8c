"""The door: one short function per verb. Each verb imports what it needs inside, so that ``--help`` works on a bare board.

Results go to standard output, progress and complaints to standard error. Exit codes: 0 done, 1 the machine or a file
failed, 2 the words or files given are not what the verb takes, 3 no variant meets the need.
"""

from __future__ import annotations

import sys

import typer

from kit import __version__
from kit.cli import (
    compare,
    judge,
    knowledge,
    library,
    measure,
    place,
    predict,
    run,
    runtimes,
    scenario,
    session,
    simulate,
    workshop,
)
from kit.errors import KitError

app = typer.Typer(
    name="kit",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kit {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    """Measure neural networks on the device at hand, and choose by what was measured."""


run.add_to(app)
measure.add_to(app)
runtimes.add_to(app)
scenario.add_to(app)
session.add_to(app)
compare.add_to(app)
workshop.add_to(app)
judge.add_to(app)
predict.add_to(app)
knowledge.add_to(app)
library.add_to(app)
simulate.add_to(app)
place.add_to(app)


def main() -> None:
    """Entry point of the ``kit`` command: a KitError is one sentence on standard error and its exit code."""
    try:
        app()
    except KitError as error:
        print(f"kit: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
