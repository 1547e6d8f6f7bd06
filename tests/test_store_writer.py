"""The writer makes stores that read back bit for bit, or leaves nothing that looks like one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipgap.errors import InputError, UsageError
from clipgap.files.atomic import TEMPORARY_SUFFIX, sha256_file
from clipgap.store.opening import open_store
from clipgap.store.writer import StoreWriter
from tests.stores import DIM, keys_of, unit_rows


def write(folder: Path, blocks: int = 2) -> Path:
    with StoreWriter(folder, DIM) as writer:
        for number in range(blocks):
            captions = {"caption": [f"caption {row}" for row in range(5)]}
            assert writer.add(unit_rows(5, number), keys_of(number, 5), captions) == f"{number:05d}"
    return folder


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    store = open_store(write(tmp_path / "store"))
    assert (store.format, store.dim, store.rows, store.has_keys) == ("clipgap", DIM, 10, True)
    for number in (0, 1):
        assert store.read(number, 0, 5).tobytes() == unit_rows(5, number).tobytes()
        assert store.keys(number, 0, 5).to_pylist() == keys_of(number, 5)
    captions = pq.read_table(tmp_path / "store" / "keys" / "00001.parquet")["caption"]
    assert captions.to_pylist()[4] == "caption 4"


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    def content(folder: Path) -> dict[str, bytes]:
        files = (file for file in folder.rglob("*") if file.is_file())
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}

    first = content(write(tmp_path / "a"))
    assert first == content(write(tmp_path / "b"))
    assert len(first) == 5


def test_the_catalogue_holds_counts_and_checksums(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with StoreWriter(folder, DIM) as writer:
        writer.add(np.concatenate([unit_rows(3), 2 * unit_rows(2, 1)]))
    content = json.loads((folder / "store.json").read_text())
    (entry,) = content["shards"]
    assert (entry["rows"], entry["normalised"], entry["keys_sha256"]) == (5, 2, None)
    assert entry["embeddings_sha256"] == sha256_file(folder / "embeddings" / "00000.npy")
    assert not open_store(folder).has_keys


def test_rows_are_admitted_once(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", DIM) as writer:
        writer.add(unit_rows(4).astype(np.float64) * 3)
    rows = open_store(tmp_path / "store").read(0, 0, 4)
    assert rows.dtype == np.float16
    wide = unit_rows(4).astype(np.float64) * 3
    exact = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    np.testing.assert_array_equal(rows, exact.astype(np.float16))


def test_empty_shards_are_allowed(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", DIM) as writer:
        writer.add(np.empty((0, DIM), np.float32), [])
        writer.add(unit_rows(1), ["a"])
    assert [shard.rows for shard in open_store(tmp_path / "store").shards] == [0, 1]


def test_bad_rows_are_refused_by_number(tmp_path: Path) -> None:
    rows = unit_rows(5)
    rows[1] = 0
    rows[3, 2] = np.nan
    rows[4, 0] = np.inf
    with (
        pytest.raises(InputError, match="3 of 5 rows cannot be stored") as caught,
        StoreWriter(tmp_path / "store", DIM) as writer,
    ):
        writer.add(rows)
    text = str(caught.value)
    assert "row 1 is zero" in text
    assert "row 3 has NaN or Inf" in text
    assert "row 4 has NaN or Inf" in text


def test_an_unfinished_store_cannot_be_opened(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with pytest.raises(KeyError), StoreWriter(folder, DIM) as writer:
        writer.add(unit_rows(3), keys_of(0, 3))
        raise KeyError
    assert not list(folder.rglob(f"*{TEMPORARY_SUFFIX}"))
    with pytest.raises(InputError, match="never finished"):
        open_store(folder)


def test_a_failed_write_leaves_the_earlier_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    folder = tmp_path / "store"
    with (
        pytest.raises(InputError, match=r"00001\.npy: No space left"),
        StoreWriter(folder, DIM) as writer,
    ):
        writer.add(unit_rows(3))
        monkeypatch.setattr(np.lib.format, "write_array", full)
        writer.add(unit_rows(3))
    assert [file.name for file in (folder / "embeddings").iterdir()] == ["00000.npy"]


def test_what_is_there_is_only_overwritten_on_request(tmp_path: Path) -> None:
    folder = write(tmp_path / "store", blocks=3)
    with pytest.raises(InputError, match="is not empty"):
        StoreWriter(folder, DIM)
    assert open_store(folder).rows == 15
    with StoreWriter(folder, DIM, overwrite=True) as writer:
        assert not (folder / "store.json").exists()
        writer.add(unit_rows(2))
    assert open_store(folder).rows == 2


def test_a_strangers_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex, which no store has"):
        StoreWriter(tmp_path, DIM, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_shards_must_agree(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store", DIM)
    writer.add(unit_rows(3), keys_of(0, 3))
    with pytest.raises(UsageError, match="every shard must have the same columns"):
        writer.add(unit_rows(3))
    with pytest.raises(UsageError, match="every shard must have the same columns"):
        writer.add(unit_rows(3), keys_of(0, 3), {"caption": ["x"] * 3})
    with pytest.raises(InputError, match="3 rows but 2 keys"):
        writer.add(unit_rows(3), keys_of(0, 2))
    with pytest.raises(InputError, match=r"expected floats of shape \(rows, 12\)"):
        writer.add(unit_rows(3, dim=DIM + 1), keys_of(0, 3))
    with pytest.raises(UsageError, match="columns need keys"):
        StoreWriter(tmp_path / "other", DIM).add(unit_rows(3), None, {"caption": ["x"] * 3})
    with pytest.raises(InputError, match="needs at least one shard"):
        StoreWriter(tmp_path / "none", DIM).close()


def test_a_store_that_does_not_match_its_catalogue(tmp_path: Path) -> None:
    folder = write(tmp_path / "store", blocks=4)
    np.save(folder / "embeddings" / "00000.npy", unit_rows(6))
    (folder / "embeddings" / "00001.npy").unlink()
    (folder / "keys" / "00002.parquet").unlink()
    np.save(folder / "embeddings" / "00009.npy", unit_rows(6))
    with pytest.raises(InputError) as caught:
        open_store(folder)
    for expected in (
        "00000.npy: is 6 × 12, but the catalogue of the store says 5 × 12",
        "00000.npy has 6 rows, but 5 keys lie in",
        "00001.npy: missing, store.json lists it",
        "00002.parquet: missing, store.json lists it",
        "00009.npy: not listed in store.json",
    ):
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": "x"}', '{"format": "clipgap store", "version": 99}', "[" * 10_000],
)
def test_catalogues_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "store.json").write_text(content)
    with pytest.raises(InputError, match="not the catalogue of a clipgap store"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"rows": "9"}, {"rows": -1}, {"rows": 10**30}, {"rows_sum": ".."}, {"name": 1}],
    ids=str,
)
def test_catalogues_with_an_odd_entry(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write(tmp_path / "store")
    content = json.loads((folder / "store.json").read_text())
    content["shards"][0] |= change
    (folder / "store.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"store.json: not .*shards 0 {min(change)} is"):
        open_store(folder)
