"""Union, intersection and difference of keep-lists of one store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import UsageError
from clipgap.keep.lists import KeepList, open_keep
from clipgap.keep.writing import KeepWriter, Piece
from clipgap.kernels.options import Compute
from clipgap.options import Only, takes_options
from clipgap.runs.how import How
from clipgap.runs.output import spare
from clipgap.select.columns import require_same_store
from clipgap.select.options import OPERATIONS, Operation
from clipgap.select.splitting import Split
from clipgap.select.work import Workers

_ROWS = 1 << 16

Bits = NDArray[np.bool_]
_OF: dict[Operation, Callable[[Bits, Bits], Bits]] = {
    "union": lambda one, other: one | other,
    "intersection": lambda one, other: one & other,
    "difference": lambda kept, dropped: kept & ~dropped,
}


@takes_options
def combine(
    operation: Operation,
    keeps: Sequence[str | Path | KeepList],
    *,
    out: str | Path | None = None,
    compute: Annotated[Compute, Only("threads")],
    how: How,
) -> Split:
    """The rows in any list, in all lists, or in the first list and in no other.

    The keep-list goes to the folder `out`; without it the rows are only counted.
    """
    if operation not in OPERATIONS:
        raise UsageError(f"{operation!r} is no operation; choose {', '.join(OPERATIONS)}")
    if len(keeps) < 2:
        raise UsageError(f"{operation} needs at least two keep-lists, {len(keeps)} given")
    opened = [open_keep(keep) for keep in keeps]
    first = opened[0]
    for keep in opened[1:]:
        require_same_store(first.manifest["store"], str(first.path), keep)
    rule = {"name": operation, "of": [keep.cite() for keep in opened]}
    workers = Workers([shard.rows for shard in first.shards], compute.threads, how)

    def mask(shard: int) -> Bits:
        return reduce(_OF[operation], (keep.bits(shard) for keep in opened))

    if out is None:
        how.without_folder()
        kept = sum(workers.each("counting", lambda shard: int(np.count_nonzero(mask(shard)))))
        return Split(rule, _sizes(first.rows, kept), None, mask=mask)
    spare(Path(out), [keep.path for keep in opened], how)

    def write(writer: KeepWriter) -> dict[str, int]:
        writer.begin()
        workers.each(
            "writing",
            lambda shard: writer.write(shard, _pieces(operation, opened, shard, workers)),
            works=True,
        )
        return _sizes(first.rows, writer.kept)

    return Split.written(KeepWriter(out, first.manifest["store"], rule, how=how), write)


def _sizes(rows: int, kept: int) -> dict[str, int]:
    return {"rows": rows, "candidates": rows, "kept": kept, "removed": rows - kept}


def _pieces(
    operation: Operation, keeps: Sequence[KeepList], shard: int, workers: Workers
) -> Iterator[Piece]:
    rows = keeps[0].shards[shard].rows
    readers = [_Keys(keep, shard) for keep in keeps]
    for start in range(0, rows, _ROWS):
        workers.check()
        stop = min(start + _ROWS, rows)
        bits = [keep.bits(shard, start, stop) for keep in keeps]
        mask = reduce(_OF[operation], bits)
        keys = [
            reader.take(int(np.count_nonzero(mine)))
            for reader, mine in zip(readers, bits, strict=True)
        ]
        yield mask, _keys_of(mask, bits, keys)


def _keys_of(mask: Bits, bits: Sequence[Bits], keys: Sequence[pa.Array]) -> pa.Array:
    """The keys of the rows in `mask`, each from the first list that has the row."""
    place, before = np.full(len(mask), -1, np.int64), 0
    for mine in bits:
        fresh = place[mine] < 0
        numbers = np.arange(before, before + len(fresh))
        place[np.flatnonzero(mine)[fresh]] = numbers[fresh]
        before += len(fresh)
    return pa.concat_arrays(list(keys)).take(pa.array(place[mask]))


class _Keys:
    """The keys of a shard's kept rows, taken in their order."""

    def __init__(self, keep: KeepList, shard: int) -> None:
        self._groups = iter(keep.row_groups(shard))
        self._held = pa.array([], pa.string())

    def take(self, n: int) -> pa.Array:
        parts = []
        while n:
            if not len(self._held):
                self._held = next(self._groups)["key"].combine_chunks()
            parts.append(self._held.slice(0, n))
            self._held, n = self._held.slice(n), n - len(parts[-1])
        return pa.concat_arrays([pa.array([], pa.string()), *parts])
