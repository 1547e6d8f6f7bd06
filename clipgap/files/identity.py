"""What tells one input from another: one rule, for every file that a command reads.

A file is known by three things:

- its size;
- its digest: SHA-256 of every byte up to 1 MiB, of 16 evenly spread pieces of 64 KiB beyond that.
  A page of labels is compared to the last byte, and a store of terabytes within a second;
- its mark: when it was last written, to the nanosecond, or what a remote store has for that.

Size and digest follow the content wherever it is copied, so they stand in manifests. The mark does
not, so it stands only in the plan of an unfinished run: what was edited since the run was begun is
refused on resume, however small the edit. A finished output has no marks left to compare. Where
its inputs are equal by size and digest, the digest is of pieces only, and the file was written
after the output, nobody can tell any more, and `sampled_since` gives the sentence that says so.

Sets of test images are compared to the last byte whatever their size (`whole_digest_of`): one label
of one sample decides about an accuracy, and all of it is read soon after.

A folder of images, or whatever else consists of many small files, is one input: `digest_of_group`
takes it as one long file, with the names and sizes of all, and `mark_of` takes the marks of all.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

from clipgap.files.volumes import File, read_bytes

_PIECES = 16
_PIECE = 64 << 10
READ_WHOLE = _PIECES * _PIECE
"""Size up to which a digest is of every byte."""


def digest_of(file: File) -> str:
    """SHA-256 of a file up to 1 MiB, or of 16 evenly spread pieces of 64 KiB of a bigger one."""
    sha = hashlib.sha256()
    for start, stop in _ranges(file.size):
        sha.update(read_bytes(file, start, stop - start))
    return sha.hexdigest()


def whole_digest_of(file: File) -> str:
    """SHA-256 of every byte, for inputs that are about to be read from end to end anyway."""
    sha = hashlib.sha256()
    buffer = memoryview(bytearray(min(file.size, READ_WHOLE)))
    for start in range(0, file.size, READ_WHOLE):
        piece = buffer[: min(READ_WHOLE, file.size - start)]
        file.read_into(start, piece)
        sha.update(piece)
    return sha.hexdigest()


def digest_of_group(members: Sequence[tuple[str, File]]) -> str:
    """The digest of many files that are one input: all names and sizes, and content as of one file.

    The names are what the group calls its members, so that it may lie anywhere; their order counts.
    """
    sha = hashlib.sha256(f"{len(members)}\n".encode())
    for name, file in members:
        sha.update(f"{name}\0{file.size}\n".encode("utf-8", "surrogateescape"))
    ends = list(accumulate((file.size for _, file in members), initial=0))
    for start, stop in _ranges(ends[-1]):
        while start < stop:
            index = bisect_right(ends, start)  # of the file behind the one that holds this byte
            count = min(stop, ends[index]) - start
            sha.update(read_bytes(members[index - 1][1], start - ends[index - 1], count))
            start += count
    return sha.hexdigest()


def mark_of(files: Iterable[File]) -> str:
    """A mark that changes when any of the files is written again, even with an older time."""
    sha = hashlib.sha256()
    for file in files:
        sha.update(f"{file.modified}\n".encode())
    return sha.hexdigest()


def sampled_since(files: Iterable[File], output: Path) -> str | None:
    """Which inputs were only compared by pieces although they were written after an output.

    `output` is the manifest of the finished run whose inputs they were, or are thought to be.
    """
    finished = output.stat().st_mtime_ns
    found = [
        file.path
        for file in files
        if file.size > READ_WHOLE and (file.written is None or file.written > finished)
    ]
    if not found:
        return None
    which = found[0] if len(found) == 1 else f"{found[0]} and {len(found) - 1:,} more"
    return (
        f"only a sample was compared of {which}, since {output} does not tell the time of its "
        f"inputs: {_PIECES} pieces of {_PIECE >> 10} KiB of each are the same. If an input was "
        "edited since, run again with --overwrite"
    )


def _ranges(size: int) -> list[tuple[int, int]]:
    """The bytes that count, ascending; pieces overlap where a file is little more than 1 MiB."""
    if size <= READ_WHOLE:
        return [(0, size)]
    last = size - _PIECE
    starts = [last * index // (_PIECES - 1) for index in range(_PIECES)]
    return [(start, start + _PIECE) for start in starts]
