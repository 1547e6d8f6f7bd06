"""Which kernel is the fastest on which chip, as far as that is known: what `auto` goes by."""

from __future__ import annotations

Capability = tuple[int, int]

ON_GPU = {
    "triton": "int8",
    "cuda": "cuda",
    "triton-float16": "float16",
    "cuda-float16": "cuda-float16",
}
"""Kernels for GPUs, with the kind of filter that each is to `GpuScanner`; in the order in which
they are taken where nothing is known. Triton compiles for every chip, and integers cost half."""

MEASURED: dict[Capability, dict[str, float]] = {}
"""TFLOP/s of a scan with all its outputs, rows resident, M = 166,963 at d = 640. A chip's line is
what `benchmarks/gpu_lease.py` ends with, and its rows are in `benchmarks/results`."""

FIRST = {(10, 3): "triton-float16"}
"""Taken first before anything is measured: a B300 has a fraction of a B200's int8 units."""


def fastest_first(capability: Capability | None) -> list[str]:
    """All kernels for a chip: those that were measured by their speed, then the others."""
    if capability is None:
        return list(ON_GPU)
    measured, first = MEASURED.get(capability, {}), FIRST.get(capability)
    return sorted(ON_GPU, key=lambda name: (-measured.get(name, 0.0), name != first))
