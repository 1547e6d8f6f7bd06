"""From logits to what the table of samples says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

TOP = 5

SAMPLES_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("group", pa.string()),
        ("label", pa.int32()),
        ("prediction", pa.int32()),
        ("correct", pa.bool_()),
        ("correct5", pa.bool_()),
        ("margin", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Scored:
    """What a checkpoint made of some samples."""

    prediction: NDArray[np.int32]
    correct: NDArray[np.bool_]
    correct5: NDArray[np.bool_]
    margin: NDArray[np.float64]


def score(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Scored:
    """Compare logits (samples × classes) with the labels; of equal logits the first class wins."""
    rows = np.arange(len(labels))
    own = logits[rows, labels]
    classes = np.arange(logits.shape[1])
    ahead = (logits > own[:, None]) | (
        (logits == own[:, None]) & (classes[None, :] < labels[:, None])
    )
    rank = ahead.sum(axis=1)
    others = logits.astype(np.float64)
    others[rows, labels] = -np.inf
    return Scored(
        prediction=logits.argmax(axis=1).astype(np.int32),
        correct=rank == 0,
        correct5=rank < TOP,
        margin=own.astype(np.float64) - others.max(axis=1),
    )


def project(
    logits: NDArray[np.float32], columns: NDArray[np.int64], starts: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Logits of classes that each stand for one or several columns: the highest of them.

    Class i stands for the columns from `columns[starts[i]]` up to the next start.
    """
    return np.maximum.reduceat(logits[:, columns], starts, axis=1)


def samples_table(
    first: int,
    keys: Sequence[str],
    groups: Sequence[str | None],
    labels: NDArray[np.int64],
    scored: Scored,
) -> pa.Table:
    """Rows of the table of samples, numbered from `first` on."""
    columns = [
        pa.array(np.arange(first, first + len(keys))),
        pa.array(keys, pa.string()),
        pa.array(groups, pa.string()),
        pa.array(labels.astype(np.int32)),
        pa.array(scored.prediction),
        pa.array(scored.correct),
        pa.array(scored.correct5),
        pa.array(scored.margin),
    ]
    return pa.Table.from_arrays(columns, schema=SAMPLES_SCHEMA)
