"""Small stores in every format, for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

DIM = 12


def unit_rows(rows: int, seed: int = 0, dim: int = DIM) -> NDArray[np.float16]:
    """Float16 rows of norm 1, different for each seed."""
    raw = np.random.default_rng(seed).standard_normal((rows, dim))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


def keys_of(shard: int, rows: int) -> list[str]:
    return [f"{shard:05d}{row:04d}" for row in range(rows)]


def write_clip_retrieval(
    folder: Path, sizes: Sequence[int], *, pad: int = 0, images: str = "img_emb"
) -> list[NDArray[np.float16]]:
    """`img_emb_N.npy` with `metadata_N.parquet`; shard N is seeded with N."""
    (folder / images).mkdir(parents=True)
    (folder / "metadata").mkdir()
    blocks = [unit_rows(rows, seed) for seed, rows in enumerate(sizes)]
    for number, block in enumerate(blocks):
        np.save(folder / images / f"img_emb_{number:0{pad}d}.npy", block)
        write_keys(
            folder / "metadata" / f"metadata_{number:0{pad}d}.parquet",
            "image_path",
            keys_of(number, len(block)),
        )
    return blocks


def write_keys(path: Path, column: str, keys: Sequence[str], row_group: int = 7) -> None:
    table = pa.table({"caption": ["a photo"] * len(keys), column: pa.array(keys, pa.string())})
    pq.write_table(table, path, row_group_size=row_group)
