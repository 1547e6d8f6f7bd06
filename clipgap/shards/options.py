"""What is said of a filter, besides shards and keep-list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipgap.options import Options, option

AUTO, KEY = "auto", "key"

NAMES = (
    "those of the samples (key), or a field of theirs, such as uid: a column of the parquet that "
    "lies beside a tar or holds the images, or an entry of each .json."
)
MATCH = f"What the keys of the keep-list are: {NAMES}"


@dataclass(frozen=True)
class FilterOptions(Options):
    """What comes out, and how many shards at a time."""

    merge: int | None = option(
        None,
        "Make shards of at most N samples, as even as can be.",
        metavar="N",
        min=1,
        shown="one shard for each",
    )
    captions: Path | None = option(
        None,
        "New captions: a file with the columns key and caption, or a folder with one such file a "
        "shard. Samples without one keep theirs.",
        metavar="PARQUET",
    )
    missing: str = option(
        "error",
        "Kept samples that an undamaged shard does not have: stop there, list them, or go on (for "
        "a part of the shards).",
        choices=("error", "list", "ignore"),
    )
    match: str = option(AUTO, MATCH, metavar="key|FIELD", shown="what finds samples")
    workers: int | None = option(
        None, "Shards at a time.", metavar="N", min=1, shown="one more than cores"
    )
