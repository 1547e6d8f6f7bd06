"""What an embedding run would do, known before a model is loaded or a shard read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgap.clip.embed.options import EmbedOptions
from clipgap.clip.embed.sources import FolderUnit, Unit, find_units
from clipgap.clip.models import check_device, identify, resolve_device
from clipgap.errors import UsageError
from clipgap.files.volumes import FILE_THREADS
from clipgap.options import takes_options


@dataclass(frozen=True)
class EmbedPlan:
    """Everything that is known beforehand."""

    source: str
    units: Sequence[Unit]
    model: str
    pretrained: str | None
    identity: Mapping[str, Any]
    options: EmbedOptions
    devices: Sequence[str]  # one worker each

    @property
    def bytes(self) -> int:
        return sum(unit.size for unit in self.units)

    @property
    def images(self) -> int | None:
        """How many, if that is known without reading shards."""
        folders = [unit for unit in self.units if isinstance(unit, FolderUnit)]
        return sum(len(unit.paths) for unit in folders) if folders else None

    @property
    def settings(self) -> dict[str, Any]:
        """What can change the output, besides data and model."""
        return {
            "captions": self.options.captions,
            "batch_size": self.options.batch_size,
            "precision": self.options.precision,
            # Processors and GPUs round differently; which of them it was does not matter.
            "device": self.devices[0].partition(":")[0],
        }

    def describe(self) -> dict[str, Any]:
        """What tells this output from others."""
        with ThreadPoolExecutor(FILE_THREADS) as pool:
            shards = list(pool.map(lambda unit: unit.describe(), self.units))
        return {
            "kind": "embed",
            "inputs": {"shards": shards},
            "model": dict(self.identity),
            "settings": self.settings,
        }

    def marks(self) -> list[dict[str, str]]:
        """What tells that a shard was edited in place while a run was unfinished."""
        return [{"name": unit.name, "time": unit.changed()} for unit in self.units]


@takes_options
def plan_embed(
    data: str | Path | Sequence[str | Path],
    model: str,
    pretrained: str | None,
    *,
    options: EmbedOptions,
) -> EmbedPlan:
    """What `embed` would do; looks at names and checksums only."""
    identity = identify(model, pretrained)
    device = resolve_device(options.device)
    check_device(device, options.precision)
    units = find_units(data)
    if options.captions and isinstance(units[0], FolderUnit):
        raise UsageError(f"{data}: a folder of images has no captions; leave --captions out")
    return EmbedPlan(
        "::".join(map(str, [data] if isinstance(data, str | Path) else data)),
        units,
        model,
        pretrained,
        identity,
        options,
        _devices(device, options.workers),
    )


def _devices(device: str, workers: int | None) -> list[str]:
    """A device for each worker: all GPUs in turn where "cuda" was asked for."""
    import torch

    all_of_them = [device]
    if device == "cuda":
        all_of_them = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    count = workers or len(all_of_them)
    return [all_of_them[worker % len(all_of_them)] for worker in range(count)]
