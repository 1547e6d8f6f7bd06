"""A set in batches, decoded and prepared ahead of the models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipgap.clip.eval.sets import EvalSet, Item
from clipgap.clip.images.ahead import Ahead, Submit
from clipgap.clip.images.decoding import BadImage
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

    What cannot be used is left out, and reported at the end: what was met while reading, then what
    was met while decoding.
    """
    import torch

    def prepare(item: Item) -> list[Tensor]:
        image = item.image.decode()
        if data.border:
            image = _without_border(image, data.border, item.image.where)
        return [preprocess(image) for preprocess in preprocesses]

    def read(submit: Submit) -> Iterator[tuple[Item, Future[list[Tensor]]]]:
        for item in data.images.items(unread.append):
            yield item, submit(prepare, item)

    unread: list[Problem] = []
    undecoded: list[Problem] = []
    held: list[tuple[Item, list[Tensor]]] = []
    with Ahead(read, workers, _AHEAD * size) as ahead:
        for item, future in ahead:
            try:
                held.append((item, future.result()))
            except BadImage as bad:
                undecoded.append(Problem(data.path, "sample", item.image.key, bad.reason))
            if len(held) == size:
                yield _batch(held, torch.stack)
                held = []
        if held:
            yield _batch(held, torch.stack)
    for problem in (*unread, *undecoded):
        report(problem)


def _batch(
    held: Sequence[tuple[Item, list[Tensor]]], stack: Callable[[list[Tensor]], Tensor]
) -> Batch:
    items = [item for item, _ in held]
    return Batch(
        keys=[item.image.key for item in items],
        labels=np.array([item.label for item in items], np.int64),
        groups=[item.group for item in items],
        images=[stack(list(tensors)) for tensors in zip(*(t for _, t in held), strict=True)],
    )


def _without_border(image: Image, border: int, where: str) -> Image:
    width, height = image.size
    if min(width, height) <= 2 * border:
        raise BadImage(where, f"{width:,} × {height:,} pixels: nothing is left inside its border")
    return image.crop((border, border, width - border, height - border))
