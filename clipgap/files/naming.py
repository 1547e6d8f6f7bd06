"""What a user may write where a store is named: `::` joins, braces, globs and `?name=value`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clipgap.errors import UsageError

_OPTIONS = re.compile(r"\?([a-z]+=[^?]*)$")
_SETTINGS = ("array", "dim", "paths")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
_GLOB = re.compile(r"[*?\[]")
_NUMBER = re.compile(r"(.*?)([0-9]+)")
_MOST_NAMES = 1_000_000


@dataclass(frozen=True)
class Options:
    """What a format needs to know beyond the path."""

    array: str | None = None  # of an .npz archive
    dim: int | None = None  # of a raw float32 memmap
    paths: str | None = None  # the S24 paths that belong to a raw memmap


@dataclass(frozen=True)
class Part:
    """One `::` part of a name."""

    path: str
    options: Options


def parse(source: str, defaults: Options) -> list[Part]:
    """Split a name at `::` and take the options off each part."""
    parts = [_part(text, defaults) for text in source.split("::")]
    if not all(part.path for part in parts):
        raise UsageError(f"{source!r} names no file or folder before, after or between '::'")
    return parts


def expand_braces(text: str) -> list[str]:
    """`a{00..02}` → a00 a01 a02; `{x,y}` → x y; several groups multiply, the last one fastest."""
    pieces = _BRACES.split(text)  # fixed text and groups by turns
    choices = [
        _choices(piece, text) if index % 2 else [piece] for index, piece in enumerate(pieces)
    ]
    count = 1
    for options in choices:
        count *= len(options)
        if count > _MOST_NAMES:
            raise UsageError(f"{text!r} stands for more than {_MOST_NAMES:,} names")
    return ["".join(names) for names in itertools.product(*choices)]


def has_braces(text: str) -> bool:
    return bool(_BRACES.search(text))


def has_glob(text: str) -> bool:
    return bool(_GLOB.search(text))


def split_number(stem: str) -> tuple[str, int] | None:
    """A name without its suffix as (prefix, number), or None if it does not end in digits."""
    match = _NUMBER.fullmatch(stem)
    return (match[1], int(match[2])) if match else None


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key under which 2 comes before 10."""
    pieces = re.split(r"([0-9]+)", text)  # text and digits by turns
    return [(int(piece), "") if index % 2 else (-1, piece) for index, piece in enumerate(pieces)]


def gaps(numbers: Sequence[int], first: int) -> list[tuple[int, int]]:
    """The runs (from, to) that ascending `numbers` leave out, from `first` on."""
    runs = []
    for number in numbers:
        if number > first:
            runs.append((first, number - 1))
        first = number + 1
    return runs


def show_runs(runs: Sequence[tuple[int, int]], shown: int = 12) -> str:
    """Runs of numbers for people: 3, 7–9, 12."""
    text = ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs[:shown])
    return text if len(runs) <= shown else f"{text}, …"


def _part(text: str, defaults: Options) -> Part:
    match = _OPTIONS.search(text)
    if not match or (
        # What follows a web address may be the server's own business, a signature say.
        text.startswith(("http://", "https://")) and match[1].partition("=")[0] not in _SETTINGS
    ):
        return Part(text, defaults)
    given = dict(_settings(match[1], text))
    options = Options(
        given.get("array", defaults.array),
        _dim(given["dim"], text) if "dim" in given else defaults.dim,
        given.get("paths", defaults.paths),
    )
    return Part(text[: match.start()], options)


def _settings(query: str, text: str) -> Iterator[tuple[str, str]]:
    for setting in query.split("&"):
        name, _, value = setting.partition("=")
        if name not in _SETTINGS or not value:
            raise UsageError(
                f"{text!r}: {setting!r} is no setting of a store; there are array=NAME (of an "
                ".npz), dim=D and paths=FILE (of a raw float32 memmap)"
            )
        yield name, value


def _dim(value: str, text: str) -> int:
    if not value.isdecimal() or int(value) == 0:
        raise UsageError(f"{text!r}: dim={value} is not a positive whole number")
    return int(value)


def _choices(group: str, text: str) -> list[str]:
    span = _RANGE.fullmatch(group)
    if not span:
        if "," not in group:
            raise UsageError(
                f"{text!r}: {{{group}}} is neither a range like {{00000..01023}} "
                "nor a list like {a,b}"
            )
        return group.split(",")
    first, last = int(span[1]), int(span[2])
    if last < first:
        raise UsageError(f"{text!r}: {{{group}}} runs backwards")
    if last - first >= _MOST_NAMES:
        raise UsageError(f"{text!r} stands for more than {_MOST_NAMES:,} names")
    # As in a shell, a leading zero on either side asks for padding to the longer one.
    padded = any(len(end) > 1 and end[0] == "0" for end in span.groups())
    width = max(map(len, span.groups())) if padded else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]
