"""img_emb/img_emb_N.npy with metadata/metadata_N.parquet, as clip-retrieval writes it.

The folder is called `images` where clip-ood wrote it, and the metadata may lie beside the arrays.
For folders of images clip-ood wrote paths/paths_N.npy in place of the metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass

from clipgap.files.naming import join_path, split_number, split_path, suffix_of
from clipgap.files.volumes import File, read_bytes
from clipgap.store.keys import KeySource, open_parquet_keys
from clipgap.store.layout import (
    Layout,
    Piece,
    Place,
    is_image_shard,
    number_of,
    order,
    with_suffix,
)
from clipgap.store.npy import open_npy, open_npy_texts
from clipgap.store.rows import Resting, RowSource

KNOWN = "img_emb/img_emb_N.npy, images/img_emb_N.npy"
_STATS = "stats"
_PART = re.compile(r"(wip_)?([0-9]+)\.json")
_LARGEST = 1 << 16
_METADATA, _PATHS = ("metadata_", ".parquet"), ("paths_", ".npy")
_FOLDERS = {"img_emb": "clip-retrieval", "images": "clip-ood"}


def recognise(place: Place) -> list[Layout]:
    """Arrays that are named so, or lie in a folder that is: each such folder is a store."""
    found = []
    for name in _FOLDERS:
        if place.listing is not None and name in place.listing.folders:
            inside = place.beside(join_path(place.path, name))
            arrays = with_suffix(inside.files, ".npy") if inside else []
            if arrays := [file for file in arrays if is_image_shard(file)]:
                found.append(_layout(place, f"{name}/img_emb_*.npy", arrays))
    arrays = place.with_suffix(".npy")
    if arrays and all(map(is_image_shard, arrays)):
        found.append(_layout(place, "*.npy", arrays))
    return found


def open_rows(piece: Piece, resting: Resting) -> RowSource:
    return open_npy(piece.file)


def open_keys(file: File, piece: Piece, resting: Resting) -> KeySource:
    if suffix_of(file.path) == ".npy":
        return open_npy_texts(file)
    return open_parquet_keys(file, "image_path", resting)


def _layout(place: Place, seen: str, files: list[File]) -> Layout:
    """img_emb_N.npy, with the keys of the same number near it; N in any padding."""
    how = place.how
    problems: list[str] = []
    folder_name = split_path(split_path(files[0].address)[0])[1]
    if how != "written out":
        numbers = {number_of(file) for file in files}
        empty, problems = _statistics(place, numbers) if how == "folder" else (frozenset(), [])
        problems += order(files, from_zero=how == "folder", empty=empty, gaps=place.options.missing)
    pieces: list[Piece] = []
    beside = {
        folder: _keys_beside(place, folder)
        for folder in dict.fromkeys(split_path(file.address)[0] for file in files)
    }
    for file in files:
        found = beside[split_path(file.address)[0]]
        if found is None:
            pieces.append(Piece(file))
            continue
        number = number_of(file)
        candidates = found.files.get(number, [])
        if len(candidates) != 1:
            what = "no" if not candidates else "more than one"
            problems.append(f"{file.path}: {what} {found.name(number)} belongs to it")
        pieces.append(Piece(file, candidates[0] if candidates else None))
    if how == "folder" and (found := beside[split_path(files[0].address)[0]]) is not None:
        embedded = {number_of(file) for file in files}
        for number in () if place.options.missing else sorted(set(found.files) - embedded):
            problems.append(f"{found.files[number][0].path}: no img_emb_{number}.npy belongs to it")
    return Layout(_FOLDERS.get(folder_name, "clip-retrieval"), seen, pieces, problems)


def _statistics(place: Place, embedded: Collection[int]) -> tuple[frozenset[int], list[str]]:
    """Parts of a run that had no samples, so left no array, and parts that have not ended.

    clip-retrieval writes stats/N.json when part N has ended, and until then stats/wip_N.json. One
    without an array is no worse than one that is missing, where that is allowed.
    """
    inside = _STATS in place.listing.folders if place.listing is not None else False
    listing = place.beside(join_path(place.path, _STATS)) if inside else None
    empty: set[int] = set()
    problems: list[str] = []
    for name, file in (listing.files if listing is not None else {}).items():
        found = _PART.fullmatch(name)
        if found is None:
            continue
        if found[1] and place.options.missing and int(found[2]) not in embedded:
            continue
        if found[1]:
            problems.append(
                f"{file.path}: this part of the run has not ended, or was killed; its arrays may "
                "lack samples. Let clip-retrieval finish it, or name the arrays that are whole"
            )
        elif _is_empty(file):
            empty.add(int(found[2]))
    return frozenset(empty), problems


def _is_empty(file: File) -> bool:
    """Whether the statistics of a part count no sample."""
    try:
        said = json.loads(read_bytes(file, 0, min(file.size, _LARGEST)))
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and not said.get("sample_count", 0)


@dataclass(frozen=True)
class _Beside:
    """The files of keys that lie beside some arrays, by number."""

    prefix: str
    suffix: str
    files: dict[int, list[File]]

    def name(self, number: int) -> str:
        return f"{self.prefix}{number}{self.suffix}"


def _keys_beside(place: Place, folder: str) -> _Beside | None:
    """Those for the arrays of a folder; None if there are none at all."""
    parent, name = split_path(folder)
    nearby = [(folder, *_METADATA)]
    if name in _FOLDERS:
        nearby = [(join_path(parent, "metadata"), *_METADATA), *nearby]
        nearby += [(join_path(parent, "paths"), *_PATHS)]
    for near, prefix, suffix in nearby:
        listing = place.beside(near)
        found = _Beside(prefix, suffix, {})
        for file in with_suffix(listing.files, suffix) if listing is not None else []:
            split = split_number(Piece(file).stem)
            if split and split[0] == prefix:
                found.files.setdefault(split[1], []).append(file)
        if found.files:
            return found
    return None
