"""What happens around each batch of either objective: stop, seed, note keys and losses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from clipgap.clip.train.order import Order, Position
from clipgap.files.atomic import write_atomic

LOSSES = "losses.jsonl"
KEYS = "keys"


class StopAt(Exception):
    """The ranks have agreed to stop, with all steps before this position done."""

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        self.position = position


class Agreement:
    """Whether to stop: all ranks get the same answer at the same batch, whoever was asked."""

    def __init__(self, asked: Callable[[], bool], world: int) -> None:
        self._asked = asked
        # Apart from the group of the gradients, so that no GPU has to be waited for.
        self._group: Any = torch.distributed.new_group(backend="gloo") if world > 1 else None

    def __call__(self) -> bool:
        if self._group is None:
            return self._asked()
        flag = torch.tensor([int(self._asked())])
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(flag.item())


class Log:
    """A file of JSON lines, each with its epoch and batch, cut back to where a run is taken up."""

    def __init__(self, path: Path, begin: Position) -> None:
        self._path = path
        kept = []
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and _is_before(line, begin)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomic(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def write(self, entry: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _is_before(line: str, begin: Position) -> bool:
    entry = json.loads(line)
    return (int(entry["epoch"]), int(entry["batch"])) < (begin.epoch, begin.batch)


@dataclass
class Course:
    """What a rank carries through all of its epochs."""

    order: Order
    rank: int
    world: int
    accum: int
    batches: int  # of an epoch
    batch: int  # samples
    begin: Position
    every: int  # steps between two lines of the loss log
    stop: Agreement
    losses: Log | None = None  # of the first rank
    keys: Log | None = None

    def first_batch(self, epoch: int) -> int:
        return self.begin.batch if epoch == self.begin.epoch else 0


class Steps:
    """The batches of an epoch, as a loader that open_clip can go through.

    `loss` is set by the trainer before the next batch is asked for; it is looked at only for the
    log, since that waits for the device.
    """

    def __init__(
        self, loader: Iterable[tuple[Any, ...]], course: Course, epoch: int, optimizer: Any
    ) -> None:
        self._loader, self._course, self._epoch = loader, course, epoch
        self._optimizer = optimizer
        self.num_batches = course.batches
        self.num_samples = course.batches * course.batch * course.world
        self.loss: torch.Tensor | None = None

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        course, epoch = self._course, self._epoch
        first = course.first_batch(epoch)
        began, done = time.monotonic(), first
        for number, batch in enumerate(islice(self._loader, course.batches - first), start=first):
            if number % course.accum == 0 and course.stop():
                raise StopAt(Position(epoch, number))
            # Dropout and the like, too, depend on nothing but the place.
            chance = course.order.generator(epoch, course.rank, number)
            _seed(chance.getrandbits(63))
            *parts, names = batch
            if course.keys is not None:
                course.keys.write({"epoch": epoch, "batch": number, "samples": names})
            yield tuple(parts)
            if self._is_logged(number + 1):
                seconds = time.monotonic() - began
                self._log(number, (number + 1 - done) / seconds)
                began, done = time.monotonic(), number + 1

    def _is_logged(self, done: int) -> bool:
        course = self._course
        if course.losses is None or done % course.accum:
            return False
        return done == course.batches or done // course.accum % course.every == 0

    def _log(self, number: int, batches_per_second: float) -> None:
        course = self._course
        assert self.loss is not None and course.losses is not None
        before = self._epoch * course.batches + number + 1
        size = course.batch * course.world
        course.losses.write(
            {
                "epoch": self._epoch,
                "batch": number,
                "step": before // course.accum,
                "samples": before * size,
                "loss": float(self.loss),
                "lr": self._optimizer.param_groups[0]["lr"],
                "samples_per_second": round(batches_per_second * size, 1),
            }
        )


def _seed(number: int) -> None:
    """As torch.manual_seed, which would queue a call for GPUs that nobody uses, at each step."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(number)


def read_losses(folder: Path) -> list[dict[str, Any]]:
    """The loss log of a run."""
    path = folder / LOSSES
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
