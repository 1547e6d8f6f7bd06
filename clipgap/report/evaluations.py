"""Evaluations as a report reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clipgap.clip.eval.api import PAIRED, SUMMARY
from clipgap.clip.eval.api import open_evaluation as open_result
from clipgap.clip.eval.subset_tables import SUBSETS, SUBSETS_PAIRED
from clipgap.clip.eval.work import SAMPLES
from clipgap.errors import InputError
from clipgap.files.parquet import FileSum, read_table

_COLUMNS = {
    SUMMARY: "checkpoint set group metric samples correct accuracy low high".split(),
    SUBSETS: "checkpoint set subset among over images classes accuracy low high".split(),
    SUBSETS_PAIRED: "set subset among over first second difference low high".split(),
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

    def subsets(self, file: str) -> list[dict[str, Any]]:
        """SUBSETS or SUBSETS_PAIRED; empty where neither subsets nor pools were asked for."""
        if file not in self.manifest["files"]:
            return []
        rows: list[dict[str, Any]] = self._table(file, file).to_pylist()
        return rows

    @property
    def shown(self) -> list[str]:
        """What subsets are drawn for: pools where there are some, else checkpoints."""
        pools = self.manifest.get("pools", {})
        names = dict.fromkeys(row["checkpoint"] for row in self.subsets(SUBSETS))
        return [name for name in names if name in pools or not pools]

    @property
    def pooled(self) -> set[str]:
        """Checkpoints that a pool stands for."""
        return {name for of in self.manifest.get("pools", {}).values() for name in of}

    @property
    def clean(self) -> Iterator[tuple[str, str]]:
        """Sets with those of their subsets that keys say, not classes alone."""
        for entry in self.manifest["sets"]:
            for subset in entry.get("subsets") or ():
                if subset["keys_sha256"] is not None:
                    yield entry["name"], subset["name"]

    @property
    def pairs(self) -> Iterator[tuple[str, str]]:
        """Which checkpoint was evaluated on which test set."""
        return iter(dict.fromkeys((row["checkpoint"], row["set"]) for row in self.summary))

    @property
    def missing(self) -> dict[str, int]:
        """Of checkpoints that were trained without all of their keep-list, how many it lacked."""
        found = {one["name"]: one.get("missing", 0) for one in self.manifest["checkpoints"]}
        return {name: count for name, count in found.items() if count}

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
        if name not in self.manifest["files"]:
            raise InputError(f"the evaluation {self.path} has no {name}. Make it again.")
        table = read_table(path, FileSum(**self.manifest["files"][name]))
        if missing := [name for name in _COLUMNS[kind] if name not in table.column_names]:
            raise InputError(f"{path} lacks the columns {', '.join(missing)}")
        return table


def open_evaluation(path: str | Path) -> Evaluation:
    """Open a finished evaluation folder."""
    result = open_result(path)
    folder, manifest = result.path, result.manifest
    if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("sets"), list):
        raise InputError(f"{folder}/manifest.json is damaged: it lists no files or no sets")
    return Evaluation(folder, manifest)
