"""What a stage may say: the options of clipgap's own commands, read off the command line itself.

Nothing about an option is written down a second time: names and kinds come from its declaration,
and whether a stage's call fits together is asked of the parser that would run it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

RUNNERS = (
    *("json", "verbose", "quiet", "config", "dry-run", "resume", "overwrite", "out"),
    *("shard-index", "num-shards", "parts"),
)
"""Options that the runner gives or leaves out as it sees fit; no recipe may."""


@dataclass(frozen=True)
class Misfit(Exception):
    """A call that the command line would refuse."""

    message: str
    key: str | None


class Command:
    """One command of the command line, as far as a stage needs to know it."""

    def __init__(self, name: str, declared: Any) -> None:
        from clipgap.cli.config import key_of

        self.name = name
        self._declared = declared
        self._parameters = {key_of(parameter): parameter for parameter in declared.params}

    @property
    def words(self) -> list[str]:
        """Its name as it is typed."""
        return self.name.split()

    @property
    def keys(self) -> list[str]:
        """What a stage may set."""
        own = (*RUNNERS, *(("logs", "name") if self._is_training else ()))
        return [key for key in self._parameters if key not in own]

    def has(self, key: str) -> bool:
        return key in self._parameters

    @property
    def _is_training(self) -> bool:
        """Whether the output is LOGS/NAME, as open_clip has it."""
        return self.has("logs") and self.has("name") and not self.has("out")

    @property
    def makes_output(self) -> bool:
        return self.has("out") or self._is_training

    def typed(self, key: str, value: Any, where: str) -> list[str] | bool:
        """The value as the command line takes it; refuses the wrong kind."""
        from clipgap.cli.config import as_typed

        given = as_typed(self._parameters[key], value, where)
        return given if isinstance(given, (list, bool)) else [given]

    def arguments(self, options: Mapping[str, Sequence[str] | bool]) -> list[str]:
        """The call: what stands without a dash, in its order, and then the options."""
        words: list[str] = []
        places: list[str] = []
        for key, parameter in self._parameters.items():
            if key not in options:
                continue
            value = options[key]
            if parameter.param_type_name == "argument":
                places += value if isinstance(value, (list, tuple)) else []
            elif isinstance(value, bool):
                # A switch without an opposite is turned off by leaving it out.
                words += [f"--{key}"] if value else list(parameter.secondary_opts[:1])
            else:
                words += [f"--{key}={item}" for item in value]
        if any(place.startswith("-") for place in places):
            return [*words, "--", *places]
        return [*places, *words]

    def output(self, folder: str, stage: str) -> dict[str, list[str]]:
        """The options that put the output at FOLDER/STAGE."""
        if self._is_training:
            return {"logs": [folder], "name": [stage]}
        return {"out": [f"{folder}/{stage}"]} if self.has("out") else {}

    def going_on(self, again: bool) -> list[str]:
        """How to take up an unfinished or damaged output, or to replace one."""
        wanted = "overwrite" if again else "resume"
        declared = self._parameters.get(wanted)
        if declared is None:
            return []
        return [f"--{wanted}"] if declared.is_flag else [f"--{wanted}=latest"]

    def check(self, arguments: Sequence[str]) -> None:
        """Have the command line parse the call, without running anything."""
        try:
            self._declared.make_context(self.name, list(arguments))
        except Exception as error:
            if not hasattr(error, "format_message"):  # Typer's errors share no public base
                raise
            from clipgap.cli.config import key_of

            parameter = getattr(error, "param", None)
            key = None if parameter is None else key_of(parameter)
            raise Misfit(error.format_message(), key) from error


@cache
def commands() -> dict[str, Command]:
    """Every command that can be a stage."""
    import typer

    from clipgap.cli.main import STUDIES, app

    group: Any = typer.main.get_command(app)
    found = dict(_leaves(group.commands))
    return {name: Command(name, found[name]) for name in found if name not in STUDIES}


def _leaves(group: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The commands, and those of groups as "group command"."""
    for name, declared in group.items():
        if (inner := getattr(declared, "commands", None)) is not None:
            yield from _leaves(inner, f"{before}{name} ")
        else:
            yield f"{before}{name}", declared
