"""What it costs to have others do the work: Ray and shares beside threads, merging beside `cp`.

    python benchmarks/executors.py --rounds 5

A scan that computing binds is done by two threads of one process; by a Ray cluster of one node with
two cores, and of two nodes with one core each; and by two processes that do a share each, as two
tasks of a Slurm array do. They take turns. Rates are those from the first rows that are told of to
the last, since starting a cluster or a process is paid once, however long a run is. Beside them
stands the processor time of all of it, starting included.

Merging is that of parts with one file each, whose checksums are held against their bytes; `cp -r`
copies the same files. Both come from and go to the page cache and the disk of --folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import clipgap
from clipgap.bench.processes import fresh
from clipgap.bench.race import Racer, Spent, Stopwatch, paired_ratio, race
from clipgap.bench.results import Columns, Row
from clipgap.bench.script import publish, read_options
from clipgap.errors import ShareDone
from clipgap.files.documents import Form
from clipgap.files.sums import FileSum
from clipgap.runs.executors import Here
from clipgap.runs.how import How, Progress
from clipgap.runs.on_ray import OWN, TOLD, Ray, agent_ports
from clipgap.runs.output import Kind, open_output
from clipgap.runs.run import run_units
from clipgap.runs.shares import Share
from clipgap.runs.units import Event, Made, Slot

THREADS = "two threads"
RACERS = {
    THREADS: "",
    "Ray, one node": "2",
    "Ray, two nodes": "1,1",
    "two shares": "",
}


# --- a scan


class Rate:
    """Rows a second, from when the first are told of."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        self._last = (0.0, 0.0)

    def __call__(self, now: Progress) -> None:
        if now.stage == "scanning" and now.done:
            self._last = perf_counter(), now.done
            self._first = self._first or self._last

    def spent(self) -> dict[str, float]:
        assert self._first is not None
        (begin, before), (end, after) = self._first, self._last
        return {"seconds": end - begin, "amount": after - before}


def child(folder: Path, out: Path, nodes: str, share: str) -> None:
    """One scan in a process of its own, by a cluster of so many cores a node, or by itself."""
    rate, running = Rate(), ExitStack()
    with running, suppress(ShareDone):
        clipgap.scan(
            folder / "train",
            {"test": folder / "test.npy"},
            out=out,
            executor=running.enter_context(_cluster(nodes)) if nodes else None,
            share=Share([int(share)], 2) if share else None,
            on_progress=rate,
            block_rows=1024,
        )
    print(json.dumps(rate.spent()))


@contextmanager
def _cluster(nodes: str) -> Iterator[Ray]:
    """A cluster on this machine; its processor time counts, since it ends within this process."""
    os.environ |= {
        **TOLD,
        **OWN,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.urandom(24).hex(),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for cores in nodes.split(","):
            cluster.add_node(num_cpus=int(cores), include_dashboard=False, **agent_ports())
        ray.init(cluster.address, log_to_driver=False, configure_logging=False)
        yield Ray()
    finally:
        ray.shutdown()
        cluster.shutdown()


def turn(folder: Path, name: str) -> Spent:
    """All processes of one way of doing it."""
    out = folder / "out"
    for made in folder.glob("out*"):
        shutil.rmtree(made)
    command = [sys.executable, __file__, "--child", str(folder), str(out), RACERS[name]]
    watch = Stopwatch()
    if name == "two shares":
        with ThreadPoolExecutor(2) as pool:
            spent = list(pool.map(lambda i: _alone([*command, i], "1"), ("0", "1")))
        rate = sum(each["amount"] / each["seconds"] for each in spent)
    else:
        (one,) = [_alone([*command, ""], "2")]
        rate = one["amount"] / one["seconds"]
    return Spent(1 / rate, watch.spent().processor)


def _alone(command: Sequence[str], threads: str) -> Any:
    return fresh(["env", f"CLIPGAP_THREADS={threads}", *command])


def scans(folder: Path, options: argparse.Namespace) -> list[Row]:
    random = np.random.default_rng(0)
    (folder / "train").mkdir()
    for number in range(options.shards):
        np.save(folder / f"train/{number}.npy", _unit_rows(random, options.shard_rows))
    np.save(folder / "test.npy", _unit_rows(random, options.points))
    racers = {name: Racer(name, "scan", partial(turn, folder, name)) for name in RACERS}
    race(list(racers.values()), options.rounds)
    base = racers[THREADS]
    return [
        {
            "case": name,
            "rows": options.shards * options.shard_rows,
            "points": options.points,
            "krows_per_second": round(float(np.median(racer.rates)) / 1e3, 2),
            "of_local": paired_ratio(racer.rates, base.rates),
            "processor_of_local": paired_ratio(racer.processor, base.processor),
        }
        for name, racer in racers.items()
    ]


def _unit_rows(random: np.random.Generator, rows: int) -> np.ndarray[Any, Any]:
    found = random.standard_normal((rows, 512), np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float16)


# --- merging

KIND = Kind(Form("clipgap-bench", "run without work"), owns=("*.bin",))


@dataclass(frozen=True)
class Unit:
    name: str
    size: int


@dataclass(frozen=True)
class Bytes:
    """A file of so many bytes for each unit."""

    out: Path

    def do(self, units: Any, slot: Slot) -> Iterator[Event]:
        for unit in units:
            path = self.out / f"{unit.name}.bin"
            path.write_bytes(np.random.default_rng(int(unit.name)).bytes(unit.size))
            yield Made({unit.name: {"files": {path.name: asdict(FileSum.of(path))}}})


def fill(out: Path, units: Sequence[Unit], how: How) -> None:
    with open_output(out, KIND, how) as output:
        output.begin({"units": len(units)})
        for _ in run_units(Bytes(output.path), units, output.ledger, Here(), how):
            pass
        records = output.ledger.records.values()
        sums = {n: FileSum(**s) for record in records for n, s in record["files"].items()}
        output.finish({"units": len(units)}, sums)


def merging(folder: Path, options: argparse.Namespace) -> list[Row]:
    units = [Unit(f"{n:06d}", options.part_bytes) for n in range(options.parts)]
    for index in range(options.parts):
        with suppress(ShareDone):
            fill(folder / "all", units, How(share=Share([index], options.parts)))
    parts, merged, copied = (folder / name for name in ("all.parts", "all", "copy"))
    clear = partial(shutil.rmtree, ignore_errors=True)
    copying = ["cp", "-r", str(parts), str(copied)]
    racers = [
        Racer(
            "cp -r", "copies", partial(subprocess.run, copying, check=True), partial(clear, copied)
        ),
        Racer(
            "merge",
            "merges",
            partial(fill, merged, units, How(parts=[parts])),
            partial(clear, merged),
        ),
    ]
    race(racers, options.rounds)
    return [
        {
            "case": racer.name,
            "parts": options.parts,
            "part_bytes": options.part_bytes,
            "seconds": round(float(np.median(racer.seconds)), 2),
            "of_cp": paired_ratio(racers[0].seconds, racer.seconds),
        }
        for racer in racers
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("scans", "merging"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--points", type=int, default=16_384)
    parser.add_argument("--parts", type=int, default=1000)
    parser.add_argument("--part-bytes", type=int, default=2 << 20)
    parser.add_argument("--folder", type=Path, help="where files go for the time being")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    tiny = {"rounds": 1, "shards": 6, "parts": 3, "part_bytes": 9, "shard_rows": 2048, "points": 64}
    options = read_options(parser, tiny, shard_rows=10_000)
    if options.child:
        folder, out, nodes, share = options.child
        child(Path(folder), Path(out), nodes, share)
        return
    load, rows = f"{os.getloadavg()[0]:.1f}", list[Row]()
    for measure in (scans, merging):
        if options.only in (None, measure.__name__):
            with tempfile.TemporaryDirectory(dir=options.folder) as place:
                rows += measure(Path(place), options)
    rows = [{"suite": "executors", "load": load, "rounds": options.rounds, **row} for row in rows]
    columns: Columns = (
        ("", lambda row: row["case"]),
        ("k rows/s", lambda row: str(row.get("krows_per_second", ""))),
        ("of local", lambda row: str(row.get("of_local", ""))),
        ("processor", lambda row: str(row.get("processor_of_local", ""))),
        ("seconds", lambda row: str(row.get("seconds", ""))),
        ("of cp", lambda row: str(row.get("of_cp", ""))),
    )
    publish(rows, options, columns)


if __name__ == "__main__":
    main()
