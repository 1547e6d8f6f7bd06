"""Signals that ask a run to stop: the block at hand is finished and the work so far is saved.

A block can take seconds in compiled code, and Python runs no signal handler meanwhile. So signals
are read from a socket by a thread of their own, which answers at once.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from clipgap.cli.consoles import stderr
from clipgap.errors import Interrupted

ASKING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1")  # Slurm sends SIGUSR1 on --signal=USR1@60
    if hasattr(signal, name)
)
AT_ONCE = "Ctrl-C again: at once."

# A fork gets its own signals, but would report them here: one Ctrl-C would be many.
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


class InterruptedByUser(Interrupted):
    """Ctrl-C; resumable as well, but shells expect 130."""

    exit_code = 130


@contextmanager
def stop_on_signals(
    stop: threading.Event, say: Callable[[str], None], stopping: str
) -> Iterator[None]:
    """Set `stop` when asked to and say what that means; a second Ctrl-C leaves at once."""
    received: list[int] = []
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    watcher = threading.Thread(
        target=_watch,
        args=(ours, stop, lambda: say(f"{stopping} {AT_ONCE}"), received),
        daemon=True,
    )
    watcher.start()
    before = {number: signal.signal(number, _nothing) for number in ASKING}
    earlier_socket = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    except Interrupted as error:
        if received and received[0] == signal.SIGINT:
            raise InterruptedByUser(str(error)) from error
        raise
    finally:
        signal.set_wakeup_fd(earlier_socket)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.shutdown(socket.SHUT_WR)  # a fork, as a loader of images is, may hold it as well
        theirs.close()
        watcher.join()
        ours.close()


def leave_on_signals() -> None:
    """Where there is nothing to save, a signal ends the command as one that was stopped."""
    for number in ASKING:
        if signal.getsignal(number) is signal.SIG_DFL:  # Ctrl-C raises KeyboardInterrupt already
            signal.signal(number, _leave)


def ignore_signals() -> None:
    """All is done and said; to be killed in Python's own end would look like a failure."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)


def _leave(number: int, frame: FrameType | None) -> None:
    raise Interrupted(f"stopped by {signal.Signals(number).name}; the same command does it all")


def _watch(
    ours: socket.socket, stop: threading.Event, say: Callable[[], None], received: list[int]
) -> None:
    while numbers := ours.recv(64):
        for number in numbers:
            if number not in ASKING:
                continue
            received.append(number)
            stop.set()
            if len(received) == 1:
                say()
            elif number == signal.SIGINT:
                stderr().show_cursor(True)  # a live bar hides it
                stderr().print()
                os._exit(InterruptedByUser.exit_code)


def _nothing(number: int, frame: FrameType | None) -> None:
    """The thread does it; this only keeps the signal from its default effect."""
