"""What a user may write where files are named: `::` joins, braces, globs and `?name=value`.

Whatever is there under the very name that was given is what is meant, and only then is the name
read as a pattern: a folder may be called `a::b`, `[1]` or `{x}`.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipgap.errors import InputError, UsageError
from clipgap.files.addresses import SETTINGS, public
from clipgap.files.volumes import FILE_THREADS, File, Volume

_OPTIONS = re.compile(r"\?([a-z]+=[^?]*)$")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
_GLOB = re.compile(r"[*?\[]")
_NUMBER = re.compile(r"(.*?)([0-9]+)")
_ALLOWED = "allow"
_MOST_NAMES = 1_000_000
_DEEPEST = 32


Given = str | Path
Named = Mapping[str, Given] | Sequence[Given] | Given
"""Paths with names of their own, or paths that are called like their folders."""


@dataclass(frozen=True)
class Options:
    """What a format needs to know beyond the path."""

    array: str | None = None  # of an .npz archive
    dim: int | None = None  # of a raw float32 memmap
    paths: str | None = None  # the S24 paths that belong to a raw memmap
    missing: bool = False  # whether numbers may be missing from a sequence of shards


@dataclass(frozen=True)
class Part:
    """One `::` part of a name."""

    path: str
    options: Options


Chosen = Literal["folder", "glob", "written out"]
"""How files came to be in a store, which decides what counts as missing."""


@dataclass(frozen=True)
class Found:
    """Files in the order that their name gives them, and those that are not there."""

    files: list[File]
    how: Chosen
    problems: list[str]


def named(given: Named, noun: str) -> dict[str, Given]:
    """Paths by name; a path without one is called like its folder."""
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Given] = {}
    for path in [given] if isinstance(given, str | Path) else given:
        name = Path(path).resolve().name
        if name in found:
            raise UsageError(
                f"two {noun}s are called {name!r}: {found[name]} and {path}; name them apart, as "
                f"in first={path}"
            )
        found[name] = path
    return found


def read_named(given: Sequence[str], option: str) -> dict[str, str]:
    """NAME=PATH, or a path whose last folder is its name."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or "/" in name:
            name, path = Path(text).resolve().name, text
        if not name or not path:
            raise UsageError(f"{option} {text}: write it as NAME=PATH, or as a path alone")
        if name in found:
            raise UsageError(
                f"{option}: {found[name]} and {path} are both called {name!r}; give one another "
                f"name, as in {option} other={path}"
            )
        found[name] = path
    return found


def read_pairs(given: Sequence[str], option: str, what: str, advice: str = "") -> dict[str, str]:
    """NAME=WHAT; `advice` is for whoever gives a name twice."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"{option} {text}: write it as NAME={what}")
        if name in found:
            raise UsageError(f"{option} {name}=… is given twice" + (advice and f"; {advice}"))
        found[name] = value
    return found


def parse(source: str, defaults: Options) -> list[Part]:
    """Split a name at `::` and take the options off each part."""
    return [_part(text, defaults) for text in split_parts(source)]


def allowing_missing(source: str) -> str:
    """The same name, with leave for numbers to be missing from its sequences of shards."""
    return "::".join(
        f"{part}{'&' if _has_settings(part) else '?'}missing={_ALLOWED}"
        for part in split_parts(source)
    )


def beside(file: Path, named: str) -> str:
    """What a file names: as seen from its folder, or an address."""
    return named if "://" in named else str(file.parent / named)


def split_parts(source: str) -> list[str]:
    """The parts of a name between `::`; `a::b` is one part where it is there."""
    pieces, parts = source.split("::"), []
    while pieces:
        count = next(n for n in range(len(pieces), 0, -1) if n == 1 or _is_there(pieces[:n]))
        parts.append("::".join(pieces[:count]))
        del pieces[:count]
    if not all(parts):
        raise UsageError(
            f"{public(source)!r:.200} names no file or folder before, after or between '::'"
        )
    return parts


def find_files(volume: Volume, path: str) -> Found | None:
    """The files that `path` names one by one; None if it can only be a folder."""
    file = volume.file(path)
    if file is not None:
        return Found([file], "written out", [])
    pattern = has_braces(path) or has_glob(path)
    if not pattern or volume.is_folder(path):
        return None
    if has_braces(path):
        return _expanded(volume, path)
    files = sorted(volume.glob(path), key=lambda found: natural(found.path))
    if not files:
        raise InputError(f"{public(path)}: no file matches")
    return Found(files, "glob", [])


def expand_braces(text: str) -> list[str]:
    """`a{00..02}` → a00 a01 a02; `{x,y}` → x y; several groups multiply, the last one fastest.

    A list may hold groups of its own, as in a shell: `{{00..09},{20..29}}`.
    """
    choices: list[list[str]] = []
    at = 0
    for start, stop in _outer_groups(text):
        choices += [[text[at:start]], _choices(text[start + 1 : stop], text)]
        at = stop + 1
    choices.append([text[at:]])
    count = 1
    for options in choices:
        count *= len(options)
        if count > _MOST_NAMES:
            raise UsageError(f"{public(text)!r} stands for more than {_MOST_NAMES:,} names")
    return ["".join(names) for names in itertools.product(*choices)]


def _outer_groups(text: str) -> Iterator[tuple[int, int]]:
    """Where braces that are in no others open and close; braces without a partner are text."""
    opened: list[int] = []
    pairs: list[tuple[int, int]] = []
    for at, letter in enumerate(text):
        if letter == "{":
            opened.append(at)
            if len(opened) > _DEEPEST:
                raise UsageError(f"{public(text)!r:.200} has braces in braces, {_DEEPEST:,} deep")
        elif letter == "}" and opened:
            start = opened.pop()
            pairs = [pair for pair in pairs if pair[0] < start] + [(start, at)]
    yield from pairs


def _split_list(group: str) -> list[str]:
    """The entries of a list; commas in groups of its own are theirs."""
    inside = [range(start, stop) for start, stop in _outer_groups(group)]
    commas = [
        at
        for at, letter in enumerate(group)
        if letter == "," and not any(at in place for place in inside)
    ]
    starts, stops = [0, *(at + 1 for at in commas)], [*commas, len(group)]
    return [group[start:stop] for start, stop in zip(starts, stops, strict=True)]


def has_braces(text: str) -> bool:
    return bool(_BRACES.search(text))


def has_glob(text: str) -> bool:
    return bool(_GLOB.search(text))


def split_path(path: str) -> tuple[str, str]:
    """Folder and name of a path or URL."""
    folder, slash, name = path.rpartition("/")
    return folder or slash, name


def require_text(path: str) -> None:
    """Refuse a name that is not UTF-8, which no table or manifest can hold."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{public(path)!a}: this name is not UTF-8; rename it") from None


def join_path(folder: str, name: str) -> str:
    """The path of what is called `name` in a folder."""
    return f"{folder.rstrip('/')}/{name}" if folder else name


def name_of(path: str) -> str:
    """The last part of a path or address, without the query that an address may have."""
    name = split_path(path.partition("?")[0] if "://" in path else path)[1]
    return name or path


def stem_of(path: str) -> str:
    """The name of a file without its last suffix."""
    name = name_of(path)
    return name.rpartition(".")[0] or name


def suffix_of(path: str) -> str:
    """The last suffix of a name, with its dot; "no suffix" if it has none."""
    name = name_of(path)
    return name[name.rfind(".") :] if "." in name else "no suffix"


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


def _is_there(pieces: Sequence[str]) -> bool:
    """Whether all these pieces together are the name of something local."""
    text = "::".join(pieces)
    return any(os.path.lexists(path) for path in (text, _OPTIONS.sub("", text)))


def _part(text: str, defaults: Options) -> Part:
    match = _OPTIONS.search(text)
    if not match or not _has_settings(text):
        return Part(text, defaults)
    given = dict(_settings(match[1], text))
    options = Options(
        given.get("array", defaults.array),
        _dim(given["dim"], text) if "dim" in given else defaults.dim,
        given.get("paths", defaults.paths),
        _allowed(given["missing"], text) if "missing" in given else defaults.missing,
    )
    return Part(text[: match.start()], options)


def _has_settings(text: str) -> bool:
    """Whether a part of a name ends in settings, rather than in a query or a name with a ?."""
    match = _OPTIONS.search(text)
    if match is None or os.path.lexists(text):
        return False
    # What follows a web address may be the server's own business, a signature say.
    is_web = text.startswith(("http://", "https://"))
    return not is_web or match[1].partition("=")[0] in SETTINGS


def _settings(query: str, text: str) -> Iterator[tuple[str, str]]:
    for setting in query.split("&"):
        name, _, value = setting.partition("=")
        if name not in SETTINGS or not value:
            raise UsageError(
                f"{public(text)!r}: {setting!r} is no setting of a store; there are array=NAME (of "
                "an .npz), dim=D and paths=FILE (of a raw float32 memmap), and missing=allow"
            )
        yield name, value


def _allowed(value: str, text: str) -> bool:
    if value != _ALLOWED:
        raise UsageError(f"{public(text)!r}: missing={value} should be missing={_ALLOWED}")
    return True


def _dim(value: str, text: str) -> int:
    if not value.isdecimal() or int(value) == 0:
        raise UsageError(f"{public(text)!r}: dim={value} is not a positive whole number")
    return int(value)


def _choices(group: str, text: str) -> list[str]:
    span = _RANGE.fullmatch(group)
    if not span:
        entries = _split_list(group)
        if len(entries) == 1:
            raise UsageError(
                f"{public(text)!r}: {{{group}}} is neither a range like {{00000..01023}} "
                "nor a list like {a,b}"
            )
        names = [name for entry in entries for name in expand_braces(entry)]
        if len(names) > _MOST_NAMES:
            raise UsageError(f"{public(text)!r} stands for more than {_MOST_NAMES:,} names")
        return names
    first, last = int(span[1]), int(span[2])
    if last < first:
        raise UsageError(f"{public(text)!r}: {{{group}}} runs backwards")
    if last - first >= _MOST_NAMES:
        raise UsageError(f"{public(text)!r} stands for more than {_MOST_NAMES:,} names")
    # As in a shell, a leading zero on either side asks for padding to the longer one.
    padded = any(len(end) > 1 and end[0] == "0" for end in span.groups())
    width = max(map(len, span.groups())) if padded else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


def _expanded(volume: Volume, path: str) -> Found:
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
        f"{public(name)}: there is no such file"
        for name, file in zip(names, found, strict=True)
        if file is None
    ]
    if not files:
        raise InputError.listing(f"{public(path)}: none of these files is there", problems)
    return Found(files, "written out", problems)
