"""The folder of a scan on disk: what state it is in, and every write that changes it.

manifest.json                present only when all else is whole
train/ test/ hist.parquet    each file atomic
.progress/                   plan.json, checkpoint.npz, quarantine/; gone when the scan is done
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from clipgap.errors import InputError
from clipgap.kernels.interface import TopK
from clipgap.scan import checkpoint
from clipgap.scan.checkpoint import Ledger
from clipgap.scan.manifest import FORMAT
from clipgap.scan.sinks import HIST, QUARANTINE, part_name
from clipgap.tables.atomic import TEMPORARY_SUFFIX, remove_leftovers, sync_folder
from clipgap.tables.documents import MANIFEST, format_of, write_json
from clipgap.tables.files import FileSum, Put, parquet_file, read_row_groups, write_tables

State = Literal["empty", "unfinished", "finished"]
_OURS = (MANIFEST, "train", "test", HIST, QUARANTINE, ".progress")


class ScanFolder:
    """A `Sink` whose every file is whole or absent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._progress = path / ".progress"
        self._plan = self._progress / "plan.json"
        self._checkpoint = self._progress / "checkpoint.npz"
        self._quarantine = self._progress / "quarantine"

    def state(self) -> State:
        """What is there; anything that is not a scan is refused."""
        if not self.path.exists():
            return "empty"
        if not self.path.is_dir():
            raise InputError(f"{self.path} is a file; name a folder for the output")
        if format_of(self.path / MANIFEST) == FORMAT:
            return "finished"
        if format_of(self._plan) == FORMAT:
            return "unfinished"
        if (self.path / MANIFEST).exists():
            raise InputError(
                f"{self.path / MANIFEST} is damaged, or not that of a clipgap scan. "
                "Remove the folder yourself or name a new one."
            )
        # A run killed in its first moments leaves an empty folder, or leftovers in one.
        strangers = [
            entry.name
            for entry in self.path.rglob("*")
            if not entry.name.endswith(TEMPORARY_SUFFIX) and entry != self._progress
        ]
        if strangers:
            raise InputError(
                f"{self.path} is not empty and not a clipgap scan (it holds "
                f"{sorted(strangers)[0]!r}). Name a new folder for the output."
            )
        return "empty"

    def start(self, described: Mapping[str, Any]) -> None:
        """Make the folder, empty it of an earlier scan, and note what is going to be computed."""
        try:
            self._progress.mkdir(parents=True, exist_ok=True)
            sync_folder(self.path.parent)
            # From here to the end the folder is known as ours, whatever a kill leaves of it.
            write_json(self._plan, {"format": FORMAT, **described})
            for name in _OURS[:-1]:
                _remove(self.path / name)
            for entry in self._progress.iterdir():
                if entry != self._plan:
                    _remove(entry)
            self.prepare()
        except OSError as error:
            raise InputError(f"cannot make the folder {self.path}: {error}") from error

    def prepare(self) -> None:
        """Make the inner folders and clear away what a killed run was writing."""
        for folder in (self.path / "test", self._quarantine):
            folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path)
        sync_folder(self.path)

    def go_on(self, described: Mapping[str, Any]) -> None:
        """Take up an unfinished scan; the bad-row policy may have become kinder."""
        self.prepare()
        write_json(self._plan, {"format": FORMAT, **described})

    def started_with(self) -> dict[str, Any]:
        """What the unfinished scan here set out to compute."""
        described: dict[str, Any] = json.loads(self._plan.read_bytes())
        del described["format"]
        return described

    def save(self, ledger: Ledger, topk: list[TopK]) -> None:
        checkpoint.save(self._checkpoint, ledger, topk)

    def load(self, sets: int) -> tuple[Ledger, list[TopK]] | None:
        """The last checkpoint; None if the run was stopped before it made one."""
        return checkpoint.load(self._checkpoint, sets) if self._checkpoint.exists() else None

    def part(self, shard: int, schema: Any) -> AbstractContextManager[Put]:
        path = self.path / part_name(shard)
        path.parent.mkdir(exist_ok=True)
        return parquet_file(path, schema)

    def part_sum(self, shard: int) -> FileSum | None:
        return FileSum.of(self.path / part_name(shard))

    def bad_rows(self, shard: int, schema: Any) -> AbstractContextManager[Put]:
        return parquet_file(self._quarantine / f"{shard:05d}.parquet", schema)

    def gathered_bad_rows(self, shard: int) -> Iterable[Any]:
        return read_row_groups(self._quarantine / f"{shard:05d}.parquet")

    def table(self, name: str, schema: Any, tables: Iterable[Any]) -> FileSum | None:
        return write_tables(self.path / name, schema, tables)

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """The last two steps; a kill between them leaves a finished scan to tidy."""
        write_json(self.path / MANIFEST, manifest)
        self.tidy()

    def tidy(self) -> None:
        _remove(self._progress)
        remove_leftovers(self.path)
        sync_folder(self.path)

    def damaged(self, files: Mapping[str, FileSum]) -> list[str]:
        """Which of these files are missing or differ from their checksum."""

        def check(name: str) -> bool:
            path = self.path / name
            # A wrong size settles it without reading.
            right_size = path.is_file() and path.stat().st_size == files[name].size
            return right_size and FileSum.of(path) == files[name]

        with ThreadPoolExecutor(4) as pool:
            whole = pool.map(check, files)
        return [name for name, good in zip(files, whole, strict=True) if not good]

    def damaged_parts(self, sums: Mapping[int, FileSum]) -> dict[int, FileSum]:
        """Of these shards, those whose part is no longer what it was, with what it was."""
        bad = set(self.damaged({part_name(shard): entry for shard, entry in sums.items()}))
        return {shard: entry for shard, entry in sums.items() if part_name(shard) in bad}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
