"""Checksums of files, as manifests keep them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

_CHUNK = 1 << 20
_THREADS = 4


@dataclass(frozen=True)
class FileSum:
    """What a manifest keeps of a file."""

    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> FileSum:
        """The sum of the file that is there now, read in pieces of bounded size."""
        digest, size = hashlib.sha256(), 0
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
        return cls(digest.hexdigest(), size)

    @classmethod
    def of_bytes(cls, content: bytes) -> FileSum:
        return cls(hashlib.sha256(content).hexdigest(), len(content))


@dataclass(frozen=True)
class ArchiveSum:
    """What a manifest keeps of an archive.

    A CRC-32 finds what disks and networks do to a file. A SHA-256 would take as long as all the
    rest of the copying.
    """

    crc32: str
    size: int

    @classmethod
    def of(cls, path: Path) -> ArchiveSum:
        crc = size = 0
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                crc = zlib.crc32(chunk, crc)
                size += len(chunk)
        return cls(f"{crc:08x}", size)


AnySum: TypeAlias = FileSum | ArchiveSum


def sums_from_json(saved: Mapping[str, Mapping[str, Any]]) -> dict[str, AnySum]:
    """The sums of files as a manifest or a record holds them."""
    return {
        name: ArchiveSum(**entry) if "crc32" in entry else FileSum(**entry)
        for name, entry in saved.items()
    }


def damaged(folder: Path, files: Mapping[str, AnySum]) -> list[str]:
    """Which of these files are missing or differ from their checksum."""

    def check(name: str) -> bool:
        path = folder / name
        # A wrong size settles it without reading.
        right_size = path.is_file() and path.stat().st_size == files[name].size
        return right_size and files[name].of(path) == files[name]

    with ThreadPoolExecutor(_THREADS) as pool:
        whole = pool.map(check, files)
    return [name for name, good in zip(files, whole, strict=True) if not good]
