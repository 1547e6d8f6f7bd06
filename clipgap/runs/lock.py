"""One writer at a time for an output folder."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipgap.errors import InputError
from clipgap.files.folders import make_folder, remove
from clipgap.runs.claim import Beside, Claim

LOG = logging.getLogger("clipgap")

PROGRESS = ".progress"
"""The folder in an output that holds the notes of a run, as long as it lasts."""
PLAN = "plan.json"
"""Among them: what is wanted."""
LOCK = "lock"

_HELD: set[int] = set()


def _forget_in_child() -> None:
    """A forked worker that outlives its parent must not hold the parent's locks."""
    for lock in _HELD:
        os.close(lock)
    _HELD.clear()


os.register_at_fork(after_in_child=_forget_in_child)


@contextmanager
def only_writer(folder: Path) -> Iterator[Callable[[], None]]:
    """Keep other runs from writing this folder as long as this takes; refuse if one is at it.

    The lock is on the folder itself, so a killed run leaves nothing to clear away. Where nothing
    can be locked, the folder is claimed; what is given refuses to go on once another run has it.
    """
    lock = _take(folder)
    if lock is None:
        claim = Claim(Beside(folder))
        with cannot_make(folder):
            claim.take()
        try:
            yield claim.check
        finally:
            claim.end()
        return
    _HELD.add(lock)
    try:
        yield _nothing
    finally:
        _HELD.discard(lock)
        try:
            remove(folder, [f"{PROGRESS}/{LOCK}"])
        finally:
            os.close(lock)


def _nothing() -> None:
    """What is locked stays ours."""


def _take(folder: Path) -> int | None:
    while True:
        with cannot_make(folder):
            if folder.exists() and not folder.is_dir():
                raise InputError(f"{folder} is a file; name a folder for the output")
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # not its cause: by its number, processes would have run out
            holder = _holder(lock)
            os.close(lock)
            raise _at_work(folder, holder) from None
        except OSError as error:  # a file system without locks on folders
            os.close(lock)
            LOG.debug("%s cannot be locked: %s", folder, error.strerror)
            return _take_file(folder)
        with suppress(FileNotFoundError):
            if os.path.samestat(folder.stat(), os.fstat(lock)):
                return lock
        os.close(lock)  # another run removed the empty folder in between


def _take_file(folder: Path) -> int | None:
    """The second best lock: on a file among the notes, which a killed run leaves there."""
    with cannot_make(folder):
        path = make_folder(folder, PROGRESS) / LOCK
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise _at_work(folder, "") from None
    except OSError as error:
        os.close(lock)
        LOG.debug("%s cannot be locked: %s", path, error.strerror)
        return None
    return lock


def _at_work(folder: Path, holder: str) -> InputError:
    return InputError(
        f"another run is at work in {folder}{holder}. Wait for it, stop it, or name another output "
        "folder."
    )


def _holder(lock: int) -> str:
    """Which process of this machine has the lock, as part of a sentence."""
    inode = os.fstat(lock).st_ino
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if "FLOCK" in words and words[5].rpartition(":")[2] == str(inode):
                return f": process {words[4]} on {socket.gethostname()}"
    return ""


@contextmanager
def cannot_make(path: Path) -> Iterator[None]:
    """A folder that cannot be made is bad input."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {error}") from error
