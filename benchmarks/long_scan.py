"""A scan of many rows, from files to tables, with thresholds, and its proof.

    python benchmarks/long_scan.py                     # 10 million rows: 13 GB, 10 minutes
    python benchmarks/long_scan.py --rows 200_000

Makes a store of CLIP-like rows with keys in shards of a million, a reference set and three test
sets of 4,096 points together, and runs `clipgap gap`, `clipgap scan` and `clipgap verify`, each in
a process of its own. A million rows are drawn; the others are mixtures of two of them, since
drawing takes longer than scanning. The row is appended to `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipgap.bench.results import append, default_folder, origin
from clipgap.store.writer import StoreWriter
from clipgap.synthetic.rows import blocks

DIM, DRAWN, PIECE = 640, 1_000_000, 100_000
TESTS = {"a": 2048, "b": 1024, "c": 1024}
REFERENCE = 50_000
CHILD = """
import sys
from clipgap.bench.child import peak_mib
from clipgap.__main__ import main

code = main(sys.argv[1:])
print(f"{peak_mib():.1f}", file=sys.stderr)
sys.exit(code)
"""


def train_rows(rows: int) -> Iterator[NDArray[np.float16]]:
    """Pieces of the training set."""
    drawn = []
    for piece in blocks("clip-like", min(rows, DRAWN), DIM, seed=1, block_rows=PIECE):
        drawn.append(piece)
        yield piece
    random = np.random.default_rng(0)
    left = rows - sum(map(len, drawn))
    while left:
        for piece in drawn[: -(-left // PIECE)]:
            mixed = piece[: min(left, len(piece))].astype(np.float32)
            mixed += 0.7 * mixed[random.permutation(len(mixed))]
            mixed /= np.sqrt(np.einsum("ij,ij->i", mixed, mixed))[:, None]
            yield mixed.astype(np.float16)
            left -= len(mixed)


def write_store(folder: Path, pieces: Iterator[NDArray[np.float16]], shard_rows: int) -> Path:
    first, waiting = 0, []
    with StoreWriter(folder, DIM) as store:

        def flush() -> None:
            nonlocal first, waiting
            rows = np.concatenate(waiting)
            store.add(rows, [f"{number:09d}" for number in range(first, first + len(rows))])
            first, waiting = first + len(rows), []

        for piece in pieces:
            waiting.append(piece)
            if sum(map(len, waiting)) >= shard_rows:
                flush()
        if waiting:
            flush()
    return folder


def run(*arguments: str) -> tuple[float, float, str]:
    """Seconds, peak memory in MiB, and what it printed."""
    began = time.perf_counter()
    command = [sys.executable, "-c", CHILD, *arguments, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"clipgap {' '.join(arguments)} failed:\n{done.stderr}")
    return time.perf_counter() - began, float(done.stderr.split()[-1]), done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--results", type=Path, default=default_folder())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clipgap-long-scan-") as temporary:
        folder = Path(temporary)
        train = write_store(folder / "train", train_rows(options.rows), DRAWN)
        drawn = blocks("clip-like", REFERENCE, DIM, seed=3, block_rows=REFERENCE)
        reference = write_store(folder / "reference", drawn, REFERENCE)
        tests = []
        for seed, (name, points) in enumerate(TESTS.items(), start=10):
            drawn = blocks("clip-like", points, DIM, seed=seed, block_rows=points)
            tests.append(f"--test={name}={write_store(folder / name, drawn, points)}")
        gap, scan = str(folder / "gap"), str(folder / "scan")
        run("gap", str(reference), *tests, "--out", gap)
        seconds, peak, _ = run("scan", str(train), *tests, "--gap", gap, "--out", scan)
        proof, _, printed = run("verify", scan, "--json")
        points = sum(TESTS.values())
        row = {
            **origin(),
            "suite": "long scan",
            "rows": options.rows,
            "tests": points,
            "d": DIM,
            "seconds": round(seconds, 1),
            "gflops": round(2 * options.rows * points * DIM / seconds / 1e9, 1),
            "peak_mib": peak,
            "verify_seconds": round(proof, 1),
            "right": json.loads(printed)["ok"],
        }
    for name, value in row.items():
        if name not in ("machine", "versions"):
            print(f"{name:16} {value}")
    print(append(options.results, [row]))


if __name__ == "__main__":
    main()
