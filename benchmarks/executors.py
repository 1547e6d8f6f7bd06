"""What others doing the work costs: Ray, shares, Slurm beside threads, and merging beside `cp`.

    python benchmarks/executors.py --rounds 5

A scan that computing binds is done by two threads of one process; by a Ray cluster of one node with
two cores, and of two nodes with one core each; by two processes that do a share each; and by two
tasks of an array, on a Slurm of two nodes on this machine where it can be started. They take turns.

Starting a cluster or a process is paid once, however long a run is. So rates are those of the
middle of a run, from a tenth of its rows to nine tenths; beside them stand the seconds of all.
Processor time is that of the middle, of all processes that took part, for each row: where others
have work as well, it tells more than the clock. Of Ray's own processes it is told apart. And so are
the pairs whose score was computed: workers who know less of each other compute more.

Merging is that of parts with one file each, whose checksums are held against their bytes; `cp -r`
copies the same files. Both come from and go to the page cache and the disk of --folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

import clipgap
from clipgap.bench.processes import fresh
from clipgap.bench.race import Racer, Spent, Stopwatch, paired_ratio, race
from clipgap.bench.results import Columns, Row
from clipgap.bench.script import publish, read_options
from clipgap.errors import ClipgapError, ShareDone
from clipgap.files.documents import Form
from clipgap.files.sums import FileSum
from clipgap.runs.executors import Here
from clipgap.runs.how import How, Progress
from clipgap.runs.on_ray import Ray
from clipgap.runs.output import Kind, open_output
from clipgap.runs.ray_cluster import OWN, TOLD, beside_a_node
from clipgap.runs.run import run_units
from clipgap.runs.shares import Share
from clipgap.runs.units import Event, Made, Slot, Step, Work

sys.path.append(str(Path(__file__).parents[1]))
from tests import slurm_cluster

THREADS, SHARES, SLURM = "two threads", "two shares", "Slurm array of two"
RACERS = {
    THREADS: "",
    "Ray, one node": "2",
    "Ray, two nodes": "1,1",
    SHARES: "",
    SLURM: "",
}
MARK = "CLIPGAP_BENCH_TURN"
"""In the environment of all that takes part in a turn."""


# --- a scan


class Middle:
    """From a tenth to nine tenths of the rows: how many, how long, and who computed meanwhile."""

    def __init__(self, part: float, folder: Path) -> None:
        self._part = part  # of all rows, that this process is told of
        self._folder = folder  # where workers leave when they did what
        self._ends: list[tuple[float, dict[str, float]]] = []
        self._figures: Mapping[str, float] = {}

    def __call__(self, now: Progress) -> None:
        self._figures = now.figures or self._figures
        if now.stage != "scanning" or not now.total or len(self._ends) == 2:
            return
        if now.done >= (0.1, 0.9)[len(self._ends)] * self._part * now.total:
            self._ends.append((monotonic(), _processor()))

    def spent(self) -> dict[str, Any]:
        (begin, earlier), (end, later) = self._ends
        used = {name: later[name] - earlier.get(name, 0.0) for name in later}
        amount = 0.0
        for left in self._folder.iterdir():
            moments, rows = zip(*json.loads(left.read_text()), strict=True)
            amount += float(np.diff(np.interp([begin, end], moments, np.cumsum(rows)))[0])
        return {
            "seconds": end - begin,
            "amount": amount,
            "processor": sum(used.values()),
            "rays": used.get("ray", 0.0),
            "refined": self._figures["refined/row"],
        }


@dataclass(frozen=True)
class Clocked:
    """Work of which each worker notes when it has done how many rows: a driver of Ray hears of that
    once a second, of many blocks at once."""

    work: Work
    folder: Path

    def do(self, units: Iterable[Any], slot: Slot) -> Iterator[Event]:
        steps = []
        for event in self.work.do(units, slot):
            if isinstance(event, Step):
                steps.append((monotonic(), event.done))
            else:  # the last one may be the last that is heard of this worker
                (self.folder / f"{slot.number}.json").write_text(json.dumps(steps))
            yield event


def _processor() -> dict[str, float]:
    """Seconds so far of the processes of this turn: this one, those that work, Ray's own."""
    mark, found = f"{MARK}={os.environ[MARK]}".encode(), dict[str, float]()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                said, _, figures = (process / "stat").read_text().rpartition(")")
                name = said.partition("(")[2]
                kind = "ray" if name.startswith(("ray::", "raylet", "gcs_server")) else "ours"
                kind = "ours" if name.startswith("ray::_Worker") else kind
                ticks = sum(map(int, figures.split()[11:13]))
                found[kind] = found.get(kind, 0.0) + ticks / os.sysconf("SC_CLK_TCK")
    return found


def child(folder: Path, out: Path, nodes: str, share: str) -> None:
    """One scan in a process of its own, by a cluster of so many cores a node, or by itself."""
    moments = folder / f"out-moments{share}"  # cleared with what is made
    moments.mkdir()
    middle, running = Middle(0.5 if share else 1.0, moments), ExitStack()
    threads = int(os.environ["CLIPGAP_THREADS"])

    def dealt(work: Work, units: Sequence[Any], *asked: Any) -> Iterator[Event]:
        executor = running.enter_context(_cluster(nodes)) if nodes else Here(threads)
        return executor(Clocked(work, moments), units, *asked)

    with running, suppress(ShareDone):
        clipgap.scan(
            folder / "train",
            {"test": folder / "test.npy"},
            out=out,
            executor=dealt,
            share=Share([int(share)], 2) if share else None,
            on_progress=middle,
        )
    print(json.dumps(middle.spent()))


@contextmanager
def _cluster(nodes: str) -> Iterator[Ray]:
    """A cluster on this machine, as long as this lasts."""
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
            cluster.add_node(num_cpus=int(cores), **beside_a_node())
        ray.init(cluster.address, log_to_driver=False, configure_logging=False)
        yield Ray()
    finally:
        ray.shutdown()
        cluster.shutdown()


@dataclass
class Turns:
    """All turns of one way of doing it."""

    folder: Path
    name: str
    whole: list[float] = field(default_factory=list)  # seconds
    rays: list[float] = field(default_factory=list)  # cores, on the average
    refined: list[float] = field(default_factory=list)  # pairs a row, of the whole run

    def __call__(self) -> Spent:
        """For one row."""
        for made in self.folder.glob("out*"):
            shutil.rmtree(made)
        os.environ[MARK] = os.urandom(8).hex()
        command = [sys.executable, __file__, "--child", str(self.folder), str(self.folder / "out")]
        watch = Stopwatch()
        if self.name == SLURM:
            found = _by_slurm(self.folder, command)
        elif self.name == SHARES:
            with ThreadPoolExecutor(2) as pool:
                found = list(pool.map(lambda i: _alone([*command, "", i], "1"), ("0", "1")))
        else:
            nodes = RACERS[self.name]
            found = [_alone([*command, nodes, ""], nodes.partition(",")[0] or "2")]
        self.whole.append(watch.spent().seconds)
        self.rays.append(sum(each["rays"] / each["seconds"] for each in found))
        self.refined.append(sum(each["refined"] for each in found) / len(found))
        rate = sum(each["amount"] / each["seconds"] for each in found)
        # Each of two that work at the same time sees the processor time of both.
        processor = sum(each["processor"] / each["seconds"] for each in found) / len(found)
        return Spent(1 / rate, processor / rate)


def _alone(command: Sequence[str], threads: str) -> Any:
    return fresh(["env", *_limits(threads), *command])


def _limits(threads: str) -> list[str]:
    """As the command sets them for NumPy, too."""
    return [f"CLIPGAP_THREADS={threads}", f"OPENBLAS_NUM_THREADS={threads}"]


def _by_slurm(folder: Path, command: Sequence[str]) -> list[Any]:
    """A share for each of two tasks, each on a node of its own."""
    task = shlex.join(["env", *_limits("1"), *command, ""]) + " $SLURM_ARRAY_TASK_ID"
    asked = ["--wait", "--array=0-1", "--exclusive", f"--output={folder}/log-%a"]
    call = ["sbatch", *asked, f"--wrap=srun {task} >{folder}/said-$SLURM_ARRAY_TASK_ID"]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        said = "".join(path.read_text() for path in folder.glob("log-?"))
        raise ClipgapError(f"the array failed: {done.stderr}{said}")
    return [json.loads((folder / f"said-{index}").read_text()) for index in range(2)]


def scans(folder: Path, options: argparse.Namespace) -> list[Row]:
    random = np.random.default_rng(0)
    (folder / "train").mkdir()
    for number in range(options.shards):
        np.save(folder / f"train/{number}.npy", _unit_rows(random, options.shard_rows))
    np.save(folder / "test.npy", _unit_rows(random, options.points))
    why, names = slurm_cluster.missing(), list(RACERS)
    if why:
        print(f"no Slurm: {why}", file=sys.stderr)
        names.remove(SLURM)
    turns = {name: Turns(folder, name) for name in names}
    racers = {name: Racer(name, "scan", turns[name]) for name in names}
    with nullcontext() if why else slurm_cluster.cluster():
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
            "cores_of_ray": round(float(np.median(turns[name].rays)), 4),
            "refined_per_row": round(float(np.median(turns[name].refined)), 1),
            "whole_seconds": round(float(np.median(turns[name].whole)), 2),
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
            "processor_of_cp": paired_ratio(racers[0].processor, racer.processor),
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
        ("Ray's own, cores", lambda row: str(row.get("cores_of_ray", ""))),
        ("refined a row", lambda row: str(row.get("refined_per_row", ""))),
        ("seconds", lambda row: str(row.get("whole_seconds", row.get("seconds", "")))),
        ("of cp", lambda row: str(row.get("of_cp", ""))),
        ("by processor", lambda row: str(row.get("processor_of_cp", ""))),
    )
    publish(rows, options, columns)


if __name__ == "__main__":
    main()
