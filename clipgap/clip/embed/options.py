"""What is said of an embedding run, besides data and model."""

from __future__ import annotations

from dataclasses import dataclass

from clipgap.clip.options import PRECISIONS
from clipgap.options import Options, option
from clipgap.shards.options import KEY, NAMES


@dataclass(frozen=True)
class EmbedOptions(Options):
    """How images go through the model, and what is stored beside their embeddings."""

    captions: bool = option(False, "Store the text of each sample too: .txt, or a column caption.")
    match: str = option(KEY, f"What rows get as keys: {NAMES}", metavar="key|FIELD")
    batch_size: int = option(256, "Images that go through the model together.", metavar="N", min=1)
    workers: int | None = option(
        None,
        "Processes that share the devices and the shards.",
        metavar="N",
        min=1,
        shown="one for each GPU, one on the CPU",
    )
    device: str = option(
        "auto",
        "Where the model runs; cuda stands for all GPUs.",
        metavar="auto|cpu|cuda|cuda:N",
    )
    precision: str = option(
        "fp32",
        "As in open_clip; amp is mixed, float16 on GPUs and bfloat16 on CPUs.",
        choices=PRECISIONS,
    )
