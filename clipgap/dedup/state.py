"""What a run keeps between its steps: in a folder beside the output, or in memory.

OUT.work/.progress/plan.json       inputs and settings
OUT.work/.progress/*.npz, *.json   each written whole, after the step it records
OUT.work/.progress/*.npy           one entry a row of the store, filled as a step goes on

The folder is removed when all keep-lists are written.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.atomic import write_atomic
from clipgap.files.documents import Form, read_document, write_document
from clipgap.runs.how import How
from clipgap.runs.output import Kind, open_output

KIND = Kind(
    Form("clipgap-dedup", "deduplication"),
    labels={
        "settings": "setting",
        "store": "store",
        "store shards": "shard",
        "marks": "last change of shard",
    },
    # A store may have moved; what counts is its content.
    free=("path", "format"),
)
_NOTE = Form("clipgap-dedup-step", "step of a deduplication", {"step": str, "kept": dict})


class State:
    """Arrays and documents by name."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder  # of the notes; None: in memory
        self._arrays: dict[str, NDArray[Any]] = {}
        self._documents: dict[str, Any] = {}

    @classmethod
    def in_memory(cls) -> State:
        return cls(None)

    @classmethod
    @contextmanager
    def beside(
        cls, out: Path, described: Mapping[str, Any], marks: Mapping[str, Any], how: How
    ) -> Iterator[State]:
        """The state of the run that makes `out`: of an earlier one, if it shall go on.

        When the run has ended well, nothing of it stays.
        """
        with open_output(work_folder(out), KIND, how) as output:
            output.begin(described, marks=marks)
            state = cls(output.progress)
            yield state
            state._arrays.clear()
            output.discard()

    @staticmethod
    def discard(out: Path) -> None:
        """Remove what a run left that was killed after its last keep-list."""
        folder = work_folder(out)
        # What clipgap did not make is left alone, whatever it is called.
        with suppress(InputError):
            if folder.exists():
                with open_output(folder, KIND, How(overwrite=True)) as output:
                    output.discard()

    def save(self, name: str, document: Mapping[str, Any]) -> None:
        """Keep plain data; what arrays it speaks of is flushed to the disk first."""
        for array in self._arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        if self._folder is None:
            self._documents[name] = dict(document)
        else:
            write_document(
                self._folder / f"{name}.json", _NOTE, {"step": name, "kept": dict(document)}
            )

    def load(self, name: str) -> dict[str, Any] | None:
        if self._folder is None:
            return self._documents.get(name)
        path = self._folder / f"{name}.json"
        if not path.exists():
            return None
        try:
            kept: dict[str, Any] = read_document(path, _NOTE)["kept"]
        except InputError as error:
            raise _damaged(path, error) from error
        return kept

    def save_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep some arrays that belong together; they are small, and written anew each time."""
        if self._folder is None:
            self._documents[name] = dict(arrays)
            return
        path = self._folder / f"{name}.npz"
        with write_atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def load_arrays(self, name: str) -> dict[str, NDArray[Any]] | None:
        if self._folder is None:
            return self._documents.get(name)
        path = self._folder / f"{name}.npz"
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

    def require_within(self, name: str, low: int, high: int) -> None:
        """Refuse an array of integers of which one is below `low`, or `high` or above."""
        array = self._arrays[name]
        if array.size and not low <= int(array.min()) <= int(array.max()) < high:
            raise self.damaged(f"{name}.npy", f"a number in it is not within {low} to {high - 1:,}")

    def damaged(self, file: str, why: object) -> InputError:
        """The error for a file of an earlier run that cannot be."""
        return _damaged(Path(file) if self._folder is None else self._folder / file, why)

    def _open(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        if self._folder is None or 0 in shape:
            return np.zeros(shape, dtype)
        path = self._folder / f"{name}.npy"
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


def work_folder(out: Path) -> Path:
    """Where the state of the run that makes `out` lies."""
    return out.with_name(f"{out.name}.work")


def _damaged(path: Path, why: object) -> InputError:
    return InputError(f"{path} is damaged ({why}). Start again with --overwrite.")
