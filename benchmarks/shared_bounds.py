"""What workers of one scan compute who know of each other, and who do not.

    python benchmarks/shared_bounds.py                 # 16 workers, 524,288 rows x 16,384 points

Each worker has lists of its own of all points. A pair has to be computed if it may enter a list,
and lists that have seen few rows are easily entered. So a worker hands its lists over now and then,
and is told in return what the k-th best of each point is by all that were handed over.

Workers are scanners in this process, who take turns, a block each. Each hands over after so many of
its blocks, and not all in the same round. Told are pairs a row that the filter let through and that
were computed, in all and by eighths of the scan. They are counted, so that nothing else that the
machine does matters; which instruction set it has does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from clipgap.bench.case import Case
from clipgap.bench.results import Columns, Row
from clipgap.bench.script import publish, read_options
from clipgap.kernels.cpu import CpuScanner
from clipgap.kernels.interface import TopK
from clipgap.scan.work import bounds

PARTS = 8


def scan(case: Case, workers: int, every: int, options: argparse.Namespace) -> Row:
    """By so many workers, who hand over after `every` blocks, or never."""
    scanners = [CpuScanner(case.test_sets(), options.k) for _ in range(workers)]
    for scanner in scanners:
        scanner.may_look_first = False  # which one worker would do long before any of many
    known: list[TopK] = []
    counted: list[tuple[int, int]] = [(0, 0)]
    turns = options.rows // options.block
    for turn in range(turns):
        number = turn % workers
        scanner, begin = scanners[number], turn * options.block
        ids = np.arange(begin, begin + options.block)
        scanner.scan(case.train(begin, begin + options.block), ids)
        if every and (turn // workers + number) % every == every - 1:
            lists = scanner.topk()
            known = [ours.merge(other) for ours, other in zip(known or lists, lists, strict=True)]
            scanner.raise_bounds(bounds(known))
        if (turn + 1) * PARTS // turns == len(counted):
            each = [scanner.counters for scanner in scanners]
            counted.append((sum(c.survivors for c in each), sum(c.refined for c in each)))
    by_part = np.diff(counted, axis=0) / (options.rows / PARTS)
    return {
        "case": f"{workers} workers" if workers > 1 else "one worker",
        "every": every,
        "survivors_per_row": round(float(by_part[:, 0].mean()), 1),
        "refined_per_row": round(float(by_part[:, 1].mean()), 1),
        "refined_by_eighths": [round(float(part), 1) for part in by_part[:, 1]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--every", type=int, nargs="+", default=[1, 4], help="blocks")
    parser.add_argument("--points", type=int, default=16_384)
    parser.add_argument("--rows", type=int, default=524_288)
    parser.add_argument("--block", type=int, default=1_024)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--data", default="clip-like")
    tiny = {"workers": 3, "points": 64, "rows": 480, "block": 20}
    options = read_options(parser, tiny)
    case = Case(options.data, 640, options.points)
    ways = [(1, 0), (options.workers, 0), *((options.workers, every) for every in options.every)]
    asked = {"data": options.data, "rows": options.rows, "points": options.points}
    rows: list[Row] = []
    for workers, every in ways:
        found = scan(case, workers, every, options)
        rows.append({"suite": "shared bounds", **asked, "k": options.k, **found})

    def shown(name: str) -> Callable[[Row], str]:
        return lambda row: f"{row[name]:,.1f}"

    def told(row: Row) -> Any:
        blocks = row["every"]
        return {0: "never", 1: "after each block"}.get(blocks, f"after {blocks} blocks")

    columns: Columns = (
        ("", lambda row: row["case"]),
        ("told", told),
        ("survivors a row", shown("survivors_per_row")),
        ("computed a row", shown("refined_per_row")),
        ("by eighths", lambda row: " ".join(f"{part:,.0f}" for part in row["refined_by_eighths"])),
    )
    publish(rows, options, columns)


if __name__ == "__main__":
    main()
