"""What `clipgap doctor --kernels` shows: every GPU kernel as the compiler makes it, for any chip.

Triton's kernels are built for each chip in a process of its own, because Triton decides at import
whether it interprets. Those in CUDA C++ are looked at as they were installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from clipgap.errors import ClipgapError, MissingDependency
from clipgap.machine import thread_count

CHIPS = {80: "A100", 90: "H100", 100: "B200"}
"""Compute capability times ten, and a GPU that has it."""
_DEPTH = 640  # dimensions of the operands that are looked at


@dataclass(frozen=True)
class BuiltKernel:
    """One kernel for one chip; see `Built` in triton_kernels/compiled.py."""

    kernel: str
    config: str
    capability: int
    registers: int
    shared: int
    spilled: int
    per_processor: int
    planned: int
    instructions: dict[str, int]
    ptx: list[str]
    as_planned: bool


def built_kernels() -> list[BuiltKernel]:
    """Build all kernels for all chips; half a minute the first time, Triton keeps what it built."""
    if importlib.util.find_spec("triton") is None:
        raise MissingDependency("triton is not installed; `pip install triton`")
    with ThreadPoolExecutor(thread_count()) as pool:
        in_triton = [kernel for kernels in pool.map(_in_triton, CHIPS) for kernel in kernels]
    return in_triton + [kernel for capability in CHIPS for kernel in _in_cuda(capability)]


def _in_triton(capability: int) -> list[BuiltKernel]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "clipgap.triton_kernels.compiled", str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip()[-2000:]
        raise ClipgapError(f"kernels for capability {capability} do not compile:\n{said}")
    return [BuiltKernel(**json.loads(line)) for line in done.stdout.splitlines()]


def _in_cuda(capability: int) -> Iterator[BuiltKernel]:
    """What an install with nvcc left for this chip, if anything."""
    from clipgap.kernels.gpu.cuda_modules import BUILT, CUBINS
    from clipgap.kernels.gpu.cuda_shapes import MOST_SHARED, OPERANDS, depth_of, every_shape
    from clipgap.triton_kernels.sass import functions_of, resident

    file = BUILT / CUBINS.get(capability, "-")
    if not file.exists():
        return
    room = MOST_SHARED[capability]
    shapes = {
        shape.kernel: shape
        for operand in OPERANDS
        for shape in every_shape(capability, room, depth_of(_DEPTH, operand), operand)
    }
    for name, found in functions_of(file.read_bytes()).items():
        shape = shapes.get(name.removesuffix("_margin"))
        if shape is None:
            continue  # of another chip, or too wide for operands of this depth
        fit = resident(capability, shape.threads, found.registers, shape.shared)
        yield BuiltKernel(
            kernel=f"cuda {name}",
            config=shape.name,
            capability=capability,
            registers=found.registers,
            shared=shape.shared,
            spilled=found.spilled,
            per_processor=fit,
            planned=1,
            instructions=found.instructions,
            ptx=[],
            as_planned=found.spilled == 0 and fit >= 1,
        )
