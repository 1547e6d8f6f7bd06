"""The `clipgap` command. Starts fast: whatever a command needs is imported when it runs."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from clipgap import packages
from clipgap.cli import words
from clipgap.cli.consoles import printing, shown
from clipgap.cli.shell import LOG
from clipgap.cli.signals import ignore_signals, leave_on_signals
from clipgap.errors import ClipgapError, InputError, Interrupted, OutOfResources

COMMANDS = {
    "Begin here": {
        "demo": "The whole paper in miniature, on images made on the spot; ends with a report.",
        "check": "Say what of the test sets lies in a training set: from images to a page.",
        "run": "Run a whole study, stage by stage; what stands is not done again.",
        "doctor": "Say what this machine has, which kernel runs and why, and what is missing.",
    },
    "From images to embeddings": {
        "embed": "Embed images into a store.",
        "store": "Look into stores of embeddings.",
    },
    "How near": {
        "gap": "Scan a reference set, for use as `scan --gap`.",
        "scan": "Compare every training row with every test point, exactly.",
        "verify": "Prove that a folder holds what it says, or name the file and row that is wrong.",
        "emulate": "Say what shortcuts would have pruned instead of the exact rule.",
    },
    "Which rows stay": {
        "split": "Choose the rows of a training store to keep, from its scans.",
        "dedup": "Drop near duplicates: rows too similar to another row of their cluster.",
        "domains": "Tell natural images from renditions.",
        "mix": "Draw a training mix of exact composition from a store, by domain and class.",
        "filter": "Copy the samples that a keep-list keeps, byte for byte.",
    },
    "Models": {
        "train": "Train CLIP with open_clip, or a classifier with torchvision, on what a split "
        "keeps.",
        "eval": "Evaluate checkpoints on sets: accuracy with intervals, and each sample's result.",
        "analyze": "Say how alike images of different domains are inside of CLIP models, block by "
        "block.",
    },
    "On many machines": {
        "plan": "Say what commands or a recipe would take: bytes, time, cost, what binds.",
        "slurm": "Run a command as a Slurm array, a share a task; a last task merges them.",
        "status": "Say how far a run is: done, running and failed, how fast, and the time left.",
        "merge": "Make one output of the parts that the shares of a command have made.",
    },
    "What it shows": {
        "report": "Show scans, splits and evaluations on a page: figures, tables and galleries.",
        "export": "Write test points and their nearest training rows for a viewer of embeddings.",
        "data": "The sets that clipgap knows by name.",
        "render": "Draw small images for a study without downloads: tar shards with captions and "
        "labels.",
        "bench": "Measure our kernels and their peers side by side.",
    },
}
"""The commands in the order in which a user meets them, and the first sentence of each one's help,
so that the help of all imports none of them."""

STUDIES = ("demo", "check", "run", "plan")
"""Commands that run others, or tell their price, a floor higher: `clipgap.__main__` says where."""

HOMES = {
    name: f"clipgap.cli.{name}"
    for names in COMMANDS.values()
    for name in names
    if name not in STUDIES
} | {"gap": "clipgap.cli.scan"}
"""The module that registers each."""


@cache
def _command(name: str) -> Any:
    """What Typer makes of a command or group of commands."""
    app = typer.Typer(rich_markup_mode=None)
    import_module(HOMES[name]).register(app)
    return typer.main.get_group(app).commands[name]


class _Imported(Mapping[str, Any]):
    """The commands by name, each of them imported when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return (name for names in COMMANDS.values() for name in names if name in HOMES)

    def __len__(self) -> int:
        return len(HOMES)

    def __contains__(self, name: object) -> bool:
        return name in HOMES


class _Commands(typer.core.TyperGroup):
    """The commands in groups."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = _Imported()

    def list_commands(self, context: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, context: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        for title, said in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), said[name]) for name in said if name in self.commands]
                )


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


def run() -> None:
    """Entry point of the installed command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal's encoding lacks must not end a run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _limit_blas()
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


def _limit_blas() -> None:
    """Before NumPy is there: the threads of its products wait by turning round, and where several
    processes share the cores of a machine, each with a part of them, all wait for each other."""
    threads = os.environ.get("CLIPGAP_THREADS", "")
    if threads.isdecimal() and "OMP_NUM_THREADS" not in os.environ:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", threads)


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
