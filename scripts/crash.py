"""Kill runs and break their disk, over and over: nothing may be lost, half visible or left behind.

    python -m scripts.crash --minutes 5                    every command, a little of each
    python -m scripts.crash --minutes 600 --goal 1000      until each has had 1,000 of both
    python -m scripts.crash scan "scan in shares"          these
    python -m scripts.crash --table [FILE]...              write the table of docs/reliability.md

A chain begins a command and cuts it short, then has what is left cut short again and again, until
one run of them ends by itself. After every cut whatever is visible is whole; at the end the folder
is that of an undisturbed run, byte for byte. What can be dealt is also dealt to two processes, of
which one may be killed alone, and to three shares, which are cut short, and so is their merging.
Each chain follows from the way and its number, so that one which fails can be tried again
(`--chain`); what has been done stands in a ledger, and the same command goes on there. Exits with 1
if anything fails.
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
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipgap.errors import QUARANTINED
from clipgap.files import lines
from clipgap.files.settings import is_changed
from scripts.protections import PAGE, ROOT, replace_part
from tests.faults import Fault
from tests.lifecycle import (
    BAD_INPUT,
    FAILED,
    NO_ROOM,
    STOPPED,
    House,
    Tree,
    check_nothing_half,
    open_house,
)
from tests.lifecycle_cases import CASES, DEALT, OUT, Case
from tests.lifecycle_server import Ended

LEDGER = ROOT / "build" / "crash.jsonl"
BEGIN, END = "<!-- crash -->", "<!-- end of crash -->"
LONGEST = 8  # cuts in one chain
PARTS = f"{OUT}.parts"
STAGES = ("gap", "scan", "split")  # commands of the study

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


@dataclass(frozen=True)
class Way:
    """How an output is made: by calls, one after another."""

    name: str
    case: Case
    calls: Sequence[Case]


def ways() -> Iterator[Way]:
    for case in CASES:
        yield Way(case.name, case, [case])
    for case in (case for case in CASES if case.name in DEALT):
        two = replace(case, processes=2)
        yield Way(f"{case.name} by processes", case, [two])
        calls = [f"{case.command} --shard-index={index} --num-shards=3" for index in (2, 0, 1)]
        calls.append(f"merge {PARTS} -o {OUT}")
        yield Way(f"{case.name} in shares", case, [replace(case, command=call) for call in calls])


WAYS = tuple(ways())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="*", help="ways, as the table has them")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--goal", type=int, default=1000, help="kills of a command, and faults")
    parser.add_argument("--chain", type=int, help="only the chain of this number")
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    parser.add_argument("--table", nargs="*", type=Path, help="write the table of the docs")
    asked = parser.parse_args()
    if asked.table is not None:
        replace_part(PAGE, BEGIN, END, table(asked.table or [LEDGER]))
        return 0
    chosen = [way for way in WAYS if not asked.name or way.name in asked.name]
    with tempfile.TemporaryDirectory(prefix="clipgap-crash-") as folder:
        house = next(houses := open_house(Path(folder)))
        if asked.chain is not None:
            for way in chosen:
                chain = Chain(house, way, plain_run(house, way), asked.chain)
                print(chain.tried() or f"{way.name}: holds")
            return 0
        failed = campaign(house, chosen, asked.ledger, 60 * asked.minutes, asked.goal)
        next(houses, None)
    return 1 if failed else 0


def campaign(house: House, chosen: Sequence[Way], ledger: Path, seconds: float, goal: int) -> int:
    """Chain after chain, of the command that has had the least time; how many have failed."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    done = {way.name: Counter[str]() for way in chosen}
    for record in lines.read(ledger, dict):
        done.setdefault(record["command"], Counter()).update(record["counts"], chains=1)
    spent, failed, plain = Counter[str](), 0, dict[str, Plain]()
    end = time.monotonic() + seconds
    while (begun := time.monotonic()) < end:
        left = [way for way in chosen if not _is_enough(done[way.name], goal)]
        if not left:
            break
        way = min(left, key=lambda way: spent[way.name])
        if way.name not in plain:
            plain[way.name] = plain_run(house, way)
        chain = Chain(house, way, plain[way.name], done[way.name]["chains"])
        problem = chain.tried()
        lines.append(ledger, [{**chain.record(), "problem": problem}])
        done[way.name].update(chain.counts, chains=1)
        spent[way.name] += time.monotonic() - begun
        if problem:
            failed += 1
            print(f"{way.name}, chain {chain.number}: {problem}", flush=True)
    print(table([ledger]))
    return failed


def _is_enough(counts: Counter[str], goal: int) -> bool:
    return _total(counts, KILLS) >= goal and _total(counts, FAULTS) >= goal


@dataclass(frozen=True)
class Call:
    """What is known of a call that nothing befalls."""

    case: Case
    writes: int
    calls: Mapping[str, int]
    microseconds: int


@dataclass(frozen=True)
class Plain:
    """And of all that it takes to make an output."""

    inputs: Tree
    whole: Tree
    calls: Sequence[Call]


def plain_run(house: House, way: Way) -> Plain:
    if way.case.has_children:  # what its stages import, which are forks of forks, is imported once
        for case in (case for case in CASES if case.name in STAGES):
            house.known(case)
    whole, _ = house.known(way.case)
    inputs, calls = house.tree(way.case), []
    for case in way.calls:
        begun = time.monotonic()
        ended = house.run(case, fault=Fault(short=True))
        microseconds = int(1e6 * (time.monotonic() - begun))
        calls.append(Call(case, len(ended.writes), ended.calls, microseconds))
    assert house.tree(way.case) == whole, "reads and writes may be short"
    return Plain(inputs, whole, calls)


class Chain:
    """Calls that are cut short until they end: by kills if its number is even, or by their disk."""

    def __init__(self, house: House, way: Way, plain: Plain, number: int) -> None:
        self.house, self.way, self.plain, self.number = house, way, plain, number
        self.chance = random.Random(f"{way.name}-{number}")
        self.counts = Counter[str]()
        self.steps: list[str] = []

    def record(self) -> dict[str, Any]:
        return {"command": self.way.name, "chain": self.number, "counts": dict(self.counts)}

    def tried(self) -> str:
        """What went wrong, if anything."""
        try:
            self.run()
        except AssertionError as error:
            return f"{error}, after {'; '.join(self.steps)}"
        return ""

    def run(self) -> None:
        self.house.renew()
        if not all(self._ends(call) for call in self.plain.calls):
            # What is damaged was refused by name, with the advice to remove it.
            self._start_again()
        elif self.way.case.has_children and self.counts[LIE] and (others := self._others()):
            # A study does not read again what its stages have finished; its proof does, and whoever
            # takes settings is told that they were changed.
            proof = self.house.run(replace(self.way.case, command=f"verify {OUT}"))
            others = [name for name in others if not is_changed(self.house.folder / name)]
            unseen = [name for name in others if Path(name).name not in proof.said]
            wrong = BAD_INPUT if others else 0
            assert proof.code == wrong and not unseen, f"not seen: {unseen}; {proof.said}"
            self._start_again()
        others = self._others()
        assert not others, f"not as in an undisturbed run: {others}"

    def _start_again(self) -> None:
        for place in (OUT, f"{OUT}.work", PARTS):
            shutil.rmtree(self.house.folder / place, ignore_errors=True)
        self.house.out.with_name(f"{OUT}.toml").unlink(missing_ok=True)
        for call in self.plain.calls:
            ended = self.house.run(call.case)
            assert ended.code == call.case.code, ended.said

    def _others(self) -> list[str]:
        """What is not as an undisturbed run leaves it."""
        left = self.house.tree(self.way.case)
        return sorted({name for name, _ in left.items() ^ self.plain.whole.items()})

    def _ends(self, call: Call) -> bool:
        """One call, cut short and gone on with until it ends; False if it is refused for a lie."""
        cut = self._break_disk if self.number % 2 else self._kill
        for cuts in range(LONGEST // len(self.plain.calls)):
            if not cut(call, cuts):
                if cut == self._kill:
                    return True
                break
            check_nothing_half(self.house, self.way.case, self.plain.inputs)
        ended = self.house.resume(call.case)
        if ended.code == BAD_INPUT and self.counts[LIE]:
            return False
        if ended.code == QUARANTINED and self.counts["read fails"]:
            # What could not be read was set aside, and counted.
            ended = self.house.run(call.case, "--overwrite")
        assert ended.code == call.case.code, ended.said
        return True

    def _kill(self, call: Call, cuts: int) -> bool:
        """One more run, killed; whether it was still there to be killed."""
        what = self.chance.choice(KILLS) if cuts else KILLS[0]
        if what == "at a write":
            # The first of each chain goes through all writes of a run, chain by chain.
            at = self.chance.randint(1, call.writes)
            at = at if cuts else 1 + self.number // 2 % call.writes
            ended = self._go(call, cuts, what, at=at)
        else:
            kind, most = "write", call.calls["write"]
            if what == "at a time":
                kind, most = "moment", call.microseconds
            at = self.chance.randint(1, most)
            ended = self._go(call, cuts, what, fault=Fault(kind, at, -signal.SIGKILL, short=True))
        # Of a study it may be a stage that is killed, and of processes one that does the units.
        alone = FAILED if not call.case.flags else STOPPED if call.case.processes else None
        if ended.code in (-signal.SIGKILL, alone):
            self.counts[what] += 1
            return True
        assert ended.code == call.case.code, ended.said
        return False

    def _break_disk(self, call: Call, cuts: int) -> bool:
        """One more run with a disk that fails once, or from then on; whether it failed by that."""
        what = self.chance.choice(list(FAULTS))
        kind = FAULTS[what].kind
        at = self.chance.randint(1, max(1, call.calls[kind]))
        ended = self._go(call, cuts, what, fault=replace(FAULTS[what], at=at))
        assert ended.code in (call.case.code, BAD_INPUT, NO_ROOM, QUARANTINED), ended.said
        assert "Traceback" not in ended.said, ended.said
        self.counts[what] += ended.calls[kind] >= at
        # What only saves time may fail without a word; and who is lied to does not know.
        return ended.code in (BAD_INPUT, NO_ROOM) and what != LIE

    def _go(self, call: Call, cuts: int, what: str, **cut: Any) -> Ended:
        again = call.case.resume if cuts else ()
        self.steps.append(f"{what}, {', '.join(f'{name}={of}' for name, of in cut.items())}")
        return self.house.run(call.case, *again, **cut)


# --- what was done


def table(ledgers: Sequence[Path]) -> str:
    """The counts of all that ledgers tell, as a table for people."""
    done, failed = {way.name: Counter[str]() for way in WAYS}, 0
    for ledger in ledgers:
        for record in lines.read(ledger, dict):
            done[record["command"]].update(record["counts"])
            failed += bool(record["problem"])
    header = ["command", "kills", *KILLS, "faults", *FAULTS]
    done = {name: counts for name, counts in done.items() if counts}
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
