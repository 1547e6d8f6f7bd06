"""What control costs in a run of very many units on very many workers, with no work in them.

    python benchmarks/simulate_cluster.py      # 5.85 billion rows, 100,000 units, 512 workers

The executor for Ray, ledger, shares, status and the checks of a merge are the real ones. The
cluster is made up, and its clock runs as fast as they let it: a unit takes a minute, 2 % of them 2
to 10 times as long; of 100 workers one dies every hour, with the unit that it has in hand, and
another takes its place after a minute. Workers hand lists of neighbours over as often as those of a
true scan of six test sets, and are told in return what the k-th bests are: these are computed, and
put where a worker would fetch them. What is not in it: Ray's own cost of a message, files of
results, and to merge the lists and save them.

Told are the processor time that all of it takes, beside the time that the run lasts by the clock of
the cluster; how long that is beside what it would be if no worker ever waited; and peak memory.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import pickle
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from clipgap.bench.case import M_SIX
from clipgap.bench.processes import peak_mib
from clipgap.bench.results import Columns, Row
from clipgap.bench.script import publish, read_options
from clipgap.errors import ShareDone
from clipgap.files.documents import Form, write_document
from clipgap.kernels.interface import TopK
from clipgap.runs.executors import Here
from clipgap.runs.how import How
from clipgap.runs.lock import PLAN, PROGRESS
from clipgap.runs.on_ray import Ray, _Run
from clipgap.runs.run import run_units
from clipgap.runs.shares import Share, Whole, parts_folder
from clipgap.runs.status import status_of
from clipgap.runs.units import UNITS, Event, Ledger, Made, Slot
from clipgap.scan.work import bounds, seconds_between

ROWS = 5_850_000_000
PLANNED = Form("clipgap-simulated", "run without work")
MINUTE, HOUR = 60.0, 3600.0
POINTS, K = M_SIX, 10
RECORD = 2000
"""Letters that a scan notes of a shard: what it counts for six test sets, and sums of its files."""


@dataclass(frozen=True)
class Unit:
    name: str
    size: int


@dataclass(frozen=True)
class Instant:
    """Work that is done as soon as it is begun."""

    def do(self, units: Any, slot: Slot) -> Iterator[Event]:
        for unit in units:
            yield made(unit)


def made(unit: Unit, state: Any = None, worker: int = 0) -> Made:
    files = {f"train/{unit.name}": {"sha256": "0" * 64, "size": unit.size}}
    totals = random.Random(unit.name).randbytes(RECORD // 2).hex()
    record = {"rows": unit.size, "totals": totals, "files": files}
    return Made({unit.name: record}, state, worker)


# --- a cluster that is made up


class Lost(Exception):
    """What Ray says of a worker that is gone."""


@dataclass
class Method:
    """What is called as `actor.method.remote(…)`."""

    remote: Callable[..., Any]

    def options(self, **asked: Any) -> Method:
        return self


@dataclass(eq=False)
class Worker:
    """Asks for a unit, is given it, has made it; or dies."""

    cluster: Cluster
    begins: float
    dies: float
    stream: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run, self.give, self.hear = map(Method, (self._run, self._give, self._hear))
        self.stop = Method(lambda: None)

    def _run(self, number: int, news: Any) -> Stream:
        self.number, turn = number, (number % self.cluster.workers + 1) / self.cluster.workers
        self.handed_over = self.cluster.now - (1 - turn) * self.cluster.between
        self._hear(news)
        stream = self.current = Stream()
        self.cluster.later(max(self.begins, self.cluster.now), stream, [None])
        return stream

    def _give(self, unit: Unit | None) -> None:
        cluster = self.cluster
        if unit is None:
            cluster.later(cluster.now, self.current, StopIteration())
            return
        takes = cluster.seconds(unit)
        if self.dies < cluster.now + takes:
            cluster.deaths += 1
            cluster.later(max(self.dies, cluster.now), self.current, Lost("died"))
            return
        cluster.busy += takes
        lists = None
        if (done := cluster.now + takes) - self.handed_over >= cluster.between:
            lists, self.handed_over = cluster.lists, done
        cluster.later(done, self.current, [made(unit, lists, self.number), None])

    def _hear(self, news: bytes | None) -> None:
        self.cluster.told += len(news or b"")


class Stream:
    """What a worker says; one thing at a time is ready."""

    ready: Any

    def __next__(self) -> Any:
        if isinstance(self.ready, StopIteration):
            raise self.ready
        return self.ready


class Cluster:
    """As much of Ray as the executor calls, with a clock of its own."""

    exceptions = SimpleNamespace(RayError=Lost)
    placing = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: None)
    util = SimpleNamespace(scheduling_strategies=placing)

    def __init__(self, workers: int) -> None:
        self.workers, self.now, self.busy, self.deaths, self.told = workers, 0.0, 0.0, 0, 0
        self.between = seconds_between(POINTS, K, workers)
        self.lists = [TopK(np.zeros((POINTS, K)), np.zeros((POINTS, K), np.int64))]
        self._random = random.Random(0)
        self._events: list[tuple[float, int, Stream, Any]] = []
        self._order = itertools.count()

    def later(self, at: float, stream: Stream, says: Any) -> None:
        heapq.heappush(self._events, (at, next(self._order), stream, says))

    def seconds(self, unit: Unit) -> float:
        is_slow = self._random.random() < 0.02
        return MINUTE * (self._random.uniform(2, 10) if is_slow else 1.0)

    def nodes(self) -> list[dict[str, Any]]:
        node = {"Alive": True, "Resources": {"CPU": 1.0}}
        names = [f"{n:056x}" for n in range(self.workers)]
        return [{**node, "NodeID": name, "NodeManagerHostname": name} for name in names]

    def remote(self, actor: Any) -> Any:
        return SimpleNamespace(options=lambda **asked: Method(self._new_worker))

    def _new_worker(self, *arguments: Any) -> Worker:
        begins = self.now + MINUTE * bool(self.now)  # in the place of one that died
        return Worker(self, begins, begins + self._random.expovariate(1 / (100 * HOUR)))

    def wait(
        self, streams: Sequence[Stream], num_returns: int, timeout: float
    ) -> tuple[list[Stream], list[Stream]]:
        self.now, _, stream, stream.ready = heapq.heappop(self._events)
        return [stream], []

    def get(self, said: Any) -> Any:
        if isinstance(said, Lost):
            raise said
        return said

    def put(self, value: Any) -> bytes:
        return pickle.dumps(value, protocol=5)

    def kill(self, worker: Worker) -> None:
        """It says nothing any more."""


# --- what is measured


def on_a_cluster(out: Path, units: Sequence[Unit], workers: int) -> Row:
    cluster = Cluster(workers)

    def executor(work: Any, units: Sequence[Any], *asked: Any) -> Iterator[Event]:
        yield from _Run(cluster, work, units, Ray(), *asked).events()

    (out / PROGRESS).mkdir(parents=True)
    ledger = Ledger(out / PROGRESS / UNITS)
    ledger.gather(lambda ours, theirs: theirs, tell=bounds)
    began = time.process_time()
    for _ in run_units(Instant(), units, ledger, executor, How()):
        pass
    control = time.process_time() - began
    again = Ledger(ledger.path)
    again.load()
    assert again.records == ledger.records
    assert status_of(out).runs[0].units_done == len(units)
    return {
        "case": "one driver",
        "seconds": round(cluster.now, 1),
        "of_ideal": round(cluster.now / (cluster.busy / workers), 4),
        "deaths": cluster.deaths,
        "processor_seconds": round(control, 2),
        "of_the_run": round(control / cluster.now, 5),
        "told_mb_per_second": round(cluster.told / cluster.now / 1e6, 2),
    }


def in_shares(out: Path, units: Sequence[Unit], shares: int) -> Row:
    """What each share takes to be dealt, and all of them to be found whole."""
    dealing = []
    for index in range(shares):
        share = Share([index], shares)
        notes = share.folder(out) / PROGRESS
        notes.mkdir(parents=True)
        write_document(notes / PLAN, PLANNED, {"wanted": {}})
        began = time.process_time()
        try:
            for _ in run_units(Instant(), units, Ledger(notes / UNITS), Here(), How(share=share)):
                pass
        except ShareDone:
            dealing.append(time.process_time() - began)
    began = time.process_time()
    whole = Whole.found([parts_folder(out)], PLANNED, {}, Ledger(None), None)
    merging = time.process_time() - began
    status = status_of(out)
    assert whole is not None and status.count("done") == len(whole.ledgers) == shares
    return {
        "case": "shares",
        "processor_seconds": round(merging, 2),
        "of_a_share": round(max(dealing), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=512)
    parser.add_argument("--shares", type=int, default=64)
    options = read_options(parser, tiny={"units": 400, "workers": 8, "shares": 3})
    units = [Unit(f"part-{n:06d}.parquet", ROWS // options.units) for n in range(options.units)]
    common = {
        "suite": "simulate cluster",
        "rows": ROWS,
        "units": options.units,
    }
    with tempfile.TemporaryDirectory() as folder:
        one = on_a_cluster(Path(folder) / "one", units, options.workers)
        rows = [{**common, "workers": options.workers, **one, "peak_mib": round(peak_mib())}]
        many = in_shares(Path(folder) / "many", units, options.shares)
        rows.append({**common, "workers": options.shares, **many, "peak_mib": round(peak_mib())})

    def shown(name: str, form: str) -> Callable[[Row], str]:
        return lambda row: format(row[name], form) if name in row else ""

    columns: Columns = (
        ("", lambda row: row["case"]),
        ("workers", shown("workers", ",")),
        ("lasts", shown("seconds", ",.0f")),
        ("of ideal", shown("of_ideal", ".3f")),
        ("deaths", shown("deaths", ",")),
        ("control, core-s", shown("processor_seconds", ",.1f")),
        ("of the run", shown("of_the_run", ".3%")),
        ("told, MB/s", shown("told_mb_per_second", ",.2f")),
        ("a share, core-s", shown("of_a_share", ",.2f")),
        ("peak MiB", shown("peak_mib", ",")),
    )
    publish(rows, options, columns)


if __name__ == "__main__":
    main()
