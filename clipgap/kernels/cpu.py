"""The C++ kernels, bound with ctypes: quantised filter, float64 decision, all cores.

Environment: CLIPGAP_CPU_ISA forces one instruction set (avx512vnni, avx2, portable),
CLIPGAP_THREADS the number of threads, CLIPGAP_ROW_BLOCK the rows that a thread holds in its cache.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from clipgap.errors import MissingDependency, UsageError
from clipgap.kernels.interface import BlockResult, Counters, OneAtATime, Scanner, TestSet, TopK
from clipgap.machine import number_from, thread_count

LIBRARY = Path(__file__).with_name("_cpu.so")
BUILD_RECORD = Path(__file__).with_name("_cpu_build.json")
_DIRECTIONS = 32  # a head has a multiple of so many
_SAMPLE, _TRIAL_ROWS = 4096, 512
LOG = logging.getLogger(__name__)
_BLAS = Lock()  # lest another thread take the one for the number there was before

_Pointer = ctypes.c_void_p
_Size = ctypes.c_int64


class _Counters(ctypes.Structure):
    _fields_ = [(name, _Size) for name in ("rows", "pairs", "full_depth", "survivors", "refined")]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "cg_isa_name": (ctypes.c_char_p, [ctypes.c_int]),
    "cg_isa_supported": (ctypes.c_int, [ctypes.c_int]),
    "cg_cache_bytes": (_Size, [ctypes.c_int]),
    "cg_admit": (None, [_Pointer, ctypes.c_int, _Size, _Size, _Pointer, _Pointer, _Pointer]),
    "cg_scanner_new": (
        _Pointer,
        [ctypes.c_int, ctypes.c_int, _Size, _Size, ctypes.c_int, *[_Pointer] * 4, ctypes.c_int],
    ),
    "cg_scanner_free": (None, [_Pointer]),
    "cg_scan_block": (ctypes.c_int, [*[_Pointer] * 4, _Size, *[_Pointer] * 4]),
    "cg_use_directions": (_Size, [_Pointer, _Pointer, _Size, _Pointer, _Size, *[_Pointer] * 4]),
    "cg_topk_get": (None, [_Pointer, _Pointer, _Pointer]),
    "cg_topk_set": (None, [_Pointer, _Pointer, _Pointer]),
    "cg_topk_raise": (None, [_Pointer, _Pointer]),
    "cg_missing_threads": (ctypes.c_int, []),
    "cg_counters_get": (_Counters, [_Pointer]),
    "cg_row_block": (_Size, [_Pointer]),
    "cg_pairs": (
        _Size,
        [_Pointer, _Pointer, _Size, ctypes.c_int, ctypes.c_double, *[_Pointer] * 3],
    ),
    "cg_pairs_among": (_Size, [_Pointer, ctypes.c_int, ctypes.c_double, *[_Pointer] * 3]),
    "cg_sum_groups": (None, [ctypes.c_int, *[_Pointer] * 3, _Size, _Size, _Pointer]),
    "cg_sums_of_words": (None, [ctypes.c_int, _Pointer, _Size, _Size, _Pointer, _Pointer]),
    "cg_weigh": (
        None,
        [ctypes.c_int, ctypes.c_int, _Pointer, _Size, _Size, _Pointer, _Size, _Pointer],
    ),
    "cg_upper_bounds": (ctypes.c_int, [_Pointer, _Pointer, _Size, _Pointer]),
    "cg_refine": (None, [ctypes.c_int, _Size, _Size, _Pointer, _Pointer, _Pointer]),
    "cg_peak_fma": (ctypes.c_double, [ctypes.c_int, ctypes.c_double]),
    "cg_peak_int8": (ctypes.c_double, [ctypes.c_int, ctypes.c_double]),
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The shared library, or `MissingDependency` with the reason why there is none."""
    if not LIBRARY.exists():
        raise MissingDependency(f"the C++ kernels are not built: {why_not_built()}")
    return load(LIBRARY)


def load(path: Path) -> ctypes.CDLL:
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise MissingDependency(f"the C++ kernels do not load: {error}") from error
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(loaded, name)
        except AttributeError as error:
            raise MissingDependency(
                f"the C++ kernels are older than the package; install it again: {error}"
            ) from error
        function.restype, function.argtypes = result, arguments
    return loaded


def is_built() -> bool:
    try:
        library()
    except MissingDependency:
        return False
    return True


def why_not_built() -> str:
    try:
        record = json.loads(BUILD_RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "the package was never built; install it with `pip install .`"
    return str(record.get("reason", "the library was removed; install the package again"))


def instruction_sets() -> dict[str, bool]:
    """Those compiled in, fastest first, and whether this processor has them."""
    found: dict[str, bool] = {}
    while name := library().cg_isa_name(len(found)):
        found[name.decode()] = bool(library().cg_isa_supported(len(found)))
    return found


def chosen_isa() -> str:
    """The one named by CLIPGAP_CPU_ISA, else the fastest that this processor has."""
    known = instruction_sets()
    wanted = os.environ.get("CLIPGAP_CPU_ISA", "")
    if not wanted:
        return next(name for name, supported in known.items() if supported)
    if wanted not in known:
        raise UsageError(f"CLIPGAP_CPU_ISA={wanted} is not one of: {', '.join(known)}")
    if not known[wanted]:
        raise MissingDependency(f"CLIPGAP_CPU_ISA={wanted}, but this processor lacks it")
    return wanted


def isa_is_forced() -> bool:
    return bool(os.environ.get("CLIPGAP_CPU_ISA"))


def _address(array: NDArray[Any]) -> int:
    return array.ctypes.data


def admit(
    raw: NDArray[Any],
    rows: NDArray[np.float16] | None,
    status: NDArray[np.uint8],
    norm: NDArray[np.float64],
) -> None:
    """Fill status and norm of raw rows (n, d), and their float16 rows if asked to."""
    n, d = raw.shape
    library().cg_admit(
        _address(raw),
        raw.dtype.itemsize,
        n,
        d,
        None if rows is None else _address(rows),
        _address(status),
        _address(norm),
    )


def add_to_sums(
    sums: NDArray[np.float64],
    rows: NDArray[np.float16],
    group: NDArray[np.int32],
    threads: int | None = None,
) -> None:
    """Add rows (n, d) to the sums (groups, d) of their groups."""
    assert sums.flags.c_contiguous and rows.flags.c_contiguous and group.dtype == np.int32
    group = np.ascontiguousarray(group)
    order = np.argsort(group)  # a sum that is added to again and again stays in the cache
    library().cg_sum_groups(
        thread_count(threads),
        _address(rows),
        _address(group),
        _address(order),
        len(rows),
        rows.shape[1],
        _address(sums),
    )
    _tell_missing_threads(library())


def sums_of_words(rows: NDArray[Any], factors: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The sums of the words of each row, times their factors; rows are C-contiguous."""
    n, width = len(rows), rows.shape[1] * rows.itemsize
    assert rows.flags.c_contiguous and len(factors) == -(-width // 8)
    sums = np.empty(n, np.uint64)
    isa = list(instruction_sets()).index(chosen_isa())
    library().cg_sums_of_words(isa, _address(rows), n, width, _address(factors), _address(sums))
    return sums


def weigh(
    rows: NDArray[np.float16], weights: NDArray[np.float64], threads: int | None = None
) -> NDArray[np.float64]:
    """Scalar products (n, heads) of rows (n, d) with weights (heads, d)."""
    assert rows.flags.c_contiguous and rows.dtype == np.float16
    weights, sums = np.ascontiguousarray(weights), np.empty((len(rows), len(weights)))
    library().cg_weigh(
        list(instruction_sets()).index(chosen_isa()),
        thread_count(threads),
        _address(rows),
        len(rows),
        rows.shape[1],
        _address(weights),
        len(weights),
        _address(sums),
    )
    _tell_missing_threads(library())
    return sums


def _tell_missing_threads(loaded: ctypes.CDLL) -> None:
    if loaded.cg_missing_threads():
        _warn_of_missing_threads()


@lru_cache(maxsize=1)  # once in a process
def _warn_of_missing_threads() -> None:
    LOG.warning(
        "the system refused %d of the threads to compute with: a limit on processes or memory "
        "(ulimit -u, ulimit -v, the container's). The others do the work; the results are the same",
        library().cg_missing_threads(),
    )


def main_directions(rows: NDArray[np.float16], count: int) -> NDArray[np.float32]:
    """Orthonormal directions (count, d) in which rows differ most, the first ones most of all.

    Found by a few steps of subspace iteration: near enough, and any directions are right. In
    float64 they need to be made orthonormal only once.
    """
    wide = rows.astype(np.float32)
    wide -= wide.mean(axis=0)
    # Threads of a BLAS wait for each other by turning round: where a scan uses the cores as well,
    # that takes up to twenty times as long as one thread needs for all.
    with _BLAS, threadpool_limits(1, "blas"):
        spread = (wide.T @ wide).astype(np.float64)
        found = np.random.default_rng(0).standard_normal((rows.shape[1], count))
        for _ in range(4):
            found = spread @ found
            found /= np.abs(found).max() or 1.0
        found = np.linalg.qr(found)[0]
        turn = np.linalg.eigh(found.T @ (spread @ found))[1][:, ::-1]  # strongest first
        return np.ascontiguousarray((found @ turn).T, np.float32)


class CpuScanner(OneAtATime):
    """`Scanner` over the shared library."""

    def __init__(self, tests: Sequence[TestSet], k: int, threads: int | None = None) -> None:
        isa = chosen_isa()
        self.name = f"cpu/{isa}"
        self.threads = thread_count(threads)
        # Several shares for every thread, and little memory.
        self.block_rows = min(max(self.block_rows, 2048 * self.threads), 131_072)
        self.k = k
        self.sizes = [len(test.rows) for test in tests]
        self.d = tests[0].rows.shape[1]
        self._library = library()
        sizes = np.array(self.sizes, np.int64)
        rows = [np.ascontiguousarray(test.rows, np.float16) for test in tests]
        columns = np.concatenate(rows) if len(rows) > 1 else rows[0]
        tau = np.concatenate(
            [np.zeros(len(t.rows)) if t.gap is None else t.gap.astype(np.float64) for t in tests]
        )
        has_tau = np.array([test.gap is not None for test in tests], np.uint8)
        self._handle = self._library.cg_scanner_new(
            list(instruction_sets()).index(isa),
            self.threads,
            number_from("CLIPGAP_ROW_BLOCK") or 0,
            self.d,
            len(tests),
            _address(sizes),
            _address(columns),
            _address(tau),
            _address(has_tau),
            k,
        )
        if not self._handle:
            raise MemoryError("not enough memory for the test sets")
        self._sample = columns
        if len(columns) > _SAMPLE:
            self._sample = columns[:: len(columns) // _SAMPLE].copy()
        self._directions: NDArray[np.float32] | None = None
        self._used = 0
        self._near: NDArray[np.int32] | None = None
        self.may_look_first = True
        # Pairs until the filter is tried with a first look, which costs about as much as they do.
        self._look_at = 100_000_000 + 3_000 * len(columns)
        self._pairs_before = 0

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.cg_scanner_free(self._handle)
            self._handle = None

    @property
    def counters(self) -> Counters:
        c = self._library.cg_counters_get(self._handle)
        return Counters(c.rows, c.pairs, c.full_depth, c.survivors, c.refined)

    @property
    def row_block(self) -> int:
        """Rows that a thread holds in its cache."""
        return int(self._library.cg_row_block(self._handle))

    def begin_like(self, other: Scanner) -> None:
        if not isinstance(other, CpuScanner):
            return
        self._look_at, self._pairs_before = other._look_at, other._pairs
        self._directions = other._directions
        if self._directions is not None and other._used:
            self._used = self.use_directions(self._directions[: other._used])

    @property
    def _pairs(self) -> int:
        return self._pairs_before + self.counters.pairs

    def guess(self, near: NDArray[np.int32]) -> None:
        self._near = np.ascontiguousarray(near, np.int32)

    def scan(self, rows: NDArray[np.float16], ids: NDArray[np.int64]) -> BlockResult:
        rows, ids = self._checked(rows), np.ascontiguousarray(ids, np.int64)
        shape = (len(rows), len(self.sizes))
        near, self._near = self._near, None
        assert near is None or near.shape == shape
        result = BlockResult(
            np.empty(shape), np.empty(shape, np.int32), np.empty(shape), np.empty(shape, np.int32)
        )
        if self._library.cg_scan_block(
            self._handle,
            _address(rows),
            _address(ids),
            None if near is None else _address(near),
            len(rows),
            _address(result.sim),
            _address(result.nn),
            _address(result.margin),
            _address(result.witness),
        ):
            raise MemoryError("not enough memory for a block of rows")
        _tell_missing_threads(self._library)
        # Now and then, so that it costs little beside what was scanned since the last time.
        if self._pairs >= self._look_at:
            self.choose_looks(rows, result)
        return result

    def choose_looks(self, rows: NDArray[np.float16], known: BlockResult) -> None:
        """Let a trial on rows that were scanned decide whether the filter looks at heads first."""
        self._look_at = max(self._look_at, 4 * self._pairs)
        if self.d < 2 * _DIRECTIONS or not self.may_look_first:
            return
        if self._directions is None:
            count = min(8, self.d // (2 * _DIRECTIONS)) * _DIRECTIONS
            self._directions = main_directions(self._sample, count)
        some = slice(0, None, max(1, len(rows) // _TRIAL_ROWS))
        trial = rows[some], BlockResult(*(part[some] for part in vars(known).values()))
        self._used = used = self.use_directions(self._directions, trial)
        LOG.info("the filter looks at %s first", f"{used} directions" if used else "no directions")

    def use_directions(
        self,
        directions: NDArray[np.float32],
        trial: tuple[NDArray[np.float16], BlockResult] | None = None,
    ) -> int:
        """See `cg_use_directions`; a trial is rows and their results."""
        directions = np.ascontiguousarray(directions, np.float32)
        of_trial: list[NDArray[Any]] = []
        if trial is not None:
            results = map(np.ascontiguousarray, vars(trial[1]).values())
            of_trial = [self._checked(trial[0]), *results]
        rows, *known = map(_address, of_trial) if of_trial else [None] * 5
        used = self._library.cg_use_directions(
            self._handle,
            _address(directions),
            len(directions),
            rows,
            len(of_trial[0]) if of_trial else 0,
            *known,
        )
        return int(used)

    def pairs(
        self, rows: NDArray[np.float16], group: int, limit: float
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        """Row, column and score of each pair with test set `group` whose score exceeds `limit`."""
        rows = self._checked(rows)
        given = _address(rows), len(rows), group, limit
        return self._found(self._library.cg_pairs, len(rows) * self.sizes[group], *given)

    def pairs_among(
        self, group: int, limit: float
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        """The same of test set `group` with itself: each pair once, the later one as its row."""
        size = self.sizes[group]
        return self._found(self._library.cg_pairs_among, size * (size - 1) // 2, group, limit)

    def _found(
        self, find: Any, room: int, *given: Any
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        row, column = np.empty(room, np.int32), np.empty(room, np.int32)
        score = np.empty(room)
        found = find(self._handle, *given, _address(row), _address(column), _address(score))
        if found < 0:
            raise MemoryError("not enough memory for the pairs of a block of rows")
        _tell_missing_threads(self._library)
        # Copies, so that the room for pairs that were not found is given back.
        return row[:found].copy(), column[:found].copy(), score[:found].copy()

    def upper_bounds(self, rows: NDArray[np.float16]) -> NDArray[np.float64]:
        """What the filter believes each score (n, columns) could be at most."""
        rows = self._checked(rows)
        bounds = np.empty((len(rows), sum(self.sizes)))
        if self._library.cg_upper_bounds(self._handle, _address(rows), len(rows), _address(bounds)):
            raise MemoryError("not enough memory for a block of rows")
        return bounds

    def topk(self) -> list[TopK]:
        sim = np.empty((sum(self.sizes), self.k))
        ids = np.empty((sum(self.sizes), self.k), np.int64)
        self._library.cg_topk_get(self._handle, _address(sim), _address(ids))
        ends = np.cumsum(self.sizes)[:-1]
        return [TopK(s, i) for s, i in zip(np.split(sim, ends), np.split(ids, ends), strict=True)]

    def load_topk(self, lists: list[TopK]) -> None:
        sim = np.ascontiguousarray(np.concatenate([held.sim for held in lists]))
        ids = np.ascontiguousarray(np.concatenate([held.id for held in lists]))
        self._library.cg_topk_set(self._handle, _address(sim), _address(ids))

    def raise_bounds(self, kth: list[NDArray[np.float64]]) -> None:
        scores = np.concatenate(kth)
        self._library.cg_topk_raise(self._handle, _address(scores))

    def _checked(self, rows: NDArray[np.float16]) -> NDArray[np.float16]:
        if rows.dtype != np.float16 or rows.ndim != 2 or rows.shape[1] != self.d:
            raise ValueError(f"expected float16 rows (n, {self.d}), got {rows.dtype} {rows.shape}")
        return np.ascontiguousarray(rows)
