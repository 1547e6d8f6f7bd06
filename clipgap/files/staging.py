"""Many small files that appear together: written aside, flushed at once, moved into place.

A report can have a hundred thousand files. To flush each by itself would cost more than to make it:
of 20,000 files of 4 KiB, 0.14 s for one call that flushes the file system, 2.6 s for a flush each
in 16 threads; of 2,000 files, 0.48 s one by one.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from clipgap.errors import InputError
from clipgap.files.atomic import sync_file, sync_folder
from clipgap.files.folders import make_folder, remove
from clipgap.files.sums import AnySum, FileSum


class Staging:
    """Files of a folder that are first written into `aside`, a folder within it.

    After a kill at any moment whatever has its final name is whole.
    """

    def __init__(self, folder: Path, aside: str) -> None:
        self.sums: dict[str, AnySum] = {}
        self._folder, self._name, self._aside = folder, aside, folder / aside
        self._made: set[Path] = set()
        self._opened = -1

    def __enter__(self) -> Staging:
        with _writing(self._aside):
            remove(self._folder, [self._name])  # what a killed run left
            make_folder(self._folder, self._name)
            # Opened before anything is written: what fails to reach the disk is told to whoever
            # had the file system open by then.
            self._opened = os.open(self._aside, os.O_RDONLY)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._opened)

    def write(self, name: str, content: bytes) -> None:
        """Write a file that will be called `name`."""
        path = self._aside / name
        with _writing(self._folder / name):
            if path.parent not in self._made:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._made.add(path.parent)
            path.write_bytes(content)
        self.sums[name] = FileSum.of_bytes(content)

    def publish(self, last: str) -> None:
        """Flush everything and move it into place, folder by folder; the file `last` at the end."""
        with _writing(self._folder):
            self._flush()
            entries = sorted(self._aside.iterdir(), key=lambda e: (e.name == last, e.name))
            for entry in entries:
                _move(entry, self._folder / entry.name)
            sync_folder(self._folder)

    def _flush(self) -> None:
        sync = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if sync is None:  # not on every system
            for name in self.sums:
                sync_file(self._aside / name)
            for folder in {*self._made, self._aside}:
                sync_folder(folder)
        elif sync(self._opened) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def _move(source: Path, target: Path) -> None:
    if source.is_dir() and target.is_dir() and not target.is_symlink():
        for entry in sorted(source.iterdir()):  # somebody's own files are in there
            _move(entry, target / entry.name)
        sync_folder(target)
    else:
        source.replace(target)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Free some space or choose another "
            "output folder, then run the same command again with --resume."
        ) from error
