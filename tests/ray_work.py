"""Work for the workers of `test_ray`, who import nothing else of the tests: it takes its time."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clipgap.runs.units import Event, Made, Slot


@dataclass(frozen=True)
class Unit:
    name: str
    size: int = 1


@dataclass(frozen=True)
class Marks:
    """Leaves a file for each unit that is begun, which says how nice it is; some units go wrong."""

    folder: Path
    wrong: tuple[str, ...] = ()
    one_core: ClassVar = True

    def do(self, units: Iterable[Unit], slot: Slot) -> Iterator[Event]:
        for unit in units:
            if slot.stop():
                return
            with (self.folder / unit.name).open("a") as file:
                file.write(f"{os.nice(0)}\n")
            if unit.name in self.wrong:
                if unit.name == "deadly":
                    os.kill(os.getpid(), signal.SIGKILL)  # as a system does that lacks memory
                raise ValueError("no such thing")
            yield Made({unit.name: {"files": {}}}, worker=slot.number)


@dataclass(frozen=True)
class Hears:
    """Hands over the name of each unit, and does it once it has been told of it in return. On
    record is what its worker knew when it began. The first worker of a deadly unit dies there."""

    folder: Path
    one_core: ClassVar = True

    def do(self, units: Iterable[Unit], slot: Slot) -> Iterator[Event]:
        began, mine = slot.news(), frozenset[str]()
        for unit in units:
            mine |= {unit.name}
            yield Made({}, mine, slot.number)
            for _ in range(6000):
                if unit.name in (slot.news() or ()):
                    break
                time.sleep(0.01)
            else:
                raise TimeoutError("nothing was told in return")
            died = self.folder / "died"
            if unit.name == "deadly" and not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield Made({unit.name: {"files": {}, "began": began}}, worker=slot.number)


@dataclass(frozen=True)
class Unlucky:
    """Work of which one node has a unit in hand for good, before the others begin."""

    work: Any
    node: str
    held: Path

    def do(self, units: Iterable[Any], slot: Slot) -> Iterator[Event]:
        import ray

        if ray.get_runtime_context().get_node_id() == self.node:
            next(iter(units))
            self.held.touch()
            time.sleep(600)
        wait_for(self.held)
        yield from self.work.do(units, slot)


@dataclass(frozen=True)
class FullDisk:
    """Work whose output folder lies, on one node, on a disk that is full; the others begin when so
    many workers have met that."""

    work: Any
    node: str
    out: Path
    met: Path
    times: int

    def do(self, units: Iterable[Any], slot: Slot) -> Iterator[Event]:
        import ray

        if ray.get_runtime_context().get_node_id() != self.node:
            wait_for(self.met, self.times)
            yield from self.work.do(units, slot)
            return
        _put_a_full_disk(self.out)
        try:
            yield from self.work.do(units, slot)
        finally:
            with self.met.open("a") as file:
                file.write(".")


def _put_a_full_disk(at: Path) -> None:
    """Seen by this thread, and those that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    only_here, private, recursive = 0x20000, 1 << 18, 1 << 14  # CLONE_NEWNS, MS_PRIVATE, MS_REC
    failed = (
        libc.unshare(only_here)
        or libc.mount(b"none", b"/", None, private | recursive, None)
        or libc.mount(b"none", os.fsencode(at), b"tmpfs", 0, b"size=4k")
    )
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    (at / "filling").write_bytes(bytes(4096))


def wait_for(path: Path, size: int = 0) -> None:
    for _ in range(6000):
        if path.exists() and path.stat().st_size >= size:
            return
        time.sleep(0.05)
    raise TimeoutError(path)
