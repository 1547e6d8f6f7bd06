"""What a first look at a few directions saves: the C++ kernels with it and with one look alone.

    python benchmarks/levels.py                                       # 16,384 points, all spectra
    python benchmarks/levels.py --data clip-like --points 166963 --rows 2048 --before 131072

Both scan the same rows in turns, with lists that earlier rows have filled, as in a scan under way.
Processor time counts beside the clock: it holds on a machine that others use as well.
Rows are appended to `benchmarks/results`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from statistics import median
from typing import Any, get_args

from clipgap.bench.case import BLOCK, Case
from clipgap.bench.contenders import CONTENDERS, ISAS, Ours
from clipgap.bench.race import Racer, paired_ratio, race
from clipgap.bench.results import Columns
from clipgap.bench.script import publish, read_options
from clipgap.kernels import cpu
from clipgap.kernels.interface import TopK
from clipgap.synthetic import rows as synthetic

D = 640


def make(case: Case, name: str, threads: int) -> Ours:
    made = next(each for each in CONTENDERS if each.name == name).build(case, threads)
    assert isinstance(made, Ours)
    return made


def filled(case: Case, isa: str, options: argparse.Namespace) -> list[TopK]:
    scanner = make(case, f"clipgap cpu/{isa}", options.threads)
    for start in range(0, options.before, BLOCK):
        rows = case.train(start, min(start + BLOCK, options.before))
        scanner.run(scanner.prepare(rows, start))
    return scanner.scanner.topk()


def race_looks(
    case: Case, isa: str, lists: list[TopK], options: argparse.Namespace
) -> dict[str, Any]:
    block = case.train(options.before, options.before + options.rows)
    racers, runners = [], []
    for name in (f"clipgap cpu/{isa}", f"clipgap cpu/{isa}, one look"):
        runner = make(case, name, options.threads)
        runner.warm(lists)
        prepared = runner.prepare(block, options.before)
        runners.append(runner)
        racers.append(
            Racer(
                name,
                "",
                lambda runner=runner, prepared=prepared: runner.run(prepared),  # type: ignore[misc]
                ready=lambda runner=runner: runner.scanner.load_topk(lists),  # type: ignore[misc]
            )
        )
    race(racers, options.rounds, warm=1)
    looks, once = racers
    pairs = options.rows * case.m / 1e9
    return {
        "data": case.kind,
        "tests": case.m,
        "sets": len(case.set_sizes),
        "kernel": f"cpu/{isa}",
        "ns_per_pair": round(median(looks.processor) / pairs, 4),
        "one_look_ns_per_pair": round(median(once.processor) / pairs, 4),
        "times_as_fast": paired_ratio(once.seconds, looks.seconds),
        "times_by_processor": paired_ratio(once.processor, looks.processor),
        **runners[0].extra(),
    }


def races(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    isas = [isa for isa, runs in cpu.instruction_sets().items() if runs and isa in ISAS[:2]]
    for kind in options.data:
        case = Case(kind, D, options.points)
        lists = filled(case, isas[0], options)
        for isa in isas:
            yield race_looks(case, isa, lists, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = ["clip-like", "spectrum-0.55", "spectrum-0.35", "isotropic"]
    parser.add_argument("--data", nargs="+", choices=get_args(synthetic.Kind), default=kinds)
    parser.add_argument("--points", type=int, default=16_384)
    parser.add_argument("--rows", type=int, default=8_192)
    parser.add_argument("--before", type=int, default=196_608, help="rows that fill the lists")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    tiny = {"data": kinds[:1], "points": 64, "rows": 128, "before": 256, "rounds": 1}
    options = read_options(parser, tiny)
    shared = {
        "suite": "levels",
        "d": D,
        "threads": options.threads,
        "rows": options.rows,
        "rows_before": options.before,
        "rounds": options.rounds,
    }
    columns: Columns = (
        ("data", lambda row: row["data"]),
        ("kernel", lambda row: row["kernel"]),
        ("points", lambda row: f"{row['tests']:,}"),
        ("ns a pair", lambda row: f"{row['ns_per_pair']:.3f}"),
        ("one look", lambda row: f"{row['one_look_ns_per_pair']:.3f}"),
        ("times as fast", lambda row: f"{row['times_as_fast']:.2f}"),
        ("by processor time", lambda row: f"{row['times_by_processor']:.2f}"),
        ("full depth", lambda row: f"{row.get('full_depth_share', 1):.2%}"),
        ("scores a row", lambda row: f"{row['refined_per_row']:.1f}"),
    )
    publish([{**shared, **row} for row in races(options)], options, columns, left=2)


if __name__ == "__main__":
    main()
