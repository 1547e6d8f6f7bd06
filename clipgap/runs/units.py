"""Long runs as units, work, and an executor.

A *unit* is a part of a run that is done or not: a shard to scan, a tar file to write. *Work* knows
how to do units and writes their files, each whole or absent, with bytes that follow from the unit
alone. Both are plain values that can be pickled and name their inputs by path. An *executor* deals
units to workers, wherever these are; a unit may be done twice, in any order, and the result is the
same. What is done stands in the ledger, which only the process that drives the run writes. Runs
that know nothing of each other may each have a share of the units: see `shares`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from clipgap.files import lines
from clipgap.files.documents import FILES, SUM, Shape, checksum, misfits


class Unit(Protocol):
    @property
    def name(self) -> str:
        """No other unit of the run has it."""
        ...

    @property
    def size(self) -> int:
        """How much there is to do, beside the others: rows, bytes, images."""
        ...


@dataclass(frozen=True)
class Step:
    """Something was done of a unit: so much, in whatever the run counts."""

    done: float = 0
    more: Mapping[str, Any] = field(default_factory=dict)  # whatever else the run's tally takes


@dataclass(frozen=True)
class Made:
    """Units that are done, each with a record of plain data; `files` in it are its files' sums.

    `state` is what the worker has gathered over all of its units so far, these included. It may
    know of other units too: states are merged so that what is in two of them counts once. What
    `Slot.news` has told it of others it may leave out: their states are merged with its own.
    """

    records: Mapping[str, Mapping[str, Any]]
    state: Any = None
    worker: int = 0  # no two workers of a run have the same


Event = Step | Made

News = Callable[[], Any]
"""What there is to tell a worker of what all have gathered; None if nothing. Another object each
time that there is more."""


def _never() -> bool:
    return False


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Slot:
    """Where a worker works: one of so many, with so many cores, on a device."""

    number: int = 0
    cores: int = 1
    device: str = "cpu"
    stop: Callable[[], bool] = _never
    of: int = 1  # workers at the same time, all of whom say what they have made to one
    news: News = _nothing  # the last that this worker was told; it may only save time


class Work(Protocol):
    """Can be pickled, and does units wherever it is unpickled.

    Where it has `one_core = True`, a worker of it keeps no more than one core busy.
    """

    def do(self, units: Iterable[Any], slot: Slot) -> Iterator[Event]:
        """Do units in the order they come; when `slot.stop()`, leave the one at hand and return.

        Units are taken when there is room for them: what is common to all is loaded once, and the
        next one can be read while this one is computed.
        """
        ...


class Executor(Protocol):
    def __call__(
        self, work: Work, units: Sequence[Any], stop: Callable[[], bool], news: News
    ) -> Iterator[Event]:
        """All events of all units, as they come; fewer only if `stop()` became true.

        When an event is taken from here its state is part of `news()`. To tell workers of it when
        they begin, and each in return for a state of its own, costs less than their states do; not
        to tell them is as right.
        """
        ...


class StateFile(NamedTuple):
    """Where the state of all workers is kept while a run lasts, and how."""

    name: str
    save: Callable[[Path, Any], None]
    load: Callable[[Path], Any]


class Beside(Protocol):
    """Whoever keeps what is made in another place as well."""

    def add(self, made: Made) -> bool:
        """Hear of units that are done; whether it is time to keep the notes of the run."""
        ...

    def note(self) -> None:
        """Keep all notes that are on the disk now."""
        ...


UNITS = "units.jsonl"
"""Among the notes of a run: its ledger."""


class Ledger:
    """Which units are done: a line each, with a checksum, in a file that only grows.

    A line that a kill has torn is as good as none: its unit is done again. The state of the workers
    is written before the lines of the units that it knows.
    """

    def __init__(self, path: Path | None, record: Mapping[str, Shape] | None = None) -> None:
        self.path = path  # None: nothing is written down
        self._record = record or {}
        self._shape = {"files": (None, FILES), **self._record}
        self.records: dict[str, dict[str, Any]] = {}
        self._others: Any = None  # what all workers have gathered but the one that told it last
        self._latest: tuple[int, Any] = (_NOBODY, None)
        self._whole: Any = None  # both together, once it has been asked for
        self._news: Any = None
        self._unread: Path | None = None  # where earlier runs' state lies, until it is asked for
        self._merge: Callable[[Any, Any], Any] | None = None
        self._state_file: StateFile | None = None
        self._tell: Callable[[Any], Any] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._saving: Future[None] | None = None
        self.beside: Beside | None = None

    def gather(
        self,
        merge: Callable[[Any, Any], Any],
        file: StateFile | None = None,
        tell: Callable[[Any], Any] | None = None,
    ) -> None:
        """How the states of two workers become one, the file beside the ledger for it, and what of
        it workers are told."""
        self._merge, self._state_file, self._tell = merge, file, tell

    def at(self, path: Path | None) -> Ledger:
        """Another of the same kind."""
        other = Ledger(path, self._record)
        other.gather_like(self)
        return other

    def gather_like(self, other: Ledger) -> None:
        """Keep states as another does."""
        self._merge, self._state_file, self._tell = other._merge, other._state_file, other._tell

    @property
    def files(self) -> list[str]:
        """The names of all that it writes."""
        state = [] if self._state_file is None else [self._state_file.name]
        return state if self.path is None else [self.path.name, *state]

    def load(self) -> None:
        """Read what earlier runs have noted; their state is read when it is asked for."""
        if self.path is None:
            return
        for name, record in lines.read(self.path, self._parse):
            if record is None:
                self.records.pop(name, None)
            else:
                self.records[name] = record
        if self.records:
            self._unread = self.path.parent

    def clear(self) -> None:
        """Nothing has been done."""
        self.records.clear()
        self._others, self._latest, self._unread = None, (_NOBODY, None), None
        self._whole = self._news = None

    def _parse(self, line: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
        if line[SUM] != checksum(line):
            raise ValueError("its checksum does not hold")
        for problem in misfits(line, {"unit": str, "record": (None, self._shape)}):
            raise ValueError(problem)
        return line["unit"], line["record"]

    def forget(self, names: Iterable[str]) -> None:
        """These units are to be done again; noted before anything of them is overwritten."""
        names = [name for name in names if self.records.pop(name, None) is not None]
        if names and self.path is not None:
            lines.append(self.path, [_line(name, None) for name in names])

    @property
    def state(self) -> Any:
        """What all workers have gathered; None if none has."""
        if self._unread is not None and self._state_file is not None:
            unread, self._unread = self._unread, None
            earlier = self._state_file.load(unread / self._state_file.name)
            self._others, self._whole = self._together(earlier, self._others), None
        if self._whole is None:
            self._whole = self._together(self._others, self._latest[1])
        return self._whole

    def news(self) -> Any:
        """What workers are told of that state; None if nothing."""
        return self._news

    def _gathered(self) -> None:
        if self._tell is not None and self.state is not None:
            self._news = self._tell(self.state)

    def _together(self, ours: Any, theirs: Any) -> Any:
        if ours is None or theirs is None:
            return theirs if ours is None else ours
        assert self._merge is not None
        return self._merge(ours, theirs)

    def add(self, made: Made) -> None:
        """Note units as done. Returns at once if writing it down can go on beside the work."""
        self.records |= {name: dict(record) for name, record in made.records.items()}
        if made.state is not None:
            # Of each worker the last state holds all that it said before; a state is as large as
            # all test sets, and there may be hundreds of workers.
            if made.worker != self._latest[0]:
                self._others = self.state
            self._latest, self._whole = (made.worker, made.state), None
            self._gathered()
        if self.path is None or not (made.records or made.state is not None):
            return
        noted = [_line(name, record) for name, record in made.records.items()]
        state = self.state if made.state is not None else None
        self.wait()
        if self._pool is None:
            self._write(noted, state)
        else:
            self._saving = self._pool.submit(self._write, noted, state)
        if self.beside is not None and self.beside.add(made):
            self.wait()
            self.beside.note()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While this lasts, a thread of its own does the writing."""
        self._gathered()  # by earlier runs
        with ThreadPoolExecutor(1, thread_name_prefix="clipgap-ledger") as pool:
            self._pool = pool
            try:
                yield
                self.wait()
            finally:
                self._pool = None

    def wait(self) -> None:
        """Until all is on disk."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _write(self, noted: Sequence[Mapping[str, Any]], state: Any) -> None:
        assert self.path is not None
        if state is not None and self._state_file is not None:
            self._state_file.save(self.path.with_name(self._state_file.name), state)
        if noted:
            lines.append(self.path, noted)


_NOBODY = -1


def _line(name: str, record: Mapping[str, Any] | None) -> dict[str, Any]:
    line: dict[str, Any] = {"unit": name, "record": record}
    return {**line, SUM: checksum(line)}
