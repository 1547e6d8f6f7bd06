"""From a sample's bytes to tensors, and from samples to batches.

What is in a batch follows from seed, epoch and position alone, down to the random crops: a resumed
run gets the very batches that it would have got.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from clipgap.clip.images.decoding import Unusable
from clipgap.clip.images.reading import CAPTION, RawImage, class_of
from clipgap.clip.train.captions import Captions
from clipgap.clip.train.labels import ClassLabels
from clipgap.clip.train.logs import Quarantine
from clipgap.clip.train.order import Order, Position, shuffled, stream_of
from clipgap.errors import InputError
from clipgap.shards.problems import OnProblem, Problem
from clipgap.shards.samples import Sample

Encode = Callable[[Sample], Sequence[Any]]
"""Makes tensors of a sample; raises Unusable if it cannot."""


@dataclass(frozen=True)
class WithCaption:
    """Image and tokens, of the caption that a sample has or that is made for it."""

    preprocess: Callable[[Any], Any]
    tokenize: Callable[[str], Any]
    captions: Captions | None = None

    def __call__(self, sample: Sample) -> tuple[Any, Any]:
        caption = _caption(sample, self.captions)
        return self.preprocess(RawImage.of_sample(sample).decode()), self.tokenize(caption)[0]


@dataclass(frozen=True)
class WithClass:
    """Image and number of the class, which a table says, or else the sample itself."""

    preprocess: Callable[[Any], Any]
    classes: int
    labels: ClassLabels | None = None

    def __call__(self, sample: Sample) -> tuple[Any, int]:
        if self.labels is None:
            label = class_of(sample)
        elif (label := self.labels.of.get(sample.key, -1)) < 0:
            raise _unusable(sample, f"has no class in {self.labels.path}")
        if label >= self.classes:
            raise _unusable(sample, f"is of class {label}, but there are {self.classes:,}")
        return self.preprocess(RawImage.of_sample(sample).decode()), label


def _caption(sample: Sample, captions: Captions | None) -> str:
    if captions is not None:
        try:
            made = captions.of(sample.key)
        except KeyError as error:
            raise _unusable(sample, f"has no label for {captions.path}") from error
        if made is not None:
            return made
    if CAPTION not in sample.contents:
        raise _unusable(sample, f"has no caption (.{CAPTION})")
    try:
        return sample.contents[CAPTION].decode()
    except UnicodeDecodeError as error:
        raise _unusable(sample, "its caption is not UTF-8") from error


def _unusable(sample: Sample, reason: str) -> Unusable:
    return Unusable(f"{sample.shard}, {sample.key}", reason)


class Shards(Protocol):
    """Where samples come from, shard by shard."""

    def read(self, shard: int, on_problem: OnProblem) -> Iterator[Sample]:
        """The samples of a shard that take part, in order."""
        ...


class Epoch(Protocol):
    """The number of the epoch, shared with worker processes."""

    def get_value(self) -> int: ...


@dataclass(frozen=True)
class Share:
    """What this process gets of each epoch."""

    rank: int
    workers: int  # at least 1: that is the process itself if there are none
    batch: int
    begin: Position  # where the run was taken up


class Batches(IterableDataset[tuple[Any, ...]]):
    """Batches without end of the epoch that `epoch` names: the encoded parts, then names."""

    def __init__(
        self,
        shards: Shards,
        order: Order,
        share: Share,
        encode: Encode,
        epoch: Epoch,
        quarantine: Quarantine,
    ) -> None:
        self._shards, self._order, self._share = shards, order, share
        self._encode, self._epoch, self._quarantine = encode, epoch, quarantine

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        share, epoch = self._share, self._epoch.get_value()
        info = get_worker_info()
        worker = info.id if info else 0
        self._quarantine.write_as(f"rank-{share.rank}-worker-{worker}")
        done = share.begin.batch if epoch == share.begin.epoch else 0
        stream, given = stream_of(worker, share.workers, done)
        place = (epoch, share.rank * share.workers + stream)
        samples = self._encoded(place, given * share.batch)
        while True:
            items = list(islice(samples, share.batch))
            *parts, names = zip(*items, strict=True)
            yield (*map(_stacked, parts), list(names))

    def _encoded(self, place: tuple[int, int], given: int) -> Iterator[tuple[Any, ...]]:
        """The samples behind the first `given`, which were seen before the run was stopped."""
        chance = self._order.generator(*place)
        number = 0
        while True:
            before = number
            for sample in shuffled(self._raw(place), chance):
                if number < given:
                    # What was good then is good now; nothing need be decoded to count it.
                    number += (sample.shard, sample.key) not in self._quarantine
                    continue
                try:
                    with randomness_of(self._order, *place, number):
                        encoded = self._encode(sample)
                except Unusable as bad:
                    problem = Problem(sample.shard, "sample", sample.key, bad.reason)
                    self._quarantine.report(problem)
                    continue
                number += 1
                yield (*encoded, (sample.shard, sample.key))
            if number == before:
                raise InputError(
                    "a process found not one sample that it could use in its part of the shards; "
                    "the folder '.progress/quarantine' of the run says what is wrong with them"
                )

    def _raw(self, place: tuple[int, int]) -> Iterator[Sample]:
        for stretch in self._order.stretches(*place):
            samples = self._shards.read(stretch.shard, self._quarantine.report)
            yield from islice(samples, stretch.start, stretch.stop)
            if stretch.stop == self._order.samples[stretch.shard]:
                # Is what follows the last sample the end of the shard, or was it cut off there?
                deque(samples, maxlen=0)


def loader(batches: Batches, workers: int, pinned: bool) -> DataLoader[tuple[Any, ...]]:
    """A loader whose workers live as long as the run."""
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pinned,
        worker_init_fn=_outlive_signals,
    )


@contextmanager
def randomness_of(order: Order, *place: int) -> Iterator[None]:
    """Within this block random numbers belong to a place of the run and to nothing else."""
    number, before = order.generator(*place).getrandbits(63), random.getstate()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would queue a call for each device, with a stack trace: 0.7 ms.
        torch.default_generator.manual_seed(number)
        random.seed(number)
        try:
            yield
        finally:
            random.setstate(before)


def _stacked(parts: Sequence[Any]) -> torch.Tensor:
    return torch.stack(list(parts)) if isinstance(parts[0], torch.Tensor) else torch.tensor(parts)


def _outlive_signals(worker: int) -> None:
    """A signal for all processes of a job asks the trainer to stop, which then ends its workers."""
    import signal

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
