"""What a user can say about a training run, and what is meant where nothing was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from clipgap.errors import UsageError
from clipgap.options import Options, argument, option
from clipgap.shards.options import AUTO, MATCH

Objective = Literal["clip", "classify"]

EPOCHS = {"clip": 32, "classify": 90}
BATCH_SIZE = 64


@dataclass(frozen=True)
class TrainOptions(Options):
    """All of a run but its data and its folder; None means the default of recipe or objective.

    Names are open_clip's own, where it has one.
    """

    objective: Objective = option(
        "clip",
        "Images with captions, or with classes (.cls, folders, --labels).",
        choices=get_args(Objective),
    )
    model: str | None = option(
        None, "A model of open_clip, or a configuration.", metavar="NAME|CONFIG.json"
    )
    pretrained: str = option("", "Weights to begin with.", metavar="TAG|FILE", shown="random")
    arch: str | None = option(
        None, "A network of torchvision, to classify: resnet18, …", metavar="NAME"
    )
    recipe: str | None = option(
        None,
        "vit-b-32-paper: ViT-B-32, 32 epochs, a global batch of 33,600, spread over the devices "
        "that are there. What is typed besides wins.",
        metavar="NAME",
    )
    epochs: int | None = option(
        None, "Times that all is seen.", metavar="N", min=1, shown="32, or 90 to classify"
    )
    batch_size: int | None = option(
        None, "Samples of a device and a pass.", metavar="N", min=1, shown=str(BATCH_SIZE)
    )
    global_batch: int | None = option(
        None,
        "Samples of a step over all devices and passes; --batch-size or --accum-freq follow from "
        "it.",
        metavar="N",
        min=1,
    )
    accum_freq: int | None = option(None, "Passes of a step.", metavar="N", min=1, shown="1")
    match: str = option(AUTO, MATCH, metavar="key|FIELD", shown="what finds samples")
    allow_missing: bool = option(
        False, "Train although no shard holds some samples of the keep-list; they are counted."
    )
    train_num_samples: int | None = option(
        None, "Of an epoch.", metavar="N", min=1, shown="all that is kept"
    )
    lr: float | None = option(None, "Learning rate.", metavar="RATE")
    wd: float | None = option(None, "Weight decay.", metavar="RATE")
    warmup: int | None = option(None, "Until the full rate.", metavar="STEPS")
    precision: str | None = option(
        None,
        "amp, amp_bf16, fp32, … as open_clip has them.",
        metavar="NAME",
        shown="amp on GPUs, fp32 on CPUs",
    )
    workers: int | None = option(
        None, "Loader processes a device.", metavar="N", min=0, shown="up to 4"
    )
    seed: int = option(0, "Of weights, order and crops.", metavar="N")
    device: str = option("auto", "Where to train.", metavar="auto|cpu|cuda")
    devices: int | None = option(
        None,
        "Processes to start, one a device; not where torchrun or Slurm did so.",
        metavar="N",
        min=1,
        shown="all GPUs, or 1",
    )
    local_loss: bool = option(False, "Each device computes its part of the loss.")
    gather_with_grad: bool = option(False, "Gradients go through the gathering, too.")
    report_to: str = option("", "Curves elsewhere.", metavar="tensorboard,wandb")
    log_every_n_steps: int = option(100, "Lines of the loss log.", metavar="N", min=1)
    log_keys: bool = option(False, "Note which samples are in which batch.")
    arguments: tuple[str, ...] = argument(
        "More flags of open_clip_train, as they are.",
        metavar="[-- FLAGS]",
        default=(),
        shown=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recipe is not None and self.recipe not in RECIPES:
            raise UsageError(f"no recipe {self.recipe!r}; there is {', '.join(RECIPES)}")
        of_other = _ONLY["classify" if self.objective == "clip" else "clip"]
        strange = [name for name in of_other if getattr(self, name) != _default(name)]
        if strange:
            raise UsageError(
                f"{_flag(strange[0])} has no meaning with --objective {self.objective}"
            )

    def resolved(self) -> TrainOptions:
        """With what the recipe says, and the defaults of the objective."""
        options = self
        if self.recipe is not None:
            preset = RECIPES[self.recipe]
            unsaid = {name for name in preset if getattr(self, name) is None}
            options = replace(options, **{name: preset[name] for name in unsaid})
        if options.objective == "clip" and options.model is None:
            raise UsageError("--model is missing: a model of open_clip, or CONFIG.json")
        if options.objective == "classify" and options.arch is None:
            raise UsageError("--arch is missing: a network of torchvision, such as resnet18")
        if options.epochs is None:
            options = replace(options, epochs=EPOCHS[options.objective])
        return options


RECIPES: dict[str, dict[str, Any]] = {
    "vit-b-32-paper": {"model": "ViT-B-32", "epochs": 32, "global_batch": 33_600},
}
"""As published: open_clip's own settings for everything else."""

LARGEST_BATCH = {"vit-b-32-paper": 4_200}
"""Of a device and pass, if no --batch-size is given: what the eight devices of the paper held."""

_ONLY: dict[str, Sequence[str]] = {
    "classify": ("arch",),
    "clip": (
        *("model", "pretrained", "recipe", "local_loss", "gather_with_grad"),
        *("report_to", "arguments"),
    ),
}


@dataclass(frozen=True)
class Place:
    """Where the samples are, and where the run goes."""

    train_data: str
    logs: Path
    name: str
    keep: Path | None = None
    add_reference: str | None = None
    captions: Path | None = None
    labels: Path | None = None

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name in (".", ".."):
            raise UsageError(f"--name {self.name!r}: it becomes the name of a folder in --logs")

    @property
    def folder(self) -> Path:
        return self.logs / self.name


def _default(name: str) -> Any:
    return next(field.default for field in fields(TrainOptions) if field.name == name)


def _flag(name: str) -> str:
    return "a flag after --" if name == "arguments" else f"--{name.replace('_', '-')}"
