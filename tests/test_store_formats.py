"""Every format comes out as the rows and keys that went in, locally and through fsspec."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import clipgap
from clipgap.__main__ import main
from clipgap.errors import InputError, UsageError
from clipgap.files.naming import allowing_missing
from clipgap.store.base import Store
from clipgap.store.opening import array_store, open_store
from clipgap.store.rows import Resting
from clipgap.store.writer import StoreWriter
from tests.stores import DIM, keys_of, unit_rows, write_clip_retrieval, write_keys
from tests.thorough import examples


@pytest.fixture
def memory() -> Iterator[Any]:
    """The in-memory file system of fsspec, empty before and after."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def upload(folder: Path, filesystem: Any, to: str) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            filesystem.pipe_file(f"/{to}/{file.relative_to(folder)}", file.read_bytes())


def check(store: Store, blocks: list[NDArray[Any]], keys: list[list[str]] | None) -> None:
    """Everything a store gives equals what was written, whole and by range."""
    assert [shard.rows for shard in store.shards] == [len(block) for block in blocks]
    assert store.rows == sum(map(len, blocks))
    assert store.has_keys == (keys is not None)
    assert len({shard.name for shard in store.shards}) == len(blocks)
    for index, block in enumerate(blocks):
        rows = len(block)
        for start, stop in [(0, rows), (rows // 3, rows // 2), (0, rows // 2), (rows, rows)]:
            got = store.read(index, start, stop)
            assert got.dtype == block.dtype.newbyteorder("=")
            assert got.flags.c_contiguous
            assert got.flags.writeable
            np.testing.assert_array_equal(got, block[start:stop], strict=False)
            if keys is None:
                assert store.keys(index, start, stop) is None
            else:
                assert store.keys(index, start, stop).to_pylist() == keys[index][start:stop]


SIZES = [11, 0, 30, 1, 5, 7, 3, 2, 9, 4, 13]  # an empty shard, and more than ten


@pytest.mark.parametrize("pad", [0, 4])
@pytest.mark.parametrize("images", ["img_emb", "images"])
def test_clip_retrieval_in_both_paddings(tmp_path: Path, pad: int, images: str) -> None:
    blocks = write_clip_retrieval(tmp_path / "laion", SIZES, pad=pad, images=images)
    store = open_store(tmp_path / "laion")
    assert store.format == ("clip-retrieval" if images == "img_emb" else "clip-ood")
    assert store.dim == DIM
    assert [shard.name for shard in store.shards] == [f"img_emb_{n:0{pad}d}" for n in range(11)]
    check(store, blocks, [keys_of(n, rows) for n, rows in enumerate(SIZES)])


def test_arrays_and_metadata_may_differ_in_padding(tmp_path: Path) -> None:
    blocks = write_clip_retrieval(tmp_path, [3, 4])
    for number in (0, 1):
        file = tmp_path / "metadata" / f"metadata_{number}.parquet"
        file.rename(file.with_name(f"metadata_{number:03d}.parquet"))
    check(open_store(tmp_path), blocks, [keys_of(0, 3), keys_of(1, 4)])


def write_part(folder: Path, name: str, samples: int) -> None:
    """What clip-retrieval notes of a part of its run."""
    (folder / "stats").mkdir(exist_ok=True)
    (folder / "stats" / name).write_text(json.dumps({"sample_count": samples, "end_time": 1.5}))


def test_parts_without_samples_leave_no_array(tmp_path: Path) -> None:
    blocks = write_clip_retrieval(tmp_path, [3, 4, 5, 6])
    for number in (0, 2):
        (tmp_path / "img_emb" / f"img_emb_{number}.npy").unlink()
        (tmp_path / "metadata" / f"metadata_{number}.parquet").unlink()
    write_part(tmp_path, "0.json", 0)
    with pytest.raises(InputError, match="these are missing: 2"):
        open_store(tmp_path)
    write_part(tmp_path, "2.json", 5)
    with pytest.raises(InputError, match="these are missing: 2"):
        open_store(tmp_path)
    write_part(tmp_path, "2.json", 0)
    check(open_store(tmp_path), [blocks[1], blocks[3]], [keys_of(1, 4), keys_of(3, 6)])


def test_a_part_that_was_killed_is_refused(tmp_path: Path) -> None:
    blocks = write_clip_retrieval(tmp_path, [3, 4])
    write_part(tmp_path, "0.json", 3)
    write_part(tmp_path, "wip_1.json", 2)
    with pytest.raises(InputError, match=r"wip_1\.json: this part of the run has not ended"):
        open_store(tmp_path)
    named = open_store(f"{tmp_path}/img_emb/img_emb_{{0,1}}.npy")
    check(named, blocks, [keys_of(0, 3), keys_of(1, 4)])


@pytest.mark.parametrize("array", [True, False])
def test_gaps_are_taken_where_they_are_allowed(tmp_path: Path, array: bool) -> None:
    blocks = write_clip_retrieval(tmp_path, [4, 3, 5])
    (tmp_path / "img_emb/img_emb_1.npy").unlink()
    (tmp_path / "stats").mkdir()
    (tmp_path / "stats/wip_1.json").write_text('{"sample_count": 3}')
    for source in (tmp_path, f"{tmp_path}/img_emb/img_emb_*.npy"):
        with pytest.raises(InputError, match="--allow-missing"):
            open_store(source)
    whole = [blocks[0], blocks[2]]
    keys = [keys_of(0, 4), keys_of(2, 5)]
    check(open_store(f"{tmp_path}?missing=allow"), whole, keys)
    check(open_store(f"{tmp_path}/img_emb/img_emb_*.npy?missing=allow"), whole, keys)
    if array:  # what was killed may lack samples, so an array of it is refused
        np.save(tmp_path / "img_emb/img_emb_1.npy", blocks[1])
        with pytest.raises(InputError, match="has not ended, or was killed"):
            open_store(f"{tmp_path}?missing=allow")
    with pytest.raises(UsageError, match=r"missing=yes should be missing=allow"):
        open_store(f"{tmp_path}?missing=yes")


def test_gaps_of_other_formats(tmp_path: Path) -> None:
    for name in ("00000", "00002"):
        np.save(tmp_path / f"{name}.npy", unit_rows(3))
    with pytest.raises(InputError, match="these are missing: 1"):
        open_store(tmp_path)
    assert open_store(f"{tmp_path}?missing=allow").rows == 6
    np.savez(tmp_path / "one.npz", l14_img=unit_rows(2))
    named = allowing_missing(f"{tmp_path}::{tmp_path}/one.npz?array=l14_img")
    assert named == f"{tmp_path}?missing=allow::{tmp_path}/one.npz?array=l14_img&missing=allow"
    (tmp_path / "one.npz").rename(tmp_path.with_name("one.npz"))
    parts = named.replace(f"{tmp_path}/one.npz", str(tmp_path.with_name("one.npz")))
    assert open_store(parts).rows == 8


def test_what_is_allowed_goes_with_the_name(tmp_path: Path) -> None:
    """So a proof, which opens the store again, needs not be told."""
    write_clip_retrieval(tmp_path / "store", [40, 30, 20])
    (tmp_path / "store/img_emb/img_emb_1.npy").unlink()
    np.save(tmp_path / "t.npy", unit_rows(5, 9))
    given = {"tests": {"t": tmp_path / "t.npy"}, "k": 1}
    with pytest.raises(InputError, match="--allow-missing"):
        clipgap.scan(tmp_path / "store", **given)
    scan = clipgap.scan(tmp_path / "store", **given, out=tmp_path / "s", allow_missing=True)
    assert scan.rows == 60 and clipgap.verify(tmp_path / "s").ok
    command = ["dedup", str(tmp_path / "store"), "--epsilon", "0.1", "--exact"]
    command += ["-o", str(tmp_path / "k")]
    assert main(command) == 3
    assert main([*command, "--allow-missing"]) == 0
    assert clipgap.verify(tmp_path / "k").ok
    assert main(["store", "info", str(tmp_path / "store"), "--allow-missing"]) == 0


def test_keys_of_an_empty_shard_have_no_type(tmp_path: Path) -> None:
    """So pandas writes a column without values."""
    blocks = write_clip_retrieval(tmp_path, [3, 0])
    metadata = tmp_path / "metadata" / "metadata_1.parquet"
    pq.write_table(pa.table({"image_path": pa.nulls(0)}), metadata)
    check(open_store(tmp_path), blocks, [keys_of(0, 3), []])
    pq.write_table(pa.table({"image_path": pa.nulls(2)}), metadata)
    with pytest.raises(InputError, match="must be strings, not null"):
        open_store(tmp_path)


@pytest.mark.parametrize("kind", ["U", "S", ">U"])
def test_paths_of_clip_ood_are_keys(tmp_path: Path, kind: str) -> None:
    """Its images/main.py saves the paths that torchvision's ImageFolder gives, as an array."""
    blocks = write_clip_retrieval(tmp_path, [5, 11], images="images")
    shutil.rmtree(tmp_path / "metadata")
    (tmp_path / "paths").mkdir()
    keys = [
        [f"/data/val/n{shard}/é{row * 7}.JPEG" for row in range(n)]
        for shard, n in ((0, 5), (1, 11))
    ]
    for number, paths in enumerate(keys):
        texts = np.asarray(paths) if "U" in kind else np.char.encode(np.asarray(paths), "utf-8")
        texts = texts.astype(texts.dtype.newbyteorder(">")) if ">" in kind else texts
        np.save(tmp_path / "paths" / f"paths_{number}", texts)
    check(open_store(tmp_path), blocks, keys)
    check(open_store(tmp_path / "images/img_emb_*.npy"), blocks, keys)
    (tmp_path / "paths/paths_1.npy").unlink()
    with pytest.raises(InputError, match=r"img_emb_1\.npy: no paths_1\.npy belongs to it"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (np.array(["a", "b", "c"], object), r"holds '\|O'; keys are texts"),
        (np.arange(3), "keys are texts"),
        (np.array([["a"], ["b"], ["c"]]), "a list, of one dimension"),
        (np.array(["a", "b"]), r"3 rows, but 2 keys lie in .*paths_0\.npy"),
        (np.array(["a", "b", "c" * 20_000]), "up to 9,999 letters"),
        (np.array([b"a", b"b", b"\xff"]), "is not UTF-8"),
        (np.frombuffer(b"\xff\xff\xff\x7f" * 3, "<U1"), "is not UTF-8"),
    ],
)
def test_paths_that_are_none(tmp_path: Path, texts: NDArray[Any], reason: str) -> None:
    write_clip_retrieval(tmp_path, [3], images="images")
    shutil.rmtree(tmp_path / "metadata")
    (tmp_path / "paths").mkdir()
    np.save(tmp_path / "paths/paths_0.npy", texts, allow_pickle=True)
    with pytest.raises(InputError, match=reason):
        open_store(tmp_path).keys(0, 0, 3)


def test_paths_that_end_early(tmp_path: Path) -> None:
    write_clip_retrieval(tmp_path, [3], images="images")
    shutil.rmtree(tmp_path / "metadata")
    (tmp_path / "paths").mkdir()
    path = tmp_path / "paths/paths_0.npy"
    np.save(path, np.array(["a", "b", "c"]))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        InputError, match=r"3 texts of 4 bytes, which end at byte 140, but the file"
    ):
        open_store(tmp_path)


def test_shards_named_one_by_one_keep_their_metadata(tmp_path: Path) -> None:
    blocks = write_clip_retrieval(tmp_path, [3, 4, 5, 6])
    keys = [keys_of(number, len(block)) for number, block in enumerate(blocks)]
    one = open_store(tmp_path / "img_emb" / "img_emb_2.npy")
    check(one, [blocks[2]], [keys[2]])
    some = open_store(f"{tmp_path}/img_emb/img_emb_{{1..2}}.npy")
    check(some, blocks[1:3], keys[1:3])
    check(open_store(tmp_path / "img_emb"), blocks, keys)


def test_without_any_metadata_there_are_no_keys(tmp_path: Path) -> None:
    blocks = write_clip_retrieval(tmp_path, [3, 4])
    shutil.rmtree(tmp_path / "metadata")
    check(open_store(tmp_path), blocks, None)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_datacomp(tmp_path: Path, save: Any) -> None:
    blocks = [unit_rows(rows, rows) for rows in (40, 3)]
    for name, block in zip(("0a7f", "ff01"), blocks, strict=True):
        save(tmp_path / f"{name}.npz", l14_txt=block * 2, l14_img=block)
        write_keys(tmp_path / f"{name}.parquet", "uid", [f"{name}-{n}" for n in range(len(block))])
    store = open_store(tmp_path)
    assert store.format == "datacomp"
    assert [shard.name for shard in store.shards] == ["0a7f", "ff01"]
    check(store, blocks, [[f"0a7f-{n}" for n in range(40)], [f"ff01-{n}" for n in range(3)]])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_datacomp_array_is_chosen_by_name(tmp_path: Path, save: Any) -> None:
    large, small = unit_rows(9, 1), unit_rows(9, 2).astype(np.float32)
    save(tmp_path / "0.npz", l14_img=large, b32_img=small)
    check(open_store(f"{tmp_path}?array=l14_img"), [large], None)
    check(open_store(tmp_path, array="b32_img"), [small], None)


@pytest.mark.parametrize("relative", [True, False])
def test_semdedup_memmap_with_paths(tmp_path: Path, relative: bool) -> None:
    block = unit_rows(20).astype(np.float32)
    block.tofile(tmp_path / "emb.dat")
    names = [f"class/{n:015d}.JPEG"[-24:] for n in range(19)] + ["short"]
    np.array(names, "S24").tofile(tmp_path / "paths.dat")
    paths = "paths.dat" if relative else str(tmp_path / "paths.dat")
    store = open_store(f"{tmp_path / 'emb.dat'}?dim={DIM}&paths={paths}")
    assert store.format == "semdedup"
    check(store, [block], [names])
    check(open_store(tmp_path / "emb.dat", dim=DIM), [block], None)


def test_plain_npy_lists(tmp_path: Path) -> None:
    blocks = [unit_rows(rows, rows) for rows in (5, 6, 7)]
    for number, block in enumerate(blocks):
        np.save(tmp_path / f"part{number + 8}.npy", block)  # part8, part9, part10
    check(open_store(f"{tmp_path}/*.npy"), blocks, None)
    check(open_store(f"{tmp_path}/part{{8..10}}.npy"), blocks, None)
    check(open_store(f"{tmp_path}/part{{9,8}}.npy"), [blocks[1], blocks[0]], None)
    check(open_store(tmp_path / "part9.npy"), [blocks[1]], None)
    joined = open_store(f"{tmp_path}/part10.npy::{tmp_path}/part8.npy")
    check(joined, [blocks[2], blocks[0]], None)
    assert open_store(f"file://{tmp_path}/part9.npy").rows == 6


def test_a_folder_of_names_without_numbers(tmp_path: Path) -> None:
    for name in ("val", "sketch"):
        np.save(tmp_path / f"{name}.npy", unit_rows(4, len(name)))
    store = open_store(tmp_path)
    assert store.format == "npy"
    check(store, [unit_rows(4, 6), unit_rows(4, 3)], None)


def test_a_single_file_with_a_number_is_no_sequence(tmp_path: Path) -> None:
    np.save(tmp_path / "imagenet_v2.npy", unit_rows(4))
    check(open_store(tmp_path), [unit_rows(4)], None)


def test_joined_folders_have_distinct_shard_names(tmp_path: Path) -> None:
    first = write_clip_retrieval(tmp_path / "a", [3, 4])
    second = write_clip_retrieval(tmp_path / "b", [2])
    keys = [keys_of(0, 3), keys_of(1, 4), keys_of(0, 2)]
    store = open_store(f"{tmp_path}/a::{tmp_path}/b")
    check(store, first + second, keys)
    names = [shard.name for shard in store.shards]
    assert names == ["a/img_emb/img_emb_0", "img_emb_1", "b/img_emb/img_emb_0"]


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
def test_every_float_in_both_byte_orders(tmp_path: Path, dtype: str) -> None:
    block = unit_rows(6).astype(dtype)
    np.save(tmp_path / "x.npy", block)
    store = open_store(tmp_path / "x.npy")
    assert store.shards[0].dtype == f"float{8 * block.dtype.itemsize}"
    check(store, [block], None)


def test_each_shard_keeps_its_own_dtype(tmp_path: Path) -> None:
    blocks = [unit_rows(4, 0), unit_rows(5, 1).astype("f4"), unit_rows(6, 2).astype(">f8")]
    for number, block in enumerate(blocks):
        np.save(tmp_path / f"{number}.npy", block)
    store = open_store(tmp_path)
    assert [shard.dtype for shard in store.shards] == ["float16", "float32", "float64"]
    check(store, blocks, None)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_npy_version(tmp_path: Path, version: tuple[int, int]) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, unit_rows(5), version)
    check(open_store(tmp_path / "x.npy"), [unit_rows(5)], None)


class Frame:
    """A data frame of somebody's, as Polars hands it over: wide lists, views of text, in pieces."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def test_tables_in_memory() -> None:
    rows, keys = unit_rows(8), keys_of(0, 8)
    lists = rows.astype(np.float32).tolist()
    names = ("key", "label", "emb")
    half = pa.table([keys, range(8), pa.array(lists, pa.list_(pa.float16()))], names)
    check(open_store(half), [rows], [keys])
    wide = [
        pa.array(keys, pa.string_view()),
        range(8),
        pa.array(lists, pa.large_list(pa.float32())),
    ]
    whole = pa.table(wide, names)
    pieces = pa.concat_tables([whole.slice(0, 3), whole.slice(3)])
    store = open_store(Frame(pieces), name="web")
    assert store.path == "web"
    check(store, [rows.astype(np.float32)], [keys])
    check(open_store(half.drop_columns(["key"]).to_pandas()), [rows], None)
    for table, said in (
        (half.append_column("other", half["emb"]), "2 columns of lists of floats: emb, other;"),
        (half.drop_columns(["emb"]), "0 columns of lists of floats: none;"),
        (half.slice(0, 0), r"shape \(0, 0\)"),
        (
            pa.concat_tables([half, half.take([0]).cast(half.schema)]).set_column(
                2, "emb", pa.array([*lists, [1.0]], pa.list_(pa.float32()))
            ),
            "row 8 of 'emb'",
        ),
        (half["emb"], "a ChunkedArray is no store"),
    ):
        with pytest.raises(InputError, match=said):
            open_store(table)
    assert open_store(half.append_column("other", half["emb"]), array="other").rows == 8


def test_arrays_and_tensors() -> None:
    rows = unit_rows(8)
    store = open_store(rows)
    assert (store.path, store.format, store.modified(0)) == ("<array>", "array", "")
    check(store, [rows], None)
    check(open_store(np.asfortranarray(rows)), [rows], None)
    check(open_store(rows.astype(">f4")[::-1]), [rows.astype("f4")[::-1]], None)
    check(array_store(rows, keys_of(0, 8)), [rows], [keys_of(0, 8)])
    got = store.read(0, 0, 8)
    got[:] = 0
    assert rows.any(), "what a store gives is a copy"
    assert open_store(store) is store


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(unit_rows(8).astype("f4"))
    check(open_store(tensor), [tensor.numpy()], None)
    check(open_store(tensor.bfloat16()), [tensor.bfloat16().float().numpy()], None)
    check(open_store(tensor.half().requires_grad_()), [unit_rows(8)], None)


def test_memory_urls(tmp_path: Path, memory: Any) -> None:
    blocks = write_clip_retrieval(tmp_path / "laion", SIZES)
    keys = [keys_of(n, rows) for n, rows in enumerate(SIZES)]
    upload(tmp_path / "laion", memory, "laion")
    store = open_store("memory://laion")
    assert store.format == "clip-retrieval"
    check(store, blocks, keys)
    check(open_store("memory://laion/img_emb/img_emb_{2..4}.npy"), blocks[2:5], keys[2:5])
    check(open_store("memory://laion/img_emb/img_emb_*.npy"), blocks, keys)
    local = open_store(tmp_path / "laion")
    prints = [local.fingerprint(n) for n in range(len(SIZES))]
    assert local.fingerprints() == prints
    assert [store.fingerprint(n) for n in range(len(SIZES))] == prints


def test_memory_urls_of_other_formats(tmp_path: Path, memory: Any) -> None:
    block = unit_rows(9)
    with StoreWriter(tmp_path / "own", DIM) as writer:
        writer.add(block, keys_of(0, 9))
    (tmp_path / "zip").mkdir()
    np.savez_compressed(tmp_path / "zip" / "s.npz", b32_img=block)
    write_keys(tmp_path / "zip" / "s.parquet", "uid", keys_of(0, 9))
    block.astype("f4").tofile(tmp_path / "raw.dat")
    upload(tmp_path, memory, "data")
    check(open_store("memory://data/own"), [block], [keys_of(0, 9)])
    check(open_store("memory://data/zip"), [block], [keys_of(0, 9)])
    check(open_store(f"memory://data/raw.dat?dim={DIM}"), [block.astype("f4")], None)


def test_large_ranges_of_a_remote_file_come_in_pieces(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipgap.files.volumes._REQUEST", 100)
    np.save(tmp_path / "x.npy", unit_rows(40))
    upload(tmp_path, memory, "data")
    check(open_store("memory://data/x.npy"), [unit_rows(40)], None)


def test_only_the_range_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", unit_rows(100))
    np.savez(tmp_path / "x.npz", img=unit_rows(100))
    stores = [open_store(tmp_path / "x.npy"), open_store(tmp_path / "x.npz")]
    asked: list[int] = []
    from clipgap.files.volumes import LocalFile

    original = LocalFile.read_into

    def spy(self: LocalFile, offset: int, buffer: memoryview) -> None:
        asked.append(len(buffer))
        original(self, offset, buffer)

    monkeypatch.setattr(LocalFile, "read_into", spy)
    for store in stores:
        store.read(0, 50, 53)
    assert asked == [3 * DIM * 2, 3 * DIM * 2]


def test_keys_are_read_forwards_backwards_and_picked(tmp_path: Path) -> None:
    write_clip_retrieval(tmp_path, [30])
    store = open_store(tmp_path)
    keys = keys_of(0, 30)
    for start, stop in [(0, 5), (5, 20), (3, 9), (29, 30), (8, 8), (0, 30), (14, 21)]:
        assert store.keys(0, start, stop).to_pylist() == keys[start:stop]
    picked = store.take_keys(0, np.array([0, 6, 7, 29]))
    assert picked.to_pylist() == [keys[n] for n in (0, 6, 7, 29)]
    assert store.take_keys(0, np.array([], np.int64)).to_pylist() == []


def test_keys_picked_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipgap.store.base._KEY_BLOCK", 4)
    store = array_store(unit_rows(30), keys_of(0, 30))
    rows = np.array([0, 3, 4, 17, 18, 29])
    picked = store.take_keys(0, rows)
    assert picked.to_pylist() == [keys_of(0, 30)[row] for row in rows]


def test_many_shards_read_by_turns(tmp_path: Path) -> None:
    """More shards than readers at rest: each still goes on where it was."""
    blocks = write_clip_retrieval(tmp_path, [21] * 7)
    store = open_store(tmp_path)
    for start in range(0, 21, 5):
        stop = min(start + 5, 21)
        for shard in range(7):
            assert store.keys(shard, start, stop).to_pylist() == keys_of(shard, 21)[start:stop]
            np.testing.assert_array_equal(store.read(shard, start, stop), blocks[shard][start:stop])


def test_threads_read_the_same_store(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    block = unit_rows(300)
    np.savez_compressed(tmp_path / "0.npz", img=block)
    write_keys(tmp_path / "0.parquet", "uid", keys_of(0, 300), row_group=50)
    store = open_store(tmp_path)

    def look(start: int) -> bool:
        rows, keys = store.read(0, start, start + 7), store.keys(0, start, start + 7)
        return (rows == block[start : start + 7]).all() and (
            keys.to_pylist() == keys_of(0, 300)[start : start + 7]
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(look, [n * 37 % 290 for n in range(200)]))


@pytest.mark.parametrize(
    ("kind", "cast"),
    [
        (pa.large_string(), lambda keys: keys),
        (pa.dictionary(pa.int32(), pa.string()), lambda keys: keys.dictionary_encode()),
    ],
    ids=["large_string", "dictionary"],
)
def test_other_string_types_of_keys(tmp_path: Path, kind: pa.DataType, cast: Any) -> None:
    import pyarrow.parquet as pq

    np.savez(tmp_path / "0.npz", img=unit_rows(4))
    keys = cast(pa.array(keys_of(0, 4)))
    pq.write_table(pa.table({"uid": keys.cast(kind)}), tmp_path / "0.parquet")
    store = open_store(tmp_path)
    assert store.keys(0, 0, 4).type == pa.string()
    check(store, [unit_rows(4)], [keys_of(0, 4)])


def test_fingerprints_name_content_not_place_or_time(tmp_path: Path) -> None:
    write_clip_retrieval(tmp_path / "a", [5, 6])
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    a, b = open_store(tmp_path / "a"), open_store(tmp_path / "b")
    assert [a.fingerprint(n) for n in (0, 1)] == [b.fingerprint(n) for n in (0, 1)]
    assert a.fingerprint(0) != a.fingerprint(1)

    file = tmp_path / "b" / "img_emb" / "img_emb_0.npy"
    rows = np.load(file)
    rows[2, 3] += np.float16(0.5)
    np.save(file, rows)
    write_keys(tmp_path / "b" / "metadata" / "metadata_1.parquet", "image_path", keys_of(9, 6))
    changed = open_store(tmp_path / "b")
    assert a.fingerprint(0) != changed.fingerprint(0)
    assert a.fingerprint(1) != changed.fingerprint(1)
    assert b.modified(0) != changed.modified(0)
    assert b.modified(1) != changed.modified(1)


def test_fingerprints_of_large_files_use_samples(tmp_path: Path) -> None:
    block = np.zeros((200_000, 8), np.float16)
    np.save(tmp_path / "x.npy", block)
    first = open_store(tmp_path / "x.npy").fingerprint(0)
    block[-1] = 1
    np.save(tmp_path / "x.npy", block)
    assert open_store(tmp_path / "x.npy").fingerprint(0) != first


def test_fingerprints_of_arrays_cover_every_value() -> None:
    block = np.zeros((200_000, 8), np.float16)
    first = open_store(block).fingerprint(0)
    assert open_store(np.asfortranarray(block)).fingerprint(0) == first
    block[123_456, 3] = 1
    assert open_store(block).fingerprint(0) != first


def test_arrays_and_metadata_side_by_side(tmp_path: Path) -> None:
    for number in (0, 1):
        np.save(tmp_path / f"img_emb_{number}.npy", unit_rows(4, number))
        write_keys(tmp_path / f"metadata_{number}.parquet", "image_path", keys_of(number, 4))
    store = open_store(tmp_path)
    assert store.format == "clip-retrieval"
    check(store, [unit_rows(4, 0), unit_rows(4, 1)], [keys_of(0, 4), keys_of(1, 4)])


def test_a_single_archive_with_a_number_is_no_sequence(tmp_path: Path) -> None:
    np.savez(tmp_path / "imagenet_v2.npz", img=unit_rows(4))
    check(open_store(tmp_path), [unit_rows(4)], None)


@given(
    rows=st.integers(1, 60),
    row_group=st.integers(1, 70),
    ranges=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12),
)
@examples(40)
def test_any_sequence_of_ranges(
    rows: int,
    row_group: int,
    ranges: list[tuple[int, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("ranges")
    np.savez_compressed(folder / "0.npz", img=unit_rows(rows))
    write_keys(folder / "0.parquet", "uid", keys_of(0, rows), row_group)
    store = open_store(folder)
    for pair in ranges:
        start, stop = sorted(min(place, rows) for place in pair)
        assert store.read(0, start, stop).tobytes() == unit_rows(rows)[start:stop].tobytes()
        assert store.keys(0, start, stop).to_pylist() == keys_of(0, rows)[start:stop]


def test_servers_that_list_nothing_still_serve_files(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, 1):
        np.save(tmp_path / f"{number}.npy", unit_rows(4, number))
    upload(tmp_path, memory, "data")
    monkeypatch.setattr(type(memory), "ls", lambda *_, **__: [])
    check(open_store("memory://data/{0..1}.npy"), [unit_rows(4, 0), unit_rows(4, 1)], None)


def test_only_a_few_readers_rest() -> None:
    resting = Resting(capacity=2)
    for reader, path in enumerate("abca"):
        resting.keep(path, reader)
    assert [resting.take(path) for path in "abc"] == [3, None, 2]
    assert resting.take("a") is None, "a reader is lent to one caller at a time"
