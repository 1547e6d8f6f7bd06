"""One process for each device, and units dealt to whoever is free.

A single worker runs in this very process. Others are started anew (a forked CUDA does not work),
take units from one queue, and leave when they are told to or when their parent is gone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from clipgap.clip.embed.sources import Unit
from clipgap.clip.embed.worker import Done, Job, Step, embed_units
from clipgap.clip.models import warn_if_random
from clipgap.errors import ClipgapError, Interrupted
from clipgap.machine import thread_count

_POLL_SECONDS = 0.5


def run_units(
    job: Job, units: Sequence[Unit], devices: Sequence[str], stop: Callable[[], bool]
) -> Iterator[Step | Done]:
    """What the workers have to tell, as it comes; one worker for each entry of `devices`."""
    threads = max(1, thread_count() // len(devices))
    if len(devices) == 1:
        yield from embed_units(job, units, devices[0], threads, stop)
    else:
        warn_if_random(job.model, job.pretrained)  # the processes don't
        yield from _Processes(job, units, devices[: len(units)], threads).run(stop)


class _Processes:
    def __init__(
        self, job: Job, units: Sequence[Unit], devices: Sequence[str], threads: int
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._tasks: Any = context.Queue()
        self._events: Any = context.Queue()
        self._stop = context.Event()
        for unit in [*units, *[None] * len(devices)]:
            self._tasks.put(unit)
        self._workers = [
            context.Process(
                target=_work,
                args=(job, device, threads, self._tasks, self._events, self._stop),
                daemon=True,
            )
            for device in devices
        ]

    def run(self, stop: Callable[[], bool]) -> Iterator[Step | Done]:
        for worker in self._workers:
            worker.start()
        working = len(self._workers)
        try:
            while working:
                if stop():
                    self._stop.set()
                event = self._next()
                if event is None:
                    working -= 1
                elif isinstance(event, BaseException):
                    raise event
                elif event is not _NOTHING:
                    yield event
        finally:
            for worker in self._workers:
                if working:
                    worker.kill()  # what it was writing stays under a temporary name
                worker.join()

    def _next(self) -> Any:
        """The next event, or `_NOTHING` for now."""
        try:
            return self._events.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            dead = [worker for worker in self._workers if worker.exitcode not in (None, 0)]
            if dead:
                raise Interrupted(
                    f"a worker process ended with code {dead[0].exitcode} (-9 is often a lack of "
                    "memory: try fewer --workers or a smaller --batch-size); finished shards are "
                    "kept, and --resume goes on"
                ) from None
            return _NOTHING


_NOTHING = object()


def _work(job: Job, device: str, threads: int, tasks: Any, events: Any, stop: Any) -> None:
    """The life of a worker process; an exception is its last word."""
    import torch

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent says when to stop
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    logging.getLogger("clipgap").setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    try:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)  # or pinned memory would belong to the first GPU
        for event in embed_units(job, iter(tasks.get, None), device, threads, stop.is_set):
            events.put(event)
        events.put(None)
    except ClipgapError as error:
        events.put(error)
    except Exception as error:
        events.put(ClipgapError(f"a worker process failed: {type(error).__name__}: {error}"))


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
