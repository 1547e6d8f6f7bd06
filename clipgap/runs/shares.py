"""A run dealt to processes that need not know of each other, and put together again.

    OUT.parts/3-of-8/    what share 3 of 8 has made: an output folder like any other, with a plan, a
                         ledger and a lock of its own, that is never finished. share.json among its
                         notes says which units are its
    OUT.parts/0-3-of-8/  the same of several shares, done together or made of their parts

A share takes units by their sizes and place alone, so every process deals alike without asking the
others. Whoever has all parts makes the output of them: their files become its files, their ledgers
its ledger, and the command goes on there with nothing left but its last steps. So the bytes are
those of a run that did everything itself, in whatever order parts are named and however often.

Nothing here needs locks that reach beyond one folder: no two shares write into the same one, and
what a part says to be done is held against its checksums before it counts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from clipgap.errors import InputError, ResumeError, UsageError
from clipgap.files.atomic import TEMPORARY_SUFFIX, write_atomic
from clipgap.files.bucket import Bucket
from clipgap.files.documents import (
    Each,
    Form,
    checksum,
    format_of,
    is_count,
    read_document,
    write_document,
)
from clipgap.files.folders import files_in, link_in, make_folder, read_if_there
from clipgap.files.remote import RemotePath, path_of
from clipgap.files.sums import are_whole, sums_from_json
from clipgap.machine import versions
from clipgap.runs.changes import changes, refuse_changes
from clipgap.runs.lock import PLAN, PROGRESS
from clipgap.runs.units import UNITS, Ledger

SHARE = "share.json"
MOST = 1_000_000
"""Shares of a run; every one of them may have to be named."""

_LONGEST = 40

_FORM = Form(
    "clipgap-share",
    "share of a run",
    {
        "indices": [is_count],
        "of": is_count,
        "dealt": str,
        "units": [str],
        "versions": Each(str),
        "call": {"command": (None, str), "settings": (None, str)},
    },
)
PACKAGES = (
    *("clipgap", "numpy", "pyarrow", "pillow"),
    *("torch", "torchvision", "open_clip_torch", "timm"),
)
"""Those that bytes may depend on."""


@dataclass(frozen=True)
class Share:
    """One or several of all shares of a run; `call` is what `clipgap merge` calls to end it."""

    indices: Sequence[int]
    of: int
    call: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "indices", tuple(sorted(set(self.indices))))
        if not self.indices or self.of > MOST:
            raise UsageError(
                f"{len(self.indices):,} of {self.of:,} shares: give at least one, of at most "
                f"{MOST:,}"
            )
        for index in self.indices:
            if not 0 <= index < self.of:
                raise UsageError(
                    f"share {index} of {self.of}: shares of {self.of} are counted from 0 to "
                    f"{self.of - 1}"
                )

    def __str__(self) -> str:
        return f"share{'s' * (len(self.indices) > 1)} {ranges(self.indices)} of {self.of}"

    def folder(self, out: Path) -> Path:
        """Where it works for the run that makes `out`."""
        return parts_folder(out) / self.place

    @property
    def place(self) -> str:
        """The name of its folder."""
        name = ranges(self.indices).replace(",", "+")
        if len(name) > _LONGEST:
            name = f"{len(self.indices)}-{checksum({'indices': self.indices})[:16]}"
        return f"{name}-of-{self.of}"

    def take(self, units: Sequence[Any], notes: Path) -> list[Any]:
        """The units that are its own, neighbours, so that shares come out even by size.

        What it takes is noted, and must be what it took when it was begun.
        """
        mine, before, whole = [], 0, sum(map(_size, units))
        for unit in units:
            # By the middle of a unit, where all stand in a row.
            if self.of * (2 * before + _size(unit)) // (2 * whole) in self.indices:
                mine.append(unit)
            before += _size(unit)
        said = {
            "indices": list(self.indices),
            "of": self.of,
            "dealt": checksum({"of": self.of, "units": [[u.name, _size(u)] for u in units]}),
            "units": [unit.name for unit in mine],
            "versions": versions(*PACKAGES),
            "call": dict(self.call),
        }
        if (notes / SHARE).exists():
            _refuse_others(Part(notes.parent), said, notes.parent)
        else:
            write_document(notes / SHARE, _FORM, said)
        return mine


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in short: 0-3,7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def parts_folder(out: Path) -> Path:
    """Where the parts of an output are made."""
    return out.with_name(f"{out.name}.parts")


@dataclass(frozen=True)
class Part:
    """The folder in which a share has worked."""

    folder: Path

    @property
    def notes(self) -> Path:
        return self.folder / PROGRESS

    @cached_property
    def said(self) -> dict[str, Any]:
        """What its share took and by which versions it was done."""
        said = read_document(self.notes / SHARE, _FORM)
        try:
            Share(said["indices"], said["of"])
        except UsageError as error:
            raise InputError(f"{self.notes / SHARE} makes no sense: {error}") from error
        return said

    @property
    def share(self) -> Share:
        return Share(self.said["indices"], self.said["of"])

    @cached_property
    def plan(self) -> str:
        """A digest of what it was to make, by which equal plans are known without reading them."""
        plan = read_if_there(self.notes / PLAN)
        return "" if plan is None else hashlib.sha256(plan).hexdigest()

    def __str__(self) -> str:
        return f"{self.folder} ({self.share})"


def find_parts(places: Sequence[str | Path]) -> list[Part]:
    """The parts at some places, each a part itself or a folder of parts."""
    found = []
    for place in map(path_of, places):
        inside = [place, *(sorted(place.iterdir()) if place.is_dir() else ())]
        parts = [Part(folder) for folder in inside if (folder / PROGRESS / SHARE).is_file()]
        if not parts:
            raise InputError(
                f"{place} is not a part of a run and holds none. Name folders that --shard-index "
                "has made, such as OUT.parts."
            )
        found += parts
    return found


@dataclass(frozen=True)
class Whole:
    """Parts that are one whole, or the shares wanted of it, and what is to be taken of them."""

    ledgers: Mapping[Part, Ledger]
    plans: Sequence[Part]  # one for each plan that differs from the others
    files: Mapping[Part, Mapping[str, Mapping[str, Any]]]  # with their sums; a name is in one part

    @classmethod
    def found(
        cls,
        places: Sequence[str | Path],
        form: Form,
        labels: Mapping[str, str],
        like: Ledger,
        wanted: Share | None,
    ) -> Whole | None:
        """The parts at some places that are of one form; None if there are none.

        Refuses parts that do not fit together or lack something. `labels` say what people call the
        settings in which they differ.
        """
        alike: dict[str, list[Part]] = {}
        for part in find_parts(places):
            alike.setdefault(part.plan, []).append(part)
        # A plan names every shard of the inputs, and hundreds of parts have the same one.
        groups = [same for same in alike.values() if format_of(same[0].notes / PLAN) == form.name]
        if not groups:
            return None
        plans = [same[0] for same in groups]
        for part in plans[1:]:
            _refuse_other_settings(part, plans[0], form, labels)
        ledgers = {part: like.at(part.notes / UNITS) for same in groups for part in same}
        for ledger in ledgers.values():
            ledger.load()
        _check_units(ledgers, wanted)
        taken: set[str] = set()
        files: dict[Part, Mapping[str, Any]] = {}
        for part, ledger in ledgers.items():
            sums = _files(ledger)
            files[part] = {name: entry for name, entry in sums.items() if name not in taken}
            taken |= sums.keys()
        return cls(ledgers, plans, files)

    def notes(self) -> tuple[Part, list[str]]:
        """What one of the shares has noted for itself, as all do alike."""
        first = next(iter(self.ledgers))
        noted = (f"{PROGRESS}/{name}" for name in files_in(first.notes))
        return first, [name for name in noted if not name.endswith(TEMPORARY_SUFFIX)]

    def check_files(self) -> None:
        """Refuse what is no longer what its ledger says, and links, whatever they lead to now."""
        first, noted = self.notes()
        for part, sums in self.files.items():
            for name in [*sums, *(noted if part is first else ())]:
                if link := link_in(part.folder, name):
                    raise InputError(
                        f"{link} is a link to {link.readlink()}, which no share has made. Bring "
                        "back what was there, or remove it and run that share again with --resume."
                    )
        placed = [
            (part, name, entry)
            for part, sums in self.files.items()
            for name, entry in sums_from_json(sums).items()
        ]
        checked = are_whole((part.folder / name, entry) for part, name, entry in placed)
        wrong = [
            f"{name} of {part}"
            for (part, name, _), is_whole in zip(placed, checked, strict=True)
            if not is_whole
        ]
        if wrong:
            raise InputError.listing(
                "parts are damaged; run their shares again with --resume. These files are missing "
                "or not what they were:",
                wrong,
            )


def _files(ledger: Ledger) -> dict[str, Any]:
    """All files that a ledger speaks of, with their sums."""
    return {
        name: entry
        for record in ledger.records.values()
        for name, entry in record.get("files", {}).items()
    }


def _refuse_other_settings(part: Part, of: Part, form: Form, labels: Mapping[str, str]) -> None:
    """Where units are dealt otherwise, what that follows from says more than that they are."""
    if part.said["of"] == of.said["of"] and part.said["dealt"] != of.said["dealt"]:
        planned = Form(form.name, form.noun, {"wanted": dict})
        ours, theirs = (read_document(each.notes / PLAN, planned)["wanted"] for each in (part, of))
        refuse_changes(part.folder, list(changes(ours, theirs, labels)))


def _check_units(ledgers: Mapping[Part, Ledger], wanted: Share | None) -> None:
    """Refuse parts by dealing, versions, overlaps and gaps."""
    first = next(iter(ledgers))
    of = first.said["of"]
    left = set(range(of) if wanted is None else wanted.indices)
    made: dict[str, tuple[Part, Any]] = {}
    problems = []
    for part, ledger in ledgers.items():
        _refuse_others(part, first.said, first)
        left -= set(part.said["indices"])
        if lacking := [name for name in part.said["units"] if name not in ledger.records]:
            problems.append(
                f"{part} lacks {len(lacking):,} of its {len(part.said['units']):,} units, the "
                f"first is {lacking[0]}: run that share again with --resume"
            )
        for name, record in ledger.records.items():
            other, theirs = made.setdefault(name, (part, record))
            if theirs != record:
                problems.append(f"{part} and {other} overlap, and differ in {name}")
                break
    problems += [f"{Share([index], of)} is missing" for index in sorted(left)]
    if problems:
        raise InputError.listing("these parts are not one whole:", problems)


def bring(part: Part, names: Iterable[str], out: Path) -> set[Path]:
    """Have files of a part in the folder `out` too, each whole; on one disk that takes no room.

    Told are the folders that are left to be flushed, once all parts are there. A file that has
    another name now has been flushed when it was written.
    """
    linked = set()
    for name in names:
        *inner, _ = name.split("/")
        if inner:
            make_folder(out, "/".join(inner))
        source, target = part.folder / name, out / name
        if isinstance(source, RemotePath):
            Bucket(str(part.folder)).get(name, target)
            continue
        try:
            os.link(source, target)
            linked.add(target.parent)
        except OSError:  # it is there, or this is another disk, or one without links
            if not target.exists() or not target.samefile(source):
                with write_atomic(target) as temporary:
                    shutil.copyfile(source, temporary)
    return linked


def _size(unit: Any) -> int:
    return max(1, int(unit.size))


def _refuse_others(part: Part, wanted: Mapping[str, Any], of: Part | Path) -> None:
    """Refuse a part that was dealt otherwise, or done by other versions, than is wanted."""
    problems = []
    if part.said["of"] != wanted["of"]:
        problems.append(f"it is one of {part.said['of']:,} shares, not of {wanted['of']:,}")
    elif part.said["dealt"] != wanted["dealt"]:
        problems.append("its units are others: --memory, --clusters or the like are not the same")
    # What one of them lacks it has not used.
    for name in sorted(part.said["versions"].keys() & wanted["versions"].keys()):
        theirs, ours = part.said["versions"][name], wanted["versions"][name]
        if theirs != ours:
            problems.append(f"version of {name}: was {theirs}, is {ours}")
    if problems:
        raise ResumeError.listing(
            f"{part} does not go together with {of}. All shares must be dealt alike and done by "
            "the same versions. The differences:",
            problems,
        )
