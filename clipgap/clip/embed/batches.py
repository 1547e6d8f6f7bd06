"""Images read and decoded ahead of the model, in order.

One thread reads, several decode and preprocess (Pillow works outside of Python's lock), each into
its place in a batch. A place whose image proves bad stays black: it goes through the model and its
row is dropped, so that one image never changes the company in which others are computed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clipgap.clip.embed.sources import RawImage, Unit
from clipgap.clip.images import BadImage, decode
from clipgap.shards.problems import Problem

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

BUFFERS = 4
"""Batches at a time: being computed, copied, decoded, begun."""

_LEAST = 8
"""Rows that go through the model at least: products of a few rows are computed in other ways."""


@dataclass
class Batch:
    """Neighbouring images of one unit."""

    unit: Unit
    buffer: Tensor
    images: list[RawImage] = field(default_factory=list)
    decoded: list[Future[str | None]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)  # met while it was read
    is_last: bool = False  # of its unit

    @property
    def pixels(self) -> Tensor:
        return self.buffer[: max(len(self.images), _LEAST)]

    def wait(self) -> list[str | None]:
        """Why each image is bad; None for those that are not."""
        return [each.result() for each in self.decoded]


class BatchReader:
    """Batches of a stream of units; a context manager, since it has threads."""

    def __init__(
        self,
        units: Iterable[Unit],
        preprocess: Callable[[Image], Tensor],
        *,
        size: int,
        threads: int,
        captions: bool,
        pinned: bool,
    ) -> None:
        import torch
        from PIL import Image

        self._units, self._preprocess, self._size = units, preprocess, size
        self._captions = captions
        shape = (max(size, _LEAST), *preprocess(Image.new("RGB", (32, 32))).shape)
        self._free: queue.Queue[Tensor | None] = queue.Queue()
        for _ in range(BUFFERS):
            self._free.put(torch.zeros(shape, pin_memory=pinned))
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue()
        self._stopped = False
        # Threads that decode must not each ask for a team of threads for a small tensor.
        self._threads_before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads, "decode", lambda: torch.set_num_threads(1))
        self._reader = threading.Thread(target=self._read, name="read", daemon=True)

    def __enter__(self) -> BatchReader:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self._stopped = True
        self._free.put(None)
        self._pool.shutdown(cancel_futures=True)
        self._reader.join()
        torch.set_num_threads(self._threads_before)

    def __iter__(self) -> Iterator[Batch]:
        while (batch := self._ready.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield batch

    def give_back(self, batch: Batch) -> None:
        """The batch's buffer may be used again."""
        self._free.put(batch.buffer)

    def _read(self) -> None:
        try:
            for unit in self._units:
                self._read_unit(unit)
                if self._stopped:
                    return
            self._ready.put(None)
        except BaseException as error:
            if not self._stopped:
                self._ready.put(error)

    def _read_unit(self, unit: Unit) -> None:
        problems: list[Problem] = []
        batch: Batch | None = None
        for image in unit.images(self._captions, problems.append):
            if batch is not None and len(batch.images) == self._size:
                self._ready.put(batch)
                batch = None
            if batch is None:
                batch = self._next(unit)
            if batch is None:
                return
            place = batch.buffer[len(batch.images)]
            batch.images.append(image)
            batch.decoded.append(self._pool.submit(self._decode, image, place))
        if batch is None:
            batch = self._next(unit)
        if batch is not None:
            batch.problems, batch.is_last = problems, True
            self._ready.put(batch)

    def _next(self, unit: Unit) -> Batch | None:
        """A batch with a free buffer; None when all is to end."""
        buffer = self._free.get()
        return None if buffer is None or self._stopped else Batch(unit, buffer)

    def _decode(self, image: RawImage, place: Tensor) -> str | None:
        try:
            place.copy_(self._preprocess(decode(image.read(), image.where)))
            return None
        except BadImage as bad:
            reason = bad.reason
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        place.zero_()
        return reason
