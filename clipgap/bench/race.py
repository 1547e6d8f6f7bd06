"""One interleaved run: every contender in turn, round after round.

On a shared machine the clock drifts and neighbours come and go; taking turns lets all contenders
meet the same weather, so that ratios hold where absolute figures waver.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from clipgap.bench.case import Case
from clipgap.bench.contenders import Contender, Ours
from clipgap.bench.peaks import PEAK_SECONDS, peaks
from clipgap.bench.runner import Runner
from clipgap.errors import MissingDependency

SGEMM = "torch sgemm"
FMA = "float32 FMA peak"
MAX_ROWS = 49_152
WARM_SHARE = 0.25
WARM_ROWS, WARM_BLOCK = 262_144, 2048
SETTLE_SECONDS = 0.05
"""Thread pools of the one before may still spin; let them go to sleep."""


@dataclass(frozen=True)
class Measured:
    """Rates of one contender on one case, in operations a second."""

    name: str
    does: str
    side: str  # "ours", "peer" or "peak"
    rates: tuple[float, ...]
    rows: int = 0  # a round
    before: int = 0  # rows already seen when the first round began
    note: str = ""
    extra: dict[str, float] = field(default_factory=dict)

    def percentile(self, q: float) -> float:
        return float(np.percentile(self.rates, q))


@dataclass
class _Entry:
    """A contender under way: where it is in the stream of training rows."""

    contender: Contender
    runner: Runner
    case: Case
    rows: int = 0
    rounds: int = 0
    position: int = 0
    before: int = 0
    rates: list[float] = field(default_factory=list)

    def measure(self) -> float:
        """Operations a second on the next rows of the stream."""
        block = self.case.train(self.position, self.position + self.rows)
        prepared = self.runner.prepare(block, self.position)
        self.position += self.rows
        time.sleep(SETTLE_SECONDS)
        start = time.perf_counter()
        self.runner.run(prepared)
        return self.rows * self.case.flops_per_row / (time.perf_counter() - start)

    def plan(self, rounds: int, seconds: float) -> None:
        """Choose rows a round and rounds, so that all rounds together take about `seconds`.

        Cost is linear in the rows, so a slow contender gets fewer of them, down to the number that
        is fair to it, and then fewer rounds. If not even one fits, the trial here must do.
        """
        self.rows = self.contender.min_rows
        for _ in range(3):  # the first blocks of a scan, and short ones, cost more a row
            tried, self.before, rate = self.rows, self.position, self.measure()
            row_seconds = self.case.flops_per_row / rate
            wanted = int(seconds / (rounds + 1) / row_seconds)
            self.rows = min(MAX_ROWS, max(self.contender.min_rows, wanted))
            if self.rows <= 1.25 * tried:
                break
        self.rounds = min(rounds, int(seconds / (self.rows * row_seconds)))
        if self.rounds:
            self.before = self.position
        else:
            self.rates.append(rate)


def race(
    case: Case,
    contenders: Sequence[Contender],
    *,
    threads: int,
    rounds: int,
    seconds: float,
    on_note: Callable[[str], None],
) -> list[Measured]:
    """Measure all that can run here within about `seconds`; what cannot is told to `on_note`."""
    start = time.perf_counter()
    entries = list(_entries(case, contenders, threads, on_note))
    left = max(seconds / 2, seconds - (time.perf_counter() - start))
    on_note(f"{case}: warming up")
    _warm_up(entries, WARM_SHARE * left)
    share = (1 - WARM_SHARE) * left / max(1, len(entries))
    for entry in entries:
        on_note(f"{case}: preparing {entry.contender.name}")
        entry.plan(rounds, share)
    try:
        ceilings = peaks(threads)
    except MissingDependency as error:
        ceilings = {}
        on_note(str(error))
    peak_rates: dict[str, list[float]] = {name: [] for name in ceilings}

    for turn in range(rounds):
        on_note(f"{case}: round {turn + 1} of {rounds}")
        for name, measure in ceilings.items():
            peak_rates[name].append(measure())
        for entry in entries:
            if turn < entry.rounds:
                entry.rates.append(entry.measure())

    measured = [
        Measured(name, f"what the cores can do, {PEAK_SECONDS} s a round", "peak", tuple(rates))
        for name, rates in peak_rates.items()
    ]
    for entry in entries:
        contender, runner = entry.contender, entry.runner
        measured.append(
            Measured(
                contender.name,
                contender.does,
                contender.side,
                tuple(entry.rates),
                entry.rows,
                entry.before,
                runner.note,
                runner.extra(),
            )
        )
    return measured


def _warm_up(entries: Sequence[_Entry], seconds: float) -> None:
    """Fill the lists of the test points with as many rows as the time allows, once for all.

    The first blocks of a scan cost more: while the lists fill, many pairs must be decided. In a
    scan of millions of rows that is soon over, in a measurement of seconds it would be all.
    Scanners hold the same lists whatever the kernel, so the fastest one fills them.
    """
    for leader in entries:
        if isinstance(leader.runner, Ours) and leader.runner.k == leader.case.k:
            scanner, case = leader.runner.scanner, leader.case
            break
    else:
        return
    seen, stop = 0, time.perf_counter() + seconds
    while seen < WARM_ROWS and time.perf_counter() < stop:
        ids = np.arange(seen, seen + WARM_BLOCK, dtype=np.int64)
        scanner.scan(case.train(seen, seen + WARM_BLOCK), ids)
        seen += WARM_BLOCK
    lists = scanner.topk()
    for entry in entries:
        entry.position = seen
        entry.runner.warm(lists)


def _entries(
    case: Case,
    contenders: Sequence[Contender],
    threads: int,
    on_note: Callable[[str], None],
) -> Iterator[_Entry]:
    for contender in contenders:
        try:
            yield _Entry(contender, contender.build(case, threads), case)
        except MissingDependency as error:
            on_note(f"{contender.name} is left out: {error}")
