"""Every kernel against the float64 oracle, by equality."""

from __future__ import annotations

from functools import lru_cache, reduce
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipgap.errors import InputError, MissingDependency, UsageError
from clipgap.kernels import cpu
from clipgap.kernels.admit import Status, admit
from clipgap.kernels.choose import available_kernels, make_scanner
from clipgap.kernels.interface import MAX_SCORE, Scanner, TestSet, TopK
from clipgap.kernels.oracle import OracleScanner, exact_scores
from clipgap.synthetic import rows as synthetic
from tests.kernels import (
    CPU_KERNELS,
    KERNELS,
    TWO_LOOKS,
    answers,
    assert_equal_answers,
    assert_equal_results,
    assert_equal_topk,
    assert_like_oracle,
    kernel,
)
from tests.thorough import examples

DIMS = (3, 17, 64, 512, 640, 768, 1000, 1024, 1536)
KINDS = ("clip-like", "isotropic", "equal", "duplicates", "near-ties", "window")
KS = (1, 6, 32, 64)
# One to seven test sets, ragged, smaller and larger than any tile.
SIZES = (
    (1,),
    (70,),
    (33, 1),
    (5, 40, 17),
    (16, 32, 48, 1),
    (1, 2, 3, 4, 5),
    (9, 9, 9, 9, 9, 9),
    (31, 7, 31, 7, 31, 7, 1),
)
ROWS = (1, 5, 97, 260)


def make_tests(kind: str, d: int, sizes: tuple[int, ...], gap: str) -> list[TestSet]:
    """Test sets with a gap for all, some or none of them; infinities among the thresholds."""
    reference = synthetic.rows(kind, 0, 40, d, seed=99)
    tests = []
    for g, size in enumerate(sizes):
        rows = synthetic.rows(kind, 0, size, d, seed=10 + g)
        tau = None
        if gap == "all" or (gap == "some" and g % 2 == 0):
            tau = exact_scores(rows, reference).max(axis=1)
            if g % 3 == 1:
                tau[::3] = np.inf
            if g % 3 == 2:
                tau[1::2] = -np.inf
        tests.append(TestSet(f"set{g}", rows, tau))
    return tests


def make_blocks(rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Uneven blocks, one of them empty, out of order."""
    n = len(rows)
    cuts = [0, n // 3, n // 3, n // 2, n]
    ids = np.arange(n) + 7_000_000_000
    return [(rows[a:b], ids[a:b]) for a, b in pairwise(cuts)][::-1]


def cases() -> list[tuple[int, str, int, tuple[int, ...], str, int]]:
    """d × kind × k in full; sizes, gaps and row counts take turns beside them."""
    sizes, gaps, rows = cycle(SIZES), cycle(("none", "all", "some")), cycle(ROWS)
    return [
        (d, kind, k, next(sizes), next(gaps), next(rows))
        for d in DIMS
        for kind in KINDS
        for k in KS
    ]


@lru_cache(maxsize=len(KINDS) * len(KS))
def posed(d: int, kind: str, k: int, sizes: tuple[int, ...], gap: str, n: int) -> tuple[Any, ...]:
    """Test sets and blocks of rows, and what the oracle says; all kernels are asked in turn."""
    tests = make_tests(kind, d, sizes, gap)
    blocks = make_blocks(synthetic.rows(kind, 0, n, d, seed=1))
    return tests, blocks, answers(OracleScanner(tests, k), blocks)


def assert_answers(
    name: str, d: int, kind: str, k: int, sizes: tuple[int, ...], gap: str, n: int
) -> None:
    tests, blocks, expected = posed(d, kind, k, sizes, gap, n)
    with kernel(name) as scanner:
        assert_equal_answers(answers(scanner(tests, k), blocks), expected)


@pytest.mark.parametrize("name", [*KERNELS, *TWO_LOOKS])
@pytest.mark.parametrize("d", DIMS)
def test_equals_the_oracle(name: str, d: int) -> None:
    for case in cases():
        if case[0] == d:
            assert_answers(name, *case)


@pytest.mark.parametrize("name", [*KERNELS, *TWO_LOOKS])
@pytest.mark.parametrize("gap", ["none", "all", "some"])
@pytest.mark.parametrize("kind", ["clip-like", "near-ties"])
def test_larger_than_one_block_of_rows(name: str, gap: str, kind: str) -> None:
    assert_answers(name, 64, kind, 32, (300, 45), gap, 5000)


@pytest.mark.parametrize("name", TWO_LOOKS)
@pytest.mark.parametrize("kind", ["clip-like", "duplicates", "isotropic"])
def test_a_set_large_enough_for_cells(name: str, kind: str) -> None:
    """Each row first asks the columns nearest to it; where all are alike, that is any of them."""
    assert_answers(name, 64, kind, 6, (33, 4200), "all", 500)


@pytest.mark.parametrize("name", TWO_LOOKS)
@pytest.mark.parametrize("set_is", ["in a plane", "one point", "few points", "long rows"])
def test_sets_that_tell_directions_little(name: str, set_is: str) -> None:
    """Directions that mean nothing, tails of no length, vectors of 4,096 numbers."""
    d = 4096 if set_is == "long rows" else 256
    rows = synthetic.clip_like(230, d)
    points = synthetic.clip_like(150, d, seed=1)
    if set_is == "in a plane":
        flat = np.outer(rows[:150, 0], rows[0]) + np.outer(rows[:150, 1], rows[1])
        points = admit(flat.astype(np.float64)).rows
    elif set_is != "long rows":
        points = points[: 1 if set_is == "one point" else 20]
    tests = [TestSet("a", points, exact_scores(points, rows[:5]).max(axis=1)), TestSet("b", points)]
    blocks = make_blocks(rows)
    with kernel(name) as scanner:
        assert_equal_answers(
            answers(scanner(tests, 6), blocks), answers(OracleScanner(tests, 6), blocks)
        )


@pytest.mark.parametrize("name", KERNELS)
def test_same_answer_for_any_threads_blocks_and_order(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = make_tests("near-ties", 40, (50, 21), "all")
    rows, ids = synthetic.rows("near-ties", 0, 700, 40, seed=1), np.arange(700)
    with kernel(name) as scanner:
        reference = scanner(tests, 6)
        expected = reference.scan(rows, ids)
        for threads, row_block, step in ((1, 1, 1), (2, 7, 64), (3, 64, 333), (2, 333, 7)):
            monkeypatch.setenv("CLIPGAP_ROW_BLOCK", str(row_block))
            other = scanner(tests, 6, threads)
            starts = np.random.default_rng(step).permutation(np.arange(0, 700, step))
            for start in starts[: 700 if step > 1 else 60]:
                here = slice(start, start + step)
                part = other.scan(rows[here], ids[here])
                np.testing.assert_array_equal(part.sim, expected.sim[here])
                np.testing.assert_array_equal(part.nn, expected.nn[here])
                np.testing.assert_array_equal(part.witness, expected.witness[here])
            if step > 1:
                assert_equal_topk(other.topk(), reference.topk())


@pytest.mark.parametrize("name", KERNELS)
def test_a_block_that_comes_twice_changes_nothing(name: str) -> None:
    tests = make_tests("duplicates", 32, (20,), "none")
    rows, ids = synthetic.rows("duplicates", 0, 300, 32, seed=1), np.arange(300)
    with kernel(name) as scanner:
        once, twice = scanner(tests, 32), scanner(tests, 32)
        once.scan(rows, ids)
        twice.scan(rows[100:], ids[100:])
        twice.scan(rows, ids)
        assert_equal_topk(twice.topk(), once.topk())


@pytest.mark.parametrize("name", [*KERNELS, *TWO_LOOKS])
def test_goes_on_from_loaded_lists(name: str) -> None:
    tests = make_tests("clip-like", 64, (30, 11), "some")
    rows, ids = synthetic.clip_like(400, 64, seed=1), np.arange(400)
    with kernel(name) as scanner:
        whole, first, second = scanner(tests, 6), scanner(tests, 6), scanner(tests, 6)
        whole.scan(rows, ids)
        first.scan(rows[:150], ids[:150])
        second.load_topk(first.topk())
        second.scan(rows[150:], ids[150:])
        assert_equal_topk(second.topk(), whole.topk())


@pytest.mark.parametrize("name", [*KERNELS, *TWO_LOOKS])
@given(
    kind=st.sampled_from(KINDS),
    k=st.integers(1, 10),
    workers=st.integers(2, 3),
    random=st.randoms(use_true_random=False),
)
@examples(25)
def test_bounds_of_others_leave_what_all_have_together_as_it_is(
    name: str, kind: synthetic.Kind, k: int, workers: int, random: Any
) -> None:
    """Blocks in any order, one of them done twice: what ties may come with the smaller id later."""
    tests = make_tests(kind, 64, (30, 11), "some")
    rows = synthetic.rows(kind, 0, 60, 64, seed=1)
    rows, ids = np.concatenate([rows, rows, rows]), np.arange(180)
    blocks = [(rows[a : a + 30], ids[a : a + 30]) for a in range(0, 180, 30)]
    blocks = random.sample([*blocks, random.choice(blocks)], 7)
    oracle = OracleScanner(tests, k)
    with kernel(name) as scanner:
        each = [scanner(tests, k, 1) for _ in range(workers)]
        for block in blocks:
            worker = random.choice(each)
            assert_equal_results(worker.scan(*block), oracle.scan(*block))
            random.choice(each).raise_bounds([held.sim[:, -1] for held in merged(each)])
        assert_equal_topk(merged(each), oracle.topk())


def merged(scanners: list[Scanner]) -> list[TopK]:
    lists = zip(*(scanner.topk() for scanner in scanners), strict=True)
    return [reduce(TopK.merge, of_set) for of_set in lists]


@pytest.mark.parametrize("name", KERNELS)
def test_bounds_of_others_save_work(name: str) -> None:
    tests = [TestSet("t", synthetic.clip_like(500, 64, seed=1))]
    rows, ids = synthetic.clip_like(6000, 64), np.arange(6000)
    with kernel(name) as scanner:
        first, told, alone = (scanner(tests, 10, 1) for _ in range(3))
        first.scan(rows[:4000], ids[:4000])
        told.raise_bounds([held.sim[:, -1] for held in first.topk()])
        for one in (told, alone):
            one.scan(rows[4000:5000], ids[4000:5000])
            one.raise_bounds([np.full(500, -np.inf)])
            one.scan(rows[5000:], ids[5000:])
        assert told.counters.refined < 0.8 * alone.counters.refined


@pytest.mark.parametrize("name", [*KERNELS, *TWO_LOOKS])
def test_a_reference_never_prunes_itself(name: str) -> None:
    """Ten thousand members of the reference, hidden in the training set, tie with their own τ."""
    d, members = 64, 10_000
    reference = synthetic.clip_like(members, d, seed=3)
    points = synthetic.clip_like(150, d, seed=4)
    with kernel(name) as scanner:
        gap_scan = scanner([TestSet("t", points)], 1)
        gap_scan.scan(reference, np.arange(members))
        tau = gap_scan.topk()[0].sim[:, 0].copy()
        result = scanner([TestSet("t", points, tau)], 1).scan(reference, np.arange(members))
    assert result.margin.max() == 0.0  # some member attains each τ, none exceeds it
    assert np.count_nonzero(result.margin == 0.0) > 10


@pytest.mark.parametrize("name", [*CPU_KERNELS, *TWO_LOOKS])
@given(
    d=st.integers(1, 300),
    rows=st.integers(1, 40),
    columns=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
    spikes=st.integers(0, 3),
    stretch=st.sampled_from([0.985, 1.0, 1.0099]),
)
@examples(60)
def test_the_bound_is_never_below_the_score(
    name: str, d: int, rows: int, columns: int, seed: int, spikes: int, stretch: float
) -> None:
    """What the whole filter rests on, for vectors of any shape and any norm up to 1.01."""
    random = np.random.default_rng(seed)

    def vectors(n: int) -> np.ndarray:
        x = random.standard_normal((n, d)) * np.exp(random.standard_normal(d))
        for _ in range(spikes):
            x[:, random.integers(d)] += random.choice([30.0, -3.0])
        x *= stretch / np.linalg.norm(x, axis=1, keepdims=True)
        halves = x.astype(np.float16)
        too_long = np.linalg.norm(halves.astype(np.float64), axis=1) > 1.01
        halves[too_long] *= np.float16(0.99)
        return halves

    x, t = vectors(rows), vectors(columns)
    with kernel(name) as scanner:
        made = scanner([TestSet("t", t)], 1)
        assert isinstance(made, cpu.CpuScanner)
        assert (made.upper_bounds(x) >= exact_scores(x, t)).all()


@pytest.mark.parametrize("name", CPU_KERNELS)
def test_the_filter_filters(name: str) -> None:
    """On CLIP-like rows few pairs need their exact score; a bound gone loose would show here."""
    tests = [TestSet("t", synthetic.clip_like(2000, 256, seed=1))]
    rows = synthetic.clip_like(6000, 256)
    with kernel(name) as scanner:
        made = scanner(tests, 1)
        made.scan(rows, np.arange(len(rows)))
        assert made.counters.pairs == 6000 * 2000
        assert made.counters.refined < 40 * made.counters.rows
        assert made.counters.refined <= made.counters.survivors


def apart_in(dimensions: int, n: int) -> np.ndarray:
    """Rows; nearly all that tells them apart lies in so many dimensions."""
    x = np.random.default_rng(5).standard_normal((n, 640))
    return admit(x * np.where(np.arange(640) < dimensions, 1.0, 0.02)).rows


@pytest.mark.parametrize("name", CPU_KERNELS)
@pytest.mark.parametrize("helps", [True, False])
def test_a_first_look_is_taken_where_it_helps(name: str, helps: bool) -> None:
    """In the middle of a scan; results are those of one look."""
    halves = apart_in(24 if helps else 640, 4970)
    points, rows = halves[:970], halves[970:]
    tests = [
        TestSet("large", points[:900], exact_scores(points[:900], rows[:9]).max(axis=1)),
        TestSet("small", points[900:]),
    ]
    ids = np.arange(len(rows))
    with kernel(name) as scanner:
        one, two = scanner(tests, 2), scanner(tests, 2)
        assert isinstance(two, cpu.CpuScanner)
        for here in (slice(0, 1500), slice(1500, 3000), slice(3000, 4000)):
            two._look_at = 0
            assert_equal_results(two.scan(rows[here], ids[here]), one.scan(rows[here], ids[here]))
        assert_equal_topk(two.topk(), one.topk())
        assert one.counters.full_depth == one.counters.pairs
        if helps:
            assert two.counters.full_depth < 0.8 * two.counters.pairs
        else:
            assert two.counters.full_depth == two.counters.pairs


@pytest.mark.parametrize("name", [*KERNELS, *TWO_LOOKS, "numpy"])
@pytest.mark.parametrize("kind", ["clip-like", "duplicates", "near-ties"])
def test_guesses_change_no_result(name: str, kind: str) -> None:
    """Good ones and bad ones, whether lists are kept or not."""
    tests = make_tests(kind, 70, (90, 1, 33), "some")
    rows, ids = synthetic.rows(kind, 0, 300, 70, seed=1), np.arange(300)
    oracle = OracleScanner(tests, 6)
    expected = oracle.scan(rows, ids)
    random = np.random.default_rng(0).integers([90, 1, 33], size=(300, 3)).astype(np.int32)
    with kernel(name) as scanner:
        for near in (expected.nn, random, np.zeros_like(random)):
            guided = scanner(tests, 6)
            guided.guess(near)
            assert_equal_results(guided.start(rows, ids).result(), expected)
            assert_equal_topk(guided.topk(), oracle.topk())
            without_lists = scanner(tests, 0)
            without_lists.guess(near)
            assert_equal_results(without_lists.scan(rows, ids), expected)
            begun_later = without_lists.scan(rows[:9], ids[:9])  # the guess was not of these
            assert_equal_results(begun_later, oracle.scan(rows[:9], ids[:9]))
        assert_equal_results(scanner(tests, 0).scan(rows, ids), expected)


@pytest.mark.parametrize("name", CPU_KERNELS)
def test_a_scanner_begins_with_what_another_has_learned(name: str) -> None:
    points, moved, rows = np.split(apart_in(24, 2800), [900, 1800])
    ids = np.arange(1000)
    with kernel(name) as scanner:
        first, second = scanner([TestSet("t", points)], 0), scanner([TestSet("t", moved)], 0)
        assert isinstance(first, cpu.CpuScanner) and isinstance(second, cpu.CpuScanner)
        first._look_at = 0
        first.scan(rows, ids)
        second.begin_like(first)
        expected = OracleScanner([TestSet("t", moved)], 0).scan(rows, ids)
        assert_equal_results(second.scan(rows, ids), expected)
        assert second.counters.full_depth < second.counters.pairs


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize("d", [1, 3, 17, 640])
def test_admission_in_cpp_gives_the_bits_of_numpy(dtype: str, d: int) -> None:
    if not cpu.is_built():
        pytest.skip("the C++ kernels are not built")
    from clipgap.kernels import admit as module

    random = np.random.default_rng(d)
    x = random.standard_normal((400, d))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x *= random.choice([1.0, 1.0, 1e-6, 0.9991, 1.0009, 1.002, 30.0], (400, 1))
    x[3], x[4, 0], x[5, -1], x[6], x[7, 0] = 0, np.nan, -np.inf, 6e-8, -0.0
    x = x.astype(dtype)
    mine = module._admit_in_cpp(x)
    theirs = module._admit_in_numpy(x.astype(x.dtype.newbyteorder("=")))
    np.testing.assert_array_equal(mine.norm, theirs.norm)
    np.testing.assert_array_equal(mine.status, theirs.status)
    np.testing.assert_array_equal(mine.rows.view(np.uint16), theirs.rows.view(np.uint16))
    assert list(mine.status[3:6]) == [2, 3, 3]


@pytest.mark.parametrize(
    "norm", [5e-324, 3e-309, 1e-300, 1e-162, 2.0**-451, 2.0**-450, 1e154, 1e200, 1e306]
)
@pytest.mark.parametrize("how", ["cpp", "numpy"])
def test_admission_of_rows_whose_squares_leave_float64(how: str, norm: float) -> None:
    """The same directions, bit for bit, wherever the numbers lie: squares may not get lost."""
    if how == "cpp" and not cpu.is_built():
        pytest.skip("the C++ kernels are not built")
    from clipgap.kernels import admit as module

    admit = module._admit_in_cpp if how == "cpp" else module._admit_in_numpy
    scale = np.ldexp(1.0, np.frexp(norm)[1])
    # Small whole numbers stay what they are under any power of two, the smallest of all included.
    x = np.random.default_rng(3).integers(-9, 10, (40, 21)).astype(np.float64)
    far = admit(x * scale)
    np.testing.assert_array_equal(far.status, Status.NORMALISED)
    np.testing.assert_array_equal(far.norm, module.row_norms(x) * scale)
    np.testing.assert_array_equal(far.rows.view(np.uint16), admit(x).rows.view(np.uint16))
    # One number among small ones decides; infinity and NaN among large ones are still seen.
    x[0], x[0, 5] = 0.0, 1.0
    x[1, 2], x[2, 3], x[3] = np.inf, np.nan, 0.0
    far = admit(x * scale)
    assert far.status[:5].tolist() == [1, 3, 3, 2, 1]
    assert far.rows[0, 5] == 1 and not far.rows[1:4].any()


def test_the_norm_of_a_row_can_be_beyond_float64() -> None:
    x = np.full((2, 8), np.finfo(np.float64).max)
    x[1, 1:] = 1
    admitted = admit(x)
    assert admitted.status.tolist() == [Status.NORMALISED] * 2
    assert admitted.norm.tolist() == [np.inf, np.finfo(np.float64).max]
    np.testing.assert_array_equal(admitted.rows[0], np.float16(8**-0.5))
    np.testing.assert_array_equal(admitted.rows[1], [1] + [0] * 7)


def test_admission_rounds_once() -> None:
    """A float64 that float32 would first round onto a tie between two float16 values."""
    x = np.zeros((1, 2))
    x[0, 0] = 0.5 + 2.0**-12 + 2.0**-40  # just above half way between 0.5 and the next float16
    x[0, 1] = np.sqrt(1 - x[0, 0] ** 2)
    assert admit(x).rows[0, 0] == np.float16(0.5 + 2.0**-11)


def test_admission_keeps_rows_near_norm_one() -> None:
    rows = synthetic.clip_like(50, 64)
    admitted = admit(rows)
    assert admitted.ok.all()
    np.testing.assert_array_equal(admitted.rows, rows)
    again = admit(admit((rows * np.float32(7)).astype(np.float32)).rows)
    assert (again.status == 0).all(), "what admission made, it lets pass"


def test_choice_of_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    tests = [TestSet("t", synthetic.clip_like(5, 16))]
    names = [info.name for info in available_kernels()]
    assert names == ["triton", "cuda", "triton-float16", "cuda-float16", "cpu", "torch", "numpy"]
    assert make_scanner(tests, 1, kernel="numpy").name == "numpy"
    with pytest.raises(UsageError, match="unknown kernel 'fast'; choose one of: auto, triton"):
        make_scanner(tests, 1, kernel="fast")
    monkeypatch.setenv("CLIPGAP_CPU_ISA", "avx9")
    with pytest.raises(UsageError, match="CLIPGAP_CPU_ISA=avx9 is not one of"):
        make_scanner(tests, 1)
    monkeypatch.delenv("CLIPGAP_CPU_ISA")
    monkeypatch.setenv("CLIPGAP_THREADS", "zero")
    with pytest.raises(UsageError, match="CLIPGAP_THREADS=zero is not a number"):
        make_scanner(tests, 1)
    monkeypatch.delenv("CLIPGAP_THREADS")
    monkeypatch.setattr(cpu, "library", _no_library)
    with pytest.raises(MissingDependency, match="not built"):
        make_scanner(tests, 1, kernel="cpu")
    assert make_scanner(tests, 1).name != "cpu"


def test_a_library_of_an_older_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    if not cpu.is_built():
        pytest.skip("the C++ kernels are not built")
    monkeypatch.setitem(cpu._SIGNATURES, "cg_of_tomorrow", (None, []))
    with pytest.raises(MissingDependency, match=r"older than the package.*cg_of_tomorrow"):
        cpu.load(cpu.LIBRARY)


def _no_library() -> None:
    raise MissingDependency("the C++ kernels are not built: no compiler")


def test_bad_test_sets_are_refused() -> None:
    good = TestSet("good", synthetic.clip_like(5, 16))
    with pytest.raises(UsageError, match="k is 65"):
        make_scanner([good], 65)
    with pytest.raises(UsageError, match="no test set"):
        make_scanner([], 1)
    with pytest.raises(InputError, match="different dimensions"):
        make_scanner([good, TestSet("odd", synthetic.clip_like(5, 32))], 1)
    with pytest.raises(InputError, match="'empty' has no usable rows"):
        make_scanner([TestSet("empty", good.rows[:0])], 1)
    with pytest.raises(InputError, match="'good' is NaN at row 2"):
        make_scanner([TestSet("good", good.rows, np.array([0, 0, np.nan, 0, 0]))], 1)


@pytest.mark.parametrize("bad", [1.03, -1.03, 1000.0, -1e300, np.nan])
def test_thresholds_that_no_score_can_be_are_refused(bad: float) -> None:
    """Whoever calls a kernel, and whichever: rounded margins could tie, and no filter sees that."""
    rows = synthetic.clip_like(5, 16)
    with pytest.raises(InputError, match=r"'odd' is (NaN|[-+e0-9.]+) at row 1; .* or infinite"):
        TestSet("odd", rows, np.array([0.5, bad, np.inf, -np.inf, 0.0]))


def test_a_gap_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match=r"has 5 rows, but its gap has shape \(4,\)"):
        TestSet("short", synthetic.clip_like(5, 16), np.zeros(4))


def test_more_dimensions_than_the_bounds_allow_for_are_refused() -> None:
    with pytest.raises(InputError, match="with d at most 8,192"):
        TestSet("wide", np.zeros((1, 8193), np.float16))


@pytest.mark.parametrize("name", KERNELS)
def test_thresholds_at_the_ends_of_what_scores_can_be(name: str) -> None:
    rows, points = synthetic.clip_like(300, 16), synthetic.clip_like(70, 16, seed=2)
    tests = [
        TestSet("all", points, np.linspace(-MAX_SCORE, MAX_SCORE, 70)),
        TestSet("low", points[:9], np.full(9, -MAX_SCORE)),
        TestSet("high", points[:9], np.full(9, MAX_SCORE)),
    ]
    with kernel(name) as scanner:
        assert_like_oracle(scanner(tests, 3), tests, 3, make_blocks(rows))


@pytest.mark.parametrize("name", [*KERNELS, *TWO_LOOKS])
def test_one_point_opposite_to_all_others(name: str) -> None:
    """The finest grid and the longest residuals: no bound in integers may leave 32 bits."""
    point = np.zeros(64, np.float16)
    point[0] = 1
    points = np.tile(point, (3001, 1))
    points[1501] *= -1
    rows = np.concatenate([np.tile(-point, (400, 1)), synthetic.isotropic(400, 64)])
    tests = [TestSet("t", points, np.linspace(-1, 1, 3001))]
    with kernel(name) as scanner:
        assert_like_oracle(scanner(tests, 4), tests, 4, make_blocks(rows))


def test_kernels_agree_with_each_other_on_results() -> None:
    tests = make_tests("window", 96, (60, 5), "all")
    rows, ids = synthetic.rows("window", 0, 333, 96, seed=1), np.arange(333)
    results = []
    for name in KERNELS:
        with kernel(name) as scanner:
            results.append(scanner(tests, 6).scan(rows, ids))
    for other in results[1:]:
        assert_equal_results(other, results[0])
