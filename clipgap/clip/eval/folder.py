"""The folder of an evaluation on disk.

summary.parquet                   accuracies with intervals
paired.parquet                    differences between checkpoints
samples/CHECKPOINT/SET.parquet    what each checkpoint made of each sample
quarantine.parquet                what could not be used; only if there is any
manifest.json                     written last
.progress/                        plan.json, units/; gone when all is done
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipgap.files.documents import MANIFEST, write_json
from clipgap.files.parquet import FileSum, read_table, write_tables
from clipgap.runs.old_output import OutputFolder, remove
from clipgap.shards.problems import Problem
from clipgap.shards.quarantine import QUARANTINE

FORMAT = "clipgap-eval"
SUMMARY, PAIRED, SAMPLES = "summary.parquet", "paired.parquet", "samples"

Unit = tuple[str, str]
"""Names of a checkpoint and a set."""


@dataclass(frozen=True)
class Done:
    """A finished unit."""

    file: FileSum
    samples: int
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Done:
        return cls(
            FileSum(**entry["file"]),
            entry["samples"],
            tuple(Problem(**problem) for problem in entry["problems"]),
        )


class EvalFolder(OutputFolder):
    """Units are saved one by one as they are done."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, FORMAT, "evaluation", inner=(".progress/units", SAMPLES))
        self._units = self.progress / "units"

    def start(self, described: Mapping[str, Any], earlier: Iterable[str] = ()) -> None:
        super().start(described, (*earlier, SUMMARY, PAIRED, SAMPLES, QUARANTINE))

    def reopen(self, described: Mapping[str, Any], done: Mapping[Unit, Done]) -> None:
        """Make a damaged folder an unfinished one, of which these units are done."""
        self.progress.mkdir(exist_ok=True)
        write_json(self._plan, {"format": self.form, **described})
        self.prepare()
        for unit, each in done.items():
            self.save(unit, each)
        remove(self.path / MANIFEST)

    def file(self, unit: Unit) -> str:
        """The table of a unit, from the folder on."""
        checkpoint, name = unit
        return f"{SAMPLES}/{checkpoint}/{name}.parquet"

    def write_samples(self, unit: Unit, schema: pa.Schema, tables: Iterable[pa.Table]) -> FileSum:
        path = self.path / self.file(unit)
        path.parent.mkdir(exist_ok=True)
        return write_tables(path, schema, tables)

    def read_samples(self, unit: Unit) -> pa.Table:
        return read_table(self.path / self.file(unit))

    def save(self, unit: Unit, done: Done) -> None:
        """Note that a unit is done."""
        path = self._path(unit)
        path.parent.mkdir(exist_ok=True)
        write_json(path, done.to_json())

    def has_units(self) -> bool:
        """Whether any unit is done."""
        return any(self._units.glob("*/*.json"))

    def saved(self, units: Iterable[Unit]) -> dict[Unit, Done]:
        """The units that are done and whole."""
        found: dict[Unit, Done] = {}
        for unit in units:
            path = self._path(unit)
            if path.exists():
                found[unit] = Done.from_json(json.loads(path.read_bytes()))
        damaged = set(self.damaged({self.file(unit): done.file for unit, done in found.items()}))
        return {unit: done for unit, done in found.items() if self.file(unit) not in damaged}

    def _path(self, unit: Unit) -> Path:
        checkpoint, name = unit
        return self._units / checkpoint / f"{name}.json"
