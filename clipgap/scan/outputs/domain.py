"""What heads say of a row: natural, a rendition, or ambiguous, and by which scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.heads.heads import CELLS, HEADS, LABELS, Heads, cells, counts_of
from clipgap.scan.outputs.base import Column, RowOutput, Values


@dataclass(frozen=True)
class Domain(RowOutput):
    """`natural` and `rendition`, `domain` and `domain_strict`: as `clipgap domains label` has them.

    Without heads it only tells which columns there are, and counts what they hold.
    """

    heads: Heads | None = None
    threads: int = 1

    columns = (
        Column("natural", pa.float32(), "score of the head that accepts natural images"),
        Column("rendition", pa.float32(), "score of the head that accepts renditions"),
        Column("domain", pa.string(), "what both say, by their default thresholds", words=LABELS),
        Column("domain_strict", pa.string(), "the same by the strict ones", words=LABELS),
    )
    cells = CELLS

    def fill(self, rows: NDArray[np.float16]) -> Values:
        assert self.heads is not None
        return self._decided(self.heads, self.heads.scores(rows, self.threads))

    def define(self, rows: NDArray[np.float16]) -> Values:
        assert self.heads is not None
        heads = [self.heads.heads[name] for name in HEADS]
        scores = [
            [math.fsum([*(row * head.weight).tolist(), head.bias]) for head in heads]
            for row in rows.astype(np.float64)
        ]
        return self._decided(self.heads, np.array(scores, np.float64).reshape(-1, len(HEADS)))

    def _decided(self, heads: Heads, scores: NDArray[np.float64]) -> Values:
        return (*scores.T, *heads.domains(scores))

    def cell(self, values: Values) -> NDArray[np.int64]:
        _, _, default, strict = values
        return cells(default.astype(np.int64), strict.astype(np.int64))

    def counted(self, counts: NDArray[np.int64]) -> dict[str, Any]:
        return counts_of(counts)
