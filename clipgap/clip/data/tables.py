"""Labels and groups of sets whose images are not sorted into class folders."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipgap.clip.data.registry import Registered, Table
from clipgap.errors import InputError, UsageError


@dataclass(frozen=True)
class LabelTable:
    """A file that says for each image what it shows."""

    path: Path
    labels: Mapping[str, int]  # by the image's path, from the folder of images on
    groups: Mapping[str, str]  # likewise; empty where nothing groups the set

    @classmethod
    def read(cls, entry: Registered, root: Path, group_by: str | None = None) -> LabelTable:
        """The table of a registered set; `group_by` names a column instead of the usual ones."""
        table = entry.table
        assert table is not None
        path = find_table(entry, root)
        columns, rows = _rows(path, table.file)
        wanted = table.group if group_by is None else (group_by,)
        for column in (table.file, table.label, *wanted):
            if column not in columns:
                kind = UsageError if column == group_by else InputError
                raise kind(f"{path}: has no column {column!r}, only {', '.join(columns)}")
        place = {column: index for index, column in enumerate(columns)}
        label_of = {value: label for label, value in enumerate(table.labels)}
        labels: dict[str, int] = {}
        groups: dict[str, str] = {}
        for number, row in rows:
            if len(row) != len(columns):
                raise InputError(
                    f"{path}, line {number:,}: has {len(row):,} values for {len(columns):,} columns"
                )
            file, value = row[place[table.file]], row[place[table.label]]
            if value not in label_of:
                raise InputError(
                    f"{path}, line {number:,}: {table.label} is {value!r}, which is none of "
                    f"{', '.join(table.labels)}"
                )
            if file in labels:
                raise InputError(f"{path}, line {number:,}: {file!r} is listed twice")
            labels[file] = label_of[value]
            if wanted:
                groups[file] = _group(table, [row[place[column]] for column in wanted], group_by)
        return cls(path, labels, groups)


def find_table(entry: Registered, root: Path) -> Path:
    """The file of labels in the folder of a set."""
    table = entry.table
    assert table is not None
    for name in table.files:
        if (root / name).is_file():
            return root / name
    raise InputError(
        f"{root}: {entry.name} needs its file of labels there, {' or '.join(table.files)}. "
        f"It should look like {entry.example}. To get it: {entry.get}"
    )


def _group(table: Table, values: Sequence[str], group_by: str | None) -> str:
    joined = " ".join(values)
    return table.groups.get(joined, joined) if group_by is None else f"{group_by}={joined}"


def _rows(path: Path, file_column: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Names of the columns, and the rows with their line numbers.

    CelebA's own file begins with the number of rows and does not name the column of the images.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    first = 1 if lines and lines[0].strip().isdigit() else 0
    if len(lines) <= first + 1:
        raise InputError(f"{path}: holds no rows")
    # A comma in the names of the columns tells the two ways to separate values apart.
    split = _commas if "," in lines[first] else str.split
    columns = split(lines[first])
    if file_column not in columns:
        columns = [file_column, *columns]
    start = first + 1
    numbered = enumerate(lines[start:], start=start + 1)
    return columns, ((number, split(line)) for number, line in numbered if line.strip())


def _commas(line: str) -> list[str]:
    return next(csv.reader([line]))
