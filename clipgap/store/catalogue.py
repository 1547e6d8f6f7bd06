"""`store.json`, the catalogue of a store in clipgap's own format. It is written last.

STORE/store.json                 what there is: dim, shards with rows and checksums
STORE/embeddings/00000.npy       float16 rows of norm 1
STORE/keys/00000.parquet         the column `key`, then whatever columns the writer was given
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from clipgap.errors import InputError
from clipgap.files.volumes import File, read_bytes

STORE_FILE = "store.json"
EMBEDDINGS = "embeddings"
KEYS = "keys"
KEY_COLUMN = "key"

_FORMAT = "clipgap store"
_VERSION = 1
_LARGEST = 256 << 20


@dataclass(frozen=True)
class Entry:
    """One shard as it was written."""

    name: str
    rows: int
    normalised: int  # rows that had to be scaled to norm 1
    embeddings_sha256: str
    keys_sha256: str | None


@dataclass(frozen=True)
class Catalogue:
    """Everything `store.json` says."""

    dim: int
    keys: bool
    shards: tuple[Entry, ...]

    def to_json(self) -> str:
        content = {"format": _FORMAT, "version": _VERSION, **asdict(self)}
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


def read_catalogue(file: File) -> Catalogue:
    """Parse and check a `store.json`."""
    try:
        if file.size > _LARGEST:
            raise ValueError(f"{file.size:,} bytes are too many")
        content: Any = json.loads(read_bytes(file, 0, file.size))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {_FORMAT!r}")
        if content["version"] != _VERSION:
            raise ValueError(
                f"its version is {content['version']!r}; this clipgap reads {_VERSION}"
            )
        shards = tuple(Entry(**entry) for entry in content["shards"])
        return Catalogue(int(content["dim"]), bool(content["keys"]), shards)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{file.path}: not the catalogue of a clipgap store: {error}") from error
