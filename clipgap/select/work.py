"""Threads that go through the shards of a store, with progress and a way to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from clipgap.errors import Interrupted, UsageError
from clipgap.machine import cores
from clipgap.runs.how import OnProgress, Progress, ignore

T = TypeVar("T")


class Workers:
    """Runs a task on every shard. What takes time releases the interpreter lock, so threads do."""

    def __init__(
        self,
        shard_rows: Sequence[int],
        threads: int | None = None,
        on_progress: OnProgress | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads:,}; it must be at least 1")
        self._rows = shard_rows
        self._threads = threads or cores()
        self._report = on_progress or ignore
        self._stop = stop or threading.Event()

    @property
    def shards(self) -> int:
        return len(self._rows)

    def each(self, stage: str, task: Callable[[int], T], works: bool = False) -> list[T]:
        """The task's results, in the order of the shards; the first error ends all.

        `works` if the task writes.
        """
        began, done, results = time.monotonic(), 0, []
        total, shards = sum(self._rows), len(self._rows)

        def run(shard: int) -> T:
            self.check()
            return task(shard)

        self._report(Progress(stage=stage, works=works, total=total, parts=shards))
        with ThreadPoolExecutor(self._threads, thread_name_prefix="clipgap-select") as pool:
            try:
                for shard, result in enumerate(pool.map(run, range(shards))):
                    results.append(result)
                    done += self._rows[shard]
                    seconds = time.monotonic() - began
                    now = Progress(
                        stage=stage,
                        works=works,
                        done=done,
                        total=total,
                        part=shard + 1,
                        parts=shards,
                        seconds=seconds,
                    )
                    self._report(now)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return results

    def check(self) -> None:
        """Raise if the work shall stop; cheap enough for every block."""
        if self._stop.is_set():
            raise Interrupted("stopped on request; the same command with --resume starts again")
