"""What a deduplication will do, decided before anything is computed or written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clipgap.dedup.options import DedupOptions
from clipgap.errors import InputError, UsageError
from clipgap.store.base import Store


@dataclass(frozen=True)
class DedupSettings:
    """Every setting that can change a result."""

    epsilons: tuple[float, ...]  # ascending
    options: DedupOptions

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilons", tuple(sorted({float(e) for e in self.epsilons})))
        if not self.epsilons:
            raise UsageError("no epsilon given; name at least one")
        for epsilon in self.epsilons:
            if not 0.0 < epsilon < 2.0:
                raise UsageError(
                    f"epsilon is {epsilon:g}; it must lie between 0 and 2, since rows count as "
                    "duplicates when their similarity exceeds 1 - epsilon"
                )

    @property
    def limits(self) -> tuple[float, ...]:
        """The scores that a pair has to exceed, one for each epsilon."""
        return tuple(1.0 - epsilon for epsilon in self.epsilons)

    def described(self) -> dict[str, Any]:
        """Plain data, for the plan of a run."""
        return {"epsilons": list(self.epsilons), **self._described()}

    def rule(self, epsilon: float) -> dict[str, Any]:
        """What a manifest says made its list: nothing of the other epsilons of the run."""
        return {"name": "dedup", "epsilon": epsilon, **self._described()}

    @classmethod
    def of_rule(cls, rule: Any) -> DedupSettings:
        """What a manifest says, without the audit, which changes no list."""
        options = DedupOptions(
            exact=rule["clustering"] is None,
            **(rule["clustering"] or {}),
            **{name: rule[name] for name in ("mode", "keep", "seed", "bad_rows")},
        )
        return cls((rule["epsilon"],), options)

    def _described(self) -> dict[str, Any]:
        said = self.options
        names = ("clusters", "iterations", "seeding", "sample")
        clustering = None if said.exact else {name: getattr(said, name) for name in names}
        return {
            "clustering": clustering,
            "mode": said.mode,
            "keep": said.keep,
            "seed": said.seed,
            "audit": said.audit,
            "bad_rows": said.bad_rows,
        }


@dataclass(frozen=True)
class DedupPlan:
    """A deduplication, checked as far as headers go."""

    store: Store
    settings: DedupSettings

    def require_rows(self) -> None:
        """Refuse a store that is too small, as far as its headers tell."""
        if self.store.rows == 0:
            raise InputError(f"{self.store.path} has no rows")
        self.require_usable(self.store.rows)

    def require_usable(self, rows: int) -> None:
        """Refuse a store of which only so many rows can be used, if that is too few."""
        if rows == 0:
            raise InputError(f"{self.store.path} has no usable row: all are zero, NaN or infinite")
        clusters = self.settings.options.clusters
        if clusters is not None and clusters > rows:
            raise InputError(
                f"{clusters:,} clusters are more than the {rows:,} rows of {self.store.path}; ask "
                "for fewer"
            )

    @property
    def operations(self) -> int:
        """Multiplications and additions of all scores, if clusters come out even."""
        n, d, said = self.store.rows, self.store.dim, self.settings.options
        if said.clusters is None:
            return n * n * d
        assigning = 2 * n * said.clusters * d * (said.iterations + 1)
        return assigning + n * n * d // said.clusters + 2 * said.audit * n * d

    def describe(self) -> dict[str, Any]:
        """The plan as plain data, for `--dry-run`."""
        store = self.store
        sizes = [shard.rows * np.dtype(shard.dtype).itemsize for shard in store.shards]
        return {
            "store": {
                "path": store.path,
                "format": store.format,
                "shards": len(store.shards),
                "rows": store.rows,
                "dim": store.dim,
                "bytes": sum(sizes) * store.dim,
            },
            "settings": self.settings.described(),
            "operations": self.operations,
        }
