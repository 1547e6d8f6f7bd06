"""The CUDA filters on a CPU: `CudaFilter` over the same sources, compiled as C++ (emulated.h)."""

from __future__ import annotations

import ctypes
import os
import shutil
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from clipgap.kernels.gpu.bounds import Bounds
from clipgap.kernels.gpu.cuda_filter import CudaFilter
from clipgap.kernels.gpu.cuda_modules import Argument
from clipgap.kernels.gpu.cuda_shapes import MOST_SHARED, Shape, depth_of, shape_for
from clipgap.kernels.gpu.panels import Panel
from clipgap.kernels.gpu.steps import Candidates, Steps
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
    # Fibers jump between stacks, which fortified longjmp takes for an error. Of this machine, since
    # without its instructions for them half-precision numbers take ten times as long.
    command = [
        *(compiler, "-O2", "-march=native", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=off"),
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
            else:
                held.append(ctypes.c_int(argument))
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(one) for one in held))
        wrong = library().emulated_launch(
            kernel.encode(), blocks, threads, shared, self.landing, pointers
        )
        assert wrong is None, f"{kernel}: {wrong.decode()}"


class EmulatedSteps(Steps):
    """The emulated filter, between interpreted steps. Interpreted, the merge would take most of the
    time; it has tests of its own."""

    def merge(
        self, candidates: Candidates, panel: Panel, bounds: Bounds, floods: torch.Tensor
    ) -> None:
        (count, score, ids), list_score, list_id = candidates, panel.list_score, panel.list_id
        floods += (count > score.shape[1]).any()
        for column in count.nonzero()[:, 0].tolist():
            scores = torch.cat([list_score[column], score[column, : count[column]]]).tolist()
            theirs = torch.cat([list_id[column], ids[column, : count[column]]]).tolist()
            entries = {(-one, id) for one, id in zip(scores, theirs, strict=True) if id >= 0}
            for place, (one, id) in enumerate(sorted(entries)[: list_score.shape[1]]):
                list_score[column, place], list_id[column, place] = -one, id
        count.zero_()
        panel.raise_kth(bounds, list_score[:, -1])


def emulated_steps(
    capability: int,
    d: int,
    *,
    operand: str = "int8",
    shared: int | None = None,
    landing: str = "at once",
    processors: int = 3,
    pairs: int = PAIRS,
    shape: Shape | None = None,
) -> Steps:
    room = shared or MOST_SHARED[capability]
    shape = shape or shape_for(capability, room, depth_of(d, operand), operand)
    cpu = torch.device("cpu")
    filter = CudaFilter(EmulatedModule(landing), cpu, shape, processors, pairs)
    return EmulatedSteps(filter, cpu, pairs)
