"""Heads on a tower that is trained with them: which images labels are of, and what is left of it.

HEADS/tower.pt     the trained model, as `--pretrained` of `clipgap embed` takes it
HEADS/rows.npy     what it makes of the labelled images, in the order of the store; heads are fitted
                   to these rows, as to stored ones
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipgap.clip.embed.sources import Unit, find_units
from clipgap.clip.images.reading import RawImage
from clipgap.clip.models import identify, resolve_device
from clipgap.domains.fitting import fit
from clipgap.domains.labelled import PARTS, Labelled
from clipgap.domains.options import FitOptions, TuneOptions
from clipgap.errors import InputError, UsageError
from clipgap.files.atomic import write_atomic
from clipgap.files.sums import FileSum
from clipgap.heads.heads import HEADS, LABELS, ROWS, TOWER, model_of
from clipgap.runs.how import How, Progress, Tally
from clipgap.select.cells import Pool
from clipgap.shards.problems import Problem

_SHOWN = 20
_OF_TRAINING = ("epochs", "batch_size", "lr")


@dataclass(frozen=True)
class Tuning:
    """A model to be trained, and the images of the labelled rows of a store."""

    pool: Pool
    model: str
    options: TuneOptions

    @classmethod
    def of(cls, pool: Pool, fit_options: FitOptions, options: TuneOptions) -> Tuning | None:
        """None where the tower is left as it is; refuses a model that is not that of the store."""
        if not options.finetune:
            return None
        if fit_options.model is None:
            raise UsageError("--finetune needs the model that is trained; name it with --model")
        resolve_device(options.device)
        found = cls(pool, fit_options.model, options)
        model_of(pool.store, found.base)
        if not pool.store.has_keys:
            raise InputError(f"{pool.store.path} has no keys, so no image can be told to be its")
        return found

    @cached_property
    def _identity(self) -> Mapping[str, Any]:
        found = identify(self.model, self.options.pretrained)
        if self.model.endswith((".pt", ".ts", ".torchscript")):
            raise UsageError(
                f"{self.model} is TorchScript, which holds its weights: give the function that "
                "makes the network, as FILE.py:FUNCTION"
            )
        return found

    @property
    def base(self) -> str:
        """The model that training begins with, as heads name it."""
        return named(self._identity, None)

    @cached_property
    def _units(self) -> list[Unit]:
        """The shards of images that are those of the store."""
        return find_units(str(self.options.images))

    def described(self) -> dict[str, Any]:
        """What tells this training from others."""
        return {
            "model": dict(self._identity),
            "settings": {
                name: value for name, value in asdict(self.options).items() if name in _OF_TRAINING
            },
            "images": [unit.describe() for unit in self._units],
        }

    def images(self) -> list[RawImage]:
        """The images of the labelled rows, in the order of the store."""
        found: dict[int, RawImage] = {}
        problems: list[Problem] = []
        for unit in self._units:
            for image in unit.images(False, problems.append):
                if (place := self._place(unit, image.key)) is None:
                    continue
                if place in found:
                    raise InputError(f"{image.where}: {image.key!r} is there more than once")
                found[place] = image
        if missing := [key for key, place in self._places.items() if place not in found]:
            raise InputError.listing(
                f"{self.options.images}: has no image of {len(missing):,} of the "
                f"{len(self._places):,} labelled rows of {self.pool.store.path}. Give the images "
                "that the store was embedded from:",
                [f"shard {shard}, {key}" for shard, key in missing[:_SHOWN]],
            )
        return [found[place] for place in range(len(found))]

    def _place(self, unit: Unit, key: str) -> int | None:
        return self._places.get((unit.name, key))

    @cached_property
    def _places(self) -> dict[tuple[str, str], int]:
        """Which labelled row each shard and key is."""
        store, places = self.pool.store, np.flatnonzero(self.pool.codes)
        named: list[tuple[str, str]] = []
        for shard in store.shards:
            first = self.pool.offsets[shard.index]
            mine = places[(places >= first) & (places < first + shard.rows)] - first
            if len(mine):
                keys: Any = store.keys(shard.index, 0, shard.rows)
                named += [(shard.name, key) for key in keys.take(pa.array(mine)).to_pylist()]
        found = {each: place for place, each in enumerate(named)}
        if len(found) < len(named):
            twice = next(each for place, each in enumerate(named) if found[each] != place)
            raise InputError(
                f"{store.path}: several labelled rows of shard {twice[0]} have the key {twice[1]!r}"
            )
        return found

    def tuned(
        self, folder: Path, labelled: Labelled, fit_options: FitOptions, how: How
    ) -> tuple[Labelled, str, dict[str, FileSum]]:
        """Train; labelled rows as the trained tower has them, its name, and the files written."""
        from clipgap.clip.tuning import rows_of, tune

        images, device = self.images(), resolve_device(self.options.device)
        threads = self.pool.workers.threads
        rows, labels = labelled.of("train")
        accept = np.column_stack([labels == LABELS.index(name) for name in HEADS])
        heads = [
            fit(name, rows, accepted, fit_options.penalty)
            for name, accepted in zip(HEADS, accept.T, strict=True)
        ]
        start = np.stack([head.weight for head in heads]), np.array([head.bias for head in heads])
        mine = np.flatnonzero(labelled.part == PARTS.index("train"))
        tune(
            self.model,
            self.options.pretrained,
            [images[place] for place in mine],
            accept,
            start,
            **{name: getattr(self.options, name) for name in _OF_TRAINING},
            seed=fit_options.seed,
            device=device,
            threads=threads,
            on_step=_counted(how, "training the tower", self.options.epochs * len(mine)),
            into=folder / TOWER,
        )
        tower = FileSum.of(folder / TOWER)
        made = rows_of(
            self.model,
            str(folder / TOWER),
            [unit for unit in self._units if unit.name in {shard for shard, _ in self._places}],
            self._place,
            device=device,
            threads=threads,
            on_step=_counted(how, "embedding", 0),
        )
        content = io.BytesIO()
        np.save(content, made)
        with write_atomic(folder / ROWS) as temporary:
            temporary.write_bytes(content.getvalue())
        files = {TOWER: tower, ROWS: FileSum.of(folder / ROWS)}
        return replace(labelled, rows=made), named(self._identity, tower), files


def named(identity: Mapping[str, Any], tower: FileSum | None) -> str:
    """What heads call a model, trained or as it was: the same as a store that it embedded tells."""
    weights = identity["checkpoint_sha256"] or identity["pretrained"]
    return f"{identity['model']}/{tower.sha256 if tower else weights}"


def _counted(how: How, stage: str, total: int) -> Callable[[int], None]:
    tally = Tally(how, Progress(stage=stage, total=total, noun="images"), warms_up=True)

    def on_step(images: int) -> None:
        how.check()
        tally.add(images)

    return on_step
