"""Which samples each process sees, and when: a pure function of seed, epoch and position.

An epoch puts the shards into a new order and hands the samples out in equal stretches, one to each
stream, that is to each worker of each rank. So every sample is seen once an epoch, whatever the
sizes of the shards, but for the few of its beginning that are seen again to fill the last batches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

T = TypeVar("T")

BUFFER = 5_000
"""Samples among which the next one is drawn, as in open_clip."""


@dataclass(frozen=True)
class Position:
    """How far a run has come: whole epochs, and batches of each rank in the one begun."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Stretch:
    """Samples start … stop of a shard, counting only those that take part."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Order:
    """The order of all samples; `samples` says how many of each shard take part."""

    samples: Sequence[int]
    seed: int
    length: int  # samples that a stream gives in an epoch

    def stretches(self, epoch: int, stream: int) -> Iterator[Stretch]:
        """What a stream reads in an epoch, in order."""
        shards = [shard for shard, samples in enumerate(self.samples) if samples]
        random.Random(f"{self.seed} {epoch}").shuffle(shards)
        ends = list(accumulate(self.samples[shard] for shard in shards))
        at, left = stream * self.length % ends[-1], self.length
        while left:
            begin = 0
            for shard, end in zip(shards, ends, strict=True):
                if at < end and left:
                    taken = min(left, end - at)
                    yield Stretch(shard, at - begin, at - begin + taken)
                    at, left = at + taken, left - taken
                begin = end
            at = 0

    def generator(self, *place: int) -> random.Random:
        """Random numbers that belong to one place of the run."""
        return random.Random(" ".join(map(str, (self.seed, *place))))


def stream_of(worker: int, workers: int, done: int) -> tuple[int, int]:
    """Which stream a worker serves when `done` batches of its rank are over, and how many of those
    the stream has given.

    Loaders ask their workers in turn, beginning with the first. The streams have to be asked in
    turn, too, beginning where the run was stopped.
    """
    stream = (worker + done) % workers
    return stream, len(range(stream, done, workers))


def shuffled(items: Iterator[T], chance: random.Random, size: int = BUFFER) -> Iterator[T]:
    """The items in an order that is random over distances of about `size`."""
    held: list[T] = []
    for item in items:
        if len(held) < size:
            held.append(item)
            continue
        place = chance.randrange(size)
        held[place], item = item, held[place]
        yield item
    chance.shuffle(held)
    yield from held
