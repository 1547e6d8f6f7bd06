"""`filter_shards`: what is kept is byte for byte what it was, and in the same order."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgap.errors import InputError, UsageError
from clipgap.shards.api import FilterResult, filter_shards
from clipgap.shards.groups import split_name
from clipgap.shards.samples import read_samples
from clipgap.verify.api import verify
from tests.shards import (
    FORMATS,
    contents,
    link_as_documented,
    member,
    sample,
    tar_bytes,
    write_datacomp,
    write_keep,
    write_shard,
)
from tests.thorough import examples
from tests.worlds import tree

Keys = dict[str, list[str]]
Kept = set[tuple[str, int]]


def raw_samples(archive: bytes) -> list[bytes]:
    """The bytes of each sample, extension headers and padding included, by Python's tarfile."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = tar.getmembers()
        end = tar.offset  # of the zeros that end the archive
    stops = [*(m.offset for m in members[1:]), end][: len(members)]
    samples: list[tuple[str, set[str], bytes]] = []
    for m, stop in zip(members, stops, strict=True):
        key, extension = split_name(m.name) or ("", "")
        if not samples or samples[-1][0] != key or extension in samples[-1][1]:
            samples.append((key, set(), b""))
        key, extensions, before = samples.pop()
        samples.append((key, extensions | {extension}, before + archive[m.offset : stop]))
    return [content for _, _, content in samples]


def write_shards(folder: Path, shards: dict[str, Sequence[Any]], format: str = "pax") -> Path:
    for name, samples in shards.items():
        folder.mkdir(parents=True, exist_ok=True)
        entries = [entry for members in samples for entry in members]
        (folder / f"{name}.tar").write_bytes(tar_bytes(entries, FORMATS[format]))
    return folder


def write_keys(folder: Path, keys: Keys) -> Path:
    for name, of_shard in keys.items():
        write_shard(folder / f"{name}.tar", of_shard)
    return folder


def wanted(kept: Kept, name: str, archive: bytes) -> list[bytes]:
    return [raw for row, raw in enumerate(raw_samples(archive)) if (name, row) in kept]


def assert_archive(found: bytes, samples: Sequence[bytes]) -> None:
    body = b"".join(samples)
    assert found[: len(body)] == body
    assert len(found) - len(body) >= 1024 and not any(found[len(body) :])
    assert len(found) % 10_240 == 0


names = st.text(st.sampled_from("ab0-é"), min_size=1, max_size=6)
shard = st.lists(
    st.tuples(names, st.lists(st.integers(0, 1500), min_size=1, max_size=3)), max_size=5
)


@given(
    shards=st.lists(shard, min_size=1, max_size=3),
    format=st.sampled_from(sorted(FORMATS)),
    data=st.data(),
    merge=st.none() | st.integers(1, 4),
)
@examples(40)
def test_kept_samples_are_byte_equal_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    shards: list[Any],
    format: str,
    data: st.DataObject,
    merge: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("filter")
    if format != "ustar":  # which has no long names
        shards = [[(key.replace("é", "é" * 30), sizes) for key, sizes in each] for each in shards]
    samples = {
        f"{i:05d}": [sample(key, row, sizes) for row, (key, sizes) in enumerate(of_shard)]
        for i, of_shard in enumerate(shards)
    }
    write_shards(folder / "in", samples, format)
    keys = {f"{i:05d}": [key for key, _ in of_shard] for i, of_shard in enumerate(shards)}
    everything = [(name, row) for name, of_shard in keys.items() for row in range(len(of_shard))]
    kept = {place for place in everything if data.draw(st.booleans())}
    keep = write_keep(folder / "keep", keys, kept)
    result = filter_shards(folder / "in", keep, folder / "out", merge=merge, workers=2)

    originals = {name: (folder / "in" / f"{name}.tar").read_bytes() for name in keys}
    expected = {name: wanted(kept, name, original) for name, original in originals.items()}
    assert (result.kept, result.problems) == (len(kept), 0)
    sizes = json.loads((folder / "out" / "sizes.json").read_text())
    outputs = sorted((folder / "out").glob("*.tar"))
    assert sizes == {path.name: len(raw_samples(path.read_bytes())) for path in outputs}
    if merge is None:
        for path in outputs:
            assert_archive(path.read_bytes(), expected[path.stem])
    else:
        flat = [raw for of_shard in expected.values() for raw in of_shard]
        for path in outputs:
            assert_archive(path.read_bytes(), flat[: sizes[path.name]])
            flat = flat[sizes[path.name] :]
        assert not flat
        assert max(sizes.values()) <= merge and max(sizes.values()) - min(sizes.values()) <= 1
        assert len(sizes) == max(1, -(-len(kept) // merge))
        return

    # Filtered again by a list of what is there nothing changes; by one of nothing nothing is left.
    left = {name: [k for row, k in enumerate(keys[name]) if (name, row) in kept] for name in keys}
    all_left = {(name, row) for name in left for row in range(len(left[name]))}
    filter_shards(folder / "out", write_keep(folder / "all", left, all_left), folder / "again")
    filter_shards(folder / "out", write_keep(folder / "none", left, set()), folder / "nothing")
    for path in outputs:
        assert (folder / "again" / path.name).read_bytes() == path.read_bytes()
        assert (folder / "nothing" / path.name).read_bytes() == bytes(10_240)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_everything_kept_is_the_same_file(tmp_path: Path, format: str) -> None:
    keys = {"00000": ["a", "b" * 150, "c"]}
    path = tmp_path / "in" / "00000.tar"
    long = "d" * 60 + "/" + "b" * 90 if format == "ustar" else "b" * 150
    write_shards(tmp_path / "in", {"00000": [sample("a"), sample(long), sample("c")]}, format)
    keys = {"00000": ["a", long, "c"]}
    keep = write_keep(tmp_path / "keep", keys, {("00000", row) for row in range(3)})
    filter_shards(path, keep, tmp_path / "out")
    assert (tmp_path / "out" / "00000.tar").read_bytes() == path.read_bytes()


def test_others_read_what_we_write(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    keys = {"00000": ["a", "é" * 80, "c", "d"], "00001": ["a"]}
    write_keys(tmp_path / "in", keys)
    keep = write_keep(tmp_path / "keep", keys, {("00000", 1), ("00000", 3), ("00001", 0)})
    filter_shards(tmp_path / "in", keep, tmp_path / "out")
    for name, kept in {"00000": ["é" * 80, "d"], "00001": ["a"]}.items():
        path = tmp_path / "out" / f"{name}.tar"
        before = dict(contents(tmp_path / "in" / f"{name}.tar"))
        expected = [(f"{k}.{e}", before[f"{k}.{e}"]) for k in kept for e in ("jpg", "txt")]
        assert contents(path) == expected
        listed = subprocess.run(
            ["tar", "--quoting-style=literal", "-tf", path], check=True, capture_output=True
        )
        assert listed.stdout.decode().split() == [n for n, _ in expected] and not listed.stderr
        dataset = wds.WebDataset(str(path), shardshuffle=False)
        assert [(s["__key__"], s["jpg"]) for s in dataset] == [
            (k, before[f"{k}.jpg"]) for k in kept
        ]
        assert json.loads((tmp_path / "out" / f"{name}_stats.json").read_text())[
            "successes"
        ] == len(kept)


def test_global_headers_stay_before_what_they_are_about(tmp_path: Path) -> None:
    archive = tar_bytes([*sample("a"), *sample("b")], pax_headers={"comment": "x"})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.tar").write_bytes(archive)
    keep = write_keep(tmp_path / "keep", {"0": ["a", "b"]}, {("0", 1)})
    filter_shards(tmp_path / "in", keep, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "0.tar") as tar:
        assert tar.getnames() == ["b.jpg", "b.txt"]
        assert tar.pax_headers == {"comment": "x"}


def test_folders_and_strangers_are_left_behind(tmp_path: Path) -> None:
    a, b = sample("x/a"), sample("x/b")
    entries = [member("x/", type=tarfile.DIRTYPE), a[0], member("README", b"1"), a[1], *b]
    path = tmp_path / "0.tar"
    path.write_bytes(tar_bytes(entries))
    keys = {"0": ["x/a", "x/b"]}
    keep = write_keep(tmp_path / "keep", keys, {("0", 0), ("0", 1)})
    assert filter_shards(path, keep, tmp_path / "out").problems == 0
    assert contents(tmp_path / "out" / "0.tar") == [(i.name, c) for i, c in [*a, *b]]


HOSTILE = [
    member("../../x.jpg", b"evil"),
    member("/tmp/x.jpg", b"evil"),
    member("b.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    member("a/../../b.jpg", b"evil"),
]


def test_nothing_hostile_gets_through(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "0.tar"
    pickles = [member("a.pkl", b"\x80\x04."), member("a.pyd", b"MZ"), member("a.x.pth", b"PK")]
    path.write_bytes(tar_bytes([*sample("a"), *pickles, *HOSTILE, *sample("b")]))
    keys = {"0": ["a", "b", "../../x", "/tmp/x"]}
    keep = write_keep(tmp_path / "keep", keys, {("0", row) for row in range(4)})
    with pytest.raises(InputError, match=r"lacks 2 samples .* the first is '../../x'"):
        filter_shards(path, keep, tmp_path / "out")
    result = filter_shards(path, keep, tmp_path / "out", missing="list", resume=True)
    # Members that nobody decodes are copied like any others.
    expected = [(i.name, c) for i, c in [*sample("a"), *pickles, *sample("b")]]
    assert contents(tmp_path / "out" / "0.tar") == expected
    listed = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert result.problems == len(listed) == len(HOSTILE) + 2
    members = [row["name"] for row in listed if row["what"] == "member"]
    assert members == [info.name for info, _ in HOSTILE]
    assert {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")} == {"in", "keep", "out"}


@pytest.mark.parametrize(
    ("spoil", "left", "reason"),
    [
        (lambda archive: archive[: len(archive) * 3 // 4], 1, "truncated"),
        (lambda archive: b"", 0, "the file is empty"),
        (lambda archive: b"<html>" * 1000, 0, "not a tar archive"),
        (lambda archive: archive + archive, 3, "data after the end"),
    ],
)
def test_damaged_shards(tmp_path: Path, spoil: Any, left: int, reason: str) -> None:
    keys = {"0": ["a", "b", "c"], "1": ["d"]}
    write_shards(
        tmp_path / "in",
        {name: [sample(k, sizes=(9000, 9)) for k in of_shard] for name, of_shard in keys.items()},
    )
    path = tmp_path / "in" / "0.tar"
    original = path.read_bytes()
    path.write_bytes(spoil(original))
    everything = {(name, row) for name, of_shard in keys.items() for row in range(len(of_shard))}
    keep = write_keep(tmp_path / "keep", keys, everything)
    result = filter_shards(tmp_path / "in", keep, tmp_path / "out")
    assert [len(list(read_samples(tmp_path / "out" / f"{i}.tar"))) for i in (0, 1)] == [left, 1]
    body = raw_samples(original)
    assert_archive((tmp_path / "out" / "0.tar").read_bytes(), body[:left])
    listed = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert reason in listed[0]["reason"] and listed[0]["shard"] == str(path)
    assert left == 3 or f"lacks {3 - left} of the kept samples" in listed[-1]["reason"]
    assert result.kept == left + 1


def test_a_shard_with_fewer_samples_than_it_says(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "0.tar", ["a"])
    (tmp_path / "0_stats.json").write_text('{"successes": 2}')
    keep = write_keep(tmp_path / "keep", {"0": ["a"]}, {("0", 0)})
    result = filter_shards(path, keep, tmp_path / "out")
    assert result.kept == 1 and result.problems == 1
    (problem,) = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert "holds 1 samples, but" in problem["reason"]


def test_keys_that_come_twice_in_a_shard(tmp_path: Path) -> None:
    samples = [sample("a", 0), sample("b", 1), sample("a", 2), sample("c", 3)]
    write_shards(tmp_path / "in", {"0": samples})
    keys = {"0": ["a", "b", "a", "c"]}

    def texts(out: str) -> list[bytes]:
        return [s.contents["txt"] for s in read_samples(tmp_path / out)]

    captions = [members[1][1] for members in samples]
    # All of them, and some of them where rows and samples agree one by one.
    for out, rows in [("both", {0, 2}), ("first", {0, 3}), ("second", {1, 2})]:
        keep = write_keep(tmp_path / f"keep-{out}", keys, {("0", row) for row in rows})
        assert filter_shards(tmp_path / "in", keep, tmp_path / out).problems == 0
        assert texts(out) == [captions[row] for row in sorted(rows)]
    # With a row less than samples nobody knows which one is meant.
    keep = write_keep(tmp_path / "keep", {"0": ["a", "b", "a"]}, {("0", 1), ("0", 2)})
    result = filter_shards(tmp_path / "in", keep, tmp_path / "out")
    assert texts("out") == [captions[1]] and result.problems == 1


LAION = {"img_emb_0": ["a", "b", "c"], "img_emb_1": ["d", "e"]}


def test_by_key_where_one_array_covers_many_shards(tmp_path: Path) -> None:
    write_keys(tmp_path / "in", {"00000": ["a", "b"], "00001": ["c", "d"], "00002": ["e"]})
    keep = write_keep(
        tmp_path / "keep", LAION, {("img_emb_0", 1), ("img_emb_0", 2), ("img_emb_1", 1)}
    )
    assert filter_shards(tmp_path / "in", keep, tmp_path / "out").kept == 3
    kept = {p.stem: [s.key for s in read_samples(p)] for p in (tmp_path / "out").glob("*.tar")}
    assert kept == {"00000": ["b"], "00001": ["c"], "00002": ["e"]}
    filter_shards(tmp_path / "in", keep, tmp_path / "merged", merge=2)
    kept = {p.stem: [s.key for s in read_samples(p)] for p in (tmp_path / "merged").glob("*.tar")}
    assert kept == {"00000": ["b"], "00001": ["c", "e"]}


def test_by_key_what_is_missing_or_there_twice(tmp_path: Path) -> None:
    write_keys(tmp_path / "in", {"00000": ["a", "b"], "00001": ["b"]})
    keep = write_keep(tmp_path / "keep", LAION, {("img_emb_0", 1), ("img_emb_1", 1)})
    with pytest.raises(InputError, match=r"1 of its samples are in none of the shards.*'e'"):
        filter_shards(tmp_path / "in", keep, tmp_path / "out")
    result = filter_shards(tmp_path / "in", keep, tmp_path / "out", missing="list", resume=True)
    assert result.problems == 2 and result.manifest["counts"]["missing"] == 1
    listed = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert [row["name"] for row in listed] == ["b", ""]
    part = filter_shards(tmp_path / "in" / "00001.tar", keep, tmp_path / "part", missing="ignore")
    assert part.problems == 0 and part.kept == 1


def test_the_keep_list_of_other_shards_is_refused(tmp_path: Path) -> None:
    write_keys(tmp_path / "in", {"0": ["a"], "1": ["b"]})
    keep = write_keep(tmp_path / "keep", {"0": ["a"], "2": ["b"]}, {("0", 0)})
    with pytest.raises(InputError, match=r"1\.tar: the keep-list has no shard of that name"):
        filter_shards(tmp_path / "in", keep, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_table_beside_a_shard(tmp_path: Path) -> None:
    keys = {"0": ["a", "b", "c"], "1": ["d"]}
    write_keys(tmp_path / "in", keys)
    for name, rows in {"0": ["c", "failed", "a", "b"], "1": ["d"]}.items():
        columns = {"key": rows, "status": ["failed" if k == "failed" else "success" for k in rows]}
        table = pa.table({**columns, "width": pa.array(range(len(rows)), pa.int32())})
        pq.write_table(
            table.replace_schema_metadata({"a": "b"}), tmp_path / "in" / f"{name}.parquet"
        )
    keep = write_keep(tmp_path / "keep", keys, {("0", 0), ("0", 2), ("1", 0)})
    filter_shards(tmp_path / "in", keep, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "0.parquet")
    assert table.to_pydict() == {
        "key": ["c", "a"],
        "status": ["success"] * 2,
        "width": [0, 2],
    }
    assert table.schema.metadata[b"a"] == b"b"
    filter_shards(tmp_path / "in", keep, tmp_path / "merged", merge=3)
    merged = pq.read_table(tmp_path / "merged" / "00000.parquet")
    assert merged["key"].to_pylist() == ["c", "a", "d"]
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "in" / "0.parquet")
    result = filter_shards(tmp_path / "in", keep, tmp_path / "lacking")
    (problem,) = pq.read_table(tmp_path / "lacking" / "quarantine.parquet").to_pylist()
    assert result.kept == 3 and "lacks 1 of the kept samples, the first is 'c'" in problem["reason"]
    (tmp_path / "in" / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"0\.parquet: cannot be read"):
        filter_shards(tmp_path / "in", keep, tmp_path / "bad")


def test_captions_are_replaced_only_where_asked(tmp_path: Path) -> None:
    long = "k" * 120
    entries = [*sample("a"), *sample(long), *sample("c"), *sample("é", sizes=(5,))]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "0.tar"
    path.write_bytes(tar_bytes(entries))
    keys = {"0": ["a", long, "c", "é"]}
    keep = write_keep(tmp_path / "keep", keys, {("0", row) for row in range(4)})
    new = {long: "a photo of a “cat”" * 40, "é": "", "unknown": "x"}
    table = pa.table({"key": list(new), "caption": list(new.values())})
    pq.write_table(table, tmp_path / "captions.parquet")
    filter_shards(path, keep, tmp_path / "out", captions=tmp_path / "captions.parquet")
    expected = dict(contents(path))
    expected.update({f"{key}.txt": text.encode() for key, text in new.items() if key != "unknown"})
    found = contents(tmp_path / "out" / "0.tar")
    assert dict(found) == expected and len(found) == 8
    before, after = (
        raw_samples(path.read_bytes()),
        raw_samples((tmp_path / "out" / "0.tar").read_bytes()),
    )
    assert (after[0], after[2]) == (before[0], before[2])
    assert (
        subprocess.run(["tar", "-tf", tmp_path / "out" / "0.tar"], capture_output=True).stderr
        == b""
    )
    # A folder with a table a shard says the same.
    (tmp_path / "captions").mkdir()
    pq.write_table(table, tmp_path / "captions" / "0.parquet")
    filter_shards(path, keep, tmp_path / "again", captions=tmp_path / "captions")
    assert (tmp_path / "again" / "0.tar").read_bytes() == (tmp_path / "out" / "0.tar").read_bytes()
    for columns, reason in [
        ({"key": ["a", "a"], "caption": ["x", "y"]}, "a key twice"),
        ({"key": ["a"]}, "not one column 'caption'"),
        ({"key": ["a"], "caption": [None]}, "must be of strings"),
        ({"key": [1], "caption": ["x"]}, "must be of strings"),
    ]:
        pq.write_table(pa.table(columns), tmp_path / "captions.parquet")
        with pytest.raises(InputError, match=reason):
            filter_shards(path, keep, tmp_path / "bad", captions=tmp_path / "captions.parquet")
    content = (tmp_path / "captions" / "0.parquet").read_bytes()
    for damaged in (content[:-9], content[:4] + b"x" * 20 + content[24:], b"key,caption\n"):
        for name in ("captions.parquet", "captions/0.parquet"):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(InputError, match=rf"{name}.* a whole parquet file"):
                given = tmp_path / name.partition("/")[0]
                filter_shards(path, keep, tmp_path / "bad", captions=given, overwrite=True)


@pytest.mark.parametrize("beside", [(), (".parquet",), (".parquet", "_stats.json")])
def test_shards_behind_a_url(tmp_path: Path, beside: tuple[str, ...]) -> None:
    """With nothing beside them, with a table, and with one that can be trusted."""
    fsspec = pytest.importorskip("fsspec")
    keys = {"0": ["a", "b", "c"]}
    path = write_keys(tmp_path / "in", keys) / "0.tar"
    if ".parquet" in beside:
        pq.write_table(pa.table({"key": keys["0"]}), tmp_path / "in" / "0.parquet")
    if "_stats.json" in beside:
        (tmp_path / "in" / "0_stats.json").write_text(json.dumps({"count": 3, "successes": 3}))
    for name in (".tar", *beside):
        with fsspec.open(f"memory://filter{len(beside)}/0{name}", "wb") as file:
            file.write((tmp_path / "in" / f"0{name}").read_bytes())
    keep = write_keep(tmp_path / "keep", keys, {("0", 0), ("0", 2)})
    filter_shards(f"memory://filter{len(beside)}/{{0..0}}.tar", keep, tmp_path / "far")
    filter_shards(path, keep, tmp_path / "near")
    far, near = tree(tmp_path / "far"), tree(tmp_path / "near")
    assert far == near


def test_usage(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "in" / "0.tar", ["a"])
    keep = write_keep(tmp_path / "keep", {"0": ["a"]}, {("0", 0)})
    with pytest.raises(UsageError, match="merge is 0; it must be at least 1"):
        filter_shards(path, keep, tmp_path / "out", merge=0)
    with pytest.raises(UsageError, match="choose one of: error, list, ignore"):
        filter_shards(path, keep, tmp_path / "out", missing="never")
    with pytest.raises(UsageError, match="lies in the output"):
        filter_shards(path, keep, tmp_path / "in")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "notes.txt").write_text("not ours")
    with pytest.raises(InputError, match="is not empty and not a clipgap"):
        filter_shards(path, keep, tmp_path / "theirs")
    with pytest.raises(InputError, match="neither as a file nor as a folder"):
        filter_shards(path, keep, tmp_path / "out", captions=tmp_path / "none.parquet")
    (tmp_path / "x").mkdir()
    for name in ("a b", "a_b"):
        write_shard(tmp_path / "x" / f"{name}.tar", ["a"])
    keep = write_keep(tmp_path / "keep2", {"a b": ["a"], "a_b": ["a"]}, set())
    with pytest.raises(InputError, match="same name in the output folder"):
        filter_shards(tmp_path / "x", keep, tmp_path / "out")


def test_result(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "in" / "0.tar", ["a", "b"])
    keep = write_keep(tmp_path / "keep", {"0": ["a", "b"]}, {("0", 0)})
    result = filter_shards(path, keep, tmp_path / "out")
    assert isinstance(result, FilterResult) and result.path == tmp_path / "out"
    expected = {"shards": 1, "samples": 2, "kept": 1, "missing": 0, "problems": 0}
    assert result.manifest["counts"] == expected
    assert sorted(result.manifest["files"]) == ["0.tar", "0_stats.json", "sizes.json"]
    assert sorted(tree(tmp_path / "out")) == [
        "0.tar",
        "0_stats.json",
        "manifest.json",
        "sizes.json",
    ]


def test_links_for_those_who_take_each_json_for_statistics(tmp_path: Path) -> None:
    """As img2dataset does, which wants a number before the first underscore, and adds shards."""
    keys = [f"{n:011d}" for n in range(6)]
    shards = write_datacomp(tmp_path / "in", {"00000": keys[:3], "00001": keys[3:]})
    keep = write_keep(tmp_path / "keep", {"s": keys}, {("s", row) for row in (1, 2, 5)})
    out = filter_shards(shards, keep, tmp_path / "OUT").path
    more = link_as_documented(tmp_path)
    assert [int(path.name.split("_")[0]) for path in sorted(more.glob("*.json"))] == [0, 1]
    write_datacomp(more, {"00002": ["new"]}, "new")
    assert [sample.key for sample in read_samples(more)] == [keys[1], keys[2], keys[5], "new"]
    assert verify(out).ok
