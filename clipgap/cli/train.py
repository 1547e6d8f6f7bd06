"""`clipgap train`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import command
from clipgap.cli.shell import Shell
from clipgap.errors import QUARANTINED

if TYPE_CHECKING:
    from clipgap.clip.train.api import Progress, TrainResult
    from clipgap.clip.train.plan import TrainPlan
    from clipgap.runs.how import Progress as Shown

_STOPPING = "Stopping after the step at hand; a checkpoint is kept."


@dataclass(frozen=True)
class What:
    """What is trained."""

    objective: Annotated[
        str,
        typer.Option(
            metavar="clip|classify", help="Images with captions, or with classes (.cls, folders)."
        ),
    ] = "clip"
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|CONFIG.json", help="A model of open_clip, or a configuration."),
    ] = None
    pretrained: Annotated[
        str,
        typer.Option(metavar="TAG|FILE", help="Weights to begin with.", show_default="random"),
    ] = ""
    arch: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A network of torchvision, to classify: resnet18, …"),
    ] = None
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="vit-b-32-paper: ViT-B-32, 32 epochs, a global batch of 33,600, spread over the "
            "devices that are there. What is typed besides wins.",
        ),
    ] = None


@dataclass(frozen=True)
class How:
    """open_clip's own names, where it has one."""

    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Times that all is seen.", show_default="32, or 90 to classify"
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Samples of a device and a pass.", show_default="64"),
    ] = None
    global_batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Samples of a step over all devices and passes; --batch-size or --accum-freq "
            "follow from it.",
        ),
    ] = None
    accum_freq: Annotated[
        int | None, typer.Option(metavar="N", help="Passes of a step.", show_default="1")
    ] = None
    train_num_samples: Annotated[
        int | None, typer.Option(metavar="N", help="Of an epoch.", show_default="all that is kept")
    ] = None
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None
    wd: Annotated[float | None, typer.Option(help="Weight decay.")] = None
    warmup: Annotated[int | None, typer.Option(metavar="STEPS", help="Until the full rate.")] = None
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="amp, amp_bf16, fp32, … as open_clip has them.",
            show_default="amp on GPUs, fp32 on CPUs",
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Loader processes a device.", show_default="up to 4"),
    ] = None
    seed: Annotated[int, typer.Option(metavar="N", help="Of weights, order and crops.")] = 0
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to train.")] = "auto"
    devices: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Processes to start, one a device; not where torchrun or Slurm did so.",
            show_default="all GPUs, or 1",
        ),
    ] = None
    local_loss: Annotated[
        bool, typer.Option("--local-loss", help="Each device computes its part of the loss.")
    ] = False
    gather_with_grad: Annotated[
        bool, typer.Option("--gather-with-grad", help="Gradients go through the gathering, too.")
    ] = False
    report_to: Annotated[
        str, typer.Option(metavar="tensorboard,wandb", help="Curves elsewhere.")
    ] = ""
    log_every_n_steps: Annotated[int, typer.Option(metavar="N", help="Lines of the loss log.")] = (
        100
    )
    log_keys: Annotated[
        bool, typer.Option("--log-keys", help="Note which samples are in which batch.")
    ] = False


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "train")(train)


def train(
    shell: Shell,
    train_data: Annotated[
        str,
        typer.Option(
            metavar="SHARDS",
            help="webdataset .tar files: a folder, glob, {00000..01023} pattern, a::b join or URL; "
            "to classify, also a folder of images by class.",
        ),
    ],
    logs: Annotated[Path, typer.Option(metavar="DIR", help="Where runs are.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="Of the run: its folder in --logs.")],
    what: What,
    how: How,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="KEEP", help="Train on what this keep-list keeps; nothing is copied."),
    ] = None,
    add_reference: Annotated[
        str | None,
        typer.Option(
            metavar="SHARDS", help="Shards to be added whole, whatever the keep-list says."
        ),
    ] = None,
    allow_bad: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Exit with 0 if no more than N are in quarantine."),
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the inputs, say what would be done, and stop.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="latest", help="Go on from the latest whole checkpoint, if there is one."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run that is already there.")
    ] = False,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- FLAGS]",
            help="More flags of open_clip_train, as they are.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Train CLIP with open_clip, or a classifier with torchvision, on what a split keeps.

    A process for each device is started, unless torchrun or Slurm has started this command as one
    of several. SIGTERM, SIGUSR1 and Ctrl-C: the step at hand is finished and saved, the exit code
    is 75 (130), and --resume latest ends where an undisturbed run would have ended.
    """
    from clipgap.clip.train.api import run_train
    from clipgap.clip.train.options import Place, TrainOptions
    from clipgap.clip.train.plan import plan_train

    place = Place(train_data, logs, name, keep, add_reference)
    said = {f.name: getattr(group, f.name) for group in (what, how) for f in fields(group)}
    plan = plan_train(place, TrainOptions(**said, arguments=tuple(arguments or ())))
    if dry_run:
        described = _described(plan, place.folder)
        shell.result(described, _describe_plan(described))
        return 0
    shell.check_settings_file(place.folder)
    with shell.watch(place.folder, _STOPPING) as watch:
        result = run_train(
            plan,
            place.folder,
            resume=resume,
            overwrite=overwrite,
            on_progress=lambda progress: watch(_shown(progress)),
            stop=watch.stop,
        )
    if not result.manifest:  # the first rank speaks for all
        return 0
    shell.result(_outcome(result), _describe_outcome(result))
    return QUARANTINED if result.quarantined > allow_bad else 0


def _shown(progress: Progress) -> Shown:
    from clipgap.runs.how import Progress as Shown

    return Shown(
        stage=progress.stage,
        works=True,
        done=progress.samples,
        total=progress.total,
        earlier=progress.earlier,
        seconds=progress.seconds,
        at="" if progress.loss is None else f"loss {progress.loss:.4f}",
    )


def _described(plan: TrainPlan, folder: Path) -> dict[str, Any]:
    from clipgap.clip.train.driver import torchrun_command

    batches = plan.batches
    return {
        "folder": folder,
        "objective": plan.options.objective,
        "model": plan.options.model or plan.options.arch,
        "shards": len(plan.shards),
        "bytes": sum(shard.bytes for shard in plan.shards),
        "keep": plan.keep,
        "samples": plan.samples,
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
        "command": torchrun_command(plan, folder),
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
    if result.quarantined:
        yield (
            f"  quarantined: {words.plural(result.quarantined, 'unit')}, listed in "
            f"{result.path}/quarantine.parquet"
        )
    yield f"Checkpoint: {result.checkpoint}"
