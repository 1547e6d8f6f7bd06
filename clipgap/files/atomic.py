"""Files that are either whole or not there.

A file is written under a temporary name in its own folder, flushed to the disk, renamed, and the
folder is flushed too. After a crash at any moment the final name holds the old content, the new
content, or nothing; a temporary file may be left behind, and `remove_leftovers` finds it.
"""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipgap.errors import InputError
from clipgap.files.remote import path_of

TEMPORARY_SUFFIX = ".clipgap-tmp"
_CHUNK = 1 << 20


@contextmanager
def write_atomic(path: str | os.PathLike[str], scratch: Path | None = None) -> Iterator[Path]:
    """Give a temporary path beside `path`; what the body wrote there becomes `path` at the end.

    The temporary file lies in the folder `scratch` instead, if that is there.

    If the body or any step after it fails, `path` is as it was and the temporary file is gone.
    The body should do nothing but write, since any `OSError` in it is reported as a failed write.
    """
    final = Path(path)
    folder = final.parent if scratch is None or not scratch.is_dir() else scratch
    temporary = folder / f".{final.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}"
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(final)
        sync_folder(final.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _cannot_write(final, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_file(path: str | os.PathLike[str]) -> None:
    """Flush a closed file's content to the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Flush a folder's list of names to the disk, so that renames in it survive a power cut."""
    _sync(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))


def remove_leftovers(folder: str | os.PathLike[str], name: str | None = None) -> int:
    """Delete temporary files that a killed process left under `folder`; say how many.

    With a `name` those of this file alone, which lie right in the folder.
    """
    if name is None:
        leftovers = list(Path(folder).rglob(f".*{TEMPORARY_SUFFIX}"))
    else:
        leftovers = list(Path(folder).glob(f".{glob.escape(name)}.*{TEMPORARY_SUFFIX}"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return len(leftovers)


def sha256_file(path: str | Path) -> str:
    """The hex SHA-256 of a file's content, read in pieces of bounded size."""
    digest = hashlib.sha256()
    try:
        with path_of(path).open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write {path}: {error.strerror or error}. "
        "Free some space or choose another output folder, then run the same command again."
    )


def _sync(path: str | os.PathLike[str], flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
