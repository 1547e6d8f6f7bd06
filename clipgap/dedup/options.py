"""What can change the keep-lists of a deduplication, besides the store and epsilon."""

from __future__ import annotations

from dataclasses import dataclass

from clipgap.errors import UsageError
from clipgap.options import Options, option
from clipgap.scan.options import BAD_ROWS

MODES = ("greedy", "chain", "components")
TIES = ("row", "curator")
ORDERS = ("first", "centroid-far", "centroid-near", "random")
ARITHMETICS = ("float16", "float32")
"""What scores of others are rounded to."""
SEEDINGS = ("random", "kmeans++")
SAMPLE_PER_CLUSTER = 8
"""Rows a cluster that k-means++ chooses seeds among, unless told otherwise."""


@dataclass(frozen=True)
class DedupOptions(Options):
    """How rows come together, what is a duplicate, and which of several stays."""

    clusters: int | None = option(
        None, "Compare rows within K clusters. Or give --exact.", metavar="K", min=1
    )
    exact: bool = option(False, "Compare all rows with all, without clusters.")
    centroids: str | None = option(
        None, "Centroids of others: a row belongs to the nearest.", metavar="FILE"
    )
    labels: str | None = option(
        None,
        "Clusters of others: the number of each row's, or NeMo Curator's folder of clusters.",
        metavar="FILE",
    )
    mode: str = option(
        "greedy",
        "A row goes if a kept row before it is near; if any row before it is, as SemDeDup has it; "
        "or if it is not the first of all that are connected.",
        choices=MODES,
    )
    tainted: str | None = option(
        None,
        "With --mode components: drop those that hold a row which this list leaves out, whole, and "
        "keep all others.",
        metavar="KEEP",
    )
    keep: str = option(
        "first",
        "Which rows come first, and so stay: by row number, by distance from the centroid, or at "
        "random.",
        choices=ORDERS,
    )
    ties: str = option(
        "row",
        "At exactly 1 - ε rows are no duplicates, and of equally far rows the lower number comes "
        "first; or, as NeMo Curator has it, they are, and with centroid-far the higher does.",
        choices=TIES,
    )
    seed: int = option(0, "For all that is random.", metavar="S", min=0)
    iterations: int = option(20, "Of k-means, unless it comes to rest before.", metavar="N", min=0)
    seeding: str = option("random", "How k-means chooses its first centroids.", choices=SEEDINGS)
    sample: int | None = option(
        None,
        "Rows that kmeans++ chooses among.",
        metavar="N",
        min=1,
        shown=f"{SAMPLE_PER_CLUSTER} a cluster",
    )
    audit: int = option(
        0,
        "Compare N rows with the whole store, to estimate how many duplicates lie in different "
        "clusters.",
        metavar="N",
        min=0,
    )
    flips: bool = option(
        False,
        "Also count the rows that float16 and float32 scores would decide otherwise.",
    )
    bad_rows: str = option(
        "error",
        "Rows with NaN or infinity: stop there, or set them aside and keep none.",
        choices=BAD_ROWS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if [self.exact, self.clusters is not None, self.given].count(True) != 1:
            raise UsageError(
                "give either a number of clusters (--clusters) or exact (--exact), "
                "which compares all rows with all, or clusters of others (--centroids, --labels)"
            )
        if self.tainted is not None and (self.mode != "components" or self.keep != "first"):
            raise UsageError(
                "tainted rows take their components along, whatever comes first in them: give "
                "--mode components, and no --keep"
            )
        if self.exact:
            if self.keep.startswith("centroid"):
                raise UsageError(f"{self.keep} needs clusters; an exact search has none")
            if self.audit:
                raise UsageError("an exact search misses nothing, so there is nothing to audit")
        elif self.centroids is None and self.clusters is None and self.keep.startswith("centroid"):
            raise UsageError(f"{self.keep} needs centroids beside the labels: give --centroids")
        elif self.sample is not None:
            if self.seeding == "random" or self.clusters is None:
                raise UsageError("a sample does nothing for random seeds; it belongs to kmeans++")
            if self.sample < self.clusters:
                raise UsageError(
                    f"a sample of {self.sample:,} rows cannot give seeds to {self.clusters:,} "
                    "clusters"
                )

    @property
    def given(self) -> bool:
        """Whether others made the clusters."""
        return self.centroids is not None or self.labels is not None

    @property
    def sampled(self) -> int:
        """Rows that are held to choose seeds among."""
        clusters = self.clusters or 0
        return (
            clusters if self.seeding == "random" else self.sample or SAMPLE_PER_CLUSTER * clusters
        )
