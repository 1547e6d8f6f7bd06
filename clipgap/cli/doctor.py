"""`clipgap doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from textwrap import wrap
from typing import TYPE_CHECKING

import typer

from clipgap.cli import words
from clipgap.cli.frame import command
from clipgap.cli.shell import Shell
from clipgap.options import option
from clipgap.sheets import Sheet

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.doctor import Diagnosis
    from clipgap.kernels.gpu.compiled import BuiltKernel


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "doctor", "")(doctor)


def doctor(
    shell: Shell,
    kernels: bool = option(
        False, "Instead: build every GPU kernel for every chip, and show the result."
    ),
) -> None:
    """Say what this machine has, which kernel runs and why, and what is missing."""
    if kernels:
        from clipgap.kernels.gpu.compiled import built_kernels

        built = built_kernels()
        shell.result({"kernels": [asdict(one) for one in built]}, _describe_built(built))
        return
    from clipgap.doctor import examine

    found = examine()
    shell.result(asdict(found), _describe(found))


def _describe_built(built: list[BuiltKernel]) -> Iterator[RenderableType]:
    from clipgap.kernels.gpu.compiled import CHIPS

    figures = ("registers", "shared", "spilled", "resident", "matrix instructions")
    for capability, name in CHIPS.items():
        table = Sheet(("kernel", "tile", *figures), words=2, title=f"sm_{capability} ({name})")
        for one in (one for one in built if one.capability == capability):
            resident = f"{one.per_processor:,} / {one.planned:,}"
            instructions = ", ".join(f"{n:,} {what}" for what, n in one.instructions.items())
            table.add(
                one.kernel,
                one.config or "-",
                words.count(one.registers),
                words.binary_size(one.shared),
                f"{one.spilled:,} B",
                resident,
                f"{instructions or '-'}{'' if one.as_planned else '  NOT AS PLANNED'}",
            )
        yield table
    yield (
        "Registers of a thread; shared memory of a program; spilled: bytes of a thread that lie\n"
        "in memory for want of registers; resident: programs that fit on a multiprocessor / that\n"
        "the tile's plan counts on."
    )


def _describe(found: Diagnosis) -> Iterator[str]:
    machine = found.machine
    yield "Machine"
    yield f"  {machine['cpu']}, {words.plural(machine['cores'], 'core')}, {machine['system']}"
    yield from _wrapped(f"instruction sets: {' '.join(machine['isa']) or 'unknown'}")
    if found.caches:
        yield "  caches: " + ", ".join(
            f"L{cache.level} {words.binary_size(cache.bytes)}"
            + (f" shared by {cache.shared_by:,} cores" if cache.shared_by > 1 else "")
            for cache in found.caches
        )
    limit = found.memory_limit_bytes
    limited = f", limited to {words.binary_size(limit)} here" if limit else ""
    yield f"  memory: {machine['memory_gib']:,} GiB{limited}"

    yield "Kernels, fastest first"
    for kernel in found.kernels:
        mark = "->" if kernel.name == found.runs else "  " if kernel.available else " x"
        yield f"  {mark} {kernel.name:<14} {kernel.detail}"
    yield f"  A scan runs {found.runs!r}, unless --kernel says otherwise. All give the same tables."
    for name, value in found.environment.items():
        yield f"  The environment sets {name}={value}."

    yield "Versions"
    yield from _wrapped(", ".join(f"{name} {version}" for name, version in found.versions.items()))
    yield f"  python {machine['python']}"

    if found.missing:
        yield "Not installed, and only needed for"
        for missing in found.missing:
            yield f"  {missing.what:<16} {missing.used_for}: {missing.how}"


def _wrapped(text: str) -> list[str]:
    """Lines that fit any terminal; nothing of them is to be copied."""
    return wrap(text, 80, initial_indent="  ", subsequent_indent="    ")
