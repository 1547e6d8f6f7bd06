from __future__ import annotations

import io
import json
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from clipgap.bench import api as bench
from clipgap.bench import results
from clipgap.bench.case import M_SIX, Case, cases
from clipgap.bench.contenders import CONTENDERS, ISAS, Contender
from clipgap.bench.kernels import CHECKED, Measured, race_kernels
from clipgap.bench.processes import peak_mib as own_peak_mib
from clipgap.bench.race import Racer, Spent, Stopwatch, median_ratio, paired_ratio, race
from clipgap.bench.results import Row
from clipgap.bench.runner import Answer, Runner
from clipgap.bench.scans import KERNEL_M, Run, Workshop
from clipgap.errors import MissingDependency
from clipgap.kernels import cpu
from clipgap.kernels.oracle import OracleScanner, exact_scores

CASE = Case("isotropic", d=48, m=300, k=4)
BLOCK = 700
SHIFT = 1000


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_contenders_compute_what_they_say(contender: Contender) -> None:
    """Ours exactly; peers, which round, choose neighbours that are as good up to rounding."""
    try:
        runner = contender.build(CASE, 1)
    except MissingDependency as error:
        pytest.skip(str(error))
    rows = CASE.train(SHIFT, SHIFT + BLOCK)
    answer = runner.answer(runner.run(runner.prepare(rows, SHIFT)))
    if answer is None:
        return
    truth = exact_scores(rows, CASE.test())
    of_row = truth[np.arange(BLOCK), answer.nn]
    of_test = truth[answer.ids - SHIFT, np.arange(CASE.m)]
    if contender.side == "ours":
        assert np.array_equal(answer.sim, truth.max(axis=1))
        assert np.array_equal(answer.nn, truth.argmax(axis=1))
        assert np.array_equal(answer.best, truth.max(axis=0))
        assert np.array_equal(answer.ids, truth.argmax(axis=0) + SHIFT)
    else:
        assert np.abs(answer.sim - of_row).max() < 1e-3
        assert np.abs(answer.best - of_test).max() < 1e-3
        assert (truth.max(axis=1) - of_row).max() < 1e-3
        assert (truth.max(axis=0) - of_test).max() < 1e-3


@pytest.mark.parametrize(
    "contender",
    [each for each in CONTENDERS if each.side == "ours" or "torch loop" in each.name],
    ids=lambda contender: contender.name,
)
def test_lists_of_a_scan_under_way_are_gone_on_from(contender: Contender) -> None:
    try:
        runner = contender.build(CASE, 1)
    except MissingDependency as error:
        pytest.skip(str(error))
    oracle = OracleScanner(CASE.test_sets(), CASE.k)
    oracle.scan(CASE.train(0, SHIFT), np.arange(SHIFT))
    runner.warm(oracle.topk())
    rows = CASE.train(SHIFT, SHIFT + BLOCK)
    answer = runner.answer(runner.run(runner.prepare(rows, SHIFT)))
    assert answer is not None
    truth = exact_scores(CASE.train(0, SHIFT + BLOCK), CASE.test())
    assert np.abs(answer.best - truth.max(axis=0)).max() < 1e-5
    assert np.array_equal(answer.ids, truth.argmax(axis=0)), "isotropic rows have no ties"


def test_the_torch_loop_keeps_its_lists_over_blocks() -> None:
    pytest.importorskip("torch")
    loop = next(each for each in CONTENDERS if each.name == "torch loop, k=32").build(CASE, 1)
    for start in range(0, 3 * BLOCK, BLOCK):
        loop.run(loop.prepare(CASE.train(start, start + BLOCK), start))
    truth = exact_scores(CASE.train(0, 3 * BLOCK), CASE.test())
    best = np.sort(truth, axis=0)[::-1][: CASE.k].T
    assert np.abs(loop.best.numpy() - best).max() < 1e-5  # type: ignore[attr-defined]


def test_every_instruction_set_of_the_library_takes_part() -> None:
    try:
        assert set(cpu.instruction_sets()) <= set(ISAS)
    except MissingDependency as error:
        pytest.skip(str(error))


def test_cases_cover_what_the_docs_say() -> None:
    full = set(cases("full"))
    assert set(cases("quick")) <= full
    assert {(c.d, c.m) for c in full if c.kind == "clip-like"} == {
        (d, m) for d in (512, 640, 768, 1024) for m in (1024, 16_384, M_SIX)
    }
    assert len(full) == len(cases("full"))


def test_six_sets_hold_the_same_points_as_one() -> None:
    case = Case("isotropic", d=2, m=M_SIX)
    sets = case.test_sets()
    assert len(sets) == 6
    assert np.array_equal(np.concatenate([each.rows for each in sets]), case.test())


def test_a_race_takes_turns_and_leaves_out_who_cannot_run() -> None:
    turns: list[str] = []

    class Recorder(Runner):
        note = "a note"

        def __init__(self, name: str) -> None:
            self.name = name

        def prepare(self, block: np.ndarray, first_id: int) -> np.ndarray:
            return block

        def run(self, prepared: np.ndarray) -> None:
            turns.append(self.name)

        def answer(self, result: None) -> None:
            return None

        def extra(self) -> dict[str, float]:
            return {"own": 1.0}

    def missing(case: Case, threads: int) -> Recorder:
        raise MissingDependency("not here")

    notes: list[str] = []
    measured = race_kernels(
        CASE,
        [
            Contender("a", "", "ours", lambda case, threads: Recorder("a")),
            Contender("b", "", "peer", lambda case, threads: Recorder("b")),
            Contender("c", "", "peer", missing),
        ],
        threads=1,
        rounds=3,
        seconds=0.5,
        on_note=notes.append,
    )
    assert "".join(turns[-6:]) in ("ababab", "abbaab"), "with two peaks in turn, without"
    assert [each.name for each in measured if each.side != "peak"] == ["a", "b"]
    assert all(len(each.rates) == 3 for each in measured)
    assert "c is left out: not here" in notes
    assert measured[-1].extra == {"own": 1.0}


def test_a_race_says_for_how_many_rows_the_nearest_test_point_was_found() -> None:
    class EverySecond(Runner):
        def prepare(self, block: np.ndarray, first_id: int) -> np.ndarray:
            return block

        def run(self, prepared: np.ndarray) -> np.ndarray:
            return exact_scores(prepared, CASE.test())

        def answer(self, result: np.ndarray) -> Answer:
            nn = result.argmax(axis=1)
            nn[::2] = result.argmin(axis=1)[::2]
            return Answer(result.max(axis=1), nn, result.max(axis=0), result.argmax(axis=0))

    contender = Contender("half", "", "peer", lambda case, threads: EverySecond())
    measured = race_kernels(
        CASE, [contender], threads=1, rounds=1, seconds=0.1, on_note=lambda note: None
    )
    rows = min(CHECKED, measured[-1].rows)
    assert measured[-1].extra == {"nearest_found": round(rows // 2 / rows, 5)}


@pytest.mark.parametrize(
    ("cpu", "isa", "name"),
    [
        ("AMD EPYC", ["avx2", "f16c"], "amd-epyc-2-cores"),
        ("AMD EPYC", ["avx2", "avx512_vnni"], "amd-epyc-2-cores-avx512vnni"),
        (
            "Intel(R) Xeon(R) Processor @ 2.50GHz",
            ["avx2", "avx512_vnni"],
            "intel-xeon-2-cores-avx512vnni",
        ),
    ],
)
def test_machines_of_one_name_have_rows_apart(tmp_path, cpu, isa, name):
    path = results.append(tmp_path, [{"machine": {"cpu": cpu, "isa": isa, "cores": 2}}])
    assert path == tmp_path / f"{name}.jsonl"


def test_rows_are_appended_and_carry_ratios(tmp_path: Path) -> None:
    measured = [
        Measured("float32 FMA peak", "", "peak", (2e9, 2e9, 2e9)),
        Measured("torch sgemm", "", "peer", (0.5e9, 1e9, 1.5e9), rows=10),
        Measured("clipgap cpu/avx2", "", "ours", (3e9, 5e9, 4e9), rows=20),
    ]
    rows = results.kernel_rows(CASE, measured, 2, results.origin())
    path = results.append(tmp_path, rows)
    assert path == results.append(tmp_path, rows)
    assert path is not None
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == rows + rows
    assert [row["of_sgemm"] for row in rows] == [2.0, 1.0, 4.0]
    assert [row["of_fma_peak"] for row in rows] == [1.0, 0.5, 2.0]
    assert rows[2]["gflops"] == {"p20": 3.4, "p50": 4.0, "p80": 4.6}


def test_a_child_measures_time_and_its_own_memory(tmp_path: Path) -> None:
    ballast = np.ones(2**28, np.uint8)  # must not show in the child's figures
    workshop = Workshop(tmp_path, threads=1, on_note=print)
    whole = workshop.run("scan", rows=64, tests=32)
    alone = workshop.run("kernel", rows=64, tests=32)
    assert (whole.rows, whole.tests) == (64, 32)
    assert whole.seconds > alone.seconds > 0
    assert 20 < alone.peak_mib < ballast.nbytes / 2**20 < own_peak_mib()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test-32", "train-64"]


def test_the_whole_bench_keeps_and_shows_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Workshop, what: Any, rows: int, tests: int) -> Run:
        once = 1.0 if what == "scan" and tests == KERNEL_M and rows > KERNEL_M else 0.0
        seconds = once + rows * tests * 2.0**-30
        return Run(what, rows, tests, seconds, peak_mib=100.0, processor=rows * 2e-6)

    monkeypatch.setattr(Workshop, "run", run)
    monkeypatch.setattr(bench, "cases", lambda preset: [CASE])
    monkeypatch.setattr(
        bench, "CONTENDERS", [each for each in CONTENDERS if each.name == "clipgap numpy"]
    )
    parts: list[list[Row]] = []
    rows = bench.run_bench(minutes=0.01, threads=1, folder=tmp_path, on_rows=parts.append)

    (file,) = tmp_path.iterdir()
    assert [json.loads(line) for line in file.read_text().splitlines()] == rows
    assert parts[0] + parts[1] == rows
    assert rows[-1]["contender"] == "clipgap numpy"
    assert rows[-1]["gflops"]["p50"] > 0
    figures = {row["figure"]: row["value"] for row in parts[0]}
    assert figures["peak memory, 8N / N"] == 1
    assert figures["files to tables / kernel alone"] < 0.8
    assert figures["files to tables / kernel alone, of rows N to 4N"] == 1
    assert [figures[f"time at {n} / at {n[1]}"] for n in ("2N", "4N", "2M", "4M")] == [2, 4, 2, 4]

    console = Console(file=io.StringIO(), width=200)
    bench.print_rows(rows, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "clipgap numpy" in shown
    assert "time at 4N / at N" in shown

    monkeypatch.setattr(bench, "cases", lambda preset: [])
    monkeypatch.setattr(results, "append", lambda folder, rows: pytest.fail(f"wrote to {folder}"))
    assert bench.run_bench(minutes=0.01, threads=1), "rows are kept where that is asked for"


def test_the_order_rotates_and_each_is_made_ready_and_warm() -> None:
    seen: list[str] = []
    racers = [
        Racer(
            name, "", lambda name=name: seen.append(name), lambda name=name: seen.append(name + "-")
        )
        for name in "abc"
    ]
    race(racers, 3, warm=1)
    order = "a- a b- b c- c " + "a- a b- b c- c b- b c- c a- a c- c a- a b- b"
    assert " ".join(seen) == order
    assert all(len(racer.spent) == 3 for racer in racers)


def test_a_slow_racer_has_its_own_number_of_rounds() -> None:
    slow, fast = Racer("slow", "", lambda: None, rounds=1), Racer("fast", "", lambda: None)
    race([slow, fast], 3)
    assert (len(slow.spent), len(fast.spent)) == (1, 3)


def test_the_budget_ends_a_race_after_a_whole_round() -> None:
    racers = [Racer(name, "", lambda: time.sleep(0.001)) for name in "ab"]
    race(racers, 1000, seconds=0.0)
    assert [len(racer.spent) for racer in racers] == [1, 1]


def test_who_measures_itself_is_believed() -> None:
    own = Racer("own", "", lambda: Spent(2.0, 4.0, amount=8.0, peak_mib=7.0))
    race([own], 2)
    assert (own.rates, own.processor_rates, own.peak_mib) == ([4.0, 4.0], [2.0, 2.0], 7.0)


def test_ratios_of_medians_and_of_rounds() -> None:
    assert median_ratio([1.0, 2.0, 9.0], [1.0, 4.0, 5.0]) == 0.5
    assert paired_ratio([1.0, 2.0, 9.0], [1.0, 4.0, 5.0]) == 1.0


def test_processor_time_of_children_counts_where_asked() -> None:
    both, own = Stopwatch(), Stopwatch(children=False)
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert both.spent().processor > own.spent().processor


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NEEDS = {
    "dedup": "faiss",
    "embed": "open_clip",
    "eval": "open_clip",
    "train": "open_clip_train",
}
DRY = (
    "checked_read",
    "dedup",
    "embed",
    "eval",
    "feed",
    "filter",
    "levels",
    "long_scan",
    "report",
    "shared_bounds",
    "simulate_cluster",
    "split",
    "train",
)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a benchmark as Python would, in this process, which has torch imported."""

    def run(name: str, *options: str) -> None:
        file = str(BENCHMARKS / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [file, *options])
        runpy.run_path(file, run_name="__main__")

    monkeypatch.syspath_prepend(BENCHMARKS)
    return run


@pytest.mark.parametrize("name", DRY)
def test_a_benchmark_runs_in_small(
    name: str, script: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is run once in a while must not be broken all the while."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    script(name, "--dry-run", "--results", str(tmp_path))
    said = capsys.readouterr().out
    lines = [line.strip() for line in said.splitlines()]
    title = next(n for n, line in enumerate(lines) if re.sub("[ -]", "_", line) == name)
    assert len(lines) >= title + 2, f"no row is under the title: {said}"
    assert list(tmp_path.iterdir()) == [], "a dry run keeps no row"


@pytest.mark.parametrize("name", ["executors", "gpu", "gpu_checks", "simulate_survivors"])
def test_other_benchmarks_know_their_options(name: str, script: Callable[..., None]) -> None:
    pytest.importorskip("torch")
    with pytest.raises(SystemExit, match=r"^0$"):
        script(name, "--help")


def test_every_benchmark_is_run_or_asked() -> None:
    """`tile_model` has no options and needs llvm; pytest-benchmark runs the tests."""
    known = {*DRY, "executors", "gpu", "gpu_checks", "gpu_lease"}
    known |= {"simulate_survivors", "tile_model", "tiny_clip"}
    found = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert {name for name in found if not name.startswith("test_")} == known
