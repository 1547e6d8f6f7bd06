"""Which samples a keep-list means, and keep-lists applied on the fly."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgap.errors import InputError
from clipgap.keep.writing import KeepWriter
from clipgap.shards.matching import KeepSelector, SortedKeys
from clipgap.shards.samples import KeepStage, kept_samples, read_samples
from tests.shards import write_keep, write_shard

KEYS = {"00000": ["a", "b", "c"], "00001": ["a", "d"], "00002": ["e"]}
KEPT = {("00000", 0), ("00000", 2), ("00001", 1)}


@pytest.fixture
def urls(tmp_path: Path) -> list[str]:
    return [str(write_shard(tmp_path / "in" / f"{name}.tar", keys)) for name, keys in KEYS.items()]


def test_a_sample_is_a_shard_and_a_key(tmp_path: Path, urls: list[str]) -> None:
    selector = KeepSelector.open(write_keep(tmp_path / "keep", KEYS, KEPT), urls)
    for _ in range(2):
        assert (selector.by, selector.kept) == ("shard", 3)
        for url, (name, keys) in zip(urls, KEYS.items(), strict=True):
            for row, key in enumerate(keys):
                assert selector(key, url) == ((name, row) in KEPT)
            assert not selector("unknown", url)
        with pytest.raises(InputError, match=r"x/00000\.tar: not one of the 3 tar files"):
            selector("a", "x/00000.tar")
        selector = pickle.loads(pickle.dumps(selector))


def test_some_shards_of_a_store_will_do(tmp_path: Path, urls: list[str]) -> None:
    selector = KeepSelector.open(write_keep(tmp_path / "keep", KEYS, KEPT), urls[1:])
    assert selector.kept == 1


@pytest.mark.parametrize(
    "urls",
    [
        ["s3://bucket/x/00001.tar?versionId=3"],
        ["pipe:aws s3 cp 's3://bucket/00001.tar' -"],
        ["/data/y/00001.tar"],
    ],
)
def test_names_in_urls_and_commands(tmp_path: Path, urls: list[str]) -> None:
    selector = KeepSelector.open(write_keep(tmp_path / "keep", KEYS, KEPT), urls)
    assert selector.shard_of(urls[0]) == 1


def test_shards_of_one_name_in_two_folders(tmp_path: Path) -> None:
    keep = write_keep(tmp_path / "keep", {"x/0": ["a"], "y/0": ["a"]}, {("y/0", 0)})
    selector = KeepSelector.open(keep, ["/data/x/0.tar", "/data/y/0.tar"])
    assert not selector("a", "/data/x/0.tar") and selector("a", "/data/y/0.tar")
    with pytest.raises(InputError, match=r"one of 2 files for shard 'x/0'"):
        KeepSelector.open(keep, ["/data/x/0.tar", "/more/x/0.tar"])


def test_by_key_where_names_say_nothing(tmp_path: Path) -> None:
    store = {"img_emb_0": ["a", "bb", "c"], "img_emb_1": ["d"]}
    keep = write_keep(tmp_path / "keep", store, {("img_emb_0", 1), ("img_emb_1", 0)})
    selector = KeepSelector.open(keep, ["00000.tar", "00001.tar"])
    for _ in range(2):
        assert (selector.by, selector.kept) == ("key", 2)
        assert [k for k in ("a", "bb", "c", "d", "dd", "b", "") if selector(k, "x")] == ["bb", "d"]
        selector = pickle.loads(pickle.dumps(selector))


def test_refused(tmp_path: Path) -> None:
    keep = write_keep(tmp_path / "keep", KEYS, KEPT)
    with pytest.raises(InputError, match=r"(?s)keep-list of a-store, does not fit.*9\.tar"):
        KeepSelector.open(keep, ["00000.tar", "9.tar"])
    twice = write_keep(tmp_path / "twice", KEYS, {("00000", 0), ("00001", 0)})
    with pytest.raises(InputError, match=r"1 keys are kept more than once, the first is 'a'"):
        KeepSelector.open(twice, ["9.tar"])
    store = {"path": "s", "shards": [{"name": "0", "rows": 2}]}
    with KeepWriter(tmp_path / "keyless", store, {}) as writer:
        writer.add(0, np.array([True, False]))
    with pytest.raises(InputError, match="has no keys"):
        KeepSelector.open(tmp_path / "keyless", ["0.tar"])
    with pytest.raises(InputError, match="not a finished keep-list"):
        KeepSelector.open(tmp_path, ["0.tar"])


WORDS = st.text(st.sampled_from("abé"), min_size=1, max_size=4)


@pytest.mark.parametrize("store", ["00000", "img_emb_0"])
def test_rows_without_a_key_cannot_be_found(tmp_path: Path, urls: list[str], store: str) -> None:
    """Whether samples are told apart by shard and key, or by key alone."""
    keys: Any = ["a", None, "c"]
    keep = write_keep(tmp_path / "k", {store: keys}, {(store, 0), (store, 1)})
    with pytest.raises(InputError, match=rf"1 of the rows kept of '{store}' have no key"):
        KeepSelector.open(keep, urls[:1])("a", urls[0])


@given(st.sets(WORDS), st.lists(st.text(st.sampled_from("abé"), max_size=9)))
def test_sorted_keys_are_a_set(truth: set[str], asked: list[str]) -> None:
    halves = [sorted(truth)[::2], sorted(truth)[1::2]]

    class Keep:
        path = "keep"
        kept = len(truth)
        shards = tuple(
            type("Shard", (), {"index": i, "kept": len(keys), "name": str(i)})
            for i, keys in enumerate(halves)
        )

        def keys(self, shard: int) -> pa.ChunkedArray:
            return pa.chunked_array([pa.array(["skipped", *halves[shard]], pa.string()).slice(1)])

    table = SortedKeys.of(Keep())  # type: ignore[arg-type]
    assert [key in table for key in asked] == [key in truth for key in asked]
    places = table.places([key.encode() for key in asked])
    assert [place >= 0 for place in places] == [key in truth for key in asked]
    for key, place in zip(asked, places, strict=True):
        assert place < 0 or table.table[place].decode() == key


def test_kept_samples(tmp_path: Path, urls: list[str]) -> None:
    keep = write_keep(tmp_path / "keep", KEYS, KEPT)
    everything = [s for url in urls for s in read_samples(url)]
    names = [(name, row) for name, keys in KEYS.items() for row in range(len(keys))]
    expected = [s for s, name in zip(everything, names, strict=True) if name in KEPT]
    assert list(kept_samples(tmp_path / "in", keep)) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_webdataset_pipeline(tmp_path: Path, urls: list[str], workers: int) -> None:
    wds = pytest.importorskip("webdataset")
    stage = KeepStage(KeepSelector.open(write_keep(tmp_path / "keep", KEYS, KEPT), urls))
    dataset = wds.WebDataset(urls, shardshuffle=False, empty_check=False).compose(stage)
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=workers)
    found = {(Path(s["__url__"]).stem, s["__key__"], s["txt"]) for s in loader}
    expected = {
        (Path(s.shard).stem, s.key, s.contents["txt"])
        for s in kept_samples(tmp_path / "in", tmp_path / "keep")
    }
    assert found == expected and len(found) == 3
