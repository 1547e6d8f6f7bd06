"""One rank of a run, as torchrun starts it: `python -m clipgap.clip.train.worker FOLDER`.

FOLDER/.progress/plan.json       what to do
FOLDER/.progress/rank-N.pid      whom to send a signal: SIGTERM, SIGINT or SIGUSR1 ask to stop
FOLDER/.progress/stopped         the run has stopped as asked
FOLDER/.progress/failure.json    why it could not go on
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from clipgap.clip.train.plan import TrainPlan
from clipgap.clip.train.ranks import Ranks
from clipgap.errors import ClipgapError, Interrupted
from clipgap.files.documents import write_json

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PROGRESS = ".progress"
STOPPED, FAILURE = "stopped", "failure.json"


def main(folder: Path) -> int:
    """Do this rank's part; 0 if it was done or stopped as asked."""
    from clipgap.clip.train.launch import die_with_parent

    die_with_parent()
    stop = threading.Event()
    for number in ASKING:
        signal.signal(number, lambda *_: stop.set())
    ranks = Ranks.of_environment()
    progress = folder / PROGRESS
    (progress / f"rank-{ranks.rank}.pid").write_text(str(os.getpid()))
    plan = TrainPlan.of_json(
        {
            k: v
            for k, v in json.loads((progress / "plan.json").read_bytes()).items()
            if k != "format"
        }
    )
    try:
        run(plan, folder, stop.is_set)
    except Interrupted as stopped:
        if ranks.rank == 0:
            write_json(progress / STOPPED, {"message": str(stopped)})
    except ClipgapError as error:
        write_json(progress / FAILURE, {"message": str(error), "exit_code": error.exit_code})
        print(f"rank {ranks.rank}: {error}", file=sys.stderr)
        return error.exit_code
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


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
