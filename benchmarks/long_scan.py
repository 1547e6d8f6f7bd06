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
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipgap.bench.processes import clipgap_process
from clipgap.bench.results import Columns
from clipgap.bench.script import publish, read_options
from clipgap.store.writer import StoreWriter
from clipgap.synthetic.rows import blocks

DIM, DRAWN, PIECE = 640, 1_000_000, 100_000
TESTS = {"a": 2048, "b": 1024, "c": 1024}
REFERENCE = 50_000


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = read_options(parser, {"rows": 500, "reference": 100}, reference=REFERENCE)
    with tempfile.TemporaryDirectory(prefix="clipgap-long-scan-") as temporary:
        folder = Path(temporary)
        train = write_store(folder / "train", train_rows(options.rows), DRAWN)
        size = options.reference
        drawn = blocks("clip-like", size, DIM, seed=3, block_rows=size)
        reference = write_store(folder / "reference", drawn, size)
        tests = []
        for seed, (name, points) in enumerate(TESTS.items(), start=10):
            drawn = blocks("clip-like", points, DIM, seed=seed, block_rows=points)
            tests.append(f"--test={name}={write_store(folder / name, drawn, points)}")
        gap, scan = str(folder / "gap"), str(folder / "scan")
        clipgap_process("gap", str(reference), *tests, "--out", gap, "--quiet")
        arguments = ("scan", str(train), *tests, "--gap", gap, "--out", scan)
        spent, _ = clipgap_process(*arguments, "--quiet")
        proof, printed = clipgap_process("verify", scan, "--json", "--quiet")
        points = sum(TESTS.values())
        row = {
            "suite": "long scan",
            "rows": options.rows,
            "tests": points,
            "d": DIM,
            "seconds": round(spent.seconds, 1),
            "gflops": round(2 * options.rows * points * DIM / spent.seconds / 1e9, 1),
            "peak_mib": round(spent.peak_mib, 1),
            "verify_seconds": round(proof.seconds, 1),
            "right": json.loads(printed)["ok"],
        }
    columns: Columns = [(name, lambda row, name=name: str(row[name])) for name in row]
    publish([row], options, columns)


if __name__ == "__main__":
    main()
