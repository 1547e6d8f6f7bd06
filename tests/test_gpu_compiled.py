"""Every Triton kernel, built ahead of time for chips that are not here."""

from __future__ import annotations

from functools import lru_cache

import pytest

from clipgap.kernels.gpu.compiled import BuiltKernel, built_kernels

pytest.importorskip("triton")
pytest.importorskip("torch")

from clipgap.kernels.gpu import cuda_modules

# The matrix instructions that were meant: in the machine code, and in the code before it.
MEANT = {
    80: {"filter i8": ("IMMA", "mma.sync"), "filter fp16": ("HMMA", "mma.sync")},
    90: {"filter i8": ("IGMMA", "wgmma.mma_async"), "filter fp16": ("HGMMA", "wgmma.mma_async")},
    100: {"filter i8": ("UTCIMMA", "tcgen05.mma"), "filter fp16": ("UTCHMMA", "tcgen05.mma")},
}


@lru_cache(maxsize=1)
def built() -> list[BuiltKernel]:
    return built_kernels()


def of(capability: int) -> list[BuiltKernel]:
    """Those in Triton; tests/test_cuda_compiled.py looks at the others."""
    found = [one for one in built() if one.capability == capability]
    return [one for one in found if not one.kernel.startswith("cuda ")]


def test_cuda_kernels_are_shown_where_they_were_built() -> None:
    shown = [one for one in built() if one.kernel.startswith("cuda ")]
    if not any(cuda_modules.BUILT.glob("*.cubin")):
        assert not shown
        return
    assert {one.capability for one in shown} == {80, 90}
    assert all(one.as_planned for one in shown)
    wide = [one for one in shown if one.kernel == "cuda filter_int8_sm90_256_margin"]
    assert [(one.config, list(one.instructions)) for one in wide] == [("64x256x128/7s", ["IGMMA"])]


@pytest.mark.parametrize("capability", MEANT)
def test_kernels_are_as_planned(capability: int) -> None:
    found = of(capability)
    assert {one.kernel for one in found} == {
        *(
            "quantise",
            "quantise in tiles",
            "lay out",
            "lay out in tiles",
            "filter i8",
            "filter fp16",
            "expand i8",
            "expand fp16",
            "expand pairs i8",
            "expand pairs fp16",
            "score",
            "decide",
            "leave",
            "write",
            "merge",
        )
    }
    for one in found:
        assert one.spilled == 0, f"{one.kernel} {one.config} spills registers"
        assert one.per_processor >= one.planned, f"{one.kernel} {one.config} is too large"
        assert one.as_planned


@pytest.mark.parametrize("capability", MEANT)
def test_filters_use_the_matrix_instructions_that_were_meant(capability: int) -> None:
    for one in of(capability):
        if one.kernel not in MEANT[capability]:
            assert one.instructions == {}
            continue
        machine, before = MEANT[capability][one.kernel]
        assert list(one.instructions) == [machine]
        assert one.instructions[machine] >= 4
        assert one.ptx == [before]
