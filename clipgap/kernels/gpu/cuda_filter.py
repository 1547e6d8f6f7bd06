"""The filter in CUDA C++ (csrc/cuda), launched on torch's current stream."""

from __future__ import annotations

import numpy as np
import torch

from clipgap.kernels.gpu.bounds import Bars, Rows
from clipgap.kernels.gpu.cuda_modules import Module, load
from clipgap.kernels.gpu.cuda_shapes import MULTIPLE, Shape, depth_of, shape_for
from clipgap.kernels.gpu.panels import Panel
from clipgap.triton_kernels.quantise import Layout

PAIRS = 1 << 23


class CudaFilter:
    """`Filter` on one device; a queued word is a pair."""

    multiple, group = MULTIPLE, 1

    def __init__(
        self, module: Module, device: torch.device, shape: Shape, processors: int, pairs: int
    ) -> None:
        self.name = f"cuda/{shape.operand}"
        self.configs = (shape,)
        self.layout = Layout(shape.tile, shape.slice)
        self.queue = torch.zeros((3, pairs), dtype=torch.int32, device=device)
        self._module, self._processors = module, processors

    @classmethod
    def on(cls, device: torch.device, d: int, operand: str) -> CudaFilter:
        """The kernels for a device, built or loaded."""
        module, capability, shared = load(device)
        shape = shape_for(capability, shared, depth_of(d, operand), operand)
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        return cls(module, device, shape, processors, PAIRS)

    def run(
        self, config: Shape, rows: Rows, panel: Panel, bars: Bars, queued: torch.Tensor
    ) -> None:
        row_tiles = len(rows.operand) // config.tile
        column_tiles = len(panel.operand) // config.columns
        blocks, stretch = self._cut(config, row_tiles, column_tiles)
        slices = rows.operand[0].nbytes // config.slice
        with_margin = bars.margin is not None
        # The kernel for an H100 learns its stages when it is launched.
        stages = [] if config.stages_are_built_in else [np.int32(config.stages)]
        self._module.launch(
            config.kernel + ("_margin" if with_margin else ""),
            blocks, config.threads, config.shared,
            [rows.operand, panel.operand, np.int32(slices), *stages, rows.offset, rows.width,
             bars.best, bars.margin, panel.start, bars.floor,
             panel.tau_floor if with_margin else None,
             panel.thickness, self.queue, queued, np.int32(self.queue.shape[1]),
             np.int32(row_tiles), np.int32(column_tiles), np.int32(config.band), np.int32(stretch)],
        )  # fmt: skip

    def _cut(self, config: Shape, row_tiles: int, column_tiles: int) -> tuple[int, int]:
        """Blocks, and the row tiles of a stretch: a band of columns is one piece for each block."""
        in_band = min(config.band, column_tiles)
        stretch = max(1, -(-row_tiles * in_band // self._processors))
        pieces = -(-row_tiles // stretch) * column_tiles
        return min(self._processors, pieces), stretch
