"""An executor in a few lines, to show that any will do.

Each unit is done in a Python process of its own, told by a file and answering by a file; units come
in shuffled order, and each is done twice. The processes are forks of one that only imports, since
to import torch takes longer than most units.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipgap.runs.units import Event, Made, News, Slot, Work

# What this process can import a worker can, in whichever folder it starts.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@functools.cache
def forking() -> Any:
    """The process that forks; it ends with this one, which ends its input."""
    command, pipe = [sys.executable, "-m", __name__], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=ENVIRONMENT)


def toy(work: Work, units: Sequence[Any], stop: Callable[[], bool], news: News) -> Iterator[Event]:
    """An `Executor`."""
    left = [*units, *units]
    random.Random(0).shuffle(left)
    with tempfile.TemporaryDirectory() as folder:
        for number, unit in enumerate(left):
            if stop():
                return
            call = Path(folder) / f"{number}.pickle"
            call.write_bytes(pickle.dumps((Path.cwd(), work, unit, news())))
            print(call, file=forking().stdin, flush=True)
            assert forking().stdout.readline() == "0\n"
            for event in pickle.loads(call.read_bytes()):
                yield replace(event, worker=number) if isinstance(event, Made) else event


def main() -> None:
    """Forks a worker for each call, and imports what one had to import before the next."""
    for line in sys.stdin:
        call = Path(line[:-1])
        if (worker := os.fork()) == 0:
            there = set(sys.modules)
            place, work, unit, news = pickle.loads(call.read_bytes())
            os.chdir(place)
            slot = Slot(news=lambda told=news: told)
            call.write_bytes(pickle.dumps(list(work.do([unit], slot))))
            call.with_suffix(".imports").write_text(" ".join(sys.modules.keys() - there))
            os._exit(0)
        status = os.waitpid(worker, 0)[1]
        if status == 0:
            list(map(importlib.import_module, call.with_suffix(".imports").read_text().split()))
        print(status, flush=True)


if __name__ == "__main__":
    main()
