"""The other side of `lifecycle_server`: forks that run command lines, watched."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import itertools
import json
import multiprocessing
import os
import pkgutil
import re
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import typer

from clipgap.__main__ import app, main, run
from clipgap.cli import consoles
from clipgap.cli.frame import Dealt
from clipgap.runs.executors import Processes
from clipgap.study import process as stages
from clipgap.study.server import serve as serve_stages
from tests import faults
from tests.faults import Fault

WRITES = {
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate"),
    *("shutil.rmtree", "shutil.move"),
}
NUMBERED = re.compile(r"[0-9a-f]{8,}|[0-9]+")
PR_SET_CHILD_SUBREAPER = 36
PIPE_BYTES = 1 << 20
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def serve(torch: bool) -> None:
    """Without torch, what a command imports is imported here once it has run."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    if torch:
        importlib.import_module("torch").set_num_threads(1)  # a pool would be missing in forks
        importlib.import_module("tests.clip_worlds")  # for its quicker open_clip
        import_all(modules_of_clipgap())
    list(typer.main.get_command(app).commands.values())  # made when asked for, and kept
    stages.subprocess = SimpleNamespace(Popen=ForkedStages, DEVNULL=None)
    running: dict[int, Pipes] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "prepare" in request:
            os.chdir(request["folder"])
            print(json.dumps({"code": main(request["prepare"])}), file=answers, flush=True)
            gc.freeze()
            continue
        if "go_on" in request:
            process = request["go_on"]
            os.kill(process, signal.SIGCONT)
        else:
            pipes = Pipes()
            process = start(request, pipes)
            running[process] = pipes
        _, status = os.waitpid(process, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            answer: dict[str, Any] = {"held": process}
        else:
            wait_for_orphans(but=running)
            said, end = running.pop(process).read()
            answer = {"writes": [], "calls": {}, "imported": [], **json.loads(end or "{}")}
            answer |= {"code": os.waitstatus_to_exitcode(status), "said": said}
            import_all(answer.pop("imported"))
        print(json.dumps(answer), file=answers, flush=True)


def wait_for_orphans(but: Collection[int]) -> None:
    """Until the children of a run that was killed have ended; they are this process's by then."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while left := set(map(int, children.read_text().split())).difference(but):
        os.waitpid(left.pop(), 0)


class ForkedStages:
    """In place of the Python that a study starts for its stages: it has everything imported."""

    def __init__(self, command: Sequence[str], pass_fds: Sequence[int], stdin: int) -> None:
        self.number = os.fork()
        if self.number:
            return
        for file in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            if file > 2 and file not in pass_fds:
                with contextlib.suppress(OSError):  # the one by which they are listed
                    os.close(file)
        signal.set_wakeup_fd(-1)
        for console in (consoles.stdout, consoles.stderr):
            console.cache_clear()  # its lock may be held by a thread that is not here
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            serve_stages(*pass_fds)
        finally:
            os._exit(0)

    def wait(self) -> None:
        os.waitpid(self.number, 0)


class Pipes:
    """What a fork says and, at its end, what it did. Files would be under its limits."""

    def __init__(self) -> None:
        self.said, self.end = os.pipe(), os.pipe()
        for reading, writing in (self.said, self.end):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            os.set_blocking(reading, False)

    def read(self) -> list[str]:
        """What is there after the fork has ended."""
        texts = []
        for reading, writing in (self.said, self.end):
            os.close(writing)
            content = b""
            with contextlib.suppress(BlockingIOError):  # a child of the fork may still have it open
                while piece := os.read(reading, PIPE_BYTES):
                    content += piece
            os.close(reading)
            texts.append(content.decode(errors="replace"))
        return texts


def import_all(names: Iterable[str]) -> None:
    """So that forks need not; what cannot be imported here is left to them."""
    for name in names:
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    gc.freeze()  # the memory of what is there is shared with forks


def modules_of_clipgap() -> Iterator[str]:
    import clipgap

    for module in pkgutil.walk_packages(clipgap.__path__, "clipgap."):
        if ".gpu" not in module.name:
            yield module.name


def start(request: dict[str, Any], pipes: Pipes) -> int:
    """A fork that runs the command."""
    process = os.fork()
    if process:
        return process
    there, code, folder = set(sys.modules), 1, Path(request["folder"])
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for stream, source in ((0, nothing), (1, pipes.said[1]), (2, pipes.said[1])):
            os.dup2(source, stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(folder)
        os.environ |= request["env"]
        if request["processes"]:
            deal_to(request["processes"])  # which their parent looks after by the clock
        else:
            time.monotonic = itertools.count(step=1e-6).__next__  # held or not, nothing comes of it
        if request["limit"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], resource.RLIM_INFINITY))
        count = watch(folder, request["at_each"], request["number"])
        faults.begin(folder, Fault(**request["fault"]))
        sys.argv = ["clipgap", *request["arguments"]]
        try:
            run()
        except SystemExit as end:
            code = int(end.code or 0)
        # What begins with _ comes with its owner: _asyncio before asyncio makes loops of two kinds.
        imported = sorted(name for name in sys.modules.keys() - there if name[0] != "_")
        did = {"writes": count(), "calls": faults.counted(), "imported": imported}
        os.write(pipes.end[1], json.dumps(did).encode())
    finally:
        for file in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                file.flush()
        os._exit(code)


def deal_to(processes: int) -> None:
    """Forks of this fork do the units: to start them anew would cost a hundred times as much."""
    forking, how = multiprocessing.get_context("fork"), Dealt.how

    def dealt(self: Dealt, watch: Any = None) -> Any:
        asked = how(self, watch)
        return replace(asked, executor=None if watch is None else Processes(["cpu"] * processes))

    vars(multiprocessing)["get_context"] = lambda method: forking
    Dealt.how = dealt  # type: ignore[method-assign]


def watch(folder: Path, at_each: Sequence[int], number: int) -> Callable[[], list[str]]:
    """Note this process's writes below a folder, and send it a signal just before some of them."""
    writes: list[str] = []
    here = os.getpid()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in WRITES and not (event == "open" and arguments[2] & WRITING):
            return
        path = arguments[0]  # a number, if an open file got a name to write by; that is no write
        if isinstance(path, (str, bytes, os.PathLike)) and is_below(Path(os.fsdecode(path))):
            inside = (folder / os.fsdecode(path)).parent.relative_to(folder.parent)
            writes.append(f"{event} {NUMBERED.sub('#', str(inside))}")
            if len(writes) in at_each and os.getpid() == here:
                # To this thread, which gets it before it goes on, and others when it has.
                signal.pthread_kill(threading.get_ident(), number)

    def is_below(path: Path) -> bool:
        return (folder / path).is_relative_to(folder)

    sys.addaudithook(hook)
    return lambda: writes


if __name__ == "__main__":
    serve("torch" in sys.argv)
