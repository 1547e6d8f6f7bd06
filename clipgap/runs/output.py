"""The life of an output folder, told once for every command that fills one.

    OUT/manifest.json    there only when all else is whole; with it the output is finished
    OUT/.progress/       plan.json: what is wanted; units.jsonl: which units are done; and whatever
                         else the command keeps for itself. Gone when the output is finished.

`open_output` locks the folder, looks at it, and refuses what is not ours, or ours and in the way.
`Output.begin` compares what is wanted with what was begun, and answers with one of four states:

    New         nothing is there (any more); make it
    GoesOn      some units are done, by the ledger; make the others
    Complete    everything is there and its checksums hold
    Damaged     it was finished, and some files no longer are what they were

A kill at any moment leaves one of these. What is removed is only what the plan, the manifest and
the patterns of its `Kind` say is the output's own; strangers' files stay.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeAlias

from clipgap.errors import InputError, UsageError
from clipgap.files.addresses import require_local
from clipgap.files.atomic import TEMPORARY_SUFFIX, sync_folder
from clipgap.files.documents import (
    MANIFEST,
    Form,
    Shape,
    encode,
    format_of,
    read_document,
    read_manifest,
    write_document,
)
from clipgap.files.folders import files_in, is_inside, make_folder, refuse_link, remove
from clipgap.files.remote import RemotePath, path_of
from clipgap.files.sums import AnySum, damaged, sums_from_json
from clipgap.runs.changes import Change, changes, refuse_changes
from clipgap.runs.how import How
from clipgap.runs.lock import LOCK, PLAN, PROGRESS, cannot_make, only_writer
from clipgap.runs.run import BOARD
from clipgap.runs.shares import SHARE, Whole, bring
from clipgap.runs.units import UNITS, Ledger, Made
from clipgap.runs.upload import Upload

_SAYING = {f"{PROGRESS}/{name}" for name in (PLAN, SHARE, BOARD, LOCK)}
"""Notes that hold nothing which was made."""


@dataclass(frozen=True)
class Kind:
    """A kind of output folder.

    `owns` are patterns of the files that a run makes, besides those that its plan or its manifest
    names; `*` does not match "/". `inner` are folders made beforehand. `labels` say what people
    call the entries of what is wanted, and entries in `free` may differ: see `changes`.
    """

    form: Form
    owns: Collection[str] = ()
    inner: Collection[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    free: Collection[str] = ()
    record: Mapping[str, Shape] = field(default_factory=dict)

    @property
    def noun(self) -> str:
        return self.form.noun

    def owned(self, name: str) -> bool:
        """Whether a file of this name in such a folder is a run's."""
        parts = name.split("/")
        for pattern in self.owns:
            wanted = pattern.split("/")
            if len(wanted) == len(parts) and all(map(fnmatchcase, parts, wanted)):
                return True
        return False


@dataclass(frozen=True)
class New:
    """Nothing is there."""


@dataclass(frozen=True)
class GoesOn:
    """An earlier run was interrupted; the ledger says how far it came."""


@dataclass(frozen=True)
class Complete:
    """What is wanted is there, whole."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class Damaged:
    """What is wanted was there; these files are missing or changed."""

    manifest: dict[str, Any]
    files: list[str]

    @property
    def sums(self) -> dict[str, AnySum]:
        """What all files of the output should be."""
        return sums_from_json(self.manifest["files"])


Answer: TypeAlias = New | GoesOn | Complete | Damaged
State = Literal["empty", "unfinished", "finished"]


def is_unfinished(folder: Path) -> bool:
    """Whether a run is filling this folder, or was interrupted while it did."""
    return (folder / PROGRESS / PLAN).is_file()


def spare(out: Path, inputs: Iterable[Path | None], how: How) -> None:
    """Refuse an output that is, or holds, one of the inputs; before it is opened."""
    place = None if how.upload is None else path_of(how.upload)
    for path in inputs:
        made = place if isinstance(path, RemotePath) else out
        if path is None or made is None:
            continue
        if _resolved(path).is_relative_to(_resolved(made)):
            where = "is both input and output" if path == made else "lies in the output"
            raise UsageError(f"{path} {where}; name another output folder")


@contextmanager
def open_output(path: str | Path, kind: Kind, how: How) -> Iterator[Output]:
    """The folder at `path`, ours alone while this lasts; it need not be there yet.

    Refuses a folder that is somebody else's, or that holds an output although neither --resume nor
    --overwrite was given. With a share it is that share's own folder beside it.
    """
    require_local(path)
    named = Path(path) if how.share is None else how.share.folder(Path(path))
    folder = _resolved(named)
    parts = _parts(kind, how)
    made = not folder.exists()
    with only_writer(folder) as check, _uploading(folder, kind, how) as upload:
        try:
            output = Output(named, folder, kind, how, upload, parts, check)
            output.require_flag()
            yield output
        finally:
            if made:
                with suppress(OSError):
                    folder.rmdir()  # if nothing came of it


def _parts(kind: Kind, how: How) -> Whole | None:
    """What is to be put together, which is looked at before anything is begun for it."""
    if not how.parts:
        return None
    how.tell("checking")
    like = Ledger(None, kind.record)
    parts = Whole.found(how.parts, kind.form, kind.labels, like, how.share)
    if parts is not None:
        parts.check_files()
    return parts


def _uploading(folder: Path, kind: Kind, how: How) -> AbstractContextManager[Upload | None]:
    if how.upload is None:
        return nullcontext()
    inner = "" if how.share is None else f".parts/{how.share.place}"
    return Upload(how.upload.rstrip("/") + inner, folder, kind.form, kind.owned, how)


class Output:
    """An output folder that is locked by this run. Its every file is whole or absent."""

    def __init__(
        self,
        path: Path,
        folder: Path,
        kind: Kind,
        how: How,
        upload: Upload | None,
        parts: Whole | None,
        check_ours: Callable[[], None],
    ) -> None:
        self.path, self._check_ours = path, check_ours
        self.kind, self.how = kind, how
        self.progress = path / PROGRESS
        self.ledger = Ledger(self.progress / UNITS, kind.record)
        self.ledger.beside = self._upload = upload
        self._folder, self._parts = folder, parts
        self._plan_form = Form(
            kind.form.name,
            kind.noun,
            {"wanted": dict, "outputs": [is_inside], "earlier": [is_inside]},
        )
        self._wanted: dict[str, Any] = {}
        self._outputs: list[str] = []
        self.state = self._state()

    @property
    def wants_work(self) -> bool:
        """Whether something is to be made that is not there, whatever it is."""
        return self.state != "finished" or self.how.overwrite

    def require_flag(self) -> None:
        """Refuse an output that is there when neither --resume nor --overwrite was given."""
        if self.state == "empty" or self.how.resume or self.how.overwrite:
            return
        if self.state == "finished":
            raise InputError(
                f"{self.path} already holds a finished {self.kind.noun}. Give --resume to check "
                "and keep it, --overwrite to replace it, or another output folder."
            )
        raise InputError(
            f"{self.path} holds an unfinished {self.kind.noun}. Give --resume to go on with it, "
            "--overwrite to start again, or another output folder."
        )

    def begin(
        self,
        described: Mapping[str, Any],
        *,
        marks: Mapping[str, Any] | None = None,
        outputs: Iterable[str] = (),
        may_change: Callable[[Change], bool] = lambda change: False,
    ) -> Answer:
        """Compare what is wanted with what is there.

        `described` is all that the output follows from, and becomes part of its manifest. `marks`
        tell that an input was edited since, and count as long as the run is unfinished. `outputs`
        are names of files that the kind's patterns do not cover. A change may be harmless to what
        was made so far; `may_change` tells.
        """
        wanted = {**described, **({} if marks is None else {"marks": marks})}
        self._wanted = json.loads(encode(wanted))  # as it will be read back
        self._outputs = sorted(outputs)
        if self.state == "finished" and not self.how.overwrite:
            answer = self._compare_finished(json.loads(encode(described)), may_change)
            if isinstance(answer, Complete) or self._parts is None:
                return answer
        if self._parts is not None:
            self._put_together(self._parts, may_change)
            return GoesOn()
        if self.state == "unfinished" and not self.how.overwrite:
            self._go_on(may_change)
            return GoesOn()
        self.start()
        return New()

    def start(self) -> None:
        """Begin with nothing: note what is going to be made, and remove what earlier runs made."""
        earlier = sorted(self._own_files())  # first of all, since it may refuse what is there
        with cannot_make(self.path):
            # Without its notes an earlier run has made nothing, so this comes before the plan.
            remove(self.path, [n for n in self._notes() if n != f"{PROGRESS}/{PLAN}"])
            make_folder(self.path, PROGRESS)
            # From here to the end the folder is known as ours, whatever a kill leaves of it.
            self._note(earlier)
            remove(self.path, [MANIFEST])
            remove(self.path, earlier)
            self.prepare()
        self.ledger.clear()
        if self._upload is not None:
            self._upload.clear()
        self.state = "unfinished"

    def expect(self, outputs: Iterable[str]) -> None:
        """Note names of files that are going to be written, before the first of them."""
        self._outputs = sorted(outputs)
        self._note(self._plan()["earlier"])

    def reopen(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Make a damaged output an unfinished one, of which these units are done."""
        with cannot_make(self.path):
            remove(self.path, [f"{PROGRESS}/{UNITS}"])
            make_folder(self.path, PROGRESS)
            self._note(())
            self.prepare()
        self.ledger.clear()
        self.ledger.add(Made(records))
        remove(self.path, [MANIFEST])
        self.state = "unfinished"

    def prepare(self) -> None:
        """Clear away what a killed run was writing, and make the inner folders."""
        self._remove_leftovers()
        for name in self.kind.inner:
            make_folder(self.path, name)
        sync_folder(self.path)
        sync_folder(self.path.parent)

    def refuse_links(self) -> None:
        """Refuse links where the run's own files go, if others than clipgap are to write those."""
        ours = {PROGRESS, *(pattern.partition("/")[0] for pattern in self.kind.owns)}
        for name in files_in(self.path):
            if any(fnmatchcase(name.partition("/")[0], pattern) for pattern in ours):
                refuse_link(self.path / name)

    def finish(self, entries: Mapping[str, Any], files: Mapping[str, AnySum]) -> dict[str, Any]:
        """The last two steps; a kill between them leaves a finished output to tidy."""
        self._check_ours()
        sums = {name: asdict(entry) for name, entry in sorted(files.items())}
        manifest = write_document(self.path / MANIFEST, self.kind.form, {**entries, "files": sums})
        self.tidy()
        self.state = "finished"
        return manifest

    def tidy(self) -> None:
        """Nothing stays but the output."""
        remove(self.path, [PROGRESS])
        self._remove_leftovers()
        sync_folder(self.path)

    def discard(self) -> None:
        """Remove all that is ours, and the folder, unless strangers' files are in it."""
        remove(self.path, [n for n in self._notes() if n != f"{PROGRESS}/{PLAN}"])
        remove(self.path, [MANIFEST, *self._own_files()])
        remove(self.path, [PROGRESS])
        with suppress(OSError):
            self._folder.rmdir()
        self.state = "empty"

    def damaged(self, files: Mapping[str, AnySum]) -> list[str]:
        """Which of these files are missing or differ from their checksum."""
        return damaged(self.path, files)

    # --- the rest is how this is done

    def _state(self) -> State:
        """What is there; anything that is not ours is refused."""
        if not self.path.is_dir():
            return "empty"
        name, noun = self.kind.form.name, self.kind.noun
        if format_of(self.path / MANIFEST) == name:
            return "finished"
        if self._has_begun(self.path):
            # A run that ended before it had made anything left nothing to keep or to ask about.
            made = not _SAYING.issuperset(self._notes()) or any(
                os.path.lexists(self.path / name) for name in self._own_files()
            )
            return "unfinished" if made else "empty"
        if (self.path / MANIFEST).exists():
            raise InputError(
                f"{self.path / MANIFEST} is damaged, or not that of a clipgap {noun}. "
                "Remove the folder yourself or name a new one."
            )
        # A run killed in its first moments leaves an empty folder, or leftovers in one.
        strangers = [
            stranger
            for stranger in files_in(self.path)
            if not _is_leftover(stranger) and not stranger.startswith(f"{PROGRESS}/")
        ]
        if strangers:
            raise InputError(
                f"{self.path} is not empty and not a clipgap {noun}: no {MANIFEST} (it holds "
                f"{min(strangers)!r}). Name a new folder for the output."
            )
        return "empty"

    def _compare_finished(
        self, described: Mapping[str, Any], may_change: Callable[[Change], bool]
    ) -> Answer:
        manifest = read_manifest(self.path, self.kind.form, "Run the same command again.")
        self.how.tell("checking")
        self._refuse_changes({key: manifest.get(key) for key in described}, described, may_change)
        wrong = self.damaged(sums_from_json(manifest["files"]))
        if wrong:
            return Damaged(manifest, wrong)
        self.tidy()
        return Complete(manifest)

    def _go_on(self, may_change: Callable[[Change], bool]) -> None:
        """Take up an unfinished run; its units count if their files are whole."""
        plan = self._plan()
        self.how.tell("checking")
        self._refuse_changes(plan["wanted"], self._wanted, may_change)
        self._outputs = self._outputs or plan["outputs"]
        with cannot_make(self.path):
            remove(self.path, plan["earlier"])  # it was killed before it could do so
            self._note(())
            self.prepare()
        self.ledger.load()
        files = {
            name: (unit, entry)
            for unit, record in self.ledger.records.items()
            for name, entry in sums_from_json(record.get("files", {})).items()
        }
        wrong = self.damaged({name: entry for name, (_, entry) in files.items()})
        self.ledger.forget({files[name][0] for name in wrong})

    def _put_together(self, parts: Whole, may_change: Callable[[Change], bool]) -> None:
        """Make this an unfinished output that has done what all the parts have done."""
        for part in parts.plans:
            wanted = self._plan(part.notes)["wanted"]
            self._refuse_changes(wanted, self._wanted, may_change, part.folder)
        files = {name for sums in parts.files.values() for name in sums}
        self.start()
        self.expect(files)
        together, folders = self.ledger.at(None), set()
        for number, (part, ledger) in enumerate(parts.ledgers.items()):
            ledger.gather_like(self.ledger)
            folders |= bring(part, parts.files[part], self.path)
            together.add(Made(ledger.records, ledger.state, number))
            ledger.clear()  # what a part has gathered is large, and there may be hundreds
        first, noted = parts.notes()
        known = _SAYING | files | {f"{PROGRESS}/{name}" for name in self.ledger.files}
        folders |= bring(first, [name for name in noted if name not in known], self.path)
        for folder in folders:
            sync_folder(folder)
        self.ledger.add(Made(together.records, together.state))

    def _refuse_changes(
        self,
        old: Mapping[str, Any],
        new: Mapping[str, Any],
        may_change: Callable[[Change], bool],
        folder: Path | None = None,
    ) -> None:
        found = changes(old, new, self.kind.labels, self.kind.free)
        refuse_changes(folder or self.path, [each for each in found if not may_change(each)])

    def _has_begun(self, folder: Path) -> bool:
        """Whether a run has made plans there for what this is to be."""
        return format_of(folder / PROGRESS / PLAN) == self.kind.form.name

    def _plan(self, notes: Path | None = None) -> dict[str, Any]:
        return read_document((notes or self.progress) / PLAN, self._plan_form)

    def _note(self, earlier: Iterable[str]) -> None:
        entries = {"wanted": self._wanted, "outputs": self._outputs, "earlier": sorted(earlier)}
        write_document(self.progress / PLAN, self._plan_form, entries)

    def _notes(self) -> list[str]:
        """What is in the folder of progress."""
        if self.progress.is_symlink() or not self.progress.is_dir():
            return []
        found = (f"{PROGRESS}/{name}" for name in files_in(self.progress) if name != LOCK)
        return sorted(name for name in found if not _is_leftover(name))

    def _own_files(self) -> set[str]:
        """What finished or unfinished runs have written here."""
        names = {name for name in files_in(self.path) if self.kind.owned(name)}
        if format_of(self.path / MANIFEST) == self.kind.form.name:
            names |= _names(self.path / MANIFEST, "files")
        if self._has_begun(self.path):
            names |= _names(self.progress / PLAN, "outputs")
            names |= _names(self.progress / PLAN, "earlier")
        return names - {MANIFEST}

    def _remove_leftovers(self) -> None:
        remove(self.path, [name for name in files_in(self.path) if _is_leftover(name)])


def _names(path: Path, entry: str) -> set[str]:
    """The names in an entry of a document of ours, which may be a damaged one."""
    names = json.loads(path.read_bytes()).get(entry, [])
    if not isinstance(names, (list, dict)) or not all(map(is_inside, names)):
        raise InputError(
            f"{path} was damaged or edited since clipgap wrote it: its entry {entry!r} names files "
            "outside of the folder. Nothing was removed; remove the folder yourself or name a new "
            "one."
        )
    return set(names)


def _is_leftover(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith(".") and last.endswith(TEMPORARY_SUFFIX)


def _resolved(path: Path) -> Path:
    if isinstance(path, RemotePath):
        return path
    try:
        found = path.resolve()
        os.fsencode(found).decode()
        return found
    except UnicodeDecodeError as error:  # manifests and tables could not tell of it
        raise InputError(f"{str(path)!r}: the name of this folder is not UTF-8") from error
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise InputError(f"cannot use {path}: {error}") from error
