"""One output shard: from headers to files, and the record that says it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipgap.errors import InputError
from clipgap.files.atomic import TEMPORARY_SUFFIX, write_atomic
from clipgap.files.documents import write_json
from clipgap.files.parquet import FileSum
from clipgap.files.sums import AnySum
from clipgap.files.sums import sums_from_json as sums_from_json
from clipgap.files.volumes import File, LocalFile, LocalVolume
from clipgap.shards.archive import ArchiveWriter
from clipgap.shards.choosing import Rows, chooser_for
from clipgap.shards.companions import kept_rows, statistics, write_rows
from clipgap.shards.finding import TarShard
from clipgap.shards.index import Draft, ShardIndex, index_shard
from clipgap.shards.plan import FilterPlan, Part, Unit
from clipgap.shards.problems import Problem

_FETCH = 64 << 20


@dataclass(frozen=True)
class Done:
    """What a finished unit has become."""

    kept: int
    samples: int  # found in the shards that it begins, kept or not
    missing: int  # samples of the keep-list that those shards do not have
    files: dict[str, AnySum]
    problems: list[Problem]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Done:
        return cls(
            saved["kept"],
            saved["samples"],
            saved["missing"],
            sums_from_json(saved["files"]),
            [Problem(**entry) for entry in saved["problems"]],
        )


class Worker:
    """Makes the units of a plan in a folder; used by many threads at once."""

    def __init__(self, plan: FilterPlan, folder: Path, scratch: Path) -> None:
        self._plan, self._folder, self._scratch = plan, folder, scratch

    def make(self, unit: Unit) -> tuple[Done, Rows]:
        """Write the files of a unit; also where in the sorted keys its samples stand, if by key."""
        kept = samples = missing = 0
        problems: list[Problem] = []
        tables, places = [], []
        files: dict[str, AnySum] = {}
        tar = self._folder / unit.tar
        with write_atomic(tar) as temporary, temporary.open("wb") as out:
            archive = ArchiveWriter(out)
            for part in unit.parts:
                shard = self._plan.shards[part.shard]
                with self._at_hand(shard) as file:
                    index = self._copy(unit, part, file, archive)
                keys = index.keys[part.start : part.stop]
                kept += len(keys)
                if part.start == 0:
                    samples += index.samples
                    missing += len(index.missing)
                    problems += [*index.problems, *self._missing(shard, index)]
                    places.append(index.places)
                if shard.parquet is not None:
                    rows, found = kept_rows(shard.parquet, keys)
                    tables.append(rows)
                    problems += found
            files[unit.tar] = archive.finish()
        if tables:
            files[unit.parquet] = write_rows(self._folder / unit.parquet, tables)
        write_json(self._folder / unit.stats, statistics(kept))
        files[unit.stats] = FileSum.of(self._folder / unit.stats)
        return Done(kept, samples, missing, files, problems), _concatenate(places)

    def count(self, part: Part) -> int:
        """How many samples of a shard are kept."""
        shard = self._plan.shards[part.shard]
        with self._at_hand(shard) as file:
            chooser = chooser_for(self._plan.selector, shard.path)
            return len(index_shard(shard, file, chooser, {}).keys)

    def _copy(self, unit: Unit, part: Part, file: File, archive: ArchiveWriter) -> ShardIndex:
        """Append the samples of a part."""
        shard, captions = self._plan.shards[part.shard], self._plan.captions
        chooser = chooser_for(self._plan.selector, shard.path)
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
        policy = self._plan.options.missing
        if index.missing and policy == "error":
            raise InputError(
                f"{shard.path} is whole, but lacks {len(index.missing):,} samples of the keep-list "
                f"{self._plan.selector.keep.path}, the first is {index.missing[0]!r}. Is it a "
                "keep-list of other shards? With --missing list such samples are listed, and the "
                "others copied."
            )
        if policy == "ignore":
            return []
        reason = "is kept by the keep-list, but not in the shard"
        return [Problem(shard.path, "sample", key, reason) for key in index.missing]

    @contextmanager
    def _at_hand(self, shard: TarShard) -> Iterator[File]:
        """The shard on this machine: it is read twice, and from far away that would be slow."""
        if isinstance(shard.file, LocalFile):
            yield shard.file
            return
        copy = self._scratch / f".{shard.index:05d}{TEMPORARY_SUFFIX}"
        try:
            with copy.open("wb") as out:
                buffer = memoryview(bytearray(min(_FETCH, shard.file.size)))
                for at in range(0, shard.file.size, _FETCH):
                    piece = buffer[: min(_FETCH, shard.file.size - at)]
                    shard.file.read_into(at, piece)
                    out.write(piece)
            file = LocalVolume().file(str(copy))
            assert file is not None
            yield file
        finally:
            copy.unlink(missing_ok=True)


def _concatenate(places: list[Rows]) -> Rows:
    return np.concatenate([np.zeros(0, np.int64), *places])
