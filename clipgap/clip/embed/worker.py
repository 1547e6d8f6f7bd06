"""Units made into shards of the store, one after another, by one process on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipgap.clip.embed.batches import BatchReader
from clipgap.clip.embed.forward import Computed, computed
from clipgap.clip.embed.sources import Unit
from clipgap.clip.models import LoadedModel, load
from clipgap.errors import Interrupted
from clipgap.files.parquet import FileSum
from clipgap.kernels.admit import admit, row_norms
from clipgap.shards.problems import Problem
from clipgap.store.own import EMBEDDINGS, KEYS, Entry
from clipgap.store.writer import key_table, write_shard

if TYPE_CHECKING:
    from torch import Tensor

CAPTION_COLUMN = "caption"


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; it can be pickled."""

    out: Path
    model: str
    pretrained: str | None
    precision: str
    batch_size: int
    captions: bool


@dataclass(frozen=True)
class Step:
    """A batch is through: so many images, and so many bytes of their unit."""

    images: int
    bytes: int


@dataclass(frozen=True)
class Done:
    """A unit is done: its files are whole."""

    entry: Entry
    dim: int
    model: Mapping[str, Any]  # its identity, preprocessing included
    without_caption: int
    problems: list[Problem]
    files: Mapping[str, FileSum]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Done:
        return cls(
            Entry(**content["entry"]),
            int(content["dim"]),
            content["model"],
            int(content["without_caption"]),
            [Problem(**problem) for problem in content["problems"]],
            {name: FileSum(**entry) for name, entry in content["files"].items()},
        )


def embed_units(
    job: Job, units: Iterable[Unit], device: str, threads: int, stop: Callable[[], bool]
) -> Iterator[Step | Done]:
    """Embed each unit and write it into the store; when asked to stop, leave the one at hand."""
    model = load(job.model, job.pretrained, device, job.precision)
    reader = BatchReader(
        units,
        model.preprocess,
        size=job.batch_size,
        threads=threads,
        captions=job.captions,
        pinned=device.startswith("cuda"),
    )
    shard = _Shard()
    with reader:
        for result in computed(model, reader):
            reader.give_back(result.batch)
            if stop():
                raise Interrupted("stopped")
            shard.add(result)
            images = result.batch.images
            yield Step(len(images), sum(image.cost for image in images))
            if result.batch.is_last:
                yield shard.write(job, model, result.batch.unit)
                shard = _Shard()


@dataclass
class _Shard:
    """What is known of a unit so far."""

    keys: list[str] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(self, result: Computed) -> None:
        batch = result.batch
        norms = row_norms(result.features.numpy())
        good = []
        for place, (image, reason) in enumerate(zip(batch.images, result.reasons, strict=True)):
            if reason is None and not (norms[place] > 0 and np.isfinite(norms[place])):
                reason = "the model's features of it are not finite, or all zero"
            if reason is None:
                good.append(place)
                self.keys.append(image.key)
                self.captions.append(image.caption)
            else:
                self.problems.append(Problem(batch.unit.source, "sample", image.key, reason))
        self.features.append(result.features[good])
        self.problems += batch.problems

    def write(self, job: Job, model: LoadedModel, unit: Unit) -> Done:
        rows = np.concatenate([each.numpy() for each in self.features]).astype(np.float64)
        rows /= row_norms(rows)[:, None]
        columns = {CAPTION_COLUMN: _texts(self.captions)} if job.captions else {}
        entry = write_shard(job.out, unit.name, admit(rows), key_table(self.keys, columns))
        files = [f"{EMBEDDINGS}/{unit.name}.npy", f"{KEYS}/{unit.name}.parquet"]
        return Done(
            entry,
            model.dim,
            model.identity,
            self.captions.count(None) if job.captions else 0,
            self.problems,
            {name: FileSum.of(job.out / name) for name in files},
        )


def _texts(captions: list[str | None]) -> Any:
    import pyarrow as pa

    return pa.array(captions, pa.string())
