"""One rank's part of a run, whatever it learns: where it begins, what it reads, how it stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from clipgap.clip.train import checkpoints
from clipgap.clip.train.logs import KEYS, LOSSES, Log, Quarantine
from clipgap.clip.train.order import Position
from clipgap.clip.train.plan import TrainPlan
from clipgap.clip.train.samples import Batches, Encode, Epoch, Shards, Share, loader
from clipgap.clip.train.shards import ImageFolder, KeptShards
from clipgap.errors import Interrupted
from clipgap.files.remote import path_of


class StopAt(Exception):
    """The ranks have agreed to stop, with all steps before this position done."""

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        self.position = position


@dataclass
class Session:
    """What the objectives share; `begin` is known when the latest checkpoint has been found."""

    plan: TrainPlan
    folder: Path
    asked_to_stop: Callable[[], bool]
    rank: int = 0
    begin: Position = field(default_factory=Position)

    def latest(self) -> Path | None:
        """The checkpoint to go on from; every rank that looks finds the same."""
        return checkpoints.latest(self.folder)

    def loader(self, encode: Encode, epoch: Epoch) -> Any:
        """Batches of whichever epoch `epoch` says."""
        batches = self.plan.batches
        share = Share(self.rank, batches.streams, batches.batch, self.begin)
        quarantine = Quarantine(self.folder)
        source = Batches(self._shards(), self.plan.order, share, encode, epoch, quarantine)
        return loader(source, batches.workers, pinned=self.plan.device == "cuda")

    def first_batch(self, epoch: int) -> int:
        return self.begin.batch if epoch == self.begin.epoch else 0

    @cached_property
    def agree_to_stop(self) -> Agreement:
        return Agreement(self.asked_to_stop, self.plan.batches.world)

    @cached_property
    def losses(self) -> Log | None:
        return Log(self.folder / LOSSES, self.begin) if self.rank == 0 else None

    @cached_property
    def keys(self) -> Log | None:
        path = self.folder / KEYS / f"rank-{self.rank}.jsonl"
        return Log(path, self.begin) if self.plan.options.log_keys else None

    def leave(self, stopped: StopAt, content: Callable[[], Mapping[str, Any]]) -> None:
        """Save where the ranks have agreed to stop, wait for each other, and stop."""
        position = stopped.position
        saved = self.folder / checkpoints.FOLDER / checkpoints.name_of(position)
        if self.rank == 0 and position > Position() and not saved.exists():
            checkpoints.save(self.folder, position, content())
        if self.plan.batches.world > 1:
            torch.distributed.barrier()
        raise Interrupted(
            f"stopped after {position.epoch:,} epochs and {position.batch:,} of "
            f"{self.plan.batches.batches:,} batches; --resume latest goes on from there"
        )

    def _shards(self) -> Shards:
        plan = self.plan
        if not plan.is_folder:
            return KeptShards(plan.shards, plan.keep, plan.options.match)
        return ImageFolder(Path(plan.train_data), None if plan.keep is None else path_of(plan.keep))


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


class Steps:
    """The batches of an epoch, as a loader that open_clip can go through.

    Around each batch: stop, seed, note keys and losses. `loss` is set by the trainer before the
    next batch is asked for; it is looked at only for the log, since that waits for the device.
    """

    def __init__(
        self, loader: Iterable[tuple[Any, ...]], session: Session, epoch: int, optimizer: Any
    ) -> None:
        self._loader, self._session, self._epoch = loader, session, epoch
        self._optimizer = optimizer
        self._batches = session.plan.batches
        self._agree = session.agree_to_stop
        self._losses, self._keys = session.losses, session.keys
        self.num_batches, self.num_samples = self._batches.batches, self._batches.samples
        self.loss: torch.Tensor | None = None

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        session, epoch = self._session, self._epoch
        first = session.first_batch(epoch)
        began, done = time.monotonic(), first
        left = islice(self._loader, self.num_batches - first)
        for number, batch in enumerate(left, start=first):
            if number % self._batches.accum == 0 and self._agree():
                raise StopAt(Position(epoch, number))
            # Dropout and the like, too, depend on nothing but the place.
            chance = session.plan.order.generator(epoch, session.rank, number)
            _seed(chance.getrandbits(63))
            *parts, names = batch
            if self._keys is not None:
                self._keys.write({"epoch": epoch, "batch": number, "samples": names})
            yield tuple(parts)
            if self._losses is not None and self._is_logged(number + 1):
                speed = (number + 1 - done) / (time.monotonic() - began)
                self._losses.write(self._described(number, speed))
                began, done = time.monotonic(), number + 1

    def _is_logged(self, done: int) -> bool:
        if done % self._batches.accum:
            return False
        every = self._session.plan.options.log_every_n_steps
        return done == self.num_batches or done // self._batches.accum % every == 0

    def _described(self, number: int, batches_per_second: float) -> dict[str, Any]:
        assert self.loss is not None
        done = self._epoch * self.num_batches + number + 1
        size = self._batches.batch * self._batches.world
        return {
            "epoch": self._epoch,
            "batch": number,
            "step": done // self._batches.accum,
            "samples": done * size,
            "loss": float(self.loss),
            "lr": self._optimizer.param_groups[0]["lr"],
            "samples_per_second": round(batches_per_second * size, 1),
        }


def _seed(number: int) -> None:
    """As torch.manual_seed, which would queue a call for GPUs that nobody uses, at each step."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(number)
