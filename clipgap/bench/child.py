"""One scan in a process of its own, so that its peak memory is its own.

    python -m clipgap.bench.child scan|kernel TRAIN TEST OUT THREADS

prints {"seconds": …, "peak_mib": …}. `scan` goes from files to tables; `kernel` feeds the same
blocks from memory to the same kernel and writes nothing.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from numpy.typing import NDArray

from clipgap.bench.processes import peak_mib
from clipgap.kernels.choose import make_scanner
from clipgap.kernels.interface import TestSet
from clipgap.scan.api import scan
from clipgap.store.opening import open_store

K = 32


def scan_seconds(train: str, test: str, out: str, threads: int) -> float:
    start = time.perf_counter()
    scan(train, {"test": test}, k=K, out=out, threads=threads)
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
    measure = {"scan": scan_seconds, "kernel": kernel_seconds}[what]
    seconds = measure(train, test, out, int(threads))
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
