"""The steps of a scan on one device: a filter, in Triton or in CUDA C++, and the others, in Triton.

A step only queues work on the device's current stream, and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from clipgap.kernels.gpu.bounds import Bars, Bounds, LayOut, Quantise, Rows
from clipgap.kernels.gpu.panels import Panel
from clipgap.triton_kernels import INTERPRETED, expand, merge, quantise, refine
from clipgap.triton_kernels.quantise import Layout

LOWEST = -(2**63)
BEHIND = refine.BEHIND
# Survivors of a block and a panel. Interpreted, every launch copies all that it is given.
PAIRS = 1 << 15 if INTERPRETED else 1 << 23

Candidates = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Of each column: how many, (m,) int32; their scores, (m, slots) float64; their ids, int64."""


@dataclass(frozen=True)
class Winners:
    """What a part knows of its rows for one test set."""

    best: torch.Tensor  # (n,) int64, a float64 in the order of integers
    best_held: torch.Tensor  # what `nearest` is of
    nearest: torch.Tensor  # (n,) int32
    margin: torch.Tensor
    margin_held: torch.Tensor
    witness: torch.Tensor

    @classmethod
    def none(cls, n: int, device: torch.device) -> Winners:
        scores = torch.full((4, n), LOWEST, dtype=torch.int64, device=device)
        columns = torch.full((2, n), BEHIND, dtype=torch.int32, device=device)
        return cls(scores[0], scores[1], columns[0], scores[2], scores[3], columns[1])


@dataclass(frozen=True)
class Survivors:
    """The pairs that a filter let through."""

    pairs: torch.Tensor  # (2, capacity) int32: row, column
    count: torch.Tensor  # (1,) int64; runs past the capacity when some did not fit
    queued: torch.Tensor  # (1,) int64: words of the queue that the pairs were made of
    queue_capacity: int

    @property
    def lost(self) -> bool:
        """Whether some did not fit; waits for the device."""
        return int(self.count) > self.pairs.shape[1] or int(self.queued) > self.queue_capacity


class Filter(Protocol):
    """What lets pairs through that can still matter."""

    name: str
    multiple: int  # rows and columns are padded to whole multiples of this
    layout: Layout  # of the operands
    group: int  # columns of a queued word
    queue: torch.Tensor  # (3 or 4, capacity) int32; see triton_kernels/expand.py

    @property
    def configs(self) -> Sequence[Any]:
        """Ways to run it; the first is the one to expect."""
        ...

    def run(self, config: Any, rows: Rows, panel: Panel, bars: Bars, queued: torch.Tensor) -> None:
        """Queue pairs that clear a bar, and raise those of rows."""
        ...


class Steps:
    """The kernels of one device."""

    def __init__(self, filter: Filter, device: torch.device, pairs: int = PAIRS) -> None:
        self.name, self.multiple, self.configs = filter.name, filter.multiple, filter.configs
        self.quantise: Quantise = partial(quantise.quantise, layout=filter.layout)
        self.lay_out: LayOut = partial(quantise.lay_out, layout=filter.layout)
        self.filter_kernel, self._processors = filter, 1
        if device.type == "cuda":
            self._processors = torch.cuda.get_device_properties(device).multi_processor_count
        self._pairs = torch.zeros((2, pairs), dtype=torch.int32, device=device)
        self._scores = torch.zeros((pairs,), dtype=torch.float64, device=device)

    def filter(
        self,
        config: Any,
        rows: Rows,
        panel: Panel,
        floor: torch.Tensor,
        best: torch.Tensor,
        margin: torch.Tensor | None,
    ) -> Survivors:
        """Pairs whose upper bound reaches `best`, `floor` or `margin`; raises `best`, `margin`."""
        device, queue = rows.operand.device, self.filter_kernel.queue
        queued, count = nothing_queued(device), nothing_queued(device)
        self.filter_kernel.run(config, rows, panel, Bars(floor, best, margin), queued)
        expand.expand(
            queue, queued, self.filter_kernel.group, (floor, panel.tau_floor), best, margin,
            self._pairs, count, 4 * self._processors,
        )  # fmt: skip
        return Survivors(self._pairs, count, queued, queue.shape[1])

    def score(
        self,
        found: Survivors,
        rows: torch.Tensor,
        ids: torch.Tensor,
        panel: Panel,
        winners: Winners,
        candidates: Candidates,
        floods: torch.Tensor,
        refined: torch.Tensor,
    ) -> None:
        """Raise the winners' maxima, and collect candidates.

        `refined` and `floods`, of one number, count pairs and queues that overflowed.
        """
        refine.score(
            found.pairs, found.count, rows, ids, panel.halves, _tau(panel), panel.kth,
            self._scores, winners.best, winners.margin, candidates,
            found.queued, found.queue_capacity, floods, refined, 8 * self._processors,
        )  # fmt: skip

    def decide(self, found: Survivors, panel: Panel, winners: Winners) -> None:
        """Lower the winners' test rows to the first that hold the maxima."""
        tau = _tau(panel)
        refine.leave(
            winners.best, winners.best_held, winners.nearest,
            winners.margin, winners.margin_held, winners.witness, tau is not None,
        )  # fmt: skip
        refine.decide(
            found.pairs, found.count, self._scores, panel.given, tau,
            winners.best, winners.nearest, winners.margin, winners.witness, 4 * self._processors,
        )  # fmt: skip

    def merge(
        self, candidates: Candidates, panel: Panel, bounds: Bounds, floods: torch.Tensor
    ) -> None:
        """Take all candidates into the lists of a panel, and leave none; raises the k-th bests.

        `floods` rises where a column had more candidates than there is room for.
        """
        merge.merge(
            candidates, panel.list_score, panel.list_id,
            (panel.kth, panel.floor, bounds.below_terms), floods,
        )  # fmt: skip

    def write(
        self, winners: Winners, tables: Sequence[torch.Tensor], fixed: tuple[float, int] | None
    ) -> None:
        """Winners into a set's column of the tables sim, nn, margin, witness."""
        sim, nn, margin, witness = tables
        refine.write(
            (winners.best, winners.nearest, winners.margin, winners.witness),
            (sim, nn, margin, witness), fixed,
        )  # fmt: skip


def _tau(panel: Panel) -> torch.Tensor | None:
    return panel.tau if len(panel.tau) else None


def nothing_queued(device: torch.device) -> torch.Tensor:
    """A queue's count, which runs on when the queue is full: 65,536 rows have 2^32 pairs with a
    panel, and all of them may survive."""
    return torch.zeros((1,), dtype=torch.int64, device=device)
