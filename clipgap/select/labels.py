"""Splits along an attribute: a table of labels, and conditions on its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipgap.errors import InputError, UsageError
from clipgap.files.atomic import sha256_file
from clipgap.files.remote import path_of
from clipgap.select.columns import Block, ScanTables
from clipgap.select.rules import Choose, Decision
from clipgap.select.sizes import Sizes
from clipgap.select.work import Workers
from clipgap.store.keys import KEY_NAMES, called_otherwise

_SHOWN = 20


@dataclass(frozen=True)
class Condition:
    """One column must have, or must not have, one of some values; all are compared as text."""

    column: str
    values: tuple[str, ...]
    negated: bool = False

    @classmethod
    def parse(cls, text: str) -> Condition:
        """COLUMN=VALUE, COLUMN=VALUE,VALUE or COLUMN!=VALUE."""
        column, equals, values = text.partition("=")
        negated = column.endswith("!")
        column = column.removesuffix("!").strip()
        if not equals or not column:
            raise UsageError(f"{text!r} is no condition; write COLUMN=VALUE or COLUMN!=VALUE")
        return cls(column, tuple(value.strip() for value in values.split(",")), negated)

    def holds(self, table: pa.Table) -> NDArray[np.bool_]:
        column = table[self.column].cast(pa.string())
        found = pc.is_in(column, pa.array(self.values)).to_numpy() != self.negated
        # A missing label meets no condition, not even one that it is something else.
        holds: NDArray[np.bool_] = found & column.is_valid().to_numpy()
        return holds

    def __str__(self) -> str:
        return f"{self.column}{'!=' if self.negated else '='}{','.join(self.values)}"


@dataclass(frozen=True)
class Where:
    """Keep the rows whose labels meet all conditions. The table of labels is held in memory."""

    labels: str
    conditions: tuple[Condition, ...]

    def ready(self, tables: ScanTables, workers: Workers) -> Decision:
        if not self.conditions:
            raise UsageError("no condition is given; write at least one COLUMN=VALUE")
        table = read_labels(
            path_of(self.labels), [condition.column for condition in self.conditions]
        )
        met = np.logical_and.reduce([condition.holds(table) for condition in self.conditions])
        keys, met = _once(self.labels, table["key"].combine_chunks(), met)
        self._require_likeness(tables, keys)

        def shard(number: int, sizes: Sizes) -> Choose:
            def choose(block: Block) -> NDArray[np.bool_]:
                place = pc.index_in(block.keys, value_set=keys).fill_null(-1).to_numpy()
                place = block.among(place)
                sizes.unlabelled += int(np.count_nonzero(place < 0))
                kept: NDArray[np.bool_] = (place >= 0) & met[place]
                return kept

            return choose

        return Decision((), shard, keys=True)

    def _require_likeness(self, tables: ScanTables, keys: pa.Array) -> None:
        """A table may label some rows alone, but not all of them by names of another folder."""
        shards = range(len(tables.shard_rows))
        blocks = (block for n in shards for block in tables.blocks(n, (), keys=True))
        first: Any = next((block.keys for block in blocks), None)
        hint = "" if first is None else called_otherwise(first[0].as_py(), keys)
        if hint and not pc.any(pc.is_in(first, value_set=keys)).as_py():
            raise InputError(
                f"{self.labels}: has none of the first {len(first):,} keys of "
                f"{tables.store['path']}{hint}"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "name": "where",
            "labels": cite_labels(self.labels),
            "conditions": [str(condition) for condition in self.conditions],
        }


def read_labels(path: Path, columns: Sequence[str]) -> pa.Table:
    """The keys, as column `key`, and the named columns of a parquet or CSV file."""
    table = read_any(path)
    key = key_column(table.column_names)
    if key is None:
        raise InputError(
            f"{path} has no column of keys: it has {', '.join(table.column_names)}, and one of "
            f"{', '.join(KEY_NAMES)} is needed"
        )
    if missing := [name for name in columns if name not in table.column_names]:
        raise InputError(
            f"{path} has no column {missing[0]!r}; it has {', '.join(table.column_names)}"
        )
    if not table.num_rows:
        raise InputError(f"{path} holds no labels")
    named = {name: table[name] for name in columns}
    return pa.table({"key": table[key].cast(pa.string()), **named})


def read_any(path: Path) -> pa.Table:
    """A table as it lies in a parquet, CSV or TSV file; all that is text stays text."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".parquet":
                return pq.read_table(file, partitioning=None)
            delimiter = "\t" if path.suffix == ".tsv" else ","
            options = pyarrow.csv.ParseOptions(delimiter=delimiter)
            as_text = _as_text(path)
            return pyarrow.csv.read_csv(file, parse_options=options, convert_options=as_text)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def key_column(names: Sequence[str]) -> str | None:
    """Which column of a table holds its keys."""
    return next((name for name in KEY_NAMES if name in names), None)


def cite_labels(path: str) -> dict[str, str]:
    """A table of labels as a manifest names it."""
    return {"path": path, "sha256": sha256_file(path)}


def _as_text(path: Path) -> Any:
    """A key such as 000123 must not be read as a number."""
    with path.open(encoding="utf-8") as file:
        names = file.readline().strip().replace("\t", ",").split(",")
    return pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))


def _once(path: str, keys: pa.Array, met: NDArray[np.bool_]) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Each key once; refuses a key that some of its rows keep and others don't."""
    unique = keys.dictionary_encode()
    place = unique.indices.to_numpy(zero_copy_only=False)
    total = np.bincount(place, minlength=len(unique.dictionary))
    kept = np.bincount(place, weights=met, minlength=len(unique.dictionary))
    torn = np.flatnonzero((kept > 0) & (kept < total))
    if len(torn):
        raise InputError.listing(
            f"{path}: {len(torn):,} keys are there more than once with different labels:",
            unique.dictionary.take(pa.array(torn[:_SHOWN])).to_pylist(),
        )
    return unique.dictionary, kept > 0
