"""What a user calls checkpoints and sets: `path`, `name=path`, a pretrained tag."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from clipgap.clip.checkpoints import checkpoint_file
from clipgap.errors import UsageError

RANDOM = "random"
"""Name of random weights, which are asked for with an empty tag."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Named:
    """Something to evaluate, or to evaluate on."""

    name: str  # also that of a file or folder in the output
    value: str


def parse_checkpoints(texts: Sequence[str]) -> list[Named]:
    """Checkpoint files or pretrained tags, each with a name of its own.

    A file's name is its stem if nothing else is said, a tag's the tag.
    """
    if not texts:
        raise UsageError("no checkpoint given: name a file, NAME=FILE, or a pretrained tag")
    found = []
    for text in texts:
        name, value = _split(text)
        file = checkpoint_file(value)
        found.append(Named(name or (file.stem if file else value) or RANDOM, value))
    _check_names(found, "checkpoint", "Tell them apart with NAME=FILE")
    return found


def parse_sets(texts: Sequence[str]) -> list[Named]:
    """NAME=PATH for each set."""
    if not texts:
        raise UsageError("no set given: name one with --data NAME=PATH")
    found = []
    for text in texts:
        name, value = _split(text)
        if not name or not value:
            raise UsageError(f"--data {text}: should be NAME=PATH")
        found.append(Named(name, value))
    _check_names(found, "set", "Each set needs a name of its own")
    return found


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    return (name, value) if equals and "/" not in name else ("", text)


def _check_names(found: Sequence[Named], noun: str, remedy: str) -> None:
    for item in found:
        if not _NAME.fullmatch(item.name):
            raise UsageError(
                f"{item.name!r} cannot be the name of a {noun}: names of files are made of it, so "
                "it may hold letters, digits and _ . + - only. Give another: NAME=" + item.value
            )
    # Names become names of files, and some disks take capital and small letters for the same.
    counts = Counter(item.name.lower() for item in found)
    if twice := [item.name for item in found if counts[item.name.lower()] > 1]:
        raise UsageError(f"{len(twice):,} {noun}s are called {twice[0]!r}. {remedy}.")
