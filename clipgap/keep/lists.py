"""Keep-lists: which rows of a store a split keeps.

KEEP/manifest.json              store, rule, scans, counts and the sums of all files; written last
KEEP/keep/part-00000.parquet    the kept rows of one shard of the store: shard, row, key
KEEP/bitmap/part-00000.npy      the same as bits, one a row of the shard, lowest bit first
KEEP/datacomp.npy               the kept uids as DataComp wants them, if all keys are uids
KEEP/reference.parquet          samples of a reference set to be added: shard, row, key, caption

Every shard of the store has its two files, even where nothing is kept. A folder without a manifest
is unfinished. Nothing in it depends on the time, the machine or the number of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.atomic import write_atomic
from clipgap.files.documents import MANIFEST
from clipgap.files.parquet import FileSum, read_row_groups, read_table, write_tables
from clipgap.keep.uids import UidRuns, parse_uids
from clipgap.runs.old_output import OutputFolder, read_manifest
from clipgap.version import __version__

FORMAT = "clipgap-keep"
DATACOMP = "datacomp.npy"
REFERENCE = "reference.parquet"
KEEP_SCHEMA = pa.schema([("shard", pa.int32()), ("row", pa.int64()), ("key", pa.string())])
REFERENCE_SCHEMA = KEEP_SCHEMA.append(pa.field("caption", pa.string()))

_KEEP, _BITMAP = "keep", "bitmap"
_VERSION = 1

Piece = tuple[NDArray[np.bool_], "pa.Array | None"]
"""Consecutive rows of a shard: which are kept, and the keys of those that are."""


def keep_name(shard: int) -> str:
    return f"{_KEEP}/part-{shard:05d}.parquet"


def bitmap_name(shard: int) -> str:
    return f"{_BITMAP}/part-{shard:05d}.npy"


@dataclass(frozen=True)
class KeepShard:
    """One shard of the store, and how much of it is kept."""

    index: int
    name: str
    rows: int
    kept: int


@dataclass(frozen=True, eq=False)
class KeepList:
    """A finished keep-list. Its files are read, and their checksums compared, when asked for."""

    path: Path
    manifest: Mapping[str, Any]
    _sound: set[str] = field(default_factory=set, repr=False)

    @cached_property
    def shards(self) -> tuple[KeepShard, ...]:
        kept = self.manifest["counts"]["shards"]
        return tuple(
            KeepShard(index, shard["name"], shard["rows"], kept[index])
            for index, shard in enumerate(self.manifest["store"]["shards"])
        )

    @property
    def rows(self) -> int:
        """Rows of the store, kept or not."""
        return int(self.manifest["counts"]["rows"])

    @property
    def kept(self) -> int:
        return int(self.manifest["counts"]["kept"])

    @property
    def has_keys(self) -> bool:
        return bool(self.manifest["keys"])

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The number of each shard's first row, counted through the store; then that of all."""
        return tuple(accumulate((shard.rows for shard in self.shards), initial=0))

    def bits(self, shard: int, start: int = 0, stop: int | None = None) -> NDArray[np.bool_]:
        """Which of the rows start … stop of a shard are kept; of all its rows by default."""
        path = self._check(bitmap_name(shard))
        rows = self.shards[shard].rows
        stop = rows if stop is None else stop
        if not 0 <= start <= stop <= rows:
            raise IndexError(f"rows {start} to {stop} of shard {shard}, which has {rows}")
        packed = np.load(path, mmap_mode="r" if rows else None)[start // 8 : -(-stop // 8)]
        unpacked = np.unpackbits(packed, bitorder="little")
        return unpacked[start % 8 : start % 8 + stop - start].view(np.bool_)

    def rows_of(self, shard: int) -> NDArray[np.int64]:
        """The kept rows of a shard, ascending."""
        return np.flatnonzero(self.bits(shard)).astype(np.int64, copy=False)

    def table(self, shard: int) -> pa.Table:
        """The kept rows of a shard: shard, row, key."""
        return read_table(self._check(keep_name(shard)))

    def row_groups(self, shard: int) -> Iterator[pa.Table]:
        """As `table`, in pieces, for shards larger than memory."""
        return read_row_groups(self._check(keep_name(shard)))

    def keys(self, shard: int) -> pa.ChunkedArray:
        """The keys of the kept rows of a shard, in row order; nulls if the store has no keys."""
        return self.table(shard)["key"]

    def reference(self) -> pa.Table | None:
        """The samples of the reference set that belong to the split, with their captions."""
        listed = REFERENCE in self.manifest["files"]
        return read_table(self._check(REFERENCE)) if listed else None

    def damaged(self) -> list[str]:
        """Files whose content is not what was written; reads all of them."""
        return [name for name in sorted(self.manifest["files"]) if not self._is_sound(name)]

    def _check(self, name: str) -> Path:
        if name not in self._sound:
            if not self._is_sound(name):
                raise InputError(
                    f"{self.path / name} is damaged: its SHA-256 or size is not that of the "
                    "manifest. Make the keep-list again with --overwrite."
                )
            self._sound.add(name)
        return self.path / name

    def _is_sound(self, name: str) -> bool:
        path, entry = self.path / name, FileSum(**self.manifest["files"][name])
        try:
            return path.stat().st_size == entry.size and FileSum.of(path) == entry
        except OSError:
            return False


def open_keep(path: str | Path | KeepList) -> KeepList:
    """Open a keep-list; every file must be there with its size, contents are checked when read."""
    if isinstance(path, KeepList):
        return path
    keep = read_keep(path)
    sizes = {
        f"{inner}{entry.name}": entry.stat().st_size
        for inner in ("", f"{_KEEP}/", f"{_BITMAP}/")
        for entry in _entries(keep.path / inner)
    }
    problems = [
        f"{name} is {'missing' if name not in sizes else 'damaged'}"
        for name, entry in sorted(keep.manifest["files"].items())
        if sizes.get(name) != entry["size"]
    ]
    if problems:
        raise InputError.listing(
            f"the keep-list {keep.path} is not whole. Make it again with --overwrite:", problems
        )
    return keep


def read_keep(path: str | Path) -> KeepList:
    """The keep-list that a manifest tells of, whatever became of its files since."""
    folder = Path(path)
    manifest = read_manifest(
        folder, FORMAT, "keep-list", "If its making was interrupted, make it again."
    )
    try:
        files, counted = manifest["files"], manifest["counts"]["shards"]
        shards = range(len(manifest["store"]["shards"]))
        names = [name(shard) for shard in shards for name in (keep_name, bitmap_name)]
        problems = [f"it does not list {name}" for name in names if name not in files]
        problems += [f"it has no size of {name}" for name in files if "size" not in files[name]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST} is damaged: it lacks {error}") from error
    if len(counted) != len(shards):
        problems.append("it counts other shards than its store has")
    if problems:
        raise InputError.listing(f"{folder / MANIFEST} is damaged:", problems)
    return KeepList(folder, manifest)


class KeepWriter:
    """Writes a keep-list; used as a context manager, it is complete when the block ends well.

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
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self._store, self._rule, self._scans = store, rule, scans
        self._kept: dict[int, int] = {}
        self._files: dict[str, FileSum] = {}
        self._lock = threading.Lock()
        self._has_keys = False
        self._all_uids = True
        self._details: dict[str, Any] = {}
        self.manifest: dict[str, Any] = {}
        """What was written last; empty until then."""
        self._folder = self.folder(self.path)
        self._uids = UidRuns(self._folder.progress / "uids")
        state = self._folder.state()
        if state != "empty" and not overwrite:
            raise self._folder.require_flag(state)
        self._folder.start({"rule": dict(rule)}, (_KEEP, _BITMAP, DATACOMP, REFERENCE))

    @staticmethod
    def folder(path: Path) -> OutputFolder:
        """The folder as a writer would see it; nothing is touched."""
        return OutputFolder(path, FORMAT, "keep-list", (_KEEP, _BITMAP))

    @property
    def kept(self) -> int:
        """Rows kept so far."""
        return sum(self._kept.values())

    def add(self, shard: int, mask: NDArray[np.bool_], keys: pa.Array | None = None) -> None:
        """Write one shard: which of its rows are kept, and the keys of those that are."""
        self.write(shard, [(mask, keys)])

    def write(self, shard: int, pieces: Iterable[Piece]) -> None:
        """As `add`, from pieces that follow each other, for shards larger than memory."""
        if shard in self._kept:
            raise ValueError(f"shard {shard} was already written")
        rows, kept = self._store["shards"][shard]["rows"], 0

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
            bits = _BitmapFile(file, rows)
            part = write_tables(
                self.path / keep_name(shard), KEEP_SCHEMA, tables(bits.put), plain=["key"]
            )
            bits.finish()
        with self._lock:
            self._files[keep_name(shard)] = part
            self._files[bitmap_name(shard)] = FileSum.of(bitmap)
            self._kept[shard] = kept

    def add_reference(self, tables: Iterable[pa.Table], **details: Any) -> None:
        """Write which samples of a reference set belong to the split too, with their captions."""
        self._files[REFERENCE] = write_tables(self.path / REFERENCE, REFERENCE_SCHEMA, tables)
        self.note(reference=details)

    def note(self, **details: Any) -> None:
        """Add entries to the manifest."""
        self._details |= details

    def close(self) -> None:
        """Write what is left, and the manifest; from now on this is a keep-list."""
        for shard, known in enumerate(self._store["shards"]):
            if shard not in self._kept:
                self.write(shard, _nothing(known["rows"]))
        if self._has_keys and self._all_uids:
            self._uids.write(self.path / DATACOMP)
            self._files[DATACOMP] = FileSum.of(self.path / DATACOMP)
        self._uids.discard()
        rows = sum(shard["rows"] for shard in self._store["shards"])
        counts = [self._kept[shard] for shard in range(len(self._kept))]
        self.manifest = {
            "format": FORMAT,
            "version": _VERSION,
            "kind": "keep",
            "store": dict(self._store),
            "rule": dict(self._rule),
            "scans": [dict(scan) for scan in self._scans],
            "keys": bool(self._has_keys),
            "counts": {"rows": rows, "kept": sum(counts), "shards": counts},
            "versions": {"clipgap": __version__, "pyarrow": pa.__version__},
            "files": {name: asdict(entry) for name, entry in sorted(self._files.items())},
            **self._details,
        }
        self._folder.finish(self.manifest)

    def __enter__(self) -> KeepWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._uids.discard()

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

    def __init__(self, file: IO[bytes], rows: int) -> None:
        self._file = file
        self._rest = np.zeros(0, np.bool_)
        header = {"descr": "|u1", "fortran_order": False, "shape": (-(-rows // 8),)}
        np.lib.format.write_array_header_1_0(file, header)

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


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_file()]
    except OSError:
        return []
