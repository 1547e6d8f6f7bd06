"""One scan in a process of its own, so that its peak memory is its own.

    python -m clipgap.bench.child scan|six|kernel TRAIN TEST OUT THREADS

prints {"seconds": …, "processor": …, "peak_mib": …}. `scan` goes from files to tables, `six` with
six test sets that are the same; `kernel` feeds the same blocks from memory to the same kernel and
writes nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.bench.processes import own_use
from clipgap.kernels.choose import make_scanner
from clipgap.kernels.interface import TestSet
from clipgap.scan.api import scan
from clipgap.store.opening import open_store

K = 32


def scan_seconds(train: str, test: str, out: str, threads: int, sets: int = 1) -> float:
    start = time.perf_counter()
    scan(train, {f"test{n}": test for n in range(sets)}, k=K, out=out, threads=threads)
    return time.perf_counter() - start


def kernel_seconds(train: str, test: str, out: str, threads: int) -> float:
    rows = _all_rows(train)
    ids = np.arange(len(rows), dtype=np.int64)
    scanner = make_scanner([TestSet("test", _all_rows(test))], K, threads=threads)
    step = scanner.block_rows
    start = time.perf_counter()
    for first in range(0, len(rows), step):
        block = slice(first, first + step)
        scanner.scan(rows[block], ids[block])
    return time.perf_counter() - start


def _all_rows(path: str) -> NDArray[np.float16]:
    store = open_store(path)
    parts = [store.read(shard.index, 0, shard.rows) for shard in store.shards]
    return np.ascontiguousarray(np.concatenate(parts), np.float16)


def main(what: str, train: str, test: str, out: str, threads: str) -> None:
    pa.array([0])  # the first of a process looks for pandas, whose import is no part of a scan
    measure: dict[str, Callable[[str, str, str, int], float]] = {
        "scan": scan_seconds,
        "six": partial(scan_seconds, sets=6),
        "kernel": kernel_seconds,
    }
    seconds = measure[what](train, test, out, int(threads))
    print(json.dumps({"seconds": seconds, **own_use()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
