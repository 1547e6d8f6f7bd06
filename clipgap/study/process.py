"""The process that runs the stages; see `clipgap.study.server`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipgap.errors import ClipgapError

SERVER = "clipgap.study.server"
NEEDS_TORCH = ("embed", "train", "eval", "analyze")


class Stages:
    """Runs command lines, one at a time."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests = os.fdopen(requests, "w", encoding="utf-8")
        self._answers = os.fdopen(answers, encoding="utf-8")

    def run(
        self,
        arguments: Sequence[str],
        *,
        stdout: Path | None = None,
        stderr: Path | None = None,
        stop: threading.Event | None = None,
    ) -> int:
        """The exit code of `clipgap ARGUMENTS`; `stop` asks it to save its work and leave."""
        request = {
            "arguments": list(arguments),
            "stdout": None if stdout is None else str(stdout),
            "stderr": None if stderr is None else str(stderr),
            "warm": arguments[0] in NEEDS_TORCH,
        }
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        pid = self._answer("pid")
        over = threading.Event()
        watcher = threading.Thread(target=_forward, args=(pid, stop, over), daemon=True)
        if stop is not None:
            watcher.start()
        try:
            return self._answer("exit")
        finally:
            over.set()
            if stop is not None:
                watcher.join()

    def close(self) -> None:
        self._requests.close()
        self._answers.close()

    def _answer(self, kind: str) -> int:
        line = self._answers.readline().split()
        if len(line) != 2 or line[0] != kind:
            raise ClipgapError("the process that runs the stages died; run the same command again")
        return int(line[1])


@contextmanager
def start_stages() -> Iterator[Stages]:
    """Start the process, and see it end."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    server = subprocess.Popen(
        [sys.executable, "-m", SERVER, str(theirs_in), str(theirs_out)],
        pass_fds=(theirs_in, theirs_out),
        stdin=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    stages = Stages(ours_out, ours_in)
    try:
        yield stages
    finally:
        with contextlib.suppress(BrokenPipeError):
            stages.close()
        server.wait()


def _forward(pid: int, stop: threading.Event, over: threading.Event) -> None:
    """Pass a wish to stop on to the stage, once."""
    while not over.is_set():
        if stop.wait(0.2):
            if not over.is_set():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            return
