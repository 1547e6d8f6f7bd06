"""How many pairs the CUDA filter lets through, by the width of its bands: no GPU needed.

    TRITON_INTERPRET=1 python benchmarks/simulate_survivors.py

The bounds are those that the kernels use; the order of work is that of csrc/cuda/layout.cuh, with
all column tiles of a band worked on at once, each raising its rows' bounds by its own columns only.
Floors of the columns are left out: in a long scan few pairs reach them.
"""

from __future__ import annotations

import argparse

import torch

from clipgap.bench.case import Case
from clipgap.kernels.gpu.bounds import Grid
from clipgap.kernels.gpu.devices import usable_devices
from clipgap.kernels.gpu.panels import spread
from clipgap.kernels.gpu.scanner import make_steps

TILE = 256  # columns, and what rows and columns are padded to
NEVER = -(2.0**30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--m", type=int, default=16_384)
    parser.add_argument("--d", type=int, default=640)
    asked = parser.parse_args()
    device = usable_devices()[0]
    steps = make_steps("int8", device, asked.d)
    for kind in ("clip-like", "isotropic"):
        case = Case(kind, asked.d, asked.m)
        points, rows = case.test(), case.train(0, asked.rows)
        grid = Grid.fit([points], device, steps.quantise, TILE)
        left = grid.rows(torch.from_numpy(rows).to(device), asked.rows)
        columns = torch.from_numpy(points[spread(asked.m)]).to(device)
        rank = grid.columns(columns, asked.m).thickness.argsort(stable=True)
        right = grid.columns(columns[rank], asked.m)
        upper = left.operand.float() @ right.operand.float().T
        upper += left.offset[:, None] + right.start[None, :]
        lower = upper - left.width[:, None]
        lower -= right.thickness.reshape(-1, TILE).amax(1).repeat_interleave(TILE)[None, :]
        for band in (2, 4, 8):
            queued, computed = simulate(upper, lower, band)
            print(
                f"{kind}, d = {asked.d}, M = {asked.m:,}, bands of {band} tiles: "
                f"{queued:,.1f} pairs a row queued, {computed:,.1f} computed",
                flush=True,
            )


def simulate(upper: torch.Tensor, lower: torch.Tensor, band: int) -> tuple[float, float]:
    """Pairs a row that the filter queues, and that the final bounds leave."""
    n, m = upper.shape
    best = torch.full((n,), NEVER, device=upper.device)
    queued = torch.zeros((n, m), dtype=torch.bool, device=upper.device)
    for start in range(0, m, band * TILE):
        risen = best.clone()
        for first in range(start, min(m, start + band * TILE), TILE):
            here = slice(first, first + TILE)
            own = lower[:, here].amax(1)
            queued[:, here] = upper[:, here] >= torch.maximum(best, own)[:, None]
            risen = torch.maximum(risen, own)
        best = risen
    computed = queued & (upper >= best[:, None])
    return float(queued.sum()) / n, float(computed.sum()) / n


if __name__ == "__main__":
    main()
