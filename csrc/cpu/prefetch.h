// For functions that do nothing but prefetch: GCC holds a call of one to be without effect and drops it,
// unless it is inlined before (tests/test_disassembly.py watches this).

#pragma once

#define CG_PREFETCHING inline __attribute__((always_inline))
