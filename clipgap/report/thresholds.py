"""The page of thresholds: how many training rows each would remove, and some of them, as data.

data/thresholds.js     of each test set of the large scan: counts by threshold, and rows

Counts are exact for every step of the slider, as `clipgap split` would come to them, whatever the
size of the training set. Of the rows a few at each height are listed; all of them, if they are few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.addresses import public
from clipgap.report.pictures import PACK, Pictures, Wanted
from clipgap.report.sources import Sources, TrainingSet
from clipgap.scan.tables import SetColumns

THRESHOLDS = "data/thresholds.js"
STEPS = 1000  # of the slider, to a similarity of 1
FURTHEST = 300  # steps of an offset to τ, up and down
FEW = 2000  # rows that are listed, all of them
AT_ONE_HEIGHT = 4  # rows that are listed of each height, where there are more
_HEIGHTS = 200  # to a similarity of 1

OFFSETS = np.arange(-FURTHEST, FURTHEST + 1) / STEPS
SIMILARITIES = np.arange(STEPS + 1) / STEPS


@dataclass
class Thresholds:
    """Of one test set: what its thresholds remove, gathered batch by batch."""

    columns: SetColumns
    most: int  # rows that are listed of each height
    offsets: NDArray[np.int64] = field(default_factory=lambda: _zeros(OFFSETS))
    similarities: NDArray[np.int64] = field(default_factory=lambda: _zeros(SIMILARITIES))
    pruned: int = 0
    scored: int = 0
    listed: list[tuple[int, float | None, float, int]] = field(default_factory=list)
    """Place in the training table, margin, similarity, and the test point that it is near to."""
    _filled: NDArray[np.int64] = field(default_factory=lambda: np.zeros(4 * _HEIGHTS, np.int64))

    @property
    def needs(self) -> list[str]:
        one = self.columns
        own = [one.margin, one.witness, one.pruned] if one.has_gap else [one.nn]
        return [one.sim, *own]

    def add(self, batch: pa.RecordBatch, start: int) -> None:
        sim = _numbers(batch[self.columns.sim])
        has_gap = self.columns.has_gap
        score = _numbers(batch[self.columns.margin]) if has_gap else sim
        near = batch[self.columns.witness if has_gap else self.columns.nn].fill_null(-1)
        usable = np.flatnonzero(~np.isnan(sim) & ~np.isnan(score))
        self.scored += int(np.count_nonzero(~np.isnan(sim)))
        self.similarities += _exceeding(sim[~np.isnan(sim)], SIMILARITIES)
        if has_gap:
            self.offsets += _exceeding(score[usable], OFFSETS)
            self.pruned += int(np.count_nonzero(batch[self.columns.pruned].fill_null(False)))
        for place in usable[self._some(score[usable])].tolist():
            margin = float(score[place]) if has_gap else None
            self.listed.append((start + place, margin, float(sim[place]), near[place].as_py()))

    def _some(self, score: NDArray[np.float64]) -> NDArray[np.int64]:
        """The first rows of each height that has room left."""
        height = np.clip(np.floor(score * _HEIGHTS) + 2 * _HEIGHTS, 0, 4 * _HEIGHTS - 1)
        height = height.astype(np.int64)
        able = np.flatnonzero(self._filled[height] < self.most)
        able = able[np.argsort(height[able], kind="stable")]
        of = height[able]
        rank = np.arange(len(of)) - np.searchsorted(of, of)
        chosen = able[rank + self._filled[of] < self.most]
        np.add.at(self._filled, height[chosen], 1)
        return np.sort(chosen)

    def finish(self, most: int | None) -> None:
        """Put the highest first; of too many rows keep some, evenly spread over all heights."""
        self.listed.sort(key=_highest_first)
        if most is not None and most < len(self.listed):
            places = np.linspace(0, len(self.listed) - 1, most).round().astype(np.int64)
            self.listed = [self.listed[place] for place in places.tolist()]

    def counts(self) -> list[int]:
        """Rows that each offset removes; at 0 the column `pruned` decides, as in a split."""
        found = self.offsets.tolist()
        found[FURTHEST] = self.pruned
        return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ThresholdPage:
    """What the page shows of the large scan."""

    training: TrainingSet
    sets: list[Thresholds]
    names: dict[int, tuple[str, str]]  # shard and key of listed rows, by their place in the table

    @classmethod
    def of(cls, sources: Sources, most: int | None) -> ThresholdPage | None:
        """None if there is no training table; `most` limits the rows listed of each test set."""
        if not sources.scans:
            return None
        training = sources.scans[0]
        if not training.scan.manifest["settings"]["train_table"] or not training.scan.rows:
            return None
        each = FEW if training.scan.rows <= FEW else AT_ONE_HEIGHT
        sets = [Thresholds(columns, each) for columns in training.scan.set_columns]
        table, start = training.scan.train(), 0
        for batch in table.to_batches(columns=[name for one in sets for name in one.needs]):
            for one in sets:
                one.add(batch, start)
            start += batch.num_rows
        for one in sets:
            one.finish(most)
            points = training.scan.test_input(one.columns.name)["rows"]
            if any(not 0 <= near < points for *_, near in one.listed):
                raise InputError(
                    f"{training.scan.label} is damaged: it has rows near to points of test set "
                    f"{one.columns.name!r} that there are not. Scan again with --overwrite."
                )
        places = sorted({row[0] for one in sets for row in one.listed})
        keys = table.take(pa.array(places, pa.int64()), columns=["key"])["key"].to_pylist()
        shards = training.scan.manifest["inputs"]["train"]["shards"]
        first = np.cumsum([0, *(shard["rows"] for shard in shards)])
        names = {}
        for place, key in zip(places, keys, strict=True):
            shard = int(np.searchsorted(first, place, side="right")) - 1
            name, row = shards[shard]["name"], place - int(first[shard])
            names[place] = (name, f"{name}, row {row:,}" if key is None else key)
        return cls(training, sets, names)

    def wanted(self) -> Iterator[tuple[str, Wanted]]:
        """Pictures that would be shown: the name of their set, and which."""
        for one in self.sets:
            keys = self._test_keys(one)
            for place, _, _, near in one.listed:
                yield self.training.name, self.names[place]
                if (key := keys[near]) is not None:
                    yield one.columns.name, ("", key)

    def data(self, pictures: Mapping[str, Pictures]) -> dict[str, Any]:
        """As the page reads it. A row is [key, margin, similarity, picture, caption, key and
        picture of the test point]; the highest come first.
        """
        return {
            "scan": public(self.training.scan.label),
            "rows": self.training.scan.rows,
            "steps": STEPS,
            "pack": PACK,
            "sets": [self._set(one, pictures) for one in self.sets],
        }

    def _set(self, one: Thresholds, pictures: Mapping[str, Pictures]) -> dict[str, Any]:
        test, keys = one.columns.name, self._test_keys(one)
        ours, theirs = pictures.get(self.training.name), pictures.get(test)
        rows = []
        for place, margin, sim, near in one.listed:
            shard, key = self.names[place]
            mine = ours.get(shard, key) if ours else None
            point = theirs.get("", keys[near]) if theirs else None
            rows.append(
                [
                    key,
                    margin,
                    sim,
                    mine.number if mine else None,
                    mine.caption if mine else "",
                    keys[near] if keys[near] is not None else f"row {near:,}",
                    point.number if point else None,
                ]
            )
        return {
            "name": test,
            "scored": one.scored,
            "offsets": one.counts() if one.columns.has_gap else None,
            "similarities": one.similarities.tolist(),
            "rows": rows,
        }

    def _test_keys(self, one: Thresholds) -> list[str | None]:
        keys: list[str | None] = self.training.points(one.columns.name).keys.to_pylist()
        return keys


def _highest_first(row: tuple[int, float | None, float, int]) -> tuple[float, int]:
    place, margin, sim, _ = row
    return -(sim if margin is None else margin), place


def _zeros(edges: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.zeros(len(edges), np.int64)


def _exceeding(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many values lie above each edge; compared as the real numbers that both are."""
    below = np.searchsorted(edges, values, side="left")  # edges below each value
    counts = np.bincount(below, minlength=len(edges) + 1)
    return np.asarray(np.cumsum(counts[::-1])[::-1][1:], np.int64)


def _numbers(column: Any) -> NDArray[np.float64]:
    """float32 and row numbers as float64, which holds all of them; NaN where there is none."""
    return np.asarray(
        column.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False)
    )
