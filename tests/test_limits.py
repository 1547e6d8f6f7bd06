"""What the system refuses: fewer threads do the same work, or exit 5 says what ran out."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import clipgap
from clipgap.cli import main as command_line
from clipgap.errors import InputError, MissingDependency, UsageError
from clipgap.kernels import cpu
from clipgap.machine import MOST_THREADS, thread_count

UNDER_A_LIMIT = """
import logging, resource
import numpy as np
from clipgap.kernels.cpu import CpuScanner, add_to_sums
from clipgap.kernels.interface import TestSet
from clipgap.kernels.oracle import OracleScanner
from clipgap.synthetic.rows import clip_like
from tests.kernels import assert_equal_results, assert_equal_topk

logging.basicConfig(format="%(message)s")
rows, ids = clip_like(20_000, 64), np.arange(20_000)
tests = [TestSet("t", clip_like(300, 64, seed=1))]
group, sums = (ids % 40).astype(np.int32), np.zeros((40, 64))
expected_sums = np.array([rows[group == g].astype(np.float64).sum(axis=0) for g in range(40)])
oracle = OracleScanner(tests, 6)
expected = oracle.scan(rows, ids)
scanner = CpuScanner(tests, 6, threads=16)

pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + {room} * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
found = scanner.scan(rows, ids)
row, column, score = scanner.pairs(rows[:5000], 0, 0.9)
add_to_sums(sums, rows, group, threads=16)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)

assert_equal_results(found, expected)
assert_equal_topk(scanner.topk(), oracle.topk())
exact = rows[:5000].astype(np.float64) @ tests[0].rows.astype(np.float64).T
assert sorted(zip(row, column)) == list(zip(*np.nonzero(exact > 0.9)))
np.testing.assert_array_equal(sums, expected_sums)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set by what Linux tells")
@pytest.mark.parametrize("room", [80, 130, 30])
def test_fewer_threads_give_the_same_results(room: int) -> None:
    """Room for four stacks of 8 MiB beside what is held back, for ten, and for no thread at all."""
    if not cpu.is_built():
        pytest.skip("the C++ kernels are not built")

    def usual_stacks() -> None:
        resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.RLIM_INFINITY))

    program = UNDER_A_LIMIT.format(room=room)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=usual_stacks,
    )
    assert done.returncode != -signal.SIGABRT, done.stderr
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the system refused") == 1


def test_one_rule_for_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, else CLIPGAP_THREADS, else the cores that this process may use."""
    monkeypatch.delenv("CLIPGAP_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert thread_count() == 3
    monkeypatch.setenv("CLIPGAP_THREADS", "7")
    assert (thread_count(), thread_count(2)) == (7, 2)
    for wrong in ("-1", "2.5", "9" * 5000):
        monkeypatch.setenv("CLIPGAP_THREADS", wrong)
        with pytest.raises(UsageError, match="is not a number"):
            thread_count()
    for outside in (0, MOST_THREADS + 1, 2**32):
        with pytest.raises(UsageError, match="must lie between 1 and 4,096"):
            thread_count(outside)


def test_nobody_counts_cores_for_himself() -> None:
    package = Path(clipgap.__file__).parent
    counting = [path for path in package.rglob("*.py") if "cpu_count(" in path.read_text("utf-8")]
    assert counting == [package / "machine.py"]


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


NOT_MAPPED = ImportError("libtorch.so: failed to map segment from shared object")
TOO_LARGE = OSError(errno.EFBIG, "File too large")
NO_MEMORY = OSError(errno.ENOMEM, "Cannot allocate memory")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "memory ran out. Free some"),
        (MemoryError("Unable to allocate 9 GiB"), "memory ran out: Unable to allocate 9 GiB. Free"),
        (RuntimeError("can't start new thread"), "starts no more threads. Raise the limit"),
        (NO_MEMORY, "Cannot allocate memory. Free some"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "fewer --threads"),
        (OSError(errno.EMFILE, "Too many open files", "a.npy"), "files: a.npy. Raise the limit"),
        (OSError(errno.EFBIG, "File too large", "a"), "File too large: a. Raise the limit"),
        (NOT_MAPPED, "memory ran out: libtorch.so"),
        (_caused(MissingDependency("torch is not installed"), NOT_MAPPED), "memory ran out"),
        (_caused(InputError("cannot write part-0"), NO_MEMORY), "Cannot allocate memory. Free"),
        (
            _caused(InputError("cannot write a.npy: File too large. Free disk"), TOO_LARGE),
            "error: cannot write a.npy: File too large. Raise the limit",
        ),
    ],
)
def test_what_ran_out_is_exit_5(
    error: Exception,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _exit_code_of(error, monkeypatch) == 5
    told = capsys.readouterr().err
    assert said in told
    assert "bug" not in told and "Traceback" not in told


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("something else"), 1),
        (ImportError("x.so: cannot allocate memory in static TLS block"), 1),
        (_caused(MissingDependency("torch is not installed"), ImportError("no torch")), 5),
        (_caused(InputError("a header that no parser takes"), MemoryError()), 3),
        (OSError(errno.ENOENT, "No such file or directory", "a"), 3),
    ],
)
def test_what_is_something_else_stays_what_it_was(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit_code_of(error, monkeypatch) == code
    assert "ran out" not in capsys.readouterr().err


def _exit_code_of(error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    def command(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(command_line, "app", command)
    return command_line.main([])
