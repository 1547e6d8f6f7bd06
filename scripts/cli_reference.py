"""Writes docs/cli.md from the commands themselves; with --check, says whether it is current."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer

from clipgap.__main__ import app
from clipgap.cli.frame import Common

TARGET = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = """\
# Command line

Written by `scripts/cli_reference.py` from the commands themselves; change those, not this file.

Results go to stdout, everything else (progress, notes, errors) to stderr. With `--json` stdout is
one JSON document and nothing else; a number that is not finite is `null` there.

`clipgap --install-completion` teaches bash, zsh, fish or PowerShell to complete commands, options
and their values: choices, recipes, models, stores, and of folders those that fit.

Every command also has these options:
"""
COMMON = {field.name for field in dataclasses.fields(Common)}
TAIL = """
## Configuration files

`--config FILE.toml` takes any option by its long name without the dashes, and any argument by its
name in lower case. Values are written as they would be typed: numbers and strings as they are,
repeatable options as lists, switches as `true` or `false`. What is typed on the command line wins,
and a list typed there replaces that of the file. A key that the command does not know ends the call
with exit code 2. Paths are relative to the current folder, as on the command line.

```toml
train = "laion400m"
test = ["val=imagenet-val", "sketch=imagenet-sketch"]
gap = "gap"
out = "scans/laion400m"
k = 16
train-table = true
```

`scan` and `gap` write the configuration they resolved to `OUT.toml`, next to the output folder;
`clipgap scan --config OUT.toml` is the same call again, and `--resume` goes on where it stopped.
Its last line has a sum: a call with a file that is no longer as it was written says so.

## Stopping and going on

SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (`sbatch --signal=USR1@60`) stop a scan after the block at
hand. Finished shards are kept. The same command with `--resume` goes on, after a kill or a power
cut too, and the result is the same to the byte. A second Ctrl-C leaves at once.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | a bug in clipgap |
| 2 | the call does not fit together: an unknown option, a missing value |
| 3 | input that cannot be used; for `verify`, a scan that is not right |
| 4 | done, but some rows were set aside: they are listed in `quarantine.parquet` |
| 5 | a package, compiler or device is missing; or memory, threads or open files ran out |
| 75 | stopped by a signal; `--resume` goes on |
| 130 | stopped by Ctrl-C; `--resume` goes on |

## Environment

| variable | effect |
|---|---|
| `CLIPGAP_CPU_ISA` | forces one set of C++ kernels: `avx512vnni`, `avx2` or `portable` |
| `CLIPGAP_THREADS` | threads to compute with, NumPy included, where `--threads` does not say |
| `CLIPGAP_ROW_BLOCK` | training rows that a thread holds in its cache |
"""


def reference() -> str:
    """The whole page."""
    leaves = list(_leaves(typer.main.get_command(app), "clipgap"))
    common = [p for p in leaves[0][1].params if p.name in COMMON]
    pages = [line for path, command in leaves for line in _page(path, command)]
    return "\n".join([HEAD, *_table(common), *pages]) + TAIL


def _leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from _leaves(child, f"{path} {name}")


def _page(path: str, command: Any) -> Iterator[str]:
    own = [p for p in command.params if p.name not in COMMON]
    arguments = [p.metavar for p in own if _is_argument(p)]
    yield f"## {path}\n"
    yield f"`{' '.join([path, *arguments, '[OPTIONS]'])}`\n"
    yield cleandoc(command.help) + "\n"
    yield from _table(own)


def _table(parameters: list[Any]) -> Iterator[str]:
    if parameters:
        yield "| | |"
        yield "|---|---|"
        for parameter in parameters:
            yield f"| {_term(parameter)} | {' '.join([parameter.help, *_notes(parameter)])} |"
        yield ""


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _term(parameter: Any) -> str:
    """How it is typed."""
    if _is_argument(parameter):
        return f"`{parameter.metavar}`"
    flags = ", ".join(sorted(parameter.opts, key=len) + parameter.secondary_opts)
    value = "" if _is_switch(parameter) else f" {parameter.metavar}"
    return f"`{flags}{value}`".replace("|", "\\|")


def _is_switch(parameter: Any) -> bool:
    return bool(parameter.is_flag or parameter.count)


def _notes(parameter: Any) -> Iterator[str]:
    """Whether it must be given, or else what holds."""
    if parameter.required:
        yield "Required."
    elif isinstance(parameter.show_default, str):
        yield f"Default: {parameter.show_default}."
    elif not _is_argument(parameter) and _is_switch(parameter):
        if parameter.secondary_opts:
            flag, *_ = parameter.opts if parameter.default else parameter.secondary_opts
            yield f"Default: {flag}."
    elif parameter.default not in (None, ()):
        several = isinstance(parameter.default, (list, tuple))
        shown = ", ".join(map(str, parameter.default)) if several else parameter.default
        yield f"Default: {shown}."


def main() -> int:
    """Write the file, or with --check compare it."""
    page = reference()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(page, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == page:
        return 0
    print(f"{TARGET} is not current: run python {Path(__file__).name}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
