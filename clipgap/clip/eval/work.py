"""Checkpoints on sets: an image is decoded once for all checkpoints that are in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.clip.eval.contenders import (
    Contender,
    Trained,
    load_classifier,
    preprocesses,
    zero_shot,
)
from clipgap.clip.eval.plan import Checkpoint, EvalPlan
from clipgap.clip.eval.sets import EvalSet, Item
from clipgap.clip.eval.tables import samples_schema, samples_table, score
from clipgap.clip.images.ahead import Ahead, Submit
from clipgap.clip.images.decoding import BadImage
from clipgap.clip.models import load, on_device
from clipgap.errors import InputError
from clipgap.files.folders import make_folder
from clipgap.files.parquet import write_tables
from clipgap.runs.units import Event, Made, Slot, Step
from clipgap.shards.problems import Problem

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SAMPLES = "samples"

TOGETHER = 4
"""Checkpoints in memory at a time, for which an image is decoded once."""

Preprocess = Callable[["Image"], "Tensor"]
_AHEAD = 4
"""Batches being prepared while one is evaluated."""


@dataclass(frozen=True)
class Unit:
    """A checkpoint on a set."""

    checkpoint: str
    data: str
    size: int = 1  # images, if that is known

    @property
    def name(self) -> str:
        return f"{self.checkpoint}/{self.data}"

    @property
    def file(self) -> str:
        """What the checkpoint made of each sample, from the output folder on."""
        return f"{SAMPLES}/{self.name}.parquet"

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)


def units_of(plan: EvalPlan) -> list[Unit]:
    """All units, those that are best done together side by side."""
    found = []
    for first in range(0, len(plan.checkpoints), TOGETHER):
        together = plan.checkpoints[first : first + TOGETHER]
        found += [
            Unit(each.name, data.name, data.images.samples or 1)
            for data in plan.sets
            for each in together
        ]
    return found


@dataclass(frozen=True)
class EvalWork:
    """Evaluates units of a plan, neighbours on one set together, into the folder `out`.

    The record of each tells how many samples there were, and what could not be used.
    """

    out: Path
    plan: EvalPlan

    def do(self, units: Iterable[Unit], slot: Slot) -> Iterator[Event]:
        """A step for each batch and each time that checkpoints are loaded."""
        import torch

        checkpoints = {each.name: each for each in self.plan.checkpoints}
        sets = {data.name: data for data in self.plan.sets}
        options, loaded = self.plan.options, dict[str, Contender]()
        with on_device(slot.device, slot.cores):
            for together in _on_one_set(units):
                names = [unit.checkpoint for unit in together]
                try:
                    if not loaded.keys() >= set(names):
                        yield Step(0, {"stage": "loading", "at": ", ".join(names)})
                        loaded = {name: each for name, each in loaded.items() if name in names}
                        for name in names:
                            if name not in loaded:
                                loaded[name] = _load(
                                    checkpoints[name], slot.device, options.precision
                                )
                    contenders = {name: loaded[name] for name in names}
                    yield from self._evaluate(sets[together[0].data], contenders, slot)
                except torch.OutOfMemoryError as error:
                    raise InputError(
                        f"{slot.device} has not enough memory for {len(loaded):,} checkpoints and "
                        f"batches of {options.batch_size:,} images. Choose a smaller --batch-size "
                        "or fewer checkpoints, and go on with --resume."
                    ) from error
                if slot.stop():
                    return

    def _evaluate(
        self, data: EvalSet, contenders: Mapping[str, Contender], slot: Slot
    ) -> Iterator[Event]:
        """One pass over a set."""
        at = {"stage": "evaluating", "at": data.name}
        yield Step(0, at)
        problems: list[Problem] = []
        tables: dict[str, list[pa.Table]] = {name: [] for name in contenders}
        different = preprocesses(contenders)
        place = {prepared_as: index for index, prepared_as in enumerate(different)}
        heads = {name: each.head(data.classes) for name, each in contenders.items()}
        row = 0
        for batch in batches(
            data,
            list(different.values()),
            self.plan.options.batch_size,
            self.plan.options.workers or slot.cores,
            problems.append,
        ):
            for name, each in contenders.items():
                logits = heads[name](batch.images[place[each.prepared_as]])
                if not np.isfinite(logits).all():
                    bad = batch.keys[int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])]
                    raise InputError(
                        f"{name}: gives logits that are no numbers for {bad!r} of {data.name}. "
                        "Its weights are broken, or --precision is too low for them."
                    )
                scored = score(logits, batch.labels)
                within = {
                    subset.name: subset.predictions(batch.keys, batch.labels, logits)
                    for subset in data.subsets
                }
                tables[name].append(
                    samples_table(row, batch.keys, batch.groups, batch.labels, scored, within)
                )
            row += len(batch.keys)
            yield Step(len(batch.keys) * len(contenders), at)
            if slot.stop():
                return
        if row == 0:
            reasons = f": {problems[0]}" if problems else ""
            raise InputError(f"{data.path}: holds no sample that can be evaluated{reasons}")
        for name in contenders:
            unit = Unit(name, data.name)
            make_folder(self.out, f"{SAMPLES}/{name}")
            schema = samples_schema([subset.name for subset in data.subsets])
            file = write_tables(self.out / unit.file, schema, tables[name])
            record = {
                "files": {unit.file: asdict(file)},
                "samples": row,
                "problems": [asdict(problem) for problem in problems],
            }
            yield Made({unit.name: record}, worker=slot.number)


def _on_one_set(units: Iterable[Unit]) -> Iterator[list[Unit]]:
    """Neighbours that are on one set, as many as there may be checkpoints in memory."""
    together: list[Unit] = []
    for unit in units:
        if together and (unit.data != together[0].data or len(together) == TOGETHER):
            yield together
            together = []
        together.append(unit)
    if together:
        yield together


def _load(checkpoint: Checkpoint, device: str, precision: str) -> Contender:
    if checkpoint.classes is not None:
        path = Path(str(checkpoint.pretrained))
        return Trained(checkpoint.name, load_classifier(path, device, precision))
    assert checkpoint.model is not None
    loaded = load(checkpoint.model, checkpoint.pretrained, device, precision)
    return zero_shot(loaded, checkpoint.name)


# --- a set in batches, decoded and prepared ahead of the models


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
                yield _stacked(held, torch.stack)
                held = []
        if held:
            yield _stacked(held, torch.stack)
    for problem in (*unread, *undecoded):
        report(problem)


def _stacked(
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
