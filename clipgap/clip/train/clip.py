"""CLIP, trained by open_clip's own loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from clipgap.clip.images.decoding import Unusable
from clipgap.clip.train import checkpoints
from clipgap.clip.train.captions import read_captions
from clipgap.clip.train.labels import as_planned
from clipgap.clip.train.options import Place
from clipgap.clip.train.order import Position
from clipgap.clip.train.patches import LaterEpoch, Replacements, import_trainer, patched
from clipgap.clip.train.samples import Encode, WithCaption
from clipgap.clip.train.session import Session, Steps, StopAt
from clipgap.errors import ClipgapError
from clipgap.shards.finding import TarShard, find_shards
from clipgap.shards.problems import Problem
from clipgap.shards.samples import read_samples


def run_clip(session: Session) -> None:
    """Train until all epochs are done; raises `Interrupted` when stopped before."""
    place = Place(session.plan.train_data, session.folder.absolute().parent, session.folder.name)
    run = _Run(session)
    replacements = Replacements(run.dataset, run.train_one_epoch, run.latest_checkpoint, run.load)
    with patched(replacements) as main:
        try:
            failed = main(session.plan.open_clip_arguments(place))
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
    if failed:
        raise ClipgapError("open_clip_train refused to train; its log says why")
    if session.rank == 0:
        checkpoints.drop_stopped(session.folder)


@dataclass
class _Run:
    """Our side of what open_clip calls."""

    session: Session

    def latest_checkpoint(self, path: str, remote: bool) -> str | None:
        found = self.session.latest()
        return None if found is None else str(found)

    def load(self, file_path: str, map_location: Any = None) -> dict[str, Any]:
        content = checkpoints.load(file_path)
        self.session.begin = Position(content["epoch"], content.get("batch", 0))
        return content

    def dataset(
        self,
        args: Any,
        preprocess_img: Any,
        is_train: bool,
        epoch: int = 0,
        floor: bool = False,
        tokenizer: Any = None,
    ) -> Any:
        """What open_clip calls `get_wds_dataset`."""
        data = import_trainer("data")
        if not is_train:
            encode = WithCaption(preprocess_img, tokenizer)
            return data.DataInfo(dataloader=_validation(args, encode))
        session = self.session
        captions = as_planned(session.plan.captions, read_captions)
        encode = WithCaption(preprocess_img, tokenizer, captions)
        session.rank = args.rank
        shared = data.SharedEpoch(epoch=epoch)
        batches = session.plan.batches
        made = session.loader(encode, shared)
        made.num_batches, made.num_samples = batches.batches, batches.samples
        return data.DataInfo(dataloader=made, shared_epoch=shared)

    def train_one_epoch(
        self,
        model: Any,
        data: Any,
        loss: Any,
        epoch: int,
        optimizer: Any,
        scaler: Any,
        scheduler: Any,
        dist_model: Any,
        args: Any,
        tb_writer: Any = None,
    ) -> None:
        session, train = self.session, data["train"]
        if session.rank == 0:
            checkpoints.drop_stopped(session.folder)
        steps = Steps(train.dataloader, session, epoch, optimizer)
        later = LaterEpoch(epoch, session.first_batch(epoch) // session.plan.batches.accum)

        def content() -> dict[str, Any]:
            plain = getattr(model, "_orig_mod", model)  # of a compiled model
            made = {
                "name": args.name,
                "state_dict": plain.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            return made if scaler is None else {**made, "scaler": scaler.state_dict()}

        try:
            import_trainer("train").train_one_epoch(
                model,
                {**data, "train": dataclasses.replace(train, dataloader=steps)},
                _watched(loss, steps),
                later,
                optimizer,
                scaler,
                scheduler,
                dist_model,
                args,
                tb_writer,
            )
        except StopAt as stopped:
            session.leave(stopped, content)


def _watched(loss: Any, steps: Steps) -> Any:
    """The loss as it is, whose values the log can see."""

    def compute(**values: Any) -> Any:
        losses = loss(**values)
        steps.loss = torch.stack([part.detach() for part in losses.values()]).sum()
        return losses

    return compute


def _validation(args: Any, encode: Encode) -> Any:
    found = find_shards(args.val_data)
    batches = _Once(found, encode, args.batch_size)
    made: Any = DataLoader(batches, batch_size=None, num_workers=min(args.workers, len(found)))
    made.num_samples = args.val_num_samples or 0
    return made


class _Once(IterableDataset[tuple[Any, ...]]):
    """All samples of some shards, one time; what cannot be used is an error here."""

    def __init__(self, shards: list[TarShard], encode: Encode, batch: int) -> None:
        self._shards, self._encode, self._batch = shards, encode, batch

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        info = get_worker_info()
        mine = self._shards[info.id :: info.num_workers] if info else self._shards
        held = []
        for shard in mine:
            for sample in read_samples(shard):
                try:
                    held.append(self._encode(sample))
                except Unusable as error:
                    problem = Problem(sample.shard, "sample", sample.key, error.reason)
                    raise ClipgapError(f"--val-data: {problem}") from error
                if len(held) == self._batch:
                    yield tuple(map(torch.stack, zip(*held, strict=True)))
                    held = []
        if held:
            yield tuple(map(torch.stack, zip(*held, strict=True)))
