"""A disk that fails on request: see `faults.c`, which this compiles and speaks to."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_suffix(".c")
KINDS = ("read", "write", "flush", "rename", "connect", "close", "moment")


@dataclass(frozen=True)
class Fault:
    """What goes wrong: the nth call of a kind, counted below a folder, and perhaps all after it.

    With `short`, reads and writes move fewer bytes than they were asked for, which is no error. A
    negative `error` is a signal, and 0 a lie: one bit of what is moved is another. Of a `moment`
    the number is of microseconds, after which the process is killed.
    """

    kind: str = ""
    at: int = 0
    error: int = errno.EIO
    stays: bool = False
    short: bool = False
    below: str = ""  # a folder inside


class LyingFile(io.FileIO):
    """A file of Python's on such a disk: each last byte is another."""

    def write(self, content: Any) -> int:
        return super().write(bytes(content)[:-1] + b"?")


def compiled(folder: Path) -> dict[str, str]:
    """What a process needs in its environment for its disk to fail."""
    library = folder / "faults.so"
    compiler = shutil.which("cc") or "g++"
    command = [compiler, "-shared", "-fPIC", "-O1", str(SOURCE), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True)
    return {"LD_PRELOAD": str(library)}


def begin(folder: Path, fault: Fault) -> None:
    """In a process that was started so: calls below this folder are counted, and fail."""
    kind = KINDS.index(fault.kind) if fault.kind else -1
    library: Any = ctypes.CDLL(None)
    library.faults_begin(
        os.fsencode(folder / fault.below),
        kind,
        ctypes.c_long(fault.at),
        fault.error,
        fault.stays,
        fault.short,
    )


def counted() -> dict[str, int]:
    """How many calls there were of each kind."""
    library: Any = ctypes.CDLL(None)
    return {kind: library.faults_count(number) for number, kind in enumerate(KINDS)}
