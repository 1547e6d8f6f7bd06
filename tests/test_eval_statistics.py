"""Intervals and differences, against other ways to compute them."""

from __future__ import annotations

from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgap.clip.eval.tables import paired_bootstrap, project, score
from clipgap.intervals import wilson
from tests.thorough import examples

# The 97.5 % point of the normal distribution.
Z = Decimal("1.95996398454005423552459443052055152795555007982")


def precise_wilson(correct: int, samples: int) -> tuple[Decimal, Decimal]:
    """Roots of (p − share)² = z² p (1 − p) / n, to fifty digits."""
    getcontext().prec = 50
    share, n = Decimal(correct) / samples, Decimal(samples)
    a, b, c = 1 + Z**2 / n, -(2 * share + Z**2 / n), share**2
    root = (b**2 - 4 * a * c).sqrt()
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@given(st.integers(1, 2_000_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@examples(60)
def test_wilson(case: tuple[int, int]) -> None:
    correct, samples = case
    interval = wilson(correct, samples)
    low, high = precise_wilson(correct, samples)
    assert interval.value == correct / samples
    assert interval.low == pytest.approx(float(low), rel=1e-9, abs=1e-14)
    assert interval.high == pytest.approx(float(high), rel=1e-12)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 10).low == 0.0
    assert wilson(10, 10).high == 1.0
    assert wilson(0, 10).high == pytest.approx(0.2775327998628892, rel=1e-12)
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0), "nothing is known"


def resampled(first: np.ndarray, second: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """The bootstrap as it is explained: draw samples, again and again."""
    random = np.random.default_rng(seed)
    difference = first.astype(int) - second.astype(int)
    n = len(difference)
    return np.array([difference[random.integers(0, n, n)].mean() for _ in range(draws)])


@pytest.mark.parametrize(("n", "right", "other"), [(60, 0.6, 0.5), (400, 0.9, 0.3), (35, 0.1, 0.1)])
def test_bootstrap_is_that_of_drawn_samples(n: int, right: float, other: float) -> None:
    random = np.random.default_rng(n)
    first, second = random.random(n) < right, random.random(n) < other
    ours = paired_bootstrap(first, second, 20_000, seed=1)
    theirs = resampled(first, second, 20_000, seed=2)
    assert ours.value == pytest.approx(first.mean() - second.mean(), abs=1e-12)
    # A bound may fall on a neighbouring step of 1/n, no further.
    for bound, tail in ((ours.low, 0.025), (ours.high, 0.975)):
        assert abs(bound - np.quantile(theirs, tail)) <= 1.01 / n
        assert np.mean(theirs < bound - 1.01 / n) <= tail <= np.mean(theirs <= bound + 1.01 / n)


def test_bootstrap_is_paired_and_seeded() -> None:
    random = np.random.default_rng(0)
    first = random.random(500) < 0.5
    same = paired_bootstrap(first, first, 1_000, seed=0)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    second = random.random(500) < 0.5
    once = paired_bootstrap(first, second, 1_000, seed=7)
    assert once == paired_bootstrap(first, second, 1_000, seed=7)
    assert once != paired_bootstrap(first, second, 1_000, seed=8)
    swapped = paired_bootstrap(second, first, 1_000, seed=7)
    assert swapped.value == -once.value
    with pytest.raises(ValueError, match="same samples"):
        paired_bootstrap(first, second[:-1], 10, 0)


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(2, 9), st.booleans())
@examples(60)
def test_scores(seed: int, samples: int, classes: int, ties: bool) -> None:
    """Against a sort of each row, with the class number as tie-breaker."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(samples, classes)).astype(np.float32)
    if ties:
        logits = np.round(logits)
    labels = random.integers(0, classes, samples)
    scored = score(logits, labels)
    for row, label in enumerate(labels):
        ranking = sorted(range(classes), key=lambda c: (-logits[row, c], c))
        assert scored.prediction[row] == ranking[0]
        assert scored.correct[row] == (ranking[0] == label)
        assert scored.correct5[row] == (label in ranking[:5])
        best = max(float(logits[row, c]) for c in range(classes) if c != label)
        assert scored.margin[row] == float(logits[row, label]) - best


def test_project_takes_the_highest_of_several_columns() -> None:
    logits = np.array([[1, 5, 2, 8], [9, 0, 3, 4]], np.float32)
    columns, starts = np.array([3, 0, 2]), np.array([0, 1])  # {3}, {0, 2}
    assert project(logits, columns, starts).tolist() == [[8, 2], [4, 9]]
