"""What a long run shows: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic

from clipgap.cli import words
from clipgap.runs.old_how import Moment

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from clipgap.runs.old_progress import Progress

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
        if _is_about_the_plan(progress) and progress.note not in said:
            said.add(progress.note)
            say(progress.note)
        if (now := _doing(progress)) != step:
            step = now
            LOG.info("%s%s", step, f" with {progress.kernel}" if progress.kernel else "")
        display(progress)

    return show


class Watch(Generic[Moment]):
    """Shows a run as it goes, and marks where its checks end and its work begins."""

    def __init__(
        self,
        display: Display,
        shown: Callable[[Moment], Progress],
        works: Callable[[Moment], bool],
        begun: Callable[[], None],
    ) -> None:
        self._display, self._shown, self._works, self._begun = display, shown, works, begun
        self.last: Moment | None = None  # of the work
        self.stop = threading.Event()  # set by the user

    def __call__(self, moment: Moment) -> None:
        if self._works(moment):
            if self.last is None:
                self._begun()
            self.last = moment
        self._display(self._shown(moment))


def itself(progress: Progress) -> Progress:
    """How a run is shown that says just what the display takes."""
    return progress


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
        ProgressBar(total=progress.total_rows or None, completed=progress.rows),
        "  ".join(filter(None, [_percent(progress), _time_left(progress)])),
    )
    return Group(head, Text(" · ".join(_figures(progress)), style="dim"))


def _is_about_the_plan(progress: Progress) -> bool:
    """Before anything is computed a note is a sentence; later it names what is at hand."""
    return bool(progress.note) and progress.stage == "reading headers"


def _doing(progress: Progress) -> str:
    if progress.note and not _is_about_the_plan(progress):
        return f"{progress.stage} {progress.note}"
    return progress.stage


def _percent(progress: Progress) -> str:
    # Rounded down: 100 % is for what is done.
    return f"{100 * progress.rows // progress.total_rows} %" if progress.total_rows else ""


def _figures(progress: Progress) -> list[str]:
    figures = []
    if progress.total_rows:
        done, total = words.count(progress.rows), words.count(progress.total_rows)
        figures.append(f"{done} of {total} {progress.noun}")
    if progress.shards:
        figures.append(f"shard {words.count(progress.shard)} of {words.count(progress.shards)}")
    return figures + speed(progress)


def speed(progress: Progress) -> list[str]:
    """How fast it goes and how hard the data are; parts of a sentence."""
    figures = []
    if progress.rows_per_second:
        figures.append(f"{words.count(progress.rows_per_second)} {progress.noun}/s")
    if progress.flops_per_second:
        figures += [
            words.rate(progress.flops_per_second),
            f"{progress.survivors_per_row:.1f} survivors/row",
            f"{progress.refined_per_row:.1f} refined/row",
        ]
    return [*figures, progress.kernel] if progress.kernel else figures


def _time_left(progress: Progress) -> str:
    seconds = progress.seconds_left
    return f"{words.duration(seconds)} left" if seconds is not None else ""
