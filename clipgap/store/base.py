"""`Store`: shards of embeddings with their keys, read by range."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.files.volumes import FILE_THREADS, File
from clipgap.store.keys import KeySource
from clipgap.store.provenance import UNKNOWN, Models
from clipgap.store.rows import RowSource

_KEY_BLOCK = 65_536


@dataclass(frozen=True)
class ShardInfo:
    """One shard of a store, known from its header."""

    index: int
    name: str  # unique in the store, e.g. "img_emb_0003"
    rows: int
    dtype: str


@dataclass(frozen=True, eq=False)
class Shard:
    """Where the content of one shard comes from."""

    info: ShardInfo
    source: RowSource
    keys: KeySource | None


@dataclass(frozen=True, eq=False, repr=False)
class Store:
    """Embeddings of one dimension in shards; every header was checked when it was opened.

    Reading is by range and thread-safe, and holds no more memory than the range needs.
    """

    path: str  # as the user named it
    format: str
    dim: int
    contents: tuple[Shard, ...]
    models: Models = UNKNOWN

    @cached_property
    def shards(self) -> tuple[ShardInfo, ...]:
        return tuple(shard.info for shard in self.contents)

    @cached_property
    def rows(self) -> int:
        return sum(shard.info.rows for shard in self.contents)

    @cached_property
    def has_keys(self) -> bool:
        return all(shard.keys is not None for shard in self.contents)

    def read(self, shard: int, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) of a shard as stored: float16, float32 or float64, C order."""
        self._check_range(shard, start, stop)
        return self.contents[shard].source.read(start, stop)

    def keys(self, shard: int, start: int, stop: int) -> pa.Array | None:
        """Keys [start, stop) of a shard as strings; None if the store has no keys."""
        self._check_range(shard, start, stop)
        source = self.contents[shard].keys
        return None if source is None else source.read(start, stop)

    def first_key(self) -> str | None:
        """A key, to show what those of the store are like."""
        shard = next((shard.index for shard in self.shards if shard.rows), None)
        keys = None if shard is None else self.keys(shard, 0, 1)
        return None if keys is None else keys.to_pylist()[0]

    def take_keys(self, shard: int, rows: NDArray[np.int64]) -> pa.Array | None:
        """The keys of some rows of a shard, given in ascending order; read block by block."""
        source = self.contents[shard].keys
        if source is None:
            return None
        pieces = [pa.array([], pa.string())]
        for block in np.split(rows, np.flatnonzero(np.diff(rows // _KEY_BLOCK)) + 1):
            if len(block):
                first, last = int(block[0]), int(block[-1])
                pieces.append(source.read(first, last + 1).take(pa.array(block - first)))
        return pa.concat_arrays(pieces)

    def fingerprint(self, shard: int) -> str:
        """Names the content of a shard, wherever it lies and whenever it was written.

        It covers the header, the sizes, and every byte of files up to 1 MiB or 16 evenly spread
        pieces of bigger ones: enough to tell data sets apart, not to find a flipped bit.
        """
        content = self.contents[shard]
        identity = {
            "rows": content.source.rows,
            "dim": content.source.dim,
            "dtype": content.source.dtype.str,
            "embeddings": content.source.digest(),
            "keys": content.keys.digest() if content.keys else None,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def fingerprints(self) -> list[str]:
        """The fingerprint of every shard, many at once since most of it is waiting for files."""
        with ThreadPoolExecutor(FILE_THREADS) as pool:
            return list(pool.map(self.fingerprint, range(len(self.contents))))

    def identity(self) -> dict[str, Any]:
        """What manifests keep of a store: enough to tell it from any other."""
        return {
            "path": self.path,
            "format": self.format,
            "dim": self.dim,
            "rows": self.rows,
            "shards": [
                {
                    "name": shard.name,
                    "rows": shard.rows,
                    "dtype": shard.dtype,
                    "fingerprint": fingerprint,
                }
                for shard, fingerprint in zip(self.shards, self.fingerprints(), strict=True)
            ],
            **self.made_by(),
        }

    def made_by(self) -> dict[str, Any]:
        """What manifests keep of the models; nothing where nothing is known."""
        return {"models": list(self.models)} if any(self.models) else {}

    def files(self) -> Iterator[File]:
        """The files that rows and keys lie in, as far as they lie in files."""
        for content in self.contents:
            for source in (content.source, content.keys):
                file: File | None = getattr(source, "file", None)
                if file is not None:
                    yield file

    def modified(self, shard: int) -> str:
        """A mark that changes when a file of the shard is rewritten in place; "" if unknown."""
        content = self.contents[shard]
        marks = [content.source.modified()]
        if content.keys is not None:
            marks.append(content.keys.modified())
        return "/".join(marks) if any(marks) else ""

    def _check_range(self, shard: int, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.contents[shard].info.rows:
            raise IndexError(
                f"rows {start} to {stop} of shard {shard}, "
                f"which has {self.contents[shard].info.rows}"
            )

    def __repr__(self) -> str:
        return (
            f"Store({self.path!r}, {self.format}, {len(self.contents):,} shards, "
            f"{self.rows:,} rows × {self.dim})"
        )
