"""Options, declared once: a group is a frozen dataclass, with all that is to be said in its fields.

    @dataclass(frozen=True)
    class ScanOptions(Options):
        k: int = option(32, "Neighbours kept per test point.", metavar="N", min=1, max=64)

The command line makes its options of the groups (`clipgap.cli.frame`), `takes_options` makes
keywords and help of a Python function of them, and recipes ask the command line. What a value may
be is checked when a group is made, so all of them refuse alike.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from clipgap.errors import UsageError

R = TypeVar("R")

REQUIRED = dataclasses.MISSING
"""As the default of an option: there is none, it has to be given."""

_KEY = "clipgap"


@dataclasses.dataclass(frozen=True)
class Option:
    """What is said of an option."""

    help: str
    metavar: str | None
    min: float | None
    max: float | None
    choices: tuple[str, ...]
    flags: tuple[str, ...]  # as it is typed, if not as --name
    shown: str | bool  # the default in words; False: not to be shown
    positional: bool  # stands without a flag on the command line
    more: Mapping[str, Any]  # for the command line alone

    def refusal(self, name: str, value: Any) -> str | None:
        """Why a value cannot be taken."""
        if value is None:
            return None
        if self.choices and value not in self.choices:
            return f"unknown {name} {value!r}; choose one of: {', '.join(self.choices)}"
        low, high = self.min, self.max
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            if high is not None:
                wanted = f"must lie between {low} and {high}"
            else:
                wanted = f"must be at least {low}" if low else "cannot be negative"
            return f"{name} is {value:,}; it {wanted}"
        return None


def option(
    default: Any,
    help: str,
    *,
    metavar: str | None = None,
    min: float | None = None,
    max: float | None = None,
    choices: Sequence[str] = (),
    flags: Sequence[str] = (),
    shown: str | bool = True,
    positional: bool = False,
    **more: Any,
) -> Any:
    """A field of a group, or a parameter of a command."""
    metavar = metavar or "|".join(choices) or None
    declared = Option(
        help, metavar, min, max, tuple(choices), tuple(flags), shown, positional, more
    )
    return dataclasses.field(default=default, metadata={_KEY: declared})


def argument(help: str, *, metavar: str, default: Any = REQUIRED, **said: Any) -> Any:
    """The same for what stands on the command line without a flag."""
    return option(default, help, metavar=metavar, positional=True, **said)


def declaration(field: Any) -> Option:
    """What is said of a field."""
    declared: Option = field.metadata[_KEY]
    return declared


@dataclasses.dataclass(frozen=True)
class Options:
    """What all groups are based on: takes what is meant by a value, refuses what cannot be."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _meant(getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
            if wrong := _misfit(field.name, value, hints[field.name]):
                raise UsageError(wrong)
            if refusal := declaration(field).refusal(field.name, value):
                raise UsageError(refusal)


def is_repeatable(hint: Any) -> bool:
    """Whether an option of this type may be given several times."""
    return get_origin(hint) is tuple


def _meant(value: Any, hint: Any) -> Any:
    """A list, or one alone, where several can be; text for a path."""
    if is_repeatable(hint):
        return (value,) if isinstance(value, str) else tuple(value)
    if isinstance(value, str) and Path in get_args(hint):
        return Path(value)
    return value


def _misfit(name: str, value: Any, hint: Any) -> str | None:
    """Why a number cannot be one; whatever else is wrong is found where it is used."""
    wanted = {int: "a whole number", float: "a number"}
    kinds = [kind for kind in (int, float) if kind is hint or kind in get_args(hint)]
    if not kinds or value is None or is_repeatable(hint) or str in get_args(hint):
        return None
    fits = not isinstance(value, bool) and hasattr(value, "__float__")
    if fits and (float in kinds or hasattr(value, "__index__")):
        return None
    return f"{name} is {value!r}; it must be {wanted[kinds[-1]]}"


@dataclasses.dataclass(frozen=True, init=False)
class Only:
    """`Annotated[Group, Only("name", …)]`: a group of which these can be given."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)


def group_of(hint: Any) -> type[Any] | None:
    """The group that a parameter with this type takes, if it takes one."""
    while (origin := get_origin(hint)) is not None:
        hint = get_args(hint)[0] if origin is Annotated else origin
    return hint if dataclasses.is_dataclass(hint) and isinstance(hint, type) else None


def fields_of(hint: Any) -> dict[str, dataclasses.Field[Any]]:
    """The fields of it that can be given, by name."""
    group = group_of(hint)
    assert group is not None
    only = [name for each in getattr(hint, "__metadata__", ()) for name in each.names]
    fields = {field.name: field for field in dataclasses.fields(group)}
    return {name: fields[name] for name in only} if only else fields


def takes_options(function: Callable[..., R]) -> Callable[..., R]:
    """Let a function's groups be given field by field: `scan(…, k=3)` for its `ScanOptions`.

    Groups are its keywords that are annotated with one and have no default. They can be given
    whole, too. Signature and help show every field.
    """
    signature = inspect.signature(function, eval_str=True)
    groups = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
        and parameter.default is parameter.empty
        and group_of(parameter.annotation) is not None
    }
    own = [p for name, p in signature.parameters.items() if name not in groups]
    fields = {name: fields_of(hint) for name, hint in groups.items()}
    known = [*(p.name for p in own), *(name for group in fields.values() for name in group)]

    @functools.wraps(function)
    def call(*given: Any, **keywords: Any) -> R:
        for name in keywords:
            if name not in known and name not in groups:
                raise UsageError(_unknown(function.__name__, name, known))
        for name, hint in groups.items():
            said = {field: keywords.pop(field) for field in fields[name] if field in keywords}
            if name not in keywords:
                group = group_of(hint)
                assert group is not None
                keywords[name] = group(**said)
            elif said:
                raise UsageError(
                    f"{function.__name__}: {next(iter(said))} is given beside {name}, which holds "
                    "it; give one of them"
                )
        return function(*given, **keywords)

    spread = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is REQUIRED else field.default,
            annotation=field.type,
        )
        for group in fields.values()
        for field in group.values()
    ]
    call.__signature__ = signature.replace(parameters=[*own, *spread])  # type: ignore[attr-defined]
    call.__doc__ = "\n\n".join([inspect.getdoc(function) or "", *_described(fields.values())])
    return call


def _unknown(function: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(known))}"
    return f"{function}: unknown option {name!r}; {hint}"


def _described(groups: Any) -> list[str]:
    """A line or more for each option that says something of itself."""
    lines = []
    for field in (field for group in groups for field in group.values() if field.metadata):
        said = declaration(field)
        text = f"{field.name}: {said.help}"
        if said.choices:
            text += f" One of: {', '.join(said.choices)}."
        if field.default is not REQUIRED:
            default = said.shown if isinstance(said.shown, str) else repr(field.default)
            text += f" Default: {default}."
        lines += textwrap.wrap(text, 96, initial_indent="  ", subsequent_indent="      ")
    return ["\n".join(["Options:", *lines])] if lines else []
