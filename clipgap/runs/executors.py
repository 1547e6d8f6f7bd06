"""Who does the units of a run: this thread, threads of this process, or processes of their own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from types import ModuleType
from typing import Any

from clipgap.errors import ClipgapError, InputError, Interrupted, OutOfResources
from clipgap.runs.units import Event, Made, News, Slot, Work

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Here:
    """One worker, in the calling thread."""

    cores: int = 1
    device: str = "cpu"

    def __call__(
        self, work: Work, units: Sequence[Any], stop: Callable[[], bool], news: News
    ) -> Iterator[Event]:
        yield from work.do(iter(units), Slot(0, self.cores, self.device, stop, news=news))


@dataclass(frozen=True)
class Threads:
    """Several workers in this process, for work that mostly waits for disks."""

    count: int

    def __call__(
        self, work: Work, units: Sequence[Any], stop: Callable[[], bool], news: News
    ) -> Iterator[Event]:
        left = iter(units)
        taking = threading.Lock()
        events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        failed = threading.Event()

        def take() -> Iterator[Any]:
            while not (stop() or failed.is_set()):
                with taking:
                    unit = next(left, _NOTHING)
                if unit is _NOTHING:
                    return
                yield unit

        def run(number: int) -> None:
            try:
                for event in work.do(take(), Slot(number, 1, "cpu", stop, count, news)):
                    events.put(event)
                events.put(None)
            except BaseException as error:
                failed.set()
                events.put(error)

        count = min(self.count, len(units))
        threads = [
            threading.Thread(target=run, args=(number,), name=f"clipgap-unit-{number}")
            for number in range(count)
        ]
        try:
            for thread in threads:
                thread.start()
            working = count
            while working:
                event = events.get()
                if event is None:
                    working -= 1
                elif isinstance(event, BaseException):
                    raise event
                else:
                    yield event
        finally:
            failed.set()  # nobody begins another unit
            for thread in threads:
                if thread.ident is not None:
                    thread.join()


@dataclass(frozen=True)
class Processes:
    """A process for each slot, started anew: a forked CUDA does not work.

    They take units from one queue, and leave when they are told to or when their parent is gone.
    """

    devices: Sequence[str]
    cores: int = 1  # for each

    def __call__(
        self, work: Work, units: Sequence[Any], stop: Callable[[], bool], news: News
    ) -> Iterator[Event]:
        context = multiprocessing.get_context("spawn")
        tasks: Any = context.Queue()
        events: Any = context.Queue()
        stopping = context.Event()
        devices = self.devices[: len(units)]
        pipes = [context.Pipe(duplex=False) for _ in devices]
        for unit in [*units, *[None] * len(devices)]:
            tasks.put(unit)
        workers = [
            context.Process(
                target=_work,
                args=(
                    work,
                    Slot(number, self.cores, device, of=len(devices)),
                    *(tasks, events, stopping, news(), hears),
                ),
                daemon=True,
            )
            for number, (device, (hears, _)) in enumerate(zip(devices, pipes, strict=True))
        ]

        def tell(number: int) -> None:
            if (latest := news()) is not None:
                with suppress(OSError):  # it has ended
                    pipes[number][1].send(latest)

        working = 0
        try:
            with _main_left_alone():
                for number, worker in enumerate(workers):
                    worker.start()
                    pipes[number][0].close()  # the worker's end is its alone
                    working += 1
            while working:
                if stop():
                    stopping.set()
                event = _next(events, workers)
                if event is None:
                    working -= 1
                elif isinstance(event, BaseException):
                    raise event
                elif event is not _NOTHING:
                    yield event
                    if isinstance(event, Made) and event.state is not None:
                        tell(event.worker)
        finally:
            for worker in workers:
                if working and worker.pid is not None:
                    worker.kill()  # what it was writing stays under a temporary name
                if worker.pid is not None:
                    worker.join()
            for _, tells in pipes:
                tells.close()


@contextmanager
def _main_left_alone() -> Iterator[None]:
    """Processes that are started now do not run the user's script, of which they need nothing: one
    that does not ask for its name would begin the same run in each of them."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_NOTHING = object()


def _next(events: Any, workers: Sequence[Any]) -> Any:
    """The next event, or `_NOTHING` for now."""
    try:
        return events.get(timeout=_POLL_SECONDS)
    except queue.Empty:
        dead = [worker for worker in workers if worker.exitcode not in (None, 0)]
        if dead:
            raise Interrupted(
                f"a worker process ended with code {dead[0].exitcode} (-9 is often a lack of "
                "memory: try fewer workers or smaller batches); what is finished is kept, and "
                "--resume goes on"
            ) from None
        return _NOTHING


def _work(work: Work, slot: Slot, tasks: Any, events: Any, stopping: Any, *news: Any) -> None:
    """The life of a worker process; an exception is its last word."""
    for asking in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asking, signal.SIG_IGN)  # the parent says when to stop
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    logging.getLogger("clipgap").setLevel(logging.ERROR)
    try:
        slot = replace(slot, stop=stopping.is_set, news=_Heard(*news))
        for event in work.do(iter(tasks.get, None), slot):
            events.put(event)
        events.put(None)
    except Exception as error:
        events.put(portable(error))


class _Heard:
    """The last that the parent has told. Read as it comes: the parent waits until it is."""

    def __init__(self, first: Any, pipe: Any) -> None:
        self._last = first
        threading.Thread(target=self._listen, args=(pipe,), daemon=True).start()

    def __call__(self) -> Any:
        return self._last

    def _listen(self, pipe: Any) -> None:
        with suppress(EOFError, OSError):  # the parent is gone, or going
            while True:
                self._last = pipe.recv()


def portable(error: BaseException) -> ClipgapError:
    """What a worker elsewhere says last: errors of others need not be ones that can be pickled."""
    told = OutOfResources.behind(error) or error
    if isinstance(told, ClipgapError):
        return told
    kind = InputError if isinstance(told, OSError) else ClipgapError
    return kind(f"a worker process failed: {type(told).__name__}: {told}")


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
