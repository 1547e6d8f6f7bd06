"""Keep-lists on disk: what is written, what is read back, what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.documents import SUM, checksum
from clipgap.files.sums import FileSum
from clipgap.keep import uids
from clipgap.keep.lists import KeepList, open_keep
from clipgap.keep.uids import parse_uids
from clipgap.keep.writing import KeepWriter
from clipgap.runs.how import How
from tests.faults import LyingFile
from tests.worlds import flip_bit, tree

SIZES = (90, 0, 133, 1, 64)
RULE = {"name": "by hand"}


def store_of(*sizes: int) -> dict[str, Any]:
    shards = [
        {"name": f"s{i}", "rows": rows, "dtype": "float16", "fingerprint": f"{i:064x}"}
        for i, rows in enumerate(sizes)
    ]
    return {"path": "x", "format": "npy", "dim": 3, "rows": sum(sizes), "shards": shards}


def masks(seed: int = 0) -> list[NDArray[np.bool_]]:
    random = np.random.default_rng(seed)
    return [random.random(rows) < 0.4 for rows in SIZES]


def keys_of(shard: int, mask: NDArray[np.bool_]) -> pa.Array:
    return pa.array([f"{shard}/{row}" for row in np.flatnonzero(mask)], pa.string())


SCANS = [{"path": "s", "manifest_sha256": "0"}]


def write(path: Path, keys: bool = True, how: How | None = None) -> KeepList:
    with KeepWriter(path, store_of(*SIZES), RULE, SCANS, how) as keep:
        for shard, mask in enumerate(masks()):
            keep.add(shard, mask, keys_of(shard, mask) if keys else None)
    return open_keep(path)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    keep = write(tmp_path / "k")
    assert (keep.rows, keep.kept) == (sum(SIZES), sum(mask.sum() for mask in masks()))
    assert keep.has_keys
    assert keep.offsets == (0, 90, 90, 223, 224, 288)
    assert keep.manifest["rule"] == RULE
    assert keep.damaged() == []
    for shard, mask in zip(keep.shards, masks(), strict=True):
        assert (shard.name, shard.rows, shard.kept) == (
            f"s{shard.index}",
            len(mask),
            mask.sum(),
        )
        rows = np.flatnonzero(mask)
        np.testing.assert_array_equal(keep.bits(shard.index), mask)
        np.testing.assert_array_equal(keep.rows_of(shard.index), rows)
        assert keep.keys(shard.index).to_pylist() == [f"{shard.index}/{row}" for row in rows]
        assert keep.table(shard.index)["row"].to_pylist() == rows.tolist()
        assert keep.table(shard.index)["shard"].to_pylist() == [shard.index] * len(rows)
        packed = np.load(keep.path / f"bitmap/part-{shard.index:05d}.npy")
        np.testing.assert_array_equal(packed, np.packbits(mask, bitorder="little"))
    assert not (keep.path / "datacomp.npy").exists()


def test_bits_of_a_range(tmp_path: Path) -> None:
    keep, mask = write(tmp_path / "k"), masks()[2]
    for start in range(0, 133, 5):
        for stop in (start, start + 1, 100, 133):
            if start <= stop:
                np.testing.assert_array_equal(keep.bits(2, start, stop), mask[start:stop])
    with pytest.raises(IndexError, match="which has 133"):
        keep.bits(2, 0, 134)


@settings(max_examples=15)
@given(pieces=st.lists(st.integers(0, 30), min_size=1, max_size=9))
def test_pieces_of_any_length_give_the_same_files(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[int]
) -> None:
    rows = sum(pieces)
    mask = np.random.default_rng(rows).random(rows) < 0.5
    folder = tmp_path_factory.mktemp("pieces")
    with KeepWriter(folder / "whole", store_of(rows), RULE) as keep:
        keep.add(0, mask, keys_of(0, mask))
    parts = np.split(mask, np.cumsum(pieces)[:-1])
    with KeepWriter(folder / "pieces", store_of(rows), RULE) as keep:
        ends = np.cumsum([part.sum() for part in parts])
        keys = keys_of(0, mask)
        keep.write(
            0,
            [
                (part, keys.slice(end - part.sum(), part.sum()))
                for part, end in zip(parts, ends, strict=True)
            ],
        )
    assert tree(folder / "whole") == tree(folder / "pieces")


def test_shards_in_any_order_give_the_same_files(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with KeepWriter(tmp_path / "b", store_of(*SIZES), RULE, SCANS) as keep:
        for shard in (4, 2, 3, 0):  # what is left out keeps nothing
            keep.add(shard, masks()[shard], keys_of(shard, masks()[shard]))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_store_without_keys(tmp_path: Path) -> None:
    keep = write(tmp_path / "k", keys=False)
    assert not keep.has_keys
    assert keep.keys(0).null_count == keep.shards[0].kept > 0


@given(
    numbers=st.lists(st.integers(0, 2**128 - 1) | st.integers(0, 3), min_size=1, max_size=40),
    run=st.integers(1, 8),
)
def test_the_subset_file_of_datacomp(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], run: int
) -> None:
    """As DataComp makes it: a sorted array of the halves of each uid, and each of them once."""
    folder = tmp_path_factory.mktemp("uids")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uids, "_RUN", run)
        patch.setattr(uids, "_STRIDE", 1)
        with KeepWriter(folder / "k", store_of(*[1] * len(numbers)), RULE) as keep:
            for shard, number in enumerate(numbers):
                text = f"{number:032x}" if shard % 2 else f"{number:032X}"
                keep.add(shard, np.array([True]), pa.array([text]))
    halves = [(number >> 64, number & (2**64 - 1)) for number in numbers]
    expected = np.array(sorted(set(halves)), np.dtype("u8,u8"))
    found = np.load(folder / "k" / "datacomp.npy")
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert sorted(path.name for path in (folder / "k").iterdir()) == [
        "bitmap",
        "datacomp.npy",
        "keep",
        "manifest.json",
    ]
    assert open_keep(folder / "k").damaged() == []


def test_a_subset_file_that_the_disk_made_another_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = uids.UidRuns(tmp_path / "runs")
    runs.add(np.arange(6, dtype=np.uint64).reshape(2, 3))
    assert runs.write(tmp_path / "right.npy") == FileSum.of(tmp_path / "right.npy")
    monkeypatch.setattr(Path, "open", lambda path, mode: LyingFile(path, mode))
    with pytest.raises(InputError, match="gives back other bytes than were written"):
        runs.write(tmp_path / "wrong.npy")
    assert not (tmp_path / "wrong.npy").exists()


@pytest.mark.parametrize("other", ["0" * 31, "0" * 33, "g" + "0" * 31, "ä" + "0" * 30, ""])
def test_one_other_key_and_there_is_no_subset_file(tmp_path: Path, other: str) -> None:
    with KeepWriter(tmp_path / "k", store_of(2, 2), RULE) as keep:
        keep.add(0, np.array([True, True]), pa.array(["0" * 32, "f" * 32]))
        keep.add(1, np.array([True, True]), pa.array(["1" * 32, other]))
    assert not (tmp_path / "k" / "datacomp.npy").exists()


def test_uids_of_a_slice() -> None:
    keys = pa.array(["x", "0123456789abcdef0123456789ABCDEF", "f" * 32, "y"])
    found = parse_uids(keys.slice(1, 2))
    assert found is not None
    assert found.tolist() == [[0x0123456789ABCDEF, 2**64 - 1]] * 2
    assert parse_uids(keys) is None
    assert parse_uids(pa.array([None, "0" * 32])) is None


def test_an_unfinished_list_is_none(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), KeepWriter(tmp_path / "k", store_of(2), RULE) as keep:
        keep.add(0, np.array([True, False]), pa.array(["0" * 32]))
        raise RuntimeError
    with pytest.raises(InputError, match="not a finished keep-list"):
        open_keep(tmp_path / "k")
    with pytest.raises(InputError, match="unfinished keep-list"):
        write(tmp_path / "k")
    with KeepWriter(tmp_path / "k", store_of(2), RULE, how=How(overwrite=True)):
        pass
    assert open_keep(tmp_path / "k").kept == 0


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with KeepWriter(tmp_path / "k", store_of(2, 2), RULE) as writer:
        with pytest.raises(ValueError, match="has 2 rows, 3 were given"):
            writer.add(0, np.array([True, False, True]), pa.array(["a", "b"]))
        with pytest.raises(ValueError, match="1 rows are kept, but 2 keys"):
            writer.add(0, np.array([True, False]), pa.array(["a", "b"]))
        assert not list((tmp_path / "k" / "keep").iterdir())
        writer.add(0, np.array([True, False]), pa.array(["a"]))
        with pytest.raises(ValueError, match="already written"):
            writer.add(0, np.array([True, False]), pa.array(["a"]))


@pytest.mark.parametrize("stranger", ["mine.txt", "keep/mine.parquet", "manifest.json"])
def test_folders_of_others_are_left_alone(tmp_path: Path, stranger: str) -> None:
    path = tmp_path / "k" / stranger
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"not (a|that of a) clipgap keep-list"):
        write(tmp_path / "k", how=How(overwrite=True))
    assert tree(tmp_path) == before
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        write(tmp_path / "file")


def test_a_flipped_bit_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "k").path
    flip_bit(path / "bitmap/part-00002.npy", -3)
    flip_bit(path / "keep/part-00000.parquet", 40)
    keep = open_keep(path)
    assert keep.damaged() == ["bitmap/part-00002.npy", "keep/part-00000.parquet"]
    with pytest.raises(InputError, match=r"part-00002.npy is damaged"):
        keep.bits(2)
    with pytest.raises(InputError, match=r"part-00000.parquet is damaged"):
        keep.keys(0)
    assert keep.bits(0).sum() == keep.shards[0].kept


def test_a_missing_or_short_file_is_found_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "k").path
    (path / "keep/part-00004.parquet").unlink()
    part = path / "bitmap/part-00000.npy"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(InputError) as error:
        open_keep(path)
    assert "keep/part-00004.parquet is missing" in str(error.value)
    assert "bitmap/part-00000.npy is damaged" in str(error.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m.update(format="clipgap-scan"), "not the document of a clipgap keep-list"),
        (lambda m: m.update(version=2), "has version 2"),
        (lambda m: m.pop("files"), "files is None"),
        (lambda m: m.pop("counts"), "counts is None"),
        (lambda m: m["files"].pop("keep/part-00001.parquet"), "does not list keep/part-00001"),
        (lambda m: m["files"].update({"../x": {"size": 1, "sha256": ""}}), "must not name '../x'"),
        (lambda m: m["files"]["datacomp.npy"].pop("sha256"), "files 'datacomp.npy' is"),
        (lambda m: m["counts"]["shards"].pop(), "counts other shards"),
        (lambda m: m["counts"].update(kept=1), "counts do not add up"),
        (lambda m: m["store"]["shards"][0].update(rows=1), "counts more rows of a shard"),
        (lambda m: m["store"]["shards"][0].update(rows=-1), "store shards 0 rows is -1"),
        (lambda m: m["rule"].update(name="prunx"), "sha256 is not that of its other entries"),
    ],
)
def test_a_spoilt_manifest_is_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    with KeepWriter(tmp_path / "k", store_of(2, 2), RULE) as keep:
        keep.add(0, np.array([True, True]), pa.array(["0" * 32, "f" * 32]))
    path = tmp_path / "k" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    spoil(manifest)
    if manifest.get("rule", RULE) == RULE:
        manifest[SUM] = checksum(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
        open_keep(tmp_path / "k")


def everything(folder: Path) -> list[Any]:
    """All that a keep-list says."""
    keep = open_keep(folder)
    found: list[Any] = [keep.manifest, keep.rows, keep.kept, keep.damaged()]
    for shard in range(len(keep.shards)):
        found += [keep.bits(shard).tolist(), keep.table(shard).to_pylist()]
    return found


@pytest.mark.parametrize("name", ["manifest.json", "bitmap/part-00002.npy"])
def test_mutated_bytes_are_named_or_read_right(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "k").path
    right, whole = everything(path), (path / name).read_bytes()
    random = np.random.default_rng(18)
    for _ in range(150):
        (path / name).write_bytes(mutated(whole, random))
        try:
            assert everything(path) == right
        except InputError as error:
            assert str(path) in str(error)
            assert name in str(error)


@pytest.mark.parametrize("name", ["bitmap/part-00002.npy", "keep/part-00002.parquet"])
def test_mutated_files_that_the_manifest_knows(tmp_path: Path, name: str) -> None:
    """An edited file whose sum was edited too: not of the right form, or read as it is."""
    path = write(tmp_path / "k").path
    whole, manifest = (path / name).read_bytes(), json.loads((path / "manifest.json").read_bytes())
    random = np.random.default_rng(19)
    for _ in range(100):
        content = mutated(whole, random)
        (path / name).write_bytes(content)
        manifest["files"][name] = vars(FileSum.of_bytes(content))
        manifest[SUM] = checksum(manifest)
        (path / "manifest.json").write_text(json.dumps(manifest))
        with suppress(InputError):
            everything(path)


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Content with a flipped bit, another byte, some bytes more, some less, or cut short."""
    changed = bytearray(content)
    at, width = int(random.integers(len(content))), int(random.integers(1, 9))
    match random.integers(5):
        case 0:
            changed[at] ^= 1 << int(random.integers(8))
        case 1:
            changed[at] = int(random.choice(list(b'0129-{}[]",:()\0\xff')))
        case 2:
            changed[at:at] = random.bytes(width)
        case 3:
            del changed[at : at + width]
        case _:
            del changed[at:]
    return bytes(changed)


def test_row_groups_do_not_depend_on_pieces(tmp_path: Path) -> None:
    rows = 150_000
    mask = np.ones(rows, np.bool_)
    with KeepWriter(tmp_path / "k", store_of(rows), RULE) as keep:
        keep.write(0, [(part, None) for part in np.array_split(mask, 7)])
    file = pq.ParquetFile(tmp_path / "k" / "keep" / "part-00000.parquet")
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert groups == [65_536, 65_536, 18_928]
