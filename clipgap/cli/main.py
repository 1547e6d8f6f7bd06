"""The `clipgap` command. Starts fast: whatever a command needs is imported when it runs."""

from __future__ import annotations

import io
import logging
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from clipgap.cli import bench, demo, doctor, scan, store, verify
from clipgap.cli.shell import LOG
from clipgap.errors import ClipgapError, InputError, Interrupted

app = typer.Typer(
    name="clipgap",
    help="Exact similarity between a web-scale training set and your test sets.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,  # plain help is twice as fast and easier to read in 80 columns
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
INTERRUPTED_BY_USER = 130


def _show_version(asked: bool) -> None:
    if asked:
        from clipgap import __version__

        print(f"clipgap {__version__}")
        raise typer.Exit


@app.callback()
def _clipgap(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """Options before the command."""


for part in (scan, verify, store, doctor, demo, bench):
    part.register(app)


def run() -> None:
    """Entry point of the installed command."""
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal's encoding lacks must not end a run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command line; the exit codes are those of `clipgap.errors`, and 0, 4 and 130."""
    try:
        outcome = app(list(arguments), prog_name="clipgap", standalone_mode=False)
    except ClipgapError as error:
        _say(str(error), prefix="" if isinstance(error, Interrupted) else "error: ")
        if LOG.isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return INTERRUPTED_BY_USER
    except Exception as error:
        return _other(error)
    return outcome if isinstance(outcome, int) else 0


def _other(error: Exception) -> int:
    """What Typer found wrong with the command line, a stream that is gone, or a bug of ours."""
    # Typer's errors have no public base class; that they explain themselves sets them apart.
    explain = getattr(error, "format_message", None)
    if explain is not None:
        if message := explain():
            _say(message)
            context = getattr(error, "ctx", None)
            if context is not None:
                _say(f"Try '{context.command_path} --help'.", prefix="")
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, OSError) and not LOG.isEnabledFor(logging.DEBUG):
        _say(f"{error.strerror}: {error.filename}" if error.filename else str(error))
        return InputError.exit_code
    traceback.print_exception(error)
    _say("this is a bug in clipgap; please report it with the lines above")
    return ClipgapError.exit_code


def _say(message: str, prefix: str = "error: ") -> None:
    print(f"{prefix}{message}", file=sys.stderr)
