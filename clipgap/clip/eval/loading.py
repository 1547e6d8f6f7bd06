"""Images read, decoded and prepared ahead of the model, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipgap.clip.eval.sets import EvalSet, Item
from clipgap.clip.images import BadImage, decode
from clipgap.shards.problems import Problem

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Preprocess = Callable[["Image"], "Tensor"]
_AHEAD = 4
"""Batches being prepared while one is evaluated."""


@dataclass(frozen=True)
class Batch:
    """Samples that could be decoded."""

    keys: Sequence[str]
    labels: NDArray[np.int64]
    groups: Sequence[str | None]
    images: Sequence[Tensor]  # one for each preprocessing


def batches(
    data: EvalSet,
    preprocesses: Sequence[Preprocess],
    size: int,
    workers: int,
    report: Callable[[Problem], None],
) -> Iterator[Batch]:
    """The set in batches; each image is decoded once, however many preprocessings it goes through.

    What cannot be decoded is reported and left out.
    """
    import torch

    def prepare(item: Item) -> list[Tensor]:
        image = decode(item.read(), item.where)
        if data.border:
            image = _without_border(image, data.border, item.where)
        return [preprocess(image) for preprocess in preprocesses]

    held: list[tuple[Item, list[Tensor]]] = []
    for item, future in _ahead(data.images.items(report), prepare, workers, _AHEAD * size):
        try:
            held.append((item, future.result()))
        except BadImage as bad:
            report(Problem(data.path, "sample", item.key, bad.reason))
        if len(held) == size:
            yield _batch(held, torch.stack)
            held = []
    if held:
        yield _batch(held, torch.stack)


def _ahead(
    items: Iterator[Item],
    prepare: Callable[[Item], list[Tensor]],
    workers: int,
    ahead: int,
) -> Iterator[tuple[Item, Future[list[Tensor]]]]:
    """Items in order, with `ahead` of them in the hands of the workers."""
    import torch

    waiting: deque[tuple[Item, Future[list[Tensor]]]] = deque()
    # Threads that decode must not each ask for a team of threads for a small tensor.
    with ThreadPoolExecutor(workers, "decode", lambda: torch.set_num_threads(1)) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(prepare, item)))
                if len(waiting) > ahead:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _batch(
    held: Sequence[tuple[Item, list[Tensor]]], stack: Callable[[list[Tensor]], Tensor]
) -> Batch:
    items = [item for item, _ in held]
    return Batch(
        keys=[item.key for item in items],
        labels=np.array([item.label for item in items], np.int64),
        groups=[item.group for item in items],
        images=[stack(list(tensors)) for tensors in zip(*(t for _, t in held), strict=True)],
    )


def _without_border(image: Image, border: int, where: str) -> Image:
    width, height = image.size
    if min(width, height) <= 2 * border:
        raise BadImage(where, f"{width:,} × {height:,} pixels: nothing is left inside its border")
    return image.crop((border, border, width - border, height - border))
