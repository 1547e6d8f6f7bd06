"""A rank that trains nothing: `train_rank.py FOLDER MOMENT driver|rank SIGNAL`.

At the named moment, the signal is sent to itself or to the driver. Only what needs no torch is
imported, so that it starts at once; signals are handled by the true worker.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

FOLDER, MOMENT, WHOM, NUMBER = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
STEPS = 3
EARLY = ("Python starts", "the worker is imported", "the run begins")


def at(moment: str) -> None:
    if moment == MOMENT and os.environ["RANK"] == "1":
        os.kill(os.getppid() if WHOM == "driver" else os.getpid(), NUMBER)
        if "Python ends" in moment:
            time.sleep(0.5)  # for the driver to tell its ranks


def until(condition: Callable[[], bool]) -> None:
    for _ in range(3_000):
        if condition():
            return
        time.sleep(0.01)
    sys.exit("nobody has told this rank to stop")


at("Python starts")
plan = ModuleType("clipgap.clip.train.plan")
vars(plan)["TrainPlan"] = SimpleNamespace(of_json=lambda document: document)
vars(plan)["Ranks"] = SimpleNamespace(of_environment=lambda: SimpleNamespace(rank=1))
sys.modules[plan.__name__] = plan

from clipgap.clip.train import worker  # noqa: E402
from clipgap.errors import Interrupted  # noqa: E402

at("the worker is imported")


def run(plan: object, folder: Path, stop: Callable[[], bool]) -> None:
    at("the run begins")
    is_told = WHOM == "driver" or os.environ["RANK"] == "1"
    for step in range(STEPS):
        at(f"step {step}")
        if is_told and (MOMENT in EARLY or f"step {step}" == MOMENT):
            until(stop)
        if stop():
            raise Interrupted("stopped; --resume latest goes on from there")
    checkpoint = folder / "checkpoints" / "epoch_1.pt"
    if os.environ["RANK"] == "0":
        checkpoint.parent.mkdir(exist_ok=True)
        for name in ("losses.jsonl", "params.txt"):
            (folder / name).touch()
        checkpoint.write_bytes(b"weights")
    until(checkpoint.exists)  # ranks do their last step together
    at("the last step has ended")


class Last:
    """What Python forgets when its modules are gone."""

    def __init__(self) -> None:
        self._at = at

    def __del__(self) -> None:
        self._at("Python ends, its modules are gone")


last = Last()
atexit.register(at, "Python ends")
vars(worker)["run"] = run
code = worker.main(Path(FOLDER))
at("the worker ends")
sys.exit(code)
