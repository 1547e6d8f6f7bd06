"""Classes of samples by key, from a table: one label space for sets that lie in different shards.

A table with the columns key and class, such as the labels of a mix. All its classes are those of
the network, whatever is kept of the samples, so that trainings on mixes of one pool agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from clipgap.errors import InputError
from clipgap.select.labels import cite_labels, read_labels

_CLASS = "class"


@dataclass(frozen=True)
class ClassLabels:
    """The class of each key, and the names of all classes in their order."""

    path: Path
    of: Mapping[str, int]
    names: tuple[str, ...]
    sha256: str


def read_class_labels(path: Path) -> ClassLabels:
    """Held in memory; refuses what contradicts itself."""
    named: dict[str, str] = {}
    table = read_labels(path, [_CLASS])
    for key, name in zip(table["key"].to_pylist(), table[_CLASS].to_pylist(), strict=True):
        if not key or not name:
            raise InputError(f"{path}: the row of {key!r} has no key or no {_CLASS}")
        if named.setdefault(key, str(name)) != str(name):
            raise InputError(f"{path}: {key!r} has labels that contradict each other")
    names = tuple(sorted(set(named.values())))
    if len(names) < 2:
        raise InputError(f"{path}: all labels are {names[0]!r}; there must be two classes at least")
    place = {name: number for number, name in enumerate(names)}
    of = {key: place[name] for key, name in named.items()}
    return ClassLabels(path, of, names, cite_labels(str(path))["sha256"])


class ByKey(Protocol):
    """What is known of samples by their keys, as a file says it."""

    @property
    def path(self) -> Path: ...

    @property
    def sha256(self) -> str: ...


Read = TypeVar("Read", bound=ByKey)


def cite(file: ByKey) -> dict[str, str]:
    """As a plan has it."""
    return {"path": str(file.path), "sha256": file.sha256}


def as_planned(cited: Mapping[str, str] | None, read: Callable[[Path], Read]) -> Read | None:
    """What a plan cites, read again: it must say what it said then."""
    if cited is None:
        return None
    file = read(Path(cited["path"]))
    if file.sha256 != cited["sha256"]:
        raise InputError(
            f"{file.path}, or a table that it names, was changed since the run was begun; "
            "put it back to go on, or begin another run (--overwrite)"
        )
    return file
