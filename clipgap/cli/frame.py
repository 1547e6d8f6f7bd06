"""What all commands share, declared once.

A command is a function whose first parameter is a `Shell`. Groups of options are dataclasses: a
parameter annotated with one is spread into its fields on the command line and handed over whole.
`Common` is added to every command.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from clipgap.cli import config
from clipgap.cli.shell import Shell, set_up_logging

Body = Callable[..., "int | None"]


@dataclasses.dataclass(frozen=True)
class Common:
    """Options of every command."""

    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; all else goes to stderr.")
    ] = False
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            help="Log each step; -vv also shows tracebacks.",
        ),
    ] = 0
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no notes, only errors.")
    ] = False
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.toml",
            help="Take options from a file; those typed here win.",
            callback=config.load,
            is_eager=True,
        ),
    ] = None


@dataclasses.dataclass(frozen=True)
class Running:
    """Options of commands that fill an output folder: how to run, nothing about the result."""

    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the inputs, say what would be done, and stop.")
    ] = False
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished output; mend a damaged one.")
    ] = False
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that is already there.")
    ] = False


_NOT_ABOUT_THE_RESULT = {f.name for group in (Common, Running) for f in dataclasses.fields(group)}


def command(app: typer.Typer, name: str) -> Callable[[Body], Body]:
    """Register a function as a command of `app`, with its option groups spread out."""

    def register(body: Body) -> Body:
        wrapper = _Spread(body)
        app.command(name, help=inspect.getdoc(body))(wrapper.as_function())
        return body

    return register


class _Spread:
    """Turns the flat parameters that Typer sees into the arguments that the body takes."""

    def __init__(self, body: Body) -> None:
        self.body = body
        hints = get_type_hints(body, include_extras=True)
        self.plain: list[inspect.Parameter] = []
        self.groups: dict[str, type[Any]] = {}
        _shell, *rest = inspect.signature(body).parameters.values()
        for parameter in rest:
            hint = hints[parameter.name]
            if dataclasses.is_dataclass(hint):
                assert isinstance(hint, type)
                self.groups[parameter.name] = hint
            else:
                self.plain.append(
                    parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY)
                )

    def as_function(self) -> Callable[..., int | None]:
        def run(context: typer.Context, **values: Any) -> int | None:
            return self.body(self._shell(context, values), **self._arguments(values))

        parameters = [
            inspect.Parameter(
                "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
            ),
            *self.plain,
            *(field for group in self.groups.values() for field in _fields(group)),
            *_fields(Common),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__ = self.body.__name__
        return run

    def _arguments(self, values: dict[str, Any]) -> dict[str, Any]:
        arguments = {p.name: values[p.name] for p in self.plain}
        for name, group in self.groups.items():
            arguments[name] = _take(group, values)
        return arguments

    def _shell(self, context: typer.Context, values: dict[str, Any]) -> Shell:
        common = _take(Common, values)
        set_up_logging(common.verbose, common.quiet)
        keys = {p.name: config.key_of(p) for p in context.command.params}
        typed = {
            name
            for name in keys
            if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
        }
        kept = [name for name in keys if name not in _NOT_ABOUT_THE_RESULT]
        return Shell(
            command=context.command_path,
            json=common.json,
            quiet=common.quiet,
            config_file=common.config,
            settings={keys[name]: values[name] for name in kept if values[name] is not None},
            all_from_config=not typed.intersection(kept),
        )


def _fields(group: type[Any]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        default = field.default
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
            annotation=hints[field.name],
        )


def _take(group: type[Any], values: dict[str, Any]) -> Any:
    return group(**{field.name: values[field.name] for field in dataclasses.fields(group)})
