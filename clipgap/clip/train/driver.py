"""The processes of a run: started, watched, asked to stop, and their failures put into words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from clipgap.clip.train.logs import reached
from clipgap.clip.train.plan import TrainPlan
from clipgap.clip.train.worker import FAILURE, PROGRESS, STOPPED, run
from clipgap.errors import (
    ClipgapError,
    InputError,
    Interrupted,
    MissingDependency,
    UsageError,
)
from clipgap.runs.old_output import remove

if TYPE_CHECKING:
    from clipgap.clip.train.api import OnProgress

LOG = "processes.log"
_PAUSE = 0.1
_LOOK_EVERY = 10
_SHOWN_LINES = 12
_ERRORS = {error.exit_code: error for error in (UsageError, InputError, MissingDependency)}


def torchrun_command(plan: TrainPlan, folder: Path) -> list[str]:
    """What starts a process for each device; all they need to know lies in the folder."""
    return [
        *(sys.executable, "-m", "clipgap.clip.train.launch"),
        *("--standalone", f"--nproc-per-node={plan.batches.world}"),
        *("-m", "clipgap.clip.train.worker", str(folder.absolute())),
    ]


def run_here(plan: TrainPlan, folder: Path, stop: threading.Event) -> None:
    """Be one of the ranks that something else has started."""
    run(plan, folder, stop.is_set)


def launch(plan: TrainPlan, folder: Path, stop: threading.Event, on_progress: OnProgress) -> None:
    """Start the ranks and wait for them."""
    progress = folder / PROGRESS
    for path in [progress / STOPPED, progress / FAILURE, *progress.glob("rank-*.pid")]:
        remove(path)
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            torchrun_command(plan, folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _watch(process, plan, folder, stop, on_progress)
        finally:
            if process.poll() is None:  # something went wrong here: nobody would wait for them
                process.kill()
                process.wait()
    _judge(process.returncode, folder)


def _watch(
    process: subprocess.Popen[bytes],
    plan: TrainPlan,
    folder: Path,
    stop: threading.Event,
    on_progress: OnProgress,
) -> None:
    show = _shown(plan, folder, on_progress)
    told: set[Path] = set()
    ticks = 0
    while process.poll() is None:
        if stop.is_set():
            for path in set((folder / PROGRESS).glob("rank-*.pid")) - told:
                told |= _tell(path)
        if ticks % _LOOK_EVERY == 0:
            next(show)
        ticks += 1
        time.sleep(_PAUSE)


def _tell(path: Path) -> set[Path]:
    """Ask a rank to stop; nothing if it has only begun to write its number."""
    number = path.read_text()
    if not number:
        return set()
    with suppress(ProcessLookupError):
        os.kill(int(number), signal.SIGUSR1)
    return {path}


def _shown(plan: TrainPlan, folder: Path, on_progress: OnProgress) -> Iterator[None]:
    from clipgap.clip.train.api import Progress

    began, total = time.monotonic(), plan.epochs * plan.batches.samples
    last = reached(folder)
    earlier = last.samples if last else 0
    while True:
        last = reached(folder)
        seconds = time.monotonic() - began
        if last:
            on_progress(Progress("training", last.samples, total, earlier, seconds, last.loss))
        else:
            on_progress(Progress("training", 0, total, 0, seconds))
        yield


def _judge(code: int, folder: Path) -> None:
    """Raise what the ranks have said, or what can be said of them."""
    progress = folder / PROGRESS
    if (progress / FAILURE).exists():
        failure = json.loads((progress / FAILURE).read_bytes())
        raise _ERRORS.get(failure["exit_code"], ClipgapError)(failure["message"])
    if code == 0 and (progress / STOPPED).exists():
        raise Interrupted(json.loads((progress / STOPPED).read_bytes())["message"])
    if code:
        lines = (folder / LOG).read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
        raise ClipgapError(
            "\n".join(
                [
                    f"a process of the run failed with exit code {code}. When the cause is mended, "
                    f"--resume latest goes on. The end of {folder / LOG}:",
                    *(f"  {line}" for line in lines),
                ]
            )
        )
