"""What a deduplication depends on, and nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clipgap.errors import InputError, UsageError
from clipgap.scan.plan import BAD_ROWS
from clipgap.store.base import Store

MODES = ("greedy", "chain", "components")
ORDERS = ("first", "centroid-far", "centroid-near", "random")
SEEDINGS = ("random", "kmeans++")
SAMPLE_PER_CLUSTER = 8
"""Rows a cluster that k-means++ chooses seeds among, unless told otherwise."""


@dataclass(frozen=True)
class Clustering:
    """How rows come together; only rows of one cluster are compared."""

    clusters: int
    iterations: int = 20
    seeding: str = "random"
    sample: int | None = None  # rows that k-means++ chooses among

    def __post_init__(self) -> None:
        _require_one_of("seeding", self.seeding, SEEDINGS)
        if self.clusters < 1:
            raise UsageError(f"clusters is {self.clusters:,}; it must be at least 1")
        if self.iterations < 0:
            raise UsageError(f"iterations is {self.iterations:,}; it cannot be negative")
        if self.sample is not None and self.seeding == "random":
            raise UsageError("a sample does nothing for random seeds; it belongs to kmeans++")
        if self.sample is not None and self.sample < self.clusters:
            raise UsageError(
                f"a sample of {self.sample:,} rows cannot give seeds to {self.clusters:,} clusters"
            )

    @property
    def sampled(self) -> int:
        """Rows that are held to choose seeds among."""
        if self.seeding == "random":
            return self.clusters
        return self.sample or SAMPLE_PER_CLUSTER * self.clusters


@dataclass(frozen=True)
class Settings:
    """Every setting that can change a result."""

    epsilons: tuple[float, ...]  # ascending
    clustering: Clustering | None  # None: all rows are compared with all
    mode: str = "greedy"
    keep: str = "first"
    seed: int = 0
    audit: int = 0  # rows to be compared with all others; 0: no audit
    bad_rows: str = "error"

    def __post_init__(self) -> None:
        _require_one_of("mode", self.mode, MODES)
        _require_one_of("keep", self.keep, ORDERS)
        _require_one_of("bad_rows", self.bad_rows, BAD_ROWS)
        object.__setattr__(self, "epsilons", tuple(sorted({float(e) for e in self.epsilons})))
        if not self.epsilons:
            raise UsageError("no epsilon given; name at least one")
        for epsilon in self.epsilons:
            if not 0.0 < epsilon < 2.0:
                raise UsageError(
                    f"epsilon is {epsilon:g}; it must lie between 0 and 2, since rows count as "
                    "duplicates when their similarity exceeds 1 - epsilon"
                )
        if self.audit < 0:
            raise UsageError(f"audit is {self.audit:,}; it is a number of rows")
        if self.clustering is None and self.keep.startswith("centroid"):
            raise UsageError(f"{self.keep} needs clusters; an exact search has none")
        if self.clustering is None and self.audit:
            raise UsageError("an exact search misses nothing, so there is nothing to audit")

    @property
    def limits(self) -> tuple[float, ...]:
        """The scores that a pair has to exceed, one for each epsilon."""
        return tuple(1.0 - epsilon for epsilon in self.epsilons)

    def require_rows(self, store: Store) -> None:
        """Refuse a store that is too small, as far as its headers tell."""
        if store.rows == 0:
            raise InputError(f"{store.path} has no rows")
        self.require_usable(store, store.rows)

    def require_usable(self, store: Store, rows: int) -> None:
        if rows == 0:
            raise InputError(f"{store.path} has no usable row: all are zero, NaN or infinite")
        if self.clustering is not None and self.clustering.clusters > rows:
            raise InputError(
                f"{self.clustering.clusters:,} clusters are more than the {rows:,} rows of "
                f"{store.path}; ask for fewer"
            )

    def described(self) -> dict[str, Any]:
        """Plain data, for the plan of a run."""
        return {**asdict(self), "epsilons": list(self.epsilons)}

    def rule(self, epsilon: float) -> dict[str, Any]:
        """What a manifest says made its list: nothing of the other epsilons of the run."""
        how = None if self.clustering is None else asdict(self.clustering)
        return {
            "name": "dedup",
            "epsilon": epsilon,
            "mode": self.mode,
            "keep": self.keep,
            "seed": self.seed,
            "bad_rows": self.bad_rows,
            "clustering": how,
            "audit": self.audit,
        }


def _require_one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{what} is {value!r}; choose one of: {', '.join(known)}")
