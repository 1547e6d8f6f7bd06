"""Tar shards with every kind of trouble in them."""

from __future__ import annotations

import io
import json
import random
import subprocess
import tarfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipgap.keep.writing import KeepWriter

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """An entry; `fields` are those of tarfile.TarInfo."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar_bytes(
    entries: Iterable[tuple[tarfile.TarInfo, bytes]],
    format: int = tarfile.PAX_FORMAT,
    pax_headers: dict[str, str] | None = None,
) -> bytes:
    """A whole archive, as Python's tarfile makes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, pax_headers=pax_headers) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content) if content else None)
    return out.getvalue()


def sample(
    key: str, seed: int = 0, sizes: Sequence[int] = (900, 40)
) -> list[tuple[tarfile.TarInfo, bytes]]:
    """An image and a caption of random bytes; the time's fraction makes a PAX header for each."""
    chance = random.Random(f"{key}-{seed}")
    return [
        member(f"{key}.{extension}", chance.randbytes(size), mtime=1_700_000_000.25)
        for extension, size in zip(("jpg", "txt", "json"), sizes, strict=False)
    ]


def write_shard(path: Path, keys: Sequence[str], format: int = tarfile.PAX_FORMAT) -> Path:
    """A shard of samples with these keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [entry for i, key in enumerate(keys) for entry in sample(key, i)]
    path.write_bytes(tar_bytes(entries, format))
    return path


def write_datacomp(
    folder: Path,
    shards: Mapping[str, Sequence[str]],
    keys: str = "{:011d}",
    *,
    table: bool = True,
    described: bool = True,
    failed: Collection[str] = (),
) -> Path:
    """Shards as img2dataset makes them of DataComp's pool: uids stand beside the images.

    `described`: in each sample's .json; `table`: in a parquet beside the tar, which also lists
    the uids that `failed` and are in no tar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for name, uids in shards.items():
        rows, entries = [], []
        for uid in uids:
            key, number = keys.format(number, uid=uid), number + 1
            status = "failed_to_download" if uid in failed else "success"
            row = {"uid": uid, "url": f"http://{number}", "key": key, "status": status, "width": 9}
            rows.append(row)
            if status == "success":
                note = [member(f"{key}.json", json.dumps(row).encode())] if described else []
                entries += [*sample(key, number), *note]
        (folder / f"{name}.tar").write_bytes(tar_bytes(entries))
        successes = sum(row["status"] == "success" for row in rows)
        (folder / f"{name}_stats.json").write_text(json.dumps({"successes": successes}))
        if table:
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


def contents(path: Path) -> list[tuple[str, bytes]]:
    """Names and contents of the regular members, as Python's tarfile reads them."""
    with tarfile.open(path, "r:") as archive:
        return [
            (info.name, archive.extractfile(info).read())  # type: ignore[union-attr]
            for info in archive
            if info.isreg()
        ]


def write_keep(
    folder: Path, shards: Mapping[str, Sequence[str]], kept: Collection[tuple[str, int]]
) -> Path:
    """A keep-list of a store with these keys; `kept` are pairs of shard and row."""
    store = {
        "path": "a-store",
        "format": "test",
        "dim": 2,
        "rows": sum(map(len, shards.values())),
        "shards": [{"name": name, "rows": len(keys)} for name, keys in shards.items()],
    }
    with KeepWriter(folder, store, {"kind": "test"}) as writer:
        for index, (name, keys) in enumerate(shards.items()):
            mask = np.array([(name, row) in kept for row in range(len(keys))], np.bool_)
            writer.add(index, mask, pa.array(keys, pa.string()).filter(pa.array(mask)))
    return folder


def link_as_documented(folder: Path) -> Path:
    """Makes MORE of OUT, both in this folder, by the line in docs/shards.md."""
    lines = (Path(__file__).parents[1] / "docs" / "shards.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("cp -rs"))
    subprocess.run(line, shell=True, cwd=folder, check=True)
    return folder / "MORE"
