"""DataComp's resharder, from a description of its behaviour at 4a8df19: it is a script, no package.

It takes the subset as an array of two 64-bit halves of each uid, which must be sorted, and keeps a
sample whose uid, out of its .json, a binary search finds. What it writes has the keys UID-0.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from clipgap.shards.api import filter_shards
from clipgap.shards.samples import read_samples
from tests.shards import write_datacomp, write_keep

UIDS = [f"{n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}" for n in range(1, 60)]


def reshard(folder: Path, subset: Path, out: Path) -> list[str]:
    """The uids that are kept, in order; writes them as it does."""
    wanted = np.load(subset, mmap_mode="r")
    assert wanted.dtype == np.dtype("u8,u8") and wanted.ndim == 1
    kept = []
    for shard in sorted(folder.glob("*.tar")):
        for sample in read_samples(str(shard), extensions=("json",)):
            uid = json.loads(sample.contents["json"])["uid"]
            halves = np.array((int(uid[:16], 16), int(uid[16:], 16)), wanted.dtype)
            place = np.searchsorted(wanted, halves)
            if place < len(wanted) and wanted[place] == halves:
                kept.append(uid)
    write_datacomp(out, {"00000000": kept}, "{uid}-0", table=False)
    return kept


def test_it_keeps_what_we_keep_and_we_what_it_keeps(tmp_path: Path) -> None:
    shards = write_datacomp(tmp_path / "in", {"00000000": UIDS[:31], "00000001": UIDS[31:]})
    order = sorted(UIDS)
    chosen = {("a", row) for row in range(0, len(order), 3)}
    keep = write_keep(tmp_path / "keep", {"a": order}, chosen)
    expected = [uid for uid in UIDS if ("a", order.index(uid)) in chosen]
    assert reshard(shards, keep / "datacomp.npy", tmp_path / "theirs") == expected
    filtered = filter_shards(shards, keep, tmp_path / "ours")
    again = filter_shards(tmp_path / "theirs", keep, tmp_path / "again")
    assert filtered.kept == again.kept == len(expected)
