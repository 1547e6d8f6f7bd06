"""The tables of a scan are the defined ones, to the bit, however they were computed."""

from __future__ import annotations

import inspect
import json
import pydoc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.files.parquet import ROW_GROUP, FileSum
from clipgap.kernels import cpu, oracle
from clipgap.kernels.interface import NO_ID, TopK
from clipgap.kernels.options import Compute
from clipgap.runs.how import How, Progress
from clipgap.runs.units import Event, Ledger, Made, Slot
from clipgap.scan import api, work
from clipgap.scan.api import plan_scan, scan_into
from clipgap.scan.result import ScanResult
from clipgap.scan.sinks import MemorySink
from clipgap.scan.work import ScanWork, ShardUnit
from tests.worlds import (
    KERNELS,
    World,
    make_world,
    thresholds,
    tree,
    troubled_rows,
    truth,
    unit_rows,
)

ISAS = [isa for isa, there in cpu.instruction_sets().items() if there] if cpu.is_built() else []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def assert_true(result: ScanResult, world: World, k: int, gaps: dict[str, np.ndarray]) -> None:
    """Every column of every table against the definition."""
    rows = world.rows
    ids = [(s, r) for s, shard in enumerate(world.shards) for r in range(len(shard))]
    train = result.train_table()
    assert list(zip(train["shard"].to_pylist(), train["row"].to_pylist(), strict=True)) == ids
    assert train["key"].to_pylist() == [world.key(*at) for at in ids]
    columns = {"shard", "row", "key"}
    for name, test in world.tests.items():
        tau = gaps.get(name)
        right = truth(rows, test, k, tau)
        assert np.array_equal(train[f"sim_{name}"], right.sim.astype(np.float32))
        assert np.array_equal(train[f"nn_{name}"], right.nn)
        columns |= {f"sim_{name}", f"nn_{name}"}
        if tau is not None:
            assert np.array_equal(train[f"margin_{name}"], right.margin.astype(np.float32))
            assert np.array_equal(train[f"witness_{name}"], right.witness)
            assert np.array_equal(train[f"pruned_{name}"], right.margin > 0)
            columns |= {f"margin_{name}", f"witness_{name}", f"pruned_{name}"}
            assert result.manifest["counts"]["pruned"][name] == (right.margin > 0).sum()

        table = result.test(name)
        assert table["row"].to_pylist() == list(range(len(test)))
        assert table["nn_sim"].to_pylist() == right.top_sim.tolist()
        listed = [[ids[i] for i in line] for line in right.top]
        assert table["nn_shard"].to_pylist() == [[s for s, _ in line] for line in listed]
        assert table["nn_row"].to_pylist() == [[r for _, r in line] for line in listed]
        assert table["nn_key"].to_pylist() == [[world.key(*at) for at in line] for line in listed]
        gap = [None] * len(test) if tau is None else tau.tolist()
        assert table["gap"].to_pylist() == gap
    assert set(train.column_names) == columns


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("k", [1, 6, 32, 64])
def test_tables_hold_the_exact_results(world: World, kernel: str, k: int, tmp_path: Path) -> None:
    reference = clipgap.gap(world.paths["reference"], world.test_paths, k=1, out=tmp_path / "gap")
    result = clipgap.scan(
        world.train, world.test_paths, gap=reference, k=k, kernel=kernel, out=tmp_path / "scan"
    )
    gaps = {name: thresholds(world.reference, test) for name, test in world.tests.items()}
    assert_true(result, world, k, gaps)
    assert_true(clipgap.open_scan(tmp_path / "scan"), world, k, gaps)


def test_without_a_gap_and_with_a_gap_for_some_sets(world: World) -> None:
    assert_true(clipgap.scan(world.train, world.test_paths, k=5), world, 5, {})

    notes: list[str] = []
    partly = clipgap.gap(world.reference, {"a": world.tests["a"]}, k=2)
    result = clipgap.scan(
        world.train,
        world.test_paths,
        gap=partly,
        k=5,
        on_progress=lambda progress: notes.append(progress.note),
    )
    assert_true(result, world, 5, {"a": thresholds(world.reference, world.tests["a"])})
    assert any("'b.2-x' is not in the gap" in note for note in notes)


def test_a_gap_states_the_thresholds_it_found(world: World) -> None:
    result = clipgap.gap(world.reference, world.tests, k=3)
    for name, test in world.tests.items():
        right = thresholds(world.reference, test)
        assert np.array_equal(result.tau(name), right)
        assert np.array_equal(result.test(name)["gap"], right)


def test_memory_and_folder_hold_the_same(world: World, tmp_path: Path) -> None:
    kept = clipgap.scan(world.train, world.tests, k=4)
    written = clipgap.scan(world.train, world.tests, k=4, out=tmp_path / "scan")
    assert kept.train_table().equals(written.train_table())
    assert kept.hist().equals(written.hist())
    for name in world.tests:
        assert kept.test(name).equals(written.test(name))
    of_files = {"files": {}, "sha256": None}
    assert {**kept.manifest, "sha256": None} == {**written.manifest, **of_files}


@pytest.fixture(scope="module")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A gap, and a scan with it by the oracle in one block a shard."""
    folder = tmp_path_factory.mktemp("undisturbed")
    clipgap.gap(world.paths["reference"], {"a": world.paths["a"]}, k=2, out=folder / "gap")
    clipgap.scan(
        world.train,
        world.test_paths,
        gap=folder / "gap",
        k=6,
        kernel="numpy",
        out=folder / "scan",
    )
    return folder / "gap", folder / "scan"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("block_rows", [1, 7, 64, 333])
def test_folders_are_byte_identical(
    world: World,
    undisturbed: tuple[Path, Path],
    tmp_path: Path,
    kernel: str,
    threads: int,
    block_rows: int,
) -> None:
    gap, scan = undisturbed
    out = tmp_path / "scan"
    clipgap.scan(
        world.train,
        world.test_paths,
        gap=gap,
        k=6,
        kernel=kernel,
        threads=threads,
        block_rows=block_rows,
        out=out,
    )
    assert tree(out) == tree(scan)


@pytest.mark.parametrize("isa", ISAS)
def test_folders_do_not_depend_on_the_instruction_set(
    world: World,
    undisturbed: tuple[Path, Path],
    tmp_path: Path,
    isa: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gap, scan = undisturbed
    monkeypatch.setenv("CLIPGAP_CPU_ISA", isa)
    clipgap.scan(world.train, world.test_paths, gap=gap, k=6, kernel="cpu", out=tmp_path / "scan")
    assert tree(tmp_path / "scan") == tree(scan)


def test_the_order_in_which_shards_are_scanned_does_not_show(world: World) -> None:
    plan = plan_scan(world.train, world.tests, k=6)
    shards = range(len(world.shards))
    found = []
    for order in (shards, reversed(shards), [2, 0, 4, 1, 3]):

        def shuffled(
            work: ScanWork, units: Sequence[ShardUnit], *asked: Any, order: Any = order
        ) -> Iterator[Event]:
            return work.do([units[shard] for shard in order], Slot())

        sink = MemorySink()
        scan_into(ScanWork(plan, Compute(block_rows=50), sink), How(executor=shuffled))
        found.append(sink.tables)
    assert all(tables == found[0] for tables in found[1:])
    assert len(found[0]) == len(shards) + len(world.tests) + 1


def test_row_groups_do_not_follow_blocks(tmp_path: Path) -> None:
    n = 2 * ROW_GROUP + 17
    rows, tests = troubled_rows(n, 3, 0), {"t": troubled_rows(2, 3, 1)}
    for block_rows in (10_000, 65_536, 200_000):
        clipgap.scan(rows, tests, k=3, block_rows=block_rows, out=tmp_path / str(block_rows))
    assert tree(tmp_path / "10000") == tree(tmp_path / "65536") == tree(tmp_path / "200000")
    metadata = pq.ParquetFile(tmp_path / "10000" / "train" / "part-00000.parquet").metadata
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes == [ROW_GROUP, ROW_GROUP, 17]


def test_a_reference_inside_the_training_set_is_never_pruned_by_itself() -> None:
    reference = unit_rows(10_000, 16, 1)
    train = np.concatenate([unit_rows(500, 16, 2), reference, unit_rows(500, 16, 3)])
    tests = {"t": unit_rows(200, 16, 4), "u": reference[:50]}
    result = clipgap.scan(train, tests, gap=clipgap.gap(reference, tests, k=1), k=1)
    for name in tests:
        pruned = np.asarray(result.train_table()[f"pruned_{name}"])
        assert not pruned[500:10_500].any()
    assert np.asarray(result.train_table()["pruned_t"]).any()


def test_an_empty_reference_prunes_everything(tmp_path: Path) -> None:
    tests = {"t": unit_rows(3, 8, 0)}
    gap = clipgap.gap(np.zeros((0, 8), np.float16), tests, k=2, out=tmp_path / "gap")
    assert gap.test("t")["nn_sim"].to_pylist() == [[], [], []]
    assert gap.test("t")["gap"].to_pylist() == [-np.inf] * 3
    assert clipgap.verify(tmp_path / "gap", train=np.zeros((0, 8), np.float16), tests=tests).ok

    result = clipgap.scan(unit_rows(5, 8, 1), tests, gap=gap, k=2)
    train = result.train_table()
    assert train["pruned_t"].to_pylist() == [True] * 5
    assert train["margin_t"].to_pylist() == [np.inf] * 5
    assert train["witness_t"].to_pylist() == [0] * 5


@pytest.mark.parametrize("kernel", KERNELS)
def test_lists_are_as_long_as_there_are_rows(kernel: str) -> None:
    result = clipgap.scan(unit_rows(3, 8, 0), {"t": unit_rows(2, 8, 1)}, k=64, kernel=kernel)
    assert [len(line) for line in result.test("t")["nn_sim"].to_pylist()] == [3, 3]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_score_of_zero_has_no_sign(kernel: str) -> None:
    train, test = np.zeros((2, 2, 4), np.float16)
    train[:, 0], test[:, 1] = 1, -1
    result = clipgap.scan(train, {"t": test}, k=1, kernel=kernel)
    scores = [*result.train_table()["sim_t"].to_pylist(), *result.tau("t")]
    assert [str(float(score)) for score in scores] == ["0.0"] * 4


def test_the_sign_that_a_kernel_gives_to_zero_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "exact_scores", lambda rows, tests: np.full((2, 2), -0.0))
    result = clipgap.scan(unit_rows(2, 4, 0), {"t": unit_rows(2, 4, 1)}, k=1, kernel="numpy")
    scores = [*result.train_table()["sim_t"].to_pylist(), *result.tau("t")]
    assert [str(float(score)) for score in scores] == ["0.0"] * 4


def test_arrays_and_tensors_are_stores() -> None:
    torch = pytest.importorskip("torch")
    rows, test = troubled_rows(50, 8, 0), troubled_rows(6, 8, 1)
    from_arrays = clipgap.scan(rows, {"t": test}, k=2)
    from_tensors = clipgap.scan(torch.from_numpy(rows), {"t": torch.from_numpy(test)}, k=2)
    assert from_tensors.train_table().equals(from_arrays.train_table())


def test_histograms_count_the_stored_scores(world: World) -> None:
    above = (-0.5, 0.9, 0.99)
    gap = clipgap.gap(world.reference, {"a": world.tests["a"]}, k=1)
    result = clipgap.scan(world.train, world.tests, gap=gap, k=1, above=above)
    hist, train = result.hist().to_pylist(), result.train_table()
    assert {(line["name"], line["kind"]) for line in hist} == {
        ("a", "sim"),
        ("a", "margin"),
        ("a", "above"),
        ("b.2-x", "sim"),
        ("b.2-x", "above"),
    }
    for line in hist:
        column = "sim" if line["kind"] == "above" else line["kind"]
        values = np.asarray(train[f"{column}_{line['name']}"]).astype(np.float64)
        if line["kind"] == "above":
            assert line["low"] in above
            assert line["count"] == (values > line["low"]).sum()
        else:
            assert line["count"] == ((values >= line["low"]) & (values < line["high"])).sum()
    assert sum(line["count"] for line in hist if line["kind"] == "margin") == len(world.rows)


def test_scores_on_an_edge_fall_into_the_bin_above_it() -> None:
    corners = np.eye(4, dtype=np.float16)
    halves = np.full((1, 4), 0.5, np.float16)
    lines = clipgap.scan(corners, {"t": halves}, k=1, above=(0.5, 0.25)).hist().to_pylist()
    assert [(line["low"], line["high"]) for line in lines if line["count"] == 4] == [
        (0.5, 0.51),
        (0.25, np.inf),
    ]
    assert [line["count"] for line in lines if (line["kind"], line["low"]) == ("above", 0.5)] == [0]


def test_without_a_training_table(world: World, tmp_path: Path) -> None:
    whole = clipgap.scan(world.train, world.test_paths, k=3)
    result = clipgap.scan(
        world.train, world.test_paths, k=3, train_table=False, out=tmp_path / "scan"
    )
    assert set(tree(tmp_path / "scan")) == {
        "manifest.json",
        "hist.parquet",
        "test/a.parquet",
        "test/b.2-x.parquet",
    }
    assert result.hist().equals(whole.hist())
    assert result.test("a").equals(whole.test("a"))
    with pytest.raises(clipgap.ClipgapError, match="without a training table"):
        result.train()


def test_the_manifest_sums_every_file_and_nothing_that_changes(
    world: World, undisturbed: tuple[Path, Path]
) -> None:
    _, scan = undisturbed
    manifest = json.loads((scan / "manifest.json").read_bytes())
    assert set(manifest["files"]) | {"manifest.json"} == set(tree(scan))
    for name, entry in manifest["files"].items():
        assert FileSum.of(scan / name) == FileSum(**entry)
    assert set(manifest["versions"]) == {"clipgap", "pyarrow", "tables"}
    assert manifest["counts"]["rows"] == len(world.rows)
    assert [test["name"] for test in manifest["inputs"]["tests"]] == ["a", "b.2-x"]


def test_progress_counts_up_to_the_end(world: World) -> None:
    seen = []
    clipgap.scan(world.train, world.tests, k=1, block_rows=50, on_progress=seen.append)
    scanning = [progress for progress in seen if progress.stage == "scanning"]
    assert [progress.done for progress in scanning] == sorted(p.done for p in scanning)
    last = scanning[-1]
    assert (last.done, last.part) == (last.total, last.parts) == (len(world.rows), 5)
    assert last.figures["FLOP/s"] * last.seconds == pytest.approx(2 * len(world.rows) * 36 * 17)
    assert last.seconds_left == 0
    assert seen[0].stage == "reading headers"


def test_the_plan_says_what_will_be_done(world: World) -> None:
    described = clipgap.plan_scan(world.train, world.test_paths, k=3).describe()
    n, m = len(world.rows), 36
    assert described["operations"] == 2 * n * m * 17
    assert described["train"]["shards"] == 5
    assert described["train"]["bytes"] == n * 17 * 2
    assert described["tests"]["a"]["rows"] == 31
    json.dumps(described)


def test_what_is_named_like_a_package_is_a_function() -> None:
    """For `help`, for type checkers, and whatever was imported before."""
    from clipgap.scan import api, result

    for name in ("scan", "report", "mix", "dedup", "verify"):
        assert inspect.isfunction(getattr(clipgap, name)), name
    assert clipgap.scan is api.scan
    assert clipgap.open_scan is result.open_scan
    assert "one pass" in pydoc.render_doc(clipgap.scan)
    assert set(clipgap.__all__) <= set(dir(clipgap))
    assert all(hasattr(clipgap, name) for name in clipgap.__all__)


def test_a_list_that_a_kernel_never_filled_is_empty(world: World) -> None:
    plan = plan_scan(np.zeros((0, 17), np.float16), world.tests, k=2)
    sink, ledger = MemorySink(), Ledger(None)
    unfilled = [
        TopK(np.full((len(rows), 2), -np.inf), np.full((len(rows), 2), NO_ID, np.int64))
        for rows in world.tests.values()
    ]
    ledger.add(Made({}, unfilled))
    now = Progress(stage="scanning")
    api._finish(ScanWork(plan, Compute(), sink), ledger, How(), now)
    assert sink.tables["test/a.parquet"]["nn_row"].to_pylist() == [[]] * 31


def test_checkpoints_that_cost_too_much_are_left_out(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(api, "_save_lists", lambda *_: made.append(1))
    monkeypatch.setattr(work, "_PATIENCE", 1e12)
    clipgap.scan(world.train, world.tests, k=1, out=tmp_path / "scan")
    assert len(made) == 1, "when all is scanned"


def test_workers_hand_over_one_after_the_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those in the place of lost ones, whose numbers go on."""
    monkeypatch.setattr(work.time, "monotonic", lambda: 0.0)
    of_scan = ScanWork(plan_scan(world.train, world.tests, k=6), Compute(), MemorySink())
    scanner = of_scan.new_scanner()
    writers = [work._Writer(of_scan, scanner, Slot(number, of=4)) for number in range(6)]
    shares = [1 + writer._handed_over / writer._between for writer in writers]
    assert shares == [0.25, 0.5, 0.75, 1.0, 0.25, 0.5]
