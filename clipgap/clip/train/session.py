"""One rank's part of a run, whatever it learns: where it begins, what it reads, how it stops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from clipgap.clip.train import checkpoints
from clipgap.clip.train.folders import ImageFolder
from clipgap.clip.train.order import Position
from clipgap.clip.train.plan import TrainPlan
from clipgap.clip.train.quarantine import FOLDER as QUARANTINE
from clipgap.clip.train.quarantine import Quarantine
from clipgap.clip.train.shards import KeptShards
from clipgap.clip.train.source import Batches, Encode, Epoch, Shards, Share, loader
from clipgap.clip.train.steps import KEYS, LOSSES, Agreement, Course, Log, Steps, StopAt
from clipgap.errors import Interrupted
from clipgap.shards.matching import KeepSelector


@dataclass
class Session:
    """What the objectives share; `begin` is known when the latest checkpoint has been found."""

    plan: TrainPlan
    folder: Path
    stop: Callable[[], bool]
    rank: int = 0
    begin: Position = field(default_factory=Position)

    def latest(self) -> Path | None:
        """The checkpoint to go on from; every rank that looks finds the same."""
        return checkpoints.latest(self.folder)

    def loader(self, encode: Encode, epoch: Epoch) -> Any:
        """Batches of whichever epoch `epoch` says."""
        batches = self.plan.batches
        share = Share(self.rank, batches.streams, batches.batch, self.begin)
        quarantine = Quarantine(self.folder / QUARANTINE)
        source = Batches(self._shards(), self.plan.order, share, encode, epoch, quarantine)
        return loader(source, batches.workers, pinned=self.plan.device == "cuda")

    def steps(self, batches: Any, epoch: int, optimizer: Any) -> Steps:
        return Steps(batches, self._course, epoch, optimizer)

    def first_batch(self, epoch: int) -> int:
        return self.begin.batch if epoch == self.begin.epoch else 0

    def leave(self, stopped: StopAt, content: Callable[[], Mapping[str, Any]]) -> None:
        """Save where the ranks have agreed to stop, wait for each other, and stop."""
        position = stopped.position
        saved = self.folder / checkpoints.FOLDER / checkpoints.name_of(position)
        if self.rank == 0 and (position.epoch or position.batch) and not saved.exists():
            checkpoints.save(self.folder, position, content())
        if self.plan.batches.world > 1:
            torch.distributed.barrier()
        raise Interrupted(
            f"stopped after {position.epoch:,} epochs and {position.batch:,} of "
            f"{self.plan.batches.batches:,} batches; --resume latest goes on from there"
        )

    @cached_property
    def _course(self) -> Course:
        plan, batches = self.plan, self.plan.batches
        first = self.rank == 0
        log_keys = plan.options.log_keys
        keys = self.folder / KEYS / f"rank-{self.rank}.jsonl"
        return Course(
            order=plan.order,
            rank=self.rank,
            world=batches.world,
            accum=batches.accum,
            batches=batches.batches,
            batch=batches.batch,
            begin=self.begin,
            every=plan.options.log_every_n_steps,
            stop=Agreement(self.stop, batches.world),
            losses=Log(self.folder / LOSSES, self.begin) if first else None,
            keys=Log(keys, self.begin) if log_keys else None,
        )

    def _shards(self) -> Shards:
        plan = self.plan
        if not plan.is_folder:
            return KeptShards(plan.shards, plan.keep)
        selector = plan.keep and KeepSelector.open(plan.keep, [plan.train_data])
        return ImageFolder(Path(plan.train_data), selector or None)
