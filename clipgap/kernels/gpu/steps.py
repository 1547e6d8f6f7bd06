"""What a scan asks of its kernels, however they are written: in Triton or in CUDA C++.

A step only queues work on the device's current stream, and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from clipgap.kernels.gpu.bounds import Quantise, Rows
from clipgap.kernels.gpu.panels import Panel

LOWEST = -(2**63)
BEHIND = 2**31 - 1
"""A test row behind all others: what a row holds before any."""

Candidates = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Of each column: how many, (m,) int32; their scores, (m, slots) float64; their ids, int64."""


@dataclass(frozen=True)
class Winners:
    """What a part knows of its rows for one test set."""

    best: torch.Tensor  # (n,) int64, a float64 in the order of integers
    nearest: torch.Tensor  # (n,) int32
    margin: torch.Tensor
    witness: torch.Tensor

    @classmethod
    def none(cls, n: int, device: torch.device) -> Winners:
        def lowest() -> torch.Tensor:
            return torch.full((n,), LOWEST, dtype=torch.int64, device=device)

        def behind() -> torch.Tensor:
            return torch.full((n,), BEHIND, dtype=torch.int32, device=device)

        return cls(lowest(), behind(), lowest(), behind())


@dataclass(frozen=True)
class Survivors:
    """The pairs that a filter let through."""

    pairs: torch.Tensor  # (2 or more, capacity) int32: row, column
    count: torch.Tensor  # (1,) int64; runs past the capacity when some did not fit
    best: torch.Tensor  # the filter's bounds of rows, as it left them
    margin: torch.Tensor | None
    floor: torch.Tensor  # the bounds of columns that it used
    lost: torch.Tensor  # whether some did not fit


class Steps(Protocol):
    """The kernels of one device."""

    name: str
    multiple: int  # rows and columns are padded to whole multiples of this

    @property
    def configs(self) -> Sequence[Any]:
        """Ways to run the filter; the first is the one to expect."""
        ...

    @property
    def quantise(self) -> Quantise:
        """Rows to integers on the grid."""
        ...

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
        ...

    def score(
        self,
        found: Survivors,
        rows: torch.Tensor,
        ids: torch.Tensor,
        panel: Panel,
        winners: Winners,
        candidates: Candidates,
    ) -> torch.Tensor:
        """Raise the winners' maxima, collect candidates; returns how many pairs were computed."""
        ...

    def decide(self, found: Survivors, panel: Panel, winners: Winners) -> None:
        """Lower the winners' test rows to the first that hold the maxima."""
        ...

    def merge(
        self, candidates: Candidates, list_score: torch.Tensor, list_id: torch.Tensor
    ) -> None:
        """Take all candidates into the lists (m, k), and leave none."""
        ...


def nothing_queued(device: torch.device) -> torch.Tensor:
    """A queue's count, which runs on when the queue is full: 65,536 rows have 2^32 pairs with a
    panel, and all of them may survive."""
    return torch.zeros((1,), dtype=torch.int64, device=device)


def overflow(count: torch.Tensor, capacity: int) -> torch.Tensor:
    """Whether a queue's count ran past its end."""
    return (count > capacity).any()
