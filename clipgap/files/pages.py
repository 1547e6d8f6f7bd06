"""Numbers straight from a parquet file, where they lie in it as they lie in memory.

Scan tables hold scores and flags plainly and uncompressed. Where a column has no nulls, the last
bytes of each of its pages *are* its values, and taking them is several times as fast as decoding.
Whatever is stored otherwise is left to pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DATA_PAGE = _PLAIN = 0

# Fields of parquet's PageHeader, and of the DataPageHeader in it.
_KIND, _SIZE, _DATA = 1, 3, 5
_ROWS, _ENCODING = 1, 2

# Types of Thrift's compact protocol.
_TRUE, _FALSE, _INTEGERS, _BINARY, _STRUCT = 1, 2, (4, 5, 6), 8, 12


def read_plain(read_at: Callable[[int, int], bytes], chunk: Any) -> NDArray[Any] | None:
    """The values of a column chunk of a file; None if they do not lie there plainly."""
    kind, rows, known = chunk.physical_type, chunk.num_values, chunk.statistics
    if kind not in ("FLOAT", "BOOLEAN") or chunk.compression != "UNCOMPRESSED":
        return None
    if chunk.has_dictionary_page or known is None or not known.has_null_count or known.null_count:
        return None
    content = read_at(chunk.data_page_offset, chunk.total_compressed_size)
    values = np.empty(rows, np.float32 if kind == "FLOAT" else np.bool_)
    at = filled = 0
    while filled < rows:
        try:
            header, at = _struct(content, at)
            data, size = header[_DATA], header[_SIZE]
            plain = header[_KIND] == _DATA_PAGE and data[_ENCODING] == _PLAIN
            n = data[_ROWS]
        except (IndexError, KeyError, ValueError):
            return None  # damaged or unknown, which pyarrow can put into words
        at += size
        taken = 4 * n if kind == "FLOAT" else -(-n // 8)
        if not plain or not 0 < taken <= size or at > len(content) or filled + n > rows:
            return None
        if kind == "FLOAT":
            part = np.frombuffer(content, "<f4", n, at - taken)
        else:
            bits = np.frombuffer(content, np.uint8, taken, at - taken)
            part = np.unpackbits(bits, count=n, bitorder="little").view(np.bool_)
        values[filled : filled + n] = part
        filled += n
    return values


def _struct(content: bytes, at: int) -> tuple[dict[int, Any], int]:
    """A Thrift struct's fields by number, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while head := content[at]:
        if head < 16:
            raise ValueError("fields this far apart do not occur in page headers")
        number, kind = number + (head >> 4), head & 15
        at += 1
        if kind in _INTEGERS:
            value, at = _varint(content, at)
            fields[number] = value >> 1 ^ -(value & 1)
        elif kind == _BINARY:
            length, at = _varint(content, at)
            at += length
        elif kind == _STRUCT:
            fields[number], at = _struct(content, at)
        elif kind not in (_TRUE, _FALSE):
            raise ValueError(f"type {kind} does not occur in page headers")
    return fields, at + 1


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        octet = content[at]
        value |= (octet & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if octet < 0x80:
            return value, at
