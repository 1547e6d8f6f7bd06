"""Small stores with every kind of trouble in them, and what a scan of them must say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipgap.files.documents import MANIFEST, SUM, checksum, encode
from clipgap.kernels.choose import available_kernels

KERNELS = [info.name for info in available_kernels() if info.available]
SHARDS = (90, 0, 133, 1, 64)


def unit_rows(n: int, d: int, seed: int) -> NDArray[np.float16]:
    """Rows in a cone, so that scores are high and close together."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(n, d)) + 1.0
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def troubled_rows(n: int, d: int, seed: int) -> NDArray[np.float16]:
    """As `unit_rows`, with duplicates and with neighbours one float16 step apart."""
    rows = unit_rows(n, d, seed)
    twin = unit_rows(1, d, 99)[0]
    rows[::7] = twin
    rows[3::7] = twin
    rows[3::7, 0] = np.nextafter(twin[0], np.float16(2))
    return rows


@dataclass
class World:
    """A training store with keys, test sets and a reference, on disk and in memory."""

    folder: Path
    shards: list[NDArray[np.float16]]
    tests: dict[str, NDArray[np.float16]]
    reference: NDArray[np.float16]
    paths: dict[str, Path] = field(default_factory=dict)

    @property
    def train(self) -> Path:
        return self.folder / "train"

    @property
    def rows(self) -> NDArray[np.float16]:
        return np.concatenate(self.shards)

    def key(self, shard: int, row: int) -> str:
        return f"{shard:02d}-{row:05d}"

    def write(self) -> World:
        write_store(self.train, self.shards, self.key)
        for name, rows in {**self.tests, "reference": self.reference}.items():
            self.paths[name] = self.folder / f"{name}.npy"
            np.save(self.paths[name], rows)
        return self

    @property
    def test_paths(self) -> dict[str, Path]:
        return {name: self.paths[name] for name in self.tests}


def write_store(folder: Path, shards: Sequence[NDArray[Any]], key: Any) -> None:
    """A clip-retrieval folder."""
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for i, rows in enumerate(shards):
        np.save(folder / "img_emb" / f"img_emb_{i}.npy", rows)
        keys = pa.array([key(i, row) for row in range(len(rows))], pa.string())
        pq.write_table(
            pa.table({"image_path": keys}), folder / "metadata" / f"metadata_{i}.parquet"
        )


def make_world(folder: Path, shards: Sequence[int] = SHARDS, d: int = 17, seed: int = 0) -> World:
    folder.mkdir(parents=True, exist_ok=True)
    return World(
        folder=folder,
        shards=[troubled_rows(n, d, seed + i) for i, n in enumerate(shards)],
        tests={"a": troubled_rows(31, d, 50), "b.2-x": troubled_rows(5, d, 51)},
        reference=troubled_rows(40, d, 52),
    ).write()


@dataclass(frozen=True)
class Truth:
    """One test set's exact results by NumPy, straight from the definition."""

    sim: NDArray[np.float64]  # (N,)
    nn: NDArray[np.int64]
    top: NDArray[np.int64]  # (M, min(k, N)), training ids
    top_sim: NDArray[np.float64]
    margin: NDArray[np.float64] | None = None
    witness: NDArray[np.int64] | None = None


def truth(
    rows: NDArray[np.float16],
    test: NDArray[np.float16],
    k: int,
    tau: NDArray[np.float64] | None = None,
) -> Truth:
    scores = rows.astype(np.float64) @ test.astype(np.float64).T
    top = np.argsort(-scores.T, axis=1, kind="stable")[:, :k]
    parts = [scores.max(axis=1), scores.argmax(axis=1), top, np.take_along_axis(scores.T, top, 1)]
    if tau is None:
        return Truth(*parts)
    return Truth(*parts, (scores - tau).max(axis=1), (scores - tau).argmax(axis=1))


def thresholds(reference: NDArray[np.float16], test: NDArray[np.float16]) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = reference.astype(np.float64) @ test.astype(np.float64).T
    return scores.max(axis=0)


def tree(folder: Path) -> dict[str, str]:
    """Every file under a folder, with a digest of its content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def flip_bit(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@contextmanager
def edited_document(path: Path) -> Iterator[dict[str, Any]]:
    """A document of ours, to be changed, written again with a checksum that holds."""
    document: dict[str, Any] = json.loads(path.read_bytes())
    yield document
    document[SUM] = checksum(document)
    path.write_bytes(encode(document))


def edited_manifest(folder: Path) -> AbstractContextManager[dict[str, Any]]:
    """The same for the manifest of a folder."""
    return edited_document(folder / MANIFEST)
