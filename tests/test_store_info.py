"""`inspect` counts what a plain look at everything would count."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgap.errors import InputError
from clipgap.store.duplicates import KeyCounter
from clipgap.store.info import BadRow, inspect
from clipgap.store.opening import array_store, open_store
from tests.stores import keys_of, unit_rows, write_clip_retrieval, write_keys
from tests.thorough import examples


def test_norms_and_bad_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipgap.store.info._BLOCK_BYTES", 7 * 12 * 8)  # blocks of 7 rows
    first, second = unit_rows(20, 0), unit_rows(30, 1).astype(np.float32)
    first[3] = 0
    first[9, 2] = np.inf
    second[0, 0] = np.nan
    second[7] *= 2
    second[8] *= 0.5
    np.save(tmp_path / "0.npy", first)
    np.save(tmp_path / "1.npy", second)
    seen: list[tuple[int, int]] = []
    info = inspect(open_store(tmp_path), lambda done, total: seen.append((done, total)))
    assert (info.rows, info.dim, info.format) == (50, 12, "npy")
    assert info.dtypes == {"float16": 1, "float32": 1}
    assert (info.normalised, info.zero, info.not_finite) == (2, 1, 2)
    assert info.first_bad == (
        BadRow(0, "0", 3, None, "zero"),
        BadRow(0, "0", 9, None, "not finite"),
        BadRow(1, "1", 0, None, "not finite"),
    )
    assert info.duplicate_keys is None
    assert info.norms is not None
    assert info.norms.max == pytest.approx(2, rel=1e-3)
    assert info.norms.min == pytest.approx(0.5, rel=1e-3)
    usable = np.concatenate([np.delete(first, [3, 9], 0), np.delete(second, 0, 0)])
    lengths = np.linalg.norm(usable.astype(float), axis=1)
    assert info.norms.mean == pytest.approx(math.fsum(lengths) / len(lengths), rel=1e-12)
    assert seen[-1] == (50, 50)
    assert seen == sorted(seen)


def test_bad_rows_are_named_with_their_keys() -> None:
    rows = unit_rows(40)
    rows[5:] = 0
    info = inspect(array_store(rows, keys_of(3, 40)), shown=4)
    assert info.zero == 35
    assert [(bad.row, bad.key) for bad in info.first_bad] == [
        (row, keys_of(3, 40)[row]) for row in (5, 6, 7, 8)
    ]


def test_rows_as_long_as_float64_can_say() -> None:
    found = inspect(array_store(np.full((3, 2), 1e308)))
    assert found.normalised == 3 and found.not_finite == 0
    assert found.norms is not None and found.norms.mean == math.inf


def test_a_store_of_bad_rows_and_an_empty_one() -> None:
    assert inspect(open_store(np.zeros((3, 4), np.float16))).norms is None
    info = inspect(array_store(np.empty((0, 4), np.float16), []))
    assert (info.rows, info.norms) == (0, None)
    assert info.duplicate_keys is not None
    assert info.duplicate_keys.within_shards == 0


def test_duplicate_keys_within_and_across_shards(tmp_path: Path) -> None:
    write_clip_retrieval(tmp_path, [3, 4, 2])
    for number, keys in enumerate([["a", "b", "a"], ["b", "c", "c", "c"], ["d", "b"]]):
        write_keys(tmp_path / "metadata" / f"metadata_{number}.parquet", "image_path", keys)
    duplicates = inspect(open_store(tmp_path)).duplicate_keys
    assert duplicates is not None
    assert duplicates.within_shards == 3
    assert duplicates.across_shards == 1
    assert [(d.key, d.places, d.count) for d in duplicates.first] == [
        ("a", ((0, 0), (0, 2)), 2),
        ("b", ((0, 1), (1, 0), (2, 1)), 3),
        ("c", ((1, 1), (1, 2), (1, 3)), 3),
    ]


@given(
    shards=st.lists(st.lists(st.sampled_from("abcdefgh") | st.none(), max_size=30), max_size=5),
    bucket_rows=st.sampled_from([1, 5, 1000]),
)
@examples(60)
def test_duplicates_equal_a_count_by_hand(shards: list[list[str | None]], bucket_rows: int) -> None:
    rows = sum(map(len, shards))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipgap.store.duplicates._BUFFER_ROWS", 7)
        with KeyCounter(rows, shown=3, bucket_rows=bucket_rows) as counter:
            for shard, keys in enumerate(shards):
                counter.add(shard, 0, pa.array(keys[:4], pa.string()))
                counter.add(shard, 4, pa.array(keys[4:], pa.string()))
            result = counter.result()
    places: dict[str, list[tuple[int, int]]] = {}
    for shard, keys in enumerate(shards):
        for row, key in enumerate(keys):
            if key is not None:
                places.setdefault(key, []).append((shard, row))
    within = sum(
        count - 1
        for keys in shards
        for count in Counter(key for key in keys if key is not None).values()
    )
    across = sum(len({shard for shard, _ in found}) > 1 for found in places.values())
    repeated = sorted(
        ((key, found) for key, found in places.items() if len(found) > 1),
        key=lambda pair: pair[1][0],
    )
    assert (result.within_shards, result.across_shards) == (within, across)
    assert result.missing == sum(key is None for keys in shards for key in keys)
    assert [(d.key, list(d.places), d.count) for d in result.first] == [
        (key, found[:3], len(found)) for key, found in repeated[:3]
    ]


def test_memory_does_not_grow_with_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipgap.store.info._BLOCK_BYTES", 1 << 16)

    def peak(rows: int) -> int:
        np.save(tmp_path / f"{rows}.npy", np.ones((rows, 64), np.float16))
        store = open_store(tmp_path / f"{rows}.npy")
        tracemalloc.start()
        try:
            inspect(store)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)  # what is imported and cached on first use
    small, large = peak(10_000), peak(80_000)
    assert large < 1.1 * small + 100_000
    assert large < 80_000 * 64 * 2 / 4


def test_a_full_temporary_folder_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clipgap.store.duplicates._BUFFER_ROWS", 5)
    monkeypatch.setattr(pa.ipc, "new_stream", full)
    with (
        pytest.raises(InputError, match=r"no room to sort the keys.*TMPDIR"),
        KeyCounter(100, bucket_rows=10) as counter,
    ):
        counter.add(0, 0, pa.array(keys_of(0, 10)))
