"""Where the samples of a shard lie: for ordinary shards with NumPy, for others member by member.

Reading headers one by one costs about 10 µs each in Python, more than copying what is between
them. Nearly all shards are alike, though: plain files with short plain names, a PAX header for the
time at most. `plain_layout` reads those a few thousand headers at a time, and gives up at the
first thing that is not as usual; then `groups` goes through the shard again and decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clipgap.files.volumes import File
from clipgap.shards.tar import BLOCK, OVERRIDES, Window, check_numbers, pax_records

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]

_NAME = slice(0, 100)
_OWNER = slice(100, 124)
_SIZE = slice(124, 135)
_SIZE_END = 135
_TIME = slice(136, 147)
_TIME_END = 147
_CHECKSUM = slice(148, 156)
_KIND = 156
_MAGIC = 257
_DEVICE = slice(329, 345)
_PREFIX = 345
_USTAR = np.frombuffer(b"usta", "<u4")[0]
_FILE, _EXTENSION = b"0x"
_OCTAL = 8 ** np.arange(10, -1, -1, dtype=np.int64)
_LARGEST_GROUP = 16
_LEAST = 64 * BLOCK
"""With less than this at hand, more is read."""


@dataclass(frozen=True)
class Layout:
    """The samples of a shard in order, each in one piece."""

    keys: list[str]
    starts: Offsets
    stops: Offsets


class _Unusual(Exception):
    """Something to be looked at more closely."""


class OnMembers(Protocol):
    """Is told of members while their bytes are at hand; they may yet prove to be unusual."""

    def __call__(self, window: Window, members: Members) -> None: ...


@dataclass(frozen=True)
class Members:
    """Files that follow each other in an archive."""

    starts: Offsets  # of the extension header, where there is one
    stops: Offsets  # padding included
    names: Bytes  # (n, 100)


def plain_layout(file: File, on_members: OnMembers | None = None) -> Layout | None:
    """The samples of an ordinary, whole shard; None if anything is out of the ordinary."""
    try:
        return _layout(file, on_members)
    except _Unusual:
        return None


def _layout(file: File, on_members: OnMembers | None) -> Layout:
    window = Window(file)
    found: list[Members] = []
    offset = 0
    while (members := _read_members(window, file.size, offset)) is not None:
        found.append(members)
        offset = int(members.stops[-1])
        if on_members is not None:
            on_members(window, members)
    _require(bool(found))
    while offset < file.size:  # nothing but zeros to the end
        rest = window.rest(offset, BLOCK)
        _require(not np.frombuffer(rest, np.uint8).any())
        offset += len(rest)
    return _samples(
        np.concatenate([members.starts for members in found]),
        np.concatenate([members.stops for members in found]),
        np.concatenate([members.names for members in found]),
    )


def _read_members(window: Window, size: int, offset: int) -> Members | None:
    """The members whose headers are at hand, from a header on; None at the end of the archive."""
    _require(offset + BLOCK <= size)
    rest = window.rest(offset, _LEAST)
    blocks = np.frombuffer(rest[: len(rest) // BLOCK * BLOCK], np.uint8).reshape(-1, BLOCK)
    marks = np.ndarray(len(blocks), "<u4", rest, _MAGIC, (BLOCK,))
    places = np.flatnonzero(marks == _USTAR)
    if not len(places) or places[0] != 0:
        _require(not blocks[0].any())
        return None
    kinds = blocks[places, _KIND]
    if kinds[-1] == _EXTENSION:  # its content and its member may not be at hand
        places, kinds = places[:-1], kinds[:-1]
        _require(bool(len(places)))
    headers = blocks[places]
    sizes = _sizes(headers)
    _check_numbers(headers)
    offsets = offset + places * BLOCK
    stops = offsets + BLOCK + -(-sizes // BLOCK) * BLOCK
    _require(bool((stops[:-1] == offsets[1:]).all() and stops[-1] <= size))
    _check_extensions(blocks, places, kinds, sizes)
    files = np.flatnonzero(kinds == _FILE)
    extended = np.append(False, kinds[:-1] == _EXTENSION)[files]
    return Members(offsets[files - extended], stops[files], headers[files, _NAME])


def _sizes(headers: Bytes) -> Offsets:
    """Sizes of contents; the checksums of the headers must be right."""
    checksums = headers[:, _CHECKSUM]
    stored = _octal(checksums[:, :6])
    sums = headers.sum(axis=1, dtype=np.int32) - checksums.sum(axis=1, dtype=np.int32)
    _require(bool((sums + 8 * ord(" ") == stored).all()))  # in sums the field counts as spaces
    _require(bool((checksums[:, 6] == 0).all() and (checksums[:, 7] == ord(" ")).all()))
    _require(_is_space(headers[:, _SIZE_END]))
    _require(not headers[:, _PREFIX].any())
    return _octal(headers[:, _SIZE])


def _check_numbers(headers: Bytes) -> None:
    """What readers of tar need to be numbers, though nothing here depends on them."""
    _digits(headers[:, _TIME])
    _require(_is_space(headers[:, _TIME_END]))
    others = np.concatenate([headers[:, _OWNER], headers[:, _DEVICE]], axis=1)
    try:
        for fields in set(others.view(f"V{others.shape[1]}")[:, 0].tolist()):
            check_numbers(fields)
    except ValueError:
        raise _Unusual from None


def _is_space(ends: Bytes) -> bool:
    """Whether all of these bytes are zeros or spaces, which end a number."""
    return not (ends & ~np.uint8(ord(" "))).any()


def _octal(field: Bytes) -> Offsets:
    numbers: Offsets = _digits(field) @ _OCTAL[-field.shape[1] :]
    return numbers


def _digits(field: Bytes) -> Bytes:
    values: Bytes = field - np.uint8(ord("0"))
    _require(bool((values < 8).all()))
    return values


def _check_extensions(blocks: Bytes, places: Offsets, kinds: Bytes, sizes: Offsets) -> None:
    """Files, and extension headers of one block that change neither name nor size."""
    extensions = kinds == _EXTENSION
    _require(bool((extensions | (kinds == _FILE)).all()))
    _require(not (extensions[:-1] & extensions[1:]).any() and not extensions[-1])
    longest = int(sizes[extensions].max(initial=0))
    _require(longest <= BLOCK)
    contents = blocks[places[extensions] + 1, :longest]
    _require(not any(word in contents.tobytes() for word in OVERRIDES))
    for length in np.unique(sizes[extensions]).tolist():
        _check_records(contents[sizes[extensions] == length, :length])


def _check_records(contents: Bytes) -> None:
    """Extension headers of one length are whole: a single record each, or looked at one by one."""
    length = contents.shape[1]
    begin = np.frombuffer(b"%d " % length, np.uint8)
    keys = contents[:, len(begin) : -1]
    if (
        length > len(begin) + 1
        and (contents[:, : len(begin)] == begin).all()
        and (contents[:, -1] == ord("\n")).all()
        and (keys[:, 1:] == ord("=")).any(axis=1).all()
        and (keys[:, 0] != ord("=")).all()
    ):
        return
    try:
        for content in contents:
            for _ in pax_records(content.tobytes()):
                pass
    except ValueError:
        raise _Unusual from None


def _samples(starts: Offsets, stops: Offsets, names: Bytes) -> Layout:
    names, dots = _plain_names(names)
    positions = np.arange(names.shape[1])
    is_key = positions < dots[:, None]
    keys = np.where(is_key, names, 0).astype(np.uint8)
    same = (keys[1:] == keys[:-1]).all(axis=1)
    firsts = np.flatnonzero(np.concatenate([[True], ~same]))
    _check_extensions_differ(np.where(is_key, names, _lower(names)), firsts)
    lasts = np.append(firsts[1:], len(names)) - 1
    texts = np.ascontiguousarray(keys[firsts]).view(f"S{keys.shape[1]}")[:, 0].tolist()
    return Layout([text.decode() for text in texts], starts[firsts], stops[lasts])


def _plain_names(names: Bytes) -> tuple[Bytes, Offsets]:
    """Names as they are, zeros behind them, and where in each the extension's dot is."""
    ends = np.where((names == 0).any(axis=1), (names == 0).argmax(axis=1), names.shape[1])
    names = names[:, : ends.max()]
    positions = np.arange(names.shape[1])
    inside = positions < ends[:, None]
    plain = (names >= ord(" ")) & (names < 0x7F) & (names != ord("\\"))
    _require(bool((plain | ~inside).all()))
    names = np.where(inside, names, 0).astype(np.uint8)
    dots, slashes = names == ord("."), names == ord("/")
    _require(not slashes[:, 0].any() and not (dots[:, 1:] & dots[:, :-1]).any())
    _require(not ((names[:, :2] == ord("_")).all(axis=1)).any())
    _require(not (names == ord(":")).any())
    bases = np.where(slashes.any(axis=1), names.shape[1] - slashes[:, ::-1].argmax(axis=1), 0)
    of_file = dots & (positions >= bases[:, None])
    first = of_file.argmax(axis=1)
    _require(bool((of_file.any(axis=1) & (first > bases)).all()))
    return names, first


def _lower(names: Bytes) -> Bytes:
    capital = (names >= ord("A")) & (names <= ord("Z"))
    return np.where(capital, names + np.uint8(32), names).astype(np.uint8)


def _check_extensions_differ(names: Bytes, firsts: Offsets) -> None:
    """No sample may have an extension twice, in whatever case."""
    groups = np.zeros(len(names), np.int64)
    groups[firsts[1:]] = 1
    groups = groups.cumsum()
    largest = int(np.diff(np.append(firsts, len(names))).max())
    _require(largest <= _LARGEST_GROUP)
    for step in range(1, largest):
        together = groups[step:] == groups[:-step]
        _require(not ((names[step:] == names[:-step]).all(axis=1) & together).any())


def _require(usual: bool) -> None:
    if not usual:
        raise _Unusual
