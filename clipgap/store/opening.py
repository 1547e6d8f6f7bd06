"""`open_store`: from whatever the user named to a store whose every header has been checked."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipgap.errors import InputError
from clipgap.files.addresses import public
from clipgap.files.naming import (
    Options,
    Part,
    find_files,
    join_path,
    parse,
    require_text,
    suffix_of,
    unique_names,
)
from clipgap.files.volumes import FILE_THREADS, volume_of
from clipgap.store import clip_retrieval, columns, datacomp, lance, npy, own, safetensors, semdedup
from clipgap.store.base import Shard, ShardInfo, Store
from clipgap.store.keys import KeySource, ListedKeys
from clipgap.store.layout import Format, Layout, Piece, Place
from clipgap.store.provenance import Models, each_once
from clipgap.store.rows import ArrayRows, Resting, RowSource

FORMATS: tuple[Format, ...] = (
    own,
    semdedup,
    lance,
    clip_retrieval,
    npy,
    datacomp,
    safetensors,
    columns,
)
"""Every format; those that leave no doubt come first."""


_IMAGES = (".tar", ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
_HINTS = {
    ".pt": "numpy.save('rows.npy', torch.load('FILE.pt', weights_only=True).numpy())",
    ".pth": "numpy.save('rows.npy', torch.load('FILE.pth', weights_only=True).numpy())",
    ".csv": "numpy.save('rows.npy', numpy.loadtxt('FILE.csv', numpy.float32, delimiter=','))",
    ".zarr": "numpy.save('rows.npy', zarr.open('FILE.zarr')[:])",
    ".h5": "numpy.save('rows.npy', h5py.File('FILE.h5')['NAME'][:])",
    ".index": "numpy.save('rows.npy', index.reconstruct_n(0, index.ntotal)) in FAISS",
}


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
    """Open a folder, file, glob, brace pattern, `a::b` join, URL, array or table as a store.

    `name` replaces the path in messages and results. `array` chooses an array of `.npz` shards,
    `dim` and `paths` describe a raw float32 memmap; the same can be written into the path as
    `PATH?array=NAME` or `PATH?dim=D&paths=FILE`. Every problem of every header is reported at once.
    """
    if isinstance(source, Store):
        return source
    if hasattr(source, "__arrow_c_stream__"):
        return _table_store(source, name or "<table>", array)
    if not isinstance(source, str | Path):
        return array_store(source, name=name or "<array>")
    path = str(source)
    shown = public(name or path)
    require_text(path)
    parts = [_recognise(part) for part in parse(path, Options(array, dim, paths))]
    problems = [problem for _, layout in parts for problem in layout.problems]
    jobs = [(form, piece) for form, layout in parts for piece in layout.pieces]
    resting = Resting()

    def look(job: tuple[Format, Piece]) -> _Opened:
        return _look(*job, resting)

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
    formats = dict.fromkeys(layout.format for _, layout in parts)
    models = each_once(layout.model for _, layout in parts)
    return _store(shown, "+".join(formats), opened, models)


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


def _table_store(source: Any, name: str, column: str | None) -> Store:
    """A store of one shard over a table in memory, which says itself how Arrow sees it."""
    try:
        table = pa.table(source)
    except (TypeError, ValueError) as error:  # a single column does, too
        raise _no_store(source, name) from error
    # Polars hands over views of text, which are the same to whoever looks keys up.
    plain = [
        field.with_type(pa.large_string()) if str(field.type) == "string_view" else field
        for field in table.schema
    ]
    rows, keys = columns.rows_and_keys(table.cast(pa.schema(plain)), name, column)
    return array_store(rows, keys, name=name)


def _as_numpy(array: Any, name: str) -> np.ndarray[Any, Any]:
    torch = sys.modules.get("torch")  # a tensor can only come from a torch that is loaded
    if torch is not None and isinstance(array, torch.Tensor):
        tensor = array.detach().cpu()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()  # every bfloat16 is a float32
        return tensor.numpy()  # type: ignore[no-any-return]
    if isinstance(array, np.ndarray):
        return array
    raise _no_store(array, name)


def _no_store(source: Any, name: str) -> InputError:
    return InputError(
        f"{name}: a {type(source).__name__} is no store; give a path, a NumPy array, a tensor, "
        "or a table of Arrow, Polars or pandas"
    )


def _recognise(part: Part) -> tuple[Format, Layout]:
    """The one way to read what a part of a name leads to."""
    place = place_of(part)
    found: list[tuple[Format, Layout]] = []
    for form in FORMATS:
        found += [(form, layout) for layout in form.recognise(place)]
        if found and found[-1][1].sure:
            break
    if len(found) > 1:
        seen = [layout.seen for _, layout in found]
        raise InputError(
            f"{public(place.path)}: could be read in {len(seen)} ways, since it holds "
            f"{' and '.join(seen)}. Name the files that are meant, for example "
            f"'{join_path(public(place.path), seen[0])}'"
        )
    if not found:
        raise InputError(_nothing_known(place))
    form, layout = found[0]
    layout.pieces = [replace(piece, options=part.options) for piece in layout.pieces]
    layout.problems = place.problems + layout.problems
    return form, layout


def place_of(part: Part) -> Place:
    """What lies where a part of a name leads to."""
    volume, path = volume_of(part.path)
    if found := find_files(volume, path):
        place = Place(volume, path, part.options, found.how, found.files, None)
        return replace(place, problems=found.problems)
    listing = volume.listing(path)
    if listing is None:
        raise InputError(f"{public(path)}: there is no such file or folder")
    return Place(volume, path.rstrip("/") or "/", part.options, "folder", [], listing)


def _nothing_known(place: Place) -> str:
    known = ", ".join(form.KNOWN for form in FORMATS)
    if place.listing is None:
        suffixes = sorted({suffix_of(file.path) for file in place.files})
        return (
            f"{place.files[0].path}: expected .npy or .npz files, found {', '.join(suffixes)}. "
            f"A raw float32 memmap is named as FILE?dim=D.{_hint(suffixes)}"
        )
    path = public(place.path)
    if own.is_unfinished(place):
        return (
            f"{path}: has {own.EMBEDDINGS}/ and {own.KEYS}/ but no {own.STORE_FILE}, which is "
            "written last: the store was never finished. Write it again."
        )
    folders = (f"{name}/" for name in place.listing.folders)
    names = sorted([*place.listing.files, *folders])
    held = ", ".join(names[:8]) + (f", … ({len(names):,} in all)" if len(names) > 8 else "")
    return (
        f"{path}: holds no embeddings that are known. It holds: {held or 'nothing'}. "
        f"Known are {known}.{_hint([suffix_of(path), *map(suffix_of, [*names, *_inside(place)])])}"
    )


def _inside(place: Place) -> Iterable[str]:
    """The files of its first folder: images often lie in folders called like their classes."""
    if not place.listing or not place.listing.folders:
        return ()
    first = place.volume.listing(f"{place.path}/{min(place.listing.folders)}")
    return sorted(first.files) if first else ()


def _hint(suffixes: Iterable[str]) -> str:
    """What to do with what is no store, but could become one."""
    for suffix in suffixes:
        if suffix in _IMAGES:
            return (
                " These are images: `clipgap embed` makes a store of them, and `clipgap check` "
                "takes them as they are."
            )
        if suffix in (".parquet", ".arrow"):
            return (
                " Of these tables none has a column of lists of floats; where one has images, "
                "`clipgap embed` makes a store of them."
            )
        if suffix in _HINTS:
            return f" Of {suffix} make an array: {_HINTS[suffix]}."
    return ""


def _look(form: Format, piece: Piece, resting: Resting) -> _Opened:
    """Read the headers of one shard; what is wrong comes back as text."""
    source: RowSource | None = None
    keys: KeySource | None = None
    problems = []
    try:
        require_text(piece.file.path)
        source = form.open_rows(piece, resting)
    except InputError as error:
        problems.append(_placed(piece.file.path, error))
    try:
        keys = form.open_keys(piece.keys, piece, resting) if piece.keys else None
    except InputError as error:
        problems.append(_placed(piece.keys.path if piece.keys else "", error))
    if source is not None and keys is not None and source.rows != keys.rows:
        problems.append(
            f"{piece.file.path} has {source.rows:,} rows, "
            f"but {keys.rows:,} keys lie in {piece.keys.path if piece.keys else ''}"
        )
    promised = piece.promise and (piece.promise.rows, piece.promise.dim)
    if source is not None and promised not in (None, (source.rows, source.dim)):
        problems.append(
            f"{piece.file.path}: is {source.rows:,} × {source.dim:,}, but the catalogue of the "
            f"store says {' × '.join(f'{n:,}' for n in promised or ())}"
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


def _store(path: str, kind: str, opened: Sequence[_Opened], models: Models) -> Store:
    shards = []
    names = unique_names([shard.piece.file.path for shard in opened])
    for index, (shard, name) in enumerate(zip(opened, names, strict=True)):
        assert shard.source is not None, "a shard without a source has a problem"
        info = ShardInfo(index, name, shard.source.rows, shard.source.dtype.name)
        shards.append(Shard(info, shard.source, shard.keys))
    return Store(path, kind, shards[0].source.dim, tuple(shards), models)
