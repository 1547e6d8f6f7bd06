"""`clipgap bench`: our kernels and their peers side by side, and a scan from files to tables.

Every figure is an effective rate, 2·N·M·d / time, for the results of both directions: the nearest
test point of each training row and the nearest training rows of each test point.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipgap.bench import results
from clipgap.bench.case import Preset, cases
from clipgap.bench.contenders import CONTENDERS
from clipgap.bench.kernels import race_kernels
from clipgap.bench.results import Row
from clipgap.bench.scans import files_to_tables
from clipgap.machine import thread_count

MINUTES: dict[Preset, float] = {"quick": 3.0, "full": 45.0}
ROUNDS: dict[Preset, int] = {"quick": 3, "full": 5}


def _ignore(_: Any) -> None:
    pass


def run_bench(
    preset: Preset = "quick",
    *,
    minutes: float | None = None,
    threads: int | None = None,
    folder: Path | None = None,
    on_note: Callable[[str], None] = _ignore,
    on_rows: Callable[[list[Row]], None] = _ignore,
) -> list[Row]:
    """Measure, and give all rows; each is appended to a file in `folder`, if one is named.

    `minutes` bounds the whole, roughly: less time means fewer rows a round. `on_note` hears what
    is being done, `on_rows` gets the rows of each part as soon as they are there.
    """
    seconds = 60 * (MINUTES[preset] if minutes is None else minutes)
    threads = thread_count(threads)
    origin = results.origin()
    rows: list[Row] = []

    said: set[str] = set()

    def note(text: str) -> None:  # who is left out is left out of every case; once is enough
        if text not in said:
            said.add(text)
            on_note(text)

    def keep(fresh: list[Row]) -> None:
        if folder is not None:
            results.append(folder, fresh)
        rows.extend(fresh)
        on_rows(fresh)

    start = time.monotonic()
    keep(results.scan_rows(files_to_tables(preset, threads, note), threads, origin))
    left = max(seconds / 2, seconds - (time.monotonic() - start))
    todo = cases(preset)
    for case in todo:
        measured = race_kernels(
            case,
            CONTENDERS,
            threads=threads,
            rounds=ROUNDS[preset],
            seconds=left / len(todo),
            on_note=note,
        )
        keep(results.kernel_rows(case, measured, threads, origin))
    return rows


def print_rows(rows: list[Row], console: Any) -> None:
    """Show rows of one or more parts as tables on a rich console."""
    scans = [row for row in rows if row["suite"] == "files to tables"]
    if scans:
        results.print_scans(scans, console)
    results.print_kernels([row for row in rows if row["suite"] == "kernels"], console)
