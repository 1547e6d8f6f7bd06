"""The GPU scan: its kernels interpreted on the CPU (or run, where there is a GPU), by equality."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgap.errors import MissingDependency, UsageError
from clipgap.kernels import choose
from clipgap.kernels.gpu import devices, order
from clipgap.kernels.interface import MAX_SCORE, TestSet
from clipgap.kernels.options import Compute
from clipgap.kernels.oracle import OracleScanner, exact_scores
from clipgap.machine import thread_count
from clipgap.runs.executors import Here, Processes
from clipgap.scan import api
from clipgap.scan.api import plan_scan
from clipgap.scan.sinks import MemorySink
from clipgap.scan.work import ScanWork
from clipgap.synthetic import rows as synthetic
from tests.kernels import assert_equal_topk, assert_like_oracle, filter_everything
from tests.test_kernels import KINDS, SIZES, make_blocks, make_tests

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from clipgap.kernels.gpu import panels, scanner, triton_filter  # noqa: E402
from clipgap.kernels.gpu import steps as gpu_steps  # noqa: E402
from clipgap.kernels.gpu.bounds import Grid, Half  # noqa: E402
from clipgap.kernels.gpu.scanner import GpuScanner  # noqa: E402
from clipgap.kernels.gpu.several import SeveralGpus  # noqa: E402
from clipgap.kernels.gpu.steps import Steps  # noqa: E402
from tests import interpreting  # noqa: E402, F401

FILTERS = ("int8", "float16")
DIMS = (3, 17, 64, 640, 1000, 1536)


@pytest.fixture(scope="module")
def device() -> torch.device:
    return devices.usable_devices()[0]


def cases() -> list[tuple[str, int, str, int, tuple[int, ...], str, int]]:
    """Each filter with each dimension and each kind of data; the interpreter is slow."""
    ks, sizes = cycle((1, 6, 32, 64)), cycle((*SIZES[:4], (66, 7)))
    gaps, rows = cycle(("none", "all", "some")), cycle((1, 70, 97))
    return [
        (kind, d, KINDS[(i + 3 * j) % len(KINDS)], next(ks), next(sizes), next(gaps), next(rows))
        for i, d in enumerate(DIMS)
        for j, kind in enumerate(FILTERS)
    ]


@pytest.mark.parametrize(
    "case", cases(), ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}-k{case[3]}"
)
def test_equals_the_oracle(
    device: torch.device, case: tuple[str, int, str, int, tuple[int, ...], str, int]
) -> None:
    kind, d, data, k, sizes, gap, n = case
    tests = make_tests(data, d, sizes, gap)
    rows = synthetic.rows(data, 0, n, d, seed=1)
    assert_like_oracle(GpuScanner(tests, k, device, kind), tests, k, make_blocks(rows))


@pytest.mark.parametrize("kind", FILTERS)
def test_several_tiles_bands_and_parts(
    device: torch.device, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough rows for every loop to go round, and for bounds to carry over from part to part."""
    monkeypatch.setattr(scanner, "FIRST_ROWS", 100)
    monkeypatch.setattr(scanner, "SAMPLE_ROWS", 100)
    tests = make_tests("clip-like", 64, (90, 5), "some")
    rows = synthetic.clip_like(230, 64, seed=1)
    made = GpuScanner(tests, 6, device, kind)
    assert_like_oracle(
        made, tests, 6, [(rows[:160], np.arange(160)), (rows[160:], np.arange(160, 230))]
    )
    assert made.counters.rows == 230
    assert made.counters.refined < made.counters.pairs / 2, "the filter lets most pairs through"


def test_panels_and_columns_that_come_over_one_at_a_time(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "PANEL", 25)
    monkeypatch.setattr(scanner, "free_bytes", lambda device: 0)
    tests = make_tests("near-ties", 48, (60, 7), "all")
    rows = synthetic.rows("near-ties", 0, 120, 48, seed=1)
    made = GpuScanner(tests, 6, device)
    assert len(made._sets[0].panels) == 3
    assert_like_oracle(made, tests, 6, make_blocks(rows))


@pytest.mark.parametrize("pairs, words", [(64, 1 << 14), (1 << 15, 8)])
def test_a_queue_that_overflows_is_decided_densely(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, pairs: int, words: int
) -> None:
    monkeypatch.setattr(triton_filter, "WORDS", words)
    short = Steps(triton_filter.TritonFilter(device, "int8"), device, pairs)
    monkeypatch.setattr(scanner, "make_steps", lambda *of_device: short)
    dense = []
    monkeypatch.setattr(
        GpuScanner,
        "decide_densely",
        lambda self, *arguments, do=GpuScanner.decide_densely: (
            dense.append(1),
            do(self, *arguments),
        ),
    )
    tests = make_tests("equal", 32, (40, 3), "some")
    rows = synthetic.rows("equal", 0, 30, 32, seed=1)
    assert_like_oracle(GpuScanner(tests, 6, device), tests, 6, make_blocks(rows))
    assert dense


def test_a_flood_of_as_many_words_as_a_count_of_32_bits_has_values(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queues of words and of pairs, which but for this tile were filled before."""
    if device.type != "cpu":
        pytest.skip("a tile is another on a GPU")
    monkeypatch.setattr(gpu_steps, "nothing_queued", lambda device: torch.tensor([2**32 - 64 * 2]))
    rows, points = synthetic.clip_like(64, 32, seed=1), synthetic.clip_like(64, 32, seed=2)
    _, _, survivors = filter_everything(
        Steps(triton_filter.TritonFilter(device, "int8"), device), rows, points
    )
    assert survivors.lost


class LeastPrecise(TorchDispatchMode):
    """Matrix products lose what torch's flags can let them lose: float32 operands are rounded to
    bfloat16, float16 sums are float16. None of the flags is about float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.mm.default and args[0].dtype == torch.float32:
            args = [operand.bfloat16().float() for operand in args]
        if func is torch.ops.aten.mm.default and args[0].dtype == torch.float16:
            return (func(*(operand.double() for operand in args)) + 2.0**-7).half()
        return func(*args, **(kwargs or {}))


def test_a_triton_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "version", lambda package: "3.5.1")
    with pytest.raises(MissingDependency, match=r"triton 3\.5 is too old.*clipgap\[triton\]"):
        devices.usable_devices()
    oldest = ".".join(map(str, devices.OLDEST_TRITON))
    assert f'"triton>={oldest};' in Path(__file__).parents[1].joinpath("pyproject.toml").read_text()


def test_no_flag_of_torch_makes_a_bound_too_high(device: torch.device) -> None:
    """Every coordinate is one that bfloat16 rounds up by a good part of its last place."""
    rows = np.full((40, 64), 0.125 * (1 + 2.0**-8 + 2.0**-10), np.float16)
    rows *= np.sign(synthetic.clip_like(1, 64, seed=3))
    tests = [TestSet("t", rows[:5].copy())]
    with LeastPrecise():
        assert_like_oracle(GpuScanner(tests, 3, device), tests, 3, [(rows, np.arange(40))])


def test_more_candidates_than_a_column_has_room_for(device: torch.device) -> None:
    """Every row is a candidate of every column, and k is one."""
    tests = make_tests("equal", 16, (10,), "none")
    rows = synthetic.rows("equal", 0, 200, 16, seed=1)
    assert_like_oracle(GpuScanner(tests, 1, device), tests, 1, [(rows, np.arange(200))])


def test_thresholds_at_the_ends_of_what_scores_can_be(device: torch.device) -> None:
    rows = synthetic.clip_like(50, 16)
    points = synthetic.clip_like(20, 16, seed=2)
    tau = np.linspace(-MAX_SCORE, MAX_SCORE, 20)
    tests = [TestSet("odd", points, tau)]
    assert_like_oracle(GpuScanner(tests, 3, device), tests, 3, [(rows, np.arange(50))])


def test_results_come_as_tables_take_them(device: torch.device) -> None:
    """Column by column: neither the device nor the host then jumps from row to row."""
    tests = make_tests("clip-like", 24, (16, 5), "some")
    rows = synthetic.clip_like(7, 24)
    found = GpuScanner(tests, 6, device).scan(rows, np.arange(7))
    for table in vars(found).values():
        assert table.shape == (7, 2)
        assert table[:, 1].flags.c_contiguous


def test_blocks_in_flight(device: torch.device) -> None:
    tests = make_tests("clip-like", 32, (40,), "all")
    rows = synthetic.clip_like(150, 32)
    one, other = GpuScanner(tests, 6, device), GpuScanner(tests, 6, device)
    ids = np.arange(150)
    begun = [one.start(rows[a : a + 50], ids[a : a + 50]) for a in (0, 50, 100)]
    whole = other.scan(rows, ids)
    found = np.concatenate([block.result().sim for block in begun])
    np.testing.assert_array_equal(found, whole.sim)
    assert_equal_topk(one.topk(), other.topk())


@pytest.mark.parametrize("devices_in_use", [1, 2])
def test_lists_that_are_fetched_later_are_those_of_when_they_were_asked_for(
    device: torch.device, devices_in_use: int
) -> None:
    """A checkpoint does not wait for what is under way, and what comes after is not in it."""
    tests, ids = make_tests("clip-like", 32, (20,), "none"), np.arange(60)
    rows = synthetic.clip_like(60, 32)
    made = SeveralGpus(tests, 6, [device] * devices_in_use)
    made.scan(rows[:30], ids[:30])
    then, fetch = made.topk(), made.topk_later()
    made.scan(rows[30:], ids[30:])
    assert_equal_topk(fetch(), then)
    assert (made.topk()[0].sim != then[0].sim).any()


def test_a_scan_into_a_folder_has_a_process_for_each_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = [torch.device("cuda", 0), torch.device("cuda", 1)]
    monkeypatch.setattr(devices, "usable_devices", lambda written_in="triton": two)
    made = []
    monkeypatch.setattr(scanner, "GpuScanner", lambda *given: made.append(given[2:]))
    rows = synthetic.clip_like(9, 16)
    np.save(tmp_path / "train.npy", rows)
    of_files, in_memory = (
        ScanWork(plan_scan(train, {"t": rows}), Compute(kernel="triton"), MemorySink())
        for train in (tmp_path / "train.npy", rows)
    )
    assert api._executor(of_files) == Processes(["cuda:0", "cuda:1"], max(1, thread_count() // 2))
    assert api._executor(in_memory) == Here()
    on_cpu = replace(of_files, compute=Compute(kernel="numpy"))
    assert api._executor(on_cpu) == Here()
    of_files.new_scanner("cuda:1")
    assert made == [(two[1], "int8")]


def test_several_devices_give_what_one_gives(device: torch.device) -> None:
    tests = make_tests("duplicates", 24, (16, 5), "some")
    rows = synthetic.rows("duplicates", 0, 90, 24, seed=1)
    blocks = [(rows[a : a + 15], np.arange(a, a + 15)) for a in range(0, 90, 15)]
    made = SeveralGpus(tests, 6, [device, device])
    assert_like_oracle(made, tests, 6, blocks)
    assert made.counters.rows == 90

    half = SeveralGpus(tests, 6, [device, device])
    begun = [half.start(*block) for block in blocks[:3]]
    assert {block._index for block in begun} == {0, 1}, "blocks go to the device that is free"
    for block in begun:
        block.result()
    again, told = (SeveralGpus(tests, 6, [device, device]) for _ in range(2))
    again.load_topk(half.topk())
    told.raise_bounds([held.sim[:, -1] for held in half.topk()])
    assert all((panel.kth > -1).all() for one in told._scanners for panel in one._panels())
    for block in blocks[3:]:
        again.scan(*block)
    assert_equal_topk(again.topk(), made.topk())


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("at_home", [False, True])
def test_bounds_of_other_workers_save_work_and_leave_what_all_have_together_as_it_is(
    device: torch.device, kind: str, at_home: bool
) -> None:
    tests = make_tests("duplicates", 24, (40, 5), "none")
    rows, ids = synthetic.rows("duplicates", 0, 240, 24, seed=1), np.arange(240)
    oracle = OracleScanner(tests, 6)
    oracle.scan(rows, ids)
    first, told, alone = (GpuScanner(tests, 6, device, kind) for _ in range(3))
    if at_home:
        for found in told._sets:
            found.panels[:] = [panel.at_home() for panel in found.panels]
    first.scan(rows[80:], ids[80:])
    told.raise_bounds([held.sim[:, -1] for held in first.topk()])
    for one in (told, alone):
        one.scan(rows[:80], ids[:80])
        both = [mine.merge(other) for mine, other in zip(one.topk(), first.topk(), strict=True)]
        assert_equal_topk(both, oracle.topk())
    assert told.counters.refined < alone.counters.refined


class OnItsWay:
    """Bounds of another device, which torch brings into the host's memory behind what is queued."""

    def __init__(self, there: torch.Tensor) -> None:
        self.there = there

    def to(self, device: torch.device, non_blocking: bool) -> torch.Tensor:
        return torch.full_like(self.there, torch.inf) if non_blocking else self.there


def test_bounds_of_another_device_are_there_before_they_are_read(device: torch.device) -> None:
    """A panel that lies at home takes them into the host's memory; what lay there is no bound."""
    tests = make_tests("clip-like", 24, (16,), "none")
    rows = synthetic.clip_like(60, 24)
    giver, taker = (GpuScanner(tests, 6, device) for _ in range(2))
    giver.scan(rows[:30], np.arange(30))
    for panel in taker._panels():
        object.__setattr__(panel, "kth", panel.kth.cpu())
    taker.raise_kth([OnItsWay(kth.cpu()) for kth in giver.kth()])
    assert all((panel.kth < 2).all() for panel in taker._panels())


def test_pages_are_locked_on_the_device_that_copies_from_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In threads, which stand on the first GPU: each process would take memory there."""
    current, done = [0], []

    class On:
        def __init__(self, device: torch.device) -> None:
            self.index = device.index

        def __enter__(self) -> None:
            current.append(self.index)

        def __exit__(self, *error: object) -> None:
            current.pop()

    class Runtime:
        def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
            done.append(("lock", address, current[-1]))
            return int(size > 100)

        def cudaHostUnregister(self, address: int) -> None:  # noqa: N802
            done.append(("unlock", address, current[-1]))

    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    monkeypatch.setattr(torch.cuda, "device", On)
    unlock = devices.lock_pages(torch.device("cuda", 3), 64, 100)
    assert unlock is not None
    unlock()
    assert devices.lock_pages(torch.device("cuda", 3), 128, 101) is None
    assert done == [("lock", 64, 3), ("unlock", 64, 3), ("lock", 128, 3)]


@given(
    d=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
    spikes=st.integers(0, 3),
    stretch=st.sampled_from([0.985, 1.0, 1.0099]),
    kind=st.sampled_from(FILTERS),
)
def test_bounds_hold_and_are_not_idle(
    d: int, seed: int, spikes: int, stretch: float, kind: str
) -> None:
    """u is never below the score; u less the widths is never above it."""
    random = np.random.default_rng(seed)
    here = devices.usable_devices()[0]

    def vectors(n: int) -> np.ndarray:
        x = random.standard_normal((n, d)) * np.exp(random.standard_normal(d))
        for _ in range(spikes):
            x[:, random.integers(d)] += random.choice([30.0, -3.0])
        halves = (x * stretch / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
        halves[np.linalg.norm(halves.astype(np.float64), axis=1) > 1.01] *= np.float16(0.99)
        return halves

    x, t = vectors(20), vectors(30)
    made = GpuScanner([TestSet("t", t)], 1, here, kind)
    bounds, panel = made.bounds, made._sets[0].panels[0]
    rows = bounds.rows(torch.from_numpy(x).to(here), 64)
    products = rows.operand[:20].double() @ panel.operand[:30].double().T
    upper = products + rows.offset[:20, None].double() + panel.start[None, :30].double()
    lower = upper - rows.width[:20, None].double() - panel.thickness[None, :30].double()
    unit = bounds.unit if isinstance(bounds, Grid) else 1.0
    scores = exact_scores(x, t[panel.given.cpu().numpy()])
    assert (upper.cpu().numpy() * unit >= scores).all()
    assert (lower.cpu().numpy() * unit <= scores).all()
    # A score as a bound, rounded down, is reached by its own pair.
    floors = bounds.below(torch.from_numpy(scores).to(here)).double()
    assert (upper >= floors).all()
    assert isinstance(bounds, Grid | Half)


@pytest.mark.parametrize("name", ["triton", "triton-float16"])
def test_result_folders_are_those_of_the_cpu_kernel(tmp_path: Path, name: str) -> None:
    import clipgap

    train = synthetic.clip_like(110, 32, seed=1)
    tests = {"a": synthetic.clip_like(40, 32, seed=2), "b": synthetic.clip_like(9, 32, seed=3)}
    reference = clipgap.gap(synthetic.clip_like(50, 32, seed=4), tests, out=tmp_path / "gap")

    def folder(kernel: str) -> dict[str, bytes]:
        out = tmp_path / kernel
        clipgap.scan(train, tests, gap=reference, k=6, out=out, kernel=kernel, block_rows=70)
        return {
            str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()
        }

    assert folder(name) == folder("cpu" if choose.resolve() == "cpu" else "numpy")


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    tests = [TestSet("t", synthetic.clip_like(5, 16))]
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "has_hardware", lambda: False)
    with pytest.raises(MissingDependency, match="there is no NVIDIA GPU"):
        choose.make_scanner(tests, 1, kernel="triton")
    with pytest.raises(MissingDependency, match="no GPU can be used: there is no NVIDIA GPU"):
        choose.make_scanner(tests, 1, device="cuda")
    assert choose.fallback_note("auto", "auto") is None
    monkeypatch.setattr(devices, "has_hardware", lambda: True)
    with pytest.raises(
        MissingDependency, match=r"driver is missing or too old.*needs 580 or newer"
    ):
        choose.make_scanner(tests, 1, kernel="triton")
    note = choose.fallback_note("auto", "auto")
    assert note is not None
    assert "the GPU is not used" in note
    assert choose.fallback_note("auto", "cpu") is None, "nobody asked for the GPU"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(MissingDependency, match="CUDA_VISIBLE_DEVICES hides all GPUs"):
        choose.make_scanner(tests, 1, kernel="triton")


def test_a_gpu_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(devices, "has_hardware", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with pytest.raises(
        MissingDependency, match=r"8\.0 \(A100\) or newer; found Tesla V100 \(capability 7\.0\)"
    ):
        devices.usable_devices()


def test_a_scan_without_a_gpu_does_not_load_torch() -> None:
    code = "import sys, clipgap.kernels.choose as c; print(c.resolve(), 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if choose.resolve(device="cpu") == "cpu" and not devices.has_hardware():
        assert done.stdout.split() == ["cpu", "False"]


@pytest.mark.parametrize(
    "chip, taken",
    [((8, 0), "triton"), ((9, 0), "cuda"), ((10, 0), "triton"), ((10, 3), "triton-float16")],
)
def test_auto_takes_what_was_measured_as_the_fastest(
    monkeypatch: pytest.MonkeyPatch, chip: tuple[int, int], taken: str
) -> None:
    """An H100 has rows here; of a B300 it is known that its integers are slow."""
    monkeypatch.setattr(order, "MEASURED", {(9, 0): {"triton": 500.0, "cuda": 700.0}})
    monkeypatch.setattr(devices, "capability", lambda: chip)
    monkeypatch.setattr(choose, "_gpu_info", lambda name: choose.KernelInfo(name, True, "there"))
    assert choose.resolve(device="cuda") == taken
    assert sorted(order.fastest_first(chip)) == sorted(order.ON_GPU)


def test_the_first_device_tells_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    if devices.interpreted():
        assert devices.capability() is None
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(devices, "usable_devices", lambda: [torch.device("cuda", 1)])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, device.index))
    assert devices.capability() == (8, 1)


def test_kernel_and_device_must_fit() -> None:
    with pytest.raises(UsageError, match="unknown device 'tpu'; choose one of: auto, cuda, cpu"):
        choose.resolve(device="tpu")
    with pytest.raises(UsageError, match="kernel 'cpu' does not run on device 'cuda'"):
        choose.resolve("cpu", "cuda")
    with pytest.raises(UsageError, match="kernel 'triton' does not run on device 'cpu'"):
        choose.resolve("triton", "cpu")


@pytest.mark.parametrize(
    "error, said",
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore"),
            "too little memory",
        ),
        (RuntimeError("CUDA error: unspecified launch failure\nmore"), "failed in the middle"),
        (RuntimeError("CUDA_ERROR_LAUNCH_FAILED: unspecified"), "failed in the middle"),
    ],
)
def test_errors_of_the_device_are_told(error: RuntimeError, said: str) -> None:
    with pytest.raises(MissingDependency, match=said) as told, devices.telling(torch.device("cpu")):
        raise error
    assert "\n" not in str(told.value)


def test_a_device_lost_in_the_middle_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import clipgap
    from clipgap.store.writer import StoreWriter

    with StoreWriter(tmp_path / "train", 16) as store:
        for seed in range(4):
            store.add(synthetic.clip_like(40, 16, seed=seed))
    tests = {"t": synthetic.clip_like(9, 16, seed=9)}
    clipgap.scan(tmp_path / "train", tests, k=3, out=tmp_path / "whole", device="cpu")

    start, begun = GpuScanner.start, []

    def failing(self: GpuScanner, *block: np.ndarray) -> object:
        begun.append(block)
        if len(begun) == 6:
            with devices.telling(self.device):
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return start(self, *block)

    monkeypatch.setattr(GpuScanner, "start", failing)
    out = tmp_path / "scan"
    with pytest.raises(MissingDependency, match="before the last checkpoint is kept"):
        clipgap.scan(
            tmp_path / "train", tests, k=3, out=out, kernel="triton", block_rows=20, overwrite=True
        )
    assert not (out / "manifest.json").exists()
    clipgap.scan(tmp_path / "train", tests, k=3, out=out, device="cpu", resume=True)
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        assert file.read_bytes() == (tmp_path / "whole" / file.relative_to(out)).read_bytes()


def test_other_errors_pass(device: torch.device) -> None:
    with pytest.raises(RuntimeError, match="our bug"), devices.telling(device):
        raise RuntimeError("our bug")
