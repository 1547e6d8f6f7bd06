"""The sets that clipgap knows by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from clipgap.clip.data.classes import Classes, known_classes, known_keys
from clipgap.clip.data.files import read_toml
from clipgap.errors import UsageError


@dataclass(frozen=True)
class Table:
    """Labels and groups that stand in a file instead of the names of folders."""

    files: tuple[str, ...]  # the first that is there
    images: str  # the folder that holds them, below that of the set
    file: str  # columns: the image,
    label: str  # its label,
    labels: tuple[str, ...]  # the values of the label's column, in the order of the classes
    group: tuple[str, ...] = ()  # and what groups it
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Registered:
    """What is known of a set: how it lies on disk, and what must be true of it."""

    name: str
    title: str
    layout: Literal["folders", "table"]
    list_name: str  # of its classes
    samples: int
    example: str
    get: str
    sources: str
    each: int | None = None
    counts: tuple[int, ...] = ()
    group_counts: Mapping[str, int] = field(default_factory=dict)
    names: str | None = None  # pattern of the file names
    others: int = 0  # class folders that are no classes of this set
    border: int = 0
    table: Table | None = None
    md5: Mapping[str, str] = field(default_factory=dict)
    wds: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """What its class folders are called."""
        return known_keys(self.list_name)

    @property
    def classes(self) -> Classes:
        """Its classes with names and prompts; for ImageNet's, open_clip is needed."""
        return known_classes(self.list_name)


@cache
def registry() -> Mapping[str, Registered]:
    """All sets, by name."""
    return {name: _entry(name, dict(values)) for name, values in read_toml("sets.toml").items()}


def find_set(name: str) -> Registered:
    """The set of this name, or a refusal that suggests one."""
    found = registry().get(name)
    if found is None:
        raise unknown_set(name)
    return found


def unknown_set(name: str) -> UsageError:
    """The refusal of a name that is none of the known ones."""
    known = registry()
    near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(
        f"{name!r} is no set that clipgap knows: {meant}It knows {', '.join(known)}. Any other "
        "set is evaluated with --classnames and --templates."
    )


def _entry(name: str, values: dict[str, Any]) -> Registered:
    table = None
    if values["layout"] == "table":
        table = Table(
            files=tuple(values.pop("table")),
            labels=tuple(values.pop("labels")),
            group=tuple(values.pop("group", ())),
            groups=values.pop("groups", {}),
            **{key: values.pop(key) for key in ("images", "file", "label")},
        )
    counts = tuple(values.pop("counts", ()))
    return Registered(
        name=name, list_name=values.pop("classes"), table=table, counts=counts, **values
    )
