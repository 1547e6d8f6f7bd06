"""A flipped bit in a store of ours is found by whoever reads the shard; stores travel by pickle."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clipgap
from clipgap.errors import InputError, Interrupted
from clipgap.kernels import cpu
from clipgap.store.info import inspect
from clipgap.store.opening import array_store, open_store
from clipgap.store.rows import RowsProof, sum_of_rows
from clipgap.store.writer import StoreWriter
from tests.kernels import CPU_KERNELS, kernel
from tests.stores import DIM, keys_of, unit_rows, write_clip_retrieval, write_keys

ROWS = 100


@pytest.fixture
def own(tmp_path: Path) -> Path:
    with StoreWriter(tmp_path / "own", DIM) as writer:
        for shard in range(3):
            writer.add(unit_rows(ROWS, shard), keys_of(shard, ROWS))
    return tmp_path / "own"


def flip(path: Path, place: int, bit: int = 1) -> None:
    """Change one bit, and neither size nor time."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def without_sums(store: Path) -> None:
    """What an earlier clipgap wrote."""
    catalogue = json.loads((store / "store.json").read_bytes())
    for shard in catalogue["shards"]:
        del shard["rows_sum"]
    (store / "store.json").write_text(json.dumps(catalogue))


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("place", [128, 128 + 3, 128 + ROWS * DIM, 128 + 2 * ROWS * DIM - 1])
def test_a_flipped_bit_in_rows_is_refused(own: Path, place: int, earlier: bool) -> None:
    if earlier:
        without_sums(own)
    damaged = own / "embeddings" / "00001.npy"
    flip(damaged, place)
    with pytest.raises(InputError, match=r"00001\.npy: is damaged"):
        inspect(open_store(own))
    with pytest.raises(InputError, match=r"00001\.npy: is damaged"):
        clipgap.scan(own, {"test": unit_rows(5, 9)})
    flip(damaged, place)
    inspect(open_store(own))


def test_the_sign_of_two_values_is_no_secret(own: Path) -> None:
    """Both flips change the highest bit of a word of 64."""
    for place in (128 + 7, 128 + 15):
        flip(own / "embeddings" / "00000.npy", place, 0x80)
    with pytest.raises(InputError, match=r"00000\.npy: is damaged"):
        inspect(open_store(own))


@pytest.mark.parametrize("read", ["keys", "take_keys", "scan"])
def test_a_flipped_bit_in_keys_is_refused(own: Path, read: str) -> None:
    keys = own / "keys" / "00002.parquet"
    flip(keys, keys.read_bytes().index(b"00002"))
    store = open_store(own)
    with pytest.raises(InputError, match=r"00002\.parquet: is damaged"):
        if read == "keys":
            store.keys(2, 50, 60)
        elif read == "take_keys":
            store.take_keys(2, np.array([99]))
        else:
            clipgap.scan(own, {"test": unit_rows(5, 9)})


def test_a_resumed_scan_refuses_a_damaged_shard(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipgap.store.rows.digest_of", lambda file: "the sample is the same")
    stop = threading.Event()

    def after_the_first(moment: Any) -> None:
        if moment.part == 1:
            stop.set()

    def run(**how: Any) -> None:
        clipgap.scan(own, {"t": unit_rows(5, 9)}, out=tmp_path / "s", **how)

    with pytest.raises(Interrupted):
        run(on_progress=after_the_first, stop=stop)
    flip(own / "embeddings" / "00002.npy", 500)
    with pytest.raises(InputError, match=r"00002\.npy: is damaged"):
        run(resume=True)
    flip(own / "embeddings" / "00002.npy", 500)
    run(resume=True)


def test_a_header_that_turns_the_bytes_is_refused(own: Path) -> None:
    array = own / "embeddings" / "00000.npy"
    flip(array, array.read_bytes().index(b"<f2"), ord("<") ^ ord(">"))
    with pytest.raises(InputError, match=r"00000\.npy: holds >f2"):
        open_store(own)


@given(st.data())
def test_sums_come_together_from_any_pieces(data: st.DataObject) -> None:
    dim = data.draw(st.sampled_from([1, 3, 4, 12, 640]))
    rows = unit_rows(37, 1, dim)
    cuts = sorted(data.draw(st.lists(st.integers(0, 37), max_size=5)))
    pieces = list(zip([0, *cuts], [*cuts, 37], strict=True))
    extra = data.draw(st.lists(st.tuples(st.integers(0, 37), st.integers(0, 37)), max_size=3))
    order = data.draw(st.permutations(pieces + [(min(p), max(p)) for p in extra]))
    right = RowsProof("right", 37, sum_of_rows(0, rows))
    wrong = RowsProof("wrong", 37, sum_of_rows(0, rows) ^ 1)
    for start, stop in order:
        right.add(start, rows[start:stop])
    assert right._checked
    with pytest.raises(InputError, match="wrong: is damaged"):
        for start, stop in order:
            wrong.add(start, rows[start:stop])


@pytest.mark.parametrize("name", [*CPU_KERNELS, "numpy"])
@pytest.mark.parametrize(
    ("dim", "expected"),
    [(3, 0x8DE28B3D00C461D0), (12, 0xEB5B21DB603C0528), (640, 0x06A268A1EA383D20)],
)
def test_a_sum_stays_what_it_is(
    name: str, dim: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catalogues hold it."""
    rows = (np.arange(300 * dim) % 251).astype(np.float16).reshape(300, dim)
    with kernel(name):
        if name == "numpy":
            monkeypatch.setattr(cpu, "is_built", lambda: False)
        assert sum_of_rows(5, rows) == expected
        assert sum_of_rows(5, rows[:100]) + sum_of_rows(105, rows[100:]) & (1 << 64) - 1 == expected
        assert sum_of_rows(5, rows[:0]) == 0


def test_threads_check_one_shard_together(own: Path) -> None:
    flip(own / "embeddings" / "00000.npy", 1_000)
    store = open_store(own)
    with ThreadPoolExecutor(8) as pool, pytest.raises(InputError, match="is damaged"):
        list(pool.map(lambda start: store.read(0, start, start + 4), range(0, ROWS, 4)))


def test_rows_picked_here_and_there_cost_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowsProof, "_MOST_GAPS", 5)
    rows = unit_rows(100)
    proof = RowsProof("x", 100, sum_of_rows(0, rows))
    for row in range(0, 100, 3):
        proof.add(row, rows[row : row + 1])
        assert len(proof._starts) <= 5
    proof.add(0, rows)
    assert proof._checked


def _clip_retrieval(folder: Path) -> str:
    write_clip_retrieval(folder, [5, 6])
    return str(folder)


def _datacomp(save: Callable[..., None]) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        folder.mkdir()
        save(folder / "0.npz", img=unit_rows(9))
        write_keys(folder / "0.parquet", "uid", keys_of(0, 9))
        return str(folder)

    return write


def _plain(folder: Path) -> str:
    folder.mkdir()
    np.save(folder / "a.npy", unit_rows(4).astype(">f8"))
    return str(folder)


def _semdedup(folder: Path) -> str:
    folder.mkdir()
    unit_rows(7).astype("f4").tofile(folder / "raw")
    np.array(keys_of(0, 7), "S24").tofile(folder / "paths")
    return f"{folder}/raw?dim={DIM}&paths=paths"


def _own(folder: Path) -> str:
    with StoreWriter(folder, DIM) as writer:
        writer.add(unit_rows(8), keys_of(0, 8))
    return str(folder)


def _remote(folder: Path) -> str:
    _own(folder)
    memory = fsspec.filesystem("memory")
    for file in folder.rglob("*.*"):
        memory.pipe_file(f"/pickled/{file.relative_to(folder)}", file.read_bytes())
    return "memory://pickled"


WRITERS = {
    "clip-retrieval": _clip_retrieval,
    "npz stored": _datacomp(np.savez),
    "npz compressed": _datacomp(np.savez_compressed),
    "npy": _plain,
    "semdedup": _semdedup,
    "own": _own,
    "remote": _remote,
}


@pytest.mark.parametrize("form", WRITERS)
def test_a_pickled_store_reads_the_same_and_opens_nothing(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(WRITERS[form](tmp_path / "s"))
    everything(store)  # readers rest now, and sums are known
    sent = pickle.dumps(store)
    with monkeypatch.context() as patch:
        patch.setattr("os.stat", None)  # a look at a file would fail
        patch.setattr("os.open", None)
        again = pickle.loads(sent)
    assert (again.path, again.format, again.shards) == (store.path, store.format, store.shards)
    assert everything(again) == everything(store)
    assert again.fingerprints() == store.fingerprints()


def everything(store: Any) -> list[Any]:
    return [
        (
            store.read(shard.index, 0, shard.rows).tobytes(),
            store.has_keys and store.keys(shard.index, 0, shard.rows).to_pylist(),
        )
        for shard in store.shards
    ]


def test_another_process_checks_sums_anew(own: Path) -> None:
    store = open_store(own)
    inspect(store)
    flip(own / "embeddings" / "00001.npy", 700)
    program = "import pickle, sys; pickle.load(sys.stdin.buffer).read(1, 0, 100)"
    answer = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(store), capture_output=True, check=False
    )
    assert b"00001.npy: is damaged" in answer.stderr


def test_arrays_travel_as_they_are() -> None:
    rows = unit_rows(6)
    store = pickle.loads(pickle.dumps(array_store(rows, keys_of(0, 6))))
    np.testing.assert_array_equal(store.read(0, 0, 6), rows)
    assert store.keys(0, 0, 6).to_pylist() == keys_of(0, 6)


def test_a_pickled_store_notices_a_file_that_was_changed(own: Path) -> None:
    sent = pickle.dumps(open_store(own))
    shutil.copy(own / "embeddings" / "00000.npy", own / "embeddings" / "00001.npy")
    os.utime(own / "embeddings" / "00001.npy", ns=(1, 1))
    with pytest.raises(InputError, match="was changed after the store was opened"):
        pickle.loads(sent).read(1, 0, 5)
