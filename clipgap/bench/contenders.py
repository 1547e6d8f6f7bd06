"""Who takes part: the kernels of this package, the peers, and what the processor can do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clipgap.bench import peers
from clipgap.bench.case import Case
from clipgap.bench.runner import Answer, Runner
from clipgap.errors import MissingDependency
from clipgap.kernels import cpu
from clipgap.kernels.choose import make_scanner
from clipgap.kernels.interface import BlockResult, Counters, TopK

ISA_VARIABLE = "CLIPGAP_CPU_ISA"
PEAK_SECONDS = 0.2
ISAS = ("avx512vnni", "avx2", "portable")
LOOK_ROWS = 2048


@dataclass(frozen=True)
class Contender:
    """A name, what it computes, and how to set it up for a case and a number of threads.

    `build` raises MissingDependency where it cannot run.
    """

    name: str
    does: str
    side: Literal["ours", "peer"]
    build: Callable[[Case, int], Runner]
    min_rows: int = 256  # fewer would be unfair to it


class Ours(Runner):
    """One of our scanners; it keeps its lists from block to block, as in a long scan."""

    def __init__(
        self, case: Case, k: int, kernel: str, threads: int, first_look: bool = True
    ) -> None:
        self.case, self.k = case, k
        self.scanner = make_scanner(case.test_sets(), k, kernel=kernel, threads=threads)
        if isinstance(self.scanner, cpu.CpuScanner):
            self.scanner.may_look_first = first_look
        self.note = self.scanner.name
        self.start = Counters()

    def prepare(self, block: NDArray[np.float16], first_id: int) -> Any:
        return block, np.arange(first_id, first_id + len(block), dtype=np.int64)

    def run(self, prepared: Any) -> BlockResult:
        return self.scanner.scan(*prepared)

    def answer(self, result: BlockResult) -> Answer:
        every = np.arange(len(result.sim))
        which = result.sim.argmax(axis=1)  # the best over the test sets, for comparison with peers
        lists = self.scanner.topk()
        starts = np.cumsum([0, *(len(each.sim) for each in lists)])
        return Answer(
            result.sim[every, which],
            result.nn[every, which] + starts[which],
            np.concatenate([each.sim[:, 0] for each in lists]),
            np.concatenate([each.id[:, 0] for each in lists]),
        )

    def warm(self, lists: list[TopK]) -> None:
        first = slice(0, self.k)
        lists = [TopK(held.sim[:, first], held.id[:, first]) for held in lists]
        self.scanner.load_topk(lists)
        if isinstance(self.scanner, cpu.CpuScanner):  # as a long scan would have done by now
            rows = self.case.train(0, LOOK_ROWS)
            self.scanner.choose_looks(rows, self.scanner.scan(rows, np.arange(LOOK_ROWS)))
            self.scanner.load_topk(lists)  # whichever of those rows were not in them
        self.start = replace(self.scanner.counters)

    def extra(self) -> dict[str, float]:
        now, start = self.scanner.counters, self.start
        rows = max(1, now.rows - start.rows)
        figures = {
            "survivors_per_row": round((now.survivors - start.survivors) / rows, 2),
            "refined_per_row": round((now.refined - start.refined) / rows, 2),
        }
        if full := now.full_depth - start.full_depth:
            figures["full_depth_share"] = round(full / (now.pairs - start.pairs), 5)
        return figures


@contextmanager
def forced_isa(isa: str) -> Iterator[None]:
    """Scanners made inside run this one C++ kernel."""
    before = os.environ.get(ISA_VARIABLE)
    os.environ[ISA_VARIABLE] = isa
    try:
        yield
    finally:
        if before is None:
            del os.environ[ISA_VARIABLE]
        else:
            os.environ[ISA_VARIABLE] = before


def _cpu(isa: str, k: int | None = None, first_look: bool = True) -> Callable[[Case, int], Runner]:
    def build(case: Case, threads: int) -> Runner:
        if isa not in cpu.instruction_sets():
            raise MissingDependency(f"the C++ library was built without {isa}")
        with forced_isa(isa):
            return Ours(case, k or case.k, "cpu", threads, first_look)

    return build


def _kernel(name: str) -> Callable[[Case, int], Runner]:
    return lambda case, threads: Ours(case, case.k, name, threads)


def peaks(threads: int) -> dict[str, Callable[[], float]]:
    """Name -> a measurement of the most operations a second that the processor can do."""
    library = cpu.library()
    return {
        "float32 FMA peak": lambda: float(library.cg_peak_fma(threads, PEAK_SECONDS)),
        "int8 peak": lambda: float(library.cg_peak_int8(threads, PEAK_SECONDS)),
    }


BOTH = "both directions, exact, lists of 32"

CONTENDERS: tuple[Contender, ...] = (
    *(Contender(f"clipgap cpu/{isa}", BOTH, "ours", _cpu(isa)) for isa in ISAS),
    *(
        Contender(f"clipgap cpu/{isa}, one look", BOTH, "ours", _cpu(isa, first_look=False))
        for isa in ISAS[:2]
    ),
    Contender(
        f"clipgap cpu/{ISAS[0]}, k=1", "both directions, exact, best only", "ours", _cpu(ISAS[0], 1)
    ),
    Contender(
        "clipgap cpu/avx2, k=1", "both directions, exact, best only", "ours", _cpu("avx2", 1)
    ),
    Contender("clipgap torch", BOTH, "ours", _kernel("torch")),
    Contender("clipgap numpy", BOTH, "ours", _kernel("numpy"), min_rows=64),
    Contender(
        "torch sgemm",
        "the float32 product alone, nothing kept",
        "peer",
        lambda case, threads: peers.TorchGemm(case.test_float32(), threads),
    ),
    Contender(
        "torch loop, k=1",
        "both directions, float32, best only",
        "peer",
        lambda case, threads: peers.TorchLoop(case.test_float32(), 1, threads),
        min_rows=2048,
    ),
    Contender(
        "torch loop, k=32",
        "both directions, float32, lists of 32",
        "peer",
        lambda case, threads: peers.TorchLoop(case.test_float32(), case.k, threads),
        min_rows=2048,
    ),
    Contender(
        "faiss IndexFlatIP, k=1",
        "both directions, float32, best only",
        "peer",
        lambda case, threads: peers.Faiss(case.test_float32(), 1, threads),
        min_rows=1024,
    ),
    Contender(
        "faiss IndexFlatIP, k=32",
        "both directions, float32, lists of 32",
        "peer",
        lambda case, threads: peers.Faiss(case.test_float32(), case.k, threads),
        min_rows=1024,
    ),
    Contender(
        "usearch exact, k=1",
        "both directions, float16, best only",
        "peer",
        lambda case, threads: peers.Usearch(case.test(), 1, threads),
    ),
    Contender(
        "NumKong int8 product",
        "the product of int8 roundings alone, nothing kept",
        "peer",
        lambda case, threads: peers.NumKong(case.test_float32(), threads),
    ),
    Contender(
        "ScaNN brute force, k=1",
        "both directions, float32, best only",
        "peer",
        lambda case, threads: peers.Scann(case.test_float32(), 1, threads),
        min_rows=1024,
    ),
    Contender(
        "SVS Flat, k=1",
        "both directions, float16, best only",
        "peer",
        lambda case, threads: peers.Svs(case.test(), 1, threads),
        min_rows=1024,
    ),
)
