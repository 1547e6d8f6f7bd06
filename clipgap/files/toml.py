"""Where in a TOML file a key stands: the parser keeps no lines, and an error should name one."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'|#.*')
_KEY = re.compile(r"""\s*((?:[\w.\-\s]|"(?:\\.|[^"\\])*"|'[^']*')+?)\s*=""")
_TRIPLE = ('"""', "'''")

Path = tuple[str, ...]
parse = tomllib.loads
ParseError = tomllib.TOMLDecodeError


class Lines:
    """The line of every table and key of a document that parses."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {(): 1}
        table: Path = ()
        depth, fence = 0, ""
        for number, line in enumerate(text.splitlines(), start=1):
            if fence or depth:
                fence, depth = _after(line, fence, depth)
                continue
            if line.lstrip().startswith("["):
                table = _path_of(_QUOTED.sub(_without_comment, line))
                self._note(table, number)
                continue
            if found := _KEY.match(line):
                self._note((*table, *_path_of(f"{found[1]} = 0")), number)
            fence, depth = _after(line, fence, depth)

    def of(self, *path: str) -> int:
        """The line of a key, or of the nearest table around it."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def _note(self, path: Path, number: int) -> None:
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], number)


def _after(line: str, fence: str, depth: int) -> tuple[str, int]:
    """Inside which multi-line string, and how many brackets, the line leaves us."""
    for mark in (fence,) if fence else _TRIPLE:
        if line.count(mark) % 2:
            return ("" if fence else mark), depth
    if fence:
        return fence, depth
    bare = _QUOTED.sub("", line)
    return "", depth + sum(bare.count(c) for c in "[{") - sum(bare.count(c) for c in "]}")


def _without_comment(found: re.Match[str]) -> str:
    return "" if found[0].startswith("#") else found[0]


def _path_of(line: str) -> Path:
    """The names that one header or one assignment goes through."""
    document: Any = parse(line)
    path: list[str] = []
    while isinstance(document, dict) and document:
        ((name, document),) = document.items()
        path.append(name)
    return tuple(path)


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name."""
    import difflib

    if close := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if known else "there are none"
