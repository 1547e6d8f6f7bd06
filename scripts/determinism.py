"""Make folders in every way there is, and compare them byte for byte.

    python -m scripts.determinism            print the tables
    python -m scripts.determinism --table    and write them into docs/reliability.md

Exits with 1 if any folder differs.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain, count, product
from pathlib import Path
from typing import Any

import clipgap
from clipgap.kernels import cpu
from clipgap.runs.executors import Processes
from scripts.protections import PAGE, replace_part
from tests.lifecycle import House, open_house
from tests.lifecycle_cases import CASES, DEALT, OUT, Case
from tests.thorough import spread
from tests.toy_executor import toy
from tests.worlds import make_world, tree

BEGIN, END = "<!-- determinism -->", "<!-- end of determinism -->"
THREADS, BLOCKS = (1, 2, 3), (1, 7, 64, 333)
KILLS = 6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="write the tables of the docs")
    asked = parser.parse_args()
    differences: list[str] = []
    with tempfile.TemporaryDirectory(prefix="clipgap-determinism-") as folder:
        lines = []
        for line in chain(
            _kernels(Path(folder), differences), [""], _ways(Path(folder), differences)
        ):
            print(line, flush=True)
            lines.append(line)
    if asked.table:
        replace_part(PAGE, BEGIN, END, "\n".join(lines))
    print(*differences, sep="\n", file=sys.stderr)
    return 1 if differences else 0


# --- a scan by every kernel


def _kernels(folder: Path, differences: list[str]) -> Iterator[str]:
    """One scan with thresholds, ties and rows that are set aside, by each kernel and executor."""
    world = make_world(folder / "world", shards=(70, 0, 45, 333), d=24)
    gap = folder / "gap"
    clipgap.gap(world.paths["reference"], world.test_paths, k=5, out=gap)
    numbers = count()

    def scan(**options: Any) -> dict[str, str]:
        out = folder / f"scan-{next(numbers)}"
        clipgap.scan(world.train, world.test_paths, gap=gap, k=5, out=out, **options)
        return tree(out)

    whole = scan(kernel="numpy", threads=1)
    yield "| a scan by | threads × rows of a block | executors | folders | equal |"
    yield "|---|---|---|--:|--:|"
    executors = {"two processes": Processes(["cpu"] * 2), "shuffled": toy}
    for name, kernel, isa in _all_kernels():
        os.environ.pop("CLIPGAP_CPU_ISA", None)
        if isa:
            os.environ["CLIPGAP_CPU_ISA"] = isa
        made = {
            f"{name}, {threads} threads, blocks of {rows}": scan(
                kernel=kernel, threads=threads, block_rows=rows
            )
            for threads, rows in product(THREADS, BLOCKS)
        }
        for executor, run in executors.items():
            made[f"{name}, {executor}"] = scan(kernel=kernel, block_rows=50, executor=run)
        equal = [way for way, found in made.items() if found == whole]
        differences += sorted(made.keys() - set(equal))
        tried = f"{', '.join(map(str, THREADS))} × {', '.join(map(str, BLOCKS))}"
        ways = ", ".join(("this thread", *executors))
        yield f"| {name} | {tried} | {ways} | {len(made)} | {len(equal)} |"


def _all_kernels() -> Iterator[tuple[str, str, str]]:
    """What people call it, `--kernel`, and the instruction set."""
    for isa, is_there in cpu.instruction_sets().items():
        if is_there:
            yield f"C++, {isa}", "cpu", isa
    yield "PyTorch", "torch", ""
    yield "NumPy", "numpy", ""


# --- every command, interrupted and in parts


def _ways(folder: Path, differences: list[str]) -> Iterator[str]:
    """Every command that fills a folder, run in other ways than from end to end."""
    yield "| command | run again | killed, then resumed | in three shares, stopped, merged |"
    yield "|---|---|---|---|"
    houses = open_house(folder)
    house = next(houses)
    for case in CASES:
        whole, writes = house.known(case)

        def equal(
            way: str, run: Callable[[], object], case: Case = case, whole: Any = whole
        ) -> bool:
            house.renew()
            run()
            if house.tree(case) == whole:
                return True
            differences.append(f"{case.name}, {way}")
            return False

        again = equal("run again", lambda case=case: house.run(case))
        killed = [
            equal(f"killed at write {n}", lambda case=case, n=n: _killed(house, case, n))
            for n in spread(len(writes), case.kills or KILLS)
        ]
        shares = "–"
        if case.name in DEALT:
            shares = _said([equal("in shares", lambda case=case: _shares(house, case))])
        yield f"| {case.name} | {_said([again])} | {_said(killed)} | {shares} |"
    next(houses, None)


def _killed(house: House, case: Case, n: int) -> None:
    house.run(case, at=n)
    house.resume(case)


def _shares(house: House, case: Case) -> None:
    for index in (2, 0, 1):
        share = [f"--shard-index={index}", "--num-shards=3"]
        house.run(case, *share, at=12, number=signal.SIGTERM)
        house.resume(case, *share)
    house.server_of(case).run(["merge", f"{OUT}.parts", "-o", OUT])


def _said(equal: list[bool]) -> str:
    return "equal" if equal == [True] else f"{sum(equal)} of {len(equal)}"


if __name__ == "__main__":
    sys.exit(main())
