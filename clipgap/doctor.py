"""What this machine has, which kernel runs on it and why, and what would make it faster.

Every fact is read from the system or asked of the part concerned; no package is imported to find
out whether it is there. A fact that the system does not tell is None, never a guess.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipgap.machine import Machine, machine, memory_bytes, versions
from clipgap.packages import PACKAGES, how_to_get

if TYPE_CHECKING:
    from clipgap.kernels.choose import KernelInfo

ENVIRONMENT = ("CLIPGAP_CPU_ISA", "CLIPGAP_THREADS", "CLIPGAP_ROW_BLOCK")
"""Variables that change which kernel runs, or how."""

REQUIRED = ("clipgap", "numpy", "pyarrow", "fsspec", "rich", "typer")


@dataclass(frozen=True)
class Cache:
    """One level of the data cache, as the first core sees it."""

    level: int
    bytes: int
    shared_by: int  # cores


@dataclass(frozen=True)
class Missing:
    """Something that is not there, what it is for, and how to get it."""

    what: str
    used_for: str
    how: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything that `clipgap doctor` shows."""

    machine: Machine
    caches: tuple[Cache, ...]
    memory_limit_bytes: int | None  # of the container or the Slurm job, if below the machine's
    environment: dict[str, str]
    versions: dict[str, str]
    kernels: tuple[KernelInfo, ...]  # fastest first
    runs: str  # the kernel that `auto` takes
    missing: tuple[Missing, ...]


def examine() -> Diagnosis:
    """Look at this machine and this installation."""
    from clipgap.kernels.choose import available_kernels

    kernels = tuple(available_kernels())
    installed = versions(*REQUIRED, *(package.name for package in PACKAGES))
    return Diagnosis(
        machine=machine(),
        caches=_caches(),
        memory_limit_bytes=_memory_limit(),
        environment={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        versions=installed,
        kernels=kernels,
        runs=next(kernel.name for kernel in kernels if kernel.available),
        missing=tuple(
            Missing(package.name, package.used_for, how_to_get(package))
            for package in PACKAGES
            if package.name not in installed
        ),
    )


def _caches() -> tuple[Cache, ...]:
    caches = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        size = re.fullmatch(r"(\d+)K", _read(folder / "size"))
        if size and _read(folder / "type") in ("Data", "Unified"):
            shared_by = _list_length(_read(folder / "shared_cpu_list"))
            caches.append(Cache(int(_read(folder / "level")), int(size[1]) << 10, shared_by))
    return tuple(caches)


def _list_length(cpus: str) -> int:
    """How many numbers a list like "0-3,8" stands for."""
    ends = [part.split("-") for part in cpus.split(",") if part]
    return sum(int(part[-1]) - int(part[0]) + 1 for part in ends)


def _memory_limit() -> int | None:
    """The tightest limit of the control groups around this process."""
    root = Path("/sys/fs/cgroup")
    limits = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        group = root / line.rpartition(":")[2].lstrip("/")
        for folder in [group, *group.parents]:
            if folder.is_relative_to(root):
                limits.append(_read(folder / "memory.max"))
    lowest = min((int(limit) for limit in limits if limit.isdigit()), default=None)
    return lowest if lowest is not None and lowest < memory_bytes() else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
