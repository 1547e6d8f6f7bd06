"""The files that a name means, where it is not a whole folder: one file, braces or a glob."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from clipgap.errors import InputError
from clipgap.files.naming import expand_braces, has_braces, has_glob, natural
from clipgap.files.volumes import FILE_THREADS, File, Volume

Chosen = Literal["folder", "glob", "written out"]
"""How files came to be in a store, which decides what counts as missing."""


@dataclass(frozen=True)
class Found:
    """Files in the order that their name gives them, and those that are not there."""

    files: list[File]
    how: Chosen
    problems: list[str]


def find_files(volume: Volume, path: str) -> Found | None:
    """The files that `path` names one by one; None if it can only be a folder."""
    file = volume.file(path)
    if file is not None:
        return Found([file], "written out", [])
    if has_braces(path):
        return _braces(volume, path)
    if has_glob(path):
        files = sorted(volume.glob(path), key=lambda found: natural(found.path))
        if not files:
            raise InputError(f"{path}: no file matches")
        return Found(files, "glob", [])
    return None


def split_path(path: str) -> tuple[str, str]:
    """Folder and name of a path or URL."""
    folder, slash, name = path.rpartition("/")
    return folder or slash, name


def stem_of(path: str) -> str:
    """The name of a file without its last suffix."""
    name = split_path(path)[1]
    return name.rpartition(".")[0] or name


def unique_names(paths: Sequence[str]) -> list[str]:
    """The stem of each file, with as much of its folder in front as it takes to be unique."""
    names = [stem_of(path) for path in paths]
    folders = [split_path(path)[0] for path in paths]
    while clashes := {name for name, count in Counter(names).items() if count > 1}:
        for index, name in enumerate(names):
            if name in clashes:
                folders[index], last = split_path(folders[index])
                names[index] = f"{last}/{name}"
    return names


def _braces(volume: Volume, path: str) -> Found:
    names = expand_braces(path)
    folders = {folder: volume.listing(folder or ".") for folder, _ in map(split_path, names)}

    def find(name: str) -> File | None:
        folder, last = split_path(name)
        listing = folders[folder]
        # Web servers often serve files but list no folders, so what is not listed is asked for.
        return (listing.files.get(last) if listing else None) or volume.file(name)

    with ThreadPoolExecutor(FILE_THREADS) as pool:
        found = list(pool.map(find, names))
    files = [file for file in found if file is not None]
    problems = [
        f"{name}: there is no such file"
        for name, file in zip(names, found, strict=True)
        if file is None
    ]
    if not files:
        raise InputError.listing(f"{path}: none of these files is there", problems)
    return Found(files, "written out", problems)
