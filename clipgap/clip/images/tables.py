"""Images in rows of tables: parquet as on the Hugging Face hub, folders that `datasets` saved.

- Their column is one of structures with `bytes`, as `datasets` writes them, or else one of bytes
  that has one of the names in `NAMES`. `PATH?array=NAME` chooses another, or one of several.
- The key of a row is that of the first column of keys that is there (`store.columns.KEYS`). Where
  there is none, it is FILE/ROW: what the file is called, and the row in it, from 0.
- A row without an image is told of and left out, and of a table that is damaged the rest, as in tar
  shards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipgap.clip.images.reading import CAPTION, IMAGE_EXTENSIONS, RawImage
from clipgap.errors import InputError
from clipgap.files.identity import digest_of
from clipgap.files.naming import Options, parse, suffix_of, unique_names
from clipgap.files.volumes import FILE_THREADS, File
from clipgap.shards.finding import is_shard
from clipgap.shards.names import is_text, texts_in
from clipgap.shards.options import KEY
from clipgap.shards.problems import OnProblem, Problem
from clipgap.store.columns import batches, groups_of, key_column_of, schema_of, tables_at
from clipgap.store.keys import decoding
from clipgap.store.layout import Place
from clipgap.store.opening import place_of

NAMES = ("image", "image_bytes", "img", "bytes", *IMAGE_EXTENSIONS)
CAPTIONS = ("caption", "text", "txt")
"""Columns of captions, the first that is there counts."""

_BYTES, _PATH = "bytes", "path"
_SUFFIXES = (".parquet", ".arrow")
_ROWS = 32  # whose images are in memory at a time


@dataclass(frozen=True)
class ImageTable:
    """One table."""

    name: str  # its stem, with as much of its folder in front as makes it unique
    file: File
    schema: Any
    column: str  # of the images
    rows: int

    @property
    def path(self) -> str:
        return self.file.path

    @property
    def caption(self) -> str | None:
        """The column of captions."""
        return next((name for name in CAPTIONS if name in self.fields), None)

    @property
    def fields(self) -> list[str]:
        """All that may name a row; the path of its image is one, if no column is called so."""
        found = [one.name for one in self.schema if _names(one.type)]
        image = self.schema.field(self.column).type
        has_path = pa.types.is_struct(image) and image.get_field_index(_PATH) >= 0
        return [*found, _PATH] if has_path and _PATH not in found else found

    def describe(self) -> dict[str, Any]:
        """What tells its images from others."""
        digest = f"{self.column}:{digest_of(self.file)}"
        return {"name": self.name, "bytes": self.file.size, "fingerprint": digest}

    def images(self, on_problem: OnProblem, match: str = KEY) -> Iterator[RawImage]:
        """Its images in order, under their keys or under what a field calls them."""
        named = key_column_of(self.schema) if match == KEY else match
        fields = [field for field in dict.fromkeys((named, self.caption)) if field is not None]
        row = 0
        try:
            for batch, said in self._batches(fields, images=True):
                rows = range(row, row + len(batch))
                places = [f"{self.name}/{row}" for row in rows]
                keys = places if named is None else said[0]
                captions = said[-1] if self.caption else [None] * len(batch)
                contents = batch[self.column]
                if pa.types.is_struct(contents.type):
                    contents = pc.struct_field(contents, _BYTES)
                for row, key, caption, content in zip(rows, keys, captions, contents, strict=True):
                    reason = f"row {row:,} of {self.column!r} holds no bytes"
                    if key is None or not is_text(key):
                        key, reason = places[row - rows.start], f"nothing says its {named}"
                    elif content.is_valid:
                        beside = {} if caption is None else {CAPTION: caption.encode()}
                        data = content.as_py()
                        yield RawImage(key, f"{self.path}, {key}", data, len(data), beside)
                        continue
                    on_problem(Problem(self.path, "sample", key, reason))
                row = rows.stop
        except InputError as error:
            on_problem(Problem(self.path, "shard", "", f"behind row {row:,}: {error}"))

    def fields_that_find(self, count: Callable[[Sequence[str]], int]) -> Counter[str]:
        """How many of its rows each field finds; those that find none are left out."""
        found: Counter[str] = Counter()
        for field in self.fields:
            for _, said in self._batches([field]):
                found[field] += count([name for name in said[0] if name is not None])
        return +found

    def _batches(
        self, fields: Sequence[str], images: bool = False
    ) -> Iterator[tuple[Any, list[list[str | None]]]]:
        """Some rows at a time, with what each field says of them."""
        inner = [field for field in fields if field not in self.schema.names]
        columns = [field for field in fields if field not in inner]
        made = batches(self.file, [*columns, *([self.column] if images or inner else [])], 0, _ROWS)
        while True:
            with decoding("it is damaged"):
                if (batch := next(made, None)) is None:
                    return
                batch.validate(full=True)
                said = [
                    texts_in(
                        pc.struct_field(batch[self.column], field)
                        if field in inner
                        else batch[field]
                    )
                    for field in fields
                ]
            yield batch, said


def find_tables(source: str | Path | Sequence[str | Path]) -> list[ImageTable]:
    """The tables of images that `source` names, as shards are named; none if it names other things.

    Whoever names files of tables means them; in a folder they count if it has no tar shards, and
    one of them has images.
    """
    names = [source] if isinstance(source, str | Path) else source
    parts = [part for name in names for part in parse(str(name), Options())]
    if any(suffix_of(part.path) == ".tar" for part in parts):
        return []
    places = [place_of(part) for part in parts]
    if any(not _may_have_tables(place) for place in places):
        return []
    given = [(file, place.options.array) for place in places for file in tables_at(place)]
    with ThreadPoolExecutor(FILE_THREADS) as pool:
        found = list(pool.map(lambda one: _look(*one), given))
    if all(place.listing is not None for place in places) and not any(
        isinstance(one, _Looked) for one in found
    ):
        return []
    problems = [problem for place in places for problem in place.problems]
    problems += [one for one in found if isinstance(one, str)]
    if problems:
        raise InputError.listing("these tables cannot be read as tables of images:", problems)
    unique = unique_names([file.path for file, _ in given])
    return [
        ImageTable(name, file, one.schema, one.column, one.rows)
        for name, (file, _), one in zip(unique, given, found, strict=True)
        if isinstance(one, _Looked)
    ]


@dataclass(frozen=True)
class _Looked:
    schema: Any
    column: str
    rows: int


def _may_have_tables(place: Place) -> bool:
    if place.listing is not None:
        return not any(is_shard(name) for name in place.listing.files)
    return all(suffix_of(file.path) in _SUFFIXES for file in place.files)


def _look(file: File, asked: str | None) -> _Looked | str:
    """What the header of a table says, or why it is no table of images."""
    try:
        schema = schema_of(file)
        return _Looked(schema, _choose(schema, asked), groups_of(file)[-1])
    except InputError as error:
        return f"{file.path}: {error}"


def _choose(schema: Any, asked: str | None) -> str:
    structures = [one.name for one in schema if _holds_bytes(one.type)]
    plain = [one.name for one in schema if _is_bytes(one.type)]
    found = structures or [name for name in plain if name in NAMES]
    if asked is not None and asked not in (*structures, *plain):
        raise InputError(f"has no column of images {asked!r}; it has {', '.join(schema.names)}")
    if asked is None and not found:
        raise InputError(
            "has no column of images: of structures with bytes, or of bytes and called "
            f"{', '.join(NAMES)}. It has {', '.join(schema.names)}; PATH?array=NAME chooses one"
        )
    if asked is None and len(found) > 1:
        raise InputError(
            f"has {len(found)} columns of images: {', '.join(found)}. Choose one: "
            f"PATH?array={found[0]}"
        )
    return asked or found[0]


def _holds_bytes(kind: Any) -> bool:
    place = kind.get_field_index(_BYTES) if pa.types.is_struct(kind) else -1
    return place >= 0 and _is_bytes(kind.field(place).type)


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _names(kind: Any) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)
    )
