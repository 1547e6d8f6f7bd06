"""The gallery: the first few neighbours of each test point, duplicates folded, as data files.

data/gallery.js        test sets, splits, checkpoints, classes
data/N/index.js        of test set N, all points by falling similarity: what filters look at
data/N/0000.js         the points themselves, PAGE of them a file, in the same order

Browsers let a page from disk load scripts but not data, so each file calls `clipgapData`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.files.addresses import public
from clipgap.keep.lists import KeepList
from clipgap.report.pictures import PACK, Pictures, Thumbnails, Wanted, read_pictures, script
from clipgap.report.sections.accuracy import Answers, answers
from clipgap.report.sources import Sources, TrainingSet
from clipgap.report.thresholds import THRESHOLDS, ThresholdPage
from clipgap.scan.lists import entries_of, lengths_of, numbers_of, take_strings

PAGE = 100
INDEX = "data/gallery.js"
DIGITS = 6
SHOWN = 6  # neighbours of a list
KEYS_AT_ONCE = 1 << 14  # an Arrow array of strings ends at 2 GiB

Write = Callable[[str, bytes], None]


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
    keys: list[Any]  # pyarrow strings of all listed neighbours, line by line, in pieces

    @classmethod
    def read(cls, training: TrainingSet, test: str) -> Neighbours:
        table = training.scan.test(test, ["nn_sim", "nn_shard", "nn_row", "nn_key"])
        lengths = lengths_of(table["nn_sim"])
        k = int(lengths.max(initial=0))
        listed = np.arange(k) < lengths[:, None]

        def padded(column: str, fill: float) -> NDArray[Any]:
            values = numbers_of(table[column])
            out = np.full(listed.shape, fill, values.dtype)
            out[listed] = values
            return out

        return cls(
            training,
            padded("nn_sim", np.nan),
            padded("nn_shard", 0),
            padded("nn_row", 0),
            listed,
            entries_of(table["nn_key"]),
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
        at_once = (places[i : i + KEYS_AT_ONCE] for i in range(0, len(places), KEYS_AT_ONCE))
        keys = chain.from_iterable(take_strings(self.keys, some).to_pylist() for some in at_once)
        found = zip(self.shard[mask].tolist(), rows, keys, self.sim[mask].tolist(), strict=True)
        for shard, row, key, sim in found:
            yield names[shard], key if key is not None else f"{names[shard]}, row {row:,}", sim


@dataclass(frozen=True)
class TestGallery:
    """What is shown of one test set."""

    __test__ = False  # no test case, whatever pytest makes of the name

    name: str
    large: TrainingSet
    keys: list[str | None]
    similarity: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    reference: str | None
    order: NDArray[np.int64]  # points by falling similarity, then row
    near: Neighbours
    selection: Selection
    splits: Mapping[str, Selection]
    near_reference: Neighbours | None
    reference_selection: Selection | None
    answers: Mapping[str, Answers]

    @classmethod
    def of(cls, sources: Sources, test: str, most: int | None) -> TestGallery | None:
        """None if no scan has neighbours in a large set."""
        large = sources.large(test)
        if large is None:
            return None
        near = Neighbours.read(large, test)
        reference = sources.reference
        there = reference is not None and test in reference.scan.test_names
        near_reference = Neighbours.read(reference, test) if reference and there else None
        named = sources.thresholds(test)
        similarity = large.similarity(test)
        order = np.lexsort([np.arange(len(similarity)), np.nan_to_num(-similarity, nan=np.inf)])
        if most is not None and most < len(order):
            # Evenly spread over the whole range of similarities.
            order = order[np.linspace(0, len(order) - 1, most).round().astype(np.int64)]
        return cls(
            name=test,
            large=large,
            keys=large.points(test).keys.to_pylist(),
            similarity=similarity,
            thresholds=np.full(len(similarity), np.nan) if named is None else named[1],
            reference=None if named is None else named[0],
            order=order,
            near=near,
            selection=near.select(),
            splits={
                name: near.select(near.kept(keep))
                for name, keep in sources.splits_of(large).items()
            },
            near_reference=near_reference,
            reference_selection=None if near_reference is None else near_reference.select(),
            answers=answers(sources, test),
        )

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Neighbours in the large set that some list of the gallery shows."""
        masks = [one.shown for one in (self.selection, *self.splits.values())]
        return np.asarray(np.logical_or.reduce(masks) & self._points)

    @property
    def shown_in_reference(self) -> NDArray[np.bool_]:
        assert self.reference_selection is not None
        return self.reference_selection.shown & self._points

    @property
    def _points(self) -> NDArray[np.bool_]:
        """A column that tells which points are in the gallery."""
        column = np.zeros((len(self.keys), 1), np.bool_)
        column[self.order] = True
        return column

    def moved(self, split: str) -> NDArray[np.bool_]:
        """Points whose nearest neighbour the split removed, with all copies of it."""
        nearest = self.near.listed & (self.near.runs == 0)
        stays = nearest & self.splits[split].shown
        return np.asarray(nearest.any(axis=1) & ~stays.any(axis=1))


def write_gallery(sources: Sources, most: int | None, write: Write) -> dict[str, Any]:
    """Write everything; gives what there is, for the page."""
    made = [TestGallery.of(sources, test, most) for test in sources.tests]
    galleries = [gallery for gallery in made if gallery is not None and len(gallery.order)]
    thresholds = ThresholdPage.of(sources, most)
    pictures = _pictures(sources, galleries, thresholds, write)
    if thresholds is not None:
        write(THRESHOLDS, script(THRESHOLDS, thresholds.data(pictures)))
    described = {
        "page": PAGE,
        "pack": PACK,
        "most": SHOWN,
        "opens": _furthest(galleries),
        "sets": [_describe(gallery, sources) for gallery in galleries],
    }
    write(INDEX, script(INDEX, described))
    for number, gallery in enumerate(galleries):
        pages = ((f"{page:04d}", points) for page, points in enumerate(_pages(gallery, pictures)))
        for page, data in chain([("index", _index(gallery))], pages):
            name = f"data/{number}/{page}.js"
            write(name, script(name, data))
    problems = [public(problem) for one in pictures.values() for problem in one.problems]
    wanted = sum(len(one.wanted) for one in pictures.values())
    found = sum(p.number is not None for one in pictures.values() for p in one.found.values())
    return {
        "sets": {gallery.name: len(gallery.order) for gallery in galleries},
        "thresholds": thresholds is not None,
        "pictures": {"wanted": wanted, "found": found, "problems": problems},
    }


def _furthest(galleries: list[TestGallery]) -> int:
    """The test set that lies furthest above its thresholds: what people came to see."""
    above = [gallery.similarity - gallery.thresholds for gallery in galleries]
    means = [float(np.nanmean(of)) if not np.isnan(of).all() else -np.inf for of in above]
    return means.index(max(means)) if means else 0


def _pictures(
    sources: Sources,
    galleries: list[TestGallery],
    thresholds: ThresholdPage | None,
    write: Write,
) -> dict[str, Pictures]:
    """Thumbnails of all that is shown, in the order in which it is shown first."""
    first: dict[tuple[str, Wanted], int] = {}

    def show(name: str, one: Wanted, when: int) -> None:
        if name in sources.images:
            first[name, one] = min(when, first.get((name, one), when))

    start = 0
    for gallery in galleries:
        when = np.zeros(len(gallery.keys), np.int64)
        when[gallery.order] = np.arange(start, start + len(gallery.order))
        start += len(gallery.order)
        for point in gallery.order.tolist():
            if (key := gallery.keys[point]) is not None:
                show(gallery.name, ("", key), int(when[point]))
        for near, mask in _lists(gallery):
            times = np.repeat(when, mask.sum(axis=1)).tolist()
            for (shard, key, _), time in zip(near.chosen(mask), times, strict=True):
                if key:
                    show(near.training.name, (shard, key), time)
    for name, one in thresholds.wanted() if thresholds else ():
        show(name, one, start)
    with TemporaryFile() as spool:
        thumbnails = Thumbnails(sorted(first, key=lambda one: (first[one], one)), spool)
        pictures = {
            name: read_pictures(name, images, {one for of, one in first if of == name}, thumbnails)
            for name, images in sources.images.items()
        }
        thumbnails.write(write)
    return pictures


def _lists(gallery: TestGallery) -> Iterator[tuple[Neighbours, NDArray[np.bool_]]]:
    yield gallery.near, gallery.shown
    if gallery.near_reference is not None:
        yield gallery.near_reference, gallery.shown_in_reference


def _describe(gallery: TestGallery, sources: Sources) -> dict[str, Any]:
    classes = [one.classes(gallery.name) for one in sources.evaluations]
    return {
        "name": gallery.name,
        "points": len(gallery.order),
        "training": gallery.large.name,
        "listed": int(gallery.near.listed.shape[1]),
        "reference": gallery.reference,
        "neighbours_in_reference": gallery.near_reference is not None,
        "splits": list(gallery.splits),
        "checkpoints": list(gallery.answers),
        "classes": next((names for names in classes if names), []),
    }


def _index(gallery: TestGallery) -> dict[str, Any]:
    order = gallery.order
    labels = next((each.label for each in gallery.answers.values()), None)
    flags = {name: gallery.moved(name)[order] for name in gallery.splits}
    return {
        "similarity": _rounded(gallery.similarity[order]),
        "threshold": _rounded(gallery.thresholds[order]),
        "label": None if labels is None else labels[order].tolist(),
        "moved": ["".join("01"[flag] for flag in moved.tolist()) for moved in flags.values()],
    }


def _pages(gallery: TestGallery, pictures: Mapping[str, Pictures]) -> Iterator[list[Any]]:
    """Points as the page reads them: [row, key, picture, marks, neighbours, list, lists of the
    splits, neighbours in the reference, list of the reference].

    A neighbour is [key, score, picture, caption, address]; a list is the places of neighbours, each
    followed by the number of duplicates that it stands for. 0 is a split's list that is the same.
    """
    shown = gallery.shown
    near = _Lists.of(gallery.near, shown, pictures)
    own = near.places(gallery.selection)
    splits = [near.places(selection) for selection in gallery.splits.values()]
    reference = of_reference = None
    if gallery.near_reference is not None and gallery.reference_selection is not None:
        reference = _Lists.of(gallery.near_reference, gallery.shown_in_reference, pictures)
        of_reference = reference.places(gallery.reference_selection)
    marks = [np.where(a.known, a.correct + 0, 2) for a in gallery.answers.values()]
    order = gallery.order.tolist()
    for start in range(0, len(order), PAGE):
        points = []
        for point in order[start : start + PAGE]:
            key = gallery.keys[point]
            mine = pictures[gallery.name].get("", key) if gallery.name in pictures else None
            points.append(
                [
                    point,
                    key,
                    mine.number if mine else None,
                    "".join("01-"[mark[point]] for mark in marks),
                    near.entries(point),
                    own(point),
                    [0 if (each := split(point)) == own(point) else each for split in splits],
                    reference.entries(point) if reference else [],
                    of_reference(point) if of_reference else [],
                ]
            )
        yield points


@dataclass(frozen=True)
class _Lists:
    """Shown neighbours of every point as plain lists."""

    flat: list[tuple[str, str, float]]  # shard, key and score
    pictures: Pictures | None
    starts: list[int]
    place: NDArray[np.int64]  # (points, k): of a neighbour among the shown ones of its point
    mask: NDArray[np.bool_]

    @classmethod
    def of(
        cls, near: Neighbours, mask: NDArray[np.bool_], pictures: Mapping[str, Pictures]
    ) -> _Lists:
        starts = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).tolist()
        known = pictures.get(near.training.name)
        return cls(list(near.chosen(mask)), known, starts, np.cumsum(mask, axis=1) - 1, mask)

    def entries(self, point: int) -> list[list[Any]]:
        """Made when they are written: millions of small lists would keep the collector busy."""
        return [
            self._entry(*near) for near in self.flat[self.starts[point] : self.starts[point + 1]]
        ]

    def _entry(self, shard: str, key: str, sim: float) -> list[Any]:
        picture = self.pictures.get(shard, key) if self.pictures else None
        words = [] if picture is None else [picture.number, picture.caption, picture.url]
        return [key, round(sim, DIGITS), *words]

    def places(self, selection: Selection) -> Callable[[int], list[int]]:
        """For each point its list, as places among its entries with their copies."""
        shown = selection.shown & self.mask
        pairs = np.stack([self.place[shown], selection.copies[shown]], axis=1).ravel().tolist()
        ends = (2 * np.concatenate([[0], np.cumsum(shown.sum(axis=1))])).tolist()
        return lambda point: pairs[ends[point] : ends[point + 1]]


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    return [None if value != value else round(value, DIGITS) for value in values.tolist()]
