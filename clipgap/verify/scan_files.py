"""What can be checked of a scan folder without its inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipgap.files.documents import MANIFEST
from clipgap.files.parquet import ROW_GROUP, FileSum
from clipgap.scan.folder import ScanFolder
from clipgap.scan.histogram import BINS, EDGES, Totals, histogram_table
from clipgap.scan.manifest import complete
from clipgap.scan.result import ScanResult
from clipgap.scan.resume import differences
from clipgap.scan.schema import HIST_SCHEMA, QUARANTINE_SCHEMA, TEST_SCHEMA
from clipgap.scan.sinks import HIST, QUARANTINE, part_name, test_name
from clipgap.verify.problems import Problems


def check_files(result: ScanResult, problems: Problems) -> str:
    """Every file is there with its checksum, and no other."""
    assert result.path is not None
    sums = {name: FileSum(**entry) for name, entry in result.manifest["files"].items()}
    for name in ScanFolder(result.path).damaged(sums):
        there = (result.path / name).exists()
        what = "damaged: its SHA-256 or size is not that of the manifest" if there else "missing"
        problems.add(f"{name} is {what}")
    present = {
        path.relative_to(result.path).as_posix()
        for path in result.path.rglob("*")
        if path.is_file()
    }
    strangers = present - sums.keys() - {MANIFEST}
    problems.add_all(f"{name} does not belong to the scan" for name in sorted(strangers))
    unlisted = _expected(result) - sums.keys()
    problems.add_all(f"{name} is not in the manifest" for name in sorted(unlisted))
    size = sum(entry.size for entry in sums.values())
    return f"{len(sums):,} files, {size:,} bytes"


def check_schemas(result: ScanResult, problems: Problems) -> str:
    """Every table has its columns and its number of rows."""
    assert result.path is not None
    inputs, counts = result.manifest["inputs"], result.manifest["counts"]
    expected: dict[str, tuple[Any, int | None]] = {HIST: (HIST_SCHEMA, None)}
    if result.manifest["settings"]["train_table"]:
        for index, shard in enumerate(inputs["train"]["shards"]):
            expected[part_name(index)] = (result.train_schema, shard["rows"])
    for test in inputs["tests"]:
        expected[test_name(test["name"])] = (TEST_SCHEMA, test["rows"])
    if result.quarantined:
        expected[QUARANTINE] = (QUARANTINE_SCHEMA, result.quarantined)
    for name, (schema, rows) in expected.items():
        try:
            file = pq.ParquetFile(result.path / name)
        except (OSError, pa.ArrowException) as error:
            problems.add(f"{name} cannot be read as parquet: {error}")
            continue
        if not file.schema_arrow.equals(schema):
            problems.add(f"{name} has other columns than a scan writes: {file.schema_arrow}")
        if rows is not None and file.metadata.num_rows != rows:
            problems.add(f"{name} has {file.metadata.num_rows:,} rows, its input {rows:,}")
    if counts["rows"] != inputs["train"]["rows"]:
        problems.add(
            f"{MANIFEST}: {counts['rows']:,} rows counted, {inputs['train']['rows']:,} in the store"
        )
    return f"{len(expected):,} tables"


def _expected(result: ScanResult) -> set[str]:
    names = {HIST, *(test_name(name) for name in result.test_names)}
    if result.manifest["settings"]["train_table"]:
        names |= {part_name(i) for i in range(len(result.manifest["inputs"]["train"]["shards"]))}
    return names | ({QUARANTINE} if result.quarantined else set())


def check_counts(result: ScanResult, problems: Problems) -> str:
    """The training table is in order, and its histograms and counts are those of its columns.

    Counted by searching the edges: slower than the way of the scan, and another one.
    """
    if not result.manifest["settings"]["train_table"]:
        return "there is no training table to count in"
    above = result.manifest["settings"]["above"]
    sets = result.set_columns
    totals = Totals.zero(len(sets), len(above))
    assert result.path is not None
    totals.rows[1] = result.manifest["counts"]["normalised"]
    for index in range(len(result.manifest["inputs"]["train"]["shards"])):
        file = pq.ParquetFile(result.path / part_name(index))
        start = 0
        for batch in file.iter_batches(ROW_GROUP):
            _count(result, index, start, batch, totals, problems)
            start += len(batch)
    if not result.hist().equals(histogram_table(totals, sets, above)):
        problems.add(f"{HIST} does not count what the training table holds")
    counted = complete({}, totals, result.test_names, {})["counts"]
    problems.add_all(
        f"{MANIFEST}: {label}: states {was}, the training table has {now}"
        for label, was, now, _ in differences(result.manifest["counts"], counted)
    )
    return f"{totals.rows[0]:,} rows counted anew"


def _count(
    result: ScanResult, shard: int, start: int, batch: Any, totals: Totals, problems: Problems
) -> None:
    columns = {name: batch.column(name) for name in batch.schema.names}
    n, where = len(batch), part_name(shard)
    in_order = (columns["shard"].to_numpy() == shard).all() and np.array_equal(
        columns["row"].to_numpy(), np.arange(start, start + n)
    )
    if not in_order:
        problems.add(f"{where}, rows {start:,} to {start + n:,}: not in order")
    ok = ~_is_null(columns[result.set_columns[0].sim])
    rows = start + np.flatnonzero(ok)
    totals.rows += (n, 0, n - len(rows))
    pruned_by_any = np.zeros(len(rows), np.bool_)

    def values(name: str) -> NDArray[Any]:
        found = columns[name]
        if not np.array_equal(_is_null(found), ~ok):
            problems.add(f"{where}: column {name} is null in other rows than the first set's")
        zero = pa.scalar(0, pa.int8()).cast(found.type)
        taken: NDArray[Any] = found.filter(pa.array(ok)).fill_null(zero).to_numpy(False)
        return taken

    for g, names in enumerate(result.set_columns):
        sim = values(names.sim)
        totals.sim[g] += _bins(sim)
        totals.above[g] += [
            int((sim.astype(np.float64) > low).sum())
            for low in result.manifest["settings"]["above"]
        ]
        limit = result.test_input(names.name)["rows"]
        points = {names.nn: values(names.nn)}
        if names.has_gap:
            margin, pruned = values(names.margin), values(names.pruned)
            points[names.witness] = values(names.witness)
            totals.margin[g] += _bins(margin)
            totals.pruned[g] += int(pruned.sum())
            pruned_by_any |= pruned
            problems.at(
                rows[pruned != (margin > 0)],
                f"{where}, row {{:,}}: {names.pruned} contradicts {names.margin}".format,
            )
        for name, point in points.items():
            problems.at(
                rows[(point < 0) | (point >= limit)],
                f"{where}, row {{:,}}: {name} is not a row of the test set".format,
            )
    totals.pruned[-1] += int(pruned_by_any.sum())


def _is_null(column: Any) -> NDArray[np.bool_]:
    nulls: NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    return nulls


def _bins(values: NDArray[np.float32]) -> NDArray[np.int64]:
    found = np.searchsorted(EDGES, values.astype(np.float64), side="right")
    return np.bincount(found, minlength=BINS)
