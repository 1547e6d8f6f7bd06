"""Where the tables of a scan go: memory here, a folder in `clipgap.scan.folder`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import pyarrow as pa

from clipgap.files.parquet import FileSum, Put

HIST = "hist.parquet"
QUARANTINE = "quarantine.parquet"


class Sink(Protocol):
    """Takes the tables of a scan. What was put in a part counts only when its context has ended."""

    def part(self, shard: int, schema: Any) -> AbstractContextManager[Put]:
        """The training table of one shard."""
        ...

    def part_sum(self, shard: int) -> FileSum | None:
        """The checksum of a finished part; None where no file was written."""
        ...

    def bad_rows(self, shard: int, schema: Any) -> AbstractContextManager[Put]:
        """The quarantined rows of one shard, kept until all are gathered."""
        ...

    def gathered_bad_rows(self, shard: int) -> Iterable[Any]:
        """The tables that were put there."""
        ...

    def table(self, name: str, schema: Any, tables: Iterable[Any]) -> FileSum | None:
        """A table of the whole scan, named as in a scan folder."""
        ...


class MemorySink:
    """Keeps everything, by the names that files would have."""

    def __init__(self) -> None:
        self.tables: dict[str, Any] = {}
        self._bad_rows: dict[int, list[Any]] = {}

    @contextmanager
    def part(self, shard: int, schema: Any) -> Iterator[Put]:
        groups: list[Any] = []
        yield groups.append
        self.tables[part_name(shard)] = pa.concat_tables([schema.empty_table(), *groups])

    def part_sum(self, shard: int) -> FileSum | None:
        return None

    @contextmanager
    def bad_rows(self, shard: int, schema: Any) -> Iterator[Put]:
        groups: list[Any] = []
        yield groups.append
        self._bad_rows[shard] = groups

    def gathered_bad_rows(self, shard: int) -> Iterable[Any]:
        return self._bad_rows[shard]

    def table(self, name: str, schema: Any, tables: Iterable[Any]) -> FileSum | None:
        self.tables[name] = pa.concat_tables([schema.empty_table(), *tables])
        return None


def part_name(shard: int) -> str:
    return f"train/part-{shard:05d}.parquet"


def test_name(name: str) -> str:
    return f"test/{name}.parquet"
