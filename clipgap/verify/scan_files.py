"""What can be checked of a scan folder without its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipgap.files.documents import MANIFEST
from clipgap.files.parquet import ROW_GROUP
from clipgap.files.sums import FileSum, damaged
from clipgap.scan.counts import BINS, EDGES, Totals, histogram_table
from clipgap.scan.manifest import differences
from clipgap.scan.result import ScanResult
from clipgap.scan.sinks import HIST, QUARANTINE, part_name, test_name
from clipgap.scan.tables import HIST_SCHEMA, QUARANTINE_SCHEMA, TEST_SCHEMA
from clipgap.verify.problems import Problems


def check_files(result: ScanResult, problems: Problems) -> str:
    """Every file is there with its checksum, and no other."""
    assert result.path is not None
    sums = {name: FileSum(**entry) for name, entry in result.manifest["files"].items()}
    problems.add_all(damaged_files(result))
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


def damaged_files(result: ScanResult) -> Iterator[str]:
    """What is wrong with files that are not those of the manifest."""
    assert result.path is not None
    sums = {name: FileSum(**entry) for name, entry in result.manifest["files"].items()}
    for name in damaged(result.path, sums):
        there = (result.path / name).exists()
        what = "damaged: its SHA-256 or size is not that of the manifest" if there else "missing"
        yield f"{name} is {what}"


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
    totals = Totals.zero(result.columns)
    assert result.path is not None
    totals.of("rows")[1] = result.manifest["counts"]["normalised"]
    for index in range(len(result.manifest["inputs"]["train"]["shards"])):
        file = pq.ParquetFile(result.path / part_name(index))
        start = 0
        for batch in file.iter_batches(ROW_GROUP):
            _count(result, index, start, batch, totals, problems)
            start += len(batch)
    if not result.hist().equals(histogram_table(totals)):
        problems.add(f"{HIST} does not count what the training table holds")
    counted = totals.described()
    problems.add_all(
        f"{MANIFEST}: {label}: states {was}, the training table has {now}"
        for label, was, now, _ in differences(result.manifest["counts"], counted)
    )
    return f"{counted['rows']:,} rows counted anew"


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
    fields = totals.table.fields
    ok = ~_is_null(columns[fields[0].name])
    rows = start + np.flatnonzero(ok)
    totals.of("rows")[:] += (n, 0, n - len(rows))

    def values(name: str) -> NDArray[Any]:
        found = columns[name]
        if not np.array_equal(_is_null(found), ~ok):
            problems.add(f"{where}: column {name} is null in other rows than {fields[0].name}")
        zero = pa.scalar(0, pa.int8()).cast(found.type)
        taken: NDArray[Any] = found.filter(pa.array(ok)).fill_null(zero).to_numpy(False)
        return taken

    held = {field.name: values(field.name) for field in fields}
    totals.add_rows(held, bins=_bins)
    for part in totals.table.parts:
        points = 0 if part.test is None else result.test_input(part.test)["rows"]
        for wrong, words in part.violations(held, points):
            problems.at(rows[wrong], f"{where}, row {{:,}}: {words}".format)


def _is_null(column: Any) -> NDArray[np.bool_]:
    nulls: NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    return nulls


def _bins(values: NDArray[Any]) -> NDArray[np.int64]:
    found = np.searchsorted(EDGES, values.astype(np.float64), side="right")
    return np.bincount(found, minlength=BINS)
