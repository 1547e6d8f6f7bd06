"""The processes of a run: started, watched, asked to stop, and their failures put into words.

On one machine the driver starts the ranks itself, where torchrun would put an agent in between. Its
children get each signal from it and nobody else, and their exit codes need no translation. A single
rank on a CPU is a fork where the driver has all that it needs imported: to import it again takes as
long as a small training.

Whoever starts the ranks: as long as all are on one machine, the store through which they find each
other listens on that machine's own address alone.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import IO, Any

from clipgap.clip.train.logs import reached
from clipgap.clip.train.plan import LOOPBACK, Ranks, TrainPlan
from clipgap.clip.train.worker import ASKING, DRIVER, ENDED, main, run
from clipgap.errors import (
    ClipgapError,
    InputError,
    Interrupted,
    MissingDependency,
    UsageError,
)
from clipgap.machine import cores
from clipgap.runs.how import OnProgress, Progress
from clipgap.runs.lock import PROGRESS

LOG = "processes.log"
_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
_PAUSE = 0.1
_LOOK_EVERY = 10
_SHOWN_LINES = 12
_ERRORS = {
    error.exit_code: error for error in (UsageError, InputError, MissingDependency, Interrupted)
}

warm = False
"""Said by a process that has imported torch and computed nothing yet: there are no threads of
torch's for a fork to miss."""


def rank_command(folder: Path) -> list[str]:
    """What starts a rank; all that it needs to know lies in the folder and its environment."""
    return [sys.executable, "-m", "clipgap.clip.train.worker", str(folder.absolute())]


def check_meeting_point(ranks: Ranks) -> None:
    """Refuse ranks that something else has started without saying where they find each other."""
    if ranks.world == 1:
        return
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} must be set for the {ranks.world:,} processes of this run to "
            "find each other"
        )
    port = os.environ["MASTER_PORT"]
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise UsageError(f"MASTER_PORT is {port!r}, which is not the number of a port")


def run_here(plan: TrainPlan, folder: Path, ranks: Ranks, stop: threading.Event) -> None:
    """Be one of the ranks that something else has started."""
    store = None
    # torchrun has a store of its own, which its agent serves.
    if ranks.world > 1 and ranks.together and os.environ.get(_AGENT_STORE) != "True":
        port = int(os.environ["MASTER_PORT"])
        store = _serve(port)[0] if ranks.rank == 0 else None
        os.environ.update(_on_this_machine(port))
    run(plan, folder, stop.is_set)
    del store


def launch(plan: TrainPlan, folder: Path, stop: threading.Event, on_progress: OnProgress) -> None:
    """Start the ranks and wait for them."""
    if stop.is_set():
        raise Interrupted("stopped before the first step; --resume latest begins with it")
    (folder / PROGRESS / ENDED).unlink(missing_ok=True)
    world = plan.batches.world
    start = _fork if warm and world == 1 and plan.device == "cpu" else _program
    ranks: list[_Rank] = []
    with (folder / LOG).open("ab") as log, _surroundings(plan) as environment:
        try:
            for rank in range(world):
                own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                ranks.append(_started(start, folder, own, log))
            failed = _watch(ranks, plan, folder, stop, on_progress)
        finally:  # if one has failed, the others would wait for it for ever
            for process in ranks:
                process.kill()
                process.wait()
    _judge(failed, folder)


@contextmanager
def _surroundings(plan: TrainPlan) -> Iterator[dict[str, str]]:
    """The environment of the ranks, and a store for several to find each other by."""
    world = plan.batches.world
    environment = {
        DRIVER: str(os.getpid()),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }
    if world > 1 or plan.device == "cpu":
        # Ranks would take each other's cores, and one those of its loaders: threads that wait for
        # a core turn in circles on another.
        threads = 1 if world > 1 else max(1, cores() - plan.batches.workers)
        environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(threads))
    if world == 1:
        yield environment
        return
    store, port = _serve(0)
    yield {**environment, **_on_this_machine(port)}
    del store


def _serve(port: int) -> tuple[Any, int]:
    """A store on this machine's own address, and its port: the one given, or for 0 a free one."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    # Torch would listen on all addresses; a socket that listens already is taken as it is.
    try:
        listening = socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise InputError(
            f"cannot listen on port {port} of {LOOPBACK}: {error.strerror or error}. Set "
            "MASTER_PORT to one that is free"
        ) from error
    port = listening.getsockname()[1]
    store = TCPStore(
        LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )
    return store, port


def _on_this_machine(port: int) -> dict[str, str]:
    """The environment of ranks that all find each other at this port, and talk to nobody else."""
    own = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    return {
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
        _AGENT_STORE: "True",  # the first rank is not to serve one as well
        **({} if own is None else {"GLOO_SOCKET_IFNAME": own, "NCCL_SOCKET_IFNAME": own}),
    }


def _started(
    start: Callable[..., _Rank], folder: Path, environment: dict[str, str], log: IO[bytes]
) -> _Rank:
    """Signals are held back in the new process until it has said what is to be done about them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        return start(folder, environment, log)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _program(folder: Path, environment: dict[str, str], log: IO[bytes]) -> _Rank:
    return subprocess.Popen(
        rank_command(folder),
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def _fork(folder: Path, environment: dict[str, str], log: IO[bytes]) -> _Rank:
    rank = _Fork(target=_be_rank, args=(folder, environment, log))
    rank.start()
    return rank


def _be_rank(folder: Path, environment: dict[str, str], log: IO[bytes]) -> None:
    """What a new interpreter would do for a rank; the caller is the only thread here."""
    import torch

    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            os.dup2(log.fileno(), stream.fileno())
    # Those of before may be locked by a thread that is not here.
    sys.stdout = sys.stderr = io.TextIOWrapper(log, line_buffering=True)
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.exit(main(folder))


class _Fork(ForkProcess):
    """A fork that is watched as any other program."""

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        self.join()
        return self.exitcode

    def send_signal(self, number: int) -> None:
        if self.pid is not None and self.is_alive():
            os.kill(self.pid, number)


_Rank = subprocess.Popen[bytes] | _Fork
_Ranks = Sequence[_Rank]


def _watch(
    ranks: _Ranks, plan: TrainPlan, folder: Path, stop: threading.Event, on_progress: OnProgress
) -> int:
    """Until all have ended, or one has failed; its exit code, else 0."""
    show = _shown(plan, folder, on_progress)
    asked = False
    ticks = 0
    while True:
        codes = [process.poll() for process in ranks]
        failed = next((c for c in codes if c not in (None, 0, Interrupted.exit_code)), None)
        if failed is not None or None not in codes:
            return failed or 0
        if stop.is_set() and not asked:
            asked = True
            for process in ranks:
                process.send_signal(signal.SIGTERM)
        if ticks % _LOOK_EVERY == 0:
            next(show)
        ticks += 1
        if asked:
            time.sleep(_PAUSE)
        else:
            stop.wait(_PAUSE)


def _shown(plan: TrainPlan, folder: Path, on_progress: OnProgress) -> Iterator[None]:
    began, total = time.monotonic(), plan.epochs * plan.batches.samples
    first = reached(folder)
    while True:
        last = reached(folder)
        on_progress(
            Progress(
                stage="training",
                works=True,
                done=last.samples if last else 0,
                total=total,
                earlier=first.samples if first else 0,
                noun="samples",
                seconds=time.monotonic() - began,
                at=f"loss {last.loss:.4f}" if last else "",
            )
        )
        yield


def _judge(failed: int, folder: Path) -> None:
    """Raise what the ranks have said, or what can be said of them."""
    ended = folder / PROGRESS / ENDED
    if ended.exists():
        said: dict[str, Any] = json.loads(ended.read_bytes())
        raise _ERRORS.get(said["exit_code"], ClipgapError)(said["message"])
    if failed:
        lines = (folder / LOG).read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
        raise ClipgapError(
            "\n".join(
                [
                    f"a process of the run failed with exit code {failed}. When the cause is "
                    f"mended, --resume latest goes on. The end of {folder / LOG}:",
                    *(f"  {line}" for line in lines),
                ]
            )
        )
