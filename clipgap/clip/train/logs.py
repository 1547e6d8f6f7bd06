"""What a run notes as it goes: losses and the samples of batches, cut back to where it is taken up,
and the samples that cannot be used, noted once and left out ever after.

losses.jsonl                    of the first rank: loss, learning rate and speed by step
keys/rank-N.jsonl               the samples of every batch
.progress/quarantine/*.jsonl    a file for each process that reads samples
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clipgap.clip.train.order import Position
from clipgap.files import lines
from clipgap.runs.lock import PROGRESS
from clipgap.shards.problems import Problem

LOSSES, KEYS, QUARANTINE = "losses.jsonl", "keys", f"{PROGRESS}/quarantine"


class Log:
    """Records of one process, each with its epoch and batch."""

    def __init__(self, path: Path, begin: Position) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines.cut(path, lambda record: _position(record) < begin)

    def write(self, record: Mapping[str, Any]) -> None:
        lines.append(self._path, [record])


def _position(record: Mapping[str, Any]) -> Position:
    return Position(int(record["epoch"]), int(record["batch"]))


@dataclass(frozen=True)
class Reached:
    """How far a run is, by its loss log."""

    samples: int
    loss: float


def reached(folder: Path) -> Reached | None:
    """None before the first loss was noted."""
    return lines.last(
        folder / LOSSES, lambda record: Reached(int(record["samples"]), float(record["loss"]))
    )


class Quarantine:
    """Each process appends to a file of its own in a folder that all of them read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / QUARANTINE
        self._name = ""

    def write_as(self, name: str) -> None:
        """Say which file this process writes."""
        self._name = f"{name}.jsonl"

    def __contains__(self, sample: tuple[str, str]) -> bool:
        """Whether the sample of this shard and key is known to be bad."""
        return ("sample", *sample) in self._known

    def report(self, problem: Problem) -> None:
        entry = (problem.what, problem.shard, problem.name)
        if entry in self._known:
            return
        self._known.add(entry)
        self._folder.mkdir(exist_ok=True)
        record = {name: getattr(problem, name) for name in _NOTED}
        lines.append(self._folder / self._name, [record])

    def problems(self) -> list[Problem]:
        """All that was noted, each once, in the order of shards and names."""
        found: dict[tuple[str, str, str], Problem] = {}
        for each in self._read():
            found.setdefault((each.shard, each.name, each.what), each)
        return [found[place] for place in sorted(found)]

    @cached_property
    def _known(self) -> set[tuple[str, str, str]]:
        return {(each.what, each.shard, each.name) for each in self._read()}

    def _read(self) -> Iterator[Problem]:
        for path in sorted(self._folder.glob("*.jsonl")):
            yield from lines.read(path, _problem)


_NOTED = ("what", "shard", "name", "reason")


def _problem(record: Mapping[str, Any]) -> Problem:
    values = {name: record[name] for name in _NOTED}
    if not all(isinstance(value, str) for value in values.values()):
        raise TypeError("what, shard, name and reason must be text")
    return Problem(**values)
