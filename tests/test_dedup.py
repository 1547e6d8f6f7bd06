"""Deduplication against the plain definition, by equality, on random, tied and repeated rows."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clipgap.dedup import work
from clipgap.dedup.api import dedup, plan_dedup
from clipgap.dedup.kmeans import Assignment, Centroids, choose_seeds, step
from clipgap.dedup.labels import NONE
from clipgap.dedup.notes import Notes
from clipgap.dedup.options import MODES, ORDERS, DedupOptions
from clipgap.dedup.plan import DedupPlan, DedupSettings
from clipgap.dedup.rows import RowSource, Watch
from clipgap.dedup.run import Run
from clipgap.errors import InputError, Interrupted, UsageError
from clipgap.kernels.options import Compute
from clipgap.runs.how import How
from clipgap.store.opening import array_store, open_store
from clipgap.synthetic import rows as synthetic
from tests import dedup_oracle
from tests.worlds import KERNELS, troubled_rows, unit_rows, write_store

EPSILONS = (1e-6, 0.01, 0.05, 0.2)


def crowd(n: int, d: int, seed: int) -> NDArray[np.float16]:
    """Chains of neighbours, copies, and rows one float16 step apart."""
    random = np.random.default_rng(seed)
    walk = np.cumsum(random.normal(size=(n, d)) * 0.12, axis=0) + 1.0
    rows = (walk / np.linalg.norm(walk, axis=1, keepdims=True)).astype(np.float16)
    rows[5::11] = rows[2]
    rows[7::11] = rows[2]
    rows[7::11, 0] = np.nextafter(rows[2, 0], np.float16(2))
    return rows[random.permutation(n)]


DATA = {
    "crowd": crowd(150, 12, 0),
    "troubled": troubled_rows(120, 17, 1),
    "isotropic": synthetic.isotropic(90, 5),
    "equal": synthetic.adversarial("equal", 70, 9),
    "duplicates": synthetic.adversarial("duplicates", 130, 24),
    "near-ties": synthetic.adversarial("near-ties", 60, 16),
}


def in_memory(
    rows: Any,
    options: DedupOptions,
    epsilons: tuple[float, ...] = EPSILONS,
    memory: int = 1 << 30,
    block_rows: int = 37,
) -> Run:
    """A finished run and what it found, with its labels and centroids open to view."""
    store = array_store(rows)
    source = RowSource(store, options.bad_rows, Watch(), memory // 2, block_rows)
    plan = DedupPlan(store, DedupSettings(epsilons, options))
    run = Run(plan, source, Compute(threads=1), memory, Notes(), How())
    run.decide()
    return run


def centroids_of(run: Run) -> NDArray[np.float16]:
    assert run.centroids is not None
    return run.centroids.rows


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep", ORDERS)
def test_every_mode_and_rule_is_the_definition(
    data: str, mode: str, keep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_AT_ONCE", 5)
    rows = DATA[data]
    options = DedupOptions(4, iterations=3, mode=mode, keep=keep, seed=3)
    run = in_memory(rows, options)
    labels, centroids = run.labels.label, centroids_of(run)
    scores = rows.astype(np.float64) @ centroids.astype(np.float64).T
    np.testing.assert_array_equal(labels, scores.argmax(axis=1))
    np.testing.assert_array_equal(run.labels.sim, scores.max(axis=1))
    for number, epsilon in enumerate(EPSILONS):
        expected = dedup_oracle.dedup(
            rows, labels, centroids, mode=mode, keep=keep, epsilon=epsilon, seed=3
        )
        np.testing.assert_array_equal(run.mask(number)(0), expected)
        assert run.sizes(number)["kept"] == expected.sum()


@pytest.mark.parametrize("data", ["crowd", "duplicates"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep", ["first", "random"])
def test_exact_compares_all_rows(data: str, mode: str, keep: str) -> None:
    rows = DATA[data]
    run = in_memory(rows, DedupOptions(exact=True, mode=mode, keep=keep, seed=5))
    nowhere = np.zeros(len(rows), np.int64)
    for number, epsilon in enumerate(EPSILONS):
        expected = dedup_oracle.dedup(
            rows, nowhere, None, mode=mode, keep=keep, epsilon=epsilon, seed=5
        )
        np.testing.assert_array_equal(run.mask(number)(0), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep", ORDERS)
@pytest.mark.parametrize("block", [4, 1024])
def test_clusters_larger_than_memory_are_tiled(
    mode: str, keep: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing fits: rows are read again and again, clusters come in tiles of a few rows."""
    monkeypatch.setattr(work.Comparison, "block", block)
    rows = DATA["crowd"]
    options = DedupOptions(3, iterations=2, mode=mode, keep=keep)
    whole, tiled = in_memory(rows, options), in_memory(rows, options, memory=160 * 20)
    assert not tiled.source.held
    assert tiled.memory // (8 * 12 + 64) < tiled.labels.counts().max()
    for number in range(len(EPSILONS)):
        np.testing.assert_array_equal(tiled.mask(number)(0), whole.mask(number)(0))


@given(st.data())
def test_any_rows_any_clusters(data: st.DataObject) -> None:
    n, d = data.draw(st.integers(1, 40)), data.draw(st.integers(2, 6))
    numbers = data.draw(st.lists(st.integers(-3, 3), min_size=n * d, max_size=n * d))
    raw = np.array(numbers, np.float32).reshape(n, d)
    raw[:, 0][~raw.any(axis=1)] = 1.0
    mode = data.draw(st.sampled_from(MODES))
    keep = data.draw(st.sampled_from(ORDERS))
    clusters = data.draw(st.integers(1, n))
    epsilon = data.draw(st.sampled_from([1e-3, 0.02, 0.3, 1.0, 1.7]))
    seed = data.draw(st.integers(0, 5))
    options = DedupOptions(
        clusters, iterations=4, seeding="kmeans++", mode=mode, keep=keep, seed=seed
    )
    run = in_memory(raw, options, (epsilon,), memory=data.draw(st.sampled_from([500, 1 << 20])))
    rows = (raw / np.linalg.norm(raw.astype(np.float64), axis=1)[:, None]).astype(np.float16)
    centroids = centroids_of(run)
    assert np.isfinite(centroids).all()
    expected = dedup_oracle.dedup(
        rows, run.labels.label, centroids, mode=mode, keep=keep, epsilon=epsilon, seed=seed
    )
    np.testing.assert_array_equal(run.mask(0)(0), expected)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("clusters", [1, 6, 40])
@pytest.mark.parametrize("seeding", ["random", "kmeans++"])
def test_kmeans_is_the_definition(data: str, clusters: int, seeding: str) -> None:
    rows = DATA[data]
    run = in_memory(rows, DedupOptions(clusters, iterations=0, seeding=seeding, seed=2), (0.1,))
    seeds = centroids_of(run)
    assert (seeds[:, None] == rows[None]).all(axis=2).any(axis=1).all(), "seeds are rows"
    run = in_memory(rows, DedupOptions(clusters, iterations=7, seeding=seeding, seed=2), (0.1,))
    expected, iterations = dedup_oracle.kmeans(rows, seeds, 7)
    np.testing.assert_array_equal(centroids_of(run), expected)
    assert run.clustering is not None
    assert run.clustering["iterations"] == iterations


def test_similarity_rises_and_is_the_exact_mean() -> None:
    rows = synthetic.clip_like(800, 32)
    source = RowSource(array_store(rows), "error", Watch(), 1 << 30, 100)
    assignment = Assignment(source, Compute(threads=1), np.full(len(rows), NONE, np.int32))
    centroids = Centroids(rows[:10].copy())
    for _ in range(6):
        before = centroids.rows
        centroids = step(centroids, assignment)
        scores = rows.astype(np.float64) @ before.astype(np.float64).T
        total = sum(int(score * 2**48) for score in scores.max(axis=1))
        assert centroids.history[-1] == total / (len(rows) << 48)
    assert list(centroids.history) == sorted(centroids.history)


def test_rows_that_cancel_out_leave_their_centroid_where_it_is() -> None:
    axis = np.eye(4, dtype=np.float16)
    rows = np.concatenate([axis, -axis])
    source = RowSource(array_store(rows), "error", Watch())
    first = np.ones((1, 4), np.float16) / 2
    assignment = Assignment(source, Compute(threads=1), np.full(len(rows), NONE, np.int32))
    moved = step(Centroids(first), assignment)
    np.testing.assert_array_equal(moved.rows, first)
    assert moved.converged


def test_seeds_of_copies_are_all_different_rows() -> None:
    rows = synthetic.adversarial("equal", 6, 8)
    rows[4] = -rows[4]
    seeds = choose_seeds(rows, 6, "kmeans++", 0, Watch())
    assert (seeds == rows[4]).all(axis=1).sum() == 1


def test_no_row_is_drawn_twice() -> None:
    """Even where all norms are a little below 1, so that no row is at distance 0 from itself."""
    rows = np.full((30, 64), np.float16(0.1249))
    rows[np.arange(30), np.arange(30)] = np.float16(0.125)
    seeds = choose_seeds(rows, 30, "kmeans++", 0, Watch())
    assert len(np.unique(seeds, axis=0)) == 30


def test_far_rows_are_drawn_more_often_by_plus_plus() -> None:
    near = synthetic.adversarial("near-ties", 99, 16)
    sample = np.concatenate([near, -near[:1]])
    drawn = [choose_seeds(sample, 2, "kmeans++", seed, Watch()) for seed in range(40)]
    assert sum((seeds == sample[-1]).all(axis=1).any() for seeds in drawn) >= 38
    drawn = [choose_seeds(sample, 2, "random", seed, Watch()) for seed in range(3)]
    assert all(np.array_equal(seeds, sample[:2]) for seeds in drawn)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("threads", [1, 2])
def test_no_kernel_thread_or_block_changes_a_result(kernel: str, threads: int) -> None:
    rows = np.concatenate([DATA["crowd"], unit_rows(150, 12, 9)])  # some clusters for the C++ way
    options: dict[str, Any] = {"clusters": 2, "iterations": 5, "audit": 30, "keep": "centroid-far"}
    expected = dedup(rows, EPSILONS, **options, kernel="numpy", threads=1)
    for block_rows, memory in ((29, 1 << 30), (64, 12_000)):
        found = dedup(
            rows,
            EPSILONS,
            **options,
            kernel=kernel,
            threads=threads,
            block_rows=block_rows,
            memory=memory,
        )
        assert found.clustering == expected.clustering
        for mine, theirs in zip(found.lists, expected.lists, strict=True):
            assert (mine.sizes, mine.audit) == (theirs.sizes, theirs.audit)
            np.testing.assert_array_equal(mine.mask(0), theirs.mask(0))


def test_one_epsilon_alone_or_among_others() -> None:
    rows = DATA["crowd"]
    several = dedup(rows, EPSILONS, clusters=3).lists
    for one in several:
        alone = dedup(rows, one.epsilon, clusters=3).lists[0]
        np.testing.assert_array_equal(alone.mask(0), one.mask(0))
        assert alone.rule == one.rule


def test_shards_of_a_store_are_one_set(tmp_path: Path) -> None:
    rows = DATA["crowd"]
    shards = [rows[:40], rows[40:40], rows[40:], rows[:1]]
    write_store(tmp_path / "store", shards, lambda shard, row: f"{shard}/{row}")
    found = dedup(tmp_path / "store", 0.05, exact=True).lists[0]
    whole = dedup(np.concatenate(shards), 0.05, exact=True).lists[0]
    masks = [found.mask(shard) for shard in range(4)]
    np.testing.assert_array_equal(np.concatenate(masks), whole.mask(0))


def test_bad_rows_are_set_aside_and_never_kept() -> None:
    rows = DATA["crowd"].copy()
    rows[10] = 0
    found = dedup(rows, 0.05, clusters=3).lists[0]
    assert found.sizes["quarantined"] == 1
    assert not found.mask(0)[10]
    rows[20, 3] = np.nan
    with pytest.raises(InputError, match="row 20"):
        dedup(rows, 0.05, clusters=3)
    found = dedup(rows, 0.05, clusters=3, bad_rows="quarantine").lists[0]
    assert found.sizes["quarantined"] == 2
    assert not found.mask(0)[[10, 20]].any()
    without = dedup(np.delete(rows, [10, 20], axis=0), 0.05, exact=True).lists[0]
    exact = dedup(rows, 0.05, exact=True, bad_rows="quarantine").lists[0]
    np.testing.assert_array_equal(np.delete(exact.mask(0), [10, 20]), without.mask(0))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epsilon": 0.0}, UsageError, "epsilon is 0"),
        ({"epsilon": 2.0}, UsageError, "epsilon is 2"),
        ({"epsilon": -0.1}, UsageError, "between 0 and 2"),
        ({"epsilon": float("nan")}, UsageError, "epsilon is nan"),
        ({"epsilon": []}, UsageError, "no epsilon"),
        ({"clusters": 0}, UsageError, "clusters is 0"),
        ({"clusters": 21}, InputError, "21 clusters are more than the 20 rows"),
        ({"clusters": None}, UsageError, "--exact"),
        ({"exact": True}, UsageError, "either"),
        ({"clusters": None, "exact": True, "keep": "centroid-far"}, UsageError, "needs clusters"),
        ({"clusters": None, "exact": True, "audit": 3}, UsageError, "nothing to audit"),
        ({"mode": "gready"}, UsageError, "greedy, chain, components"),
        ({"keep": "last"}, UsageError, "first, centroid-far"),
        ({"seeding": "pca"}, UsageError, "kmeans"),
        ({"sample": 10}, UsageError, "does nothing"),
        ({"seeding": "kmeans++", "sample": 1}, UsageError, "cannot give seeds"),
        ({"iterations": -1}, UsageError, "negative"),
        ({"audit": -1}, UsageError, "audit is -1"),
        ({"bad_rows": "skip"}, UsageError, "bad_rows"),
        ({"memory": 0}, UsageError, "memory is 0"),
        ({"resume": True}, UsageError, "need an output folder"),
        ({"store": np.zeros((0, 4), np.float16)}, InputError, "no rows"),
        ({"store": np.zeros((5, 4), np.float16)}, InputError, "no usable row"),
        (
            {"store": np.eye(5, 4, dtype=np.float16), "clusters": 5},
            InputError,
            "5 clusters are more than the 4 rows",
        ),
        ({"kernel": "abacus"}, UsageError, "unknown kernel"),
    ],
)
def test_what_cannot_be_done_is_said(options: dict[str, Any], error: Any, message: str) -> None:
    arguments: dict[str, Any] = {"store": unit_rows(20, 4, 0), "epsilon": 0.1, "clusters": 2}
    with pytest.raises(error, match=message):
        dedup(**{**arguments, **options})


@pytest.mark.parametrize("epsilon", [np.float64(0.25), np.array([0.25]), [0.25], 0.25])
def test_epsilons_come_in_any_form(epsilon: Any) -> None:
    assert plan_dedup(unit_rows(9, 4, 0), epsilon, exact=True).settings.epsilons == (0.25,)


def test_a_plan_computes_nothing() -> None:
    plan = plan_dedup(unit_rows(100, 8, 0), 0.1, clusters=5, iterations=3, audit=7)
    assert plan.operations == 2 * 100 * 5 * 8 * 4 + 100 * 100 * 8 // 5 + 2 * 7 * 100 * 8
    assert plan_dedup(unit_rows(100, 8, 0), 0.1, exact=True).operations == 100 * 100 * 8
    assert plan.describe()["store"]["rows"] == 100


def test_a_run_can_be_stopped() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        dedup(unit_rows(50, 4, 0), 0.1, clusters=2, stop=stop)


def test_stores_are_read_in_their_own_format(tmp_path: Path) -> None:
    rows = DATA["crowd"].astype(np.float32)
    rows.tofile(tmp_path / "emb.bin")
    np.array([f"{i:05d}" for i in range(len(rows))], "S24").tofile(tmp_path / "paths.bin")
    store = open_store(f"{tmp_path}/emb.bin?dim=12&paths={tmp_path}/paths.bin")
    assert store.format == "semdedup"
    found = dedup(store, 0.05, clusters=3).lists[0]
    same = dedup(rows, 0.05, clusters=3).lists[0]
    np.testing.assert_array_equal(found.mask(0), same.mask(0))
