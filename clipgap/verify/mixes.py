"""What must be true of a mix, found without looking for the places where its groups were cut.

The rows of a group are right if there are as many as the rule says, and none that was left out
comes before one that was kept. So rows are counted and compared, all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.files.documents import checksum
from clipgap.keep.lists import KeepList
from clipgap.mix.api import Drawn, describe
from clipgap.mix.ranks import Ranked, ranked
from clipgap.mix.recipe import Plan
from clipgap.runs.how import How
from clipgap.select.cells import Pool, open_pool
from clipgap.select.labels import cite_labels
from clipgap.store.base import Store
from clipgap.verify.checks import Problems
from clipgap.verify.claims import Claim, Means
from clipgap.verify.evidence import named


def check_labels(keep: KeepList, problems: Problems) -> str:
    """The tables of labels are those that the mix was drawn by."""
    said = keep.manifest["rule"]["labels"]
    for table in said:
        if cite_labels(named(table["path"])) != table:
            problems.add(f"{table['path']} is no longer the table of labels that was used")
    return f"{len(said):,} tables of labels are unchanged"


def mix_claims(
    keep: KeepList, store: Store, means: Means, problems: Problems
) -> tuple[list[Claim], Mapping[str, Any], Mapping[str, Any]]:
    """Count all rows anew; also the rule and the sizes that follow."""
    rule = keep.manifest["rule"]
    plan, within = Plan.from_json(rule), rule.get("within")
    pool = open_pool(
        store,
        [table["path"] for table in rule["labels"]],
        within and within["path"],
        means.compute.threads,
        How(on_progress=means.on_progress),
        plan.domain,
    )
    if pool.within is not None and checksum(pool.within.manifest) != within["manifest_sha256"]:
        problems.add(f"{pool.within.path} is no longer the keep-list that was drawn within")
    drawn = Drawn(plan, pool)
    claims = _Count(keep, pool, drawn).claims()
    return claims, describe(plan, pool), drawn.sizes


class _Count:
    def __init__(self, keep: KeepList, pool: Pool, drawn: Drawn) -> None:
        self._keep, self._pool, self._drawn = keep, pool, drawn
        self._inside = Claim("inside", "every kept row has a label and may be drawn")
        self._counts = Claim("counts", "each group has as many rows as the rule says")
        self._order = Claim("order", "no row that was left out comes before one that was kept")

    def claims(self) -> list[Claim]:
        before, _ = self._drawn.counted
        quotas = self._drawn.quotas
        after = np.zeros(len(before) + 1, np.int64)
        last: _Places = {}  # of each group the last row that was kept
        first: _Places = {}  # and the first that was not
        _, partly = quotas.whole_and_drawn(before)
        for shard in self._keep.shards:
            for start, codes in self._pool.blocks(shard.index):
                bits = self._keep.bits(shard.index, start, start + len(codes))
                self._inside.rows += len(bits)
                self._inside.problems.at(
                    start + np.flatnonzero(bits & (codes == 0)),
                    f"shard {shard.name}, row {{:,}} is kept".format,
                )
                after += np.bincount(codes[bits], minlength=len(after))
                at, places = ranked(
                    self._pool, shard.index, start, codes, partly, self._drawn.ranks
                )
                self._order.rows += len(at)
                for kept, ends, sign in ((bits[at], last, -1), (~bits[at], first, 1)):
                    some = places.only(kept)
                    _note_first(quotas.group[some.cell], some, ends, sign)
        group = np.where(quotas.group >= 0, quotas.group, len(quotas.rows))
        found = np.bincount(group, after[1:], len(quotas.rows) + 1).astype(np.int64)
        wanted = np.append(quotas.rows, 0)  # the last of those of which nothing is kept
        self._counts.rows = int(after.sum())
        for number in np.flatnonzero(found != wanted).tolist():
            names = self._names(group == number)
            self._counts.problems.add(
                f"{names}: {found[number]:,} rows are kept, not {wanted[number]:,}"
            )
        for number in last.keys() & first.keys():
            if not last[number] < first[number]:
                self._order.problems.add(f"{self._names(group == number)}: one does")
        return [self._inside, self._counts, self._order]

    def _names(self, cells: NDArray[np.bool_]) -> str:
        some = [self._pool.cells[place] for place in np.flatnonzero(cells)[:3]]
        return ", ".join("/".join(filter(None, cell)) for cell in some)


_Places = dict[int, tuple[int, int]]
"""By group, rank and place of a row."""


def _note_first(group: NDArray[np.int64], some: Ranked, ends: _Places, sign: int) -> None:
    """Keep in mind the row of each group that comes first, or last if `sign` is -1."""
    order = np.lexsort((some.place, some.rank, group))[::sign]
    groups, at = np.unique(group[order], return_index=True)
    for number, place in zip(groups.tolist(), order[at], strict=True):
        here = int(some.rank[place]), int(some.place[place])
        there = ends.get(number, here)
        ends[number] = min(here, there) if sign > 0 else max(here, there)
