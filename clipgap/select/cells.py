"""A store, and tables that say the domain, class and source of its rows.

A row is known by its shard and row. Tables that have both as columns are read piece by piece, in
any order, and what stays in memory is a number a row. Tables that have only keys are held whole,
and each of their keys must be that of one row: a key that lies in two shards names neither.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.remote import path_of, source_of
from clipgap.keep.lists import KeepList, open_keep
from clipgap.runs.how import How
from clipgap.select.columns import require_same_store
from clipgap.select.labels import cite_labels, key_column, read_any
from clipgap.select.work import Workers
from clipgap.store.base import Store
from clipgap.store.keys import KEY_NAMES, called_otherwise
from clipgap.store.opening import open_store

DOMAIN, CLASS, SOURCE = "domain", "class", "source"
_PLACE = ("shard", "row")
_ROWS = 1 << 16
_MOST_CELLS = 1 << 20
_SHOWN = 20

Counts = NDArray[np.int64]
Codes = NDArray[np.uint32]
"""Of each row the number of its cell, plus one; 0 where no label is known."""


class Cell(NamedTuple):
    """Rows that have the same labels; a table without such a column has "" there."""

    source: str
    domain: str
    class_: str


@dataclass(frozen=True, eq=False)
class Pool:
    """A store whose rows are sorted into cells."""

    store: Store
    within: KeepList | None
    tables: tuple[Path, ...]
    cells: tuple[Cell, ...]
    codes: Codes
    workers: Workers

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        return tuple(accumulate((shard.rows for shard in self.store.shards), initial=0))

    def cite_tables(self) -> list[dict[str, str]]:
        """The tables as a manifest names them."""
        return [cite_labels(str(path)) for path in self.tables]

    def blocks(self, shard: int) -> Iterator[tuple[int, Codes]]:
        """Where each piece of a shard starts, and the codes of its rows: 0 outside of `within`."""
        rows, first = self.store.shards[shard].rows, self.offsets[shard]
        for start in range(0, rows, _ROWS):
            stop = min(start + _ROWS, rows)
            codes = self.codes[first + start : first + stop]
            if self.within is not None:
                codes = np.where(self.within.bits(shard, start, stop), codes, 0)
            yield start, codes

    def counts(self) -> tuple[Counts, int]:
        """How many rows of each cell can be kept, and how many have no label or lie outside."""

        def count(shard: int) -> Counts:
            counts = np.zeros(len(self.cells) + 1, np.int64)
            for _, codes in self.blocks(shard):
                counts += np.bincount(codes, minlength=len(counts))
            return counts

        each = self.workers.each("counting", count)
        total = np.sum([np.zeros(len(self.cells) + 1, np.int64), *each], axis=0)
        return total[1:], int(total[0])


def open_pool(
    store: Any,
    labels: Sequence[str],
    within: str | Path | KeepList | None,
    threads: int | None,
    how: How,
    domain: str = DOMAIN,
) -> Pool:
    """Open the store and read all tables; refuses labels of rows that the store lacks.

    `domain` is the column that says the domain.
    """
    opened = open_store(store)
    keep = None if within is None else open_keep(within)
    if keep is not None:
        require_same_store(opened.identity(), opened.path, keep)
    how.tell("reading labels")
    workers = Workers([shard.rows for shard in opened.shards], threads, how)
    tables = tuple(file for path in labels for file in _files(path_of(path)))
    codes: Codes = np.zeros(opened.rows, np.uint32)
    return _Labels(Pool(opened, keep, tables, (), codes, workers), domain).filled()


def _files(path: Path) -> list[Path]:
    """A table, or those of a folder in the order of their names."""
    if not path.is_dir():
        return [path]
    found = sorted(path.rglob("*.parquet"))
    if not found:
        raise InputError(f"{path} holds no .parquet; name a table, or a folder of them")
    return found


class _Labels:
    """Sorts rows into cells, table after table."""

    def __init__(self, pool: Pool, domain: str) -> None:
        self._columns = (SOURCE, domain, CLASS)
        self._pool, self._workers = pool, pool.workers
        self._rows = np.array([shard.rows for shard in pool.store.shards], np.int64)
        self._offsets = np.array(pool.offsets, np.int64)
        self._numbers: dict[Cell, int] = {}
        self._numbering, self._setting = threading.Lock(), threading.Lock()
        self._keyed: list[tuple[Path, pa.Array, Codes]] = []

    def filled(self) -> Pool:
        with ThreadPoolExecutor(self._workers.threads) as threads:
            list(threads.map(self._read, self._pool.tables))
        if self._keyed:
            self._match_keys()
        cells = sorted(self._numbers)
        if not cells:
            raise InputError(f"{self._pool.tables[0]}: no row has a domain")
        renamed = np.zeros(len(cells) + 1, np.uint32)
        for place, cell in enumerate(cells):
            renamed[self._numbers[cell]] = place + 1
        codes = self._pool.codes
        for start in range(0, len(codes), 1 << 20):
            codes[start : start + (1 << 20)] = renamed[codes[start : start + (1 << 20)]]
        return replace(self._pool, cells=tuple(cells))

    def _read(self, path: Path) -> None:
        """All of one table, piece by piece if it can be."""
        pieces = (
            _row_groups(path, self._columns)
            if path.suffix == ".parquet"
            else iter([read_any(path)])
        )
        for table in pieces:
            self._workers.check()
            names = table.column_names
            for name in (*_PLACE, *KEY_NAMES, *self._columns):
                if names.count(name) > 1:
                    raise InputError(f"{path} has the column {name!r} more than once")
            if (domain := self._columns[1]) not in names:
                raise InputError(f"{path} has no column {domain!r}; it has {', '.join(names)}")
            if set(_PLACE) <= set(names):
                self._place(path, table)
                continue
            key = key_column(names)
            if key is None:
                raise InputError(
                    f"{path} names no rows: it has neither {' and '.join(_PLACE)} nor one of "
                    f"{', '.join(KEY_NAMES)}"
                )
            if not self._pool.store.has_keys:
                raise InputError(
                    f"{self._pool.store.path} has no keys, so {path} must name rows by the columns "
                    f"{' and '.join(_PLACE)}"
                )
            keys = _texts(path, table, key)
            if keys.null_count:
                raise InputError(f"{path}: {keys.null_count:,} of its rows have no {key!r}")
            self._keyed.append((path, keys, self._codes_of(path, table)))

    def _place(self, path: Path, table: pa.Table) -> None:
        """Labels of rows that are named by shard and row."""
        shard, row = (_whole_numbers(path, table, name) for name in _PLACE)
        wrong = (shard < 0) | (shard >= len(self._rows))
        rows = self._rows[np.where(wrong, 0, shard)] if len(self._rows) else np.zeros_like(shard)
        wrong |= (row < 0) | (row >= rows)
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"{path}: {np.count_nonzero(wrong):,} labels are of rows that "
                f"{self._pool.store.path} lacks, such as shard {shard[at]:,} row {row[at]:,}"
            )
        self._set(path, self._offsets[shard] + row, self._codes_of(path, table))

    def _set(self, path: Path, places: NDArray[np.int64], codes: Codes) -> None:
        """Give rows their cells."""
        known = codes > 0
        places, codes = places[known], codes[known]
        all_ = self._pool.codes
        with self._setting:
            before = all_[places]
            all_[places] = codes
            torn = ((before != 0) & (before != codes)) | (all_[places] != codes)
        if torn.any():
            shown = []
            for place in np.unique(places[torn])[:_SHOWN]:
                shard = int(np.searchsorted(self._offsets, place, "right")) - 1
                shown.append(f"shard {shard:,} row {place - self._offsets[shard]:,}")
            raise InputError.listing(
                f"{path}: {len(np.unique(places[torn])):,} rows have labels that contradict each "
                "other, or those of another table:",
                shown,
            )

    def _match_keys(self) -> None:
        """Labels of rows that are named by their keys; each key must be that of one row."""
        keys = pa.concat_arrays([keys for _, keys, _ in self._keyed]).dictionary_encode()
        of = keys.indices.to_numpy(zero_copy_only=False)
        codes = np.concatenate([codes for *_, codes in self._keyed])
        names = " and ".join(dict.fromkeys(str(path) for path, *_ in self._keyed))
        unique: Codes = np.zeros(len(keys.dictionary), np.uint32)
        unique[of] = codes
        torn = np.unique(of[unique[of] != codes])
        if len(torn):
            raise InputError.listing(
                f"{names}: {len(torn):,} keys have labels that contradict each other:",
                keys.dictionary.take(pa.array(torn[:_SHOWN])).to_pylist(),
            )
        found, finding = np.zeros(len(unique), np.int64), threading.Lock()
        store = self._pool.store

        def match(shard: int) -> None:
            for start in range(0, store.shards[shard].rows, _ROWS):
                self._workers.check()
                stop = min(start + _ROWS, store.shards[shard].rows)
                place = pc.index_in(store.keys(shard, start, stop), value_set=keys.dictionary)
                at = place.fill_null(-1).to_numpy(zero_copy_only=False)
                known = np.flatnonzero(at >= 0)
                with finding:
                    np.add.at(found, at[known], 1)
                self._set(Path(names), self._offsets[shard] + start + known, unique[at[known]])

        self._workers.each("matching keys", match)
        hint = called_otherwise(store.first_key(), keys.dictionary)
        for wrong, words in (
            (found == 0, f"are of no row of {store.path}{hint}"),
            (
                found > 1,
                f"are of several rows of {store.path}, so they name none; name them by the columns "
                f"{' and '.join(_PLACE)}",
            ),
        ):
            if wrong.any():
                places = np.flatnonzero(wrong)
                raise InputError.listing(
                    f"{names}: {len(places):,} keys {words}:",
                    keys.dictionary.take(pa.array(places[:_SHOWN])).to_pylist(),
                )

    def _codes_of(self, path: Path, table: pa.Table) -> Codes:
        """The cell of each row of a table, plus one; 0 where the domain is null or empty."""
        combined, span, dictionaries = np.zeros(table.num_rows, np.int64), 1, []
        for name in self._columns:
            values: list[str | None] = [""]
            if name in table.column_names:
                column = _texts(path, table, name).dictionary_encode()
                values = [*column.dictionary.to_pylist(), ""]
                index = column.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)
                combined = combined * len(values) + index
            dictionaries.append(values)
            span *= len(values)
        if span <= 1 << 20:  # a table of all combinations is faster than sorting rows
            numbers = np.flatnonzero(np.bincount(combined, minlength=span))
            place = np.zeros(span, np.int64)
            place[numbers] = np.arange(len(numbers))
            inverse = place[combined]
        else:
            numbers, inverse = np.unique(combined, return_inverse=True)
        codes = np.zeros(len(numbers), np.uint32)
        for number, combination in enumerate(numbers.tolist()):
            names = []
            for values in reversed(dictionaries):
                combination, which = divmod(combination, len(values))
                names.append(values[which] or "")
            class_, domain, source = names
            if domain:
                with self._numbering:
                    cell = Cell(source, domain, class_)
                    codes[number] = self._numbers.setdefault(cell, len(self._numbers) + 1)
        if len(self._numbers) > _MOST_CELLS:
            raise InputError(
                f"{path}: there are more than {_MOST_CELLS:,} different classes; is {CLASS!r} the "
                "column of classes?"
            )
        return codes[inverse]


def _row_groups(path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The columns that count of a parquet file, a row group at a time."""
    try:
        with pq.ParquetFile(source_of(path)) as file:
            names = file.schema_arrow.names
            wanted = [*_PLACE] if set(_PLACE) <= set(names) else list(KEY_NAMES)
            wanted = [name for name in (*wanted, *columns) if name in names] or names
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, wanted, use_threads=False)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _texts(path: Path, table: pa.Table, name: str) -> pa.Array:
    try:
        return table[name].cast(pa.string()).combine_chunks()
    except pa.ArrowException as error:
        raise InputError(f"{path}: the column {name!r} must be of text: {error}") from error


def _whole_numbers(path: Path, table: pa.Table, name: str) -> NDArray[np.int64]:
    try:
        column = table[name].cast(pa.int64())
    except pa.ArrowException as error:
        raise InputError(f"{path}: the column {name!r} must be whole numbers: {error}") from error
    if column.null_count:
        raise InputError(f"{path}: {column.null_count:,} rows have no {name!r}")
    numbers: NDArray[np.int64] = column.to_numpy()
    return numbers
