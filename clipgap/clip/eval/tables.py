"""Tables of an evaluation: each sample's result, accuracies with intervals, paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipgap.clip.eval.subsets import NOWHERE
from clipgap.errors import InputError
from clipgap.intervals import LEVEL, Interval, wilson

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


def column_of(subset: str) -> str:
    """The column of samples that has the predictions among the classes of a subset."""
    return f"within_{subset}"


def samples_schema(subsets: Sequence[str]) -> pa.Schema:
    """The table of samples, with the predictions among the classes of each subset; null outside."""
    return pa.schema([*SAMPLES_SCHEMA, *((column_of(subset), pa.int32()) for subset in subsets)])


SUMMARY_SCHEMA = pa.schema(
    [
        ("checkpoint", pa.string()),
        ("set", pa.string()),
        ("group", pa.string()),
        ("metric", pa.string()),
        ("samples", pa.int64()),
        ("correct", pa.int64()),
        ("accuracy", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)

PAIRED_SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("group", pa.string()),
        ("first", pa.string()),
        ("second", pa.string()),
        ("difference", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("draws", pa.int64()),
        ("seed", pa.int64()),
    ]
)

METRICS = {"top1": "correct", "top5": "correct5"}


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
    within: Mapping[str, NDArray[np.int32]],
) -> pa.Table:
    """Rows of the table of samples, numbered from `first` on.

    `within` are the predictions among the classes of each subset, NOWHERE outside of it.
    """
    columns = [
        pa.array(np.arange(first, first + len(keys))),
        pa.array(keys, pa.string()),
        pa.array(groups, pa.string()),
        pa.array(labels.astype(np.int32)),
        pa.array(scored.prediction),
        pa.array(scored.correct),
        pa.array(scored.correct5),
        pa.array(scored.margin),
        *(pa.array(each, mask=each == NOWHERE) for each in within.values()),
    ]
    return pa.Table.from_arrays(columns, schema=samples_schema(list(within)))


def summarise(
    checkpoint: str, name: str, classes: int, table: pa.Table
) -> Iterator[dict[str, Any]]:
    """Rows of the summary: of all samples (group null), then of each group.

    Where there are no more than five classes the right one is always among five, so top-5 is left
    out.
    """
    for group, mask in _groups(table):
        for metric, column in METRICS.items():
            if metric == "top5" and classes <= TOP:
                continue
            right = _flags(table, column)[mask]
            interval = wilson(int(right.sum()), len(right))
            yield {
                "checkpoint": checkpoint,
                "set": name,
                "group": group,
                "metric": metric,
                "samples": len(right),
                "correct": int(right.sum()),
                "accuracy": interval.value,
                "low": interval.low,
                "high": interval.high,
            }


def compare(
    name: str, tables: Mapping[str, pa.Table], draws: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Rows of the paired table: top-1 of each checkpoint minus that of each later one."""
    for first, second in combinations(tables, 2):
        a, b = tables[first], tables[second]
        if not a["key"].equals(b["key"]) or not a["label"].equals(b["label"]):
            raise InputError(
                f"{name}: {first} and {second} were evaluated on different samples, so the set "
                "was changed between the two. Evaluate again with --overwrite."
            )
        right, other = _flags(a, "correct"), _flags(b, "correct")
        for group, mask in _groups(a):
            interval = paired_bootstrap(right[mask], other[mask], draws, seed)
            yield {
                "set": name,
                "group": group,
                "first": first,
                "second": second,
                "difference": interval.value,
                "low": interval.low,
                "high": interval.high,
                "draws": draws,
                "seed": seed,
            }


def paired_bootstrap(
    first: NDArray[np.bool_], second: NDArray[np.bool_], draws: int, seed: int
) -> Interval:
    """The difference of two accuracies on the same samples, with its percentile bootstrap.

    A sample adds 1, 0 or -1 to the difference, and drawing samples again draws from these three
    with the shares they have. So each draw is one multinomial of three counts, whatever the number
    of samples.
    """
    if first.shape != second.shape or not len(first):
        raise ValueError("a paired difference needs the same samples of both")
    n = len(first)
    better = int(np.count_nonzero(first & ~second))
    worse = int(np.count_nonzero(second & ~first))
    shares = np.array([better, worse, n - better - worse]) / n
    counts = np.random.default_rng(seed).multinomial(n, shares, size=draws)
    differences = (counts[:, 0] - counts[:, 1]) / n
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return Interval((better - worse) / n, float(low), float(high))


def as_table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)


def _groups(table: pa.Table) -> Iterator[tuple[str | None, NDArray[np.bool_]]]:
    """All samples, and each group of them by name."""
    yield None, np.ones(table.num_rows, np.bool_)
    column = table["group"]
    for group in sorted(column.drop_null().unique().to_pylist()):
        yield group, pc.fill_null(pc.equal(column, group), False).to_numpy()


def _flags(table: pa.Table, column: str) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = table[column].to_numpy()
    return flags
