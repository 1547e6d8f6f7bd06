"""What can be said of captioned shards, besides the folder."""

from __future__ import annotations

from dataclasses import dataclass

from clipgap.errors import UsageError
from clipgap.options import Options, option
from clipgap.select.options import CAPTION

PLACE = "{class}"


@dataclass(frozen=True)
class CaptionOptions(Options):
    """Which classes, what captions say, and how samples are dealt to shards."""

    classes: str | None = option(
        None,
        "The set of `clipgap data list` whose class folders these are, for its names and labels.",
        metavar="NAME",
        shown="folders are called by what they show",
    )
    caption: tuple[str, ...] = option(
        (CAPTION,),
        "What captions say; {class} is the name of the class. Repeatable: one of them is drawn for "
        "each image.",
        metavar="TEXT",
    )
    seed: int = option(0, "Of the order of the images, and of what is drawn.", metavar="N", min=0)
    per_shard: int = option(10_000, "Images in a shard.", metavar="N", min=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.caption or any(PLACE not in text for text in self.caption):
            raise UsageError(f"each --caption must have {PLACE}, where the name of the class goes")
