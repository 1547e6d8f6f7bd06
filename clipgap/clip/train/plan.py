"""Everything that is known of a run before it begins: what goes to every rank, and into resume."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clipgap.clip.checkpoints import checkpoint_file, read_weights
from clipgap.clip.images.reading import is_image_folder
from clipgap.clip.models import identify, resolve_device
from clipgap.clip.networks import register_config
from clipgap.clip.train.captions import read_captions
from clipgap.clip.train.labels import cite, read_class_labels
from clipgap.clip.train.options import BATCH_SIZE, LARGEST_BATCH, Place, TrainOptions
from clipgap.clip.train.order import BatchPlan, Order, plan_batches, split_global_batch
from clipgap.clip.train.shards import Counted, count_classes, count_folder, count_shards
from clipgap.errors import InputError, MissingDependency, UsageError
from clipgap.files.addresses import public
from clipgap.files.documents import checksum
from clipgap.files.remote import path_of
from clipgap.keep.lists import open_keep
from clipgap.machine import cores
from clipgap.shards.finding import find_shards
from clipgap.shards.lookup import Findings
from clipgap.shards.matching import KeepSelector
from clipgap.shards.options import AUTO, KEY

_MOST_WORKERS = 4
_OWNED = {
    "--train-data": "--train-data",
    "--train-num-samples": "--train-num-samples",
    "--dataset-type": "--train-data (only tar shards)",
    "--dataset-resampled": "--train-data (each sample is seen once an epoch)",
    "--train-data-upsampling-factors": "--add-reference",
    "--horovod": "nothing: clipgap or torchrun starts the processes",
    "--trace": "nothing: a traced model cannot be trained",
    "--resume": "--resume latest",
    "--logs": "--logs",
    "--name": "--name",
    "--device": "--device",
    "--log-local": "nothing: ranks share one folder",
    "--copy-codebase": "nothing: the manifest names the versions",
}
"""Flags of open_clip_train that must not come behind `--`, and what to use instead."""


PARAMETERS = "params.txt"
"""Where open_clip_train notes by what it trains, a line each."""

LOOPBACK = "127.0.0.1"
_RANK_NAMES = {
    "rank": ("RANK", "SLURM_PROCID", "PMI_RANK", "OMPI_COMM_WORLD_RANK"),
    "local": ("LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "world": ("WORLD_SIZE", "SLURM_NTASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"),
    "here": ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    "machines": ("SLURM_STEP_NUM_NODES", "SLURM_NNODES"),
}


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of the run."""

    launched: bool = False  # by something that starts one process a device
    rank: int = 0
    local: int = 0
    world: int = 1
    together: bool = False  # all of them are on this machine

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Ranks:
        """torchrun says so even of a single process; one Slurm task is a machine, not a device."""
        found = {
            what: next((int(environment[name]) for name in names if name in environment), None)
            for what, names in _RANK_NAMES.items()
        }
        world = found["world"] or 1
        if found["rank"] is None or (world == 1 and "RANK" not in environment):
            return cls()
        together = (
            environment.get("MASTER_ADDR") in ("localhost", LOOPBACK)
            or found["machines"] == 1
            or found["here"] == world
        )
        return cls(True, found["rank"], found["local"] or 0, world, together)


@dataclass(frozen=True)
class TrainPlan:
    """A run, ready to go."""

    options: TrainOptions  # resolved
    train_data: str
    keep: str | None
    keep_sha256: str | None  # of its manifest
    identity: Mapping[str, Any]  # of the model
    device: str  # "cpu" or "cuda"
    shards: tuple[Counted, ...]
    samples: int  # of an epoch
    batches: BatchPlan
    classes: tuple[str, ...] = ()  # for "classify"
    missing: int = 0  # samples of the keep-list that no shard holds
    captions: Mapping[str, str] | None = None  # path of what makes them, and what tells it apart
    labels: Mapping[str, str] | None = None  # the same of the table that says classes

    @property
    def order(self) -> Order:
        samples = [shard.samples for shard in self.shards]
        return Order(samples, self.options.seed, self.batches.stream_length)

    @property
    def epochs(self) -> int:
        assert self.options.epochs is not None
        return self.options.epochs

    @property
    def steps(self) -> int:
        return self.epochs * self.batches.steps

    @property
    def reference_samples(self) -> int:
        return sum(shard.samples for shard in self.shards if shard.reference)

    @property
    def is_folder(self) -> bool:
        return is_image_folder(self.train_data)

    def to_json(self) -> dict[str, Any]:
        said = {"kind": "train", **asdict(self)}
        for name in ("captions", "labels"):
            if said[name] is None:
                del said[name]
        return said

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> TrainPlan:
        values = {name: value for name, value in document.items() if name != "kind"}
        options = values["options"]
        return cls(
            **values
            | {
                "options": TrainOptions(**{**options, "arguments": tuple(options["arguments"])}),
                "shards": tuple(Counted(**shard) for shard in values["shards"]),
                "batches": BatchPlan(**values["batches"]),
                "classes": tuple(values["classes"]),
            }
        )

    def open_clip_arguments(self, place: Place) -> list[str]:
        """The command line of open_clip_train for each rank."""
        options = self.options
        assert options.model is not None
        model = options.model
        given: dict[str, Any] = {
            "--model": register_config(model) if model.endswith(".json") else model,
            "--pretrained": options.pretrained or None,
            "--train-data": self.train_data,
            "--dataset-type": "webdataset",
            "--train-num-samples": self.samples,
            "--epochs": self.epochs,
            "--batch-size": self.batches.batch,
            "--accum-freq": self.batches.accum,
            "--workers": self.batches.workers,
            "--precision": options.precision,
            "--device": self.device,
            "--seed": options.seed,
            "--lr": options.lr,
            "--wd": options.wd,
            "--warmup": options.warmup,
            "--log-every-n-steps": options.log_every_n_steps,
            "--report-to": options.report_to or None,
            "--logs": str(place.logs),
            "--name": place.name,
            # With it, an open_clip whose folder is there goes on; where, is for us to say.
            "--resume": "latest",
        }
        arguments = [f"{flag}={value}" for flag, value in given.items() if value is not None]
        arguments += ["--local-loss"] if options.local_loss else []
        arguments += ["--gather-with-grad"] if options.gather_with_grad else []
        return [*arguments, *options.arguments]


def planned_again(plan: TrainPlan, folder: Path) -> TrainPlan:
    """What would be planned of the same options, data and keep-list, as they are now."""
    reference = "::".join(shard.name for shard in plan.shards if shard.reference)
    place = Place(
        plan.train_data,
        folder.absolute().parent,
        folder.absolute().name,
        None if plan.keep is None else path_of(plan.keep),
        reference or None,
        None if plan.captions is None else path_of(plan.captions["path"]),
        None if plan.labels is None else path_of(plan.labels["path"]),
    )
    said = plan.options
    workers = plan.batches.workers if said.workers is None else said.workers  # cores differ
    options = replace(said, device="cpu", workers=workers)  # nor need its device be here
    again = plan_train(place, options, Ranks(launched=True, world=plan.batches.world))
    same = {name: getattr(said, name) for name in ("device", "workers")}
    return replace(again, device=plan.device, options=replace(again.options, **same))


def parameters_of(plan: TrainPlan, folder: Path) -> dict[str, str]:
    """What open_clip_train notes in `PARAMETERS` of the flags that this plan gives it."""
    place = Place(plan.train_data, folder.absolute().parent, folder.absolute().name)
    arguments = plan.open_clip_arguments(place)
    parsed = vars(_parse(arguments))
    flags = (argument.partition("=")[0] for argument in arguments if argument.startswith("--"))
    names = {flag.removeprefix("--").replace("-", "_") for flag in flags}
    # Where the folder lies, what it is called, and the device of one rank are not the plan's.
    given = names & parsed.keys() - {"logs", "name", "resume", "device"}
    return {name: str(parsed[name]) for name in sorted(given)}


def plan_train(place: Place, options: TrainOptions, ranks: Ranks | None = None) -> TrainPlan:
    """Check everything that can be checked beforehand, and count samples and steps."""
    for address in filter(None, (place.train_data, place.add_reference)):
        if public(address) != address:
            raise UsageError(
                f"{public(address)}: a training writes down where its shards lie, for its ranks "
                "and in its logs, so an address must hold no password. Put it where the file "
                "system looks for it, or train on a copy."
            )
    options = options.resolved()
    ranks = ranks or Ranks.of_environment()
    device = resolve_device(options.device).partition(":")[0]
    world = _world(options, ranks, device)
    if options.precision is None:
        options = replace(options, precision="fp32" if device == "cpu" else "amp")
    options = replace(options, devices=None, device=device)  # the batch plan says how many
    classify = options.objective == "classify"
    if (place.captions if classify else place.labels) is not None:
        flag = "--captions" if classify else "--labels"
        raise UsageError(f"{flag} has no meaning with --objective {options.objective}")
    classes: tuple[str, ...] = ()
    selector, missing = None, 0
    if is_image_folder(place.train_data):
        if not classify:
            raise InputError(f"{place.train_data}: holds no .tar files; training CLIP needs them")
        selector, shards, classes = _open_folder(place, options)
    else:
        found = find_shards(place.train_data)
        if place.keep is not None:
            selector = KeepSelector.open(place.keep, found, options.match)
        shards, findings = count_shards(place.train_data, selector, found, place.add_reference)
        if selector is not None and findings is not None:
            options = replace(options, match=selector.match)  # each loader is told what was found
            missing = _missing(selector, findings, options)
        classes = count_classes(shards) if classify and place.labels is None else ()
    labels = None if place.labels is None else read_class_labels(place.labels)
    samples = options.train_num_samples or sum(shard.samples for shard in shards)
    plan = TrainPlan(
        options=options,
        train_data=place.train_data,
        keep=None if place.keep is None else str(place.keep),
        keep_sha256=None if place.keep is None else checksum(open_keep(place.keep).manifest),
        identity=_identity(options),
        device=device,
        shards=tuple(shards),
        samples=samples,
        batches=_batches(options, samples, world),
        classes=classes if labels is None else labels.names,
        missing=missing,
        captions=None if place.captions is None else cite(read_captions(place.captions)),
        labels=None if labels is None else cite(labels),
    )
    if not classify:
        from clipgap.clip.train.patches import check_promises  # imports torch

        check_promises()
        _check_arguments(plan, place)
    return plan


def _missing(keep: KeepSelector, findings: Findings, options: TrainOptions) -> int:
    if findings.missing and not options.allow_missing:
        raise InputError(
            f"{keep.keep.path}: {findings.lacking(keep)}. Is it a keep-list of other shards, or "
            "are samples called by another field (--match)? --allow-missing counts them and "
            "trains on the others."
        )
    return findings.missing


def _world(options: TrainOptions, ranks: Ranks, device: str) -> int:
    if ranks.launched:
        if options.devices is not None:
            raise UsageError(
                "--devices says how many processes clipgap starts; here it has been "
                f"started as one of {ranks.world:,} processes"
            )
        return ranks.world
    if options.devices is not None:
        return options.devices
    import torch

    return torch.cuda.device_count() if device == "cuda" else 1


def _batches(options: TrainOptions, samples: int, world: int) -> BatchPlan:
    batch, accum = options.batch_size, options.accum_freq
    if options.global_batch is not None:
        largest = LARGEST_BATCH.get(options.recipe or "")
        batch, accum = split_global_batch(options.global_batch, world, batch, accum, largest)
    batch, accum = batch or BATCH_SIZE, accum or 1
    if samples < world * batch * accum:
        raise InputError(
            f"{samples:,} samples are fewer than one step takes: {world:,} devices × {batch:,} "
            f"samples × {accum:,} passes. Lower --batch-size or --global-batch."
        )
    workers = options.workers
    if workers is None:
        workers = min(_MOST_WORKERS, max(1, cores() // world))
    return plan_batches(samples, world, batch, accum, workers)


def _identity(options: TrainOptions) -> dict[str, Any]:
    if options.objective == "classify":
        assert options.arch is not None
        _check_arch(options.arch)
        return {"arch": options.arch}
    model = options.model
    assert model is not None
    if (checkpoint := checkpoint_file(options.pretrained)) is not None:
        read_weights(checkpoint, "meta")  # refuses what would run code
    return identify(model, options.pretrained)


def _open_folder(
    place: Place, options: TrainOptions
) -> tuple[KeepSelector | None, list[Counted], tuple[str, ...]]:
    if place.add_reference is not None:
        raise UsageError("--add-reference adds tar shards to tar shards, not to a folder of images")
    if place.keep is not None and options.match not in (AUTO, KEY):
        raise UsageError("--match is for tar shards; the keys of images are their paths")
    return count_folder(Path(place.train_data), place.keep)


def _check_arguments(plan: TrainPlan, place: Place) -> None:
    """Have open_clip_train parse its command line now, rather than in each rank."""
    for argument in plan.options.arguments:
        flag = argument.partition("=")[0]
        if flag in _OWNED:
            raise UsageError(f"{flag} after --: use {_OWNED[flag]} instead")
    parsed = _parse(plan.open_clip_arguments(place))
    changed = [
        flag
        for flag, value in (
            ("--batch-size", plan.batches.batch),
            ("--accum-freq", plan.batches.accum),
            ("--workers", plan.batches.workers),
            ("--epochs", plan.epochs),
            ("--seed", plan.options.seed),
        )
        if getattr(parsed, flag[2:].replace("-", "_")) != value
    ]
    if changed:
        raise UsageError(f"{changed[0]} after --: give it before, as an option of clipgap")
    if "wandb" in parsed.report_to:
        _need("wandb")
    if "tensorboard" in parsed.report_to:
        _need("tensorboard")


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise MissingDependency(f"--report-to {package}: `pip install {package}` first")


def _parse(arguments: list[str]) -> Any:
    """argparse prints what is wrong and leaves; here it becomes an error like any other."""
    from clipgap.clip.train.patches import import_trainer

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return import_trainer("params").parse_args(arguments)
    except SystemExit:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise UsageError(f"open_clip_train does not take its flags: {reason}") from None


def _check_arch(arch: str) -> None:
    """Refuse what torchvision does not know."""
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        near = difflib.get_close_matches(arch, known, 3, 0.4) or known[:3]
        raise UsageError(f"torchvision has no network {arch!r}; did you mean {', '.join(near)}?")
