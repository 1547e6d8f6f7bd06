"""Every GPU kernel against the oracle, then against the clock: one command, one run, rows appended.

    python benchmarks/gpu.py                    # all checks, all sizes, in nine minutes or so
    python benchmarks/gpu.py --d 640 --m 166963 # one case
    TRITON_INTERPRET=1 python benchmarks/gpu.py --dry-run   # the whole script in small, on the CPU

Rates are 2·N·M·d / time of everything a contender computes, all contenders in turn. Ours start each
round from empty lists and end with all outputs in the host's memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_checks
import numpy as np
import torch
from gpu_checks import FILTERS, KINDS, K, filters_here
from gpu_lease import clip_like

from clipgap.bench.case import M_SIX, Case
from clipgap.bench.race import Racer, Spent, Stopwatch, median_ratio, percentiles, race
from clipgap.bench.results import Columns, Row, append, default_folder, origin, print_table
from clipgap.kernels.gpu.devices import usable_devices
from clipgap.kernels.gpu.scanner import GpuScanner
from clipgap.kernels.interface import Counters

DIMS, SIZES = (512, 640, 768, 1024), (16_384, 50_000, M_SIX)


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    rows: int
    rounds: int
    checked: gpu_checks.Size
    tile: int  # rows of the peers' tiles
    small_peer_rows: int  # for peers so slow that the whole would take minutes


FULL = Scale(1_048_576, 5, gpu_checks.FULL, 16_384, 32_768)
DRY = Scale(80, 1, gpu_checks.SMALL, 128, 128)


def data(case: Case, device: torch.device, scale: Scale) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and test points; those most asked for are made on the device, which takes no time."""
    if case.kind == "clip-like":
        rows, points = (
            clip_like(n, case.d, device, seed) for n, seed in ((scale.rows, 1), (case.m, 2))
        )
        return rows, points
    rows, points = (torch.from_numpy(one) for one in (case.train(0, scale.rows), case.test()))
    return rows.to(device), points.to(device)


def contenders(
    case: Case, device: torch.device, scale: Scale, counted: dict[str, Counters]
) -> Iterator[Racer]:
    """Each waits for its work, and its amount is the rows it goes through."""
    rows, points = data(case, device, scale)
    train, tests = rows.cpu().numpy(), case.test_sets(points.cpu().numpy())
    ids = np.arange(scale.rows)
    few = min(scale.rows, 4 * scale.tile)
    tile = max(256, min(scale.tile, (4 << 30) // (2 * case.m)))  # products of up to 4 GiB

    def gemm() -> None:
        for start in range(0, few, tile):
            rows[start : start + tile] @ points.T
        wait(device)

    yield Racer("cuBLAS float16", "the bare product, written to memory", gemm, amount=few)
    if device.type == "cuda":
        yield from _int8_gemm(rows, points, few, tile // 2, device)

    def loop(side: int) -> Callable[[], None]:
        def run() -> None:
            best = torch.full((few,), -2.0, dtype=torch.float16, device=device)
            most = torch.full((len(points),), -2.0, dtype=torch.float16, device=device)
            for a in range(0, few, side):
                for b in range(0, len(points), side):
                    product = rows[a : a + side] @ points[b : b + side].T
                    here, there = best[a : a + side], most[b : b + side]
                    torch.maximum(here, product.amax(1), out=here)
                    torch.maximum(there, product.amax(0), out=there)
            wait(device)

        return run

    for side in (4096, 16_384):
        does = "product and both maxima, float16, no arguments"
        yield Racer(f"torch tile loop, {side:,}", does, loop(side), amount=few)

    yield from _faiss(train, points, scale)
    yield from _cuvs(rows, points, scale, device)

    def ours(name: str, kind: str, resident: bool) -> Callable[[], Spent]:
        held = rows if resident else train
        names = torch.from_numpy(ids).to(device) if resident else ids

        def run() -> Spent:
            scanner = GpuScanner(tests, K, device, kind, tuned.get(kind))
            wait(device)
            # Test points are prepared once for a scan of any length, so that does not count.
            watch = Stopwatch()
            begun = []
            for start in range(0, scale.rows, scanner.block_rows):
                here = slice(start, start + scanner.block_rows)
                begun.append(scanner.start(held[here], names[here]))
                if len(begun) > scanner.ahead:
                    begun.pop(0).result()
            for block in begun:
                block.result()
            wait(device)
            spent = watch.spent(scale.rows)
            tuned[kind] = scanner.config
            counted[name] = scanner.counters
            return spent

        return run

    def alone(kind: str, few: int) -> Callable[[], None]:
        scanner = GpuScanner(tests, K, device, kind)

        def run() -> None:
            scanner.filter_alone(rows[:few])
            wait(device)

        return run

    tuned: dict[str, Any] = {}
    for filter, kind in filters_here(device).items():
        for resident in (True, False):
            where = "resident" if resident else "streamed"
            does = f"exact, both directions, lists of {K}, rows {where}"
            name = f"clipgap {filter}, {where}"
            yield Racer(name, does, ours(name, kind, resident), amount=scale.rows)
        few = min(scale.rows, GpuScanner.block_rows)
        does = "the filter's product, its epilogue letting nothing through"
        yield Racer(f"clipgap {filter}, filter alone", does, alone(kind, few), amount=few)


def _int8_gemm(
    rows: torch.Tensor, points: torch.Tensor, few: int, tile: int, device: torch.device
) -> Iterator[Racer]:
    q = (rows[:few].float() * 127 * 8).clamp_(-127, 127).to(torch.int8)
    p = (points.float() * 127 * 8).clamp_(-127, 127).to(torch.int8)
    p = p[: len(p) // 8 * 8].T  # cuBLAS wants multiples of eight

    def run() -> None:
        for start in range(0, few, tile):
            torch._int_mm(q[start : start + tile], p)
        wait(device)

    yield Racer("cuBLAS int8", "the bare product, written to memory", run, amount=few)


def _faiss(train: np.ndarray, points: torch.Tensor, scale: Scale) -> Iterator[Racer]:
    if importlib.util.find_spec("faiss") is None:
        print("faiss is not installed and left out")
        return
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        print("faiss here is the CPU build and left out; `clipgap bench` measures it")
        return
    few = scale.small_peer_rows
    x, t = train[:few].astype(np.float32), points.float().cpu().numpy()
    resources = faiss.StandardGpuResources()

    def run() -> None:
        # Both directions: nearest point of each row, nearest rows of each point.
        faiss.knn_gpu(resources, x, t, 1, metric=faiss.METRIC_INNER_PRODUCT)
        faiss.knn_gpu(resources, t, x, K, metric=faiss.METRIC_INNER_PRODUCT)

    yield Racer("FAISS-GPU flat", f"both directions, float32, lists of {K}", run, amount=few)


def _cuvs(
    rows: torch.Tensor, points: torch.Tensor, scale: Scale, device: torch.device
) -> Iterator[Racer]:
    if importlib.util.find_spec("cuvs") is None:
        print("cuvs is not installed and left out")
        return
    from cuvs.neighbors import brute_force

    few = scale.small_peer_rows
    x, t = rows[:few].contiguous(), points.contiguous()

    def run() -> None:
        brute_force.search(brute_force.build(t, metric="inner_product"), x, 1)
        brute_force.search(brute_force.build(x, metric="inner_product"), t, K)
        wait(device)

    yield Racer("cuVS brute force", f"both directions, float16, lists of {K}", run, amount=few)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows_of(case: Case, device: torch.device, scale: Scale, name: str, seconds: float) -> list[Row]:
    """All contenders, in as many rounds as `seconds` allow, but one at least."""
    end = time.monotonic() + seconds
    counted: dict[str, Counters] = {}
    racers = list(contenders(case, device, scale, counted))
    race(racers, 0, warm=1)  # compiles, tunes, fills caches
    race(racers, scale.rounds, seconds=max(0.0, end - time.monotonic()))
    half = next(racer for racer in racers if racer.name == "cuBLAS float16")
    made = []
    for racer in racers:
        counters = counted.get(racer.name)
        made.append(
            {
                "device": name,
                "suite": "gpu",
                "data": case.kind,
                "d": case.d,
                "tests": case.m,
                "sets": len(case.set_sizes),
                "contender": racer.name,
                "does": racer.does,
                "rows": int(racer.amount),
                "rounds": len(racer.rates),
                "tflops": percentiles(racer.rates, 3, 1e12 / case.flops_per_row),
                "of_cublas_float16": median_ratio(racer.rates, half.rates),
                "refined_per_row": round(counters.refined / counters.rows, 2) if counters else None,
            }
        )
    return made


def show(rows: list[Row]) -> None:
    first = rows[0]
    columns: Columns = (
        ("", lambda row: row["contender"]),
        ("TFLOP/s", lambda row: f"{row['tflops']['p50']:,.2f}"),
        ("× cuBLAS float16", lambda row: f"{row['of_cublas_float16']:.2f}"),
        (
            "refined/row",
            lambda row: "" if row["refined_per_row"] is None else f"{row['refined_per_row']:,.1f}",
        ),
    )
    print_table(
        f"{first['data']}, d = {first['d']}, M = {first['tests']:,}, on {first['device']}",
        sorted(rows, key=lambda row: -row["tflops"]["p50"]),
        columns,
    )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Rates over the operations that a byte of memory traffic pays for, under what was measured."""
    if importlib.util.find_spec("matplotlib") is None:
        print("matplotlib is not installed; no plot")
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name in ("cuBLAS float16", "cuBLAS int8"):
        best = max((row["tflops"]["p50"] for row in rows if row["contender"] == name), default=None)
        if best:
            axes.axhline(best, color="0.5", linestyle="--", linewidth=1)
            right = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
            axes.annotate(f"{name}, best", (1, best), fontsize=8, color="0.3", **right)
    for filter, marker in zip(FILTERS, "oDs^", strict=True):
        name = f"clipgap {filter}"
        mine = [row for row in rows if row["contender"] == f"{name}, resident"]
        # A row comes in once, as float16; its results leave as 24 bytes a test set.
        intensity = [2 * r["tests"] * r["d"] / (2 * r["d"] + 24 * r["sets"]) for r in mine]
        axes.scatter(intensity, [r["tflops"]["p50"] for r in mine], marker=marker, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("operations per byte of rows read and results written")
    axes.set_ylabel("effective TFLOP/s")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(f"Exact scan on {rows[0]['device']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path)
    print(f"plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--d", type=int, nargs="*", default=DIMS)
    parser.add_argument("--m", type=int, nargs="*", default=SIZES)
    parser.add_argument("--data", nargs="*", default=["clip-like"], choices=KINDS)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--budget", type=float, default=540, help="seconds; checks take a third")
    parser.add_argument("--no-check", action="store_true", help="only the clock")
    parser.add_argument("--dry-run", action="store_true", help="everything in small")
    parser.add_argument("--out", type=Path, default=default_folder())
    asked = parser.parse_args()
    end = time.monotonic() + asked.budget

    device = usable_devices()[0]
    on_gpu = device.type == "cuda"
    if not on_gpu and not asked.dry_run:
        sys.exit("interpreted kernels can only be checked: add --dry-run")
    name = torch.cuda.get_device_name(device) if on_gpu else "interpreted"
    scale = DRY if asked.dry_run else FULL
    if asked.rounds:
        scale = Scale(**{**scale.__dict__, "rounds": asked.rounds})
    if not asked.no_check:
        gpu_checks.check(device, scale.checked, asked.budget / 3)
        gpu_checks.check_folders(device, scale.checked)
    dims, sizes = ((64,), (40,)) if asked.dry_run else (asked.d, asked.m)
    stamp, everything = origin(), []
    cases = [Case(kind, d, m) for kind in asked.data for d in dims for m in sizes]
    for done, case in enumerate(cases):
        left = end - time.monotonic()
        if left <= 0:
            print(f"no time was left for {len(cases) - done} of {len(cases)} cases")
            break
        rows = rows_of(case, device, scale, name, left / (len(cases) - done))
        show(rows)
        if not asked.dry_run:
            append(asked.out, [{**stamp, **row} for row in rows])
        everything += rows
    asked.out.mkdir(parents=True, exist_ok=True)
    plot = "dry-run" if asked.dry_run else name.replace(" ", "-").lower()
    draw(everything, asked.out / f"{plot}.svg")


if __name__ == "__main__":
    main()
