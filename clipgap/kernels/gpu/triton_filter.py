"""The filter in Triton."""

from __future__ import annotations

import torch

from clipgap.kernels.gpu.bounds import Bars, Rows
from clipgap.kernels.gpu.panels import Panel
from clipgap.triton_kernels import INTERPRETED, configs, filter
from clipgap.triton_kernels.quantise import ROW_BY_ROW

# Words of survivors. Interpreted, every launch copies all that it is given.
WORDS = 1 << 14 if INTERPRETED else 1 << 22


class TritonFilter:
    """`Filter` on one device; on the CPU where Triton interprets."""

    layout, group = ROW_BY_ROW, filter.GROUP

    def __init__(self, device: torch.device, operand: str) -> None:
        self.name = f"triton/{operand}"
        self._processors = 1
        self.multiple = configs.INTERPRETED.columns
        self.configs: tuple[configs.FilterConfig, ...] = (configs.INTERPRETED,)
        if device.type == "cuda":
            self._processors = torch.cuda.get_device_properties(device).multi_processor_count
            self.multiple = configs.LARGEST_TILE
            major, minor = torch.cuda.get_device_capability(device)
            self.configs = configs.filter_configs(operand, 10 * major + minor)
        self.queue = torch.zeros((4, WORDS), dtype=torch.int32, device=device)

    def run(
        self,
        config: configs.FilterConfig,
        rows: Rows,
        panel: Panel,
        bars: Bars,
        queued: torch.Tensor,
    ) -> None:
        filter.filter(
            rows.operand, panel.operand, (rows.offset, rows.width),
            (panel.start, bars.floor, panel.tau_floor, panel.thickness), bars.best, bars.margin,
            self.queue, queued, config, self._processors * config.per_processor,
        )  # fmt: skip
