"""Lists of classes that come with clipgap: folders, names in prompts, prompts."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from clipgap.clip.data.files import lines_of, read_toml

IMAGENET = "imagenet"


@dataclass(frozen=True)
class Classes:
    """The classes of a set, in the order of their labels."""

    keys: tuple[str, ...]  # what their folders are called
    names: tuple[str, ...]  # what prompts call them
    templates: tuple[str, ...]  # prompts, with {} for the name
    members: tuple[tuple[str, ...], ...]  # which classes of a trained classifier each stands for

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def labels(self) -> Mapping[str, int]:
        """Label by folder."""
        return {key: label for label, key in enumerate(self.keys)}

    @classmethod
    def plain(cls, names: Sequence[str], templates: Sequence[str]) -> Classes:
        """Classes whose folders are called by their names."""
        return cls(tuple(names), tuple(names), tuple(templates), tuple((name,) for name in names))


@cache
def imagenet_ids() -> tuple[str, ...]:
    """WordNet ids of the 1,000 ImageNet classes, in the order of their usual indices."""
    return tuple(lines_of("imagenet.txt"))


@cache
def known_keys(name: str) -> tuple[str, ...]:
    """What the folders of a list of `classes.toml` are called; needs no open_clip."""
    entry = read_toml("classes.toml")[name]
    if "table" in entry:
        return tuple(row["folder"] for row in csv.DictReader(lines_of(entry["table"])))
    if "names" in entry:
        return tuple(entry.get("keys", entry["names"]))
    ids = lines_of(entry["file"])
    return tuple(ids) if entry["folders"] == "ids" else tuple(map(str, range(len(ids))))


@cache
def known_classes(name: str) -> Classes:
    """A list of `classes.toml`; open_clip gives the ImageNet names and prompts."""
    entry = read_toml("classes.toml")[name]
    keys = known_keys(name)
    if "names" in entry:
        names = tuple(entry["names"])
        members = tuple((key,) for key in keys)
    elif "table" in entry:
        rows = list(csv.DictReader(lines_of(entry["table"])))
        names = tuple(row["label"].lower() for row in rows)
        members = tuple(tuple(row["wnids"].split()) for row in rows)
    else:
        ids = lines_of(entry["file"])
        named = dict(zip(imagenet_ids(), _metadata().IMAGENET_CLASSNAMES, strict=True))
        names = tuple(named[wnid] for wnid in ids)
        members = tuple((wnid,) for wnid in ids)
    return Classes(keys, names, _templates(entry["templates"]), members)


def _templates(given: str | Sequence[str]) -> tuple[str, ...]:
    if given != IMAGENET:
        return tuple(given)
    # open_clip's prompts are functions; asked for "{}" they give the prompt.
    return tuple(str(template("{}")) for template in _metadata().OPENAI_IMAGENET_TEMPLATES)


def _metadata() -> Any:
    import open_clip

    return open_clip
