"""Evaluations of checkpoints, as `clipgap eval` writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clipgap.clip.eval.folder import PAIRED, SAMPLES, SUMMARY
from clipgap.clip.eval.run import open_evaluation as open_result
from clipgap.errors import InputError
from clipgap.files.parquet import FileSum, read_table

_COLUMNS = {
    SUMMARY: "checkpoint set group metric samples correct accuracy low high".split(),
    PAIRED: "set group first second difference low high draws seed".split(),
    SAMPLES: "row key label prediction correct".split(),
}


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation; its tables are checked when they are read."""

    path: Path
    manifest: Mapping[str, Any]

    @cached_property
    def summary(self) -> list[dict[str, Any]]:
        """One entry per checkpoint, set, group and metric."""
        rows: list[dict[str, Any]] = self._table(SUMMARY, SUMMARY).to_pylist()
        return rows

    @cached_property
    def paired(self) -> list[dict[str, Any]]:
        """Differences between checkpoints; empty if there is only one."""
        if PAIRED not in self.manifest["files"]:
            return []
        rows: list[dict[str, Any]] = self._table(PAIRED, PAIRED).to_pylist()
        return rows

    @property
    def pairs(self) -> Iterator[tuple[str, str]]:
        """Which checkpoint was evaluated on which test set."""
        return iter(dict.fromkeys((row["checkpoint"], row["set"]) for row in self.summary))

    def samples(self, checkpoint: str, test: str) -> Any:
        """One row a test point; None if they were not kept."""
        name = f"{SAMPLES}/{checkpoint}/{test}.parquet"
        return self._table(name, SAMPLES) if name in self.manifest["files"] else None

    def classes(self, test: str) -> list[str]:
        """The names of a set's classes, if the evaluation lists them."""
        for entry in self.manifest["sets"]:
            if entry["name"] == test and isinstance(entry.get("classes"), list):
                return [str(name) for name in entry["classes"]]
        return []

    def _table(self, name: str, kind: str) -> Any:
        path = self.path / name
        entry = self.manifest["files"].get(name)
        if entry is None or not path.is_file():
            raise InputError(f"the evaluation {self.path} has no {name}. Make it again.")
        if FileSum.of(path) != FileSum(**entry):
            raise InputError(
                f"{path} is damaged: its SHA-256 is not that of the manifest. Make the evaluation "
                "again with --overwrite."
            )
        table = read_table(path)
        if missing := [name for name in _COLUMNS[kind] if name not in table.column_names]:
            raise InputError(f"{path} lacks the columns {', '.join(missing)}")
        return table


def open_evaluation(folder: Path) -> Evaluation:
    """Open a finished evaluation folder."""
    manifest = open_result(folder).manifest
    if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("sets"), list):
        raise InputError(f"{folder}/manifest.json is damaged: it lists no files or no sets")
    return Evaluation(folder, manifest)
