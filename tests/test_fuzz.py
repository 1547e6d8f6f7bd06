"""Spoilt files of every kind, the same each time: read, or refused with an error of ours."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.readers import READERS, Reader
from tests.thorough import THOROUGH

CORPUS = Path(__file__).parent / "corpus"
CASES = 2_000 if THOROUGH else 60


def spoilt(contents: list[bytes], chance: random.Random) -> Iterator[bytes]:
    """Without end: bits, bytes, numbers and lengths are others, pieces are gone, twice or moved."""
    while True:
        content = bytearray(chance.choice(contents))
        for _ in range(chance.randint(1, 4)):
            at, end = sorted(chance.choices(range(len(content) + 1), k=2))
            match chance.randrange(7):
                case 0 if content:
                    content[at % len(content)] ^= 1 << chance.randrange(8)
                case 1:
                    content[at:end] = b""
                case 2:
                    content[at:at] = content[at : at + chance.randint(1, 40)]
                case 3:
                    content[at : at + 4] = chance.choice(NUMBERS).to_bytes(4, "little")
                case 4:
                    content[at : at + 1] = chance.choice(WORDS)
                case 5:
                    content[at:] = b""
                case _:
                    content[at : at + 8] = chance.randbytes(chance.randint(0, 8))
        yield bytes(content)


NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
WORDS = [*(b"null", b"true", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'""', b"99999999999999999999")]
WORDS += [b"\xff", b"\0", b"\n", b'"', b"..", b"/", "\u2028".encode(), b"\xed\xa0\x80"]


def contents_of(reader: Reader, folder: Path) -> list[bytes]:
    """Whole files, and odd ones that were found to lead somewhere new."""
    others = reader.make(folder) or []
    kept = sorted((CORPUS / reader.name.replace(" ", "-")).glob("*"))
    return [(folder / reader.file).read_bytes(), *others, *(path.read_bytes() for path in kept)]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_spoilt_files_are_read_or_refused(reader: Reader, tmp_path: Path) -> None:
    contents = contents_of(reader, tmp_path)
    assert reader.accepts(tmp_path, contents[0])
    for content in contents:
        reader.accepts(tmp_path, content)
    for content in islice(spoilt(contents, random.Random(reader.name)), CASES):
        reader.accepts(tmp_path, content)
