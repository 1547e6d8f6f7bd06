"""The neighbours that a gallery shows: the first few of each list, duplicates folded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.keep.lists import KeepList
from clipgap.report.sources import TrainingSet

SHOWN = 6


@dataclass(frozen=True)
class Selection:
    """Which listed neighbours are shown, and how many listed ones each of them stands for."""

    shown: NDArray[np.bool_]  # (points, k)
    copies: NDArray[np.int64]  # (points, k)


@dataclass(frozen=True)
class Neighbours:
    """The lists of a test table as matrices: a line a test point, padded on the right."""

    training: TrainingSet
    sim: NDArray[np.float64]
    shard: NDArray[np.int32]
    row: NDArray[np.int64]
    listed: NDArray[np.bool_]
    keys: Any  # pyarrow strings of all listed neighbours, line by line

    @classmethod
    def read(cls, training: TrainingSet, test: str) -> Neighbours:
        table = training.scan.test(test)
        sims = table["nn_sim"].combine_chunks()
        lengths = sims.value_lengths().to_numpy(zero_copy_only=False)
        k = int(lengths.max(initial=0))
        listed = np.arange(k) < lengths[:, None]

        def padded(column: str, fill: float) -> NDArray[Any]:
            values = table[column].combine_chunks().flatten().to_numpy()
            out = np.full(listed.shape, fill, values.dtype)
            out[listed] = values
            return out

        return cls(
            training,
            padded("nn_sim", np.nan),
            padded("nn_shard", 0),
            padded("nn_row", 0),
            listed,
            table["nn_key"].combine_chunks().flatten(),
        )

    @cached_property
    def runs(self) -> NDArray[np.int64]:
        """Numbers equal scores of a line alike. Scores are exact, so copies of an image tie."""
        first = np.ones(self.sim.shape, np.bool_)
        first[:, 1:] = self.sim[:, 1:] != self.sim[:, :-1]
        return np.cumsum(first, axis=1) - 1

    def select(self, allowed: NDArray[np.bool_] | None = None) -> Selection:
        """The first neighbours among those listed and allowed, one of each run of duplicates."""
        able = self.listed if allowed is None else self.listed & allowed
        lines = np.broadcast_to(np.arange(len(able))[:, None], able.shape)
        counts = np.zeros(able.shape, np.int64)
        np.add.at(counts, (lines[able], self.runs[able]), 1)
        # The run of the allowed neighbour before; runs only grow along a line.
        before = np.maximum.accumulate(np.where(able, self.runs, -1), axis=1)
        first = able.copy()
        first[:, 1:] &= self.runs[:, 1:] != before[:, :-1]
        shown = first & (np.cumsum(first, axis=1) <= SHOWN)
        return Selection(shown, np.take_along_axis(counts, self.runs, axis=1))

    def kept(self, keep: KeepList) -> NDArray[np.bool_]:
        """Which neighbours a split of the training set keeps."""
        found = np.zeros(self.listed.shape, np.bool_)
        for shard in np.unique(self.shard[self.listed]).tolist():
            here = self.listed & (self.shard == shard)
            found[here] = keep.bits(shard)[self.row[here]]
        return found

    def chosen(self, mask: NDArray[np.bool_]) -> Iterator[tuple[str, str, float]]:
        """Shard, key and score of some neighbours, line by line."""
        places = np.flatnonzero(mask[self.listed])
        names = [s["name"] for s in self.training.scan.manifest["inputs"]["train"]["shards"]]
        rows = self.row[mask].tolist()
        keys = self.keys.take(pa.array(places)).to_pylist()
        found = zip(self.shard[mask].tolist(), rows, keys, self.sim[mask].tolist(), strict=True)
        for shard, row, key, sim in found:
            yield names[shard], key if key is not None else f"{names[shard]}, row {row:,}", sim
