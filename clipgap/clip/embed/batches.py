"""Images in batches, decoded ahead of the model, each into its place in a buffer.

A place whose image proves bad stays black: it goes through the model and its row is dropped, so
that one image never changes the company in which others are computed.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clipgap.clip.embed.sources import Unit
from clipgap.clip.images.ahead import Ahead, Submit
from clipgap.clip.images.decoding import BadImage
from clipgap.clip.images.reading import RawImage
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
        self._ahead = Ahead(self._read, threads, BUFFERS)

    def __enter__(self) -> BatchReader:
        self._ahead.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._free.put(None)  # whoever waits for a buffer need not
        self._ahead.__exit__()

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._ahead)

    def give_back(self, batch: Batch) -> None:
        """The batch's buffer may be used again."""
        self._free.put(batch.buffer)

    def _read(self, submit: Submit) -> Iterator[Batch]:
        for unit in self._units:
            problems: list[Problem] = []
            batch: Batch | None = None
            for image in unit.images(self._captions, problems.append):
                if batch is not None and len(batch.images) == self._size:
                    yield batch
                    batch = None
                if batch is None and (batch := self._next(unit)) is None:
                    return
                place = batch.buffer[len(batch.images)]
                batch.images.append(image)
                batch.decoded.append(submit(self._decode, image, place))
            if batch is None and (batch := self._next(unit)) is None:
                return
            batch.problems, batch.is_last = problems, True
            yield batch

    def _next(self, unit: Unit) -> Batch | None:
        """A batch with a free buffer; None when all is to end."""
        buffer = self._free.get()
        return None if buffer is None else Batch(unit, buffer)

    def _decode(self, image: RawImage, place: Tensor) -> str | None:
        try:
            place.copy_(self._preprocess(image.decode()))
            return None
        except BadImage as bad:
            place.zero_()
            return bad.reason
