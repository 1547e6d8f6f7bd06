"""Runs that are cut short, the same for every command that fills a folder: killed at a write, or on
a disk that is full or fails. What is there is whole or not there, and --resume ends where an
undisturbed run ends.
"""

from __future__ import annotations

import errno
import signal
from dataclasses import replace

from tests.faults import Fault
from tests.lifecycle import (
    BAD_INPUT,
    FAILED,
    NO_ROOM,
    House,
    check_finished_is_whole,
    check_nothing_half,
    every,
)
from tests.lifecycle_cases import Case
from tests.thorough import one_of_each, spread


@every()
def test_killed_at_any_write(house: House, case: Case) -> None:
    whole, writes = house.known(case)
    inputs = house.tree(case)
    some = one_of_each(writes, case.kills)
    for n in house.killed_at(case, writes, spread(len(writes), None) if case.every_write else some):
        check_nothing_half(house, case, inputs)
        ended = house.resume(case)
        assert ended.code == case.code, f"write {n}: {ended.said}"
        assert house.tree(case) == whole, f"write {n}"


@every(flags=True)
def test_killed_while_overwriting(house: House, case: Case) -> None:
    whole = house.finished(case)
    writes = house.run(case, "--overwrite").writes
    numbers = spread(len(writes), min(case.kills or 8, 8))
    for n in house.killed_at(case, writes, numbers, [*case.arguments, "--overwrite"]):
        check_finished_is_whole(house, case)
        ended = house.resume(case)
        assert ended.code == case.code, f"write {n}: {ended.said}"
        assert house.tree(case) == whole, f"write {n}"


@every()
def test_files_that_cannot_grow(house: House, case: Case) -> None:
    """As with `ulimit -f`."""
    whole, _ = house.known(case)
    inputs = house.tree(case)
    house.finished(case)
    files = [path for path in house.out.rglob("*") if path.is_file() and not path.is_symlink()]
    sizes = sorted({path.stat().st_size for path in files} - {0})
    house.renew()
    for n in spread(len(sizes), None if case.every_write else 1):
        size = sizes[n - 1]
        ended = house.run(case, limit=size - 1)
        assert ended.code in (BAD_INPUT, NO_ROOM), f"limit {size}: {ended}"
        check_nothing_half(house, case, inputs)
        ended = house.resume(case)
        assert ended.code == case.code, f"limit {size}: {ended.said}"
        assert house.tree(case) == whole, f"limit {size}"
        house.renew()


FAULTS = [
    Fault("write", error=errno.ENOSPC, stays=True, short=True),
    Fault("write", error=errno.EIO),
    Fault("write", error=-signal.SIGKILL, short=True),
    Fault("flush", error=errno.EIO),
    Fault("rename", error=errno.EIO),
    Fault("read", error=errno.EIO),
]


@every()
def test_a_disk_that_fails(house: House, case: Case) -> None:
    """Full from a moment on, or failing once to write, to flush, to rename or to read; or the run
    is killed in the midst of writing a file."""
    whole, _ = house.known(case)
    inputs = house.tree(case)
    calls = house.run(case, fault=Fault(short=True)).calls
    assert house.tree(case) == whole, "reads and writes may be short"
    house.renew()
    for failing in FAULTS:
        for n in spread(calls[failing.kind], 1):
            fault = replace(failing, at=n)
            ended = house.run(case, fault=fault)
            # What only saves time may fail without a word; a stage that is killed is a failed one.
            killed = (fault.error,) if case.flags else (fault.error, FAILED)
            expected = (case.code, BAD_INPUT, NO_ROOM) if fault.error > 0 else killed
            assert ended.code in expected, f"{fault}: {ended}"
            check_nothing_half(house, case, inputs)
            ended = house.resume(case)
            assert ended.code == case.code, f"{fault}: {ended.said}"
            assert house.tree(case) == whole, fault
            house.renew()
