"""From a plan and what there is to how many rows of what are kept: counts, and nothing but counts.

Rows are counted in *cells*: what has the same source, domain and class. A rule puts cells into
*groups* and says how many rows of each group are kept; which ones is not decided here. Shares come
out as whole rows by largest remainder: each share is rounded down, and the rows that are missing go
to the largest remainders, among equal ones to the cell that is named first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.toml import nearest
from clipgap.mix.recipe import Plan, exact
from clipgap.select.cells import Cell, Counts


@dataclass(frozen=True)
class Quotas:
    """How many rows of which cells are kept."""

    group: Counts  # of each cell; -1: none of it is kept
    rows: Counts  # of each group

    def whole_and_drawn(self, counts: Counts) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Cells of groups that are kept whole, and of those of which a part is kept."""
        group = np.where(self.group >= 0, self.group, len(self.rows))
        there = np.bincount(group, counts, len(self.rows) + 1)[:-1]
        some = self.rows > 0
        whole, drawn = some & (self.rows == there), some & (self.rows < there)
        return np.append(whole, False)[group], np.append(drawn, False)[group]


def quotas(plan: Plan, cells: Sequence[Cell], counts: Counts) -> Quotas:
    """What the plan comes to; refuses what cannot be had."""
    rules = _Rules(plan, cells, counts)
    found = rules.of(plan.mix)
    for cell in rules.base:
        found.append(([cell], int(counts[cell])))
    group = np.full(len(cells), -1, np.int64)
    for number, (members, _) in enumerate(found):
        group[members] = number
    return Quotas(group, np.array([rows for _, rows in found], np.int64))


def largest_remainder(total: int, weights: Sequence[int | Fraction]) -> list[int]:
    """Whole parts of `total` in proportion to the weights, of which some is above 0."""
    whole = sum(weights)
    shares = [Fraction(total * weight, whole) for weight in weights]
    parts = [int(share) for share in shares]
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - shares[i], i))
    for place in by_remainder[: total - sum(parts)]:
        parts[place] += 1
    return parts


Group = tuple[list[int], int]
"""Cells, and how many of their rows are kept."""


class _Rules:
    """What each rule makes of the cells at hand; base sources are left to the caller."""

    def __init__(self, plan: Plan, cells: Sequence[Cell], counts: Counts) -> None:
        self.plan, self.cells = plan, cells
        self.counts = [int(n) for n in counts]
        self._refuse_unknown("source", plan.base, {cell.source for cell in cells})
        self._refuse_unknown("source", plan.extra, {cell.source for cell in cells})
        apart = {*plan.base, *plan.extra}
        self.base = [i for i, cell in enumerate(cells) if cell.source in plan.base]
        self.pool = [i for i, cell in enumerate(cells) if cell.source not in apart]
        self.domains = sorted({cells[i].domain for i in self.pool})

    def of(self, name: str) -> list[Group]:
        """The groups of a mix, the base left out."""
        said = self.plan.mixes[name]
        rule = said["rule"]
        if rule in ("counts", "steps"):
            return self._by_domain(name, self._counted(said))
        size = self._size(said)
        if rule == "ratio":
            assert size is not None
            parts = {domain: exact(part) for domain, part in sorted(said["parts"].items())}
            rows = largest_remainder(size, list(parts.values()))
            return self._by_domain(name, dict(zip(parts, rows, strict=True)))
        if rule == "random":
            assert size is not None
            domains = said.get("domains", self.domains)
            self._refuse_unknown("domain", domains, self.domains)
            cells = [i for i in self.pool if self.cells[i].domain in domains]
            self._require(name, size, sum(self.counts[i] for i in cells), "")
            return [(cells, size)]
        return self._composed(name, said, size)

    def _counted(self, said: Mapping[str, Any]) -> dict[str, int]:
        if said["rule"] == "counts":
            return dict(said["parts"])
        rows = dict(said["fixed"])
        for domain, added in said["added"].items():
            rows[domain] = rows.get(domain, 0) + said["step"] * added
        return rows

    def _size(self, said: Mapping[str, Any]) -> int | None:
        """How many rows the mix shall have, beside those of the base; None: as many as it has."""
        if "like" in said:
            return sum(rows for _, rows in self.of(said["like"]))
        return said.get("rows")

    def _by_domain(self, name: str, rows: Mapping[str, int]) -> list[Group]:
        """Groups of whole domains: rows of all their classes and sources alike."""
        self._refuse_unknown("domain", rows, self.domains)
        groups = []
        for domain, wanted in sorted(rows.items()):
            cells = [i for i in self.pool if self.cells[i].domain == domain]
            self._require(
                name, wanted, sum(self.counts[i] for i in cells), f" of the domain {domain!r}"
            )
            groups.append((cells, wanted))
        return groups

    def _composed(self, name: str, said: Mapping[str, Any], size: int | None) -> list[Group]:
        """The rules that go by domain and class: a group a cell."""
        rule, task = said["rule"], self.plan.task
        for key in ("natural", "test"):
            if key in task:
                self._refuse_unknown("domain", [task[key]], self.domains)
        kept = self._cells_of(name, said)
        extra: list[Group] = []
        if rule == "others-added":
            extra = [self._others(name, said)]
            size = sum(kept.values()) if size is None else size
            self._require(name, extra[0][1], size, " that can be replaced")
            size -= extra[0][1]
        if size is not None:
            self._require(name, size, sum(kept.values()), "")
            kept = self._cut(kept, size)
        return [*(([cell], rows) for cell, rows in kept.items()), *extra]

    def _cells_of(self, name: str, said: Mapping[str, Any]) -> dict[int, int]:
        """The cells that a rule keeps before it is cut to a size, with their rows."""
        rule, task = said["rule"], self.plan.task
        test, natural = (str(task.get(key, "")) for key in ("test", "natural"))
        domains = list(self.domains)
        if rule == "natural-only":
            domains = [natural]
        elif rule == "leave-domain-out":
            domains.remove(test)
        elif rule == "domains":
            domains = said["domains"]
            self._refuse_unknown("domain", domains, self.domains)
        elif rule == "low-diversity" or said.get("diversity", "high") == "low":
            domains = [natural, test]
        kept = {i: self.counts[i] for i in self.pool if self.cells[i].domain in domains}
        whole = rule in ("natural-only", "leave-domain-out", "upper-bound")
        if whole or test not in domains or "queried" not in task:
            return kept
        tested = [i for i in kept if self.cells[i].domain == test]
        classes = {self.cells[i].class_ for i in tested}
        self._refuse_unknown(f"class of the domain {test!r}", task["queried"], classes)
        queried = [i for i in tested if self.cells[i].class_ in task["queried"]]
        share = exact(said.get("share", 0))
        total = sum(kept[i] for i in queried)
        if total:
            rows = largest_remainder(round_half_up(share * total), [kept[i] for i in queried])
            kept |= dict(zip(queried, rows, strict=True))
        if rule == "others-mixed":
            chosen = self._some(name, said["classes"], classes - set(task["queried"]))
            kept |= {
                i: 0
                for i in tested
                if self.cells[i].class_ not in chosen
                and self.cells[i].class_ not in task["queried"]
            }
        return kept

    def _some(self, name: str, wanted: int | str, classes: Collection[str]) -> set[str]:
        """So many, or such a share, of the classes: fewer are always among more."""
        number = wanted if isinstance(wanted, int) else int(exact(wanted) * len(classes))
        if number > len(classes):
            raise InputError(
                f"mix {name!r} asks for {number:,} classes that are not queried, of "
                f"{len(classes):,} in the domain {self.plan.task['test']!r}"
            )
        seed = self.plan.seed
        order = sorted(classes, key=lambda c: sha256(f"{seed}\0{c}".encode()).digest())
        return set(order[:number])

    def _others(self, name: str, said: Mapping[str, Any]) -> Group:
        """Rows of an extra source whose class, letter by letter, is none of the pool's."""
        known = {self.cells[i].class_ for i in self.pool}
        cells = [
            i
            for i, cell in enumerate(self.cells)
            if cell.source == said["source"] and cell.class_ not in known
        ]
        there = sum(self.counts[i] for i in cells)
        wanted = said.get("added", there)
        self._require(name, wanted, there, f" of other classes in {said['source']!r}")
        return cells, wanted

    def _cut(self, kept: Mapping[int, int], size: int) -> dict[int, int]:
        """Cut to a size, each cell by its share."""
        cells = list(kept)
        if not sum(kept.values()):
            return dict(kept)
        if self.plan.order == "hash":
            rows = largest_remainder(size, [kept[i] for i in cells])
            return dict(zip(cells, rows, strict=True))
        return self._cut_as_released(kept, size)

    def _cut_as_released(self, kept: Mapping[int, int], size: int) -> dict[int, int]:
        """As the paper's code does: shares rounded up, then a row less for class after class, from
        the largest domain on, until the size is met.
        """
        shrink = Fraction(size, sum(kept.values()))
        rows = {i: -int(-n * shrink // 1) for i, n in kept.items()}
        sizes: dict[str, int] = {}
        for i, n in kept.items():
            sizes[self.cells[i].domain] = sizes.get(self.cells[i].domain, 0) + n
        surplus = sum(rows.values()) - size
        order = sorted(
            kept,
            key=lambda i: (
                -sizes[self.cells[i].domain],
                self.cells[i].domain,
                self.cells[i].class_,
            ),
        )
        for cell in [i for i in order if rows[i]][:surplus]:
            rows[cell] -= 1
        return rows

    def _require(self, name: str, wanted: int, there: int, of: str) -> None:
        if wanted > there:
            raise InputError(
                f"mix {name!r} cannot be met: it asks for {wanted:,} rows{of}, there are "
                f"{there:,}, so {wanted - there:,} are lacking"
            )

    def _refuse_unknown(self, what: str, named: Collection[str], known: Collection[str]) -> None:
        for name in named:
            if name not in known:
                raise InputError(
                    f"the labels know no {what} {name!r}; {nearest(name, sorted(known))}"
                )


def round_half_up(value: Fraction) -> int:
    return int(value + Fraction(1, 2))
