"""Logs of JSON lines: whole records, whatever a kill, a disk or a hand does to the file."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgap.errors import InputError
from clipgap.files import lines

ODD = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh\ni \udcff"
"""Whatever ends a line for somebody, and a byte of a file's name that is not UTF-8."""


def records(path: Path) -> list[dict[str, Any]]:
    return list(lines.read(path, dict))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def test_whatever_ends_lines_elsewhere(log: Path) -> None:
    written = [{"n": n, "key": key} for n, key in enumerate([ODD, *ODD, "ü"])]
    lines.append(log, written[:3])
    lines.append(log, written[3:])
    lines.append(log, [])
    assert records(log) == written
    lines.cut(log, lambda record: record["n"] < 5)
    assert records(log) == written[:5]


def test_no_file_holds_no_records(log: Path) -> None:
    lines.cut(log, bool)
    assert records(log) == [] and not log.exists()


@given(st.lists(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False))))
def test_any_records(tmp_path_factory: pytest.TempPathFactory, written: list[Any]) -> None:
    log = tmp_path_factory.mktemp("any") / "log.jsonl"
    lines.append(log, written)
    assert records(log) == written


def test_cut_at_every_byte_and_gone_on_with(log: Path) -> None:
    lines.append(log, [{"key": ODD}, {"key": "ü"}, {}])
    content = log.read_bytes()
    for size in range(len(content) + 1):
        log.write_bytes(content[:size])
        whole = records(log)
        assert len(whole) == content[:size].count(b"\n")
        lines.append(log, [{"new": size}])
        assert records(log) == [*whole, {"new": size}]
        log.write_bytes(content[:size])
        lines.cut(log, lambda record: True)
        assert log.read_bytes() == content[: content[:size].rfind(b"\n") + 1]


def test_a_torn_line_longer_than_a_look(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_CHUNK", 7)
    for whole in (b"", b'{"a": 1}\n'):
        log.write_bytes(whole + b'{"b": "' + b"x" * 50)
        lines.append(log, [{"c": 2}])
        assert log.read_bytes() == whole + b'{"c": 2}\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"n": 1', "Expecting"),
        (b"[1]", "no JSON object"),
        (b"", "Expecting value"),
        (b'{"n": "\xff"}', "can't decode"),
        (b"\xff\xfe{", "can't decode"),
        (b"\0\0\0\0", "Expecting value"),
        (b"[" * 100_000, "recursion"),
        (b'{"m": 1}', "no 'n'"),
        (b'{"n": []}', "int"),
        (b'{"n": "x"}', "invalid literal"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_line_is_named(log: Path, line: bytes, reason: str, place: int) -> None:
    all_lines = [b'{"n": 1}', b'{"n": 2}']
    all_lines.insert(place, line)
    log.write_bytes(b"".join(each + b"\n" for each in all_lines))
    where = re.escape(f"{log}: line {place + 1} is damaged (")
    for read in (
        lambda: list(lines.read(log, number)),
        lambda: lines.cut(log, lambda r: number(r) > 0),
    ):
        with pytest.raises(InputError, match=f"{where}.*{reason}.*--overwrite"):
            read()


def number(record: dict[str, Any]) -> int:
    return int(record["n"])


def test_a_failed_write_loses_nothing(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines.append(log, [{"n": 1}])
    pwrite = os.pwrite

    def full(descriptor: int, content: memoryview, offset: int) -> int:
        if len(content) < 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, content[:5], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError, match=r"cannot write .*log\.jsonl: No space left"):
        lines.append(log, [{"n": 2}])
    monkeypatch.undo()
    assert records(log) == [{"n": 1}]
    lines.append(log, [{"n": 3}])
    assert records(log) == [{"n": 1}, {"n": 3}]


def test_a_link_in_the_way(log: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("{}\nmine")
    log.symlink_to(precious)
    with pytest.raises(InputError, match=r"cannot write .*log\.jsonl"):
        lines.append(log, [{"n": 1}])
    with pytest.raises(InputError, match=r"cannot write .*log\.jsonl"):
        lines.cut(log, lambda record: False)
    assert precious.read_text() == "{}\nmine"


def test_a_folder_in_the_way(log: Path) -> None:
    log.mkdir()
    with pytest.raises(InputError, match=r"log\.jsonl: cannot be read"):
        records(log)
    with pytest.raises(InputError, match=r"cannot write .*log\.jsonl"):
        lines.append(log, [{}])
