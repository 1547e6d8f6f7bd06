"""The CUDA kernels, run on the CPU thread by thread (tests/cuda), by equality with the oracle."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipgap.errors import MissingDependency
from clipgap.kernels.interface import TestSet
from clipgap.kernels.oracle import exact_scores
from clipgap.synthetic import rows as synthetic
from tests.kernels import assert_like_oracle, filter_everything
from tests.test_kernels import KINDS, make_blocks, make_tests

torch = pytest.importorskip("torch")
pytest.importorskip("triton")  # in which all steps but the filter are written

from clipgap.kernels.gpu import bounds, cuda_shapes, devices, scanner  # noqa: E402
from clipgap.kernels.gpu import steps as gpu_steps  # noqa: E402
from clipgap.kernels.gpu.cuda_shapes import (  # noqa: E402
    MOST_SHARED,
    OPERANDS,
    depth_of,
    every_shape,
    shape_for,
)
from clipgap.kernels.gpu.scanner import GpuScanner  # noqa: E402
from tests import interpreting  # noqa: E402, F401
from tests.cuda.emulation import LANDINGS, emulated_steps  # noqa: E402

CPU = torch.device("cpu")
LARGEST = dict.fromkeys(MOST_SHARED, 4 << 20)
"""With so much shared memory every shape fits every depth."""


def kind_of(operand: str) -> str:
    return "cuda" if operand == "int8" else "cuda-float16"


def shapes(d: int, operand: str) -> list[tuple[int, cuda_shapes.Shape]]:
    depth = depth_of(d, operand)
    return [
        (chip, one)
        for chip in MOST_SHARED
        for one in every_shape(chip, LARGEST[chip], depth, operand)
    ]


Case = tuple[int, cuda_shapes.Shape, int, str, int, tuple[int, ...], str, int, str]


def cases() -> list[Case]:
    """Every shape with several dimensions and kinds of data."""
    ks, sizes = cycle((1, 6, 32, 64)), cycle(((1,), (90, 7), (300,), (129,)))
    gaps, rows = cycle(("none", "all", "some")), cycle((1, 130, 270))
    kinds = cycle(KINDS)
    landings = cycle(("in reverse", "at once", "at random", "in order", "at once"))

    def case(chip: int, shape: cuda_shapes.Shape, d: int) -> Case:
        data, k, m, gap = next(kinds), next(ks), next(sizes), next(gaps)
        return chip, shape, d, data, k, m, gap, next(rows), next(landings)

    several = [case(*one, 640) for one in shapes(640, "int8")]
    several += [case(*one, 129) for one in shapes(129, "float16")]
    several += [case(*one, 3) for one in shapes(3, "int8") if one[1].columns >= 128]
    # As a card would cut them, where only the narrowest has room.
    long = [
        (chip, shape_for(chip, room, depth_of(d, operand), operand), d)
        for chip, room in MOST_SHARED.items()
        for operand, d in (("int8", 1536), ("float16", 768))
    ]
    return several + [(*one, "clip-like", 6, (40,), "all", 20, "in reverse") for one in long]


@pytest.mark.parametrize(
    "case", cases(), ids=lambda case: "-".join((case[1].kernel, *map(str, case[2:5])))
)
def test_equals_the_oracle(case: Case) -> None:
    chip, shape, d, data, k, sizes, gap, n, landing = case
    steps = emulated_steps(chip, d, landing=landing, shape=shape)
    tests = make_tests(data, d, sizes, gap)
    rows = synthetic.rows(data, 0, n, d, seed=1)
    made = GpuScanner(tests, k, CPU, kind_of(shape.operand), steps=steps)
    assert_like_oracle(made, tests, k, make_blocks(rows))


@pytest.mark.parametrize("landing", ["at once", "in reverse"])
@pytest.mark.parametrize("chip", MOST_SHARED)
@pytest.mark.parametrize("operand", OPERANDS)
def test_bands_stretches_and_a_ring_that_goes_round(
    operand: str, chip: int, landing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More pieces than blocks, more slices than stages, and bounds that carry over."""
    monkeypatch.setattr(scanner, "FIRST_ROWS", 150)
    monkeypatch.setattr(scanner, "SAMPLE_ROWS", 100)
    d = 300 // OPERANDS[operand]
    shape = next(one for one in every_shape(chip, 120 << 10, 384, operand) if one.columns == 128)
    steps = emulated_steps(chip, d, landing=landing, shape=shape)
    tests = make_tests("clip-like", d, (400, 5), "all")
    rows = synthetic.clip_like(520, d, seed=1)
    made = GpuScanner(tests, 6, CPU, kind_of(operand), steps=steps)
    blocks = [(rows[:450], np.arange(450)), (rows[450:], np.arange(450, 520))]
    assert_like_oracle(made, tests, 6, blocks)
    assert made.counters.refined < made.counters.pairs / 8, "the filter lets most pairs through"


def long_rows() -> list[tuple[cuda_shapes.Shape, int, int]]:
    """Shapes whose ring holds one row tile or less, with dimensions and rows; on an H100 those of
    640 dimensions with 256 columns, and of 1,024 with fewer."""
    room = MOST_SHARED[90]
    on_a_card = [
        (shape, d, 256)
        for columns, d in ((256, 768), (128, 1024), (64, 1024))
        for shape in every_shape(90, room, d)
        if shape.columns == columns
    ]
    # Fewer stages than a card has room for: a tile fills the ring once, or almost twice.
    short = [
        (replace(shape, stages=stages), d, 384)
        for d, stages in ((384, 3), (640, 3))
        for shape in every_shape(90, room, d)
    ]
    return on_a_card + short


@pytest.mark.parametrize("landing", LANDINGS[1:])
@pytest.mark.parametrize(
    ("shape", "d", "n"),
    long_rows(),
    ids=lambda value: value.name if isinstance(value, cuda_shapes.Shape) else str(value),
)
def test_every_sum_is_right_where_a_tile_fills_the_ring(
    shape: cuda_shapes.Shape, d: int, n: int, landing: str
) -> None:
    """Both groups have row tiles of their own, and a phase of the ring can be over before a group
    that waits for it has seen the one before."""
    assert d // shape.slice >= shape.stages
    # Two blocks, and with 384 rows an odd number of tiles for each.
    steps = emulated_steps(90, d, landing=landing, shape=shape, processors=2, pairs=n * 256)
    rows, points = synthetic.clip_like(n, d, seed=1), synthetic.clip_like(256, d, seed=2)
    left, panel, survivors = filter_everything(steps, rows, points)
    p, q = (untiled(operand, steps).int() for operand in (panel.operand, left.operand))
    upper = q @ p.T + left.offset[:, None] + panel.start[None, :]
    row, column, queued = steps.filter_kernel.queue[:, : int(survivors.count)]
    there = torch.full_like(upper, -(2**31))
    there[row, column] = queued
    assert torch.equal(there, upper)


@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize("operand", OPERANDS)
@pytest.mark.parametrize("chip", MOST_SHARED)
def test_bounds_rise_by_what_tiles_show_and_all_that_reach_them_are_queued(
    chip: int, operand: str, margin: bool
) -> None:
    d, n = 64, 256
    steps = emulated_steps(chip, d, operand=operand, processors=2, pairs=n * n)
    rows, points = synthetic.clip_like(n, d, seed=1), synthetic.clip_like(n, d, seed=2)
    tau = np.random.default_rng(3).uniform(0.2, 0.9, n)
    made = GpuScanner([TestSet("t", points, tau)], 1, CPU, kind_of(operand), steps=steps)
    (panel,), known = made._panels(), made.bounds.rows(torch.from_numpy(rows), n)
    never = torch.full_like(panel.floor, made.bounds.never)
    bests = [torch.full_like(known.offset, made.bounds.always) for _ in range(2 if margin else 1)]
    steps.filter(steps.configs[0], known, panel, never, bests[0], bests[1] if margin else None)
    p, q = (untiled(operand, steps).double() for operand in (panel.operand, known.operand))
    upper = q @ p.T + known.offset[:, None].double() + panel.start[None, :].double()
    between = known.width[:, None].double() + panel.thickness[None, :].double()
    loose = 1e-5 if operand == "float16" else 0.0  # sums are rounded there
    asked = torch.zeros_like(upper, dtype=torch.bool)
    for best, tau_floor in zip(bests, (0 * panel.tau_floor, panel.tau_floor), strict=False):
        above = upper - tau_floor[None, :].double()
        assert (best.double() <= (above - between).amax(1) + loose).all()
        assert (best.double() >= (above - between.amax(1)[:, None]).amax(1) - loose).all()
        asked |= above >= best[:, None].double() + loose
    queue = steps.filter_kernel.queue
    there = torch.zeros_like(asked)
    there[queue[0], queue[1]] = True
    there[0, 0] = asked[0, 0]  # where the end of the queue points to
    assert not (asked & ~there).any()
    assert not there.all()


@pytest.mark.parametrize("chip", MOST_SHARED)
def test_a_pair_that_only_its_column_asks_for(chip: int) -> None:
    """A test point's nearest row may have a far nearer test point itself."""
    d, rows = 64, synthetic.clip_like(200, 64, seed=1)
    # Each row has a twin among the test points, so that no other pair can be its best.
    points = np.concatenate([rows, synthetic.clip_like(200, 64, seed=2)])
    tests = [TestSet("t", points)]
    made = GpuScanner(tests, 1, CPU, "cuda", steps=emulated_steps(chip, d))
    blocks = [(rows[a : a + 100], np.arange(a, a + 100)) for a in (0, 100)]
    assert_like_oracle(made, tests, 1, blocks)


@pytest.mark.parametrize("chip", MOST_SHARED)
def test_a_queue_that_overflows_is_decided_densely(
    chip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = []
    decide = GpuScanner.decide_densely
    monkeypatch.setattr(
        GpuScanner, "decide_densely", lambda *given: (dense.append(1), decide(*given))
    )
    tests = make_tests("equal", 32, (70, 5), "some")
    rows = synthetic.rows("equal", 0, 90, 32, seed=1)
    steps = emulated_steps(chip, 32, pairs=64)
    assert_like_oracle(GpuScanner(tests, 6, CPU, "cuda", steps=steps), tests, 6, make_blocks(rows))
    assert dense


@pytest.mark.parametrize("chip", MOST_SHARED)
def test_a_flood_of_as_many_pairs_as_a_count_of_32_bits_has_values(
    chip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """65,536 rows that all reach all 65,536 columns of a panel; all but the last tiles' pairs are
    counted before the filter begins."""
    n = 256
    monkeypatch.setattr(gpu_steps, "nothing_queued", lambda device: torch.tensor([2**32 - n * n]))
    steps = emulated_steps(chip, 32, pairs=n * n)
    rows, points = synthetic.clip_like(n, 32, seed=1), synthetic.clip_like(n, 32, seed=2)
    _, _, survivors = filter_everything(steps, rows, points)
    assert int(survivors.count) == 2**32
    assert survivors.lost


def test_an_id_that_comes_twice_counts_once() -> None:
    steps = emulated_steps(80, 64)
    tests = [TestSet("t", synthetic.clip_like(20, 64, seed=2))]
    rows = synthetic.rows("duplicates", 0, 40, 64, seed=1)
    ids = np.arange(40)
    once, twice = (GpuScanner(tests, 6, CPU, "cuda", steps=steps) for _ in range(2))
    once.scan(rows, ids)
    for _ in range(2):
        twice.scan(rows, ids)
    (one,), (two,) = once.topk(), twice.topk()
    np.testing.assert_array_equal(one.sim, two.sim)
    np.testing.assert_array_equal(one.id, two.id)


@settings(max_examples=15)
@given(
    d=st.integers(1, 300),
    n=st.integers(1, 40),
    chip=st.sampled_from(sorted(MOST_SHARED)),
    seed=st.integers(0, 2**32 - 1),
    spike=st.booleans(),
)
def test_integers_lie_as_the_filter_reads_them_and_bounds_hold(
    d: int, n: int, chip: int, seed: int, spike: bool
) -> None:
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, d)) * np.exp(random.standard_normal(d))
    x[:, random.integers(d)] += 30.0 * spike
    rows = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    rows = rows[np.linalg.norm(rows.astype(np.float64), axis=1) <= 1.01]
    if not len(rows):
        return
    points = torch.from_numpy(rows)
    steps = emulated_steps(chip, d)
    grid = bounds.Grid.fit([rows], CPU, steps.quantise, 256)
    left, right = grid.rows(points, 256), grid.columns(points, 256)
    p = untiled(right.operand, steps)[: len(rows)].double()
    q = untiled(left.operand, steps)[: len(rows)].double()
    upper = q @ p.T + left.offset[: len(rows), None] + right.start[None, : len(rows)]
    lower = upper - left.width[: len(rows), None] - right.thickness[None, : len(rows)]
    scores = exact_scores(rows, rows)
    assert (upper.numpy() * grid.unit >= scores).all()
    assert (lower.numpy() * grid.unit <= scores).all()
    assert not untiled(left.operand, steps)[len(rows) :].any()
    halves = untiled(bounds.Half(d, CPU, steps.lay_out).rows(points, 256).operand, steps)
    assert torch.equal(halves[: len(rows), :d], points)
    assert not halves[len(rows) :].any()
    assert not halves[:, d:].any()


def untiled(operand: torch.Tensor, steps: gpu_steps.Steps) -> torch.Tensor:
    """An operand row by row, from tiles, slices and permuted 16-byte chunks."""
    layout, places = steps.filter_kernel.layout, len(operand)
    tiles = operand.view(torch.int8).reshape(
        places // layout.tile, -1, layout.tile, layout.slice // 16, 16
    )
    row = np.arange(layout.tile)
    turn = row % 8 if layout.slice == 128 else row // 2 % 4
    chunks = np.arange(layout.slice // 16)
    there = torch.from_numpy(chunks[None, :] ^ turn[:, None])
    plain = torch.gather(tiles, 3, there[None, None, :, :, None].expand_as(tiles))
    return plain.permute(0, 2, 1, 3, 4).reshape(places, -1).view(operand.dtype)


@pytest.mark.parametrize("chip", MOST_SHARED)
def test_result_folders_are_those_of_the_cpu_kernel(
    chip: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import clipgap

    monkeypatch.setattr(devices, "usable_devices", lambda written_in: [CPU])
    monkeypatch.setattr(scanner, "make_steps", lambda kind, device, d: emulated_steps(chip, d))
    train = synthetic.clip_like(300, 32, seed=1)
    tests = {"a": synthetic.clip_like(40, 32, seed=2), "b": synthetic.clip_like(9, 32, seed=3)}
    gap = clipgap.gap(
        synthetic.clip_like(50, 32, seed=4), tests, out=tmp_path / "gap", kernel="numpy"
    )

    def folder(kernel: str) -> dict[str, bytes]:
        out = tmp_path / kernel
        clipgap.scan(train, tests, gap=gap, k=6, out=out, kernel=kernel, block_rows=70)
        return {
            str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()
        }

    assert folder("cuda") == folder("numpy")


def test_shapes_fit_and_the_widest_comes_first() -> None:
    assert shape_for(90, MOST_SHARED[90], 640).name == "64x256x128/7s"
    assert shape_for(90, MOST_SHARED[90], 768).columns == 256
    assert shape_for(90, MOST_SHARED[90], 896).name == "64x128x128/8s"
    assert shape_for(90, MOST_SHARED[90], 1280, "float16").name == "64x128x128/8s"
    assert shape_for(80, MOST_SHARED[80], 640).kernel == "filter_int8_sm80_128_4"
    assert shape_for(80, MOST_SHARED[80], 1024).kernel == "filter_int8_sm80_128_2"
    assert shape_for(80, 99 << 10, 1024).kernel == "filter_int8_sm80_64_2"
    for chip, room in MOST_SHARED.items():
        for depth in range(128, 2049, 128):
            assert shape_for(chip, room, depth).shared <= room
    with pytest.raises(MissingDependency, match=r"rows of 8,192 bytes do not fit into the 163 KiB"):
        shape_for(80, MOST_SHARED[80], 8192)


def test_a_machine_without_cupy_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = devices.importlib.util.find_spec
    monkeypatch.setattr(
        devices.importlib.util, "find_spec", lambda name: None if name == "cupy" else find(name)
    )
    with pytest.raises(
        MissingDependency, match=r"cupy is not installed; `pip install 'clipgap\[cuda13\]'`"
    ):
        devices.usable_devices("cuda")
