"""The files that SemDeDup leaves behind, for what is built on them.

FOLDER/kmeans_centroids.npy             (clusters, d) float32
FOLDER/nearest_cent.npy                 (rows,) int64: the cluster of each row, -1 where set aside
FOLDER/dist_to_cent.npy                 (rows,) float32: similarity to the centroid
FOLDER/sorted_clusters/cluster_C.npy    one line of text fields a row, farthest from the centroid
                                        first: path, row of the store, cosine distance, cluster
FOLDER/kept_eps=E.txt                   the paths that one epsilon keeps, cluster by cluster

SemDeDup's tables of decisions are pickles, which clipgap neither reads nor writes; the lists of
paths say what is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError, UsageError
from clipgap.files.atomic import write_atomic
from clipgap.store.base import Store

if TYPE_CHECKING:
    from clipgap.dedup.run import Run

_SORTED = "sorted_clusters"
_ROWS_AT_ONCE = 1 << 20


def write_semdedup(folder: Path, run: Run, overwrite: bool) -> None:
    """Write them all; files of earlier runs in the folder are replaced only if that is wanted."""
    centroids, store = run.centroids, run.plan.store
    if centroids is None:
        raise UsageError("SemDeDup's files tell of clusters by centroids; this search has none")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise InputError(f"{folder} is not empty; name another folder or give --overwrite")
    try:
        (folder / _SORTED).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error}") from error
    labels = run.labels
    _save(folder / "kmeans_centroids.npy", centroids.rows.astype(np.float32))
    _save(folder / "nearest_cent.npy", labels.label.astype(np.int64))
    _save(folder / "dist_to_cent.npy", labels.sim.astype(np.float32))
    with ExitStack() as files:
        lists = []
        for epsilon in run.plan.settings.epsilons:
            path = files.enter_context(write_atomic(_list_name(folder, epsilon)))
            lists.append(files.enter_context(path.open("wb")))
        for group in labels.groups(_ROWS_AT_ONCE):
            run.source.watch.check()
            members = labels.members(group)
            names = _names(store, members)
            of = labels.label[members]
            for cluster in group:
                here = np.flatnonzero(of == cluster)
                here = here[np.argsort(labels.sim[members[here]], kind="stable")]
                ids, paths = members[here], names[here]
                table = _table(paths, ids, labels.sim[ids], cluster)
                _save(folder / _SORTED / f"cluster_{cluster}.npy", table)
                for number, file in enumerate(lists):
                    kept = paths[~run.dropped[number, ids]]
                    file.write(b"".join(name + b"\n" for name in kept.tolist()))


def require_written(folder: Path, epsilons: Sequence[float]) -> None:
    """Refuse if the files are wanted of a run that is over, and whose clusters are gone."""
    if not all(_list_name(folder, epsilon).exists() for epsilon in epsilons):
        raise InputError(
            f"the keep-list is complete, but {folder} has not all of SemDeDup's files, and the "
            "clusters were not kept. Give --overwrite to make all of it again."
        )


def _list_name(folder: Path, epsilon: float) -> Path:
    return folder / f"kept_eps={epsilon!r}.txt"


def _table(
    paths: NDArray[np.object_], ids: NDArray[np.int64], sim: NDArray[np.float64], cluster: int
) -> NDArray[np.bytes_]:
    """All fields as text, since that is what NumPy makes of a list of mixed ones."""
    far = 1.0 - sim.astype(np.float32)
    rows = zip(paths.tolist(), ids.tolist(), far, strict=True)
    fields = [[path, f"{row}", f"{distance}", f"{cluster}"] for path, row, distance in rows]
    return np.array(fields, np.bytes_).reshape(len(fields), 4)


def _names(store: Store, ids: NDArray[np.int64]) -> NDArray[np.object_]:
    """The keys of some rows, ascending, as bytes; their numbers if the store has no keys."""
    names = np.empty(len(ids), np.object_)
    if not store.has_keys:
        names[:] = [str(row).encode() for row in ids.tolist()]
        return names
    first = 0
    for shard in store.shards:
        here = slice(*np.searchsorted(ids, [first, first + shard.rows]).tolist())
        keys = store.take_keys(shard.index, ids[here] - first)
        assert keys is not None
        names[here] = [key.encode() for key in keys.to_pylist()]
        first += shard.rows
    return names


def _save(path: Path, array: NDArray[Any]) -> None:
    with write_atomic(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
