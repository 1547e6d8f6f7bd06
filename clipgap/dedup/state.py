"""What a run keeps between its steps: in a folder beside the output, or in memory.

OUT.work/.progress/plan.json       inputs and settings
OUT.work/.progress/*.npz, *.json   each written whole, after the step it records
OUT.work/.progress/*.npy           one entry a row of the store, filled as a step goes on

The folder is removed when all keep-lists are written.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.atomic import write_atomic
from clipgap.files.documents import write_json
from clipgap.runs.changes import changes, refuse_changes
from clipgap.runs.old_output import OutputFolder

FORMAT = "clipgap-dedup"
_LABELS = {
    "settings": "setting",
    "store": "store",
    "store shards": "shard",
    "store marks": "last change of shard",
}
# A store may have moved; what counts is its content.
_FREE = ("path", "format")


class State:
    """Arrays and documents by name."""

    def __init__(self, folder: OutputFolder | None) -> None:
        self._folder = folder
        self._arrays: dict[str, NDArray[Any]] = {}
        self._documents: dict[str, Any] = {}

    @classmethod
    def in_memory(cls) -> State:
        return cls(None)

    @classmethod
    def beside(
        cls, out: Path, described: Mapping[str, Any], resume: bool, overwrite: bool
    ) -> State:
        """The state of the run that makes `out`: of an earlier one, if it shall go on."""
        folder = _folder(out)
        state = folder.state()
        if state == "unfinished" and resume:
            found = changes(folder.started_with(), described, _LABELS, _FREE)
            refuse_changes(folder.path, list(found))
            folder.go_on(described)
        elif state == "empty" or overwrite or resume:
            folder.start(described)
        else:
            raise folder.require_flag(state)
        return cls(folder)

    @staticmethod
    def discard(out: Path) -> None:
        """Remove what a run left that was killed after its last keep-list."""
        folder = _folder(out)
        # What clipgap did not make is left alone, whatever it is called.
        with suppress(InputError):
            if folder.state() != "finished":
                folder.remove()

    def save(self, name: str, document: Mapping[str, Any]) -> None:
        """Keep plain data; what arrays it speaks of is flushed to the disk first."""
        for array in self._arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        if self._folder is None:
            self._documents[name] = dict(document)
        else:
            write_json(self._folder.progress / f"{name}.json", document)

    def load(self, name: str) -> dict[str, Any] | None:
        if self._folder is None:
            return self._documents.get(name)
        path = self._folder.progress / f"{name}.json"
        if not path.exists():
            return None
        try:
            document: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
        return document

    def save_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep some arrays that belong together; they are small, and written anew each time."""
        if self._folder is None:
            self._documents[name] = dict(arrays)
            return
        path = self._folder.progress / f"{name}.npz"
        with write_atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def load_arrays(self, name: str) -> dict[str, NDArray[Any]] | None:
        if self._folder is None:
            return self._documents.get(name)
        path = self._folder.progress / f"{name}.npz"
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(path, error) from error

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array of a size that follows the store; zeros at first."""
        if name not in self._arrays:
            self._arrays[name] = self._open(name, shape, np.dtype(dtype))
        return self._arrays[name]

    def remove(self) -> None:
        """The run is over."""
        self._arrays.clear()
        if self._folder is not None:
            self._folder.remove()

    def _open(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        if self._folder is None or 0 in shape:
            return np.zeros(shape, dtype)
        path = self._folder.progress / f"{name}.npy"
        if not path.exists():
            with write_atomic(path) as temporary:
                np.lib.format.open_memmap(temporary, "w+", dtype, shape).flush()
                _take_room(temporary)
        try:
            held = np.load(path, mmap_mode="r")  # unlike r+, it does not lengthen a short file
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
        if held.shape != shape or held.dtype != dtype:
            raise _damaged(path, f"it holds {held.dtype} {held.shape}")
        return np.lib.format.open_memmap(path, "r+")


def _take_room(path: Path) -> None:
    """Fill a file's holes: a disk that is full later would kill whoever writes to memory."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _folder(out: Path) -> OutputFolder:
    return OutputFolder(work_folder(out), FORMAT, "deduplication")


def work_folder(out: Path) -> Path:
    """Where the state of the run that makes `out` lies."""
    return out.with_name(f"{out.name}.work")


def _damaged(path: Path, why: object) -> InputError:
    return InputError(f"{path} is damaged ({why}). Start again with --overwrite.")
