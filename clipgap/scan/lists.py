"""Columns of lists, chunk by chunk: all keys together may be more than an Arrow array holds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def lengths_of(column: Any) -> NDArray[np.int64]:
    """The length of each list; 0 where there is none."""
    lengths = [lists.value_lengths().fill_null(0).to_numpy() for lists in column.chunks]
    return np.concatenate([np.zeros(0, np.int64), *lengths])


def entries_of(column: Any) -> list[Any]:
    """All entries, list after list, as pyarrow arrays."""
    return [lists.flatten() for lists in column.chunks]


def numbers_of(column: Any) -> NDArray[Any]:
    """All entries of lists of numbers."""
    none = np.zeros(0, column.type.value_type.to_pandas_dtype())
    entries = [piece.to_numpy(zero_copy_only=False) for piece in entries_of(column)]
    return np.concatenate([none, *entries])


def take_strings(pieces: Sequence[Any], places: NDArray[np.int64]) -> Any:
    """Some of the strings in arrays that follow one another; those taken must fit into one."""
    if len(pieces) == 1:
        return pieces[0].take(pa.array(places))
    starts = np.cumsum([0, *(len(piece) for piece in pieces)])[:-1]
    order = np.argsort(places, kind="stable")
    ascending = places[order]
    piece_of = np.searchsorted(starts, ascending, side="right") - 1
    taken = [
        pieces[piece_of[start]].take(pa.array(ascending[start:stop] - starts[piece_of[start]]))
        for start, stop in runs(piece_of)
    ]
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_arrays([pa.array([], pa.string()), *taken]).take(pa.array(back))


def runs(values: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Start and stop of each run of equal values."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(start, stop) for start, stop in pairwise(edges) if stop > start]
