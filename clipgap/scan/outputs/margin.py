"""The highest excess over a threshold, the point that has it, and whether that prunes the row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.kernels.interface import BlockResult
from clipgap.scan.outputs.base import Column, SetOutput, Values

MARGIN = Column(
    "margin",
    pa.float32(),
    "highest excess of a score over its test point's threshold",
    histogram=True,
)
WITNESS = Column("witness", pa.int32(), "test row that has it", is_point=True)
PRUNED = Column("pruned", pa.bool_(), "whether the exact margin is above 0")


class Margin(SetOutput):
    """`margin`, `witness` and `pruned`."""

    columns = (MARGIN, WITNESS, PRUNED)
    needs_gap = True

    def fill(self, result: BlockResult, place: int) -> Values:
        margin = result.margin[:, place]
        return margin, result.witness[:, place], margin > 0

    def define(self, scores: NDArray[np.float64], tau: NDArray[np.float64] | None) -> Values:
        assert tau is not None
        margins = scores - tau
        margin = margins.max(axis=1)
        return margin, margins.argmax(axis=1), margin > 0

    def contradictions(self, values: Values) -> Iterator[tuple[NDArray[np.bool_], str]]:
        margin, _, pruned = values
        yield pruned != (margin > 0), "{pruned} contradicts {margin}"
