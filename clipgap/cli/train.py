"""`clipgap train`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Running, Tolerance, command
from clipgap.cli.shell import Shell
from clipgap.clip.train.options import TrainOptions
from clipgap.errors import QUARANTINED, UsageError
from clipgap.options import REQUIRED, Only, option

if TYPE_CHECKING:
    from clipgap.clip.train.api import TrainResult
    from clipgap.clip.train.plan import TrainPlan

_STOPPING = "Stopping after the step at hand; a checkpoint is kept."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(
        app,
        "train",
        "--train-data 'laion/{00000..00127}.tar' --keep pruned --recipe vit-b-32-paper "
        "--logs logs --name pruned",
    )(train)


def train(
    shell: Shell,
    options: TrainOptions,
    tolerance: Tolerance,
    running: Annotated[Running, Only("dry_run", "overwrite")],
    train_data: str = option(
        REQUIRED,
        "webdataset .tar files: a folder, glob, {00000..01023} pattern, a::b join or URL; to "
        "classify, also a folder of images by class.",
        metavar="SHARDS",
    ),
    logs: Path = option(REQUIRED, "Where runs are.", metavar="DIR"),
    name: str = option(REQUIRED, "Of the run: its folder in --logs.", metavar="NAME"),
    keep: Path | None = option(
        None, "Train on what this keep-list keeps; nothing is copied.", metavar="KEEP"
    ),
    add_reference: str | None = option(
        None, "Shards to be added whole, whatever the keep-list says.", metavar="SHARDS"
    ),
    captions: Path | None = option(
        None,
        "How to make captions of the domain and class of each sample; shards stay as they are.",
        metavar="FILE.toml",
    ),
    labels: Path | None = option(
        None,
        "Classes by key, to classify: all that the table names are those of the network.",
        metavar="TABLE",
    ),
    resume: str | None = option(
        None, "Go on from the latest whole checkpoint, if there is one.", metavar="latest"
    ),
) -> int:
    """Train CLIP with open_clip, or a classifier with torchvision, on what a split keeps.

    A process for each device is started, unless torchrun or Slurm has started this command as one
    of several. SIGTERM, SIGUSR1 and Ctrl-C: the step at hand is finished and saved, the exit code
    is 75 (130), and --resume latest ends where an undisturbed run would have ended.
    """
    from clipgap.clip.train.api import how_to_train, run_train
    from clipgap.clip.train.options import Place
    from clipgap.clip.train.plan import plan_train

    if options.arguments and not options.arguments[0].startswith("-"):
        raise UsageError(words.quote_it(options.arguments))
    place = Place(train_data, logs, name, keep, add_reference, captions, labels)
    if running.dry_run:
        plan = plan_train(place, options)
        described = _described(plan, place.folder)
        shell.result(described, _describe_plan(described))
        return 0
    with shell.watch(place.folder, _STOPPING) as watch:
        how = how_to_train(resume, overwrite=running.overwrite, on_progress=watch, stop=watch.stop)
        how.tell("counting samples")
        result = run_train(plan_train(place, options), place.folder, how)
    if not result.manifest:  # the first rank speaks for all
        return 0
    shell.result(_outcome(result), _describe_outcome(result))
    return QUARANTINED if result.quarantined > tolerance.allow_bad else 0


def _described(plan: TrainPlan, folder: Path) -> dict[str, Any]:
    from clipgap.clip.train.driver import rank_command

    batches = plan.batches
    return {
        "folder": folder,
        "objective": plan.options.objective,
        "model": plan.options.model or plan.options.arch,
        "shards": len(plan.shards),
        "bytes": sum(shard.bytes for shard in plan.shards),
        "keep": plan.keep,
        "captions": plan.captions and plan.captions["path"],
        "labels": plan.labels and plan.labels["path"],
        "samples": plan.samples,
        "missing": plan.missing,
        "reference_samples": plan.reference_samples,
        "epochs": plan.epochs,
        "steps": plan.steps,
        "world_size": batches.world,
        "device": plan.device,
        "batch_size": batches.batch,
        "accum_freq": batches.accum,
        "global_batch": batches.global_batch,
        "workers": batches.workers,
        "precision": plan.options.precision,
        "command": rank_command(folder),
    }


def _describe_plan(plan: dict[str, Any]) -> Iterator[str]:
    reference = plan["reference_samples"]
    added = f", {words.count(reference)} of them added" if reference else ""
    kept = f" that {plan['keep']} keeps" if plan["keep"] else ""
    passes = words.count(plan["accum_freq"]) + (" pass" if plan["accum_freq"] == 1 else " passes")
    yield f"Would train {plan['model']} in {plan['folder']}:"
    yield (
        f"  samples  {words.count(plan['samples'])}{kept}{added}, in "
        f"{words.plural(plan['shards'], 'shard')}, {words.size(plan['bytes'])}"
    )
    if plan["captions"]:
        yield f"  captions {plan['captions']}"
    if plan["labels"]:
        yield f"  labels   {plan['labels']}"
    if plan["missing"]:
        yield f"  missing  {words.plural(plan['missing'], 'sample')} of the keep-list"
    yield (
        f"  steps    {words.count(plan['steps'])} in {words.plural(plan['epochs'], 'epoch')}, "
        f"{words.count(plan['global_batch'])} samples each"
    )
    yield (
        f"  batch    {words.plural(plan['world_size'], plan['device'] + ' rank')} × "
        f"{words.count(plan['batch_size'])} samples × {passes}, {plan['precision']}"
    )
    yield f"  loaders  {words.count(plan['workers'])} a process"
    yield f"  command  {' '.join(plan['command'])}"


def _outcome(result: TrainResult) -> dict[str, Any]:
    return {
        "folder": result.path,
        "checkpoint": result.checkpoint,
        "counts": result.manifest["counts"],
        "final_loss": result.final_loss,
        "already_complete": result.already_complete,
    }


def _describe_outcome(result: TrainResult) -> Iterator[str]:
    counts = result.manifest["counts"]
    if result.already_complete:
        yield f"{result.path} is already complete; the checksum of its checkpoint holds."
    yield (
        f"Trained on {words.plural(counts['samples'], 'sample')}, "
        f"{words.plural(counts['steps'], 'step')}; the last loss is {result.final_loss:.4f}"
    )
    if counts["missing"]:
        yield f"  not found: {words.plural(counts['missing'], 'sample')} of the keep-list"
    if result.quarantined:
        yield (
            f"  quarantined: {words.plural(result.quarantined, 'unit')}, listed in "
            f"{result.path}/quarantine.parquet"
        )
    yield f"Checkpoint: {result.checkpoint}"
