"""What the audit counts, and how often its intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from clipgap.dedup import audit as audits
from clipgap.dedup import work
from clipgap.dedup.api import dedup
from clipgap.dedup.audit import count_pairs, judge
from clipgap.dedup.labels import NONE, Labels
from clipgap.dedup.rows import RowSource, Watch
from clipgap.intervals import wilson
from clipgap.kernels import pairs
from clipgap.kernels.options import Compute
from clipgap.store.opening import array_store
from clipgap.synthetic import rows as synthetic
from tests.test_dedup import DATA

EPSILONS = (0.01, 0.1)


def world(rows: NDArray[np.float16], clusters: int) -> tuple[Labels, RowSource]:
    """Labels at random, so that many duplicates are apart."""
    label = np.random.default_rng(0).integers(0, clusters, len(rows)).astype(np.int32)
    label[::13] = NONE
    rows = rows.copy()
    rows[::13] = 0
    source = RowSource(array_store(rows), "error", Watch(), 0, 16)
    return Labels(label, np.zeros(len(rows)), clusters), source


def truth(
    rows: NDArray[np.float16], labels: Labels, epsilon: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each row, its duplicates in its own cluster and in others."""
    wide = rows.astype(np.float64)
    near = wide @ wide.T > 1 - epsilon
    usable = labels.label != NONE
    near &= usable[:, None] & usable
    np.fill_diagonal(near, False)
    together = labels.label[:, None] == labels.label
    return (near & together).sum(axis=1), (near & ~together).sum(axis=1)


@pytest.mark.parametrize("data", ["crowd", "duplicates", "equal"])
@pytest.mark.parametrize("block", [7, 1024])
def test_counts_are_those_of_all_pairs(
    data: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audits, "BLOCK", block)
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", 50)
    rows = DATA[data]
    labels, source = world(rows, 3)
    sample = np.flatnonzero(labels.label != NONE)[::2]
    limits = tuple(1 - epsilon for epsilon in EPSILONS)
    found, missed = count_pairs(limits, labels, sample, source, Compute(threads=1))
    for e, epsilon in enumerate(EPSILONS):
        together, apart = truth(rows, labels, epsilon)
        np.testing.assert_array_equal(found[e], together[sample])
        np.testing.assert_array_equal(missed[e], apart[sample])


def test_an_audit_of_all_rows_estimates_nothing() -> None:
    rows = DATA["crowd"]
    labels, _ = world(rows, 3)
    together, apart = truth(rows, labels, 0.1)
    usable = labels.label != NONE
    found = judge(0.1, int(usable.sum()), together[usable], apart[usable])
    assert found.missed_pairs == apart.sum() / 2
    assert found.rows.value == np.count_nonzero(apart) / usable.sum()
    assert found.pairs is not None
    assert found.pairs.value == apart.sum() / (apart + together).sum()


def test_the_true_shares_lie_in_the_intervals() -> None:
    """In nineteen of twenty samples, give or take what chance allows for 400 of them."""
    random = np.random.default_rng(1)
    rows = synthetic.adversarial("duplicates", 3000, 16)
    # Groups of uneven size, so that pairs which share a row tell the same story.
    rows = rows[np.sort(random.zipf(1.7, 3000) % 16)]
    rows[600:] = synthetic.isotropic(2400, 16)
    label = np.where(random.random(3000) < 0.1, 1, 0).astype(np.int32)
    labels = Labels(label, np.zeros(3000), 2)
    together, apart = truth(rows, labels, 0.02)
    share_of_rows = np.count_nonzero(apart) / 3000
    share_of_pairs = apart.sum() / (apart + together).sum()
    hits = np.zeros(2)
    for _ in range(400):
        sample = random.choice(3000, 300, replace=False)
        found = judge(0.02, 3000, together[sample], apart[sample])
        assert found.pairs is not None
        hits += [
            found.rows.low <= share_of_rows <= found.rows.high,
            found.pairs.low <= share_of_pairs <= found.pairs.high,
        ]
    assert (hits >= 0.92 * 400).all(), hits
    assert (hits < 400).all(), "an interval that holds everything says nothing"


def test_wilsons_interval() -> None:
    # Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for successes, trials, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        share = wilson(successes, trials)
        assert share.value == successes / trials
        assert (round(share.low, 4), round(share.high, 4)) == (low, high)
    nothing = wilson(0, 0)
    assert (nothing.low, nothing.high) == (0.0, 1.0)


def test_without_any_duplicate_there_is_no_share_of_pairs() -> None:
    found = dedup(np.eye(20, dtype=np.float16), 0.1, clusters=3, audit=20).lists[0].audit
    assert found is not None
    assert found["pairs_share"] is None
    assert found["missed_pairs"] == 0
    assert found["rows_share"]["low"] == 0 < found["rows_share"]["high"]


def test_an_audit_changes_no_list_and_may_be_larger_than_the_store() -> None:
    rows = DATA["crowd"]
    plain, audited = (dedup(rows, 0.1, clusters=9, audit=n).lists[0] for n in (0, 10_000))
    np.testing.assert_array_equal(plain.mask(0), audited.mask(0))
    assert audited.audit is not None
    assert audited.audit["sampled"] == len(rows)
    assert plain.audit is None
    assert work.BLOCK == audits.BLOCK
