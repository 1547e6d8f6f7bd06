"""Which samples each process sees, and when: a pure function of seed, epoch and position.

A global batch is spread over devices and passes, and each rank has as many batches as the others.

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

from clipgap.errors import UsageError

T = TypeVar("T")

BUFFER = 5_000
"""Samples among which the next one is drawn, as in open_clip."""


@dataclass(frozen=True, order=True)
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


@dataclass(frozen=True)
class BatchPlan:
    """Sizes of one epoch, the same for each rank."""

    world: int
    batch: int  # samples of a rank and a pass
    accum: int  # passes a step
    workers: int  # loader processes a rank
    batches: int  # of a rank in an epoch

    @property
    def global_batch(self) -> int:
        return self.world * self.batch * self.accum

    @property
    def steps(self) -> int:
        return self.batches // self.accum

    @property
    def samples(self) -> int:
        """Seen in an epoch; a few of them twice, to make the last batches full."""
        return self.world * self.batch * self.batches

    @property
    def streams(self) -> int:
        """Loader processes of a rank, counting the rank itself if it has none."""
        return max(1, self.workers)

    @property
    def stream_length(self) -> int:
        """Samples that each stream gives in an epoch."""
        return self.batches // self.streams * self.batch


def plan_batches(samples: int, world: int, batch: int, accum: int, workers: int) -> BatchPlan:
    """As few batches as see every sample, equal for all loader processes, in whole steps."""
    streams = max(1, workers)
    each = -(-samples // (world * batch * streams))
    while each * streams % accum:
        each += 1
    return BatchPlan(world, batch, accum, workers, each * streams)


def split_global_batch(
    total: int, world: int, batch: int | None, accum: int | None, largest: int | None
) -> tuple[int, int]:
    """Samples of a device and pass, and passes a step, whose product over all devices is `total`.

    Without `batch` and `accum`, as few passes as leave no more than `largest` samples in one.
    """
    if batch is None and accum is None:
        least = 1 if largest is None else -(-total // (world * largest))
        fitting = (n for n in range(least, 2 * least + 64) if total % (world * n) == 0)
        accum = next(fitting, least)
    unit = world * (batch or 1) * (accum or 1)
    if total % unit or (batch and accum and total != unit):
        raise UsageError(_does_not_divide(total, world, batch, accum))
    return batch or total // unit, accum or total // unit


def _does_not_divide(total: int, world: int, batch: int | None, accum: int | None) -> str:
    unit = world * (batch or 1) * (accum or 1)
    parts = [f"{world:,} device{'s' if world > 1 else ''}"]
    parts += [f"{batch:,} samples a device"] if batch else []
    parts += [f"{accum:,} pass{'es' if accum > 1 else ''}"] if accum else []
    if batch and accum:
        near = [unit]
    else:
        near = [size for size in (total // unit * unit, (total // unit + 1) * unit) if size]
    return (
        f"a global batch of {total:,} cannot be split over {' × '.join(parts)}. The nearest that "
        f"can: {' and '.join(f'--global-batch {size}' for size in near)}"
    )
