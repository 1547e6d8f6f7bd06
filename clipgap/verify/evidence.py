"""What a scan folder says, held against itself, and the inputs of the scan opened again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipgap.errors import InputError, UsageError
from clipgap.files.addresses import is_masked
from clipgap.files.documents import MANIFEST, checksum
from clipgap.files.parquet import ROW_GROUP
from clipgap.files.remote import path_of, source_of
from clipgap.heads.heads import open_heads
from clipgap.heads.options import ByHeads
from clipgap.kernels.admit import admit
from clipgap.scan.counts import BINS, EDGES, Totals, histogram_table
from clipgap.scan.inputs import LOAD_ROWS, LoadedTest, describe_inputs, load_tests
from clipgap.scan.lists import entries_of, lengths_of, numbers_of
from clipgap.scan.manifest import differences
from clipgap.scan.options import ScanOptions
from clipgap.scan.plan import ScanPlan, make_plan
from clipgap.scan.result import ScanResult, open_scan
from clipgap.scan.sinks import HIST, QUARANTINE, part_name, test_name
from clipgap.scan.tables import HIST_SCHEMA, QUARANTINE_SCHEMA, TEST_SCHEMA, Field
from clipgap.store.options import Mixing
from clipgap.verify.checks import Count, Problems, check_files, damaged_files


def check_scan_files(result: ScanResult, count: Count, problems: Problems) -> str:
    """Every file is there with its checksum, and no other."""
    assert result.path is not None
    files, expected = result.manifest["files"], _expected(result)
    problems.add_all(f"{n} is not in the manifest" for n in sorted(expected - files.keys()))
    problems.add_all(f"{n} is no file of this scan" for n in sorted(files.keys() - expected))
    return check_files(result.path, files, "scan", count, problems)


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
            file = pq.ParquetFile(source_of(result.path / name))
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


def check_counts(result: ScanResult, count: Count, problems: Problems) -> str:
    """The training table is in order, and its histograms and counts are those of its columns.

    Counted by searching the edges: slower than the way of the scan, and another one.
    """
    if not result.manifest["settings"]["train_table"]:
        return "there is no training table to count in"
    totals = Totals.zero(result.columns)
    assert result.path is not None
    totals.of("rows")[1] = result.manifest["counts"]["normalised"]
    read = count(result.manifest["counts"]["rows"], "rows")
    for index in range(len(result.manifest["inputs"]["train"]["shards"])):
        file = pq.ParquetFile(source_of(result.path / part_name(index)))
        start = 0
        for batch in file.iter_batches(ROW_GROUP):
            _count(result, index, start, batch, totals, problems)
            start += len(batch)
            read.add(len(batch))
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

    def values(field: Field) -> NDArray[Any]:
        found, name = columns[field.name], field.name
        if not np.array_equal(_is_null(found), ~ok):
            problems.add(f"{where}: column {name} is null in other rows than {fields[0].name}")
        zero = pa.scalar(0, pa.int8()).cast(found.type)
        taken = field.column.from_arrow(found.filter(pa.array(ok)).fill_null(zero))
        if known := field.column.words:
            wrong = f"{name} is none of {', '.join(known)}"
            problems.at(rows[taken < 0], lambda row: f"{where}, row {row:,}: {wrong}")
            taken = np.maximum(taken, 0)
        return taken

    held = {field.name: values(field) for field in fields}
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


_SPAN = 64
"""Rows closer together than this are read in one go."""


@dataclass(frozen=True)
class Evidence:
    """The stores of a scan, and its thresholds as its own test tables state them."""

    plan: ScanPlan
    tests: list[LoadedTest]

    @classmethod
    def load(cls, result: ScanResult, train: Any, tests: Mapping[str, Any]) -> Evidence:
        inputs, settings = result.manifest["inputs"], dict(result.manifest["settings"])
        strangers = sorted(set(tests) - set(result.test_names))
        if strangers:
            raise UsageError(
                f"{result.label} has no test set {strangers[0]!r}; "
                f"it has {', '.join(result.test_names)}"
            )
        settings["above"] = tuple(settings["above"])
        try:
            plan = make_plan(
                result.manifest["kind"],
                named(inputs["train"]["path"]) if train is None else train,
                {
                    test["name"]: tests[test["name"]]
                    if test["name"] in tests
                    else named(test["path"])
                    for test in inputs["tests"]
                },
                None,
                ScanOptions(**settings),
                Mixing(mixed_models=True),  # whether they may meet was settled by the scan
                _by_heads(inputs),
            )
            loaded = load_tests(plan)
        except InputError as error:
            raise InputError(
                f"cannot read what {result.label} was made from: {error}\n"
                "If the data has moved, say where it is now (train=… and tests=…; on the command "
                "line --train and --test NAME=STORE)."
            ) from error
        stated = [
            replace(test, gap=_stated_gap(result, test)) if columns.has_gap else test
            for test, columns in zip(loaded, result.set_columns, strict=True)
        ]
        return cls(plan, stated)

    def rows_at(
        self, shard: int, rows: NDArray[np.int64]
    ) -> Iterator[tuple[slice, NDArray[np.float16]]]:
        """Admitted rows of a shard, for row numbers in ascending order; repetitions allowed.

        Yields which of the numbers these are, and their rows.
        """
        for part in runs_of_rows(rows):
            first = int(rows[part.start])
            admitted = admit(self.plan.train.read(shard, first, int(rows[part.stop - 1]) + 1))
            yield part, admitted.rows[rows[part] - first]


def named(address: str) -> str:
    """An address as a manifest has it, to open; refused if its password was left out there."""
    if is_masked(address):
        raise InputError(f"{address} is only known without its password or signature")
    return address


def _by_heads(inputs: Mapping[str, Any]) -> ByHeads:
    """The heads that a scan had, whose model it found to be that of its store."""
    if inputs.get("heads") is None:
        return ByHeads()
    heads = open_heads(named(inputs["heads"]["path"]))
    return ByHeads(heads=heads.path, model=heads.model)


def runs_of_rows(rows: NDArray[np.int64]) -> Iterator[slice]:
    """Cuts ascending row numbers into runs that are each worth reading in one go."""
    start = 0
    while start < len(rows):
        gaps = np.diff(rows[start:]) > _SPAN
        stop = start + 1 + (int(gaps.argmax()) if gaps.any() else len(gaps))
        stop = min(stop, int(np.searchsorted(rows, rows[start] + LOAD_ROWS)), start + LOAD_ROWS)
        yield slice(start, stop)
        start = stop


def check_inputs(result: ScanResult, evidence: Evidence, problems: Problems) -> str:
    """The stores are those that were scanned."""
    manifest = result.manifest
    described = describe_inputs(evidence.plan, evidence.tests)
    was, now = manifest["inputs"], described["inputs"]
    for part in ("train", "tests", "heads"):
        found = differences(was.get(part), now.get(part), f"inputs {part}")
        problems.add_all(text for *_, text in found)
    shards, tests = len(was["train"]["shards"]), len(was["tests"])
    return f"{shards:,} training shards and {tests:,} test sets are unchanged"


def check_gap(result: ScanResult, problems: Problems) -> str:
    """The thresholds in the test tables are those of the gap, which is whole, if it is there."""
    gap = result.manifest["inputs"]["gap"]
    if gap is None:
        return "scanned without a gap"
    path = path_of(gap["path"])
    if not (path / MANIFEST).exists():
        return f"the gap {path} is not there; thresholds as stated in test/"
    try:
        reference = open_scan(path)
    except InputError as error:
        problems.add(str(error))
        return ""
    if checksum(reference.manifest) != gap["manifest_sha256"]:
        problems.add(f"{path} is no longer the gap that was used: its manifest differs")
        return ""
    damaged = [f"{path}: {text}" for text in damaged_files(path, reference.manifest["files"])]
    if damaged:
        problems.add_all(damaged)
        return ""
    for name in gap["sets"]:
        stated = result.test(name, ["gap"])["gap"].to_numpy()
        known = ~np.isnan(stated)
        wrong = np.flatnonzero(known)[stated[known] != reference.tau(name)[known]]
        problems.at(wrong, f"{test_name(name)}, row {{:,}}: gap differs from its source".format)
    return f"equal to those of {gap['path']}"


def _stated_gap(result: ScanResult, test: LoadedTest) -> NDArray[np.float64]:
    stated = result.test(test.name, ["gap"])["gap"].to_numpy()
    if len(stated) != len(test.status):
        return np.full(len(test.rows), np.inf)  # the check of inputs reports the other length
    gap: NDArray[np.float64] = stated[test.row_of]
    return gap


LISTS = ("nn_sim", "nn_shard", "nn_row", "nn_key")
"""The columns of a test table that hold lists."""


@dataclass(frozen=True)
class Lists:
    """The lists of one test table as matrices, one row a usable test point."""

    file: str
    row: NDArray[np.int64]  # (points,), test rows
    sim: NDArray[np.float64]  # (points, length)
    shard: NDArray[np.int64]
    shard_row: NDArray[np.int64]
    keys: list[Any]  # pyarrow strings, piece after piece

    @classmethod
    def read(cls, result: ScanResult, name: str) -> Lists:
        """Lists of the one length that all usable points have; `check_lists` makes sure."""
        table = result.test(name, LISTS)
        lengths = lengths_of(table["nn_sim"])
        rows = np.flatnonzero(lengths)
        shape = (len(rows), int(lengths.max(initial=0)))

        def matrix(column: str, kind: Any) -> NDArray[Any]:
            return numbers_of(table[column]).astype(kind).reshape(shape)

        return cls(
            file=test_name(name),
            row=rows,
            sim=matrix("nn_sim", np.float64),
            shard=matrix("nn_shard", np.int64),
            shard_row=matrix("nn_row", np.int64),
            keys=entries_of(table["nn_key"]),
        )

    def ids(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        ids: NDArray[np.int64] = offsets[self.shard] + self.shard_row
        return ids

    @property
    def tied(self) -> NDArray[np.bool_]:
        """Which entries have the score of a neighbour in their list."""
        same = self.sim[:, 1:] == self.sim[:, :-1]
        tied = np.zeros(self.sim.shape, np.bool_)
        tied[:, 1:] |= same
        tied[:, :-1] |= same
        return tied


def check_lists(result: ScanResult, problems: Problems) -> str:
    """Every list has its length, falls in score, rises in id among equals, and names real rows."""
    counts, shards = result.manifest["counts"], result.manifest["inputs"]["train"]["shards"]
    length = min(result.manifest["settings"]["k"], counts["rows"] - counts["quarantined"])
    sizes = np.array([shard["rows"] for shard in shards], np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    entries = 0
    for test in result.manifest["inputs"]["tests"]:
        name = test["name"]
        usable = test["rows"] - test["quarantined"]
        if not _lengths_are_right(result, name, length, usable, problems):
            continue
        lists = Lists.read(result, name)
        entries += lists.sim.size
        real = (lists.shard >= 0) & (lists.shard < len(sizes))
        real &= lists.shard_row >= 0
        real[real] &= lists.shard_row[real] < sizes[lists.shard[real]]
        if not real.all():
            report_entries(lists, ~real, "names a training row that does not exist", problems)
            continue
        ids, sim = lists.ids(offsets), lists.sim
        falls = sim[:, 1:] < sim[:, :-1]
        rises = (sim[:, 1:] == sim[:, :-1]) & (ids[:, 1:] > ids[:, :-1])
        report_entries(
            lists, ~(falls | rises), "is followed by one that should come before it", problems
        )
        _check_gap_column(result, lists, problems)
    return f"{entries:,} entries are in order"


def _lengths_are_right(
    result: ScanResult, name: str, length: int, usable: int, problems: Problems
) -> bool:
    table, before = result.test(name, LISTS), problems.count
    for column in LISTS:
        lengths = lengths_of(table[column])
        right = np.zeros(len(lengths), np.int64)
        right[: usable if length else 0] = length
        if not np.array_equal(np.sort(lengths), np.sort(right)):
            problems.add(
                f"{test_name(name)}: {column} should hold {length} entries for each of "
                f"{usable:,} usable test points, and none for others"
            )
    return problems.count == before


def _check_gap_column(result: ScanResult, lists: Lists, problems: Problems) -> None:
    if result.manifest["kind"] != "gap" or not lists.sim.size:
        return
    name = lists.file.removeprefix("test/").removesuffix(".parquet")
    stated = result.test(name, ["gap"])["gap"].to_numpy()[lists.row]
    problems.at(
        lists.row[stated != lists.sim[:, 0]],
        lambda row: f"{lists.file}, row {row:,}: gap is not the highest score",
    )


def report_entries(lists: Lists, wrong: NDArray[np.bool_], what: str, problems: Problems) -> None:
    def describe(at: NDArray[np.int64]) -> str:
        return f"{lists.file}, row {lists.row[at[0]]:,}: neighbour {at[1] + 1} {what}"

    problems.at(np.argwhere(wrong), describe)
