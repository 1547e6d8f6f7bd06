"""What a verification checks, one thing after the other, and what it found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.documents import MANIFEST, read_manifest
from clipgap.files.folders import files_in, open_file
from clipgap.files.parquet import FileSum, read_table
from clipgap.files.sums import AnySum, damaged, sums_from_json
from clipgap.kernels.options import Compute
from clipgap.runs.how import How, OnProgress, Progress, Tally
from clipgap.runs.output import Kind
from clipgap.shards.problems import QUARANTINE
from clipgap.verify.options import ScanChecks

SHOWN = 20

Count = Callable[[float, str], Tally]
"""Counts what a check looks at, so that it can be told when it ends: how much of what there is."""


@dataclass(frozen=True)
class Asked:
    """What is to be proved, and how; nothing but the folder matters to every kind."""

    path: Path
    train: Any
    tests: Mapping[str, Any]
    certify: Path | None
    options: ScanChecks
    compute: Compute
    on_progress: OnProgress


@dataclass(frozen=True)
class Check:
    """One thing that was checked; `detail` names what is wrong, or how much was right."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found."""

    path: str
    checks: tuple[Check, ...]
    certificate: Path | None = None  # where one was written

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


@dataclass
class Problems:
    """Collects problems in bounded memory, however many rows are wrong."""

    shown: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, problem: str) -> None:
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(problem)

    def add_all(self, problems: Iterable[str]) -> None:
        for problem in problems:
            self.add(problem)

    def differ(self, what: str, stated: object, found: object) -> None:
        """A problem if a document states something else than what was found."""
        if stated != found or type(stated) is not type(found):
            self.add(f"{MANIFEST}: {what}: states {stated}, found {found}")

    def at(self, places: NDArray[Any], describe: Callable[[Any], str]) -> None:
        """One problem a place; only those that will be shown are put into words."""
        for place in places[: SHOWN - len(self.shown)]:
            self.shown.append(describe(place))
        self.count += len(places)

    def __str__(self) -> str:
        more = [f"… and {self.count - SHOWN:,} more"] if self.count > SHOWN else []
        return "; ".join(self.shown + more)


class Checks:
    """Checks as they are made."""

    def __init__(self, report: OnProgress) -> None:
        self.done: list[Check] = []
        self._how, self._name = How(on_progress=report), ""

    @property
    def all_good(self) -> bool:
        return all(check.ok for check in self.done)

    def make(self, name: str, look: Callable[..., str], *arguments: object) -> None:
        """`look` adds to the problems that it is given, and says what it looked at."""
        self._how.tell("verifying", at=name)
        self._name, problems = name, Problems()
        seen = look(*arguments, problems)
        self.add(name, problems, seen)

    def count(self, total: float, noun: str = "rows") -> Tally:
        """A `Count` of the check at hand."""
        begin = Progress(stage="verifying", at=self._name, total=total, noun=noun)
        return Tally(self._how, begin, works=False)

    def add(self, name: str, problems: Problems, seen: str) -> None:
        self.done.append(Check(name, not problems.count, str(problems) or seen))


def check_files(
    folder: Path,
    files: Mapping[str, Mapping[str, Any]],
    noun: str,
    count: Count,
    problems: Problems,
    owned: Callable[[str], bool] = lambda name: False,
) -> str:
    """Every file of a manifest is there with its checksum; others only if they are owned."""
    size = sum(int(entry["size"]) for entry in files.values())
    read = count(size / 1e6, "MB")
    problems.add_all(damaged_files(folder, files, lambda entry: read.add(entry.size / 1e6)))
    strangers = set(files_in(folder)) - files.keys() - {MANIFEST}
    problems.add_all(
        f"{name} does not belong to the {noun}" for name in sorted(strangers) if not owned(name)
    )
    return f"{len(files):,} files, {size:,} bytes"


def read_checked(asked: Asked, checks: Checks, kind: Kind) -> dict[str, Any]:
    """The manifest of a folder of this kind; whether its files are those of it is a check."""
    manifest = read_manifest(asked.path, kind.form, "Run the same command again with --resume.")
    checks.make("checksums", check_files, asked.path, manifest["files"], kind.noun, checks.count)
    return manifest


def damaged_files(
    folder: Path,
    files: Mapping[str, Mapping[str, Any]],
    on_file: Callable[[AnySum], None] | None = None,
) -> list[str]:
    """What is wrong with files that are not those of the manifest."""
    found = []
    for name in damaged(folder, sums_from_json(files), on_file):
        there = (folder / name).exists()
        what = "damaged: its checksum or size is not that of the manifest" if there else "missing"
        found.append(f"{name} is {what}")
    return found


def quarantined(folder: Path, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The problems that the table of them lists; there is no table without one."""
    entry = manifest["files"].get(QUARANTINE)
    if entry is None:
        return []
    listed: list[dict[str, Any]] = read_table(folder / QUARANTINE, FileSum(**entry)).to_pylist()
    return listed


def json_of(path: Path) -> Any:
    """What a file of a folder says that a manifest knows."""
    try:
        with open_file(path) as file:
            return json.loads(file.readall())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
