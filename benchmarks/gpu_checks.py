"""Every GPU kernel against the oracle, by equality: on hard data, by each of its ways to be built.

python benchmarks/gpu_checks.py              # as `benchmarks/gpu.py` does before it measures
python benchmarks/gpu_checks.py --sanitize   # small, under compute-sanitizer: memory, races
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clipgap
from clipgap.errors import MissingDependency
from clipgap.kernels.choose import resolve
from clipgap.kernels.gpu.devices import usable_devices
from clipgap.kernels.gpu.order import ON_GPU
from clipgap.kernels.gpu.scanner import GpuScanner, make_steps
from clipgap.kernels.gpu.steps import Steps
from clipgap.kernels.interface import TestSet
from clipgap.kernels.oracle import OracleScanner
from clipgap.synthetic import rows as synthetic

KINDS: tuple[synthetic.Kind, ...] = (
    *("clip-like", "isotropic", "equal", "duplicates", "near-ties", "window"),
)
FILTERS = {
    "triton int8": "int8",
    "triton float16": "float16",
    "cuda int8": "cuda",
    "cuda float16": "cuda-float16",
}
"""Our kernels, and the kind of filter that each is to `GpuScanner`; a fault of a kernel in CUDA C++
would be the end of those behind it."""
K = 32


@dataclass(frozen=True)
class Size:
    """How much is checked."""

    rows: int
    points: tuple[int, ...]
    dims: tuple[int, ...] = (3, 640, 1000)
    kinds: tuple[synthetic.Kind, ...] = KINDS


FULL, SMALL = Size(6000, (3000, 70)), Size(80, (40, 5))
SANITIZED = Size(300, (200,), (640,), ("clip-like", "near-ties"))


@dataclass(frozen=True)
class Way:
    """A kind of filter; its kernels and their shape, where they are not the usual ones."""

    kind: str
    steps: Steps | None = None
    config: Any = None


def check(device: torch.device, size: Size, seconds: float = math.inf) -> None:
    """Every way to scan, on every kind of data; stops at the first difference, or when time is
    up, and says so."""
    end = time.monotonic() + seconds
    for d in size.dims:
        for found in differences(device, replace(size, dims=(d,))):
            where = f"{found['way']}, {found['data']}, d = {d}"
            assert found["right"], f"{where}: {', '.join(found['differs'])} differ from the oracle"
            if time.monotonic() > end:
                print(f"all so far equal the oracle; no time was left behind {where}", flush=True)
                return
        names = ", ".join(ways(device, d))
        print(f"d = {d}: {names} equal the oracle on {', '.join(size.kinds)}", flush=True)


def differences(
    device: torch.device, size: Size, filters: dict[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """What differs from the oracle, way by way on each kind of data; of all filters, if none is
    named."""
    for d in size.dims:
        for kind in size.kinds:
            rows = synthetic.rows(kind, 0, size.rows, d, seed=1)
            points = [synthetic.rows(kind, 0, m, d, seed=2 + g) for g, m in enumerate(size.points)]
            reference = synthetic.rows(kind, 0, 50, d, seed=9).astype(np.float64)
            tau = (reference @ points[0].astype(np.float64).T).max(axis=0)
            tests = [
                TestSet("a", points[0], tau),
                *(TestSet(f"b{i}", p) for i, p in enumerate(points[1:])),
            ]
            oracle = OracleScanner(tests, K)
            ids = np.arange(len(rows))
            half = len(rows) // 2
            blocks = [(rows[half:], ids[half:]), (rows[:half], ids[:half])]
            expected = [oracle.scan(*block) for block in blocks]
            for name, way in ways(device, d, filters).items():
                scanner = GpuScanner(tests, K, device, way.kind, way.config, way.steps)
                differs = set()
                for block, truth in zip(blocks, expected, strict=True):
                    found = scanner.scan(*block)
                    differs |= {
                        column
                        for column in ("sim", "nn", "margin", "witness")
                        if not np.array_equal(getattr(found, column), getattr(truth, column))
                    }
                for mine, theirs in zip(scanner.topk(), oracle.topk(), strict=True):
                    if not np.array_equal(mine.sim, theirs.sim):
                        differs.add("scores of neighbours")
                    if not np.array_equal(mine.id, theirs.id):
                        differs.add("neighbours")
                where = {"way": name, "data": kind, "d": d}
                yield where | {"right": not differs, "differs": sorted(differs)}


def ways(device: torch.device, d: int, filters: dict[str, str] | None = None) -> dict[str, Way]:
    """Every filter, or those: Triton's in every shape that tuning may pick, the CUDA ones in every
    shape that fits; a newer chip runs the older chip's too."""
    found = {}
    for name, kind in (filters or filters_here(device)).items():
        if kind.startswith("cuda"):
            found |= {
                f"{name} {shape}": Way(kind, steps) for shape, steps in _cuda_ways(device, d, kind)
            }
        else:
            configs = make_steps(kind, device, d).configs
            found |= {f"{name} {one.name}": Way(kind, config=one) for one in configs}
    return found


def _cuda_ways(device: torch.device, d: int, kind: str) -> Iterator[tuple[str, Steps]]:
    from clipgap.kernels.gpu.cuda_filter import PAIRS, CudaFilter
    from clipgap.kernels.gpu.cuda_modules import load
    from clipgap.kernels.gpu.cuda_shapes import depth_of, every_shape

    module, chip, shared = load(device)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    operand = "float16" if kind.endswith("float16") else "int8"
    for capability in sorted({80, chip}):
        for shape in every_shape(capability, shared, depth_of(d, operand), operand):
            filter = CudaFilter(module, device, shape, processors, PAIRS >> 3)
            yield f"sm_{capability} {shape.name}", Steps(filter, device, PAIRS >> 3)


def filters_here(device: torch.device) -> dict[str, str]:
    """The filters that this machine can run."""
    try:
        usable_devices("cuda")
    except MissingDependency as error:
        if device.type == "cuda":
            sys.exit(f"the CUDA kernels cannot run here: {error}")
        return {name: kind for name, kind in FILTERS.items() if not kind.startswith("cuda")}
    return FILTERS


def check_folders(device: torch.device, size: Size) -> None:
    """Result folders of the GPU kernels, byte for byte those of the CPU's."""
    train = synthetic.clip_like(size.rows, 640, seed=1)
    tests = {"a": synthetic.clip_like(size.points[0], 640, seed=2)}
    with tempfile.TemporaryDirectory() as folder:
        gap = clipgap.gap(train[:50], tests, out=Path(folder, "gap"), device="cpu")
        contents = {}
        kinds = filters_here(device).values()
        ours = [name for name, kind in ON_GPU.items() if kind in kinds]
        for kernel in (resolve(device="cpu"), *ours):
            out = Path(folder, kernel)
            clipgap.scan(train, tests, gap=gap, out=out, kernel=kernel, block_rows=1000)
            files = sorted(path for path in out.rglob("*") if path.is_file())
            contents[kernel] = {path.relative_to(out): path.read_bytes() for path in files}
    first, *others = contents.values()
    assert all(other == first for other in others), f"folders differ: {list(contents)}"
    print(f"result folders of {', '.join(contents)} are identical", flush=True)


def sanitize() -> None:
    """A small check under each tool of compute-sanitizer; stops at the first complaint."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(tool).exists():
        sys.exit("compute-sanitizer is not there; it comes with the CUDA toolkit")
    for kind in ("memcheck", "racecheck", "synccheck"):
        command = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, __file__, "--few"]
        print(f"{kind}: exit {subprocess.run(command, check=True).returncode}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sanitize", action="store_true", help="under compute-sanitizer")
    parser.add_argument("--few", action="store_true", help="few rows, for slow tools")
    asked = parser.parse_args()
    if asked.sanitize:
        sanitize()
        return
    device = usable_devices()[0]
    check(device, SANITIZED if asked.few else FULL if device.type == "cuda" else SMALL)
    if not asked.few:
        check_folders(device, FULL if device.type == "cuda" else SMALL)


if __name__ == "__main__":
    main()
