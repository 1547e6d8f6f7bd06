"""Kill runs and break their disk, over and over: nothing may be lost, half visible or left behind.

    python -m scripts.crash --minutes 5                    every command, a little of each
    python -m scripts.crash --minutes 600 --goal 1000      until each has had 1,000 of both
    python -m scripts.crash scan split --ledger FILE       these, with counts of their own
    python -m scripts.crash --table [FILE]...              write the table of docs/reliability.md

A chain begins a command and cuts it short, then has what is left cut short again and again, until
one run of them ends by itself. After every cut whatever is visible is whole; at the end the folder
is that of an undisturbed run, byte for byte. Each chain follows from the command and its number, so
that one which fails can be tried again (`--chain`); what has been done stands in a ledger, and the
same command goes on there. Exits with 1 if anything fails.
"""

from __future__ import annotations

import argparse
import errno
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipgap.errors import QUARANTINED
from clipgap.files import lines
from scripts.protections import PAGE, ROOT, replace_part
from tests.faults import Fault
from tests.lifecycle import (
    BAD_INPUT,
    FAILED,
    NO_ROOM,
    House,
    Tree,
    check_nothing_half,
    open_house,
)
from tests.lifecycle_cases import CASES, OUT, Case
from tests.lifecycle_server import Ended

LEDGER = ROOT / "build" / "crash.jsonl"
BEGIN, END = "<!-- crash -->", "<!-- end of crash -->"
LONGEST = 6  # cuts in one chain

LIE = "a lie"  # other bytes are written than were given, and nothing is said
KILLS = ("at a write", "in a write", "at a time")
FAULTS = {
    "full disk": Fault("write", error=errno.ENOSPC, stays=True, short=True),
    "write fails": Fault("write", error=errno.EIO, short=True),
    "flush fails": Fault("flush", error=errno.EIO),
    "rename fails": Fault("rename", error=errno.EIO),
    "close fails": Fault("close", error=errno.EIO),
    "read fails": Fault("read", error=errno.EIO, short=True),
    LIE: Fault("write", error=0, short=True, below=OUT),
}
"""What can go wrong, at some call of its kind."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="*", help="commands, as in tests/lifecycle_cases.py")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--goal", type=int, default=1000, help="kills of a command, and faults")
    parser.add_argument("--chain", type=int, help="only the chain of this number")
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    parser.add_argument("--table", nargs="*", type=Path, help="write the table of the docs")
    asked = parser.parse_args()
    if asked.table is not None:
        replace_part(PAGE, BEGIN, END, table(asked.table or [LEDGER]))
        return 0
    cases = [case for case in CASES if not asked.name or case.name in asked.name]
    with tempfile.TemporaryDirectory(prefix="clipgap-crash-") as folder:
        house = next(houses := open_house(Path(folder)))
        if asked.chain is not None:
            for case in cases:
                chain = Chain(house, case, plain_run(house, case), asked.chain)
                print(chain.tried() or f"{case.name}: holds")
            return 0
        failed = campaign(house, cases, asked.ledger, 60 * asked.minutes, asked.goal)
        next(houses, None)
    return 1 if failed else 0


def campaign(house: House, cases: Sequence[Case], ledger: Path, seconds: float, goal: int) -> int:
    """Chain after chain, of the command that has had the least time; how many have failed."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    done = {case.name: Counter[str]() for case in cases}
    for record in lines.read(ledger, dict):
        done.setdefault(record["command"], Counter()).update(record["counts"], chains=1)
    spent, failed, plain = Counter[str](), 0, dict[str, Plain]()
    end = time.monotonic() + seconds
    while (begun := time.monotonic()) < end:
        left = [case for case in cases if not _is_enough(done[case.name], goal)]
        if not left:
            break
        case = min(left, key=lambda case: spent[case.name])
        if case.name not in plain:
            plain[case.name] = plain_run(house, case)
        chain = Chain(house, case, plain[case.name], done[case.name]["chains"])
        problem = chain.tried()
        lines.append(ledger, [{**chain.record(), "problem": problem}])
        done[case.name].update(chain.counts, chains=1)
        spent[case.name] += time.monotonic() - begun
        if problem:
            failed += 1
            print(f"{case.name}, chain {chain.number}: {problem}", flush=True)
    print(table([ledger]))
    return failed


def _is_enough(counts: Counter[str], goal: int) -> bool:
    return _total(counts, KILLS) >= goal and _total(counts, FAULTS) >= goal


@dataclass(frozen=True)
class Plain:
    """What is known of a command that nothing befalls."""

    inputs: Tree
    whole: Tree
    writes: int
    calls: Mapping[str, int]
    microseconds: int


def plain_run(house: House, case: Case) -> Plain:
    whole, writes = house.known(case)
    inputs = house.tree(case)
    begun = time.monotonic()
    calls = house.run(case, fault=Fault(short=True)).calls
    assert house.tree(case) == whole, "reads and writes may be short"
    return Plain(inputs, whole, len(writes), calls, int(1e6 * (time.monotonic() - begun)))


class Chain:
    """A command that is cut short until it ends: by kills if its number is even, or by its disk."""

    def __init__(self, house: House, case: Case, plain: Plain, number: int) -> None:
        self.house, self.case, self.plain, self.number = house, case, plain, number
        self.chance = random.Random(f"{case.name}-{number}")
        self.counts = Counter[str]()
        self.steps: list[str] = []

    def record(self) -> dict[str, Any]:
        return {"command": self.case.name, "chain": self.number, "counts": dict(self.counts)}

    def tried(self) -> str:
        """What went wrong, if anything."""
        try:
            self.run()
        except AssertionError as error:
            return f"{error}, after {'; '.join(self.steps)}"
        return ""

    def run(self) -> None:
        self.house.renew()
        cut = self._break_disk if self.number % 2 else self._kill
        while len(self.steps) < LONGEST and cut():
            check_nothing_half(self.house, self.case, self.plain.inputs)
        ended = self.house.resume(self.case)
        if ended.code == BAD_INPUT and self.counts[LIE]:
            # What is damaged was refused by name, with the advice to remove it.
            shutil.rmtree(self.house.out)
            ended = self.house.run(self.case)
        elif ended.code == QUARANTINED and self.counts["read fails"]:
            # What could not be read was set aside, and counted.
            ended = self.house.run(self.case, "--overwrite")
        assert ended.code == self.case.code, ended.said
        left = self.house.tree(self.case)
        others = {name for name, _ in left.items() ^ self.plain.whole.items()}
        assert not others, f"not as in an undisturbed run: {sorted(others)}"

    def _kill(self) -> bool:
        """One more run, killed; whether it was still there to be killed."""
        what = self.chance.choice(KILLS) if self.steps else KILLS[0]
        if what == "at a write":
            # The first of each chain goes through all writes of a run, chain by chain.
            at = self.chance.randint(1, self.plain.writes)
            at = at if self.steps else 1 + self.number // 2 % self.plain.writes
            ended = self._go(what, at=at)
        else:
            kind, most = "write", self.plain.calls["write"]
            if what == "at a time":
                kind, most = "moment", self.plain.microseconds
            at = self.chance.randint(1, most)
            ended = self._go(what, fault=Fault(kind, at, error=-signal.SIGKILL, short=True))
        # A stage of a study that is killed is one that has failed.
        if ended.code == -signal.SIGKILL or (ended.code == FAILED and not self.case.flags):
            self.counts[what] += 1
            return True
        assert ended.code == self.case.code, ended.said
        return False

    def _break_disk(self) -> bool:
        """One more run with a disk that fails once, or from then on; whether it failed by that."""
        what = self.chance.choice(list(FAULTS))
        kind = FAULTS[what].kind
        at = self.chance.randint(1, max(1, self.plain.calls[kind]))
        ended = self._go(what, fault=replace(FAULTS[what], at=at))
        assert ended.code in (self.case.code, BAD_INPUT, NO_ROOM, QUARANTINED), ended.said
        assert "Traceback" not in ended.said, ended.said
        self.counts[what] += ended.calls[kind] >= at
        # What only saves time may fail without a word; and who is lied to does not know.
        return ended.code in (BAD_INPUT, NO_ROOM) and what != LIE

    def _go(self, what: str, **cut: Any) -> Ended:
        again = self.case.resume if self.steps else ()
        self.steps.append(f"{what}, {', '.join(f'{name}={of}' for name, of in cut.items())}")
        return self.house.run(self.case, *again, **cut)


# --- what was done


def table(ledgers: Sequence[Path]) -> str:
    """The counts of all that ledgers tell, as a table for people."""
    done, failed = {case.name: Counter[str]() for case in CASES}, 0
    for ledger in ledgers:
        for record in lines.read(ledger, dict):
            done[record["command"]].update(record["counts"])
            failed += bool(record["problem"])
    header = ["command", "kills", *KILLS, "faults", *FAULTS]
    rows = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    totals = Counter[str]()
    for name, counts in done.items():
        rows.append(_row(name, counts))
        totals.update(counts)
    return "\n".join([*rows, _row("all", totals), "", f"Chains that failed: {failed:,}."])


def _row(name: str, counts: Counter[str]) -> str:
    cells = [_total(counts, KILLS), *(counts[what] for what in KILLS)]
    cells += [_total(counts, FAULTS), *(counts[what] for what in FAULTS)]
    return " | ".join([f"| {name}", *(f"{cell:,}" for cell in cells)]) + " |"


def _total(counts: Counter[str], kinds: Collection[str]) -> int:
    return sum(counts[kind] for kind in kinds)


if __name__ == "__main__":
    sys.exit(main())
