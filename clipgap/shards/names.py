"""What a keep-list may call a sample: its key in the tar file, or what a field says of it.

img2dataset writes what it was told of a sample into the `.json` beside the image and into the table
beside the tar file. DataComp's samples are known by the `uid` in there; their keys are numbers
that every download deals out anew.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeGuard

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipgap.errors import InputError
from clipgap.files.volumes import File, RangeReader
from clipgap.shards.finding import TarShard
from clipgap.shards.groups import groups, promised
from clipgap.shards.options import KEY
from clipgap.shards.problems import Problem
from clipgap.shards.tar import Member, TarReader

JSON = "json"

_STATUS, _SUCCESS = "status", "success"
_LARGEST_JSON = 16 << 20
_HALVES = re.compile("[\ud800-\udfff]")

Names = Mapping[str, str]
"""By key. What has no name in a field, or no single one, is not in it."""


def names_in(shard: TarShard, field: str) -> Names:
    """What a field calls the samples of a shard; reads its members where no table tells."""
    if shard.parquet is not None and (listed := names_listed(shard.parquet, field)) is not None:
        return listed
    return _unique((key, name_of(content, field)) for key, content in _described(shard))


def names_listed(table: File, field: str) -> Names | None:
    """The same by the table beside a shard; None if that has no such column."""
    found = _read(table, [KEY, field])
    return None if found is None else _unique(zip(*map(texts_in, found.columns), strict=True))


def name_of(content: Any, field: str) -> str | None:
    """The same of one sample by its .json, whether or not somebody has decoded that already."""
    if isinstance(content, bytes | bytearray | memoryview | str):
        try:
            content = json.loads(content if isinstance(content, str) else bytes(content))
        except (ValueError, RecursionError):
            return None
    value = content.get(field) if isinstance(content, Mapping) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if is_text(value) else None


def has_field(shard: TarShard, field: str) -> bool:
    """Whether the table beside a shard has a column of that name, or else a sample such an entry.

    A shard without samples lacks nothing.
    """
    if shard.parquet is not None and names_listed(shard.parquet, field) is not None:
        return True
    is_empty = True
    for _, content in _described(shard):
        if name_of(content, field) is not None:
            return True
        is_empty = False
    return is_empty


def keys_listed(shard: TarShard) -> list[str] | None:
    """All keys of a shard by the table beside it; None if that may be of another shard.

    It is taken at its word if the statistics beside the shard count as many samples.
    """
    if shard.parquet is None or shard.stats is None:
        return None
    table = _read(shard.parquet, [KEY])
    try:
        if table is None or table.num_rows != promised(shard.stats):
            return None
    except ValueError:
        return None
    keys = texts_in(table[KEY])
    return None if None in keys else [str(key) for key in keys]


def keys_in(shard: TarShard) -> list[str]:
    """All keys of a shard; of one that is damaged, those before the damage."""
    listed = keys_listed(shard)
    return [key for key, _ in _described(shard)] if listed is None else listed


def fields_that_find(shard: TarShard, count: Callable[[Sequence[str]], int]) -> Counter[str]:
    """How many samples of a shard are found by their keys, and by each field that finds any.

    All of a shard is read only where the table beside it finds none of them, or may be another's.
    """

    def hits(found: Mapping[str, Sequence[str]]) -> Counter[str]:
        return +Counter({field: count(values) for field, values in found.items()})

    listed = {} if shard.parquet is None else _fields_listed(shard.parquet)
    keys = keys_listed(shard)
    if keys is not None and (by_table := hits({KEY: keys, **listed})):
        return by_table
    found: dict[str, list[str]] = {KEY: []}
    for key, content in _described(shard):
        found[KEY].append(key)
        for field, value in _texts_of(content):
            found.setdefault(field, []).append(value)
    return hits({**found, **listed})


def _fields_listed(table: File) -> dict[str, list[str]]:
    """What each column of text in the table beside a shard calls its samples."""
    schema = open_table(table).schema_arrow
    texts = [one.name for one in schema if _holds_text(one.type) and one.name not in (KEY, _STATUS)]
    found = _read(table, [KEY, *(name for name in texts if texts.count(name) == 1)])
    if found is None:
        return {}
    keys, *columns = map(texts_in, found.columns)
    listed = {
        name: list(_unique(zip(keys, column, strict=True)).values())
        for name, column in zip(found.column_names[1:], columns, strict=True)
    }
    return {name: values for name, values in listed.items() if values}


def is_text(value: object) -> TypeGuard[str]:
    """Halves of characters are no text, and a zero would end it for some readers."""
    return isinstance(value, str) and "\0" not in value and not _HALVES.search(value)


def _texts_of(content: bytes | None) -> Iterator[tuple[str, str]]:
    try:
        document = json.loads(content) if content else None
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict):
        for field, value in document.items():
            if is_text(value) and field != KEY:
                yield field, value


def _described(shard: TarShard) -> Iterator[tuple[str, bytes | None]]:
    """The key and the .json of each sample; what is wrong with a shard is told when it is read."""
    reader = TarReader(shard.file)

    def take(extension: str, member: Member) -> bytes | None:
        if extension != JSON or member.size > _LARGEST_JSON:
            return None
        return bytes(reader.read(member.content, member.size))

    for group in groups(shard, reader, _no_problem, take):
        yield group.key, group.contents.get(JSON)


def _no_problem(problem: Problem) -> None:
    return None


def _unique(pairs: Iterator[tuple[str | None, str | None]]) -> Names:
    names: dict[str | None, str | None] = {}
    for key, name in pairs:
        names[key] = name if names.setdefault(key, name) == name else None
    return {key: name for key, name in names.items() if key is not None and name is not None}


def _read(table: File, columns: Sequence[str]) -> Any | None:
    """Columns of the samples that a table's shard holds; None if it has not one of each."""
    file = open_table(table)
    names = file.schema_arrow.names
    if any(names.count(column) != 1 for column in columns):
        return None
    wanted = [*columns, _STATUS] if names.count(_STATUS) == 1 else list(columns)
    try:
        found = file.read(columns=wanted)
        if _STATUS in wanted:  # those that img2dataset could not fetch are listed, too
            found = found.filter(pc.equal(found[_STATUS], _SUCCESS))
        return found.select(columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{table.path}: cannot be read: {error}") from error


def open_table(table: File) -> Any:
    """The table beside a shard, of which the shards at hand need several columns in turn."""
    try:
        return pq.ParquetFile(RangeReader(table), metadata=_footer(table))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{table.path}: cannot be read: {error}") from error


@lru_cache(maxsize=64)
def _footer(table: File) -> Any:
    return pq.read_metadata(RangeReader(table))


def _holds_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def texts_in(column: Any) -> list[str | None]:
    """Text, or whole numbers as text; anything else is no name."""
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    if not _holds_text(column.type):
        return [None] * len(column)
    texts: list[str | None] = column.to_pylist()
    return texts
