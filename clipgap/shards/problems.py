"""What is wrong with shards, and what is done about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pyarrow as pa

from clipgap.errors import InputError
from clipgap.files.parquet import FileSum, write_tables

QUARANTINE = "quarantine.parquet"
"""What was set aside, in the folder of whatever was made of the rest."""

_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("what", pa.string()),
        ("name", pa.string()),
        ("reason", pa.string()),
        ("offset", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Problem:
    """A shard, sample or member that cannot be used as it is."""

    shard: str  # path
    what: str  # "shard", "sample" or "member"
    name: str  # of the sample or member, empty for a shard
    reason: str
    offset: int | None = None

    def __str__(self) -> str:
        name = f", {self.what} {self.name!r}" if self.name else ""
        place = "" if self.offset is None else f" (byte {self.offset:,})"
        return f"{self.shard}{name}: {self.reason}{place}"


PROBLEM = {"shard": str, "what": str, "name": str, "reason": str, "offset": (None, int)}
"""What a document says of one."""

OnProblem = Callable[[Problem], None]


def refuse(problem: Problem) -> NoReturn:
    """The strictest way to deal with a problem."""
    raise InputError(f"{problem}. Repair the shard, or have such units set aside and listed.")


def write_quarantine(folder: Path, problems: Iterable[Problem]) -> FileSum:
    """A row for each, in the order given."""
    table = pa.Table.from_pylist([vars(problem) for problem in problems], schema=_SCHEMA)
    return write_tables(folder / QUARANTINE, _SCHEMA, [table])
