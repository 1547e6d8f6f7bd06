"""Work for the workers of `test_ray`, who import nothing else of the tests: it takes its time."""

from __future__ import annotations

import os
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
                    os._exit(1)
                raise ValueError("no such thing")
            yield Made({unit.name: {"files": {}}}, worker=slot.number)


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


def wait_for(path: Path) -> None:
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.05)
    raise TimeoutError(path)
