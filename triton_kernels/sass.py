"""What machine code holds, read with the tools that Triton brings: no GPU, no driver, no CUDA."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
"""Bytes of a multiprocessor that blocks can have, by compute capability."""
_REGISTERS = 65_536  # of a multiprocessor, on all of these chips
_MOST_THREADS = 2048
_RESERVED = 1024  # bytes of shared memory that each block costs by itself

_MATRIX = re.compile(r"\b(IMMA|HMMA|IGMMA|HGMMA|UTCIMMA|UTCHMMA|UTCQMMA|DMMA)\b")
_INSTRUCTION = re.compile(
    r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE
)
_USAGE = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")


@dataclass(frozen=True)
class Function:
    """One kernel of a cubin."""

    registers: int  # of a thread
    spilled: int  # bytes of a thread that lie in memory for want of registers
    instructions: dict[str, int]  # matrix instructions
    main_loop: tuple[str, ...]  # all instructions from the first of those to the last


def functions_of(cubin: bytes) -> dict[str, Function]:
    """Every kernel of a cubin, by name."""
    code = _run("nvdisasm", ["-c"], cubin)
    bodies = re.split(r"^//-+ \.text\.(\S+) +-+$", code, flags=re.MULTILINE)
    written = dict(zip(bodies[1::2], bodies[2::2], strict=True))
    return {
        name: Function(
            int(registers),
            int(stack) + int(local),
            dict(Counter(_MATRIX.findall(written[name]))),
            _main_loop(written[name]),
        )
        for name, registers, stack, local in _USAGE.findall(
            _run("cuobjdump", ["-res-usage"], cubin)
        )
    }


def _main_loop(body: str) -> tuple[str, ...]:
    found = _INSTRUCTION.findall(body)
    matrix = [at for at, instruction in enumerate(found) if _MATRIX.match(instruction)]
    return tuple(found[matrix[0] : matrix[-1] + 1]) if matrix else ()


def resident(capability: int, threads: int, registers: int, shared: int) -> int:
    """Blocks of a kernel that fit on a multiprocessor."""
    by_registers = _REGISTERS // (-(-registers // 8) * 8 * threads)  # handed out in eights
    by_memory = SHARED_MEMORY[capability] + _RESERVED
    return min(by_registers, by_memory // (shared + _RESERVED), _MOST_THREADS // threads)


def _run(tool: str, arguments: list[str], cubin: bytes) -> str:
    triton = importlib.util.find_spec("triton")
    assert triton is not None
    assert triton.origin is not None
    path = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(path), *arguments, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
