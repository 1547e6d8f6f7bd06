"""How a long run is carried out, whatever it makes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from clipgap.errors import UsageError

Moment = TypeVar("Moment")  # what a run tells of itself


@dataclass(frozen=True, kw_only=True)
class How(Generic[Moment]):
    """Nothing here can change a result."""

    resume: bool = False
    overwrite: bool = False
    on_progress: Callable[[Moment], None] | None = None
    stop: threading.Event | None = None

    def __post_init__(self) -> None:
        refuse_both(self.resume, self.overwrite)

    def report(self, moment: Moment) -> None:
        if self.on_progress is not None:
            self.on_progress(moment)

    def is_asked_to_stop(self) -> bool:
        return self.stop is not None and self.stop.is_set()


def refuse_both(resume: bool, overwrite: bool) -> None:
    """Going on with an output and replacing it cannot both be meant."""
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other; give one")
