"""`open_store`: from whatever the user named to a store whose every header has been checked."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from clipgap.errors import InputError
from clipgap.files.naming import Options, Part, parse
from clipgap.files.volumes import FILE_THREADS
from clipgap.store.base import Shard, ShardInfo, Store
from clipgap.store.finding import unique_names
from clipgap.store.keys import (
    KeySource,
    ListedKeys,
    ParquetCursor,
    open_fixed_keys,
    open_parquet_keys,
)
from clipgap.store.layout import Layout, Piece, find_layout
from clipgap.store.npz import open_npz
from clipgap.store.resting import Resting
from clipgap.store.rows import ArrayRows, RowSource, open_npy, open_raw


@dataclass(frozen=True)
class _Opened:
    """One shard after a look at its headers."""

    piece: Piece
    source: RowSource | None
    keys: KeySource | None
    problems: tuple[str, ...]


def open_store(
    source: Any,
    *,
    name: str | None = None,
    array: str | None = None,
    dim: int | None = None,
    paths: str | None = None,
) -> Store:
    """Open a folder, file, glob, brace pattern, `a::b` join, URL, array or tensor as a store.

    `name` replaces the path in messages and results. `array` chooses an array of `.npz` shards,
    `dim` and `paths` describe a raw float32 memmap; the same can be written into the path as
    `PATH?array=NAME` or `PATH?dim=D&paths=FILE`. Every problem of every header is reported at once.
    """
    if isinstance(source, Store):
        return source
    if not isinstance(source, str | Path):
        return array_store(source, name=name or "<array>")
    path = str(source)
    shown = name or path
    layouts = [(part, find_layout(part)) for part in parse(path, Options(array, dim, paths))]
    problems = [problem for _, layout in layouts for problem in layout.problems]
    jobs = [(part, layout, piece) for part, layout in layouts for piece in layout.pieces]
    rows_at_rest: Resting[IO[bytes]] = Resting()
    keys_at_rest: Resting[ParquetCursor] = Resting()

    def look(job: tuple[Part, Layout, Piece]) -> _Opened:
        return _look(*job, rows_at_rest, keys_at_rest)

    with ThreadPoolExecutor(FILE_THREADS) as pool:
        opened = list(pool.map(look, jobs))
    problems += [problem for shard in opened for problem in shard.problems]
    problems += _disagreements(opened)
    problems = problems or _mixed_keys(opened)
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        raise InputError.listing(f"{shown}: {len(problems):,} problems were found:", problems)
    if not opened:
        raise InputError(f"{shown}: has no shards")
    formats = dict.fromkeys(layout.format for _, layout in layouts)
    return _store(shown, "+".join(formats), opened)


def array_store(
    array: Any, keys: Sequence[str] | pa.Array | None = None, *, name: str = "<array>"
) -> Store:
    """A store of one shard over rows in memory: a NumPy array or a torch tensor."""
    rows = _as_numpy(array, name)
    if rows.ndim != 2 or rows.dtype.kind != "f" or rows.dtype.itemsize > 8 or rows.shape[1] == 0:
        raise InputError(
            f"{name}: shape {rows.shape} of {rows.dtype}; "
            "embeddings are a table rows × dimensions of float16, float32 or float64"
        )
    source = ArrayRows(rows)
    listed = None if keys is None else ListedKeys.of(keys)
    if listed is not None and listed.rows != source.rows:
        raise InputError(f"{name}: {source.rows:,} rows but {listed.rows:,} keys")
    info = ShardInfo(0, name.strip("<>"), source.rows, source.dtype.name)
    return Store(name, "array", source.dim, (Shard(info, source, listed),))


def _as_numpy(array: Any, name: str) -> np.ndarray[Any, Any]:
    torch = sys.modules.get("torch")  # a tensor can only come from a torch that is loaded
    if torch is not None and isinstance(array, torch.Tensor):
        tensor = array.detach().cpu()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()  # every bfloat16 is a float32
        return tensor.numpy()  # type: ignore[no-any-return]
    if isinstance(array, np.ndarray):
        return array
    raise InputError(
        f"{name}: a {type(array).__name__} is no store; give a path, a NumPy array or a tensor"
    )


def _look(
    part: Part,
    layout: Layout,
    piece: Piece,
    rows_at_rest: Resting[IO[bytes]],
    keys_at_rest: Resting[ParquetCursor],
) -> _Opened:
    """Read the headers of one shard; what is wrong comes back as text."""
    source: RowSource | None = None
    keys: KeySource | None = None
    problems = []
    try:
        if part.options.dim is not None:
            source = open_raw(piece.file, part.options.dim)
        elif piece.file.path.endswith(".npz"):
            source = open_npz(piece.file, part.options.array, rows_at_rest)
        else:
            source = open_npy(piece.file)
    except InputError as error:
        problems.append(_placed(piece.file.path, error))
    if piece.keys is not None:
        try:
            if layout.key_column is None:
                keys = open_fixed_keys(piece.keys)
            else:
                keys = open_parquet_keys(piece.keys, layout.key_column, keys_at_rest)
        except InputError as error:
            problems.append(_placed(piece.keys.path, error))
    if source is not None and keys is not None and source.rows != keys.rows:
        problems.append(
            f"{piece.file.path} has {source.rows:,} rows, "
            f"but {keys.rows:,} keys lie in {piece.keys.path if piece.keys else ''}"
        )
    if source is not None and piece.promised not in (None, (source.rows, source.dim)):
        problems.append(
            f"{piece.file.path}: is {source.rows:,} × {source.dim:,}, but the catalogue of the "
            f"store says {' × '.join(f'{n:,}' for n in piece.promised or ())}"
        )
    return _Opened(piece, source, keys, tuple(problems))


def _placed(path: str, error: InputError) -> str:
    text = str(error)
    return text if text.startswith(path) else f"{path}: {text}"


def _disagreements(opened: Sequence[_Opened]) -> list[str]:
    """What is only wrong about shards together."""
    problems = []
    dims = Counter(shard.source.dim for shard in opened if shard.source is not None)
    if len(dims) > 1:
        usual = dims.most_common(1)[0][0]
        problems += [
            f"{shard.piece.file.path}: rows have {shard.source.dim:,} dimensions, "
            f"those of {dims[usual]:,} other shards {usual:,}"
            for shard in opened
            if shard.source is not None and shard.source.dim != usual
        ]
    twice = Counter(shard.piece.file.path for shard in opened)
    problems += [f"{path}: named {count} times" for path, count in twice.items() if count > 1]
    return problems


def _mixed_keys(opened: Sequence[_Opened]) -> list[str]:
    """A join of parts with and without keys; within one part a missing key file is reported."""
    without = [shard for shard in opened if shard.keys is None]
    if len(without) in (0, len(opened)):
        return []
    return [
        f"{without[0].piece.file.path}: has no keys, but {len(opened) - len(without):,} of "
        f"{len(opened):,} shards of this store have; join only shards that all have keys or "
        "all have none"
    ]


def _store(path: str, kind: str, opened: Sequence[_Opened]) -> Store:
    shards = []
    names = unique_names([shard.piece.file.path for shard in opened])
    for index, (shard, name) in enumerate(zip(opened, names, strict=True)):
        assert shard.source is not None, "a shard without a source has a problem"
        info = ShardInfo(index, name, shard.source.rows, shard.source.dtype.name)
        shards.append(Shard(info, shard.source, shard.keys))
    return Store(path, kind, shards[0].source.dim, tuple(shards))
