"""What an output is.

To add one, write a file like `nearest` (from the scores of a test set) or a `RowOutput` (from the
row alone), and add a line to the list in `clipgap.scan.tables`. Its columns then stand in the
training table, are counted, and are proved by `verify`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipgap.kernels.interface import BlockResult

Values: TypeAlias = "tuple[NDArray[Any], ...]"
"""One array a column, of the rows that have results."""


@dataclass(frozen=True)
class Column:
    """A column and how it is counted; flags, of type bool, are always counted in the manifest."""

    stem: str
    type: Any  # of pyarrow
    meaning: str  # as docs/scan-tables.md has it
    is_point: bool = False  # a point of the test set, which is filled as a column of the kernel
    histogram: bool = False  # whether hist.parquet has its histogram, called like the stem
    above: str = ""  # what hist.parquet calls the rows above each threshold; "": not counted
    words: tuple[str, ...] = ()  # all that a column of text can say; filled with places in these

    def of(self, test: str | None) -> str:
        """The name in the table, of a test set or of the row alone."""
        return self.stem if test is None else f"{self.stem}_{test}"

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(np.int8 if self.words else self.type.to_pandas_dtype())
        return dtype

    def as_arrow(self, values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> Any:
        """Values as the table holds them, null where they are missing."""
        array = pa.array(values, mask=missing)
        return pa.array(self.words).take(array) if self.words else array

    def from_arrow(self, column: Any) -> NDArray[Any]:
        """The values of a column without nulls; -1 for what none of its words is."""
        if self.words:
            column = pc.index_in(column, pa.array(self.words)).cast(pa.int8()).fill_null(-1)
        values: NDArray[Any] = column.to_numpy(False)
        return values

    @property
    def is_flag(self) -> bool:
        return self.dtype == np.bool_


class Output(ABC):
    """Columns that belong together."""

    columns: ClassVar[tuple[Column, ...]]

    def contradictions(self, values: Values) -> Iterator[tuple[NDArray[np.bool_], str]]:
        """Which rows of a table cannot be right by themselves, and what is wrong with them."""
        return iter(())


class SetOutput(Output):
    """What a training row is to a test set: columns for each set."""

    needs_gap: ClassVar[bool] = False  # only for sets with thresholds

    @abstractmethod
    def fill(self, result: BlockResult, place: int) -> Values:
        """From what a kernel found; `place` is the set's among those of the kernel."""

    @abstractmethod
    def define(self, scores: NDArray[np.float64], tau: NDArray[np.float64] | None) -> Values:
        """From all scores (rows, points), exact, and the thresholds (points,)."""


class RowOutput(Output):
    """What a training row is by itself: columns once, whatever the test sets."""

    cells: ClassVar[int] = 0  # into how many cells rows are sorted, to be counted

    def cell(self, values: Values) -> NDArray[np.int64]:
        """The cell of each row."""
        raise NotImplementedError

    def counted(self, counts: NDArray[np.int64]) -> dict[str, Any]:
        """What a manifest says of the rows in each cell, beside its other counts."""
        return {}

    @abstractmethod
    def fill(self, rows: NDArray[np.float16]) -> Values:
        """From the admitted rows of a block: the same whatever the block."""

    @abstractmethod
    def define(self, rows: NDArray[np.float16]) -> Values:
        """The same in the plainest way."""
