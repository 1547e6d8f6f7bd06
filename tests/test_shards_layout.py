"""The quick reader of ordinary shards says what the strict one says, or nothing."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgap.files.volumes import LocalVolume
from clipgap.shards.finding import TarShard
from clipgap.shards.groups import groups
from clipgap.shards.layout import plain_layout
from clipgap.shards.problems import Problem
from clipgap.shards.tar import BLOCK, TarReader, Window
from tests.shards import FORMATS, member, sample, tar_bytes
from tests.thorough import examples

Found = tuple[list[str], list[int], list[int]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layout") / "0.tar"


def strictly(path: Path) -> tuple[Found, list[Problem], bool]:
    """Keys, starts and stops; what is wrong; and whether each sample lies in one piece."""
    file = LocalVolume().file(str(path))
    assert file is not None
    problems: list[Problem] = []
    shard = TarShard(0, "0", file)
    found = list(groups(shard, TarReader(file), problems.append, lambda extension, member: None))
    keys = [group.key for group in found]
    starts = [group.members[0].start for group in found]
    stops = [group.members[-1].stop for group in found]
    whole = all(
        before.stop == after.start
        for group in found
        for before, after in zip(group.members, group.members[1:], strict=False)
    ) and not any(group.headers for group in found)
    return (keys, starts, stops), problems, whole


def quickly(path: Path, archive: bytes) -> Found | None:
    path.write_bytes(archive)
    file = LocalVolume().file(str(path))
    assert file is not None
    layout = plain_layout(file)
    return layout and (layout.keys, layout.starts.tolist(), layout.stops.tolist())


names = st.text(st.sampled_from("abAB01/._-:\\é"), min_size=1, max_size=8)
kinds = st.sampled_from([b"0"] * 20 + [b"\0", b"5", b"2", b"7"])
entries = st.lists(
    st.tuples(names, st.sampled_from([".jpg", ".txt", ".JPG", "", ".seg.png"]), kinds),
    max_size=7,
)


@given(
    entries=entries,
    format=st.sampled_from(sorted(FORMATS)),
    size=st.integers(0, 1200),
    time=st.sampled_from([0, 1.5]),
    comment=st.booleans(),
)
@examples(150)
def test_never_another_answer(
    path: Path, entries: list[Any], format: str, size: int, time: float, comment: bool
) -> None:
    members = [
        member(name + extension, bytes(size if kind in b"0\x007" else 0), type=kind, mtime=time)
        for name, extension, kind in entries
    ]
    headers = {"comment": "x"} if comment and format == "pax" else None
    found = quickly(path, tar_bytes(members, FORMATS[format], headers))
    truth, problems, whole = strictly(path)
    assert found is None or (found == truth and not problems and whole)


@given(data=st.data())
@examples(60)
def test_damage_is_left_to_the_strict_reader(path: Path, data: st.DataObject) -> None:
    archive = bytearray(tar_bytes([*sample("a"), *sample("b"), *sample("c")]))
    cut = data.draw(st.integers(0, len(archive)))
    at = data.draw(st.integers(0, len(archive) - 1))
    archive[at] ^= data.draw(st.integers(0, 255))
    found = quickly(path, bytes(archive[: max(cut, data.draw(st.integers(0, len(archive))))]))
    truth, problems, _ = strictly(path)
    assert found is None or (found == truth and not problems)


@given(
    keys=st.lists(st.from_regex(r"[a-z0-9]{1,9}(/[a-z0-9]{1,9})?", fullmatch=True), min_size=1),
    format=st.sampled_from(sorted(FORMATS)),
    sizes=st.lists(st.sampled_from([0, 1, 511, 512, 513, 3000]), min_size=1, max_size=3),
)
@examples(40)
def test_ordinary_shards_are_read_quickly(
    path: Path, keys: list[str], format: str, sizes: list[int]
) -> None:
    keys = list(dict.fromkeys(keys))
    archive = tar_bytes([e for k in keys for e in sample(k, sizes=sizes)], FORMATS[format])
    found = quickly(path, archive)
    assert found is not None and found[0] == keys
    assert (found, [], True) == strictly(path)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_across_windows(path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers, extensions and contents on both sides of where a window ends."""
    samples = [sample(f"k{i}", sizes=(i * 97 % 5000, 700, 9)) for i in range(40)]
    archive = tar_bytes([entry for each in samples for entry in each], FORMATS[format])
    for blocks in (3, 4, 5, 11, 64):
        monkeypatch.setattr("clipgap.shards.layout._LEAST", blocks * BLOCK)
        monkeypatch.setattr(
            "clipgap.shards.layout.Window", lambda file, n=blocks: Window(file, n * BLOCK)
        )
        found = quickly(path, archive)
        assert found is not None and (found, [], True) == strictly(path)


@pytest.mark.parametrize(
    "strange",
    [
        member("b.jpg", tar_bytes([member("inside.jpg", b"x" * 600)])),  # headers in a content
        member("a.JPG", b"again"),
        member("b.jpg", b"1", mode=0o644, uid=8**8),  # a number too long for octal digits
        member("b" * 120 + ".jpg", b"1"),
        member("../b.jpg", b"1"),
        member("b.jpg", type=tarfile.SYMTYPE, linkname="a.jpg"),
        member("README", b"1"),
        member(".hidden.jpg", b"1"),
        member("__b__/c.jpg", b"1"),
        member("b\xe9.jpg", b"1"),
    ],
)
@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_what_is_out_of_the_ordinary(path: Path, strange: Any, format: str) -> None:
    archive = tar_bytes([*sample("a"), strange, *sample("c")], FORMATS[format])
    found = quickly(path, archive)
    truth, problems, _ = strictly(path)
    assert found is None or (found == truth and not problems)
    # A nested archive and a long user number are unusual, not wrong.
    if strange[0].name in ("../b.jpg", "README", "a.JPG") or strange[0].type == tarfile.SYMTYPE:
        assert found is None
