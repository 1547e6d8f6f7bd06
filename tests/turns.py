"""An executor whose workers take turns in one thread: what is said to whom, and when, is the same
each time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clipgap.runs.units import Event, Made, News, Slot, Work


@dataclass(frozen=True)
class Turns:
    """So many workers, a turn each from event to event; of the units each has what it is dealt at
    the beginning. They are told what executors tell them, or nothing."""

    workers: int
    tells: bool = True

    def __call__(
        self, work: Work, units: Sequence[Any], stop: Callable[[], bool], news: News
    ) -> Iterator[Event]:
        told = [news() if self.tells else None] * self.workers

        def begin(number: int) -> Iterator[Event]:
            def hear() -> Any:
                return told[number]

            slot = Slot(number, stop=stop, of=self.workers, news=hear)
            return work.do(iter(units[number :: self.workers]), slot)

        left = deque((number, begin(number)) for number in range(self.workers))
        while left:
            number, events = left.popleft()
            if (event := next(events, None)) is not None:
                left.append((number, events))
                yield event
                if self.tells and isinstance(event, Made) and event.state is not None:
                    told[number] = news()
