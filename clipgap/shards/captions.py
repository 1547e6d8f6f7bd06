"""New captions for kept samples: the only way in which a filter changes what it copies."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipgap.errors import InputError
from clipgap.files.identity import whole_digest_of
from clipgap.files.parquet import read_table
from clipgap.files.remote import path_of
from clipgap.files.volumes import File, file_at
from clipgap.shards.archive import Piece
from clipgap.shards.groups import Group
from clipgap.shards.tar import BLOCK, TarReader

EXTENSION = "txt"
_SUFFIX = ".parquet"
_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)


@dataclass(frozen=True)
class CaptionSource:
    """A parquet file with the columns key and caption, or a folder with one such file a shard."""

    path: Path
    files: Mapping[str, File]  # by name
    is_folder: bool

    @classmethod
    def open(cls, path: str | Path) -> CaptionSource:
        path = path_of(path)
        if not path.exists():
            raise InputError(f"{path}: there are no captions, neither as a file nor as a folder")
        if path.is_dir():
            names = sorted(path.glob(f"*{_SUFFIX}"))
            return cls(path, {name.name: file_at(name) for name in names}, True)
        source = cls(path, {path.name: file_at(path)}, False)
        source.of("")  # what is wrong with it shall be known at once
        return source

    def of(self, shard: str) -> Mapping[str, str]:
        """New captions of a shard by key; samples without one keep what they have."""
        if not self.is_folder:
            return self._whole
        path = self.path / f"{shard}{_SUFFIX}"
        return _read(path) if path.exists() else {}

    def describe(self) -> dict[str, Any]:
        """What tells these captions from others."""
        return {
            "files": [
                {"name": name, "sha256": whole_digest_of(file)} for name, file in self.files.items()
            ]
        }

    @cached_property
    def _whole(self) -> Mapping[str, str]:
        return _read(self.path)

    def __getstate__(self) -> dict[str, Any]:
        """What was read stays where it is; a copy of this elsewhere reads it again."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def captioned(reader: TarReader, group: Group[None], caption: str) -> list[Piece]:
    """A sample with another caption: in place of the one it has, or else behind its members."""
    content = caption.encode()
    padding = bytes(-len(content) % BLOCK)
    pieces: list[Piece] = []
    for extension, member in zip(group.contents, group.members, strict=True):
        if extension == EXTENSION:
            at = member.content - BLOCK
            if b"size=" in bytes(reader.read(member.start, at - member.start)):
                raise InputError(f"{group.key}: a caption whose size stands in a PAX header")
            header = _resized(bytes(reader.read(at, BLOCK)), len(content))
            pieces += [(member.start, at), header + content + padding]
        else:
            pieces.append((member.start, member.stop))
    if EXTENSION not in group.contents:
        info = tarfile.TarInfo(f"{group.key}.{EXTENSION}")
        info.size = len(content)
        pieces.append(info.tobuf(tarfile.PAX_FORMAT) + content + padding)
    return pieces


def _resized(header: bytes, size: int) -> bytes:
    changed = bytearray(header)
    changed[_SIZE] = b"%011o\0" % size
    changed[_CHECKSUM] = b" " * 8
    changed[_CHECKSUM] = b"%06o\0 " % sum(changed)
    return bytes(changed)


def _read(path: Path) -> Mapping[str, str]:
    table = read_table(path)
    for column in ("key", "caption"):
        if table.schema.names.count(column) != 1:
            raise InputError(f"{path}: has not one column {column!r}; it needs key and caption")
        if not pa.types.is_string(table.schema.field(column).type):
            raise InputError(f"{path}: the column {column!r} must be of strings")
        if table[column].null_count:
            raise InputError(f"{path}: the column {column!r} has gaps")
    if pc.count_distinct(table["key"]).as_py() < table.num_rows:
        raise InputError(f"{path}: has a key twice")
    return dict(zip(table["key"].to_pylist(), table["caption"].to_pylist(), strict=True))
