"""Every kernel built ahead of time for a chip that need not be there, and what came out.

`inspect_all(80)` needs neither a GPU nor a driver: Triton brings its own tools.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import configs, expand, filter, merge, quantise, refine
from .sass import functions_of, resident

_PROGRAMS = 528

_PTX_MATRIX = re.compile(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b")


@dataclass(frozen=True)
class Built:
    """One kernel for one chip."""

    kernel: str
    config: str
    capability: int
    registers: int  # of a thread
    shared: int  # bytes of a program
    spilled: int  # bytes of a thread that lie in memory for want of registers
    per_processor: int  # programs that fit on a multiprocessor
    planned: int  # programs that the configuration counts on
    instructions: dict[str, int]  # matrix instructions of the machine code
    ptx: tuple[str, ...]  # matrix instructions of the code before it

    @property
    def as_planned(self) -> bool:
        return self.spilled == 0 and self.per_processor >= self.planned


def inspect_all(capability: int, d: int = 640, k: int = 32) -> list[Built]:
    """All kernels, with every configuration, as they would run at d dimensions and k neighbours."""
    return [inspect(plan) for plan in plans(capability, d, k)]


@dataclass(frozen=True)
class Plan:
    """A kernel to build."""

    kernel: str
    config: str
    capability: int
    per_processor: int
    source: ASTSource
    options: dict[str, int]


def plans(capability: int, d: int, k: int) -> Iterator[Plan]:
    """Every kernel with every configuration for a chip."""
    padded = -(-d // quantise.BLOCK) * quantise.BLOCK

    def plan(kernel: str, source: ASTSource, warps: int) -> Plan:
        return Plan(kernel, "", capability, 1, source, {"num_warps": warps})

    # The layout of the filter in CUDA C++ is that of its own chip, or the older one's.
    tile, slice = (64, 128) if capability == 90 else (128, 64)
    for suffix, layout in (("", (0, 128)), (" in tiles", (tile, slice))):
        laid = {"ROWS": quantise.ROWS, "TILE": layout[0], "SLICE": layout[1]}
        types = "*fp16 i32 i32 *fp32 *fp32 fp32 fp32 *i8 *fp64 *fp32 *fp32 *fp32"
        source = _source(quantise.quantise_kernel, types, padded=padded, **laid)
        yield plan("quantise" + suffix, source, quantise.WARPS)
        source = _source(quantise.lay_out_kernel, "*fp16 i32 i32 *fp16", depth=padded, **laid)
        yield plan("lay out" + suffix, source, quantise.WARPS)

    name_of = {"i8": "int8", "fp16": "float16"}
    for operand, size, sums in (("i8", 1, "i32"), ("fp16", 2, "fp32")):
        types = " ".join([f"*{operand}"] * 2 + [f"*{sums}"] * 8 + ["*i32 *i64 i32 i32 i32"])
        for config in configs.filter_configs(name_of[operand], capability):
            shape = {
                "D": padded,
                "MARGIN": True,
                "LEAST": -(2**31) if size == 1 else -1e30,
                "BAND": config.band,
                "PROGRAMS": _PROGRAMS,
                "BM": config.rows,
                "BN": config.columns,
                "BK": config.depth,
            }
            source = _source(filter.filter_kernel, types, **shape)
            options = {"num_warps": config.warps, "num_stages": config.stages}
            name, planned = f"filter {operand}", config.per_processor
            yield Plan(name, config.name, capability, planned, source, options)

    for name, sums in (("i8", "i32"), ("fp16", "fp32")):
        types = f"*i32 *i64 i32 *{sums} *{sums} *{sums} *{sums} *i32 *i64 i32"
        for suffix, group in (("", filter.GROUP), ("pairs ", 1)):
            words = {"GROUP": group, "WORDS": expand.PAIRS // group}
            source = _source(expand.expand_kernel, types, MARGIN=True, PROGRAMS=_PROGRAMS, **words)
            yield plan(f"expand {suffix}{name}", source, expand.WARPS)

    types = (
        "*i32 *i64 i32 *i64 i32 *i64 *i64 *fp16 *fp16 i32 *i64 *fp64 *fp64 *fp64 *i64 *i64 "
        "*i32 *fp64 *i64 i32"
    )
    shape = {"MARGIN": True, "PAIRS": refine.PAIRS, "CHUNK": refine.CHUNK, "PROGRAMS": _PROGRAMS}
    yield plan("score", _source(refine.score_kernel, types, **shape), refine.WARPS)

    types = "*i32 *i64 i32 *fp64 *i32 *fp64 *i64 *i32 *i64 *i32"
    shape = {"MARGIN": True, "PAIRS": refine.DECIDE_PAIRS, "PROGRAMS": _PROGRAMS}
    yield plan("decide", _source(refine.decide_kernel, types, **shape), refine.WARPS)

    row_shape = {"MARGIN": True, "ROWS": refine.ROWS}
    source = _source(
        refine.leave_kernel, "i32 *i64 *i64 *i32 *i64 *i64 *i32", BEHIND=refine.BEHIND, **row_shape
    )
    yield plan("leave", source, refine.WARPS)
    types = "i32 *i64 *i32 *i64 *i32 *fp64 *i32 *fp64 *i32 fp32 i32"
    yield plan("write", _source(refine.write_kernel, types, **row_shape), refine.WARPS)

    shape = {"ENTRIES": triton.next_power_of_2(8 * k), "CHUNK": merge.CHUNK}
    types = "*i32 *fp64 *i64 i32 *fp64 *i64 i32 *fp64 *i32 *fp64 *i64"
    yield plan("merge", _source(merge.merge_kernel, types, **shape), merge.WARPS)


def _source(kernel: Any, types: str, **constants: Any) -> ASTSource:
    names = [name for name in kernel.arg_names if name not in constants]
    signature = dict(zip(names, types.split(), strict=True))
    # What the launcher finds by itself: tensors begin at multiples of 16 bytes.
    aligned = {
        (kernel.arg_names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind.startswith("*")
    }
    signature |= dict.fromkeys(constants, "constexpr")
    ordered = {name: signature[name] for name in kernel.arg_names}
    return ASTSource(kernel, signature=ordered, constexprs=constants, attrs=aligned)


def inspect(plan: Plan) -> Built:
    """Build a kernel, and look at what came out."""
    target = GPUTarget("cuda", plan.capability, 32)
    built = triton.compile(plan.source, target=target, options=plan.options)
    (function,) = functions_of(built.asm["cubin"]).values()
    threads, shared = 32 * plan.options["num_warps"], int(built.metadata.shared)
    return Built(
        kernel=plan.kernel,
        config=plan.config,
        capability=plan.capability,
        registers=function.registers,
        shared=shared,
        spilled=function.spilled,
        per_processor=resident(plan.capability, threads, function.registers, shared),
        planned=plan.per_processor,
        instructions=function.instructions,
        ptx=tuple(sorted(set(_PTX_MATRIX.findall(built.asm["ptx"])))),
    )


def main(capability: str) -> None:
    """Print every kernel of a chip as JSON, one a line."""
    for plan in plans(int(capability), d=640, k=32):
        built = inspect(plan)
        print(json.dumps({**asdict(built), "as_planned": built.as_planned}))


if __name__ == "__main__":
    main(*sys.argv[1:])
