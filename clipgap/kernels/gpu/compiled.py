"""What `clipgap doctor --kernels` shows: every GPU kernel as the compiler makes it, for any chip.

Each chip is built in a process of its own, because Triton decides at import whether it interprets.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from clipgap.errors import ClipgapError, MissingDependency

CHIPS = {80: "A100", 90: "H100", 100: "B200"}
"""Compute capability times ten, and a GPU that has it."""


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
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

    def build(capability: int) -> list[BuiltKernel]:
        command = [sys.executable, "-m", "clipgap.triton_kernels.compiled", str(capability)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = done.stderr.strip()[-2000:]
            raise ClipgapError(f"kernels for capability {capability} do not compile:\n{said}")
        return [BuiltKernel(**json.loads(line)) for line in done.stdout.splitlines()]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [kernel for kernels in pool.map(build, CHIPS) for kernel in kernels]
