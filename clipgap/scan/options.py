"""What can change the tables of a scan, besides its inputs; and where a node keeps test sets."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from clipgap.errors import UsageError
from clipgap.files.remote import path_here
from clipgap.kernels.options import MAX_K
from clipgap.options import Options, option

BAD_ROWS = ("error", "quarantine")


@dataclass(frozen=True)
class ScanOptions(Options):
    """Every setting that can change a result; all others only change the time it takes."""

    k: int = option(
        32,
        f"Neighbours kept per test point, 1 to {MAX_K}.",
        flags=("-k", "--k"),
        metavar="N",
        min=1,
        max=MAX_K,
    )
    bad_rows: str = option(
        "error",
        "Rows with NaN or infinity: stop there, or set them aside and list them.",
        choices=BAD_ROWS,
    )
    train_table: bool = option(True, "Write the table of training rows.")
    above: tuple[float, ...] = option(
        (0.8, 0.85, 0.9, 0.95, 0.98, 0.99),
        "Count training rows more similar than this. Repeatable.",
        metavar="SIM",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "above", tuple(sorted({float(value) for value in self.above})))
        if not all(math.isfinite(value) for value in self.above):
            raise UsageError("the thresholds to count above must be finite numbers")


@dataclass(frozen=True)
class Caching(Options):
    """Where test sets are kept for the next process of the node."""

    cache: str | None = option(
        None,
        "Keep test sets there, on a disk of the node's own, for all tasks that it is given. "
        "Variables such as $TMPDIR are those of the node.",
        metavar="FOLDER",
        shown="nowhere",
    )

    @property
    def folder(self) -> Path | None:
        """Where that is on this node."""
        return None if self.cache is None else path_here(os.path.expandvars(self.cache))
