"""What a scan takes beside its kernel: the host's part alone, and what it leaves of the whole.

    python benchmarks/feed.py --rounds 5

The host's part is a scan with a kernel that answers at once: blocks are read, checked and admitted,
then columns are filled and counted, parquet, SHA-256 and the flush. The writer alone is a scan of
blocks that lie in memory: all but the reading, and less what a scan of one row takes, since a scan
begins and ends once, however many rows there are. Four writers have a shard each, as on a GPU. Then
the true kernel, from files to tables and fed from memory, by turns. All is processor time, which
holds where others use the machine too, but for what four writers gain by the clock; files lie in
the page cache. Rows are appended to `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import clipgap
from clipgap.bench.race import Racer, race
from clipgap.bench.results import Columns, Row
from clipgap.bench.script import publish, read_options
from clipgap.kernels.choose import make_scanner
from clipgap.kernels.interface import (
    NO_ID,
    BlockResult,
    Counters,
    OneAtATime,
    TestSet,
    TopK,
)
from clipgap.machine import cores
from clipgap.memory import reusing
from clipgap.scan.api import plan_scan
from clipgap.scan.inputs import Block, BlockReader
from clipgap.store.writer import StoreWriter
from clipgap.synthetic.rows import blocks, clip_like

D, K, SHARD_ROWS = 640, 32, 131_072
MANY = 4  # shards that are written at a time
POINTS = (16_384, 8_192)


WRITING = (
    "writing",
    "writing with keys",
    "writing six sets",
    "writing six sets with keys",
    "four writing six sets",
)

Against = dict[str, Any]
"""Test sets, and the gap to them if there is one: what `scan` takes of them."""


class AtOnce(OneAtATime):
    """A scanner that answers without looking."""

    name = "at once"
    block_rows = 65_536

    def __init__(self, tests: list[TestSet], k: int, writers: int = 1) -> None:
        self.counters, self.writers = Counters(), writers
        self._lists = [
            TopK(np.full((len(t.rows), k), -np.inf), np.full((len(t.rows), k), NO_ID))
            for t in tests
        ]
        # Set by set, as the results of a GPU come.
        random, shape = np.random.default_rng(0), (len(tests), self.block_rows)
        self._scores = random.uniform(0.1, 0.9, shape).T
        # As of large sets, whatever there is: what numbers cost depends on how many bits they have.
        self._columns = random.integers(0, 50_000, shape, np.int32).T

    def scan(self, rows: Any, ids: Any) -> BlockResult:
        scores, columns = self._scores[: len(rows)], self._columns[: len(rows)]
        return BlockResult(scores, columns, scores - 0.8, columns)

    def topk(self) -> list[TopK]:
        return self._lists

    def load_topk(self, lists: list[TopK]) -> None:
        raise AssertionError("no scan here goes on")

    def raise_bounds(self, kth: list[Any]) -> None:
        """There are none."""


@dataclass(frozen=True)
class FromMemory:
    """A reader whose blocks were read before."""

    held: list[tuple[Block, bool]]

    def __enter__(self) -> FromMemory:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def blocks(self, shards: Iterable[int]) -> Iterator[tuple[Block, bool]]:
        return iter(self.held)


class Workshop:
    """Stores in a folder, and racers on them."""

    def __init__(self, folder: Path, rows: int, threads: int) -> None:
        self.folder, self.rows, self.threads = folder, rows, threads
        self.racers: dict[str, Racer] = {}
        self.blocks: dict[Path, list[tuple[Block, bool]]] = {}  # by turns of shards

    def store(self, name: str, rows: int, seed: int, keys: bool) -> Path:
        path, first = self.folder / name, 0
        with StoreWriter(path, D) as store:
            for block in blocks("clip-like", rows, D, seed=seed, block_rows=SHARD_ROWS):
                named = [f"{i:09d}" for i in range(first, first + len(block))]
                store.add(block, named if keys else None)
                first += len(block)
        return path

    def add(self, name: str, run: Callable[[], Any]) -> None:
        ready = partial(shutil.rmtree, self.folder / "out", ignore_errors=True)
        self.racers[name] = Racer(name, "", run, ready, self.rows)

    def read(self, train: Path, against: Against) -> None:
        plan = plan_scan(train, **against)
        with BlockReader(plan, AtOnce.block_rows, 1) as reader:
            for _ in reader.blocks(range(len(plan.train.shards))):
                pass

    def scan(self, train: Path, against: Against) -> None:
        out = self.folder / "out"
        clipgap.scan(train, **against, k=K, out=out, threads=self.threads)

    def write(self, train: Path, against: Against, writers: int = 1) -> None:
        """A scan of blocks that were read before."""
        if train not in self.blocks:
            plan = plan_scan(train, **against)
            with BlockReader(plan, AtOnce.block_rows, 1, together=MANY) as reader:
                self.blocks[train] = list(reader.blocks(range(len(plan.train.shards))))
        blocks = self.blocks[train]
        if writers == 1:  # one shard after the other
            blocks = sorted(blocks, key=lambda held: held[0].shard)
        reader = FromMemory(blocks)
        # As within any reader, so that memory of tables is used again.
        with reusing(), mock.patch("clipgap.scan.work.BlockReader", lambda *asked: reader):
            self.scan_at_once(train, against, writers)

    def scan_at_once(self, train: Path, against: Against, writers: int = 1) -> None:
        def scanner(tests: list[TestSet], k: int, **_: Any) -> AtOnce:
            return AtOnce(tests, k, writers)

        with mock.patch("clipgap.scan.work.make_scanner", scanner):
            self.scan(train, against)

    def kernel(self, rows: NDArray[np.float16], points: NDArray[np.float16]) -> None:
        scanner = make_scanner([TestSet("test", points)], K, threads=self.threads)
        ids = np.arange(len(rows))
        for start in range(0, len(rows), scanner.block_rows):
            here = slice(start, start + scanner.block_rows)
            scanner.scan(rows[here], ids[here])

    def spent(self, name: str) -> float:
        """Processor time of a row, in seconds."""
        return median(self.racers[name].processor) / self.rows

    def of_rows(self, name: str, brief: str, what: str = "processor") -> float:
        """Seconds of a row, without what a scan takes whatever its rows."""
        taken, once = (getattr(self.racers[racer], what) for racer in (name, brief))
        # Of few rows, as in a dry run, clocks may not see anything.
        return max(median(taken) - median(once), 1e-9) / self.rows


def measure(workshop: Workshop, rounds: int, points: tuple[int, ...]) -> list[Row]:
    keyed = workshop.store("keyed", workshop.rows, 1, keys=True)
    plain = workshop.store("plain", workshop.rows, 1, keys=False)
    few: Against = {"tests": {"test": workshop.store("few", 64, 2, keys=True)}}
    # As many sets, all with thresholds, as the paper's; points cost once, and rows are meant here.
    tests = {f"set{i}": workshop.store(f"set{i}", 64, 10 + i, keys=True) for i in range(6)}
    reference = workshop.store("reference", 64, 3, keys=False)
    clipgap.gap(reference, tests, out=workshop.folder / "gap", threads=workshop.threads)
    six: Against = {"tests": tests, "gap": workshop.folder / "gap"}
    brief = workshop.store("brief", 1, 1, keys=True)
    at_once = {
        "reading": partial(workshop.read, plain, few),
        "tables": partial(workshop.scan_at_once, plain, few),
        "tables with keys": partial(workshop.scan_at_once, keyed, few),
        "writing": partial(workshop.write, plain, few),
        "writing with keys": partial(workshop.write, keyed, few),
        "writing six sets": partial(workshop.write, plain, six),
        "writing six sets with keys": partial(workshop.write, keyed, six),
        "four writing six sets": partial(workshop.write, plain, six, MANY),
        "a scan of one row": partial(workshop.write, brief, few),
        "a scan of one row, six sets": partial(workshop.write, brief, six),
    }
    for name, run in at_once.items():
        workshop.add(name, run)
    rows = clip_like(workshop.rows, D, seed=1)
    for m in points:
        test: Against = {"tests": {"test": workshop.store(f"test-{m}", m, 2, keys=True)}}
        workshop.add(f"scan {m}", partial(workshop.scan, keyed, test))
        workshop.add(f"kernel {m}", partial(workshop.kernel, rows, clip_like(m, D, seed=2)))
    racers = list(workshop.racers.values())
    race(racers[: len(at_once)], rounds, warm=1)
    race(racers[len(at_once) :], rounds)
    found: list[Row] = [
        {"figure": name, "value": round(1e6 * workshop.spent(name), 3), "unit": "core-µs a row"}
        for name in workshop.racers
        if not name.startswith("a scan of one row")
    ]
    found += [
        {"figure": name, "value": round(1e3 * median(racer.processor), 1), "unit": "core-ms"}
        for name, racer in workshop.racers.items()
        if name.startswith("a scan of one row")
    ]
    for name in WRITING:
        once = "a scan of one row" + (", six sets" if "six" in name else "")
        rate = 1e-6 / workshop.of_rows(name, once)
        unit = "million rows/s and core"
        found.append({"figure": f"the writer alone, {name}", "value": round(rate, 2), "unit": unit})
    one, four = (
        workshop.of_rows(name, "a scan of one row, six sets", "seconds")
        for name in ("writing six sets", "four writing six sets")
    )
    found.append(
        {"figure": "four writers / one, by the clock", "value": round(one / four, 2), "unit": "×"}
    )
    for m in points:
        ratio = workshop.spent(f"kernel {m}") / workshop.spent(f"scan {m}")
        name = f"files to tables / kernel, {m:,} points"
        found.append({"figure": name, "value": round(ratio, 3), "unit": "×"})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4 * SHARD_ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--folder", type=Path, help="where the stores go for the time being")
    parser.add_argument("--points", type=int, nargs="*", default=POINTS, help="of whole scans")
    options = read_options(parser, {"rows": 4096, "rounds": 1, "points": (256,)})
    with tempfile.TemporaryDirectory(prefix="clipgap-feed-", dir=options.folder) as folder:
        workshop = Workshop(Path(folder), options.rows, options.threads)
        found = measure(workshop, options.rounds, options.points)
    shared = {"suite": "feed", "d": D, "rows": options.rows, "threads": options.threads}
    columns: Columns = (
        ("", lambda row: row["figure"]),
        ("", lambda row: f"{row['value']:,.3f} {row['unit']}"),
    )
    publish([{**shared, "rounds": options.rounds, **row} for row in found], options, columns)


if __name__ == "__main__":
    main()
