"""Samples that cannot be used: noted once, left out ever after."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

from clipgap.shards.problems import Problem

FOLDER = "quarantine"


class Quarantine:
    """Each process appends to a file of its own in a folder that all of them read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
        line = {
            "what": problem.what,
            "shard": problem.shard,
            "name": problem.name,
            "reason": problem.reason,
        }
        with (self._folder / self._name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    @cached_property
    def _known(self) -> set[tuple[str, str, str]]:
        return {(each.what, each.shard, each.name) for each in entries(self._folder)}


def entries(folder: Path) -> list[Problem]:
    """All that was noted, each once, in the order of shards and names."""
    found: dict[tuple[str, str, str], Problem] = {}
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else []:
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):  # a killed process may have left half a line
                problem = Problem(**json.loads(line))
                found.setdefault((problem.shard, problem.name, problem.what), problem)
    return [found[place] for place in sorted(found)]
