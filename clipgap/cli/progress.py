"""What a long run shows: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clipgap.cli import words

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from clipgap.runs.how import Progress

Display = Callable[["Progress"], None]
Say = Callable[[str], None]

LOG = logging.getLogger("clipgap")


@contextmanager
def make_display(console: Console, say: Say, quiet: bool) -> Iterator[Display]:
    """The display that fits the console."""
    if quiet:
        yield lambda progress: None
    elif console.is_terminal and not console.is_dumb_terminal:
        from rich.live import Live

        with Live(console=console, transient=True, refresh_per_second=8) as live:
            yield _with_notes(lambda progress: live.update(bar(progress)), say)
    else:
        yield _with_notes(PlainLines(say), say)


def _with_notes(display: Display, say: Say) -> Display:
    """Say each note about the plan once, and log each step."""
    said: set[str] = set()
    step = ""

    def show(progress: Progress) -> None:
        nonlocal step
        if progress.note and progress.note not in said:
            said.add(progress.note)
            say(progress.note)
        if (now := _doing(progress)) != step:
            step = now
            LOG.info("%s%s", step, f" with {progress.means}" if progress.means else "")
        display(progress)

    return show


class Watch:
    """Shows a run as it goes, and marks where its checks end and its work begins."""

    def __init__(
        self, display: Display, begun: Callable[[], None], call: Mapping[str, str]
    ) -> None:
        self._display, self._begun = display, begun
        self.call = call  # as it can be made again, from another process
        self.last: Progress | None = None  # of the work
        self.stop = threading.Event()  # set by the user

    def __call__(self, progress: Progress) -> None:
        if progress.works:
            if self.last is None:
                self._begun()
            self.last = progress
        self._display(progress)


class PlainLines:
    """One line now and then, ever more rarely, so that the log of a day's run stays readable."""

    FIRST_SECONDS = 5.0
    RAREST_SECONDS = 60.0

    def __init__(self, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._began = self._last = clock()

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        pause = min(max(self.FIRST_SECONDS, (now - self._began) / 20), self.RAREST_SECONDS)
        if now - self._last >= pause:
            self._last = now
            parts = [_percent(progress), *_figures(progress), _time_left(progress)]
            figures = ", ".join(filter(None, parts))
            self._say(f"{_doing(progress)}: {figures}" if figures else _doing(progress))


def bar(progress: Progress) -> RenderableType:
    """The live display at one moment: stage, bar and time left, and the figures below."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(no_wrap=True)
    head.add_column(ratio=1)
    head.add_column(no_wrap=True, justify="right")
    head.add_row(
        Text(_doing(progress), style="bold"),
        ProgressBar(total=progress.total or None, completed=progress.done),
        "  ".join(filter(None, [_percent(progress), _time_left(progress)])),
    )
    return Group(head, Text(" · ".join(_figures(progress)), style="dim"))


def _doing(progress: Progress) -> str:
    return f"{progress.stage} {progress.at}" if progress.at else progress.stage


def _percent(progress: Progress) -> str:
    # Rounded down: 100 % is for what is done.
    share = 100 * progress.done // progress.total if progress.total else 0
    return f"{share:.0f} %" if progress.total and share <= 100 else ""


def _figures(progress: Progress) -> list[str]:
    figures = []
    if progress.total:
        done, total = words.count(progress.done), words.count(progress.total)
        of = "" if progress.done > progress.total else f" of {total}"
        figures.append(f"{done}{of} {progress.noun}")
    if progress.parts:
        part, parts = words.count(progress.part), words.count(progress.parts)
        figures.append(f"{progress.parts_are} {part} of {parts}")
    return figures + speed(progress)


def speed(progress: Progress) -> list[str]:
    """How fast it goes, and with -v how hard the data are; parts of a sentence."""
    figures = []
    if progress.rate:
        figures.append(f"{words.count(progress.rate)} {progress.noun}/s")
    for unit, value in progress.figures.items():
        if unit == "FLOP/s":
            figures.append(words.rate(value))
        elif LOG.isEnabledFor(logging.INFO):
            figures.append(f"{value:,.1f} {unit}")
    return [*figures, progress.means] if progress.means else figures


def _time_left(progress: Progress) -> str:
    seconds = progress.seconds_left
    return f"{words.duration(seconds)} left" if seconds is not None else ""
