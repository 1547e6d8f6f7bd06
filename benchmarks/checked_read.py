"""What it costs to check the SHA-256 of a scan's tables while they are read.

    python benchmarks/checked_read.py --shards 200 --rounds 3      # 100 million rows

Makes scan tables of three test sets and reads some of their columns, with and without a check, in
turns, each time in a process of its own. Rates are of processor time; the tables lie in the page
cache. Rows are appended to `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from clipgap.bench.processes import fresh
from clipgap.bench.race import Racer, Spent, Stopwatch, race
from clipgap.bench.results import Columns
from clipgap.bench.scan_tables import Made, make_scan
from clipgap.bench.script import publish, read_options
from clipgap.files.parquet import FileSum, read_row_groups
from clipgap.scan.result import open_scan

SETS = ("val", "sketch", "r")
SHARD_ROWS = 500_000
CASES: dict[str, list[str] | None] = {
    "one flag": ["pruned_val"],
    "three similarities": [f"sim_{name}" for name in SETS],
    "everything": None,
}


def child(scan: Path, case: str, checks: bool) -> dict[str, float]:
    """One measured run; imports and the opening of the scan are over before the clock starts."""
    files = open_scan(scan).manifest["files"]
    parts = sorted(name for name in files if name.startswith("train/"))
    watch = Stopwatch()
    for name in parts:
        expected = FileSum(**files[name]) if checks else None
        for _ in read_row_groups(scan / name, expected, CASES[case]):
            pass
    spent = watch.spent()
    return {"seconds": spent.seconds, "processor": spent.processor}


def run_child(scan: Path, case: str, how: str) -> Spent:
    return Spent(**fresh([sys.executable, __file__, "--child", str(scan), case, how]))


def measure(scan: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    make_scan(scan, Made(options.shards, options.shard_rows, SETS, "none"))
    size = sum(part.stat().st_size for part in (scan / "train").iterdir())
    racers = {
        (case, how): Racer(case, how, partial(run_child, scan, case, how))
        for case in options.cases
        for how in ("checked", "unchecked")
    }
    race(list(racers.values()), options.rounds)
    return [
        {
            "suite": "checked-read",
            "case": case,
            "rows": options.shards * options.shard_rows,
            "bytes": size,
            "rounds": options.rounds,
            "checked_s": round(checked := median(racers[case, "checked"].processor), 2),
            "unchecked_s": round(plain := median(racers[case, "unchecked"].processor), 2),
            "check_gb_per_second": round(size / max(checked - plain, 1e-9) / 1e9, 2),
        }
        for case in options.cases
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=200, help="of 500,000 rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the tables go for the time being")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    tiny = {"shards": 2, "shard_rows": 1000, "rounds": 1, "cases": ("one flag",)}
    options = read_options(parser, tiny, shard_rows=SHARD_ROWS, cases=tuple(CASES))
    if options.child:
        scan, case, how = options.child
        print(json.dumps(child(Path(scan), case, how == "checked")))
        return
    with tempfile.TemporaryDirectory(prefix="clipgap-checked-", dir=options.folder) as folder:
        rows = measure(Path(folder) / "scan", options)
    columns: Columns = (
        ("columns", lambda row: row["case"]),
        ("rows", lambda row: f"{row['rows']:,}"),
        ("checked, core-s", lambda row: f"{row['checked_s']:.2f}"),
        ("unchecked", lambda row: f"{row['unchecked_s']:.2f}"),
        ("GB/s of checking", lambda row: f"{row['check_gb_per_second']:.2f}"),
    )
    publish(rows, options, columns)


if __name__ == "__main__":
    main()
