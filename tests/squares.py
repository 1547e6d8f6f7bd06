"""A run of the simplest kind, for tests of what all runs have in common."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgap.files.atomic import write_atomic
from clipgap.files.documents import Form
from clipgap.files.sums import FileSum
from clipgap.runs.executors import Here
from clipgap.runs.how import How
from clipgap.runs.output import Complete, Damaged, Kind, open_output
from clipgap.runs.run import run_units
from clipgap.runs.units import Event, Made, Slot, StateFile, Step

KIND = Kind(
    Form("clipgap-numbers", "folder of numbers", {"files": dict, "upto": int}),
    owns=("*.txt", "parts/*.txt"),
    inner=("parts",),
    labels={"upto": "setting upto"},
)


@dataclass(frozen=True)
class Number:
    value: int
    size: int = 1

    @property
    def name(self) -> str:
        return f"number-{self.value}"


@dataclass(frozen=True)
class Squares:
    """Work of the simplest kind: a file for each number, and the sum of all as a state."""

    folder: Path

    def do(self, units: Iterable[Number], slot: Slot) -> Iterator[Event]:
        seen: set[int] = set()
        for unit in units:
            if slot.stop():
                return
            path = self.folder / "parts" / f"{unit.value}.txt"
            with write_atomic(path) as temporary:
                temporary.write_text(str(unit.value**2))
            seen.add(unit.value)
            yield Step(1)
            files = {f"parts/{unit.value}.txt": vars(FileSum.of(path))}
            yield Made({unit.name: {"files": files}}, frozenset(seen), slot.number)


def save(path: Path, seen: frozenset[int]) -> None:
    with write_atomic(path) as temporary:
        temporary.write_text(json.dumps(sorted(seen)))


def load(path: Path) -> frozenset[int]:
    return frozenset(json.loads(path.read_text()) if path.exists() else ())


SEEN = StateFile("seen.json", save, load)


def fill(
    out: Path, upto: int = 4, *, stop_after: int | None = None, **how: Any
) -> tuple[object, list[str]]:
    """Make the folder; the answer it gave at the beginning, and the units done by this run."""
    stop, made = threading.Event(), list[str]()
    running = How(**{"stop": stop, **how})
    with open_output(out, KIND, running) as output:
        output.ledger.gather(frozenset.union, SEEN)
        answer = output.begin({"upto": upto})
        if isinstance(answer, Complete):
            return answer, made
        if isinstance(answer, Damaged):
            output.start()
        units = [Number(value) for value in range(upto)]
        executor = running.executor or Here()
        for event in run_units(Squares(output.path), units, output.ledger, executor, running):
            if isinstance(event, Made):
                made += event.records
                if stop_after is not None and len(made) >= stop_after:
                    stop.set()
        files = {
            name: FileSum(**entry)
            for record in output.ledger.records.values()
            for name, entry in record["files"].items()
        }
        if running.parts:
            assert output.ledger.state == frozenset(range(upto))
        output.finish({"upto": upto}, files)
    return answer, made


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
