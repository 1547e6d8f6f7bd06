"""Where the tables of a scan go: into memory, or into a folder.

SCAN/train/part-00000.parquet       one a shard of the training store
SCAN/test/NAME.parquet              one a test set
SCAN/hist.parquet
SCAN/quarantine.parquet             only if rows were set aside
SCAN/.progress/quarantine/…         rows of each shard that were set aside, until all are gathered
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from clipgap.files.folders import make_folder
from clipgap.files.parquet import Put, parquet_file, read_row_groups, write_tables
from clipgap.files.sums import FileSum
from clipgap.runs.lock import PROGRESS

HIST = "hist.parquet"
QUARANTINE = "quarantine.parquet"


Sums: TypeAlias = dict[str, FileSum]
"""Of files, by name; whoever makes one adds it."""


class Sink(Protocol):
    """Takes the tables of a scan. What was put in a part counts only when its context has ended."""

    def part(self, shard: int, schema: Any, sums: Sums) -> AbstractContextManager[Put]:
        """The training table of one shard."""
        ...

    def bad_rows(self, shard: int, schema: Any, sums: Sums) -> AbstractContextManager[Put]:
        """The quarantined rows of one shard, kept until all are gathered."""
        ...

    def gathered_bad_rows(self, shard: int) -> Iterable[Any]:
        """The tables of quarantined rows that were put there."""
        ...

    def table(self, name: str, schema: Any, tables: Iterable[Any]) -> FileSum | None:
        """A table of the whole scan, named as in a scan folder; its sum, if it is a file."""
        ...


class MemorySink:
    """Keeps everything, by the names that files would have."""

    def __init__(self) -> None:
        self.tables: dict[str, Any] = {}
        self._bad_rows: dict[int, list[Any]] = {}

    @contextmanager
    def part(self, shard: int, schema: Any, sums: Sums) -> Iterator[Put]:
        groups: list[Any] = []
        yield groups.append
        self.tables[part_name(shard)] = pa.concat_tables([schema.empty_table(), *groups])

    @contextmanager
    def bad_rows(self, shard: int, schema: Any, sums: Sums) -> Iterator[Put]:
        groups: list[Any] = []
        yield groups.append
        self._bad_rows[shard] = groups

    def gathered_bad_rows(self, shard: int) -> Iterable[Any]:
        return self._bad_rows[shard]

    def table(self, name: str, schema: Any, tables: Iterable[Any]) -> FileSum | None:
        self.tables[name] = pa.concat_tables([schema.empty_table(), *tables])
        return None


@dataclass(frozen=True)
class FolderSink:
    """Writes files, each whole or absent."""

    path: Path

    def part(self, shard: int, schema: Any, sums: Sums) -> AbstractContextManager[Put]:
        make_folder(self.path, "train")
        return self._file(part_name(shard), schema, sums)

    def bad_rows(self, shard: int, schema: Any, sums: Sums) -> AbstractContextManager[Put]:
        return self._file(bad_rows_name(shard), schema, sums)

    @contextmanager
    def _file(self, name: str, schema: Any, sums: Sums) -> Iterator[Put]:
        with parquet_file(self.path / name, schema) as file:
            yield file.put
        sums[name] = file.sum

    def gathered_bad_rows(self, shard: int) -> Iterable[Any]:
        return read_row_groups(self.path / bad_rows_name(shard))

    def table(self, name: str, schema: Any, tables: Iterable[Any]) -> FileSum | None:
        return write_tables(self.path / name, schema, tables)


def part_name(shard: int) -> str:
    return f"train/part-{shard:05d}.parquet"


def test_name(name: str) -> str:
    return f"test/{name}.parquet"


def bad_rows_name(shard: int) -> str:
    return f"{PROGRESS}/quarantine/{shard:05d}.parquet"
