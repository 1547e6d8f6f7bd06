"""What a run keeps between its steps: in a folder beside the output, or in memory.

OUT.work/.progress/plan.json       inputs and settings
OUT.work/.progress/units.jsonl     a line for each step and each unit that is done
OUT.work/.progress/*.npy           arrays of steps, with their sums in those lines
OUT.work/.progress/dropped/*.npy   and what comes of the units

A step whose line or file is not whole is as good as not done. The folder is removed when all
keep-lists are written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.dedup.work import DROPPED
from clipgap.errors import InputError
from clipgap.files.atomic import write_atomic
from clipgap.files.documents import Form
from clipgap.files.folders import remove
from clipgap.files.sums import FileSum, Hashed
from clipgap.runs.how import How
from clipgap.runs.output import Kind, open_output
from clipgap.runs.units import Ledger, Made

KIND = Kind(
    Form("clipgap-dedup", "deduplication"),
    inner=(DROPPED,),
    labels={
        "settings": "setting",
        "store": "store",
        "store shards": "shard",
        "marks": "last change of shard",
    },
    # A store may have moved; what counts is its content.
    free=("path", "format", "models"),
)


class Notes:
    """The ledger of a run, and the arrays that its steps make, by the names of their files."""

    def __init__(self, folder: Path | None = None, ledger: Ledger | None = None) -> None:
        self.folder = folder  # for the work; None: in memory
        self.ledger = ledger or Ledger(None)
        self._arrays: dict[str, NDArray[Any]] = {}

    @classmethod
    @contextmanager
    def beside(
        cls, out: Path, described: Mapping[str, Any], marks: Mapping[str, Any], how: How
    ) -> Iterator[Notes]:
        """The notes of the run that makes `out`: of an earlier one, if it shall go on.

        When the run has ended well, nothing of them stays.
        """
        # A share has no output beside which its folder could lie.
        if how.share is None:
            out, how = work_folder(out), replace(how, upload=None)
        with open_output(out, KIND, how) as output:
            output.begin(described, marks=marks)
            notes = cls(output.path, output.ledger)
            yield notes
            notes._arrays.clear()
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

    def of(self, step: str) -> dict[str, Any] | None:
        """What was noted of a step; None if it is not done."""
        return self.ledger.records.get(step)

    def add(self, step: str, record: Mapping[str, Any], arrays: Sequence[str] = ()) -> None:
        """Note a step as done, with the arrays that it has made, once they are on the disk."""
        sums = {}
        for name in arrays:
            array = self._arrays[name]
            if self.folder is not None and isinstance(array, np.memmap):
                array.flush()
                sums[name] = asdict(_sum_of(array))
        self.ledger.add(Made({step: {**record, "files": sums}}))

    def new_array(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array of zeros, to be filled."""
        if self.folder is None:
            array = np.zeros(shape, dtype)
        else:
            path = self.folder / name
            with write_atomic(path) as temporary:
                np.lib.format.open_memmap(temporary, "w+", dtype, shape).flush()
                _take_room(temporary)
            array = np.lib.format.open_memmap(path, "r+")
        self._arrays[name] = array
        return array

    def array(self, name: str) -> NDArray[Any]:
        """An array of a step that is done."""
        if name not in self._arrays:
            assert self.folder is not None
            self._arrays[name] = np.load(self.folder / name, mmap_mode="r")
        return self._arrays[name]

    def remove(self, name: str) -> None:
        """An array that no step needs any more."""
        self._arrays.pop(name, None)
        if self.folder is not None:
            remove(self.folder, [name])


def work_folder(out: Path) -> Path:
    """Where the notes of the run that makes `out` lie."""
    return out.with_name(f"{out.name}.work")


def _sum_of(array: NDArray[Any]) -> FileSum:
    """Of the file that an array is, as it should be, whatever the disk made of it."""
    hashed = Hashed()
    np.lib.format.write_array_header_1_0(hashed, np.lib.format.header_data_from_array_1_0(array))
    hashed.write(array.reshape(-1).view(np.uint8).data)
    return hashed.sum


def _take_room(path: Path) -> None:
    """Fill a file's holes: a disk that is full later would kill whoever writes to memory."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
