"""Accuracies of subsets of a set, of checkpoints and of pools of checkpoints.

EVAL/subsets.parquet           a row for each subset, what is chosen from, what is averaged over
EVAL/subsets_paired.parquet    differences of the same between two of them

Checkpoints of a pool, such as those of several seeds, are averaged image by image. Images are what
intervals are over: an image that two seeds saw counts as one. Differences are those of pools and of
checkpoints that are in none: of a pool's own checkpoints there would be many, and nobody asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.clip.eval.subsets import NOWHERE
from clipgap.clip.eval.tables import column_of
from clipgap.intervals import LEVEL, Interval, wilson

SUBSETS, SUBSETS_PAIRED = "subsets.parquet", "subsets_paired.parquet"

ALL, OWN = "all", "subset"
"""The classes that are chosen from: all of the set, or those of the subset."""

IMAGES, CLASSES = "images", "classes"
"""What is averaged over."""

_PLACE = [
    ("set", pa.string()),
    ("subset", pa.string()),
    ("among", pa.string()),
    ("over", pa.string()),
]

SUBSETS_SCHEMA = pa.schema(
    [
        ("checkpoint", pa.string()),
        *_PLACE,
        ("images", pa.int64()),
        ("classes", pa.int64()),
        *((name, pa.float64()) for name in ("accuracy", "low", "high")),
    ]
)

SUBSETS_PAIRED_SCHEMA = pa.schema(
    [
        *_PLACE,
        ("first", pa.string()),
        ("second", pa.string()),
        *((name, pa.float64()) for name in ("difference", "low", "high")),
    ]
)


@dataclass(frozen=True)
class _Right:
    """Of some images how often a checkpoint, or each of a pool, is right: between 0 and 1."""

    share: NDArray[np.float64]
    label: NDArray[np.int64]

    def by_class(self) -> list[NDArray[np.float64]]:
        return [self.share[self.label == label] for label in np.unique(self.label)]


def subset_tables(
    entry: Mapping[str, Any],
    tables: Mapping[str, pa.Table],
    pools: Mapping[str, Sequence[str]],
    draws: int,
    seed: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of both tables, of a set as a manifest has it; none without subsets and pools."""
    subsets = entry.get("subsets", [])
    if not subsets and not pools:
        return [], []
    contenders = {**{name: [name] for name in tables}, **pools}
    pooled = {name for of in pools.values() for name in of}
    found: list[dict[str, Any]] = []
    paired: list[dict[str, Any]] = []
    for place, subset in _places(entry["name"], subsets):
        right = {
            name: _right([tables[each] for each in of], subset, place["among"])
            for name, of in contenders.items()
        }
        for over in (IMAGES, CLASSES):
            found += [
                {"checkpoint": name, **place, "over": over, **_accuracy(each, over)}
                for name, each in right.items()
            ]
            for first, second in combinations([name for name in right if name not in pooled], 2):
                shared = set(contenders[first]) & set(contenders[second])
                if not shared and len(right[first].share):
                    interval = _difference(right[first], right[second], over, draws, seed)
                    paired.append(
                        {**place, "over": over, "first": first, "second": second}
                        | {"difference": interval.value, "low": interval.low, "high": interval.high}
                    )
    return found, paired


Rows = Sequence[dict[str, Any]]


def as_files(subsets: Rows, paired: Rows) -> tuple[tuple[str, pa.Schema, Rows], ...]:
    """Both tables, each with the name and the schema of its file."""
    return (
        (SUBSETS, SUBSETS_SCHEMA, subsets),
        (SUBSETS_PAIRED, SUBSETS_PAIRED_SCHEMA, paired),
    )


def _places(
    name: str, subsets: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """The whole set, then each subset; among its own classes where there is a choice."""
    yield {"set": name, "subset": None, "among": ALL}, None
    for subset in subsets:
        yield {"set": name, "subset": subset["name"], "among": ALL}, subset["name"]
        if len(subset["classes"]) > 1:
            yield {"set": name, "subset": subset["name"], "among": OWN}, subset["name"]


def _right(tables: Sequence[pa.Table], subset: str | None, among: str) -> _Right:
    label = tables[0]["label"].to_numpy().astype(np.int64)
    inside = np.ones(len(label), np.bool_)
    if subset is not None:
        inside = tables[0][column_of(subset)].is_valid().to_numpy()
    shares = [
        table["correct"].to_numpy()
        if among == ALL
        else table[column_of(str(subset))].fill_null(NOWHERE).to_numpy() == label
        for table in tables
    ]
    return _Right(np.mean(shares, axis=0)[inside], label[inside])


def _accuracy(right: _Right, over: str) -> dict[str, Any]:
    groups = [right.share] if over == IMAGES else right.by_class()
    value = float(np.mean([group.mean() for group in groups])) if len(right.share) else 0.0
    interval = _interval(value, groups)
    return {
        "images": len(right.share),
        "classes": len(np.unique(right.label)),
        "accuracy": interval.value,
        "low": interval.low,
        "high": interval.high,
    }


def _interval(value: float, groups: Sequence[NDArray[np.float64]]) -> Interval:
    """Wilson's, for as many images as a plain share of this variance would be of.

    Exactly Wilson's for one checkpoint over images. The variance of each group is that with one
    image more that is right and one that is wrong, so that a class of two images is never certain.
    """
    n = sum(map(len, groups))
    if n and (len(groups) > 1 or not np.isin(groups[0], (0, 1)).all()):
        variance = sum(np.append(each, (0, 1)).var() / len(each) for each in groups)
        near = (value * n + 1) / (n + 2)
        n_alike = near * (1 - near) * len(groups) ** 2 / variance
        return wilson(value * n_alike, n_alike)
    return wilson(round(value * n), n)


def _difference(first: _Right, second: _Right, over: str, draws: int, seed: int) -> Interval:
    """Over the same images, with its percentile bootstrap; drawn within classes where it is
    averaged over classes.

    Images add one of a few numbers to it. So a draw is one multinomial of how often each is drawn.
    """
    apart = _Right(first.share - second.share, first.label)
    groups = [apart.share] if over == IMAGES else apart.by_class()
    random = np.random.default_rng(seed)
    total, drawn = 0.0, np.zeros(draws)
    for group in groups:
        values, counts = np.unique(group, return_counts=True)
        n = len(group)
        total += float(values @ counts) / n
        drawn += random.multinomial(n, counts / n, size=draws) @ values / n
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn / len(groups), [tail, 1 - tail])
    return Interval(total / len(groups), float(low), float(high))
