"""What the processor could do at most, measured: float32 multiply-adds, int8 multiply-adds."""

from __future__ import annotations

from collections.abc import Callable

from clipgap.kernels import cpu

PEAK_SECONDS = 0.2


def peaks(threads: int) -> dict[str, Callable[[], float]]:
    """Name -> a measurement of operations a second, each a fifth of a second long."""
    library = cpu.library()
    return {
        "float32 FMA peak": lambda: float(library.cg_peak_fma(threads, PEAK_SECONDS)),
        "int8 peak": lambda: float(library.cg_peak_int8(threads, PEAK_SECONDS)),
    }
