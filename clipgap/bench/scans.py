"""From files to tables: rate against the kernel's own, memory and time as N and M grow."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from clipgap.bench.case import TEST_SEED, TRAIN_SEED, Preset
from clipgap.bench.processes import fresh
from clipgap.bench.race import Racer, race
from clipgap.store.writer import StoreWriter
from clipgap.synthetic.rows import blocks

What = Literal["scan", "six", "kernel"]
"""A scan, the same against the test set under six names, or the kernel fed from memory."""

D = 640
SHARD_ROWS = 16_384
KERNEL_M = 16_384
MEMORY_M, GROWTH_M = 1024, 4096
HOST_FIGURES: dict[What, str] = {
    "scan": "reading and writing, one test set",
    "six": "reading and writing, six test sets",
}
"""What a row costs the host, by a scan against one point of each set."""


@dataclass(frozen=True)
class Sizes:
    """Training rows of the three parts."""

    rate: int  # and 4 times as many
    memory: int  # and 8 times as many
    growth: int  # and 2 and 4 times as many
    rounds: int


SIZES: dict[Preset, Sizes] = {
    "quick": Sizes(rate=65_536, memory=131_072, growth=16_384, rounds=1),
    "full": Sizes(rate=262_144, memory=262_144, growth=65_536, rounds=3),
}


@dataclass(frozen=True)
class Run:
    """One child process: what it did, on how much, and what it took."""

    what: What
    rows: int
    tests: int
    seconds: float
    peak_mib: float
    processor: float  # seconds of it

    @property
    def gflops(self) -> float:
        return 2.0 * self.rows * self.tests * D / self.seconds / 1e9


@dataclass(frozen=True)
class Figure:
    """One line of the report."""

    name: str
    value: float
    unit: str
    runs: tuple[Run, ...]


class Workshop:
    """Makes stores in a temporary folder, and runs children on them."""

    def __init__(self, folder: Path, threads: int, on_note: Callable[[str], None]) -> None:
        self.folder, self.threads, self.on_note = folder, threads, on_note

    def run(self, what: What, rows: int, tests: int) -> Run:
        train = self._store("train", rows, TRAIN_SEED)
        test = self._store("test", tests, TEST_SEED)
        out = self.folder / "out"
        self.on_note(f"{what}: {rows:,} rows against {tests:,} test points")
        command = [sys.executable, "-m", "clipgap.bench.child", what]
        try:
            told = fresh([*command, str(train), str(test), str(out), str(self.threads)])
        finally:
            shutil.rmtree(out, ignore_errors=True)
        return Run(what, rows, tests, **told)

    def _store(self, name: str, rows: int, seed: int) -> Path:
        path = self.folder / f"{name}-{rows}"
        if path.exists():
            return path
        self.on_note(f"making {rows:,} {name} rows")
        first = 0
        with StoreWriter(path, D) as store:
            for block in blocks("clip-like", rows, D, seed=seed, block_rows=SHARD_ROWS):
                keys = [f"{i:09d}" for i in range(first, first + len(block))]
                store.add(block, keys)
                first += len(block)
        return path


def files_to_tables(
    preset: Preset, threads: int, on_note: Callable[[str], None], folder: Path | None = None
) -> list[Figure]:
    """Measure; `folder` is where the stores go for the time being."""
    sizes = SIZES[preset]
    with tempfile.TemporaryDirectory(prefix="clipgap-bench-", dir=folder) as temporary:
        workshop = Workshop(Path(temporary), threads, on_note)
        return [
            *_rate(workshop, sizes),
            *_memory(workshop, sizes),
            *_growth(workshop, sizes),
            *_host(workshop, sizes),
        ]


def _in_turns(workshop: Workshop, rounds: int, *jobs: tuple[What, int, int]) -> list[list[Run]]:
    """The runs of each job."""
    runs: list[list[Run]] = [[] for _ in jobs]
    racers = [
        Racer(job[0], "", lambda done=done, job=job: done.append(workshop.run(*job)))  # type: ignore[misc]
        for done, job in zip(runs, jobs, strict=True)
    ]
    race(racers, rounds)
    return runs


def _rate(workshop: Workshop, sizes: Sizes) -> Iterable[Figure]:
    n = sizes.rate
    scans, kernels, long_scans, long_kernels = _in_turns(
        workshop,
        sizes.rounds,
        *((what, rows, KERNEL_M) for rows in (n, 4 * n) for what in ("scan", "kernel")),
    )
    whole, bare = (median(run.gflops for run in runs) for runs in (scans, kernels))
    yield Figure("files to tables", whole, "GFLOP/s", tuple(scans))
    yield Figure("the kernel alone, rows in memory", bare, "GFLOP/s", tuple(kernels))
    yield Figure("files to tables / kernel alone", whole / bare, "×", ())
    # What a scan takes once, whatever its rows, is in both: test sets read, lists written.
    more, more_bare = (
        median(run.seconds for run in long) - median(run.seconds for run in short)
        for long, short in ((long_scans, scans), (long_kernels, kernels))
    )
    name = "files to tables / kernel alone, of rows N to 4N"
    yield Figure(name, more_bare / more, "×", (*long_scans, *long_kernels))


def _memory(workshop: Workshop, sizes: Sizes) -> Iterable[Figure]:
    few, many = _in_turns(  # several times: allocators keep more one time and less another
        workshop,
        sizes.rounds,
        ("scan", sizes.memory, MEMORY_M),
        ("scan", 8 * sizes.memory, MEMORY_M),
    )
    at_n, at_8n = (median(run.peak_mib for run in runs) for runs in (few, many))
    yield Figure("peak memory at N", at_n, "MiB", tuple(few))
    yield Figure("peak memory at 8N", at_8n, "MiB", tuple(many))
    yield Figure("peak memory, 8N / N", at_8n / at_n, "×", ())


def _growth(workshop: Workshop, sizes: Sizes) -> Iterable[Figure]:
    base = workshop.run("scan", sizes.growth, GROWTH_M)
    yield Figure("time at N, M", base.seconds, "s", (base,))
    for factor in (2, 4):
        run = workshop.run("scan", factor * sizes.growth, GROWTH_M)
        yield Figure(f"time at {factor}N / at N", run.seconds / base.seconds, "×", (run,))
    for factor in (2, 4):
        run = workshop.run("scan", sizes.growth, factor * GROWTH_M)
        yield Figure(f"time at {factor}M / at M", run.seconds / base.seconds, "×", (run,))


def _host(workshop: Workshop, sizes: Sizes) -> Iterable[Figure]:
    for what, name in HOST_FIGURES.items():
        few, many = (workshop.run(what, n * sizes.memory, 1) for n in (1, 8))  # both start once
        seconds = (many.processor - few.processor) / (many.rows - few.rows)
        yield Figure(name, 1e6 * seconds, "core-µs a row", (few, many))
