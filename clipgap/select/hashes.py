"""Ranks by hash: a random order of rows that nothing but the rows themselves can change.

A rank is a 64-bit number that follows from the seed, the name of the row's shard and its key (its
row, if the store has no keys), and from nothing else: rows that are added, or labels in another
order, move none of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.select.order import STEP, scramble, stream_of

Ranks = NDArray[np.uint64]

_WORD = 8


@dataclass(frozen=True)
class Hashed:
    """Ranks by hash."""

    seed: int

    def of(self, shard: str, keys: Any, rows: NDArray[np.int64], place: int = 0) -> Ranks:
        """Ranks of some rows of a shard; their keys, if the store has keys."""
        named = int.from_bytes(blake2b(shard.encode(), digest_size=8).digest(), "little")
        begin = scramble(np.array([stream_of(self.seed) ^ np.uint64(named)], np.uint64) + STEP)[0]
        if keys is None:
            return scramble(rows.astype(np.uint64) * STEP + begin)
        return hash_strings(keys, begin)


def hash_strings(strings: Any, begin: np.uint64) -> Ranks:
    """A number for each of an Arrow array of strings, eight bytes at a time."""
    n = len(strings)
    ends = np.frombuffer(strings.buffers()[1], np.int32)[strings.offset : strings.offset + n + 1]
    starts, lengths = ends[:-1].astype(np.int64), np.diff(ends)
    content = strings.buffers()[2]
    # Room behind the last string, since words are read whole.
    text = np.frombuffer(content, np.uint8)[: ends[-1]] if content is not None else b""
    padded = np.concatenate([text, np.zeros(_WORD, np.uint8)]) if n else np.zeros(_WORD, np.uint8)
    words = np.ndarray((len(padded) - _WORD + 1,), "<u8", padded, strides=(1,))
    ranks: Ranks = scramble(begin + lengths.astype(np.uint64) * STEP)
    for at in range(0, int(lengths.max(initial=0)), _WORD):
        more = np.flatnonzero(lengths > at)
        some = slice(None) if len(more) == n else more
        left = np.minimum(lengths[some] - at, _WORD).astype(np.uint64)
        mask = np.uint64(2**64 - 1) >> (np.uint64(64) - left * np.uint64(8))
        word = words[starts[some] + at] & mask
        ranks[some] = scramble((ranks[some] ^ word) + STEP)
    return ranks
