"""`GpuScanner`: blocks of training rows in, exact results out.

A block is cut into parts that never hold more rows than were seen before, so that the lists of the
k best rise in step with what is offered to them. For each part and each panel of test points:

    filter    queue the pairs whose upper bound can still matter
    score     exact float64 scores; the rows' maxima and the columns' candidates
    decide    which test row holds each maximum
    merge     candidates into the lists of the k best

All of it is queued on the device without waiting for it. Whether a queue overflowed is known when
the block's results are fetched; then that test set is decided densely for that block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipgap.kernels.gpu import dense
from clipgap.kernels.gpu.bounds import Bounds, Grid, Half, Rows
from clipgap.kernels.gpu.devices import free_bytes, lock_pages, telling
from clipgap.kernels.gpu.panels import Panel, cut, lists_of, load_lists, prepare, raise_bounds
from clipgap.kernels.gpu.steps import Steps, Survivors, Winners
from clipgap.kernels.interface import (
    BlockResult,
    Counters,
    Scanner,
    SomeAhead,
    TestSet,
    TopK,
)
from clipgap.memory import Lock

FIRST_ROWS = 2048  # of the first part
SAMPLE_ROWS = 4096  # give the columns' bounds a start


@dataclass(frozen=True)
class _Tables:
    """Results of a block on the device, (n, G) each, set by set as tables take them."""

    sim: torch.Tensor
    nn: torch.Tensor
    margin: torch.Tensor
    witness: torch.Tensor

    @classmethod
    def empty(cls, n: int, sets: int, device: torch.device, pinned: bool = False) -> _Tables:
        def make(dtype: torch.dtype) -> torch.Tensor:
            return torch.empty((sets, n), dtype=dtype, device=device, pin_memory=pinned).T

        return cls(make(torch.float64), make(torch.int32), make(torch.float64), make(torch.int32))

    def all(self) -> tuple[torch.Tensor, ...]:
        return self.sim, self.nn, self.margin, self.witness

    def fetch(self, other: _Tables) -> None:
        for mine, theirs in zip(self.all(), other.all(), strict=True):
            mine.copy_(theirs, non_blocking=True)


class GpuScanner(SomeAhead):
    """`Scanner` on one device."""

    ahead = 2
    block_rows = 65_536
    writers = 4

    def __init__(
        self,
        tests: Sequence[TestSet],
        k: int,
        device: torch.device,
        kind: str = "int8",
        config: Any = None,  # of the filter; otherwise the fastest, found by timing
        steps: Steps | None = None,
    ) -> None:
        k = max(1, k)  # a list of one is simpler than none
        self.tests, self.k, self.device = list(tests), k, device
        self.counters = Counters()  # of blocks whose results were fetched
        self._begun = 0  # rows
        self._on_gpu = device.type == "cuda"
        self.lock_pages: Lock | None = partial(lock_pages, device) if self._on_gpu else None
        d = tests[0].rows.shape[1]
        with telling(device):
            if self._on_gpu:
                self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # Half of what is free is left to blocks, queues and the dense way.
            free = free_bytes(device)
            self._steps = steps or make_steps(kind, device, d)
            self.name, multiple = self._steps.name, self._steps.multiple
            points = [test.rows for test in tests]
            self.bounds: Bounds = (
                Half(d, device, self._steps.lay_out)
                if kind.endswith("float16")
                else Grid.fit(points, device, self._steps.quantise, multiple)
            )
            room = None if free is None else free // 2
            self._sets = prepare(self.bounds, tests, k, device, multiple, room)
            self.config = config or self._steps.configs[0]
            self._tuned = config is not None or len(self._steps.configs) == 1
            widest = max(panel.count for panel in self._panels())
            slots = (1 << (max(8 * k, 16) - 1).bit_length()) - k
            self._candidates = (
                self._zeros((widest,), torch.int32),
                self._zeros((widest, slots), torch.float64),
                self._zeros((widest, slots), torch.int64),
            )

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def begin_like(self, other: Scanner) -> None:
        if isinstance(other, GpuScanner):
            self.config, self._tuned = other.config, other._tuned

    def start(
        self,
        rows: NDArray[np.float16] | torch.Tensor,
        ids: NDArray[np.int64] | torch.Tensor,
    ) -> _Block:
        """Queue a block; `result()` of what comes back waits for it.

        Tensors that are on the device already are taken as they are.
        """
        self._begun += len(rows)
        with telling(self.device):
            return _Block(self, rows, ids)

    def topk_later(self) -> Callable[[], list[TopK]]:
        with telling(self.device):
            lists = [lists_of(found, self.k) for found in self._sets]
            done = self.mark()

        def fetch() -> list[TopK]:
            with telling(self.device):
                done()
                return [in_order() for in_order in lists]

        return fetch

    def mark(self) -> Callable[[], object]:
        """What waits for all that is queued now, and for no more."""
        if not self._on_gpu:
            return lambda: None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event.synchronize

    def load_topk(self, lists: list[TopK]) -> None:
        with telling(self.device):
            for found, held in zip(self._sets, lists, strict=True):
                load_lists(found, self.bounds, held)

    def raise_bounds(self, kth: list[NDArray[np.float64]]) -> None:
        with telling(self.device):
            for found, bound in zip(self._sets, kth, strict=True):
                raise_bounds(found, self.bounds, self.upload(np.array(bound)))

    def kth(self) -> list[torch.Tensor]:
        """Lower bounds of the k-th best, panel by panel; for other devices to take note of."""
        return [panel.kth for panel in self._panels()]

    def raise_kth(self, kth: list[torch.Tensor]) -> None:
        """Take note of bounds that another device has reached."""
        with telling(self.device):
            for panel, bound in zip(self._panels(), kth, strict=True):
                # What comes to the host's memory is read at once, so that is waited for.
                goes_on = panel.kth.is_cuda
                panel.raise_kth(self.bounds, bound.to(panel.kth.device, non_blocking=goes_on))

    def upload(self, array: NDArray[Any] | torch.Tensor) -> torch.Tensor:
        """The array on the device; the host's may not change until the device comes to it."""
        if isinstance(array, torch.Tensor):
            return array
        host = torch.from_numpy(np.ascontiguousarray(array))
        if not self._on_gpu:
            return host
        # Blocks lie in locked pages as a rule (`lock_pages`), and then the device copies from where
        # they were read to. The copy runs beside the block before.
        pinned = host if host.is_pinned() else host.pin_memory()
        with torch.cuda.stream(self._copies):
            here = pinned.to(self.device, non_blocking=True)
        compute = torch.cuda.current_stream(self.device)
        compute.wait_stream(self._copies)
        here.record_stream(compute)
        return here

    def count(self, rows: int, survived: int) -> None:
        """Add a block to the counters."""
        self.counters.rows += rows
        self.counters.pairs += rows * sum(found.size for found in self._sets)
        self.counters.survivors += survived
        self.counters.refined += survived

    # What follows only queues work.

    def run(self, rows: torch.Tensor, ids: torch.Tensor, out: _Tables) -> torch.Tensor:
        """Fill the tables of a block.

        Returns, as one tensor, how often each set's queues overflowed, and how many pairs survived.
        """
        floods = self._zeros((len(self._sets) + 1,), torch.int64)
        start = 0
        while start < len(rows):
            seen = self._begun - len(rows) + start
            stop = min(len(rows), start + max(FIRST_ROWS, seen))
            if seen == 0:
                self._sample(rows[:SAMPLE_ROWS])
            self._run_part(rows[start:stop], ids[start:stop], out, slice(start, stop), floods)
            start = stop
        return floods

    def _sample(self, rows: torch.Tensor) -> None:
        """Bounds of the k-th best: of k groups of rows, each reaches the least of their maxima."""
        each = len(rows) // self.k
        if each == 0:
            return
        # Exact, as in float64 every product of stored rows is. What a float16 or float32 product
        # loses is for torch's flags to say, which are the whole process's and may change.
        sample = rows[: each * self.k].double()
        for panel in self._panels():
            with panel.on(self.device) as here:
                reached = [
                    (sample @ here.halves[first:last].double().T)
                    .reshape(self.k, each, -1)
                    .amax(1)
                    .amin(0)
                    for first, last in cut(here.count, dense.TILE_COLUMNS)
                ]
                here.raise_kth(self.bounds, torch.cat(reached))

    def _panels(self) -> list[Panel]:
        return [panel for found in self._sets for panel in found.panels]

    def _run_part(
        self,
        rows: torch.Tensor,
        ids: torch.Tensor,
        out: _Tables,
        here: slice,
        floods: torch.Tensor,
    ) -> None:
        n = len(rows)
        places = -(-n // self._steps.multiple) * self._steps.multiple
        known = self.bounds.rows(rows, places)
        for g, found in enumerate(self._sets):
            winners = Winners.none(n, self.device)
            best, lead = torch.full(
                (2, places), self.bounds.always, dtype=known.offset.dtype, device=self.device
            )
            margin = lead if found.decides_margin else None
            for panel in found.panels:
                with panel.on(self.device) as columns:
                    self._tune(known, columns)
                    let_through = self._steps.filter(
                        self.config, known, columns, columns.floor, best, margin
                    )
                    counts = floods[g : g + 1], floods[-1:]
                    self._refine(let_through, rows, ids, columns, winners, *counts)
            fixed = None if found.decides_margin else (found.fixed_margin, found.fixed_witness)
            columns_of_set = [table[here, g] for table in out.all()]
            self._steps.write(winners, columns_of_set, fixed)

    def _refine(
        self,
        found: Survivors,
        rows: torch.Tensor,
        ids: torch.Tensor,
        panel: Panel,
        winners: Winners,
        floods: torch.Tensor,
        refined: torch.Tensor,
    ) -> None:
        """Decide the survivors; `floods` rises where a queue or a column's room was too small."""
        candidates = self._candidates
        self._steps.score(found, rows, ids, panel, winners, candidates, floods, refined)
        self._steps.decide(found, panel, winners)
        self._merge(panel, floods)

    def _merge(self, panel: Panel, floods: torch.Tensor) -> None:
        count, score, ids = (tensor[: panel.count] for tensor in self._candidates)
        self._steps.merge((count, score, ids), panel, self.bounds, floods)

    def filter_alone(self, rows: torch.Tensor) -> None:
        """The filter of a block with bounds that let nothing through, for measuring it."""
        known = self.bounds.rows(rows, -(-len(rows) // self._steps.multiple) * self._steps.multiple)
        for panel in self._panels():
            with panel.on(self.device) as here:
                self._filter_nothing(self.config, known, here)

    def _filter_nothing(self, config: Any, rows: Rows, panel: Panel) -> None:
        never = torch.full_like(rows.offset, self.bounds.never)
        floor = torch.full_like(panel.floor, self.bounds.never)
        margin = never.clone() if len(panel.tau) else None
        self._steps.filter(config, rows, panel, floor, never, margin)

    def _tune(self, rows: Rows, panel: Panel) -> None:
        """Time the configurations once, on the first part that is large enough to tell."""
        if self._tuned or len(rows.operand) * len(panel.operand) < 1 << 28:
            return
        self._tuned = True

        def milliseconds(config: Any) -> float:
            begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._filter_nothing(config, rows, panel)  # compiles
            begin.record()
            self._filter_nothing(config, rows, panel)
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end))

        self.config = min(self._steps.configs, key=milliseconds)

    def decide_densely(self, g: int, rows: torch.Tensor, ids: torch.Tensor, out: _Tables) -> None:
        """The whole of one test set for a block, without the filter."""
        found = self._sets[g]
        best = dense.RowWinners(len(rows), self.device)
        margin = dense.RowWinners(len(rows), self.device) if found.decides_margin else None
        for panel in found.panels:
            with panel.on(self.device) as here:
                dense.decide(rows, ids, here, self.k, best, margin, self._candidates)
                self._merge(here, self._zeros((1,), torch.int64))
        out.sim[:, g], out.nn[:, g] = best.score, best.column
        if margin is not None:
            out.margin[:, g], out.witness[:, g] = margin.score, margin.column


class _Block:
    """A block on its way."""

    def __init__(
        self,
        scanner: GpuScanner,
        rows: NDArray[np.float16] | torch.Tensor,
        ids: NDArray[np.int64] | torch.Tensor,
    ) -> None:
        self._scanner = scanner
        # Held until the device has copied them: the next block is read into the same memory.
        self._given: object = (rows, ids)
        self._rows, self._ids = scanner.upload(rows), scanner.upload(ids)
        device, sets = scanner.device, len(scanner.tests)
        self._there = self._here = _Tables.empty(len(rows), sets, device)
        self._floods = scanner.run(self._rows, self._ids, self._there)
        self._on_gpu = device.type == "cuda"
        if self._on_gpu:
            self._here = _Tables.empty(len(rows), sets, torch.device("cpu"), pinned=True)
            self._here.fetch(self._there)
            floods = self._floods
            self._floods = torch.empty_like(floods, device="cpu").pin_memory()
            self._floods.copy_(floods, non_blocking=True)
        self._done = scanner.mark()

    def result(self) -> BlockResult:
        scanner = self._scanner
        with telling(scanner.device):
            self._done()
            self._given = None
            *floods, survived = self._floods.tolist()
            scanner.count(len(self._rows), survived)
            flooded = [g for g, flood in enumerate(floods) if flood]
            for g in flooded if len(self._rows) else ():
                scanner.decide_densely(g, self._rows, self._ids, self._there)
            if flooded and self._on_gpu:
                self._here.fetch(self._there)
                torch.cuda.current_stream(scanner.device).synchronize()
        here = self._here
        return BlockResult(
            here.sim.numpy(), here.nn.numpy(), here.margin.numpy(), here.witness.numpy()
        )


def make_steps(kind: str, device: torch.device, d: int) -> Steps:
    """The kernels behind a kind of filter, imported only where they run."""
    operand = "float16" if kind.endswith("float16") else "int8"
    if kind.startswith("cuda"):
        from clipgap.kernels.gpu.cuda_filter import CudaFilter

        return Steps(CudaFilter.on(device, d, operand), device)
    from clipgap.kernels.gpu.triton_filter import TritonFilter

    return Steps(TritonFilter(device, operand), device)
