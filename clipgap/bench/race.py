"""One race: every racer in turn, round after round, and what each of them spent.

On a shared machine the clock drifts and neighbours come and go; taking turns lets all racers meet
the same weather, so that ratios hold where absolute figures waver. The order rotates from round to
round: nobody always runs after the same other.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Spent:
    """What one turn took, and how much was done in it."""

    seconds: float
    processor: float = float("nan")  # seconds of all processors
    amount: float = 1.0
    peak_mib: float = float("nan")

    @property
    def rate(self) -> float:
        return self.amount / self.seconds

    @property
    def processor_rate(self) -> float:
        return self.amount / self.processor


class Stopwatch:
    """Runs from when it is made. The processor time of ended children counts where asked."""

    def __init__(self, children: bool = True) -> None:
        self._whose = [resource.RUSAGE_SELF] + [resource.RUSAGE_CHILDREN] * children
        self._processor, self._clock = self._used(), time.perf_counter()

    def spent(self, amount: float = 1.0) -> Spent:
        seconds = time.perf_counter() - self._clock
        return Spent(seconds, self._used() - self._processor, amount)

    def _used(self) -> float:
        used = [resource.getrusage(whose) for whose in self._whose]
        return sum(each.ru_utime + each.ru_stime for each in used)


def _nothing() -> None:
    return


@dataclass
class Racer:
    """A name, what it does, and a callable that does it.

    `run` is clocked from outside, unless it gives a `Spent` of its own: it alone knows which part
    of it counts, and a fresh process measures itself (`processes.fresh`). `ready` comes before each
    turn and is not clocked.
    """

    name: str
    does: str
    run: Callable[[], Any]
    ready: Callable[[], Any] = _nothing
    amount: float = 1.0  # of work in a turn: rows, bytes, operations
    rounds: int | None = None  # at most, where it is too slow for all of them
    spent: list[Spent] = field(default_factory=list)

    def turn(self) -> Spent:
        self.ready()
        watch = Stopwatch()
        own = self.run()
        return own if isinstance(own, Spent) else watch.spent(self.amount)

    @property
    def seconds(self) -> list[float]:
        return [each.seconds for each in self.spent]

    @property
    def processor(self) -> list[float]:
        return [each.processor for each in self.spent]

    @property
    def rates(self) -> list[float]:
        return [each.rate for each in self.spent]

    @property
    def processor_rates(self) -> list[float]:
        return [each.processor_rate for each in self.spent]

    @property
    def peak_mib(self) -> float:
        return median(each.peak_mib for each in self.spent)


def race(
    racers: Sequence[Racer],
    rounds: int,
    *,
    warm: int = 0,
    seconds: float | None = None,
    on_round: Callable[[int], None] = lambda turn: None,
) -> None:
    """Let all take turns; what they spend is added to them.

    Each first runs `warm` times for nothing: that compiles, tunes and fills caches. After the first
    round, one that would likely pass the budget of `seconds` is not begun.
    """
    for racer in racers:
        for _ in range(warm):
            racer.turn()
    start = time.perf_counter()
    for turn in range(rounds):
        spent = time.perf_counter() - start
        if seconds is not None and turn and spent * (turn + 1) > seconds * turn:
            return
        on_round(turn)
        first = turn % max(1, len(racers))
        for racer in (*racers[first:], *racers[:first]):
            if racer.rounds is None or turn < racer.rounds:
                racer.spent.append(racer.turn())


def percentiles(values: Sequence[float], digits: int, scale: float = 1.0) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)) / scale, digits) for q in (20, 50, 80)}


def median_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """The ratio of the medians."""
    return round(median(values) / median(base), 3)


def paired_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios within a round: a slow minute of the machine weighs on both."""
    return round(median(own / other for own, other in zip(values, base, strict=True)), 3)
