"""Clusters that others made: their files are read, and sets compared on the very same clusters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import clipgap
from clipgap.__main__ import main
from clipgap.dedup.options import ORDERS, DedupOptions
from clipgap.errors import InputError, ResumeError, UsageError
from clipgap.keep.lists import open_keep
from tests import dedup_oracle
from tests.test_dedup import DATA
from tests.worlds import edited_manifest, write_store

ROWS = DATA["crowd"].copy()
ROWS[[10, 60]] = np.float16([3, -1] * 6) / np.float16(60**0.5)  # equal, and far from all others
SHARDS = (70, 0, 80)
CENTROIDS = np.concatenate([ROWS[[3, 40, 90, 120]], -ROWS[:1]])
K = len(CENTROIDS)


def labels_by(centroids: NDArray[Any]) -> NDArray[np.int64]:
    scores = ROWS.astype(np.float64) @ centroids.astype(np.float64).T
    return scores.argmax(axis=1)


def clusters() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The cluster of each row, and how far the row is from its centroid."""
    label = labels_by(CENTROIDS)
    own = CENTROIDS[label].astype(np.float64)
    return label, 1.0 - np.einsum("ij,ij->i", ROWS.astype(np.float64), own)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and clusters of its rows in everybody's form; one cluster is empty."""
    folder = tmp_path_factory.mktemp("given")
    parts = np.split(ROWS, np.cumsum(SHARDS)[:-1])
    write_store(folder / "store", parts, lambda shard, row: f"{shard}-{row:03d}")
    label, _ = clusters()
    np.save(folder / "kmeans_centroids.npy", CENTROIDS.astype(np.float32))
    np.save(folder / "nearest_cent.npy", label)
    np.save(folder / "faiss.npy", label[:, None].astype(np.int32))
    keys = [f"{s}-{row:03d}" for s, rows in enumerate(SHARDS) for row in range(rows)]
    for kind, ids in (("numbers", np.arange(len(ROWS))), ("keys", np.array(keys))):
        for cluster in range(K):
            part = folder / kind / f"nearest_cent={cluster}"
            part.mkdir(parents=True)
            mine = np.flatnonzero(label == cluster)[::-1]
            pq.write_table(pa.table({"id": ids[mine]}), part / "part.0.parquet")
    return folder


def kept(folder: Path, **options: Any) -> NDArray[np.bool_]:
    found = clipgap.dedup(folder / "store", 0.05, **options).lists[0]
    return np.concatenate([found.mask(shard) for shard in range(len(SHARDS))])


@pytest.mark.parametrize("keep", ORDERS)
@pytest.mark.parametrize("mode", ["greedy", "chain"])
def test_the_same_clusters_give_the_same_set(made: Path, mode: str, keep: str) -> None:
    centroids = np.load(made / "kmeans_centroids.npy").astype(np.float16)
    label = np.load(made / "nearest_cent.npy")
    rule = {"mode": mode, "keep": keep, "seed": 3}
    expected = dedup_oracle.dedup(ROWS, label, centroids, epsilon=0.05, **rule)
    file = {"centroids": str(made / "kmeans_centroids.npy")}
    assert np.array_equal(kept(made, **file, **rule), expected)
    needed = file if keep.startswith("centroid") else {}
    for name in ("nearest_cent.npy", "faiss.npy", "numbers", "keys"):
        assert np.array_equal(kept(made, labels=str(made / name), **needed, **rule), expected)
    assert expected.sum() < len(ROWS)


def test_what_faiss_makes_is_taken(made: Path, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    wide = ROWS.astype(np.float32)
    kmeans = faiss.Kmeans(ROWS.shape[1], 4, niter=5, spherical=True, seed=1, verbose=False)
    kmeans.train(wide)
    _, nearest = kmeans.index.search(wide, 1)
    files = {"centroids": kmeans.centroids, "labels": nearest}
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array)
    rounded = kmeans.centroids.astype(np.float16)
    rule = {"mode": "greedy", "keep": "first", "seed": 0}
    for name, label in (("centroids", labels_by(rounded)), ("labels", nearest[:, 0])):
        expected = dedup_oracle.dedup(ROWS, label, rounded, epsilon=0.05, **rule)
        found = kept(made, **{name: str(tmp_path / f"{name}.npy")}, **rule)
        assert np.array_equal(found, expected) and not expected.all()


def test_labels_need_not_be_those_of_the_centroids(made: Path, tmp_path: Path) -> None:
    label = np.arange(len(ROWS)) % K
    np.save(tmp_path / "l.npy", label)
    centroids = np.load(made / "kmeans_centroids.npy")
    rule = {"mode": "chain", "keep": "centroid-far", "seed": 0}
    files = {"labels": str(tmp_path / "l.npy"), "centroids": str(made / "kmeans_centroids.npy")}
    expected = dedup_oracle.dedup(ROWS, label, centroids.astype(np.float16), epsilon=0.05, **rule)
    assert np.array_equal(kept(made, **files, **rule), expected)


def curator(order: int, label: NDArray[Any], far: NDArray[Any]) -> NDArray[np.float64]:
    """What NeMo Curator says of each row: its highest score with a row of its cluster before it.

    Rows of a cluster are ranked by distance from the centroid, then by id, both falling ("hard",
    order -1) or both rising ("easy", 1). A row goes if what is said of it is at least 1 - epsilon.
    Curator itself is held against this in tests/clients/test_curator.py.
    """
    best = np.zeros(len(label))
    for cluster in range(K):
        ids = np.flatnonzero(label == cluster)
        ids = ids[np.lexsort((order * ids, order * far[ids]))]
        scores = ROWS[ids].astype(np.float64) @ ROWS[ids].astype(np.float64).T
        best[ids] = np.triu(scores, 1).max(axis=0, initial=0.0)
    return best


def reached(best: NDArray[np.float64]) -> float:
    """An epsilon such that a row scores exactly 1 - epsilon."""
    return 1.0 - next(
        score for score in best if 0.9 < score < 0.99 and 1.0 - (1.0 - score) == score
    )


@pytest.mark.parametrize(("keep", "order"), [("centroid-far", -1), ("centroid-near", 1)])
def test_ties_as_curator_has_them(made: Path, tmp_path: Path, keep: str, order: int) -> None:
    """There are copies of a row, too."""
    best = curator(order, *clusters())
    epsilon = reached(best)
    expected = best < 1.0 - epsilon
    files = {
        name: str(made / f"{file}.npy")
        for name, file in (("labels", "nearest_cent"), ("centroids", "kmeans_centroids"))
    }
    out = tmp_path / "k"
    rule = {"mode": "chain", "keep": keep, **files}
    clipgap.dedup(made / "store", epsilon, ties="curator", out=out, **rule)
    list_ = open_keep(out)
    bits = np.concatenate([list_.bits(shard) for shard in range(len(SHARDS))])
    assert np.array_equal(bits, expected)
    plain = clipgap.dedup(made / "store", epsilon, **rule).lists[0]
    assert not np.array_equal(bits, np.concatenate([plain.mask(s) for s in range(len(SHARDS))]))
    assert clipgap.verify(out).ok
    with edited_manifest(out) as manifest:
        del manifest["rule"]["ties"]
    assert not clipgap.verify(out).ok


@pytest.mark.parametrize("name", ["nearest_cent.npy", "numbers"])
def test_proved_and_resumed_on_the_files(
    made: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / name
    if name == "numbers":
        shutil.copytree(made / name, given)
    else:
        shutil.copy(made / name, given)
    out = tmp_path / "k"
    command = ["dedup", str(made / "store"), "--epsilon", "0.05", "--labels", str(given)]
    assert main([*command, "--dry-run"]) == 0
    assert f"those of {given}" in capsys.readouterr().out
    assert main([*command, "-o", str(out)]) == 0
    assert "as the files say" in capsys.readouterr().out
    rule = json.loads((out / "manifest.json").read_text())["rule"]
    assert rule["clustering"]["labels"]["path"] == str(given) and "ties" not in rule
    report = clipgap.verify(out)
    assert report.ok, report
    assert main([*command, "-o", str(out), "--resume"]) == 0
    if name == "numbers":
        next(iter(given.rglob("*.parquet"))).unlink()
    else:
        np.save(given, np.roll(np.load(given), 1))
    with pytest.raises(InputError, match="is no longer the file whose clusters"):
        clipgap.verify(out)
    with pytest.raises((InputError, ResumeError)):
        clipgap.dedup(made / "store", 0.05, labels=str(given), out=out, resume=True)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(149, np.int64), r"has the shape \(149,\), but .* has 150 rows"),
        (np.zeros((150, 2), np.int64), "one number a row"),
        (np.zeros(150), "whole numbers"),
        (np.full(150, -2), "no numbers of clusters"),
        (np.where(np.arange(150) == 71, -1, 0), "gives row 71, counted through all"),
        (np.full(150, 2**40), "no numbers of clusters"),
        (np.array([None] * 150), "cannot read"),
    ],
)
def test_labels_that_do_not_fit(
    made: Path, tmp_path: Path, array: NDArray[Any], reason: str
) -> None:
    np.save(tmp_path / "l.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=reason):
        kept(made, labels=str(tmp_path / "l.npy"))


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (None, "no NAME=CLUSTER"),
        ([0, 150], "no row of"),
        ([0, 0], "more than once"),
        (["0-000", "nobody"], "'nobody'"),
        (["/x/0-000"], "if '/x/0-000' is '0-000', take '/x/' off them"),
        ([0, 1], "gives row 2"),
    ],
)
def test_folders_that_do_not_fit(
    made: Path, tmp_path: Path, ids: list[Any] | None, reason: str
) -> None:
    (tmp_path / "f/centroid=0").mkdir(parents=True)
    if ids is not None:
        pq.write_table(pa.table({"id": ids}), tmp_path / "f/centroid=0/0.parquet")
    with pytest.raises(InputError, match=reason):
        kept(made, labels=str(tmp_path / "f"))


def test_centroids_that_do_not_fit(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.npy"
    np.save(path, np.ones((2, 7)))
    with pytest.raises(InputError, match=r"7 dimensions, but rows of .* have 12"):
        kept(made, centroids=str(path))
    np.save(path, np.zeros((2, 12)))
    with pytest.raises(InputError, match="zero, NaN or infinite"):
        kept(made, centroids=str(path))
    np.save(path, np.ones((2, 12)))
    with pytest.raises(InputError, match=r"names cluster 3, but .* has 2 centroids"):
        kept(made, centroids=str(path), labels=str(made / "nearest_cent.npy"))
    with pytest.raises(InputError, match="cannot read"):
        kept(made, labels=str(tmp_path / "nothing.npy"))
    with pytest.raises(InputError, match="is a folder; name the file of centroids"):
        kept(made, centroids=str(tmp_path))
    with pytest.raises(UsageError, match="needs centroids beside the labels"):
        DedupOptions(labels="x", keep="centroid-far")
    with pytest.raises(UsageError, match="clusters of others"):
        DedupOptions(4, labels="x")
