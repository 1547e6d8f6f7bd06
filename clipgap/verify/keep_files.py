"""What can be checked of a keep-list without scoring anything."""

from __future__ import annotations

import numpy as np

from clipgap.files.documents import MANIFEST
from clipgap.keep.lists import KeepList, bitmap_name, keep_name
from clipgap.store.base import Store
from clipgap.verify.problems import Problems


def check_files(keep: KeepList, problems: Problems) -> str:
    """Every file is there with its checksum, and no other."""
    listed = keep.manifest["files"]
    for name in keep.damaged():
        problems.add(f"{name} is damaged or missing: its SHA-256 is not that of the manifest")
    present = {
        path.relative_to(keep.path).as_posix() for path in keep.path.rglob("*") if path.is_file()
    }
    for name in sorted(present - listed.keys() - {MANIFEST}):
        problems.add(f"{name} does not belong to the keep-list")
    return f"{len(listed):,} files are as they were written"


def check_bitmaps(keep: KeepList, problems: Problems) -> str:
    """Bitmaps, tables and counts say the same."""
    for shard in keep.shards:
        rows = keep.rows_of(shard.index)
        if len(rows) != shard.kept:
            problems.add(
                f"{bitmap_name(shard.index)} keeps {len(rows):,} rows, the manifest says "
                f"{shard.kept:,}"
            )
        table = keep.table(shard.index)
        same = np.array_equal(table["row"].to_numpy(), rows)
        if not same or set(table["shard"].unique().to_pylist()) - {shard.index}:
            problems.add(f"{keep_name(shard.index)} keeps other rows than its bitmap")
    if keep.kept != sum(shard.kept for shard in keep.shards):
        problems.add(f"{MANIFEST}: {keep.kept:,} rows in all is not the sum over its shards")
    return f"{keep.kept:,} of {keep.rows:,} rows are kept"


def check_keys(keep: KeepList, store: Store, problems: Problems) -> str:
    """Each kept row has the key that the store has for it."""
    if not store.has_keys:
        return "the store has no keys"
    for shard in keep.shards:
        keys = store.take_keys(shard.index, keep.rows_of(shard.index))
        stated = keep.keys(shard.index)
        if stated.to_pylist() != (keys.to_pylist() if keys is not None else []):
            problems.add(f"{keep_name(shard.index)}: keys are not those of {shard.name}")
    return f"{keep.kept:,} keys are those of the store"
