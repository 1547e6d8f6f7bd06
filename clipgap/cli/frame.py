"""What all commands share: their options become Typer's here.

A command is a function whose first parameter is a `Shell`. Its own options are parameters with an
`option` or `argument` as default; a parameter annotated with a group of options is spread into the
group's fields on the command line and handed over whole. `Common` is added to every command.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import typer

from clipgap.cli import config, words
from clipgap.cli.completion import completion, is_made
from clipgap.cli.shell import Shell, set_up_logging
from clipgap.errors import ShareDone, UsageError
from clipgap.files.addresses import require_local
from clipgap.files.remote import path_of
from clipgap.options import (
    REQUIRED,
    Option,
    Options,
    declaration,
    fields_of,
    group_of,
    is_repeatable,
    option,
)
from clipgap.packages import require_for

if TYPE_CHECKING:
    from clipgap.cli.progress import Watch
    from clipgap.runs.how import How

Body = Callable[..., "int | None"]
P = TypeVar("P", str, Path)


@dataclass(frozen=True)
class Common(Options):
    """Options of every command."""

    json: bool = option(False, "Print the result as JSON; all else goes to stderr.")
    verbose: int = option(
        0,
        "Log each step; -vv also shows tracebacks.",
        flags=("--verbose", "-v"),
        shown=False,
        count=True,
    )
    quiet: bool = option(False, "No progress and no notes, only errors.", flags=("--quiet", "-q"))
    config: Path | None = option(
        None,
        "Take options from a file; those typed here win.",
        metavar="FILE.toml",
        callback=config.load,
        is_eager=True,
    )


@dataclass(frozen=True)
class Running(Options):
    """Options of commands that fill an output folder: how to run, nothing about the result."""

    dry_run: bool = option(False, "Check the inputs, say what would be done, and stop.")
    resume: bool = option(False, "Go on with an unfinished output; mend a damaged one.")
    overwrite: bool = option(False, "Replace an output that is already there.")
    upload: str | None = option(
        None,
        "Put each finished file up there as well, the manifest last.",
        metavar="s3://BUCKET/NAME",
        shown="nowhere",
    )

    def how(self, watch: Watch | None = None) -> How:
        """As the Python API takes it; nothing stands in the way of a dry run."""
        from clipgap.runs.how import How

        return How(
            resume=self.resume and not self.dry_run,
            overwrite=self.overwrite and not self.dry_run,
            on_progress=watch,
            stop=None if watch is None else watch.stop,
            upload=None if self.dry_run else self.upload,
        )


@dataclass(frozen=True)
class Dealt(Running):
    """Options of commands whose work can be dealt to several processes, on any machines."""

    shard_index: tuple[int, ...] = option(
        (),
        "Do only this share of the work, counted from 0, in a folder of its own in OUT.parts. "
        "Repeatable.",
        metavar="I",
    )
    num_shards: int | None = option(
        None, "How many shares there are; `clipgap merge` makes one of them.", metavar="K", min=1
    )
    parts: tuple[str, ...] = option(
        (), "Compute nothing: put these parts together, as `clipgap merge` does.", metavar="PART"
    )
    engine: str | None = option(
        None, "Who does the work.", choices=("ray",), shown="processes and threads here"
    )
    address: str | None = option(
        None,
        "With --engine ray: the cluster, such as 10.0.0.1:6379, or auto for the one that this "
        "machine is of.",
        metavar="HOST:PORT",
        shown="one of its own, on this machine",
    )
    worker_cores: int | None = option(
        None,
        "With --engine ray: cores of a worker.",
        metavar="N",
        min=1,
        shown="all of a node, or its share where there are GPUs; one for filter and label",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("address", "worker_cores"):
            if getattr(self, name) is not None and self.engine is None:
                raise UsageError(f"--{name.replace('_', '-')} goes with --engine ray")
        if (not self.shard_index) != (self.num_shards is None):
            raise UsageError("--shard-index and --num-shards go together; give both or neither")

    def how(self, watch: Watch | None = None) -> How:
        from clipgap.runs.shares import Share

        how, share = super().how(watch), None
        if watch is None:
            return how
        if self.num_shards is not None:
            share = Share(self.shard_index, self.num_shards, watch.call)
        if self.engine is not None:
            from clipgap.runs.on_ray import Ray

            how = replace(how, executor=Ray(self.address, self.worker_cores))
        return replace(how, share=share, parts=self.parts)


@dataclass(frozen=True)
class Tolerance(Options):
    """Options of commands that set damaged inputs aside."""

    allow_bad: int = option(
        0, "Exit with 0 if no more than N are in quarantine.", metavar="N", min=0
    )


def output(metavar: str, help: str = "The folder to make. Needed unless --dry-run.") -> Any:
    """The option that names the folder that a command fills."""
    return option(None, help, flags=("--out", "-o"), metavar=metavar, callback=_local)


def required(out: P | None) -> P:
    """The folder to fill, for a run that is not dry."""
    if out is None:
        raise UsageError("--out is missing: name the folder to make")
    return out


def _local(out: Path | None) -> Path | None:
    """Refused while the call is parsed, before anything is read."""
    if out is not None:
        require_local(out)
    return out


EXAMPLE = "\b\nExample:\n"
"""Begins what a help ends with."""

_NOT_ABOUT_THE_RESULT = {field.name for group in (Common, Dealt) for field in fields(group)}


def command(
    app: typer.Typer, name: str, example: str, settings: Mapping[str, Any] | None = None
) -> Callable[[Body], Body]:
    """Register a function as a command of `app`, with its option groups spread out.

    `example` is what follows its name in the call at the end of its help; `settings` are for how
    Typer parses its call.
    """

    def register(body: Body) -> Body:
        wrapper = _Spread(body)
        help, more = inspect.getdoc(body), dict(settings or {})
        group = app.info.name  # of a command of its own it is no text
        full_name = f"{group} {name}" if isinstance(group, str) else name
        # The mark keeps lines as they are; without it a call would be wrapped like prose.
        epilog = f"{EXAMPLE}{words.command_line(f'clipgap {full_name} {example}', 76)}"
        add = app.command(name, help=help, epilog=epilog, context_settings=more)
        add(wrapper.as_function())
        return body

    return register


def dealt(declared: Any, before: str = "") -> Iterator[str]:
    """The commands below one whose work can be dealt, as they are typed."""
    for name, inner in declared.commands.items():
        if hasattr(inner, "commands"):
            yield from dealt(inner, f"{before}{name} ")
        elif any(parameter.name == "shard_index" for parameter in inner.params):
            yield f"{before}{name}"


class _Spread:
    """Turns the flat parameters that Typer sees into the arguments that the body takes."""

    def __init__(self, body: Body) -> None:
        self.body = body
        hints = get_type_hints(body, include_extras=True)
        _shell, *rest = inspect.signature(body).parameters.values()
        self.groups = {p.name: hints[p.name] for p in rest if group_of(hints[p.name])}
        self.own = {
            p.name: _parameter(p.name, hints[p.name], p.default)
            for p in rest
            if p.name not in self.groups
        }

    def as_function(self) -> Callable[..., int | None]:
        def run(context: typer.Context, **given: Any) -> int | None:
            values = {name: _placed(value) for name, value in given.items()}
            shell = self._shell(context, values)
            require_for(shell.command.partition(" ")[2])
            try:
                return self.body(shell, **self._arguments(values))
            except ShareDone as done:
                shell.result(vars(done), _describe_share(done, values["out"]))
                return 0

        parameters = [
            inspect.Parameter(
                "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
            ),
            *self.own.values(),
            *(field for hint in (*self.groups.values(), Common) for field in _spread(hint)),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__ = self.body.__name__
        return run

    def _arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        arguments = {
            name: tuple(values[name]) if isinstance(values[name], list) else values[name]
            for name in self.own
        }
        for name, hint in self.groups.items():
            arguments[name] = _take(hint, values)
        return arguments

    def _shell(self, context: typer.Context, values: Mapping[str, Any]) -> Shell:
        common = _take(Common, values)
        set_up_logging(common.verbose, common.quiet)
        if common.config is not None:
            config.warn_of_changes(common.config)
        declared = {p.name: p for p in context.command.params}
        typed = {
            name
            for name in declared
            if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
        }
        kept = [name for name in declared if name not in _NOT_ABOUT_THE_RESULT]
        return Shell(
            app=context.find_root().command,
            command=context.command_path,
            json=common.json,
            quiet=common.quiet,
            config_file=common.config,
            settings={
                config.key_of(declared[name]): values[name]
                for name in kept
                if values[name] is not None and (values[name], declared[name].default) != ([], ())
            },
            all_from_config=not typed.intersection(kept),
            is_share=values.get("num_shards") is not None,
            is_dry=bool(values.get("dry_run")),
        )


def _placed(value: Any) -> Any:
    """A path as it is read: in a bucket, if that is what it says."""
    if isinstance(value, list):
        return [_placed(each) for each in value]
    is_there = isinstance(value, Path) and str(value).startswith("s3:/")
    return path_of(value) if is_there else value


def _describe_share(done: ShareDone, out: Path | str) -> Iterator[str]:
    yield f"{done}: {words.plural(done.units, 'unit')}"
    yield f"When all shares are done: {words.to_merge(done.folder.parent, out)}"


def _spread(hint: Any) -> list[inspect.Parameter]:
    """A parameter for each option of a group."""
    hints = get_type_hints(group_of(hint))
    return [_parameter(name, hints[name], field) for name, field in fields_of(hint).items()]


def _take(hint: Any, values: Mapping[str, Any]) -> Any:
    """The group, of what was said."""
    group = group_of(hint)
    assert group is not None
    return group(**{name: values[name] for name in fields_of(hint)})


def _parameter(name: str, hint: Any, field: Any) -> inspect.Parameter:
    """A declared option as a parameter that Typer reads."""
    said, default = declaration(field), field.default
    more: dict[str, Any] = {
        "help": said.help,
        "metavar": said.metavar,
        "callback": _checked(name, said),
        "autocompletion": completion(said),
        **said.more,
    }
    if said.shown is not True:
        more["show_default"] = said.shown
    if said.positional:
        declared = typer.Argument(**more)
    else:
        declared = typer.Option(*(said.flags or _flags(name, default)), **more)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is REQUIRED else default,
        annotation=Annotated[_typed(hint), declared],
    )


def _flags(name: str, default: Any) -> tuple[str, ...]:
    """How an option is typed; a switch that is on has an opposite."""
    flag = f"--{name.replace('_', '-')}"
    return (f"{flag}/--no-{flag[2:]}",) if default is True else (flag,)


def _typed(hint: Any) -> Any:
    """The type that Typer shall read a value as."""
    if is_repeatable(hint):
        return list[get_args(hint)[0]]  # type: ignore[misc]
    return str if get_origin(hint) is Literal else hint


def _checked(name: str, said: Option) -> Callable[[Any], Any] | None:
    """Refuses a value while the call is parsed, which is how recipes ask before they begin."""
    made = is_made(said)
    if not made and not said.choices and said.min is None and said.max is None:
        return None

    def check(value: Any) -> Any:
        if made:
            for each in value if isinstance(value, (list, tuple)) else [value]:
                path_of(str(each))
                path_of(str(each).partition("=")[2])
        if refusal := said.refusal(name, value):
            raise typer.BadParameter(refusal)
        return value

    return check
