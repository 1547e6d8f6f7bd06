"""Every Triton kernel, built ahead of time for chips that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import pytest

pytest.importorskip("triton")

# The matrix instructions that were meant: in the machine code, and in the code before it.
MEANT = {
    80: {"filter i8": ("IMMA", "mma.sync"), "filter fp16": ("HMMA", "mma.sync")},
    90: {"filter i8": ("IGMMA", "wgmma.mma_async"), "filter fp16": ("HGMMA", "wgmma.mma_async")},
    100: {"filter i8": ("UTCIMMA", "tcgen05.mma"), "filter fp16": ("UTCHMMA", "tcgen05.mma")},
}


@lru_cache(maxsize=1)
def built() -> dict[int, list[dict[str, Any]]]:
    """All kernels for all chips, in processes in which Triton does not interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

    def build(capability: int) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "clipgap.triton_kernels.compiled", str(capability)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(MEANT, pool.map(build, MEANT), strict=True))


@pytest.mark.parametrize("capability", MEANT)
def test_kernels_are_as_planned(capability: int) -> None:
    found = built()[capability]
    assert {one["kernel"] for one in found} == {
        *("quantise", "filter i8", "filter fp16", "expand", "score", "decide", "merge")
    }
    for one in found:
        assert one["spilled"] == 0, f"{one['kernel']} {one['config']} spills registers"
        assert one["per_processor"] >= one["planned"], (
            f"{one['kernel']} {one['config']} is too large"
        )
        assert one["as_planned"]


@pytest.mark.parametrize("capability", MEANT)
def test_filters_use_the_matrix_instructions_that_were_meant(capability: int) -> None:
    for one in built()[capability]:
        if one["kernel"] not in MEANT[capability]:
            assert one["instructions"] == {}
            continue
        machine, before = MEANT[capability][one["kernel"]]
        assert list(one["instructions"]) == [machine]
        assert one["instructions"][machine] >= 4
        assert one["ptx"] == [before]
