"""What a scan would take, before anything is bought for it: bytes, operations, time, memory, cost.

Nothing is computed here. Sizes are those of stores, or typed; rates are those of benchmarks that
were run and kept, or typed, or assumptions that say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipgap.bench.options import Rates, Sizes
from clipgap.bench.rates import Kept, Rate, assumed, number
from clipgap.bench.results import default_folder
from clipgap.errors import UsageError
from clipgap.machine import cores
from clipgap.options import takes_options
from clipgap.store.opening import open_store

_KEY = 12
_SCORES = 8
"""Bytes of a row in a training table: of its key, as those of LAION take, and for each test set of
similarity and test point, and as much again of margin and witness where there is a gap."""


@dataclass(frozen=True)
class Stage:
    """One command of a plan."""

    name: str
    rows: int
    operations: float
    bytes_read: float
    bytes_written: float
    working: Mapping[str, float]  # seconds of "compute" and "writer"
    waiting: Mapping[str, float]  # seconds of "disk" and "network"
    on_cores: bool

    @property
    def seconds(self) -> float:
        """Those of the slowest resource, for it reads, computes and writes at the same time; on
        cores, computing and writing share these."""
        work = sum(self.working.values()) if self.on_cores else max(self.working.values())
        return max(work, *self.waiting.values(), 0.0)

    @property
    def binds(self) -> str:
        """The resource that all others wait for."""
        everything = {**self.working, **self.waiting}
        slowest = max(everything, key=everything.__getitem__)
        return slowest if everything[slowest] == self.seconds else _most(self.working)


@dataclass(frozen=True)
class Projection:
    """What is to be expected, and by which rates."""

    devices: int
    device: str  # "core", or the name of a GPU
    stages: tuple[Stage, ...]
    rates: Mapping[str, Rate]
    unknown: tuple[str, ...]  # of which no rate is known: they are left out, and never bind

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def disk_bytes(self) -> float:
        """What all of it leaves on disk."""
        return sum(stage.bytes_written for stage in self.stages)

    @property
    def memory_bytes(self) -> float | None:
        """Of the host, at most."""
        return self.rates["memory"].value if "memory" in self.rates else None

    @property
    def device_hours(self) -> float:
        """All devices are paid for as long as it lasts."""
        return self.devices * self.seconds / 3600


@takes_options
def plan(
    train: Any = None, tests: Mapping[str, Any] | None = None, *, sizes: Sizes, rates: Rates
) -> Projection:
    """What `gap`, `scan` and `split` would take, of stores or of typed numbers."""
    size = _measure(train, tests or {}, sizes)
    devices, device = _machine(rates.on)
    kept = Kept(rates.measured or default_folder())
    found = {
        "compute": _compute(kept, device, rates, size),
        "writer": kept.writer(size.sets),
        "split": kept.splitting(size.sets),
        "disk": _typed("disk", rates.disk) or kept.disk(),
        "memory": kept.memory(size.dim, size.points),
    }
    if rates.network is not None:
        found["network"] = _typed("network", rates.network)
    known = {name: rate for name, rate in found.items() if rate is not None}
    unknown = tuple(name for name, rate in found.items() if rate is None)
    host = devices if device == "core" else devices * rates.cores
    stages = tuple(_Prices(size, devices, host, device == "core", known).stages())
    return Projection(devices, device, stages, known, unknown)


@dataclass(frozen=True)
class _Size:
    rows: int
    reference: int | None
    points: int
    sets: int
    dim: int
    row_bytes: float  # of training rows, with their keys


@dataclass(frozen=True)
class _Prices:
    """What the stages take of a machine."""

    size: _Size
    devices: int
    host: int  # cores that read and write
    on_cores: bool  # the devices are these
    rates: Mapping[str, Rate]

    def stages(self) -> Iterator[Stage]:
        size = self.size
        if size.reference is None:
            yield self._scan("scan", size.rows, _SCORES)
            return
        yield self._scan("gap", size.reference, _SCORES)
        yield self._scan("scan", size.rows, 2 * _SCORES)
        read, written = size.rows * (_KEY + size.sets / 8), float(size.rows * _KEY)
        working = {"writer": sum(self._take("split", size.rows / self.host).values())}
        disk = self._take("disk", read + written)
        yield Stage("split", size.rows, 0.0, read, written, working, disk, True)

    def _scan(self, name: str, rows: int, scores: int) -> Stage:
        operations = 2.0 * rows * self.size.points * self.size.dim
        read, written = rows * self.size.row_bytes, float(rows * (_KEY + scores * self.size.sets))
        work = self._take("compute", operations / self.devices)
        work |= self._take("writer", rows / self.host)
        wait = self._take("disk", read + written) | self._take("network", read)
        return Stage(name, rows, operations, read, written, work, wait, self.on_cores)

    def _take(self, resource: str, amount: float) -> dict[str, float]:
        """Seconds by the resource; nothing of one whose rate is not known."""
        rate = self.rates.get(resource)
        return {} if rate is None else {resource: amount / rate.value}


def _measure(train: Any, tests: Mapping[str, Any], sizes: Sizes) -> _Size:
    """What is to be compared; of stores only headers are read."""
    stores = {name: open_store(source) for name, source in tests.items()}
    store = None if train is None else open_store(train)
    opened = [each for each in (store, *stores.values()) if each is not None]
    said = {
        "rows": (store, sizes.rows),
        "tests": (stores, sizes.points),
        "dim": (opened, sizes.dim),
    }
    for name, (there, typed) in said.items():
        if there and typed is not None:
            raise UsageError(f"--{name} is given beside a store that says it; give one of them")
    rows = store.rows if store else _count("rows", sizes.rows, "TRAIN")
    points = sum(each.rows for each in stores.values()) or _count("tests", sizes.points, "--test")
    dim = opened[0].dim if opened else sizes.dim
    if dim is None:
        raise UsageError("--dim is missing: say how many numbers a row has, or name a store")
    row_bytes = 2.0 * dim
    if store is not None and store.rows:
        row_bytes = (
            sum(s.rows * np.dtype(s.dtype).itemsize * dim for s in store.shards) / store.rows
        )
    reference = None
    if sizes.reference is not None:
        is_number = re.fullmatch(r"[\d,.]+[kMB]?", sizes.reference)
        known = None if is_number else open_store(sizes.reference).rows
        reference = _count("reference", sizes.reference, "") if known is None else known
    return _Size(rows, reference, points, len(stores) or sizes.sets, dim, row_bytes + _KEY)


def _count(name: str, typed: str | None, instead: str) -> int:
    if typed is None:
        raise UsageError(f"--{name} is missing: type a number, or name stores as {instead}")
    return round(number(name, typed))


def _machine(on: str | None) -> tuple[int, str]:
    """How many of what."""
    found = re.fullmatch(r"(\d{1,6}) ?[x×]? ?([A-Za-z]\w*)", on or f"{cores()}cores")
    if not found or not int(found[1]):
        raise UsageError(f"--on {on}: expected so many cores or GPUs, such as 64cores or 8xA100")
    name = found[2]
    return int(found[1]), "core" if name.lower() in ("core", "cores") else name


def _compute(kept: Kept, device: str, rates: Rates, size: _Size) -> Rate:
    if rates.rate is not None:
        return Rate(number("rate", rates.rate), "as typed")
    if device != "core":
        return kept.gpu(device, size.dim, size.points) or assumed(device, rates.efficiency)
    rate = kept.core(size.dim, size.points)
    if rate is None:
        raise UsageError(
            f"no rate of a core is kept in {kept.place}. Measure one with `clipgap bench`, or type "
            "--rate"
        )
    return rate


def _typed(name: str, text: str | None) -> Rate | None:
    return None if text is None else Rate(number(name, text), "as typed")


def _most(seconds: Mapping[str, float]) -> str:
    return max(seconds, key=seconds.__getitem__)
