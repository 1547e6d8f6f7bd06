"""The CUDA kernels on a CPU: `CudaSteps` over the same sources, compiled as C++ (emulated.h)."""

from __future__ import annotations

import ctypes
import os
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from clipgap.kernels.gpu.cuda_modules import Argument
from clipgap.kernels.gpu.cuda_shapes import MOST_SHARED, Shape, shape_for
from clipgap.kernels.gpu.cuda_steps import CudaSteps
from tests.building import built

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "csrc" / "cuda"
PAIRS = 1 << 15
LANDINGS = ("at once", "in order", "in reverse", "at random")
"""When copies land, in the order of `Landing` in emulated.h."""


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler to run the CUDA kernels on a CPU with")
    # Fibers jump between stacks, which fortified longjmp takes for an error.
    command = [
        *(compiler, "-O2", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=off"),
        *("-ftree-vectorize", "-fvect-cost-model=dynamic"),
        *("-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-Werror"),
        *("-Wno-unknown-pragmas", "-Wno-parentheses", "-Wno-unused-parameter"),
        *("-o", "{out}", str(HERE / "emulated.cpp")),
    ]
    sources = [*SOURCES.iterdir(), HERE / "emulated.cpp", HERE / "emulated.h"]
    found = ctypes.CDLL(str(built("cuda", [command], sources)))
    found.emulated_launch.restype = ctypes.c_char_p
    return found


class EmulatedModule:
    """`Module` on the CPU. What a GPU does some time before a wait is done `at once`, or at the
    wait; copies that no thread waits for by itself then land one by one, in the order named."""

    def __init__(self, landing: str) -> None:
        self.landing = LANDINGS.index(landing)

    def launch(
        self, kernel: str, blocks: int, threads: int, shared: int, arguments: list[Argument]
    ) -> None:
        held = []
        for argument in arguments:
            if argument is None or isinstance(argument, torch.Tensor):
                assert argument is None or argument.is_contiguous()
                held.append(ctypes.c_void_p(None if argument is None else argument.data_ptr()))
            elif isinstance(argument, np.float32):
                held.append(ctypes.c_float(argument))
            else:
                held.append(ctypes.c_int(argument))
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(one) for one in held))
        cluster = 2 if kernel.startswith("filter_sm90") else 1
        wrong = library().emulated_launch(
            kernel.encode(), blocks, threads, cluster, shared, self.landing, pointers
        )
        assert wrong is None, f"{kernel}: {wrong.decode()}"


def emulated_steps(
    capability: int,
    d: int,
    *,
    shared: int | None = None,
    landing: str = "at once",
    processors: int = 3,
    pairs: int = PAIRS,
    shape: Shape | None = None,
) -> CudaSteps:
    shape = shape or shape_for(capability, shared or MOST_SHARED[capability], -(-d // 128) * 128)
    return CudaSteps(EmulatedModule(landing), torch.device("cpu"), shape, processors, pairs)
