"""Clusters that others made: what is read of the files that they leave behind.

centroids, a row each   kmeans_centroids.npy of SemDeDup and NeMo Curator, FAISS's kmeans.centroids
labels, a number a row  SemDeDup's nearest_cent.npy, or what FAISS's search gives, (rows, 1);
                        Curator's folder: NAME=C/*.parquet with the ids of the rows of cluster C
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipgap.dedup.labels import NONE
from clipgap.dedup.options import DedupOptions
from clipgap.errors import InputError
from clipgap.files.atomic import sha256_file
from clipgap.files.remote import RemotePath, path_of, source_of
from clipgap.kernels.admit import admit
from clipgap.store.base import Store
from clipgap.store.keys import KEY_NAMES, called_otherwise
from clipgap.store.opening import open_store

_PARTITION = re.compile(r"[a-z_]+=([0-9]{1,9})")
_IDS = ("id", "_curator_dedup_id", *KEY_NAMES)
_SHOWN = 5


@dataclass(frozen=True)
class Given:
    """Clusters as files give them: labels, or centroids whose nearest counts, or both."""

    count: int
    centroids: NDArray[np.float16] | None
    labels: NDArray[np.int32] | None  # of each row of the store; NONE where nothing is said

    @classmethod
    def read(cls, options: DedupOptions, store: Store) -> Given:
        """Refuses what does not fit the store."""
        centroids = labels = None
        if options.centroids is not None:
            centroids = _centroids(options.centroids, store)
        if options.labels is not None:
            labels = _labels(path_of(options.labels), store)
        highest = -1 if labels is None else int(labels.max(initial=-1))
        if centroids is None:
            return cls(highest + 1, None, labels)
        if highest >= len(centroids):
            raise InputError(
                f"{options.labels}: names cluster {highest:,}, but {options.centroids} has "
                f"{len(centroids):,} centroids"
            )
        return cls(len(centroids), centroids, labels)


def cite(path: str) -> dict[str, str]:
    """A file or folder as a manifest names it."""
    if not path_of(path).is_dir():
        return {"path": path, "sha256": sha256_file(path)}
    whole = hashlib.sha256()
    for _, file in _parts(path_of(path)):
        name = file.relative_to(path_of(path)).as_posix()
        whole.update(f"{sha256_file(file)} {name}\n".encode())
    return {"path": path, "sha256": whole.hexdigest()}


def _centroids(path: str, store: Store) -> NDArray[np.float16]:
    """Centroids as rows of a store are taken: of norm 1, rounded to float16 once."""
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder; name the file of centroids in it")
    found = open_store(path)
    if found.dim != store.dim:
        raise InputError(
            f"{path}: centroids of {found.dim:,} dimensions, but rows of {store.path} have "
            f"{store.dim:,}"
        )
    admitted = admit(np.concatenate([found.read(s.index, 0, s.rows) for s in found.shards]))
    if not admitted.ok.all():
        raise InputError.listing(
            f"{path}: these centroids are zero, NaN or infinite:",
            [f"{number:,}" for number in np.flatnonzero(~admitted.ok)[:_SHOWN]],
        )
    return admitted.rows


def _labels(path: Path, store: Store) -> NDArray[np.int32]:
    if path.is_dir():
        return _of_partitions(path, store)
    try:
        mapped: Literal["r"] | None = None if isinstance(path, RemotePath) else "r"
        found = np.load(source_of(path), mmap_mode=mapped, allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # of a damaged header NumPy raises whatever comes to its parsers
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu":
        raise InputError(f"{path}: labels are whole numbers, in an array of their own")
    if found.shape not in ((store.rows,), (store.rows, 1)):
        raise InputError(
            f"{path}: has the shape {found.shape}, but {store.path} has {store.rows:,} rows; "
            "labels are one number a row"
        )
    if found.size and (found.min() < NONE or found.max() >= np.iinfo(np.int32).max):
        raise InputError(f"{path}: holds labels that are no numbers of clusters, from 0 on")
    return found.reshape(-1).astype(np.int32)


def _of_partitions(path: Path, store: Store) -> NDArray[np.int32]:
    """Labels by the names of folders; rows are named by number or by key."""
    label = np.full(store.rows, NONE, np.int32)
    ids, clusters = [], []
    for cluster, file in _parts(path):
        try:
            schema = pq.read_schema(source_of(file))
            column = next((name for name in _IDS if name in schema.names), None)
            if column is None:
                raise InputError(
                    f"{file}: names no rows: it has {', '.join(schema.names)}, and none of "
                    f"{', '.join(_IDS)}"
                )
            found = pq.read_table(source_of(file), columns=[column], partitioning=None)[column]
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {file}: {error}") from error
        ids.append(found.combine_chunks())
        clusters.append(np.full(len(found), cluster, np.int32))
    if not ids:
        raise InputError(f"{path}: holds no NAME=CLUSTER/*.parquet, as NeMo Curator writes them")
    if len({one.type for one in ids}) > 1:
        raise InputError(f"{path}: names rows by ids of several types")
    named, of = pa.concat_arrays(ids), np.concatenate(clusters)
    find = _numbers if pa.types.is_integer(named.type) else _rows_of_keys
    try:
        rows = find(path, named, store)
    except pa.ArrowException as error:
        raise InputError(f"{path}: ids must be whole numbers or keys: {error}") from error
    if len(np.unique(rows)) != len(rows):
        raise InputError(f"{path}: names rows more than once")
    label[rows] = of
    return label


def _numbers(path: Path, ids: pa.Array, store: Store) -> NDArray[np.int64]:
    rows: NDArray[np.int64] = ids.cast(pa.int64()).to_numpy(zero_copy_only=False)
    if len(rows) and (ids.null_count or rows.min() < 0 or rows.max() >= store.rows):
        raise InputError(
            f"{path}: has ids that are no row of {store.path}, with {store.rows:,} rows"
        )
    return rows


def _rows_of_keys(path: Path, ids: pa.Array, store: Store) -> NDArray[np.int64]:
    """The row of each id, which is the key of one."""
    if not store.has_keys:
        raise InputError(f"{path}: names rows by keys, but {store.path} has none")
    ids = ids.cast(pa.string())
    rows, times, offset = np.full(len(ids), -1, np.int64), np.zeros(len(ids), np.int64), 0
    for shard in store.shards:
        keys = store.keys(shard.index, 0, shard.rows)
        place = pc.index_in(keys, value_set=ids).fill_null(-1).to_numpy(zero_copy_only=False)
        known = np.flatnonzero(place >= 0)
        rows[place[known]] = offset + known
        np.add.at(times, place[known], 1)
        offset += shard.rows
    if (times != 1).any():
        wrong = ids.take(pa.array(np.flatnonzero(times != 1)[:_SHOWN])).to_pylist()
        raise InputError.listing(
            f"{path}: these ids are the key of no row of {store.path}, or of several"
            f"{called_otherwise(store.first_key(), ids)}:",
            [repr(key) for key in wrong],
        )
    return rows


def _parts(path: Path) -> Iterator[tuple[int, Path]]:
    """The tables of Curator's folder with the cluster that each is of."""
    for file in sorted(path.glob("*/*.parquet")):
        if found := _PARTITION.fullmatch(file.parent.name):
            yield int(found[1]), file
