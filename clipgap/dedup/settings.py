"""What a deduplication depends on, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

    def require_rows(self, store: Store) -> None:
        """Refuse a store that is too small, as far as its headers tell."""
        if store.rows == 0:
            raise InputError(f"{store.path} has no rows")
        self.require_usable(store, store.rows)

    def require_usable(self, store: Store, rows: int) -> None:
        if rows == 0:
            raise InputError(f"{store.path} has no usable row: all are zero, NaN or infinite")
        clusters = self.options.clusters
        if clusters is not None and clusters > rows:
            raise InputError(
                f"{clusters:,} clusters are more than the {rows:,} rows of {store.path}; ask for "
                "fewer"
            )

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
