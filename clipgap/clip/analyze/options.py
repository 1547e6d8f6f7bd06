"""What is said of an analysis, besides checkpoints and sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from clipgap.clip.eval.options import EvalOptions
from clipgap.options import Only, Options, option

Reading = Annotated[
    EvalOptions, Only("model", "classnames", "templates", "device", "batch_size", "workers")
]
"""What the sets mean, as in an evaluation."""


@dataclass(frozen=True)
class AnalyzeOptions(Options):
    """Which classes and blocks, and how much is computed."""

    only: Path | None = option(
        None,
        "Look at some classes alone, one a line, by the names of their folders.",
        metavar="FILE",
        shown="all",
    )
    blocks: tuple[str, ...] = option(
        (),
        "Modules of the image tower to look into, by name; * matches anything. Repeatable.",
        metavar="PATTERN",
        shown="its blocks",
    )
    neurons: int = option(
        0,
        "Images of a class by which to find the neurons that matter; the paper takes 50. 0: none, "
        "since each costs steps × blocks passes through the network.",
        metavar="N",
        min=0,
    )
    steps: int = option(10, "Steps of integrated gradients.", metavar="N", min=1)
    circuits: int = option(
        0,
        "Images of a class, among those of --neurons, by which to trace what leads from one of its "
        "top neurons to another. 0: none, since each neuron costs a pass.",
        metavar="N",
        min=0,
    )
    concepts: int = option(
        0,
        "Steps in which a sparse autoencoder learns the concepts that domains are compared by. 0: "
        "none.",
        metavar="N",
        min=0,
    )
    map: str = option("pca", "How the map is drawn.", choices=("pca", "umap"))
    draws: int = option(1_000, "Draws of the bootstrap over classes.", metavar="N", min=1)
    seed: int = option(0, "Seed of bootstrap, autoencoder and map.", metavar="S", min=0)
