"""What this machine is: processor, instruction sets, cores, memory, versions."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

from clipgap.errors import UsageError

INSTRUCTION_SETS = (
    *("avx2", "fma", "f16c"),
    *("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
    *("avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve"),
)
"""Flags that say which kernel a machine can run; the names are Linux's."""

MOST_THREADS = 4096
"""More than any machine has cores; a larger number is a slip."""


class Machine(TypedDict):
    cpu: str
    isa: list[str]
    cores: int
    memory_gib: float
    system: str
    python: str


def machine() -> Machine:
    model, flags = _cpu()
    return {
        "cpu": model,
        "isa": [name for name in INSTRUCTION_SETS if name in flags],
        "cores": cores(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(threads: int | None = None) -> int:
    """Threads to compute with: as many as asked for, else CLIPGAP_THREADS, else `cores()`."""
    if threads is None:
        threads = number_from("CLIPGAP_THREADS")
    if threads is None:
        return cores()
    if not 1 <= threads <= MOST_THREADS:
        raise UsageError(
            f"the number of threads is {threads:,}; it must lie between 1 and {MOST_THREADS:,}"
        )
    return threads


def number_from(variable: str) -> int | None:
    """A whole number that the environment gives, or None."""
    text = os.environ.get(variable, "")
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(f"{variable}={text} is not a number (of at most nine digits)")
    return int(text)


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def versions(*packages: str) -> dict[str, str]:
    """Versions of the named packages; those not installed are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> tuple[str, set[str]]:
    """Model name and flags; Linux tells both, elsewhere the flags stay unknown."""
    facts: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip().lower(), value.strip())
    model = facts.get("model name") or platform.processor() or platform.machine()
    return model, set((facts.get("flags") or facts.get("features") or "").split())
