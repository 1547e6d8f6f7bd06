"""Every contender under pytest-benchmark: `pytest benchmarks/`.

The same contenders as `clipgap bench`, one at a time, on small cases: for comparing two versions of
the code. For comparing contenders use `clipgap bench`, which lets them take turns.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from clipgap.bench.case import Case
from clipgap.bench.contenders import CONTENDERS, Contender
from clipgap.errors import MissingDependency
from clipgap.machine import thread_count

CASES = (
    Case("clip-like", 640, 1024),
    Case("clip-like", 640, 16_384),
    Case("isotropic", 640, 16_384),
    Case("near-ties", 640, 1024),
)
ROWS = 2048
ROUNDS = 5


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_contender(benchmark: BenchmarkFixture, contender: Contender, case: Case) -> None:
    try:
        runner = contender.build(case, thread_count())
    except MissingDependency as error:
        pytest.skip(str(error))
    rows = max(contender.min_rows, min(ROWS, 4 * contender.min_rows))
    starts = iter(range(0, rows * (ROUNDS + 1), rows))

    def next_block() -> tuple[tuple[object], dict[str, object]]:
        start = next(starts)
        return (runner.prepare(case.train(start, start + rows), start),), {}

    benchmark.group = str(case)
    benchmark.pedantic(runner.run, setup=next_block, rounds=ROUNDS, warmup_rounds=1)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["rows"] = rows
    benchmark.extra_info["gflops"] = round(rows * case.flops_per_row / seconds / 1e9, 1)
