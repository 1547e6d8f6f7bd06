"""Compiled CUDA kernels: from the wheel, or compiled here by NVRTC and kept; launched by CuPy.

The wheel holds machine code for sm_80 and sm_90a, and the sources. A chip that neither is for, or
a file that is not there or that the driver does not take, is no reason to stop: the sources are
compiled for the device, and the result is kept by the hash of what went into it.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from clipgap.errors import MissingDependency
from clipgap.files.atomic import write_atomic

BUILT = Path(__file__).parents[1] / "_cuda"
"""What setup.py put there."""
CUBINS = {80: "kernels-sm_80.cubin", 90: "kernels-sm_90a.cubin"}
OPTIONS = ("-std=c++17",)

Argument = torch.Tensor | np.int32 | None


class Module(Protocol):
    """The compiled kernels, wherever they run."""

    def launch(
        self, kernel: str, blocks: int, threads: int, shared: int, arguments: list[Argument]
    ) -> None:
        """Start a kernel; None is a null pointer."""
        ...


def load(device: torch.device) -> tuple[Module, int, int]:
    """The kernels for a device, the capability (80 or 90) whose filter they hold, and the bytes of
    shared memory that a block can have."""
    import cupy

    index = device.index or 0
    shared = cupy.cuda.Device(index).attributes["MaxSharedMemoryPerBlockOptin"]
    major, minor = torch.cuda.get_device_capability(device)
    return _load(index, major, minor), 90 if (major, minor) == (9, 0) else 80, int(shared)


@lru_cache
def _load(index: int, major: int, minor: int) -> Module:
    file, target = chosen(major, minor)
    refused = file is not None and file.exists()
    if file is None:
        why = f"no machine code is built for {target}"
    elif not refused:
        why = f"{file.name} was not built (no nvcc at install time)"
    else:
        try:
            return CupyModule(file, index)
        except Exception as error:  # whatever the driver has against it
            why = f"{file.name}: {_first_line(error)}"
    try:
        module = CupyModule(compiled(target), index)
    except Exception as error:
        raise MissingDependency(
            f"the CUDA kernels cannot be loaded; use --kernel triton. {why}; "
            f"NVRTC for {target}: {_first_line(error)}"
        ) from error
    if refused:
        warnings.warn(f"CUDA kernels compiled here by NVRTC: {why}", stacklevel=2)
    return module


def chosen(major: int, minor: int) -> tuple[Path | None, str]:
    """The file for a chip, and what to compile for where no file serves."""
    if (major, minor) == (9, 0):
        return BUILT / CUBINS[90], "sm_90a"
    return BUILT / CUBINS[80] if major == 8 else None, f"sm_{major}{minor}"


def compiled(target: str) -> Path:
    """Machine code for a chip by NVRTC, kept for the next time."""
    from cupy.cuda import nvrtc

    texts = [file.read_text() for file in _sources()]
    version = ".".join(map(str, nvrtc.getVersion()))
    identity = "\0".join([version, target, *OPTIONS, *texts])
    name = f"kernels-{target}-{hashlib.sha256(identity.encode()).hexdigest()[:20]}.cubin"
    kept = _cache() / name
    if not kept.exists():
        code, _ = compile_here(target)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with write_atomic(kept) as file:
            file.write_bytes(code)
    return kept


def compile_here(target: str) -> tuple[bytes, str]:
    """Machine code for a chip by NVRTC, and what the compiler said."""
    from cupy.cuda import nvrtc

    unit, *headers = _sources()
    texts = [file.read_bytes() for file in headers]
    names = [file.name.encode() for file in headers]
    program = nvrtc.createProgram(unit.read_text(), unit.name, texts, names)
    try:
        nvrtc.compileProgram(program, [f"--gpu-architecture={target}", *OPTIONS])
        code: bytes = nvrtc.getCUBIN(program)
        # CuPy takes off the last byte, as it would a string's end; the file ends in zeros.
        return code + b"\0" * (-len(code) % 8), nvrtc.getProgramLog(program).strip()
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"{error}: {nvrtc.getProgramLog(program).strip()}") from error
    finally:
        nvrtc.destroyProgram(program)


def _sources() -> list[Path]:
    """The unit, then its headers."""
    folder = BUILT / "src"
    return [folder / "kernels.cu", *sorted(folder.glob("*.cuh"))]


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "clipgap" / "cuda"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class CupyModule:
    """Kernels on one GPU."""

    def __init__(self, file: Path, index: int) -> None:
        import cupy

        self._cupy, self._index = cupy, index
        with cupy.cuda.Device(index):
            self._module = cupy.RawModule(path=str(file))
            _ = self._module.module  # loads it
        self._functions: dict[str, Any] = {}

    def launch(
        self, kernel: str, blocks: int, threads: int, shared: int, arguments: list[Argument]
    ) -> None:
        with self._cupy.cuda.Device(self._index):
            function = self._functions.get(kernel)
            if function is None:
                function = self._functions[kernel] = self._module.get_function(kernel)
            if shared > function.max_dynamic_shared_size_bytes:
                function.max_dynamic_shared_size_bytes = shared
            stream = torch.cuda.current_stream(self._index).cuda_stream
            with self._cupy.cuda.ExternalStream(stream):
                function((blocks,), (threads,), tuple(map(_passed, arguments)), shared_mem=shared)


def _passed(argument: Argument) -> Any:
    """A pointer as a number of its size; a number as it is, for its type is the kernel's."""
    if argument is None or isinstance(argument, torch.Tensor):
        return np.uintp(0 if argument is None else argument.data_ptr())
    return argument
