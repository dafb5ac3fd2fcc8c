"""The command line: one short function per verb. Each verb imports what it needs inside, so that ``--help`` works on a bare board.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 the machine or a file
failed, 2 the arguments or files are not what the verb takes, 3 no variant meets the need. With ``--json`` a failure, too, is one
JSON object on standard output: {"error": sentence, "code": exit code, ...}.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated

import typer

from kit import __version__
from kit.cli import (
    compare,
    evaluate,
    examples,
    exits,
    explore,
    judge,
    knowledge,
    ladder,
    library,
    measure,
    place,
    predict,
    produce,
    robustness,
    run,
    runtimes,
    scenario,
    session,
    show,
    simulate,
    split,
)
from kit.errors import KitError

JSON = "--json"

app = typer.Typer(
    name="kit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(flag: bool) -> None:
    if flag:
        typer.echo(f"kit {__version__}")
        raise typer.Exit


@app.callback(epilog=examples.epilog("kit"))
def root(
    verbose: Annotated[
        int,
        typer.Option(
            "-v",
            "--verbose",
            count=True,
            show_default=False,
            help="Say on standard error what is read, written and run; -vv: in full detail.",
        ),
    ] = 0,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Measure neural networks on the device at hand, and choose by what was measured."""
    if verbose:
        _log(verbose)


def _log(verbose: int) -> None:
    import logging
    import platform

    level = logging.INFO if verbose == 1 else logging.DEBUG
    logging.basicConfig(
        level=logging.WARNING, format="%(relativeCreated)7.0f ms %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("kit").setLevel(level)
    logging.getLogger("kit").info(
        "kit %s, Python %s, %s: %s", __version__, platform.python_version(), platform.platform(), " ".join(sys.argv[1:])
    )


for verbs in (
    run,
    measure,
    explore,
    runtimes,
    scenario,
    session,
    compare,
    evaluate,
    exits,
    split,
    robustness,
    produce,
    ladder,
    judge,
    predict,
    knowledge,
    library,
    simulate,
    place,
):
    verbs.add_to(app)
examples.add_to(app)

#: What typer raises for arguments that are no command line; typer gives the class no public name.
_Refused: type[Exception] = typer.BadParameter.__mro__[2]


def main() -> None:
    """Entry point of the ``kit`` command: an error is one sentence on standard error, JSON with --json, and an exit code."""
    try:
        _main()
    except BrokenPipeError:  # the reader of the output has closed it: nothing more is printed, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _main() -> None:
    try:
        sys.exit(app(standalone_mode=False, prog_name="kit") or 0)
    except KitError as error:
        _fail(str(error), error.exit_code, error.details)
    except _Refused as error:
        _fail(_sentence(error), 2)
    except typer.Abort:
        _fail("stopped.", 130)
    except Exception as error:
        if JSON in sys.argv and not isinstance(error, BrokenPipeError):
            show.emit_error(f"{type(error).__name__}: {error}", 1, {})
        raise


def _sentence(error: Exception) -> str:
    """What is wrong with the arguments, and which help describes them; empty where the help was printed in place of an error."""
    context = getattr(error, "ctx", None)
    text = str(error.format_message()).strip()  # type: ignore[attr-defined]
    if not text or text.startswith("Usage:"):
        return text
    text = re.sub(
        r"( Did you mean '[^']*'\?)\1", r"\1", " ".join(text.split())
    )  # which older versions of typer print twice
    return f"{text if text[-1] in '.?!' else text + '.'} See {context.command_path if context else 'kit'} --help."


def _fail(sentence: str, code: int, details: dict[str, object] | None = None) -> None:
    import logging

    logging.getLogger("kit").debug("what led to the error:", exc_info=True)
    if sentence:
        print(f"kit: {sentence}", file=sys.stderr)
    if JSON in sys.argv:
        show.emit_error(sentence, code, details or {})
    sys.exit(code)
