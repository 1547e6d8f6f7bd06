"""What is done, in one atomic file: a shard counts as done when this file says so, not before."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipgap.errors import InputError
from clipgap.files.atomic import write_atomic
from clipgap.files.parquet import FileSum
from clipgap.kernels.interface import TopK
from clipgap.scan.counts import Totals
from clipgap.scan.tables import TrainTable


@dataclass(frozen=True)
class Unit:
    """A finished shard."""

    rows: int
    quarantined: int
    file: FileSum | None  # its part of the training table, if that is wanted


@dataclass
class Ledger:
    """The finished shards and the sum of what they counted."""

    totals: Totals
    units: dict[int, Unit] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(unit.rows for unit in self.units.values())


def save(path: Path, ledger: Ledger, topk: list[TopK]) -> None:
    """Write ledger and lists. The lists may already know rows of shards that are not done: their
    ids are added again on resume, and a list holds an id once.
    """
    units = {str(shard): asdict(unit) for shard, unit in sorted(ledger.units.items())}
    arrays: dict[str, Any] = {"totals": ledger.totals.counts}
    for i, lists in enumerate(topk):
        arrays |= {f"sim_{i}": lists.sim, f"id_{i}": lists.id}
    with write_atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, units=np.frombuffer(json.dumps(units).encode(), np.uint8), **arrays)


def load(path: Path, table: TrainTable) -> tuple[Ledger, list[TopK]]:
    """Read what `save` wrote; the archive's own checksums tell a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            units = {
                int(shard): Unit(
                    unit["rows"],
                    unit["quarantined"],
                    None if unit["file"] is None else FileSum(**unit["file"]),
                )
                for shard, unit in json.loads(arrays["units"].tobytes()).items()
            }
            totals = Totals.zero(table)
            totals.counts[:] = arrays["totals"]
            topk = [TopK(arrays[f"sim_{i}"], arrays[f"id_{i}"]) for i in range(len(table.sets))]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"the checkpoint {path} is damaged ({error}). Start again with --overwrite."
        ) from error
    return Ledger(totals, units), topk
