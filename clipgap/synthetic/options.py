"""What is said of a rendered world."""

from __future__ import annotations

from dataclasses import dataclass

from clipgap.options import Options, option


@dataclass(frozen=True)
class RenderOptions(Options):
    """How many images of each kind, of which classes."""

    web: int = option(4_000, "Samples of the web-like training set.", metavar="N", min=1)
    reference: int = option(1_000, "Samples of the reference set.", metavar="N", min=1)
    points: int = option(600, "Samples of each test set.", metavar="N", min=1)
    planted: int = option(
        300,
        "Near-duplicates of test images to put into the training set.",
        metavar="N",
        min=0,
    )
    classes: int | None = option(None, "Draw the first N classes only.", metavar="N", shown="all")
    seed: int = option(0, "Any number.", metavar="S", min=0)
