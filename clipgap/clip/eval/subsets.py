"""Subsets of a set: some of its images, and the classes among which they are told apart.

    [clean]                            # a name of yours
    table = "val-domains"              # a table of keys, a keep-list, or domains
    where = "domain_strict=natural"    # which rows of it; a list, if several conditions must hold

    [queried]
    classes = ["axe", "barn"]          # by folder or by name

    [other]
    all_but = "queried"                # what is of none of the classes of that subset

A subset may have a table and classes, too. Keys are those of `clipgap embed`, so of a
store of the same images. A subset without classes of its own has those of its images. Paths are
seen from the file. The folder of a keep-list in place of a file is a subset of that name.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.clip.data.classes import Classes
from clipgap.errors import InputError
from clipgap.files.naming import beside
from clipgap.files.remote import path_of
from clipgap.files.toml import Lines, ParseError, nearest, parse
from clipgap.select.labels import Condition, key_column, read_any

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_KEYS = ("table", "where", "classes", "all_but")
_SHOWN = 20

NOWHERE = -1
"""Instead of a prediction, where an image is of no subset."""


@dataclass(frozen=True)
class Subset:
    """Which images are of a subset, and among which classes they are told apart."""

    name: str
    classes: tuple[int, ...]  # labels, ascending
    keys: frozenset[str] | None = None  # None: all images of these classes

    def predictions(
        self, keys: Sequence[str], labels: NDArray[np.int64], logits: NDArray[np.float32]
    ) -> NDArray[np.int32]:
        """The likeliest of its classes for each of its images; NOWHERE for others."""
        inside = np.isin(labels, self.classes)
        if self.keys is not None:
            inside &= np.array([key in self.keys for key in keys], np.bool_)
        classes = np.array(self.classes, np.int32)
        best: NDArray[np.int32] = classes[
            logits[:, classes].argmax(axis=1)
        ]  # of equal ones the first
        best[~inside] = NOWHERE
        return best

    def describe(self) -> dict[str, Any]:
        keys = sorted(self.keys) if self.keys is not None else None
        digest = keys and hashlib.sha256("\0".join(keys).encode()).hexdigest()
        return {"name": self.name, "classes": list(self.classes), "keys_sha256": digest}


def read_subsets(
    path: Path, classes: Classes, images: Sequence[tuple[str, int]]
) -> tuple[Subset, ...]:
    """The subsets that a file names, of a set with these images: their keys and labels.

    A folder is one subset, which is called like it.
    """
    if path.is_dir():
        alone = {path.absolute().name: {"table": str(path.absolute())}}
        return _Reader(path, Lines(""), alone, classes, images).subsets()
    try:
        text = path.read_text(encoding="utf-8")
        document = parse(text)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    return _Reader(path, Lines(text), document, classes, images).subsets()


class _Reader:
    """Says of all that is wrong where it stands."""

    def __init__(
        self,
        path: Path,
        lines: Lines,
        document: Mapping[str, Any],
        classes: Classes,
        images: Sequence[tuple[str, int]],
    ) -> None:
        self._path, self._lines, self._document = path, lines, document
        self._classes, self._images = classes, images
        self._times = Counter(key for key, _ in images)

    def subsets(self) -> tuple[Subset, ...]:
        if not self._document:
            raise InputError(
                f"{self._path} names no subset; write a table for each, such as [clean]"
            )
        return tuple(self._subset(name, said) for name, said in self._document.items())

    def _subset(self, name: str, said: Any) -> Subset:
        if not _NAME.fullmatch(name) or not isinstance(said, dict):
            raise self._wrong(
                f"{name!r} cannot be a subset: write [NAME], then {self._choices()}", name
            )
        for key in said:
            if key not in _KEYS:
                raise self._wrong(f"unknown {key!r}; {nearest(key, _KEYS)}", name, key)
        if (
            not said.keys() & {"table", "classes", "all_but"}
            or {"classes", "all_but"} <= said.keys()
        ):
            raise self._wrong(f"[{name}] needs {self._choices()}", name)
        if "where" in said and "table" not in said:
            raise self._wrong("where is said without a table", name, "where")
        own = self._own_classes(name, said)
        keys = self._keys(name, said) if "table" in said else None
        there = {
            label
            for key, label in self._images
            if (keys is None or key in keys) and (own is None or label in own)
        }
        if not there:
            raise self._wrong(f"[{name}] has no image of the set", name)
        return Subset(name, tuple(sorted(there if own is None else own)), keys)

    def _choices(self) -> str:
        return 'table = "…", classes = ["…"] or all_but = "SUBSET"'

    def _own_classes(self, name: str, said: Mapping[str, Any]) -> set[int] | None:
        if "classes" in said:
            return self._labels(name, said["classes"])
        if "all_but" not in said:
            return None
        other = self._document.get(said["all_but"]) if isinstance(said["all_but"], str) else None
        if not isinstance(other, dict) or "classes" not in other:
            raise self._wrong("all_but must name a subset that has classes", name, "all_but")
        return set(range(len(self._classes))) - self._labels(said["all_but"], other["classes"])

    def _labels(self, name: str, said: Any) -> set[int]:
        """Labels of classes, each by all of its folder or its name."""
        if (
            not isinstance(said, list)
            or not said
            or not all(isinstance(each, str) for each in said)
        ):
            raise self._wrong("classes must be a list of names", name, "classes")
        named: dict[str, set[int]] = {}
        for words in (self._classes.names, self._classes.keys):
            for label, word in enumerate(words):
                named.setdefault(word, set()).add(label)
        found: set[int] = set()
        for each in said:
            labels = named.get(each, set())
            if len(labels) != 1:
                problem = "several classes are called" if labels else "there is no class"
                hint = "say it by its folder" if labels else nearest(each, list(named)[:10_000])
                raise self._wrong(f"{problem} {each!r}; {hint}", name, "classes")
            found |= labels
        return found

    def _keys(self, name: str, said: Mapping[str, Any]) -> frozenset[str]:
        """The keys of the rows of a table that meet all conditions, each that of one image."""
        if not isinstance(said["table"], str):
            raise self._wrong("table must be a path", name, "table")
        where = said.get("where", [])
        conditions = [
            Condition.parse(each) for each in ([where] if isinstance(where, str) else where)
        ]
        chosen: list[str] = []
        left_out: set[str] = set()
        for file in _tables(path_of(beside(self._path, said["table"]))):
            table = read_any(file)
            key = key_column(table.column_names)
            for column in (key, *(condition.column for condition in conditions)):
                if column not in table.column_names:
                    wanted = "of keys" if column is None else repr(column)
                    raise InputError(
                        f"{file} has no column {wanted}; it has {', '.join(table.column_names)}"
                    )
            if not pa.types.is_string(table[key].type) and not pa.types.is_large_string(
                table[key].type
            ):
                raise InputError(
                    f"{file}: the keys are {table[key].type}, not text; numbers lose leading zeros"
                )
            if table[key].null_count:
                raise InputError(f"{file}: some of its rows have no key, so they name no image")
            met = np.ones(table.num_rows, np.bool_)
            for condition in conditions:
                met &= condition.holds(table)
            chosen += table[key].filter(pa.array(met)).to_pylist()
            left_out |= set(table[key].filter(pa.array(~met)).to_pylist())
        problems = {
            "are there more than once, so they name no image": _repeated(chosen, left_out),
            "are of no image of the set": [key for key in chosen if not self._times[key]],
            "are of several images of the set": [key for key in chosen if self._times[key] > 1],
        }
        for words, keys in problems.items():
            if keys:
                raise InputError.listing(
                    f"{self._path}, [{name}]: {len(keys):,} of {len(chosen):,} keys of "
                    f"{said['table']} {words}:",
                    [str(key) for key in keys[:_SHOWN]],
                )
        return frozenset(chosen)

    def _wrong(self, problem: str, *place: str) -> InputError:
        return InputError(f"{self._path}, line {self._lines.of(*place):,}: {problem}")


def _repeated(chosen: Sequence[str], left_out: set[str]) -> list[str]:
    times = Counter(chosen)
    return [key for key, n in times.items() if n > 1 or key in left_out]


def _tables(path: Path) -> Iterator[Path]:
    """A table, or those of a folder in the order of their names."""
    if not path.is_dir():
        yield path
        return
    found = sorted(path.rglob("*.parquet"))
    if not found:
        raise InputError(f"{path} holds no .parquet; name a table, or a folder of them")
    yield from found
