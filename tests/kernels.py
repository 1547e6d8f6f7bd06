"""What the kernel tests share: every kernel of this machine, data that is hard, and the verdict."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import pytest

from clipgap.kernels import cpu
from clipgap.kernels.interface import BlockResult, Scanner, TestSet, TopK
from clipgap.kernels.oracle import OracleScanner
from clipgap.kernels.torch_kernel import TorchScanner
from tests.building import built

if TYPE_CHECKING:
    from clipgap.kernels.gpu.bounds import Rows
    from clipgap.kernels.gpu.panels import Panel
    from clipgap.kernels.gpu.steps import Steps, Survivors

ROOT = Path(__file__).parent.parent
KERNELS = ("cpu/avx512vnni", "cpu/avx2", "cpu/portable", "torch")
CPU_KERNELS = tuple(name for name in KERNELS if name.startswith("cpu"))
TWO_LOOKS = tuple(f"{name}, two looks" for name in CPU_KERNELS)


class TwoLooks(cpu.CpuScanner):
    """Looks at heads first from the first row on, whether that is worth it or not."""

    def __init__(self, tests: Sequence[TestSet], k: int, threads: int | None = None) -> None:
        super().__init__(tests, k, threads)
        count = min(self.d // 64 * 32, 96)
        if not count:
            return
        directions = cpu.main_directions(np.concatenate([test.rows for test in tests]), count)
        assert self.use_directions(directions) == count


@contextmanager
def kernel(name: str) -> Iterator[type[Scanner]]:
    """The scanner class behind a name, its instruction set forced; skips where there is none."""
    if name == "numpy":
        yield OracleScanner
        return
    if name == "torch":
        pytest.importorskip("torch")
        yield TorchScanner
        return
    isa, _, looks = name.partition("/")[2].partition(", ")
    made = TwoLooks if looks else cpu.CpuScanner
    if not cpu.is_built():
        pytest.skip(f"the C++ kernels are not built: {cpu.why_not_built()}")
    with mock.patch.dict(os.environ, {"CLIPGAP_CPU_ISA": isa}):
        has = cpu.instruction_sets()
        if has.get(isa):
            yield made
        elif isa == "avx512vnni" and has.get("avx2"):
            with mock.patch.object(cpu, "library", emulated_library):
                yield made
        else:
            pytest.skip(f"this processor lacks {isa}")


@lru_cache(maxsize=1)
def emulated_library() -> ctypes.CDLL:
    """The C++ library with AVX-512 VNNI in plain C++: the same source, for lesser processors."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler to build the emulated AVX-512 kernels with")
    sources = ROOT / "csrc" / "cpu"
    header = ROOT / "tests" / "emulated_avx512.h"
    common = (
        *(compiler, "-O1", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
        *("-pthread", "-Wno-psabi", "-DCLIPGAP_EMULATED_AVX512"),
    )
    wide = ("-mavx2", "-mfma", "-mf16c", "-mbmi2", "-include", str(header))
    commands, objects = [], []
    for source in sorted(sources.glob("*.cpp")):
        objects.append(f"{{out}}.{source.stem}.o")
        flags = wide if source.stem.endswith(("_avx2", "_avx512vnni")) else ()
        commands.append([*common, *flags, "-c", str(source), "-o", objects[-1]])
    commands.append([compiler, "-shared", "-pthread", *objects, "-o", "{out}"])
    library = built("cpu", commands, [*sources.iterdir(), header])
    return cpu.load(library)


def filter_everything(
    steps: Steps, rows: np.ndarray, points: np.ndarray
) -> tuple[Rows, Panel, Survivors]:
    """The int8 filter of the GPU kernels with bounds that every pair reaches."""
    import torch

    from clipgap.kernels.gpu.bounds import Grid
    from clipgap.kernels.gpu.panels import prepare

    cpu = torch.device("cpu")
    grid = Grid(points, cpu, steps.quantise)
    (found,) = prepare(grid, [TestSet("t", points)], 1, cpu, steps.multiple, None)
    (panel,), left = found.panels, grid.rows(torch.from_numpy(rows), len(rows))
    best = torch.full((len(rows),), int(grid.always), dtype=torch.int32)
    return left, panel, steps.filter(steps.configs[0], left, panel, panel.floor, best, None)


def assert_equal_results(found: BlockResult, expected: BlockResult) -> None:
    for field in ("sim", "nn", "margin", "witness"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), field)


def assert_equal_topk(found: list[TopK], expected: list[TopK]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine.sim, theirs.sim, "top-k sim")
        np.testing.assert_array_equal(mine.id, theirs.id, "top-k id")


def answers(
    scanner: Scanner, blocks: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[list[BlockResult], list[TopK]]:
    """All that a scanner says of blocks."""
    return [scanner.scan(rows, ids) for rows, ids in blocks], scanner.topk()


def assert_equal_answers(
    found: tuple[list[BlockResult], list[TopK]], expected: tuple[list[BlockResult], list[TopK]]
) -> None:
    for mine, theirs in zip(found[0], expected[0], strict=True):
        assert_equal_results(mine, theirs)
    assert_equal_topk(found[1], expected[1])


def assert_like_oracle(
    scanner: Scanner, tests: list[TestSet], k: int, blocks: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    """Feed the same blocks to a scanner and to the oracle; everything must be equal."""
    assert_equal_answers(answers(scanner, blocks), answers(OracleScanner(tests, k), blocks))
