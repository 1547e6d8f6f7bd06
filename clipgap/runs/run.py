"""Units being done: dealt to an executor, put on record, and told of to whoever asks."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from clipgap.errors import InputError, Interrupted, ShareDone
from clipgap.files.documents import write_json
from clipgap.runs.how import How
from clipgap.runs.units import Event, Executor, Ledger, Made, Work

BOARD = "board.json"
"""Among the notes of a run: how it goes. It is written for people, and no run reads it."""

_SECONDS = 10.0


def run_units(
    work: Work,
    units: Sequence[Any],
    ledger: Ledger,
    executor: Executor,
    how: How,
    noun: str = "shard",
    steps: str = "rows",
) -> Iterator[Event]:
    """Do the units that the ledger does not have; each event is passed on once it is on record.

    `steps` are what the events count. Of a run that is dealt to several only those of its share are
    done; then `ShareDone` ends it.
    """
    notes = None if ledger.path is None else ledger.path.parent
    share = None if notes is None else how.share
    if share is not None and notes is not None:
        units = share.take(units, notes)
    left = [unit for unit in units if unit.name not in ledger.records]
    if left and notes is not None and how.parts:
        raise InputError.listing(
            f"{len(left):,} of {len(units):,} {noun}s are in none of the parts:",
            [unit.name for unit in left],
        )
    if left:
        with ledger.writing(), _Board(notes, units, ledger.records, noun, steps) as board:
            for event in executor(work, left, how.is_asked_to_stop, ledger.news):
                if isinstance(event, Made):
                    ledger.add(event)
                board.add(event)
                yield event
    missing = sum(unit.name not in ledger.records for unit in units)
    if missing:
        kept = "; --resume goes on" if notes is not None else ""
        raise Interrupted(f"stopped with {missing:,} of {len(units):,} {noun}s left{kept}")
    if share is not None and notes is not None:
        raise ShareDone(notes.parent, str(share), len(units))


class _Board:
    """Writes now and then how a run goes; that this fails, as on a full disk, stops nothing."""

    def __init__(
        self,
        notes: Path | None,
        units: Sequence[Any],
        done: Iterable[str],
        noun: str,
        steps: str,
    ) -> None:
        self._notes, self._noun, self._counted = notes, noun, steps
        self._sizes = {unit.name: unit.size for unit in units}
        self._done = set(done) & self._sizes.keys()
        self._earlier = self._size_done()
        self._steps = 0.0
        self._began = self._written = time.monotonic()

    def __enter__(self) -> _Board:
        self._write("running")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, (Interrupted, GeneratorExit)):
            self._write("stopped" if len(self._done) < len(self._sizes) else "done")
        else:
            self._write("failed", str(error) or type(error).__name__)

    def add(self, event: Event) -> None:
        if isinstance(event, Made):
            self._done |= event.records.keys() & self._sizes.keys()
        else:
            self._steps += event.done
        if time.monotonic() - self._written >= _SECONDS:
            self._write("running")

    def _size_done(self) -> int:
        return sum(self._sizes[name] for name in self._done)

    def _write(self, state: str, said: str = "") -> None:
        self._written = time.monotonic()
        if self._notes is None:
            return
        size = self._size_done()
        with suppress(InputError, OSError):
            write_json(
                self._notes / BOARD,
                {
                    "state": state,
                    "said": said,
                    "noun": self._noun,
                    "units": len(self._sizes),
                    "done": len(self._done),
                    "size": sum(self._sizes.values()),
                    "size_done": size,
                    "size_new": size - self._earlier,
                    "counted": self._counted,
                    "new": self._steps,
                    "seconds": self._written - self._began,
                    "host": socket.gethostname(),
                    "process": os.getpid(),
                },
            )
