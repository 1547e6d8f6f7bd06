"""How much is derived anew, and what is emulated."""

from __future__ import annotations

from dataclasses import dataclass

from clipgap.options import Options, option


@dataclass(frozen=True)
class ScanChecks(Options):
    """How much of a scan is derived anew."""

    sample: int = option(
        256, "Of a scan: training rows and test points to derive anew.", metavar="N", min=0
    )
    seed: int = option(0, "Of a scan: which ones; any number.", metavar="N", min=0)
    full: bool = option(False, "Of a scan: derive every row anew, as slow as float64.")


@dataclass(frozen=True)
class Shortcuts(Options):
    """The shortcuts that `emulate` takes."""

    candidates: int = option(
        20_000, "Rows that a test point's list holds per shard.", metavar="N", min=1
    )
    arithmetic: str = option(
        "float32",
        "What thresholds and scores are rounded to.",
        choices=("float32", "tf32", "float16"),
    )
    undefined: bool = option(
        False,
        "Count what hangs on thresholds that were taken of memory which nothing had filled.",
    )


VIEWERS = ("atlas", "spotlight", "fiftyone")


@dataclass(frozen=True)
class ExportOptions(Options):
    """What `export` writes."""

    most: int = option(
        8, "Neighbours of each test point, of those that the scan has.", metavar="N", min=1
    )
