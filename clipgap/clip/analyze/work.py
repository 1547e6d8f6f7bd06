"""What a checkpoint makes of a domain: means and effects by block and class, and embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.clip.analyze.circuits import EDGES_SCHEMA, Tracing
from clipgap.clip.analyze.plan import AnalysisPlan
from clipgap.clip.analyze.probing import Block, Probe, Score
from clipgap.clip.analyze.similarity import SHARE, top
from clipgap.clip.eval.contenders import ZeroShot, zero_shot
from clipgap.clip.eval.plan import Checkpoint
from clipgap.clip.eval.sets import EvalSet, Images, Item
from clipgap.clip.eval.work import Batch, batches
from clipgap.clip.models import load, on_device
from clipgap.errors import InputError
from clipgap.files.folders import make_folder
from clipgap.files.parquet import write_tables
from clipgap.runs.units import Event, Made, Slot, Step
from clipgap.select.hashes import hash_strings
from clipgap.shards.problems import OnProblem, Problem

if TYPE_CHECKING:
    from torch import Tensor

BLOCKS, EMBEDDINGS, EDGES = "blocks", "embeddings", "edges"

BLOCKS_SCHEMA = pa.schema(
    [
        ("block", pa.string()),
        ("class", pa.string()),
        ("images", pa.int64()),
        ("mean", pa.list_(pa.float64())),
        ("samples", pa.int64()),  # of the images, those by which effects were found
        ("effect", pa.list_(pa.float64())),
        ("change", pa.float64()),  # of the score, which the effects should add up to
        ("error", pa.float64()),  # by how much they do not, in the mean over samples
    ]
)
EMBEDDINGS_SCHEMA = pa.schema(
    [("key", pa.string()), ("class", pa.string()), ("embedding", pa.list_(pa.float32()))]
)


@dataclass(frozen=True)
class Unit:
    """A checkpoint on a domain."""

    checkpoint: str
    domain: str
    size: int = 1  # images, if that is known

    @property
    def name(self) -> str:
        return f"{self.checkpoint}/{self.domain}"

    @property
    def blocks(self) -> str:
        return f"{BLOCKS}/{self.name}.parquet"

    @property
    def embeddings(self) -> str:
        return f"{EMBEDDINGS}/{self.name}.parquet"

    @property
    def edges(self) -> str:
        return f"{EDGES}/{self.name}.parquet"

    @property
    def files(self) -> tuple[str, ...]:
        """What is made of it, from the output folder on."""
        return self.blocks, self.embeddings, self.edges


def units_of(plan: AnalysisPlan) -> list[Unit]:
    return [
        Unit(checkpoint.name, domain.name, domain.images.samples or 1)
        for checkpoint in plan.checkpoints
        for domain in plan.domains
    ]


@dataclass(frozen=True)
class AnalysisWork:
    """Looks at domains through checkpoints, into the folder `out`."""

    out: Path
    plan: AnalysisPlan

    def do(self, units: Iterable[Unit], slot: Slot) -> Iterator[Event]:
        """A step for each batch, and for each time that a checkpoint is loaded."""
        import torch

        checkpoints = {each.name: each for each in self.plan.checkpoints}
        domains = {each.name: each for each in self.plan.domains}
        batch_size = self.plan.reading.batch_size
        loaded, model = "", None
        with on_device(slot.device, slot.cores):
            for unit in units:
                try:
                    if model is None or loaded != unit.checkpoint:
                        yield Step(0, {"stage": "loading", "at": unit.checkpoint})
                        model = None  # before the next one takes memory
                        model = _load(checkpoints[unit.checkpoint], slot.device)
                        loaded = unit.checkpoint
                    look = _Look(self.plan, unit, domains[unit.domain], model)
                    yield from look.through(slot)
                except torch.OutOfMemoryError as error:
                    raise InputError(
                        f"{slot.device} has not enough memory for batches of {batch_size:,} "
                        "images. Choose a smaller --batch-size."
                    ) from error
                if slot.stop():
                    return
                yield Made({unit.name: look.write(self.out)}, worker=slot.number)


def _load(checkpoint: Checkpoint, device: str) -> ZeroShot:
    assert checkpoint.model is not None, "classifiers have been refused"
    return zero_shot(load(checkpoint.model, checkpoint.pretrained, device), checkpoint.name)


class _Look:
    """One pass over a domain, and what comes of it."""

    def __init__(
        self, plan: AnalysisPlan, unit: Unit, domain: EvalSet, contender: ZeroShot
    ) -> None:
        from PIL import Image

        model, clip = contender.model, contender.model.clip
        assert clip is not None
        image = model.preprocess(Image.new("RGB", (32, 32))).to(model.device)
        self._probe = Probe(unit.checkpoint, clip.visual, clip.encode_image, image)
        blocks = self._probe.blocks(plan.options.blocks)
        classes = len(domain.classes)
        self._sums = [_Sums(block, classes) for block in blocks]
        self._plan, self._unit, self._domain, self._contender = plan, unit, domain, contender
        self._chosen = chosen(domain, plan.options.neurons)
        self._left = np.full(classes, plan.options.neurons)
        self._tracing: Tracing | None = None
        self._keys: list[str] = []
        self._labels: list[NDArray[np.int64]] = []
        self._embeddings: list[NDArray[np.float32]] = []
        self._problems: list[Problem] = []

    def through(self, slot: Slot) -> Iterator[Event]:
        """All batches, and those that are traced once more; less if it is to stop."""
        at = {"stage": "looking", "at": self._unit.name}
        reading, model = self._plan.reading, self._contender.model
        prepare = [model.preprocess]
        threads = reading.workers or slot.cores
        yield Step(0, at)
        for batch in batches(
            self._domain, prepare, reading.batch_size, threads, self._problems.append
        ):
            images = batch.images[0].to(model.device)
            outputs = self._take(batch, images)
            yield Step(len(batch.keys), at)
            for _ in self._judge(batch, images, outputs):
                yield Step(0, at)
                if slot.stop():
                    return
            if slot.stop():
                return
        if not self._keys:
            reasons = f": {self._problems[0]}" if self._problems else ""
            raise InputError(f"{self._domain.path}: holds no image that can be used{reasons}")
        if self._plan.options.circuits:
            yield from self._trace(slot)

    def _trace(self, slot: Slot) -> Iterator[Event]:
        """What leads to the top neurons, which are known now, by some of the images."""
        options, reading, model = self._plan.options, self._plan.reading, self._contender.model
        effects = [sums.done for sums in self._sums]
        tops = [top(each, SHARE) for each in effects if each is not None]
        blocks = [sums.block for sums in self._sums]
        self._tracing = Tracing(self._probe, blocks, tops, options.steps)
        wanted = chosen(self._domain, options.circuits)
        some = replace(self._domain, images=_Chosen(self._domain.images, wanted))
        left = np.full(len(self._domain.classes), options.circuits)
        at = {"stage": "tracing", "at": self._unit.name}
        threads = reading.workers or slot.cores
        for batch in batches(
            some, [model.preprocess], reading.batch_size, threads, lambda problem: None
        ):
            rows = np.array(_sampled(batch, wanted, left), np.int64)
            for label in np.unique(batch.labels[rows]).tolist():
                images = batch.images[0][rows[batch.labels[rows] == label]]
                self._tracing.add(label, images.to(model.device))
                yield Step(0, at)
                if slot.stop():
                    return

    def _take(self, batch: Batch, images: Tensor) -> list[Tensor]:
        """Add up what blocks give for a batch; that is handed on."""
        import torch

        features, outputs = self._probe.read(images, [each.block for each in self._sums])
        embeddings = torch.nn.functional.normalize(features.double(), dim=-1)
        if not torch.isfinite(embeddings).all():
            row = int(torch.isfinite(embeddings).all(dim=1).logical_not().nonzero()[0])
            raise InputError(
                f"{self._unit.checkpoint}: gives features that are no numbers for "
                f"{batch.keys[row]!r} of {self._domain.name}. Its weights are broken."
            )
        for sums, output in zip(self._sums, outputs, strict=True):
            sums.add(batch.labels, sums.block.rows(output).double().mean(dim=1).cpu().numpy())
        self._keys += batch.keys
        self._labels.append(batch.labels)
        self._embeddings.append(embeddings.float().cpu().numpy())
        return outputs

    def _judge(self, batch: Batch, images: Tensor, outputs: Sequence[Tensor]) -> Iterator[None]:
        """Add up what neurons do for the chosen images of a batch, a block at a time."""
        import torch

        rows = _sampled(batch, self._chosen, self._left)
        if not rows:
            return
        labels = batch.labels[rows]
        score = self._score(labels)
        for sums, output in zip(self._sums, outputs, strict=True):
            some = output.index_select(sums.block.batch, torch.tensor(rows).to(output.device))
            found = self._probe.attribute(
                images[rows], sums.block, some, score, self._plan.options.steps
            )
            sums.add_effects(labels, found.effects.cpu().numpy(), found.change.cpu().numpy())
            yield

    def _score(self, labels: NDArray[np.int64]) -> Score:
        """The cosine of an image's features with the prompts of its class."""
        import torch

        wanted = self._contender.weights(self._domain.classes).T[labels]

        def score(features: Tensor) -> Tensor:
            cosines: Tensor = (torch.nn.functional.normalize(features, dim=-1) * wanted).sum(dim=-1)
            return cosines

        return score

    def write(self, out: Path) -> dict[str, Any]:
        """Its files; the record of the unit."""
        unit, keys = self._unit, self._domain.classes.keys
        for folder in (BLOCKS, EMBEDDINGS, EDGES):
            make_folder(out, f"{folder}/{unit.checkpoint}")
        blocks = [row for sums in self._sums for row in sums.rows(keys)]
        rows = np.concatenate(self._embeddings)
        labels = np.concatenate(self._labels).tolist()
        lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        columns = [
            pa.array(self._keys, pa.string()),
            pa.array([keys[label] for label in labels], pa.string()),
            lists.cast(pa.list_(pa.float32())),
        ]
        embeddings = pa.Table.from_arrays(columns, schema=EMBEDDINGS_SCHEMA)
        table = pa.Table.from_pylist(blocks, schema=BLOCKS_SCHEMA)
        traced = [] if self._tracing is None else list(self._tracing.rows(keys))
        edges = pa.Table.from_pylist(traced, schema=EDGES_SCHEMA)
        files = {
            unit.blocks: write_tables(out / unit.blocks, BLOCKS_SCHEMA, [table]),
            unit.embeddings: write_tables(out / unit.embeddings, EMBEDDINGS_SCHEMA, [embeddings]),
            unit.edges: write_tables(out / unit.edges, EDGES_SCHEMA, [edges]),
        }
        return {
            "files": {name: asdict(file) for name, file in files.items()},
            "images": len(self._keys),
            "problems": [asdict(problem) for problem in self._problems],
        }


@dataclass
class _Sums:
    """Of a block, by class: what its neurons give, and what they do for the score."""

    block: Block
    classes: int
    images: NDArray[np.int64] = field(init=False)
    samples: NDArray[np.int64] = field(init=False)
    given: NDArray[np.float64] | None = None
    done: NDArray[np.float64] | None = None
    change: NDArray[np.float64] = field(init=False)
    error: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.images, self.samples = np.zeros((2, self.classes), np.int64)
        self.change, self.error = np.zeros((2, self.classes))

    def add(self, labels: NDArray[np.int64], rows: NDArray[np.float64]) -> None:
        if self.given is None:
            self.given = np.zeros((self.classes, rows.shape[1]))
        np.add.at(self.images, labels, 1)
        np.add.at(self.given, labels, rows)

    def add_effects(
        self,
        labels: NDArray[np.int64],
        effects: NDArray[np.float64],
        change: NDArray[np.float64],
    ) -> None:
        if self.done is None:
            self.done = np.zeros((self.classes, effects.shape[1]))
        np.add.at(self.samples, labels, 1)
        np.add.at(self.done, labels, effects)
        np.add.at(self.change, labels, change)
        np.add.at(self.error, labels, np.abs(effects.sum(axis=1) - change))

    def rows(self, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
        """A row for each class that there are images of, with means."""
        assert self.given is not None, "there is an image"
        for label in np.flatnonzero(self.images).tolist():
            samples = int(self.samples[label])
            row = {
                "block": self.block.name,
                "class": keys[label],
                "images": int(self.images[label]),
                "mean": self.given[label] / self.images[label],
                "samples": samples,
            }
            if samples and self.done is not None:
                row["effect"] = self.done[label] / samples
                row["change"] = self.change[label] / samples
                row["error"] = self.error[label] / samples
            yield row


def chosen(domain: EvalSet, most: int) -> set[tuple[int, str]]:
    """Of each class, the images that come first by a hash of their keys, `most` at most."""
    if not most:
        return set()
    found = [(item.label, item.image.key) for item in domain.images.items(lambda problem: None)]
    labels = np.array([label for label, _ in found], np.int64)
    ranks = hash_strings(pa.array([key for _, key in found], pa.string()), np.uint64(0))
    order = np.lexsort((ranks, labels))
    place = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    return {found[at] for at in order[place < most].tolist()}


@dataclass(frozen=True)
class _Chosen:
    """Those images of a domain that were chosen."""

    inner: Images
    wanted: set[tuple[int, str]]

    @property
    def identity(self) -> str:
        return self.inner.identity

    @property
    def samples(self) -> int | None:
        return None

    def items(self, on_problem: OnProblem) -> Iterator[Item]:
        for item in self.inner.items(on_problem):
            if (item.label, item.image.key) in self.wanted:
                yield item


def _sampled(batch: Batch, wanted: set[tuple[int, str]], left: NDArray[np.int64]) -> list[int]:
    """The chosen images of a batch, no more than are `left` of a class: keys of several shards may
    be the same."""
    rows = []
    for row, (key, label) in enumerate(zip(batch.keys, batch.labels.tolist(), strict=True)):
        if left[label] and (label, key) in wanted:
            left[label] -= 1
            rows.append(row)
    return rows
