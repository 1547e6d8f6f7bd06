"""The two consoles: results go to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@cache
def stdout() -> Console:
    from rich.console import Console

    # Tables in a file or a pipe need not fit the 80 columns that rich would assume there.
    width = None if sys.stdout.isatty() else 160
    return Console(markup=False, highlight=False, width=width)


@cache
def stderr() -> Console:
    """The one console of notes, logs and progress, so that a live bar and log lines don't mix."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False)


def say(text: str) -> None:
    """One line for a person, on stderr; the terminal wraps it, so that it can be copied whole."""
    stderr().print(text, soft_wrap=True)
