"""Scan tables without a scan: for measuring and testing what comes after one.

The folder opens as a scan and its training table has the columns of one. There is no store behind
it, so it cannot be verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.files.documents import MANIFEST, write_document
from clipgap.files.parquet import ROW_GROUP, FileSum, write_tables
from clipgap.machine import cores
from clipgap.scan.counts import Totals
from clipgap.scan.manifest import KIND, versions
from clipgap.scan.options import ScanOptions
from clipgap.scan.sinks import part_name
from clipgap.scan.tables import SetColumns, TrainTable

Keys = Literal["none", "numbers", "uids"]


@dataclass(frozen=True)
class Made:
    """What the tables hold: shards of equal size, test sets with thresholds, a kind of keys."""

    shards: int
    shard_rows: int
    sets: tuple[str, ...]
    keys: Keys = "numbers"
    seed: int = 0


def make_scan(folder: Path, made: Made) -> None:
    """Write tables of random results, spread like those of a real scan, a shard a thread."""
    sets = [SetColumns(name, has_gap=True) for name in made.sets]
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(lambda s: _write_part(folder, s, sets, _groups(made, s)), range(made.shards)))
    write_manifest(folder, [made.shard_rows] * made.shards, sets)


def write_part(
    folder: Path, shard: int, sets: Sequence[SetColumns], columns: Mapping[str, Any]
) -> None:
    """One part of a training table from its columns, of which shard and row are added."""
    rows = len(next(iter(columns.values())))
    _write_part(folder, shard, sets, [_table(shard, 0, rows, sets, columns)])


def write_manifest(
    folder: Path, shard_rows: Sequence[int], sets: Sequence[SetColumns], quarantined: int = 0
) -> None:
    """What makes the folder a scan."""
    rows = int(sum(shard_rows))
    parts = [part_name(shard) for shard in range(len(shard_rows))]
    shards = [
        {"name": f"{i:05d}", "rows": int(n), "dtype": "float16", "fingerprint": f"{i:064x}"}
        for i, n in enumerate(shard_rows)
    ]
    train = {"path": "made-up", "format": "npy", "dim": 640, "rows": rows, "shards": shards}
    tests = [
        {"name": names.name, "rows": _POINTS, "quarantined": 0, "sha256": f"{i:064x}"}
        for i, names in enumerate(sets)
    ]
    gap = {"path": "made-up", "manifest_sha256": "", "sets": [s.name for s in sets if s.has_gap]}
    totals = Totals.zero(TrainTable(tuple(sets)))
    totals.of("rows")[:] = rows, 0, quarantined
    entries = {
        "kind": "scan",
        "inputs": {"train": train, "tests": tests, "gap": gap},
        "settings": {**asdict(ScanOptions(k=1)), "above": []},
        "counts": totals.described(),
        "versions": versions(),
        "files": {name: asdict(FileSum.of(folder / name)) for name in parts},
    }
    write_document(folder / MANIFEST, KIND.form, entries)


_POINTS = 50_000


def _write_part(folder: Path, shard: int, sets: Sequence[SetColumns], tables: Any) -> None:
    path = folder / part_name(shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tables(path, TrainTable(tuple(sets)).schema, tables)


def _groups(made: Made, shard: int) -> Iterator[pa.Table]:
    sets = [SetColumns(name, has_gap=True) for name in made.sets]
    random = np.random.default_rng([made.seed, shard])
    for start in range(0, made.shard_rows, ROW_GROUP):
        n = min(ROW_GROUP, made.shard_rows - start)
        columns: dict[str, Any] = {"key": _keys(made.keys, shard, start, n, random)}
        common = random.standard_normal(n, np.float32)
        for names in sets:
            # A row that is near to one test set tends to be near to others too.
            own = random.standard_normal(n, np.float32)
            sim = np.float32(0.55) + np.float32(0.07) * (common + own)
            margin = sim - np.float32(0.72)
            columns |= {
                names.sim: sim,
                names.nn: random.integers(0, _POINTS, n, np.int32),
                names.margin: margin,
                names.witness: random.integers(0, _POINTS, n, np.int32),
                names.pruned: margin > 0,
            }
        yield _table(shard, start, n, sets, columns)


def _table(
    shard: int, start: int, rows: int, sets: Sequence[SetColumns], columns: Mapping[str, Any]
) -> pa.Table:
    schema = TrainTable(tuple(sets)).schema
    placed = {
        "shard": np.full(rows, shard, np.int32),
        "row": np.arange(start, start + rows, dtype=np.int64),
        **columns,
    }
    return pa.Table.from_arrays([pa.array(placed[name]) for name in schema.names], schema=schema)


def _keys(kind: Keys, shard: int, start: int, n: int, random: np.random.Generator) -> Any:
    if kind == "none":
        return pa.nulls(n, pa.string())
    if kind == "numbers":  # as img2dataset: five digits for the shard, four for the sample
        numbers = np.arange(start, start + n) + 10_000 * shard
        digits = numbers[:, None] // 10 ** np.arange(8, -1, -1) % 10
    else:
        digits = random.integers(0, 16, (n, 32))
    text: NDArray[np.uint8] = np.frombuffer(b"0123456789abcdef", np.uint8)[digits]
    offsets = np.arange(0, text.size + 1, text.shape[1], dtype=np.int32)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(text.tobytes()))
