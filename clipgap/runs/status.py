"""How far the runs are that fill an output folder: one, or shares of it on any machines."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgap.errors import InputError
from clipgap.files.bucket import Bucket
from clipgap.files.documents import MANIFEST, is_count, is_number, misfits
from clipgap.files.remote import RemotePath
from clipgap.runs.lock import PROGRESS
from clipgap.runs.run import BOARD
from clipgap.runs.shares import Share, find_parts, parts_folder
from clipgap.runs.units import UNITS, Ledger

_SILENT = 300.0
"""Seconds after which a run that says nothing is no longer called running."""


def _is_amount(value: object) -> bool:
    return is_number(value) and value >= 0  # type: ignore[operator]


_BOARD = {
    **dict.fromkeys(("state", "said", "noun", "counted", "host"), str),
    **dict.fromkeys(("units", "done"), is_count),
    **dict.fromkeys(("size", "size_done", "size_new", "new", "seconds"), _is_amount),
}
"""What is read of a board; one that says it otherwise is as good as none."""


@dataclass(frozen=True)
class RunStatus:
    """One run: a share, or all there is to do.

    `state` is "waiting", "running", "silent", "stopped", "failed" or "done".
    """

    shares: Sequence[int]  # none: all there is to do
    state: str
    said: str = ""  # why it failed
    host: str = ""
    silent_seconds: float | None = None  # since it was last heard of
    noun: str = "unit"
    units: int = 0
    units_done: int = 0
    size: int = 0
    size_done: int = 0
    size_per_second: float = 0.0
    counted: str = "rows"
    per_second: float = 0.0  # of what is counted


@dataclass(frozen=True)
class Status:
    """All runs that fill one folder."""

    out: Path
    finished: bool
    runs: Sequence[RunStatus]

    def count(self, state: str) -> int:
        """Shares, or the one run."""
        return sum(max(1, len(run.shares)) for run in self.runs if run.state == state)

    @property
    def per_second(self) -> float:
        """Of what is counted, by those that are running."""
        return sum(run.per_second for run in self.runs if run.state == "running")

    @property
    def seconds_left(self) -> float | None:
        """If all goes on as it does; shares that have not begun count as large as the others."""
        rate = sum(run.size_per_second for run in self.runs if run.state == "running")
        known = [run for run in self.runs if run.units]
        if not rate or not known:
            return None
        done = sum(run.size_done for run in known)
        shares, of = (sum(max(1, len(run.shares)) for run in runs) for runs in (known, self.runs))
        whole = sum(run.size for run in known) * of / shares
        return (whole - done) / rate


def status_of(out: Path) -> Status:
    """How far it is; nothing is written, and whoever is at work is not disturbed."""
    if out.suffix == ".parts" and out.is_dir():  # as whoever merges calls it
        out = out.with_name(out.stem)
    finished = (out / MANIFEST).is_file()
    parts = parts_folder(out)
    if parts.is_dir():
        return Status(out, finished, sorted(_shares(parts), key=lambda run: run.shares[0]))
    # A deduplication keeps its notes beside its output.
    beside = out.with_name(f"{out.name}.work")
    begun = [folder for folder in (out, beside) if (folder / PROGRESS).is_dir()]
    if not begun and not finished:
        raise InputError(f"{out}: no run has begun there, and no shares of one in {parts}")
    return Status(out, finished, [_run(folder / PROGRESS, ()) for folder in begun])


def _shares(parts: Path) -> Iterator[RunStatus]:
    found = find_parts([parts])
    of = max(part.said["of"] for part in found)
    waiting = set(range(of))
    # The largest first: of shares that are in several parts the rest tells nothing new.
    for part in sorted(found, key=lambda part: -len(part.said["indices"])):
        indices = part.said["indices"]
        if waiting.isdisjoint(indices):
            continue
        waiting -= set(indices)
        ledger = Ledger(part.notes / UNITS)
        ledger.load()
        done = sum(name in ledger.records for name in part.said["units"])
        yield _run(part.notes, indices, len(part.said["units"]), done)
    for index in waiting:
        begun = Share([index], of).folder(parts.with_name(parts.stem)) / PROGRESS
        yield RunStatus([index], "running" if begun.is_dir() else "waiting")


def _run(
    notes: Path, shares: Sequence[int], units: int | None = None, done: int | None = None
) -> RunStatus:
    """What a run says of itself; the ledger of a share knows better what is done."""
    board, silent = _read(notes)
    units = board.get("units", 0) if units is None else units
    done = board.get("done", 0) if done is None else done
    state = board.get("state", "running")
    if shares and done == units:
        state = "done"
    elif state == "running" and silent is not None and silent > _SILENT:
        state = "silent"
    seconds = board.get("seconds") or float("inf")
    return RunStatus(
        shares=shares,
        state=state,
        said=board.get("said", ""),
        host=board.get("host", ""),
        silent_seconds=silent,
        noun=board.get("noun", "unit"),
        units=units,
        units_done=done,
        size=board.get("size", 0),
        size_done=board.get("size_done", 0),
        size_per_second=board.get("size_new", 0) / seconds,
        counted=board.get("counted", "rows"),
        per_second=board.get("new", 0) / seconds,
    )


def _read(notes: Path) -> tuple[Mapping[str, Any], float | None]:
    """The board of a run, and how many seconds ago it was written."""
    path = notes / BOARD
    try:
        board = json.loads(path.read_bytes())
        if any(misfits(board, _BOARD)):
            return {}, None
        if isinstance(notes, RemotePath):
            return board, Bucket(str(notes)).age(BOARD)
        return board, max(0.0, _now(notes) - path.stat().st_mtime)
    except (OSError, ValueError, RecursionError):
        return {}, None


def _now(folder: Path) -> float:
    """By the clock of the disk: those of two machines may differ by an hour."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b" ")
            file.flush()
            return os.fstat(file.fileno()).st_mtime
    except OSError:  # a folder of others
        return time.time()
