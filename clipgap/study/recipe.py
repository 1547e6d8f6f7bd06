"""A recipe as it is written: a TOML file, checked for its shape, with the line of every key.

    [study]   title, about, show (stages whose results end the run)
    [paths]   NAME = { about = "what it is", default = "where, seen from this file" }
    [values]  NAME = number, string, true or false
    [lists]   NAME = [ … ]            what $NAME stands for, one after the other
    [stages.NAME]                     command = "…", and that command's options

What a stage's keys mean is not known here: see `clipgap.study.commands`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipgap.errors import InputError
from clipgap.files.naming import beside
from clipgap.files.remote import path_here
from clipgap.files.toml import Lines, ParseError, nearest, parse

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_TABLES = ("study", "paths", "values", "lists", "stages")
_STUDY = ("title", "about", "show")
_PATH = ("about", "default")

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Place:
    """Data that the recipe needs from outside."""

    about: str
    where: str  # "" until somebody says


@dataclass(frozen=True)
class Recipe:
    """What the file says, and where."""

    file: Path
    title: str
    about: str
    paths: Mapping[str, Place]
    values: Mapping[str, Scalar]
    lists: Mapping[str, tuple[str, ...]]
    stages: Mapping[str, Mapping[str, Any]]  # as written: not expanded, not checked
    show: tuple[str, ...]
    text: str = field(repr=False)
    lines: Lines = field(repr=False)

    @property
    def name(self) -> str:
        return self.file.stem

    def at(self, *path: str) -> str:
        """`FILE:LINE` of a key."""
        return f"{self.file}:{self.lines.of(*path)}"


def shipped_recipes() -> dict[str, Path]:
    """Their files by name."""
    package = Path(__file__).parents[1]
    # In a checkout they lie beside the package, as the first thing that a reader sees.
    folders = (package / "recipes", package.parent / "recipes")
    folder = next((one for one in folders if one.is_dir()), folders[0])
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def find_recipe(named: str | Path) -> Path:
    """A file, or the name of a shipped recipe, though a folder may be called so."""
    path = path_here(named)
    known = shipped_recipes()
    if path.is_file() or path.suffix == ".toml" or len(path.parts) > 1:
        return path
    if str(named) not in known:
        raise InputError(f"there is no recipe {str(named)!r}; {nearest(str(named), list(known))}")
    return known[str(named)]


def read_recipe(file: Path, settings: Mapping[str, str] | None = None) -> Recipe:
    """Parse a recipe; `settings` replace paths and values by name."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the recipe {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not valid TOML: {error}") from error
    return parse_recipe(text, file, settings)


def parse_recipe(text: str, file: Path, settings: Mapping[str, str] | None = None) -> Recipe:
    """The same of a text that `file` holds, or is going to hold."""
    try:
        document = parse(text)
    except ParseError as error:
        raise InputError(f"{file} is not valid TOML: {error}") from error
    return _Reader(file, document, text).recipe(settings or {})


class _Reader:
    def __init__(self, file: Path, document: dict[str, Any], text: str) -> None:
        self.file, self.document, self.text = file, document, text
        self.lines = Lines(text)

    def recipe(self, settings: Mapping[str, str]) -> Recipe:
        self._refuse_unknown(self.document, _TABLES)
        for table in self.document:
            if not isinstance(self.document[table], dict):
                raise self._error(f"{table!r} must be a table, [{table}]", table)
        study = self._table("study")
        self._refuse_unknown(study, _STUDY, "study")
        for key in ("title", "about"):
            if not isinstance(study.get(key, ""), str):
                raise self._error(f"{key!r} must be a string", "study", key)
        paths = {name: self._place(name) for name in self._table("paths")}
        values = {name: self._value(name) for name in self._table("values")}
        lists = {name: self._list("lists", name) for name in self._table("lists")}
        self._check_names(paths, values, lists)
        for name, given in settings.items():
            if name in paths:
                paths[name] = Place(paths[name].about, given)
            elif name in values:
                values[name] = given
            else:
                known = [*paths, *values]
                raise InputError(f"--set {name}=…: {self.file} has no {name!r}; "
                                 f"{nearest(name, known)}")  # fmt: skip
        return Recipe(
            file=self.file,
            title=study.get("title", self.file.stem),
            about=study.get("about", ""),
            paths=paths,
            values=values,
            lists=lists,
            stages={name: self._stage(name) for name in self._table("stages")},
            show=self._list("study", "show") if "show" in study else (),
            text=self.text,
            lines=self.lines,
        )

    def _table(self, name: str) -> dict[str, Any]:
        table: dict[str, Any] = self.document.get(name, {})
        return table

    def _place(self, name: str) -> Place:
        given = self._table("paths")[name]
        if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
            raise self._error(
                f'{name!r} must be written {name} = {{ about = "what it is" }}, and may have a '
                '`default = "PATH"`',
                "paths",
                name,
            )
        self._refuse_unknown(given, _PATH, "paths", name)
        if not given.get("about"):
            raise self._error(f"{name!r} lacks `about`: what data is meant?", "paths", name)
        default = given.get("default", "")
        return Place(given["about"], beside(self.file, default) if default else "")

    def _value(self, name: str) -> Scalar:
        given = self._table("values")[name]
        if not isinstance(given, (str, int, float, bool)):
            raise self._error(f"{name!r} must be a number, string, true or false", "values", name)
        return given

    def _list(self, table: str, name: str) -> tuple[str, ...]:
        given = self._table(table)[name]
        whole = isinstance(given, list) and all(type(v) in (str, int, float) for v in given)
        if not whole or not given:
            raise self._error(f"{name!r} must be a list of strings or numbers", table, name)
        return tuple(str(item) for item in given)

    def _stage(self, name: str) -> dict[str, Any]:
        given = self._table("stages")[name]
        if not isinstance(given, dict) or not isinstance(given.get("command"), str):
            raise self._error(
                f'stage {name!r} must be a table with `command = "…"`', "stages", name
            )
        return given

    def _check_names(self, *tables: Mapping[str, object]) -> None:
        seen: set[str] = set()
        for table, names in zip(("paths", "values", "lists"), tables, strict=True):
            for name in names:
                if not NAME.fullmatch(name):
                    raise self._error(
                        f"{name!r}: a name is a letter, then letters, digits, - and _", table, name
                    )
                if name in seen:
                    raise self._error(f"the name {name!r} is given twice", table, name)
                seen.add(name)

    def _refuse_unknown(self, table: Mapping[str, Any], known: tuple[str, ...], *path: str) -> None:
        for key in table:
            if key not in known:
                raise self._error(f"unknown key {key!r}; {nearest(key, known)}", *path, key)

    def _error(self, text: str, *path: str) -> InputError:
        return InputError(f"{self.file}:{self.lines.of(*path)}: {text}")
