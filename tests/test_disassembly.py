"""The main loops as compiled: the instructions that were meant, and every sum in a register."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import lru_cache

import pytest

from clipgap.kernels import cpu


@lru_cache(maxsize=1)
def disassembly() -> str:
    if shutil.which("objdump") is None:
        pytest.skip("no objdump")
    if not cpu.is_built():
        pytest.skip("the C++ kernels are not built")
    command = ["objdump", "-d", "--no-show-raw-insn", "-C", str(cpu.LIBRARY)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("isa", "instruction", "count", "registers"),
    [("Avx2", "vpmaddubsw", 16, "ymm"), ("Avx512Vnni", "vpdpbusd", 24, "zmm")],
)
@pytest.mark.parametrize("loop", ["tile", "reach"])
def test_tile_loop(loop: str, isa: str, instruction: str, count: int, registers: str) -> None:
    function = re.search(rf"<[^>\n]*\b{loop}<[^\n]*{isa}>[^\n]*>:\n(.*?)\n\n", disassembly(), re.S)
    if function is None:
        pytest.skip(f"the library holds no {isa} kernel")
    body = function.group(1)
    lines = [line for line in body.splitlines() if re.search(rf"\b{instruction}\b", line)]
    assert len(lines) == count
    assert all(registers in line for line in lines)
    assert "(%rsp" not in body, "an accumulator is spilled to the stack"
    assert "(%rbp" not in body, "an accumulator is spilled to the stack"


def test_columns_of_the_second_look_are_asked_for_ahead() -> None:
    # Compilers drop calls of functions that do nothing else.
    if "Avx2>" not in disassembly():
        pytest.skip("the library holds no x86 kernels")
    assert "prefetcht2" in disassembly()
