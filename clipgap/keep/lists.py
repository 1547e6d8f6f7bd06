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

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.documents import (
    FILES,
    MANIFEST,
    Each,
    Form,
    checksum,
    is_count,
    is_number,
    read_manifest,
)
from clipgap.files.folders import open_file
from clipgap.files.parquet import FileSum, open_table
from clipgap.files.remote import path_of
from clipgap.files.sums import damaged, sums_from_json
from clipgap.files.volumes import File, volume_of
from clipgap.runs.output import Kind

DATACOMP = "datacomp.npy"
REFERENCE = "reference.parquet"
KEEP_SCHEMA = pa.schema([("shard", pa.int32()), ("row", pa.int64()), ("key", pa.string())])
REFERENCE_SCHEMA = KEEP_SCHEMA.append(pa.field("caption", pa.string()))

_KEEP, _BITMAP = "keep", "bitmap"
_HELD = 64
"""Bitmaps in memory, an eighth of a byte a row: as many as threads may want at a time."""

_SIZES = {
    **dict.fromkeys(("rows", "candidates", "kept", "removed"), is_count),
    **dict.fromkeys(("quarantined", "unlabelled"), (None, is_count)),
    "by_set": (
        None,
        Each({"removed": is_count, "by_no_other": is_count, "also_by": Each(is_count)}),
    ),
    "cut": (None, {"sim": is_number, "equals": is_count, "above": is_count}),
}
"""What was counted while rows were chosen; rules count more than that."""

KIND = Kind(
    Form(
        "clipgap-keep",
        "keep-list",
        {
            "kind": "keep",
            "store": {"shards": [{"name": str, "rows": is_count}]},
            "rule": dict,
            "scans": [{"path": str, "manifest_sha256": str}],
            "keys": bool,
            "counts": {"rows": is_count, "kept": is_count, "shards": [is_count]},
            "sizes": (None, _SIZES),
            "versions": dict,
            "files": FILES,
        },
    ),
    owns=(f"{_KEEP}/part-*.parquet", f"{_BITMAP}/part-*.npy", DATACOMP, REFERENCE),
    inner=(_KEEP, _BITMAP),
    labels={"store": "training store", "store shards": "training shard", "scans": "scan"},
    # Inputs may have moved; what counts is their content.
    free=("path", "format", "models"),
)


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
    _bitmaps: dict[int, NDArray[np.uint8]] = field(default_factory=dict, repr=False)

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
    def sizes(self) -> Mapping[str, Any]:
        """What the rule came to, as far as whoever made the list has said."""
        return self.manifest.get("sizes") or {}

    @property
    def has_keys(self) -> bool:
        return bool(self.manifest["keys"])

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The number of each shard's first row, counted through the store; then that of all."""
        return tuple(accumulate((shard.rows for shard in self.shards), initial=0))

    def bits(self, shard: int, start: int = 0, stop: int | None = None) -> NDArray[np.bool_]:
        """Which of the rows start … stop of a shard are kept; of all its rows by default."""
        rows = self.shards[shard].rows
        stop = rows if stop is None else stop
        if not 0 <= start <= stop <= rows:
            raise IndexError(f"rows {start} to {stop} of shard {shard}, which has {rows}")
        packed = self._bitmap(shard)[start // 8 : -(-stop // 8)]
        unpacked = np.unpackbits(packed, bitorder="little")
        return unpacked[start % 8 : start % 8 + stop - start].view(np.bool_)

    def rows_of(self, shard: int) -> NDArray[np.int64]:
        """The kept rows of a shard, ascending."""
        return np.flatnonzero(self.bits(shard)).astype(np.int64, copy=False)

    def table(self, shard: int) -> pa.Table:
        """The kept rows of a shard: shard, row, key."""
        return pa.concat_tables([KEEP_SCHEMA.empty_table(), *self.row_groups(shard)])

    def row_groups(self, shard: int) -> Iterator[pa.Table]:
        """As `table`, in pieces, for shards larger than memory."""
        return self._read(keep_name(shard), KEEP_SCHEMA, self.shards[shard].kept)

    def keys(self, shard: int) -> pa.ChunkedArray:
        """The keys of the kept rows of a shard, in row order; nulls if the store has no keys."""
        return self.table(shard)["key"]

    def reference(self) -> pa.Table | None:
        """The samples of the reference set that belong to the split, with their captions."""
        if REFERENCE not in self.manifest["files"]:
            return None
        groups = self._read(REFERENCE, REFERENCE_SCHEMA, None)
        return pa.concat_tables([REFERENCE_SCHEMA.empty_table(), *groups])

    def cite(self) -> dict[str, str]:
        """The list as the manifest of another one names it."""
        return {"path": str(self.path), "manifest_sha256": checksum(self.manifest)}

    def damaged(self) -> list[str]:
        """Files whose content is not what was written; reads all of them."""
        return damaged(self.path, sums_from_json(self.manifest["files"]))

    def _read(self, name: str, schema: pa.Schema, rows: int | None) -> Iterator[pa.Table]:
        """A table in pieces, of which the last is given only if all of the file was right."""
        with open_table(self.path / name, FileSum(**self.manifest["files"][name])) as table:
            if not table.schema.equals(schema) or rows not in (None, table.metadata.num_rows):
                raise self._damaged(name, "it has other columns or rows than its manifest says")
            for group in table.groups():
                yield table.read(group)

    def _bitmap(self, shard: int) -> NDArray[np.uint8]:
        """The bits of a shard as they lie in their file, of which every byte is checked."""
        held = self._bitmaps.get(shard)
        if held is None:
            known, name = self.shards[shard], bitmap_name(shard)
            try:
                with open_file(self.path / name) as file:
                    content = file.readall()
            except OSError as error:
                raise InputError(f"cannot read {self.path / name}: {error.strerror}") from error
            if FileSum.of_bytes(content) != FileSum(**self.manifest["files"][name]):
                raise self._damaged(name, "its SHA-256 or size is not that of the manifest")
            header = bitmap_header(known.rows)
            held = np.frombuffer(content, np.uint8)[len(header) :]
            is_bitmap = content.startswith(header) and len(held) == -(-known.rows // 8)
            if not is_bitmap or int(np.bitwise_count(held).sum()) != known.kept:
                raise self._damaged(
                    name, f"it is no bitmap of {known.kept:,} out of {known.rows:,} rows"
                )
            while len(self._bitmaps) >= _HELD:
                self._bitmaps.pop(next(iter(self._bitmaps)), None)
            self._bitmaps[shard] = held
        return held

    def _damaged(self, name: str, why: str) -> InputError:
        return InputError(
            f"{self.path / name} is damaged: {why}. Make the keep-list again with --overwrite."
        )


def bitmap_header(rows: int) -> bytes:
    """How an .npy file of bits begins, for so many rows."""
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (-(-rows // 8),)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def open_keep(path: str | Path | KeepList) -> KeepList:
    """Open a keep-list; every file must be there with its size, contents are checked when read."""
    if isinstance(path, KeepList):
        return path
    keep = read_keep(path)
    sizes = {
        f"{inner}{name}": file.size
        for inner in ("", f"{_KEEP}/", f"{_BITMAP}/")
        for name, file in _files(f"{keep.path}/{inner}").items()
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
    folder = path_of(path)
    manifest = read_manifest(
        folder, KIND.form, "If its making was interrupted, make it again with --resume."
    )
    shards, counts, files = manifest["store"]["shards"], manifest["counts"], manifest["files"]
    names = [name(shard) for shard in range(len(shards)) for name in (keep_name, bitmap_name)]
    problems = [f"it does not list {name}" for name in names if name not in files]
    problems += [f"it has no SHA-256 of {name}" for name in files if "sha256" not in files[name]]
    if len(counts["shards"]) != len(shards):
        problems.append("it counts other shards than its store has")
    elif any(n > shard["rows"] for n, shard in zip(counts["shards"], shards, strict=True)):
        problems.append("it counts more rows of a shard than that has")
    if counts["kept"] != sum(counts["shards"]):
        problems.append("its counts do not add up")
    if counts["rows"] != sum(shard["rows"] for shard in shards):
        problems.append("it counts other rows than its store has")
    if problems:
        raise InputError.listing(f"{folder / MANIFEST} is damaged:", problems)
    return KeepList(folder, manifest)


def _files(folder: str) -> Mapping[str, File]:
    volume, named = volume_of(folder)
    found = volume.listing(named)
    return {} if found is None else found.files
