"""The one rule that tells inputs apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from clipgap.files.identity import digest_of, digest_of_group, mark_of, sampled_since
from clipgap.files.volumes import File, file_at

WHOLE = 1 << 20
LONG = bytes(range(256)) * (3 * WHOLE // 256)


def group(folder: Path, contents: Sequence[bytes]) -> list[tuple[str, File]]:
    folder.mkdir(exist_ok=True)
    for number, content in enumerate(contents):
        (folder / f"{number}.jpg").write_bytes(content)
    return [(f"{n}.jpg", file_at(folder / f"{n}.jpg")) for n in range(len(contents))]


@pytest.mark.parametrize("place", [0, WHOLE // 2, WHOLE - 1])
def test_every_byte_of_a_small_file_counts(tmp_path: Path, place: int) -> None:
    content = bytearray(LONG[:WHOLE])
    (tmp_path / "a").write_bytes(content)
    assert digest_of(file_at(tmp_path / "a")) == hashlib.sha256(content).hexdigest()
    content[place] ^= 1
    (tmp_path / "b").write_bytes(content)
    assert digest_of(file_at(tmp_path / "b")) != digest_of(file_at(tmp_path / "a"))


def test_pieces_of_a_large_file_count(tmp_path: Path) -> None:
    for name, place in [("same", None), ("first", 0), ("last", len(LONG) - 1), ("between", 70_000)]:
        content = bytearray(LONG)
        if place is not None:
            content[place] ^= 1
        (tmp_path / name).write_bytes(content)
    same, first, last, between = (
        digest_of(file_at(tmp_path / name)) for name in ("same", "first", "last", "between")
    )
    assert same == between
    assert len({same, first, last}) == 3


def test_a_group_is_known_by_names_sizes_and_content(tmp_path: Path) -> None:
    contents = [b"abc", b"", b"defgh"]
    here = digest_of_group(group(tmp_path / "here", contents))
    assert digest_of_group(group(tmp_path / "there", contents)) == here
    assert digest_of_group(group(tmp_path / "there", [b"abc", b"", b"defgi"])) != here
    assert digest_of_group(group(tmp_path / "there", [b"abcd", b"", b"efgh"])) != here
    renamed = [(f"x{name}", file) for name, file in group(tmp_path / "there", contents)]
    assert digest_of_group(renamed) != here


@pytest.mark.parametrize("size", [WHOLE + 5, 3 * WHOLE])  # pieces that overlap, and far apart
def test_a_long_group_is_sampled_like_one_file(tmp_path: Path, size: int) -> None:
    (tmp_path / "whole").write_bytes(LONG[:size])
    whole = file_at(tmp_path / "whole")
    pieces = [
        LONG[: size // 3],
        b"",
        LONG[size // 3 : size // 3 + 100],
        LONG[size // 3 + 100 : size],
    ]
    members = group(tmp_path / "cut", pieces)
    head = hashlib.sha256(b"4\n")
    for name, file in members:
        head.update(f"{name}\0{file.size}\n".encode())
    last = size - (64 << 10)
    for index in range(16):
        start = last * index // 15
        head.update(LONG[start : start + (64 << 10)])
    assert digest_of_group(members) == head.hexdigest()
    assert digest_of_group([("whole", whole)]) != digest_of(whole)  # a group of one has a name


def test_a_mark_changes_when_a_file_gets_an_older_time(tmp_path: Path) -> None:
    files = [file for _, file in group(tmp_path / "a", [b"x", b"y"])]
    before = mark_of(files)
    os.utime(tmp_path / "a" / "0.jpg", ns=(1, 1))
    assert mark_of([file_at(file.path) for file in files]) != before


def test_large_inputs_written_after_an_output_are_named(tmp_path: Path) -> None:
    for name, size in [("small", WHOLE), ("large", WHOLE + 1), ("other", WHOLE + 1)]:
        (tmp_path / name).write_bytes(LONG[:size])
        os.utime(tmp_path / name, ns=(5_000, 5_000))
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}")
    os.utime(manifest, ns=(5_000, 5_000))

    def note() -> str | None:
        names = ("small", "large", "other")
        return sampled_since([file_at(tmp_path / name) for name in names], manifest)

    assert note() is None
    for name in ("small", "large"):
        os.utime(tmp_path / name, ns=(5_001, 5_001))
    assert f"only a sample was compared of {tmp_path / 'large'}, since" in (note() or "")
    os.utime(tmp_path / "other", ns=(5_001, 5_001))
    assert f"{tmp_path / 'large'} and 1 more" in (note() or "")
