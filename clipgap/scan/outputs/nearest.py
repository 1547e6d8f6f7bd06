"""The highest score against a test set, and the point that has it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.kernels.interface import BlockResult
from clipgap.scan.outputs.base import Column, SetOutput, Values

SIM = Column(
    "sim",
    pa.float32(),
    "highest score against test set NAME",
    histogram=True,
    above="above",
)
NN = Column("nn", pa.int32(), "test row that has it", is_point=True)


class Nearest(SetOutput):
    """`sim` and `nn`."""

    columns = (SIM, NN)

    def fill(self, result: BlockResult, place: int) -> Values:
        return result.sim[:, place], result.nn[:, place]

    def define(self, scores: NDArray[np.float64], tau: NDArray[np.float64] | None) -> Values:
        return scores.max(axis=1), scores.argmax(axis=1)  # the first of equals: the lowest row
