"""Units made into shards of a store, one after another, by a worker with a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipgap.clip.embed.batches import BatchReader, Computed, computed
from clipgap.clip.embed.sources import Unit
from clipgap.clip.models import LoadedModel, load, on_device
from clipgap.kernels.admit import admit, row_norms
from clipgap.runs.units import Event, Made, Slot, Step
from clipgap.shards.problems import Problem
from clipgap.store.own import EMBEDDINGS, KEYS
from clipgap.store.writer import key_table, write_shard

if TYPE_CHECKING:
    from torch import Tensor

CAPTION_COLUMN = "caption"


@dataclass(frozen=True)
class EmbedWork:
    """Embeds units into the store `out`; the record of each is what its manifest says of it."""

    out: Path
    model: str
    pretrained: str | None
    kind: str  # of device, as the manifest tells it
    precision: str
    batch_size: int
    captions: bool

    def do(self, units: Iterable[Unit], slot: Slot) -> Iterator[Event]:
        """A step for each batch; units are read on while the model computes."""
        # Which device of its kind makes no difference to the rows.
        device = slot.device if slot.device.startswith(self.kind) else self.kind
        with on_device(device, slot.cores):
            model = load(self.model, self.pretrained, device, self.precision)
            reader = BatchReader(
                units,
                model.preprocess,
                size=self.batch_size,
                threads=slot.cores,
                captions=self.captions,
                pinned=device.startswith("cuda"),
            )
            shard = _Shard()
            with reader:
                for result in computed(model, reader):
                    reader.give_back(result.batch)
                    if slot.stop():
                        return
                    shard.add(result)
                    images = result.batch.images
                    yield Step(len(images), {"bytes": sum(image.cost for image in images)})
                    if result.batch.is_last:
                        unit = result.batch.unit
                        yield Made({unit.name: shard.write(self, model, unit)}, worker=slot.number)
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

    def write(self, work: EmbedWork, model: LoadedModel, unit: Unit) -> dict[str, Any]:
        """Write the shard's files; its record."""
        rows = np.concatenate([each.numpy() for each in self.features]).astype(np.float64)
        rows /= row_norms(rows)[:, None]
        columns = {CAPTION_COLUMN: _texts(self.captions)} if work.captions else {}
        entry = write_shard(work.out, unit.name, admit(rows), key_table(self.keys, columns))
        files = {
            f"{EMBEDDINGS}/{unit.name}.npy": entry.embeddings_sha256,
            f"{KEYS}/{unit.name}.parquet": entry.keys_sha256,
        }
        return {
            "entry": asdict(entry),
            "dim": model.dim,
            "model": dict(model.identity),
            "without_caption": self.captions.count(None) if work.captions else 0,
            "problems": [asdict(problem) for problem in self.problems],
            "files": {
                name: {"sha256": digest, "size": (work.out / name).stat().st_size}
                for name, digest in files.items()
            },
        }


def _texts(captions: list[str | None]) -> Any:
    import pyarrow as pa

    return pa.array(captions, pa.string())
