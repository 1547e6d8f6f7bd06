"""The two consoles: results go to stdout, everything else to stderr."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from clipgap.files.addresses import public

if TYPE_CHECKING:
    from rich.console import Console


@cache
def stdout() -> Console:
    from rich.console import Console

    class Results(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # which `printing` knows; rich would end the process

    # Tables in a file or a pipe need not fit the 80 columns that rich would assume there.
    width = None if sys.stdout.isatty() else 160
    return Results(markup=False, highlight=False, width=width)


@contextmanager
def printing() -> Iterator[None]:
    """Print to stdout; a reader that leaves early, as `head` does, ends this and nothing else."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # for what is still waiting to be written
        os.close(nowhere)


@cache
def stderr() -> Console:
    """The one console of notes, logs and progress, so that a live bar and log lines don't mix."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False)


def say(text: str) -> None:
    """One line for a person, on stderr; the terminal wraps it, so that it can be copied whole."""
    stderr().print(shown(text), soft_wrap=True)


def shown(text: str) -> str:
    """A text as it may be printed: addresses in public, and nothing a terminal would obey.

    Names and keys come from other people's files; a control character in one could move the
    cursor, and a mark of direction turn a line round.
    """
    text = public(text)
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character)[0] not in "CZ":
        return character
    if unicodedata.category(character) == "Zs":  # spaces of every width
        return character
    return character.encode("unicode_escape").decode()
