"""What may be said of a mix beside its recipe."""

from __future__ import annotations

from dataclasses import dataclass

from clipgap.options import Options, option


@dataclass(frozen=True)
class MixOptions(Options):
    """Which mix of the recipe, and of what; each says what the recipe leaves open, or otherwise."""

    mix: str | None = option(
        None, "The mix to make, of several.", metavar="NAME", shown="the only one"
    )
    store: str | None = option(
        None, "The store to draw from.", metavar="STORE", shown="the recipe's"
    )
    labels: tuple[str, ...] = option(
        (),
        "Domains and classes: parquet or CSV, or a folder of parquet. Repeatable.",
        metavar="TABLE",
        shown="the recipe's",
    )
    within: str | None = option(
        None, "Draw among the rows of this keep-list only.", metavar="KEEP", shown="the recipe's"
    )
    seed: int | None = option(None, "Of the draw.", metavar="S", min=0, shown="the recipe's, or 0")
