"""How a long run is carried out: what it tells, how it is stopped, and by whom it is done."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgap.errors import Interrupted, UsageError
from clipgap.files.addresses import require_bucket

if TYPE_CHECKING:
    from clipgap.runs.shares import Share
    from clipgap.runs.units import Executor


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A moment of a run, as far as whoever watches needs to know it."""

    stage: str
    works: bool = False  # False: it still looks at its inputs, and has written nothing
    at: str = ""  # what is at hand, such as the name of a set
    done: float = 0  # earlier runs included
    total: float = 0  # 0: unknown
    earlier: float = 0  # of `done`, by runs before this one
    noun: str = "rows"  # what is counted
    part: int = 0  # done, earlier runs included
    parts: int = 0
    parts_are: str = "shard"
    seconds: float = 0.0  # since this run began to work
    figures: Mapping[str, float] = field(default_factory=dict)  # by unit, such as "refined/row"
    means: str = ""  # what does the work, such as the name of a kernel
    note: str = ""  # a sentence for the user, said once

    @property
    def new(self) -> float:
        """Done by this run."""
        return self.done - self.earlier

    @property
    def rate(self) -> float:
        """How many a second; what earlier runs did cost this one nothing."""
        return self.new / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None if nobody knows, as where there turned out to be more than was expected."""
        left = self.total - self.done
        return left / self.rate if self.total and left >= 0 and self.rate > 0 else None

    @property
    def line(self) -> str:
        """What is done, how much of it and how long it will take, where there are words only."""
        doing = f"{self.stage} {self.at}".strip()
        if not self.total:
            return doing
        said = f"{doing}: {self.done:,.0f} of {self.total:,.0f} {self.noun}"
        if self.rate:
            said += f", {self.rate:,.0f} {self.noun}/s"
        left = self.seconds_left
        return said if left is None else f"{said}, {left:,.0f} s left"


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """For callers who do not watch."""


def _in_notebook() -> bool:
    """Whether a kernel of Jupyter's runs this; one has imported IPython."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class _NotebookLine:
    """A line below the cell, told anew as the run goes on; notes stay."""

    EVERY = 0.5
    """Seconds between two updates, and before the first: a short run shows nothing."""

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
        if now - self._last >= self.EVERY or ends:
            self._last = now
            self._show(progress.line)

    def _show(self, text: str) -> None:
        from IPython.display import display  # in a notebook it is there

        content: Any = {"text/plain": text}
        if self._shown is None:
            self._shown = display(content, raw=True, display_id=True)
        else:
            self._shown.update(content, raw=True)


@dataclass(frozen=True, kw_only=True)
class How:
    """Nothing here can change a result."""

    resume: bool = False
    overwrite: bool = False
    on_progress: OnProgress | None = None  # None: nobody watches, but in a notebook its user
    stop: threading.Event | None = None
    executor: Executor | None = None  # who does the units; None: as the command thinks best
    share: Share | None = None  # of the units, done apart from all others; ends with `ShareDone`
    parts: Sequence[str | Path] = ()  # that shares have made, to be put together: all, or `share`
    upload: str | None = None  # s3://BUCKET/NAME, where the output is put up as it is filled

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite exclude each other; give one")
        if self.upload is not None:
            require_bucket(self.upload)
        if self.on_progress is None and _in_notebook():
            object.__setattr__(self, "on_progress", _NotebookLine())

    def report(self, progress: Progress) -> None:
        if self.on_progress is not None:
            self.on_progress(progress)

    def tell(self, stage: str, **more: Any) -> None:
        """Report a moment in which there is nothing to count."""
        self.report(Progress(stage=stage, **more))

    def note(self, sentence: str | None) -> None:
        """Tell the user something that is worth a line, if there is anything."""
        if sentence is not None:
            self.report(Progress(stage="reading headers", note=sentence))

    @property
    def undivided(self) -> How:
        """For what is not dealt to shares, but done by each."""
        return replace(self, share=None, parts=())

    def is_asked_to_stop(self) -> bool:
        return self.stop is not None and self.stop.is_set()

    def check(self, kept: str = "") -> None:
        """End here if asked to; `kept` says what was not in vain."""
        if self.is_asked_to_stop():
            raise Interrupted(f"stopped on request{kept}")

    def without_folder(self) -> None:
        """Refuse what only makes sense with an output folder."""
        if self.resume or self.overwrite:
            raise UsageError("--resume and --overwrite need an output folder")
        if self.executor is not None:
            raise UsageError("an executor needs an output folder: its workers meet in it")
        if self.share is not None or self.parts:
            raise UsageError("shares of a run need an output folder: they are merged in it")
        if self.upload is not None:
            raise UsageError("--upload needs an output folder: what is put up is filled here first")


class Tally:
    """Counts what a run does, and reports it.

    With `warms_up` time counts from the first `add`, and what that one brings does not count as
    fast work: before it a model was loaded and a pipeline filled. Without `works` it only looks.
    """

    def __init__(
        self, how: How, begin: Progress, warms_up: bool = False, works: bool = True
    ) -> None:
        self._how, self.now = how, replace(begin, works=works, earlier=begin.done)
        self._began = None if warms_up else time.monotonic()
        how.report(self.now)

    def add(
        self,
        done: float = 0,
        parts: int = 0,
        figures: Callable[[Progress], Mapping[str, float]] | None = None,
        **changes: Any,
    ) -> None:
        """So much more was done; `changes` are fields of `Progress` that have a new value."""
        earlier = self.now.earlier
        if self._began is None:
            self._began = time.monotonic()
            earlier += done
        self.now = replace(
            self.now,
            done=self.now.done + done,
            part=self.now.part + parts,
            earlier=earlier,
            seconds=time.monotonic() - self._began,
            **changes,
        )
        if figures is not None:
            self.now = replace(self.now, figures=figures(self.now))
        self._how.report(self.now)
