"""Options are told once: command line, Python API and recipes have them from the same groups."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pydoc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import typer

import clipgap
from clipgap.cli import (
    analyze,
    data,
    dedup,
    embed,
    emulate,
    eval,
    export,
    filter,
    main,
    render,
    report,
    scan,
    train,
    verify,
)
from clipgap.cli.config import key_of
from clipgap.cli.frame import Common, Dealt, Running, Tolerance
from clipgap.errors import UsageError
from clipgap.kernels import choose
from clipgap.kernels.options import KERNELS, Compute
from clipgap.options import Only, Options, declaration, fields_of, group_of, option, takes_options
from clipgap.scan.api import gap as gap_api
from clipgap.scan.api import scan as scan_api
from clipgap.scan.options import ScanOptions
from clipgap.study.commands import Misfit, commands
from clipgap.synthetic.render import render as render_api

PACKAGE = Path(clipgap.__file__).parent
LEAVES = {
    name: command
    for name, command in (
        *typer.main.get_command(main.app).commands.items(),  # type: ignore[attr-defined]
        *(
            (f"{group} {name}", inner)
            for group in ("store", "data")
            for name, inner in typer.main.get_command(main.app).commands[group].commands.items()  # type: ignore[attr-defined]
        ),
    )
    if not hasattr(command, "commands")
}
TWICE: dict[str, tuple[Callable[..., Any], tuple[Callable[..., Any], ...]]] = {
    "scan": (scan.scan, (scan_api,)),
    "gap": (scan.gap, (gap_api,)),
    "dedup": (dedup.dedup, (clipgap.dedup,)),
    "embed": (embed.embed, (clipgap.embed,)),
    "eval": (eval.evaluate, (clipgap.evaluate,)),
    "analyze": (analyze.analyze, (clipgap.analyze,)),
    "filter": (filter.filter_shards, (clipgap.filter_shards,)),
    "train": (train.train, (clipgap.train,)),
    "report": (report.report, (clipgap.report,)),
    "data caption": (data.caption, (clipgap.caption_folder,)),
    "render": (render.render, (render_api,)),
    "emulate": (emulate.emulate, (clipgap.emulate,)),
    "export": (export.export, (clipgap.export,)),
    "verify": (verify.verify, (clipgap.verify, clipgap.verify)),
}
"""Commands, with what does the same in Python."""


def groups(function: Callable[..., Any]) -> Iterator[Any]:
    for hint in get_type_hints(function, include_extras=True).values():
        group, not_of_python = group_of(hint), (Running, Dealt, Tolerance, scan.Moved)
        if group is not None and issubclass(group, Options) and group not in not_of_python:
            yield hint


def every_group(base: type[Options] = Options) -> Iterator[type[Options]]:
    for group in base.__subclasses__():
        if group.__module__.startswith("clipgap."):
            yield group
            yield from every_group(group)


@pytest.mark.parametrize("name", TWICE)
def test_command_and_function_have_the_same_defaults(name: str) -> None:
    body, functions = TWICE[name]
    typed = {parameter.name: parameter for parameter in LEAVES[name].params}
    known = {k: p for f in functions for k, p in inspect.signature(f).parameters.items()}
    found = [field for hint in groups(body) for field in fields_of(hint).values()]
    assert found
    for field in found:
        assert known[field.name].default == field.default, field.name
        assert typed[field.name].default == field.default, field.name


@pytest.mark.parametrize("group", list(every_group()), ids=lambda group: group.__name__)
def test_every_option_says_what_it_is(group: type[Options]) -> None:
    assert inspect.getdoc(group), "so does the group"
    for field in dataclasses.fields(group):
        said = declaration(field)
        assert said.help.endswith((".", "…")), field.name
        assert field.type == "bool" or said.metavar or said.more.get("count"), field.name


@pytest.mark.parametrize("name", LEAVES)
def test_every_parameter_has_help_and_a_name_for_its_value(name: str) -> None:
    for parameter in LEAVES[name].params:
        assert parameter.help, key_of(parameter)
        assert parameter.metavar or parameter.is_flag or parameter.count, key_of(parameter)


def test_options_are_declared_in_groups_and_in_the_parameters_of_commands() -> None:
    """Typer's own way is left to the frame and to `--version`."""
    for path in PACKAGE.rglob("*.py"):
        tree, where = ast.parse(path.read_text()), path.relative_to(PACKAGE).as_posix()
        declared = {id(value) for value in _declarations(tree)}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if name in ("typer.Option", "typer.Argument"):
                assert where in ("cli/frame.py", "cli/main.py"), f"{where}:{call.lineno}"
            if name in ("option", "argument", "output"):
                helper = where in ("options.py", "cli/frame.py")
                assert id(call) in declared or helper, f"{where}:{call.lineno}"


def _declarations(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from (n.value for n in node.body if isinstance(n, ast.AnnAssign) and n.value)
        if isinstance(node, ast.FunctionDef):
            yield from node.args.defaults


def test_every_command_has_the_options_of_all() -> None:
    for name, command in LEAVES.items():
        assert fields_of(Common).keys() <= {p.name for p in command.params}, name


def test_the_kernels_to_choose_from_are_those_that_there_are() -> None:
    assert (*choose.ON_GPU, *choose._MAKERS) == KERNELS
    assert {info.name for info in choose.available_kernels()} == set(KERNELS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 65}, "k is 65; it must lie between 1 and 64"),
        ({"threads": 0}, "threads is 0; it must be at least 1"),
        ({"kernel": "best"}, "unknown kernel 'best'; choose one of: auto, triton, cuda"),
        ({"device": "tpu"}, "unknown device 'tpu'; choose one of: auto, cuda, cpu"),
        ({"bad_rows": "keep"}, "unknown bad_rows 'keep'; choose one of: error, quarantine"),
    ],
)
def test_all_ways_refuse_alike(
    options: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.eye(3, dtype=np.float16)
    with pytest.raises(UsageError, match=said):
        clipgap.scan(rows, {"a": rows}, **options)
    typed = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    assert main.main(["scan", "t", "--test", "a=t", "-o", "x", *typed]) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(Misfit) as misfit:
        commands()["scan"].check(["t", "--test=a=t", *typed])
    assert said in misfit.value.message


@dataclasses.dataclass(frozen=True)
class Group(Options):
    size: int = option(3, "How large.", metavar="N", min=1)
    names: tuple[str, ...] = option((), "Which ones.", metavar="NAME")
    folder: Path | None = option(None, "Where.", metavar="FOLDER", shown="nowhere")


@takes_options
def function(one: int, *, two: int = 2, group: Group) -> tuple[int, int, Group]:
    """Do it."""
    return one, two, group


def test_fields_are_keywords() -> None:
    assert function(1) == (1, 2, Group())
    assert function(1, size=5, two=4) == (1, 4, Group(5))
    assert function(1, group=Group(7)) == (1, 2, Group(7))
    assert list(inspect.signature(function).parameters) == ["one", "two", "size", "names", "folder"]


def test_what_is_meant_is_taken() -> None:
    assert Group(names="a").names == ("a",)  # type: ignore[arg-type]
    assert Group(names=["a", "b"]).names == ("a", "b")  # type: ignore[arg-type]
    assert Group(folder="x").folder == Path("x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"sise": 4}, "function: unknown option 'sise'; did you mean 'size'?"),
        ({"zzz": 4}, "function: unknown option 'zzz'; there are: folder, names, one, size, two"),
        ({"size": 0}, "size is 0; it must be at least 1"),
        ({"size": 4, "group": Group()}, "size is given beside group"),
    ],
)
def test_mistakes_in_keywords_are_named(keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        function(1, **keywords)
    assert said in str(error.value)


def test_help_shows_every_option() -> None:
    text = pydoc.render_doc(clipgap.scan, renderer=pydoc.plaintext)  # type: ignore[arg-type]
    for group in (ScanOptions, Compute):
        for field in dataclasses.fields(group):
            assert f"{field.name}: {declaration(field).help.split(',')[0][:40]}" in text
    assert "k: 'int' = 32" in text
    assert "resume: 'bool' = False" in text
    assert "size: How large. Default: 3." in (function.__doc__ or "")
    assert "folder: Where. Default: nowhere." in (function.__doc__ or "")


def test_a_part_of_a_group() -> None:
    from typing import Annotated

    assert list(fields_of(Annotated[Compute, Only("threads")])) == ["threads"]
    assert group_of(Annotated[Compute, Only("threads")]) is Compute
