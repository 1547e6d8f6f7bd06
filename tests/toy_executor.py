"""An executor in a few lines, to show that any will do.

Each unit is done in a fresh Python process, told by a file and answering by a file; units come in
shuffled order, and each is done twice.
"""

from __future__ import annotations

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
            call = Path(folder) / f"{number}.pickle"
            call.write_bytes(pickle.dumps((work, unit)))
            subprocess.run([sys.executable, "-m", __name__, str(call)], check=True, env=ENVIRONMENT)
            for event in pickle.loads(call.read_bytes()):
                yield replace(event, worker=number) if isinstance(event, Made) else event


def main(call: Path) -> None:
    """The life of a worker."""
    work, unit = pickle.loads(call.read_bytes())
    call.write_bytes(pickle.dumps(list(work.do([unit], Slot()))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
