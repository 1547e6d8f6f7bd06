"""Circuits: which top neurons of a block lead to which of the next, class by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.clip.analyze.plan import shared_classes
from clipgap.clip.analyze.probing import Block, Path, Probe
from clipgap.clip.analyze.similarity import (
    Graph,
    Matrix,
    draws,
    mean_interval,
    strongest,
    weisfeiler_lehman,
)

if TYPE_CHECKING:
    from torch import Tensor

EDGES_SCHEMA = pa.schema(
    [
        ("block", pa.string()),  # that the edge leads to, from the one before
        ("class", pa.string()),
        ("source", pa.int32()),
        ("target", pa.int32()),
        ("effect", pa.float64()),
    ]
)
CIRCUITS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("checkpoint", "first", "second")),
        ("classes", pa.int32()),
        ("measure", pa.string()),
        *((name, pa.float64()) for name in ("value", "low", "high")),
    ]
)

ROUNDS = 3
"""Of Weisfeiler and Lehman's names, each of them told."""

_EDGES = 3
"""That are kept of those that lead to a neuron."""


@dataclass
class Tracing:
    """Sums of effects over the images of each class, for each pair of consecutive blocks."""

    probe: Probe
    blocks: Sequence[Block]
    tops: Sequence[NDArray[np.bool_]]  # of each block, classes × neurons
    steps: int
    _sums: dict[int, list[Matrix]] = field(default_factory=dict)

    def add(self, label: int, images: Tensor) -> None:
        """Trace images of one class."""
        _, outputs = self.probe.read(images, self.blocks)
        paths = [self._path(label, layer) for layer in range(len(self.blocks) - 1)]
        found = [
            self.probe.trace(images, pair, output, path, self.steps).numpy()
            for pair, output, path in zip(pairwise(self.blocks), outputs, paths, strict=False)
        ]
        before = self._sums.get(label)
        self._sums[label] = (
            found if before is None else [a + b for a, b in zip(before, found, strict=True)]
        )

    def _path(self, label: int, layer: int) -> Path:
        """From the top neurons of a block to those of the next."""
        sources, targets = (np.flatnonzero(top[label]) for top in self.tops[layer : layer + 2])
        return Path(sources.tolist(), targets.tolist())

    def rows(self, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The strongest edges to each top neuron; sums over images rank them as means do."""
        for label in sorted(self._sums):
            for layer, effects in enumerate(self._sums[label]):
                path = self._path(label, layer)
                for row, places in enumerate(strongest(effects, _EDGES).tolist()):
                    for place in places:
                        yield {
                            "block": self.blocks[layer + 1].name,
                            "class": keys[label],
                            "source": path.sources[place],
                            "target": path.targets[row],
                            "effect": float(effects[row, place]),
                        }


Circuits = Mapping[str, Graph]
"""By class: top neurons, as numbers of block and neuron, and the edges between them."""


def read_circuits(table: Any, blocks: Sequence[str]) -> dict[str, Graph]:
    """The table of a unit; every neuron of a circuit is at an end of an edge."""
    layers = {name: layer for layer, name in enumerate(blocks)}
    edges: dict[str, list[tuple[tuple[int, int], tuple[int, int]]]] = {}
    for row in table.to_pylist():
        layer = layers[row["block"]]
        edge = (layer - 1, row["source"]), (layer, row["target"])
        edges.setdefault(row["class"], []).append(edge)
    return {
        name: Graph(list(dict.fromkeys(node for edge in of_it for node in edge)), of_it)
        for name, of_it in edges.items()
    }


def circuit_rows(
    checkpoint: str, domains: Mapping[str, Circuits], count: int, seed: int
) -> Iterator[dict[str, Any]]:
    """How alike the circuits of two domains are, in the mean over classes."""
    for first, second in combinations(domains, 2):
        classes = shared_classes(list(domains[first]), list(domains[second]))
        if not classes:
            continue
        pairs = [(domains[first][name], domains[second][name]) for name in classes]
        weights = draws(len(classes), count, seed)
        found = np.array([[_shared(*pair), *weisfeiler_lehman(*pair, ROUNDS)] for pair in pairs])
        names = ["edges", *(f"wl-{turn}" for turn in range(1, ROUNDS + 1))]
        for name, values in zip(names, found.T, strict=True):
            yield {
                "checkpoint": checkpoint,
                "first": first,
                "second": second,
                "classes": len(classes),
                "measure": name,
                **mean_interval(values, weights),
            }


def _shared(first: Graph, second: Graph) -> float:
    """The edges that are in both, as a share of those that are in either."""
    one, other = set(first.edges), set(second.edges)
    return len(one & other) / len(one | other)
