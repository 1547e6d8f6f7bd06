"""The `clipgap` command. Starts fast: whatever a command needs is imported when it runs."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clipgap import packages
from clipgap.cli import (
    bench,
    data,
    dedup,
    doctor,
    domains,
    embed,
    emulate,
    eval,
    filter,
    mix,
    render,
    report,
    scan,
    split,
    store,
    train,
    verify,
    words,
)
from clipgap.cli.consoles import printing, shown
from clipgap.cli.shell import LOG
from clipgap.cli.signals import ignore_signals, leave_on_signals
from clipgap.errors import ClipgapError, InputError, Interrupted, OutOfResources

GROUPS = {
    "Begin here": ("demo", "run", "doctor"),
    "From images to embeddings": ("embed", "store"),
    "How near": ("gap", "scan", "verify", "emulate"),
    "Which rows stay": ("split", "dedup", "domains", "mix", "filter"),
    "Models": ("train", "eval"),
    "What it shows": ("report", "data", "render", "bench"),
}
"""The commands as the help shows them; others that there may be come last."""


class _Commands(typer.core.TyperGroup):
    """The commands in groups, in the order in which a user meets them."""

    def list_commands(self, context: Any) -> list[str]:
        known = [name for names in GROUPS.values() for name in names if name in self.commands]
        return [*known, *(name for name in self.commands if name not in known)]

    def format_commands(self, context: Any, formatter: Any) -> None:
        grouped = {name: title for title, names in GROUPS.items() for name in names}
        shown: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(context):
            said = self.commands[name].get_short_help_str(limit=200)  # the first sentence, whole
            row = name.ljust(max(map(len, self.commands))), said
            shown.setdefault(grouped.get(name, "Others"), []).append(row)
        for title, rows in shown.items():
            with formatter.section(title):
                formatter.write_dl(rows)


app = typer.Typer(
    name="clipgap",
    cls=_Commands,
    help="Exact similarity between a web-scale training set and your test sets.",
    invoke_without_command=True,
    add_completion=True,
    rich_markup_mode=None,  # plain help is twice as fast and easier to read in 80 columns
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
INTERRUPTED_BY_USER = 130
_EXTRA = re.compile(r"Got unexpected extra argument\S* \((.*)\)", re.DOTALL)


def _show_version(asked: bool) -> None:
    if asked:
        from clipgap.version import __version__

        print(f"clipgap {__version__}")
        raise typer.Exit


@app.callback()
def _clipgap(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """Options before the command; without one the help is what is wanted."""
    if context.invoked_subcommand is None:
        print(context.get_help())


for part in (
    embed,
    scan,
    split,
    mix,
    dedup,
    domains,
    filter,
    verify,
    emulate,
    store,
    train,
    eval,
    data,
    render,
    report,
    doctor,
    bench,
):
    part.register(app)


def run() -> None:
    """Entry point of the installed command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal's encoding lacks must not end a run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    leave_on_signals()
    code = 0
    try:
        with printing():
            code = main(sys.argv[1:])
        ignore_signals()
    except Interrupted as stopped:  # before the first or after the last that `main` does
        code = stopped.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED_BY_USER
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Run one command line; the exit codes are those of `clipgap.errors`, and 0, 4 and 130."""
    try:
        outcome = app(list(arguments), prog_name="clipgap", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        outcome = INTERRUPTED_BY_USER
    except BrokenPipeError:
        raise  # of stdout, whose reader has seen enough
    except Exception as error:
        return _explain(OutOfResources.behind(error) or packages.behind(error) or error)
    if outcome == INTERRUPTED_BY_USER:  # which Typer, too, makes of a Ctrl-C
        _say("interrupted")
    return outcome if isinstance(outcome, int) else 0


def _explain(error: Exception) -> int:
    """Say what went wrong; the exit code."""
    if isinstance(error, ClipgapError):
        _say(str(error), prefix="" if isinstance(error, Interrupted) else "error: ")
        _show_traceback_if_debugging()
        return error.exit_code
    if isinstance(error, OSError):
        _say(f"{error.strerror}: {error.filename}" if error.filename else str(error))
        _show_traceback_if_debugging()
        return InputError.exit_code
    # Typer's errors have no public base class; that they explain themselves sets them apart.
    if hasattr(error, "format_message"):
        return _explain_parse_error(error)
    _say("".join(traceback.format_exception(error)), prefix="")
    _say("this is a bug in clipgap; please report it with the lines above")
    return ClipgapError.exit_code


def _explain_parse_error(error: Any) -> int:
    """Say what Typer found wrong, and where the value came from if not from the command line."""
    context = getattr(error, "ctx", None)
    if message := error.format_message():
        if extra := _EXTRA.match(message):
            message = words.quote_it(extra[1].split())
        parameter = getattr(error, "param", None)
        if context is not None and parameter is not None:
            source = context.get_parameter_source(parameter.name)
            if getattr(source, "name", "") == "DEFAULT_MAP":
                message += f" (set in {context.params['config']})"
        _say(message)
        if context is not None:
            _say(f"Try '{context.command_path} --help'.", prefix="")
    return int(error.exit_code)


def _show_traceback_if_debugging() -> None:
    if LOG.isEnabledFor(logging.DEBUG):
        _say(traceback.format_exc(), prefix="")


def _say(message: str, prefix: str = "error: ") -> None:
    print(shown(f"{prefix}{message}"), file=sys.stderr)
