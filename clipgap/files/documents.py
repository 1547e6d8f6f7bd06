"""JSON documents that are equal files when they are equal, read back with suspicion.

Whoever wrote a document last may have been a person with an editor, a failing disk or an enemy. So
a document carries its own checksum, and is held against its `Form` before anything is done by it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from clipgap.errors import InputError
from clipgap.files.folders import is_inside, open_file, read_if_there
from clipgap.files.sums import FileSum, write_file

MANIFEST = "manifest.json"
"""The last file to be written into an output folder: with it the folder is whole."""

SUM = "sha256"
"""The entry of a document that holds the checksum of all its others."""

Shape = Any
"""What must be true of a value: its type, a literal that it must equal, a function that says
whether it will do, a tuple of shapes of which one must fit, a list with the shape of its items, a
mapping with the shapes of some entries, or `Each`. A missing entry counts as None."""


@dataclass(frozen=True)
class Each:
    """A mapping in which every name and every value must fit."""

    shape: Shape
    name: Callable[[str], bool] = bool


def is_count(value: object) -> bool:
    """Whether this can be a number of things."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def is_number(value: object) -> bool:
    """Whether this can be reckoned with: JSON has numbers that no float holds."""
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _is_sum(value: object) -> bool:
    """Whether this is what one of `files.sums` says of a file: its size, and one digest."""
    return (
        isinstance(value, dict)
        and is_count(value.get("size"))
        and [type(value.get(name)) for name in value.keys() - {"size"}] == [str]
        and not value.keys().isdisjoint(("sha256", "crc32", "link"))
    )


FILES = Each(_is_sum, name=is_inside)
"""The files of a folder, by their names in it, with their sums."""


@dataclass(frozen=True)
class Form:
    """A kind of document: its entry `format`, what people call its folder, what it must hold."""

    name: str
    noun: str
    shape: Mapping[str, Shape] = field(default_factory=dict)
    version: int = 1


def encode(document: Mapping[str, Any]) -> bytes:
    """One way to write JSON, so that equal documents are equal files."""
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "surrogateescape")


def checksum(document: Mapping[str, Any]) -> str:
    """The SHA-256 of a document, but for the entry that holds it."""
    rest = {key: value for key, value in document.items() if key != SUM}
    return hashlib.sha256(encode(rest)).hexdigest()


def write_json(path: Path, document: Mapping[str, Any]) -> FileSum:
    """Write plain data as it is."""
    return write_file(path, encode(document))


def write_document(path: Path, form: Form, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Write a document of ours, with all that `read_document` asks of it; returns it."""
    document = {"format": form.name, "version": form.version, **entries}
    document[SUM] = checksum(document)
    write_json(path, document)
    return document


def read_document(path: Path, form: Form) -> dict[str, Any]:
    """A document of this form, or an error that names the file and what is wrong with it."""
    return _checked(_read(path), path, form)


def parse_document(content: bytes, path: str, form: Form) -> dict[str, Any] | None:
    """The same of a file that lies anywhere; None if it is the document of something else."""
    document = _parsed(content, path)
    if not isinstance(document, dict) or document.get("format") != form.name:
        return None
    return _checked(document, path, form)


def _checked(document: Any, path: str | Path, form: Form) -> dict[str, Any]:
    if not isinstance(document, dict) or document.get("format") != form.name:
        raise InputError(f"{path} is not the document of a clipgap {form.noun}")
    if document.get("version") != form.version:
        raise InputError(
            f"{path} has version {_shown(document.get('version'))}; this clipgap reads version "
            f"{form.version}. Use the clipgap that wrote it, or a newer one."
        )
    problems = list(misfits(document, form.shape))
    if not problems and not _is_sealed(document):
        problems = [f"its {SUM} is not that of its other entries"]
    if problems:
        raise InputError.listing(
            f"{path} was damaged or edited since clipgap wrote it. Make the {form.noun} again, or "
            "bring the file back from a copy. What is wrong:",
            problems,
        )
    return document


def read_manifest(folder: Path, form: Form, unfinished: str) -> dict[str, Any]:
    """The manifest of a finished output; `unfinished` says what to do if there is none."""
    path = folder / MANIFEST
    try:
        is_there = path.is_file()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if not is_there:
        raise InputError(
            f"{folder} is not a finished {form.noun}: it has no {MANIFEST}. {unfinished}"
        )
    return read_document(path, form)


def format_of(path: Path) -> str | None:
    """What the document at `path` says that it is; None if no document of ours is there."""
    content = read_if_there(path)
    if content is None:
        return None
    try:
        document = _parsed(content, path)
    except InputError:
        return None
    found = document.get("format") if isinstance(document, dict) else None
    return found if isinstance(found, str) else None


def misfits(value: Any, shape: Shape, where: str = "") -> Iterator[str]:
    """What in a value is not of the shape, each as a sentence that says where."""
    if isinstance(shape, tuple):
        if not any(_fits(value, one) for one in shape):
            # The last alternative is the fullest; what is wrong with that says most.
            yield from misfits(value, shape[-1], where)
    elif isinstance(shape, Each):
        if not isinstance(value, dict):
            yield f"{where or 'it'} is {_shown(value)}, not a mapping"
            return
        for name, item in value.items():
            if not shape.name(name):
                yield f"{where} must not name {_shown(name)}"
            yield from misfits(item, shape.shape, f"{where} {_shown(name)}".strip())
    elif isinstance(shape, Mapping):
        if not isinstance(value, dict):
            yield f"{where or 'it'} is {_shown(value)}, not a mapping"
            return
        for name, inner in shape.items():
            yield from misfits(value.get(name), inner, f"{where} {name}".strip())
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where} is {_shown(value)}, not a list"
            return
        for place, item in enumerate(value):
            yield from misfits(item, shape[0], f"{where} {place}")
    elif not _fits(value, shape):
        yield f"{where} is {_shown(value)}" if value is not None else f"{where} is missing"


def _fits(value: Any, shape: Shape) -> bool:
    if isinstance(shape, type):
        return isinstance(value, shape) and not (shape is int and isinstance(value, bool))
    if isinstance(shape, (tuple, list, Mapping, Each)):
        return next(misfits(value, shape), None) is None
    if callable(shape):
        return bool(shape(value))
    return type(value) is type(shape) and bool(value == shape)


def _is_sealed(document: Mapping[str, Any]) -> bool:
    try:
        return bool(document.get(SUM) == checksum(document))
    except UnicodeEncodeError:  # half of a character, which `encode` has never written
        return False


def _read(path: Path) -> Any:
    try:
        with open_file(path) as file:
            content = file.readall()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    return _parsed(content, path)


def _parsed(content: bytes, path: str | Path) -> Any:
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
