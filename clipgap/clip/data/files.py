"""The data files beside this module."""

from __future__ import annotations

import sys
from functools import cache
from importlib.resources import files
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]


@cache
def read_toml(name: str) -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads(_text(name))
    return document


def lines_of(name: str) -> list[str]:
    """Lines of a list, without the comments that say where it comes from."""
    return [line for line in _text(name).splitlines() if line and not line.startswith("#")]


def _text(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
