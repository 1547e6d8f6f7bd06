"""`clipgap merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipgap.cli.frame import Running, command, dealt
from clipgap.cli.shell import Shell
from clipgap.errors import InputError
from clipgap.options import REQUIRED, Only, argument, option


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "merge", "scan.parts -o scan")(merge)


def merge(
    shell: Shell,
    running: Annotated[Running, Only("resume", "overwrite", "upload")],
    parts: tuple[Path, ...] = argument(
        "What --shard-index has made: each part, or the folder OUT.parts that they lie in.",
        metavar="PART...",
    ),
    partial: bool = option(
        False, "Some shares are missing: make one part, in OUT.parts, of those that there are."
    ),
    out: Path = option(REQUIRED, "The folder to make.", flags=("--out", "-o"), metavar="OUT"),
) -> int:
    """Make one output of the parts that the shares of a command have made.

    The folder is the same, byte for byte, as if one run had made it. Parts may come in any order
    and twice; gaps, overlaps, other versions and other settings are refused. Inputs are looked up
    again, so run it where the shares ran.
    """
    from clipgap.runs.shares import find_parts

    found = find_parts(parts)
    calls = {part: part.said["call"] for part in found}
    first = found[0]
    if "command" not in calls[first]:
        raise InputError(
            f"{first} was not made on the command line; call the same function again, with "
            "parts=[…] in place of share=…"
        )
    for part, call in calls.items():
        if call.get("command") != calls[first]["command"]:
            raise InputError(
                f"{part} was made by another command, {call.get('command')}, than {first}, which "
                f"{calls[first]['command']} has made"
            )
    # It stands in a file that anybody may have put there, and is going to be run.
    if (name := calls[first]["command"].partition(" ")[2]) not in (known := list(dealt(shell.app))):
        raise InputError(
            f"{first} says that {name!r} has made it, which is not a command whose work can be "
            f"dealt to shares; such are {', '.join(known)}"
        )
    more = [f"--parts={part.folder}" for part in found]
    if partial:
        indices = {index for part in found for index in part.said["indices"]}
        more += [f"--num-shards={first.said['of']}"]
        more += [f"--shard-index={index}" for index in sorted(indices)]
    more += ["--resume"] * running.resume + ["--overwrite"] * running.overwrite
    more += [] if running.upload is None else [f"--upload={running.upload}"]
    return shell.call_again(calls[first], f"--out={out}", *more)
