"""The folder of filtered shards on disk.

NAME.tar, NAME_stats.json    one a unit; NAME.parquet too where the input has one
sizes.json                   samples of each tar file, as open_clip reads it
quarantine.parquet           what could not be used; only if there is any
manifest.json                written last
.progress/                   plan.json, units/, counts.json; gone when all is done
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipgap.files.atomic import write_atomic
from clipgap.files.documents import MANIFEST, format_of, write_json
from clipgap.files.parquet import FileSum
from clipgap.runs.old_output import OutputFolder, remove
from clipgap.shards.choosing import Rows
from clipgap.shards.plan import Unit
from clipgap.shards.quarantine import QUARANTINE
from clipgap.shards.unit import Done

FORMAT = "clipgap-shards"
SIZES = "sizes.json"


class ShardFolder(OutputFolder):
    """Names of shards come from outside, so the plan notes which files are ours."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, FORMAT, "folder of filtered shards", inner=(".progress/units",))
        self._units = self.progress / "units"
        self._counts = self.progress / "counts.json"

    def start(self, described: Mapping[str, Any], earlier: Iterable[str] = ()) -> None:
        """Remove what an earlier filter made here, and begin."""
        mine = [*earlier, *self._own_files()]
        super().start({**described, "earlier": mine}, mine)
        self._note(described)

    def go_on(self, described: Mapping[str, Any]) -> None:
        """Take up an unfinished filter."""
        plan = self._read_plan()
        for name in plan.get("earlier", ()):  # it was killed before it could do so
            remove(self.path / name)
        super().go_on({**described, "outputs": plan.get("outputs", [])})

    def started_with(self) -> dict[str, Any]:
        described = super().started_with()
        return {key: described[key] for key in described if key not in ("earlier", "outputs")}

    def expect(self, described: Mapping[str, Any], units: Sequence[Unit]) -> None:
        """Note which files are going to be written, before the first of them."""
        self._note({**described, "outputs": [name for unit in units for name in unit.files]})

    def save(self, unit: Unit, done: Done, places: Rows) -> None:
        """Note that a unit is done."""
        if len(places):
            path = self._units / f"{unit.name}.npy"
            with write_atomic(path) as temporary, temporary.open("wb") as file:
                np.save(file, places)
        write_json(self._units / f"{unit.name}.json", done.to_json())

    def saved(self, units: Iterable[Unit]) -> dict[str, Done]:
        """The units that are done and whole, by name."""
        found: dict[str, Done] = {}
        for unit in units:
            path = self._units / f"{unit.name}.json"
            if path.exists():
                found[unit.name] = Done.from_json(json.loads(path.read_bytes()))
        sums = {name: entry for done in found.values() for name, entry in done.files.items()}
        damaged = set(self.damaged(sums))
        return {name: done for name, done in found.items() if damaged.isdisjoint(done.files)}

    def places(self, unit: Unit) -> Rows:
        """Where in the sorted keys the samples of a finished unit stand."""
        path = self._units / f"{unit.name}.npy"
        return np.load(path) if path.exists() else np.zeros(0, np.int64)

    def save_counts(self, counts: Sequence[int]) -> None:
        write_json(self._counts, {"kept": list(counts)})

    def saved_counts(self) -> list[int] | None:
        """Kept samples of each shard, if they have been counted."""
        if not self._counts.exists():
            return None
        counts: list[int] = json.loads(self._counts.read_bytes())["kept"]
        return counts

    def write_sizes(self, sizes: Mapping[str, int]) -> FileSum:
        write_json(self.path / SIZES, sizes)
        return FileSum.of(self.path / SIZES)

    def _note(self, described: Mapping[str, Any]) -> None:
        write_json(self._plan, {"format": self.form, **described})

    def _read_plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = json.loads(self._plan.read_bytes())
        return plan

    def _own_files(self) -> list[str]:
        """What a finished or unfinished filter has written here."""
        names: list[str] = []
        if format_of(self.path / MANIFEST) == FORMAT:
            names += json.loads((self.path / MANIFEST).read_bytes())["files"]
        if format_of(self._plan) == FORMAT:
            plan = self._read_plan()
            names += [*plan.get("earlier", ()), *plan.get("outputs", ()), SIZES, QUARANTINE]
        return [name for name in names if "/" not in name and "\\" not in name]
