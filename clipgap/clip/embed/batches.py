"""Images in batches, decoded ahead of the model, each into its place in a buffer; and through it.

A place whose image proves bad stays black: it goes through the model and its row is dropped, so
that one image never changes the company in which others are computed. A GPU never waits: copies to
it run beside the computation, and the host waits only for the batch before the one it has just
sent.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipgap.clip.embed.sources import Unit
from clipgap.clip.images.ahead import Ahead, Submit
from clipgap.clip.images.decoding import BadImage
from clipgap.clip.images.reading import RawImage
from clipgap.clip.models import LoadedModel
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


@dataclass(frozen=True)
class Computed:
    """A batch and its features, a row for each of its images."""

    batch: Batch
    reasons: list[str | None]
    features: Tensor  # float32, on the CPU


def computed(model: LoadedModel, batches: Iterable[Batch]) -> Iterator[Computed]:
    """The features of each batch, in order."""
    return _on_gpu(model, batches) if model.device.startswith("cuda") else _on_cpu(model, batches)


def _on_cpu(model: LoadedModel, batches: Iterable[Batch]) -> Iterator[Computed]:
    for batch in batches:
        reasons = batch.wait()
        features = model.image_features(batch.pixels)
        yield Computed(batch, reasons, features[: len(batch.images)].float())


@dataclass(frozen=True)
class _Sent:
    batch: Batch
    reasons: list[str | None]
    features: Tensor  # in pinned memory, there once `done`
    done: Any


def _on_gpu(model: LoadedModel, batches: Iterable[Batch]) -> Iterator[Computed]:
    import torch

    device = torch.device(model.device)
    cuda: Any = torch.cuda
    copying = cuda.Stream(device)
    sent: deque[_Sent] = deque()

    def send(batch: Batch) -> _Sent:
        reasons = batch.wait()
        computing = cuda.current_stream(device)
        with cuda.stream(copying):
            pixels = batch.pixels.to(device, non_blocking=True)
        computing.wait_stream(copying)
        pixels.record_stream(computing)
        rows = model.image_features(pixels)[: len(batch.images)].float()
        features = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        features.copy_(rows, non_blocking=True)
        done = cuda.Event()
        done.record(computing)
        return _Sent(batch, reasons, features, done)

    def take() -> Computed:
        first = sent.popleft()
        first.done.synchronize()
        return Computed(first.batch, first.reasons, first.features)

    with cuda.device(device):
        for batch in batches:
            sent.append(send(batch))
            if len(sent) > 1:
                yield take()
        while sent:
            yield take()
