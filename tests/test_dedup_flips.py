"""Decisions that rounded scores change, against all pairs scored one product after another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import clipgap
from clipgap.__main__ import main
from clipgap.dedup import work
from clipgap.dedup.options import ARITHMETICS, DedupOptions
from clipgap.errors import Interrupted
from clipgap.keep.lists import open_keep
from clipgap.runs.how import Progress
from clipgap.study.run import Study
from tests import dedup_oracle
from tests.test_dedup import DATA, crowd, in_memory
from tests.worlds import edited_manifest


def couples(n: int, d: int) -> NDArray[np.float16]:
    """Rows that are like one other each, more or less."""
    random = np.random.default_rng(5)
    ones = random.normal(size=(n, d))
    twos = ones + random.normal(size=(n, d)) * 0.2
    rows = np.concatenate([ones, twos])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


ROWS = np.concatenate([crowd(100, 12, 4), couples(30, 12)])


def rounded_scores(rows: NDArray[np.float16], to: str) -> NDArray[np.float64]:
    scores = np.zeros((len(rows), len(rows)), np.float32)
    for column in rows.T:
        scores += np.outer(column.astype(np.float32), column.astype(np.float32))
    return scores.astype(to).astype(np.float64)


def at_the_edge(rows: NDArray[np.float16]) -> list[float]:
    """Epsilons whose limit is a score that a sum in float32 has too high, or just below one that
    it has too low: nothing but the rounding decides whether two rows, with no nearer ones, stay."""
    exact, single = dedup_oracle.exact_scores(rows), rounded_scores(rows, "float32")
    np.fill_diagonal(exact, 0)
    best = exact.max(axis=0)
    near = np.triu((exact == best) & (exact == best[:, None]))
    high, low = near & (single > exact), near & (single < exact)
    return [*(1.0 - exact[high])[:3], *(1.0 - exact[low] + 2.0**-48)[:3]]


def brute(rows: NDArray[np.float16], run: Any, epsilon: float, **said: Any) -> dict[str, Any]:
    centroids = None if run.centroids is None else run.centroids.rows
    decide = partial(
        dedup_oracle.dedup, rows, run.labels.label, centroids, epsilon=epsilon, seed=3, **said
    )
    exact, flips = ~decide(), {}
    for name in ARITHMETICS:
        gone = ~decide(scores=partial(rounded_scores, to=name))
        flips[name] = {
            "removed": int(gone.sum()),
            "only_exact": int((exact & ~gone).sum()),
            "only_rounded": int((gone & ~exact).sum()),
        }
    return flips


@pytest.mark.parametrize("mode", ["greedy", "chain", "components"])
@pytest.mark.parametrize(("clusters", "memory"), [(None, 1 << 30), (3, 1 << 30), (3, 160 * 20)])
def test_counts_are_those_of_all_pairs(mode: str, clusters: int | None, memory: int) -> None:
    keep = "random" if clusters is None else "centroid-far"
    options = DedupOptions(
        clusters, clusters is None, iterations=2, mode=mode, keep=keep, seed=3, flips=True
    )
    epsilons = (0.01, *at_the_edge(ROWS))
    run = in_memory(ROWS, options, epsilons, memory)
    found = run.found["flips"]
    for epsilon in run.plan.settings.epsilons:
        assert found[str(epsilon)] == brute(ROWS, run, epsilon, mode=mode, keep=keep)
    for name in ARITHMETICS if clusters is None and mode == "chain" else ():
        for kind in ("only_exact", "only_rounded"):
            assert any(flips[name][kind] for flips in found.values()), "the data shows none"


@pytest.mark.parametrize("data", ["equal", "duplicates", "isotropic"])
def test_copies_and_strangers(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_AT_ONCE", 5)
    monkeypatch.setattr(work.Comparison, "block", 16)
    rows = DATA[data]
    run = in_memory(rows, DedupOptions(exact=True, seed=3, flips=True))
    for epsilon in run.plan.settings.epsilons:
        expected = brute(rows, run, epsilon, mode="greedy", keep="first")
        assert run.found["flips"][str(epsilon)] == expected


def test_tainted_rows_that_are_alone_go_in_any_arithmetic(tmp_path: Path) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, couples(20, 12))
    tainted = clipgap.dedup(rows, 0.05, exact=True, out=tmp_path / "tainted").lists[0]
    assert tainted.keep is not None
    said = {"exact": True, "mode": "components", "tainted": str(tainted.keep.path)}
    found = clipgap.dedup(rows, 1e-6, **said, flips=True).lists[0]
    removed = tainted.sizes["removed"]
    nothing = {"removed": removed, "only_exact": 0, "only_rounded": 0}
    assert removed
    assert found.flips == dict.fromkeys(ARITHMETICS, nothing)


def test_it_goes_on_and_is_proved(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    options = {"clusters": 3, "iterations": 2, "threads": 1, "flips": True}

    def stopping(progress: Progress) -> None:
        if progress.stage == "comparing in float32":
            raise Interrupted("stopped")

    store, keep = tmp_path / "rows.npy", tmp_path / "keep"
    with pytest.raises(Interrupted):
        clipgap.dedup(store, 0.01, out=keep, on_progress=stopping, **options)
    clipgap.dedup(store, 0.01, out=keep, resume=True, **options)
    plain = clipgap.dedup(store, 0.01, **{**options, "flips": False}).lists[0]
    assert plain.flips is None
    np.testing.assert_array_equal(open_keep(keep).bits(0), plain.mask(0))
    assert clipgap.verify(keep).ok
    with edited_manifest(keep) as manifest:
        manifest["flips"]["float16"]["only_rounded"] += 1
    (wrong,) = [check for check in clipgap.verify(keep).checks if not check.ok]
    assert (wrong.name, "flips" in wrong.detail) == ("sizes", True)


def test_the_recipe_says_what_would_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    places = {"store": str(tmp_path / "rows.npy"), "clusters": 3}
    study = Study("zero-flip", tmp_path / "study", places)
    for step in study.plan().steps:
        assert main([*step.stage.command.words, *step.stage.arguments]) == 0, step.call
    assert "Decisions that rounded scores would change" in capsys.readouterr().out
    expected = clipgap.dedup(
        ROWS, 0.01, clusters=3, mode="chain", keep="centroid-far", ties="curator", flips=True
    )
    manifest = open_keep(tmp_path / "study" / "decided").manifest
    assert manifest["flips"] == expected.lists[0].flips
