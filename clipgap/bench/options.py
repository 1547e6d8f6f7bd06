"""Options of a projection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipgap.options import Options, option


@dataclass(frozen=True)
class Sizes(Options):
    """How much there is, where no stores say it."""

    rows: str | None = option(
        None, "Training rows, where no TRAIN is named, such as 413M or 5.85B.", metavar="N"
    )
    points: str | None = option(
        None,
        "Test points of all sets, where no --test is named.",
        metavar="N",
        flags=("--tests",),
    )
    sets: int = option(1, "How many sets --tests are of.", metavar="N", min=1)
    dim: int | None = option(None, "Numbers in a row, where no store is named.", metavar="N", min=1)
    reference: str | None = option(
        None, "The reference set, a store or its number of rows: adds gap.", metavar="STORE|N"
    )


@dataclass(frozen=True)
class Doing(Options):
    """What else commands are asked for that decides how long they take."""

    model: str | None = option(
        None,
        "Of embed, train and eval: a vision transformer.",
        metavar="NAME|CONFIG.json",
    )
    batch_size: int = option(256, "Of embed, which tells its memory.", metavar="N", min=1)
    epochs: int = option(32, "Of train.", metavar="N", min=1)
    clusters: int | None = option(None, "Of dedup.", metavar="K", min=1, shown="all rows with all")
    iterations: int = option(20, "Of dedup's k-means.", metavar="N", min=0)
    memory: float | None = option(
        None,
        "Of dedup: memory for rows.",
        metavar="GIB",
        min=0,
        max=1 << 30,
        shown="a quarter of what is here",
    )


@dataclass(frozen=True)
class Rates(Options):
    """What works, and how fast; what is not said is taken from rows of `clipgap bench`."""

    on: str | None = option(
        None, "What computes, such as 64cores or 8xA100.", metavar="WHAT", shown="the cores here"
    )
    rate: str | None = option(
        None, "Effective rate of one core or GPU, such as 180T; see `clipgap bench`.", metavar="R"
    )
    model_rate: str | None = option(
        None,
        "The same in models: operations a second of one core or GPU in a forward pass.",
        metavar="R",
    )
    image_bytes: str | None = option(
        None, "Bytes of an image where they are stored.", metavar="B", shown="those of LAION-400M"
    )
    efficiency: float = option(
        0.3,
        "Of a GPU that was never measured: the share of its maker's peak to assume.",
        metavar="E",
        min=0.001,
        max=2,
    )
    cores: int = option(
        16, "Cores of the host beside each GPU, for reading and writing.", metavar="N", min=1
    )
    disk: str | None = option(
        None, "What the disk reads and writes, such as 25GB/s.", metavar="B/s"
    )
    network: str | None = option(
        None, "What the network brings, where the training set lies behind one.", metavar="B/s"
    )
    measured: Path | None = option(
        None,
        "A file or folder of rows that `clipgap bench` has kept.",
        metavar="PATH",
        shown="where bench keeps them",
    )
