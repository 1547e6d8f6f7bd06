"""Forks runs, kills them, looks at what they left, and lets another child go on.

Started by `test_resume_kill.py` and `test_report_kill.py`; prints one line of JSON. All
commands are killed when they make, rename or remove files in `test_lifecycle_kills.py`; here are
moments between.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq

from clipgap.errors import InputError
from clipgap.report.api import report
from clipgap.scan import work
from clipgap.scan.api import scan
from tests.thorough import one_of_each, spread
from tests.worlds import tree

REFUSED = 3
KILLS = 50
SOME = 20
"""Writes at which a run is killed that takes long, beside the last of each kind."""
WRITES = [
    (os, "fsync"),
    (os, "replace"),
    (os, "unlink"),
    (os, "rmdir"),
    (os, "mkdir"),
    (pq.ParquetWriter, "__init__"),
    (pq.ParquetWriter, "write_table"),
    (pq.ParquetWriter, "close"),
]


Run = Callable[[Path, bool], object]
"""Makes an output folder, or with True goes on with it."""


def scan_run(inputs: dict[str, Any]) -> Run:
    """A scan that writes a checkpoint whenever it can."""
    work._Writer._is_due = lambda self: True  # type: ignore[method-assign]

    def run(out: Path, resume: bool) -> object:
        return scan(
            inputs["train"], inputs["tests"], k=3, block_rows=9, threads=1, out=out, resume=resume
        )

    return warmed(run)


def report_run(inputs: dict[str, Any]) -> Run:
    """A report, whose pages a kill can also tear in the middle."""
    run = warmed(lambda out, resume: report(**inputs, out=out, gallery=1, resume=resume))
    WRITES.append((Path, "write_bytes"))
    return run


def warmed(run: Run) -> Run:
    """After it has run once: what it imports, no fork has to."""
    with TemporaryDirectory() as folder:
        run(Path(folder, "warm"), False)
    gc.freeze()
    return run


class Driver:
    def __init__(self, run: Run, folder: str) -> None:
        self.run, self.folder = run, Path(folder)
        self.folder.mkdir()
        self.wrong: list[str] = []
        self.seconds = 0.0

    def child(self, body: Callable[[], None], kill_after: float | None = None) -> int:
        """Run in a fork; its wait status."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                body()
                code = 0
            except InputError as error:
                code = REFUSED if "cannot write" in str(error) else 1
            finally:
                os._exit(code)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]

    def undisturbed(self) -> list[str]:
        """Make the folder that all others must equal; the kinds of writes that it takes."""
        noted = self.folder / "writes"
        began = time.monotonic()

        def body() -> None:
            writes = kill_at_write(None)
            self.run(self.folder / "whole", False)
            noted.write_text(" ".join(writes))

        assert self.child(body) == 0
        self.seconds = time.monotonic() - began
        self.whole = tree(self.folder / "whole")
        return noted.read_text().split()

    def look_and_resume(self, out: Path, what: str) -> None:
        left = {name: digest for name, digest in tree(out).items() if visible(name)}
        if not left.items() <= self.whole.items():
            self.wrong.append(f"{what}: a file that is not whole is visible")
        if "manifest.json" in left and left.keys() != self.whole.keys():
            self.wrong.append(f"{what}: a manifest before its files")
        if self.child(lambda: self.run(out, True)) != 0:
            self.wrong.append(f"{what}: could not go on")
        elif tree(out) != self.whole:
            self.wrong.append(f"{what}: went on to another result")
        shutil.rmtree(out, ignore_errors=True)

    def at_writes(self, most: int | None = None) -> dict[str, Any]:
        writes, killed = self.undisturbed(), 0
        out = self.folder / "out"
        numbers = sorted({*spread(len(writes), most), *one_of_each(writes, None)})
        for n in numbers:

            def body(n: int = n) -> None:
                kill_at_write(n)
                self.run(out, False)

            killed += os.WIFSIGNALED(self.child(body))
            self.look_and_resume(out, f"write {n}")
        return {"writes": len(writes), "tried": len(numbers), "killed": killed}

    def random_times(self) -> dict[str, Any]:
        self.undisturbed()
        chance, killed = random.Random(0), 0
        out = self.folder / "out"
        while killed < KILLS:
            moment = chance.uniform(0, self.seconds)
            if os.WIFSIGNALED(self.child(lambda: self.run(out, False), kill_after=moment)):
                killed += 1
            else:  # it was faster than the first run
                self.seconds *= 0.9
            self.look_and_resume(out, f"kill {killed} after {moment:.4f} s")
        return {"killed": killed}

    def full_disk(self) -> dict[str, Any]:
        """No file may grow beyond a limit, as on a disk that is full."""
        self.undisturbed()
        sizes = sorted({path.stat().st_size for path in self.folder.rglob("*") if path.is_file()})
        out, refused = self.folder / "out", 0
        for size in sizes:

            def body(size: int = size) -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, resource.RLIM_INFINITY))
                self.run(out, False)

            status = self.child(body)
            refused += os.WIFEXITED(status) and os.WEXITSTATUS(status) == REFUSED
            if os.WIFSIGNALED(status) or os.WEXITSTATUS(status) not in (0, REFUSED):
                self.wrong.append(f"limit {size}: no clear error")
            self.look_and_resume(out, f"limit {size}")
        return {"refused": refused}


def kill_at_write(nth: int | None) -> list[str]:
    """Kill this process just before its nth write; the kinds of the writes so far."""
    calls: list[str] = []

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            calls.append(original.__name__)
            if len(calls) == nth:
                if original.__name__ == "write_bytes":
                    path, content = arguments
                    original(path, content[: len(content) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return counted

    for place, name in WRITES:
        setattr(place, name, wrap(getattr(place, name)))
    return calls


def visible(name: str) -> bool:
    return not any(part.startswith(".") for part in Path(name).parts)


def run_driver(what: str, inputs: dict[str, Any], folder: Path, mode: str) -> dict[str, Any]:
    """Start this file as a process that has everything imported, so that forks are cheap."""
    arguments = {"what": what, "inputs": inputs, "folder": str(folder), "mode": mode}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_driver", json.dumps(arguments)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def main() -> None:
    arguments = json.loads(sys.argv[1])
    os.fsync = lambda descriptor: None  # what a kill leaves is the same
    make = {"scan": scan_run, "report": report_run}[arguments["what"]]
    driver = Driver(make(arguments["inputs"]), arguments["folder"])
    modes = {
        "every write": driver.at_writes,
        "some writes": partial(driver.at_writes, SOME),
        "random times": driver.random_times,
        "full disk": driver.full_disk,
    }
    seen = modes[arguments["mode"]]()
    print(json.dumps({**seen, "wrong": driver.wrong}))


if __name__ == "__main__":
    main()
