"""`verify` on deduplicated stores: right lists pass, and each wrong row is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.dedup.options import MODES
from clipgap.keep.lists import open_keep
from clipgap.keep.writing import KeepWriter
from clipgap.store.opening import open_store
from clipgap.verify.checks import VerifyReport
from tests.test_dedup import DATA
from tests.worlds import write_store

SHARDS = (70, 0, 80)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rows = DATA["crowd"].copy()
    rows[33] = 0
    parts = np.split(rows, np.cumsum(SHARDS)[:-1])
    write_store(tmp_path / "store", parts, lambda shard, row: f"{shard}-{row:03d}")
    return tmp_path / "store"


def checks(report: VerifyReport) -> dict[str, bool]:
    return {check.name: check.ok for check in report.checks}


def forge(store: Path, keep: Path, wrong: Path, row: int) -> None:
    """A keep-list that differs from another in one row, and is whole in every other way."""
    right, opened = open_keep(keep), open_store(store)
    with KeepWriter(wrong, opened.identity(), right.manifest["rule"]) as writer:
        for shard in right.shards:
            mask = right.bits(shard.index).copy()
            if 0 <= row < shard.rows:
                mask[row] = not mask[row]
            writer.add(shard.index, mask, opened.take_keys(shard.index, np.flatnonzero(mask)))
            row -= shard.rows


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("clusters", [None, 4])
def test_every_wrong_row_is_found(
    store: Path, tmp_path: Path, mode: str, clusters: int | None
) -> None:
    keep = tmp_path / "k"
    order = "random" if clusters is None else "centroid-far"
    options = {"exact": clusters is None, "clusters": clusters, "iterations": 3}
    clipgap.dedup(store, 0.05, mode=mode, keep=order, out=keep, **options)
    report = clipgap.verify(keep, threads=1, certify=tmp_path / "c.json")
    assert report.ok, report
    assert set(checks(report)) >= {"kept", "removed", "candidates", "inputs", "keys"}
    bits = np.concatenate([open_keep(keep).bits(shard) for shard in range(3)])
    for row in {*np.flatnonzero(bits)[[0, -1]], *np.flatnonzero(~bits)[[0, -1]], 33}:
        wrong = tmp_path / f"wrong-{row}"
        forge(store, keep, wrong, int(row))
        report = clipgap.verify(wrong, kernel="numpy", threads=1)
        failed = {check.name: check.detail for check in report.checks if not check.ok}
        name = "candidates" if row == 33 else "removed" if bits[row] else "kept"
        assert name in failed
        shard, inner = (0, row) if row < 70 else (2, row - 70)
        assert f"shard {shard} (img_emb_{shard}), row {inner}" in failed[name]


def test_another_store_is_not_the_one(store: Path, tmp_path: Path) -> None:
    clipgap.dedup(store, 0.05, clusters=3, out=tmp_path / "k")
    moved = store.rename(tmp_path / "moved")
    assert clipgap.verify(tmp_path / "k", train=moved).ok
    np.save(moved / "img_emb" / "img_emb_0.npy", DATA["crowd"][1:71])
    report = clipgap.verify(tmp_path / "k", train=moved)
    assert not checks(report)["inputs"]
    assert "kept" not in checks(report)


def test_from_the_command_line(store: Path, tmp_path: Path) -> None:
    keep = tmp_path / "k"
    arguments = ["dedup", str(store), "--epsilon", "0.05", "--clusters", "3", "-o", str(keep)]
    assert main([*arguments, "--threads", "1"]) == 4
    assert main(["verify", str(keep)]) == 0
    assert (tmp_path / "k.certificate.json").exists()
