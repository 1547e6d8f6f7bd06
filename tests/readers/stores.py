"""Embeddings: one entry a format, and what lies beside them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipgap.store.opening import open_store
from clipgap.store.writer import StoreWriter
from tests.readers.reader import Reader
from tests.stores import DIM, keys_of, unit_rows, write_keys


def read_all(source: str | Path) -> None:
    store = open_store(source)
    for shard in store.shards:
        store.read(shard.index, 0, shard.rows)
        if store.has_keys:
            store.keys(shard.index, 0, shard.rows)


def packed(kind: int) -> bytes:
    held, array = io.BytesIO(), io.BytesIO()
    np.save(array, unit_rows(30))
    with zipfile.ZipFile(held, "w", kind) as archive:
        archive.writestr("b32_img.npy", array.getvalue())
    return held.getvalue()


def make_npz(folder: Path) -> list[bytes]:
    (folder / "x.npz").write_bytes(packed(zipfile.ZIP_STORED))
    return [packed(kind) for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)]


def make_keys(folder: Path) -> None:
    make_npz(folder)
    write_keys(folder / "x.parquet", "uid", keys_of(0, 30))


def embeddings() -> Any:
    rows = unit_rows(30).astype(np.float32).tolist()
    return pa.table({"uid": keys_of(0, 30), "embedding": rows})


def make_table(folder: Path) -> None:
    pq.write_table(embeddings(), folder / "x.parquet")


def make_arrow(folder: Path) -> None:
    with pa.ipc.new_stream(str(folder / "data.arrow"), embeddings().schema) as stream:
        stream.write_table(embeddings(), max_chunksize=7)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')


def make_safetensors(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"rows": unit_rows(30)}, folder / "x.safetensors")


def make_own(folder: Path) -> None:
    with StoreWriter(folder / "store", DIM) as writer:
        writer.add(unit_rows(9), keys_of(0, 9))


def make_lance(folder: Path) -> None:
    import lance

    lance.write_dataset(embeddings(), str(folder / "set.lance"))
    (data,) = (folder / "set.lance/data").glob("*.lance")
    (version,) = (folder / "set.lance/_versions").glob("*.manifest")
    (folder / "data.lance").symlink_to(data)
    (folder / "version").symlink_to(version)


def make_raw(folder: Path) -> None:
    (folder / "rows.bin").write_bytes(unit_rows(6).astype("<f4").tobytes())
    (folder / "paths.bin").write_bytes(np.array(keys_of(0, 6), "S24").tobytes())


def read_raw(folder: Path) -> None:
    read_all(f"{folder}/rows.bin?dim={DIM}&paths=paths.bin")


READERS = [
    Reader("npy", "x.npy", lambda folder: np.save(folder / "x.npy", unit_rows(30)), read_all),
    Reader("npz", "x.npz", make_npz, read_all),
    Reader("keys in parquet", "x.parquet", make_keys, read_all),
    Reader("store in parquet", "x.parquet", make_table, read_all),
    Reader("store in arrow", "data.arrow", make_arrow, read_all),
    Reader("state of datasets", "state.json", make_arrow, read_all),
    Reader("store in safetensors", "x.safetensors", make_safetensors, read_all),
    Reader("lance, data", "data.lance", make_lance, lambda folder: read_all(folder / "set.lance")),
    Reader("lance, version", "version", make_lance, lambda folder: read_all(folder / "set.lance")),
    Reader("store.json", "store/store.json", make_own, lambda folder: read_all(folder / "store")),
    Reader("paths of a memmap", "paths.bin", make_raw, read_raw),
]
