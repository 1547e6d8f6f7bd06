"""The training tables of one or more scans of a store, read side by side, a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import InputError, UsageError
from clipgap.files.documents import checksum
from clipgap.files.parquet import ROW_GROUP, FileSum, open_table
from clipgap.keep.lists import KeepList, open_keep
from clipgap.scan.manifest import differences
from clipgap.scan.result import ScanResult, open_scan
from clipgap.scan.sinks import part_name
from clipgap.scan.tables import SetColumns

KEY = "key"

Columns = dict[str, tuple["NDArray[np.bool_] | None", Any]]
"""Of a row group: which rows are valid (None: all), and the values; keys as pyarrow has them."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a shard with the columns that were asked for."""

    start: int
    rows: int
    ok: NDArray[np.bool_] | None  # rows that may be kept; None if all may
    values: Mapping[str, NDArray[Any]]  # of all rows; meaningless where not ok
    keys: Any | None  # pyarrow strings of all rows, if asked for

    @property
    def candidates(self) -> int:
        return self.rows if self.ok is None else int(np.count_nonzero(self.ok))

    def among(self, values: NDArray[Any]) -> NDArray[Any]:
        """Those of a column's values that belong to candidates."""
        return values if self.ok is None else values[self.ok]

    def spread(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A choice among candidates as a choice among all rows."""
        if self.ok is None:
            return chosen
        mask = np.zeros(self.rows, np.bool_)
        mask[self.ok] = chosen
        return mask


@dataclass(frozen=True)
class ScanTables:
    """Scans of the same store with different test sets, as one table.

    Rows without scores are no candidates for any split, nor are those outside of `within`.
    """

    scans: tuple[ScanResult, ...]
    within: KeepList | None = None

    @cached_property
    def store(self) -> Mapping[str, Any]:
        """What the scans say of the store that they scanned."""
        identity: Mapping[str, Any] = self.scans[0].manifest["inputs"]["train"]
        return identity

    @cached_property
    def shard_rows(self) -> tuple[int, ...]:
        return tuple(shard["rows"] for shard in self.store["shards"])

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The number of each shard's first row, counted through the store; then that of all."""
        return tuple(accumulate(self.shard_rows, initial=0))

    @property
    def rows(self) -> int:
        return self.offsets[-1]

    @property
    def quarantined(self) -> int:
        return int(self.scans[0].manifest["counts"]["quarantined"])

    @cached_property
    def sets(self) -> dict[str, SetColumns]:
        return {columns.name: columns for scan in self.scans for columns in scan.set_columns}

    def set_columns(self, names: Sequence[str], *, with_gap: bool = False) -> list[SetColumns]:
        """The columns of these test sets; refuses names that no scan has."""
        if not names:
            raise UsageError("no test set is named")
        if unknown := [name for name in names if name not in self.sets]:
            raise UsageError(
                f"{' and '.join(scan.label for scan in self.scans)} has no test set "
                f"{', '.join(map(repr, unknown))}; it has {', '.join(self.sets)}"
            )
        if twice := sorted({name for name in names if list(names).count(name) > 1}):
            raise UsageError(f"test set {twice[0]!r} is named twice")
        found = [self.sets[name] for name in names]
        bare = [columns.name for columns in found if not columns.has_gap]
        if with_gap and bare:
            raise UsageError(
                f"test set {bare[0]!r} was scanned without thresholds, so nothing says what to "
                "prune. Scan again with a gap that knows it (`clipgap gap`, `clipgap scan --gap`)."
            )
        return found

    def sources(self) -> list[dict[str, str]]:
        """The scans as a keep-list's manifest names them."""
        return [
            {"path": scan.label, "manifest_sha256": checksum(scan.manifest)} for scan in self.scans
        ]

    def blocks(self, shard: int, names: Sequence[str], keys: bool = False) -> Iterator[Block]:
        """The named columns of a shard, row group by row group."""
        wanted: dict[int, list[str]] = {}
        if self.quarantined and not names:
            names = [next(iter(self.sets.values())).sim]  # null where a row has no scores
        for name in names:
            wanted.setdefault(self._scan_of(name), []).append(name)
        if keys:
            wanted.setdefault(0, []).append(KEY)
        readers = [self._reader(i, shard, chosen) for i, chosen in wanted.items()]
        rows = self.shard_rows[shard]
        for start in range(0, rows, ROW_GROUP):
            n = min(ROW_GROUP, rows - start)
            ok = None if self.within is None else self.within.bits(shard, start, start + n)
            values: dict[str, NDArray[Any]] = {}
            key_column = None
            for reader in readers:
                for name, (valid, column) in next(reader).items():
                    if valid is not None:
                        ok = valid if ok is None else ok & valid
                    if name == KEY:
                        key_column = column
                    else:
                        values[name] = column
            yield Block(start, n, ok, values, key_column)

    def candidates(self, shard: int) -> int:
        """How many rows of a shard may be kept."""
        return sum(block.candidates for block in self.blocks(shard, ()))

    def _scan_of(self, column: str) -> int:
        for index, scan in enumerate(self.scans):
            if column in scan.train_schema.names:
                return index
        raise KeyError(column)

    def _reader(self, index: int, shard: int, names: list[str]) -> Iterator[Columns]:
        scan, rows = self.scans[index], self.shard_rows[shard]
        if scan.path is None:
            return _of_table(scan.tables[part_name(shard)].select(names))
        name, schema = part_name(shard), scan.train_schema
        wanted = pa.schema([schema.field(each) for each in names])
        return _of_file(scan.path / name, scan.sum_of(name), rows, wanted)


def open_tables(
    scans: Sequence[str | Path | ScanResult], within: str | Path | KeepList | None = None
) -> ScanTables:
    """Open scans that belong together: one store, and no test set twice."""
    if not scans:
        raise UsageError("no scan is given")
    opened = [scan if isinstance(scan, ScanResult) else open_scan(scan) for scan in scans]
    first, problems = opened[0], []
    for scan in opened:
        if not scan.manifest["settings"]["train_table"]:
            problems.append(
                f"{scan.label} was made with --no-train-table; a split needs that table"
            )
    for scan in opened[1:]:
        was, now = (s.manifest["inputs"]["train"] for s in (first, scan))
        found = [text for *_, text in differences(was, now, "inputs train")]
        problems += [f"{scan.label} is not of the same store as {first.label}: {t}" for t in found]
        for name in set(scan.test_names).intersection(first.test_names):
            problems.append(f"test set {name!r} is both in {first.label} and in {scan.label}")
    if problems:
        raise InputError.listing("these scans cannot be used together:", problems)
    tables = ScanTables(tuple(opened))
    if within is None:
        return tables
    keep = open_keep(within)
    require_same_store(tables.store, first.label, keep)
    return replace(tables, within=keep)


def require_same_store(store: Mapping[str, Any], label: str, keep: KeepList) -> None:
    """Refuse a keep-list of another store than `label` is of."""
    found = [text for *_, text in differences(store, keep.manifest["store"], "inputs train")]
    if found:
        raise InputError.listing(
            f"the keep-list {keep.path} is of another store than {label}:", found
        )


def _of_table(table: Any) -> Iterator[Columns]:
    for start in range(0, table.num_rows, ROW_GROUP):
        group = table.slice(start, ROW_GROUP)
        yield {name: _decoded(name, group[name]) for name in table.column_names}


def _of_file(path: Path, expected: FileSum, rows: int, wanted: Any) -> Iterator[Columns]:
    names = wanted.names
    with open_table(path, expected) as part:
        part.require(wanted)
        _check_part(path, part.metadata, rows)
        for group in part.groups():
            plain = {name: part.read_plain(group, name) for name in names}
            rest = [name for name in names if plain[name] is None]
            table = part.read(group, rest)
            yield {
                name: _decoded(name, table[name]) if values is None else (None, values)
                for name, values in plain.items()
            }


def _check_part(path: Path, metadata: Any, rows: int) -> None:
    full, rest = divmod(rows, ROW_GROUP)
    expected = [ROW_GROUP] * full + [rest] * (rest > 0)
    found = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if found != expected:
        raise InputError(
            f"{path} has {sum(found):,} rows in groups of other sizes than a scan writes for its "
            f"{rows:,} rows. `clipgap scan` with --resume mends a damaged scan."
        )


def _decoded(name: str, column: Any) -> tuple[NDArray[np.bool_] | None, Any]:
    """Which rows are valid (None: all), and the values; keys stay as they are."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if name == KEY:
        return None, array
    if not array.null_count:
        return None, array.to_numpy(zero_copy_only=False)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    zero = pa.scalar(0, pa.int8()).cast(array.type)
    return valid, array.fill_null(zero).to_numpy(zero_copy_only=False)
