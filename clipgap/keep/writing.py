"""Writing keep-lists: the way of all commands that make one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.files.atomic import write_atomic
from clipgap.files.parquet import write_tables
from clipgap.files.sums import AnySum, Hashed
from clipgap.keep.lists import (
    DATACOMP,
    KEEP_SCHEMA,
    KIND,
    REFERENCE,
    REFERENCE_SCHEMA,
    KeepList,
    bitmap_header,
    bitmap_name,
    keep_name,
)
from clipgap.keep.uids import UidRuns, parse_uids
from clipgap.runs.how import How
from clipgap.runs.output import Complete, New, open_output
from clipgap.version import __version__

Piece = tuple[NDArray[np.bool_], "pa.Array | None"]
"""Consecutive rows of a shard: which are kept, and the keys of those that are."""


class KeepWriter:
    """Writes a keep-list; used as a context manager, it is complete when the block ends well.

    The folder is locked for as long as the block takes. What is in it stays until the first shard
    is written, or `begin` is called: so a rule may still be found impossible. If a resumed run
    finds the very list that is wanted, whole, that is `finished`, and nothing is to be written.
    One that was interrupted starts again.

    Shards may come in any order and from several threads. Shards that never come keep nothing.
    After an error the folder has no manifest and cannot be mistaken for a keep-list.

    `store` is what `Store.identity()` says, or the same entry of a scan's manifest; `rule` is plain
    data that says what made the list; `scans` are entries with `path` and `manifest_sha256`.
    """

    def __init__(
        self,
        path: str | Path,
        store: Mapping[str, Any],
        rule: Mapping[str, Any],
        scans: Sequence[Mapping[str, Any]] = (),
        how: How | None = None,
    ) -> None:
        self.path, self._how = Path(path), how or How()
        self._shards = store["shards"]
        self._described = {"kind": "keep", "store": store, "rule": rule, "scans": scans}
        self._details: dict[str, Any] = {}
        self._kept: dict[int, int] = {}
        self._files: dict[str, AnySum] = {}
        self._lock = threading.Lock()
        self._has_begun = False
        self._has_keys = False
        self._all_uids = True
        self.finished: KeepList | None = None
        """What is there and whole: found, or written by this."""

    def __enter__(self) -> KeepWriter:
        with ExitStack() as opened:
            self._output = opened.enter_context(open_output(self.path, KIND, self._how))
            self._uids = UidRuns(self._output.progress / "uids")
            if self._how.resume and self._output.state != "empty":
                answer = self._output.begin(self._described)
                if isinstance(answer, Complete):
                    self.finished = KeepList(self.path, answer.manifest)
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._opened:
            if kind is not None:
                self._uids.discard()
            else:
                self.finish()

    @property
    def kept(self) -> int:
        """Rows kept so far."""
        return sum(self._kept.values())

    def begin(self) -> None:
        """Make room in the folder: what was in it goes now."""
        with self._lock:
            if not self._has_begun and not isinstance(self._output.begin(self._described), New):
                self._output.start()
            self._has_begun = True

    def add(self, shard: int, mask: NDArray[np.bool_], keys: pa.Array | None = None) -> None:
        """Write one shard: which of its rows are kept, and the keys of those that are."""
        self.write(shard, [(mask, keys)])

    def write(self, shard: int, pieces: Iterable[Piece]) -> None:
        """As `add`, from pieces that follow each other, for shards larger than memory."""
        self.begin()
        if shard in self._kept:
            raise ValueError(f"shard {shard} was already written")
        rows, kept = self._shards[shard]["rows"], 0

        def tables(put_bits: Callable[[NDArray[np.bool_]], None]) -> Iterator[pa.Table]:
            nonlocal kept
            start = 0
            for mask, keys in pieces:
                put_bits(mask)
                table = _table(shard, start, mask, keys)
                self._note_keys(table)
                start, kept = start + len(mask), kept + table.num_rows
                yield table
            if start != rows:
                raise ValueError(f"shard {shard} has {rows:,} rows, {start:,} were given")

        bitmap = self.path / bitmap_name(shard)
        with write_atomic(bitmap) as temporary, temporary.open("wb") as file:
            hashed = Hashed(file)
            bits = _BitmapFile(hashed, rows)
            part = write_tables(
                self.path / keep_name(shard), KEEP_SCHEMA, tables(bits.put), plain=["key"]
            )
            bits.finish()
        with self._lock:
            self._files[keep_name(shard)] = part
            self._files[bitmap_name(shard)] = hashed.sum
            self._kept[shard] = kept

    def add_reference(self, tables: Iterable[pa.Table], **details: Any) -> None:
        """Write which samples of a reference set belong to the split too, with their captions."""
        self.begin()
        self._files[REFERENCE] = write_tables(self.path / REFERENCE, REFERENCE_SCHEMA, tables)
        self.note(reference=details)

    def note(self, **details: Any) -> None:
        """Add entries to the manifest."""
        self._details |= details

    def finish(self) -> KeepList:
        """Write what is left, and the manifest; from now on this is a keep-list.

        The end of the block does it, if nobody did before.
        """
        if self.finished is not None:
            return self.finished
        self.begin()
        for shard, known in enumerate(self._shards):
            if shard not in self._kept:
                self.write(shard, _nothing(known["rows"]))
        if self._has_keys and self._all_uids:
            self._files[DATACOMP] = self._uids.write(self.path / DATACOMP)
        rows = sum(shard["rows"] for shard in self._shards)
        counts = [self._kept[shard] for shard in range(len(self._kept))]
        entries = {
            **self._described,
            "keys": bool(self._has_keys),
            "counts": {"rows": rows, "kept": sum(counts), "shards": counts},
            "versions": {"clipgap": __version__, "pyarrow": pa.__version__},
            **self._details,
        }
        self.finished = KeepList(self.path, self._output.finish(entries, self._files))
        return self.finished

    def _note_keys(self, table: pa.Table) -> None:
        """As long as all keys are uids, collect them."""
        keys = table["key"].combine_chunks()
        self._has_keys |= keys.null_count < len(keys)
        uids = parse_uids(keys) if self._all_uids else None
        if uids is None:
            self._all_uids = False
        else:
            self._uids.add(uids)


class _BitmapFile:
    """An .npy file of bits that come in pieces of any length."""

    def __init__(self, file: Hashed, rows: int) -> None:
        self._file = file
        self._rest = np.zeros(0, np.bool_)
        file.write(bitmap_header(rows))

    def put(self, mask: NDArray[np.bool_]) -> None:
        bits = np.concatenate([self._rest, mask]) if len(self._rest) else mask
        whole = len(bits) // 8 * 8
        self._file.write(np.packbits(bits[:whole], bitorder="little").data)
        self._rest = bits[whole:].copy()

    def finish(self) -> None:
        self._file.write(np.packbits(self._rest, bitorder="little").data)


def _table(shard: int, start: int, mask: NDArray[np.bool_], keys: pa.Array | None) -> pa.Table:
    rows = np.flatnonzero(mask)
    if keys is None:
        keys = pa.nulls(len(rows), pa.string())
    elif len(keys) != len(rows):
        raise ValueError(
            f"shard {shard}: {len(rows):,} rows are kept, but {len(keys):,} keys given"
        )
    numbers = pa.array(np.full(len(rows), shard, np.int32))
    return pa.Table.from_arrays([numbers, pa.array(rows + start), keys], schema=KEEP_SCHEMA)


def _nothing(rows: int, step: int = 1 << 20) -> Iterator[Piece]:
    for start in range(0, rows, step):
        yield np.zeros(min(step, rows - start), np.bool_), None
