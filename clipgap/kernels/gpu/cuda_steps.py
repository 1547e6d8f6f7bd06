"""The steps of a scan in CUDA C++ (csrc/cuda), launched on torch's current stream."""

from __future__ import annotations

import numpy as np
import torch

from clipgap.kernels.gpu import steps
from clipgap.kernels.gpu.bounds import BLOCK, Rows
from clipgap.kernels.gpu.cuda_modules import Module, load
from clipgap.kernels.gpu.cuda_shapes import PAIR_OF_TILES, TILE, Shape, shape_for
from clipgap.kernels.gpu.panels import Panel
from clipgap.kernels.gpu.steps import Candidates, Survivors, Winners, overflow

PAIRS = 1 << 23
_THREADS = 256  # of every kernel but the filter


class CudaSteps:
    """`Steps` for one device."""

    multiple = PAIR_OF_TILES

    def __init__(
        self, module: Module, device: torch.device, shape: Shape, processors: int, pairs: int
    ) -> None:
        self.name = "cuda/int8"
        self.configs = (shape,)
        self._module, self._processors, self._slice = module, processors, shape.slice
        self._pairs = torch.zeros((3, pairs), dtype=torch.int32, device=device)
        self._scores = torch.zeros((pairs,), dtype=torch.float64, device=device)

    @classmethod
    def on(cls, device: torch.device, d: int) -> CudaSteps:
        """The kernels for a device, built or loaded."""
        module, capability, shared = load(device)
        shape = shape_for(capability, shared, -(-d // BLOCK) * BLOCK)
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        return cls(module, device, shape, processors, PAIRS)

    def quantise(
        self,
        rows: torch.Tensor,
        centre: torch.Tensor,
        signs: torch.Tensor,
        step: float,
        limit: float,
        integers: torch.Tensor,
        measures: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> None:
        n, d = rows.shape
        places, depth = integers.shape
        self._module.launch(
            f"quantise_{self._slice}", -(-places * 32 // _THREADS), _THREADS, 0,
            [rows, np.int32(n), np.int32(d), centre, signs, np.float32(step), np.float32(limit),
             integers, np.int32(places), np.int32(depth), *measures],
        )  # fmt: skip

    def filter(
        self,
        config: Shape,
        rows: Rows,
        panel: Panel,
        floor: torch.Tensor,
        best: torch.Tensor,
        margin: torch.Tensor | None,
    ) -> Survivors:
        count = steps.nothing_queued(rows.operand.device)
        places, depth = rows.operand.shape
        row_tiles, column_tiles = places // TILE, len(panel.operand) // config.columns
        blocks, stretch = self._cut(config, row_tiles, column_tiles)
        slices = [np.int32(depth // config.slice)]
        if config.cluster > 1:  # whose kernel learns its stages when it is launched
            slices.append(np.int32(config.stages))
        self._module.launch(
            config.kernel + ("" if margin is None else "_margin"),
            blocks, config.threads, config.shared,
            [rows.operand, panel.operand, *slices, rows.offset, rows.width, best, margin,
             panel.start, floor, panel.tau_floor if margin is not None else None, panel.thickness,
             self._pairs, count, np.int32(self._pairs.shape[1]), np.int32(row_tiles),
             np.int32(column_tiles), np.int32(config.band), np.int32(stretch)],
        )  # fmt: skip
        return Survivors(
            self._pairs, count, best, margin, floor, overflow(count, self._pairs.shape[1])
        )

    def _cut(self, config: Shape, row_tiles: int, column_tiles: int) -> tuple[int, int]:
        """Blocks, and the row tiles of a stretch: a band of columns is one piece for each block."""
        clusters = max(1, self._processors // config.cluster)
        in_band = min(config.band, column_tiles) // config.cluster
        stretch = max(1, -(-row_tiles * in_band // clusters))
        pieces = -(-row_tiles // stretch) * (column_tiles // config.cluster)
        return min(clusters, pieces) * config.cluster, stretch

    def score(
        self,
        found: Survivors,
        rows: torch.Tensor,
        ids: torch.Tensor,
        panel: Panel,
        winners: Winners,
        candidates: Candidates,
    ) -> torch.Tensor:
        computed = torch.zeros((1,), dtype=torch.int32, device=rows.device)
        has_margin = found.margin is not None
        count, candidate_score, candidate_id = candidates
        self._module.launch(
            "score", 8 * self._processors, _THREADS, 0,
            [found.pairs, found.count, np.int32(found.pairs.shape[1]), found.best, found.margin,
             found.floor, panel.tau_floor if has_margin else None, rows, panel.halves,
             np.int32(rows.shape[1]), ids, panel.tau if has_margin else None, panel.kth,
             self._scores, winners.best, winners.margin, count, candidate_score, candidate_id,
             np.int32(candidate_score.shape[1]), np.int32(has_margin), computed],
        )  # fmt: skip
        return computed

    def decide(self, found: Survivors, panel: Panel, winners: Winners) -> None:
        has_margin = found.margin is not None
        self._module.launch(
            "decide", 4 * self._processors, _THREADS, 0,
            [found.pairs, found.count, np.int32(found.pairs.shape[1]), self._scores, panel.given,
             panel.tau if has_margin else None, winners.best, winners.nearest, winners.margin,
             winners.witness, np.int32(has_margin)],
        )  # fmt: skip

    def merge(
        self, candidates: Candidates, list_score: torch.Tensor, list_id: torch.Tensor
    ) -> None:
        count, candidate_score, candidate_id = candidates
        m, k = list_score.shape
        slots = candidate_score.shape[1]
        self._module.launch(
            "merge", m, _THREADS, 16 * (k + slots),
            [count, candidate_score, candidate_id, np.int32(slots), list_score, list_id,
             np.int32(k)],
        )  # fmt: skip
