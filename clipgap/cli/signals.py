"""Signals that ask a run to stop: the block at hand is finished and the work so far is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from clipgap.errors import Interrupted

_ASKING = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1")  # Slurm sends SIGUSR1 on --signal=USR1@60
    if hasattr(signal, name)
]


class InterruptedByUser(Interrupted):
    """Ctrl-C; resumable as well, but shells expect 130."""

    exit_code = 130


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Set `stop` when asked to; a second Ctrl-C leaves at once."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in received:
            raise KeyboardInterrupt
        received.append(number)
        stop.set()

    before = {number: signal.signal(number, handle) for number in _ASKING}
    try:
        yield
    except Interrupted as error:
        if received and received[0] == signal.SIGINT:
            raise InterruptedByUser(str(error)) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
