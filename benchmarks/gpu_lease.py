"""What a card says in four minutes: is it right, how fast is each part, which goals are met.

    python benchmarks/gpu_lease.py --prepare    # before, where nvcc is: a wheel, and variants
    python benchmarks/gpu_lease.py              # on the card
    TRITON_INTERPRET=1 python benchmarks/gpu_lease.py --dry-run   # all steps in small, on the CPU

Every step is a process of its own with a time limit, so that one which hangs or fails costs its own
time only. What a step finds is a row of JSON, written when it is found.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
ROOT = Path(__file__).parents[1]
VARIANTS = ROOT / "build" / "lease"
K = 32
FLASH_KNN = 250.0
"""TFLOP/s of the fastest fused search that was published for an H100, in its own table."""


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    rows: int
    tests: tuple[int, ...]
    d: int
    dims: tuple[int, ...]  # of the sums that are checked
    square: int  # rows and columns of those sums
    checked: tuple[int, int]  # rows and test points against the oracle
    kinds: tuple[str, ...]  # of data, against the oracle
    stored: int  # rows of the scan from files
    rounds: int


HARD = ("clip-like", "near-ties", "window")
CARD = Scale(65_536, (50_000, 166_963), 640, (640, 768, 1024), 512, (2000, 1000), HARD, 1 << 20, 5)
DRY = Scale(40, (30,), 32, (32,), 64, (40, 20), HARD, 80, 1)

# Changes to the sources that take one thing out, or put it back: file, old text, new text.
CHANGES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "no epilogue": (
        (
            "survivors.cuh",
            "    Sum top[SLOTS], over[SLOTS], room[SLOTS];\n",
            """    int all = 0;
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
#pragma unroll
        for (int i = 0; i < COLUMNS; ++i) all ^= bits_of(sums.at[slot][i]);
    }
    if (all == 0x12345678) atomicAdd(queue.count, 1ull);
    return;
    Sum top[SLOTS], over[SLOTS], room[SLOTS];
""",
        ),
    ),
    "first look only": (
        (
            "survivors.cuh",
            "    if (!__any_sync(ALL_LANES, some)) return;\n",
            "    if (!__any_sync(ALL_LANES, some) || queue.capacity >= 0) return;\n",
        ),
    ),
    "bounds asked for late": (
        ("filter_sm90.cuh", "            Asked<Sum, 2, MARGIN> asked(row_terms, row);\n", ""),
        (
            "filter_sm90.cuh",
            "            queue_survivors<MARGIN>(",
            "            Asked<Sum, 2, MARGIN> asked(row_terms, row);\n"
            "            queue_survivors<MARGIN>(",
        ),
    ),
    "fences": (
        ("device.cuh", "mbarrier.arrive.shared.b64", "mbarrier.arrive.release.cluster.shared.b64"),
        ("device.cuh", "try_wait.parity.shared", "try_wait.parity.acquire.cluster.shared"),
    ),
    "no order": (
        ("filter_sm90.cuh", "    if (group == 1) arrive(TURN, TAKING_TURNS);", "    //"),
        ("filter_sm90.cuh", "            meet(TURN + group, TAKING_TURNS);\n", ""),
        ("filter_sm90.cuh", "            arrive(TURN + (group ^ 1), TAKING_TURNS);\n", ""),
        ("filter_sm90.cuh", "    if (turn == group) meet(TURN + group, TAKING_TURNS);", "    //"),
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prepare", action="store_true", help="build what goes along, and end")
    parser.add_argument("--dry-run", action="store_true", help="all steps in small, without a GPU")
    parser.add_argument("--out", type=Path, default=Path("gpu-lease"), help="folder of the rows")
    parser.add_argument("--only", nargs="*", choices=STEPS, default=list(STEPS))
    parser.add_argument("--budget", type=float, default=230, help="seconds for all steps")
    parser.add_argument("--step", choices=(*STEPS, "one-filter"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.prepare:
        prepare()
    elif asked.step:
        do(asked.step, DRY if asked.dry_run else CARD)
    else:
        lead(asked)


def do(name: str, scale: Scale) -> None:
    """One step, in this process; what it finds goes out row by row."""
    from clipgap.errors import ClipgapError

    steps = {name: step.find for name, step in STEPS.items()} | {"one-filter": one_filter}
    try:
        for row in steps[name](scale):
            print(json.dumps(row), flush=True)
    except ClipgapError as error:
        sys.exit(str(error))


def lead(asked: argparse.Namespace) -> None:
    """One step after the other; a step that fails or takes too long is a row too."""
    asked.out.mkdir(parents=True, exist_ok=True)
    end, rows = seconds_now() + asked.budget, []
    with (asked.out / "rows.jsonl").open("a") as file:

        def take(row: Row) -> None:
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
            print(json.dumps(row), flush=True)

        for place, name in enumerate(asked.only):
            left = end - seconds_now()
            kept = sum(STEPS[later].least for later in asked.only[place + 1 :])
            limit = left if asked.dry_run else min(STEPS[name].most, left - kept)
            if limit < 3:
                take({"step": name, "failed": "no time was left"})
                continue
            run_step(name, command_of(name, asked.dry_run), limit, take)
    show_goals(rows)


seconds_now = time.monotonic


def command_of(step: str, dry_run: bool) -> list[str]:
    return [sys.executable, __file__, "--step", step, *["--dry-run"] * dry_run]


def run_step(name: str, command: list[str], limit: float, take: Callable[[Row], None]) -> None:
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        # A session of its own: what a step has started ends with it.
        step = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True
        )
        clock = threading.Timer(limit, os.killpg, (step.pid, 9))
        clock.start()
        assert step.stdout is not None
        for line in step.stdout:
            if line.startswith("{"):
                take({"step": name, **json.loads(line)})
        code = step.wait()
        clock.cancel()
        seconds = round(time.monotonic() - begun, 1)
        if code == 0:
            take({"step": name, "done": True, "seconds": seconds})
            return
        said.seek(0)
        why = f"stopped after {limit:.0f} s" if code == -9 else said.read().strip()[-800:]
        take({"step": name, "failed": why, "exit": code, "seconds": seconds})


# Steps.


def device_of() -> Any:
    from clipgap.kernels.gpu.devices import usable_devices

    return usable_devices()[0]


def machine(scale: Scale) -> Iterator[Row]:
    """What all other rows are about."""
    import torch
    import triton

    import clipgap

    row: Row = {"clipgap": clipgap.__version__, "torch": torch.__version__}
    yield row | {"triton": triton.__version__, "python": sys.version.split()[0]}
    device = device_of()
    row = {"interpreted": device.type != "cuda"}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        row |= {"device": found.name, "processors": found.multi_processor_count}
        row["capability"] = [found.major, found.minor]
        tool = shutil.which("nvidia-smi")
        if tool:
            query = "--query-gpu=driver_version,clocks.max.sm,clocks.sm,power.limit,temperature.gpu"
            command = [tool, query, "--format=csv,noheader"]
            row["smi"] = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    yield row


def sums(scale: Scale, written_in: str = "triton") -> Iterator[Row]:
    """Every shape of every filter: the survivors against a plain integer product."""
    import torch
    from gpu_checks import ways

    from clipgap.kernels.gpu.bounds import Grid
    from clipgap.kernels.gpu.panels import prepare as on_device
    from clipgap.kernels.gpu.scanner import make_steps
    from clipgap.kernels.interface import TestSet
    from clipgap.synthetic import rows as synthetic

    device, n = device_of(), scale.square

    def of_filter(filter: str, kind: str) -> Iterator[Row]:
        if kind.endswith("float16"):
            return  # its sums are no integers; the oracle decides
        for d in scale.dims:
            yield from at(d, ways(device, d, {filter: kind}))

    def at(d: int, ways: Any) -> Iterator[Row]:
        rows, points = (synthetic.clip_like(n, d, seed=seed) for seed in (1, 2))
        for name, way in ways.items():
            steps = way.steps or make_steps(way.kind, device, d)
            grid = Grid(points, device, steps.quantise)
            (found,) = on_device(grid, [TestSet("t", points)], K, device, steps.multiple, None)
            (panel,) = found.panels
            left = grid.rows(
                torch.from_numpy(rows).to(device), -(-n // steps.multiple) * steps.multiple
            )
            layout = steps.filter_kernel.layout
            q, p = (plain(operand, layout) for operand in (left.operand, panel.operand))
            product = torch._int_mm(q, p.T) if device.type == "cuda" else q.int() @ p.int().T
            upper = product + left.offset[:, None] + panel.start[None, :]
            # Bounds of columns that half of their pairs reach; none of rows.
            floor = upper.median(dim=0).values.to(torch.int32)
            never = torch.full_like(left.offset, int(grid.never))
            let = steps.filter(way.config or steps.configs[0], left, panel, floor, never, None)
            row, column = let.pairs[:2, : int(let.count)].long()
            there = torch.zeros_like(upper, dtype=torch.bool)
            there[row, column] = True
            wrong = int((there != (upper >= floor[None, :])).sum())
            twice = int(let.count) - int(there.sum())
            yield {
                "way": name,
                "d": d,
                "right": not wrong and not twice,
                "wrong": wrong,
                "twice": twice,
            }

    yield from by_filter(device, of_filter, written_in)


def plain(operand: Any, layout: Any) -> Any:
    """An operand row by row; the CUDA kernels' lie in tiles, slices and permuted 16-byte chunks."""
    import torch

    if not layout.tile:
        return operand
    places, depth = operand.shape
    tiles = operand.reshape(places // layout.tile, -1, layout.tile, layout.slice // 16, 16)
    row = torch.arange(layout.tile, device=operand.device)
    turn = row % 8 if layout.slice == 128 else row // 2 % 4
    there = torch.arange(layout.slice // 16, device=operand.device)[None, :] ^ turn[:, None]
    rows = torch.gather(tiles, 3, there[None, None, :, :, None].expand_as(tiles))
    return rows.permute(0, 2, 1, 3, 4).reshape(places, depth).contiguous()


def oracle(scale: Scale, written_in: str = "triton") -> Iterator[Row]:
    """Every shape that tuning may pick, by equality with the oracle."""
    import gpu_checks

    (rows, points), device = scale.checked, device_of()
    dims = scale.dims[:1] + ((1000,) if scale is CARD else ())
    size = gpu_checks.Size(rows, (points, min(points, 70)), dims, scale.kinds)
    yield from by_filter(
        device, lambda name, kind: gpu_checks.differences(device, size, {name: kind}), written_in
    )


def parts(scale: Scale) -> Iterator[Row]:
    """Peers and each kernel of a scan, in milliseconds, by the device's own clock."""
    device = device_of()
    x = clip_like(scale.rows, scale.d, device, 1)
    for m in reversed(scale.tests):  # goals are of the largest
        t = clip_like(m, scale.d, device, 2)
        clock = Clock(scale, m, device)
        yield from parts_of_peers(clock, x, t)
        of_filter = partial(parts_of_filter, clock, x, t.cpu().numpy())
        yield from by_filter(device, of_filter)


@dataclass(frozen=True)
class Clock:
    """Milliseconds and rates of parts of a scan."""

    scale: Scale
    m: int
    device: Any

    def time(self, part: str, work: Callable[[], Any], share: float = 1.0) -> Row:
        """Of work on all rows, or on a share of them."""
        rows, d = self.scale.rows, self.scale.d
        spent = milliseconds(work, self.scale.rounds, self.device) / share
        tflops = 2e-9 * rows * self.m * d / spent
        row = {"part": part, "m": self.m, "d": d, "rows": rows}
        return row | {"ms": round(spent, 4), "tflops": float(f"{tflops:.4g}")}


def parts_of_peers(clock: Clock, x: Any, t: Any) -> Iterator[Row]:
    import torch

    x = x[: max(1, (2 << 30) // (2 * clock.m))]
    share = len(x) / clock.scale.rows
    out = torch.empty((len(x), clock.m), dtype=torch.float16, device=clock.device)
    yield clock.time("cuBLAS float16", lambda: torch.matmul(x, t.T, out=out), share)
    yield clock.time("torch loop", lambda: maxima(x, t), share)
    if clock.device.type == "cuda":
        few = len(x) // 2  # whose int32 products take twice the room
        q, p = ((one.float() * 1000).clamp(-127, 127).to(torch.int8) for one in (x[:few], t))
        p = p[: clock.m // 8 * 8].T
        yield clock.time("cuBLAS int8", lambda: torch._int_mm(q, p), share / 2)


def parts_of_filter(clock: Clock, x: Any, points: Any, name: str, kind: str) -> Iterator[Row]:
    import torch

    from clipgap.kernels.gpu.scanner import GpuScanner
    from clipgap.kernels.gpu.steps import Winners
    from clipgap.kernels.interface import TestSet

    n, device = clock.scale.rows, clock.device
    ids = torch.arange(n, device=device)
    scanner = GpuScanner([TestSet("t", points)], K, device, kind)
    scanner.start(x, ids).result()  # compiles, tunes, raises the bounds of columns
    steps, config, panels = scanner._steps, scanner.config, scanner._panels()
    places = -(-n // steps.multiple) * steps.multiple
    known = scanner.bounds.rows(x, places)

    def nothing_through() -> None:
        for panel in panels:
            scanner._filter_nothing(config, known, panel)

    def real_bounds() -> Any:
        best = torch.full_like(known.offset, scanner.bounds.always)
        for panel in panels:
            found = steps.filter(config, known, panel, panel.floor, best, None)
        return found

    yield clock.time("quantise", lambda: scanner.bounds.rows(x, places))
    yield clock.time("filter, nothing through", nothing_through)
    yield clock.time("filter, real bounds", real_bounds)
    found, winners = real_bounds(), Winners.none(n, device)
    candidates, last = scanner._candidates, panels[-1]
    counts = torch.zeros(2, dtype=torch.int64, device=device)

    def score() -> None:
        candidates[0].zero_()
        steps.score(found, x, ids, last, winners, candidates, counts[:1], counts[1:])

    # Of the last panel alone.
    yield clock.time("score", score) | {"queued": int(found.count), "panels": len(panels)}
    yield clock.time("decide", lambda: steps.decide(found, last, winners))
    yield clock.time("merge", lambda: scanner._merge(last, counts[:1]))
    yield clock.time("all of it", lambda: scanner.start(x, ids).result()) | {"config": config.name}


def ablations(scale: Scale) -> Iterator[Row]:
    """The filter in CUDA C++ with one thing taken out, or put back."""
    import torch

    device = device_of()
    if device.type != "cuda":
        yield {"variant": "none", "skipped": "no card"}
        return
    from clipgap.kernels.gpu.cuda_filter import PAIRS, CudaFilter
    from clipgap.kernels.gpu.cuda_modules import CupyModule, load
    from clipgap.kernels.gpu.cuda_shapes import depth_of, every_shape
    from clipgap.kernels.gpu.scanner import GpuScanner
    from clipgap.kernels.gpu.steps import Steps
    from clipgap.kernels.interface import TestSet

    native, chip, shared = load(device)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    x = clip_like(scale.rows, scale.d, device, 1)
    t = clip_like(scale.tests[0], scale.d, device, 2).cpu().numpy()
    # Fewer columns ask more of the second-level cache; wider bands let more pairs through.
    shapes = list(every_shape(chip, shared, depth_of(scale.d, "int8")))
    tried = [("as it is", native, shape) for shape in shapes]
    tried += [("twice the band", native, replace(shapes[0], in_band=2 * shapes[0].in_band))]
    for name in CHANGES:
        file = VARIANTS / f"{name.replace(' ', '-')}-{chip}.cubin"
        if file.exists():
            tried.append((name, CupyModule(file, device.index or 0), shapes[0]))
        else:
            yield {"variant": name, "skipped": f"{file.name} was not prepared"}
    for name, module, shape in tried:
        filter = CudaFilter(module, device, shape, processors, PAIRS)
        scanner = GpuScanner([TestSet("t", t)], K, device, "cuda", steps=Steps(filter, device))
        spent = milliseconds(partial(scanner.filter_alone, x), scale.rounds, device)
        yield {"variant": name, "shape": shape.name, "m": len(t), "ms": round(spent, 4)}


def one_filter(scale: Scale) -> Iterator[Row]:
    """A filter to look at from outside."""
    from gpu_checks import filters_here

    from clipgap.kernels.gpu.scanner import GpuScanner
    from clipgap.kernels.interface import TestSet

    device = device_of()
    t = clip_like(scale.tests[0], scale.d, device, 2).cpu().numpy()
    kind = "cuda" if "cuda" in filters_here(device).values() else "int8"
    scanner = GpuScanner([TestSet("t", t)], K, device, kind)
    for _ in range(3):
        scanner.filter_alone(clip_like(scale.rows, scale.d, device, 1))
    yield {"filter": kind}


def profile(scale: Scale) -> Iterator[Row]:
    """Tensor pipe, reasons to stall and bank conflicts of the filter, as ncu counts them."""
    tool = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
    if not Path(tool).exists() or device_of().type != "cuda":
        yield {"skipped": "no ncu, or no card"}
        return
    metrics = (
        "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
        "sm__throughput.avg.pct_of_peak_sustained_elapsed",
        "lts__throughput.avg.pct_of_peak_sustained_elapsed",
        "l1tex__data_bank_conflicts_pipe_lsu.sum",
        "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",
        "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
        "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio",
        "gpu__time_duration.sum",
    )
    command = [tool, "--csv", "--kernel-name", "regex:filter", "--launch-skip", "1"]
    command += ["--launch-count", "1", "--metrics", ",".join(metrics)]
    done = subprocess.run(
        [*command, sys.executable, __file__, "--step", "one-filter"], capture_output=True, text=True
    )
    found = [line for line in done.stdout.splitlines() if line.startswith('"')]
    if not found:
        yield {"failed": (done.stdout + done.stderr).strip()[-400:]}
    yield from ({"ncu": line} for line in found)


def whole(scale: Scale) -> Iterator[Row]:
    """A scan from its first row to its tables: rows on the card, rows in memory, rows in files."""
    import torch

    import clipgap
    from clipgap.kernels.gpu.order import ON_GPU
    from clipgap.kernels.gpu.scanner import GpuScanner
    from clipgap.kernels.interface import TestSet

    device, m = device_of(), scale.tests[-1]
    block = clip_like(scale.rows, scale.d, device, 1)
    host = block.cpu().numpy()
    t = clip_like(m, scale.d, device, 2).cpu().numpy()
    blocks = max(1, scale.stored // scale.rows)

    def fed(name: str, kind: str) -> Iterator[Row]:
        scanner = GpuScanner([TestSet("t", t)], K, device, kind)
        for where, rows in (("resident", block), ("streamed", host)):
            ids = np.arange(scale.rows)
            named = torch.from_numpy(ids).to(device) if where == "resident" else ids
            scanner.start(rows, named).result()
            begun = time.perf_counter()
            under_way = []
            for _ in range(blocks):
                under_way.append(scanner.start(rows, named))
                if len(under_way) > scanner.ahead:
                    under_way.pop(0).result()
            for one in under_way:
                one.result()
            yield {"kernel": kernel_of[kind], "where": where, **rate(scale, blocks, begun)}

    kernel_of = {kind: kernel for kernel, kind in ON_GPU.items()}
    yield from by_filter(device, fed)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store")
        (store / "img_emb").mkdir(parents=True)
        for shard in range(blocks):
            np.save(store / "img_emb" / f"img_emb_{shard:04}.npy", host)

        def from_files(name: str, kind: str) -> Iterator[Row]:
            kernel, begun = kernel_of[kind], time.perf_counter()
            clipgap.scan(store, {"t": t}, k=K, kernel=kernel, out=Path(folder, kernel))
            yield {"kernel": kernel, "where": "from files", **rate(scale, blocks, begun)}

        yield from by_filter(device, from_files)


@dataclass(frozen=True)
class Step:
    find: Callable[[Scale], Iterator[Row]]  # what is wanted most comes first
    most: float  # seconds
    least: float = 0.0  # kept free for it by those before


STEPS = {
    "machine": Step(machine, 40),  # PyTorch is read from the disk for the first time
    # By themselves, since these have no compiler to wait for, and a fault may end their process.
    "cuda-sums": Step(partial(sums, written_in="cuda"), 20, 8),
    "cuda-oracle": Step(partial(oracle, written_in="cuda"), 40, 15),
    "oracle": Step(oracle, 60, 25),
    "parts": Step(parts, 60, 40),
    "whole": Step(whole, 60, 50),
    "sums": Step(sums, 30),
    "ablations": Step(ablations, 30),
    "profile": Step(profile, 45),
}
"""In this order: what is right, what the goals are made of, and then what explains it."""


# What they share.


def by_filter(
    device: Any, find: Callable[[str, str], Iterator[Row]], written_in: str = ""
) -> Iterator[Row]:
    """What is found of each filter by its name and kind; one that fails costs its own rows."""
    from gpu_checks import FILTERS, filters_here

    filters = FILTERS if device.type == "cuda" else filters_here(device)
    for name, kind in filters.items():
        if not name.startswith(written_in):
            continue
        try:
            for row in find(name, kind):
                yield {"filter": name, **row}
        except Exception as error:
            yield {"filter": name, "failed": f"{type(error).__name__}: {error}"[-800:]}


def clip_like(n: int, d: int, device: Any, seed: int) -> Any:
    """Rows in a cone, made on the device: mean cosine 0.37."""
    import torch

    random = torch.Generator(device).manual_seed(seed)
    centre = torch.randn(d, generator=torch.Generator(device).manual_seed(0), device=device)
    rows = torch.randn((n, d), generator=random, device=device) * 0.79 + 0.61 * centre
    return (rows / rows.norm(dim=1, keepdim=True)).half()


def maxima(x: Any, t: Any, side: int = 16_384) -> None:
    for first in range(0, len(t), side):
        product = x @ t[first : first + side].T
        product.amax(1), product.amax(0)


def milliseconds(work: Callable[[], Any], rounds: int, device: Any) -> float:
    """The median, after one round that compiles."""
    import torch

    work()
    spent = []
    for _ in range(rounds):
        if device.type != "cuda":
            begun = time.perf_counter()
            work()
            spent.append(1000 * (time.perf_counter() - begun))
            continue
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        spent.append(begin.elapsed_time(end))
    return float(np.median(spent))


def rate(scale: Scale, blocks: int, begun: float) -> Row:
    """Of a scan of so many blocks against the largest set, which began then."""
    seconds, rows, m = time.perf_counter() - begun, blocks * scale.rows, scale.tests[-1]
    row: Row = {"m": m, "d": scale.d, "rows": rows, "seconds": round(seconds, 3)}
    tflops = 2e-12 * rows * m * scale.d / seconds
    return row | {"rows_a_second": round(rows / seconds), "tflops": float(f"{tflops:.4g}")}


def variants() -> Iterator[tuple[str, int, dict[str, str]]]:
    """Names, chips and changed sources; a change of one filter is left out for the other chip."""
    sources = {file.name: file.read_text() for file in (ROOT / "csrc" / "cuda").glob("*.cuh")}
    for name, changes in CHANGES.items():
        texts = dict(sources)
        for file, old, new in changes:
            assert texts[file].count(old) == 1, f"{name}: {file} has changed"
            texts[file] = texts[file].replace(old, new)
        yield name, 90, texts
        if {file for file, _, _ in changes} == {"survivors.cuh"}:
            yield name, 80, texts


def prepare() -> None:
    """A wheel, and every variant of the filter for the chips that have one of their own."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    shutil.rmtree(VARIANTS, ignore_errors=True)
    VARIANTS.mkdir(parents=True)
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*wheel, "-w", str(VARIANTS), str(ROOT)], check=True)

    def compile_one(variant: tuple[str, int, dict[str, str]]) -> Path:
        name, chip, texts = variant
        out = VARIANTS / f"{name.replace(' ', '-')}-{chip}.cubin"
        with tempfile.TemporaryDirectory() as folder:
            for file, text in texts.items():
                Path(folder, file).write_text(text)
            unit = Path(folder, "unit.cu")
            unit.write_text(f'#include "filter_sm{chip}.cuh"\n')
            target = "sm_90a" if chip == 90 else "sm_80"
            command = [nvcc, "-O3", "-std=c++17", "-cubin", f"-arch={target}", str(unit)]
            done = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True)
            assert done.returncode == 0, f"{name} does not compile: {done.stderr[-2000:]}"
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for out in pool.map(compile_one, variants()):
            print(out, flush=True)


def show_goals(rows: list[Row]) -> None:
    """Which goals are met, what takes the time where one is not, and what `auto` should know."""
    largest = max((row["m"] for row in rows if row["step"] == "parts" and "m" in row), default=0)
    rates = {
        (row.get("part"), row.get("filter", "")): row["tflops"]
        for row in rows
        if row["step"] == "parts" and row.get("m") == largest
    }
    ends = {(row["filter"], row["where"]): row["tflops"] for row in rows if "where" in row}
    half = rates.get(("cuBLAS float16", ""))
    chip = next((tuple(row["capability"]) for row in rows if "capability" in row), None)
    goals: list[tuple[str, float | None, float | None, float, str]] = []
    for name in sorted({name for name, _ in ends}):
        in_half = name.endswith("float16")
        goal = 0.85 if in_half else 1.5 if chip == (8, 0) else 1.3
        resident = ends.get((name, "resident"))
        goals.append((f"{name}, all outputs, × cuBLAS float16", resident, half, goal, name))
        goals.append(
            (f"{name}, streamed × resident", ends.get((name, "streamed")), resident, 0.95, name)
        )
        if chip == (9, 0) and not in_half:
            flash = f"{name}, all outputs, × flash_knn by its authors"
            goals.append((flash, resident, FLASH_KNN, 2.5, name))
    wrong = [row for row in rows if row.get("right") is False or row.get("failed")]
    print(f"\nwrong or failed: {len(wrong)}")
    for row in wrong:
        if "failed" in row:  # of a traceback the last line says why
            why = (row["failed"].splitlines() or [""])[-1]
            print(f"  {row['step']} {row.get('filter', '')}".rstrip() + f": {why}")
        else:
            print(f"  {json.dumps(row)[:300]}")
    for title, mine, theirs, goal, name in goals:
        if not mine or not theirs:
            print(f"{title}: not measured")
            continue
        met = mine / theirs >= goal
        print(f"{title}: {mine / theirs:.2f}, goal {goal}: {'met' if met else 'NOT MET'}")
        spent = {
            row["part"]: row["ms"]
            for row in rows
            if row["step"] == "parts" and row.get("filter") == name and row.get("m") == largest
        }
        if not met and spent:
            share = ", ".join(f"{part} {ms:,.2f} ms" for part, ms in spent.items())
            print(f"  where the time goes: {share}")
    if chip is not None:
        found = {row["kernel"]: row["tflops"] for row in rows if row.get("where") == "resident"}
        print(f"for MEASURED in clipgap/kernels/gpu/order.py:\n    {chip}: {found},")


if __name__ == "__main__":
    main()
