"""Claim (b) of a pruned split: each removed row has a witness, looked up and scored in NumPy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from clipgap.keep.lists import KeepList
from clipgap.scan.inputs import LoadedTest
from clipgap.select.columns import ScanTables
from clipgap.verify.claims import Claim, over, place
from clipgap.verify.scan_inputs import Evidence

_ROWS = 2_048
"""Rows multiplied at once."""


def check_witnesses(
    keep: KeepList, tables: ScanTables, evidence: Evidence, tests: Mapping[str, LoadedTest]
) -> Claim:
    """For each removed row the scan names a test point; its exact margin must be high enough."""
    rule = keep.manifest["rule"]
    sets = tables.set_columns(rule["sets"], with_gap=True)
    columns = [name for names in sets for name in (names.margin, names.witness)]
    claim = Claim("b", "every removed row has a witness: the test point that the scan names")
    for shard in range(len(keep.shards)):
        for block in tables.blocks(shard, columns):
            bits = keep.bits(shard, block.start, block.start + block.rows)
            rows = np.flatnonzero(~bits if block.ok is None else ~bits & block.ok)
            claim.rows += len(rows)
            # The set whose stored margin is highest: if any prunes the row, this one does.
            margins = [block.values[names.margin][rows] for names in sets]
            best = np.argmax(margins, axis=0) if len(rows) else rows
            for g, names in enumerate(sets):
                mine = rows[best == g]
                witness = block.values[names.witness][mine]
                margin = _margins(evidence, shard, block.start + mine, tests[names.name], witness)
                claim.problems.at(
                    block.start + mine[~over(margin, float(rule["offset"]))],
                    lambda row, shard=shard, name=names.name: (  # type: ignore[misc]
                        f"{place(keep, shard, row)}: its witness in {name} does not prune it"
                    ),
                )
    return claim


def _margins(
    evidence: Evidence,
    shard: int,
    rows: NDArray[np.int64],
    test: LoadedTest,
    witness: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Score minus threshold of each row and its test point; -inf where that is none."""
    assert test.gap is not None
    column = np.minimum(np.searchsorted(test.row_of, witness), len(test.row_of) - 1)
    margins = np.full(len(rows), -np.inf)
    for part, found in evidence.rows_at(shard, rows):
        for start in range(0, len(found), _ROWS):
            some = column[part][start : start + _ROWS]
            left = found[start : start + _ROWS].astype(np.float64)
            # Each product and each sum is exact, whatever the order; see docs/exactness.md.
            scores = (left * test.rows[some].astype(np.float64)).sum(axis=1)
            first = part.start + start
            margins[first : first + len(some)] = scores - test.gap[some]
    margins[test.row_of[column] != witness] = -np.inf
    return margins
