"""Rows on their way in: read, admitted, and turned away by the policy for bad rows."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.documents import checksum
from clipgap.kernels.admit import Admitted, Status, admit
from clipgap.kernels.interface import MAX_SCORE, TestSet, impossible_thresholds
from clipgap.memory import Lock, reusing
from clipgap.scan.cache import Rows, cached
from clipgap.scan.plan import ScanPlan
from clipgap.store.base import Store

LOAD_ROWS = 16_384
SHOWN = 20


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one shard, admitted."""

    shard: int
    start: int
    status: NDArray[np.uint8]  # (n,), of all rows
    rows: NDArray[np.float16]  # of the usable rows only
    ids: NDArray[np.int64]  # training ids of the usable rows
    keys: Any | None  # pyarrow string array (n,), where asked for

    @property
    def ok(self) -> NDArray[np.bool_]:
        return self.status <= Status.NORMALISED

    def without_rows(self) -> Block:
        """All that is still of use once the rows are scanned, in a fraction of the memory."""
        return replace(self, rows=self.rows[:0].copy(), ids=self.ids[:0].copy())


@dataclass(frozen=True)
class LoadedTest:
    """A test set in memory."""

    name: str
    store: Store
    status: NDArray[np.uint8]  # (rows,), of all rows
    rows: NDArray[np.float16]  # (usable, d)
    row_of: NDArray[np.int32]  # (usable,), the test row of each column
    sha256: str  # of all admitted rows
    gap: NDArray[np.float64] | None  # (usable,)

    @property
    def mapped(self) -> NDArray[np.int32] | None:
        """How columns become test rows; None where they are the same."""
        return None if len(self.row_of) == len(self.status) else self.row_of

    @property
    def first_rows(self) -> list[int]:
        """The test row at which each shard of the store begins."""
        return list(accumulate((shard.rows for shard in self.store.shards), initial=0))

    def columns(self) -> TestSet:
        return TestSet(self.name, self.rows, self.gap)

    def keys(self) -> Any | None:
        """The keys of all rows, or None."""
        if not self.store.has_keys:
            return None
        parts = [self.store.keys(shard.index, 0, shard.rows) for shard in self.store.shards]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.string())


def load_tests(plan: ScanPlan, cache: Path | None = None) -> list[LoadedTest]:
    """Read and admit all test sets, and give each its thresholds."""
    return [_load_test(plan, name, store, cache) for name, store in plan.tests.items()]


def _load_test(plan: ScanPlan, name: str, store: Store, cache: Path | None) -> LoadedTest:
    policy = plan.settings.bad_rows
    status, rows = cached(cache, store, policy, lambda: _read_test(store, policy))
    usable = status <= Status.NORMALISED
    if not usable.any():
        raise InputError(
            f"test set {name!r} ({store.path}) has no usable row: all {len(rows):,} are zero, "
            "NaN or infinite"
        )
    digest = rows_sha256(rows)
    gap = None
    if plan.has_gap(name):
        gap = _thresholds(plan, name, digest)[usable]
    return LoadedTest(
        name=name,
        store=store,
        status=status,
        rows=rows if usable.all() else rows[usable],
        row_of=np.flatnonzero(usable).astype(np.int32),
        sha256=digest,
        gap=gap,
    )


def _read_test(store: Store, policy: str) -> Rows:
    rows = np.zeros((store.rows, store.dim), np.float16)
    status = np.zeros(store.rows, np.uint8)
    at = 0
    for shard in store.shards:
        for start in range(0, shard.rows, LOAD_ROWS):
            stop = min(start + LOAD_ROWS, shard.rows)
            admitted = admit(store.read(shard.index, start, stop))
            refuse_bad_rows(policy, store, shard.index, start, admitted)
            rows[at : at + stop - start] = admitted.rows
            status[at : at + stop - start] = admitted.status
            at += stop - start
    return status, rows


def rows_sha256(rows: NDArray[np.float16]) -> str:
    """Identity of a test set: its admitted rows, bad ones as zeros, after their shape."""
    digest = hashlib.sha256(f"{rows.shape[0]} {rows.shape[1]} float16\n".encode())
    digest.update(np.ascontiguousarray(rows, "<f2").view(np.uint8).data)
    return digest.hexdigest()


def _thresholds(plan: ScanPlan, name: str, digest: str) -> NDArray[np.float64]:
    assert plan.gap is not None
    if plan.gap.test_input(name)["sha256"] != digest:
        raise InputError(
            f"the gap {plan.gap.label} was made with another test set {name!r}: its rows differ "
            f"from those of {plan.tests[name].path}. Run `clipgap gap` again with this test set."
        )
    tau: NDArray[np.float64] = plan.gap.tau(name)
    if len(wrong := impossible_thresholds(tau)):
        raise InputError(
            f"{plan.gap.label}, test set {name!r}, row {wrong[0]:,}: {tau[wrong[0]]:.9g} is not a "
            f"score, which lies between -{MAX_SCORE:.4f} and {MAX_SCORE:.4f}. The gap is damaged; "
            "run `clipgap gap` again."
        )
    return tau


def refuse_bad_rows(policy: str, store: Store, shard: int, start: int, admitted: Admitted) -> None:
    """Under the policy "error", raise if a row is not finite. Zero rows are always set aside."""
    if policy != "error":
        return
    bad = np.flatnonzero(admitted.status == Status.NOT_FINITE)
    if len(bad):
        name = store.shards[shard].name
        raise InputError.listing(
            f"{store.path}: {len(bad):,} of {len(admitted.status):,} rows read from {name} hold "
            'NaN or infinity. Mend the store, or set such rows aside with bad_rows="quarantine" '
            "(--bad-rows quarantine). The first ones:",
            [f"{name}, row {start + row:,}" for row in bad[:SHOWN]],
        )


def read_block(plan: ScanPlan, shard: int, start: int, stop: int, offset: int) -> Block:
    """Read and admit rows start … stop of a shard whose first training id is `offset`."""
    store, settings = plan.train, plan.settings
    admitted = admit(store.read(shard, start, stop))
    refuse_bad_rows(settings.bad_rows, store, shard, start, admitted)
    ids = np.arange(offset + start, offset + stop, dtype=np.int64)
    rows, ok = admitted.rows, admitted.ok
    all_ok = bool(ok.all())
    if not all_ok:
        rows, ids = rows[ok], ids[ok]
    # Without a training table, keys are wanted only for the list of rows set aside.
    wanted = store.has_keys and (settings.train_table or not all_ok)
    keys = store.keys(shard, start, stop) if wanted else None
    return Block(shard, start, admitted.status, rows, ids, keys)


_Cut = tuple[int, int, int, int]  # shard, start, stop, training id of the shard's first row


def _first(waiting: deque[tuple[Future[Block], bool]]) -> tuple[Block, bool]:
    """Taken here, so that a reader that waits for its next call holds no block itself."""
    future, last = waiting.popleft()
    return future.result(), last


class BlockReader:
    """Blocks of the given shards, each shard's in order, read a few ahead of whoever takes them."""

    def __init__(
        self,
        plan: ScanPlan,
        block_rows: int,
        workers: int,
        lock: Lock | None = None,
        together: int = 1,
    ) -> None:
        """`lock` is for the memory that blocks are read into; blocks come by turns from so many
        shards `together`."""
        self._plan, self._block_rows, self._together = plan, block_rows, together
        self._ahead = workers + 1
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="clipgap-read")
        self._memory = reusing(lock)

    def __enter__(self) -> BlockReader:
        self._memory.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._memory.__exit__(*error)

    def blocks(self, shard_numbers: Iterable[int]) -> Iterator[tuple[Block, bool]]:
        """Each block, and whether its shard ends with it; an empty shard has one empty block."""
        waiting: deque[tuple[Future[Block], bool]] = deque()
        for arguments, last in self._by_turns(shard_numbers):
            waiting.append((self._pool.submit(read_block, self._plan, *arguments), last))
            if len(waiting) > self._ahead:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)

    def _by_turns(self, shard_numbers: Iterable[int]) -> Iterator[tuple[_Cut, bool]]:
        waiting = map(self._cuts, shard_numbers)
        under_way = deque(islice(waiting, self._together))
        while under_way:
            cuts = under_way.popleft()
            cut, last = next(cuts)
            yield cut, last
            under_way.extend(islice(waiting, 1) if last else [cuts])

    def _cuts(self, shard: int) -> Iterator[tuple[_Cut, bool]]:
        rows, offset = self._plan.train.shards[shard].rows, int(self._plan.offsets[shard])
        for start in range(0, max(rows, 1), self._block_rows):
            stop = min(start + self._block_rows, rows)
            yield (shard, start, stop, offset), stop == rows


# --- what a plan and a manifest say of them


def describe_inputs(plan: ScanPlan, tests: Sequence[LoadedTest]) -> dict[str, Any]:
    """Everything the results follow from: rows by fingerprint, thresholds, settings."""
    return {
        "kind": plan.kind,
        "inputs": {
            "train": plan.train.identity(),
            "tests": [_describe_test(test) for test in tests],
            "gap": _describe_gap(plan),
            **({} if plan.heads is None else {"heads": plan.heads.cite()}),
            **({"mixed_models": True} if plan.is_mixed else {}),
        },
        "settings": {**asdict(plan.settings), "above": list(plan.settings.above)},
    }


def marks(plan: ScanPlan) -> dict[str, Any]:
    """What tells that a shard was edited in place, for as long as a scan is unfinished."""
    return {shard.name: plan.train.modified(shard.index) for shard in plan.train.shards}


def _describe_test(test: LoadedTest) -> dict[str, Any]:
    return {
        "name": test.name,
        "path": test.store.path,
        "format": test.store.format,
        "rows": len(test.status),
        "normalised": int(np.count_nonzero(test.status == Status.NORMALISED)),
        "quarantined": len(test.status) - len(test.rows),
        "sha256": test.sha256,
        **test.store.made_by(),
    }


def _describe_gap(plan: ScanPlan) -> dict[str, Any] | None:
    if plan.gap is None:
        return None
    return {
        "path": plan.gap.label,
        "manifest_sha256": checksum(plan.gap.manifest),
        "sets": [name for name in plan.tests if plan.has_gap(name)],
    }
