"""Progress in a notebook: a line below the cell, told anew as the run goes on."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipgap.runs.how import Progress

_EVERY = 0.5
"""Seconds between two updates, and before the first: a short run shows nothing."""


def in_notebook() -> bool:
    """Whether a kernel of Jupyter's runs this; one has imported IPython."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class NotebookLine:
    """Shows each moment in place of the one before; notes stay."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._shown: Any = None  # the line, once there is one
        self._said: set[str] = set()

    def __call__(self, progress: Progress) -> None:
        if progress.note and progress.note not in self._said:
            self._said.add(progress.note)
            print(progress.note)
        now = time.monotonic()
        ends = self._shown is not None and progress.done == progress.total > 0
        if now - self._last >= _EVERY or ends:
            self._last = now
            self._show(line(progress))

    def _show(self, text: str) -> None:
        from IPython.display import display  # in a notebook it is there

        content: Any = {"text/plain": text}
        if self._shown is None:
            self._shown = display(content, raw=True, display_id=True)
        else:
            self._shown.update(content, raw=True)


def line(progress: Progress) -> str:
    """What is done, how much of it and how long it will take."""
    doing = f"{progress.stage} {progress.at}".strip()
    if not progress.total:
        return doing
    said = f"{doing}: {progress.done:,.0f} of {progress.total:,.0f} {progress.noun}"
    if progress.rate:
        said += f", {progress.rate:,.0f} {progress.noun}/s"
    left = progress.seconds_left
    return said if left is None else f"{said}, {left:,.0f} s left"
