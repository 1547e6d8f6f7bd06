"""`mix`: from a recipe to a keep-list of exact composition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.files.remote import path_of
from clipgap.keep.writing import KeepWriter, Piece
from clipgap.kernels.options import Compute
from clipgap.mix.options import MixOptions
from clipgap.mix.ranks import Cuts, InFiles, Ranked, find_cuts, ranked
from clipgap.mix.recipe import Plan, read_recipe
from clipgap.mix.rules import Quotas, quotas
from clipgap.options import Only, takes_options
from clipgap.runs.how import How
from clipgap.runs.output import spare
from clipgap.select.cells import Cell, Counts, Pool, open_pool
from clipgap.select.hashes import Hashed
from clipgap.select.splitting import Split

_SHOWN = 60
"""Lines of classes in the table that is printed; all are in the manifest."""


@takes_options
def mix(
    recipe: str | Path,
    *,
    out: str | Path | None = None,
    options: MixOptions,
    compute: Annotated[Compute, Only("threads")],
    how: How,
) -> Split:
    """Draw the rows of a training mix from a store, as a recipe says.

    The keep-list goes to the folder `out`; without it the mix is only counted. What each domain and
    class has before and after is told, as a note of `on_progress`, before anything is written.
    """
    said = read_recipe(path_of(recipe), options)
    if out is not None:
        within = None if said.within is None else path_of(said.within)
        spare(
            Path(out), [path_of(recipe), Path(said.store), *map(path_of, said.labels), within], how
        )
    else:
        how.without_folder()
    plan, threads = said.plan, compute.threads
    pool = open_pool(said.store, said.labels, said.within, threads, how, plan.domain)
    rule = describe(plan, pool)
    if out is None:
        drawn = Drawn(plan, pool)
        return Split(rule, drawn.tell(how), None, mask=drawn.mask)

    def write(writer: KeepWriter) -> dict[str, Any]:
        drawn = Drawn(plan, pool)
        sizes = drawn.tell(how)
        writer.begin()
        pool.workers.each(
            "writing", lambda shard: writer.write(shard, drawn.pieces(shard)), works=True
        )
        return sizes

    return Split.written(KeepWriter(out, pool.store.identity(), rule, how=how), write)


def describe(plan: Plan, pool: Pool) -> dict[str, Any]:
    """The rule as a manifest has it: all that the mix follows from, besides the store."""
    return {
        "name": "mix",
        **plan.to_json(),
        "labels": pool.cite_tables(),
        **({} if pool.within is None else {"within": pool.within.cite()}),
    }


@dataclass(frozen=True)
class Drawn:
    """A plan brought to a pool: which rows it keeps."""

    plan: Plan
    pool: Pool

    @cached_property
    def counted(self) -> tuple[Counts, int]:
        return self.pool.counts()

    @cached_property
    def quotas(self) -> Quotas:
        return quotas(self.plan, self.pool.cells, self.counted[0])

    @cached_property
    def ranks(self) -> Hashed | InFiles:
        if self.plan.order == "hash":
            return Hashed(self.plan.seed)
        return InFiles(self.pool.store.rows)

    @cached_property
    def cuts(self) -> Cuts:
        wanted = self.quotas
        _, of = wanted.whole_and_drawn(self.counted[0])

        def rows(shard: int) -> Iterator[Ranked]:
            for start, codes in self.pool.blocks(shard):
                self.pool.workers.check()
                yield ranked(self.pool, shard, start, codes, of, self.ranks)[1]

        return find_cuts(wanted, self.counted[0], rows, self.pool.workers)

    @cached_property
    def sizes(self) -> dict[str, Any]:
        """What a manifest says of it: all rows, and each cell before and after."""
        before, outside = self.counted
        after = self.cuts.after
        kept, rows = int(after.sum()), self.pool.store.rows
        candidates = int(before.sum())
        return {
            "rows": rows,
            "candidates": candidates,
            "kept": kept,
            "removed": candidates - kept,
            "outside": outside,
            "cells": [
                {**_named(cell), "before": int(was), "after": int(now)}
                for cell, was, now in zip(self.pool.cells, before, after, strict=True)
            ],
        }

    def tell(self, how: How) -> dict[str, Any]:
        """Say what it comes to, before anything is written."""
        how.note("\n".join(table(self.plan.mix, self.sizes)))
        return self.sizes

    def mask(self, shard: int) -> NDArray[np.bool_]:
        masks = [mask for _, mask in self._masks(shard)]
        return np.concatenate([np.zeros(0, np.bool_), *masks])

    def pieces(self, shard: int) -> Iterator[Piece]:
        for start, mask in self._masks(shard):
            self.pool.workers.check()
            keys = None
            if self.pool.store.has_keys:
                keys = self.pool.store.keys(shard, start, start + len(mask))
                keys = keys.filter(pa.array(mask))  # type: ignore[union-attr]
            yield mask, keys

    def _masks(self, shard: int) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        cuts = self.cuts
        whole = np.append(False, cuts.whole)
        for start, codes in self.pool.blocks(shard):
            mask: NDArray[np.bool_] = whole[codes]
            at, some = ranked(self.pool, shard, start, codes, cuts.drawn, self.ranks)
            mask[at] = cuts.keeps(some)
            yield start, mask


def table(name: str, sizes: Mapping[str, Any]) -> Iterator[str]:
    """Before and after, by domain, and by class where there are classes, as lines of text."""
    cells = sizes["cells"]
    lines = [("domain", "class", "before", "after")]
    for domain in sorted({cell["domain"] for cell in cells}):
        mine = [cell for cell in cells if cell["domain"] == domain]
        lines.append((domain, "", *_summed(mine)))
        classes = sorted({cell["class"] for cell in mine} - {""})
        lines += [(domain, c, *_summed([m for m in mine if m["class"] == c])) for c in classes]
    lines.append(("all", "", *_summed(cells)))
    more = len(lines) - _SHOWN
    if more > 0:
        # Domains always; classes as far as there is room.
        lines = [line for place, line in enumerate(lines) if not line[1] or place < _SHOWN]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    yield f"Mix {name!r}, rows before and after:"
    for domain, class_, before, after in lines:
        yield (
            f"  {domain:<{widths[0]}}  {class_:<{widths[1]}}  {before:>{widths[2]}}  "
            f"{after:>{widths[3]}}"
        )
    if more > 0:
        yield "  more classes are in the manifest, under sizes"


def _summed(cells: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    before, after = (sum(cell[name] for cell in cells) for name in ("before", "after"))
    return f"{before:,}", f"{after:,}"


def _named(cell: Cell) -> dict[str, str]:
    return {"source": cell.source, "domain": cell.domain, "class": cell.class_}
