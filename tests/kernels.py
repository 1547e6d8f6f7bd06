"""What the kernel tests share: every kernel of this machine, data that is hard, and the verdict."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from clipgap.kernels import cpu
from clipgap.kernels.interface import BlockResult, Scanner, TestSet, TopK
from clipgap.kernels.oracle import OracleScanner
from clipgap.kernels.torch_kernel import TorchScanner

ROOT = Path(__file__).parent.parent
KERNELS = ("cpu/avx512vnni", "cpu/avx2", "cpu/portable", "torch")


@contextmanager
def kernel(name: str) -> Iterator[type[Scanner]]:
    """The scanner class behind a name, its instruction set forced; skips where there is none."""
    if name == "torch":
        pytest.importorskip("torch")
        yield TorchScanner
        return
    isa = name.partition("/")[2]
    if not cpu.is_built():
        pytest.skip(f"the C++ kernels are not built: {cpu.why_not_built()}")
    with mock.patch.dict(os.environ, {"CLIPGAP_CPU_ISA": isa}):
        has = cpu.instruction_sets()
        if has.get(isa):
            yield cpu.CpuScanner
        elif isa == "avx512vnni" and has.get("avx2"):
            with mock.patch.object(cpu, "library", emulated_library):
                yield cpu.CpuScanner
        else:
            pytest.skip(f"this processor lacks {isa}")


@lru_cache(maxsize=1)
def emulated_library() -> ctypes.CDLL:
    """The C++ library with AVX-512 VNNI in plain C++: the same source, for lesser processors."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler to build the emulated AVX-512 kernels with")
    folder = ROOT / "build" / "emulated"
    folder.mkdir(parents=True, exist_ok=True)
    sources = ROOT / "csrc" / "cpu"

    def compile_one(source: Path) -> str:
        made = folder / f"{source.stem}.o"
        wide = source.stem.endswith(("_avx2", "_avx512vnni"))
        command = [
            *(compiler, "-O1", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
            *("-pthread", "-Wno-psabi", "-DCLIPGAP_EMULATED_AVX512"),
            *(("-mavx2", "-mfma", "-mf16c", "-mbmi2") if wide else ()),
            *(("-include", str(ROOT / "tests" / "emulated_avx512.h")) if wide else ()),
            *("-c", str(source), "-o", str(made)),
        ]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return str(made)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sorted(sources.glob("*.cpp"))))
    library = folder / "_cpu_emulated.so"
    subprocess.run([compiler, "-shared", "-pthread", *objects, "-o", str(library)], check=True)
    return cpu.load(library)


def assert_equal_results(found: BlockResult, expected: BlockResult) -> None:
    for field in ("sim", "nn", "margin", "witness"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), field)


def assert_equal_topk(found: list[TopK], expected: list[TopK]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine.sim, theirs.sim, "top-k sim")
        np.testing.assert_array_equal(mine.id, theirs.id, "top-k id")


def assert_like_oracle(
    scanner: Scanner, tests: list[TestSet], k: int, blocks: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    """Feed the same blocks to a scanner and to the oracle; everything must be equal."""
    oracle = OracleScanner(tests, k)
    for rows, ids in blocks:
        assert_equal_results(scanner.scan(rows, ids), oracle.scan(rows, ids))
    assert_equal_topk(scanner.topk(), oracle.topk())
