"""Mutated headers: indexing, copying, reading and training find the same samples, tarfile too."""

from __future__ import annotations

import io
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgap.clip.train.shards import Counted, KeptShards
from clipgap.files.volumes import LocalVolume
from clipgap.shards.archive import ArchiveWriter
from clipgap.shards.choosing import Choice
from clipgap.shards.finding import TarShard
from clipgap.shards.groups import split_name
from clipgap.shards.index import Draft, index_shard
from clipgap.shards.problems import Problem
from clipgap.shards.samples import read_samples
from clipgap.shards.tar import BLOCK, TarReader
from tests.shards import FORMATS, member, sample, tar_bytes

FIELDS = {
    "name": (0, 100),
    "mode": (100, 8),
    "uid": (108, 8),
    "gid": (116, 8),
    "size": (124, 12),
    "mtime": (136, 12),
    "type": (156, 1),
    "linkname": (157, 100),
    "magic": (257, 8),
    "uname": (265, 32),
    "gname": (297, 32),
    "devmajor": (329, 8),
    "devminor": (337, 8),
    "prefix": (345, 155),
}
NUMBERS = ("mode", "uid", "gid", "mtime", "devmajor", "devminor")


class Everything:
    """Keeps all there is."""

    def choose(self, keys: list[str]) -> Choice:
        return Choice(np.ones(len(keys), np.bool_), [], [], np.zeros(0, np.int64))

    def guess(self, keys: list[bytes]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.ones(len(keys), np.bool_)


def archive(format: str) -> bytes:
    entries = [entry for key in ("a", "b", "c", "d") for entry in sample(key)]
    return tar_bytes(entries, FORMATS[format])


def headers_of(folder: Path, content: bytes) -> list[int]:
    """Where the headers are, those of extensions too."""
    (folder / "whole.tar").write_bytes(content)
    file = LocalVolume().file(str(folder / "whole.tar"))
    assert file is not None
    found = [(m.start, m.content - BLOCK) for m in TarReader(file)]
    return sorted({place for places in found for place in places})


def mutated(content: bytes, header: int, at: int, value: bytes) -> bytes:
    """With other bytes in a header, and the checksum that fits them."""
    changed = bytearray(content)
    changed[header + at : header + at + len(value)] = value
    block = changed[header : header + BLOCK]
    block[148:156] = b" " * 8
    changed[header + 148 : header + 156] = b"%06o\0 " % sum(block)
    return bytes(changed)


def found_by_all(folder: Path, content: bytes) -> tuple[list[str], list[Problem]]:
    """The keys that each of four ways through a shard finds, if they agree, and what is wrong."""
    path = folder / "0.tar"
    path.write_bytes(content)
    file = LocalVolume().file(str(path))
    assert file is not None
    shard = TarShard(0, "0", file)
    copy = io.BytesIO()
    writer = ArchiveWriter(copy)
    draft = Draft(writer, Everything())
    index = index_shard(shard, file, Everything(), {}, draft)
    pieces = list(index.pieces(0, None))
    if not draft.is_what(pieces):
        writer.start_again()
        writer.copy(file, pieces)
    writer.finish()
    problems: list[Problem] = []
    read = [s.key for s in read_samples(shard, on_problem=problems.append, empty=True)]
    counted = [Counted(str(path), file.size, len(index.keys))]
    trained = [s.key for s in KeptShards(counted, None).read(0, lambda problem: None)]
    assert index.keys == read == trained
    assert index.problems == problems
    assert list(dict.fromkeys(members_of(copy.getvalue()))) == list(dict.fromkeys(index.keys))
    assert set(index.keys) <= set(members_of(content))
    return index.keys, problems


def members_of(content: bytes) -> list[str]:
    """The key of each member, as Python's tarfile sees them up to where it stops."""
    found = []
    with (
        suppress(tarfile.TarError, OverflowError),
        tarfile.open(fileobj=io.BytesIO(content), mode="r:") as theirs,
    ):
        for info in theirs:
            name = split_name(info.name) if info.isreg() else None
            found += [name[0]] if name else []
    return found


@given(data=st.data(), format=st.sampled_from(sorted(FORMATS)))
def test_all_agree_on_a_mutated_header(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, format: str
) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    whole = archive(format)
    header = data.draw(st.sampled_from(headers_of(folder, whole)))
    start, length = FIELDS[data.draw(st.sampled_from(sorted(FIELDS)))]
    at = data.draw(st.integers(0, length - 1))
    odd = st.sampled_from([b"\0", b" ", b"9", b"7", b"-", b"_", b"\x80", b"\xff", b"x", b"\xc3"])
    value = b"".join(data.draw(st.lists(odd, min_size=1, max_size=length - at)))
    found_by_all(folder, mutated(whole, header, start + at, value))


@pytest.mark.parametrize("format", sorted(FORMATS))
@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_that_is_none_is_damage(tmp_path: Path, format: str, field: str) -> None:
    """tarfile stops there without a word, so a copy would lose all that follows."""
    whole = archive(format)
    headers = headers_of(tmp_path, whole)
    start, _ = FIELDS[field]
    keys, problems = found_by_all(tmp_path, mutated(whole, headers[-1], start, b"x"))
    assert keys == ["a", "b", "c"]
    assert problems[0].what == "shard" and "a damaged header" in problems[0].reason
    assert problems[1].name == "d" and "may be incomplete" in problems[1].reason


@pytest.mark.parametrize(
    "value", [b" " * 8, b"\0" * 8, b"0000644 ", b"   644\0 ", b"\x80" + bytes(7)]
)
def test_numbers_in_other_dress_are_read(tmp_path: Path, value: bytes) -> None:
    whole = archive("ustar")
    for header in headers_of(tmp_path, whole):
        whole = mutated(whole, header, 100, value)
    assert found_by_all(tmp_path, whole) == (["a", "b", "c", "d"], [])


def test_times_before_1970_are_read(tmp_path: Path) -> None:
    entries = [member(f"{key}.jpg", b"x", mtime=-5) for key in "ab"]
    content = tar_bytes(entries, tarfile.GNU_FORMAT)
    assert found_by_all(tmp_path, content) == (["a", "b"], [])


@pytest.mark.parametrize(
    "record",
    [
        b"5030 size=" + b"9" * 5019 + b"\n",  # more digits than Python converts to a number
        b"13 size=abcd\n",
        b"8 size=\n",
        b"0 mtime=1.5\n",
        b"14 mtime=1.5\n",  # one more than there are
        b"12 mtime=1.5\n",
        b"999 mtime=1.5\n",
        b"10 mtime1\n",
        b"6 =ab\n",
        b"mtime=1.5\n",
    ],
)
@pytest.mark.parametrize("other", [b"", b"13 atime=1.5\n"])
def test_a_damaged_extension_is_damage(tmp_path: Path, record: bytes, other: bytes) -> None:
    content = other + record
    extension, size = tarfile.TarInfo("pax"), len(content)
    extension.type, extension.size = tarfile.XHDTYPE, size
    header = extension.tobuf(tarfile.USTAR_FORMAT)
    parts = [sample("a"), sample("b")]
    first, second = (tar_bytes(part, tarfile.USTAR_FORMAT).rstrip(b"\0") for part in parts)
    first += bytes(-len(first) % BLOCK)
    whole = first + header + content + bytes(-size % BLOCK) + second
    whole += bytes(-len(whole) % BLOCK + 2 * BLOCK)
    keys, problems = found_by_all(tmp_path, whole)
    assert keys == []  # the one before the damage may be incomplete
    assert "a damaged extension header" in problems[0].reason
    assert problems[0].offset == len(first)


@pytest.mark.parametrize(
    "bad", [b"\xff\xfe.jpg", b"a\x80b.jpg", b"\xed\xa0\x80.jpg", b"a\x1b[31m.jpg"]
)
def test_members_with_odd_bytes_in_their_names_are_left_out(tmp_path: Path, bad: bytes) -> None:
    entries = [*sample("a"), member("Z" * len(bad), b"1"), *sample("b")]
    content = tar_bytes(entries, tarfile.USTAR_FORMAT)
    keys, problems = found_by_all(tmp_path, mutated(content, content.index(b"ZZZ"), 0, bad))
    assert keys == ["a", "b"]
    assert [problem.what for problem in problems] == ["member"]


def test_a_checksum_wrong_by_the_modulus_is_damage(tmp_path: Path) -> None:
    content = bytearray(tar_bytes([*sample("a"), *sample("b")], tarfile.USTAR_FORMAT))
    second = content.index(b"b.jpg")
    stored = int(content[second + 148 : second + 154], 8)
    content[second + 148 : second + 154] = b"%06o" % (stored + 65_521)
    keys, problems = found_by_all(tmp_path, bytes(content))
    assert keys == [] and "a damaged header" in problems[0].reason


def test_an_extension_in_place_of_the_last_member_is_damage(tmp_path: Path) -> None:
    whole = archive("pax")
    keys, problems = found_by_all(
        tmp_path, mutated(whole, headers_of(tmp_path, whole)[-1], 156, b"x")
    )
    assert keys == ["a", "b", "c"] and problems[0].what == "shard"
