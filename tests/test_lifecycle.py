"""The life of an output folder, the same for every command that fills one.

Whatever happens to a run: what is there is whole or not there, and --resume ends where an
undisturbed run ends.
"""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import Fault
from tests.lifecycle import (
    BAD_CALL,
    BAD_INPUT,
    FAILED,
    NO_ROOM,
    STOPPED,
    STOPPED_BY_USER,
    WHOLE,
    House,
    check_finished_is_whole,
    check_nothing_half,
    every,
    open_house,
    without_lock,
)
from tests.lifecycle_cases import DEALT, OUT, Case
from tests.thorough import one_of_each, spread


@pytest.fixture(scope="module")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from open_house(tmp_path_factory.mktemp("lifecycle"))


@pytest.fixture
def house(_house: House) -> House:
    _house.renew()
    return _house


# --- an undisturbed run, and what is said to it afterwards -----------------------------------


@every()
def test_fresh_and_once_more(house: House, case: Case) -> None:
    inputs = house.tree(case)
    made, _ = house.known(case)
    assert inputs.items() < made.items()
    ended = house.run(case)
    assert ended.code == case.code
    assert ended.calls["connect"] == 0, "looks for another machine, unasked"
    assert house.tree(case) == made


@every()
def test_a_finished_output_is_kept(house: House, case: Case) -> None:
    made = house.finished(case)
    states = {path: path.stat() for path in map(house.folder.joinpath, made)}
    ended = house.resume(case)
    assert ended.code == case.code
    assert re.search("already|nothing to do", ended.said, re.IGNORECASE)
    assert house.tree(case) == made
    for path, state in states.items():
        if path.is_file():
            assert path.stat().st_mtime_ns == state.st_mtime_ns, path
            assert path.stat().st_ino == state.st_ino, path


@every(flags=True)
def test_a_finished_output_is_not_replaced_unasked(house: House, case: Case) -> None:
    made = house.finished(case)
    ended = house.run(case)
    assert ended.code == BAD_INPUT
    assert "--overwrite" in ended.said and OUT in ended.said
    assert house.tree(case) == made


@every(flags=True)
def test_both_flags(house: House, case: Case) -> None:
    inputs = house.tree(case)
    ended = house.resume(case, "--overwrite")
    assert ended.code == BAD_CALL, ended.said
    assert house.tree(case) == inputs
    made = house.finished(case)
    assert house.resume(case, "--overwrite").code == BAD_CALL
    assert house.tree(case) == made


@every(flags=True)
def test_overwriting(house: House, case: Case) -> None:
    made = house.finished(case)
    ended = house.run(case, "--overwrite")
    assert ended.code == case.code, ended.said
    assert house.tree(case) == made
    house.begun(case)
    ended = house.run(case, "--overwrite")
    assert ended.code == case.code, ended.said
    assert house.tree(case) == made


@every(flags=True)
def test_an_unfinished_output_needs_a_flag(house: House, case: Case) -> None:
    house.begun(case)
    left = house.tree(case)
    ended = house.run(case)
    assert ended.code == BAD_INPUT, ended.said
    assert "--resume" in ended.said
    assert without_lock(house.tree(case)) == without_lock(left)


# --- damage ---------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


@every()
def test_damage_is_mended_or_named(house: House, case: Case) -> None:
    made = house.finished(case)
    for name in case.damage:
        for damage in (flip, truncate, Path.unlink):
            path = house.out / name
            if path.is_symlink():
                path.unlink()
            else:
                damage(path)
            ended = house.resume(case)
            what = f"{name}, {damage.__name__}: {ended}"
            if ended.code == case.code:
                assert house.tree(case) == made, what
            else:
                # Without its manifest the folder is nobody's.
                named = OUT if name == WHOLE and not path.exists() else path.name
                assert ended.code == BAD_INPUT and named in ended.said, what
                house.finished(case)


FAULTS = [
    Fault("write", error=errno.ENOSPC, stays=True, short=True),
    Fault("write", error=errno.EIO),
    Fault("write", error=-signal.SIGKILL, short=True),
    Fault("flush", error=errno.EIO),
    Fault("rename", error=errno.EIO),
    Fault("read", error=errno.EIO),
]


# --- kills ----------------------------------------------------------------------------------


@every()
def test_killed_at_any_write(house: House, case: Case) -> None:
    whole, writes = house.known(case)
    inputs = house.tree(case)
    for n in one_of_each(writes, case.kills):
        assert house.run(case, at=n).code == -signal.SIGKILL
        check_nothing_half(house, case, inputs)
        ended = house.resume(case)
        assert ended.code == case.code, f"write {n}: {ended.said}"
        assert house.tree(case) == whole, f"write {n}"
        house.renew()


@every(flags=True)
def test_killed_while_overwriting(house: House, case: Case) -> None:
    whole = house.finished(case)
    writes = house.run(case, "--overwrite").writes
    for n in spread(len(writes), min(case.kills or 8, 8)):
        assert house.run(case, "--overwrite", at=n).code == -signal.SIGKILL
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
    for n in spread(len(sizes), 1):
        size = sizes[n - 1]
        ended = house.run(case, limit=size - 1)
        assert ended.code in (BAD_INPUT, NO_ROOM), f"limit {size}: {ended}"
        check_nothing_half(house, case, inputs)
        ended = house.resume(case)
        assert ended.code == case.code, f"limit {size}: {ended.said}"
        assert house.tree(case) == whole, f"limit {size}"
        house.renew()


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


# --- shares ---------------------------------------------------------------------------------


@every(names=DEALT)
def test_shares_make_the_whole(house: House, case: Case) -> None:
    """Each share killed in its midst, and the merging at several writes."""
    whole, _ = house.known(case)
    for index in (1, 0):
        share = [f"--shard-index={index}", "--num-shards=2"]
        writes = len(house.run(case, *share).writes)
        assert house.run(case, *share, "--overwrite", at=writes * 2 // 3).code == -signal.SIGKILL
        ended = house.resume(case, *share)
        assert ended.code == 0 and f"share {index} of 2 is done" in ended.said, ended
    house.save(case, "parts")
    merge = ["merge", f"{OUT}.parts", "-o", OUT]
    ended = house.server.run(merge)
    assert ended.code == case.code, ended.said
    assert house.tree(case) == whole
    for n in spread(len(ended.writes), 3):
        house.renew_with(case, "parts")
        assert house.server.run(merge, at=n).code == -signal.SIGKILL
        ended = house.server.run([*merge, "--resume"])
        assert ended.code == case.code, f"write {n}: {ended.said}"
        assert house.tree(case) == whole, f"write {n}"


# --- signals --------------------------------------------------------------------------------


@every(number=[signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_stop(house: House, case: Case, number: signal.Signals) -> None:
    whole, writes = house.known(case)
    inputs = house.tree(case)
    stopped = STOPPED_BY_USER if number == signal.SIGINT else STOPPED
    for n in spread(len(writes), 3 if number == signal.SIGTERM and case.kills is None else 2):
        ended = house.run(case, at=n, number=number)
        assert ended.code in (stopped, case.code), f"write {n}: {ended}"
        if ended.code == stopped:
            check_nothing_half(house, case, inputs)
            assert "Traceback" not in ended.said
            assert re.search("stopped|interrupted", ended.said)
        ended = house.resume(case)
        assert ended.code == case.code, f"write {n}: {ended.said}"
        assert house.tree(case) == whole, f"write {n}"
        house.renew()
