"""An executor in a few lines, to show that any will do.

Each unit is done in a Python process of its own, told by a file and answering by a file; units come
in shuffled order, and each is done twice. Processes are forks of one that only imports, since to
import torch takes longer than most units; there and in forks are no threads but those of a unit.
"""

from __future__ import annotations

import functools
import importlib
import os
import pickle
import random
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipgap.runs.units import Event, Made, Slot, Work

# What this process can import a worker can, in whichever folder it starts.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def toy(work: Work, units: Sequence[Any], stop: Callable[[], bool]) -> Iterator[Event]:
    """An `Executor`."""
    left = [*units, *units]
    random.Random(0).shuffle(left)
    with tempfile.TemporaryDirectory() as folder:
        for number, unit in enumerate(left):
            if stop():
                return
            call, answer = (Path(folder) / f"{number}.{kind}" for kind in ("call", "answer"))
            call.write_bytes(pickle.dumps((work, unit)))
            assert ask(f"{call}\t{answer}") == "0"
            for event in pickle.loads(answer.read_bytes()):
                yield replace(event, worker=number) if isinstance(event, Made) else event


def ask(line: str) -> str:
    """A line to the process that forks, and its answer."""
    process = _forking()
    assert process.stdin is not None and process.stdout is not None
    print(line, file=process.stdin, flush=True)
    return process.stdout.readline().strip()


@functools.cache
def _forking() -> subprocess.Popen[str]:
    """It ends with this process, whose end closes its input."""
    command = [sys.executable, "-m", __name__]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=ENVIRONMENT)


def main() -> None:
    """The life of the process that forks: it imports what a fork found that it needs."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        call, answer = map(Path, line.rstrip("\n").split("\t"))
        imported = answer.with_suffix(".imported")
        if (fork := os.fork()) == 0:
            do(call, answer, imported)
        _, status = os.waitpid(fork, 0)
        for name in imported.read_text().split() if status == 0 else []:
            importlib.import_module(name)
        print(status, file=answers, flush=True)


def do(call: Path, answer: Path, imported: Path) -> None:
    """The life of a fork."""
    try:
        there = set(sys.modules)
        work, unit = pickle.loads(call.read_bytes())
        answer.write_bytes(pickle.dumps(list(work.do([unit], Slot()))))
        imported.write_text(" ".join(sys.modules.keys() - there))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
