"""What follows from all domains together: how alike they are by layer, and the map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.clip.analyze.plan import shared_classes
from clipgap.clip.analyze.similarity import (
    KERNELS,
    SHARE,
    Matrix,
    chance_jaccard,
    cka,
    draws,
    interval,
    jaccard,
    mean_interval,
    top,
)
from clipgap.select.hashes import hash_strings

MOST_POINTS = 2_000
"""Images of a domain on the map, chosen by their keys."""

_PAIR = [
    ("checkpoint", pa.string()),
    ("block", pa.string()),
    ("layer", pa.int32()),
    ("first", pa.string()),
    ("second", pa.string()),
    ("classes", pa.int32()),
]
_VALUE = [("value", pa.float64()), ("low", pa.float64()), ("high", pa.float64())]

CKA_SCHEMA = pa.schema([*_PAIR, ("kernel", pa.string()), *_VALUE])
NEURONS_SCHEMA = pa.schema(
    [*_PAIR, ("neurons", pa.int32()), ("top", pa.int32()), *_VALUE, ("chance", pa.float64())]
)
COMPLETENESS_SCHEMA = pa.schema(
    [
        ("checkpoint", pa.string()),
        ("domain", pa.string()),
        ("block", pa.string()),
        ("layer", pa.int32()),
        ("samples", pa.int64()),
        ("change", pa.float64()),
        ("error", pa.float64()),
    ]
)
MAP_SCHEMA = pa.schema(
    [
        ("checkpoint", pa.string()),
        ("domain", pa.string()),
        ("key", pa.string()),
        ("class", pa.string()),
        ("x", pa.float64()),
        ("y", pa.float64()),
    ]
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """What a block gave and did in a domain; a row a class."""

    classes: Sequence[str]
    means: Matrix
    judged: Sequence[str]  # classes by which effects were found
    effects: Matrix
    samples: int
    change: float
    error: float

    def of(self, classes: Sequence[str]) -> Matrix:
        """Means of these classes, in this order."""
        return self.means[[self.classes.index(name) for name in classes]]

    def effects_of(self, classes: Sequence[str]) -> Matrix:
        return self.effects[[self.judged.index(name) for name in classes]]


Domains = Mapping[str, Mapping[str, Seen]]
"""By domain, then by block in the order in which they are computed."""


def read_blocks(table: Any) -> dict[str, Seen]:
    """The table of a unit, by block."""
    names = np.array(table["block"].to_pylist())
    classes = table["class"].to_pylist()
    samples = table["samples"].to_numpy()
    found = {}
    for name in dict.fromkeys(names.tolist()):
        rows = np.flatnonzero(names == name)
        judged = rows[samples[rows] > 0]
        weights = samples[judged]
        found[name] = Seen(
            [classes[row] for row in rows],
            _rows(table, "mean", rows),
            [classes[row] for row in judged],
            _rows(table, "effect", judged),
            int(weights.sum()),
            *(_mean(table, column, judged, weights) for column in ("change", "error")),
        )
    return found


def _rows(table: Any, column: str, rows: NDArray[np.int64]) -> Matrix:
    """Lists of one length, as a matrix."""
    lists = table[column].take(pa.array(rows)).combine_chunks()
    values: Matrix = lists.flatten().to_numpy()
    return values.reshape(len(rows), -1) if len(rows) else np.zeros((0, 0))


def _mean(table: Any, column: str, rows: NDArray[np.int64], weights: NDArray[np.int64]) -> float:
    if not len(rows):
        return 0.0
    return float(table[column].take(pa.array(rows)).to_numpy() @ weights / weights.sum())


def classes_of(domains: Domains) -> dict[str, Sequence[str]]:
    """The classes that each domain has images of."""
    return {name: next(iter(blocks.values())).classes for name, blocks in domains.items()}


def cka_rows(checkpoint: str, domains: Domains, count: int, seed: int) -> Iterator[Row]:
    """CKA of every pair of domains, by block and kernel; each pair by the classes it shares."""
    for first, second in combinations(domains, 2):
        for layer, (block, one) in enumerate(domains[first].items()):
            other = domains[second][block]
            classes = shared_classes(one.classes, other.classes)
            weights = draws(len(classes), count, seed)
            for name, kernel in KERNELS.items():
                first_kernel, second_kernel = (kernel(s.of(classes)) for s in (one, other))
                yield {
                    **_pair(checkpoint, block, layer, first, second, len(classes)),
                    "kernel": name,
                    **interval(cka(first_kernel, second_kernel, weights)),
                }


def neuron_rows(checkpoint: str, domains: Domains, count: int, seed: int) -> Iterator[Row]:
    """How many of the top neurons of a block two domains share, in the mean over classes."""
    for first, second in combinations(domains, 2):
        for layer, (block, one) in enumerate(domains[first].items()):
            other = domains[second][block]
            classes = shared_classes(one.judged, other.judged)
            if not classes:
                continue
            tops = [top(each.effects_of(classes), SHARE) for each in (one, other)]
            size, strongest = tops[0].shape[1], int(tops[0][0].sum())
            yield {
                **_pair(checkpoint, block, layer, first, second, len(classes)),
                "neurons": size,
                "top": strongest,
                **mean_interval(jaccard(*tops), draws(len(classes), count, seed)),
                "chance": chance_jaccard(size, strongest),
            }


def completeness_rows(checkpoint: str, domains: Domains) -> Iterator[Row]:
    """By how much effects do not add up to what the score changes, in the mean over samples."""
    for domain, blocks in domains.items():
        for layer, (block, seen) in enumerate(blocks.items()):
            if seen.samples:
                yield {
                    "checkpoint": checkpoint,
                    "domain": domain,
                    "block": block,
                    "layer": layer,
                    **{name: getattr(seen, name) for name in ("samples", "change", "error")},
                }


def _pair(checkpoint: str, block: str, layer: int, first: str, second: str, classes: int) -> Row:
    return {
        "checkpoint": checkpoint,
        "block": block,
        "layer": layer,
        "first": first,
        "second": second,
        "classes": classes,
    }


# --- the map


def map_table(
    checkpoint: str, embeddings: Mapping[str, Any], kind: str, seed: int
) -> tuple[Any, list[float]]:
    """The points of all domains on one map; the shares of variance that its two axes have."""
    some = {domain: _some(table) for domain, table in embeddings.items()}
    rows = [_vectors(table) for table in some.values()]
    places, shares = _places(np.concatenate(rows).astype(np.float64), kind, seed)
    points = sum(map(len, rows))
    columns = [
        pa.array([checkpoint] * points, pa.string()),
        pa.array([name for name, table in some.items() for _ in range(table.num_rows)]),
        *(pa.concat_tables(some.values())[name].combine_chunks() for name in ("key", "class")),
        *(pa.array(places[:, axis]) for axis in (0, 1)),
    ]
    return pa.Table.from_arrays(columns, schema=MAP_SCHEMA), shares


def _some(table: Any) -> Any:
    """The first of a domain by a hash of their keys, in their order."""
    if table.num_rows <= MOST_POINTS:
        return table
    ranks = hash_strings(table["key"].combine_chunks(), np.uint64(0))
    return table.take(pa.array(np.sort(np.argsort(ranks, kind="stable")[:MOST_POINTS])))


def _vectors(table: Any) -> NDArray[np.float32]:
    """The embeddings of a table, a row an image."""
    values: NDArray[np.float32] = table["embedding"].combine_chunks().flatten().to_numpy()
    return values.reshape(table.num_rows, -1)


def _places(rows: Matrix, kind: str, seed: int) -> tuple[Matrix, list[float]]:
    if kind == "umap":
        import umap

        found: Matrix = umap.UMAP(densmap=True, random_state=seed).fit_transform(rows)
        return found.astype(np.float64), []
    return principal(rows)


def principal(rows: Matrix) -> tuple[Matrix, list[float]]:
    """The two directions in which rows vary most, and the share of the variance in each.

    Of both signs of a direction it is the one whose largest entry is positive.
    """
    centred = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, -2:][:, ::-1]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, [0, 1]])
    shares = values[-2:][::-1] / max(float(values.sum()), np.finfo(float).tiny)
    return centred @ axes, shares.tolist()
