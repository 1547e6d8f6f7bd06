"""Runs command lines one after the other, each in a process of its own, forked from this one.

Importing torch and open_clip takes longer than a small stage; here it is done once, and every
stage still begins with a fresh process and can take nothing down but itself. A training on a CPU
is a fork of its stage in turn.

Speaks in lines. In: {"arguments": […], "stdout": FILE or null, "stderr": FILE or null, "warm": true
or false}. Out, for each: "pid N", then "exit N" (below zero: the signal that ended it).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from typing import Any

_ALWAYS = ("clipgap.cli.main", "clipgap.scan.api", "clipgap.select.splitting", "clipgap.shards.api")
_WARM = ("open_clip", "open_clip_train.main", "clipgap.clip.models", "clipgap.clip.train.clip")
_TERMINAL = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def serve(requests: int, answers: int) -> None:
    """Serve until the other side closes its end."""
    for module in _ALWAYS:
        importlib.import_module(module)
    # Signals of the terminal reach the stage itself; this process only waits for it.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _TERMINAL}
    for line in os.fdopen(requests, encoding="utf-8"):
        request = json.loads(line)
        if request["warm"]:
            _warm()
        pid = os.fork()
        if pid == 0:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(answers)
            _run(request)
        os.write(answers, f"pid {pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(answers, f"exit {os.waitstatus_to_exitcode(status)}\n".encode())


def _warm() -> None:
    for module in _WARM:
        with contextlib.suppress(ImportError):  # the stage itself says what is missing
            importlib.import_module(module)


def _run(request: dict[str, Any]) -> None:
    """The life of a stage; never returns."""
    code = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            if request[name] is not None:
                file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
                os.dup2(file, number)
        from clipgap.cli.main import main
        from clipgap.clip.train import driver

        driver.warm = request["warm"]
        code = main(request["arguments"])
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
