"""What commands would take, before anything is bought for them: bytes, operations, time, cost.

Nothing is computed here. Sizes are those of stores, or typed; rates are those of benchmarks that
were run and kept, or typed, or assumptions that say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipgap.bench.memory import of_deduplicating, of_embedding
from clipgap.bench.options import Doing, Rates, Sizes
from clipgap.bench.rates import IMAGE_BYTES, Kept, Rate, assumed, number
from clipgap.bench.results import default_folder
from clipgap.bench.towers import towers
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
    working: Mapping[str, float]  # seconds of "compute", and "writer" or "decode" on the host
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
        known = (rate.value for name, rate in self.rates.items() if name.rstrip("′") == "memory")
        return max(known, default=None)

    @property
    def device_hours(self) -> float:
        """All devices are paid for as long as it lasts."""
        return self.devices * self.seconds / 3600


COMMANDS = ("scan", "embed", "dedup", "train", "eval")
"""What can be planned by itself; a recipe has gap and split, too."""


@takes_options
def plan(
    train: Any = None,
    tests: Mapping[str, Any] | None = None,
    *,
    command: str = "scan",
    sizes: Sizes,
    doing: Doing,
    rates: Rates,
) -> Projection:
    """What a command would take, of stores or of typed numbers; scan with `gap` and `split`.

    `train` is the store that is scanned or deduplicated; of images only numbers are known.
    """
    prices = Prices(rates, doing)
    if command == "scan":
        return prices.projection(_scan(prices, _measure(train, tests or {}, sizes)))
    if command not in COMMANDS:
        raise UsageError(f"{command!r} cannot be planned; what can is {', '.join(COMMANDS)}")
    if command == "dedup":
        store = None if train is None else open_store(train)
        rows = _count("rows", sizes.rows, "TRAIN") if store is None else store.rows
        dim = sizes.dim if store is None else store.dim
        if dim is None:
            raise UsageError("--dim is missing: say how many numbers a row has, or name a store")
        return prices.projection(
            [prices.dedup("dedup", rows, dim, doing.clusters, doing.iterations)]
        )
    if train is not None or tests:
        raise UsageError(f"images are not counted; give {command} their number, as --rows")
    if doing.model is None:
        raise UsageError("--model is missing: name a vision transformer, such as ViT-B-32")
    if command == "eval":
        return prices.projection(
            [prices.evaluate("eval", _count("tests", sizes.points, ""), doing.model)]
        )
    rows = _count("rows", sizes.rows, "")
    if command == "embed":
        return prices.projection([prices.embed("embed", rows, doing.model)])
    return prices.projection([prices.train("train", rows * doing.epochs, doing.model)])


def _scan(prices: Prices, size: _Size) -> Iterator[Stage]:
    each = (size.points, size.sets, size.dim, size.row_bytes)
    if size.reference is None:
        yield prices.scan("scan", size.rows, *each)
        return
    yield prices.scan("gap", size.reference, *each)
    yield prices.scan("scan", size.rows, *each, gap=True)
    yield prices.split("split", size.rows, size.sets)


@dataclass(frozen=True)
class _Size:
    rows: int
    reference: int | None
    points: int
    sets: int
    dim: int
    row_bytes: float  # of training rows, with their keys


class Prices:
    """What commands take of a machine, by rates that are noted as they are asked for."""

    def __init__(self, rates: Rates, doing: Doing) -> None:
        self._doing = doing
        self.kept = Kept(rates.measured or default_folder())
        self._rates = rates
        self._devices, self._device = _machine(rates.on)
        self._on_cores = self._device == "core"
        self._host = self._devices if self._on_cores else self._devices * rates.cores
        self._found: dict[str, Rate | None] = {}
        self._disk = _typed("disk", rates.disk) or self.kept.disk()
        self._network = _typed("network", rates.network)

    def projection(self, stages: Iterable[Stage]) -> Projection:
        """Of these stages, one after the other."""
        stages = tuple(stages)
        known = {name: rate for name, rate in self._found.items() if rate is not None}
        unknown = tuple(name for name, rate in self._found.items() if rate is None)
        return Projection(self._devices, self._device, stages, known, unknown)

    def note(self, name: str, rate: Rate | None) -> Rate | None:
        """Have a rate told; another one of that name, as for another size, beside it."""
        while self._found.setdefault(name, rate) != rate:
            name += "′"
        return rate

    def scan(
        self,
        name: str,
        rows: int,
        points: int,
        sets: int,
        dim: int,
        row_bytes: float,
        gap: bool = False,
    ) -> Stage:
        """`gap`, or `scan` with or without one."""
        self.note("memory", self.kept.memory(dim, points))
        operations = 2.0 * rows * points * dim
        scores = 2 * _SCORES if gap else _SCORES
        read, written = rows * row_bytes, float(rows * (_KEY + scores * sets))
        work = self._compute("compute", self._scores(dim, points), operations)
        work |= self._on_host("writer", self.kept.writer(sets), rows)
        return self._stage(name, rows, operations, read, written, work)

    def split(self, name: str, rows: int, sets: int) -> Stage:
        """A keep-list by scores."""
        read, written = rows * (_KEY + sets / 8), float(rows * _KEY)
        work = self._on_host("split", self.kept.splitting(sets), rows)
        work = {"writer": sum(work.values())}
        wait = _take("disk", self.note("disk", self._disk), read + written)
        return Stage(name, rows, 0.0, read, written, work, wait, True)

    def embed(self, name: str, images: int, model: str) -> Stage:
        """A forward pass of each image, and its embedding."""
        found = towers(model)
        workers = 1 if self._on_cores else self._devices
        self.note("memory", of_embedding(found, self._doing.batch_size, workers, self._on_cores))
        written = float(images * (2 * found.dim + _KEY))
        return self._through(name, images, found.image, written)

    def train(self, name: str, samples: int, model: str) -> Stage:
        """Of so many samples seen: a forward pass of both towers, and backward twice as much."""
        found = towers(model)
        self.note("memory", None)
        return self._through(name, samples, 3 * (found.image + found.text), 0.0)

    def evaluate(self, name: str, images: int, model: str) -> Stage:
        """A forward pass of each image of all sets; their classes are few."""
        self.note("memory", None)
        return self._through(name, images, towers(model).image, 0.0)

    def dedup(self, name: str, rows: int, dim: int, clusters: int | None, iterations: int) -> Stage:
        """K-means and the last assignment, then all pairs within clusters; without, all pairs."""
        self.note("memory", of_deduplicating(rows, dim, clusters, self._host, self._doing.memory))
        row_bytes = 2.0 * dim + _KEY
        passes = 1 if clusters is None else iterations + 2
        pairs = float(rows) * rows * dim / (clusters or 1)
        work = self._compute("pairs", self._scores(dim, max(1, rows // (clusters or 1))), pairs)
        operations = pairs
        if clusters is not None:
            self.note("clusters", Rate(rows / clusters, "ASSUMED, all of one size"))
            assigning = 2.0 * rows * clusters * dim * (iterations + 1)
            kind = self._scores(dim, clusters) if not self._on_cores else self.kept.clustering()
            took = self._compute("assigning", kind, assigning)
            operations += assigning
            work = {"compute": sum(took.values()) + sum(work.values())}
        else:
            work = {"compute": sum(work.values())}
        return self._stage(name, rows, operations, rows * row_bytes * passes, rows * _KEY, work)

    def _through(self, name: str, images: int, operations: float, written: float) -> Stage:
        """Images from the disk through a model."""
        rate = _typed("model-rate", self._rates.model_rate)
        if rate is None and self._on_cores:
            rate = self.kept.forward(lambda model: towers(model).image)
        elif rate is None:
            rate = assumed(self._device, self._rates.efficiency, models=True)
        typed = _typed("image-bytes", self._rates.image_bytes)
        size = typed or Rate(IMAGE_BYTES, "ASSUMED, as in LAION-400M at 256 pixels a side")
        self.note("image", size)
        work = self._compute("model", rate, images * operations, "compute")
        work |= self._on_host("decode", self.kept.decoding(), images)
        return self._stage(name, images, images * operations, images * size.value, written, work)

    def _stage(
        self,
        name: str,
        rows: int,
        operations: float,
        read: float,
        written: float,
        work: Mapping[str, float],
    ) -> Stage:
        wait = _take("disk", self.note("disk", self._disk), read + written)
        if self._network is not None:
            wait |= _take("network", self.note("network", self._network), read)
        return Stage(name, rows, operations, read, written, work, wait, self._on_cores)

    def _scores(self, dim: int, points: int) -> Rate:
        return _compute(self.kept, self._device, self._rates, dim, points)

    def _compute(
        self, name: str, rate: Rate | None, operations: float, resource: str = ""
    ) -> dict[str, float]:
        """Seconds of all devices together."""
        return _take(resource or name, self.note(name, rate), operations / self._devices)

    def _on_host(self, name: str, rate: Rate | None, rows: int) -> dict[str, float]:
        return _take(name, self.note(name, rate), rows / self._host)


def _take(resource: str, rate: Rate | None, amount: float) -> dict[str, float]:
    """Seconds by the resource; nothing of one whose rate is not known."""
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


def _compute(kept: Kept, device: str, rates: Rates, dim: int, points: int) -> Rate:
    if rates.rate is not None:
        return Rate(number("rate", rates.rate), "as typed")
    if device != "core":
        return kept.gpu(device, dim, points) or assumed(device, rates.efficiency)
    rate = kept.core(dim, points)
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
