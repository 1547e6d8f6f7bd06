"""The life of an output folder, the same for every command that fills one.

Whatever happens to a run: what is there is whole or not there, and --resume ends where an
undisturbed run ends.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

from tests.lifecycle import (
    BAD_CALL,
    BAD_INPUT,
    STOPPED,
    STOPPED_BY_USER,
    WHOLE,
    House,
    check_nothing_half,
    every,
    without_lock,
)
from tests.lifecycle_cases import DEALT, OUT, Case
from tests.thorough import spread

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
    server = house.server_of(case)
    ended = server.run(merge)
    assert ended.code == case.code, ended.said
    assert house.tree(case) == whole
    house.renew_with(case, "parts")
    for n in house.killed_at(case, ended.writes, spread(len(ended.writes), 3), merge):
        ended = server.run([*merge, "--resume"])
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
