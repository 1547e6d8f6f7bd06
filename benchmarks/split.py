"""How fast `clipgap split` is on tables from disk, and how little memory it takes.

    python benchmarks/split.py --shards 40 --rounds 3

Makes scan tables of six test sets, with keys and without, and runs each rule on them in a process
of its own, the cases taking turns: once only counting, once writing the keep-list. Rates are rows a
second and core (of processor time, all threads together); beside them stands how long pyarrow takes
to decode the columns that the rule looks at, and nothing else. The tables are read from the page
cache. Rows are appended to `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from clipgap.bench.processes import fresh, peak_mib
from clipgap.bench.race import Racer, Spent, Stopwatch, race
from clipgap.bench.results import Columns
from clipgap.bench.scan_tables import Made, make_scan
from clipgap.bench.script import publish, read_options
from clipgap.scan.result import open_scan
from clipgap.select.rules import Core, Far, Prune, Rand
from clipgap.select.splitting import split

SETS = ("val", "sketch", "r", "a", "v2", "objectnet")
SHARD_ROWS = 500_000
CASES: dict[str, tuple[str, ...]] = {
    "prune by one": ("pruned_val",),
    "prune by six": tuple(f"pruned_{name}" for name in SETS),
    "prune by six, offset 0.01": tuple(f"margin_{name}" for name in SETS),
    "far by one": ("sim_val",),
    "core by six": tuple(f"sim_{name}" for name in SETS),
    "rand": (),
}


def rule_of(case: str, rows: int) -> Any:
    quarter = rows // 4
    return {
        "prune by one": Prune(SETS[:1]),
        "prune by six": Prune(SETS),
        "prune by six, offset 0.01": Prune(SETS, 0.01),
        "far by one": Far(quarter, SETS[:1]),
        "core by six": Core(quarter, SETS),
        "rand": Rand(quarter),
    }[case]


def child(scan: Path, case: str, how: str, threads: int) -> dict[str, float]:
    """One measured run; imports and the opening of files are over before the clock starts."""
    rows, columns = open_scan(scan).rows, list(CASES[case])
    out = scan.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    watch = Stopwatch()
    if how == "pyarrow":
        for part in sorted((scan / "train").iterdir()):
            file = pq.ParquetFile(part)
            for group in range(file.num_row_groups):
                file.read_row_group(group, columns=columns, use_threads=False)
    else:
        split(scan, rule_of(case, rows), out=out if how == "write" else None, threads=threads)
    spent = watch.spent()
    return {"seconds": spent.seconds, "processor": spent.processor, "peak_mib": peak_mib()}


def run_child(scan: Path, case: str, how: str, threads: int) -> Spent:
    command = [sys.executable, __file__, "--child", str(scan), case, how, str(threads)]
    return Spent(**fresh(command))


def measure(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    shards, shard_rows, rounds = options.shards, options.shard_rows, options.rounds
    scans = {}
    for keys in ("none", "numbers"):
        scans[keys] = folder / keys
        make_scan(folder / keys, Made(shards, shard_rows, SETS, keys))
    kinds = [("none", "pyarrow"), ("none", "count"), ("none", "write"), ("numbers", "write")]
    racers = {
        (case, keys, how, threads): Racer(
            case, how, partial(run_child, scans[keys], case, how, threads)
        )
        for case in options.cases
        for keys, how in kinds
        for threads in ((1,) if how == "pyarrow" else (1, 2))
        if CASES[case] or how != "pyarrow"
    }
    race(list(racers.values()), rounds)
    rows = shards * shard_rows
    found = []
    for (case, keys, how, threads), racer in racers.items():
        seconds, processor = median(racer.seconds), median(racer.processor)
        decode = racers.get((case, "none", "pyarrow", 1))
        found.append(
            {
                "suite": "split",
                "case": case,
                "keys": keys,
                "does": how,
                "threads": threads,
                "rows": rows,
                "rounds": rounds,
                "mrows_per_second_and_core": round(rows / processor / 1e6, 2),
                "mrows_per_second": round(rows / seconds / 1e6, 2),
                "seconds_for_400m_rows": round(4e8 / rows * seconds, 1),
                "of_decoding": decode and round(processor / median(decode.processor), 2),
                "peak_mib": round(racer.peak_mib, 1),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=40, help="of 500,000 rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the tables go for the time being")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    tiny = {"shards": 2, "shard_rows": 1000, "rounds": 1, "cases": ("core by six",)}
    options = read_options(parser, tiny, shard_rows=SHARD_ROWS, cases=tuple(CASES))
    if options.child:
        scan, case, how, threads = options.child
        print(json.dumps(child(Path(scan), case, how, int(threads))))
        return
    with tempfile.TemporaryDirectory(prefix="clipgap-split-", dir=options.folder) as folder:
        rows = measure(Path(folder), options)
    columns: Columns = (
        ("", lambda row: row["case"]),
        ("does", lambda row: row["does"]),
        ("keys", lambda row: row["keys"]),
        ("threads", lambda row: str(row["threads"])),
        ("M rows/s/core", lambda row: f"{row['mrows_per_second_and_core']:.1f}"),
        ("M rows/s", lambda row: f"{row['mrows_per_second']:.1f}"),
        ("peak, MiB", lambda row: f"{row['peak_mib']:.0f}"),
    )
    publish(rows, options, columns, left=3)


if __name__ == "__main__":
    main()
