"""The three kernels of a scan in Triton: quantise, filter, refine; one kernel a file.

Nothing here knows of stores, scans or test sets. A launcher takes torch tensors on one device and
starts its kernel on the current stream; `compiled.py` builds every kernel ahead of time for a chip
that need not be there. With TRITON_INTERPRET=1 in the environment before the first import the same
kernels run on the CPU.
"""

from __future__ import annotations

import triton

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Kernels run on the CPU, one program after the other: few and large programs are faster then."""
