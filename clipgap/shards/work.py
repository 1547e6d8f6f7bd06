"""One output shard: from headers to files, and the record that says it is done."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipgap.errors import InputError
from clipgap.files.atomic import TEMPORARY_SUFFIX, write_atomic
from clipgap.files.documents import write_json
from clipgap.files.sums import AnySum, FileSum, Hashed
from clipgap.files.volumes import File, LocalFile, file_at
from clipgap.runs.lock import PROGRESS
from clipgap.runs.units import Made, Slot
from clipgap.shards.archive import ArchiveWriter
from clipgap.shards.choosing import chooser_for
from clipgap.shards.finding import TarShard
from clipgap.shards.index import Draft, ShardIndex, index_shard
from clipgap.shards.lookup import Found, find_kept
from clipgap.shards.names import open_table
from clipgap.shards.plan import FilterPlan, Part, Unit
from clipgap.shards.problems import Problem

PLACES = f"{PROGRESS}/places"
"""By key: where in the sorted keys the kept samples of each shard stand."""

_FETCH = 64 << 20


@dataclass(frozen=True)
class FilterWork:
    """Makes units of a plan in a folder."""

    plan: FilterPlan
    folder: Path
    one_core: ClassVar = True

    def do(self, units: Iterable[Unit], slot: Slot) -> Iterator[Made]:
        """Make these units; the one at hand is always finished."""
        for unit in units:
            if slot.stop():
                return
            yield Made({unit.name: self.make(unit)})

    def make(self, unit: Unit) -> dict[str, Any]:
        """Write the files of a unit; what it has become."""
        kept = samples = missing = 0
        problems: list[Problem] = []
        tables = []
        files: dict[str, AnySum] = {}
        with write_atomic(self.folder / unit.tar) as temporary, temporary.open("wb") as out:
            archive = ArchiveWriter(out)
            for part in unit.parts:
                shard = self.plan.shards[part.shard]
                with at_hand(shard, self.folder) as file:
                    index = self._copy(unit, part, file, archive)
                keys = index.keys[part.start : part.stop]
                kept += len(keys)
                if part.start == 0:
                    samples += index.samples
                    missing += len(index.missing)
                    problems += [*index.problems, *self._missing(shard, index)]
                if shard.parquet is not None:
                    rows, found = _kept_rows(shard.parquet, keys)
                    tables.append(rows)
                    problems += found
            files[unit.tar] = archive.finish()
        if tables:
            files[unit.parquet] = _write_rows(self.folder / unit.parquet, tables)
        files[unit.stats] = write_json(self.folder / unit.stats, statistics(kept))
        return {
            "kept": kept,
            "samples": samples,  # found in the shards that it begins, kept or not
            "missing": missing,  # samples of the keep-list that those shards do not have
            "files": {name: asdict(entry) for name, entry in files.items()},
            "problems": [asdict(problem) for problem in problems],
        }

    def _copy(self, unit: Unit, part: Part, file: File, archive: ArchiveWriter) -> ShardIndex:
        """Append the samples of a part."""
        shard, captions = self.plan.shards[part.shard], self.plan.captions
        chooser = chooser_for(self.plan.selector, shard, file)
        new_captions = {} if captions is None else captions.of(shard.name)
        draft = Draft(archive, chooser) if unit.parts == (Part(part.shard),) else None
        index = index_shard(shard, file, chooser, new_captions, draft)
        pieces = list(index.pieces(part.start, part.stop))
        if draft is None:
            archive.copy(file, pieces)
        elif not draft.is_what(pieces):
            archive.start_again()
            archive.copy(file, pieces)
        return index

    def _missing(self, shard: TarShard, index: ShardIndex) -> list[Problem]:
        policy = self.plan.options.missing
        if index.missing and policy == "error":
            raise InputError(
                f"{shard.path} is whole, but lacks {len(index.missing):,} samples of the keep-list "
                f"{self.plan.selector.keep.path}, the first is {index.missing[0]!r}. Is it a "
                "keep-list of other shards? With --missing list such samples are listed, and the "
                "others copied."
            )
        if policy == "ignore":
            return []
        reason = "is kept by the keep-list, but not in the shard"
        return [Problem(shard.path, "sample", key, reason) for key in index.missing]


@dataclass(frozen=True)
class FindWork:
    """Finds out what shards hold of the keep-list."""

    plan: FilterPlan
    folder: Path
    one_core: ClassVar = True

    def do(self, units: Iterable[Unit], slot: Slot) -> Iterator[Made]:
        """Look into units of a whole shard each."""
        for unit in units:
            if slot.stop():
                return
            shard = self.plan.shards[unit.parts[0].shard]
            found = find_kept(self.plan.selector, shard, partial(at_hand, folder=self.folder))
            path = self.folder / _places_name(unit)
            with write_atomic(path) as temporary, temporary.open("wb") as out:
                hashed = Hashed(out)
                np.lib.format.write_array(hashed, found.places, allow_pickle=False)
            sums = {_places_name(unit): asdict(hashed.sum)}
            yield Made({unit.name: {"kept": found.kept, "missing": found.missing, "files": sums}})


def load_found(folder: Path, unit: Unit, record: Mapping[str, Any]) -> Found:
    """What a unit of `FindWork` has found."""
    return Found(record["kept"], record["missing"], np.load(folder / _places_name(unit)))


def _places_name(unit: Unit) -> str:
    return f"{PLACES}/{unit.parts[0].shard:05d}.npy"


@contextmanager
def at_hand(shard: TarShard, folder: Path) -> Iterator[File]:
    """The shard on this machine: it is read twice, and from far away that would be slow.

    Several units may need it at the same time, so each has a copy of its own.
    """
    if isinstance(shard.file, LocalFile):
        yield shard.file
        return
    copy = folder / PROGRESS / f".{shard.index:05d}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}"
    try:
        with copy.open("wb") as out:
            buffer = memoryview(bytearray(min(_FETCH, shard.file.size)))
            for at in range(0, shard.file.size, _FETCH):
                piece = buffer[: min(_FETCH, shard.file.size - at)]
                shard.file.read_into(at, piece)
                out.write(piece)
        yield file_at(copy)
    finally:
        copy.unlink(missing_ok=True)


# --- what img2dataset puts beside a tar file, for a shard that has been filtered

_KEY = "key"


def statistics(samples: int) -> dict[str, Any]:
    """The content of `NAME_stats.json` for a shard without failures."""
    return {
        "count": samples,
        "successes": samples,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "status_dict": {"success": samples},
    }


def _kept_rows(parquet: File, keys: Sequence[str]) -> tuple[pa.Table, list[Problem]]:
    """The rows of a shard's table that belong to these samples, in their own order."""
    try:
        table = open_table(parquet).read()
        if table.schema.names.count(_KEY) != 1:
            raise InputError(f"{parquet.path}: has not one column {_KEY!r}")
        found = table[_KEY].cast(pa.string())
        mask = pc.is_in(found, value_set=pa.array(keys, pa.string()))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{parquet.path}: cannot be read: {error}") from error
    problems = []
    lacking = set(keys).difference(found.filter(mask).to_pylist())
    if lacking:
        first = min(lacking)
        reason = f"lacks {len(lacking):,} of the kept samples, the first is {first!r}"
        problems.append(Problem(parquet.path, "shard", "", reason))
    return table.filter(mask), problems


def _write_rows(path: Path, tables: Sequence[pa.Table]) -> FileSum:
    """One table out of those of several shards, atomically."""
    try:
        # A column without any value has no type of its own and takes that of the others.
        table = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise InputError(
            f"{path}: the tables of the shards do not fit together: {error}"
        ) from error
    with write_atomic(path) as temporary, temporary.open("xb") as file:
        hashed = Hashed(file)
        pq.write_table(table, pa.PythonFile(hashed, "w"))
    return hashed.sum
