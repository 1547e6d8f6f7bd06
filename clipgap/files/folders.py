"""Names inside a folder of ours, and their removal.

A name comes from a document, and a document may have been edited by anyone. So a name is checked
before it is used, and removal goes step by step from an open folder, never through a link: whatever
a document says, nothing outside the folder is touched.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from clipgap.errors import InputError
from clipgap.files.remote import RemotePath, RemoteReader

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)


def is_inside(name: object) -> bool:
    """Whether this can be the name of a file in a folder: relative, with "/" between its parts."""
    if not isinstance(name, str) or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def open_file(path: Path) -> FileIO | RemoteReader:
    """A file to be read; a pipe of that name, on which one could wait for ever, is an `OSError`."""
    if isinstance(path, RemotePath):
        return path.opened()
    file = FileIO(os.open(path, _FILE))
    kind = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(kind):
        return file
    file.close()
    wrong = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
    raise OSError(wrong, "Is a directory" if stat.S_ISDIR(kind) else "Is not a file", str(path))


def read_if_there(path: Path) -> bytes | None:
    """A file that need not be there; one that is, and cannot be read, must not pass for none."""
    try:
        with open_file(path) as file:
            return file.readall()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def read_at(file: int | RemoteReader, size: int, start: int) -> bytes:
    """So many bytes of an open file, fewer only where it ends; a system may give them in parts."""
    if isinstance(file, RemoteReader):
        return file.read_at(size, start)
    content = os.pread(file, size, start)
    while len(content) < size:
        more = os.pread(file, size - len(content), start + len(content))
        if not more:
            break
        content += more
    return content


def files_in(folder: Path) -> Iterator[str]:
    """The names of all that is in a folder and not itself a folder; links are not followed."""
    if isinstance(folder, RemotePath):
        yield from folder.names()
        return
    for inner, _, names in _walk(folder):
        yield from (f"{inner}{name}" for name in names)


def require_files(folder: Path) -> None:
    """Refuse a folder with pipes or devices in it, on which a reader could wait for ever."""
    if isinstance(folder, RemotePath):
        return
    for name in files_in(folder):
        path = folder / name
        if not path.is_file() and path.exists() and not path.is_dir():
            raise InputError(f"{path} is no file, but a pipe or a device; remove it")


def remove(folder: Path, names: Iterable[str]) -> None:
    """Delete files and folders of a folder that are there; links are deleted, not followed.

    Folders that lose their last file go too.
    """
    names = list(names)
    for name in names:
        if not is_inside(name):
            raise InputError(f"{name!r} is not the name of a file in {folder}; nothing was removed")
    for name in names:
        *inner, last = name.split("/")
        with _opened(folder, inner) as within:
            if within is not None:
                _remove(last, within)
    for name in sorted({"/".join(name.split("/")[:-1]) for name in names} - {""}, reverse=True):
        _remove_if_empty(folder, name)


def make_folder(folder: Path, name: str) -> Path:
    """A folder in a folder, which may be there already, but not as a link to another place."""
    made = folder
    for part in name.split("/"):
        made = made / part
        made.mkdir(exist_ok=True)
        refuse_link(made)
    return made


def refuse_link(path: Path) -> None:
    """Refuse to write to a file or folder of ours that is a link to another place."""
    if path.is_symlink():
        raise InputError(
            f"{path} is a link to {path.readlink()}. clipgap writes only into files and folders of "
            "its own: remove the link, or name another output folder."
        )


def link_in(folder: Path, name: str) -> Path | None:
    """What on the way to a file in a folder, itself included, is a link to another place."""
    path = folder
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            return path
    return None


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    for path, folders, files in os.walk(folder):
        inner = os.path.relpath(path, folder)
        links = [name for name in folders if Path(path, name).is_symlink()]
        yield "" if inner == "." else f"{inner}/", folders, [*files, *links]


@contextmanager
def _opened(folder: Path, inner: list[str]) -> Iterator[int | None]:
    """The folder `inner` of a folder; None if it is not there, or not without a link."""
    opened = None
    try:
        opened = os.open(folder, _FOLDER)
        for part in inner:
            below = os.open(part, _FOLDER | _NO_LINK, dir_fd=opened)
            os.close(opened)
            opened = below
    except (FileNotFoundError, NotADirectoryError):
        yield None
    else:
        yield opened
    finally:
        if opened is not None:
            os.close(opened)


def _remove(name: str, within: int) -> None:
    try:
        found = os.stat(name, dir_fd=within, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        _remove_folder(name, within)
    else:
        os.unlink(name, dir_fd=within)


def _remove_folder(name: str, within: int) -> None:
    opened = os.open(name, _FOLDER | _NO_LINK, dir_fd=within)
    try:
        with os.scandir(opened) as entries:
            names = [entry.name for entry in entries]
        for entry in names:
            _remove(entry, opened)
    finally:
        os.close(opened)
    os.rmdir(name, dir_fd=within)


def _remove_if_empty(folder: Path, name: str) -> None:
    while name:
        path = folder / name
        try:
            if path.is_symlink():
                return
            path.rmdir()
        except OSError:
            return
        name = name.rpartition("/")[0]
