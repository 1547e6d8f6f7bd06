"""What is said of an evaluation, besides checkpoints and sets."""

from __future__ import annotations

from dataclasses import dataclass

from clipgap.clip.options import PRECISIONS
from clipgap.options import Options, option


@dataclass(frozen=True)
class EvalOptions(Options):
    """What the sets mean, in which numbers, and how many images at a time."""

    model: str | None = option(
        None,
        "The model of the checkpoints: open_clip's NAME, hf-hub:REPO, or CONFIG.json. Classifiers "
        "from `clipgap train` need none.",
        metavar="MODEL",
    )
    classnames: tuple[str, ...] = option(
        (),
        "Classes, one a line: NAME, or FOLDER, a tab and NAME. Without SET= for all sets that "
        "clipgap does not know.",
        metavar="[SET=]FILE",
    )
    templates: tuple[str, ...] = option(
        (), "Prompts, one a line, with {} for the class.", metavar="[SET=]FILE"
    )
    group_by: tuple[str, ...] = option(
        (), "Accuracies by the values of a column of the set's table, too.", metavar="SET=COLUMN"
    )
    subsets: tuple[str, ...] = option(
        (),
        "Accuracies of subsets, too: by keys, such as a clean test set, or by class.",
        metavar="SET=FILE.toml|KEEP",
    )
    pool: tuple[str, ...] = option(
        (),
        "Checkpoints to average image by image, such as those of several seeds.",
        metavar="NAME=CHECKPOINT,CHECKPOINT",
    )
    precision: str = option("fp32", "Numbers that the model computes in.", choices=PRECISIONS)
    draws: int = option(10_000, "Draws of the paired bootstrap.", metavar="N", min=1)
    seed: int = option(0, "Seed of the bootstrap.", metavar="S", min=0)
    device: str = option("auto", "Where the model runs.", metavar="auto|cpu|cuda|cuda:N")
    batch_size: int = option(64, "Images at a time.", metavar="N", min=1)
    workers: int | None = option(
        None, "Threads that decode images.", metavar="N", min=1, shown="cores"
    )
