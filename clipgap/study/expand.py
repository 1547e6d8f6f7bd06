"""From what a recipe says to stages with every name resolved.

`$set` stands for the members of a list: a stage named with it becomes one stage for each, and an
item of a list of options that holds it becomes one item for each. `{name}` is the output of a
stage, a path or a value; `{name#kept}` is a size in the manifest of a stage's keep-list, known once
it has run; `{{` and `}}` are braces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from clipgap.errors import InputError, UsageError
from clipgap.files.toml import nearest
from clipgap.study.commands import Command, Misfit, commands
from clipgap.study.recipe import NAME, Recipe

_LIST = re.compile(r"\$([A-Za-z][A-Za-z0-9_]*)")
_REFERENCE = re.compile(r"\{\{|\}\}|\{([A-Za-z][A-Za-z0-9_-]*)(#[a-z_]+)?\}")
_SIZE = re.compile(r"\{([A-Za-z][A-Za-z0-9_-]*)#([a-z_]+)\}")

Bound = Mapping[str, str]
Options = Mapping[str, Sequence[str] | bool]


@dataclass(frozen=True)
class Stage:
    """One command of a study."""

    name: str
    command: Command
    place: str  # FILE:LINE
    options: Options  # with {names} still in them
    after: tuple[str, ...]  # stages whose output it reads
    paths: tuple[str, ...]  # entries of [paths] that it reads
    arguments: tuple[str, ...]  # the call; a {name#size} is filled in by `sized`
    out: Path | None

    def sized(self, size_of: Callable[[str, str], int]) -> list[str]:
        """The call with the sizes that only a run of other stages could tell."""
        return [_SIZE.sub(lambda m: str(size_of(m[1], m[2])), word) for word in self.arguments]


def expand(recipe: Recipe, folder: Path) -> dict[str, Stage]:
    """All stages in the order of the file, checked against the command line."""
    if not recipe.stages:
        raise InputError(f"{recipe.file}: there is no [stages.NAME]")
    written = list(_named(recipe))
    names = [name for name, _, _ in written]
    return {
        name: _Resolver(recipe, folder, names, written_as, bound).stage(name)
        for name, written_as, bound in written
    }


def ordered(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """The stages so that each comes after what it reads, else as in the file; no circles."""
    done: dict[str, Stage] = {}
    for name in stages:
        _visit(name, stages, done, [])
    return done


def _visit(
    name: str, stages: Mapping[str, Stage], done: dict[str, Stage], above: Sequence[str]
) -> None:
    if name in done:
        return
    if name in above:
        circle = " → ".join([*above[above.index(name) :], name])
        raise InputError(f"{stages[name].place}: the stages go in a circle: {circle}")
    for earlier in stages[name].after:
        _visit(earlier, stages, done, [*above, name])
    done[name] = stages[name]


def dependants(stages: Mapping[str, Stage], first: Collection[str]) -> set[str]:
    """`first` and every stage that reads, directly or not, what they make; in order of stages."""
    found = set(first)
    for name, stage in stages.items():
        if found.intersection(stage.after):
            found.add(name)
    return found


def check_named(stages: Mapping[str, Stage], names: Sequence[str], flag: str) -> None:
    """Refuse the name of a stage that there is not."""
    for name in names:
        if name not in stages:
            raise UsageError(f"{flag} {name}: no such stage; {nearest(name, list(stages))}")


def _named(recipe: Recipe) -> Iterator[tuple[str, str, Bound]]:
    """(name, name as written, what its lists stand for) of each stage."""
    seen: dict[str, str] = {}
    for written in recipe.stages:
        at = recipe.at("stages", written)
        used = _lists_in(written, recipe, at)
        for members in product(*(recipe.lists[name] for name in used)):
            bound = dict(zip(used, members, strict=True))
            name = _with_lists(written, bound)
            if not NAME.fullmatch(name):
                raise InputError(
                    f"{at}: a stage cannot be called {name!r}: a letter, then letters, digits, "
                    "- and _"
                )
            if name in seen or name in recipe.paths or name in recipe.values:
                first = f" (first at {seen[name]})" if name in seen else ""
                raise InputError(f"{at}: the name {name!r} is given twice{first}")
            seen[name] = at
            yield name, written, bound


def _lists_in(text: str, recipe: Recipe, at: str) -> list[str]:
    used = list(dict.fromkeys(_LIST.findall(text)))
    for name in used:
        if name not in recipe.lists:
            raise InputError(
                f"{at}: [lists] has no {name!r}, which ${name} asks for; "
                f"{nearest(name, list(recipe.lists))}"
            )
    return used


def _with_lists(text: str, bound: Bound) -> str:
    return _LIST.sub(lambda found: bound[found[1]], text)


@dataclass(frozen=True)
class _Resolver:
    """Makes one stage of what is written."""

    recipe: Recipe
    folder: Path
    names: Sequence[str]  # of all stages
    written: str
    bound: Bound

    def stage(self, name: str) -> Stage:
        command = self._command()
        raw = {k: v for k, v in self.recipe.stages[self.written].items() if k != "command"}
        options: dict[str, list[str] | bool] = {}
        for key, value in raw.items():
            at = self._at(key)
            if key not in command.keys:
                raise InputError(f"{at}: {self._unknown(key, command)}")
            try:
                options[key] = command.typed(key, self._listed(value, at), f"{at}: {key!r}")
            except UsageError as error:
                raise InputError(str(error)) from error
        used = self._references(options)
        stages = tuple(reference for reference in used if reference in self.names)
        if name in stages:
            raise InputError(f"{self._at()}: stage {name!r} asks for its own output")
        called = {
            key: value if isinstance(value, bool) else [self._resolved(v) for v in value]
            for key, value in options.items()
        }
        arguments = command.arguments({**called, **command.output(str(self.folder), name)})
        self._check(command, [_SIZE.sub("1", word) for word in arguments])
        return Stage(
            name=name,
            command=command,
            place=self._at(),
            options=options,
            after=stages,
            paths=tuple(reference for reference in used if reference in self.recipe.paths),
            arguments=tuple(arguments),
            out=self.folder / name if command.makes_output else None,
        )

    def _command(self) -> Command:
        asked = _with_lists(self.recipe.stages[self.written]["command"], self.bound)
        known = commands()
        if asked not in known:
            raise InputError(
                f"{self._at('command')}: there is no command {asked!r}; "
                f"{nearest(asked, list(known))}"
            )
        return known[asked]

    def _unknown(self, key: str, command: Command) -> str:
        if command.has(key):
            return f"{key!r} is for `clipgap run` to give, not for a recipe"
        return f"`clipgap {command.name}` has no {key!r}; {nearest(key, command.keys)}"

    def _listed(self, value: Any, at: str) -> Any:
        """The value with `$name` replaced; in a list, an item may become several."""
        if isinstance(value, str):
            if free := [n for n in _lists_in(value, self.recipe, at) if n not in self.bound]:
                raise InputError(
                    f"{at}: ${free[0]} stands for several values here; it belongs into the name of "
                    "the stage, or into a list"
                )
            return _with_lists(value, self.bound)
        if not isinstance(value, list):
            return value
        return [one for item in value for one in self._items(item, at)]

    def _items(self, item: Any, at: str) -> Iterator[Any]:
        if not isinstance(item, str):
            yield item
            return
        free = [n for n in _lists_in(item, self.recipe, at) if n not in self.bound]
        for members in product(*(self.recipe.lists[name] for name in free)):
            yield _with_lists(item, {**self.bound, **dict(zip(free, members, strict=True))})

    def _references(self, options: Options) -> list[str]:
        """Every {name} in the options, each once; refuses those that are nothing."""
        known = [*self.names, *self.recipe.paths, *self.recipe.values]
        used: dict[str, None] = {}
        for key, value in options.items():
            for item in [] if isinstance(value, bool) else value:
                for found in _REFERENCE.finditer(item):
                    name = found[1]
                    if name is None:
                        continue
                    if found[2] and name not in self.names:
                        raise InputError(f"{self._at(key)}: {name!r} is no stage, so it has no "
                                         f"{found[2]}; {nearest(name, self.names)}")  # fmt: skip
                    if name not in known:
                        raise InputError(
                            f"{self._at(key)}: {{{name}}} is no stage, path or value; "
                            f"{nearest(name, known)}. (A brace itself is written {{{{.)"
                        )
                    used[name] = None
        return list(used)

    def _resolved(self, item: str) -> str:
        return substitute(item, self._meaning)

    def _meaning(self, name: str) -> str:
        if name in self.recipe.paths:
            # A path that nobody gave still has to parse, so that the rest can be checked.
            return self.recipe.paths[name].where or f"<{name}>"
        if name in self.recipe.values:
            return str(self.recipe.values[name])
        return str(self.folder / name)

    def _check(self, command: Command, arguments: Sequence[str]) -> None:
        try:
            command.check(arguments)
        except Misfit as misfit:
            written = self.recipe.stages[self.written]
            at = self._at(misfit.key) if misfit.key in written and misfit.key else self._at()
            raise InputError(
                f"{at}: `clipgap {command.name}` refuses this: {misfit.message}"
            ) from misfit

    def _at(self, *key: str) -> str:
        return self.recipe.at("stages", self.written, *key)


def substitute(item: str, meaning: Callable[[str], str]) -> str:
    """Replace {names} and double braces; sizes stay, for `Stage.sized`."""

    def replace(found: re.Match[str]) -> str:
        if found[2]:
            return found[0]
        return meaning(found[1]) if found[1] else found[0][0]

    return _REFERENCE.sub(replace, item)
