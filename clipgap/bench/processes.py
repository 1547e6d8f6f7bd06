"""A racer that is a fresh process: it measures itself, so that its peak memory is its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipgap.bench.race import Spent, Stopwatch
from clipgap.errors import ClipgapError

WHOLE = """
import json
import sys

from clipgap.__main__ import main

code = main(sys.argv[1:])
from clipgap.bench.processes import own_use

print("", json.dumps(own_use()), sep="\\n", file=sys.stderr)
sys.exit(code)
"""


def peak_mib() -> float:
    """Highest resident size of this process.

    Linux's VmHWM starts anew with the program; ru_maxrss may be the parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) / 1024
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def own_use() -> dict[str, float]:
    """Processor time and peak memory of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"processor": used.ru_utime + used.ru_stime, "peak_mib": peak_mib()}


def fresh(command: Sequence[str]) -> Any:
    """What a process of our own, which measures itself, prints as JSON."""
    return json.loads(_finished(command).stdout)


def clipgap_process(*arguments: str) -> tuple[Spent, str]:
    """A command of ours from start to exit, and what it printed."""
    watch = Stopwatch()
    done = _finished([sys.executable, "-c", WHOLE, *arguments])
    seconds = watch.spent().seconds
    return Spent(seconds, **json.loads(done.stderr.splitlines()[-1])), done.stdout


def _finished(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClipgapError(
            f"the measured process ended with status {done.returncode}:\n{done.stderr.strip()}"
        )
    return done
