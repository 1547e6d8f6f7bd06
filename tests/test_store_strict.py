"""What is broken is refused before anything is read, and every problem is named at once."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgap.errors import InputError, MissingDependency, UsageError
from clipgap.store.npy import MAGIC
from clipgap.store.opening import array_store, open_store
from tests.stores import DIM, keys_of, unit_rows, write_clip_retrieval, write_keys
from tests.thorough import examples


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        open_store(source, **options)
    return str(caught.value)


def npy(path: Path, header: str, body: bytes = b"") -> Path:
    """An .npy file with any header at all."""
    text = header.encode()
    path.write_bytes(MAGIC + b"\x01\x00" + struct.pack("<H", len(text)) + text + body)
    return path


class Bomb:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_truncated_file_names_file_and_offsets(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, unit_rows(10))
    whole = path.stat().st_size
    os.truncate(path, whole - 30)
    text = refusal(path)
    assert str(path) in text
    assert f"byte {whole}" in text
    assert f"byte {whole - 30}" in text
    assert "row 8 is the first that is not whole" in text


def test_trailing_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, unit_rows(10))
    with path.open("ab") as file:
        file.write(b"!")
    assert "1 bytes too many" in refusal(path)


@given(cut=st.integers(0, 127))
@examples(40)
def test_a_file_cut_inside_its_header(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / "x.npy"
    np.save(path, unit_rows(10))
    os.truncate(path, cut)
    assert str(path) in refusal(path)


@given(place=st.integers(0, 127), value=st.integers(0, 255))
@examples(300)
def test_a_flipped_header_byte_is_refused_or_harmless(
    place: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.npy"
    np.save(path, unit_rows(10))
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(content)
    try:
        store = open_store(path)
    except InputError:
        return
    assert store.rows * store.dim * np.dtype(store.shards[0].dtype).itemsize == 10 * DIM * 2
    store.read(0, 0, store.rows)


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("{'descr': '<f2', 'fortran_order': False, 'shape': (9, 12)}", "truncated"),
        ("{'descr': '<f2', 'fortran_order': True, 'shape': (0, 12)}", "Fortran"),
        ("{'descr': '<f2', 'fortran_order': 0, 'shape': (0, 12)}", "Fortran"),
        ("{'descr': '<i4', 'fortran_order': False, 'shape': (0, 12)}", "'<i4'"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (0, 12)}", "pickle"),
        ("{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (0, 12)}", "float16"),
        ("{'descr': '<f2', 'fortran_order': False, 'shape': (12,)}", "1 dimensions"),
        ("{'descr': '<f2', 'fortran_order': False, 'shape': (0, 3, 4)}", "3 dimensions"),
        ("{'descr': '<f2', 'fortran_order': False, 'shape': (-1, 12)}", "no shape"),
        ("{'descr': '<f2', 'fortran_order': False, 'shape': (True, 12)}", "no shape"),
        ("{'descr': '<f2', 'fortran_order': False, 'shape': (0, 0)}", "length 0"),
        ("{'descr': '<f2', 'shape': (0, 12)}", "exactly the entries"),
        ("__import__('os').mkdir('here')", "plain dictionary"),
        ("(" * 5000, "plain dictionary"),
        ("   ", "plain dictionary"),
    ],
)
def test_headers_that_lie_or_mean_something_else(
    tmp_path: Path, header: str, complaint: str
) -> None:
    assert complaint in refusal(npy(tmp_path / "x.npy", header))


def test_a_header_that_claims_more_than_memory_holds(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(MAGIC + b"\x02\x00" + struct.pack("<I", 0xFFFFFFFF) + b" " * 50)
    assert "claims 4,294,967,307 bytes" in refusal(path)
    rows = 10**15
    path = npy(path, f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({rows}, 640)}}")
    assert "truncated" in refusal(path)


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    objects = np.array([[Bomb(trace)]], object)
    np.save(tmp_path / "object.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "object.npz", l14_img=objects)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Bomb(trace)))
    with zipfile.ZipFile(tmp_path / "bare.npz", "w") as archive:
        archive.writestr("l14_img", pickle.dumps(Bomb(trace)))
    for name in ("object.npy", "object.npz", "bare.npy", "bare.npz"):
        refusal(tmp_path / name)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists(), "the bomb works, so its silence above means something"


def test_fortran_order_says_how_to_mend_it(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(unit_rows(10)))
    assert "np.ascontiguousarray" in refusal(tmp_path / "x.npy")


def test_every_problem_of_every_shard_is_listed(tmp_path: Path) -> None:
    write_clip_retrieval(tmp_path, [5] * 8)
    images, metadata = tmp_path / "img_emb", tmp_path / "metadata"
    os.truncate(images / "img_emb_0.npy", 200)
    np.save(images / "img_emb_1.npy", unit_rows(5, dim=DIM + 1))
    (images / "img_emb_2.npy").unlink()
    (metadata / "metadata_3.parquet").unlink()
    write_keys(metadata / "metadata_4.parquet", "image_path", keys_of(4, 6))
    (metadata / "metadata_5.parquet").write_bytes(b"garbage")
    write_keys(metadata / "metadata_6.parquet", "url", keys_of(6, 5))
    write_keys(metadata / "metadata_17.parquet", "image_path", keys_of(17, 5))
    text = refusal(tmp_path)
    for expected in (
        "img_emb_0.npy: truncated",
        "img_emb_1.npy: rows have 13 dimensions, those of 5 other shards 12",
        "img_emb_N.npy: of the numbers 0 to 7 these are missing: 2",
        "img_emb_3.npy: no metadata_3.parquet belongs to it",
        "img_emb_4.npy has 5 rows, but 6 keys lie in",
        "metadata_5.parquet: not a readable parquet file",
        "metadata_6.parquet: has no column 'image_path' for the keys; it has caption, url",
        "metadata_17.parquet: no img_emb_17.npy belongs to it",
        "metadata_2.parquet: no img_emb_2.npy belongs to it",
    ):
        assert expected in text


@pytest.mark.parametrize("numbers", [[1, 2], [0, 2, 3, 9], [5]])
def test_a_folder_must_hold_every_number_from_zero(tmp_path: Path, numbers: list[int]) -> None:
    (tmp_path / "img_emb").mkdir()
    for number in numbers:
        np.save(tmp_path / "img_emb" / f"img_emb_{number}.npy", unit_rows(3))
    missing = {(1, 2): "0", (0, 2, 3, 9): "1, 4–8", (5,): "0–4"}[tuple(numbers)]
    assert f"these are missing: {missing}." in refusal(tmp_path)
    listed = ",".join(map(str, numbers))
    names = f"{{{listed}}}" if len(numbers) > 1 else listed
    assert open_store(f"{tmp_path}/img_emb/img_emb_{names}.npy").rows == 3 * len(numbers)


def test_a_glob_may_start_anywhere_but_has_no_gap(tmp_path: Path) -> None:
    for number in (3, 4, 6):
        np.save(tmp_path / f"img_emb_{number}.npy", unit_rows(3))
    assert "missing: 5." in refusal(f"{tmp_path}/img_emb_*.npy")
    assert open_store(f"{tmp_path}/img_emb_[34].npy").rows == 6


def test_plain_folders_are_sequences_too(tmp_path: Path) -> None:
    for number in (0, 1, 3):
        np.save(tmp_path / f"{number:05d}.npy", unit_rows(3))
    assert "missing: 2." in refusal(tmp_path)


def test_the_same_number_twice(tmp_path: Path) -> None:
    write_clip_retrieval(tmp_path, [3, 4])
    np.save(tmp_path / "img_emb" / "img_emb_01.npy", unit_rows(4))
    assert "number 1 is there twice" in refusal(tmp_path)


def test_two_metadata_files_for_one_shard(tmp_path: Path) -> None:
    write_clip_retrieval(tmp_path, [3, 4])
    write_keys(tmp_path / "metadata" / "metadata_01.parquet", "image_path", keys_of(1, 4))
    assert "more than one metadata_1.parquet" in refusal(tmp_path)


def test_braces_that_name_missing_files(tmp_path: Path) -> None:
    np.save(tmp_path / "1.npy", unit_rows(3))
    text = refusal(f"{tmp_path}/{{0..2}}.npy")
    assert f"{tmp_path}/0.npy: there is no such file" in text
    assert f"{tmp_path}/2.npy: there is no such file" in text
    assert "1.npy" not in text


def test_datacomp_pairs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", img=unit_rows(3))
    for name in ("b", "c"):
        write_keys(tmp_path / f"{name}.parquet", "uid", keys_of(0, 3))
    text = refusal(tmp_path)
    assert "a.npz: no a.parquet beside it" in text
    assert "c.parquet: no c.npz beside it" in text


def test_datacomp_arrays_to_choose_from(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", l14_img=unit_rows(3), b32_img=unit_rows(3), l14_txt=unit_rows(3))
    text = refusal(tmp_path / "0.npz")
    assert "l14_img, b32_img. Choose one: PATH?array=l14_img" in text
    assert "has no array 'b16_img'; it has l14_img, b32_img, l14_txt" in refusal(
        f"{tmp_path}/0.npz?array=b16_img"
    )


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "0.npz"
    np.savez(path, img=unit_rows(30))
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    assert "not a readable .npz archive" in refusal(path)
    path.write_bytes(b"")
    assert "not a readable .npz archive" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("img.npy", npy(tmp_path / "x.npy", "{}").read_bytes())
    assert "exactly the entries" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        np.save(tmp_path / "x.npy", unit_rows(30))
        archive.writestr("img.npy", (tmp_path / "x.npy").read_bytes() + b"tail")
    assert "the array img.npy: 4 bytes too many" in refusal(path)


def test_a_flipped_bit_in_a_compressed_array_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "0.npz"
    np.savez_compressed(path, img=unit_rows(300))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    store = open_store(path)
    with pytest.raises(InputError, match=r"0\.npz: the compressed array img\.npy is damaged"):
        store.read(0, 0, 300)


def test_raw_memmaps_must_divide(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(4 * DIM * 5 + 3))
    assert "3 bytes are left over" in refusal(f"{tmp_path}/raw?dim={DIM}")
    (tmp_path / "raw").write_bytes(bytes(4 * DIM * 5))
    (tmp_path / "paths").write_bytes(bytes(24 * 4))
    assert "5 rows, but 4 keys" in refusal(f"{tmp_path}/raw?dim={DIM}&paths=paths")
    (tmp_path / "paths").write_bytes(bytes(24 * 5 + 1))
    assert "24-byte paths" in refusal(f"{tmp_path}/raw?dim={DIM}&paths=paths")
    assert "no such file" in refusal(f"{tmp_path}/raw?dim={DIM}&paths=elsewhere")
    np.save(tmp_path / "x.npy", unit_rows(3))
    assert "leave ?dim= out" in refusal(tmp_path / "x.npy", dim=DIM)


def test_number_keys_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", img=unit_rows(3))
    pq.write_table(pa.table({"uid": [1, 2, 3]}), tmp_path / "0.parquet")
    assert "must be strings, not int64; numbers lose the leading zeros" in refusal(tmp_path)


def test_keys_that_are_not_text_are_found_when_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", img=unit_rows(3))
    broken = pa.array([b"ok", b"\xff\xfe", b"ok"]).view(pa.string())
    pq.write_table(pa.table({"uid": broken}), tmp_path / "0.parquet")
    store = open_store(tmp_path)
    with pytest.raises(InputError, match=r"0\.parquet: the column uid cannot be read"):
        store.keys(0, 0, 3)


def test_folders_that_could_mean_two_things(tmp_path: Path) -> None:
    write_clip_retrieval(tmp_path, [3])
    np.save(tmp_path / "other.npy", unit_rows(3))
    text = refusal(tmp_path)
    assert "img_emb/img_emb_*.npy and *.npy" in text
    assert open_store(f"{tmp_path}/*.npy").rows == 3


@pytest.mark.parametrize("pattern", ["", "/*.npy"])
def test_text_embeddings_among_image_embeddings(tmp_path: Path, pattern: str) -> None:
    for name in ("img_emb_0", "text_emb_0"):
        np.save(tmp_path / f"{name}.npy", unit_rows(3))
    text = refusal(f"{tmp_path}{pattern}")
    assert "text_emb_0.npy: lies among img_emb_N.npy files" in text
    assert f"'{tmp_path}/img_emb_*.npy'" in text


@pytest.mark.parametrize("stray", ["val_0", "val_1", "mean"])
def test_a_sequence_and_something_else(tmp_path: Path, stray: str) -> None:
    for name in ("train_0", "train_1", stray):
        np.save(tmp_path / f"{name}.npy", unit_rows(3))
    text = refusal(tmp_path)
    assert f"holds train_N.npy and also {stray}.npy" in text
    assert f"'{tmp_path}/train_*.npy'" in text


def test_parquet_beside_plain_arrays_is_not_ignored(tmp_path: Path) -> None:
    np.save(tmp_path / "val.npy", unit_rows(3))
    write_keys(tmp_path / "val.parquet", "key", keys_of(0, 3))
    assert "unclear what this belongs to" in refusal(tmp_path)


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.jpg").write_bytes(b"")
    assert "no such file or folder" in refusal(tmp_path / "absent")
    assert "It holds: nothing" in refusal(tmp_path / "empty")
    assert "It holds: cat.jpg" in refusal(tmp_path / "pictures")
    assert "no file matches" in refusal(f"{tmp_path}/*.npy")
    assert "expected .npy or .npz files, found .jpg" in refusal(tmp_path / "pictures" / "cat.jpg")
    assert "no such file or folder" in refusal("memory://nowhere")


def test_urls_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Protocol not known: nonsense" in refusal("nonsense://x")
    import fsspec

    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingDependency, match=r"Install s3fs.*\[remote\]"):
        open_store("s3://bucket/x")


def test_shards_without_and_with_keys_do_not_mix(tmp_path: Path) -> None:
    write_clip_retrieval(tmp_path / "a", [3])
    np.save(tmp_path / "b.npy", unit_rows(3))
    text = refusal(f"{tmp_path}/a::{tmp_path}/b.npy")
    assert "b.npy: has no keys, but 1 of 2 shards of this store have" in text


def test_a_shard_named_twice(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", unit_rows(3))
    assert "b.npy: named 2 times" in refusal(f"{tmp_path}/b.npy::{tmp_path}/b.npy")


def test_dimensions_differ_between_joined_stores(tmp_path: Path) -> None:
    for name, dim in (("a", 4), ("b", 4), ("c", 5)):
        np.save(tmp_path / f"{name}.npy", unit_rows(3, dim=dim))
    text = refusal(tmp_path)
    assert "c.npy: rows have 5 dimensions, those of 2 other shards 4" in text


@pytest.mark.parametrize("rewrite", ["longer", "same size"])
def test_a_file_changed_after_opening_is_noticed(tmp_path: Path, rewrite: str) -> None:
    path = tmp_path / "x.npy"
    np.save(path, unit_rows(10))
    store = open_store(path)
    np.save(path, unit_rows(10 if rewrite == "same size" else 11, seed=9))
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match=r"x\.npy: was changed after the store was opened"):
        store.read(0, 0, 10)


def test_a_file_removed_after_opening_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, unit_rows(10))
    store = open_store(path)
    path.unlink()
    with pytest.raises(InputError, match=r"x\.npy: cannot be read"):
        store.read(0, 0, 10)


def test_ranges_outside_a_shard_are_programming_errors() -> None:
    store = open_store(unit_rows(10))
    for start, stop in [(-1, 3), (3, 11), (5, 4)]:
        with pytest.raises(IndexError):
            store.read(0, start, stop)
        with pytest.raises(IndexError):
            store.keys(0, start, stop)


@pytest.mark.parametrize(
    "array",
    [np.zeros(5, "f2"), np.zeros((2, 3, 4), "f2"), np.zeros((2, 3), "i4"), np.zeros((2, 0), "f4")],
)
def test_arrays_that_are_no_embeddings(array: np.ndarray[Any, Any]) -> None:
    assert "<array>: shape" in refusal(array)


def test_arguments_that_are_no_store() -> None:
    assert "a list is no store" in refusal([1, 2])
    with pytest.raises(InputError, match="4 rows but 3 keys"):
        array_store(unit_rows(4), keys_of(0, 3))
    with pytest.raises(InputError, match="keys must be strings"):
        array_store(unit_rows(2), [1, 2])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("x?dim=0", "dim=0 is not a positive whole number"),
        ("x?dim=-4", "dim=-4 is not"),
        ("x?arry=l14_img", "'arry=l14_img' is no setting"),
        ("x?dim=", "'dim=' is no setting"),
        ("a::", "names no file"),
        ("x{}.npy", "neither a range"),
        ("x{9..3}.npy", "runs backwards"),
        ("x{0..99999999}.npy", "1,000,000 names"),
        ("x{0..9999}{0..9999}.npy", "1,000,000 names"),
    ],
)
def test_names_that_make_no_sense(source: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        open_store(source)
