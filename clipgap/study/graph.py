"""Which stage comes after which."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from clipgap.errors import InputError, UsageError
from clipgap.files.toml import nearest
from clipgap.study.expand import Stage


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
