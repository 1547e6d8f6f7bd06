from __future__ import annotations

import numpy as np
import pytest

from clipgap.synthetic import rows as synthetic
from clipgap.synthetic.rows import KINDS, Hard, Kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 3, 17, 640])
def test_rows_are_unit_float16(kind: Kind, d: int) -> None:
    x = synthetic.rows(kind, 0, 1300, d, seed=1)
    assert x.shape == (1300, d)
    assert x.dtype == np.float16
    assert x.flags.c_contiguous
    assert np.abs(np.linalg.norm(x.astype(np.float64), axis=1) - 1).max() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_the_blocks(kind: Kind) -> None:
    n, d = 3 * synthetic.CHUNK + 5, 19
    whole = synthetic.rows(kind, 0, n, d, seed=3)
    for block_rows in (7, synthetic.CHUNK, synthetic.CHUNK + 1, n + 1):
        parts = list(synthetic.blocks(kind, n, d, seed=3, block_rows=block_rows))
        assert all(len(part) == block_rows for part in parts[:-1])
        assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_worlds_differ(kind: Kind) -> None:
    first = synthetic.rows(kind, 0, 8, 32, seed=1)
    if kind != "equal":
        assert not np.array_equal(first, synthetic.rows(kind, 0, 8, 32, seed=2))
    if kind != "isotropic":
        assert not np.array_equal(first, synthetic.rows(kind, 0, 8, 32, seed=1, world=1))


def test_a_row_range_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[5, 4\)"):
        synthetic.rows("clip-like", 5, 4, 8)
    assert len(synthetic.rows("clip-like", 4, 4, 8)) == 0


def test_clip_like_has_the_figures_of_its_docstring() -> None:
    train = synthetic.clip_like(2048, seed=1).astype(np.float32)
    test = synthetic.clip_like(16_384, seed=2).astype(np.float32)
    scores = train @ test.T
    assert scores.mean() == pytest.approx(0.37, abs=0.005)
    assert scores.std() == pytest.approx(0.14, abs=0.005)
    assert scores.max(axis=1).mean() == pytest.approx(0.79, abs=0.01)
    assert scores.max(axis=1).std() > 0.03, "some rows are near to a test point, some far"

    size = np.sort(np.abs(train.mean(axis=0)))
    assert size[-2] > 2 * size[-3], "two coordinates are large in every row"
    energy = np.linalg.eigvalsh(np.cov(train.T))[::-1]
    assert energy[0] > 20 * energy[63] > 0, "the spectrum decays"


def test_isotropic_rows_are_nearly_orthogonal() -> None:
    scores = (
        synthetic.isotropic(512, seed=1).astype(np.float32)
        @ synthetic.isotropic(512, seed=2).astype(np.float32).T
    )
    assert abs(scores.mean()) < 0.001
    assert scores.std() == pytest.approx(640**-0.5, rel=0.02)


def scores_of(kind: Hard) -> np.ndarray:
    train = synthetic.adversarial(kind, 600, seed=1).astype(np.float64)
    return train @ synthetic.adversarial(kind, 300, seed=2).astype(np.float64).T


def test_equal_rows_have_one_score() -> None:
    assert len(np.unique(scores_of("equal"))) == 1


def test_duplicates_repeat_few_vectors_in_both_sets() -> None:
    train = synthetic.adversarial("duplicates", 600, seed=1)
    test = synthetic.adversarial("duplicates", 600, seed=2)
    assert len(np.unique(train, axis=0)) == synthetic.DISTINCT
    assert len(np.unique(np.concatenate([train, test]), axis=0)) == synthetic.DISTINCT


def test_near_ties_are_one_step_of_one_coordinate_apart() -> None:
    train = synthetic.adversarial("near-ties", 600, seed=1)
    base = synthetic.adversarial("equal", 1)
    moved = train != base
    assert set(moved.sum(axis=1)) == {0, 1}
    assert set((train.view(np.int16) - base.view(np.int16))[moved]) == {-1, 1}
    scores = scores_of("near-ties")
    assert 0 < np.ptp(scores) < 1e-3
    assert len(np.unique(scores)) > 100


def test_window_scores_lie_within_the_resolution_of_int8() -> None:
    scores = scores_of("window")
    assert 0 < np.ptp(scores) < 0.01
