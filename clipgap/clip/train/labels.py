"""Classes of samples by key, from a table: one label space for sets that lie in different shards.

A table with the columns key and class, such as the labels of a mix. All its classes are those of
the network, whatever is kept of the samples, so that trainings on mixes of one pool agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
