"""One writer at a time for an output folder."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipgap.errors import InputError

LOG = logging.getLogger("clipgap")

_HELD: set[int] = set()


def _forget_in_child() -> None:
    """A forked worker that outlives its parent must not hold the parent's locks."""
    for lock in _HELD:
        os.close(lock)
    _HELD.clear()


os.register_at_fork(after_in_child=_forget_in_child)


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Keep other runs from writing `out` as long as this takes; refuse if one is at it already.

    The lock is a file beside the folder, `.NAME.lock`; a killed run leaves the file behind, but
    not locked.
    """
    named = out.resolve()
    path = named.with_name(f".{named.name}.lock")
    lock = _take(path, out)
    if lock is None:
        yield
        return
    _HELD.add(lock)
    try:
        yield
    finally:
        _HELD.discard(lock)
        try:
            with suppress(OSError):
                path.unlink()  # while it is ours, so that nobody else's is removed
        finally:
            os.close(lock)


def _take(path: Path, out: Path) -> int | None:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None  # nor can the folder be made; whoever tries says why
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 200, 0).decode(errors="replace") or "a process unknown"
            os.close(lock)
            raise InputError(
                f"another run is at work in {out}: {holder}. Wait for it, stop it, or name another "
                "output folder."
            ) from None
        except OSError as error:  # a file system without locks
            LOG.debug("%s cannot be locked: %s", out, error.strerror)
            os.close(lock)
            path.unlink(missing_ok=True)
            return None
        if _leads_to(path, lock):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            return lock
        os.close(lock)  # its last holder removed it in between


def _leads_to(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
