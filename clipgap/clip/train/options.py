"""What a user can say about a training run, and what is meant where nothing was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from clipgap.errors import UsageError

Objective = Literal["clip", "classify"]

EPOCHS = {"clip": 32, "classify": 90}
BATCH_SIZE = 64


@dataclass(frozen=True)
class TrainOptions:
    """All of a run but its data and its folder; None means the default of recipe or objective."""

    objective: Objective = "clip"
    model: str | None = None  # a name of open_clip's or CONFIG.json
    pretrained: str = ""
    arch: str | None = None  # a network of torchvision's, for "classify"
    recipe: str | None = None
    epochs: int | None = None
    batch_size: int | None = None  # of one device and one pass
    global_batch: int | None = None  # of one step, over all devices and passes
    accum_freq: int | None = None  # passes a step
    train_num_samples: int | None = None  # of an epoch
    lr: float | None = None
    wd: float | None = None
    warmup: int | None = None  # steps
    precision: str | None = None
    workers: int | None = None  # loader processes a device
    seed: int = 0
    device: str = "auto"
    devices: int | None = None
    local_loss: bool = False
    gather_with_grad: bool = False
    report_to: str = ""
    log_every_n_steps: int = 100
    log_keys: bool = False
    arguments: tuple[str, ...] = ()  # further flags of open_clip_train

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise UsageError(
                f"objective {self.objective!r}: choose {', '.join(get_args(Objective))}"
            )
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{_flag(name)} {value:,}: give 1 or more")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers {self.workers}: give 0 or more")
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

_AT_LEAST_ONE = (
    *("epochs", "batch_size", "global_batch", "accum_freq"),
    *("train_num_samples", "devices", "log_every_n_steps"),
)
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
