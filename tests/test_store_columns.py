"""Embeddings in columns of tables and in safetensors: the same rows as an array, or a refusal."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipgap.errors import InputError, MissingDependency
from clipgap.store.opening import open_store
from tests.stores import DIM, keys_of, unit_rows

FIXED, LISTS = pa.list_(pa.float16(), DIM), pa.list_(pa.float32())


def column_of(rows: Any, kind: Any) -> Any:
    if kind == FIXED:
        return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), DIM)
    return pa.array(list(rows.astype(np.float32)), kind)


def table_of(rows: Any, shard: int = 0, kind: Any = FIXED, **more: Any) -> Any:
    keys = {"uid": keys_of(shard, len(rows)), "text": ["a photo"] * len(rows)}
    return pa.table({**keys, "embedding": column_of(rows, kind), **more})


def saved(folder: Path, tables: list[Any]) -> None:
    """As `datasets` saves a set to disk."""
    folder.mkdir()
    names = [f"data-{n:05d}-of-{len(tables):05d}.arrow" for n in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with pa.ipc.new_stream(str(folder / name), table.schema) as stream:
            stream.write_table(table, max_chunksize=7)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


@pytest.mark.parametrize("kind", [FIXED, LISTS, pa.large_list(pa.float64())], ids=str)
@pytest.mark.parametrize("form", ["parquet", "datasets"])
def test_rows_and_keys_are_those_of_the_table(tmp_path: Path, kind: Any, form: str) -> None:
    blocks = [unit_rows(rows, seed) for seed, rows in enumerate((30, 1, 45))]
    kind = pa.list_(pa.float64()) if form == "parquet" and kind.value_type == "double" else kind
    made = []
    for shard, rows in enumerate(blocks):
        typed = rows.astype(kind.value_type.to_pandas_dtype())
        column = pa.array(list(typed), kind)
        made.append(table_of(rows, shard).set_column(2, "embedding", column))
    folder = tmp_path / "set"
    if form == "datasets":
        saved(folder, made)
    else:
        folder.mkdir()
        for shard, table in enumerate(made):
            name = f"train-{shard:05d}-of-{len(made):05d}.parquet"
            pq.write_table(table, folder / name, row_group_size=13)
    store = pickle.loads(pickle.dumps(open_store(folder)))
    assert (store.dim, [shard.rows for shard in store.shards]) == (DIM, [30, 1, 45])
    for shard, rows in enumerate(blocks):
        for start, stop in ((0, len(rows)), (len(rows) // 2, len(rows)), (0, 1), (5, 5)):
            if stop <= len(rows):
                np.testing.assert_array_equal(store.read(shard, start, stop), rows[start:stop])
                keys = store.keys(shard, start, stop)
                assert keys.to_pylist() == keys_of(shard, len(rows))[start:stop]
    assert len(set(store.fingerprints())) == 3


def test_of_several_columns_one_is_named(tmp_path: Path) -> None:
    rows, others = unit_rows(9, 0), unit_rows(9, 1)
    table = table_of(rows, other=column_of(others, FIXED))
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"2 columns of embeddings: embedding, other.*\?array=emb"):
        open_store(tmp_path / "x.parquet")
    store = open_store(f"{tmp_path / 'x.parquet'}?array=other")
    np.testing.assert_array_equal(store.read(0, 0, 9), others)
    with pytest.raises(InputError, match="no column of embeddings 'nope'"):
        open_store(f"{tmp_path / 'x.parquet'}?array=nope")


def test_rows_that_are_none_are_refused_by_number(tmp_path: Path) -> None:
    lists: list[Any] = [[0.5] * DIM for _ in range(20)]
    for name, wrong in {"null": None, "short": [1.0], "hole": [None] * DIM}.items():
        lists[13] = wrong
        pq.write_table(pa.table({"e": pa.array(lists, LISTS)}), tmp_path / f"{name}.parquet")
        store = open_store(tmp_path / f"{name}.parquet")
        assert not store.has_keys
        with pytest.raises(InputError, match=rf"{name}\.parquet: row \d+ of 'e'"):
            store.read(0, 0, 20)


@pytest.mark.parametrize("kind", [FIXED, LISTS], ids=str)
def test_flipped_bits_in_an_arrow_file_are_named_or_read(tmp_path: Path, kind: Any) -> None:
    """Its batches are mapped as they lie there: offsets and counts are looked at before use."""
    saved(tmp_path / "set", [table_of(unit_rows(20, 1), kind=kind)])
    path = next((tmp_path / "set").glob("*.arrow"))
    whole = path.read_bytes()
    for at in np.linspace(0, len(whole) - 1, 300).astype(int).tolist():
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 128]) + whole[at + 1 :])
        try:
            store = open_store(tmp_path / "set")
            store.read(0, 0, 20)
            pa.record_batch([store.keys(0, 0, 20)], names=["key"]).validate(full=True)
        except InputError as error:
            assert "data-00000-of-00001.arrow" in str(error)


def test_what_datasets_saved_is_whole_or_refused(tmp_path: Path) -> None:
    saved(tmp_path / "set", [table_of(unit_rows(5, n), n) for n in range(2)])
    (tmp_path / "set" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(InputError, match=r"data-00001-of-00002\.arrow: missing"):
        open_store(tmp_path / "set")
    both = tmp_path / "both"
    both.mkdir()
    (both / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for name in ("train", "test"):
        saved(both / name, [table_of(unit_rows(5, 1))])
    with pytest.raises(InputError, match=r"holds several sets; name one of .*both/test"):
        open_store(both)


def test_safetensors_are_read_where_they_lie(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    rows = unit_rows(7, 3)
    save_file({"image": rows, "scale": np.ones(1, np.float32)}, tmp_path / "a.safetensors")
    store = open_store(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(store.read(0, 2, 7), rows[2:])
    save_file({"image": rows, "text": unit_rows(7, 4)}, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"2 tables that could be meant.*\?array=image"):
        open_store(tmp_path / "b.safetensors")
    named = open_store(f"{tmp_path / 'b.safetensors'}?array=image")
    np.testing.assert_array_equal(named.read(0, 0, 7), rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no safetensors file"),
        (struct.pack("<Q", 1 << 60) + b"{}", "no safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "header at byte 8 is damaged"),
        (struct.pack("<Q", 2) + b"{}", "0 tables"),
        *(
            (struct.pack("<Q", len(header)) + header, "header at byte 8 is damaged|is of \\[")
            for header in (
                b'{"x": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0]}}',
                b'{"x": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4, 8]}}',
                b'{"x": {"dtype": ["F32"], "shape": [1, 1], "data_offsets": [0, 4]}}',
                b'{"x": {"dtype": "F32", "shape": [1e400, 1], "data_offsets": [0, 4]}}',
            )
        ),
    ],
)
def test_what_is_no_safetensors_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_store(tmp_path / "x.safetensors")


def test_lying_headers_of_safetensors_are_refused(tmp_path: Path) -> None:
    for said in (
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 400]},
        {"dtype": "F32", "shape": [200, 3], "data_offsets": [0, 2400]},
        {"dtype": "F32", "shape": [2, 0], "data_offsets": [0, 0]},
        {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
    ):
        header = json.dumps({"x": said}).encode()
        content = struct.pack("<Q", len(header)) + header + bytes(24)
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=r"does not fit|is of BF16"):
            open_store(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("0.jpg", "clipgap embed` makes a store of them"),
        ("cats/0.jpg", "clipgap embed` makes a store of them"),
        ("rows.pt", "torch.load"),
        ("rows.csv", "numpy.loadtxt"),
    ],
)
def test_who_names_something_else_is_told_what_to_do(
    tmp_path: Path, name: str, advice: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(InputError) as caught:
            open_store(place)
        assert advice in str(caught.value)


@pytest.fixture(scope="module")
def lance_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[str]]:
    """A dataset of three fragments with two deleted rows; what is left of it, and its keys."""
    lance = pytest.importorskip("lance")
    folder = tmp_path_factory.mktemp("lance") / "set.lance"
    rows, keys = unit_rows(100, 5), keys_of(0, 100)
    table = table_of(rows, other=column_of(rows, LISTS))
    lance.write_dataset(table, str(folder), max_rows_per_file=40)
    gone = [3, 50]
    lance.dataset(str(folder)).delete(f"uid = '{keys[3]}' or uid = '{keys[50]}'")
    return folder, np.delete(rows, gone, axis=0), np.delete(keys, gone).tolist()


def test_a_lance_dataset_is_its_newest_version(lance_set: Any) -> None:
    folder, rows, keys = lance_set
    for column, kind in (("embedding", "float16"), ("other", "float32")):
        store = pickle.loads(pickle.dumps(open_store(f"{folder}?array={column}")))
        assert [shard.rows for shard in store.shards] == [39, 39, 20]
        assert {shard.dtype for shard in store.shards} == {kind}
        starts = np.cumsum([0, 39, 39])
        for shard, first in enumerate(starts.tolist()):
            size = store.shards[shard].rows
            for start, stop in ((0, size), (7, 20), (5, 5)):
                found = store.read(shard, start, stop)
                np.testing.assert_array_equal(found, rows[first + start : first + stop])
                named = store.keys(shard, start, stop).to_pylist()
                assert named == keys[first + start : first + stop]
        assert len(set(store.fingerprints())) == 3


def test_lance_datasets_that_cannot_be_read_are_named(lance_set: Any, tmp_path: Path) -> None:
    whole, _, _ = lance_set
    with pytest.raises(InputError, match=r"2 columns of embeddings: embedding, other"):
        open_store(whole)
    folder = tmp_path / "set.lance"
    shutil.copytree(whole, folder)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for at in np.linspace(0, len(content) - 1, 8).astype(int).tolist():
            path.write_bytes(content[:at] + bytes([content[at] ^ 128]) + content[at + 1 :])
            try:
                store = open_store(f"{folder}?array=embedding")
                for shard in range(len(store.shards)):
                    store.read(shard, 0, store.shards[shard].rows)
                    store.keys(shard, 0, store.shards[shard].rows)
            except InputError as error:
                assert "set.lance" in str(error)
        path.write_bytes(content)
    next((folder / "data").glob("*.lance")).unlink()
    with pytest.raises(InputError, match=r"set\.lance/data/.*: missing, version 2 lists it"):
        open_store(f"{folder}?array=embedding")


def test_without_the_package_a_lance_dataset_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_versions", "data"):
        (tmp_path / "set.lance" / name).mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(MissingDependency, match=r"pylance is not installed.*\[lance\]"):
        open_store(tmp_path / "set.lance")
