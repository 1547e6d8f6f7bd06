"""Threads that go through the shards of a store, with progress and a way to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from clipgap.machine import cores
from clipgap.runs.how import How, Progress, Tally

T = TypeVar("T")


class Workers:
    """Runs a task on every shard. What takes time releases the interpreter lock, so threads do."""

    def __init__(self, shard_rows: Sequence[int], threads: int | None, how: How) -> None:
        self._rows, self._how = shard_rows, how
        self.threads = threads or cores()

    @property
    def shards(self) -> int:
        return len(self._rows)

    def each(self, stage: str, task: Callable[[int], T], works: bool = False) -> list[T]:
        """The task's results, in the order of the shards; the first error ends all.

        `works` if the task writes.
        """
        results = []

        def run(shard: int) -> T:
            self.check()
            return task(shard)

        begin = Progress(stage=stage, total=sum(self._rows), parts=self.shards)
        tally = Tally(self._how, begin, works=works)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="clipgap-select") as pool:
            try:
                for shard, result in enumerate(pool.map(run, range(self.shards))):
                    results.append(result)
                    tally.add(self._rows[shard], 1)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return results

    def check(self) -> None:
        """Raise if the work shall stop; cheap enough for every block."""
        self._how.check("; nothing is kept, a split starts again")
