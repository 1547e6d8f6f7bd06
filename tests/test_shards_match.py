"""Keep-lists that call samples by a field of theirs, as DataComp's call them by uid."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipgap.cli.main import main
from clipgap.errors import InputError
from clipgap.shards import names
from clipgap.shards.api import filter_shards
from clipgap.shards.finding import find_shards
from clipgap.shards.matching import KeepSelector
from clipgap.shards.names import names_in
from clipgap.shards.plan import plan_filter
from clipgap.shards.samples import KeepStage, kept_samples, read_samples
from clipgap.verify.api import verify
from tests.shards import contents, member, sample, tar_bytes, write_datacomp, write_keep
from tests.worlds import tree

UIDS = [hashlib.md5(bytes([i])).hexdigest() for i in range(30)]
POOL = {"0a1b": UIDS[:18], "9f00": UIDS[18:]}
"""Shards of DataComp's metadata: their names and sizes have nothing to do with those of tars."""
SHARDS = {"00000000": UIDS[4:14], "00000001": [*UIDS[:4], *UIDS[20:]], "00000002": UIDS[14:20]}
KEPT = {("0a1b", row) for row in range(0, 18, 3)} | {("9f00", row) for row in range(0, 12, 5)}
WANTED = [uid for uids in SHARDS.values() for uid in uids if uid in {POOL[n][r] for n, r in KEPT}]


def uids_in(folder: Path) -> list[str]:
    read = read_samples(folder)
    return [json.loads(sample.contents["json"])["uid"] for sample in read]


@pytest.fixture
def keep(tmp_path: Path) -> Path:
    return write_keep(tmp_path / "keep", POOL, KEPT)


@pytest.mark.parametrize("where", [{"table": False}, {}, {"keys": "{uid}-0", "table": False}])
@pytest.mark.parametrize("match", ["auto", "uid"])
def test_samples_are_found_by_their_uid(
    tmp_path: Path, keep: Path, where: dict[str, Any], match: str
) -> None:
    """By the table beside the tar, by each .json, and in what DataComp's resharder makes."""
    shards = write_datacomp(tmp_path / "in", SHARDS, **where)
    result = filter_shards(shards, keep, tmp_path / "out", match=match)
    assert uids_in(tmp_path / "out") == WANTED
    assert (result.kept, result.problems) == (len(WANTED), 0)
    assert result.manifest["settings"]["match"] == "uid"
    before = [entry for path in sorted(shards.glob("*.tar")) for entry in contents(path)]
    after = [e for path in sorted((tmp_path / "out").glob("*.tar")) for e in contents(path)]
    assert [entry for entry in before if entry in after] == after
    assert verify(tmp_path / "out").ok
    # Filtered again, and without a copy.
    again = filter_shards(tmp_path / "out", keep, tmp_path / "again")
    assert again.kept == len(WANTED)
    kept = list(kept_samples(shards, keep, match=match, extensions=("txt",)))
    assert [s.key for s in kept] == [s.key for s in read_samples(tmp_path / "out")]
    assert all(set(sample.contents) == {"txt"} for sample in kept)


def test_a_table_alone_will_do(tmp_path: Path, keep: Path) -> None:
    shards = write_datacomp(tmp_path / "in", SHARDS, described=False)
    filter_shards(shards, keep, tmp_path / "out", merge=4)
    rows = [pq.read_table(path) for path in sorted((tmp_path / "out").glob("*.parquet"))]
    assert [uid for table in rows for uid in table["uid"].to_pylist()] == WANTED
    keys = [key for table in rows for key in table["key"].to_pylist()]
    assert keys == [sample.key for sample in read_samples(tmp_path / "out")]
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == {
        "00000.tar": 3,
        "00001.tar": 3,
        "00002.tar": 3,
    }


def test_shards_with_the_names_of_the_stores_and_other_samples(tmp_path: Path) -> None:
    """A resharded subset is numbered anew from 0, like the shards that it was made of."""
    store = {"00000000": UIDS[:10], "00000001": UIDS[10:20], "00000002": UIDS[20:]}
    keep = write_keep(tmp_path / "keep", store, {(n, row) for n in store for row in (1, 4, 9)})
    kept = [store[name][row] for name in store for row in (1, 4, 9)]
    packed = {"00000000": kept[:5], "00000001": kept[5:]}
    shards = write_datacomp(tmp_path / "in", packed, "{uid}-0", table=False)
    assert filter_shards(shards, keep, tmp_path / "out").kept == len(kept)
    assert uids_in(tmp_path / "out") == kept


@pytest.mark.parametrize("failed", [WANTED[:2], UIDS])
@pytest.mark.parametrize("table", [True, False])
def test_what_no_shard_holds_is_known_before_the_first_byte(
    tmp_path: Path, keep: Path, failed: list[str], table: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = write_datacomp(tmp_path / "in", SHARDS, failed=failed, table=table)
    lost = [uid for uid in WANTED if uid in failed]
    given = ["filter", str(shards), "--keep", str(keep)]
    for more in (["--dry-run"], ["-o", str(tmp_path / "out")]):
        assert main([*given, *more]) == 3
        said = capsys.readouterr().err
        assert f"{len(lost)} of its samples" in said and "are in none of the shards" in said
        assert min(lost) in said
    assert not [path for path in tree(tmp_path / "out") if not path.startswith(".progress")]
    assert main([*given, "--match", "uid", "--missing", "list", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["match"], plan["matched_by"]) == ("uid", "key")
    assert (plan["kept"], plan["missing"]) == (len(WANTED), len(lost))
    listed = filter_shards(
        shards, keep, tmp_path / "out", match="uid", missing="list", overwrite=True
    )
    assert listed.manifest["counts"]["missing"] == len(lost) and listed.problems == 1


def test_which_field_is_meant_must_be_plain(tmp_path: Path, keep: Path) -> None:
    shards = write_datacomp(tmp_path / "in", SHARDS, table=False)
    path = shards / "00000000.tar"
    entries = [
        entry
        for s in read_samples(path)
        for uid in [json.loads(s.contents["json"])["uid"]]
        for entry in [
            *sample(s.key),
            member(f"{s.key}.json", json.dumps({"uid": uid, "id": uid}).encode()),
        ]
    ]
    path.write_bytes(tar_bytes(entries))
    with pytest.raises(InputError, match=r"found in it by several fields, id, uid\. .*--match id"):
        filter_shards(shards, keep, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert filter_shards(shards, keep, tmp_path / "out", match="uid").kept == len(WANTED)
    with pytest.raises(InputError, match=r"9 of its samples, matched by 'hash', are in none"):
        filter_shards(shards, keep, tmp_path / "other", match="hash")


def test_a_table_that_lists_all_samples_tells_what_is_meant(
    tmp_path: Path, keep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards are not read for it; beside a table that lists something else they are."""
    shards = write_datacomp(tmp_path / "in", SHARDS)
    names._footer.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(names, "TarReader", None)
        plan = plan_filter(shards, keep)
        assert plan.selector.match == "uid" and plan.findings().missing == 0
    assert filter_shards(shards, keep, tmp_path / "out").kept == len(WANTED)
    assert names._footer.cache_info().misses == len(SHARDS)
    for stats in shards.glob("*_stats.json"):
        stats.write_text(json.dumps({"successes": 1}))
    assert plan_filter(shards, keep).selector.match == "uid"
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(names, "TarReader", None)
        plan_filter(shards, keep)


def test_keys_go_before_fields(tmp_path: Path) -> None:
    keys = {name: [f"{i:011d}" for i in range(len(uids))] for name, uids in SHARDS.items()}
    write_datacomp(tmp_path / "in", SHARDS)
    first = {"00000000": keys["00000000"]}
    keep = write_keep(tmp_path / "keep", first, {("00000000", 3)})
    selector = KeepSelector.open(keep, [str(tmp_path / "in" / "00000000.tar")])
    assert (selector.by, selector.match) == ("shard", "key")


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"[1]",
        b'"uid"',
        b"{}",
        b'{"uid": null}',
        b'{"uid": true}',
        b'{"uid": 1.5}',
        b'{"uid": {"uid": "x"}}',
        b'{"uid": "\\ud800"}',
        b'{"uid": "a\\u0000"}',
    ],
)
def test_a_description_without_a_name(tmp_path: Path, note: bytes) -> None:
    """Whatever stands there instead of text or a whole number, the sample has no name."""
    named = [("a", b'{"uid": "one"}'), ("b", note), ("c", b'{"uid": 3}')]
    entries = [entry for k, n in named for entry in [*sample(k), member(f"{k}.json", n)]]
    (tmp_path / "0.tar").write_bytes(tar_bytes(entries))
    (shard,) = find_shards(tmp_path / "0.tar")
    assert names_in(shard, "uid") == {"a": "one", "c": "3"}
    keep = write_keep(tmp_path / "keep", {"x": ["one", "3"]}, {("x", 0), ("x", 1)})
    assert filter_shards(tmp_path / "0.tar", keep, tmp_path / "out", match="uid").kept == 2


def test_tables_of_every_make(tmp_path: Path) -> None:
    """Numbers are names as well; a key with two names has none.

    A table of something else is passed over for what the samples themselves say.
    """
    notes = [member(f"{key}.json", json.dumps({"uid": key}).encode()) for key in "abc"]
    entries = [e for key, note in zip("abc", notes, strict=True) for e in [*sample(key), note]]
    (tmp_path / "0.tar").write_bytes(tar_bytes(entries))
    table = tmp_path / "0.parquet"
    for columns, called in [
        ({"key": list("abc"), "uid": [1, 2, 3]}, {"a": "1", "b": "2", "c": "3"}),
        ({"key": list("aab"), "uid": list("xyz")}, {"b": "z"}),
        ({"key": list("aab"), "uid": ["x", "x", None]}, {"a": "x"}),
        ({"key": list("abc"), "uid": [1.0, 2.0, 3.0]}, {}),
        ({"key": list("abc"), "id": list("xyz")}, {"a": "a", "b": "b", "c": "c"}),
    ]:
        pq.write_table(pa.table(columns), table)
        assert names_in(find_shards(tmp_path / "0.tar")[0], "uid") == called
    table.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"0\.parquet: cannot be read"):
        names_in(find_shards(tmp_path / "0.tar")[0], "uid")


@pytest.mark.parametrize("where", [{"table": False}, {"described": False}])
@pytest.mark.parametrize("decoded", [False, True])
def test_in_a_webdataset_pipeline(
    tmp_path: Path, keep: Path, where: dict[str, Any], decoded: bool
) -> None:
    wds = pytest.importorskip("webdataset")
    shards = write_datacomp(tmp_path / "in", SHARDS, **where)
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    stage = pickle.loads(pickle.dumps(KeepStage(KeepSelector.open(keep, urls))))
    dataset = wds.WebDataset(urls, shardshuffle=False, empty_check=False)
    if decoded:
        dataset = dataset.map(
            lambda s: {k: json.loads(v) if k == "json" else v for k, v in s.items()}
        )
    expected = [sample.key for sample in kept_samples(shards, keep)]
    assert [sample["__key__"] for sample in dataset.compose(stage)] == expected
    assert len(expected) == len(WANTED)
