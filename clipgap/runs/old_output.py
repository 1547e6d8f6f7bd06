"""The folder that a long run fills: what state it is in, and how it goes from one to the next.

manifest.json    present only when all else is whole
.progress/       plan.json and whatever the run keeps for itself; gone when it is done
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

from clipgap.errors import InputError
from clipgap.files.atomic import TEMPORARY_SUFFIX, remove_leftovers, sync_folder
from clipgap.files.documents import MANIFEST, format_of, write_json

State = Literal["empty", "unfinished", "finished"]


class Sum(Protocol):
    """What a manifest keeps of a file, to know it again."""

    @property
    def size(self) -> int: ...
    def of(self, path: Path) -> Any:
        """The sum of the file that is there now."""
        ...


class OutputFolder:
    """A folder whose every file is whole or absent.

    `form` is the entry `format` of its documents, `noun` what people call such a folder, `inner`
    the folders in it that are made beforehand.
    """

    def __init__(self, path: Path, form: str, noun: str, inner: Iterable[str] = ()) -> None:
        self.path = path
        self.form, self.noun = form, noun
        self.progress = path / ".progress"
        self._plan = self.progress / "plan.json"
        self._inner = [path / name for name in inner]

    def state(self) -> State:
        """What is there; anything that is not ours is refused."""
        if not self.path.exists():
            return "empty"
        if not self.path.is_dir():
            raise InputError(f"{self.path} is a file; name a folder for the output")
        if format_of(self.path / MANIFEST) == self.form:
            return "finished"
        if format_of(self._plan) == self.form:
            return "unfinished"
        if (self.path / MANIFEST).exists():
            raise InputError(
                f"{self.path / MANIFEST} is damaged, or not that of a clipgap {self.noun}. "
                "Remove the folder yourself or name a new one."
            )
        # A run killed in its first moments leaves an empty folder, or leftovers in one.
        strangers = [
            entry.name
            for entry in self.path.rglob("*")
            if not entry.name.endswith(TEMPORARY_SUFFIX) and entry != self.progress
        ]
        if strangers:
            raise InputError(
                f"{self.path} is not empty and not a clipgap {self.noun} (it holds "
                f"{sorted(strangers)[0]!r}). Name a new folder for the output."
            )
        return "empty"

    def start(self, described: Mapping[str, Any], earlier: Iterable[str] = ()) -> None:
        """Make the folder, note what is going to be made, and remove what an earlier run made."""
        try:
            self.progress.mkdir(parents=True, exist_ok=True)
            sync_folder(self.path.parent)
            # From here to the end the folder is known as ours, whatever a kill leaves of it.
            write_json(self._plan, {"format": self.form, **described})
            for name in (MANIFEST, *earlier):
                remove(self.path / name)
            for entry in self.progress.iterdir():
                if entry != self._plan:
                    remove(entry)
            self.prepare()
        except OSError as error:
            raise InputError(f"cannot make the folder {self.path}: {error}") from error

    def prepare(self) -> None:
        """Make the inner folders and clear away what a killed run was writing."""
        for folder in self._inner:
            folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path)
        sync_folder(self.path)

    def go_on(self, described: Mapping[str, Any]) -> None:
        """Take up an unfinished run; what may differ by now is noted."""
        self.prepare()
        write_json(self._plan, {"format": self.form, **described})

    def started_with(self) -> dict[str, Any]:
        """What the unfinished run here set out to make."""
        described: dict[str, Any] = json.loads(self._plan.read_bytes())
        del described["format"]
        return described

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """The last two steps; a kill between them leaves a finished output to tidy."""
        write_json(self.path / MANIFEST, manifest)
        self.tidy()

    def tidy(self) -> None:
        remove(self.progress)
        remove_leftovers(self.path)
        sync_folder(self.path)

    def remove(self) -> None:
        """Delete the folder. What tells that it is ours goes last, should a kill cut this short."""
        entries = list(self.progress.iterdir()) if self.progress.is_dir() else []
        for entry in entries:
            if entry != self._plan:
                remove(entry)
        remove(self.path)

    def damaged(self, files: Mapping[str, Sum]) -> list[str]:
        """Which of these files are missing or differ from their checksum."""

        def check(name: str) -> bool:
            path = self.path / name
            # A wrong size settles it without reading.
            right_size = path.is_file() and path.stat().st_size == files[name].size
            return right_size and files[name].of(path) == files[name]

        with ThreadPoolExecutor(4) as pool:
            whole = pool.map(check, files)
        return [name for name, good in zip(files, whole, strict=True) if not good]

    def require_flag(self, state: State) -> InputError:
        """The error for an output that is there when neither --resume nor --overwrite was given."""
        if state == "finished":
            return InputError(
                f"{self.path} already holds a finished {self.noun}. Give --resume to check and "
                "keep it, --overwrite to replace it, or another output folder."
            )
        return InputError(
            f"{self.path} holds an unfinished {self.noun}. Give --resume to go on with it, "
            "--overwrite to start again, or another output folder."
        )


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_manifest(folder: Path, form: str, noun: str, unfinished: str) -> dict[str, Any]:
    """The manifest of a finished output, or an error that says what the folder is instead.

    `form` is what its entry `format` must be, `noun` what people call such a folder, and
    `unfinished` what to do if there is no manifest.
    """
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a finished {noun}: it has no {MANIFEST}. {unfinished}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict) or document.get("format") != form:
        raise InputError(f"{path} is not the manifest of a clipgap {noun}")
    if document.get("version") != 1:
        raise InputError(
            f"{path} has version {document.get('version')}; this clipgap reads version 1. "
            "Use the clipgap that wrote it, or a newer one."
        )
    return document
