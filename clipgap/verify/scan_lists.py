"""Checks of the test tables: each list's order, its scores, and every tie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.scan.lists import entries_of, lengths_of, numbers_of, runs, take_strings
from clipgap.scan.result import ScanResult
from clipgap.scan.sinks import test_name
from clipgap.verify.problems import Problems
from clipgap.verify.scan_inputs import Evidence

LISTS = ("nn_sim", "nn_shard", "nn_row", "nn_key")
"""The columns of a test table that hold lists."""


@dataclass(frozen=True)
class Lists:
    """The lists of one test table as matrices, one row a usable test point."""

    file: str
    row: NDArray[np.int64]  # (points,), test rows
    sim: NDArray[np.float64]  # (points, length)
    shard: NDArray[np.int64]
    shard_row: NDArray[np.int64]
    keys: list[Any]  # pyarrow strings, piece after piece

    @classmethod
    def read(cls, result: ScanResult, name: str) -> Lists:
        """Lists of the one length that all usable points have; `check_lists` makes sure."""
        table = result.test(name, LISTS)
        lengths = lengths_of(table["nn_sim"])
        rows = np.flatnonzero(lengths)
        shape = (len(rows), int(lengths.max(initial=0)))

        def matrix(column: str, kind: Any) -> NDArray[Any]:
            return numbers_of(table[column]).astype(kind).reshape(shape)

        return cls(
            file=test_name(name),
            row=rows,
            sim=matrix("nn_sim", np.float64),
            shard=matrix("nn_shard", np.int64),
            shard_row=matrix("nn_row", np.int64),
            keys=entries_of(table["nn_key"]),
        )

    def ids(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        ids: NDArray[np.int64] = offsets[self.shard] + self.shard_row
        return ids

    @property
    def tied(self) -> NDArray[np.bool_]:
        """Which entries have the score of a neighbour in their list."""
        same = self.sim[:, 1:] == self.sim[:, :-1]
        tied = np.zeros(self.sim.shape, np.bool_)
        tied[:, 1:] |= same
        tied[:, :-1] |= same
        return tied


def check_lists(result: ScanResult, problems: Problems) -> str:
    """Every list has its length, falls in score, rises in id among equals, and names real rows."""
    counts, shards = result.manifest["counts"], result.manifest["inputs"]["train"]["shards"]
    length = min(result.manifest["settings"]["k"], counts["rows"] - counts["quarantined"])
    sizes = np.array([shard["rows"] for shard in shards], np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    entries = 0
    for test in result.manifest["inputs"]["tests"]:
        name = test["name"]
        usable = test["rows"] - test["quarantined"]
        if not _lengths_are_right(result, name, length, usable, problems):
            continue
        lists = Lists.read(result, name)
        entries += lists.sim.size
        real = (lists.shard >= 0) & (lists.shard < len(sizes))
        real &= lists.shard_row >= 0
        real[real] &= lists.shard_row[real] < sizes[lists.shard[real]]
        if not real.all():
            _report(lists, ~real, "names a training row that does not exist", problems)
            continue
        ids, sim = lists.ids(offsets), lists.sim
        falls = sim[:, 1:] < sim[:, :-1]
        rises = (sim[:, 1:] == sim[:, :-1]) & (ids[:, 1:] > ids[:, :-1])
        _report(lists, ~(falls | rises), "is followed by one that should come before it", problems)
        _check_gap_column(result, lists, problems)
    return f"{entries:,} entries are in order"


def check_neighbours(
    result: ScanResult, evidence: Evidence, sample: int, seed: int, problems: Problems
) -> str:
    """The oracle scores anew: the lists of sampled points, and every entry of a tie."""
    random = np.random.default_rng([seed, 1])
    scored = 0
    for g, test in enumerate(evidence.tests):
        lists = Lists.read(result, test.name)
        chosen = lists.tied
        points = random.choice(len(lists.row), min(sample, len(lists.row)), replace=False)
        chosen[points] = True
        point, place = np.nonzero(chosen)
        order = np.lexsort((lists.shard_row[point, place], lists.shard[point, place]))
        point, place = point[order], place[order]
        scored += len(point)
        for start, stop in runs(lists.shard[point, place]):
            at = point[start:stop], place[start:stop]
            _score_shard(evidence, g, lists, at, problems)
    return f"{scored:,} entries scored anew"


def _score_shard(
    evidence: Evidence,
    g: int,
    lists: Lists,
    at: tuple[NDArray[np.int64], NDArray[np.int64]],
    problems: Problems,
) -> None:
    test, store = evidence.tests[g], evidence.plan.train
    point, place = at
    shard, rows = int(lists.shard[at][0]), lists.shard_row[at]
    columns = np.searchsorted(test.row_of, lists.row[point])
    wrong = np.zeros(lists.sim.shape, np.bool_)
    for part, found in evidence.rows_at(shard, rows):
        columns_here = test.rows[columns[part]].astype(np.float64)
        scores = (found.astype(np.float64) * columns_here).sum(axis=1)
        wrong[point[part], place[part]] = scores != lists.sim[point[part], place[part]]
    _report(lists, wrong, "has another score than stated", problems)
    if store.has_keys:
        unique, back = np.unique(rows, return_inverse=True)
        true_keys = np.asarray(store.take_keys(shard, unique), object)[back]
        stated = np.asarray(take_strings(lists.keys, point * lists.sim.shape[1] + place), object)
        wrong = np.zeros(lists.sim.shape, np.bool_)
        wrong[at] = true_keys != stated
        _report(lists, wrong, "has another key than stated", problems)


def _lengths_are_right(
    result: ScanResult, name: str, length: int, usable: int, problems: Problems
) -> bool:
    table, before = result.test(name, LISTS), problems.count
    for column in LISTS:
        lengths = lengths_of(table[column])
        right = np.zeros(len(lengths), np.int64)
        right[: usable if length else 0] = length
        if not np.array_equal(np.sort(lengths), np.sort(right)):
            problems.add(
                f"{test_name(name)}: {column} should hold {length} entries for each of "
                f"{usable:,} usable test points, and none for others"
            )
    return problems.count == before


def _check_gap_column(result: ScanResult, lists: Lists, problems: Problems) -> None:
    if result.manifest["kind"] != "gap" or not lists.sim.size:
        return
    name = lists.file.removeprefix("test/").removesuffix(".parquet")
    stated = result.test(name, ["gap"])["gap"].to_numpy()[lists.row]
    problems.at(
        lists.row[stated != lists.sim[:, 0]],
        lambda row: f"{lists.file}, row {row:,}: gap is not the highest score",
    )


def _report(lists: Lists, wrong: NDArray[np.bool_], what: str, problems: Problems) -> None:
    def describe(at: NDArray[np.int64]) -> str:
        return f"{lists.file}, row {lists.row[at[0]]:,}: neighbour {at[1] + 1} {what}"

    problems.at(np.argwhere(wrong), describe)
