"""The race of the kernels: each on as many rows as its speed allows, all on one stream of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from clipgap.bench.case import Case
from clipgap.bench.contenders import PEAK_SECONDS, Contender, Ours, peaks
from clipgap.bench.race import Racer, Spent, race
from clipgap.bench.runner import Runner
from clipgap.errors import MissingDependency
from clipgap.kernels.choose import make_scanner
from clipgap.kernels.interface import Scanner

SGEMM = "torch sgemm"
FMA = "float32 FMA peak"
MAX_ROWS = 49_152
WARM_SHARE = 0.25
WARM_ROWS, WARM_BLOCK = 262_144, 2048
CHECKED = 1024
"""Rows of each contender whose nearest test points are compared with the exact ones."""
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


class _Entry:
    """A contender under way: where it is in the stream of training rows."""

    def __init__(self, contender: Contender, runner: Runner, case: Case) -> None:
        self.contender, self.runner, self.case = contender, runner, case
        self.rows = self.position = self.before = 0
        self.racer = Racer(
            contender.name,
            contender.does,
            self._run,
            ready=self._ready,
            rounds=0,
        )

    def _ready(self) -> None:
        """Take the next rows of the stream."""
        self.block = self.case.train(self.position, self.position + self.rows)
        self.prepared = self.runner.prepare(self.block, self.position)
        self.position += self.rows
        self.racer.amount = self.rows * self.case.flops_per_row
        time.sleep(SETTLE_SECONDS)

    def _run(self) -> None:
        self.result = self.runner.run(self.prepared)

    def nearest_found(self, exact: Scanner) -> dict[str, float]:
        """The share of rows of the last round for which it found a nearest test point."""
        answer = self.runner.answer(self.result)
        if answer is None:
            return {}
        rows, nn = self.block[:CHECKED], answer.nn[:CHECKED]
        most = exact.scan(rows, np.arange(len(rows))).sim.max(axis=1)
        found = self.case.test()[nn].astype(np.float64)
        scores = np.einsum("ij,ij->i", rows.astype(np.float64), found)
        return {"nearest_found": round(float((scores == most).mean()), 5)}

    def plan(self, rounds: int, seconds: float) -> None:
        """Choose rows a round and rounds, so that all rounds together take about `seconds`.

        Cost is linear in the rows, so a slow contender gets fewer of them, down to the number that
        is fair to it, and then fewer rounds. If not even one fits, the trial here must do.
        """
        self.rows = self.contender.min_rows
        for _ in range(3):  # the first blocks of a scan, and short ones, cost more a row
            tried, self.before, trial = self.rows, self.position, self.racer.turn()
            row_seconds = trial.seconds / tried
            wanted = int(seconds / (rounds + 1) / row_seconds)
            self.rows = min(MAX_ROWS, max(self.contender.min_rows, wanted))
            if self.rows <= 1.25 * tried:
                break
        self.racer.rounds = min(rounds, int(seconds / (self.rows * row_seconds)))
        if self.racer.rounds:
            self.before = self.position
        else:
            self.racer.spent.append(trial)


def race_kernels(
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
    ceilings = list(_ceilings(threads, on_note))
    race(
        [*ceilings, *(entry.racer for entry in entries)],
        rounds,
        on_round=lambda turn: on_note(f"{case}: round {turn + 1} of {rounds}"),
    )
    on_note(f"{case}: comparing what was found")
    exact = make_scanner(case.test_sets(), 0, threads=threads)
    measured = [Measured(each.name, each.does, "peak", tuple(each.rates)) for each in ceilings]
    for entry in entries:
        contender, runner = entry.contender, entry.runner
        measured.append(
            Measured(
                contender.name,
                contender.does,
                contender.side,
                tuple(entry.racer.rates),
                entry.rows,
                entry.before,
                runner.note,
                {**runner.extra(), **entry.nearest_found(exact)},
            )
        )
    return measured


def _ceilings(threads: int, on_note: Callable[[str], None]) -> Iterator[Racer]:
    """What the processor could do at most takes turns with the others."""

    def turn(measure: Callable[[], float]) -> Callable[[], Spent]:
        return lambda: Spent(PEAK_SECONDS, amount=PEAK_SECONDS * measure())

    try:
        for name, measure in peaks(threads).items():
            does = f"what the cores can do, {PEAK_SECONDS} s a round"
            yield Racer(name, does, turn(measure))
    except MissingDependency as error:
        on_note(str(error))


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
