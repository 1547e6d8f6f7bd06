"""The folder of a scan on disk.

manifest.json                present only when all else is whole
train/ test/ hist.parquet    each file atomic
.progress/                   plan.json, checkpoint.npz, quarantine/; gone when the scan is done
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from clipgap.files.parquet import FileSum, Put, parquet_file, read_row_groups, write_tables
from clipgap.kernels.interface import TopK
from clipgap.runs.old_output import OutputFolder
from clipgap.scan import checkpoint
from clipgap.scan.checkpoint import Ledger
from clipgap.scan.manifest import FORMAT
from clipgap.scan.sinks import HIST, QUARANTINE, part_name
from clipgap.scan.tables import TrainTable

_OURS = ("train", "test", HIST, QUARANTINE)


class ScanFolder(OutputFolder):
    """A `Sink` whose every file is whole or absent."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, FORMAT, "scan", inner=("test", ".progress/quarantine"))
        self._checkpoint = self.progress / "checkpoint.npz"
        self._quarantine = self.progress / "quarantine"

    def start(self, described: Mapping[str, Any], earlier: Iterable[str] = _OURS) -> None:
        """As any output; all that a scan can have made before is known by name."""
        super().start(described, earlier)

    def save(self, ledger: Ledger, topk: list[TopK]) -> None:
        checkpoint.save(self._checkpoint, ledger, topk)

    def load(self, table: TrainTable) -> tuple[Ledger, list[TopK]] | None:
        """The last checkpoint; None if the run was stopped before it made one."""
        return checkpoint.load(self._checkpoint, table) if self._checkpoint.exists() else None

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

    def damaged_parts(self, sums: Mapping[int, FileSum]) -> dict[int, FileSum]:
        """Of these shards, those whose part is no longer what it was, with what it was."""
        bad = set(self.damaged({part_name(shard): entry for shard, entry in sums.items()}))
        return {shard: entry for shard, entry in sums.items() if part_name(shard) in bad}
