"""What a user would reach for otherwise: torch, FAISS, usearch, NumKong, ScaNN, SVS. The only place
that imports them for comparison.

Each gets its rows in the type it likes best, converted outside the timed part, and FAISS's index of
the training rows is filled outside of it too.
"""

from __future__ import annotations

import importlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from clipgap.bench.runner import Answer, Runner
from clipgap.errors import MissingDependency
from clipgap.kernels.interface import TopK

TILES = ((512, 4096), (1024, 1024), (2048, 2048), (2048, 8192))
"""Tiles (training rows, test rows) that the torch loop tries; which wins depends on the caches."""

GEMM_ELEMENTS = 1 << 25
TUNING_ROWS, TUNING_TESTS = 2048, 8192


def need(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(f"{package} is not installed: pip install {package}") from error


def _torch(threads: int) -> Any:
    torch = need("torch", "torch")
    torch.set_num_threads(threads)
    return torch


class TorchGemm(Runner):
    """The product alone: no reduction, nothing kept."""

    def __init__(self, tests: NDArray[np.float32], threads: int) -> None:
        self.torch = _torch(threads)
        self.tests = self.torch.from_numpy(tests).T
        self.step = max(64, GEMM_ELEMENTS // len(tests))
        self.out = self.torch.empty((self.step, len(tests)))

    def prepare(self, block: NDArray[np.float16], first_id: int) -> Any:
        return self.torch.from_numpy(block.astype(np.float32))

    def run(self, prepared: Any) -> Any:
        for rows in prepared.split(self.step):
            self.torch.mm(rows, self.tests, out=self.out[: len(rows)])

    def answer(self, result: Any) -> None:
        return None


class TorchLoop(Runner):
    """float32 GEMM by tiles, then row maxima and the k best of each column.

    The tile size is the fastest of a few, and the column lists are only touched where a tile has
    something to add to them.
    """

    fastest: ClassVar[dict[tuple[int, ...], tuple[int, int]]] = {}

    def __init__(self, tests: NDArray[np.float32], k: int, threads: int) -> None:
        self.torch = _torch(threads)
        self.k = k
        self.tests = self.torch.from_numpy(tests)
        # Trials take seconds, and other data of the same shape want the same tile.
        shape = (min(TUNING_TESTS, len(tests)), tests.shape[1], k, threads)
        if shape not in self.fastest:
            self.fastest[shape] = self._fastest_tile()
        self.tile = self.fastest[shape]
        self.note = f"tiles of {self.tile[0]:,} × {self.tile[1]:,}"
        self._forget()

    def prepare(self, block: NDArray[np.float16], first_id: int) -> Any:
        return self.torch.from_numpy(block.astype(np.float32)), first_id

    def run(self, prepared: Any) -> Any:
        rows, first_id = prepared
        with self.torch.inference_mode():
            return self._scan(rows, first_id, self.tile, len(self.tests))

    def answer(self, result: Any) -> Answer:
        sim, nn = result
        return Answer(sim.numpy(), nn.numpy(), self.best[:, 0].numpy(), self.ids[:, 0].numpy())

    def warm(self, lists: list[TopK]) -> None:
        sim = np.concatenate([held.sim[:, : self.k] for held in lists])
        self.best = self.torch.from_numpy(sim.astype(np.float32))
        self.ids = self.torch.from_numpy(np.concatenate([held.id[:, : self.k] for held in lists]))

    def _forget(self) -> None:
        m = len(self.tests)
        self.best = self.torch.full((m, self.k), -np.inf)
        self.ids = self.torch.full((m, self.k), -1, dtype=self.torch.int64)

    def _fastest_tile(self) -> tuple[int, int]:
        first, second = self.tests[: 2 * TUNING_ROWS].chunk(2)  # as good as training rows for this
        tests = min(TUNING_TESTS, len(self.tests))
        seconds = {}
        for tile in TILES:
            self._forget()
            with self.torch.inference_mode():
                self._scan(first, 0, tile, tests)
                start = time.perf_counter()
                self._scan(second, len(first), tile, tests)
            seconds[tile] = time.perf_counter() - start
        return min(seconds, key=lambda tile: seconds[tile])

    def _scan(self, x: Any, first_id: int, tile: tuple[int, int], m: int) -> tuple[Any, Any]:
        torch = self.torch
        out = torch.empty(tile[0] * tile[1])
        sim = torch.full((len(x),), -np.inf)
        nn = torch.zeros(len(x), dtype=torch.int64)
        for r in range(0, len(x), tile[0]):
            rows = slice(r, min(r + tile[0], len(x)))
            for c in range(0, m, tile[1]):
                columns = slice(c, min(c + tile[1], m))
                shape = (rows.stop - r, columns.stop - c)
                scores = out[: shape[0] * shape[1]].view(shape)
                torch.mm(x[rows], self.tests[columns].T, out=scores)
                value, place = scores.max(dim=1)
                better = value > sim[rows]
                sim[rows] = torch.where(better, value, sim[rows])
                nn[rows] = torch.where(better, place + c, nn[rows])
                self._add(scores, first_id + r, columns)
        return sim, nn

    def _add(self, scores: Any, first_id: int, columns: slice) -> None:
        torch = self.torch
        best, ids = self.best[columns], self.ids[columns]
        value, place = scores.max(dim=0)
        news = value > best[:, -1]
        if self.k == 1:
            best[:, 0] = torch.where(news, value, best[:, 0])
            ids[:, 0] = torch.where(news, place + first_id, ids[:, 0])
            return
        at = news.nonzero()[:, 0]
        if len(at) == 0:
            return
        value, place = scores[:, at].topk(min(self.k, len(scores)), dim=0)
        value = torch.cat([best[at], value.T], dim=1)
        place = torch.cat([ids[at], place.T + first_id], dim=1)
        best[at], order = value.topk(self.k, dim=1)
        ids[at] = place.gather(1, order)


def _nearest(sim: Any, nn: Any, best: Any, ids: Any, first_id: int) -> Answer:
    """The first of what libraries list in both directions, in integers of whatever size."""
    nn, ids = nn[:, 0].astype(np.int64), ids[:, 0].astype(np.int64) + first_id
    return Answer(sim[:, 0], nn, best[:, 0], ids)


class Faiss(Runner):
    """IndexFlatIP twice: training rows against the test points, test points against the rows."""

    def __init__(self, tests: NDArray[np.float32], k: int, threads: int) -> None:
        self.faiss = need("faiss", "faiss-cpu")
        self.faiss.omp_set_num_threads(threads)
        self.k = k
        self.tests = tests
        self.index = self._index_of(tests)

    def prepare(self, block: NDArray[np.float16], first_id: int) -> Any:
        rows = block.astype(np.float32)
        return rows, self._index_of(rows), first_id

    def run(self, prepared: Any) -> Any:
        rows, index, first_id = prepared
        return self.index.search(rows, 1), index.search(self.tests, self.k), first_id

    def answer(self, result: Any) -> Answer:
        (sim, nn), (best, ids), first_id = result
        return _nearest(sim, nn, best, ids, first_id)

    def _index_of(self, rows: NDArray[np.float32]) -> Any:
        index = self.faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        return index


class Usearch(Runner):
    """usearch's exact search in float16, in both directions."""

    def __init__(self, tests: NDArray[np.float16], k: int, threads: int) -> None:
        self.usearch = need("usearch.index", "usearch")
        self.tests, self.k, self.threads = tests, k, threads

    def prepare(self, block: NDArray[np.float16], first_id: int) -> Any:
        return block, first_id

    def run(self, prepared: Any) -> Any:
        rows, first_id = prepared
        by_row = self._search(self.tests, rows, 1)
        return by_row, self._search(rows, self.tests, min(self.k, len(rows))), first_id

    def answer(self, result: Any) -> Answer:
        by_row, by_test, first_id = result
        sim, best = 1 - by_row.distances, 1 - by_test.distances
        return _nearest(sim, by_row.keys, best, by_test.keys, first_id)

    def _search(self, dataset: Any, queries: Any, k: int) -> Any:
        ip = self.usearch.MetricKind.IP
        return self.usearch.search(dataset, queries, k, ip, exact=True, threads=self.threads)


class NumKong(Runner):
    """Its packed int8 product alone, of rows on one grid: no reduction, nothing kept."""

    def __init__(self, tests: NDArray[np.float32], threads: int) -> None:
        self.numkong = need("numkong", "numkong")
        self.most = np.abs(tests).max()
        self.packed = self.numkong.dots_pack(self._integers(tests))
        self.step = max(64, GEMM_ELEMENTS // len(tests))
        self.pool = ThreadPoolExecutor(threads)

    def prepare(self, block: NDArray[np.float16], first_id: int) -> Any:
        rows = self._integers(block.astype(np.float32))
        return [rows[start : start + self.step] for start in range(0, len(rows), self.step)]

    def run(self, prepared: Any) -> Any:
        for _ in self.pool.map(self._multiply, prepared):
            pass

    def answer(self, result: Any) -> None:
        return None

    def _multiply(self, rows: NDArray[np.int8]) -> None:
        self.numkong.dots_packed(rows, self.packed)

    def _integers(self, rows: NDArray[np.float32]) -> NDArray[np.int8]:
        integers: NDArray[np.int8] = (
            np.rint(rows * (127 / self.most)).clip(-127, 127).astype(np.int8)
        )
        return integers


class Scann(Runner):
    """ScaNN's brute force in float32, in both directions."""

    def __init__(self, tests: NDArray[np.float32], k: int, threads: int) -> None:
        self.builder = need("scann", "scann").scann_ops_pybind.builder
        self.tests, self.k, self.threads = tests, k, threads
        self.index = self._index_of(tests, 1)

    def prepare(self, block: NDArray[np.float16], first_id: int) -> Any:
        rows = block.astype(np.float32)
        return rows, self._index_of(rows, self.k), first_id

    def run(self, prepared: Any) -> Any:
        rows, index, first_id = prepared
        by_row = self.index.search_batched_parallel(rows)
        return by_row, index.search_batched_parallel(self.tests), first_id

    def answer(self, result: Any) -> Answer:
        (nn, sim), (ids, best), first_id = result
        return _nearest(sim, nn, best, ids, first_id)

    def _index_of(self, rows: NDArray[np.float32], k: int) -> Any:
        index = self.builder(rows, k, "dot_product").score_brute_force(False).build()
        index.set_num_threads(self.threads)
        return index


class Svs(Runner):
    """The flat index of Intel's Scalable Vector Search in float16, in both directions."""

    def __init__(self, tests: NDArray[np.float16], k: int, threads: int) -> None:
        self.svs = need("svs", "scalable-vs")
        self.tests, self.k, self.threads = tests, k, threads
        self.index = self._index_of(tests)

    def prepare(self, block: NDArray[np.float16], first_id: int) -> Any:
        return block, self._index_of(block), first_id

    def run(self, prepared: Any) -> Any:
        rows, index, first_id = prepared
        return self.index.search(rows, 1), index.search(self.tests, self.k), first_id

    def answer(self, result: Any) -> Answer:
        (nn, sim), (ids, best), first_id = result
        return _nearest(sim, nn, best, ids, first_id)

    def _index_of(self, rows: NDArray[np.float16]) -> Any:
        return self.svs.Flat(rows, self.svs.DistanceType.MIP, num_threads=self.threads)
