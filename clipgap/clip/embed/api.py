"""From images to a store of their embeddings.

STORE/store.json, embeddings/, keys/    the store, as any writer of clipgap makes it
STORE/quarantine.parquet    images and shards that could not be used; only if there are any
STORE/manifest.json         model, preprocessing, inputs, checksums; written last
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgap.clip.embed.options import EmbedOptions
from clipgap.clip.embed.sources import Unit, find_units
from clipgap.clip.embed.work import EmbedWork
from clipgap.clip.images.decoding import BadImage
from clipgap.clip.models import (
    LoadedModel,
    check_device,
    fetch,
    identify,
    load,
    on_device,
    resolve_device,
    warn_if_random,
)
from clipgap.clip.networks import is_downloaded
from clipgap.errors import InputError, UsageError
from clipgap.files.documents import FILES, MANIFEST, Each, Form, is_count
from clipgap.files.folders import remove
from clipgap.files.identity import sampled_since
from clipgap.files.sums import FileSum
from clipgap.files.volumes import FILE_THREADS
from clipgap.machine import thread_count, versions
from clipgap.options import takes_options
from clipgap.runs.executors import Here, Processes
from clipgap.runs.how import How, Progress, Tally
from clipgap.runs.output import Complete, Damaged, Kind, Output, open_output
from clipgap.runs.run import run_units
from clipgap.runs.units import Executor, Step
from clipgap.shards.options import KEY
from clipgap.shards.problems import PROBLEM, QUARANTINE, Problem, write_quarantine
from clipgap.store.own import EMBEDDINGS, KEYS, STORE_FILE, Catalogue, Entry
from clipgap.store.provenance import EMBED, IDENTITY
from clipgap.store.writer import write_catalogue

if TYPE_CHECKING:
    from torch import Tensor

_RECORD = {
    "entry": {
        "name": str,
        "rows": is_count,
        "normalised": is_count,
        "embeddings_sha256": str,
        "keys_sha256": str,
        "rows_sum": str,
    },
    "dim": is_count,
    "model": {**IDENTITY, "preprocess": dict},
    "without_caption": is_count,
    "problems": [PROBLEM],
    "files": FILES,
}

KIND = Kind(
    Form(
        EMBED,
        "store of embeddings",
        {
            "kind": "embed",
            "inputs": {"shards": [{"name": str, "bytes": is_count, "fingerprint": str}]},
            "model": IDENTITY,
            "settings": {"captions": bool, "batch_size": is_count, "precision": str, "device": str},
            "dim": is_count,
            "preprocess": dict,
            "counts": dict.fromkeys(("shards", "images", "problems", "without_caption"), is_count),
            "shards": [_RECORD],
            "versions": Each(str),
            "files": FILES,
        },
    ),
    owns=(f"{EMBEDDINGS}/*.npy", f"{KEYS}/*.parquet", STORE_FILE, QUARANTINE),
    inner=(EMBEDDINGS, KEYS),
    labels={
        "model": "model's",
        "settings": "setting",
        "inputs shards": "shard",
        "marks shards": "last change of shard",
    },
    record=_RECORD,
)
_PACKAGES = ("clipgap", "torch", "torchvision", "open_clip_torch", "timm", "pillow")


@dataclass(frozen=True)
class EmbedResult:
    """A finished store."""

    path: Path
    manifest: Mapping[str, Any]
    already_complete: bool = False

    @property
    def images(self) -> int:
        """Rows of the store."""
        return int(self.manifest["counts"]["images"])

    @property
    def problems(self) -> int:
        """Images, members and shards in quarantine."""
        return int(self.manifest["counts"]["problems"])


@takes_options
def embed(
    data: str | Path | Sequence[str | Path],
    model: str,
    pretrained: str | None = None,
    *,
    out: str | Path,
    options: EmbedOptions,
    how: How,
) -> EmbedResult:
    """Embed the images of tar shards, tables or a folder into a store.

    Each tar file, or table with a column of images, becomes a shard of the store with its name,
    each sample a row with its key; the images of a folder are rows in the order of their paths,
    which are their keys. `captions` adds
    a column with the text of each sample; `match` gives rows of shards a field of their samples as
    keys, such as DataComp's `uid`. Images that cannot be used are left out and listed in
    `quarantine.parquet`. When `stop` is set, the run ends with `Interrupted`, and `resume=True`
    goes on from the last finished shard.

    `workers` processes share the devices: by default one for each GPU, or one on the CPU. Their
    number does not change the result.
    """
    how.tell("reading headers")
    plan = plan_embed(data, model, pretrained, options=options)
    with open_output(out, KIND, how) as output:
        return _fill(output, plan)


# --- what would be done, known before a model is loaded or a shard read


@dataclass(frozen=True)
class EmbedPlan:
    """Everything that is known beforehand."""

    source: str
    units: Sequence[Unit]
    model: str
    pretrained: str | None
    identity: Mapping[str, Any]
    options: EmbedOptions
    devices: Sequence[str]  # one worker each

    @property
    def bytes(self) -> int:
        return sum(unit.file.size for unit in self.units)

    @cached_property
    def images(self) -> int | None:
        """How many, if that is known without reading shards."""
        with ThreadPoolExecutor(FILE_THREADS) as pool:
            counts = list(pool.map(lambda unit: unit.count, self.units))
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    @property
    def settings(self) -> dict[str, Any]:
        """What can change the output, besides data and model."""
        return {
            "captions": self.options.captions,
            "batch_size": self.options.batch_size,
            "precision": self.options.precision,
            # Processors and GPUs round differently; which of them it was does not matter.
            "device": self.devices[0].partition(":")[0],
            **({} if self.options.match == KEY else {"match": self.options.match}),
        }

    def describe(self) -> dict[str, Any]:
        """What tells this output from others."""
        with ThreadPoolExecutor(FILE_THREADS) as pool:
            shards = list(pool.map(lambda unit: unit.describe(), self.units))
        return {
            "kind": "embed",
            "inputs": {"shards": shards},
            "model": dict(self.identity),
            "settings": self.settings,
        }

    def marks(self) -> dict[str, Any]:
        """What tells that a shard was edited in place while a run was unfinished."""
        return {"shards": [{"name": unit.name, "time": unit.changed()} for unit in self.units]}

    def work(self, out: Path) -> EmbedWork:
        """What carries this out, wherever it is sent."""
        return EmbedWork(
            out,
            self.model,
            self.pretrained,
            kind=self.settings["device"],
            precision=self.options.precision,
            batch_size=self.options.batch_size,
            captions=self.options.captions,
        )

    def total(self, images: int, size: int) -> int:
        """How many images there are, as far as can be told when so many filled so many bytes."""
        if self.images is not None:
            return self.images
        if not size or not images:
            return 0
        return round(images / min(1.0, size / self.bytes))


@takes_options
def plan_embed(
    data: str | Path | Sequence[str | Path],
    model: str,
    pretrained: str | None,
    *,
    options: EmbedOptions,
) -> EmbedPlan:
    """What `embed` would do; looks at names and checksums only."""
    identity = identify(model, pretrained)
    device = resolve_device(options.device)
    check_device(device, options.precision)
    units = find_units(data, options.match)
    if options.captions and (bare := [one.source for one in units if not one.may_have_captions]):
        raise UsageError(f"{bare[0]}: has no captions; leave --captions out")
    return EmbedPlan(
        "::".join(map(str, [data] if isinstance(data, str | Path) else data)),
        units,
        model,
        pretrained,
        identity,
        options,
        _devices(device, options.workers),
    )


_TIMED = 16
"""Images of the batch that tells how long all will take."""


def images_per_second(plan: EmbedPlan) -> float | None:
    """How fast a first batch is decoded and computed; None while that would mean to download
    weights, or if not one image can be decoded."""
    import torch

    if is_downloaded(plan.model, plan.pretrained):
        return None
    device, cores = plan.devices[0], max(1, thread_count() // len(plan.devices))
    with on_device(device, cores):
        model = load(plan.model, plan.pretrained, device, plan.options.precision)
        began = time.perf_counter()
        pixels = list(islice(_decoded(plan, model), _TIMED))
        decoding = (time.perf_counter() - began) / cores
        if not pixels:
            return None
        batch = torch.stack(pixels).to(device)
        model.image_features(batch)  # the first time takes longer
        began = time.perf_counter()
        model.image_features(batch).cpu()
        computing = time.perf_counter() - began
    return len(plan.devices) * len(pixels) / (decoding + computing)


def _decoded(plan: EmbedPlan, model: LoadedModel) -> Iterator[Tensor]:
    """Images that can be decoded, as the model sees them; a few are enough."""
    for unit in plan.units:
        for image in unit.images(False, lambda problem: None):
            with suppress(BadImage):
                yield model.preprocess(image.decode())


def _devices(device: str, workers: int | None) -> list[str]:
    """A device for each worker: all GPUs in turn where "cuda" was asked for."""
    import torch

    all_of_them = [device]
    if device == "cuda":
        all_of_them = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    count = workers or len(all_of_them)
    return [all_of_them[worker % len(all_of_them)] for worker in range(count)]


# --- carrying it out


def _fill(output: Output, plan: EmbedPlan) -> EmbedResult:
    how = output.how
    if output.wants_work:
        how.tell("loading the model")
        fetch(plan.model, plan.pretrained)
    described = plan.describe()
    answer = output.begin(described, marks=plan.marks())
    if isinstance(answer, Complete):
        if doubt := sampled_since((unit.file for unit in plan.units), output.path / MANIFEST):
            how.note(doubt)
        return EmbedResult(output.path, answer.manifest, already_complete=True)
    if isinstance(answer, Damaged):
        how.note(
            f"{len(answer.files):,} damaged files are made again, the first is {answer.files[0]}"
        )
        shards = answer.manifest["shards"]
        whole = [each for each in shards if each["files"].keys().isdisjoint(answer.files)]
        output.reopen({each["entry"]["name"]: each for each in whole})
    remove(output.path, [STORE_FILE, QUARANTINE])  # no store until all shards are there
    _embed(output, plan)
    return EmbedResult(output.path, _finish(output, plan, described))


def _embed(output: Output, plan: EmbedPlan) -> None:
    """Make all shards that the ledger does not have."""
    how, records = output.how, output.ledger.records
    size = sum(unit.file.size for unit in plan.units if unit.name in records)
    done = sum(map(_images_of, records.values()))
    tally = Tally(
        how,
        Progress(
            stage="loading the model",
            done=done,
            total=plan.total(done, size),
            noun="images",
            part=len(records),
            parts=len(plan.units),
        ),
        warms_up=True,
    )
    executor = how.executor or _executor(plan.devices)
    if not isinstance(executor, Here):
        warn_if_random(plan.model, plan.pretrained)  # workers elsewhere are not heard
    work = plan.work(output.path)
    for event in run_units(work, plan.units, output.ledger, executor, how, steps="images"):
        if isinstance(event, Step):
            size += event.more["bytes"]
            done += round(event.done)
            tally.add(event.done, stage="embedding", total=plan.total(done, size))
        else:
            tally.add(parts=len(event.records))


def _executor(devices: Sequence[str]) -> Executor:
    cores = max(1, thread_count() // len(devices))
    return Here(cores, devices[0]) if len(devices) == 1 else Processes(devices, cores)


def _images_of(record: Mapping[str, Any]) -> int:
    aside = [problem for problem in record["problems"] if problem["what"] == "sample"]
    return int(record["entry"]["rows"]) + len(aside)


def _finish(output: Output, plan: EmbedPlan, described: Mapping[str, Any]) -> dict[str, Any]:
    """What is about all shards together, and the manifest."""
    made = [output.ledger.records[unit.name] for unit in plan.units]
    entries = [Entry(**each["entry"]) for each in made]
    problems = [Problem(**problem) for each in made for problem in each["problems"]]
    if not (images := sum(entry.rows for entry in entries)):
        raise InputError.listing(
            f"{plan.source}: not one image could be embedded, so there is no store:",
            [str(problem) for problem in problems] or ["there are no samples"],
        )
    _require_one_model(output.path, made)
    files = {name: FileSum(**entry) for each in made for name, entry in each["files"].items()}
    if problems:
        files[QUARANTINE] = write_quarantine(output.path, problems)
    catalogue = Catalogue(made[0]["dim"], True, tuple(entries))
    files[STORE_FILE] = write_catalogue(output.path, catalogue)
    return output.finish(
        {
            **described,
            "dim": made[0]["dim"],
            "preprocess": made[0]["model"]["preprocess"],
            "counts": {
                "shards": len(made),
                "images": images,
                "problems": len(problems),
                "without_caption": sum(each["without_caption"] for each in made),
            },
            "shards": made,
            "versions": versions(*_PACKAGES),
        },
        files,
    )


def _require_one_model(out: Path, made: Sequence[Mapping[str, Any]]) -> None:
    """Weights on a hub may be replaced, and preprocessing changes with versions."""
    first, *others = made
    for each in others:
        if (each["dim"], each["model"]) != (first["dim"], first["model"]):
            raise InputError(
                f"{out}: shard {each['entry']['name']} was embedded with other dimensions or "
                f"preprocessing than {first['entry']['name']}; embed all again with --overwrite"
            )
