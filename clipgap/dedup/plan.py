"""What a deduplication will do, decided before anything is computed or written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.dedup.given import Given, cite
from clipgap.dedup.options import ARITHMETICS, TIES, DedupOptions
from clipgap.errors import InputError, UsageError
from clipgap.keep.lists import open_keep
from clipgap.select.columns import require_same_store
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

    @cached_property
    def limits(self) -> tuple[float, ...]:
        """The scores that a pair has to exceed, one for each epsilon."""
        limits = [1.0 - epsilon for epsilon in self.epsilons]
        if self.options.ties == "curator":  # to reach one is to exceed the next number below
            limits = [math.nextafter(limit, -math.inf) for limit in limits]
        return tuple(limits)

    @cached_property
    def tainted(self) -> NDArray[np.bool_] | None:
        """Which rows of the store take their components along; None: the first of each stays."""
        if self.options.tainted is None:
            return None
        keep = open_keep(self.options.tainted)
        return np.concatenate([~keep.bits(shard.index) for shard in keep.shards])

    @cached_property
    def files(self) -> dict[str, dict[str, str]]:
        """The files that the clusters are taken of, as a manifest names them."""
        said = {"centroids": self.options.centroids, "labels": self.options.labels}
        return {name: cite(path) for name, path in said.items() if path is not None}

    @property
    def cited(self) -> dict[str, str]:
        """The list of the rows that are not tainted, as a manifest names it."""
        assert self.options.tainted is not None
        return open_keep(self.options.tainted).cite()

    def described(self) -> dict[str, Any]:
        """Plain data, for the plan of a run."""
        return {"epsilons": list(self.epsilons), **self._described()}

    def rule(self, epsilon: float) -> dict[str, Any]:
        """What a manifest says made its list: nothing of the other epsilons of the run."""
        return {"name": "dedup", "epsilon": epsilon, **self._described()}

    @classmethod
    def of_rule(cls, rule: Any) -> DedupSettings:
        """What a manifest says, without the audit, which changes no list."""
        clustering = rule["clustering"]
        given = {
            name: said["path"] if name in ("centroids", "labels") else said
            for name, said in (clustering or {}).items()
        }
        options = DedupOptions(
            exact=clustering is None,
            **given,
            **{name: rule[name] for name in ("mode", "keep", "seed", "bad_rows")},
            ties=rule.get("ties", TIES[0]),
            tainted=rule["tainted"]["path"] if "tainted" in rule else None,
            flips=rule.get("flips", False),
        )
        settings = cls((rule["epsilon"],), options)
        if "tainted" in rule and settings.cited != rule["tainted"]:
            raise InputError(f"{options.tainted} is no longer the keep-list that was tainted by")
        for name, file in settings.files.items():
            if file != clustering[name]:
                raise InputError(
                    f"{file['path']} is no longer the file whose clusters the list was made with"
                )
        return settings

    def _described(self) -> dict[str, Any]:
        said = self.options
        names = ("clusters", "iterations", "seeding", "sample")
        clustering: Mapping[str, Any] | None = None
        if said.given:
            clustering = self.files
        elif not said.exact:
            clustering = {name: getattr(said, name) for name in names}
        return {
            "clustering": clustering,
            "mode": said.mode,
            "keep": said.keep,
            **({} if said.ties == TIES[0] else {"ties": said.ties}),
            **({} if said.tainted is None else {"tainted": self.cited}),
            "seed": said.seed,
            "audit": said.audit,
            **({"flips": True} if said.flips else {}),
            "bad_rows": said.bad_rows,
        }


@dataclass(frozen=True)
class DedupPlan:
    """A deduplication, checked as far as headers go."""

    store: Store
    settings: DedupSettings

    @cached_property
    def given(self) -> Given | None:
        """Clusters that others made."""
        options = self.settings.options
        return Given.read(options, self.store) if options.given else None

    @property
    def clusters(self) -> int | None:
        """How many there are; None where all rows are compared with all."""
        return self.settings.options.clusters if self.given is None else self.given.count

    def require_rows(self) -> None:
        """Refuse a store that is too small, as far as its headers tell."""
        if self.store.rows == 0:
            raise InputError(f"{self.store.path} has no rows")
        self.require_usable(self.store.rows)
        if (path := self.settings.options.tainted) is not None:
            require_same_store(self.store.identity(), self.store.path, open_keep(path))

    def require_usable(self, rows: int) -> None:
        """Refuse a store of which only so many rows can be used, if that is too few."""
        if rows == 0:
            raise InputError(f"{self.store.path} has no usable row: all are zero, NaN or infinite")
        clusters = self.clusters
        if self.given is None and clusters is not None and clusters > rows:
            raise InputError(
                f"{clusters:,} clusters are more than the {rows:,} rows of {self.store.path}; ask "
                "for fewer"
            )

    @property
    def operations(self) -> int:
        """Multiplications and additions of all scores, if clusters come out even."""
        n, d, said, clusters = self.store.rows, self.store.dim, self.settings.options, self.clusters
        compared = n * n * d // (clusters or 1) * (1 + said.flips * len(ARITHMETICS))
        if clusters is None:
            return compared
        passes = said.iterations + 1 if self.given is None else int(self.given.labels is None)
        assigning = 2 * n * clusters * d * passes
        return assigning + compared + 2 * said.audit * n * d

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
