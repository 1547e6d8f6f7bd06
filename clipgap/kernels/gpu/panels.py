"""The test points on the device, in panels of at most 65,536 columns of one test set.

Columns lie in a spread order: neighbours in a test set are often of one class, and a stride through
the set makes the first panel a sample of all of it, so that the rows' bounds rise at once. Within a
panel the order is then that of how well columns fit the filter's grid. Where panels do not fit on
the device they live in the host's memory and come over one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipgap.kernels.gpu.bounds import Bounds, Columns
from clipgap.kernels.interface import NO_ID, TestSet, TopK

PANEL = 65_536


@dataclass(frozen=True)
class Panel:
    """Some columns of one test set; tensors have `places` rows, the first `count` of them real."""

    count: int
    resident: bool  # on the device for good
    operand: torch.Tensor
    start: torch.Tensor
    thickness: torch.Tensor
    tau_floor: torch.Tensor  # τ in the kernel's numbers, rounded down; empty without a margin
    halves: torch.Tensor  # (count, d) float16
    given: torch.Tensor  # (count,) int32: row of the test set
    tau: torch.Tensor  # (count,) float64; empty without a margin
    kth: torch.Tensor  # (count,) float64: a lower bound of the k-th best, raised
    floor: torch.Tensor  # the same in the kernel's numbers, by place
    list_score: torch.Tensor  # (count, k)
    list_id: torch.Tensor

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def raise_kth(self, bounds: Bounds, kth: torch.Tensor) -> None:
        """Take note of a better lower bound of the k-th best."""
        torch.maximum(self.kth, kth, out=self.kth)
        self.floor[: self.count] = bounds.below(self.kth)

    @contextmanager
    def on(self, device: torch.device) -> Iterator[Panel]:
        """The panel where the kernels can reach it; what changed goes home again."""
        if self.resident:
            yield self
            return
        here = self._moved(device)
        yield here
        for name in ("kth", "floor", "list_score", "list_id"):
            getattr(self, name).copy_(getattr(here, name))

    def at_home(self) -> Panel:
        """A copy in the host's memory."""
        return self._moved(torch.device("cpu"))

    def _moved(self, device: torch.device) -> Panel:
        there = device.type == "cuda"
        moved: dict[str, Any] = {
            name: tensor.to(device, non_blocking=there, copy=True)
            for name, tensor in self._tensors().items()
        }
        return replace(self, **moved, resident=False)

    def _tensors(self) -> dict[str, torch.Tensor]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


@dataclass(frozen=True)
class DeviceSet:
    """A test set on the device."""

    size: int
    has_gap: bool
    decides_margin: bool  # some finite τ, and none is -inf
    fixed_margin: float  # the margin of every row where scores do not decide it
    fixed_witness: int
    panels: list[Panel]


def prepare(
    bounds: Bounds,
    tests: Sequence[TestSet],
    k: int,
    device: torch.device,
    multiple: int,
    room: int | None,
) -> list[DeviceSet]:
    """All test sets on the device, or at home where they need more than `room` bytes."""
    sets, resident = [], 0
    for test in tests:
        decides, fixed, witness = _margin_rule(test)
        order = spread(len(test.rows))
        panels = []
        for places in np.array_split(order, -(-len(order) // PANEL)):
            panel = _panel(bounds, test, places, k, device, multiple, decides)
            resident += panel.bytes
            panels.append(panel if room is None or resident <= room else panel.at_home())
        sets.append(
            DeviceSet(len(test.rows), test.gap is not None, decides, fixed, witness, panels)
        )
    return sets


def lists_of(found: DeviceSet, k: int) -> Callable[[], TopK]:
    """The lists of a test set as they are now, in the order of the set; to be called when what is
    queued on the device has been done."""
    held = [
        [_home(tensor) for tensor in (panel.given, panel.list_score, panel.list_id)]
        for panel in found.panels
    ]

    def in_order() -> TopK:
        score = np.full((found.size, k), -np.inf)
        ids = np.full((found.size, k), NO_ID, np.int64)
        for given, list_score, list_id in held:
            score[given.numpy()], ids[given.numpy()] = list_score.numpy(), list_id.numpy()
        return TopK(score, ids)

    return in_order


def _home(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the host's memory that is there when the device comes to it."""
    copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return copy.copy_(tensor, non_blocking=True)


def load_lists(found: DeviceSet, bounds: Bounds, lists: TopK) -> None:
    """Start from these lists."""
    for panel in found.panels:
        given = panel.given.cpu().numpy()
        panel.list_score.copy_(torch.from_numpy(lists.sim[given]))
        panel.list_id.copy_(torch.from_numpy(lists.id[given]))
        panel.raise_kth(bounds, panel.list_score[:, -1])


def raise_bounds(found: DeviceSet, bounds: Bounds, kth: torch.Tensor) -> None:
    """Take note of better lower bounds of the k-th bests, (size,) in the order of the set."""
    for panel in found.panels:
        panel.raise_kth(bounds, kth.to(panel.kth.device)[panel.given])


def _panel(
    bounds: Bounds,
    test: TestSet,
    order: NDArray[np.int64],
    k: int,
    device: torch.device,
    multiple: int,
    decides: bool,
) -> Panel:
    count, places = len(order), -(-len(order) // multiple) * multiple
    halves = torch.from_numpy(np.ascontiguousarray(test.rows[order])).to(device)
    found: Columns = bounds.columns(halves, places)
    # A tile raises its rows' bounds by its thickest column, so columns lie with those like them.
    rank = found.thickness[:count].argsort(stable=True)
    if bool((rank.diff() != 1).any()):
        order, halves = order[rank.cpu().numpy()], halves[rank]
        found = bounds.columns(halves, places)
    tau = torch.from_numpy(test.gap[order]) if decides and test.gap is not None else torch.empty(0)
    tau_floor = torch.full((places if decides else 0,), bounds.never, dtype=bounds.sums)
    tau_floor[: len(tau)] = bounds.below(tau.double())
    floor = torch.full((places,), bounds.never, dtype=bounds.sums, device=device)
    floor[:count] = bounds.always
    return Panel(
        count=count,
        resident=True,
        operand=found.operand,
        start=found.start,
        thickness=found.thickness,
        tau_floor=tau_floor.to(device),
        halves=halves,
        given=torch.from_numpy(order.astype(np.int32)).to(device),
        tau=tau.double().to(device),
        kth=torch.full((count,), -math.inf, dtype=torch.float64, device=device),
        floor=floor,
        list_score=torch.full((count, k), -math.inf, dtype=torch.float64, device=device),
        list_id=torch.full((count, k), NO_ID, dtype=torch.int64, device=device),
    )


def _margin_rule(test: TestSet) -> tuple[bool, float, int]:
    """Whether scores decide margins; the margin and witness of all rows where they do not."""
    if test.gap is None:
        return False, -math.inf, -1
    unbounded = np.flatnonzero(test.gap == -np.inf)
    if len(unbounded):
        return False, math.inf, int(unbounded[0])
    return bool(np.isfinite(test.gap).any()), -math.inf, 0


def spread(m: int) -> NDArray[np.int64]:
    """One stride through the set, coprime to its size."""
    stride = max(1, int(m * 0.6180339887498949))
    stride = next(s for s in range(stride, stride + m + 1) if math.gcd(s, m) == 1)
    return np.arange(m, dtype=np.int64) * stride % m


def cut(rows: int, step: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `step` rows."""
    return pairwise([*range(0, rows, step), rows])
