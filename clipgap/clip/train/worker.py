"""One rank of a run, as the driver starts it: `python -m clipgap.clip.train.worker FOLDER`.

FOLDER/.progress/ranks.json    what to do
FOLDER/.progress/ended.json    why it was not done to its end: asked to stop, or what is wrong

SIGTERM, SIGINT and SIGUSR1 ask it to stop, from its first moment to its last.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from clipgap.clip.train.plan import Ranks, TrainPlan
from clipgap.errors import ClipgapError
from clipgap.files.documents import write_json
from clipgap.runs.lock import PROGRESS

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PLAN, ENDED = "ranks.json", "ended.json"
DRIVER = "CLIPGAP_DRIVER"
"""The variable of the environment that holds the number of the process that starts the ranks."""
_PR_SET_PDEATHSIG = 1


def main(folder: Path) -> int:
    """Do this rank's part; 0 if it was done, else what the command line says of such an end."""
    _die_with_driver()
    stop = threading.Event()
    for number in ASKING:
        signal.signal(number, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)  # the driver has held them back until here
    progress = folder / PROGRESS
    try:
        run(TrainPlan.of_json(json.loads((progress / PLAN).read_bytes())), folder, stop.is_set)
    except ClipgapError as error:
        write_json(progress / ENDED, {"message": str(error), "exit_code": error.exit_code})
        print(f"rank {Ranks.of_environment().rank}: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        # What is left is Python's own end, and to be killed there would look like a failure.
        for number in ASKING:
            signal.signal(number, signal.SIG_IGN)
    return 0


def run(plan: TrainPlan, folder: Path, stop: Callable[[], bool]) -> None:
    """Train as one of the ranks that the environment tells of."""
    from clipgap.clip.train.session import Session

    session = Session(plan, folder, stop)
    if plan.options.objective == "clip":
        from clipgap.clip.train.clip import run_clip

        run_clip(session)
    else:
        from clipgap.clip.train.classify import run_classify

        run_classify(session)


def _die_with_driver() -> None:
    """On Linux, be killed when the driver is: nobody else would do it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ[DRIVER]):
            sys.exit("the driver is gone")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
