"""What a model needs next, read and decoded before it asks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Submit(Protocol):
    """Hands a call to one of the threads that decode."""

    def __call__(self, call: Callable[..., R], /, *arguments: Any) -> Future[R]: ...


class Ahead(Generic[T]):
    """What `read` yields, in order; a context manager, since it has threads.

    `read` runs in a thread of its own, at most `most` results ahead of whoever iterates. It is
    given a function that has other threads do what takes long: Pillow works outside of Python's
    lock.
    """

    def __init__(self, read: Callable[[Submit], Iterable[T]], threads: int, most: int) -> None:
        import torch

        self._read = read
        self._room = threading.Semaphore(most)
        self._ready: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()
        self._stopped = False
        # Threads that decode must not each ask for a team of threads for a small tensor.
        self._threads_before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads, "decode", lambda: torch.set_num_threads(1))
        self._reader = threading.Thread(target=self._run, name="read", daemon=True)

    def __enter__(self) -> Ahead[T]:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self._stopped = True
        self._room.release()
        self._pool.shutdown(cancel_futures=True)
        self._reader.join()
        torch.set_num_threads(self._threads_before)

    def __iter__(self) -> Iterator[T]:
        while (made := self._ready.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            self._room.release()
            yield made

    def _run(self) -> None:
        try:
            for made in self._read(self._pool.submit):
                self._room.acquire()
                if self._stopped:
                    return
                self._ready.put(made)
            self._ready.put(None)
        except BaseException as error:  # raised where the results are wanted
            self._ready.put(error)
