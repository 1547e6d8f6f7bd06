"""Shards and images."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from clipgap.clip.images.decoding import decode
from clipgap.clip.images.tables import find_tables
from clipgap.shards.finding import find_shards
from clipgap.shards.names import keys_in, names_in
from clipgap.shards.samples import read_samples
from tests.clip_worlds import encoded
from tests.readers.reader import Reader
from tests.shards import FORMATS, sample, tar_bytes, write_datacomp


def make_shard(folder: Path) -> list[bytes]:
    entries = [entry for key in ("a", "b", "c") for entry in sample(key, sizes=(90, 40))]
    (folder / "0.tar").write_bytes(tar_bytes(entries))
    (folder / "0_stats.json").write_text('{"successes": 3}')
    return [tar_bytes(entries, FORMATS[name]) for name in ("ustar", "gnu")]


def make_listed(folder: Path) -> None:
    write_datacomp(folder, {"0": ["ab", "cd", "ef"]})


def read_shards(folder: Path) -> None:
    """Every way through a shard; damage is told to whoever asks, and is no error."""
    for shard in find_shards(folder):
        list(read_samples(shard, on_problem=lambda problem: None))
        keys_in(shard)
        names_in(shard, "uid")


def make_pictures(folder: Path) -> list[bytes]:
    image = Image.new("RGB", (8, 6), "red")
    (folder / "image").write_bytes(encoded(image))
    return [encoded(image, form) for form in ("PNG", "WEBP", "GIF", "BMP")]


def make_image_table(folder: Path) -> None:
    table = pa.table({"image": [{"bytes": b"x", "path": "a"}] * 5, "caption": ["a"] * 5})
    pq.write_table(table, folder / "x.parquet")


def read_image_table(folder: Path) -> None:
    for table in find_tables(folder / "x.parquet"):
        list(table.images(lambda problem: None))


READERS = [
    Reader("tar shard", "0.tar", make_shard, read_shards),
    Reader("statistics of a shard", "0_stats.json", make_shard, read_shards),
    Reader("table of a shard", "0.parquet", make_listed, read_shards),
    Reader("image", "image", make_pictures, lambda f: decode((f / "image").read_bytes(), "image")),
    Reader("images in parquet", "x.parquet", make_image_table, read_image_table),
]
