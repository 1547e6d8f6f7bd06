"""The steps of a scan in Triton."""

from __future__ import annotations

import torch

from clipgap.kernels.gpu import steps
from clipgap.kernels.gpu.bounds import Rows
from clipgap.kernels.gpu.panels import Panel
from clipgap.kernels.gpu.steps import Candidates, Survivors, Winners, overflow
from clipgap.triton_kernels import INTERPRETED, configs, expand, filter, merge, quantise, refine

# Pairs and words of survivors. Interpreted, every launch copies all that it is given.
QUEUES = (1 << 15, 1 << 14) if INTERPRETED else (1 << 23, 1 << 22)


class TritonSteps:
    """`Steps` for one device; on the CPU where Triton interprets."""

    def __init__(self, device: torch.device, operand_bytes: int) -> None:
        self.name = "triton/int8" if operand_bytes == 1 else "triton/float16"
        self._processors = 1
        self.multiple = configs.INTERPRETED.columns
        self.configs: tuple[configs.FilterConfig, ...] = (configs.INTERPRETED,)
        if device.type == "cuda":
            self._processors = torch.cuda.get_device_properties(device).multi_processor_count
            self.multiple = configs.LARGEST_TILE
            major, minor = torch.cuda.get_device_capability(device)
            self.configs = configs.filter_configs(operand_bytes, 10 * major + minor)
        pairs, words = QUEUES
        self._words = torch.zeros((4, words), dtype=torch.int32, device=device)
        self._pairs = torch.zeros((2, pairs), dtype=torch.int32, device=device)
        self._scores = torch.zeros((pairs,), dtype=torch.float64, device=device)

    quantise = staticmethod(quantise.quantise)
    merge = staticmethod(merge.merge)

    def filter(
        self,
        config: configs.FilterConfig,
        rows: Rows,
        panel: Panel,
        floor: torch.Tensor,
        best: torch.Tensor,
        margin: torch.Tensor | None,
    ) -> Survivors:
        device = rows.operand.device
        words, count = steps.nothing_queued(device), steps.nothing_queued(device)
        filter.filter(
            rows.operand, panel.operand, (rows.offset, rows.width),
            (panel.start, floor, panel.tau_floor, panel.thickness), best, margin,
            self._words, words, config, self._processors * config.per_processor,
        )  # fmt: skip
        expand.expand(
            self._words, words, (floor, panel.tau_floor), best, margin,
            self._pairs, count, 4 * self._processors,
        )  # fmt: skip
        lost = overflow(words, self._words.shape[1]) | overflow(count, self._pairs.shape[1])
        return Survivors(self._pairs, count, best, margin, floor, lost)

    def score(
        self,
        found: Survivors,
        rows: torch.Tensor,
        ids: torch.Tensor,
        panel: Panel,
        winners: Winners,
        candidates: Candidates,
    ) -> torch.Tensor:
        refine.score(
            found.pairs, found.count, rows, ids, panel.halves, _tau(panel), panel.kth,
            self._scores, winners.best, winners.margin, candidates, 8 * self._processors,
        )  # fmt: skip
        return found.count

    def decide(self, found: Survivors, panel: Panel, winners: Winners) -> None:
        refine.decide(
            found.pairs, found.count, self._scores, panel.given, _tau(panel),
            winners.best, winners.nearest, winners.margin, winners.witness, 4 * self._processors,
        )  # fmt: skip


def _tau(panel: Panel) -> torch.Tensor | None:
    return panel.tau if len(panel.tau) else None
